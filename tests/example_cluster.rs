//! The `cluster` example as its user meets it: flags, errors, the command form, Ctrl-C, and a kill
//! at the worst moment.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

/// The built example. `cargo test` builds examples only when no single test target is named.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let test = std::env::current_exe().expect("this test has a path");
        let profile = test.ancestors().nth(2).expect("target/profile/deps/test");
        let mut build = Command::new(env!("CARGO"));
        // With the whole workspace, as it was tested: other features would build everything anew.
        build.args(["build", "--workspace", "--locked", "--quiet", "--example", "cluster"]);
        if profile.ends_with("release") {
            build.arg("--release");
        }
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(build.status().expect("cargo runs").success(), "the example builds");
        profile.join("examples/cluster")
    })
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
