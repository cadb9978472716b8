//! What the runtime is asked to make: pure functions from a pod to sandbox and container settings.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::{
    env::expand_all,
    plan::{HASH_ANNOTATION, definition_hash},
    resources,
};
use crate::runtime::{
    ContainerConfig, DnsConfig, Mount, PodRef, PortMapping, SandboxConfig, Seccomp, Security,
};

/// How pods resolve names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterDns {
    /// Addresses of the cluster's name servers; none leaves pods with the node's.
    pub servers: Vec<IpAddr>,
    /// The cluster's domain, usually `cluster.local`.
    pub domain: String,
}

/// What is the node's rather than the pod's.
pub(crate) struct NodeFacts<'a> {
    pub(crate) name: &'a str,
    pub(crate) log_root: &'a Path,
    pub(crate) dns: &'a ClusterDns,
    /// The node's own `resolv.conf`.
    pub(crate) node_dns: &'a DnsConfig,
}

pub(crate) fn pod_ref(pod: &Pod) -> PodRef {
    PodRef {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
    }
}

/// `name_namespace(uid)`, as messages name a pod.
pub(crate) fn full_name(pod: &Pod) -> String {
    let PodRef { namespace, name, uid } = pod_ref(pod);
    format!("{name}_{namespace}({uid})")
}

fn labels(pod: &PodRef) -> BTreeMap<String, String> {
    [
        ("io.kubernetes.pod.name", &pod.name),
        ("io.kubernetes.pod.namespace", &pod.namespace),
        ("io.kubernetes.pod.uid", &pod.uid),
    ]
    .map(|(key, value)| (key.to_string(), value.clone()))
    .into()
}

/// Where a pod's logs are, below the node's directory of logs.
pub(crate) fn log_directory(root: &Path, pod: &PodRef) -> PathBuf {
    root.join(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid))
}

/// The host name inside a pod; its fully qualified one where it asks for that and has one.
pub(crate) fn hostname(pod: &Pod, node: &str, domain: &str) -> String {
    let short = short_hostname(pod, node);
    let default = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    let subdomain = spec.subdomain.as_deref().filter(|subdomain| !subdomain.is_empty());
    match subdomain.filter(|_| spec.set_hostname_as_fqdn == Some(true)) {
        Some(subdomain) => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            format!("{short}.{subdomain}.{namespace}.svc.{domain}")
        }
        None => short,
    }
}

/// The kernel's limit on host names.
const HOSTNAME_MAX: usize = 64;

/// Why a pod cannot have the host name that it asks for, if it cannot.
pub(crate) fn wrong_hostname(name: &str) -> Option<String> {
    let surplus = name.len().checked_sub(HOSTNAME_MAX).filter(|surplus| *surplus > 0)?;
    Some(format!(
        "failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too long \
         ({HOSTNAME_MAX} characters is the max, {surplus} characters too many)"
    ))
}

fn short_hostname(pod: &Pod, node: &str) -> String {
    let default = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    if let Some(name) = spec.hostname_override.as_deref().filter(|name| !name.is_empty()) {
        return name.to_string();
    }
    if spec.host_network == Some(true) {
        return node.to_string();
    }
    let name = match spec.hostname.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => name,
        None => pod.metadata.name.as_deref().unwrap_or_default(),
    };
    // Host names end at 63 characters, and not in a separator.
    let short = &name[..name.len().min(63)];
    short.trim_end_matches(['-', '.']).to_string()
}

pub(crate) fn sandbox_config(pod: &Pod, attempt: u32, node: &NodeFacts<'_>) -> SandboxConfig {
    let default = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    let reference = pod_ref(pod);
    let mut labels = labels(&reference);
    labels.extend(pod.metadata.labels.clone().unwrap_or_default());
    let sysctls = spec.security_context.as_ref().and_then(|context| context.sysctls.clone());
    SandboxConfig {
        attempt,
        hostname: hostname(pod, node.name, &node.dns.domain),
        log_directory: log_directory(node.log_root, &reference),
        dns: dns(&reference.namespace, spec, node),
        port_mappings: port_mappings(spec),
        host_network: spec.host_network == Some(true),
        host_pid: spec.host_pid == Some(true),
        host_ipc: spec.host_ipc == Some(true),
        share_process_namespace: spec.share_process_namespace == Some(true),
        privileged: is_privileged(spec),
        runtime_handler: String::new(),
        sysctls: sysctls.unwrap_or_default().into_iter().map(|s| (s.name, s.value)).collect(),
        cgroup_parent: resources::cgroup_parent(pod),
        labels,
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        pod: reference,
    }
}

/// Whether some container of a pod may do everything.
fn is_privileged(spec: &PodSpec) -> bool {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut contexts = containers.filter_map(|container| container.security_context.as_ref());
    contexts.any(|context| context.privileged == Some(true))
}

fn port_mappings(spec: &PodSpec) -> Vec<PortMapping> {
    if spec.host_network == Some(true) {
        return Vec::new();
    }
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(PortMapping {
                host_port: u16::try_from(port.host_port?).ok().filter(|port| *port > 0)?,
                container_port: u16::try_from(port.container_port).ok()?,
                protocol: port.protocol.as_deref().unwrap_or("TCP").to_lowercase(),
                host_ip: port.host_ip.as_deref().and_then(|ip| ip.parse().ok()),
            })
        })
        .collect()
}

/// The resolver's settings by DNS policy, with the pod's own on top.
fn dns(namespace: &str, spec: &PodSpec, node: &NodeFacts<'_>) -> DnsConfig {
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirst" => spec.host_network != Some(true),
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut dns = if policy == "None" {
        DnsConfig::default()
    } else if cluster && !node.dns.servers.is_empty() {
        let domain = &node.dns.domain;
        let mut searches =
            vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
        searches.extend(node.node_dns.searches.iter().cloned());
        DnsConfig {
            servers: node.dns.servers.iter().map(IpAddr::to_string).collect(),
            searches,
            options: vec!["ndots:5".into()],
        }
    } else {
        node.node_dns.clone()
    };
    if let Some(own) = &spec.dns_config {
        let add = |to: &mut Vec<String>, more: &Option<Vec<String>>| {
            for item in more.iter().flatten() {
                if !to.contains(item) {
                    to.push(item.clone());
                }
            }
        };
        add(&mut dns.servers, &own.nameservers);
        add(&mut dns.searches, &own.searches);
        for option in own.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            let same = |other: &String| other == name || other.starts_with(&format!("{name}:"));
            dns.options.retain(|other| !same(other));
            dns.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
        }
    }
    dns
}

/// Reads a `resolv.conf`.
pub(crate) fn parse_resolv_conf(text: &str) -> DnsConfig {
    let mut dns = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::to_string);
        match words.next().as_deref() {
            Some("nameserver") => dns.servers.extend(words.next()),
            Some("search") => dns.searches = words.collect(),
            Some("options") => dns.options = words.collect(),
            _ => {}
        }
    }
    dns
}

/// The hosts file that the kubelet writes for a pod.
pub(crate) fn hosts_file(pod: &Pod, ips: &[IpAddr], domain: &str) -> String {
    let default = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    let mut out = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    let host = short_hostname(pod, "");
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    for ip in ips {
        match spec.subdomain.as_deref().filter(|subdomain| !subdomain.is_empty()) {
            Some(subdomain) => {
                out.push_str(&format!(
                    "{ip}\t{host}.{subdomain}.{namespace}.svc.{domain}\t{host}\n"
                ));
            }
            None => out.push_str(&format!("{ip}\t{host}\n")),
        }
    }
    add_aliases(&mut out, spec);
    out
}

/// The hosts file of a pod on the node's network, whose entries of its own come after the node's;
/// `None` where it has none.
pub(crate) fn hosts_file_of_node(pod: &Pod, nodes: &str) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    spec.host_aliases.as_ref().filter(|aliases| !aliases.is_empty())?;
    let mut out = format!("# Kubernetes-managed hosts file (host network).\n{nodes}");
    add_aliases(&mut out, spec);
    Some(out)
}

fn add_aliases(out: &mut String, spec: &PodSpec) {
    let aliases = spec.host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        out.push_str(&format!("{}\t{names}\n", alias.ip));
    }
}

/// Whether a container may be run by the user that it would be run by (`runAsNonRoot`); an error is
/// why not. `image_user` is the image's own user.
pub(crate) fn check_non_root(
    pod: &Pod,
    container: &Container,
    image_user: &str,
) -> Result<(), String> {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let own = container.security_context.as_ref();
    let wanted = own.and_then(|own| own.run_as_non_root);
    if wanted.or_else(|| of_pod.and_then(|of_pod| of_pod.run_as_non_root)) != Some(true) {
        return Ok(());
    }
    let whose = format!("(pod: {:?}, container: {})", full_name(pod), container.name);
    let user = own.and_then(|own| own.run_as_user);
    match user.or_else(|| of_pod.and_then(|of_pod| of_pod.run_as_user)) {
        Some(0) => return Err(format!("container's runAsUser breaks non-root policy {whose}")),
        Some(_) => return Ok(()),
        None => {}
    }
    let user = image_user.split(':').next().unwrap_or_default();
    match user.parse::<i64>() {
        _ if user.is_empty() => {
            Err(format!("container has runAsNonRoot and image will run as root {whose}"))
        }
        Ok(0) => Err(format!("container has runAsNonRoot and image will run as root {whose}")),
        Ok(_) => Ok(()),
        Err(_) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user \
             is non-root {whose}"
        )),
    }
}

/// A container's settings.
pub(crate) fn container_config(
    pod: &Pod,
    container: &Container,
    attempt: u32,
    image: String,
    env: Vec<(String, String)>,
    mounts: Vec<Mount>,
) -> ContainerConfig {
    let mut labels = labels(&pod_ref(pod));
    labels.insert("io.kubernetes.container.name".into(), container.name.clone());
    let annotations = [
        (HASH_ANNOTATION, definition_hash(container)),
        ("io.kubernetes.container.restartCount", attempt.to_string()),
    ]
    .map(|(key, value)| (key.to_string(), value))
    .into();
    let stop_signal =
        container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone());
    ContainerConfig {
        name: container.name.clone(),
        attempt,
        image,
        command: expand_all(container.command.as_deref(), &env),
        args: expand_all(container.args.as_deref(), &env),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        env,
        mounts,
        devices: Vec::new(),
        log_path: PathBuf::from(&container.name).join(format!("{attempt}.log")),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        resources: resources::cgroup(container),
        security: security(pod, container),
        process_namespace_of: String::new(),
        stop_signal: stop_signal.unwrap_or_default(),
        labels,
        annotations,
    }
}

/// The container's security settings, with the pod's where it has none.
fn security(pod: &Pod, container: &Container) -> Security {
    let of_pod =
        pod.spec.as_ref().and_then(|spec| spec.security_context.clone()).unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let capabilities = own.capabilities.unwrap_or_default();
    let mut supplemental_groups = of_pod.supplemental_groups.unwrap_or_default();
    supplemental_groups.extend(of_pod.fs_group);
    let strict_groups = of_pod.supplemental_groups_policy.as_deref() == Some("Strict");
    Security {
        run_as_user: own.run_as_user.or(of_pod.run_as_user),
        run_as_username: None,
        run_as_group: own.run_as_group.or(of_pod.run_as_group),
        supplemental_groups,
        strict_groups,
        read_only_root: own.read_only_root_filesystem == Some(true),
        privileged: own.privileged == Some(true),
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        seccomp: Seccomp::default(),
    }
}

/// The system calls that a container may make: as it says, or else its Pod. Profiles of the node are
/// in the folder `profiles`; who says nothing gets `otherwise`.
pub(crate) fn seccomp(
    pod: &Pod,
    container: &Container,
    profiles: &Path,
    otherwise: Seccomp,
) -> Seccomp {
    let own = container.security_context.as_ref();
    if own.is_some_and(|own| own.privileged == Some(true)) {
        return Seccomp::Unconfined;
    }
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let profile = own
        .and_then(|own| own.seccomp_profile.as_ref())
        .or_else(|| of_pod.and_then(|of_pod| of_pod.seccomp_profile.as_ref()));
    match profile.map(|profile| (profile.type_.as_str(), profile.localhost_profile.as_deref())) {
        Some(("RuntimeDefault", _)) => Seccomp::RuntimeDefault,
        // Validation lets no path out of the folder.
        Some(("Localhost", Some(file))) => Seccomp::Localhost(profiles.join(file)),
        Some(_) => Seccomp::Unconfined,
        None => otherwise,
    }
}

/// An image's name with its tag: `latest` where it has neither tag nor digest. An error says what is
/// wrong with the name.
pub(crate) fn image_with_tag(name: &str) -> Result<String, String> {
    let invalid = || format!("couldn't parse image name {name:?}: invalid reference format");
    let (rest, digest) = match name.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (name, None),
    };
    let last_slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (repository, tag) = match rest[last_slash..].split_once(':') {
        Some((base, tag)) => (format!("{}{base}", &rest[..last_slash]), Some(tag)),
        None => (rest.to_string(), None),
    };
    let good_tag = |tag: &str| {
        !tag.is_empty()
            && tag.len() <= 128
            && !tag.starts_with(['.', '-'])
            && tag.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
    };
    let good_digest = |digest: &str| {
        digest.split_once(':').is_some_and(|(algorithm, hex)| {
            !algorithm.is_empty() && hex.len() >= 32 && hex.chars().all(|c| c.is_ascii_hexdigit())
        })
    };
    let mut parts: Vec<&str> = repository.split('/').collect();
    // The first part is a host if it looks like one; hosts may have capitals and a port.
    if parts.len() > 1 && (parts[0].contains(['.', ':']) || parts[0] == "localhost") {
        let host = parts.remove(0);
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
        if host.is_empty() || !host.chars().all(good) {
            return Err(invalid());
        }
    }
    let good_part = |part: &&str| {
        let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let inner =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
        end(part.chars().next()) && end(part.chars().last()) && part.chars().all(inner)
    };
    if !parts.iter().all(good_part) || !tag.is_none_or(good_tag) || !digest.is_none_or(good_digest)
    {
        return Err(invalid());
    }
    Ok(if tag.is_none() && digest.is_none() { format!("{name}:latest") } else { name.to_string() })
}

/// When to fetch an image; by default always for `latest`, else if it is not there.
pub(crate) fn pull_policy(container: &Container, image: &str) -> &'static str {
    match container.image_pull_policy.as_deref() {
        Some("Always") => "Always",
        Some("Never") => "Never",
        Some("IfNotPresent") => "IfNotPresent",
        _ if image.ends_with(":latest") && !image.contains('@') => "Always",
        _ => "IfNotPresent",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_tag_is_the_latest() {
        for (name, expected) in [
            ("nginx", "nginx:latest"),
            ("nginx:1.25", "nginx:1.25"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
            ("Reg.example.com/team/app:v1", "Reg.example.com/team/app:v1"),
        ] {
            assert_eq!(image_with_tag(name).as_deref(), Ok(expected));
        }
        let digest = format!("app@sha256:{}", "0".repeat(64));
        assert_eq!(image_with_tag(&digest), Ok(digest.clone()));
        for name in
            ["", "Nginx", "nginx:", "a//b", "-x", "nginx:a b", "app@sha256:12", "http://x/y"]
        {
            assert!(image_with_tag(name).is_err(), "{name}");
        }
    }

    fn pod(spec: serde_json::Value) -> Pod {
        let pod = serde_json::json!({
            "metadata": {"name": "web", "namespace": "team", "uid": "u"}, "spec": spec});
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_host_name_may_be_the_qualified_one() {
        let name = |spec: serde_json::Value| hostname(&pod(spec), "n1", "cluster.local");
        let spec = |more: serde_json::Value| {
            let mut spec = serde_json::json!({"containers": [], "subdomain": "db"});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec
        };
        assert_eq!(name(spec(serde_json::json!({}))), "web");
        let qualified = name(spec(serde_json::json!({"setHostnameAsFQDN": true})));
        assert_eq!(qualified, "web.db.team.svc.cluster.local");
        assert_eq!(wrong_hostname(&qualified), None);
        assert!(wrong_hostname(&"x".repeat(70)).unwrap().contains("6 characters too many"));
        assert_eq!(name(serde_json::json!({"containers": [], "hostNetwork": true})), "n1");
        assert_eq!(name(serde_json::json!({"containers": [], "hostnameOverride": "a.b"})), "a.b");
    }

    #[test]
    fn who_must_not_be_root_is_shown_not_to_be() {
        let check = |user: Option<i64>, image: &str| {
            let pod = pod(serde_json::json!({"containers": [{"name": "c"}],
                "securityContext": {"runAsNonRoot": true, "runAsUser": user}}));
            check_non_root(&pod, &pod.spec.as_ref().unwrap().containers[0], image)
        };
        assert_eq!(check(Some(5), ""), Ok(()));
        assert_eq!(check(None, "1000:1000"), Ok(()));
        for (user, image, why) in [
            (Some(0), "1000", "runAsUser breaks non-root policy"),
            (None, "", "image will run as root"),
            (None, "0", "image will run as root"),
            (None, "nobody", "non-numeric user (nobody)"),
        ] {
            let error = check(user, image).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn the_pull_policy_hangs_on_the_tag() {
        let container = |policy: Option<&str>| Container {
            image_pull_policy: policy.map(str::to_string),
            ..Default::default()
        };
        assert_eq!(pull_policy(&container(None), "nginx:latest"), "Always");
        assert_eq!(pull_policy(&container(None), "nginx:1.25"), "IfNotPresent");
        assert_eq!(pull_policy(&container(Some("Never")), "nginx:latest"), "Never");
    }

    #[test]
    fn a_containers_seccomp_profile_goes_before_its_pods() {
        let seccomp_of = |of_pod: serde_json::Value, own: serde_json::Value| {
            let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {
                "securityContext": {"seccompProfile": of_pod},
                "containers": [{"name": "c", "securityContext": own}]}}))
            .unwrap();
            let container = &pod.spec.as_ref().unwrap().containers[0];
            seccomp(&pod, container, Path::new("/p"), Seccomp::RuntimeDefault)
        };
        let profile =
            |kind: &str| serde_json::json!({"type": kind, "localhostProfile": "a/b.json"});
        let nothing = serde_json::Value::Null;
        assert_eq!(seccomp_of(nothing.clone(), nothing.clone()), Seccomp::RuntimeDefault);
        assert_eq!(seccomp_of(profile("Unconfined"), nothing.clone()), Seccomp::Unconfined);
        let own = serde_json::json!({"seccompProfile": profile("Localhost")});
        assert_eq!(
            seccomp_of(profile("Unconfined"), own),
            Seccomp::Localhost("/p/a/b.json".into())
        );
        let privileged = serde_json::json!({"privileged": true});
        assert_eq!(seccomp_of(nothing, privileged), Seccomp::Unconfined);
    }

    #[test]
    fn names_resolve_by_policy() {
        let dns = ClusterDns {
            servers: vec!["10.96.0.10".parse().unwrap()],
            domain: "cluster.local".into(),
        };
        let node_dns =
            parse_resolv_conf("# own\nnameserver 1.1.1.1\nsearch example.com\noptions edns0\n");
        let node =
            NodeFacts { name: "n", log_root: Path::new("/l"), dns: &dns, node_dns: &node_dns };
        let of = |value: serde_json::Value| {
            super::dns("team", &serde_json::from_value(value).unwrap(), &node)
        };

        let cluster = of(serde_json::json!({"containers": []}));
        assert_eq!(cluster.servers, ["10.96.0.10"]);
        assert_eq!(
            cluster.searches,
            ["team.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.com"]
        );
        assert_eq!(of(serde_json::json!({"containers": [], "dnsPolicy": "Default"})), node_dns);
        assert_eq!(of(serde_json::json!({"containers": [], "hostNetwork": true})), node_dns);
        let own = serde_json::json!({"containers": [], "dnsPolicy": "None", "dnsConfig":
            {"nameservers": ["9.9.9.9"], "options": [{"name": "ndots", "value": "2"}]}});
        let expected = DnsConfig {
            servers: vec!["9.9.9.9".into()],
            searches: vec![],
            options: vec!["ndots:2".into()],
        };
        assert_eq!(of(own), expected);
    }
}
