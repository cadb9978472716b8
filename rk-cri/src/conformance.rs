//! The meaning of [`Runtime`], as cases that every implementation passes.
//!
//! ```no_run
//! # async fn example() {
//! use std::sync::Arc;
//! use rk_cri::{SimRuntime, conformance::Kit};
//!
//! let kit = Kit::new("busybox:latest", "/tmp/kit-logs");
//! kit.assert_passed(Arc::new(SimRuntime::new())).await;
//! # }
//! ```
//!
//! Containers run `/bin/sh -c` with `echo`, `sleep`, `exit`, `trap`, `cat` and `env` of the image.
//! Cases clean up behind themselves, use pods of their own, and may run on a node in use.

use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, future::BoxFuture};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    logs::{LogFilter, LogOptions, Stream},
    runtime::*,
};

/// What the cases need to know of the runtime under test.
#[derive(Clone, Debug)]
pub struct Kit {
    /// An image with a shell that the runtime has or can pull.
    pub image: String,
    /// An image that it cannot pull.
    pub missing_image: String,
    /// Whether containers are real processes; if not, cases about processes are left out.
    pub real: bool,
    /// A directory for logs.
    pub log_root: PathBuf,
    /// How long anything but a wanted wait may take.
    pub patience: Duration,
}

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The case.
    pub name: &'static str,
    /// What was not as it should be.
    pub result: Result<(), String>,
}

type Case = for<'a> fn(&'a Bench) -> BoxFuture<'a, Result<(), String>>;

/// The cases that every runtime passes.
const CASES: &[(&str, Case)] = &[
    ("a sandbox is ready until it is stopped, and listed until it is removed", |b| {
        b.sandbox_life().boxed()
    }),
    ("a sandbox keeps its labels and annotations", |b| b.sandbox_config_kept().boxed()),
    ("pods have distinct addresses", |b| b.distinct_addresses().boxed()),
    ("a container is created, runs and is removed", |b| b.container_life().boxed()),
    ("a container ends with its program's code", |b| b.exit_codes().boxed()),
    ("a stop asks first", |b| b.stop_asks().boxed()),
    ("a stop kills after the grace period", |b| b.stop_kills().boxed()),
    ("a stop without grace kills at once", |b| b.stop_at_once().boxed()),
    ("stopping a sandbox kills its containers", |b| b.stop_sandbox_kills().boxed()),
    ("what is gone can be stopped and removed again", |b| b.idempotence().boxed()),
    ("what never was has no status", |b| b.not_found().boxed()),
    ("a container cannot be made in a sandbox that was stopped", |b| {
        b.no_container_in_stopped().boxed()
    }),
    ("a container starts once", |b| b.starts_once().boxed()),
    ("logs hold both streams in CRI's format", |b| b.logs().boxed()),
    ("the environment reaches the program", |b| b.environment().boxed()),
    ("a command's output and code come back", |b| b.exec_sync().boxed()),
    ("a command that takes too long is a timeout", |b| b.exec_timeout().boxed()),
    ("a command in a container that ended is refused", |b| b.exec_after_end().boxed()),
    ("a session carries input, output and the code", |b| b.exec_session().boxed()),
    ("a start and an end are announced", |b| b.events().boxed()),
    ("an image that is missing cannot be pulled or used", |b| b.missing_image().boxed()),
    ("an image that was pulled is there", |b| b.images().boxed()),
    ("one pod's containers are found among all", |b| b.pod_status().boxed()),
    ("limits are changed while a container runs", |b| b.changed_limits().boxed()),
];

/// The cases about real processes.
const REAL_CASES: &[(&str, Case)] = &[
    ("a program that does not exist is a start error", |b| b.start_error().boxed()),
    ("containers of a pod share host name and network, not the file system", |b| {
        b.shared().boxed()
    }),
    ("the process namespace is the container's own", |b| b.own_processes().boxed()),
    ("a port of the pod can be reached", |b| b.port_forward().boxed()),
    ("a raised memory limit lets a container use more", |b| b.raised_memory().boxed()),
    ("system calls are those that the container's profile lets pass", |b| b.seccomp().boxed()),
    ("a profile of system calls that is missing is named", |b| b.missing_seccomp().boxed()),
];

impl Kit {
    /// A kit for real containers of `image`, with logs below `log_root`.
    pub fn new(image: impl Into<String>, log_root: impl Into<PathBuf>) -> Self {
        Self {
            image: image.into(),
            missing_image: "registry.invalid/missing:v1".into(),
            real: true,
            log_root: log_root.into(),
            patience: Duration::from_secs(30),
        }
    }

    /// A kit for containers that are only simulated.
    pub fn simulated() -> Self {
        Self { real: false, ..Self::new("busybox:latest", std::env::temp_dir().join("rk-kit")) }
    }

    /// Runs every case.
    pub async fn run(&self, runtime: Arc<dyn Runtime>) -> Vec<Outcome> {
        let real: &[_] = if self.real { REAL_CASES } else { &[] };
        let mut outcomes = Vec::new();
        for (number, (name, case)) in CASES.iter().chain(real).enumerate() {
            let bench = Bench { kit: self.clone(), runtime: runtime.clone(), number };
            let mut result = case(&bench).await;
            if let Err(error) = bench.clean_up().await {
                result = result.and(Err(format!("cleaning up: {error}")));
            }
            outcomes.push(Outcome { name, result });
        }
        outcomes
    }

    /// Runs every case, and panics with the list of those that failed.
    pub async fn assert_passed(&self, runtime: Arc<dyn Runtime>) {
        let outcomes = self.run(runtime).await;
        let failed: Vec<String> = outcomes
            .iter()
            .filter_map(|o| o.result.as_ref().err().map(|why| format!("{}: {why}", o.name)))
            .collect();
        assert!(
            failed.is_empty(),
            "{} of {} cases failed:\n{}",
            failed.len(),
            outcomes.len(),
            failed.join("\n")
        );
    }
}

/// Runs every case of `kit` against the runtime that `make_runtime` makes; see [`Kit::run`].
pub async fn run<F: Future<Output = Arc<dyn Runtime>>>(
    kit: &Kit,
    make_runtime: impl FnOnce() -> F,
) -> Vec<Outcome> {
    kit.run(make_runtime().await).await
}

/// One case's view of the runtime.
struct Bench {
    kit: Kit,
    runtime: Arc<dyn Runtime>,
    number: usize,
}

macro_rules! ensure {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err(format!($($why)+));
        }
    };
}

mod confinement;

fn text<E: std::fmt::Display>(error: E) -> String {
    error.to_string()
}

/// An error with what is behind it, as the agent tells both.
fn told(error: &RuntimeError) -> String {
    use std::error::Error;
    error.source().map_or_else(|| text(error), |source| format!("{error}: {source}"))
}

impl Bench {
    fn namespace(&self) -> String {
        format!("kit-{}", self.number)
    }

    fn sandbox_config(&self, name: &str) -> SandboxConfig {
        let namespace = self.namespace();
        let uid = format!("{namespace}-{name}");
        SandboxConfig {
            log_directory: self.kit.log_root.join(&uid),
            cgroup_parent: format!("besteffort/pod{uid}"),
            hostname: name.to_string(),
            labels: [("kit".to_string(), namespace.clone())].into(),
            annotations: [("kit/number".to_string(), self.number.to_string())].into(),
            pod: PodRef { namespace, name: name.to_string(), uid },
            ..Default::default()
        }
    }

    async fn sandbox(&self, name: &str) -> Result<String, String> {
        self.runtime.run_pod_sandbox(self.sandbox_config(name)).await.map_err(text)
    }

    fn shell(&self, name: &str, script: &str) -> ContainerConfig {
        ContainerConfig {
            name: name.to_string(),
            image: self.kit.image.clone(),
            command: ["/bin/sh", "-c", script].map(String::from).into(),
            log_path: format!("{name}/0.log").into(),
            labels: [("kit".to_string(), self.namespace())].into(),
            ..Default::default()
        }
    }

    async fn create(&self, sandbox: &str, config: ContainerConfig) -> Result<String, String> {
        if self.runtime.image_status(&self.kit.image).await.map_err(text)?.is_none() {
            self.runtime.pull_image(self.kit.image.as_str().into()).await.map_err(text)?;
        }
        self.runtime.create_container(sandbox, config).await.map_err(|error| told(&error))
    }

    /// A running container in a sandbox of its own.
    async fn running(&self, script: &str) -> Result<String, String> {
        let sandbox = self.sandbox("pod").await?;
        let id = self.create(&sandbox, self.shell("main", script)).await?;
        self.runtime.start_container(&id).await.map_err(text)?;
        Ok(id)
    }

    async fn status(&self, id: &str) -> Result<ContainerStatus, String> {
        self.runtime.container_status(id).await.map_err(text)
    }

    /// Waits for a container's end.
    async fn ended(&self, id: &str) -> Result<ContainerStatus, String> {
        let wait = async {
            loop {
                let status = self.status(id).await?;
                if status.state == ContainerState::Exited {
                    return Ok(status);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(self.kit.patience, wait)
            .await
            .map_err(|_| format!("{id} did not end"))?
    }

    async fn sandbox_status(&self, id: &str) -> Result<Option<SandboxStatus>, String> {
        let all = self.runtime.list_pod_sandboxes().await.map_err(text)?;
        Ok(all.into_iter().find(|sandbox| sandbox.id == id))
    }

    async fn log(&self, id: &str, stream: Stream) -> Result<String, String> {
        let log = match self.runtime.container_log(id).await.map_err(text)? {
            LogSource::File(path) => {
                std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?
            }
            LogSource::Memory(bytes) => bytes.to_vec(),
        };
        let mut filter = LogFilter::new(LogOptions { stream: Some(stream), ..Default::default() });
        Ok(String::from_utf8_lossy(&filter.render(&log)).into_owned())
    }

    async fn exec(&self, id: &str, script: &str) -> Result<ExecOutput, String> {
        let command = ["/bin/sh", "-c", script].map(String::from).into();
        self.runtime.exec_sync(id, command, self.kit.patience).await.map_err(text)
    }

    async fn clean_up(&self) -> Result<(), String> {
        for sandbox in self.runtime.list_pod_sandboxes().await.map_err(text)? {
            if sandbox.config.pod.namespace == self.namespace() {
                self.runtime.stop_pod_sandbox(&sandbox.id).await.map_err(text)?;
                self.runtime.remove_pod_sandbox(&sandbox.id).await.map_err(text)?;
            }
        }
        let containers = self.runtime.list_containers().await.map_err(text)?;
        let left =
            containers.iter().find(|c| c.config.labels.get("kit") == Some(&self.namespace()));
        ensure!(left.is_none(), "a container outlived its sandbox: {left:?}");
        Ok(())
    }

    // === sandboxes ===

    async fn sandbox_life(&self) -> Result<(), String> {
        let id = self.sandbox("pod").await?;
        let status = self.sandbox_status(&id).await?.ok_or("not listed")?;
        ensure!(status.ready, "not ready after it was made");
        ensure!(!status.ips.is_empty(), "no address");
        self.runtime.stop_pod_sandbox(&id).await.map_err(text)?;
        let status = self.sandbox_status(&id).await?.ok_or("not listed after the stop")?;
        ensure!(!status.ready, "ready after the stop");
        self.runtime.remove_pod_sandbox(&id).await.map_err(text)?;
        ensure!(self.sandbox_status(&id).await?.is_none(), "listed after the removal");
        Ok(())
    }

    async fn sandbox_config_kept(&self) -> Result<(), String> {
        let id = self.sandbox("pod").await?;
        let kept = self.sandbox_status(&id).await?.ok_or("not listed")?.config;
        let made = self.sandbox_config("pod");
        ensure!(kept.pod == made.pod, "pod is {:?}", kept.pod);
        ensure!(kept.labels == made.labels, "labels are {:?}", kept.labels);
        ensure!(kept.annotations == made.annotations, "annotations are {:?}", kept.annotations);
        Ok(())
    }

    async fn distinct_addresses(&self) -> Result<(), String> {
        let names = ["a", "b", "c", "d"];
        let ids =
            futures::future::try_join_all(names.iter().map(|name| self.sandbox(name))).await?;
        let mut seen = std::collections::BTreeSet::new();
        for id in &ids {
            let status = self.sandbox_status(id).await?.ok_or("not listed")?;
            let address = *status.ips.first().ok_or("no address")?;
            ensure!(seen.insert(address), "{address} was given twice");
        }
        Ok(())
    }

    // === containers ===

    async fn container_life(&self) -> Result<(), String> {
        let sandbox = self.sandbox("pod").await?;
        let config = ContainerConfig { attempt: 3, ..self.shell("main", "sleep 600") };
        let id = self.create(&sandbox, config).await?;
        let status = self.status(&id).await?;
        ensure!(status.state == ContainerState::Created, "{:?} before the start", status.state);
        ensure!(status.sandbox_id == sandbox, "in sandbox {}", status.sandbox_id);
        ensure!(
            (&*status.config.name, status.config.attempt) == ("main", 3),
            "name or attempt lost"
        );
        self.runtime.start_container(&id).await.map_err(text)?;
        let status = self.status(&id).await?;
        ensure!(status.state == ContainerState::Running, "{:?} after the start", status.state);
        ensure!(
            status.started_at.is_some() && status.finished_at.is_none(),
            "times are {status:?}"
        );
        ensure!(!status.image_id.is_empty(), "no image id");
        self.runtime.remove_container(&id).await.map_err(text)?;
        let gone = self.runtime.container_status(&id).await;
        ensure!(matches!(gone, Err(RuntimeError::NotFound { .. })), "after the removal: {gone:?}");
        Ok(())
    }

    async fn exit_codes(&self) -> Result<(), String> {
        let sandbox = self.sandbox("pod").await?;
        for (name, script, code, reason) in
            [("good", "exit 0", 0, "Completed"), ("bad", "exit 42", 42, "Error")]
        {
            let id = self.create(&sandbox, self.shell(name, script)).await?;
            self.runtime.start_container(&id).await.map_err(text)?;
            let status = self.ended(&id).await?;
            ensure!(status.exit_code == Some(code), "{script}: code {:?}", status.exit_code);
            ensure!(status.reason == reason, "{script}: reason {}", status.reason);
            ensure!(status.finished_at >= status.started_at, "ended before it started: {status:?}");
        }
        Ok(())
    }

    async fn stop_asks(&self) -> Result<(), String> {
        let id = self.running("trap 'exit 7' TERM; while true; do sleep 0.1; done").await?;
        // The shell needs a moment to set its trap.
        tokio::time::sleep(Duration::from_millis(300)).await;
        self.runtime.stop_container(&id, self.kit.patience).await.map_err(text)?;
        let status = self.status(&id).await?;
        ensure!(
            status.exit_code == Some(7),
            "after the stop: {:?}, {:?}",
            status.state,
            status.exit_code
        );
        Ok(())
    }

    async fn stop_kills(&self) -> Result<(), String> {
        let id = self.running("trap '' TERM; while true; do sleep 0.1; done").await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let started = tokio::time::Instant::now();
        self.runtime.stop_container(&id, Duration::from_secs(1)).await.map_err(text)?;
        ensure!(
            started.elapsed() >= Duration::from_millis(900),
            "killed after {:?}",
            started.elapsed()
        );
        let status = self.status(&id).await?;
        ensure!(
            status.exit_code == Some(137),
            "after the stop: {:?}, {:?}",
            status.state,
            status.exit_code
        );
        Ok(())
    }

    async fn stop_at_once(&self) -> Result<(), String> {
        let id = self.running("sleep 600").await?;
        self.runtime.stop_container(&id, Duration::ZERO).await.map_err(text)?;
        let status = self.status(&id).await?;
        ensure!(
            status.exit_code == Some(137),
            "after the stop: {:?}, {:?}",
            status.state,
            status.exit_code
        );
        Ok(())
    }

    async fn stop_sandbox_kills(&self) -> Result<(), String> {
        let id = self.running("sleep 600").await?;
        let sandbox = self.status(&id).await?.sandbox_id;
        self.runtime.stop_pod_sandbox(&sandbox).await.map_err(text)?;
        let status = self.status(&id).await?;
        ensure!(status.state == ContainerState::Exited, "{:?} after the stop", status.state);
        Ok(())
    }

    async fn idempotence(&self) -> Result<(), String> {
        let id = self.running("exit 0").await?;
        let sandbox = self.ended(&id).await?.sandbox_id;
        for _ in 0..2 {
            self.runtime.stop_container(&id, Duration::from_secs(1)).await.map_err(text)?;
        }
        for _ in 0..2 {
            self.runtime.remove_container(&id).await.map_err(text)?;
        }
        self.runtime.stop_container(&id, Duration::from_secs(1)).await.map_err(text)?;
        for _ in 0..2 {
            self.runtime.stop_pod_sandbox(&sandbox).await.map_err(text)?;
        }
        for _ in 0..2 {
            self.runtime.remove_pod_sandbox(&sandbox).await.map_err(text)?;
        }
        self.runtime.stop_pod_sandbox(&sandbox).await.map_err(text)
    }

    async fn not_found(&self) -> Result<(), String> {
        let nothing = "0123456789abcdef";
        let status = self.runtime.container_status(nothing).await;
        ensure!(matches!(status, Err(RuntimeError::NotFound { .. })), "status: {status:?}");
        let start = self.runtime.start_container(nothing).await;
        ensure!(matches!(start, Err(RuntimeError::NotFound { .. })), "start: {start:?}");
        let create = self.runtime.create_container(nothing, self.shell("main", "exit 0")).await;
        ensure!(matches!(create, Err(RuntimeError::NotFound { .. })), "create: {create:?}");
        Ok(())
    }

    async fn no_container_in_stopped(&self) -> Result<(), String> {
        let sandbox = self.sandbox("pod").await?;
        self.runtime.stop_pod_sandbox(&sandbox).await.map_err(text)?;
        let made = self.create(&sandbox, self.shell("main", "exit 0")).await;
        ensure!(made.is_err(), "it was made: {made:?}");
        Ok(())
    }

    async fn starts_once(&self) -> Result<(), String> {
        let id = self.running("sleep 600").await?;
        let again = self.runtime.start_container(&id).await;
        ensure!(matches!(again, Err(RuntimeError::State { .. })), "the second start: {again:?}");
        ensure!(
            self.status(&id).await?.state == ContainerState::Running,
            "it does not run any more"
        );
        Ok(())
    }

    async fn logs(&self) -> Result<(), String> {
        let id = self.running("echo one; echo two >&2; echo -n three").await?;
        self.ended(&id).await?;
        let (out, err) =
            (self.log(&id, Stream::Stdout).await?, self.log(&id, Stream::Stderr).await?);
        ensure!(out.trim_end() == "one\nthree", "standard output is {out:?}");
        ensure!(err == "two\n", "standard error is {err:?}");
        Ok(())
    }

    async fn environment(&self) -> Result<(), String> {
        let sandbox = self.sandbox("pod").await?;
        let env = [("GREETING", "hello"), ("EMPTY", ""), ("GREETING", "hello again")];
        let env = env.map(|(k, v)| (k.to_string(), v.to_string())).into();
        let config = ContainerConfig { env, ..self.shell("main", "echo \"$GREETING:$EMPTY:\"") };
        let id = self.create(&sandbox, config).await?;
        self.runtime.start_container(&id).await.map_err(text)?;
        self.ended(&id).await?;
        let out = self.log(&id, Stream::Stdout).await?;
        ensure!(out == "hello again::\n", "it printed {out:?}");
        Ok(())
    }

    // === commands ===

    async fn exec_sync(&self) -> Result<(), String> {
        let id = self.running("sleep 600").await?;
        let output = self.exec(&id, "echo out; echo err >&2; exit 5").await?;
        let expected = ExecOutput { stdout: "out\n".into(), stderr: "err\n".into(), exit_code: 5 };
        ensure!(output == expected, "got {output:?}");
        Ok(())
    }

    async fn exec_timeout(&self) -> Result<(), String> {
        let id = self.running("sleep 600").await?;
        let command = ["/bin/sh", "-c", "sleep 600"].map(String::from).into();
        let result = self.runtime.exec_sync(&id, command, Duration::from_millis(500)).await;
        ensure!(matches!(result, Err(RuntimeError::Timeout(_))), "got {result:?}");
        ensure!(
            self.status(&id).await?.state == ContainerState::Running,
            "the container ended too"
        );
        Ok(())
    }

    async fn exec_after_end(&self) -> Result<(), String> {
        let id = self.running("exit 0").await?;
        self.ended(&id).await?;
        let result = self.runtime.exec_sync(&id, vec!["true".into()], self.kit.patience).await;
        ensure!(result.is_err(), "got {result:?}");
        Ok(())
    }

    async fn exec_session(&self) -> Result<(), String> {
        let id = self.running("sleep 600").await?;
        let command = ["/bin/sh", "-c", "cat; echo done >&2; exit 3"].map(String::from).into();
        let request = ExecRequest { command, stdin: true, tty: false };
        let mut session = self.runtime.exec(&id, request).await.map_err(text)?;
        let mut stdin = session.stdin.take().ok_or("no standard input")?;
        stdin.write_all(b"typed\n").await.map_err(text)?;
        stdin.shutdown().await.map_err(text)?;
        drop(stdin);
        let (mut out, mut err) = (String::new(), String::new());
        let mut stdout = session.stdout.take().ok_or("no standard output")?;
        let mut stderr = session.stderr.take().ok_or("no standard error")?;
        let all = async {
            let read =
                tokio::try_join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err));
            read.map_err(text)?;
            session.exit.await.map_err(text)
        };
        let code =
            tokio::time::timeout(self.kit.patience, all).await.map_err(|_| "it did not end")??;
        ensure!((&*out, &*err, code) == ("typed\n", "done\n", 3), "got {out:?}, {err:?}, {code}");
        Ok(())
    }

    // === events, images, queries ===

    async fn events(&self) -> Result<(), String> {
        let mut events = self.runtime.events();
        let id = self.running("sleep 0.2; exit 0").await?;
        let pod = self.sandbox_config("pod").pod;
        let seen = async {
            while let Some(event) = events.next().await {
                let ours = event.pod == pod && event.container_id.as_ref() == Some(&id);
                if ours && self.status(&id).await?.state == ContainerState::Exited {
                    return Ok(());
                }
            }
            Err("events ended".to_string())
        };
        tokio::time::timeout(self.kit.patience, seen).await.map_err(|_| "no event of the end")?
    }

    async fn missing_image(&self) -> Result<(), String> {
        let image = &self.kit.missing_image;
        let status = self.runtime.image_status(image).await.map_err(text)?;
        ensure!(status.is_none(), "it is there: {status:?}");
        let pulled = self.runtime.pull_image(image.as_str().into()).await;
        ensure!(matches!(pulled, Err(RuntimeError::ImagePull { .. })), "pull: {pulled:?}");
        let sandbox = self.sandbox("pod").await?;
        let config = ContainerConfig { image: image.clone(), ..self.shell("main", "exit 0") };
        let made = self.runtime.create_container(&sandbox, config).await;
        ensure!(made.is_err(), "a container was made of it");
        Ok(())
    }

    async fn images(&self) -> Result<(), String> {
        let image = &self.kit.image;
        if self.runtime.image_status(image).await.map_err(text)?.is_none() {
            self.runtime.pull_image(image.as_str().into()).await.map_err(text)?;
        }
        let status = self.runtime.image_status(image).await.map_err(text)?.ok_or("not there")?;
        ensure!(!status.id.is_empty(), "no id");
        let listed = self.runtime.list_images().await.map_err(text)?;
        ensure!(listed.iter().any(|other| other.id == status.id), "not listed: {listed:?}");
        Ok(())
    }

    async fn pod_status(&self) -> Result<(), String> {
        let (one, two) = (self.sandbox("one").await?, self.sandbox("two").await?);
        let id = self.create(&one, self.shell("main", "sleep 600")).await?;
        self.create(&two, self.shell("main", "sleep 600")).await?;
        let uid = self.sandbox_config("one").pod.uid;
        let status = self.runtime.pod_status(&uid).await.map_err(text)?;
        let sandboxes: Vec<_> = status.sandboxes.iter().map(|s| &s.id).collect();
        let containers: Vec<_> = status.containers.iter().map(|c| &c.id).collect();
        ensure!(sandboxes == [&one], "sandboxes {sandboxes:?}");
        ensure!(containers == [&id], "containers {containers:?}");
        Ok(())
    }

    // === real processes ===

    async fn start_error(&self) -> Result<(), String> {
        let sandbox = self.sandbox("pod").await?;
        let command = vec!["/no/such/program".to_string()];
        let config = ContainerConfig { command, ..self.shell("main", "") };
        let id = self.create(&sandbox, config).await?;
        let started = self.runtime.start_container(&id).await;
        ensure!(matches!(started, Err(RuntimeError::Start(_))), "start: {started:?}");
        Ok(())
    }

    async fn shared(&self) -> Result<(), String> {
        let sandbox = self.sandbox("pod").await?;
        let mut outputs = Vec::new();
        for name in ["one", "two"] {
            let id = self.create(&sandbox, self.shell(name, "sleep 600")).await?;
            self.runtime.start_container(&id).await.map_err(text)?;
            let shared =
                self.exec(&id, "hostname; readlink /proc/self/ns/net /proc/self/ns/ipc").await?;
            let mine =
                self.exec(&id, "ls /tmp/mark 2>/dev/null; mkdir -p /tmp; echo > /tmp/mark").await?;
            ensure!(mine.stdout.is_empty(), "{name} sees the other's file");
            outputs.push(shared.stdout);
        }
        ensure!(outputs[0] == outputs[1], "not shared: {outputs:?}");
        ensure!(outputs[0].starts_with(b"pod\n"), "host name: {outputs:?}");
        Ok(())
    }

    async fn own_processes(&self) -> Result<(), String> {
        let sandbox = self.sandbox("pod").await?;
        let other = self.create(&sandbox, self.shell("other", "sleep 611")).await?;
        let id = self.create(&sandbox, self.shell("main", "sleep 600")).await?;
        self.runtime.start_container(&other).await.map_err(text)?;
        self.runtime.start_container(&id).await.map_err(text)?;
        let output =
            self.exec(&id, "cat /proc/1/cmdline /proc/[0-9]*/cmdline | tr '\\0' ' '").await?;
        let processes = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(processes.contains("sleep 600"), "own process not seen: {processes}");
        ensure!(!processes.contains("sleep 611"), "the other's is seen: {processes}");
        Ok(())
    }

    async fn port_forward(&self) -> Result<(), String> {
        let script = "while true; do echo hello | nc -l -p 8000; done";
        let id = self.running(script).await?;
        let sandbox = self.status(&id).await?.sandbox_id;
        let talk = async {
            loop {
                if let Ok(mut stream) = self.runtime.port_forward(&sandbox, 8000).await {
                    let mut said = String::new();
                    stream.read_to_string(&mut said).await.ok();
                    if said == "hello\n" {
                        return;
                    }
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(self.kit.patience, talk).await.map_err(|_| "no answer".to_string())
    }
}
