//! [`CriRuntime`]: the [`Runtime`] trait over a CRI socket.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use rk_net::netns;
use tokio::{
    sync::broadcast::{self, error::RecvError},
    task::AbortHandle,
};

use super::{
    cgroup, changes,
    client::{Client, Failure, socket_path},
    convert::{self, CgroupDriver, CgroupNames, container, sandbox},
    memory, streams, v1,
};
use crate::runtime::{
    ContainerConfig, ContainerStats, ContainerStatus, ExecOutput, ExecRequest, Image,
    ImageFilesystem, Io, NodeStats, PodRuntimeStatus, PullImage, Resources, Runtime, RuntimeError,
    RuntimeEvent, SandboxConfig, SandboxStatus, Session,
};

/// How long a call may take, as the kubelet has it (`runtimeRequestTimeout`).
const CALL_WITHIN: Duration = Duration::from_secs(120);
/// How long making a sandbox or a container may take; the kubelet gives them twice the time.
const MAKE_WITHIN: Duration = Duration::from_secs(240);
/// How long a connection into a pod or to the node may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);
/// How many statuses are asked for at a time.
const STATUSES_AT_A_TIME: usize = 16;
/// How many events wait for a reader that falls behind.
const EVENTS_MAX: usize = 1024;
/// Seconds that CRI counts in 64 bits: nobody waits for longer than a year.
const SECONDS_MAX: u64 = 365 * 24 * 3600;

/// containerd, CRI-O or another container runtime, by its CRI v1 socket.
///
/// # What it does with the socket
/// It is connected when there is something to call, and connected again after the runtime was
/// killed and came back. Until then calls fail with [`RuntimeError::Io`] of the kind
/// [`NotConnected`](std::io::ErrorKind::NotConnected), and are to be tried again. Every call has a
/// deadline.
///
/// # What statuses tell
/// CRI's statuses hold less than [`SandboxConfig`] and [`ContainerConfig`]. The rest is kept in an
/// annotation of the sandbox and of the container, so that it outlives the process, except for the
/// environment. Of what others made through the same socket only CRI's part is known.
///
/// # What CRI has no word for
/// A limit on processes ([`Resources::pids_limit`](crate::runtime::Resources::pids_limit)) is left
/// to the runtime's own configuration.
#[derive(Clone, Debug)]
pub struct CriRuntime {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) client: Client,
    version: String,
    handler: String,
    cgroups: CgroupNames,
    pub(super) told: Told,
    node_netns: Option<PathBuf>,
    pub(super) events: broadcast::Sender<RuntimeEvent>,
    /// The task that follows the runtime, once somebody asked for events.
    follower: OnceLock<AbortHandle>,
    /// What the sandboxes in use were made from.
    sandboxes: Mutex<HashMap<String, Arc<SandboxConfig>>>,
    /// When the running containers started, which never changes.
    started: Mutex<HashMap<String, Timestamp>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CriRuntime").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(follower) = self.follower.get() {
            follower.abort();
        }
    }
}

/// How to connect to a runtime: see [`CriRuntime::builder`].
#[derive(Clone, Debug)]
pub struct CriRuntimeBuilder {
    endpoint: String,
    handler: String,
    cgroups: Option<CgroupDriver>,
    cgroup_root: String,
    node_netns: Option<PathBuf>,
}

impl CriRuntimeBuilder {
    /// Which of the runtime's handlers runs the pods, for example `kata`. By default its default.
    #[must_use]
    pub fn runtime_handler(mut self, name: impl Into<String>) -> Self {
        self.handler = name.into();
        self
    }

    /// How cgroups are named. By default as the runtime says, and if it does not (before
    /// containerd 2.0 and CRI-O 1.28), [`CgroupDriver::Cgroupfs`].
    #[must_use]
    pub fn cgroup_driver(mut self, driver: CgroupDriver) -> Self {
        self.cgroups = Some(driver);
        self
    }

    /// The cgroup that holds those of all pods; `kubepods` by default, as the kubelet has it.
    #[must_use]
    pub fn cgroup_root(mut self, name: impl Into<String>) -> Self {
        self.cgroup_root = name.into();
        self
    }

    /// The network namespace in which the runtime runs, if it is not this process's own: there its
    /// streaming server and the pods' addresses are reached.
    #[must_use]
    pub fn node_netns(mut self, path: impl Into<PathBuf>) -> Self {
        self.node_netns = Some(path.into());
        self
    }

    /// Asks the runtime which version it speaks, and is ready for use.
    ///
    /// # Errors
    /// [`RuntimeError::Invalid`] for an endpoint that is none, [`RuntimeError::Io`] when nothing
    /// answers there yet, [`RuntimeError::Unsupported`] when it does not speak CRI v1.
    pub async fn connect(self) -> Result<CriRuntime, RuntimeError> {
        let client = Client::new(socket_path(&self.endpoint)?);
        let version = version(&client).await?;
        let driver = match self.cgroups {
            Some(driver) => driver,
            None => cgroup_driver(&client).await?,
        };
        let told = Told::by(&client, &self.handler).await;
        let cgroups = CgroupNames { root: self.cgroup_root, driver };
        let (events, _) = broadcast::channel(EVENTS_MAX);
        Ok(CriRuntime {
            inner: Arc::new(Inner {
                client,
                version,
                handler: self.handler,
                cgroups,
                told,
                node_netns: self.node_netns,
                events,
                follower: OnceLock::new(),
                sandboxes: Mutex::default(),
                started: Mutex::default(),
            }),
        })
    }
}

/// What a runtime tells of itself.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Its handler can make mounts read-only all the way down.
    recursive_read_only: bool,
    /// The image that its sandboxes are made from, which no container uses. Newer runtimes say of the
    /// image that it is pinned, containerd 1.6 only names it in its configuration.
    pub(super) sandbox_image: Option<String>,
}

impl Told {
    async fn by(client: &Client, handler: &str) -> Self {
        let asked = client.call(v1::StatusRequest { verbose: true }, CALL_WITHIN).await;
        let Ok(mut told) = asked else { return Self::default() };
        let found = told.runtime_handlers.into_iter().find(|known| known.name == handler);
        Self {
            recursive_read_only: found
                .and_then(|found| found.features)
                .is_some_and(|can| can.recursive_read_only_mounts),
            sandbox_image: told.info.remove("config").and_then(|config| sandbox_image(&config)),
        }
    }
}

fn sandbox_image(config: &str) -> Option<String> {
    let config: serde_json::Value = serde_json::from_str(config).ok()?;
    let name = config.get("sandboxImage")?.as_str()?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// The runtime's name and version, if it speaks CRI v1.
async fn version(client: &Client) -> Result<String, RuntimeError> {
    // What the kubelet sends; no runtime looks at it.
    let request = v1::VersionRequest { version: "0.1.0".to_owned() };
    let told = client.call(request, CALL_WITHIN).await.map_err(|failure| {
        match failure.is_unimplemented() {
            true => RuntimeError::Unsupported("the runtime does not speak CRI v1".to_owned()),
            false => failure.into_error("ask the runtime for its version"),
        }
    })?;
    let api = told.runtime_api_version;
    // containerd says v1, CRI-O too; others have said 1.0.0 and 0.1.0 in answers of v1's service.
    if api.starts_with("v1alpha") {
        return Err(RuntimeError::Unsupported(format!("the runtime speaks CRI {api}, not v1")));
    }
    Ok(format!("{}://{}", told.runtime_name, told.runtime_version))
}

async fn cgroup_driver(client: &Client) -> Result<CgroupDriver, RuntimeError> {
    match client.call(v1::RuntimeConfigRequest {}, CALL_WITHIN).await {
        Ok(config) => Ok(match config.linux.map(|linux| linux.cgroup_driver()) {
            Some(v1::CgroupDriver::Systemd) => CgroupDriver::Systemd,
            _ => CgroupDriver::Cgroupfs,
        }),
        Err(failure) if failure.is_unimplemented() => Ok(CgroupDriver::default()),
        Err(failure) => Err(failure.into_error("ask the runtime for its configuration")),
    }
}

/// Whole seconds, as CRI counts them; a part of one counts as one.
fn seconds(duration: Duration) -> i64 {
    let whole = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    whole.min(SECONDS_MAX) as i64
}

/// Makes a directory with those above it, off this thread.
async fn make_directory(path: &Path) -> Result<(), RuntimeError> {
    tokio::fs::create_dir_all(path).await.map_err(|source| RuntimeError::Io {
        what: format!("cannot make the directory {}", path.display()),
        source,
    })
}

impl CriRuntime {
    /// Connects to the runtime at `endpoint`: `unix:///run/containerd/containerd.sock`,
    /// `unix:///run/crio/crio.sock`, or a path.
    ///
    /// # Errors
    /// As [`CriRuntimeBuilder::connect`].
    pub async fn connect(endpoint: impl Into<String>) -> Result<Self, RuntimeError> {
        Self::builder(endpoint).connect().await
    }

    /// Begins with the defaults.
    pub fn builder(endpoint: impl Into<String>) -> CriRuntimeBuilder {
        CriRuntimeBuilder {
            endpoint: endpoint.into(),
            handler: String::new(),
            cgroups: None,
            cgroup_root: "kubepods".to_owned(),
            node_netns: None,
        }
    }

    pub(super) async fn call<Q: v1::Call>(&self, request: Q) -> Result<Q::Answer, Failure> {
        self.inner.client.call(request, CALL_WITHIN).await
    }

    pub(super) fn client(&self) -> &Client {
        &self.inner.client
    }

    async fn sandbox_status(&self, id: &str) -> Result<SandboxStatus, Failure> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let status = self.call(request).await?.status.unwrap_or_default();
        Ok(sandbox::status_from_v1(status))
    }

    /// What a sandbox was made from.
    async fn sandbox_config(&self, id: &str) -> Result<Arc<SandboxConfig>, RuntimeError> {
        if let Some(config) = self.inner.sandboxes.lock().get(id) {
            return Ok(config.clone());
        }
        let status = self.sandbox_status(id).await;
        let config =
            Arc::new(status.map_err(|failure| failure.of("sandbox", id, "look at"))?.config);
        self.inner.sandboxes.lock().insert(id.to_owned(), config.clone());
        Ok(config)
    }

    async fn status_in(&self, id: &str, sandbox: String) -> Result<ContainerStatus, Failure> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let status = self.call(request).await?.status.unwrap_or_default();
        Ok(container::status_from_v1(status, sandbox))
    }

    async fn sandboxes(
        &self,
        filter: Option<v1::PodSandboxFilter>,
    ) -> Result<Vec<SandboxStatus>, RuntimeError> {
        let fail = |failure: Failure| failure.into_error("list the sandboxes");
        let listed = self.call(v1::ListPodSandboxRequest { filter }).await.map_err(fail)?;
        let ids = listed.items.into_iter().map(|sandbox| sandbox.id);
        let statuses = stream::iter(ids).map(|id| async move { self.sandbox_status(&id).await });
        present(statuses.buffered(STATUSES_AT_A_TIME)).await.map_err(fail)
    }

    async fn containers(
        &self,
        filter: Option<v1::ContainerFilter>,
    ) -> Result<Vec<ContainerStatus>, RuntimeError> {
        let fail = |failure: Failure| failure.into_error("list the containers");
        let listed = self.call(v1::ListContainersRequest { filter }).await.map_err(fail)?;
        let statuses = stream::iter(listed.containers)
            .map(|item| async move { self.status_in(&item.id, item.pod_sandbox_id).await });
        present(statuses.buffered(STATUSES_AT_A_TIME)).await.map_err(fail)
    }

    /// When containers started, by their ids.
    async fn start_times(&self, ids: &[String]) -> HashMap<String, Timestamp> {
        self.inner.started.lock().retain(|id, _| ids.contains(id));
        let known = self.inner.started.lock().clone();
        let new: Vec<String> =
            ids.iter().filter(|id| !known.contains_key(id.as_str())).cloned().collect();
        let found: Vec<_> = stream::iter(new)
            .map(|id| async move {
                let status = self.status_in(&id, String::new()).await.ok()?;
                Some((id, status.started_at?))
            })
            .buffered(STATUSES_AT_A_TIME)
            .filter_map(std::future::ready)
            .collect()
            .await;
        let mut started = self.inner.started.lock();
        started.extend(found);
        started.clone()
    }

    /// Why a container did not start.
    async fn start_failure(&self, id: &str, failure: Failure) -> RuntimeError {
        let Failure::Refused(status) = &failure else {
            return failure.of("container", id, "start");
        };
        if failure.is_not_found() {
            return failure.of("container", id, "start");
        }
        let why = status.message().to_owned();
        // Runtimes have no code of their own for a container that was started before: its state
        // tells. One that could not be started has ended, with the reason StartError.
        match self.status_in(id, String::new()).await {
            Ok(now) if was_started(&now) => RuntimeError::State {
                what: "container",
                id: id.to_owned(),
                state: format!("{:?}", now.state).to_lowercase(),
            },
            _ => RuntimeError::Start(why),
        }
    }
}

fn was_started(status: &ContainerStatus) -> bool {
    use crate::runtime::ContainerState::{Exited, Running};
    status.state == Running || (status.state == Exited && status.reason != "StartError")
}

/// Statuses in their order, without those whose subject went meanwhile.
async fn present<T>(
    statuses: impl futures::Stream<Item = Result<T, Failure>>,
) -> Result<Vec<T>, Failure> {
    let gone = |result: &Result<T, Failure>| matches!(result, Err(why) if why.is_not_found());
    statuses.filter(|result| std::future::ready(!gone(result))).try_collect().await
}

#[async_trait]
impl Runtime for CriRuntime {
    fn version(&self) -> String {
        self.inner.version.clone()
    }

    fn recursive_read_only(&self) -> bool {
        self.inner.told.recursive_read_only
    }

    async fn run_pod_sandbox(&self, config: SandboxConfig) -> Result<String, RuntimeError> {
        if !config.log_directory.as_os_str().is_empty() {
            make_directory(&config.log_directory).await?;
        }
        let request = v1::RunPodSandboxRequest {
            config: Some(sandbox::to_v1(&config, &self.inner.cgroups)),
            runtime_handler: match config.runtime_handler.as_str() {
                "" => self.inner.handler.clone(),
                named => named.to_owned(),
            },
        };
        let made = self.client().call(request, MAKE_WITHIN).await;
        let id = made.map_err(|failure| failure.into_error("make a sandbox"))?.pod_sandbox_id;
        self.inner.sandboxes.lock().insert(id.clone(), Arc::new(config));
        Ok(id)
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let stopped = self.call(v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() }).await;
        gone_is_fine(stopped, |failure| failure.of("sandbox", id, "stop"))
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let made_from = self.sandbox_config(id).await;
        // CRI lets a runtime refuse to remove what still runs.
        self.stop_pod_sandbox(id).await?;
        let removed =
            self.call(v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() }).await;
        gone_is_fine(removed, |failure| failure.of("sandbox", id, "remove"))?;
        self.inner.sandboxes.lock().remove(id);
        if let Ok(config) = made_from
            && self.inner.cgroups.driver == CgroupDriver::Cgroupfs
        {
            cgroup::remove(self.inner.cgroups.parent(&config.cgroup_parent)).await;
        }
        Ok(())
    }

    async fn list_pod_sandboxes(&self) -> Result<Vec<SandboxStatus>, RuntimeError> {
        self.sandboxes(None).await
    }

    async fn pod_status(&self, uid: &str) -> Result<PodRuntimeStatus, RuntimeError> {
        let selector: BTreeMap<_, _> = [(memory::POD_UID.to_owned(), uid.to_owned())].into();
        let filter =
            v1::PodSandboxFilter { label_selector: selector.clone(), ..Default::default() };
        let sandboxes = self.sandboxes(Some(filter)).await?;
        if sandboxes.is_empty() {
            return Ok(PodRuntimeStatus::default());
        }
        let filter = v1::ContainerFilter { label_selector: selector, ..Default::default() };
        let containers = self.containers(Some(filter)).await?;
        Ok(PodRuntimeStatus { sandboxes, containers })
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        config: ContainerConfig,
    ) -> Result<String, RuntimeError> {
        let made_from = self.sandbox_config(sandbox_id).await?;
        if let Some(parent) = config.log_path.parent()
            && !made_from.log_directory.as_os_str().is_empty()
        {
            make_directory(&made_from.log_directory.join(parent)).await?;
        }
        let mut sandbox_config = sandbox::to_v1(&made_from, &self.inner.cgroups);
        if let Some(context) =
            sandbox_config.linux.as_mut().and_then(|linux| linux.security_context.as_mut())
        {
            // containerd lets a container do everything only in a sandbox that is said to.
            context.privileged |= config.security.privileged;
        }
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            config: Some(container::to_v1(&config, &made_from)),
            sandbox_config: Some(sandbox_config),
        };
        match self.client().call(request, MAKE_WITHIN).await {
            Ok(made) => Ok(made.container_id),
            // It may be the sandbox that is not found, or the image.
            Err(failure) if failure.is_not_found() => {
                self.inner.sandboxes.lock().remove(sandbox_id);
                self.sandbox_config(sandbox_id).await?;
                Err(failure.into_error(&format!("make the container {}", config.name)))
            }
            Err(failure) => Err(failure.into_error(&format!("make the container {}", config.name))),
        }
    }

    async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        let request = v1::StartContainerRequest { container_id: id.to_owned() };
        match self.call(request).await {
            Ok(_) => Ok(()),
            Err(failure) => Err(self.start_failure(id, failure).await),
        }
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let timeout = seconds(grace);
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout };
        let deadline = CALL_WITHIN + Duration::from_secs(timeout.unsigned_abs());
        let stopped = self.client().call(request, deadline).await;
        gone_is_fine(stopped, |failure| failure.of("container", id, "stop"))
    }

    async fn update_container_resources(
        &self,
        id: &str,
        resources: Resources,
    ) -> Result<(), RuntimeError> {
        let request = v1::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(sandbox::resources_to_v1(&resources)),
            ..Default::default()
        };
        let fail = |failure: Failure| failure.of("container", id, "change the limits of");
        self.call(request).await.map_err(fail)?;
        Ok(())
    }

    async fn reopen_container_log(&self, id: &str) -> Result<(), RuntimeError> {
        let request = v1::ReopenContainerLogRequest { container_id: id.to_owned() };
        let fail = |failure: Failure| failure.of("container", id, "open anew the log of");
        self.call(request).await.map_err(fail)?;
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        let request = || v1::RemoveContainerRequest { container_id: id.to_owned() };
        let removed = match self.call(request()).await {
            // CRI wants it killed first, but not every runtime does so.
            Err(Failure::Refused(status)) if status.code() != tonic::Code::NotFound => {
                self.stop_container(id, Duration::ZERO).await?;
                self.call(request()).await
            }
            other => other,
        };
        gone_is_fine(removed, |failure| failure.of("container", id, "remove"))
    }

    async fn list_containers(&self) -> Result<Vec<ContainerStatus>, RuntimeError> {
        self.containers(None).await
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus, RuntimeError> {
        let fail = |failure: Failure| failure.of("container", id, "look at");
        // Only the list names the sandbox.
        let filter = v1::ContainerFilter { id: id.to_owned(), ..Default::default() };
        let request = v1::ListContainersRequest { filter: Some(filter) };
        let listed = self.call(request).await.map_err(fail)?;
        let item = listed.containers.into_iter().find(|item| item.id == id);
        let Some(item) = item else {
            return Err(RuntimeError::NotFound { what: "container", id: id.to_owned() });
        };
        self.status_in(id, item.pod_sandbox_id).await.map_err(fail)
    }

    async fn container_disk_bytes(&self, id: &str) -> Result<Option<u64>, RuntimeError> {
        let request = v1::ContainerStatsRequest { container_id: id.to_owned() };
        let answer = self.call(request).await;
        let answer = answer.map_err(|failure| failure.of("container", id, "measure"))?;
        let layer = answer.stats.and_then(|stats| stats.writable_layer);
        Ok(layer.and_then(|layer| layer.used_bytes).map(|bytes| bytes.value))
    }

    async fn list_container_stats(&self) -> Result<Vec<ContainerStats>, RuntimeError> {
        let running = v1::ContainerStateValue { state: v1::ContainerState::Running.into() };
        let filter = v1::ContainerFilter { state: Some(running), ..Default::default() };
        let fail = |failure: Failure| failure.into_error("read what the containers use");
        let listed =
            self.call(v1::ListContainersRequest { filter: Some(filter) }).await.map_err(fail)?;
        let ids: Vec<String> = listed.containers.into_iter().map(|item| item.id).collect();
        let started = self.start_times(&ids).await;
        let told =
            self.call(v1::ListContainerStatsRequest { filter: None }).await.map_err(fail)?.stats;
        let of = |stats: v1::ContainerStats| {
            let started = *started.get(&stats.attributes.as_ref()?.id)?;
            convert::stats::from_v1(stats, started)
        };
        Ok(told.into_iter().filter_map(of).collect())
    }

    /// CRI tells of containers. The node is the machine that this runs on, as its runtime is.
    async fn node_stats(&self) -> Result<Option<NodeStats>, RuntimeError> {
        Ok(crate::machine::stats())
    }

    async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        // Zero is no limit, there and here.
        let limit = seconds(timeout);
        let request =
            v1::ExecSyncRequest { container_id: id.to_owned(), cmd: command, timeout: limit };
        let deadline = match limit {
            0 => Duration::from_secs(SECONDS_MAX),
            _ => CALL_WITHIN + Duration::from_secs(limit.unsigned_abs()),
        };
        match self.client().call(request, deadline).await {
            Ok(v1::ExecSyncResponse { stdout, stderr, exit_code }) => {
                Ok(ExecOutput { stdout, stderr, exit_code })
            }
            Err(Failure::Refused(status)) if status.code() == tonic::Code::DeadlineExceeded => {
                Err(RuntimeError::Timeout(timeout))
            }
            Err(failure) => Err(failure.of("container", id, "run a command in")),
        }
    }

    async fn exec(&self, id: &str, request: ExecRequest) -> Result<Session, RuntimeError> {
        let wanted = streams::Wanted { stdin: request.stdin, tty: request.tty };
        let call = v1::ExecRequest {
            container_id: id.to_owned(),
            cmd: request.command,
            tty: request.tty,
            stdin: request.stdin,
            stdout: true,
            stderr: !request.tty,
        };
        let fail = |failure: Failure| failure.of("container", id, "run a command in");
        let url = self.call(call).await.map_err(fail)?.url;
        streams::session(&url, self.inner.node_netns.clone(), wanted).await
    }

    async fn attach(&self, id: &str) -> Result<Session, RuntimeError> {
        let config = self.container_status(id).await?.config;
        let wanted = streams::Wanted { stdin: config.stdin, tty: config.tty };
        let call = v1::AttachRequest {
            container_id: id.to_owned(),
            stdin: config.stdin,
            tty: config.tty,
            stdout: true,
            stderr: !config.tty,
        };
        let fail = |failure: Failure| failure.of("container", id, "attach to");
        let url = self.call(call).await.map_err(fail)?.url;
        streams::session(&url, self.inner.node_netns.clone(), wanted).await
    }

    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<Box<dyn Io>, RuntimeError> {
        let call = v1::PortForwardRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            port: vec![port.into()],
        };
        let fail = |failure: Failure| failure.of("sandbox", sandbox_id, "reach a port of");
        let url = self.call(call).await.map_err(fail)?.url;
        streams::port(&url, self.inner.node_netns.clone(), port).await
    }

    async fn dial(&self, address: SocketAddr) -> Result<Box<dyn Io>, RuntimeError> {
        let stream = netns::connect(self.inner.node_netns.clone(), address, CONNECT_WITHIN).await;
        let stream = stream.map_err(|source| RuntimeError::Io {
            what: format!("cannot connect to {address}"),
            source,
        })?;
        Ok(Box::new(stream))
    }

    async fn image_status(&self, image: &str) -> Result<Option<Image>, RuntimeError> {
        self.image(image).await
    }

    async fn pull_image(&self, request: PullImage) -> Result<String, RuntimeError> {
        self.pull(request).await
    }

    async fn list_images(&self) -> Result<Vec<Image>, RuntimeError> {
        self.images().await
    }

    async fn remove_image(&self, image: &str) -> Result<(), RuntimeError> {
        self.remove(image).await
    }

    async fn image_filesystem(&self) -> Result<Option<ImageFilesystem>, RuntimeError> {
        self.image_disk().await
    }

    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        let receiver = self.inner.events.subscribe();
        self.inner.follower.get_or_init(|| {
            tokio::spawn(changes::follow(Arc::downgrade(&self.inner))).abort_handle()
        });
        stream::unfold(receiver, |mut receiver| async move {
            loop {
                match receiver.recv().await {
                    Ok(event) => return Some((event, receiver)),
                    // The newest are still there.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
        })
        .boxed()
    }
}

/// Stopping or removing what is not there is done.
fn gone_is_fine<T>(
    result: Result<T, Failure>,
    fail: impl FnOnce(Failure) -> RuntimeError,
) -> Result<(), RuntimeError> {
    match result {
        Ok(_) => Ok(()),
        Err(failure) if failure.is_not_found() => Ok(()),
        Err(failure) => Err(fail(failure)),
    }
}
