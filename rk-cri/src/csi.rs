//! The Container Storage Interface, version 1: how a node and the drivers of volumes talk.
//!
//! - [`Driver`] and [`serve`] are the driver's side: implement the calls that yours knows and serve
//!   it on a Unix socket. [`announce`] tells a node's agent, or a stock kubelet, that it is there.
//! - [`Client`] is the other side. The node agent uses it, and so does whoever makes volumes and
//!   attaches them on behalf of a driver.
//!
//! The example `csi-driver` is a whole driver.
//!
//! The messages in [`v1`] are those of `csi.v1`, as far as nodes and simple controllers need them:
//! no snapshots, no groups of volumes. What a peer sends of those is skipped.

mod client;
mod registration;
mod server;
pub mod v1;

pub use client::Client;
pub(crate) use registration::{InfoRequest, RegistrationStatus};
pub use server::{Driver, announce, serve};
pub use tonic::{Code, Status};

pub use crate::rpc::Call;
