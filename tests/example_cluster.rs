//! The `cluster` example as its user meets it: flags, errors, the command form, Ctrl-C, and a kill
//! at the worst moment.

#[path = "common/example.rs"]
mod example;

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| example::example("cluster"))
}

fn cluster(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    cluster(arguments).output().expect("the example runs")
}

/// One line that says `what`, and an exit code that is not 0.
#[track_caller]
fn refused(arguments: &[&str], what: &[&str]) {
    let output = run(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{arguments:?} succeeded");
    assert_eq!(errors.trim().lines().count(), 1, "{errors}");
    for what in what {
        assert!(errors.contains(what), "{what:?} in {errors}");
    }
}

const SIM: &[&str] = &["--runtime", "sim", "--port", "0"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [SIM, more].concat()
}

#[test]
fn help_explains_every_flag() {
    let output = run(&["--help"]);
    let help = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success());
    for flag in [
        "--data-dir",
        "--nodes",
        "--runtime",
        "--port",
        "--kubeconfig",
        "--components",
        "--token",
        "--load-image",
        "--host-network",
        "COMMAND",
    ] {
        assert!(help.contains(flag), "{flag} in {help}");
    }
}

#[test]
fn bad_flags_are_refused_in_one_line() {
    refused(&["--nodes", "0"], &["--nodes 0"]);
    refused(&["--nodes", "2", "--runtime", "native"], &["--runtime sim"]);
    refused(&["--token", ""], &["--token"]);
    refused(&["--components", "scheduler"], &["apiserver"]);
    let output = run(&["--no-such-flag"]);
    assert!(!output.status.success());
}

#[test]
fn a_busy_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("an address").port().to_string();
    refused(&["--runtime", "sim", "--port", &port], &[&port, "--port"]);
}

#[test]
fn an_unusable_data_directory_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    std::fs::write(&file, "not a directory").expect("written");
    let path = file.to_str().expect("UTF-8");
    refused(&with(&["--data-dir", path]), &["--data-dir", path]);
}

#[test]
fn a_damaged_log_is_reported_and_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_str().expect("UTF-8");
    assert!(run(&with(&["--data-dir", path, "--", "true"])).status.success());
    let store = directory.path().join("store");
    let log = std::fs::read_dir(&store)
        .expect("a store")
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .min()
        .expect("a log");
    let mut bytes = std::fs::read(&log).expect("readable");
    for byte in &mut bytes[64..96] {
        *byte ^= 0x55;
    }
    std::fs::write(&log, &bytes).expect("writable");
    refused(&with(&["--data-dir", path, "--", "true"]), &["damaged"]);
    assert_eq!(std::fs::read(&log).expect("readable"), bytes);
}

#[test]
fn a_command_runs_with_kubeconfig_and_gives_its_exit_code() {
    let output = run(&with(&["--quiet", "--", "sh", "-c", "test -s \"$KUBECONFIG\" && exit 7"]));
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let output = run(&with(&["--quiet", "--", "no-such-program"]));
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("no-such-program"), "{output:?}");
}

#[test]
fn a_token_is_accepted_and_written_into_the_kubeconfig() {
    if !has_kubectl("a_token_is_accepted_and_written_into_the_kubeconfig") {
        return;
    }
    let output = run(&with(&[
        "--quiet",
        "--token",
        "let-me-in",
        "--",
        "sh",
        "-c",
        "grep -q let-me-in $KUBECONFIG && kubectl auth whoami -o name; kubectl get ns default -o name",
    ]));
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("namespace/default"), "{output:?}");
}

#[test]
fn only_the_components_asked_for_run() {
    if !has_kubectl("only_the_components_asked_for_run") {
        return;
    }
    let output = run(&with(&[
        "--quiet",
        "--components",
        "apiserver",
        "--",
        "sh",
        "-c",
        "kubectl get nodes -o name; kubectl run p --image=nginx >/dev/null 2>&1 || \
         kubectl create sa default >/dev/null && kubectl run p --image=nginx >/dev/null; sleep 1; \
         kubectl get pod p -o 'jsonpath={.spec.nodeName}'",
    ]));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
}

#[test]
fn an_interrupt_ends_it_and_removes_its_files() {
    let mut child = Started::new(&with(&[]));
    let kubeconfig = child.kubeconfig.clone();
    assert!(kubeconfig.exists());
    child.signal("INT");
    assert!(child.wait().success());
    assert!(!kubeconfig.exists());
}

#[test]
fn a_durable_cluster_has_its_objects_after_a_kill() {
    if !has_kubectl("a_durable_cluster_has_its_objects_after_a_kill") {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_str().expect("UTF-8");
    for round in 0..5 {
        let mut child = Started::new(&with(&["--data-dir", path]));
        let kubectl = |line: &str| {
            let output = Command::new("sh")
                .args(["-c", line])
                .env("KUBECONFIG", &child.kubeconfig)
                .output()
                .expect("a shell");
            assert!(output.status.success(), "{line}: {output:?}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let found = kubectl("kubectl get configmaps -l kept -o name");
        assert_eq!(found.lines().count(), round, "{found}");
        kubectl(&format!(
            "kubectl create configmap c{round} && kubectl label configmap c{round} kept=yes"
        ));
        child.signal("KILL");
        child.wait();
    }
}

/// Killed twice while a Pod with an address and one that counts run: nothing of them ends, and
/// nothing is made twice.
#[test]
fn containers_run_on_when_the_cluster_is_killed() {
    const NAME: &str = "containers_run_on_when_the_cluster_is_killed";
    if !has_kubectl(NAME) || !has_containers(NAME) {
        return;
    }
    let real = RealCluster::new();
    let mut child = real.start();
    child.sh("kubectl wait --for=create serviceaccount/default --timeout=30s");
    child.sh("kubectl run web --image=myapp:v1; \
         kubectl run counter --image=busybox --image-pull-policy=IfNotPresent -- \
         sh -c 'i=0; while true; do i=$((i+1)); echo $i; sleep 0.1; done'; \
         kubectl wait --for=condition=Ready pod/web pod/counter --timeout=60s");
    let identity = "kubectl get pods -o 'jsonpath={range .items[*]}{.metadata.uid} {.status.podIP} \
         {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}'";
    let before = child.sh(identity);
    assert!(
        before.lines().count() == 2 && before.lines().all(|line| line.ends_with(" 0")),
        "{before}"
    );

    for _ in 0..2 {
        let counted = child.sh("kubectl logs counter --tail=1");
        child.signal("KILL");
        child.wait();
        child = real.start();
        child.sh("kubectl wait --for=condition=Ready node --all --timeout=60s");
        assert_eq!(child.sh(identity), before);
        let number = |text: &str| text.trim().parse::<u64>().expect("a number");
        let log = child.sh("kubectl logs counter");
        assert_eq!(log.lines().next(), Some("1"), "the log is the same one");
        let now = number(log.lines().last().unwrap_or_default());
        assert!(now > number(&counted), "it went on counting: {counted} then {now}");
        assert!(
            child.sh("kubectl exec web -- wget -qO- http://127.0.0.1/").contains("Version: v1")
        );
    }

    // The new agent rules over the old containers, and makes new ones beside them.
    child.sh("kubectl run late --image=myapp:v2 && kubectl wait --for=condition=Ready pod/late --timeout=60s");
    child.sh("kubectl delete pod counter --grace-period=1 && kubectl wait --for=delete pod/counter --timeout=60s");
    assert_ne!(child.sh("kubectl get pod late -o 'jsonpath={.status.podIP}'"), "");
    child.signal("INT");
    assert!(child.wait().success());
    let shims = real.processes();
    assert!(shims.is_empty(), "left behind: {shims:?}");
}

/// A durable cluster with real containers, of which nothing is left when the test ends.
struct RealCluster {
    directory: tempfile::TempDir,
}

impl RealCluster {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let images = rk::cri::images::samples::samples(Path::new("/bin/busybox"));
        let archive = directory.path().join("images.tar");
        rk::cri::images::build::write_archive(&archive, &images.expect("images"))
            .expect("the archive is written");
        Self { directory }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    fn start(&self) -> Started {
        let (data, images) = (self.path("data"), self.path("images.tar"));
        Started::new(&["--port", "0", "--data-dir", &data, "--load-image", &images])
    }

    /// Processes that know of its directory: the shims and the containers' helpers.
    fn processes(&self) -> Vec<String> {
        let directory = self.directory.path().to_str().expect("UTF-8");
        let entries = std::fs::read_dir("/proc").expect("there is /proc");
        let lines = entries.filter_map(|entry| {
            let line = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
            Some(String::from_utf8_lossy(&line).replace('\0', " "))
        });
        lines.filter(|line| line.contains(directory)).collect()
    }
}

impl Drop for RealCluster {
    /// What a failed test left running is taken over once more, and taken down in order.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut child = self.start();
            child.signal("INT");
            child.wait();
        }
    }
}

/// A running example that is killed when the test ends.
struct Started {
    child: Child,
    kubeconfig: PathBuf,
}

impl Started {
    fn new(arguments: &[&str]) -> Self {
        let mut child =
            cluster(arguments).stderr(Stdio::piped()).spawn().expect("the example runs");
        let errors = child.stderr.take().expect("it is piped");
        let mut lines = BufReader::new(errors).lines().map_while(Result::ok);
        let mut seen = String::new();
        let kubeconfig = lines.by_ref().find_map(|line| {
            seen.push_str(&line);
            seen.push('\n');
            line.trim().strip_prefix("export KUBECONFIG=").map(PathBuf::from)
        });
        let Some(kubeconfig) = kubeconfig else {
            let _ = child.kill();
            panic!("it did not start: {seen}");
        };
        // Someone has to read on, or the example would wait for room in the pipe.
        std::thread::spawn(move || lines.count());
        Self { child, kubeconfig }
    }

    /// Runs a line of shell with its kubeconfig, and returns what it printed.
    #[track_caller]
    fn sh(&self, line: &str) -> String {
        let mut command = Command::new("timeout");
        command.args(["90", "sh", "-ec", line]).env("KUBECONFIG", &self.kubeconfig);
        let output = command.output().expect("a shell");
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([format!("-{name}"), self.child.id().to_string()])
            .status()
            .expect("there is kill");
        assert!(sent.success());
    }

    fn wait(&mut self) -> std::process::ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                return status;
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn has_kubectl(test: &str) -> bool {
    let found = Command::new("kubectl")
        .args(["version", "--client"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        let required = std::env::var("RK_REQUIRE").is_ok_and(|value| value == "all");
        assert!(!required, "RK_REQUIRE=all, but kubectl is not on the PATH");
        println!("SKIP {test}: kubectl is not on the PATH");
    }
    found
}

/// Whether real containers can run here.
fn has_containers(test: &str) -> bool {
    let missing = match rk::NativeNode::preflight() {
        Ok(()) if Path::new("/bin/busybox").exists() => return true,
        Ok(()) => "the static busybox is not at /bin/busybox".to_owned(),
        Err(reasons) => reasons.join("; "),
    };
    let required = std::env::var("RK_REQUIRE").is_ok_and(|value| value == "all");
    assert!(!required, "RK_REQUIRE=all, but {missing}");
    println!("SKIP {test}: {missing}");
    false
}
