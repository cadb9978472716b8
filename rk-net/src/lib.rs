//! Pod networking: CNI, address management, and the kernel state behind them.

pub mod cni;

pub use cni::{AttachRequest, AttachResult, CniError, CniPlugin};
