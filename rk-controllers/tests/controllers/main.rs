//! Controllers against the real API server, in process, under virtual time. Pods are bound and
//! run by the fakes in `cluster.rs`.

#![allow(clippy::unwrap_used, reason = "the helpers are test code too, which clippy cannot tell")]

mod autoscalers;
mod clouds;
mod cluster;

mod certificates;
mod cron_jobs;
mod daemon_sets;
mod deployments;
mod disruptions;
mod faults;
mod garbage;
mod jobs;
mod metrics_apis;
mod namespaces;
mod nodes;
mod quotas;
mod replica_sets;
mod sdk;
mod service_cidrs;
mod services;
mod stateful_sets;
mod volumes;
