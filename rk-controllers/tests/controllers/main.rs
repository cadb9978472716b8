//! Controllers against the real API server, in process, under virtual time. Pods are bound and
//! run by the fakes in `cluster.rs`.

#![allow(clippy::unwrap_used, reason = "the helpers are test code too, which clippy cannot tell")]

mod autoscalers;
mod cluster;

mod deployments;
mod garbage;
mod namespaces;
mod nodes;
mod quotas;
mod replica_sets;
mod sdk;
mod services;
mod volumes;
