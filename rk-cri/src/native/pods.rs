//! What the agent does for sandboxes and containers: the records, the shims' connections, and the
//! state in memory that answers lists.

use std::{
    collections::{BTreeMap, HashSet},
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
        self, CONTAINER, ContainerRecord, EXIT, Exit, Phase, SANDBOX, SOCKET, START, SandboxRecord,
        Start,
    },
    spec::{arguments, signal_number},
    wire::{AsyncChannel, Channel, Reply, Request},
    zygote,
};
use crate::{
    images::{ImageStore, StoredImage},
    runtime::{
        ContainerConfig, ContainerState, ContainerStatus, DnsConfig, RuntimeError, RuntimeEvent,
        SandboxConfig, SandboxStatus,
    },
};

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
    pub(super) images: ImageStore,
    hierarchies: Hierarchies,
    cgroup_root: PathBuf,
    program: PathBuf,
    pub(super) node_netns: Option<PathBuf>,
    node_ips: Vec<IpAddr>,
    zygote: Mutex<Option<Zygote>>,
    state: Mutex<State>,
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
        images: ImageStore,
        hierarchies: Hierarchies,
        cgroup_root: PathBuf,
        program: PathBuf,
        node_netns: Option<PathBuf>,
        node_ips: Vec<IpAddr>,
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
            zygote: Mutex::new(None),
            state: Mutex::new(State::default()),
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

    // === containers ===

    pub(super) async fn create_container(
        &self,
        sandbox_id: &str,
        config: ContainerConfig,
    ) -> Result<String, RuntimeError> {
        let sandbox = {
            let state = self.state.lock();
            let pod = state.pods.get(sandbox_id).ok_or_else(|| not_found("sandbox", sandbox_id))?;
            if !pod.alive || pod.record.phase != Phase::Ready {
                return Err(RuntimeError::State {
                    what: "sandbox",
                    id: sandbox_id.to_owned(),
                    state: "not ready".to_owned(),
                });
            }
            pod.record.config.clone()
        };
        let image =
            self.images.find(&config.image).ok_or_else(|| not_found("image", &config.image))?;
        check(&config, &image)?;
        let id = new_id().map_err(fail("cannot make an id"))?;
        let directory = self.container_dir(&id);
        let image_id = image.image.digests.first().cloned().unwrap_or(image.image.id);
        let record = ContainerRecord {
            id: id.clone(),
            sandbox_id: sandbox_id.to_owned(),
            created_at: clock::now(),
            image_id,
            image: image.config,
            layers: image.layers,
            layers_dir: self.images.layers_dir(),
            libcontainer_dir: self.root.join("libcontainer"),
            sandbox_dir: self.pod_dir(sandbox_id),
            hostname: sandbox.hostname.clone(),
            host_pid: sandbox.host_pid,
            share_pid: sandbox.share_process_namespace,
            log_path: log_path(&sandbox, &config),
            cgroup: self.container_cgroup(&sandbox, &id),
            config,
        };
        let make = || -> io::Result<()> {
            for part in ["upper", "work", "rootfs"] {
                fs::create_dir_all(directory.join(part))?;
            }
            // The root directory's own mode is the upper one's.
            if let Some(top) = record.layers.last() {
                let meta = fs::metadata(record.layers_dir.join(top))?;
                fs::set_permissions(directory.join("upper"), meta.permissions())?;
            }
            disk::write(&directory.join(CONTAINER), &record)
        };
        if let Err(error) = make() {
            let _ = fs::remove_dir_all(&directory);
            return Err(fail(format!("cannot make {}", directory.display()))(error));
        }
        let known = Known {
            record: Arc::new(record),
            start: None,
            exit: None,
            ended: watch::Sender::new(false),
        };
        self.state.lock().containers.insert(id.clone(), known);
        self.announce(sandbox_id, Some(&id));
        Ok(id)
    }

    fn record_of(&self, id: &str) -> Result<Arc<ContainerRecord>, RuntimeError> {
        let state = self.state.lock();
        let known = state.containers.get(id).ok_or_else(|| not_found("container", id))?;
        Ok(known.record.clone())
    }

    /// A connection to the shim of a container.
    pub(super) fn shim_of(&self, id: &str) -> Result<(AsyncChannel, PathBuf), RuntimeError> {
        let record = self.record_of(id)?;
        let directory = self.pod_dir(&record.sandbox_id);
        let channel = Channel::connect(&directory, SOCKET)
            .and_then(AsyncChannel::new)
            .map_err(fail("cannot reach the container's supervisor"))?;
        Ok((channel, directory))
    }

    async fn ask(
        &self,
        id: &str,
        request: &Request,
        limit: Duration,
    ) -> Result<Reply, RuntimeError> {
        let (channel, _) = self.shim_of(id)?;
        channel.send(request, &[]).await.map_err(fail("the container's supervisor died"))?;
        match timeout(limit, channel.receive::<Reply>()).await {
            Err(_) => Err(RuntimeError::Timeout(limit)),
            Ok(Ok(Some((reply, _)))) => Ok(reply),
            Ok(answer) => Err(died(answer)),
        }
    }

    pub(super) async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        let state = self.container_status(id)?.state;
        if state != ContainerState::Created {
            return Err(RuntimeError::State {
                what: "container",
                id: id.to_owned(),
                state: format!("{state:?}").to_lowercase(),
            });
        }
        let record = self.record_of(id)?;
        let directory = self.container_dir(id);
        let request = Request::Start { directory: directory.clone() };
        match self.ask(id, &request, START_TIMEOUT).await {
            Ok(Reply::Started { .. }) => {
                let start = disk::read::<Start>(&directory.join(START))
                    .map_err(fail("cannot read the container's start"))?;
                if let Some(known) = self.state.lock().containers.get_mut(id) {
                    known.start = start;
                }
                self.announce(&record.sandbox_id, Some(id));
                Ok(())
            }
            Ok(Reply::Failed { message }) => {
                if let Ok(Some(exit)) = disk::read::<Exit>(&directory.join(EXIT)) {
                    self.note_exit(id, exit);
                }
                Err(RuntimeError::Start(message))
            }
            Ok(other) => Err(unexpected(&other)),
            Err(RuntimeError::Timeout(limit)) => {
                let kill = Request::Kill { container: id.to_owned() };
                let _ = self.ask(id, &kill, SHIM_TIMEOUT).await;
                Err(RuntimeError::Timeout(limit))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a container runs, and what tells its end.
    fn running(&self, id: &str) -> Option<watch::Receiver<bool>> {
        let state = self.state.lock();
        let known = state.containers.get(id)?;
        (known.start.is_some() && known.exit.is_none()).then(|| known.ended.subscribe())
    }

    pub(super) async fn stop_container(
        &self,
        id: &str,
        grace: Duration,
    ) -> Result<(), RuntimeError> {
        let Some(mut ended) = self.running(id) else { return Ok(()) };
        let container = id.to_owned();
        if !grace.is_zero() {
            let record = self.record_of(id)?;
            let wanted = [&record.config.stop_signal, &record.image.stop_signal];
            let name = wanted.into_iter().find(|name| !name.is_empty());
            let signal = name.and_then(|name| signal_number(name)).unwrap_or(libc::SIGTERM);
            let request = Request::Signal { container: container.clone(), signal };
            self.ask(id, &request, SHIM_TIMEOUT).await?;
            if timeout(grace, ended.wait_for(|ended| *ended)).await.is_ok() {
                return Ok(());
            }
        }
        self.ask(id, &Request::Kill { container }, SHIM_TIMEOUT).await?;
        match timeout(KILL_TIMEOUT, ended.wait_for(|ended| *ended)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(RuntimeError::Timeout(KILL_TIMEOUT)),
        }
    }

    pub(super) async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        let Ok(record) = self.record_of(id) else { return Ok(()) };
        self.stop_container(id, Duration::ZERO).await?;
        record.cgroup.kill_all();
        record.cgroup.remove().map_err(fail("cannot remove the container's cgroup"))?;
        // Without its record, what is left is removed at the next start if this is interrupted.
        let directory = self.container_dir(id);
        let _ = fs::remove_file(directory.join(CONTAINER));
        remove_dir(directory).await?;
        self.state.lock().containers.remove(id);
        self.announce(&record.sandbox_id, None);
        Ok(())
    }

    pub(super) fn list_containers(&self) -> Vec<ContainerStatus> {
        let mut state = self.state.lock();
        state.containers.values_mut().map(|known| self.status(known)).collect()
    }

    pub(super) fn container_status(&self, id: &str) -> Result<ContainerStatus, RuntimeError> {
        let mut state = self.state.lock();
        let known = state.containers.get_mut(id).ok_or_else(|| not_found("container", id))?;
        Ok(self.status(known))
    }

    fn status(&self, known: &mut Known) -> ContainerStatus {
        // A start that was under way when the agent before this one died shows on the disk only.
        if known.start.is_none() && known.exit.is_none() {
            let path = self.container_dir(&known.record.id).join(START);
            known.start = disk::read(&path).ok().flatten();
        }
        let record = &known.record;
        let state = match (&known.start, &known.exit) {
            (_, Some(_)) => ContainerState::Exited,
            (Some(_), None) => ContainerState::Running,
            (None, None) => ContainerState::Created,
        };
        let exit = known.exit.as_ref();
        ContainerStatus {
            id: record.id.clone(),
            sandbox_id: record.sandbox_id.clone(),
            config: record.config.clone(),
            state,
            created_at: record.created_at,
            started_at: known.start.map(|start| start.at),
            finished_at: exit.map(|exit| exit.at),
            exit_code: exit.map(|exit| exit.code),
            reason: exit.map(|exit| exit.reason.clone()).unwrap_or_default(),
            message: exit.map(|exit| exit.message.clone()).unwrap_or_default(),
            image_id: record.image_id.clone(),
            log_path: record.log_path.clone(),
        }
    }

    /// The layers that containers use.
    pub(super) fn layers_in_use(&self) -> HashSet<String> {
        let state = self.state.lock();
        state.containers.values().flat_map(|known| known.record.layers.clone()).collect()
    }

    // === start and end of the runtime ===

    /// Finds what ran before, and removes what was left half-made.
    pub(super) async fn reconcile(self: &Arc<Self>) -> Result<(), RuntimeError> {
        for id in names_in(&self.root.join("pods"))? {
            let directory = self.pod_dir(&id);
            let record = disk::read::<SandboxRecord>(&directory.join(SANDBOX)).ok().flatten();
            match record {
                Some(record) if record.phase != Phase::Creating => {
                    let pod = Pod { record, alive: false };
                    self.state.lock().pods.insert(id, pod);
                }
                half_made => {
                    self.ask_to_end(&id).await?;
                    if let Some(record) = half_made.filter(|record| !record.config.host_network) {
                        let _ = self.cni.del(&self.attach_request(&record)).await;
                    }
                    remove_dir(directory).await?;
                }
            }
        }
        self.load_containers().await?;
        let pods: Vec<String> = self.state.lock().pods.keys().cloned().collect();
        for id in &pods {
            self.adopt(id).await;
        }
        self.images.collect(&self.layers_in_use()).map_err(image_error)?;
        let _ = self.cni.gc(&pods).await;
        Ok(())
    }

    async fn load_containers(&self) -> Result<(), RuntimeError> {
        for id in names_in(&self.root.join("containers"))? {
            let directory = self.container_dir(&id);
            let record = disk::read::<ContainerRecord>(&directory.join(CONTAINER)).ok().flatten();
            let record =
                record.filter(|record| self.state.lock().pods.contains_key(&record.sandbox_id));
            let Some(record) = record else {
                remove_dir(directory).await?;
                continue;
            };
            let known = Known {
                start: disk::read(&directory.join(START)).ok().flatten(),
                exit: disk::read(&directory.join(EXIT)).ok().flatten(),
                ended: watch::Sender::new(false),
                record: Arc::new(record),
            };
            known.ended.send_replace(known.exit.is_some());
            self.state.lock().containers.insert(id, known);
        }
        Ok(())
    }

    /// Connects to a shim that may still live.
    async fn adopt(self: &Arc<Self>, id: &str) {
        let connected = async {
            let channel = AsyncChannel::new(Channel::connect(&self.pod_dir(id), SOCKET)?)?;
            channel.send(&Request::Watch, &[]).await?;
            channel.receive::<Reply>().await?.ok_or(io::ErrorKind::ConnectionReset)?;
            Ok::<_, io::Error>(channel)
        };
        let Ok(Ok(channel)) = timeout(SHIM_TIMEOUT, connected).await else {
            return self.lost_shim(id);
        };
        {
            let mut state = self.state.lock();
            if let Some(pod) = state.pods.get_mut(id) {
                pod.alive = true;
            }
            // What ended between the reading of the records and the watch.
            for known in state.containers.values_mut() {
                if known.record.sandbox_id == id && known.exit.is_none() {
                    let path = self.container_dir(&known.record.id).join(EXIT);
                    known.exit = disk::read(&path).ok().flatten();
                    known.ended.send_replace(known.exit.is_some());
                }
            }
        }
        self.watch_pod(id, channel);
    }

    pub(super) async fn teardown(&self) -> Result<(), RuntimeError> {
        let pods: Vec<String> = self.state.lock().pods.keys().cloned().collect();
        let removed = futures::future::join_all(pods.iter().map(|id| self.remove_pod(id))).await;
        let _ = self.cni.gc(&[]).await;
        // Joins the zygote, so that its cgroup is empty.
        *self.zygote.lock() = None;
        removed.into_iter().collect::<Result<Vec<()>, _>>()?;
        let cgroup = self.hierarchies.at(&self.cgroup_root);
        cgroup.kill_all();
        cgroup.remove().map_err(fail("cannot remove the cgroups"))?;
        if let Some(parent) = self.cgroup_root.parent().filter(|path| !path.as_os_str().is_empty())
        {
            self.hierarchies.at(parent).remove_if_empty();
        }
        for directory in ["pods", "containers", "libcontainer"] {
            remove_dir(self.root.join(directory)).await?;
        }
        let _ = fs::remove_file(self.root.join("shim.log"));
        Ok(())
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

/// What can be told wrong before the start.
fn check(config: &ContainerConfig, image: &StoredImage) -> Result<(), RuntimeError> {
    arguments(config, &image.config).map_err(RuntimeError::Invalid)?;
    for mount in &config.mounts {
        if !mount.host_path.exists() {
            return Err(RuntimeError::Invalid(format!(
                "mount source {} does not exist",
                mount.host_path.display()
            )));
        }
        if mount.propagation.as_deref() == Some("Bidirectional") {
            return Err(RuntimeError::Unsupported(format!(
                "mount {}: Bidirectional propagation",
                mount.container_path.display()
            )));
        }
    }
    Ok(())
}

fn log_path(sandbox: &SandboxConfig, config: &ContainerConfig) -> PathBuf {
    match config.log_path.as_os_str().is_empty() {
        true => PathBuf::new(),
        false => sandbox.log_directory.join(&config.log_path),
    }
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

fn names_in(directory: &Path) -> Result<Vec<String>, RuntimeError> {
    let entries =
        fs::read_dir(directory).map_err(fail(format!("cannot read {}", directory.display())))?;
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

async fn remove_dir(path: PathBuf) -> Result<(), RuntimeError> {
    let what = format!("cannot remove {}", path.display());
    let removed = tokio::task::spawn_blocking(move || fs::remove_dir_all(path)).await;
    match removed.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fail(what)(error)),
        _ => Ok(()),
    }
}
