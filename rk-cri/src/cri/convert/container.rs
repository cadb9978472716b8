//! Containers.

use std::path::{Path, PathBuf};

use super::{
    super::{memory, v1},
    namespaces, nanoseconds,
    sandbox::{resources_from_v1, resources_to_v1},
    security_from_v1, security_to_v1, signals, time,
};
use crate::runtime::{
    ContainerConfig, ContainerState, ContainerStatus, Device, Mount, SandboxConfig,
};

/// What a runtime is asked to make.
pub(in crate::cri) fn to_v1(
    config: &ContainerConfig,
    sandbox: &SandboxConfig,
) -> v1::ContainerConfig {
    let (labels, annotations) = memory::keep_container(config, &sandbox.pod);
    let envs = config.env.iter().map(|(key, value)| v1::KeyValue {
        key: key.clone(),
        value: value.clone().into_bytes().into(),
    });
    let namespaces = namespaces(sandbox, &config.process_namespace_of);
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: config.name.clone(),
            attempt: config.attempt,
        }),
        image: Some(image_spec(&config.image)),
        command: config.command.clone(),
        args: config.args.clone(),
        working_dir: config.working_dir.clone(),
        envs: envs.collect(),
        mounts: config.mounts.iter().map(mount_to_v1).collect(),
        devices: config.devices.iter().map(device_to_v1).collect(),
        labels,
        annotations,
        log_path: text(&config.log_path),
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources_to_v1(&config.resources)),
            security_context: Some(security_to_v1(&config.security, namespaces)),
        }),
        stop_signal: signals::number(&config.stop_signal),
    }
}

/// What a client asks to be made.
pub(in crate::cri) fn from_v1(config: v1::ContainerConfig) -> ContainerConfig {
    let linux = config.linux.unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    let modes = security.namespace_options.clone().unwrap_or_default();
    let metadata = config.metadata.unwrap_or_default();
    // A variable that is no text cannot be passed on as one.
    let env = config.envs.into_iter();
    let env = env.map(|pair| (pair.key, String::from_utf8_lossy(&pair.value).into_owned()));
    ContainerConfig {
        name: metadata.name,
        attempt: metadata.attempt,
        image: config.image.unwrap_or_default().image,
        command: config.command,
        args: config.args,
        working_dir: config.working_dir,
        env: env.collect(),
        mounts: config.mounts.into_iter().map(mount_from_v1).collect(),
        devices: config.devices.into_iter().map(device_from_v1).collect(),
        log_path: config.log_path.into(),
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        resources: resources_from_v1(linux.resources.unwrap_or_default()),
        security: security_from_v1(security),
        process_namespace_of: match modes.pid == i32::from(v1::NamespaceMode::Target) {
            true => modes.target_id,
            false => String::new(),
        },
        stop_signal: signals::name(config.stop_signal),
        labels: config.labels,
        annotations: config.annotations,
    }
}

pub(in crate::cri) fn image_spec(image: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: image.to_owned(), ..Default::default() }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn mount_to_v1(mount: &Mount) -> v1::Mount {
    let propagation = match mount.propagation.as_deref() {
        Some("HostToContainer") => v1::MountPropagation::HostToContainer,
        Some("Bidirectional") => v1::MountPropagation::Bidirectional,
        _ => v1::MountPropagation::Private,
    };
    v1::Mount {
        container_path: text(&mount.container_path),
        host_path: text(&mount.host_path),
        readonly: mount.read_only,
        recursive_read_only: mount.recursive_read_only,
        propagation: propagation.into(),
        ..Default::default()
    }
}

fn mount_from_v1(mount: v1::Mount) -> Mount {
    let propagation = match v1::MountPropagation::try_from(mount.propagation) {
        Ok(v1::MountPropagation::HostToContainer) => Some("HostToContainer"),
        Ok(v1::MountPropagation::Bidirectional) => Some("Bidirectional"),
        _ => None,
    };
    Mount {
        host_path: mount.host_path.into(),
        container_path: mount.container_path.into(),
        read_only: mount.readonly,
        recursive_read_only: mount.recursive_read_only,
        propagation: propagation.map(str::to_owned),
    }
}

fn device_to_v1(device: &Device) -> v1::Device {
    v1::Device {
        container_path: text(&device.container_path),
        host_path: text(&device.host_path),
        permissions: if device.read_only { "r" } else { "mrw" }.to_owned(),
    }
}

fn device_from_v1(device: v1::Device) -> Device {
    Device {
        host_path: device.host_path.into(),
        container_path: device.container_path.into(),
        read_only: !device.permissions.contains('w'),
    }
}

fn state_from_v1(state: i32) -> ContainerState {
    match v1::ContainerState::try_from(state) {
        Ok(v1::ContainerState::Created) => ContainerState::Created,
        Ok(v1::ContainerState::Running) => ContainerState::Running,
        Ok(v1::ContainerState::Exited) => ContainerState::Exited,
        _ => ContainerState::Unknown,
    }
}

fn state_to_v1(state: ContainerState) -> i32 {
    i32::from(match state {
        ContainerState::Created => v1::ContainerState::Created,
        ContainerState::Running => v1::ContainerState::Running,
        ContainerState::Exited => v1::ContainerState::Exited,
        ContainerState::Unknown => v1::ContainerState::Unknown,
    })
}

/// A container that a runtime tells of, in the sandbox that a list named.
pub(in crate::cri) fn status_from_v1(
    status: v1::ContainerStatus,
    sandbox_id: String,
) -> ContainerStatus {
    let metadata = status.metadata.unwrap_or_default();
    let kept = memory::recall_container(status.labels, status.annotations);
    let told = status.image.unwrap_or_default().image;
    let state = state_from_v1(status.state);
    let ended = state == ContainerState::Exited;
    let (started_at, finished_at) = (time(status.started_at), time(status.finished_at));
    // containerd notes the start when it has heard of it: a short program has ended before that.
    let started_at = match finished_at {
        Some(finished) if ended => started_at.map(|started| started.min(finished)),
        _ => started_at,
    };
    let config = ContainerConfig {
        name: metadata.name,
        attempt: metadata.attempt,
        // The name that was asked for: what the runtime tells may be another of the same image.
        image: if kept.image.is_empty() { told } else { kept.image },
        mounts: status.mounts.into_iter().map(mount_from_v1).collect(),
        ..kept
    };
    ContainerStatus {
        id: status.id,
        sandbox_id,
        config,
        state,
        created_at: time(status.created_at).unwrap_or_default(),
        started_at,
        finished_at,
        exit_code: ended.then_some(status.exit_code),
        reason: status.reason,
        message: status.message,
        image_id: status.image_ref,
        log_path: PathBuf::from(status.log_path),
    }
}

/// What a client is told of a container.
pub(in crate::cri) fn status_to_v1(status: &ContainerStatus) -> v1::ContainerStatus {
    let config = &status.config;
    v1::ContainerStatus {
        id: status.id.clone(),
        metadata: Some(v1::ContainerMetadata {
            name: config.name.clone(),
            attempt: config.attempt,
        }),
        state: state_to_v1(status.state),
        created_at: nanoseconds(status.created_at),
        started_at: status.started_at.map(nanoseconds).unwrap_or_default(),
        finished_at: status.finished_at.map(nanoseconds).unwrap_or_default(),
        exit_code: status.exit_code.unwrap_or_default(),
        image: Some(image_spec(&config.image)),
        image_ref: status.image_id.clone(),
        reason: status.reason.clone(),
        message: status.message.clone(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        mounts: config.mounts.iter().map(mount_to_v1).collect(),
        log_path: text(&status.log_path),
        resources: Some(v1::ContainerResources { linux: Some(resources_to_v1(&config.resources)) }),
        image_id: status.image_id.clone(),
        stop_signal: signals::number(&config.stop_signal),
        ..Default::default()
    }
}

/// A line in a list.
pub(in crate::cri) fn item_to_v1(status: &ContainerStatus) -> v1::Container {
    let config = &status.config;
    v1::Container {
        id: status.id.clone(),
        pod_sandbox_id: status.sandbox_id.clone(),
        metadata: Some(v1::ContainerMetadata {
            name: config.name.clone(),
            attempt: config.attempt,
        }),
        image: Some(image_spec(&config.image)),
        image_ref: status.image_id.clone(),
        state: state_to_v1(status.state),
        created_at: nanoseconds(status.created_at),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        image_id: status.image_id.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{PodRef, Resources, Security};

    fn config() -> ContainerConfig {
        let mount = |path: &str, propagation: Option<&str>| Mount {
            host_path: path.into(),
            container_path: path.into(),
            read_only: propagation.is_none(),
            recursive_read_only: propagation.is_none(),
            propagation: propagation.map(str::to_owned),
        };
        ContainerConfig {
            name: "main".into(),
            attempt: 3,
            image: "busybox:1".into(),
            command: vec!["sh".into()],
            args: vec!["-c".into(), "true".into()],
            working_dir: "/tmp".into(),
            env: vec![("A".into(), "b".into()), ("EMPTY".into(), String::new())],
            mounts: vec![
                mount("/a", None),
                mount("/b", Some("HostToContainer")),
                mount("/c", Some("Bidirectional")),
            ],
            devices: [("/dev/a", true), ("/dev/b", false)]
                .map(|(path, read_only)| Device {
                    host_path: path.into(),
                    container_path: "/dev/x".into(),
                    read_only,
                })
                .into(),
            log_path: "main/3.log".into(),
            stdin: true,
            tty: true,
            resources: Resources {
                cpu_shares: 512,
                cpu_quota_us: 50_000,
                cpu_period_us: 100_000,
                memory_limit_bytes: 1 << 26,
                pids_limit: 0,
                hugepage_limits: [("2MB".into(), 4 << 20)].into(),
            },
            security: Security {
                run_as_user: Some(0),
                run_as_group: Some(7),
                supplemental_groups: vec![1, 2],
                read_only_root: true,
                add_capabilities: vec!["NET_ADMIN".into()],
                drop_capabilities: vec!["ALL".into()],
                no_new_privileges: true,
                ..Default::default()
            },
            process_namespace_of: "c0".into(),
            stop_signal: "SIGUSR1".into(),
            labels: [("app".to_owned(), "web".to_owned())].into(),
            annotations: [("hash".to_owned(), "1".to_owned())].into(),
            ..Default::default()
        }
    }

    fn sandbox() -> SandboxConfig {
        let pod = PodRef { namespace: "n".into(), name: "p".into(), uid: "u".into() };
        SandboxConfig { pod, ..Default::default() }
    }

    #[test]
    fn what_is_asked_for_arrives() {
        let made = config();
        let mut arrived = from_v1(to_v1(&made, &sandbox()));
        assert_eq!(arrived.labels["io.kubernetes.container.name"], "main");
        (arrived.labels, arrived.annotations) = (made.labels.clone(), made.annotations.clone());
        assert_eq!(arrived, made);
    }

    #[test]
    fn a_status_tells_what_it_was_made_from_but_not_the_environment() {
        let status = ContainerStatus {
            id: "c1".into(),
            sandbox_id: "s1".into(),
            config: from_v1(to_v1(&config(), &sandbox())),
            state: ContainerState::Exited,
            created_at: "2026-01-02T03:04:05Z".parse().unwrap(),
            started_at: "2026-01-02T03:04:06Z".parse().ok(),
            finished_at: "2026-01-02T03:04:07Z".parse().ok(),
            exit_code: Some(0),
            reason: "Completed".into(),
            message: String::new(),
            image_id: "sha256:1".into(),
            log_path: "/logs/main/3.log".into(),
        };
        let told = status_from_v1(status_to_v1(&status), "s1".into());
        let expected = ContainerConfig { env: Vec::new(), ..config() };
        assert_eq!(told, ContainerStatus { config: expected, ..status });
    }

    #[test]
    fn no_container_ends_before_it_started() {
        let told = status_from_v1(
            v1::ContainerStatus {
                state: v1::ContainerState::Exited.into(),
                started_at: 2_000,
                finished_at: 1_000,
                ..Default::default()
            },
            String::new(),
        );
        assert_eq!(told.started_at, time(1_000));
        assert_eq!(told.finished_at, time(1_000));
    }

    #[test]
    fn the_namespaces_are_the_sandboxs() {
        let modes = |sandbox: &SandboxConfig, target: &str| {
            let config =
                ContainerConfig { process_namespace_of: target.into(), ..Default::default() };
            let security = to_v1(&config, sandbox).linux.unwrap().security_context.unwrap();
            let modes = security.namespace_options.unwrap();
            (modes.network(), modes.pid(), modes.ipc())
        };
        use v1::NamespaceMode::*;
        assert_eq!(modes(&sandbox(), ""), (Pod, Container, Pod));
        assert_eq!(modes(&sandbox(), "c0"), (Pod, Target, Pod));
        let shared = SandboxConfig { share_process_namespace: true, ..sandbox() };
        assert_eq!(modes(&shared, ""), (Pod, Pod, Pod));
        let host =
            SandboxConfig { host_network: true, host_pid: true, host_ipc: true, ..sandbox() };
        assert_eq!(modes(&host, ""), (Node, Node, Node));
    }

    #[test]
    fn a_privileged_container_sees_all_of_proc() {
        let security = Security { privileged: true, ..Default::default() };
        let config = ContainerConfig { security, ..Default::default() };
        let context = to_v1(&config, &sandbox()).linux.unwrap().security_context.unwrap();
        assert!(context.masked_paths.is_empty() && context.readonly_paths.is_empty());
    }
}
