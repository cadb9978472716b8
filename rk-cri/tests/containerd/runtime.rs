//! The `Runtime` trait on containerd.

use std::{sync::Arc, time::Duration};

use rk_cri::{
    Runtime, RuntimeError,
    conformance::Kit,
    runtime::{
        ContainerConfig, ContainerState, DnsConfig, ExecRequest, Mount, Resources, SandboxConfig,
        Seccomp, Security,
    },
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::lab::{IMAGE, Lab, eventually, log_lines, shell};

pub async fn the_conformance_kit_passes(lab: &mut Lab) {
    let kit = Kit::new(IMAGE, lab.directory.path().join("kit"));
    kit.assert_passed(Arc::new(lab.runtime().clone())).await;
}

pub async fn containers_outlive_the_killed_daemon_and_calls_fail_meanwhile(lab: &mut Lab) {
    let sandbox = lab.sandbox("survivor").await;
    let lives = "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.1; done";
    let lives = lab.start(&sandbox, shell("lives", lives)).await;
    let ends = "while [ ! -e /dev/shm/go ]; do sleep 0.05; done; exit 7";
    let ends = lab.start(&sandbox, shell("ends", ends)).await;

    lab.kill_daemon();
    for _ in 0..2 {
        let error = lab.runtime().list_containers().await.unwrap_err();
        let RuntimeError::Io { source, .. } = &error else { panic!("{error:?}") };
        assert_eq!(source.kind(), std::io::ErrorKind::NotConnected, "{error:?}");
    }

    lab.start_daemon().await;
    // The same client as before: it has connected again.
    let all = lab.runtime().list_containers().await.unwrap();
    assert_eq!(all.len(), 2, "{all:?}");
    let log = all.iter().find(|one| one.id == lives).unwrap().log_path.clone();
    assert!(all.iter().all(|one| one.state == ContainerState::Running), "{all:?}");
    assert!(lab.runtime().list_pod_sandboxes().await.unwrap()[0].ready);
    // What is printed after the return is logged as before.
    let seen = log_lines(&log).len();
    eventually(|| async { (log_lines(&log).len() > seen + 3).then_some(()) }).await;

    lab.says(&lives, "touch /dev/shm/go").await;
    assert_eq!(lab.ended(&ends).await.exit_code, Some(7));
}

pub async fn the_configuration_reaches_the_container(lab: &mut Lab) {
    let shared = lab.directory.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("file"), "content").unwrap();
    let config = SandboxConfig {
        dns: DnsConfig {
            servers: vec!["10.96.0.10".into()],
            searches: vec!["svc.cluster.local".into()],
            options: vec!["ndots:5".into()],
        },
        sysctls: [("net.ipv4.ip_unprivileged_port_start".to_owned(), "80".to_owned())].into(),
        ..lab.sandbox_config("configured")
    };
    let sandbox = lab.runtime().run_pod_sandbox(config).await.unwrap();
    let container = ContainerConfig {
        working_dir: "/tmp".into(),
        env: vec![("GREETING".into(), "hello".into())],
        mounts: vec![Mount {
            host_path: shared.clone(),
            container_path: "/shared".into(),
            read_only: true,
            ..Mount::default()
        }],
        resources: Resources {
            cpu_shares: 512,
            cpu_quota_us: 50_000,
            cpu_period_us: 100_000,
            memory_limit_bytes: 64 << 20,
            ..Resources::default()
        },
        security: Security {
            run_as_user: Some(1000),
            run_as_group: Some(1001),
            supplemental_groups: vec![1002],
            read_only_root: true,
            no_new_privileges: true,
            ..Security::default()
        },
        ..shell("main", "sleep 600")
    };
    let id = lab.start(&sandbox, container).await;

    assert_eq!(lab.says(&id, "pwd; echo $GREETING").await, "/tmp\nhello");
    assert_eq!(lab.says(&id, "hostname").await, "configured");
    assert_eq!(lab.says(&id, "id -u; id -g; id -G").await, "1000\n1001\n1001 1002");
    assert_eq!(lab.says(&id, "cat /shared/file").await, "content");
    let refused = "touch /shared/x 2>/dev/null || echo refused; touch /x 2>/dev/null || echo so";
    assert_eq!(lab.says(&id, refused).await, "refused\nso");
    let resolv = lab.says(&id, "cat /etc/resolv.conf").await;
    assert_eq!(resolv, "search svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5");
    let port = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start";
    assert_eq!(lab.says(&id, port).await, "80");
    assert_eq!(lab.says(&id, "grep NoNewPrivs /proc/self/status").await, "NoNewPrivs:\t1");

    let limits = lab.cgroups().into_iter().filter(|directory| directory.ends_with(&id));
    let read = |name: &str| {
        let files = limits.clone().map(|directory| directory.join(name));
        files.filter_map(|file| std::fs::read_to_string(file).ok()).next()
    };
    if let Some(memory) = read("memory.limit_in_bytes") {
        assert_eq!(memory.trim(), (64 << 20).to_string());
        assert_eq!(read("cpu.shares").unwrap().trim(), "512");
        assert_eq!(read("cpu.cfs_quota_us").unwrap().trim(), "50000");
    } else {
        assert_eq!(read("memory.max").unwrap().trim(), (64 << 20).to_string());
        assert_eq!(read("cpu.max").unwrap().trim(), "50000 100000");
    }
}

pub async fn a_container_that_was_made_before_is_known_to_the_next_process(lab: &mut Lab) {
    let config = SandboxConfig {
        labels: [("app".to_owned(), "web".to_owned())].into(),
        annotations: [("note".to_owned(), "kept".to_owned())].into(),
        ..lab.sandbox_config("kept")
    };
    let sandbox = lab.runtime().run_pod_sandbox(config.clone()).await.unwrap();
    let container = ContainerConfig { attempt: 4, tty: true, ..shell("main", "sleep 600") };
    let id = lab.start(&sandbox, container.clone()).await;

    let next = lab.connect().await.unwrap();
    let known = next.pod_status("uid-kept").await.unwrap();
    assert_eq!(known.sandboxes.len(), 1);
    assert_eq!(known.sandboxes[0].config, config);
    assert_eq!(known.containers.len(), 1);
    let mut found = known.containers[0].config.clone();
    // containerd tells also what it has mounted by itself.
    found.mounts.clear();
    assert_eq!((&known.containers[0].id, found), (&id, container));
    // A further container can be made: that takes all of the sandbox's configuration.
    let more = next.create_container(&sandbox, shell("more", "exit 3")).await.unwrap();
    next.start_container(&more).await.unwrap();
    let ended = lab.ended(&more).await;
    assert_eq!(ended.exit_code, Some(3));
    assert_eq!(ended.log_path, config.log_directory.join("more/0.log"));
    assert!(next.pod_status("nobody").await.unwrap().sandboxes.is_empty());
}

pub async fn sessions_have_a_terminal_and_attach_carries_input(lab: &mut Lab) {
    let sandbox = lab.sandbox("streams").await;
    let container = ContainerConfig {
        stdin: true,
        ..shell("main", "read word; echo got $word; read word; echo got $word >&2; sleep 600")
    };
    let id = lab.start(&sandbox, container).await;

    // The size comes on a stream of its own, at some time.
    let script = "until [ \"$(stty size 2>/dev/null)\" = '30 100' ]; do sleep 0.05; done; read go; echo $go; exit 5";
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    let request = ExecRequest { command, stdin: true, tty: true };
    let mut session = lab.runtime().exec(&id, request).await.unwrap();
    assert!(session.stderr.is_none(), "a terminal has one output");
    session.resize.as_ref().unwrap()(100, 30);
    session.stdin.as_mut().unwrap().write_all(b"typed\n").await.unwrap();
    let mut said = String::new();
    session.stdout.take().unwrap().read_to_string(&mut said).await.unwrap();
    // Once as the terminal's echo, once as the command prints it.
    assert_eq!(said, "typed\r\ntyped\r\n");
    assert_eq!(session.exit.await.unwrap(), 5);

    let mut attached = lab.runtime().attach(&id).await.unwrap();
    let mut stdin = attached.stdin.take().unwrap();
    stdin.write_all(b"one\ntwo\n").await.unwrap();
    stdin.flush().await.unwrap();
    let mut line = [0; 8];
    attached.stdout.take().unwrap().read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"got one\n");
    attached.stderr.take().unwrap().read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"got two\n");

    let missing = ExecRequest { command: vec!["/no/such".into()], stdin: false, tty: false };
    let error = match lab.runtime().exec(&id, missing).await {
        Ok(session) => session.exit.await.unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(&error, RuntimeError::Start(why) if why.contains("/no/such")), "{error:?}");
}

pub async fn what_containers_use_is_told(lab: &mut Lab) {
    let sandbox = lab.sandbox("used").await;
    let id = lab.start(&sandbox, shell("main", "while true; do :; done")).await;
    let started = lab.runtime().container_status(&id).await.unwrap().started_at;
    let stats = eventually(|| async {
        let stats = lab.runtime().list_container_stats().await.unwrap();
        stats.into_iter().find(|stats| stats.name == "main" && !stats.cpu_time.is_zero())
    })
    .await;
    assert_eq!(stats.pod, lab.sandbox_config("used").pod);
    assert_eq!(Some(stats.started_at), started);
    assert!(stats.memory_working_set_bytes > 0);
    lab.runtime().stop_container(&id, Duration::ZERO).await.unwrap();
    eventually(|| async {
        let stats = lab.runtime().list_container_stats().await.unwrap();
        stats.is_empty().then_some(())
    })
    .await;
    let disk = lab.runtime().image_filesystem().await.unwrap().unwrap();
    assert!(disk.path.starts_with(lab.directory.path()), "{disk:?}");
}

pub async fn a_log_goes_on_in_a_new_file(lab: &mut Lab) {
    let sandbox = lab.sandbox("rotated").await;
    let script = "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.05; done";
    let id = lab.start(&sandbox, shell("main", script)).await;
    let log = lab.runtime().container_status(&id).await.unwrap().log_path;
    eventually(|| async { (!log_lines(&log).is_empty()).then_some(()) }).await;
    let old = log.with_extension("old");
    std::fs::rename(&log, &old).unwrap();
    lab.runtime().reopen_container_log(&id).await.unwrap();
    eventually(|| async { (log_lines(&log).len() > 1).then_some(()) }).await;
    // No line is lost or printed twice.
    let lines: Vec<String> = log_lines(&old).into_iter().chain(log_lines(&log)).collect();
    let expected: Vec<String> = (1..=lines.len()).map(|number| format!("line {number}")).collect();
    assert_eq!(lines, expected);
}

pub async fn limits_are_changed_while_a_container_runs(lab: &mut Lab) {
    let sandbox = lab.sandbox("resized").await;
    let small = Resources { memory_limit_bytes: 64 << 20, ..Resources::default() };
    let container = ContainerConfig { resources: small, ..shell("main", "sleep 600") };
    let id = lab.start(&sandbox, container).await;
    let large = Resources { memory_limit_bytes: 128 << 20, ..Resources::default() };
    lab.runtime().update_container_resources(&id, large).await.unwrap();
    let files = ["memory.limit_in_bytes", "memory.max"];
    let limits = lab.cgroups().into_iter().filter(|directory| directory.ends_with(&id));
    let limits = limits.flat_map(|directory| files.map(|file| directory.join(file)));
    let limits: Vec<_> = limits.filter_map(|file| std::fs::read_to_string(file).ok()).collect();
    assert_eq!(limits, [format!("{}\n", 128 << 20)]);
}

pub async fn a_removed_pod_leaves_nothing_behind(lab: &mut Lab) {
    for round in 0..3 {
        let sandbox = lab.sandbox("gone").await;
        lab.start(&sandbox, shell("main", "sleep 600")).await;
        let names = lab.cgroups();
        assert!(names.iter().any(|path| path.ends_with("pod-gone")), "round {round}: {names:?}");
        lab.runtime().remove_pod_sandbox(&sandbox).await.unwrap();
        assert_eq!(lab.runtime().list_pod_sandboxes().await.unwrap(), []);
        assert_eq!(lab.runtime().list_containers().await.unwrap(), []);
        let left: Vec<_> = lab.cgroups();
        let left: Vec<_> = left.iter().filter(|path| path.ends_with("pod-gone")).collect();
        assert!(left.is_empty(), "round {round}: {left:?}");
    }
}

pub async fn system_calls_are_confined_as_asked_for(lab: &mut Lab) {
    let sandbox = lab.sandbox("confined").await;
    let profile = lab.directory.path().join("no-mkdir.json");
    let rules = r#"{"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"#;
    std::fs::write(&profile, rules).unwrap();
    let mut said = Vec::new();
    for (name, seccomp) in [
        ("all", Seccomp::Unconfined),
        ("runtimes", Seccomp::RuntimeDefault),
        ("own", Seccomp::Localhost(profile)),
    ] {
        let container = ContainerConfig {
            security: Security { seccomp, ..Security::default() },
            ..shell(name, "while true; do sleep 0.1; done")
        };
        let id = lab.start(&sandbox, container).await;
        let look = "grep Seccomp: /proc/1/status; mkdir /made && echo made || echo not made";
        said.push(lab.says(&id, look).await.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    // 0 is no filter, 2 a filter (proc_pid_status(5)).
    assert_eq!(said, ["Seccomp: 0 made", "Seccomp: 2 made", "Seccomp: 2 not made"]);
}
