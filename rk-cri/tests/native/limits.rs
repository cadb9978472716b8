//! Limits of CPU, memory and processes.

use std::{fs, path::Path};

use rk_cri::{
    Runtime,
    runtime::{ContainerConfig, Resources},
};

use crate::lab::{Lab, shell};

fn limited(resources: Resources, script: &str) -> ContainerConfig {
    ContainerConfig { resources, ..shell("main", script) }
}

/// A file of the container's cgroup, by its names in versions 1 and 2.
pub fn cgroup_file(lab: &Lab, id: &str, v1: &str, v2: &str) -> String {
    let directories = lab.cgroups();
    let mut of_container = directories.iter().filter(|directory| directory.ends_with(id));
    let found = of_container.find_map(|directory| {
        [v1, v2].iter().find_map(|file| fs::read_to_string(directory.join(file)).ok())
    });
    found.unwrap_or_else(|| panic!("no {v1} or {v2}")).trim().to_owned()
}

pub async fn cpu_memory_and_process_limits_are_set_in_the_cgroup(lab: &mut Lab) {
    let resources = Resources {
        cpu_shares: 512,
        cpu_quota_us: 50_000,
        cpu_period_us: 100_000,
        memory_limit_bytes: 64 << 20,
        pids_limit: 32,
        ..Resources::default()
    };
    let sandbox = lab.sandbox("pod").await;
    let id = lab.start(&sandbox, limited(resources, "sleep 600")).await;
    let read = |v1: &str, v2: &str| cgroup_file(lab, &id, v1, v2);

    let quota = read("cpu.cfs_quota_us", "cpu.max");
    assert!(quota == "50000" || quota == "50000 100000", "{quota}");
    assert_eq!(read("memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    assert_eq!(read("pids.max", "pids.max"), "32");
    if Path::new("/sys/fs/cgroup/cpu").exists() {
        assert_eq!(read("cpu.shares", "cpu.shares"), "512");
    }
    // A command is under the same limits.
    lab.exec(&id, "true").await;
    assert!(lab.cgroups().iter().any(|d| d.ends_with(&id)));
    lab.runtime().remove_container(&id).await.unwrap();
    assert!(!lab.cgroups().iter().any(|d| d.ends_with(&id)), "its cgroups went with it");
}

pub async fn going_over_the_memory_limit_is_oom_killed(lab: &mut Lab) {
    let resources = Resources { memory_limit_bytes: 16 << 20, ..Resources::default() };
    let sandbox = lab.sandbox("pod").await;
    let hungry = "exec tail -f /dev/zero";
    let id = lab.start(&sandbox, limited(resources.clone(), hungry)).await;
    let status = lab.ended(&id).await;
    assert_eq!((status.exit_code, &*status.reason), (Some(137), "OOMKilled"));

    // Also when it is a child that was killed and the shell tells.
    let id = lab.start(&sandbox, limited(resources, "tail -f /dev/zero; exit $?")).await;
    let status = lab.ended(&id).await;
    assert_eq!((status.exit_code, &*status.reason), (Some(137), "OOMKilled"));
}

pub async fn a_kill_without_memory_want_is_not_called_oom(lab: &mut Lab) {
    let resources = Resources { memory_limit_bytes: 64 << 20, ..Resources::default() };
    let sandbox = lab.sandbox("pod").await;
    let id = lab.start(&sandbox, limited(resources, "sleep 600")).await;
    lab.runtime().stop_container(&id, std::time::Duration::ZERO).await.unwrap();
    let status = lab.ended(&id).await;
    assert_eq!((status.exit_code, &*status.reason), (Some(137), "Error"));
}

pub async fn processes_beyond_the_limit_cannot_be_started(lab: &mut Lab) {
    let resources = Resources { pids_limit: 6, ..Resources::default() };
    let script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; echo all";
    let (text, _) = lab.run(limited(resources, script)).await;
    assert!(text.contains("can't fork"), "{text}");
}
