//! Kubernetes' controllers, their manager, and an SDK for your own.

pub mod batch;
mod controller;
mod deployment;
mod discovery;
mod endpoints;
mod endpointslice;
mod endpointslice_mirroring;
mod error;
mod expectations;
mod garbage_collector;
mod key;
mod manager;
mod metrics;
mod namespace;
mod node_ipam;
mod node_lifecycle;
pub mod owners;
mod pod_control;
mod pod_gc;
pub mod pods;
mod replicaset;
mod root_ca;
mod service_account;
mod service_account_tokens;
mod taint_eviction;
mod time;
mod write;

pub use self::{
    controller::{Action, Controller, Reconciler},
    error::Error,
    expectations::Expectations,
    key::ObjectKey,
    manager::{Context, Manager, ManagerBuilder, ManagerError},
    metrics::{ControllerMetrics, Metrics},
    pod_control::{PodControl, pod_from_template},
    service_account_tokens::{TokenRequest, TokenSigner},
};
