//! What the agent does for sandboxes and containers: the records, the shims' connections, and the
//! state in memory that answers lists.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    net::IpAddr,
    path::{Component, Path, PathBuf},
    process::Child,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rk_api::clock;
use rk_net::{AttachRequest, CniPlugin, netlink::Netlink};
use tokio::{
    sync::{broadcast, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    cgroup::{Cgroup, Hierarchies},
    disk::{
        self, ContainerRecord, EXIT, Exit, Phase, SANDBOX, SOCKET, START, SandboxRecord, Start,
    },
    wire::{AsyncChannel, Channel, Reply, Request},
    zygote,
};
use crate::{
    images::{ImageStore, registry::Registries},
    runtime::{DnsConfig, RuntimeError, RuntimeEvent, SandboxConfig, SandboxStatus},
};

mod containers;
mod image_mounts;
mod restore;
mod stats;

/// How long a shim may take to come up.
const SHIM_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a container may take to start: its mounts may be slow.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a killed container may take to be gone: the kernel may be waiting for a device.
const KILL_TIMEOUT: Duration = Duration::from_secs(30);
/// Events kept for a slow reader, who then looks at everything anyway.
const EVENTS_MAX: usize = 1024;

/// A [`RuntimeError::Io`] about `what`.
pub(super) fn fail(what: impl Into<String>) -> impl FnOnce(io::Error) -> RuntimeError {
    let what = what.into();
    move |source| RuntimeError::Io { what, source }
}

/// The zygote, which ends with this value.
#[derive(Debug)]
struct Zygote {
    child: Child,
    channel: Option<Channel>,
}

impl Drop for Zygote {
    fn drop(&mut self) {
        // Its end of the connection closes, and it ends.
        self.channel = None;
        let _ = self.child.wait();
    }
}

#[derive(Debug)]
struct Pod {
    record: SandboxRecord,
    /// Its shim lives.
    alive: bool,
}

#[derive(Debug)]
struct Known {
    record: Arc<ContainerRecord>,
    start: Option<Start>,
    exit: Option<Exit>,
    /// Becomes true when it has ended.
    ended: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    pods: BTreeMap<String, Pod>,
    containers: BTreeMap<String, Known>,
}

/// What all clones of a runtime share.
#[derive(Debug)]
pub(super) struct Inner {
    root: PathBuf,
    cni: Arc<dyn CniPlugin>,
    pub(super) images: Arc<ImageStore>,
    pub(super) registries: Option<Registries>,
    hierarchies: Hierarchies,
    cgroup_root: PathBuf,
    program: PathBuf,
    pub(super) node_netns: Option<PathBuf>,
    node_ips: Vec<IpAddr>,
    zygote: Mutex<Option<Zygote>>,
    state: Mutex<State>,
    /// Held while images are mounted as volumes, or their records are read.
    image_mounts: Mutex<()>,
    pub(super) events: broadcast::Sender<RuntimeEvent>,
    /// Ends what runs in the background.
    dropped: CancellationToken,
    /// Held while this process uses the directory.
    _lock: File,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.dropped.cancel();
    }
}

impl Inner {
    #[expect(clippy::too_many_arguments, reason = "called once, by the builder that names them")]
    pub(super) fn new(
        root: PathBuf,
        cni: Arc<dyn CniPlugin>,
        images: Arc<ImageStore>,
        hierarchies: Hierarchies,
        cgroup_root: PathBuf,
        program: PathBuf,
        node_netns: Option<PathBuf>,
        node_ips: Vec<IpAddr>,
        registries: Option<Registries>,
        lock: File,
    ) -> Result<Self, RuntimeError> {
        let inner = Self {
            root,
            cni,
            images,
            hierarchies,
            cgroup_root,
            program,
            node_netns,
            node_ips,
            registries,
            zygote: Mutex::new(None),
            state: Mutex::new(State::default()),
            image_mounts: Mutex::default(),
            events: broadcast::channel(EVENTS_MAX).0,
            dropped: CancellationToken::new(),
            _lock: lock,
        };
        // Started now, so that it is up when the first pod comes.
        *inner.zygote.lock() = Some(inner.start_zygote()?);
        Ok(inner)
    }

    fn start_zygote(&self) -> Result<Zygote, RuntimeError> {
        let cgroup = self.hierarchies.at(&self.cgroup_root.join("shims"));
        let (child, channel) = zygote::spawn(&self.program, &cgroup, &self.root.join("shim.log"))
            .map_err(fail(format!("cannot run {}", self.program.display())))?;
        Ok(Zygote { child, channel: Some(channel) })
    }

    /// Asks for a shim, of a new zygote if the old one died.
    fn fork_shim(&self, directory: &Path) -> Result<Channel, RuntimeError> {
        let mut zygote = self.zygote.lock();
        let mut tries = 0;
        loop {
            let (mine, theirs) = Channel::pair().map_err(fail("cannot make a socket"))?;
            let asked = match zygote.as_ref().and_then(|zygote| zygote.channel.as_ref()) {
                Some(channel) => zygote::ask(channel, directory, theirs),
                None => Err(io::Error::from(io::ErrorKind::NotConnected)),
            };
            match asked {
                Ok(()) => return Ok(mine),
                Err(error) if tries > 0 => return Err(fail("cannot fork a shim")(error)),
                Err(_) => *zygote = Some(self.start_zygote()?),
            }
            tries += 1;
        }
    }

    fn pod_dir(&self, id: &str) -> PathBuf {
        self.root.join("pods").join(id)
    }

    /// The directory of what a container has written above its image.
    pub(super) fn writable_layer(&self, id: &str) -> Result<PathBuf, RuntimeError> {
        match self.state.lock().containers.contains_key(id) {
            true => Ok(self.container_dir(id).join("upper")),
            false => Err(RuntimeError::NotFound { what: "container", id: id.to_owned() }),
        }
    }

    fn container_dir(&self, id: &str) -> PathBuf {
        self.root.join("containers").join(id)
    }

    fn pod_cgroup(&self, config: &SandboxConfig) -> Cgroup {
        let parent: PathBuf = Path::new(&config.cgroup_parent)
            .components()
            .filter(|part| matches!(part, Component::Normal(_)))
            .collect();
        self.hierarchies.at(&self.cgroup_root.join(parent))
    }

    fn container_cgroup(&self, config: &SandboxConfig, id: &str) -> Cgroup {
        self.hierarchies.at(&self.pod_cgroup(config).path().join(id))
    }

    fn attach_request(&self, record: &SandboxRecord) -> AttachRequest {
        let pid = record.pid.unwrap_or(0);
        AttachRequest {
            container_id: record.id.clone(),
            netns: format!("/proc/{pid}/ns/net").into(),
            interface: "eth0".to_owned(),
            pod_namespace: record.config.pod.namespace.clone(),
            pod_name: record.config.pod.name.clone(),
            pod_uid: record.config.pod.uid.clone(),
            port_mappings: record.config.port_mappings.clone(),
        }
    }

    fn announce(&self, sandbox_id: &str, container_id: Option<&str>) {
        let pod = match self.state.lock().pods.get(sandbox_id) {
            Some(pod) => pod.record.config.pod.clone(),
            None => return,
        };
        let container_id = container_id.map(str::to_owned);
        // Without readers there is nobody to tell.
        let _ = self.events.send(RuntimeEvent { pod, container_id });
    }

    // === sandboxes ===

    pub(super) async fn run_pod(
        self: &Arc<Self>,
        config: SandboxConfig,
    ) -> Result<String, RuntimeError> {
        if !config.runtime_handler.is_empty() {
            let why = format!("no runtime for {:?} is configured", config.runtime_handler);
            return Err(RuntimeError::Invalid(why));
        }
        let id = new_id().map_err(fail("cannot make an id"))?;
        let mut record = SandboxRecord {
            id: id.clone(),
            phase: Phase::Creating,
            created_at: clock::now(),
            ips: Vec::new(),
            netns: self.node_netns.clone().filter(|_| config.host_network),
            pid: None,
            config,
        };
        match self.make_pod(&mut record).await {
            Ok(first) => {
                let pod = Pod { record, alive: true };
                self.state.lock().pods.insert(id.clone(), pod);
                self.watch_pod(&id, first);
                self.announce(&id, None);
                Ok(id)
            }
            Err(error) => {
                // The shim ended when its connection was dropped; the kernel took the rest.
                if !record.config.host_network {
                    let _ = self.cni.del(&self.attach_request(&record)).await;
                }
                let _ = fs::remove_dir_all(self.pod_dir(&id));
                Err(error)
            }
        }
    }

    async fn make_pod(&self, record: &mut SandboxRecord) -> Result<AsyncChannel, RuntimeError> {
        let directory = self.pod_dir(&record.id);
        let prepare = || -> io::Result<()> {
            fs::create_dir_all(&directory)?;
            disk::write(&directory.join(SANDBOX), record)?;
            if let Some(text) = resolv_conf(&record.config.dns) {
                fs::write(directory.join("resolv.conf"), text)?;
            }
            if !record.config.hostname.is_empty() {
                fs::write(directory.join("hostname"), format!("{}\n", record.config.hostname))?;
            }
            Ok(())
        };
        prepare().map_err(fail(format!("cannot make {}", directory.display())))?;
        let channel = self.fork_shim(&directory)?;
        let first = AsyncChannel::new(channel).map_err(fail("cannot use a socket"))?;
        let pid = match timeout(SHIM_TIMEOUT, first.receive::<Reply>()).await {
            Err(_) => return Err(RuntimeError::Timeout(SHIM_TIMEOUT)),
            Ok(Ok(Some((Reply::Ready { pid }, _)))) => pid,
            Ok(Ok(Some((Reply::Failed { message }, _)))) => {
                return Err(fail("cannot make the sandbox")(io::Error::other(message)));
            }
            Ok(answer) => return Err(died(answer)),
        };
        record.pid = Some(pid);
        record.ips = match record.config.host_network {
            true => self.node_ips.clone(),
            false => self.attach_network(record).await?,
        };
        record.phase = Phase::Ready;
        disk::write(&directory.join(SANDBOX), record).map_err(fail("cannot record the sandbox"))?;
        first.send(&Request::Commit, &[]).await.map_err(fail("the shim died"))?;
        Ok(first)
    }

    async fn attach_network(&self, record: &SandboxRecord) -> Result<Vec<IpAddr>, RuntimeError> {
        let request = self.attach_request(record);
        let loopback = async {
            let netlink = Netlink::open(Some(&request.netns)).await?;
            match netlink.link("lo").await? {
                Some(lo) => netlink.set_up(lo.index).await,
                None => Ok(()),
            }
        };
        let (loopback, attached) = tokio::join!(loopback, self.cni.add(&request));
        loopback.map_err(fail("cannot bring the loopback interface up"))?;
        let attached = attached.map_err(network_error)?;
        Ok(attached.ips.into_iter().map(|(ip, _)| ip).collect())
    }

    /// Follows a shim until it ends, or the runtime is dropped.
    fn watch_pod(self: &Arc<Self>, id: &str, channel: AsyncChannel) {
        // Not by a reference that counts: the directory's lock goes with the last one.
        let (inner, id, dropped) = (Arc::downgrade(self), id.to_owned(), self.dropped.clone());
        let follow = async move {
            while let Ok(Some((reply, _))) = channel.receive::<Reply>().await {
                let Some(inner) = inner.upgrade() else { return };
                if let Reply::Exited { container, exit } = reply {
                    inner.note_exit(&container, exit);
                }
            }
            if let Some(inner) = inner.upgrade() {
                inner.lost_shim(&id);
            }
        };
        tokio::spawn(async move { dropped.run_until_cancelled_owned(follow).await });
    }

    fn note_exit(&self, container: &str, exit: Exit) {
        let sandbox_id = {
            let mut state = self.state.lock();
            let Some(known) = state.containers.get_mut(container) else { return };
            // A start and an end may come together.
            if known.start.is_none() {
                let path = self.container_dir(container).join(START);
                known.start = disk::read(&path).ok().flatten();
            }
            known.exit = Some(exit);
            known.ended.send_replace(true);
            known.record.sandbox_id.clone()
        };
        self.announce(&sandbox_id, Some(container));
    }

    /// A shim ended: so have its containers, or they end now.
    fn lost_shim(&self, id: &str) {
        let orphans: Vec<Arc<ContainerRecord>> = {
            let mut state = self.state.lock();
            let Some(pod) = state.pods.get_mut(id) else { return };
            pod.alive = false;
            state
                .containers
                .values()
                .filter(|known| known.record.sandbox_id == id && known.exit.is_none())
                .map(|known| known.record.clone())
                .collect()
        };
        for record in orphans {
            self.bury(&record);
        }
        self.announce(id, None);
    }

    /// Ends what is left of a container without a shim, and records its end if it was started.
    fn bury(&self, record: &ContainerRecord) {
        record.cgroup.kill_all();
        let _ = record.cgroup.remove();
        let _ = fs::remove_dir_all(record.libcontainer_dir.join(&record.id));
        let directory = self.container_dir(&record.id);
        let started = disk::read::<Start>(&directory.join(START)).ok().flatten().is_some();
        let exit = disk::read::<Exit>(&directory.join(EXIT)).ok().flatten();
        let exit = exit.or_else(|| {
            let exit = Exit {
                code: 255,
                at: clock::now(),
                reason: "Unknown".to_owned(),
                message: "the container's supervisor ended before it".to_owned(),
            };
            started.then_some(exit)
        });
        if let Some(exit) = exit {
            let _ = disk::write(&directory.join(EXIT), &exit);
            self.note_exit(&record.id, exit);
        }
    }

    pub(super) async fn stop_pod(&self, id: &str) -> Result<(), RuntimeError> {
        let Some((mut record, alive)) =
            self.state.lock().pods.get(id).map(|pod| (pod.record.clone(), pod.alive))
        else {
            return Ok(());
        };
        if record.phase == Phase::Stopped && !alive {
            return Ok(());
        }
        // The network goes while the namespace is still there, as plugins expect. If it will not
        // go, the processes do all the same, and the caller tries again.
        let detached = match record.config.host_network {
            true => Ok(()),
            false => self.cni.del(&self.attach_request(&record)).await.map_err(network_error),
        };
        if alive {
            self.ask_to_end(id).await?;
        }
        detached?;
        self.lost_shim(id);
        record.phase = Phase::Stopped;
        disk::write(&self.pod_dir(id).join(SANDBOX), &record)
            .map_err(fail("cannot record the sandbox"))?;
        if let Some(pod) = self.state.lock().pods.get_mut(id) {
            pod.record.phase = Phase::Stopped;
            pod.alive = false;
        }
        self.announce(id, None);
        Ok(())
    }

    /// Tells a shim to kill everything and end. None there is no error.
    async fn ask_to_end(&self, id: &str) -> Result<(), RuntimeError> {
        let Ok(channel) = Channel::connect(&self.pod_dir(id), SOCKET) else { return Ok(()) };
        let channel = AsyncChannel::new(channel).map_err(fail("cannot use a socket"))?;
        if channel.send(&Request::Shutdown, &[]).await.is_err() {
            return Ok(());
        }
        // It answers when its containers are gone, and hangs up when it is.
        let ended = async { while let Ok(Some(_)) = channel.receive::<Reply>().await {} };
        timeout(KILL_TIMEOUT, ended).await.map_err(|_| RuntimeError::Timeout(KILL_TIMEOUT))
    }

    pub(super) async fn remove_pod(&self, id: &str) -> Result<(), RuntimeError> {
        self.stop_pod(id).await?;
        let containers: Vec<String> = {
            let state = self.state.lock();
            let of_pod = state.containers.values().filter(|known| known.record.sandbox_id == id);
            of_pod.map(|known| known.record.id.clone()).collect()
        };
        for container in containers {
            self.remove_container(&container).await?;
        }
        let Some(pod) = self.state.lock().pods.remove(id) else { return Ok(()) };
        if !pod.record.config.cgroup_parent.is_empty() {
            let cgroup = self.pod_cgroup(&pod.record.config);
            let sharing =
                self.state.lock().pods.values().any(|other| {
                    other.record.config.cgroup_parent == pod.record.config.cgroup_parent
                });
            if !sharing {
                let _ = cgroup.remove();
            }
        }
        remove_dir(self.pod_dir(id)).await
    }

    pub(super) fn list_pods(&self) -> Vec<SandboxStatus> {
        let state = self.state.lock();
        state
            .pods
            .values()
            .map(|pod| SandboxStatus {
                id: pod.record.id.clone(),
                config: pod.record.config.clone(),
                ready: pod.alive && pod.record.phase == Phase::Ready,
                created_at: pod.record.created_at,
                ips: pod.record.ips.clone(),
            })
            .collect()
    }

    /// Where a sandbox's network is.
    pub(super) fn pod_netns(&self, id: &str) -> Result<PathBuf, RuntimeError> {
        let state = self.state.lock();
        let pod = state.pods.get(id).ok_or_else(|| not_found("sandbox", id))?;
        match pod.record.pid {
            Some(pid) if pod.alive => Ok(format!("/proc/{pid}/ns/net").into()),
            _ => Err(RuntimeError::State {
                what: "sandbox",
                id: id.to_owned(),
                state: "not ready".to_owned(),
            }),
        }
    }
}

pub(super) fn not_found(what: &'static str, id: &str) -> RuntimeError {
    RuntimeError::NotFound { what, id: id.to_owned() }
}

pub(super) fn image_error(error: crate::images::ImageError) -> RuntimeError {
    match error {
        crate::images::ImageError::Io { what, source } => RuntimeError::Io { what, source },
        other => RuntimeError::Invalid(other.to_string()),
    }
}

fn network_error(error: rk_net::CniError) -> RuntimeError {
    fail("cannot set up the pod's network")(io::Error::other(error))
}

/// A shim's connection ended or failed.
fn died<T>(answer: io::Result<Option<T>>) -> RuntimeError {
    let error = answer.err().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
    fail("the container's supervisor died")(error)
}

pub(super) fn unexpected(reply: &Reply) -> RuntimeError {
    fail("the container's supervisor is confused")(io::Error::other(format!("{reply:?}")))
}

/// The contents of `/etc/resolv.conf`; none leaves the image's own.
fn resolv_conf(dns: &DnsConfig) -> Option<String> {
    if *dns == DnsConfig::default() {
        return None;
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    Some(text)
}

/// 64 random hexadecimal digits, as other runtimes have them.
fn new_id() -> io::Result<String> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

async fn remove_dir(path: PathBuf) -> Result<(), RuntimeError> {
    let what = format!("cannot remove {}", path.display());
    let removed = tokio::task::spawn_blocking(move || fs::remove_dir_all(path)).await;
    match removed.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fail(what)(error)),
        _ => Ok(()),
    }
}
