//! What a Pod's spec says that is allowed, and hardly meant.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::core::v1::{
        Affinity, Container, ContainerPort, EnvVar, EphemeralContainer, NodeSelectorTerm,
        PodAffinityTerm, PodSpec, PodTemplateSpec, ResourceRequirements, SecurityContext,
        WeightedPodAffinityTerm,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::super::{
    check::{ResourceList, list, text},
    warnings::{fraction, node_label, node_term},
};
use crate::{
    field::Path,
    meta::{addresses::ip_warnings, names},
};

mod volumes;

/// Annotations that had a meaning once, and what took their place.
const ANNOTATIONS: &[(&str, &str)] = &[
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APPARMOR_CONTAINER: &str = "container.apparmor.security.beta.kubernetes.io/";

/// What is odd about a Pod that is created.
pub(in super::super) fn of_pod(meta: &ObjectMeta, spec: &PodSpec) -> Vec<String> {
    let mut warnings = Vec::new();
    let wrong = names::dns_label(text(&meta.name), false);
    if !wrong.is_empty() {
        warnings.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising \
             behavior; a DNS label is recommended: [{}]",
            wrong.join(" ")
        ));
    }
    Seen { meta, spec, path: &Path::root(), is_template: false }.warn(&mut warnings);
    warnings
}

/// What is odd about a template, which is at `path`.
pub(in super::super) fn of_template(template: &PodTemplateSpec, path: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    let no_meta = ObjectMeta::default();
    let meta = template.metadata.as_ref().unwrap_or(&no_meta);
    if let Some(spec) = &template.spec {
        Seen { meta, spec, path, is_template: true }.warn(&mut warnings);
    }
    warnings
}

/// What containers of all sorts have.
struct Contained<'a> {
    name: &'a str,
    env: &'a [EnvVar],
    ports: &'a [ContainerPort],
    resources: Option<&'a ResourceRequirements>,
    security: Option<&'a SecurityContext>,
}

impl<'a> From<&'a Container> for Contained<'a> {
    fn from(container: &'a Container) -> Self {
        Self {
            name: &container.name,
            env: list(&container.env),
            ports: list(&container.ports),
            resources: container.resources.as_ref(),
            security: container.security_context.as_ref(),
        }
    }
}

impl<'a> From<&'a EphemeralContainer> for Contained<'a> {
    fn from(container: &'a EphemeralContainer) -> Self {
        Self {
            name: &container.name,
            env: list(&container.env),
            ports: list(&container.ports),
            resources: container.resources.as_ref(),
            security: container.security_context.as_ref(),
        }
    }
}

struct Seen<'a, 'p> {
    meta: &'a ObjectMeta,
    spec: &'a PodSpec,
    path: &'a Path<'p>,
    is_template: bool,
}

impl<'a, 'p> Seen<'a, 'p> {
    fn warn(&self, warnings: &mut Vec<String>) {
        let path = self.path.child("spec");
        self.nodes(warnings, &path);
        for (annotation, why) in ANNOTATIONS {
            self.annotation(warnings, annotation, why);
        }
        volumes::warn(warnings, list(&self.spec.volumes), &path.child("volumes"));
        self.twice(warnings, &path);
        self.addresses(warnings, &path);
        let overhead = self.spec.overhead.as_ref();
        fractions(warnings, overhead, &path.child("overhead"));
        let security = self.spec.security_context.as_ref();
        if security.is_none_or(|security| security.seccomp_profile.is_none()) {
            let why = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
            self.annotation(warnings, SECCOMP_POD, why);
        }
        let has_apparmor = security.is_some_and(|security| security.app_armor_profile.is_some());
        let containers = self.containers(&path);
        for (container, at) in &containers {
            self.container(warnings, container, has_apparmor, at);
        }
        ports(warnings, &containers);
        if self.spec.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0) {
            warnings.push(format!(
                "{}: must be >= 0; negative values are invalid and will be treated as 1",
                path.child("terminationGracePeriodSeconds")
            ));
        }
        if let Some(affinity) = &self.spec.affinity {
            apart_or_together(warnings, affinity, &path.child("affinity"));
        }
    }

    fn annotation(&self, warnings: &mut Vec<String>, annotation: &str, why: &str) {
        let annotations = self.meta.annotations.as_ref();
        if annotations.is_some_and(|all| all.contains_key(annotation)) {
            let at = self.path.child("metadata.annotations").key(annotation);
            warnings.push(format!("{at}: {why}"));
        }
    }

    /// All containers, with their paths.
    fn containers(&self, path: &Path<'p>) -> Vec<(Contained<'a>, Path<'p>)> {
        let indexed = |field: &'static str| {
            let at = path.child(field);
            move |(i, container)| (container, at.index(i))
        };
        let inits = list(&self.spec.init_containers).iter().map(Contained::from).enumerate();
        let mains = self.spec.containers.iter().map(Contained::from).enumerate();
        let ephemeral = list(&self.spec.ephemeral_containers).iter().map(Contained::from);
        inits
            .map(indexed("initContainers"))
            .chain(mains.map(indexed("containers")))
            .chain(ephemeral.enumerate().map(indexed("ephemeralContainers")))
            .collect()
    }

    /// Labels of nodes that have other names now, and selectors that select nothing.
    fn nodes(&self, warnings: &mut Vec<String>, path: &Path) {
        for label in self.spec.node_selector.iter().flat_map(|selector| selector.keys()) {
            if let Some(why) = node_label(label) {
                warnings.push(format!("{}: {why}", path.child("nodeSelector").key(label)));
            }
        }
        let nodes = self.spec.affinity.as_ref().and_then(|all| all.node_affinity.as_ref());
        if let Some(nodes) = nodes {
            let at = path.child("affinity.nodeAffinity");
            let required = nodes.required_during_scheduling_ignored_during_execution.as_ref();
            let terms: &[NodeSelectorTerm] =
                required.map_or(&[], |required| &required.node_selector_terms);
            for (i, term) in terms.iter().enumerate() {
                let at = at
                    .child("requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms")
                    .index(i);
                node_term(warnings, term, &at);
            }
            let preferred = list(&nodes.preferred_during_scheduling_ignored_during_execution);
            for (i, term) in preferred.iter().enumerate() {
                let at = at.child("preferredDuringSchedulingIgnoredDuringExecution").index(i);
                node_term(warnings, &term.preference, &at.child("preference"));
            }
        }
        for (i, spread) in list(&self.spec.topology_spread_constraints).iter().enumerate() {
            let at = path.child("topologySpreadConstraints").index(i);
            if let Some(why) = node_label(&spread.topology_key) {
                let key = &spread.topology_key;
                warnings.push(format!("{}: {key} is {why}", at.child("topologyKey")));
            }
            if spread.label_selector.is_none() {
                selects_nothing(warnings, &at.child("labelSelector"));
            }
        }
    }

    /// Addresses that are not written as they should be.
    fn addresses(&self, warnings: &mut Vec<String>, path: &Path) {
        let dns = self.spec.dns_config.as_ref();
        for (i, server) in dns.map_or(&[][..], |dns| list(&dns.nameservers)).iter().enumerate() {
            let at = path.child("dnsConfig.nameservers").index(i);
            warnings.extend(ip_warnings(&at, server));
        }
        for (i, alias) in list(&self.spec.host_aliases).iter().enumerate() {
            let at = path.child("hostAliases").index(i).child("ip");
            warnings.extend(ip_warnings(&at, &alias.ip));
        }
    }

    /// What is there twice, or has no name.
    fn twice(&self, warnings: &mut Vec<String>, path: &Path) {
        let aliases = list(&self.spec.host_aliases);
        for (i, alias) in aliases.iter().enumerate() {
            if aliases[..i].iter().any(|other| other.ip == alias.ip) {
                let at = path.child("hostAliases").index(i).child("ip");
                warnings.push(format!("{at}: duplicate ip {:?}", alias.ip));
            }
        }
        let secrets = list(&self.spec.image_pull_secrets);
        for (i, secret) in secrets.iter().enumerate() {
            let at = path.child("imagePullSecrets").index(i).child("name");
            if secrets[..i].iter().any(|other| other.name == secret.name) {
                warnings.push(format!("{at}: duplicate name {:?}", secret.name));
            }
            if secret.name.is_empty() {
                warnings.push(format!("{at}: invalid empty name \"\""));
            }
        }
    }

    fn annotations_of(
        &self,
        warnings: &mut Vec<String>,
        container: &Contained<'_>,
        has_apparmor: bool,
    ) {
        let security = container.security;
        if security.is_none_or(|security| security.seccomp_profile.is_none()) {
            let why = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
            self.annotation(warnings, &format!("{SECCOMP_CONTAINER}{}", container.name), why);
        }
        let has_apparmor =
            has_apparmor || security.is_some_and(|security| security.app_armor_profile.is_some());
        if self.is_template && !has_apparmor {
            let why = "deprecated since v1.30; use the \"appArmorProfile\" field instead";
            self.annotation(warnings, &format!("{APPARMOR_CONTAINER}{}", container.name), why);
        }
    }

    fn container(
        &self,
        warnings: &mut Vec<String>,
        container: &Contained<'_>,
        has_apparmor: bool,
        path: &Path,
    ) {
        if self.meta.annotations.is_some() {
            self.annotations_of(warnings, container, has_apparmor);
        }
        if let Some(resources) = container.resources {
            let at = path.child("resources");
            fractions(warnings, resources.limits.as_ref(), &at.child("limits"));
            fractions(warnings, resources.requests.as_ref(), &at.child("requests"));
        }
        let mut known = BTreeSet::new();
        for (i, variable) in container.env.iter().enumerate() {
            // A variable may build upon itself.
            let own = format!("$({})", variable.name);
            let value = text(&variable.value);
            let extends =
                variable.value_from.is_none() && value != own && value.contains(own.as_str());
            if !known.insert(&variable.name) && !extends {
                warnings.push(format!(
                    "{}: hides previous definition of {:?}, which may be dropped when using apply",
                    path.child("env").index(i),
                    variable.name
                ));
            }
        }
    }
}

fn fractions(warnings: &mut Vec<String>, amounts: Option<&ResourceList>, path: &Path) {
    for resource in ["memory", "ephemeral-storage"] {
        let amount = amounts.and_then(|amounts| amounts.get(resource));
        fraction(warnings, amount, &path.key(resource));
    }
}

/// Ports of all containers that may be meant to be the same.
fn ports(warnings: &mut Vec<String>, containers: &[(Contained<'_>, Path)]) {
    let mut seen: Vec<(&ContainerPort, String)> = Vec::new();
    for (container, path) in containers {
        for (i, port) in container.ports.iter().enumerate() {
            let at = path.child("ports").index(i);
            let (ip, host) = (text(&port.host_ip), port.host_port.unwrap_or(0));
            let protocol = text(&port.protocol);
            if !ip.is_empty() && host == 0 {
                warnings.push(format!(
                    "{at}: hostIP set without hostPort: {{Name:{} HostPort:{host} \
                     ContainerPort:{} Protocol:{protocol} HostIP:{ip}}}",
                    text(&port.name),
                    port.container_port
                ));
            }
            let is_same = |(other, _): &&(&ContainerPort, String)| {
                other.container_port == port.container_port && text(&other.protocol) == protocol
            };
            for (other, other_at) in seen.iter().filter(is_same) {
                let (other_ip, other_host) = (text(&other.host_ip), other.host_port.unwrap_or(0));
                let what = if (ip, host) == (other_ip, other_host) {
                    "duplicate"
                } else if host == 0 || other_host == 0 {
                    "overlapping"
                } else if host == other_host && ip.is_empty() != other_ip.is_empty() {
                    "dangerously ambiguous"
                } else {
                    continue;
                };
                warnings.push(format!("{at}: {what} port definition with {other_at}"));
            }
            seen.push((port, at.to_string()));
        }
    }
}

fn selects_nothing(warnings: &mut Vec<String>, path: &Path) {
    warnings.push(format!("{path}: a null labelSelector results in matching no pod"));
}

fn apart_or_together(warnings: &mut Vec<String>, affinity: &Affinity, path: &Path) {
    type Terms<'a> = (&'a [PodAffinityTerm], &'a [WeightedPodAffinityTerm]);
    let together: Terms<'_> = affinity.pod_affinity.as_ref().map_or((&[], &[]), |all| {
        (
            list(&all.required_during_scheduling_ignored_during_execution),
            list(&all.preferred_during_scheduling_ignored_during_execution),
        )
    });
    let apart: Terms<'_> = affinity.pod_anti_affinity.as_ref().map_or((&[], &[]), |all| {
        (
            list(&all.required_during_scheduling_ignored_during_execution),
            list(&all.preferred_during_scheduling_ignored_during_execution),
        )
    });
    for (field, (required, preferred)) in [("podAffinity", together), ("podAntiAffinity", apart)] {
        let at = path.child(field);
        for (i, term) in required.iter().enumerate() {
            if term.label_selector.is_none() {
                let at = at.child("requiredDuringSchedulingIgnoredDuringExecution").index(i);
                selects_nothing(warnings, &at.child("labelSelector"));
            }
        }
        for (i, term) in preferred.iter().enumerate() {
            if term.pod_affinity_term.label_selector.is_none() {
                let at = at.child("preferredDuringSchedulingIgnoredDuringExecution").index(i);
                selects_nothing(warnings, &at.child("podAffinityTerm.labelSelector"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(template: Value, expected: &[&str]) {
        let mut template = template;
        if template["spec"]["containers"].is_null() {
            template["spec"]["containers"] = json!([]);
        }
        let template: PodTemplateSpec = serde_json::from_value(template).unwrap();
        assert_eq!(of_template(&template, &Path::new("spec.template")), expected);
    }

    #[test]
    fn labels_of_nodes_have_new_names() {
        let old = json!([{"key": "failure-domain.beta.kubernetes.io/zone", "operator": "Exists"}]);
        check(
            json!({"spec": {
                "nodeSelector": {"beta.kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"},
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                    {"nodeSelectorTerms": [{"matchExpressions": old}]}}},
                "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
                    "whenUnsatisfiable": "DoNotSchedule"}],
            }}),
            &[
                "spec.template.spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; \
                 use \"kubernetes.io/os\" instead",
                "spec.template.spec.affinity.nodeAffinity.\
                 requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].\
                 matchExpressions[0].key: failure-domain.beta.kubernetes.io/zone is deprecated \
                 since v1.17; use \"topology.kubernetes.io/zone\" instead",
                "spec.template.spec.topologySpreadConstraints[0].labelSelector: a null \
                 labelSelector results in matching no pod",
            ],
        );
    }

    #[test]
    fn a_variable_that_hides_another_is_told_of() {
        let env = |first: &str, second: &str| {
            json!({"spec": {"containers": [{"name": "c", "env": [
                {"name": "A", "value": first}, {"name": "A", "value": second}]}]}})
        };
        check(env("a", "$(A)b"), &[]);
        let hides = "spec.template.spec.containers[0].env[1]: hides previous definition of \"A\", \
                     which may be dropped when using apply";
        check(env("a", "b"), &[hides]);
        check(env("a", "$(A)"), &[hides]);
    }

    #[test]
    fn ports_that_may_be_the_same_are_told_of() {
        let two = |first: Value, second: Value| {
            json!({"spec": {"containers": [
                {"name": "c", "ports": [first]}, {"name": "d", "ports": [second]}]}})
        };
        let port = |host: i32, ip: &str| json!({"containerPort": 80, "protocol": "TCP", "hostPort": host, "hostIP": ip});
        let at = "spec.template.spec.containers[1].ports[0]";
        let with = "port definition with spec.template.spec.containers[0].ports[0]";
        check(two(port(0, ""), port(0, "")), &[&format!("{at}: duplicate {with}")]);
        check(two(port(1, ""), port(0, "")), &[&format!("{at}: overlapping {with}")]);
        let ambiguous = format!("{at}: dangerously ambiguous {with}");
        check(two(port(1, ""), port(1, "10.0.0.1")), &[&ambiguous]);
        check(two(port(1, ""), port(2, "")), &[]);
    }

    #[test]
    fn what_has_no_meaning_any_more_is_told_of() {
        check(
            json!({
                "metadata": {"annotations": {
                    "scheduler.alpha.kubernetes.io/critical-pod": "",
                    "seccomp.security.alpha.kubernetes.io/pod": "runtime/default",
                    "container.apparmor.security.beta.kubernetes.io/c": "unconfined",
                }},
                "spec": {
                    "terminationGracePeriodSeconds": -1,
                    "imagePullSecrets": [{"name": ""}],
                    "containers": [{"name": "c", "resources": {"limits": {"memory": "1500m"}}}],
                },
            }),
            &[
                "spec.template.metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: \
                 non-functional in v1.16+; use the \"priorityClassName\" field instead",
                "spec.template.spec.imagePullSecrets[0].name: invalid empty name \"\"",
                "spec.template.metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: \
                 non-functional in v1.27+; use the \"seccompProfile\" field instead",
                "spec.template.metadata.annotations\
                 [container.apparmor.security.beta.kubernetes.io/c]: deprecated since v1.30; use \
                 the \"appArmorProfile\" field instead",
                "spec.template.spec.containers[0].resources.limits[memory]: fractional byte value \
                 \"1500m\" is invalid, must be an integer",
                "spec.template.spec.terminationGracePeriodSeconds: must be >= 0; negative values \
                 are invalid and will be treated as 1",
            ],
        );
    }

    #[test]
    fn a_pod_whose_name_is_no_host_name_is_told_of() {
        let meta = |name: &str| ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        assert_eq!(of_pod(&meta("a-b"), &PodSpec::default()), Vec::<String>::new());
        let warnings = of_pod(&meta("a.b"), &PodSpec::default());
        assert!(
            warnings[0].starts_with(
                "metadata.name: this is used in the Pod's hostname, which can result in \
                 surprising behavior; a DNS label is recommended: [a lowercase RFC 1123 label must"
            ),
            "{warnings:?}"
        );
    }
}
