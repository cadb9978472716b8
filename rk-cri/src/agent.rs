//! The node agent: registers a node, runs the pods bound to it through a [`Runtime`], and reports
//! on both. It is what Kubernetes calls the kubelet.
//!
//! # Where to start
//! - [`Agent`]: one node. [`Fleet`]: many simulated nodes that share what can be shared.
//! - `sync.rs`: how one pod is brought up to date. `plan.rs` and `status.rs` are its decisions.
//! - [`KubeletApi`]: logs, exec, attach, as the API server asks for them.
//!
//! # What always holds
//! - The agent keeps nothing that matters: after a restart it finds its pods in the API and their
//!   containers in the runtime, and goes on. Stopping it stops no pod.
//! - A pod's status is written only when it changed, and conditions of others are left alone.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, Taint};
use rk_api::{
    client::{Change, EventRecorder, Informer, Informers},
    meta::quantity::Quantity,
};
use tokio_util::sync::CancellationToken;

#[cfg(feature = "server")]
pub use self::kubelet_api::Access;
use self::{
    configuration::KubeletConfiguration,
    eviction::NodeSignals,
    images::providers::Providers,
    settings::Settings,
    static_pods::{Source, is_mirror},
    worker::Core,
};
pub use self::{
    connector::Kubelets,
    fleet::{Fleet, FleetHandle},
    images::{gc::ImageGc, providers::CredentialProviderConfig},
    kubelet_api::{KubeletApi, KubeletBody},
    shutdown::NodeShutdown,
    spec::ClusterDns,
};
use crate::{
    runtime::{DnsConfig, Runtime, RuntimeError},
    timers::Timers,
};

mod admission;
mod allocation;
mod backoff;
#[cfg(feature = "server")]
pub mod certificates;
mod claims;
pub mod configuration;
mod connector;
mod csi;
mod ends;
mod env;
pub mod eviction;
mod fleet;
mod handler;
mod heartbeat;
mod housekeeping;
mod hugepages;
mod images;
mod kubelet_api;
mod log_rotation;
mod node;
mod observed;
mod oom;
mod plan;
mod probes;
mod references;
mod report;
mod resize;
mod resources;
mod settings;
mod shutdown;
mod spec;
mod start;
mod static_pods;
mod status;
mod stop;
mod sync;
mod volumes;
mod worker;

#[cfg(feature = "native")]
pub(crate) use eviction::usage as disk_usage;
pub(crate) use kubelet_api::{Refusal, port_forward, session, spdy, text};

/// What an agent is told, in the form that its parts use.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    name: String,
    node_ips: Vec<IpAddr>,
    root_dir: PathBuf,
    log_root: PathBuf,
    cluster_dns: ClusterDns,
    node_dns: DnsConfig,
    heartbeat_period: Duration,
    status_period: Duration,
    /// The Lease that the node's own is renewed with, if it is not renewed itself.
    renewed_with: Option<String>,
    identity: node::Identity,
    /// The node's CPU in millicores and memory in bytes.
    allocatable: (i64, i64),
    image_pulls_at_once: Option<usize>,
    image_gc: ImageGc,
    settings: Arc<Settings>,
}

/// Options of an [`Agent`].
#[derive(Clone)]
pub struct AgentBuilder {
    client: kube::Client,
    runtime: Arc<dyn Runtime>,
    informers: Option<Informers>,
    timers: Timers,
    recorder: Option<EventRecorder>,
    record_events: bool,
    node_name: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    taints: Vec<Taint>,
    capacity: BTreeMap<String, String>,
    max_pods: u32,
    pod_cidr: Option<String>,
    root_dir: PathBuf,
    log_dir: Option<PathBuf>,
    node_ips: Vec<IpAddr>,
    cluster_dns: ClusterDns,
    heartbeat_period: Duration,
    status_period: Duration,
    renewed_with: Option<String>,
    kubelet_port: u16,
    image_pulls_at_once: Option<usize>,
    image_gc: ImageGc,
    settings: Settings,
    resolv_conf: Option<PathBuf>,
}

impl AgentBuilder {
    /// The node's name; by default `node`.
    pub fn node_name(mut self, name: impl Into<String>) -> Self {
        self.node_name = name.into();
        self
    }

    /// Labels of the node, besides those for host name, operating system and architecture.
    pub fn labels<K: Into<String>, V: Into<String>>(
        mut self,
        labels: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.labels.extend(labels.into_iter().map(|(k, v)| (k.into(), v.into())));
        self
    }

    /// Annotations of the node.
    pub fn annotations<K: Into<String>, V: Into<String>>(
        mut self,
        annotations: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.annotations.extend(annotations.into_iter().map(|(k, v)| (k.into(), v.into())));
        self
    }

    /// Taints that the node is registered with.
    pub fn taints(mut self, taints: impl IntoIterator<Item = Taint>) -> Self {
        self.taints.extend(taints);
        self
    }

    /// Replaces what the node has of a resource, for example `("cpu", "64")`. By default what the
    /// machine has; a simulated node has 32 CPUs, 256 Gi of memory and 1 Ti of storage.
    pub fn capacity<K: Into<String>, V: Into<String>>(
        mut self,
        capacity: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.capacity.extend(capacity.into_iter().map(|(k, v)| (k.into(), v.into())));
        self
    }

    /// How many pods the node takes; by default 110.
    pub fn max_pods(mut self, pods: u32) -> Self {
        self.max_pods = pods;
        self
    }

    /// The range of pod addresses that the node is registered with.
    pub fn pod_cidr(mut self, range: impl Into<String>) -> Self {
        self.pod_cidr = Some(range.into());
        self
    }

    /// Where pods' volumes are kept; by default `/var/lib/rk/agent`. Unused on a simulated node.
    pub fn root_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.root_dir = directory.into();
        self
    }

    /// Where containers' logs are kept; by default `logs` in the root directory.
    pub fn log_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.log_dir = Some(directory.into());
        self
    }

    /// The node's addresses, the primary one first; by default `127.0.0.1`.
    pub fn node_ips(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.node_ips = addresses.into_iter().collect();
        self
    }

    /// The cluster's name servers, and its domain (`cluster.local`). By default there are none, and
    /// pods resolve names as the node does.
    pub fn cluster_dns(mut self, servers: impl IntoIterator<Item = IpAddr>, domain: &str) -> Self {
        self.cluster_dns =
            ClusterDns { servers: servers.into_iter().collect(), domain: domain.to_string() };
        self
    }

    /// How often the lease is renewed, and the status looked at; by default 10 s. The lease is good
    /// for four times that.
    pub fn heartbeat_period(mut self, period: Duration) -> Self {
        self.heartbeat_period = period;
        self
    }

    /// How often the status is written although nothing changed; by default 5 min.
    pub fn status_period(mut self, period: Duration) -> Self {
        self.status_period = period;
        self
    }

    /// The node's Lease is renewed whenever another one is, see [`rk_api::meta::RENEWED_WITH`].
    fn renewed_with(mut self, lease: &str) -> Self {
        self.renewed_with = Some(lease.to_owned());
        self
    }

    /// How many images are fetched at the same time, the kubelet's `maxParallelImagePulls`; by
    /// default any number. One after the other, as the kubelet has it unless told otherwise, lets a
    /// single large image hold up every Pod of the node.
    pub fn image_pulls_at_once(mut self, pulls: usize) -> Self {
        self.image_pulls_at_once = Some(pulls);
        self
    }

    /// When unused images are removed. Simulated nodes have no disk, and keep theirs.
    pub fn image_gc(mut self, policy: ImageGc) -> Self {
        self.image_gc = policy;
        self
    }

    /// The port that the node's status names for the kubelet's API; by default 10250.
    pub fn kubelet_port(mut self, port: u16) -> Self {
        self.kubelet_port = port;
        self
    }

    /// Does all duties as this configuration says, and takes over what it says of addresses of name
    /// servers, numbers of pods, times, taints and directories. What is set after this wins.
    pub fn configuration(mut self, configuration: &KubeletConfiguration) -> Self {
        self.settings = Settings {
            signals: self.settings.signals,
            credential_providers: self.settings.credential_providers,
            ..Settings::of(configuration)
        };
        self.cluster_dns = ClusterDns {
            servers: configuration.cluster_dns.clone(),
            domain: match configuration.cluster_domain.as_str() {
                "" => "cluster.local".to_owned(),
                domain => domain.to_owned(),
            },
        };
        self.max_pods = configuration.max_pods;
        if configuration.pods_per_core > 0 {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            let cores = u32::try_from(cores).unwrap_or(u32::MAX);
            let together = configuration.pods_per_core.saturating_mul(cores);
            self.max_pods = self.max_pods.min(together);
        }
        if !configuration.pod_cidr.is_empty() {
            self.pod_cidr = Some(configuration.pod_cidr.clone());
        }
        self.taints.extend(configuration.register_with_taints.iter().cloned());
        // A lease is good for four heartbeats.
        self.heartbeat_period =
            Duration::from_secs(configuration.node_lease_duration_seconds.into()) / 4;
        self.status_period = configuration.node_status_report_frequency.0;
        self.kubelet_port = configuration.port;
        self.image_gc = configuration.image_gc();
        self.image_pulls_at_once =
            configuration.image_pulls_at_once().map(|pulls| pulls.try_into().unwrap_or(usize::MAX));
        self.resolv_conf = configuration.resolv_conf.clone();
        self
    }

    /// Tells what the node has left, for eviction by the thresholds of a
    /// [configuration](Self::configuration). By default nobody does, and nothing is evicted.
    pub fn signals(mut self, signals: Arc<dyn NodeSignals>) -> Self {
        self.settings.signals = Some(signals);
        self
    }

    /// Asks these programs, which are in `directory`, for credentials when an image is pulled
    /// (KEP-2133). By default there are none. Whatever is set: a file `config.json` in the root
    /// directory, as `docker login` writes it, is for all Pods of the node.
    pub fn credential_providers(
        mut self,
        config: &CredentialProviderConfig,
        directory: impl AsRef<Path>,
    ) -> Self {
        let providers = Providers::new(config, directory.as_ref());
        self.settings.credential_providers = Some(Arc::new(providers));
        self
    }

    /// Informers to share with other components of this process; by default its own.
    pub fn informers(mut self, informers: &Informers) -> Self {
        self.informers = Some(informers.clone());
        self
    }

    /// Timers to share with other agents of this process; by default its own.
    pub fn timers(mut self, timers: &Timers) -> Self {
        self.timers = timers.clone();
        self
    }

    /// Writes events through this recorder; by default through one of its own.
    pub fn recorder(mut self, recorder: &EventRecorder) -> Self {
        self.recorder = Some(recorder.clone());
        self
    }

    /// Whether to write events; by default so.
    pub fn record_events(mut self, record: bool) -> Self {
        self.record_events = record;
        self
    }

    /// Makes the agent, within a tokio runtime. Nothing happens before [`Agent::run`].
    pub fn build(self) -> Result<Agent, RuntimeError> {
        let informers =
            self.informers.clone().unwrap_or_else(|| Informers::new(self.client.clone()));
        let only = format!("metadata.name={}", self.node_name);
        let nodes = informers.selected(None, Some(&only));
        let core = self.core(&informers, nodes)?;
        Ok(Agent { core, informers })
    }

    fn core(
        self,
        informers: &Informers,
        nodes: Informer<k8s_openapi::api::core::v1::Node>,
    ) -> Result<Arc<Core>, RuntimeError> {
        let simulated = self.runtime.simulated();
        let mut capacity = if simulated {
            node::simulated_capacity()
        } else {
            node::machine_capacity(&self.root_dir)
        };
        capacity.insert("pods".into(), self.max_pods.to_string());
        capacity.extend(self.capacity);
        for (name, amount) in &mut capacity {
            let invalid =
                |why| RuntimeError::Invalid(format!("capacity of {name}: {amount:?}: {why}"));
            *amount = Quantity::canonical(amount).map_err(|error| invalid(error.to_string()))?;
        }
        let amount =
            |name: &str| capacity.get(name).and_then(|amount| Quantity::parse(amount).ok());
        let left = |name: &str| amount(name).map(|all| self.settings.allocatable(name, all));
        let allocatable = (
            left("cpu").map_or(0, |quantity| quantity.millis()),
            left("memory").map_or(0, |quantity| quantity.value()),
        );
        let node_dns = if simulated {
            DnsConfig::default()
        } else {
            let text = self.resolv_conf.map(std::fs::read_to_string);
            spec::parse_resolv_conf(&text.and_then(Result::ok).unwrap_or_default())
        };
        let settings = Arc::new(self.settings);
        let identity = node::Identity {
            name: self.node_name.clone(),
            labels: self.labels,
            annotations: self.annotations,
            taints: self.taints,
            pod_cidr: self.pod_cidr,
            addresses: self.node_ips.clone(),
            capacity,
            kubelet_port: self.kubelet_port,
            info: node::system_info(&self.runtime.version()),
            settings: settings.clone(),
        };
        let config = Config {
            log_root: self.log_dir.unwrap_or_else(|| self.root_dir.join("logs")),
            name: self.node_name,
            node_ips: self.node_ips,
            root_dir: self.root_dir,
            cluster_dns: self.cluster_dns,
            node_dns,
            heartbeat_period: self.heartbeat_period,
            status_period: self.status_period,
            renewed_with: self.renewed_with,
            identity,
            allocatable,
            image_pulls_at_once: self.image_pulls_at_once,
            image_gc: self.image_gc,
            settings,
        };
        let recorder = self.record_events.then(|| {
            let recorder =
                self.recorder.unwrap_or_else(|| EventRecorder::new(self.client.clone(), "kubelet"));
            recorder.on_host(&config.name)
        });
        let services = (!simulated).then(|| informers.of());
        Ok(Core::new(config, self.client, self.runtime, recorder, self.timers, nodes, services))
    }
}

/// A node's agent.
pub struct Agent {
    core: Arc<Core>,
    informers: Informers,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("node", &self.core.config.name).finish_non_exhaustive()
    }
}

impl Agent {
    /// Options to make one with, for a node whose pods `runtime` runs.
    pub fn builder(client: kube::Client, runtime: Arc<dyn Runtime>) -> AgentBuilder {
        AgentBuilder {
            client,
            runtime,
            informers: None,
            timers: Timers::new(),
            recorder: None,
            record_events: true,
            node_name: "node".into(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            taints: Vec::new(),
            capacity: BTreeMap::new(),
            max_pods: 110,
            pod_cidr: None,
            root_dir: "/var/lib/rk/agent".into(),
            log_dir: None,
            node_ips: vec![std::net::Ipv4Addr::LOCALHOST.into()],
            cluster_dns: ClusterDns { servers: Vec::new(), domain: "cluster.local".into() },
            heartbeat_period: Duration::from_secs(10),
            status_period: Duration::from_secs(300),
            renewed_with: None,
            kubelet_port: 10250,
            image_pulls_at_once: None,
            image_gc: ImageGc::default(),
            settings: Settings::default(),
            resolv_conf: Some("/etc/resolv.conf".into()),
        }
    }

    /// The node's name.
    pub fn node_name(&self) -> &str {
        &self.core.config.name
    }

    /// The kubelet's HTTP API of this node: a tower service, see [`KubeletApi`].
    pub fn kubelet_api(&self) -> KubeletApi {
        KubeletApi::new(self.core.clone())
    }

    /// What shuts the node down, while the agent runs.
    pub fn node_shutdown(&self) -> NodeShutdown {
        NodeShutdown::new(self.core.clone())
    }

    /// Registers the node and runs its pods until `shutdown`. The pods keep running then.
    pub async fn run(self, shutdown: CancellationToken) {
        let core = self.core;
        let stopped = core.stopped.clone().drop_guard();
        let statics = async {
            if let Some(path) = core.config.settings.static_pods.clone() {
                let mut source = Source::new(path, &core.config.name);
                // Before anything is removed that seems to be nobody's; and whether or not there is
                // an API server.
                core.take_static(source.look());
                core.follow_static_pods(source).await;
            }
        };
        let registered = CancellationToken::new();
        let plugins = async {
            if !core.runtime.simulated() {
                // What a driver says is told on the node's object.
                registered.cancelled().await;
                tokio::join!(biased; core.follow_plugins(), core.follow_attachments());
            }
        };
        let work = async {
            let only = format!("spec.nodeName={}", core.config.name);
            let pods: Informer<Pod> = self.informers.selected(None, Some(&only));
            let mut changes = pods.subscribe();
            let mut events = core.runtime.events();
            core.nodes.synced().await;
            core.recover_csi().await;
            core.register().await;
            pods.synced().await;
            while let Some(change) = changes.try_next() {
                take(&core, change);
            }
            core.adopt_or_remove().await;
            registered.cancel();
            loop {
                tokio::select! { biased;
                    change = changes.next_change() => take(&core, change),
                    event = events.next() => match event {
                        Some(event) => core.poke(&event.pod.uid),
                        None => events = futures::stream::pending().boxed(),
                    },
                }
            }
        };
        let all = async {
            tokio::join!(biased; statics, work, plugins, core.keep_house(), core.collect_images());
        };
        shutdown.run_until_cancelled(all).await;
        drop(stopped);
    }
}

/// Takes in a change of a pod on this node.
fn take(core: &Core, change: Change<Pod>) {
    match change {
        Change::Added(pod) | Change::Updated { new: pod, .. } if is_mirror(&pod) => {
            core.mirror_changed(pod);
        }
        Change::Deleted(pod) if is_mirror(&pod) => core.mirror_gone(&pod),
        Change::Added(pod) | Change::Updated { new: pod, .. } => core.pod_changed(pod),
        Change::Deleted(pod) => core.pod_gone(&pod),
    }
}

impl Core {
    /// Removes what the runtime has of pods that the API no longer has.
    async fn adopt_or_remove(&self) {
        let sandboxes = match self.runtime.list_pod_sandboxes().await {
            Ok(sandboxes) => sandboxes,
            Err(error) => {
                tracing::warn!(node = self.config.name, %error, "unable to look for orphans");
                return;
            }
        };
        for sandbox in sandboxes {
            let orphan = sandbox.config.pod;
            if self.knows(&orphan.uid) {
                continue;
            }
            tracing::info!(node = self.config.name, pod = orphan.name, "removing an orphaned pod");
            let pod = Pod {
                metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                    namespace: Some(orphan.namespace),
                    name: Some(orphan.name),
                    uid: Some(orphan.uid),
                    ..Default::default()
                },
                ..Default::default()
            };
            self.pod_orphaned(Arc::new(pod));
        }
        self.sweep_once().await;
    }
}
