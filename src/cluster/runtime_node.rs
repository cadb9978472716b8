//! Nodes on a container runtime of one's own choice.

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use rk_api::server::UserInfo;
use rk_cri::{
    Runtime,
    agent::{Agent, ImageGc},
};

use super::{Cluster, ClusterError, node::service_proxy, start::part};

/// A node whose containers are run by a given [`Runtime`]: containerd or CRI-O by
/// [`CriRuntime`](rk_cri::cri::CriRuntime), or one of your own.
#[derive(Clone, Debug)]
pub struct RuntimeNode {
    name: String,
    runtime: Arc<dyn Runtime>,
    root: PathBuf,
    addresses: Vec<IpAddr>,
    network: Option<PathBuf>,
}

impl RuntimeNode {
    /// A node of this name. It keeps volumes and logs in the directory `root`.
    pub fn new(
        name: impl Into<String>,
        runtime: Arc<dyn Runtime>,
        root: impl Into<PathBuf>,
    ) -> Self {
        Self { name: name.into(), runtime, root: root.into(), addresses: Vec::new(), network: None }
    }

    /// The node's addresses, the primary one first.
    #[must_use]
    pub fn addresses(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.addresses.extend(addresses);
        self
    }

    /// The network namespace that the runtime connects its Pods to, which must not be the machine's
    /// own. A Service proxy then runs in it, and the API server reaches Pods and Services there. By
    /// default there is no Service proxy: Pods reach Services only as far as the runtime's network
    /// does it.
    #[must_use]
    pub fn network(mut self, namespace: impl Into<PathBuf>) -> Self {
        self.network = Some(namespace.into());
        self
    }
}

impl Cluster {
    /// Starts the agent of a further node. It ends with the cluster; what it runs then goes on, as
    /// the runtime is yours.
    ///
    /// # Errors
    /// The agent or the Service proxy cannot be made of these settings.
    pub fn run_node(&self, node: RuntimeNode) -> Result<(), ClusterError> {
        let RuntimeNode { name, runtime, root, addresses, network } = node;
        let proxy = match &network {
            Some(network) => {
                Some(service_proxy(&self.launcher.informers, &name, network, addresses.clone())?)
            }
            None => None,
        };
        let client = self.server.client_as(UserInfo::node(&name));
        let agent = Agent::builder(client, runtime)
            .node_name(name)
            .node_ips(addresses)
            .log_dir(root.join("logs"))
            .root_dir(root)
            // The runtime's images are its owner's.
            .image_gc(ImageGc::never())
            .build()
            .map_err(part("the node"))?;
        self.launcher.kubelets.add(agent.node_name(), agent.kubelet_api());
        let mut tasks = self.tasks.lock();
        if let Some(proxy) = proxy {
            self.launcher.dialer.enter(network.as_deref());
            tasks.spawn(proxy.run(self.stop.clone()));
        }
        tasks.spawn(agent.run(self.stop.clone()));
        Ok(())
    }
}
