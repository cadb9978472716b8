//! The Container Runtime Interface, version 1, on both sides of its socket.
//!
//! - [`CriRuntime`] is a [`Runtime`](crate::Runtime) over the socket of containerd, CRI-O or any other
//!   CRI runtime: give it to an [`Agent`](crate::agent::Agent) instead of ours.
//! - [`serve`] makes any [`Runtime`](crate::Runtime) a CRI endpoint, so that `crictl` or a stock
//!   kubelet can use it.
//!
//! ```no_run
//! # async fn example() -> Result<(), rk_cri::RuntimeError> {
//! use rk_cri::{Runtime, cri::CriRuntime};
//!
//! let runtime = CriRuntime::connect("unix:///run/containerd/containerd.sock").await?;
//! println!("{}", runtime.version());
//! # Ok(())
//! # }
//! ```
//!
//! The messages are those of `runtime.v1` in kubernetes/cri-api. Only that version is spoken: every
//! containerd from 1.6 and every CRI-O from 1.20 on has it.

mod cgroup;
mod changes;
mod client;
mod convert;
mod images;
mod memory;
mod runtime;
mod server;
mod streams;
mod v1;

pub use convert::CgroupDriver;
pub use runtime::{CriRuntime, CriRuntimeBuilder};
pub use server::serve;
