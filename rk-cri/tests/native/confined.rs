//! Which system calls containers and their commands may make.

use rk_cri::{
    Runtime,
    runtime::{ContainerConfig, Seccomp, Security},
};

use crate::lab::{Lab, shell};

fn confined(security: Security, script: &str) -> ContainerConfig {
    ContainerConfig { security, ..shell("main", script) }
}

fn default_profile() -> Security {
    Security { seccomp: Seccomp::RuntimeDefault, ..Security::default() }
}

/// Anybody may make a namespace of users; no capability is needed. So it fails by the filter alone.
const MAKE_NAMESPACE: &str = "unshare -U true 2>/dev/null && echo made || echo refused";

pub async fn the_own_profile_refuses_what_no_capability_would(lab: &mut Lab) {
    let (text, _) = lab.run(shell("main", MAKE_NAMESPACE)).await;
    assert_eq!(text, "made\n");
    let (text, _) = lab.run(confined(default_profile(), MAKE_NAMESPACE)).await;
    assert_eq!(text, "refused\n");

    // A command is under the same filter, and a capability lifts it.
    let sandbox = lab.sandbox("pod").await;
    let id = lab.start(&sandbox, confined(default_profile(), "sleep 600")).await;
    assert_eq!(lab.says(&id, MAKE_NAMESPACE).await, "refused");
    let security = Security { add_capabilities: vec!["SYS_ADMIN".to_owned()], ..default_profile() };
    let id = lab.start(&sandbox, confined(security, "sleep 600")).await;
    assert_eq!(lab.says(&id, MAKE_NAMESPACE).await, "made");
}

pub async fn a_filter_leaves_user_and_capabilities_as_they_were(lab: &mut Lab) {
    let script = "grep -E 'Cap(Eff|Prm|Bnd|Inh|Amb)|NoNewPrivs|Uid' /proc/self/status";
    let users: [fn(Security) -> Security; 3] = [
        |security| security,
        |security| Security { run_as_user: Some(1000), run_as_group: Some(1000), ..security },
        |security| Security {
            run_as_user: Some(1000),
            no_new_privileges: true,
            drop_capabilities: vec!["ALL".to_owned()],
            ..security
        },
    ];
    for user in users {
        let without = confined(user(Security::default()), "sleep 600");
        let with = confined(user(default_profile()), "sleep 600");
        let sandbox = lab.sandbox("pod").await;
        let mut said = Vec::new();
        for config in [without, with] {
            let id = lab.start(&sandbox, config).await;
            let first = "grep -E 'Cap(Eff|Prm|Bnd|Inh|Amb)|NoNewPrivs|Uid' /proc/1/status";
            said.push((lab.says(&id, script).await, lab.says(&id, first).await));
        }
        assert_eq!(said[0], said[1]);
        lab.runtime().remove_pod_sandbox(&sandbox).await.unwrap();
    }
}

pub async fn a_call_that_kills_ends_the_container_by_a_signal(lab: &mut Lab) {
    let profile = lab.directory.path().join("kill.json");
    let rules = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"},
        {"names": ["fchmodat", "chmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}"#;
    std::fs::write(&profile, rules).unwrap();
    let security = Security { seccomp: Seccomp::Localhost(profile), ..Security::default() };
    let (text, code) =
        lab.run(confined(security, "chmod 700 /tmp 2>&1; echo before; exec mkdir /made")).await;
    // SIGSYS, after the number that was asked for: ENOSPC.
    assert_eq!(code, 128 + 31, "{text}");
    assert!(text.contains("No space left") && text.ends_with("before\n"), "{text}");
}

pub async fn a_privileged_container_is_not_filtered(lab: &mut Lab) {
    let security = Security { privileged: true, ..default_profile() };
    let (text, _) = lab.run(confined(security, "grep Seccomp: /proc/1/status")).await;
    assert_eq!(text, "Seccomp:\t0\n");
}

pub async fn a_container_starts_again_under_its_filter_after_a_restart_of_the_agent(lab: &mut Lab) {
    let sandbox = lab.sandbox("pod").await;
    let config = confined(default_profile(), "sleep 600");
    let id = lab.runtime().create_container(&sandbox, config).await.unwrap();
    lab.reopen().await;
    lab.runtime().start_container(&id).await.unwrap();
    assert_eq!(lab.says(&id, "grep Seccomp: /proc/1/status").await, "Seccomp:\t2");
}
