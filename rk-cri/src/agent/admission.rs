//! Whether a pod that was bound to this node can run on it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec};
use rk_api::meta::quantity::Quantity;

use super::{hugepages::PREFIX, resources::pod_request};

/// Why a pod is refused: the reason and the message of its status.
pub(crate) type Refusal = (String, String);

/// Checks a pod against the node and the pods that were admitted before it.
///
/// The scheduler has checked the same; this is for pods that were bound by hand, and for races.
pub(crate) fn admit(pod: &Pod, others: &[&Pod], node: &Node) -> Result<(), Refusal> {
    let refuse =
        |reason: &str, why: String| Err((reason.to_string(), format!("Pod was rejected: {why}")));
    if let Some(Shortage { name, requested, used, capacity }) = lacking(pod, others, node) {
        let why = format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
        );
        return refuse(&format!("OutOf{name}"), why);
    }
    let default = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    if !matches_node(spec, node) {
        let why =
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        return refuse("NodeAffinity", why.into());
    }
    let taken: Vec<_> = others.iter().flat_map(|other| host_ports(other)).collect();
    let collides =
        host_ports(pod).iter().any(|port| taken.iter().any(|other| port.collides(other)));
    if collides {
        let why = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        return refuse("NodePorts", why.into());
    }
    Ok(())
}

/// A resource that a node has too little of. CPU in thousandths, else in units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shortage {
    pub(crate) name: String,
    pub(crate) requested: i64,
    pub(crate) used: i64,
    pub(crate) capacity: i64,
}

/// The first resource that the node has too little of, its places for Pods among them.
fn lacking(pod: &Pod, others: &[&Pod], node: &Node) -> Option<Shortage> {
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref())?;
    let places = allocatable.get("pods").and_then(|pods| Quantity::parse(&pods.0).ok());
    let (used, capacity) = (others.len() as i64, places.map(|places| places.value()));
    match capacity.filter(|capacity| used + 1 > *capacity) {
        Some(capacity) => Some(Shortage { name: "pods".to_owned(), requested: 1, used, capacity }),
        None => lacking_amounts(pod, others, node),
    }
}

/// The first of the resources that Pods ask for by amounts of which the node has too little.
pub(crate) fn lacking_amounts(pod: &Pod, others: &[&Pod], node: &Node) -> Option<Shortage> {
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref())?;
    let amount = |name: &str| {
        let quantity = Quantity::parse(&allocatable.get(name)?.0).ok()?;
        Some(if name == "cpu" { quantity.millis() } else { quantity.value() })
    };
    let pages = allocatable.keys().map(String::as_str).filter(|name| name.starts_with(PREFIX));
    for name in ["cpu", "memory", "ephemeral-storage"].into_iter().chain(pages) {
        let requested = pod_request(pod, name);
        if requested == 0 {
            continue;
        }
        let capacity = amount(name).unwrap_or(0);
        let used: i64 = others.iter().map(|other| pod_request(other, name)).sum();
        if used + requested > capacity {
            return Some(Shortage { name: name.to_owned(), requested, used, capacity });
        }
    }
    None
}

/// Kernel parameters that are of a namespace, harm nobody else, and are open to everybody.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// Checks the kernel parameters that a pod sets: only the safe ones and those that the node allows
/// (a `*` at the end stands for anything), and none of a namespace that is the host's.
pub(crate) fn allow_sysctls(pod: &Pod, allowed: &[String]) -> Result<(), Refusal> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let wanted = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    for sysctl in wanted {
        let name = sysctl.name.replace('/', ".");
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => *pattern == name,
        };
        let of_ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];
        let of_ipc = of_ipc.iter().any(|beginning| name.starts_with(beginning));
        let refused = if spec.host_network == Some(true) && name.starts_with("net.") {
            "not allowed with host net enabled"
        } else if spec.host_ipc == Some(true) && of_ipc {
            "not allowed with host ipc enabled"
        } else if !SAFE_SYSCTLS.contains(&name.as_str()) && !allowed.iter().any(matches) {
            "not allowlisted"
        } else {
            continue;
        };
        let why = format!("Pod was rejected: forbidden sysctl: {:?} {refused}", sysctl.name);
        return Err(("SysctlForbidden".to_owned(), why));
    }
    Ok(())
}

#[derive(Debug, PartialEq)]
struct HostPort<'a> {
    ip: &'a str,
    port: i32,
    protocol: &'a str,
}

impl HostPort<'_> {
    fn collides(&self, other: &HostPort<'_>) -> bool {
        (self.port, self.protocol) == (other.port, other.protocol)
            && (self.ip == other.ip || self.ip == "0.0.0.0" || other.ip == "0.0.0.0")
    }
}

fn host_ports(pod: &Pod) -> Vec<HostPort<'_>> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let ip = port.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0");
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            Some(HostPort { ip, port: port.host_port.filter(|port| *port > 0)?, protocol })
        })
        .collect()
}

/// Whether the pod's node selector and required node affinity allow this node.
fn matches_node(spec: &PodSpec, node: &Node) -> bool {
    let none = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let selected =
        spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let required =
        spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref()).and_then(
            |affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref(),
        );
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let term = |term: &NodeSelectorTerm| {
        let (labels_wanted, fields) = (&term.match_expressions, &term.match_fields);
        let empty = labels_wanted.iter().flatten().chain(fields.iter().flatten()).next().is_none();
        !empty
            && labels_wanted
                .iter()
                .flatten()
                .all(|r| holds(r, labels.get(&r.key).map(String::as_str)))
            && fields.iter().flatten().all(|r| holds(r, (r.key == "metadata.name").then_some(name)))
    };
    selected && required.is_none_or(|required| required.node_selector_terms.iter().any(term))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|other| other == value));
    let number = |text: &str| text.parse::<i64>().ok();
    let compare = || Some((number(value?)?, number(values.first()?)?));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare().is_some_and(|(have, want)| have > want),
        "Lt" => compare().is_some_and(|(have, want)| have < want),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node() -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n1", "labels": {"zone": "a", "size": "8"}},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3"}},
        }))
        .unwrap()
    }

    fn pod(spec: serde_json::Value) -> Pod {
        let mut value = json!({"metadata": {}, "spec": {"containers": [{"name": "c"}]}});
        for (key, item) in spec.as_object().unwrap() {
            value["spec"][key] = item.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    fn cpu(amount: &str) -> Pod {
        pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": amount}}}]}))
    }

    #[track_caller]
    fn check(pod: Pod, others: &[Pod], expected: Result<(), &str>) {
        let others: Vec<&Pod> = others.iter().collect();
        let refusal = admit(&pod, &others, &node());
        let refusal = refusal.map_err(|(reason, _)| reason);
        assert_eq!(refusal, expected.map_err(str::to_string));
    }

    #[test]
    fn what_does_not_fit_is_refused_by_resource() {
        check(cpu("2"), &[], Ok(()));
        check(cpu("1"), &[cpu("1500m")], Err("OutOfcpu"));
        check(pod(json!({})), &[cpu("0"), cpu("0"), cpu("0")], Err("OutOfpods"));
        let (_, message) = admit(&cpu("3"), &[], &node()).unwrap_err();
        assert_eq!(
            message,
            "Pod was rejected: Node didn't have enough resource: cpu, requested: 3000, used: 0, capacity: 2000"
        );
    }

    #[test]
    fn a_kernel_parameter_has_to_be_safe_or_allowed() {
        let setting = |name: &str, network: bool| {
            pod(
                json!({"hostNetwork": network, "securityContext": {"sysctls": [{"name": name, "value": "1"}]}}),
            )
        };
        let allowed = ["kernel.msg*".to_owned()];
        let refusal = |pod: &Pod| allow_sysctls(pod, &allowed).err().map(|(_, why)| why);
        assert_eq!(refusal(&setting("net.ipv4.tcp_syncookies", false)), None);
        assert_eq!(refusal(&setting("kernel.msgmax", false)), None);
        assert_eq!(
            refusal(&setting("kernel.panic", false)).as_deref(),
            Some("Pod was rejected: forbidden sysctl: \"kernel.panic\" not allowlisted")
        );
        let host = refusal(&setting("net.ipv4.tcp_syncookies", true)).unwrap();
        assert!(host.ends_with("not allowed with host net enabled"), "{host}");
    }

    #[test]
    fn a_host_port_is_given_once() {
        let port = |ip: &str| {
            pod(
                json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80, "hostIP": ip}]}]}),
            )
        };
        check(port(""), &[port("10.0.0.1")], Err("NodePorts"));
        check(port("10.0.0.1"), &[port("10.0.0.2")], Ok(()));
    }

    #[test]
    fn the_node_must_be_one_that_the_pod_accepts() {
        check(pod(json!({"nodeSelector": {"zone": "a"}})), &[], Ok(()));
        check(pod(json!({"nodeSelector": {"zone": "b"}})), &[], Err("NodeAffinity"));
        let affinity = |term: serde_json::Value| {
            pod(json!({"affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}}))
        };
        let size = |operator: &str| {
            affinity(
                json!({"matchExpressions": [{"key": "size", "operator": operator, "values": ["4"]}]}),
            )
        };
        check(size("Gt"), &[], Ok(()));
        check(size("Lt"), &[], Err("NodeAffinity"));
        let name =
            json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]});
        check(affinity(name), &[], Ok(()));
        check(affinity(json!({})), &[], Err("NodeAffinity"));
    }
}
