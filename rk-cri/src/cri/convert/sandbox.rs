//! Sandboxes.

use std::path::PathBuf;

use super::{
    super::{memory, v1},
    CgroupNames, cgroup_below_root, namespaces, nanoseconds, seccomp_to_v1, time,
};
use crate::runtime::{
    DnsConfig, PodRef, PortMapping, Resources, SandboxConfig, SandboxStatus, Seccomp,
};

/// Where the kubelet keeps the logs of pods.
const LOGS: &str = "/var/log/pods";

/// What a runtime is asked to make.
pub(in crate::cri) fn to_v1(config: &SandboxConfig, cgroups: &CgroupNames) -> v1::PodSandboxConfig {
    let (labels, annotations) = memory::keep_sandbox(config);
    v1::PodSandboxConfig {
        metadata: Some(metadata(&config.pod, config.attempt)),
        // With the node's network it has the node's name, which the runtime knows.
        hostname: match config.host_network {
            true => String::new(),
            false => config.hostname.clone(),
        },
        log_directory: config.log_directory.to_string_lossy().into_owned(),
        dns_config: Some(v1::DnsConfig {
            servers: config.dns.servers.clone(),
            searches: config.dns.searches.clone(),
            options: config.dns.options.clone(),
        }),
        port_mappings: config.port_mappings.iter().map(port_to_v1).collect(),
        labels,
        annotations,
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: cgroups.parent(&config.cgroup_parent),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(config, "")),
                privileged: config.privileged,
                seccomp: Some(seccomp_to_v1(&Seccomp::Unconfined)),
                ..Default::default()
            }),
            sysctls: config.sysctls.clone(),
            ..Default::default()
        }),
    }
}

/// What a client asks to be made.
pub(in crate::cri) fn from_v1(config: v1::PodSandboxConfig) -> SandboxConfig {
    let linux = config.linux.unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    let modes = security.namespace_options.unwrap_or_default();
    let on_node = |mode: i32| mode == i32::from(v1::NamespaceMode::Node);
    let dns = config.dns_config.unwrap_or_default();
    let (pod, attempt) = pod_ref(config.metadata.unwrap_or_default());
    SandboxConfig {
        pod,
        attempt,
        hostname: config.hostname,
        log_directory: config.log_directory.into(),
        dns: DnsConfig { servers: dns.servers, searches: dns.searches, options: dns.options },
        port_mappings: config.port_mappings.into_iter().filter_map(port_from_v1).collect(),
        host_network: on_node(modes.network),
        host_pid: on_node(modes.pid),
        host_ipc: on_node(modes.ipc),
        share_process_namespace: modes.pid == i32::from(v1::NamespaceMode::Pod),
        privileged: security.privileged,
        // Not part of what a client describes, but asked for beside it.
        runtime_handler: String::new(),
        sysctls: linux.sysctls,
        cgroup_parent: cgroup_below_root(&linux.cgroup_parent),
        labels: config.labels,
        annotations: config.annotations,
    }
}

pub(in crate::cri) fn metadata(pod: &PodRef, attempt: u32) -> v1::PodSandboxMetadata {
    v1::PodSandboxMetadata {
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        namespace: pod.namespace.clone(),
        attempt,
    }
}

pub(in crate::cri) fn pod_ref(metadata: v1::PodSandboxMetadata) -> (PodRef, u32) {
    let v1::PodSandboxMetadata { name, uid, namespace, attempt } = metadata;
    (PodRef { namespace, name, uid }, attempt)
}

fn port_to_v1(port: &PortMapping) -> v1::PortMapping {
    let protocol = match &*port.protocol {
        "udp" => v1::Protocol::Udp,
        "sctp" => v1::Protocol::Sctp,
        _ => v1::Protocol::Tcp,
    };
    v1::PortMapping {
        protocol: protocol.into(),
        container_port: port.container_port.into(),
        host_port: port.host_port.into(),
        host_ip: port.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
    }
}

/// A port that leads into the pod; one that is only told, without a port of the host, is `None`.
fn port_from_v1(port: v1::PortMapping) -> Option<PortMapping> {
    let protocol = match v1::Protocol::try_from(port.protocol) {
        Ok(v1::Protocol::Udp) => "udp",
        Ok(v1::Protocol::Sctp) => "sctp",
        _ => "tcp",
    };
    Some(PortMapping {
        host_port: u16::try_from(port.host_port).ok().filter(|port| *port > 0)?,
        container_port: u16::try_from(port.container_port).ok()?,
        protocol: protocol.to_owned(),
        host_ip: port.host_ip.parse().ok(),
    })
}

/// A sandbox that a runtime tells of. What CRI does not tell is what was kept with it; of one that
/// somebody else made it is guessed as the kubelet has it.
pub(in crate::cri) fn status_from_v1(status: v1::PodSandboxStatus) -> SandboxStatus {
    let (pod, attempt) = pod_ref(status.metadata.unwrap_or_default());
    let mut config = memory::recall_sandbox(status.labels, status.annotations);
    let modes = status.linux.and_then(|linux| linux.namespaces?.options).unwrap_or_default();
    config.host_network = modes.network == i32::from(v1::NamespaceMode::Node);
    if config.log_directory.as_os_str().is_empty() {
        let PodRef { namespace, name, uid } = &pod;
        config.log_directory = PathBuf::from(LOGS).join(format!("{namespace}_{name}_{uid}"));
    }
    let network = status.network.unwrap_or_default();
    let more = network.additional_ips.into_iter().map(|other| other.ip);
    let ips = std::iter::once(network.ip).chain(more);
    SandboxStatus {
        id: status.id,
        config: SandboxConfig { pod, attempt, ..config },
        ready: status.state == i32::from(v1::PodSandboxState::Ready),
        created_at: time(status.created_at).unwrap_or_default(),
        ips: ips.filter_map(|ip| ip.parse().ok()).collect(),
    }
}

fn state(status: &SandboxStatus) -> i32 {
    let ready = status.ready;
    i32::from(if ready { v1::PodSandboxState::Ready } else { v1::PodSandboxState::NotReady })
}

/// What a client is told of a sandbox.
pub(in crate::cri) fn status_to_v1(status: &SandboxStatus) -> v1::PodSandboxStatus {
    let config = &status.config;
    let mut ips = status.ips.iter().map(ToString::to_string);
    v1::PodSandboxStatus {
        id: status.id.clone(),
        metadata: Some(metadata(&config.pod, config.attempt)),
        state: state(status),
        created_at: nanoseconds(status.created_at),
        network: Some(v1::PodSandboxNetworkStatus {
            ip: ips.next().unwrap_or_default(),
            additional_ips: ips.map(|ip| v1::PodIp { ip }).collect(),
        }),
        linux: Some(v1::LinuxPodSandboxStatus {
            namespaces: Some(v1::Namespace { options: Some(namespaces(config, "")) }),
        }),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        ..Default::default()
    }
}

/// A line in a list.
pub(in crate::cri) fn item_to_v1(status: &SandboxStatus) -> v1::PodSandbox {
    v1::PodSandbox {
        id: status.id.clone(),
        metadata: Some(metadata(&status.config.pod, status.config.attempt)),
        state: state(status),
        created_at: nanoseconds(status.created_at),
        labels: status.config.labels.clone(),
        annotations: status.config.annotations.clone(),
        ..Default::default()
    }
}

/// Limits, as CRI has them. It has none on processes: those are the pod's cgroup's.
pub(in crate::cri) fn resources_to_v1(resources: &Resources) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        cpu_period: i64::try_from(resources.cpu_period_us).unwrap_or(i64::MAX),
        cpu_quota: resources.cpu_quota_us,
        cpu_shares: i64::try_from(resources.cpu_shares).unwrap_or(i64::MAX),
        memory_limit_in_bytes: resources.memory_limit_bytes,
        hugepage_limits: resources
            .hugepage_limits
            .iter()
            .map(|(size, limit)| v1::HugepageLimit { page_size: size.clone(), limit: *limit })
            .collect(),
        ..Default::default()
    }
}

pub(in crate::cri) fn resources_from_v1(resources: v1::LinuxContainerResources) -> Resources {
    Resources {
        cpu_shares: u64::try_from(resources.cpu_shares).unwrap_or_default(),
        cpu_quota_us: resources.cpu_quota,
        cpu_period_us: u64::try_from(resources.cpu_period).unwrap_or_default(),
        memory_limit_bytes: resources.memory_limit_in_bytes,
        hugepage_limits: resources
            .hugepage_limits
            .into_iter()
            .map(|limit| (limit.page_size, limit.limit))
            .collect(),
        ..Resources::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> SandboxConfig {
        SandboxConfig {
            pod: PodRef { namespace: "n".into(), name: "p".into(), uid: "u".into() },
            attempt: 2,
            hostname: "p".into(),
            log_directory: "/logs/p".into(),
            dns: DnsConfig { servers: vec!["10.96.0.10".into()], ..Default::default() },
            port_mappings: vec![PortMapping {
                host_port: 80,
                container_port: 8080,
                protocol: "udp".into(),
                host_ip: Some([127, 0, 0, 1].into()),
            }],
            host_ipc: true,
            share_process_namespace: true,
            privileged: true,
            sysctls: [("net.ipv4.ip_forward".to_owned(), "1".to_owned())].into(),
            cgroup_parent: "burstable/podu".into(),
            labels: [("app".to_owned(), "web".to_owned())].into(),
            annotations: [("note".to_owned(), "x".to_owned())].into(),
            ..Default::default()
        }
    }

    fn names() -> CgroupNames {
        CgroupNames { root: "kubepods".into(), driver: Default::default() }
    }

    #[test]
    fn what_is_asked_for_arrives() {
        let made = config();
        let mut arrived = from_v1(to_v1(&made, &names()));
        assert_eq!(arrived.cgroup_parent, "kubepods/burstable/podu");
        arrived.cgroup_parent = made.cgroup_parent.clone();
        assert_eq!(arrived.labels["app"], "web");
        assert_eq!(arrived.labels["io.kubernetes.pod.uid"], "u");
        (arrived.labels, arrived.annotations) = (made.labels.clone(), made.annotations.clone());
        assert_eq!(arrived, made);
    }

    #[test]
    fn a_status_tells_what_it_was_made_from() {
        let made = config();
        let asked = to_v1(&made, &names());
        let status = SandboxStatus {
            id: "s1".into(),
            config: from_v1(asked),
            ready: true,
            created_at: "2026-01-02T03:04:05Z".parse().unwrap(),
            ips: vec![[10, 0, 0, 1].into(), "fd00::1".parse().unwrap()],
        };
        let told = status_from_v1(status_to_v1(&status));
        assert_eq!(told, SandboxStatus { config: made, ..status });
    }

    #[test]
    fn a_sandbox_that_another_made_has_the_kubelets_directory_of_logs() {
        let told = status_from_v1(v1::PodSandboxStatus {
            metadata: Some(metadata(&config().pod, 0)),
            labels: [("app".to_owned(), "web".to_owned())].into(),
            ..Default::default()
        });
        assert_eq!(told.config.log_directory, PathBuf::from("/var/log/pods/n_p_u"));
        assert_eq!(told.config.labels["app"], "web");
    }
}
