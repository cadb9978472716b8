//! Container runtimes and the node agent (kubelet).

pub mod runtime;

pub use runtime::{Runtime, RuntimeError};
