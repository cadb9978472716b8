//! CRI's messages from and to the runtime's own types. Pure.

use std::path::{Component, Path};

use k8s_openapi::jiff::Timestamp;

use super::v1;
use crate::runtime::{SandboxConfig, Seccomp, Security};

pub(super) mod container;
pub(super) mod sandbox;
mod signals;
pub(super) mod stats;

/// Who makes cgroups, which decides how they are named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupDriver {
    /// The runtime itself: `/kubepods/burstable/pod1234`.
    #[default]
    Cgroupfs,
    /// systemd: `kubepods-burstable-pod1234.slice`.
    Systemd,
}

/// How the pods' cgroups are named.
#[derive(Clone, Debug)]
pub(super) struct CgroupNames {
    /// The one that holds them all.
    pub(super) root: String,
    pub(super) driver: CgroupDriver,
}

impl CgroupNames {
    /// The name of a pod's cgroup, which is given as a path below the root.
    pub(super) fn parent(&self, path: &str) -> String {
        let root = &self.root;
        match self.driver {
            _ if path.is_empty() => String::new(),
            CgroupDriver::Cgroupfs => format!("/{root}/{path}"),
            CgroupDriver::Systemd => {
                // A slice's name holds its path, so what is in it cannot hold the separator.
                let parts = path.split('/').filter(|part| !part.is_empty());
                let name: Vec<String> = parts.map(|part| part.replace('-', "_")).collect();
                format!("{root}-{}.slice", name.join("-"))
            }
        }
    }
}

/// A pod's cgroup as a path below the runtime's own root: nothing in it leads elsewhere.
fn cgroup_below_root(parent: &str) -> String {
    let parts = Path::new(parent).components().filter_map(|part| match part {
        Component::Normal(part) => part.to_str(),
        _ => None,
    });
    parts.collect::<Vec<_>>().join("/")
}

/// A time that CRI counts in nanoseconds since 1970; zero is none.
pub(super) fn time(nanoseconds: i64) -> Option<Timestamp> {
    match nanoseconds {
        0 => None,
        _ => Timestamp::from_nanosecond(nanoseconds.into()).ok(),
    }
}

/// Nanoseconds since 1970.
pub(super) fn nanoseconds(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}

/// The namespaces of a sandbox, or those of a container in it.
fn namespaces(sandbox: &SandboxConfig, target: &str) -> v1::NamespaceOption {
    use v1::NamespaceMode::{Container, Node, Pod, Target};
    let of = |host: bool| if host { Node } else { Pod };
    let pid = match () {
        () if !target.is_empty() => Target,
        () if sandbox.host_pid => Node,
        () if sandbox.share_process_namespace => Pod,
        () => Container,
    };
    v1::NamespaceOption {
        network: of(sandbox.host_network).into(),
        pid: pid.into(),
        ipc: of(sandbox.host_ipc).into(),
        target_id: target.to_owned(),
        ..Default::default()
    }
}

/// What programs must not read, as Docker and the kubelet have it.
const MASKED_PATHS: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
/// What they must not write.
const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn seccomp_to_v1(seccomp: &Seccomp) -> v1::SecurityProfile {
    let (profile_type, localhost_ref) = match seccomp {
        Seccomp::Unconfined => (v1::ProfileType::Unconfined, String::new()),
        Seccomp::RuntimeDefault => (v1::ProfileType::RuntimeDefault, String::new()),
        Seccomp::Localhost(file) => (v1::ProfileType::Localhost, file.display().to_string()),
    };
    v1::SecurityProfile { profile_type: profile_type.into(), localhost_ref }
}

fn seccomp_from_v1(profile: Option<v1::SecurityProfile>) -> Seccomp {
    // The runtime's own profile is zero, and so what is left out is.
    let profile = profile.unwrap_or_default();
    match profile.profile_type() {
        v1::ProfileType::Unconfined => Seccomp::Unconfined,
        v1::ProfileType::RuntimeDefault => Seccomp::RuntimeDefault,
        v1::ProfileType::Localhost => Seccomp::Localhost(profile.localhost_ref.into()),
    }
}

fn security_to_v1(
    security: &Security,
    namespaces: v1::NamespaceOption,
) -> v1::LinuxContainerSecurityContext {
    let paths = |paths: &[&str]| match security.privileged {
        true => Vec::new(),
        false => paths.iter().map(|path| (*path).to_owned()).collect(),
    };
    v1::LinuxContainerSecurityContext {
        capabilities: Some(v1::Capability {
            add_capabilities: security.add_capabilities.clone(),
            drop_capabilities: security.drop_capabilities.clone(),
            ..Default::default()
        }),
        privileged: security.privileged,
        namespace_options: Some(namespaces),
        run_as_user: security.run_as_user.map(|value| v1::Int64Value { value }),
        run_as_group: security.run_as_group.map(|value| v1::Int64Value { value }),
        run_as_username: match security.run_as_user {
            Some(_) => String::new(),
            None => security.run_as_username.clone().unwrap_or_default(),
        },
        readonly_rootfs: security.read_only_root,
        supplemental_groups: security.supplemental_groups.clone(),
        supplemental_groups_policy: match security.strict_groups {
            true => v1::SupplementalGroupsPolicy::Strict.into(),
            false => v1::SupplementalGroupsPolicy::Merge.into(),
        },
        no_new_privs: security.no_new_privileges,
        masked_paths: paths(&MASKED_PATHS),
        readonly_paths: paths(&READONLY_PATHS),
        seccomp: Some(seccomp_to_v1(&security.seccomp)),
        ..Default::default()
    }
}

fn security_from_v1(context: v1::LinuxContainerSecurityContext) -> Security {
    let strict_groups =
        context.supplemental_groups_policy() == v1::SupplementalGroupsPolicy::Strict;
    let capabilities = context.capabilities.unwrap_or_default();
    Security {
        run_as_user: context.run_as_user.map(|user| user.value),
        run_as_username: Some(context.run_as_username).filter(|name| !name.is_empty()),
        run_as_group: context.run_as_group.map(|group| group.value),
        supplemental_groups: context.supplemental_groups,
        strict_groups,
        read_only_root: context.readonly_rootfs,
        privileged: context.privileged,
        add_capabilities: capabilities.add_capabilities,
        drop_capabilities: capabilities.drop_capabilities,
        no_new_privileges: context.no_new_privs,
        seccomp: seccomp_from_v1(context.seccomp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_named_as_their_driver_wants_it() {
        let path = "burstable/pod12-34";
        let named = |driver, path| CgroupNames { root: "kubepods".into(), driver }.parent(path);
        assert_eq!(named(CgroupDriver::Cgroupfs, path), "/kubepods/burstable/pod12-34");
        assert_eq!(named(CgroupDriver::Systemd, path), "kubepods-burstable-pod12_34.slice");
        assert_eq!(named(CgroupDriver::Cgroupfs, ""), "");
    }

    #[test]
    fn a_cgroup_from_outside_stays_below_the_root() {
        assert_eq!(cgroup_below_root("/kubepods/pod1"), "kubepods/pod1");
        assert_eq!(cgroup_below_root("../../pod1/.."), "pod1");
        assert_eq!(cgroup_below_root(""), "");
    }

    #[test]
    fn times_are_kept_to_the_nanosecond() {
        let now: Timestamp = "2026-01-02T03:04:05.678901234Z".parse().unwrap();
        assert_eq!(time(nanoseconds(now)), Some(now));
        assert_eq!(time(0), None);
    }
}
