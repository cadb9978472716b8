//! Pod networking: CNI, address management, the kernel state behind them, and cluster DNS.
//!
//! # Where to start
//! - [`CniPlugin`]: the verbs of a network, called in process by a container runtime.
//! - [`NodeNetwork`]: a node's bridge, in a network namespace of its own, with the plugin to attach
//!   pods to it.
//! - [`ipam`]: which address is next, and who has which.
//! - [`dns`]: the names of a cluster, and the server that answers for them.
//! - [`netlink`] and [`netns`]: what speaks to the kernel.
//!
//! # Invariants
//! - The kernel's state is made so that a repeat changes nothing: every verb may be cut short at any
//!   point, and called again.
//! - Unless asked for ([`node::NodeNetworkBuilder::host_network_of_machine`]), nothing here changes
//!   the machine's own network namespace.

pub mod cni;
pub mod dns;
pub mod ipam;
#[cfg(target_os = "linux")]
pub mod netlink;
#[cfg(target_os = "linux")]
pub mod netns;
#[cfg(target_os = "linux")]
pub mod node;

pub use cni::{AttachRequest, AttachResult, CniError, CniPlugin};
#[cfg(target_os = "linux")]
pub use node::NodeNetwork;
