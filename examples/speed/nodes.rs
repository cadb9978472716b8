//! How fast Pods start on a node with real containers, and how much memory its agent takes: on the
//! native runtime and on containerd, one like the other. The agent is a process of its own, as a
//! kubelet is; the control plane is in this one.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use rk::{
    Cluster, NativeNode,
    cri::{
        Runtime,
        agent::Agent,
        cri::CriRuntime,
        images::{ImportOptions, build},
        native::NativeRuntime,
    },
    k8s_openapi::api::core::v1::{Node, Pod},
    kube::{
        Api, Client, Config, ResourceExt,
        api::{ListParams, PostParams, WatchEvent, WatchParams},
        config::{KubeConfigOptions, Kubeconfig},
    },
    net::{NodeNetwork, ipam::Cidr},
};
use serde_json::json;
use tokio::{io::AsyncReadExt, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    lab::{IMAGE, Lab, missing},
    load::Error,
    rows::{Served, millis, resident_mib_of},
};

/// The name of the node.
const NODE: &str = "bench";
/// Its Pods' addresses, and its own, where the runtime has no network of its own.
const PODS: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 244, 0, 0), 24);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

const ONE_BY_ONE: usize = 20;
const AT_ONCE: usize = 50;
const MANY: usize = 100;
/// As many as a kubelet takes.
const FULL: usize = 110;
/// How long Pods may take to start.
const PATIENCE: Duration = Duration::from_secs(300);

/// What runs the containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum On {
    Native,
    Containerd,
}

macro_rules! on_both {
    ($($measure:ident: $native:ident, $containerd:ident;)+) => {$(
        pub(crate) async fn $native() -> Result<String, Error> {
            unless_missing(On::Native, async |bench| $measure(bench).await).await
        }
        pub(crate) async fn $containerd() -> Result<String, Error> {
            unless_missing(On::Containerd, async |bench| $measure(bench).await).await
        }
    )+};
}

on_both! {
    one_by_one: one_by_one_native, one_by_one_containerd;
    at_once: at_once_native, at_once_containerd;
    many: many_native, many_containerd;
    agent_memory: agent_memory_native, agent_memory_containerd;
}

/// Measures on a node, or says why there is none of this kind here.
async fn unless_missing(
    on: On,
    measure: impl AsyncFnOnce(&Bench) -> Result<String, Error>,
) -> Result<String, Error> {
    let lacks = match on {
        On::Native => NativeNode::preflight().err().unwrap_or_default(),
        On::Containerd => missing(),
    };
    if !lacks.is_empty() || !Path::new("/bin/busybox").exists() {
        return Ok(format!("not measured: {}", lacks.first().map_or("no busybox", |it| it)));
    }
    let bench = Bench::start(on).await?;
    let measured = measure(&bench).await;
    bench.stop().await?;
    measured
}

async fn one_by_one(bench: &Bench) -> Result<String, Error> {
    let mut took = Vec::new();
    for number in 0..ONE_BY_ONE {
        took.extend(bench.start_pods(&format!("single-{number}"), 1).await?.into_ready());
    }
    Ok(percentiles(took))
}

async fn at_once(bench: &Bench) -> Result<String, Error> {
    let started = bench.start_pods("burst", AT_ONCE).await?;
    let all = started.ready.iter().max().copied().unwrap_or_default();
    Ok(format!("{}; all in {:.2} s", percentiles(started.into_ready()), all.as_secs_f64()))
}

async fn many(bench: &Bench) -> Result<String, Error> {
    let started = bench.start_pods("many", MANY).await?;
    let all = started.running.iter().max().copied().unwrap_or_default();
    Ok(format!("{:.2} s", all.as_secs_f64()))
}

async fn agent_memory(bench: &Bench) -> Result<String, Error> {
    bench.start_pods("full", FULL).await?;
    // What starting them took has been given back.
    tokio::time::sleep(Duration::from_secs(10)).await;
    Ok(format!("{:.0} MiB", resident_mib_of(bench.agent_id())?))
}

fn percentiles(mut took: Vec<Duration>) -> String {
    took.sort_unstable();
    let at = |share: usize| took[(took.len() * share / 100).min(took.len() - 1)];
    format!("p50 {:.0} ms, p99 {:.0} ms", millis(at(50)), millis(at(99)))
}

/// How long after their creation Pods ran and were ready.
struct Started {
    running: Vec<Duration>,
    ready: Vec<Duration>,
}

impl Started {
    fn into_ready(self) -> Vec<Duration> {
        self.ready
    }
}

/// A control plane, and a node with the image.
struct Bench {
    served: Served,
    agent: std::sync::Mutex<Option<Child>>,
    agent_id: u32,
    containerd: Option<Lab>,
    directory: tempfile::TempDir,
}

impl Bench {
    async fn start(on: On) -> Result<Self, Error> {
        let directory = tempfile::Builder::new().prefix("rk-speed-").tempdir_in("/var/tmp")?;
        let served = Served::start(Cluster::builder().nodes(0)).await?;
        let kubeconfig = directory.path().join("kubeconfig");
        std::fs::write(&kubeconfig, served.kubeconfig().ok_or("the cluster does not listen")?)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--agent").arg(directory.path());
        let containerd = match on {
            On::Native => None,
            On::Containerd => {
                let lab = Lab::new().await;
                command.arg(lab.socket()).arg(lab.netns()).arg(lab.cgroup_root());
                Some(lab)
            }
        };
        // It ends with its standard input, however this process ends.
        let agent = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let agent_id = agent.id();
        let agent = std::sync::Mutex::new(Some(agent));
        let bench = Self { served, agent, agent_id, containerd, directory };
        let nodes: Api<Node> = Api::all(bench.served.client());
        let begin = Instant::now();
        while !nodes.get_opt(NODE).await?.is_some_and(|node| is_ready_node(&node)) {
            if begin.elapsed() > PATIENCE {
                return Err("the node does not get ready".into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(bench)
    }

    fn agent_id(&self) -> u32 {
        self.agent_id
    }

    /// Creates so many Pods at once, and waits until all of them are ready.
    async fn start_pods(&self, name: &str, count: usize) -> Result<Started, Error> {
        let pods: Api<Pod> = Api::default_namespaced(self.served.client());
        let now = pods.list(&ListParams::default()).await?;
        let version = now.metadata.resource_version.unwrap_or_default();
        let mut events = pods.watch(&WatchParams::default(), &version).await?.boxed();
        let mut created = HashMap::new();
        for number in 0..count {
            let pod = serde_json::from_value(json!({
                "metadata": {"name": format!("{name}-{number}")},
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "automountServiceAccountToken": false,
                    "containers": [{
                        "name": "c", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
                        "command": ["sleep", "1000000"],
                    }],
                },
            }))?;
            created.insert(format!("{name}-{number}"), Instant::now());
            pods.create(&PostParams::default(), &pod).await?;
        }
        let (mut running, mut ready) = (HashMap::new(), HashMap::new());
        let waiting = async {
            while ready.len() < count {
                let Some(event) = events.next().await else { return Err("the watch ended".into()) };
                let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event? else { continue };
                let name = pod.name_any();
                let Some(since) = created.get(&name) else { continue };
                let status = pod.status.unwrap_or_default();
                if status.phase.as_deref() == Some("Running") {
                    running.entry(name.clone()).or_insert_with(|| since.elapsed());
                }
                let conditions = status.conditions.unwrap_or_default();
                if conditions.iter().any(|it| it.type_ == "Ready" && it.status == "True") {
                    ready.entry(name).or_insert_with(|| since.elapsed());
                }
            }
            Ok::<_, Error>(())
        };
        tokio::time::timeout(PATIENCE, waiting).await.map_err(|_| "Pods do not start")??;
        Ok(Started {
            running: running.into_values().collect(),
            ready: ready.into_values().collect(),
        })
    }

    /// Takes everything down: the agent with its containers, containerd, the control plane.
    async fn stop(mut self) -> Result<(), Error> {
        let agent = self.agent.get_mut().map_err(|error| error.to_string())?.take();
        if let Some(mut agent) = agent {
            drop(agent.stdin.take());
            tokio::task::spawn_blocking(move || agent.wait()).await??;
        }
        if let Some(lab) = self.containerd.take() {
            lab.take_down().await?;
        }
        self.served.shutdown().await;
        self.directory.close()?;
        Ok(())
    }
}

fn is_ready_node(node: &Node) -> bool {
    let conditions = node.status.iter().filter_map(|status| status.conditions.as_ref());
    conditions.flatten().any(|it| it.type_ == "Ready" && it.status == "True")
}

/// The node's agent, until standard input ends: `--agent DIRECTORY [SOCKET NETNS CGROUP]`.
pub(crate) fn agent(arguments: &[String]) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return crate::fail(&format!("no threads for tokio: {error}")),
    };
    match runtime.block_on(run_agent(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => crate::fail(&error.to_string()),
    }
}

async fn run_agent(arguments: &[String]) -> Result<(), Error> {
    match arguments {
        [directory] => {
            let directory = PathBuf::from(directory);
            let root = directory.join("node");
            std::fs::create_dir_all(&root)?;
            let pods = Cidr::new(PODS.0.into(), PODS.1)?;
            let network =
                NodeNetwork::builder(&root, pods).node_address(ADDRESS.into()).build().await?;
            let result = native_agent(&directory, &root, &network).await;
            network.delete().await?;
            result
        }
        [directory, socket, netns, cgroup] => {
            let directory = PathBuf::from(directory);
            let runtime = CriRuntime::builder(format!("unix://{socket}"))
                .node_netns(netns)
                .cgroup_root(cgroup)
                .connect()
                .await?;
            serve(&directory, &directory.join("node"), Arc::new(runtime), &[ADDRESS.into()]).await
        }
        _ => Err("--agent DIRECTORY [SOCKET NETNS CGROUP]".into()),
    }
}

async fn native_agent(directory: &Path, root: &Path, network: &NodeNetwork) -> Result<(), Error> {
    let mut builder =
        NativeRuntime::builder(root.join("runtime"), network.plugin()).node_ips(network.node_ips());
    if let Some(netns) = network.netns() {
        builder = builder.node_netns(netns);
    }
    let runtime = builder.build().await?;
    let archive = directory.join("image.tar");
    build::busybox_image(IMAGE, Path::new("/bin/busybox"))?.write_archive(&archive)?;
    runtime.import(&archive, ImportOptions::default()).await?;
    let served = serve(directory, root, Arc::new(runtime.clone()), &network.node_ips()).await;
    runtime.teardown().await?;
    served
}

async fn serve(
    directory: &Path,
    root: &Path,
    runtime: Arc<dyn Runtime>,
    addresses: &[IpAddr],
) -> Result<(), Error> {
    let kubeconfig = Kubeconfig::read_from(directory.join("kubeconfig"))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let agent = Agent::builder(Client::try_from(config)?, runtime)
        .node_name(NODE)
        .node_ips(addresses.iter().copied())
        .pod_cidr(format!("{}/{}", PODS.0, PODS.1))
        .log_dir(root.join("pods"))
        .root_dir(root.join("agent"))
        .build()?;
    let token = CancellationToken::new();
    let running = tokio::spawn(agent.run(token.clone()));
    let mut nothing = Vec::new();
    tokio::io::stdin().read_to_end(&mut nothing).await?;
    token.cancel();
    running.await?;
    Ok(())
}
