//! Container runtimes and the node agent (kubelet).

pub mod agent;
pub mod conformance;
#[cfg(target_os = "linux")]
pub mod cri;
pub mod csi;
#[cfg(target_os = "linux")]
pub mod images;
pub mod logs;
#[cfg(target_os = "linux")]
mod machine;
#[cfg(target_os = "linux")]
mod mounts;
#[cfg(all(target_os = "linux", feature = "native"))]
pub mod native;
mod rpc;
pub mod runtime;
pub mod sim;
pub mod timers;

pub use runtime::{Runtime, RuntimeError};
pub use sim::SimRuntime;
