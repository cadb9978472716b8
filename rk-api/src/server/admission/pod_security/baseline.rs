//! The baseline standard: known ways out of a container are closed.

use k8s_openapi::api::core::v1::{PodSpec, SELinuxOptions, WindowsSecurityContextOptions};

use super::{
    Version, Violation,
    subjects::{Annotations, containers, insert, named, plural, quoted, setters},
};

/// Capabilities that containers have anyway.
const CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Kernel settings that concern no other Pod, and the minor version that took them in.
const SYSCTLS: &[(&str, u32)] = &[
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.tcp_wmem", 32),
];

const SE_LINUX_TYPES: &[&str] =
    &["", "container_engine_t", "container_init_t", "container_kvm_t", "container_t"];
const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// What the restricted standard asks for too.
pub(super) fn always(
    spec: &PodSpec,
    annotations: Annotations<'_>,
    version: Version,
) -> Vec<Violation> {
    [
        app_armor(spec, annotations),
        host_namespaces(spec),
        host_path_volumes(spec),
        host_ports(spec),
        if version.has(34) { host_probes(spec) } else { None },
        privileged(spec),
        proc_mount(spec),
        se_linux(spec, version),
        sysctls(spec, version),
        windows_host_process(spec),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What the restricted standard has stricter rules for.
pub(super) fn loosened(spec: &PodSpec, version: Version) -> Vec<Violation> {
    [capabilities(spec), if version.has(19) { seccomp(spec) } else { None }]
        .into_iter()
        .flatten()
        .collect()
}

fn violation(is_found: bool, reason: &'static str, detail: String) -> Option<Violation> {
    is_found.then_some(Violation { reason, detail })
}

fn app_armor(spec: &PodSpec, annotations: Annotations<'_>) -> Option<Violation> {
    let is_bad = |type_: &str| !matches!(type_, "RuntimeDefault" | "Localhost");
    let context = spec.security_context.as_ref();
    let of_pod = context.and_then(|context| context.app_armor_profile.as_ref());
    let of_pod = of_pod.map(|profile| profile.type_.as_str()).filter(|type_| is_bad(type_));
    let mut types: Vec<&str> = of_pod.into_iter().collect();
    let mut names = Vec::new();
    for container in containers(spec) {
        let profile = container.context.and_then(|context| context.app_armor_profile.as_ref());
        if let Some(profile) = profile.filter(|profile| is_bad(&profile.type_)) {
            names.push(container.name);
            insert(&mut types, profile.type_.as_str());
        }
    }
    let mut details = Vec::new();
    if of_pod.is_some() || !names.is_empty() {
        let setters = setters(of_pod.is_some(), &names, "and");
        details.push(format!("{setters} must not set AppArmor profile type to {}", quoted(&types)));
    }
    let is_bad = |value: &str| {
        !value.is_empty() && value != "runtime/default" && !value.starts_with("localhost/")
    };
    let annotated: Vec<_> = annotations
        .into_iter()
        .flatten()
        .filter(|(key, value)| key.starts_with(APP_ARMOR_ANNOTATION) && is_bad(value))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    if !annotated.is_empty() {
        let word = plural(&annotated, "annotation", "annotations");
        details.push(format!("{word} {}", annotated.join(", ")));
    }
    let reason = match types.len() + annotated.len() {
        1 => "forbidden AppArmor profile",
        _ => "forbidden AppArmor profiles",
    };
    violation(!details.is_empty(), reason, details.join(", "))
}

fn capabilities(spec: &PodSpec) -> Option<Violation> {
    let (mut names, mut added) = (Vec::new(), Vec::new());
    for container in containers(spec) {
        let capabilities = container.context.and_then(|context| context.capabilities.as_ref());
        let add = capabilities.into_iter().flat_map(|all| all.add.iter().flatten());
        let bad: Vec<_> = add.filter(|name| !CAPABILITIES.contains(&name.as_str())).collect();
        if !bad.is_empty() {
            names.push(container.name);
            bad.into_iter().for_each(|name| insert(&mut added, name.as_str()));
        }
    }
    let detail = format!(
        "{} must not include {} in securityContext.capabilities.add",
        named(&names),
        quoted(&added)
    );
    violation(!names.is_empty(), "non-default capabilities", detail)
}

fn host_namespaces(spec: &PodSpec) -> Option<Violation> {
    let all = [
        ("hostNetwork=true", spec.host_network),
        ("hostPID=true", spec.host_pid),
        ("hostIPC=true", spec.host_ipc),
    ];
    let used = all.into_iter().filter(|(_, value)| *value == Some(true)).map(|(name, _)| name);
    let used: Vec<_> = used.collect();
    violation(!used.is_empty(), "host namespaces", used.join(", "))
}

fn host_path_volumes(spec: &PodSpec) -> Option<Violation> {
    let volumes = spec.volumes.iter().flatten().filter(|volume| volume.host_path.is_some());
    let names: Vec<_> = volumes.map(|volume| volume.name.as_str()).collect();
    let detail = format!("{} {}", plural(&names, "volume", "volumes"), quoted(&names));
    violation(!names.is_empty(), "hostPath volumes", detail)
}

fn host_ports(spec: &PodSpec) -> Option<Violation> {
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for container in containers(spec) {
        let used = container.ports.iter().filter_map(|port| port.host_port);
        let used: Vec<_> = used.filter(|port| *port != 0).collect();
        if !used.is_empty() {
            names.push(container.name);
            used.into_iter().for_each(|port| insert(&mut ports, port));
        }
    }
    let shown: Vec<_> = ports.iter().map(ToString::to_string).collect();
    let detail = format!(
        "{} {} {} {}",
        named(&names),
        plural(&names, "uses", "use"),
        plural(&ports, "hostPort", "hostPorts"),
        shown.join(", ")
    );
    violation(!names.is_empty(), "hostPort", detail)
}

fn host_probes(spec: &PodSpec) -> Option<Violation> {
    let (mut names, mut hosts) = (Vec::new(), Vec::new());
    for container in containers(spec) {
        let found = container.hosts();
        if !found.is_empty() {
            names.push(container.name);
            found.into_iter().for_each(|host| insert(&mut hosts, host));
        }
    }
    let detail = format!(
        "{} {} probe or lifecycle {} {}",
        named(&names),
        plural(&names, "uses", "use"),
        plural(&hosts, "host", "hosts"),
        quoted(&hosts)
    );
    violation(!names.is_empty(), "probe or lifecycle host", detail)
}

fn privileged(spec: &PodSpec) -> Option<Violation> {
    let bad = containers(spec)
        .filter(|container| container.context.and_then(|context| context.privileged) == Some(true));
    let names: Vec<_> = bad.map(|container| container.name).collect();
    let detail = format!("{} must not set securityContext.privileged=true", named(&names));
    violation(!names.is_empty(), "privileged", detail)
}

fn proc_mount(spec: &PodSpec) -> Option<Violation> {
    let (mut names, mut mounts) = (Vec::new(), Vec::new());
    for container in containers(spec) {
        let mount = container.context.and_then(|context| context.proc_mount.as_deref());
        if let Some(mount) = mount.filter(|mount| *mount != "Default") {
            names.push(container.name);
            insert(&mut mounts, mount);
        }
    }
    let detail =
        format!("{} must not set securityContext.procMount to {}", named(&names), quoted(&mounts));
    violation(!names.is_empty(), "procMount", detail)
}

fn se_linux(spec: &PodSpec, version: Version) -> Option<Violation> {
    let mut types: Vec<String> = Vec::new();
    let (mut sets_user, mut sets_role) = (false, false);
    let mut judge = |options: Option<&SELinuxOptions>| {
        let Some(options) = options else { return false };
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let type_ = text(&options.type_);
        let is_known = SE_LINUX_TYPES.contains(&type_.as_str());
        let is_odd = !is_known || type_ == "container_engine_t" && !version.has(31);
        let (user, role) = (!text(&options.user).is_empty(), !text(&options.role).is_empty());
        if is_odd {
            insert(&mut types, type_);
        }
        sets_user |= user;
        sets_role |= role;
        is_odd || user || role
    };
    let context = spec.security_context.as_ref();
    let pod = judge(context.and_then(|context| context.se_linux_options.as_ref()));
    let bad = containers(spec).filter(|container| {
        judge(container.context.and_then(|context| context.se_linux_options.as_ref()))
    });
    let names: Vec<_> = bad.map(|container| container.name).collect();
    let mut set = Vec::new();
    if !types.is_empty() {
        set.push(format!("{} {}", plural(&types, "type", "types"), quoted(&types)));
    }
    if sets_user {
        set.push("user may not be set".to_owned());
    }
    if sets_role {
        set.push("role may not be set".to_owned());
    }
    let detail = format!(
        "{} set forbidden securityContext.seLinuxOptions: {}",
        setters(pod, &names, "and"),
        set.join("; ")
    );
    violation(pod || !names.is_empty(), "seLinuxOptions", detail)
}

/// Profiles that filter nothing: set by the Pod, by containers, and what they are.
pub(super) fn bad_seccomp(spec: &PodSpec) -> (bool, Vec<&str>, Vec<&str>) {
    let is_bad = |type_: &&str| !matches!(*type_, "RuntimeDefault" | "Localhost");
    let context = spec.security_context.as_ref();
    let of_pod = context.and_then(|context| context.seccomp_profile.as_ref());
    let of_pod = of_pod.map(|profile| profile.type_.as_str()).filter(is_bad);
    let mut types: Vec<&str> = of_pod.into_iter().collect();
    let mut names = Vec::new();
    for container in containers(spec) {
        let profile = container.context.and_then(|context| context.seccomp_profile.as_ref());
        if let Some(type_) = profile.map(|profile| profile.type_.as_str()).filter(is_bad) {
            names.push(container.name);
            insert(&mut types, type_);
        }
    }
    (of_pod.is_some(), names, types)
}

fn seccomp(spec: &PodSpec) -> Option<Violation> {
    let (pod, names, types) = bad_seccomp(spec);
    let detail = format!(
        "{} must not set securityContext.seccompProfile.type to {}",
        setters(pod, &names, "and"),
        quoted(&types)
    );
    violation(pod || !names.is_empty(), "seccompProfile", detail)
}

fn sysctls(spec: &PodSpec, version: Version) -> Option<Violation> {
    let context = spec.security_context.as_ref();
    let set = context.into_iter().flat_map(|context| context.sysctls.iter().flatten());
    let is_safe =
        |name: &str| SYSCTLS.iter().any(|(safe, since)| *safe == name && version.has(*since));
    let bad = set.map(|sysctl| sysctl.name.as_str()).filter(|name| !is_safe(name));
    let bad: Vec<_> = bad.collect();
    violation(!bad.is_empty(), "forbidden sysctls", bad.join(", "))
}

fn windows_host_process(spec: &PodSpec) -> Option<Violation> {
    let is_host = |options: Option<&WindowsSecurityContextOptions>| {
        options.and_then(|options| options.host_process) == Some(true)
    };
    let context = spec.security_context.as_ref();
    let pod = is_host(context.and_then(|context| context.windows_options.as_ref()));
    let bad = containers(spec).filter(|container| {
        is_host(container.context.and_then(|context| context.windows_options.as_ref()))
    });
    let names: Vec<_> = bad.map(|container| container.name).collect();
    let detail = format!(
        "{} must not set securityContext.windowsOptions.hostProcess=true",
        setters(pod, &names, "and")
    );
    violation(pod || !names.is_empty(), "hostProcess", detail)
}
