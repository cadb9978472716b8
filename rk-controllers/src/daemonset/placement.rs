//! Which nodes a DaemonSet's Pods are for, and what its Pods look like. Pure.

use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        core::v1::{
            Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint,
            Toleration,
        },
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::ResourceExt;

use super::model;
use crate::{
    history::POD_REVISION,
    node_selector::{self, NAME_FIELD},
    pod_control::pod_from_template,
    pods,
    taint_eviction::tolerates,
};

/// What a node is to a DaemonSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It is to have a Pod.
    Wanted,
    /// It gets no Pod, but keeps one that is there: a NoSchedule taint came later.
    Kept,
    /// It is to have none.
    Refused,
}

/// What `node` is to `set`: what the scheduler would say of the template with the tolerations that
/// Pods of DaemonSets have, resources left aside.
pub(super) fn place(set: &DaemonSet, node: &Node) -> Place {
    let Some(spec) = &set.spec.template.spec else { return Place::Refused };
    let pinned = spec.node_name.as_deref().filter(|name| !name.is_empty());
    if pinned.is_some_and(|name| name != node.name_any()) || !node_selector::selects(spec, node) {
        return Place::Refused;
    }
    let tolerations = with_own_tolerations(spec);
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let repels = |effect: &str| {
        let tolerated = |taint: &Taint| tolerations.iter().any(|it| tolerates(it, taint));
        taints.iter().any(|taint| taint.effect == effect && !tolerated(taint))
    };
    match (repels("NoExecute"), repels("NoSchedule")) {
        (true, _) => Place::Refused,
        (false, true) => Place::Kept,
        (false, false) => Place::Wanted,
    }
}

/// The Pod for a node. The scheduler binds it like any other; the affinity leaves it one node.
pub(super) fn new_pod(set: &DaemonSet, owner: &OwnerReference, hash: &str, node: &str) -> Pod {
    let namespace = set.namespace().unwrap_or_default();
    let mut pod = pod_from_template(&set.spec.template, &namespace, owner);
    pod.labels_mut().insert(POD_REVISION.into(), hash.to_owned());
    if let Some(generation) = set.annotations().get(model::TEMPLATE_GENERATION) {
        pod.labels_mut().insert(model::POD_GENERATION.into(), generation.clone());
    }
    let spec = pod.spec.get_or_insert_default();
    spec.tolerations = Some(with_own_tolerations(spec));
    // Instead of the required terms, not beside them: the node was chosen by them already.
    let by_name = NodeSelectorRequirement {
        key: NAME_FIELD.into(),
        operator: "In".into(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_expressions: None, match_fields: Some(vec![by_name]) };
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
    pod
}

/// The node that a Pod is on or is made for.
pub(super) fn target(pod: &Pod) -> Option<&str> {
    if let Some(node) = pods::node_name(pod) {
        return Some(node);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields =
        required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    fields.filter(|field| field.key == NAME_FIELD && field.operator == "In").find_map(|field| {
        match field.values.as_deref().unwrap_or_default() {
            [name] => Some(name.as_str()),
            _ => None,
        }
    })
}

/// The template's tolerations and those of every DaemonSet: troubles of a node neither keep its
/// Pod away nor evict it.
fn with_own_tolerations(spec: &PodSpec) -> Vec<Toleration> {
    const OWN: [(&str, &str); 6] = [
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
    ];
    let of_host_network =
        (spec.host_network == Some(true)).then_some(("network-unavailable", "NoSchedule"));
    let mut tolerations = spec.tolerations.clone().unwrap_or_default();
    for (condition, effect) in OWN.into_iter().chain(of_host_network) {
        let own = Toleration {
            key: Some(format!("node.kubernetes.io/{condition}")),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Default::default()
        };
        // One for the same taint that ends after some time gives way.
        let same = |it: &&mut Toleration| {
            (&it.key, &it.operator, &it.effect, it.value.as_deref().unwrap_or_default())
                == (&own.key, &own.operator, &own.effect, "")
        };
        match tolerations.iter_mut().find(same) {
            Some(there) => *there = own,
            None => tolerations.push(own),
        }
    }
    tolerations
}
