//! Container runtimes and the node agent (kubelet).

#[cfg(target_os = "linux")]
pub mod images;
pub mod runtime;

pub use runtime::{Runtime, RuntimeError};
