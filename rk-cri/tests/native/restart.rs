//! The agent dies; the pods do not.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use rk_cri::{Runtime, native::NativeRuntime, runtime::ContainerState};

use crate::lab::{self, Lab, eventually, log_text, shell};

/// In the environment of a process that plays the agent, in this directory.
pub const CHILD: &str = "RK_NATIVE_TEST_CHILD";

/// The agent that will be killed: starts a pod, says so, and waits.
pub async fn child(directory: PathBuf) -> ExitCode {
    let network = lab::network(&directory).await;
    let runtime = lab::open(&directory, &network).await;
    let config = lab::sandbox_config(&directory, "survivor");
    let sandbox = runtime.run_pod_sandbox(config).await.unwrap();
    let lives = shell("lives", "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.1; done");
    let ends = shell("ends", "while [ ! -e /dev/shm/go ]; do sleep 0.05; done; echo bye; exit 7");
    for config in [lives, ends] {
        let id = runtime.create_container(&sandbox, config).await.unwrap();
        runtime.start_container(&id).await.unwrap();
    }
    std::fs::write(directory.join("child-is-up"), "").unwrap();
    std::future::pending().await
}

fn spawn_child(directory: &Path) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .env(CHILD, directory)
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

pub async fn pods_outlive_the_killed_owner_and_are_found_again(lab: &mut Lab) {
    lab.release();
    let mut owner = spawn_child(lab.directory.path());
    let up = lab.directory.path().join("child-is-up");
    eventually(|| async { up.exists().then_some(()) }).await;

    owner.kill().unwrap();
    owner.wait().unwrap();
    let log = lab.directory.path().join("logs/survivor/lives/0.log");
    let lines = || log_text(&log).lines().count();
    let at_death = lines();
    eventually(|| async { (lines() > at_death + 3).then_some(()) }).await;

    lab.reopen().await;
    let pods = lab.runtime().list_pod_sandboxes().await.unwrap();
    assert_eq!(pods.len(), 1);
    assert!(pods[0].ready);
    let all = lab.runtime().list_containers().await.unwrap();
    let lives = all.iter().find(|one| one.config.name == "lives").unwrap();
    let ends = all.iter().find(|one| one.config.name == "ends").unwrap();
    assert_eq!(lives.state, ContainerState::Running);
    assert_eq!(ends.state, ContainerState::Running);

    // One ends while nobody looks: its code is kept.
    lab.release();
    let shm = |id: &str| {
        let start = lab.directory.path().join("runtime/containers").join(id).join("start.json");
        let text = std::fs::read_to_string(start).unwrap();
        let start: serde_json::Value = serde_json::from_str(&text).unwrap();
        format!("/proc/{}/root/dev/shm/go", start["pid"])
    };
    std::fs::write(shm(&lives.id), "").unwrap();
    let exit = lab.directory.path().join("runtime/containers").join(&ends.id).join("exit.json");
    eventually(|| async { exit.exists().then_some(()) }).await;
    lab.reopen().await;
    let status = lab.status(&ends.id).await;
    assert_eq!((status.state, status.exit_code), (ContainerState::Exited, Some(7)));
    assert!(log_text(&status.log_path).ends_with("bye\n"));

    // The log goes on, without a gap, and everything still works.
    let text = log_text(&log);
    for (number, line) in text.lines().enumerate() {
        assert_eq!(line, format!("line {}", number + 1));
    }
    assert_eq!(lab.says(&lives.id, "hostname").await, "survivor");
    let sandbox = pods[0].id.clone();
    let id = lab.start(&sandbox, shell("new", "exit 0")).await;
    assert_eq!(lab.ended(&id).await.exit_code, Some(0));
    lab.runtime().stop_container(&lives.id, Duration::ZERO).await.unwrap();
    assert_eq!(lab.status(&lives.id).await.exit_code, Some(137));
    lab.runtime().remove_pod_sandbox(&sandbox).await.unwrap();
}

pub async fn a_sandbox_that_was_half_made_is_taken_down(lab: &mut Lab) {
    let sandbox = lab.sandbox("half").await;
    let id = lab.start(&sandbox, shell("main", "sleep 600")).await;
    lab.release();
    // As if the agent had died before it was complete.
    let record = lab.directory.path().join("runtime/pods").join(&sandbox).join("sandbox.json");
    let text = std::fs::read_to_string(&record).unwrap();
    std::fs::write(&record, text.replace("\"Ready\"", "\"Creating\"")).unwrap();
    // And one that is nothing but a directory.
    std::fs::create_dir_all(lab.directory.path().join("runtime/pods/nothing")).unwrap();
    std::fs::create_dir_all(lab.directory.path().join("runtime/containers/nothing")).unwrap();

    lab.reopen().await;

    assert!(lab.runtime().list_pod_sandboxes().await.unwrap().is_empty());
    assert!(lab.runtime().container_status(&id).await.is_err());
    // A process leaves its cgroup a moment after it hangs up: only the zygote stays.
    eventually(|| async { (lab.processes().len() <= 1).then_some(()) }).await;
    assert!(lab.network.plugin().ipam().list().unwrap().is_empty());
    for directory in ["pods", "containers"] {
        let path = lab.directory.path().join("runtime").join(directory);
        assert_eq!(std::fs::read_dir(path).unwrap().count(), 0, "{directory}");
    }
}

pub async fn a_sandbox_whose_supervisor_died_is_not_ready(lab: &mut Lab) {
    let sandbox = lab.sandbox("pod").await;
    let id = lab.start(&sandbox, shell("main", "sleep 600")).await;
    let record = lab.directory.path().join("runtime/pods").join(&sandbox).join("sandbox.json");
    let record: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(record).unwrap()).unwrap();
    let shim = record["pid"].as_i64().unwrap();
    assert!(Command::new("kill").args(["-9", &shim.to_string()]).status().unwrap().success());

    let status = lab.ended(&id).await;

    assert_eq!((status.exit_code, &*status.reason), (Some(255), "Unknown"));
    let pods = lab.runtime().list_pod_sandboxes().await.unwrap();
    assert!(!pods[0].ready);
    eventually(|| async { (lab.processes().len() <= 1).then_some(()) }).await;
    let refused = lab.runtime().create_container(&sandbox, shell("other", "true")).await;
    assert!(refused.is_err());
    lab.runtime().stop_pod_sandbox(&sandbox).await.unwrap();
    lab.runtime().remove_pod_sandbox(&sandbox).await.unwrap();
    assert!(lab.network.plugin().ipam().list().unwrap().is_empty());
}

pub async fn one_directory_has_one_owner(lab: &mut Lab) {
    let second = NativeRuntime::builder(lab.directory.path().join("runtime"), lab.network.plugin())
        .build()
        .await;
    let error = second.unwrap_err().to_string();
    assert!(error.contains("in use by another process"), "{error}");
}
