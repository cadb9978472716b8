//! The clusters that the scenarios run on, and the shell that they type into.

mod containerd;
mod hub;
mod over_cri;

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, OnceLock},
    time::{Duration, Instant},
};

use rk::{Cluster, NativeNode, cri::images::registry::Registries};

use tokio::{runtime::Runtime, sync::Semaphore};

use self::containerd::OnContainerd;
use crate::stand_ins;

/// What a scenario runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Simulated nodes do.
    Sim,
    /// They do, once in process and once behind CRI sockets: the second time its name ends in
    /// `_over_cri`.
    Simulated,
    /// Simulated nodes behind CRI sockets.
    OverCri,
    /// It looks into a container.
    Real,
    /// The same, once on each of the runtimes that there are: the second time its name ends in
    /// `_on_containerd`.
    Both,
    /// It looks into a container of containerd.
    Containerd,
    /// It looks into one whose image comes from a registry, which it starts.
    Registry,
    /// It starts the `apiserver` example.
    Program,
    /// It starts that and etcd.
    Etcd,
}

/// A test of a scenario.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    /// The function's name; it begins with the scenario's id when it shows the whole of it.
    pub(crate) name: &'static str,
    /// What it runs on.
    pub(crate) needs: Needs,
    /// Whether another test of this list is the same, on another runtime.
    pub(crate) again: bool,
    /// The test.
    pub(crate) run: fn(&Shell),
}

impl Scenario {
    /// The id of the scenario that this test shows, for example `s65`.
    pub(crate) fn id(&self) -> Option<&'static str> {
        let id = self.name.split('_').next()?;
        let digits = id.strip_prefix('s')?;
        (digits.len() >= 2 && digits.bytes().all(|b| b.is_ascii_digit())).then_some(id)
    }
}

/// Lists tests by the functions that they are.
macro_rules! scenarios {
    ($($needs:ident: $($name:ident),+ $(,)?;)+) => {
        /// The tests of this file.
        pub(crate) fn all() -> Vec<$crate::harness::Scenario> {
            let listed = [$($((
                $crate::harness::Needs::$needs,
                stringify!($name),
                concat!(stringify!($name), "_on_containerd"),
                concat!(stringify!($name), "_over_cri"),
                $name as fn(&$crate::harness::Shell),
            )),+),+];
            listed.into_iter().flat_map($crate::harness::tests).collect()
        }
    };
}
pub(crate) use scenarios;

/// A function of a list: what it needs, its name, what it is called on containerd and over CRI.
type Listed = (Needs, &'static str, &'static str, &'static str, fn(&Shell));

/// What a function of a list stands for.
pub(crate) fn tests((needs, name, on_containerd, over_cri, run): Listed) -> Vec<Scenario> {
    let mut tests = vec![Scenario { name, needs, again: false, run }];
    match needs {
        Needs::Both => {
            tests.push(Scenario { name: on_containerd, needs: Needs::Containerd, again: true, run })
        }
        Needs::Simulated => {
            tests.push(Scenario { name: over_cri, needs: Needs::OverCri, again: true, run });
        }
        _ => {}
    }
    tests
}

/// How many tests run on containerd at a time.
const AT_A_TIME: usize = 3;

/// How a test went.
pub(crate) enum Outcome {
    /// As it should.
    Passed,
    /// What differed, and what was typed until then.
    Failed(String),
}

/// The clusters of this run.
pub(crate) struct Clusters {
    runtime: Runtime,
    sim: Running,
    real: Result<Running, String>,
    /// Started when a test first needs it.
    containerd: OnceLock<Result<OnContainerd, String>>,
    over_cri: OnceLock<Result<Running, String>>,
    /// Places for tests on containerd: its shims and runc are programs that start for every
    /// container, and starve each other.
    places: Semaphore,
    passed: Mutex<Vec<String>>,
    directory: tempfile::TempDir,
}

struct Running {
    cluster: Cluster,
    kubeconfig: PathBuf,
}

impl Clusters {
    /// Starts those that most tests need.
    pub(crate) fn start() -> Result<Self, String> {
        let runtime = Runtime::new().map_err(|error| error.to_string())?;
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let path = directory.path();
        let (sim, real) = runtime.block_on(async {
            let sim = start(
                Cluster::builder().nodes(3).missing_images(["missing/httpd:3"]),
                path.join("sim"),
            )
            .await;
            (sim, start_real(path).await)
        });
        Ok(Self {
            runtime,
            sim: sim?,
            real,
            containerd: OnceLock::new(),
            over_cri: OnceLock::new(),
            places: Semaphore::new(AT_A_TIME),
            passed: Mutex::default(),
            directory,
        })
    }

    fn on_containerd(&self) -> Result<&Running, String> {
        let started = self.containerd.get_or_init(|| {
            OnContainerd::start(self.runtime.handle(), &self.directory.path().join("containerd"))
        });
        started.as_ref().map(OnContainerd::running).map_err(Clone::clone)
    }

    fn over_cri(&self) -> Result<&Running, String> {
        let started = self.over_cri.get_or_init(|| {
            self.runtime.block_on(over_cri::start(&self.directory.path().join("over-cri")))
        });
        started.as_ref().map_err(Clone::clone)
    }

    /// Why a test cannot run here.
    pub(crate) fn lacks(&self, needs: Needs) -> Option<String> {
        if !has_kubectl() {
            return Some("kubectl is not on the PATH".into());
        }
        match (needs, &self.real) {
            (Needs::Real | Needs::Both | Needs::Registry, Err(reason)) => Some(reason.clone()),
            (Needs::Containerd, _) => {
                Some(crate::lab::missing().join("; ")).filter(|missing| !missing.is_empty())
            }
            (Needs::Registry, _) if !runs("docker-registry") || !runs("skopeo") => {
                Some("docker-registry or skopeo is not on the PATH".into())
            }
            (Needs::Etcd, _) if !cfg!(feature = "etcd") => {
                Some("it was built without the feature etcd".into())
            }
            (Needs::Etcd, _) if !has_etcd() => Some("etcd or etcdctl is not on the PATH".into()),
            _ => None,
        }
    }

    /// Runs one test in a namespace of its own.
    pub(crate) fn run(&self, scenario: &Scenario) -> Outcome {
        let running = match (scenario.needs, &self.real) {
            (Needs::Sim | Needs::Simulated | Needs::Program | Needs::Etcd, _) => &self.sim,
            (Needs::OverCri, _) => match self.over_cri() {
                Ok(running) => running,
                Err(reason) => return Outcome::Failed(reason),
            },
            (Needs::Real | Needs::Both | Needs::Registry, Ok(real)) => real,
            (Needs::Real | Needs::Both | Needs::Registry, Err(reason)) => {
                return Outcome::Failed(reason.clone());
            }
            (Needs::Containerd, _) => match self.on_containerd() {
                Ok(running) => running,
                Err(reason) => return Outcome::Failed(reason),
            },
        };
        let _place = match scenario.needs {
            Needs::Containerd => self.runtime.block_on(self.places.acquire()).ok(),
            _ => None,
        };
        let id = scenario.name.split('_').next().unwrap_or(scenario.name);
        let directory = self.directory.path().join(scenario.name);
        let mut shell = match Shell::new(running, directory, &format!("test-{id}"), scenario.name) {
            Ok(shell) => shell,
            Err(reason) => return Outcome::Failed(reason),
        };
        shell.may_lose_output = scenario.needs == Needs::Containerd;
        let result = catch_unwind(AssertUnwindSafe(|| (scenario.run)(&shell)));
        shell.close();
        match result {
            Ok(()) => {
                if let Some(id) = scenario.id() {
                    lock(&self.passed).push(id.to_owned());
                }
                Outcome::Passed
            }
            Err(panic) => {
                Outcome::Failed(format!("{}\n\n{}", message(&*panic), shell.transcript()))
            }
        }
    }

    /// The ids of the scenarios whose tests passed, once per test.
    pub(crate) fn outcomes(&self) -> Vec<String> {
        lock(&self.passed).clone()
    }

    /// Tears all down, with everything that their containers hold. An error says what is left.
    pub(crate) fn stop(&self) -> Result<(), String> {
        self.runtime.block_on(async {
            self.sim.cluster.shutdown().await;
            if let Ok(real) = &self.real {
                real.cluster.shutdown().await;
            }
            if let Some(Ok(over_cri)) = self.over_cri.get() {
                over_cri.cluster.shutdown().await;
            }
        });
        match self.containerd.get() {
            Some(Ok(containerd)) => containerd.stop(self.runtime.handle()),
            _ => Ok(()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "panicked".to_owned())
}

async fn start(builder: rk::ClusterBuilder, kubeconfig: PathBuf) -> Result<Running, String> {
    let cluster = builder
        .listen(([127, 0, 0, 1], 0))
        .legacy_token_secrets(true)
        .pod_presets(true)
        .start()
        .await
        .map_err(|error| error.to_string())?;
    let text = cluster.kubeconfig().ok_or("the cluster does not listen")?;
    std::fs::write(&kubeconfig, text).map_err(|error| error.to_string())?;
    Ok(Running { cluster, kubeconfig })
}

async fn start_real(directory: &Path) -> Result<Running, String> {
    let busybox = Path::new("/bin/busybox");
    if !busybox.exists() {
        return Err("the static busybox is not at /bin/busybox (busybox-static)".into());
    }
    NativeNode::preflight().map_err(|reasons| reasons.join("; "))?;
    let archive = directory.join("images.tar");
    let written = stand_ins::images(busybox)
        .and_then(|images| rk::cri::images::build::write_archive(&archive, &images));
    written.map_err(|error| error.to_string())?;
    // Tests that start a registry say there how it is reached. No other is asked.
    let registries = Registries::new().directory(directory.join("certs.d")).only_configured();
    let node = NativeNode::new()
        .root(directory.join("node"))
        .name("server3")
        .load([archive])
        .registries(registries);
    start(Cluster::builder().native(node), directory.join("real")).await
}

fn has_kubectl() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        Command::new("kubectl")
            .args(["version", "--client"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

fn has_etcd() -> bool {
    runs("etcd") && runs("etcdctl")
}

fn runs(program: &str) -> bool {
    Command::new(program).arg("--help").output().is_ok()
}

/// What a command printed, and how it ended.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
    /// The exit code; -1 when a signal ended it.
    pub(crate) code: i32,
}

/// A shell whose kubectl talks to the cluster, in a folder and a namespace of its own.
pub(crate) struct Shell {
    directory: PathBuf,
    kubeconfig: PathBuf,
    namespace: String,
    may_lose_output: bool,
    transcript: Mutex<String>,
}

/// How long a command may take, and how long to wait for something to become so.
const PATIENCE: Duration = Duration::from_secs(60);

impl Shell {
    fn new(
        running: &Running,
        directory: PathBuf,
        namespace: &str,
        name: &str,
    ) -> Result<Self, String> {
        std::fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
        let kubeconfig = directory.join("kubeconfig");
        std::fs::copy(&running.kubeconfig, &kubeconfig).map_err(|error| error.to_string())?;
        // Several tests may show one scenario: the hash keeps their namespaces apart.
        let hash = name.bytes().fold(5381_u32, |hash, b| hash.wrapping_mul(33) ^ u32::from(b));
        let namespace = format!("{namespace}-{hash:08x}");
        let may_lose_output = false;
        let transcript = Mutex::default();
        let shell = Self { directory, kubeconfig, namespace, may_lose_output, transcript };
        let made = shell.sh(&format!(
            "kubectl create namespace {0} && kubectl config set-context --current --namespace={0}",
            shell.namespace
        ));
        if made.code != 0 {
            return Err(shell.transcript());
        }
        // A Pod needs the namespace's service account.
        shell.eventually("kubectl get serviceaccount default -o name", "serviceaccount/default");
        Ok(shell)
    }

    fn close(&self) {
        self.sh(&format!("kubectl delete namespace {} --wait=false", self.namespace));
    }

    /// The folder that commands run in.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The namespace that kubectl works in unless told otherwise.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Whether what a container prints may be lost when it ends at once. containerd 1.6 opens its end
    /// of the pipes on a thread of its own; on a busy machine a program can be over before that.
    pub(crate) fn may_lose_output(&self) -> bool {
        self.may_lose_output
    }

    /// Writes a file into the folder that commands run in.
    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.directory.join(name), text).expect("the test's folder takes files");
    }

    /// Copies a manifest of the scenarios into the folder that commands run in.
    pub(crate) fn manifest(&self, name: &str) {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios/manifests");
        std::fs::copy(from.join(name), self.directory.join(name)).expect("the manifest is there");
    }

    /// Runs a line of shell, whatever comes of it.
    pub(crate) fn sh(&self, line: &str) -> Output {
        self.sh_with_input(line, "")
    }

    /// Runs a line of shell with this standard input.
    pub(crate) fn sh_with_input(&self, line: &str, input: &str) -> Output {
        self.write(".stdin", input);
        let stdin =
            std::fs::File::open(self.directory.join(".stdin")).expect("it was just written");
        let output = Command::new("timeout")
            .args(["--kill-after=5", &PATIENCE.as_secs().to_string(), "sh", "-c", line])
            .current_dir(&self.directory)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &self.directory)
            .stdin(stdin)
            .output()
            .expect("there is a shell");
        let output = Output {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code().unwrap_or(-1),
        };
        let mut transcript = lock(&self.transcript);
        transcript.push_str(&format!("$ {line}\n{}{}", output.stdout, output.stderr));
        if output.code != 0 {
            transcript.push_str(&format!("(exit code {})\n", output.code));
        }
        output
    }

    /// Runs a line of shell that must succeed, and returns its standard output.
    #[track_caller]
    pub(crate) fn ok(&self, line: &str) -> String {
        let output = self.sh(line);
        assert_eq!(output.code, 0, "`{line}` failed: {}", output.stderr);
        output.stdout
    }

    /// Runs a line of shell that must fail, and returns its standard error.
    #[track_caller]
    pub(crate) fn fails(&self, line: &str) -> String {
        let output = self.sh(line);
        assert_ne!(output.code, 0, "`{line}` succeeded: {}", output.stdout);
        output.stderr
    }

    /// Repeats a line of shell until its standard output contains `wanted`, and returns it.
    #[track_caller]
    pub(crate) fn eventually(&self, line: &str, wanted: &str) -> String {
        self.until(line, wanted, |output| output.contains(wanted))
    }

    /// Repeats a line of shell until its standard output is as `so`, and returns it. `what` says in
    /// a failure what was waited for.
    #[track_caller]
    pub(crate) fn until(&self, line: &str, what: &str, so: impl Fn(&str) -> bool) -> String {
        let begin = Instant::now();
        loop {
            let output = self.sh(line);
            if so(&output.stdout) {
                return output.stdout;
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "`{line}` did not come to {what:?} within {PATIENCE:?}, but to:\n{}{}",
                output.stdout,
                output.stderr
            );
            std::thread::sleep(Duration::from_millis(150));
        }
    }

    /// What was typed so far, and what came back; the last of it when it is long.
    pub(crate) fn transcript(&self) -> String {
        let transcript = lock(&self.transcript);
        let lines: Vec<_> = transcript.lines().collect();
        lines[lines.len().saturating_sub(120)..].join("\n")
    }
}

/// The output's lines as words.
pub(crate) fn rows(output: &str) -> Vec<Vec<&str>> {
    output.lines().map(|line| line.split_whitespace().collect()).collect()
}

/// A Pod named `name` with these lines as its `spec`.
pub(crate) fn pod(name: &str, spec: &str) -> String {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n{spec}")
}

/// Applies such a Pod.
#[track_caller]
pub(crate) fn apply(t: &Shell, name: &str, spec: &str) {
    t.write(&format!("{name}.yaml"), &pod(name, spec));
    t.ok(&format!("kubectl apply -f {name}.yaml"));
}
