//! Controllers for clusters on machines of a cloud: what cloud-controller-manager runs.
//!
//! - `node.rs`: a node that joins is given what its machine is, and may then be used.
//! - `node_lifecycle.rs`: nodes whose machines are gone or off.
//! - `service.rs`: load balancers for Services of that type.
//! - `route.rs`: routes to the Pods of each node.
//!
//! All of them know the cloud through [`CloudProvider`] alone. Without one
//! ([`ManagerBuilder::cloud_provider`](crate::ManagerBuilder::cloud_provider)) none of them runs.
//! [`MemoryCloud`] is a cloud for tests.

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{LoadBalancerStatus, Node, NodeAddress, Service};

mod memory;
pub(crate) mod node;
pub(crate) mod node_lifecycle;
pub(crate) mod route;
pub(crate) mod service;

pub use memory::{Balancer, Machine, MemoryCloud};

/// What a cluster asks of its cloud. A part that a cloud does not have is `None`, and then the
/// controllers that need it do not run.
///
/// # What the caller guarantees
/// - Calls for one node, Service or route come one after the other.
/// - A call that failed is made again, after a while.
///
/// # What an implementation guarantees
/// - A repeat is harmless: what is there already is success, and so is deleting what is not.
/// - Objects are named by what is in the cluster (node, Service UID), so that two clusters in one
///   account do not meet.
pub trait CloudProvider: fmt::Debug + Send + Sync + 'static {
    /// The name that begins provider ids: `name://…`.
    fn name(&self) -> &str;

    /// The machines behind nodes.
    fn instances(&self) -> Option<&dyn Instances>;

    /// Load balancers.
    fn load_balancers(&self) -> Option<&dyn LoadBalancers>;

    /// Routes between machines.
    fn routes(&self) -> Option<&dyn Routes>;
}

/// The machines behind nodes (Kubernetes' InstancesV2). A node is found by its `spec.providerID`, or
/// by its name before it has one.
#[async_trait]
pub trait Instances: Send + Sync {
    /// Whether the machine exists. One that is off does.
    async fn exists(&self, node: &Node) -> Result<bool, CloudError>;

    /// Whether it is off.
    async fn is_shut_down(&self, node: &Node) -> Result<bool, CloudError>;

    /// What it is.
    async fn metadata(&self, node: &Node) -> Result<InstanceMetadata, CloudError>;
}

/// Load balancers, one for each Service.
#[async_trait]
pub trait LoadBalancers: Send + Sync {
    /// Its status, if it exists.
    async fn get(&self, service: &Service) -> Result<Option<LoadBalancerStatus>, CloudError>;

    /// Makes it, or changes it into what the Service asks for, in front of these nodes. How traffic
    /// goes on from them is the Service's `externalTrafficPolicy`.
    async fn ensure(
        &self,
        service: &Service,
        nodes: &[Arc<Node>],
    ) -> Result<LoadBalancerStatus, CloudError>;

    /// Puts it in front of these nodes instead.
    async fn update(&self, service: &Service, nodes: &[Arc<Node>]) -> Result<(), CloudError>;

    /// Deletes it.
    async fn delete(&self, service: &Service) -> Result<(), CloudError>;
}

/// Routes between machines.
#[async_trait]
pub trait Routes: Send + Sync {
    /// All of the cluster.
    async fn list(&self) -> Result<Vec<Route>, CloudError>;

    /// Makes one. `hint` is good for a name that is unique for the node.
    async fn create(&self, hint: &str, route: &Route) -> Result<(), CloudError>;

    /// Deletes one.
    async fn delete(&self, route: &Route) -> Result<(), CloudError>;
}

/// What a machine is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InstanceMetadata {
    /// Its id, `name://…`; empty to leave what the node has.
    pub provider_id: String,
    /// Its type; empty for none.
    pub instance_type: String,
    /// Where it is; empty for nowhere in particular.
    pub zone: String,
    /// Where that is.
    pub region: String,
    /// Its addresses.
    pub addresses: Vec<NodeAddress>,
    /// Labels for its node. Those of Kubernetes' own domains are passed over.
    pub labels: BTreeMap<String, String>,
}

/// A route: traffic to a range of Pods goes to a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Its name in the cloud.
    pub name: String,
    /// The node; empty for one that the cloud does not know.
    pub node: String,
    /// The range.
    pub destination: String,
    /// It leads nowhere, since its machine is gone.
    pub blackhole: bool,
}

/// Why a cloud did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloudError {
    /// There is no such machine.
    #[error("instance not found")]
    InstanceNotFound,
    /// Somebody else does it, and this is to be left alone.
    #[error("implemented by alternate to cloud provider")]
    ImplementedElsewhere,
    /// It failed; another try may succeed.
    #[error("{0}")]
    Failed(String),
}

/// The controllers that do nothing without a cloud.
pub(crate) const CONTROLLERS: [&str; 4] = [
    "cloud-node-controller",
    "cloud-node-lifecycle-controller",
    "node-route-controller",
    "service-lb-controller",
];

/// The taint of a node that the cloud has not yet said anything about.
pub(crate) const UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";
/// The taint of a node whose machine is off.
pub(crate) const SHUT_DOWN: &str = "node.cloudprovider.kubernetes.io/shutdown";

/// Whether a node has a taint of this key.
fn has_taint(node: &Node, key: &str) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().any(|taint| taint.key == key)
}
