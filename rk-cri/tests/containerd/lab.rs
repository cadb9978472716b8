//! A containerd for one test, and what it may leave behind (nothing).
//!
//! ```text
//! unshare        ends with the test, and takes its child along
//!   sh           process 1 of a pid namespace: when it ends, all in there does
//!     containerd, shims, containers
//! ```
//!
//! They have a mount namespace of their own, so that no mount of theirs is seen outside and none
//! outlives them, and are in a network namespace of the test's.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use rk_cri::{
    Runtime,
    cri::CriRuntime,
    images::{
        ImageConfig,
        build::{ImageBuilder, busybox_image, write_archive},
    },
    runtime::{ContainerConfig, ContainerState, ContainerStatus, PodRef, SandboxConfig},
};

pub const PATIENCE: Duration = Duration::from_secs(60);
pub const IMAGE: &str = "docker.io/library/busybox:1";
const PAUSE: &str = "rk.test/pause:1";
const CNI_PLUGINS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// What this machine lacks.
pub fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("not root".to_owned());
    }
    for program in ["containerd", "ctr", "runc", "unshare", "nsenter", "ip"] {
        if !in_path(program) {
            missing.push(format!("no {program}"));
        }
    }
    if !Path::new("/bin/busybox").exists() {
        missing.push("no /bin/busybox".to_owned());
    }
    if cni_plugins().is_none() {
        missing.push("no CNI plugins".to_owned());
    }
    missing
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

fn cni_plugins() -> Option<&'static str> {
    CNI_PLUGINS.into_iter().find(|directory| Path::new(directory).join("bridge").is_file())
}

pub struct Lab {
    pub directory: tempfile::TempDir,
    /// `unshare`; the namespaces are those of its child.
    holder: Child,
    init: i32,
    /// `nsenter`, and containerd, its child.
    daemon: Option<(Child, i32)>,
    runtime: Option<CriRuntime>,
}

impl Lab {
    pub async fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("rk-cd-").tempdir_in("/var/tmp").unwrap();
        let root = directory.path();
        let netns = netns(root);
        rk_net::netns::create(&netns).unwrap();
        configure(root);
        let holder = hold(root, &netns);
        let mut lab = Self { directory, holder, init: 0, daemon: None, runtime: None };
        let up = lab.directory.path().join("up");
        eventually(|| async { up.exists().then_some(()) }).await;
        lab.init = eventually(|| async { child_of(lab.holder.id() as i32) }).await;
        lab.start_daemon().await;
        lab.import().await;
        lab
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("c.sock")
    }

    pub fn netns(&self) -> PathBuf {
        netns(self.directory.path())
    }

    pub fn cgroup_root(&self) -> String {
        self.directory.path().file_name().unwrap().to_str().unwrap().to_owned()
    }

    pub fn runtime(&self) -> &CriRuntime {
        self.runtime.as_ref().unwrap()
    }

    /// Connects as a process that begins anew.
    pub async fn connect(&self) -> Result<CriRuntime, rk_cri::RuntimeError> {
        CriRuntime::builder(format!("unix://{}", self.socket().display()))
            .node_netns(self.netns())
            .cgroup_root(self.cgroup_root())
            .connect()
            .await
    }

    /// Starts containerd, and waits until it answers.
    pub async fn start_daemon(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.directory.path().join("containerd.log"))
            .unwrap();
        let mut command = self.inside();
        command
            .args(["containerd", "--config"])
            .arg(self.directory.path().join("config.toml"))
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let mut entered = command.spawn().unwrap();
        let id = entered.id() as i32;
        let pid = eventually(|| async { child_of(id) }).await;
        if entered.try_wait().unwrap().is_some() {
            panic!("containerd ended: {}", self.log_tail());
        }
        self.daemon = Some((entered, pid));
        let runtime = eventually(|| async { self.connect().await.ok() }).await;
        self.runtime.get_or_insert(runtime);
    }

    /// Kills containerd where it stands.
    pub fn kill_daemon(&mut self) {
        let (mut entered, pid) = self.daemon.take().unwrap();
        kill(pid);
        entered.wait().unwrap();
    }

    /// A command in containerd's namespaces.
    fn inside(&self) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.init))
            .args(["--mount", "--pid", "--net", "--"])
            .stdin(Stdio::null());
        command
    }

    async fn import(&self) {
        self.load(archive(), &[IMAGE, PAUSE]).await;
    }

    /// Loads an archive into containerd, and waits until CRI knows of these images of it.
    pub async fn load(&self, archive: &Path, images: &[&str]) {
        let output = Command::new("ctr")
            .arg("--address")
            .arg(self.socket())
            .args(["--namespace=k8s.io", "images", "import"])
            .arg(archive)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for image in images {
            eventually(|| async { self.runtime().image_status(image).await.unwrap() }).await;
        }
    }

    pub fn sandbox_config(&self, name: &str) -> SandboxConfig {
        SandboxConfig {
            pod: PodRef {
                namespace: "default".into(),
                name: name.into(),
                uid: format!("uid-{name}"),
            },
            hostname: name.to_owned(),
            log_directory: self.directory.path().join("logs").join(name),
            cgroup_parent: format!("besteffort/pod-{name}"),
            ..SandboxConfig::default()
        }
    }

    pub async fn sandbox(&self, name: &str) -> String {
        self.runtime().run_pod_sandbox(self.sandbox_config(name)).await.unwrap()
    }

    pub async fn start(&self, sandbox: &str, config: ContainerConfig) -> String {
        let id = self.runtime().create_container(sandbox, config).await.unwrap();
        self.runtime().start_container(&id).await.unwrap();
        id
    }

    pub async fn ended(&self, id: &str) -> ContainerStatus {
        eventually(|| async {
            let status = self.runtime().container_status(id).await.unwrap();
            (status.state == ContainerState::Exited).then_some(status)
        })
        .await
    }

    /// What a command prints, without the last line's end.
    pub async fn says(&self, id: &str, script: &str) -> String {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        let output = self.runtime().exec_sync(id, command, PATIENCE).await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        assert_eq!(output.exit_code, 0, "{script}: {text} {:?}", output.stderr);
        text
    }

    /// Directories of this lab's cgroups, over all hierarchies, the innermost first.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|e| e.path());
        for hierarchy in hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]) {
            directories(&hierarchy.join(self.cgroup_root()), &mut found);
        }
        found.reverse();
        found
    }

    /// The last of what containerd said.
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.directory.path().join("containerd.log"));
        let log = log.unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Ends everything, and tells what would not go.
    pub async fn take_down(mut self) -> Result<(), String> {
        self.runtime = None;
        self.end();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let left = self.cgroups();
            if left.is_empty() {
                break;
            }
            if tokio::time::Instant::now() > deadline {
                return Err(format!("{left:?}"));
            }
            // Refused until the last process is gone.
            left.iter().for_each(|directory| drop(fs::remove_dir(directory)));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let directory = self.directory.path().to_str().unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        match mounts.lines().find(|line| line.contains(directory)) {
            Some(mount) => Err(mount.to_owned()),
            None => Ok(()),
        }
    }

    /// Ends the processes, and with them their namespaces.
    fn end(&mut self) {
        // The holder's end takes the namespace's first process along, and that all others.
        self.holder.kill().ok();
        self.holder.wait().ok();
        if let Some((mut entered, _)) = self.daemon.take() {
            entered.wait().ok();
        }
        rk_net::netns::delete(&self.netns()).ok();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.end();
    }
}

fn netns(root: &Path) -> PathBuf {
    root.join("netns")
}

/// Starts the holder of the namespaces. Must be called on a thread that lives as long as the test.
fn hold(root: &Path, netns: &Path) -> Child {
    // containerd's shims and CNI keep files at places that cannot be configured.
    let script = "mkdir -p /run/containerd /var/lib/cni \
        && mount -t tmpfs tmpfs /run/containerd && mount -t tmpfs tmpfs /var/lib/cni \
        && ip link set lo up && touch \"$1/up\" && { sleep infinity & wait; }";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation=slave", "--pid", "--fork", "--kill-child=KILL"])
        .args(["--mount-proc", "--", "nsenter"])
        .arg(format!("--net={}", netns.display()))
        .args(["--", "sh", "-c", script, "sh"])
        .arg(root)
        .stdin(Stdio::null());
    // SAFETY: a system call that allocates nothing.
    unsafe {
        command.pre_exec(|| {
            let signal = rustix::process::Signal::KILL;
            Ok(rustix::process::set_parent_process_death_signal(Some(signal))?)
        });
    }
    command.spawn().unwrap()
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// The only child of a process.
fn child_of(pid: i32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// Directories below and with this one, each before those in it.
fn directories(directory: &Path, found: &mut Vec<PathBuf>) {
    if !directory.is_dir() {
        return;
    }
    found.push(directory.to_owned());
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            directories(&entry.path(), found);
        }
    }
}

fn configure(root: &Path) {
    let at = root.display();
    let plugins = cni_plugins().unwrap();
    let config = format!(
        r#"version = 2
root = "{at}/root"
state = "{at}/state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[grpc]
address = "{at}/c.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{at}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true
disable_apparmor = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{at}/certs.d"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{at}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"#
    );
    fs::write(root.join("config.toml"), config).unwrap();
    let network = serde_json::json!({
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [{
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": true,
            // Pods reach themselves by way of their Service and of their ports on the node.
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "dataDir": root.join("ipam"),
                "ranges": [[{"subnet": "10.244.12.0/24"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }, {
            "type": "portmap",
            "capabilities": {"portMappings": true},
        }],
    });
    fs::create_dir(root.join("certs.d")).unwrap();
    fs::create_dir(root.join("cni")).unwrap();
    fs::write(root.join("cni/10-pods.conflist"), network.to_string()).unwrap();
}

/// The busybox image and one for sandboxes, built once.
fn archive() -> &'static Path {
    static ARCHIVE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = ARCHIVE.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("images.tar");
        let busybox = Path::new("/bin/busybox");
        let entrypoint = ["/bin/busybox", "sleep", "2000000000"].map(str::to_owned).to_vec();
        let pause = ImageBuilder::new(PAUSE)
            .file_from(busybox, "/bin/busybox", 0o755)
            .config(ImageConfig { entrypoint, ..ImageConfig::default() });
        write_archive(&path, &[busybox_image(IMAGE, busybox).unwrap(), pause]).unwrap();
        (directory, path)
    });
    path
}

pub fn shell(name: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        name: name.to_owned(),
        image: IMAGE.to_owned(),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        log_path: format!("{name}/0.log").into(),
        ..ContainerConfig::default()
    }
}

/// The texts of a log's lines.
pub fn log_lines(path: &Path) -> Vec<String> {
    let log = fs::read_to_string(path).unwrap_or_default();
    log.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned()).collect()
}

/// Waits until `probe` gives something.
pub async fn eventually<T, F: Future<Output = Option<T>>>(mut probe: impl FnMut() -> F) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "it did not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
