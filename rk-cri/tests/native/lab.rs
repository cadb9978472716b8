//! A node for one test: a directory, a network, a runtime, and what it may leave behind (nothing).

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use rk_cri::{
    Runtime,
    images::{ImportOptions, build::busybox_image},
    native::NativeRuntime,
    runtime::{
        ContainerConfig, ContainerState, ContainerStatus, ExecOutput, PodRef, SandboxConfig,
    },
};
use rk_net::NodeNetwork;

pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct Lab {
    pub directory: tempfile::TempDir,
    pub network: NodeNetwork,
    /// None while another process owns the directory.
    owned: Option<NativeRuntime>,
}

impl Lab {
    pub async fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("rk-lab-").tempdir_in("/var/tmp").unwrap();
        let network = network(directory.path()).await;
        let runtime = open(directory.path(), &network).await;
        runtime.import(archive(), ImportOptions::default()).await.unwrap();
        Self { directory, network, owned: Some(runtime) }
    }

    pub fn runtime(&self) -> &NativeRuntime {
        self.owned.as_ref().unwrap()
    }

    /// Lets go of the runtime, as an agent that ends does.
    pub fn release(&mut self) {
        self.owned = None;
    }

    /// Opens the runtime again, as the next agent does.
    pub async fn reopen(&mut self) {
        self.owned = None;
        self.owned = Some(open(self.directory.path(), &self.network).await);
    }

    pub fn cgroup_name(&self) -> String {
        cgroup_name(self.directory.path())
    }

    pub fn sandbox_config(&self, name: &str) -> SandboxConfig {
        sandbox_config(self.directory.path(), name)
    }

    pub async fn sandbox(&self, name: &str) -> String {
        self.runtime().run_pod_sandbox(self.sandbox_config(name)).await.unwrap()
    }

    pub async fn start(&self, sandbox: &str, config: ContainerConfig) -> String {
        let id = self.runtime().create_container(sandbox, config).await.unwrap();
        self.runtime().start_container(&id).await.unwrap();
        id
    }

    /// A running container in a sandbox of its own.
    pub async fn running(&self, script: &str) -> String {
        let sandbox = self.sandbox("pod").await;
        self.start(&sandbox, shell("main", script)).await
    }

    pub async fn status(&self, id: &str) -> ContainerStatus {
        self.runtime().container_status(id).await.unwrap()
    }

    pub async fn ended(&self, id: &str) -> ContainerStatus {
        eventually(|| async {
            let status = self.status(id).await;
            (status.state == ContainerState::Exited).then_some(status)
        })
        .await
    }

    pub async fn exec(&self, id: &str, script: &str) -> ExecOutput {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        self.runtime().exec_sync(id, command, PATIENCE).await.unwrap()
    }

    /// What a command prints, without the last line's end.
    pub async fn says(&self, id: &str, script: &str) -> String {
        let output = self.exec(id, script).await;
        let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        assert_eq!(output.exit_code, 0, "{script}: {text} {:?}", output.stderr);
        text
    }

    /// Runs a script to its end and returns its output and exit code.
    pub async fn run(&self, config: ContainerConfig) -> (String, i32) {
        let sandbox = self.sandbox("pod").await;
        let id = self.start(&sandbox, config).await;
        let status = self.ended(&id).await;
        let text = log_text(&status.log_path);
        fs::remove_file(&status.log_path).unwrap();
        self.runtime().remove_pod_sandbox(&sandbox).await.unwrap();
        (text, status.exit_code.unwrap())
    }

    /// Directories of this lab's cgroups, over all hierarchies.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
        roots.extend(fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|e| e.path()));
        for root in roots {
            collect_dirs(&root.join("rk").join(self.cgroup_name()), &mut found);
        }
        found
    }

    /// Processes in this lab's cgroups: shims, the zygote, containers.
    pub fn processes(&self) -> Vec<i32> {
        let mut found: Vec<i32> = self
            .cgroups()
            .iter()
            .filter_map(|directory| fs::read_to_string(directory.join("cgroup.procs")).ok())
            .flat_map(|text| text.lines().map(|line| line.parse().unwrap()).collect::<Vec<_>>())
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Mounts below this lab's directory in this mount namespace.
    pub fn mounts(&self) -> Vec<String> {
        let directory = self.directory.path().to_str().unwrap();
        fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .lines()
            .filter(|line| line.contains(directory))
            .map(str::to_owned)
            .collect()
    }

    /// Mounts that an agent made for Pods. The network's own namespace is one that stays.
    pub fn mounts_of_pods(&self) -> Vec<String> {
        self.mounts().into_iter().filter(|line| line.contains("/agent/pods/")).collect()
    }

    /// Links of the node's network.
    pub async fn links(&self) -> Vec<String> {
        let netlink = rk_net::netlink::Netlink::open(self.network.netns()).await.unwrap();
        netlink.links().await.unwrap().into_iter().map(|link| link.name).collect()
    }

    /// Takes everything down, and tells what would not go.
    pub async fn take_down(mut self) -> Result<(), String> {
        if self.owned.is_none() {
            let opened = try_open(self.directory.path(), &self.network).await;
            self.owned = Some(opened.map_err(|error| format!("cannot open again: {error:?}"))?);
        }
        let torn = self.runtime().teardown().await.map_err(|error| format!("{error:?}"));
        let deleted = self.network.delete().await.map_err(|error| format!("{error:?}"));
        torn.and(deleted)?;
        let left = (self.processes(), self.cgroups(), self.mounts());
        match left.0.is_empty() && left.1.is_empty() && left.2.is_empty() {
            true => Ok(()),
            false => Err(format!("{left:?}")),
        }
    }
}

pub async fn network(directory: &Path) -> NodeNetwork {
    NodeNetwork::builder(directory, "10.244.9.0/24".parse().unwrap()).build().await.unwrap()
}

pub async fn open(directory: &Path, network: &NodeNetwork) -> NativeRuntime {
    try_open(directory, network).await.unwrap()
}

async fn try_open(
    directory: &Path,
    network: &NodeNetwork,
) -> Result<NativeRuntime, rk_cri::RuntimeError> {
    NativeRuntime::builder(directory.join("runtime"), network.plugin())
        .cgroup_root(Path::new("rk").join(cgroup_name(directory)))
        .node_netns(network.netns().unwrap())
        .node_ips(network.node_ips())
        .build()
        .await
}

fn cgroup_name(directory: &Path) -> String {
    directory.file_name().unwrap().to_str().unwrap().to_owned()
}

pub fn sandbox_config(directory: &Path, name: &str) -> SandboxConfig {
    SandboxConfig {
        pod: PodRef { namespace: "default".into(), name: name.into(), uid: format!("uid-{name}") },
        hostname: name.to_owned(),
        log_directory: directory.join("logs").join(name),
        cgroup_parent: format!("besteffort/pod-{name}"),
        ..SandboxConfig::default()
    }
}

pub fn shell(name: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        name: name.to_owned(),
        image: "busybox".to_owned(),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        log_path: format!("{name}/0.log").into(),
        ..ContainerConfig::default()
    }
}

/// The busybox image, built once.
pub fn archive() -> &'static Path {
    static ARCHIVE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = ARCHIVE.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("busybox.tar");
        let busybox = Path::new("/bin/busybox");
        busybox_image("busybox", busybox).unwrap().write_archive(&path).unwrap();
        (directory, path)
    });
    path
}

/// The texts of a log's lines, one each.
pub fn log_text(path: &Path) -> String {
    let log = fs::read_to_string(path).unwrap_or_default();
    log.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap().to_owned() + "\n").collect()
}

/// Waits until `probe` gives something.
pub async fn eventually<T, F: Future<Output = Option<T>>>(probe: impl FnMut() -> F) -> T {
    eventually_within(PATIENCE, probe).await
}

/// Waits until `probe` gives something, for a time that only something broken takes.
pub async fn eventually_within<T, F: Future<Output = Option<T>>>(
    patience: Duration,
    mut probe: impl FnMut() -> F,
) -> T {
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "it did not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn collect_dirs(directory: &Path, found: &mut Vec<PathBuf>) {
    if !directory.is_dir() {
        return;
    }
    found.push(directory.to_owned());
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_dirs(&entry.path(), found);
        }
    }
}
