//! Kubernetes' controllers, their manager, and an SDK for your own.

pub mod batch;
pub mod deployment;
pub mod error;
pub mod expectations;
pub mod key;
pub mod metrics;
pub mod owners;
pub mod pods;
pub mod replicaset;
mod time;
