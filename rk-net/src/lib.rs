//! Pod networking: CNI, address management, and the kernel state behind them.

pub mod cni;
#[cfg(target_os = "linux")]
pub mod netlink;
#[cfg(target_os = "linux")]
pub mod netns;

pub use cni::{AttachRequest, AttachResult, CniError, CniPlugin};
