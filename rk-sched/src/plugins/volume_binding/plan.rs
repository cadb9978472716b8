//! Where claims get their volumes if a Pod goes to a node.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::{
    core::v1::{
        Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume,
        PersistentVolumeClaim, TopologySelectorTerm,
    },
    storage::v1::StorageClass,
};
use kube::ResourceExt;
use rk_api::volumes::{NO_PROVISIONER, SELECTED_NODE, annotation, best_match, claim_class};

use super::Taken;
use crate::{NodeTerms, Status, storage::StorageView};

const NOT_REACHED: &str = "node(s) didn't match PersistentVolume's node affinity";
const NONE_TO_BIND: &str = "node(s) didn't find available persistent volumes to bind";
const GONE: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";

/// What is to be done for a Pod's claims on its way to a node.
#[derive(Clone, Debug, Default)]
pub(super) struct Decision {
    /// Claims and the free volumes that they get.
    pub bind: Vec<(Arc<PersistentVolumeClaim>, Arc<PersistentVolume>)>,
    /// Claims for which volumes are made.
    pub provision: Vec<Arc<PersistentVolumeClaim>>,
}

/// What was decided for other Pods and does not show yet.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    /// Volumes that are spoken for.
    pub taken: Taken,
    /// Claims by [`key`].
    pub claims: BTreeMap<String, Target>,
}

/// What a claim is going to get.
#[derive(Clone, Debug)]
pub(super) enum Target {
    Volume(Arc<PersistentVolume>),
    /// One that is made for this node.
    Node(String),
}

/// `namespace/name`.
pub(super) fn key(claim: &PersistentVolumeClaim) -> String {
    format!("{}/{}", claim.namespace().unwrap_or_default(), claim.name_any())
}

/// Where the claims get their volumes on this node, or why they cannot.
pub(super) fn decide(
    bound: &[Option<Arc<PersistentVolume>>],
    waiting: &[Arc<PersistentVolumeClaim>],
    elsewhere: &Elsewhere,
    node: &Node,
    view: &dyn StorageView,
) -> Result<Decision, Status> {
    for volume in bound {
        let Some(volume) = volume else { return Err(Status::unresolvable(GONE)) };
        if !reaches(node, volume) {
            return Err(Status::unresolvable(NOT_REACHED));
        }
    }
    let mut decision = Decision::default();
    let mut taken = elsewhere.taken.clone();
    for claim in waiting {
        match elsewhere.claims.get(&key(claim)) {
            Some(Target::Volume(volume)) if reaches(node, volume) => {
                decision.bind.push((claim.clone(), volume.clone()));
                continue;
            }
            Some(Target::Node(chosen)) if *chosen == node.name_any() => {
                decision.provision.push(claim.clone());
                continue;
            }
            Some(_) => return Err(Status::unresolvable(NONE_TO_BIND)),
            None => {}
        }
        // A volume is being made for it already.
        if let Some(chosen) = annotation(&claim.metadata, SELECTED_NODE) {
            if chosen != node.name_any() {
                return Err(Status::unresolvable(NONE_TO_BIND));
            }
            decision.provision.push(claim.clone());
            continue;
        }
        if let Some(volume) = free_volume(claim, &taken, node, view) {
            taken.insert(volume.name_any());
            decision.bind.push((claim.clone(), volume));
        } else if can_provision(claim, node, view) {
            decision.provision.push(claim.clone());
        } else {
            return Err(Status::unresolvable(NONE_TO_BIND));
        }
    }
    Ok(decision)
}

fn free_volume(
    claim: &PersistentVolumeClaim,
    taken: &Taken,
    node: &Node,
    view: &dyn StorageView,
) -> Option<Arc<PersistentVolume>> {
    let namespace = claim.namespace().unwrap_or_default();
    let mut volumes = view.volumes_kept_for(&namespace, &claim.name_any());
    volumes.extend(view.volumes_of_class(claim_class(claim).unwrap_or_default()));
    volumes.retain(|volume| !taken.contains(&volume.name_any()) && reaches(node, volume));
    best_match(claim, &volumes).cloned()
}

fn can_provision(claim: &PersistentVolumeClaim, node: &Node, view: &dyn StorageView) -> bool {
    let class = claim_class(claim).and_then(|class| view.class(class));
    class.is_some_and(|class| {
        !matches!(&*class.provisioner, "" | NO_PROVISIONER) && allows_topology(&class, node)
    })
}

/// Whether a class may have volumes where the node is.
fn allows_topology(class: &StorageClass, node: &Node) -> bool {
    let Some(terms) = class.allowed_topologies.as_ref().filter(|terms| !terms.is_empty()) else {
        return true;
    };
    let selector = NodeSelector { node_selector_terms: terms.iter().map(node_term).collect() };
    NodeTerms::new(&selector).matches(node.metadata.labels.as_ref(), &node.name_any())
}

fn node_term(term: &TopologySelectorTerm) -> NodeSelectorTerm {
    let expressions = term.match_label_expressions.iter().flatten();
    let expressions = expressions.map(|expression| NodeSelectorRequirement {
        key: expression.key.clone(),
        operator: "In".to_owned(),
        values: Some(expression.values.clone()),
    });
    NodeSelectorTerm { match_expressions: Some(expressions.collect()), match_fields: None }
}

/// Whether a volume can be used on a node.
pub(super) fn reaches(node: &Node, volume: &PersistentVolume) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    affinity.and_then(|affinity| affinity.required.as_ref()).is_none_or(|required| {
        NodeTerms::new(required).matches(node.metadata.labels.as_ref(), &node.name_any())
    })
}
