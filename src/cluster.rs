//! [`Cluster`]: the crates put together in one process.

mod dial;
mod dns;
mod launch;
mod metrics;
mod node;
mod parts;
mod runtime_node;
mod sim_nodes;
mod start;

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use rk_api::server::ApiServer;
use rk_store::Store;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use dns::ClusterDns;
pub use node::NativeNode;
pub use runtime_node::RuntimeNode;

use crate::faults::Faults;

/// A part of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// The scheduler.
    Scheduler,
    /// The controllers.
    Controllers,
    /// The nodes.
    Nodes,
    /// The metrics server: what `kubectl top` and the HorizontalPodAutoscaler read.
    Metrics,
    /// The DNS server of a cluster that has a network of its own ([`ClusterDns`]).
    Dns,
}

/// A running cluster: API server and store, and by default a scheduler, controllers and a simulated
/// node, as tasks of the tokio runtime that started it.
///
/// Dropping it ends all of them. [`Cluster::shutdown`] does so in order and waits, which a node with
/// real containers needs in order to leave nothing behind.
#[derive(Debug)]
pub struct Cluster {
    server: ApiServer,
    address: Option<SocketAddr>,
    kubeconfig: Option<String>,
    controllers: Vec<&'static str>,
    native: Option<node::RunningNative>,
    nodes: sim_nodes::SimNodes,
    launcher: Arc<launch::Launcher>,
    parts: parts::Parts,
    tasks: parking_lot::Mutex<JoinSet<()>>,
    stop: CancellationToken,
}

impl Cluster {
    /// Begins with the defaults: everything in memory, one simulated node, no socket.
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder::default()
    }

    /// A client that calls the API server in process, as an administrator.
    pub fn client(&self) -> kube::Client {
        self.server.client()
    }

    /// The API server.
    pub fn server(&self) -> &ApiServer {
        &self.server
    }

    /// Where the API server listens, if it does ([`ClusterBuilder::listen`]).
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// A kubeconfig of an administrator (YAML), if the API server listens.
    pub fn kubeconfig(&self) -> Option<&str> {
        self.kubeconfig.as_deref()
    }

    /// The certificate of the authority that clients have to trust (PEM), if the API server listens.
    pub fn ca_pem(&self) -> Option<&str> {
        self.launcher.pki.as_ref().map(rk_api::server::Pki::ca_pem)
    }

    /// The names of the controllers that run.
    pub fn controllers(&self) -> &[&'static str] {
        &self.controllers
    }

    /// Ends the scheduler or the controllers alone, as a crash of theirs would; nodes go on. Whether
    /// there was something to end.
    pub fn stop(&self, component: Component) -> bool {
        self.parts.stop(component)
    }

    /// Ends the scheduler or the controllers where they stand, as a crash does: what they were
    /// about to do does not happen. Whether there was something to end.
    pub fn kill(&self, component: Component) -> bool {
        let killed = self.parts.get(component).is_some_and(parts::Part::kill);
        if let (Some(faults), Some(link)) = (&self.launcher.builder.faults, launch::link(component))
        {
            faults.disconnect(link);
        }
        killed
    }

    /// Starts the scheduler or the controllers anew, after they were stopped or killed or instead of
    /// those that run: they begin with what the API says. Whether the cluster has them at all.
    ///
    /// # Errors
    /// They do not start.
    pub fn restart(&self, component: Component) -> Result<bool, ClusterError> {
        let Some(part) = self.parts.get(component) else { return Ok(false) };
        self.kill(component);
        let mut tasks = self.tasks.lock();
        match component {
            Component::Scheduler => part.begin(|stop| tasks.spawn(self.launcher.scheduler(stop))),
            Component::Controllers => {
                let manager = self.launcher.controllers()?;
                part.begin(|stop| tasks.spawn(manager.run(stop)));
            }
            Component::Nodes | Component::Metrics | Component::Dns => return Ok(false),
        }
        Ok(true)
    }

    /// Ends the agent of a simulated node where it stands. Its containers go on if it comes back
    /// with them ([`Cluster::start_node`]). Whether it ran.
    pub fn kill_node(&self, name: &str) -> bool {
        self.nodes.kill(&self.launcher, name)
    }

    /// Starts the agent of a simulated node anew, with the containers it had, or, if `wiped`, as a
    /// machine that was switched off and on: with none. Whether there is such a node.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_node(&self, name: &str, wiped: bool) -> Result<bool, ClusterError> {
        self.nodes.restart(&self.launcher, &mut self.tasks.lock(), &self.stop, name, wiped)
    }

    /// A client like [`ApiServer::client_as`]'s, through the cluster's faults if it has any: for a
    /// controller of one's own, which they know by the name `component`.
    pub fn client_through_faults(
        &self,
        component: &str,
        user: rk_api::server::UserInfo,
    ) -> kube::Client {
        self.launcher.client(component, user)
    }

    /// Stops everything in order: nodes with their containers, controllers, scheduler, API server,
    /// store. What a durable cluster keeps stays on disk; no process, mount, cgroup, network
    /// namespace or link stays. Calling it again does nothing.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        // Every part listens to the token; whoever does not hear it in time is dropped.
        let ended = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(10), ended).await.is_err() {
            tracing::warn!(left = tasks.len(), "parts of the cluster did not stop within 10 s");
        }
        tasks.shutdown().await;
        if let Some(native) = &self.native {
            native.teardown().await;
        }
        self.server.shutdown().await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What a cluster is made of. Every setting has a default.
#[derive(Clone, Debug)]
pub struct ClusterBuilder {
    nodes: usize,
    native: Option<NativeNode>,
    data_dir: Option<PathBuf>,
    listen: Option<SocketAddr>,
    components: BTreeSet<Component>,
    token: Option<String>,
    resources: Option<rk_api::resources::Resources>,
    legacy_token_secrets: bool,
    pod_presets: bool,
    missing_images: Vec<String>,
    shared_node_lease: bool,
    virtual_time: Option<u64>,
    store: Option<Arc<dyn Store>>,
    faults: Option<Faults>,
    dns: ClusterDns,
}

impl Default for ClusterBuilder {
    fn default() -> Self {
        Self {
            nodes: 1,
            native: None,
            data_dir: None,
            listen: None,
            components: [
                Component::Scheduler,
                Component::Controllers,
                Component::Nodes,
                Component::Metrics,
                Component::Dns,
            ]
            .into(),
            token: None,
            resources: None,
            legacy_token_secrets: false,
            pod_presets: false,
            missing_images: Vec::new(),
            shared_node_lease: false,
            virtual_time: None,
            store: None,
            faults: None,
            dns: ClusterDns::new(),
        }
    }
}

impl ClusterBuilder {
    /// How many simulated nodes to run; 1 by default, 0 for none.
    #[must_use]
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// Runs one node with real containers instead of the simulated ones. Needs root on Linux, and
    /// [`rk_cri::native::init`] called first in `main`.
    #[must_use]
    pub fn native(mut self, node: NativeNode) -> Self {
        self.native = Some(node);
        self
    }

    /// Keeps all state in this directory, which is made if it is missing. Without it everything is
    /// in memory.
    #[must_use]
    pub fn data_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(directory.into());
        self
    }

    /// Also listens for HTTPS here; port 0 takes a free one. Without it there is no socket at all.
    #[must_use]
    pub fn listen(mut self, address: impl Into<SocketAddr>) -> Self {
        self.listen = Some(address.into());
        self
    }

    /// Which parts to run besides the API server; all of them by default.
    #[must_use]
    pub fn components(mut self, components: impl IntoIterator<Item = Component>) -> Self {
        self.components = components.into_iter().collect();
        self
    }

    /// Also accepts this bearer token as an administrator's; the kubeconfig then uses it instead of
    /// a client certificate.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Serves these kinds instead of the built-in ones.
    #[must_use]
    pub fn resources(mut self, resources: rk_api::resources::Resources) -> Self {
        self.resources = Some(resources);
        self
    }

    /// Whether every service account gets a Secret with a token that never expires, as before
    /// Kubernetes 1.24; not so by default.
    #[must_use]
    pub fn legacy_token_secrets(mut self, create: bool) -> Self {
        self.legacy_token_secrets = create;
        self
    }

    /// Whether PodPresets (`settings.k8s.io/v1alpha1`) are served and give Pods what they say, as
    /// Kubernetes could until 1.19; not so by default.
    #[must_use]
    pub fn pod_presets(mut self, served: bool) -> Self {
        self.pod_presets = served;
        self
    }

    /// Images that the simulated nodes do not find; by default they find every image.
    #[must_use]
    pub fn missing_images<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.missing_images.extend(names.into_iter().map(Into::into));
        self
    }

    /// Whether the simulated nodes give their signs of life together, by one Lease that is renewed
    /// every 20 s ([`Fleet::shared_lease`](rk_cri::agent::Fleet::shared_lease)), instead of one each.
    /// It is for long histories of many nodes in virtual time; not so by default.
    #[must_use]
    pub fn shared_node_lease(mut self, shared: bool) -> Self {
        self.shared_node_lease = shared;
        self
    }

    /// How names are resolved in the cluster.
    #[must_use]
    pub fn dns(mut self, dns: ClusterDns) -> Self {
        self.dns = dns;
        self
    }

    /// Keeps all state in this store instead of one of the cluster's own.
    #[must_use]
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self
    }

    /// Puts these faults between the API server and each component, which then has informers of its
    /// own, as if it were a process, and before the store. They know the components as `scheduler`,
    /// `controllers`, `metrics`, and each simulated node by its name.
    #[must_use]
    pub fn faults(mut self, faults: &Faults) -> Self {
        self.faults = Some(faults.clone());
        self
    }

    /// Makes the cluster's history a function of `seed` and of what is done with it: time begins at
    /// [`simulation::EPOCH`](crate::simulation::EPOCH) and passes only while everything waits, and
    /// all chance (UIDs, names, addresses, jitter, ties) comes from the seed. The same program with
    /// the same seed writes the same bytes in the same order.
    ///
    /// It needs a current-thread runtime whose clock was paused when it was made, as
    /// [`simulation::block_on`](crate::simulation::block_on) and
    /// `#[tokio::test(start_paused = true)]` make it, and a cluster without files, sockets and real
    /// containers; otherwise [`ClusterBuilder::start`] fails. Keys and the signatures of tokens are
    /// never predictable; nothing of them is stored.
    #[must_use]
    pub fn virtual_time(mut self, seed: u64) -> Self {
        self.virtual_time = Some(seed);
        self
    }

    /// Starts the cluster. When it returns, the API server answers and the nodes are Ready.
    pub async fn start(self) -> Result<Cluster, ClusterError> {
        start::start(self).await
    }
}

/// Why a cluster did not start. Each message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// The data directory cannot be used.
    #[error("data directory {}: {reason}", directory.display())]
    DataDir {
        /// The directory.
        directory: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another port, or 0 for a free one")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The API server does not start.
    #[error("the API server does not start: {0}")]
    Server(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The machine cannot run real containers.
    #[error("cannot run containers here: {}; use simulated nodes instead", .0.join("; "))]
    Native(Vec<String>),
    /// An image cannot be loaded.
    #[error("image {}: {reason}", file.display())]
    Image {
        /// The archive or layout.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A node does not come up.
    #[error("the nodes are not Ready after {0:?}; the log says why (RUST_LOG=info)")]
    NodesNotReady(Duration),
    /// A part does not start.
    #[error("{part} does not start: {reason}")]
    Part {
        /// Which part.
        part: &'static str,
        /// Why.
        reason: String,
    },
}
