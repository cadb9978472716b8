//! Kubernetes as Rust crates, composed into a cluster.
//!
//! [`Cluster`] starts an API server, a store, a scheduler, controllers and nodes inside the calling
//! process, in milliseconds, and hands out a [`kube::Client`]:
//!
//! ```
//! use rk::k8s_openapi::api::core::v1::ConfigMap;
//! use rk::kube::{Api, api::PostParams};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = rk::Cluster::builder().start().await?;
//! let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
//!
//! let map = serde_json::from_value(serde_json::json!({"metadata": {"name": "greeting"}}))?;
//! maps.create(&PostParams::default(), &map).await?;
//! assert_eq!(maps.get("greeting").await?.metadata.name.as_deref(), Some("greeting"));
//! # Ok(())
//! # }
//! ```
//!
//! No root, no sockets, nothing downloaded; the cluster is gone when it is dropped, and a process
//! can hold many.
//!
//! # Where to start
//! - [`Cluster::builder`]: what a cluster can be made of.
//! - The crates below it, each usable alone: [`store`], [`api`], [`sched`], [`controllers`],
//!   [`net`], [`proxy`], [`cri`].
//! - `examples/cluster`: the same as a program, with real containers and `kubectl`.
//!
//! # Invariants
//! - Components speak to the API server through a `kube::Client` and nothing else.
//! - A cluster's addresses exist only inside network namespaces that it made.

mod cluster;
pub mod faults;
pub mod simulation;

pub use cluster::{
    Cluster, ClusterBuilder, ClusterDns, ClusterError, Component, NativeNode, RuntimeNode,
};

pub use k8s_openapi;
pub use kube;
pub use rk_api as api;
pub use rk_controllers as controllers;
pub use rk_cri as cri;
pub use rk_net as net;
pub use rk_proxy as proxy;
pub use rk_sched as sched;
pub use rk_store as store;
