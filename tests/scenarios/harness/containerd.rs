//! The cluster whose node has its Pods run by a real containerd.

use std::{
    future::Future,
    net::{IpAddr, Ipv4Addr},
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread::JoinHandle,
};

use futures::FutureExt;
use rk::{Cluster, RuntimeNode, k8s_openapi::api::core::v1::Node, kube::Api};
use rustix::mount::{UnmountFlags, unmount};
use tokio::runtime::Handle;

use super::{Running, hub::Hub, lock, message, start};
use crate::{
    lab::{Lab, eventually},
    stand_ins,
};

/// The node's own address, in the namespace of its network.
const NODE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The gateway of its Pods, on the bridge that the network's plugin uses.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 12, 1);

/// What a node has before its first Pod. A Service's address is on no link: the default route makes
/// the kernel take it for reachable.
const NETWORK: &str = "ip link add cni0 type bridge && ip addr add 10.244.12.1/24 dev cni0 \
    && ip addr add 10.0.0.1/32 dev lo && ip link set cni0 up && ip route add default dev cni0 \
    && echo 1 > /proc/sys/net/ipv4/ip_forward";

/// A containerd of its own, and a cluster whose only node is on it.
pub(super) struct OnContainerd {
    running: Running,
    /// Ends containerd, and returns what would not go.
    end: Mutex<Option<(mpsc::Sender<()>, Keeper)>>,
}

/// The thread that containerd hangs on.
type Keeper = JoinHandle<Result<(), String>>;

impl OnContainerd {
    /// Starts containerd, and then the cluster, whose kubeconfig is written to `directory`.
    pub(super) fn start(handle: &Handle, directory: &Path) -> Result<Self, String> {
        let (up, started) = mpsc::channel();
        let (end, ends) = mpsc::channel();
        let (runtime, root) = (handle.clone(), directory.to_owned());
        // containerd ends with the thread that started it, and threads of tests come and go.
        let keeper = std::thread::spawn(move || {
            let lab = runtime.block_on(unless_it_panics(Lab::new()))?;
            let running = runtime.block_on(unless_it_panics(cluster(&lab, &root)));
            if up.send(running.and_then(|running| running)).is_ok() {
                // An error is the end, too: of those who would say so.
                let _ = ends.recv();
            }
            detach_volumes(lab.directory.path());
            runtime.block_on(lab.take_down())
        });
        match started.recv() {
            Ok(Ok(running)) => Ok(Self { running, end: Mutex::new(Some((end, keeper))) }),
            Ok(Err(reason)) => {
                drop(end);
                let _ = keeper.join();
                Err(reason)
            }
            // It ended before it said anything.
            Err(_) => match keeper.join() {
                Ok(Err(reason)) => Err(reason),
                _ => Err("containerd does not start".to_owned()),
            },
        }
    }

    pub(super) fn running(&self) -> &Running {
        &self.running
    }

    /// Ends the cluster, then containerd with all that it runs.
    pub(super) fn stop(&self, handle: &Handle) -> Result<(), String> {
        handle.block_on(self.running.cluster.shutdown());
        let Some((end, keeper)) = lock(&self.end).take() else { return Ok(()) };
        drop(end);
        keeper.join().unwrap_or_else(|panic| Err(message(&*panic)))
    }
}

async fn unless_it_panics<T>(work: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| message(&*panic))
}

async fn cluster(lab: &Lab, directory: &Path) -> Result<Running, String> {
    std::fs::create_dir_all(directory).map_err(|error| error.to_string())?;
    be_a_node(&lab.netns())?;
    let archive = directory.join("images.tar");
    let images = stand_ins::images(Path::new("/bin/busybox")).map_err(|error| error.to_string())?;
    rk::cri::images::build::write_archive(&archive, &images).map_err(|error| error.to_string())?;
    let hub = Hub::open(&archive).map_err(|error| error.to_string())?;
    let names = hub.names();
    lab.load(&archive, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let url = hub.serve(lab.netns()).await.map_err(|error| error.to_string())?;
    mirror(&lab.directory.path().join("certs.d"), &url).map_err(|error| error.to_string())?;

    let running = start(Cluster::builder().nodes(0), directory.join("kubeconfig")).await?;
    let root = lab.directory.path().join("agent");
    let node = RuntimeNode::new("server3", Arc::new(lab.runtime().clone()), root)
        .addresses([NODE, GATEWAY].map(IpAddr::V4))
        .network(lab.netns());
    running.cluster.run_node(node).map_err(|error| error.to_string())?;
    let nodes: Api<Node> = Api::all(running.cluster.client());
    eventually(|| async {
        let node = nodes.get_opt("server3").await.ok().flatten()?;
        let conditions = node.status?.conditions?;
        conditions.iter().any(|it| it.type_ == "Ready" && it.status == "True").then_some(())
    })
    .await;
    Ok(running)
}

fn be_a_node(netns: &Path) -> Result<(), String> {
    let output = Command::new("nsenter")
        .arg(format!("--net={}", netns.display()))
        .args(["--", "sh", "-c", NETWORK])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Has containerd ask `url` for all images without a host, and nobody else.
fn mirror(certificates: &Path, url: &str) -> std::io::Result<()> {
    let directory = certificates.join("docker.io");
    std::fs::create_dir_all(&directory)?;
    let hosts =
        format!("server = \"{url}\"\n[host.\"{url}\"]\ncapabilities = [\"pull\", \"resolve\"]\n");
    std::fs::write(directory.join("hosts.toml"), hosts)
}

/// Unmounts what the agent mounted for Pods that were there to the end.
fn detach_volumes(directory: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let volumes = points.filter(|point| point.starts_with(directory.join("agent")));
    for volume in volumes.collect::<Vec<_>>().into_iter().rev() {
        // What stays is found when the directory is looked at afterwards.
        let _ = unmount(&volume, UnmountFlags::DETACH);
    }
}
