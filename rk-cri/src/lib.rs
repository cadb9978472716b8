//! Container runtimes and the node agent (kubelet).

#[cfg(target_os = "linux")]
pub mod images;
#[cfg(all(target_os = "linux", feature = "native"))]
pub mod native;
pub mod runtime;

pub use runtime::{Runtime, RuntimeError};
