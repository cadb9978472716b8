//! Kubernetes' controllers, their manager, and an SDK for your own.
//!
//! A controller brings the cluster to what objects ask for. Those here speak the Kubernetes API
//! through a `kube::Client` and nothing else, so they work for any API server, and any of them can
//! be left out or replaced.
//!
//! # Where to start
//! - [`Manager`]: runs the built-in controllers, with or without leader election.
//! - `replicaset.rs`: a controller from top to bottom: what it promises, the reconcile, the wiring.
//!   What it decides is in `replicaset/plan.rs`, a pure function. The others look alike.
//! - [`Reconciler`] and [`Controller`]: how to write one of your own, with [`predicates`] for what
//!   wakes it, [`finalizers`] for what it makes elsewhere and [`update`] for what it writes;
//!   [`owners`], [`Expectations`], [`PodControl`] and [`batch`] are what the built-in ones are made
//!   of. Conditions are in `rk_api::meta::conditions`, caches, events and leader election in
//!   `rk_api::client`. The example `operator` uses all of it.
//!
//! # Example
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::{sync::Arc, time::Duration};
//! use k8s_openapi::api::core::v1::ServiceAccount;
//! use rk_api::server::ApiServer;
//! use rk_controllers::Manager;
//! use rk_store::EmbeddedStore;
//! use tokio_util::sync::CancellationToken;
//!
//! let server = ApiServer::builder(Arc::new(EmbeddedStore::in_memory())).start().await?;
//! let shutdown = CancellationToken::new();
//! tokio::spawn(Manager::builder(server.client()).build()?.run(shutdown.clone()));
//!
//! tokio::time::sleep(Duration::from_secs(1)).await;
//! let accounts: kube::Api<ServiceAccount> = kube::Api::namespaced(server.client(), "kube-public");
//! assert!(accounts.get_opt("default").await?.is_some());
//! shutdown.cancel();
//! # Ok(()) }
//! ```
//!
//! # Invariants
//! - Decisions are pure functions of what was observed and the time; they do no I/O.
//! - A reconcile starts from the present state and may be repeated or dropped at any await point.
//! - An update carries the `resourceVersion` it was decided on and only the fields that change.
//! - A deletion carries the UID of the object it means.

mod account_clients;
mod attach_detach;
pub mod batch;
mod bootstrap_signer;
mod certificates;
mod children;
mod cloud;
mod clusterrole_aggregation;
mod controller;
mod cronjob;
mod daemonset;
mod deployment;
mod discovery;
mod disruption;
mod endpoints;
mod endpointslice;
mod endpointslice_mirroring;
mod ephemeral_volume;
mod error;
mod expectations;
pub mod finalizers;
mod garbage_collector;
mod history;
mod host_path;
mod job;
mod key;
mod last_writes;
mod legacy_token_cleaner;
mod manager;
mod metrics;
mod metrics_server;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod node_selector;
pub mod owners;
mod persistent_volume;
mod pod_control;
mod pod_gc;
mod podautoscaler;
pub mod pods;
pub mod predicates;
mod protection;
mod replicaset;
mod resource_quota;
mod root_ca;
mod service_account;
mod service_account_tokens;
mod service_cidrs;
mod statefulset;
mod taint_eviction;
mod time;
mod token_cleaner;
mod ttl_after_finished;
pub mod update;
mod volume_expand;
mod write;

pub use self::{
    account_clients::AccountClients,
    certificates::{CertificateRequest, CertificateSigner},
    cloud::{
        Balancer, CloudError, CloudProvider, InstanceMetadata, Instances, LoadBalancers, Machine,
        MemoryCloud, Route, Routes,
    },
    controller::{Action, Controller, Reconciler},
    error::Error,
    expectations::Expectations,
    host_path::HostPathProvisioner,
    key::ObjectKey,
    manager::{Context, Manager, ManagerBuilder, ManagerError},
    metrics::{ControllerMetrics, Metrics},
    metrics_server::MetricsServer,
    pod_control::{PodControl, pod_from_template},
    podautoscaler::{AutoscalerOptions, MetricsClient, MetricsError, PodMetric, PodMetrics},
    service_account_tokens::{TokenRequest, TokenSigner},
};
