//! From start to end: programs, users, failures, and what is left.

use std::{os::unix::fs::MetadataExt, sync::Arc, time::Duration};

use rk_cri::{
    Runtime, RuntimeError,
    conformance::Kit,
    runtime::{ContainerConfig, ContainerState, Security},
};

use rustix::fs::StatVfsMountFlags;

use crate::lab::{Lab, shell};

pub async fn the_conformance_kit_passes(lab: &mut Lab) {
    let kit = Kit::new("busybox", lab.directory.path().join("kit"));
    kit.assert_passed(Arc::new(lab.runtime().clone())).await;
}

pub async fn a_program_that_cannot_run_is_a_start_error(lab: &mut Lab) {
    let sandbox = lab.sandbox("pod").await;
    for (program, why) in [
        ("nosuch", "exec: \"nosuch\": executable file not found in $PATH"),
        ("/nosuch", "exec: \"/nosuch\": stat /nosuch: no such file or directory"),
        ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
        ("/tmp", "exec: \"/tmp\": is a directory"),
        // The host's own program.
        ("/proc/self/exe", "exec: \"/proc/self/exe\": permission denied"),
    ] {
        let config = ContainerConfig { command: vec![program.to_owned()], ..shell("main", "") };
        let id = lab.runtime().create_container(&sandbox, config).await.unwrap();

        let error = lab.runtime().start_container(&id).await.unwrap_err();

        assert!(matches!(error, RuntimeError::Start(_)), "{program}: {error:?}");
        assert!(error.to_string().contains(why), "{program}: {error}");
        let status = lab.status(&id).await;
        assert_eq!(status.state, ContainerState::Exited);
        assert_eq!((status.exit_code, &*status.reason), (Some(128), "StartError"));
        assert!(status.message.contains(why), "{program}: {}", status.message);
        lab.runtime().remove_container(&id).await.unwrap();
    }
    assert!(lab.processes().len() <= 2, "zygote and shim are left: {:?}", lab.processes());
}

pub async fn the_user_and_directory_are_those_of_pod_or_image(lab: &mut Lab) {
    let with = |security: Security, directory: &str| ContainerConfig {
        security,
        working_dir: directory.to_owned(),
        ..shell("main", "id -u; id -g; id -G; pwd; echo $HOME; echo $FIRST $SECOND")
    };
    let (text, _) = lab.run(with(Security::default(), "")).await;
    assert_eq!(text.lines().collect::<Vec<_>>(), ["0", "0", "0", "/", "/root", ""]);

    let security = Security {
        run_as_user: Some(33),
        run_as_group: Some(7),
        supplemental_groups: vec![50, 51],
        ..Security::default()
    };
    let mut config = with(security, "/made/for/it");
    config.env = vec![("FIRST".into(), "one".into()), ("SECOND".into(), "two words".into())];
    let (text, _) = lab.run(config).await;
    assert_eq!(
        text.lines().collect::<Vec<_>>(),
        ["33", "7", "7 50 51", "/made/for/it", "/var/www", "one two words"]
    );

    let security = Security { run_as_username: Some("nobody".into()), ..Security::default() };
    let (text, _) = lab.run(with(security, "")).await;
    assert!(text.starts_with("65534\n65534\n"), "{text}");

    let security = Security { run_as_username: Some("stranger".into()), ..Security::default() };
    let sandbox = lab.sandbox("pod").await;
    let id = lab.runtime().create_container(&sandbox, with(security, "")).await.unwrap();
    let error = lab.runtime().start_container(&id).await.unwrap_err();
    assert!(error.to_string().contains("no matching entries in passwd file"), "{error}");
}

pub async fn capabilities_and_read_only_root_hold(lab: &mut Lab) {
    let script = "grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status; \
                  touch /file && echo written; echo > /proc/sys/kernel/panic && echo set";
    let (text, _) = lab.run(shell("main", script)).await;
    // containerd's fourteen.
    assert!(text.contains("00000000a80425fb"), "{text}");
    assert!(text.contains("NoNewPrivs:\t0") && text.contains("written"), "{text}");
    assert!(!text.contains("set"), "{text}");

    let security = Security {
        drop_capabilities: vec!["ALL".into()],
        no_new_privileges: true,
        read_only_root: true,
        ..Security::default()
    };
    let config = ContainerConfig { security, ..shell("main", script) };
    let (text, _) = lab.run(config).await;
    assert!(text.contains("CapEff:\t0000000000000000"), "{text}");
    assert!(text.contains("NoNewPrivs:\t1") && !text.contains("written"), "{text}");

    // A command has the same limits as its container.
    let security = Security { drop_capabilities: vec!["ALL".into()], ..Security::default() };
    let sandbox = lab.sandbox("pod").await;
    let config = ContainerConfig { security, ..shell("main", "sleep 600") };
    let id = lab.start(&sandbox, config).await;
    let text = lab.says(&id, "grep Cap /proc/self/status").await;
    assert_eq!(text.matches("0000000000000000").count(), 5, "{text}");

    let security = Security { privileged: true, ..Security::default() };
    let config =
        ContainerConfig { security, ..shell("main", "mount -t tmpfs none /tmp; sleep 600") };
    let id = lab.start(&sandbox, config).await;
    assert!(lab.says(&id, "ls /dev").await.contains("null"));
}

pub async fn the_hosts_program_cannot_be_overwritten_from_a_container(lab: &mut Lab) {
    let id = lab.running("sleep 600").await;
    lab.says(&id, "true").await;
    let own = std::fs::metadata("/proc/self/exe").unwrap();
    for pid in lab.processes() {
        let path = format!("/proc/{pid}/exe");
        let meta = std::fs::metadata(&path).unwrap();
        if (meta.dev(), meta.ino()) == (own.dev(), own.ino()) {
            let mount = rustix::fs::statvfs(&path).unwrap();
            assert!(mount.f_flag.contains(StatVfsMountFlags::RDONLY), "process {pid}");
        }
    }
}

pub async fn fifty_pods_leave_nothing_behind(lab: &mut Lab) {
    // The zygote is there from the start, and stays.
    lab.running("true").await;
    let pods: Vec<_> = lab.runtime().list_pod_sandboxes().await.unwrap();
    lab.runtime().remove_pod_sandbox(&pods[0].id).await.unwrap();
    let links = lab.links().await;
    let before = (lab.processes(), lab.mounts(), lab.cgroups());
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let open = descriptors();

    let begin = tokio::time::Instant::now();
    let mut starting = Duration::ZERO;
    for round in 0..5 {
        let pod = async |number: usize| {
            let name = format!("pod-{round}-{number}");
            let begin = tokio::time::Instant::now();
            let sandbox = lab.sandbox(&name).await;
            let script = "trap 'exit 0' TERM; : > /ready; sleep 600 & wait";
            let id = lab.start(&sandbox, shell("main", script)).await;
            let took = begin.elapsed();
            // Before it has set its trap it would not hear the signal.
            let waits = "until [ -e /ready ]; do :; done; hostname";
            assert_eq!(lab.says(&id, waits).await, name);
            if number.is_multiple_of(2) {
                lab.runtime().stop_container(&id, Duration::from_secs(5)).await.unwrap();
                assert_eq!(lab.status(&id).await.exit_code, Some(0));
            }
            lab.runtime().stop_pod_sandbox(&sandbox).await.unwrap();
            lab.runtime().remove_pod_sandbox(&sandbox).await.unwrap();
            took
        };
        let took = futures::future::join_all((0..10).map(pod)).await;
        starting += took.iter().sum::<Duration>() / 10;
    }
    println!(
        "    50 pods, 10 at once: {:.0?} from nothing to running each, {:.0?} for all",
        starting / 5,
        begin.elapsed()
    );

    // Alone, without others that start at the same time.
    let begin = tokio::time::Instant::now();
    let sandbox = lab.sandbox("alone").await;
    let made = begin.elapsed();
    let id = lab.start(&sandbox, shell("main", "sleep 600")).await;
    println!("    alone: sandbox {made:.1?}, with a running container {:.1?}", begin.elapsed());
    println!("    {}", shim_memory(lab));
    assert_eq!(lab.status(&id).await.state, ContainerState::Running);
    lab.runtime().remove_pod_sandbox(&sandbox).await.unwrap();

    assert_eq!((lab.processes(), lab.mounts()), (before.0, before.1));
    let of_pods = |path: &&std::path::PathBuf| {
        path.components().any(|part| part.as_os_str().to_string_lossy().starts_with("pod-"))
    };
    assert_eq!(lab.cgroups().iter().filter(of_pods).count(), 0, "{:?}", before.2);
    assert_eq!(lab.links().await, links);
    assert!(lab.network.plugin().ipam().list().unwrap().is_empty());
    assert!(descriptors() <= open + 4, "descriptors: {open}, then {}", descriptors());
    for directory in ["pods", "containers", "libcontainer"] {
        let left = std::fs::read_dir(lab.directory.path().join("runtime").join(directory)).unwrap();
        assert_eq!(left.count(), 0, "{directory}");
    }
}

/// What the shims' memory is: what each has alone, and its share of the rest.
fn shim_memory(lab: &Lab) -> String {
    let mut texts = Vec::new();
    for pid in lab.processes() {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let rollup =
            std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let kib = |name: &str| -> u64 {
            let line = rollup.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
        };
        if comm.trim() == "rk-shim" {
            let own = kib("Private_Dirty:");
            texts.push(format!("shim {pid}: {own} KiB of its own, PSS {} KiB", kib("Pss:")));
        }
    }
    texts.join("; ")
}

pub async fn teardown_leaves_only_images(lab: &mut Lab) {
    lab.running("sleep 600").await;
    lab.runtime().teardown().await.unwrap();
    assert!(lab.processes().is_empty() && lab.cgroups().is_empty());
    let mut left: Vec<_> = std::fs::read_dir(lab.directory.path().join("runtime"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["images", "lock"]);
    lab.reopen().await;
    assert_eq!(lab.runtime().list_images().await.unwrap().len(), 1);
}

pub async fn an_image_in_use_keeps_its_layers(lab: &mut Lab) {
    let id = lab.running("sleep 600").await;
    lab.runtime().remove_image("busybox").await.unwrap();
    assert!(lab.runtime().list_images().await.unwrap().is_empty());

    assert_eq!(lab.says(&id, "ls /bin/sh").await, "/bin/sh");

    let error = lab.runtime().pull_image("busybox".into()).await.unwrap_err();
    assert!(error.to_string().contains("not on this node"), "{error}");
    let sandbox = lab.status(&id).await.sandbox_id;
    lab.runtime().remove_pod_sandbox(&sandbox).await.unwrap();
    lab.reopen().await;
    let layers = lab.directory.path().join("runtime/images/layers");
    assert_eq!(std::fs::read_dir(layers).unwrap().count(), 0, "unused layers go at the next start");
}
