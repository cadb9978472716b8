//! The nodes of a [`Cluster`](super::Cluster): simulated ones, or one with real containers.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Node;
use rk_api::{
    client::Informers,
    server::{ApiServer, Pki, TokenKey, UserInfo},
};
use rk_controllers::{CertificateRequest, CertificateSigner, TokenRequest, TokenSigner};
use rk_cri::{
    agent::{Agent, ImageGc},
    images::{ImportOptions, registry::Registries},
    native::NativeRuntime,
    sim::SimRuntime,
    timers::Timers,
};
use rk_net::{NodeNetwork, ipam::Cidr};
use rk_proxy::{
    Proxy,
    nftables::{NftablesConfig, NftablesProxy},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{ClusterBuilder, ClusterError, Component, dns, launch::Launcher, start::part};

/// Pods of a small cluster; as many /24 ranges as nodes have room.
const SMALL: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 244, 0, 0), 16);
/// Pods of a large cluster.
const LARGE: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 128, 0, 0), 9);
/// Nodes that a small cluster's range has room for.
const SMALL_NODES: usize = 256;
/// Size of a node's range.
const NODE_PREFIX: u8 = 24;
/// The first node's address; the others follow.
const NODES: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

fn range(nodes: usize) -> (Ipv4Addr, u8) {
    if nodes <= SMALL_NODES { SMALL } else { LARGE }
}

/// The range of all pods, and the prefix length of one node's part of it.
pub(super) fn cluster_cidr(nodes: usize) -> (&'static str, u8) {
    let cidr = if range(nodes) == SMALL { "10.244.0.0/16" } else { "10.128.0.0/9" };
    (cidr, NODE_PREFIX)
}

/// The range of the pods of node `index` (from 0) of so many.
fn pod_cidr(nodes: usize, index: usize) -> Ipv4Addr {
    let (first, _) = range(nodes);
    Ipv4Addr::from(u32::from(first) + (u32::try_from(index).unwrap_or(u32::MAX) << 8))
}

/// The address of node `index`.
pub(super) fn node_ip(index: usize) -> IpAddr {
    let offset = u32::try_from(index).unwrap_or(u32::MAX);
    IpAddr::V4(Ipv4Addr::from(u32::from(NODES).saturating_add(offset)))
}

/// Whether the node says that it is Ready.
pub(super) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref());
    conditions
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The name of simulated node `index`: `node-1`, `node-2`, …
pub(super) fn node_name(index: usize) -> String {
    format!("node-{}", index + 1)
}

/// The range of the pods of node `index` of so many, as it is written.
pub(super) fn pod_range(nodes: usize, index: usize) -> String {
    format!("{}/{NODE_PREFIX}", pod_cidr(nodes, index))
}

/// What runs the pods of simulated node `index`.
pub(super) fn sim_runtime(
    builder: &ClusterBuilder,
    index: usize,
    timers: &Timers,
) -> Result<SimRuntime, ClusterError> {
    SimRuntime::builder()
        .pod_cidr(pod_range(builder.nodes, index))
        .node_ip(node_ip(index))
        .timers(timers)
        .missing_images(builder.missing_images.iter().cloned())
        .build()
        .map_err(part("a simulated node"))
}

/// A node that runs real containers on this machine.
///
/// Its pods live in network namespaces behind a bridge, which itself is in a namespace made for the
/// cluster: nothing of it shows in the machine's own network.
#[derive(Clone, Debug)]
pub struct NativeNode {
    root: PathBuf,
    name: Option<String>,
    images: Vec<PathBuf>,
    host_network: bool,
    registries: Option<Registries>,
    image_gc: ImageGc,
}

impl Default for NativeNode {
    fn default() -> Self {
        Self {
            root: "/var/lib/rk".into(),
            name: None,
            images: Vec::new(),
            host_network: false,
            registries: None,
            image_gc: ImageGc::never(),
        }
    }
}

impl NativeNode {
    /// A node that keeps its files in `/var/lib/rk` and is named as the machine is.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where its containers, images and volumes are kept: on a disk, not on overlayfs.
    #[must_use]
    pub fn root(mut self, directory: impl Into<PathBuf>) -> Self {
        self.root = directory.into();
        self
    }

    /// Where it keeps its files, as an absolute path if that can be said.
    pub(super) fn directory(&self) -> PathBuf {
        std::path::absolute(&self.root).unwrap_or_else(|_| self.root.clone())
    }

    /// The node's name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Loads the images of these OCI layouts or archives.
    #[must_use]
    pub fn load(mut self, images: impl IntoIterator<Item = PathBuf>) -> Self {
        self.images.extend(images);
        self
    }

    /// Pulls images from these registries. By default from none: the node has what was loaded.
    #[must_use]
    pub fn registries(mut self, registries: Registries) -> Self {
        self.registries = Some(registries);
        self
    }

    /// When images that no container uses are removed. By default never: what was loaded cannot be
    /// pulled again.
    #[must_use]
    pub fn image_gc(mut self, policy: ImageGc) -> Self {
        self.image_gc = policy;
        self
    }

    /// Puts the pods' bridge into the machine's own network namespace, as a real node would.
    #[must_use]
    pub fn host_network(mut self, really: bool) -> Self {
        self.host_network = really;
        self
    }

    /// Whether this machine can run containers.
    ///
    /// # Errors
    /// What is missing, each with what to do about it.
    pub fn preflight() -> Result<(), Vec<String>> {
        NativeRuntime::preflight()
    }
}

/// What a running native node leaves to be taken down.
#[derive(Debug)]
pub(super) struct RunningNative {
    runtime: NativeRuntime,
    network: NodeNetwork,
}

impl RunningNative {
    /// The cluster's network namespace, unless it is the machine's.
    pub(super) fn netns(&self) -> Option<&Path> {
        self.network.netns()
    }

    /// Removes every process, mount, cgroup, namespace and link of the node.
    pub(super) async fn teardown(&self) {
        if let Err(error) = self.runtime.teardown().await {
            tracing::error!(%error, "containers are left behind");
        }
        if let Err(error) = self.network.delete().await {
            tracing::error!(%error, "the cluster's network is left behind");
        }
    }
}

/// Starts the node with real containers.
pub(super) async fn start_native(
    node: &NativeNode,
    launcher: &Launcher,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> Result<RunningNative, ClusterError> {
    let Launcher { builder, server, kubelets, .. } = launcher;
    NativeRuntime::preflight().map_err(ClusterError::Native)?;
    std::fs::create_dir_all(&node.root).map_err(part("the node's directory"))?;
    let root = node.root.canonicalize().map_err(part("the node's directory"))?;

    let first = pod_cidr(builder.nodes, 0);
    let pods = Cidr::new(first.into(), NODE_PREFIX).map_err(part("the pod network"))?;
    let mut network = NodeNetwork::builder(&root, pods).host_network_of_machine(node.host_network);
    if !node.host_network {
        network = network.node_address(node_ip(0));
    }
    let network = network.build().await.map_err(part("the pod network"))?;

    let mut runtime =
        NativeRuntime::builder(root.join("runtime"), network.plugin()).node_ips(network.node_ips());
    if let Some(netns) = network.netns() {
        runtime = runtime.node_netns(netns);
    }
    if let Some(registries) = &node.registries {
        runtime = runtime.registries(registries.clone());
    }
    let runtime = match runtime.build().await {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = network.delete().await;
            return Err(part("the container runtime")(error));
        }
    };
    let running = RunningNative { runtime: runtime.clone(), network };
    match run_agent(node, &root, builder, server, &running, first).await {
        Ok(agent) => {
            kubelets.add(agent.node_name(), agent.kubelet_api());
            if let Err(error) = serve(launcher, &running, agent.node_name(), tasks, stop).await {
                running.teardown().await;
                return Err(error);
            }
            tasks.spawn(agent.run(stop.clone()));
            Ok(running)
        }
        Err(error) => {
            running.teardown().await;
            Err(error)
        }
    }
}

/// Starts what a network of the cluster's own has besides Pods: names and Services.
async fn serve(
    launcher: &Launcher,
    running: &RunningNative,
    node: &str,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> Result<(), ClusterError> {
    let Some(netns) = running.netns() else { return Ok(()) };
    if launcher.builder.components.contains(&Component::Dns) {
        dns::start(launcher, netns, node_ip(0), tasks, stop).await?;
    }
    let addresses = running.network.node_ips();
    let proxy = service_proxy(&launcher.informers, node, netns, addresses)?;
    tasks.spawn(proxy.run(stop.clone()));
    Ok(())
}

/// Makes Services work in the cluster's network namespace. The rules go with the namespace.
pub(super) fn service_proxy(
    informers: &Informers,
    node: &str,
    netns: &Path,
    addresses: Vec<IpAddr>,
) -> Result<Proxy, ClusterError> {
    let backend = NftablesProxy::new(NftablesConfig {
        netns: Some(netns.to_owned()),
        // Pods share a bridge: without br_netfilter the answer of a Pod to another would take the
        // short way across it, and nobody would translate it back.
        masquerade_all: true,
        ..NftablesConfig::default()
    });
    Proxy::builder(informers.clone(), node)
        .backend(Arc::new(backend))
        .node_ips(addresses)
        .build()
        .map_err(part("the service proxy"))
}

async fn run_agent(
    node: &NativeNode,
    root: &Path,
    builder: &ClusterBuilder,
    server: &ApiServer,
    running: &RunningNative,
    pods: Ipv4Addr,
) -> Result<Agent, ClusterError> {
    for file in &node.images {
        running.runtime.import(file, ImportOptions::default()).await.map_err(|error| {
            ClusterError::Image { file: file.clone(), reason: error.to_string() }
        })?;
    }
    let name = match &node.name {
        Some(name) => name.clone(),
        None => machine_name(),
    };
    debug_assert!(builder.native.is_some());
    let client = server.client_as(UserInfo::node(&name));
    // On the machine's network there is no Service proxy, and Pods resolve names as the machine does.
    let servers = running.netns().map(|_| dns::ADDRESS);
    Agent::builder(client, Arc::new(running.runtime.clone()))
        .cluster_dns(servers, &builder.dns.domain)
        .node_name(name)
        .node_ips(running.network.node_ips())
        .pod_cidr(format!("{pods}/{NODE_PREFIX}"))
        .root_dir(root.join("agent"))
        .image_gc(node.image_gc)
        .build()
        .map_err(part("the node"))
}

/// The machine's host name, as a node name: lower case, and `node` when there is none.
fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim().to_lowercase() {
        name if rk_api::meta::names::dns_subdomain(&name, false).is_empty() => name,
        _ => "node".to_owned(),
    }
}

/// Signs the tokens that are kept in Secrets, with the API server's key.
#[derive(Debug)]
pub(super) struct Signer(pub(super) TokenKey);

#[async_trait]
impl TokenSigner for Signer {
    async fn sign(
        &self,
        request: &TokenRequest,
    ) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        let account = (request.account.as_str(), request.account_uid.as_str());
        self.0
            .sign_for_secret(&request.namespace, account, &request.secret)
            .ok_or_else(|| "the system has no randomness to sign a token with".into())
    }
}

/// Signs certificates with the authority that the API server trusts.
#[derive(Debug)]
pub(super) struct Issuer(pub(super) Pki);

#[async_trait]
impl CertificateSigner for Issuer {
    async fn sign(
        &self,
        request: &CertificateRequest,
    ) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.sign_request(&request.pem, &request.usages, request.lifetime)?)
    }
}
