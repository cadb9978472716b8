//! Services on a node: what must happen to packets for a Service's addresses, and the kernel
//! rules that make it happen.
//!
//! The computation is the same for every backend: Services and EndpointSlices become [`Rules`], a
//! value with an entry for each service port. A [`ServiceProxy`] makes the node behave as the
//! rules say; two sets of rules differ by [`Changes`], so that its work follows what changed.
//!
//! # Where to start
//! - [`plan`]: from API objects to rules; the semantics of kube-proxy, without I/O.
//! - [`ServiceProxy`]: what a backend must do. [`conformance`] holds one to it.
//! - [`nftables`]: the default backend on Linux.
//! - [`Proxy`]: watches an API server and keeps a backend up to date.
//!
//! # Example
//! ```
//! use rk_proxy::testing::{Recorder, endpoint_slice, service};
//! use rk_proxy::{Changes, NodeView, Rules, ServiceProxy, plan};
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let node = NodeView::new("node-1");
//! let web = service("web").cluster_ip("10.96.0.10").port(80);
//! let none = plan::plan([&*web], [], &node);
//! let two = endpoint_slice("web").port(8080).ready("10.244.0.2").ready("10.244.1.2");
//! let rules = plan::plan([&*web], [&*two], &node);
//!
//! let port = rules.iter().next().expect("one service port");
//! assert_eq!(port.endpoints.cluster.len(), 2);
//! assert_eq!(Changes::between(&none, &rules).changed.len(), 1);
//!
//! let backend = Recorder::new();
//! backend.apply(&rules).await?;
//! assert_eq!(backend.rules(), rules);
//! # Ok::<(), rk_proxy::ProxyError>(())
//! # }).unwrap();
//! ```
//!
//! # Invariants
//! - Rules hang only on the objects and the node they were made from, not on the order in which
//!   objects came.
//! - An entry has one IP family. A dual-stack Service has two entries for each of its ports.
//! - Between two applied rules there is no moment without rules, or with a part of them.

pub mod conformance;
#[cfg(target_os = "linux")]
pub mod nftables;
pub mod plan;
mod rules;
mod runner;
mod service_proxy;
pub mod testing;

pub use plan::NodeView;
pub use rules::{
    Changes, Cidr, Endpoints, Family, PortKey, Protocol, Rules, ServicePort, TrafficPolicy,
};
pub use runner::{NoBackend, Proxy, ProxyBuilder, ProxyStatus};
pub use service_proxy::{Applied, How, ProxyError, ServiceProxy};
