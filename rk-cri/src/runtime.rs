//! The [`Runtime`] trait: CRI's verbs and nouns, between the node agent and whatever runs pods.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    pin::Pin,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{future::BoxFuture, stream::BoxStream};
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

pub use rk_net::cni::PortMapping;

/// Which pod a sandbox is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodRef {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID.
    pub uid: String,
}

/// A pod sandbox to run: the namespaces and the network that its containers share.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// The pod.
    pub pod: PodRef,
    /// How often a sandbox was made for this pod before.
    pub attempt: u32,
    /// The host name inside; the node's own when `host_network` is set.
    pub hostname: String,
    /// Where the containers' log files go, an absolute path.
    pub log_directory: PathBuf,
    /// Name servers, search domains and options for `/etc/resolv.conf`.
    pub dns: DnsConfig,
    /// Host ports that lead into the pod.
    pub port_mappings: Vec<PortMapping>,
    /// Uses the node's network instead of one of its own.
    pub host_network: bool,
    /// Uses the host's process namespace.
    pub host_pid: bool,
    /// Uses the host's IPC namespace.
    pub host_ipc: bool,
    /// All containers share one process namespace.
    pub share_process_namespace: bool,
    /// Some container of it may do everything: runtimes that CRI describes want to know beforehand.
    #[serde(default)]
    pub privileged: bool,
    /// Which of the runtime's handlers runs it: that of the pod's RuntimeClass (KEP-585). Empty is the
    /// runtime's own choice; a runtime refuses one that it does not have.
    #[serde(default)]
    pub runtime_handler: String,
    /// Kernel parameters, set inside the sandbox.
    pub sysctls: BTreeMap<String, String>,
    /// Cgroup path of the pod, below the runtime's root, for example `burstable/pod1234`.
    pub cgroup_parent: String,
    /// Kept with the sandbox and returned by its status.
    pub labels: BTreeMap<String, String>,
    /// Kept with the sandbox and returned by its status.
    pub annotations: BTreeMap<String, String>,
}

/// The contents of `/etc/resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    /// Addresses of name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Resolver options, for example `ndots:5`.
    pub options: Vec<String>,
}

/// A sandbox as it is now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SandboxStatus {
    /// The sandbox's id, given by the runtime.
    pub id: String,
    /// What it was made from.
    pub config: SandboxConfig,
    /// Whether it can run containers; `false` once it was stopped or its holder died.
    pub ready: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its addresses, the primary one first; the node's for a host-network pod.
    pub ips: Vec<IpAddr>,
}

/// A container to create in a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Its name within the pod.
    pub name: String,
    /// How often a container of this name was made before: the restart count.
    pub attempt: u32,
    /// The image, as [`Runtime::image_status`] resolves it.
    pub image: String,
    /// Replaces the image's entrypoint unless empty.
    pub command: Vec<String>,
    /// Replaces the image's arguments unless empty (and is used alone when `command` is set).
    pub args: Vec<String>,
    /// Replaces the image's working directory unless empty.
    pub working_dir: String,
    /// Environment, in order; added to the image's.
    pub env: Vec<(String, String)>,
    /// Host paths to mount.
    pub mounts: Vec<Mount>,
    /// Devices of the node that it may use.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// The log file, relative to the sandbox's log directory, for example `web/0.log`.
    pub log_path: PathBuf,
    /// Keeps standard input open for attach.
    pub stdin: bool,
    /// Closes standard input after the first attach ends.
    pub stdin_once: bool,
    /// Gives it a terminal.
    pub tty: bool,
    /// Limits.
    pub resources: Resources,
    /// Who it runs as, and what it may do.
    pub security: Security,
    /// The id of a running container whose process namespace it shares; empty is one of its own, or
    /// the sandbox's.
    #[serde(default)]
    pub process_namespace_of: String,
    /// The signal that asks it to stop; empty is the image's, else `SIGTERM`.
    pub stop_signal: String,
    /// Kept with the container and returned by its status.
    pub labels: BTreeMap<String, String>,
    /// Kept with the container and returned by its status.
    pub annotations: BTreeMap<String, String>,
}

/// A host path inside a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// On the host; must exist.
    pub host_path: PathBuf,
    /// In the container.
    pub container_path: PathBuf,
    /// Refuses writes.
    pub read_only: bool,
    /// Refuses writes to what is mounted below it, too (KEP-3857). Only with `read_only`, and only of
    /// runtimes that can ([`Runtime::recursive_read_only`]).
    #[serde(default)]
    pub recursive_read_only: bool,
    /// Whether mounts that are made below it later are seen on the other side: `None` on neither,
    /// `HostToContainer`, or `Bidirectional`. The runtime refuses what the host's own mount does not
    /// allow.
    pub propagation: Option<String>,
}

/// A device of the node inside a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// On the host; must be a device, or a link to one.
    pub host_path: PathBuf,
    /// In the container.
    pub container_path: PathBuf,
    /// Refuses writes.
    pub read_only: bool,
}

/// Limits of a container. Zero leaves a limit unset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Relative weight, 2 to 262144 (cgroup v1's `cpu.shares`).
    pub cpu_shares: u64,
    /// CPU time in microseconds per period.
    pub cpu_quota_us: i64,
    /// The period; 100 ms when a quota is set.
    pub cpu_period_us: u64,
    /// Memory limit.
    pub memory_limit_bytes: i64,
    /// Limit on processes.
    pub pids_limit: i64,
    /// Limits on huge pages in bytes, by the size of a page as cgroups name it: `2MB`, `1GB`.
    #[serde(default)]
    pub hugepage_limits: BTreeMap<String, u64>,
}

impl Resources {
    /// Takes over the limits that are set in `other`.
    pub fn change(&mut self, other: &Self) {
        let Self {
            cpu_shares,
            cpu_quota_us,
            cpu_period_us,
            memory_limit_bytes,
            pids_limit,
            hugepage_limits,
        } = self;
        hugepage_limits.extend(other.hugepage_limits.clone());
        fn take<T: Default + PartialEq + Copy>(to: &mut T, from: T) {
            if from != T::default() {
                *to = from;
            }
        }
        take(cpu_shares, other.cpu_shares);
        take(cpu_quota_us, other.cpu_quota_us);
        take(cpu_period_us, other.cpu_period_us);
        take(memory_limit_bytes, other.memory_limit_bytes);
        take(pids_limit, other.pids_limit);
    }
}

/// Who a container runs as, and what it may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// User id; `None` is the image's user.
    pub run_as_user: Option<i64>,
    /// User name; used when no id is given.
    pub run_as_username: Option<String>,
    /// Group id; `None` is the primary group of the user.
    pub run_as_group: Option<i64>,
    /// Further groups.
    pub supplemental_groups: Vec<i64>,
    /// Only those groups, and not the ones that the image's accounts name besides (KEP-3619).
    #[serde(default)]
    pub strict_groups: bool,
    /// The root file system refuses writes.
    pub read_only_root: bool,
    /// All capabilities and devices.
    pub privileged: bool,
    /// Capabilities to add to the default set, without `CAP_`; `ALL` is all.
    pub add_capabilities: Vec<String>,
    /// Capabilities to drop from it.
    pub drop_capabilities: Vec<String>,
    /// Sets no_new_privs.
    pub no_new_privileges: bool,
    /// Which system calls it may make.
    #[serde(default)]
    pub seccomp: Seccomp,
}

/// Which system calls a container may make (seccomp). A privileged one may make all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// All.
    #[default]
    Unconfined,
    /// Those that the runtime's own profile lets pass.
    RuntimeDefault,
    /// Those that the profile in this file lets pass: JSON as in the OCI runtime specification, by
    /// an absolute path on the node.
    Localhost(PathBuf),
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Started, not ended.
    Running,
    /// Ended.
    Exited,
    /// Lost track of, for example after a crash of the host.
    Unknown,
}

/// A container as it is now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// The container's id, given by the runtime.
    pub id: String,
    /// The sandbox it is in.
    pub sandbox_id: String,
    /// What it was made from.
    pub config: ContainerConfig,
    /// Where it is in its life.
    pub state: ContainerState,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Its exit code; 128 plus the signal's number when a signal ended it.
    pub exit_code: Option<i32>,
    /// Why it ended: `Completed`, `Error`, `OOMKilled`, `StartError`.
    pub reason: String,
    /// More on why it ended.
    pub message: String,
    /// The image's digest, for the pod status' `imageID`.
    pub image_id: String,
    /// The log file, an absolute path.
    pub log_path: PathBuf,
}

/// All that a runtime knows of one pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodRuntimeStatus {
    /// Its sandboxes, in any order.
    pub sandboxes: Vec<SandboxStatus>,
    /// The containers in them, in any order.
    pub containers: Vec<ContainerStatus>,
}

/// What a running container has used (CRI's `ContainerStats`, as far as it is asked for).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerStats {
    /// The pod it is in.
    pub pod: PodRef,
    /// Its name within the pod.
    pub name: String,
    /// When it started.
    pub started_at: Timestamp,
    /// When this was read.
    pub at: Timestamp,
    /// CPU time of all cores since its start.
    pub cpu_time: Duration,
    /// Memory that cannot be taken back without loss (the working set).
    pub memory_working_set_bytes: u64,
}

/// What all of a node has used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStats {
    /// When this was read.
    pub at: Timestamp,
    /// CPU time of all cores; it only grows while the node runs.
    pub cpu_time: Duration,
    /// Memory that cannot be taken back without loss.
    pub memory_working_set_bytes: u64,
}

/// An image on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its id: the digest of its configuration, `sha256:…`.
    pub id: String,
    /// The names it goes by, for example `docker.io/library/busybox:latest`.
    pub tags: Vec<String>,
    /// Names with digests.
    pub digests: Vec<String>,
    /// Bytes on disk.
    pub size_bytes: u64,
    /// The user it is to run as, as the image says it.
    pub user: String,
    /// Never collected, however full the disk is.
    #[serde(default)]
    pub pinned: bool,
}

/// An image to fetch, and how (CRI's `PullImageRequest`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullImage {
    /// Its name, with tag or digest.
    pub image: String,
    /// Who asks the registry; `None` is nobody in particular.
    pub auth: Option<RegistryAuth>,
    /// The pod it is for; `None` when it is for none.
    pub pod: Option<PodRef>,
}

impl From<&str> for PullImage {
    fn from(image: &str) -> Self {
        Self { image: image.to_owned(), ..Self::default() }
    }
}

/// Credentials for a registry (CRI's `AuthConfig`). Empty is unset; its `Debug` shows no secrets.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegistryAuth {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// A refresh token that the registry's token service takes instead of name and password.
    pub identity_token: String,
    /// A bearer token for the registry itself.
    pub registry_token: String,
}

impl std::fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryAuth").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Where images are kept, and how much they take up (CRI's `ImageFsInfo`). How large the file
/// system is, the kernel says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageFilesystem {
    /// A directory on it.
    pub path: PathBuf,
    /// Bytes that images take up.
    pub used_bytes: u64,
    /// Files and directories that images take up; zero when that is not known.
    pub used_inodes: u64,
}

/// A change that the agent should look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeEvent {
    /// The pod concerned.
    pub pod: PodRef,
    /// The container concerned; `None` for the sandbox.
    pub container_id: Option<String>,
}

/// What a command printed and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Standard output.
    pub stdout: Bytes,
    /// Standard error.
    pub stderr: Bytes,
    /// The exit code.
    pub exit_code: i32,
}

/// A command to run in a container with its streams open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Opens standard input.
    pub stdin: bool,
    /// Runs it on a terminal; standard error then comes with standard output.
    pub tty: bool,
}

/// A byte stream in both directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The open streams of a command or of an attached container. Dropping it ends an exec's command
/// (as losing its terminal would), but not an attached container.
pub struct Session {
    /// Standard input, when it was asked for.
    pub stdin: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    /// Standard output.
    pub stdout: Option<Pin<Box<dyn AsyncRead + Send>>>,
    /// Standard error; none with a terminal.
    pub stderr: Option<Pin<Box<dyn AsyncRead + Send>>>,
    /// Sets the terminal's size in columns and rows.
    pub resize: Option<Box<dyn Fn(u16, u16) + Send + Sync>>,
    /// Resolves to the exit code when the command has ended.
    pub exit: BoxFuture<'static, Result<i32, RuntimeError>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

/// Where the log of a container can be read, in CRI's format
/// (`2026-01-02T03:04:05.000000000Z stdout F text`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogSource {
    /// A file that grows.
    File(PathBuf),
    /// All there is, kept in memory.
    Memory(Bytes),
}

/// Runs pods. The verbs and nouns are those of CRI v1 (`runtime.v1.RuntimeService` and
/// `ImageService`), and so is their meaning.
///
/// # What an implementation guarantees
/// - `stop_*` and `remove_*` succeed when there is nothing left to stop or remove.
/// - A container's exit code is kept until the container is removed, also across a restart of the
///   runtime's user.
/// - Everything listed survives a restart of the process that holds the `Runtime`, as far as the
///   implementation claims to be durable.
///
/// A runtime is done when it passes `rk_cri::conformance::run`.
#[async_trait]
pub trait Runtime: std::fmt::Debug + Send + Sync + 'static {
    /// Name and version, as the node's status shows it: `rk://0.1.0`, `containerd://1.7.0`.
    fn version(&self) -> String;

    /// Whether containers are only simulated. The agent then writes no files for them and asks for
    /// no tokens, so that many nodes fit in one process.
    fn simulated(&self) -> bool {
        false
    }

    /// Whether mounts can be made read-only with all that is mounted below them.
    fn recursive_read_only(&self) -> bool {
        false
    }

    /// Makes a sandbox and its network, and returns its id.
    async fn run_pod_sandbox(&self, config: SandboxConfig) -> Result<String, RuntimeError>;
    /// Kills its containers and takes its network down. The sandbox stays listed, not ready.
    async fn stop_pod_sandbox(&self, id: &str) -> Result<(), RuntimeError>;
    /// Removes it with its containers.
    async fn remove_pod_sandbox(&self, id: &str) -> Result<(), RuntimeError>;
    /// All sandboxes.
    async fn list_pod_sandboxes(&self) -> Result<Vec<SandboxStatus>, RuntimeError>;

    /// The sandboxes and containers of one pod. To be overridden where that is cheaper than to
    /// list everything.
    async fn pod_status(&self, uid: &str) -> Result<PodRuntimeStatus, RuntimeError> {
        let mut sandboxes = self.list_pod_sandboxes().await?;
        sandboxes.retain(|sandbox| sandbox.config.pod.uid == uid);
        let mut containers = Vec::new();
        if !sandboxes.is_empty() {
            containers = self.list_containers().await?;
            containers.retain(|container| sandboxes.iter().any(|s| s.id == container.sandbox_id));
        }
        Ok(PodRuntimeStatus { sandboxes, containers })
    }

    /// Makes a container, and returns its id.
    async fn create_container(
        &self,
        sandbox_id: &str,
        config: ContainerConfig,
    ) -> Result<String, RuntimeError>;
    /// Starts it.
    async fn start_container(&self, id: &str) -> Result<(), RuntimeError>;
    /// Asks it to stop, and kills it after `grace`. Returns when it has ended.
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), RuntimeError>;
    /// Changes the limits of a container that is made, running or not; those that are unset stay.
    async fn update_container_resources(
        &self,
        id: &str,
        _resources: Resources,
    ) -> Result<(), RuntimeError> {
        Err(RuntimeError::Unsupported(format!("to change the limits of {id}")))
    }
    /// Removes it; kills it first if it runs.
    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError>;
    /// All containers, those that have ended too.
    async fn list_containers(&self) -> Result<Vec<ContainerStatus>, RuntimeError>;
    /// One container.
    async fn container_status(&self, id: &str) -> Result<ContainerStatus, RuntimeError>;
    /// Where its log is.
    async fn container_log(&self, id: &str) -> Result<LogSource, RuntimeError> {
        Ok(LogSource::File(self.container_status(id).await?.log_path))
    }

    /// Has a running container write its log to a new file of its name, since the old one was moved
    /// away. Once this returns, nothing more is written to the old one. Needed of runtimes whose logs
    /// are files.
    async fn reopen_container_log(&self, id: &str) -> Result<(), RuntimeError> {
        Err(RuntimeError::Unsupported(format!("to open the log of {id} anew")))
    }

    /// What the running containers have used. By default nothing is known of any.
    async fn list_container_stats(&self) -> Result<Vec<ContainerStats>, RuntimeError> {
        Ok(Vec::new())
    }
    /// Bytes that a container has written to its own file system: the layer above its image. `None`,
    /// the default, when that is not known.
    async fn container_disk_bytes(&self, _id: &str) -> Result<Option<u64>, RuntimeError> {
        Ok(None)
    }
    /// What the node has used, if that is known.
    async fn node_stats(&self) -> Result<Option<NodeStats>, RuntimeError> {
        Ok(None)
    }
    /// A pod's annotations have changed. Only a simulation has to care.
    fn pod_annotated(&self, _uid: &str, _annotations: &BTreeMap<String, String>) {}

    /// Runs a command to its end, or kills it after `timeout`.
    async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<ExecOutput, RuntimeError>;
    /// Runs a command with its streams open.
    async fn exec(&self, id: &str, request: ExecRequest) -> Result<Session, RuntimeError>;
    /// Opens the streams of a running container.
    async fn attach(&self, id: &str) -> Result<Session, RuntimeError>;
    /// Connects to a TCP port on the loopback interface of the sandbox.
    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<Box<dyn Io>, RuntimeError>;
    /// Connects to an address as the node's own network sees it (for probes and the like).
    async fn dial(&self, address: std::net::SocketAddr) -> Result<Box<dyn Io>, RuntimeError>;

    /// An image by name, tag, digest or id; `None` when it is not on the node.
    async fn image_status(&self, image: &str) -> Result<Option<Image>, RuntimeError>;
    /// Fetches an image, and returns its id. One that is there is looked up again, for its tag may
    /// have moved.
    async fn pull_image(&self, request: PullImage) -> Result<String, RuntimeError>;
    /// All images.
    async fn list_images(&self) -> Result<Vec<Image>, RuntimeError>;
    /// Removes an image by any of its names.
    async fn remove_image(&self, image: &str) -> Result<(), RuntimeError>;
    /// Mounts an image's files at a directory, for reading only (KEP-4639). Whoever asked for it
    /// unmounts it. One that is mounted there already stays. By default that is not supported.
    async fn mount_image(&self, image: &str, _target: &Path) -> Result<(), RuntimeError> {
        Err(RuntimeError::Unsupported(format!("to mount image {image} as a volume")))
    }
    /// Where images are kept. `None`, the default, is nowhere that could become full.
    async fn image_filesystem(&self) -> Result<Option<ImageFilesystem>, RuntimeError> {
        Ok(None)
    }

    /// Changes from now on. A reader that falls behind misses events, never the newest one; the
    /// agent looks at everything from time to time anyway.
    fn events(&self) -> BoxStream<'static, RuntimeEvent>;
}

/// Kinds of failed pulls that the Pod's status tells apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PullFailure {
    /// None of the others: `ErrImagePull`.
    #[default]
    Failed,
    /// The registry does not answer: `RegistryUnavailable`.
    RegistryUnavailable,
    /// The image's signature is not accepted: `SignatureValidationFailed`.
    SignatureInvalid,
}

/// Why a runtime call failed, by what the agent does next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// There is no such sandbox, container or image.
    #[error("{what} {id} does not exist")]
    NotFound {
        /// `sandbox`, `container` or `image`.
        what: &'static str,
        /// The id asked for.
        id: String,
    },
    /// The image is not here and cannot be fetched.
    #[error("image {image} cannot be pulled: {reason}")]
    ImagePull {
        /// The image.
        image: String,
        /// Why.
        reason: String,
        /// What kind of failure it is.
        kind: PullFailure,
    },
    /// The image or the configuration cannot be run, whatever the number of tries.
    #[error("{0}")]
    Invalid(String),
    /// The program could not be started: not found, not executable.
    #[error("{0}")]
    Start(String),
    /// The call does not fit the state that the container is in.
    #[error("{what} {id} is {state}")]
    State {
        /// `sandbox` or `container`.
        what: &'static str,
        /// Its id.
        id: String,
        /// The state it is in.
        state: String,
    },
    /// It took too long.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// This runtime cannot do that on this machine.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// The kernel, the disk or the network of the node refused; trying again may help.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// What came back.
        #[source]
        source: std::io::Error,
    },
}
