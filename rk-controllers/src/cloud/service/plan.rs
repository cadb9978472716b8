//! What is to be done for a Service, and what is to be told. Pure.

use k8s_openapi::api::core::v1::{Node, Service, ServiceSpec};
use kube::ResourceExt;

use super::FINALIZER;

/// The label of nodes that load balancers pass by.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// The taint of nodes that the cluster autoscaler is about to delete.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// The next step for a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// All is as it should be, or it is nobody's.
    Nothing,
    /// Make the load balancer, or change it.
    Ensure,
    /// Put it in front of other nodes.
    Update,
    /// Delete it and let the Service go.
    Delete,
}

/// Decides on a Service, by the nodes there are now and what was done last.
pub(super) fn step(
    service: &Service,
    nodes: &[String],
    before: Option<(&Service, &[String])>,
) -> Step {
    let held = service.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    let ends = service.metadata.deletion_timestamp.is_some();
    if ends || !wants(service) {
        let was_ours = before.is_some_and(|(before, _)| wants(before));
        let unwanted = ends || kind(service) != "LoadBalancer";
        return if (held && unwanted) || was_ours { Step::Delete } else { Step::Nothing };
    }
    match before {
        Some((before, in_front_of)) if !differs(before, service) && held => {
            if in_front_of == nodes { Step::Nothing } else { Step::Update }
        }
        _ => Step::Ensure,
    }
}

fn spec(service: &Service) -> ServiceSpec {
    service.spec.clone().unwrap_or_default()
}

fn kind(service: &Service) -> &str {
    service.spec.as_ref().and_then(|spec| spec.type_.as_deref()).unwrap_or("ClusterIP")
}

/// Whether a Service wants a load balancer of this cloud.
fn wants(service: &Service) -> bool {
    let class = service.spec.as_ref().and_then(|spec| spec.load_balancer_class.as_ref());
    kind(service) == "LoadBalancer" && class.is_none()
}

/// Whether a load balancer would be another one for the new Service.
fn differs(old: &Service, new: &Service) -> bool {
    let (before, after) = (spec(old), spec(new));
    old.uid() != new.uid()
        || old.annotations() != new.annotations()
        || before.ports != after.ports
        || before.session_affinity != after.session_affinity
        || before.session_affinity_config != after.session_affinity_config
        || before.load_balancer_source_ranges != after.load_balancer_source_ranges
        || before.load_balancer_ip != after.load_balancer_ip
        || before.external_ips != after.external_ips
        || before.external_traffic_policy != after.external_traffic_policy
        || before.health_check_node_port != after.health_check_node_port
        || before.ip_families != after.ip_families
}

/// Whether a load balancer is in front of a node.
pub(super) fn is_in_front_of(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    node.metadata.deletion_timestamp.is_none()
        && !node.labels().contains_key(EXCLUDED)
        && !taints.iter().any(|taint| taint.key == TO_BE_DELETED)
}

/// What an update changes that people want to read in the events: reasons and messages.
pub(super) fn news(old: &Service, new: &Service) -> Vec<(&'static str, String)> {
    if !wants(old) && !wants(new) {
        return Vec::new();
    }
    let (before, after) = (spec(old), spec(new));
    let mut news = Vec::new();
    let mut tell = |reason, before: String, after: String| {
        if before != after {
            news.push((reason, format!("{before} -> {after}")));
        }
    };
    let list = |list: Option<Vec<String>>| format!("[{}]", list.unwrap_or_default().join(" "));
    tell("Type", kind(old).to_owned(), kind(new).to_owned());
    tell(
        "LoadBalancerSourceRanges",
        list(before.load_balancer_source_ranges),
        list(after.load_balancer_source_ranges),
    );
    tell(
        "LoadbalancerIP",
        before.load_balancer_ip.unwrap_or_default(),
        after.load_balancer_ip.unwrap_or_default(),
    );
    tell(
        "ExternalTrafficPolicy",
        before.external_traffic_policy.unwrap_or_default(),
        after.external_traffic_policy.unwrap_or_default(),
    );
    let port = |port: Option<i32>| port.unwrap_or_default().to_string();
    tell(
        "HealthCheckNodePort",
        port(before.health_check_node_port),
        port(after.health_check_node_port),
    );
    news
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: Value, finalizers: &[&str]) -> Service {
        let metadata = json!({"name": "s", "uid": "u", "finalizers": finalizers});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    fn balanced() -> Value {
        json!({"type": "LoadBalancer", "ports": [{"port": 80}]})
    }

    #[test]
    fn each_state_of_a_service_has_its_step() {
        let nodes = ["a".to_owned()];
        let held = service(balanced(), &[FINALIZER]);
        let before = Some((&held, nodes.as_slice()));
        assert_eq!(step(&service(balanced(), &[]), &nodes, None), Step::Ensure);
        assert_eq!(step(&held, &nodes, None), Step::Ensure, "after a restart");
        assert_eq!(step(&held, &nodes, before), Step::Nothing);
        assert_eq!(step(&held, &[], before), Step::Update);
        let other_port = json!({"type": "LoadBalancer", "ports": [{"port": 81}]});
        assert_eq!(step(&service(other_port, &[FINALIZER]), &nodes, before), Step::Ensure);

        let plain = json!({"type": "ClusterIP", "ports": [{"port": 80}]});
        assert_eq!(step(&service(plain.clone(), &[]), &nodes, None), Step::Nothing);
        assert_eq!(step(&service(plain, &[FINALIZER]), &nodes, None), Step::Delete);
        let mut ending = held.clone();
        ending.metadata.deletion_timestamp = Some(rk_api::clock::now_seconds());
        assert_eq!(step(&ending, &nodes, before), Step::Delete);
        let classy = json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/x"});
        assert_eq!(step(&service(classy, &[]), &nodes, None), Step::Nothing);
    }

    #[test]
    fn changes_are_told_as_people_know_them() {
        let with = |more: Value| {
            let mut spec = balanced();
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            service(spec, &[])
        };
        let old = with(json!({"loadBalancerSourceRanges": ["10.0.0.0/8"]}));
        let new = with(json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 30001}));
        assert_eq!(
            news(&old, &new),
            [
                ("LoadBalancerSourceRanges", "[10.0.0.0/8] -> []".to_owned()),
                ("ExternalTrafficPolicy", " -> Local".to_owned()),
                ("HealthCheckNodePort", "0 -> 30001".to_owned()),
            ]
        );
        let plain = service(json!({"type": "NodePort"}), &[]);
        assert_eq!(news(&plain, &old)[0], ("Type", "NodePort -> LoadBalancer".to_owned()));
        assert!(news(&plain, &service(json!({"type": "ClusterIP"}), &[])).is_empty());
    }

    #[test]
    fn load_balancers_pass_by_nodes_that_go_or_are_marked() {
        let node = |more: Value| serde_json::from_value::<Node>(more).unwrap();
        assert!(is_in_front_of(&node(json!({"metadata": {"name": "n"}}))), "ready or not");
        assert!(!is_in_front_of(&node(json!({"metadata": {"labels": {EXCLUDED: ""}}}))));
        let going = json!({"metadata": {}, "spec": {"taints": [{"key": TO_BE_DELETED, "effect": "NoSchedule"}]}});
        assert!(!is_in_front_of(&node(going)));
    }
}
