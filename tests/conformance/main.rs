//! Kubernetes' conformance requirements, shown with kube's client on a whole cluster in process,
//! whose clock is paused: what takes minutes takes none.
//!
//! A requirement is covered by a test that checks all that Kubernetes' own test of it checks, and
//! says so in a comment: `Conformance:` and its name. `list.rs` counts them, wherever they are.

mod access;
mod chunking;
mod cluster;
mod custom_garbage;
mod custom_resources;
mod deployments;
mod discovery;
mod fields;
mod garbage;
mod list;
mod namespaces;
mod node_kinds;
mod openapi;
mod pods;
mod preemption;
mod quotas;
mod replica_sets;
mod replication_controllers;
mod service_accounts;
mod storage;
mod watched;
mod watches;
