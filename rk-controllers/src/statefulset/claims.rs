//! The claims of a Pod: made from the templates, kept or given away by the retention policy. Pure.

use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{PersistentVolumeClaim, Pod},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{Resource, ResourceExt};

use super::model;
use crate::owners::{controller_ref, refers_to};

/// The volumes that come from claim templates, each with the name of its claim.
pub(super) fn names(set: &StatefulSet, ordinal: i32) -> Vec<(String, String)> {
    let templates = set.spec.volume_claim_templates.iter().flatten();
    let pod = model::pod_name(set, ordinal);
    templates
        .map(|template| (template.name_any(), format!("{}-{pod}", template.name_any())))
        .collect()
}

/// Whether the set may have made a claim of this name.
pub(super) fn may_be_of(set: &StatefulSet, claim: &str) -> bool {
    let templates = set.spec.volume_claim_templates.iter().flatten();
    templates.into_iter().any(|template| {
        let pod = claim.strip_prefix(&template.name_any()).and_then(|rest| rest.strip_prefix('-'));
        pod.is_some_and(|pod| model::ordinal(set, pod).is_some())
    })
}

/// The claims of the Pod of this ordinal, as they are created. They have the labels of the set's
/// selector, so that a user finds them by it.
pub(super) fn new_claims(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let templates = set.spec.volume_claim_templates.iter().flatten();
    let named = templates.zip(names(set, ordinal));
    named
        .map(|(template, (_, name))| {
            let mut claim = template.clone();
            claim.metadata.name = Some(name);
            claim.metadata.namespace = set.namespace();
            claim.status = None;
            claim.labels_mut().extend(set.spec.selector.match_labels.clone().unwrap_or_default());
            if claim.labels().is_empty() {
                claim.metadata.labels = None;
            }
            if model::retention(set).delete_with_set {
                claim.owner_references_mut().push(controller_ref(set));
            }
            claim
        })
        .collect()
}

/// Who should own a claim (KEP-1847).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ownership {
    /// All owner references that it should have.
    pub references: Vec<OwnerReference>,
    /// Somebody else manages it, so the retention policy is left aside.
    pub conflict: bool,
}

/// The owners that `claim` of `pod` should have; `None` if it has them. With nothing to be deleted
/// it has none of us; a claim that goes with the set is the set's; one that goes with its Pod is
/// the Pod's as soon as the ordinal is scaled away.
///
/// References of the set and the Pod are known by kind and name, so that those of earlier ones of
/// the name are cleaned away too. But where there is such a one, the claim is not taken over: the
/// garbage collector decides about it.
pub(super) fn ownership(
    set: &StatefulSet,
    pod: &Pod,
    ordinal: i32,
    claim: &PersistentVolumeClaim,
) -> Option<Ownership> {
    let present = claim.owner_references();
    let retention = model::retention(set);
    let of_set = |reference: &OwnerReference| {
        refers_to::<StatefulSet>(reference) && reference.name == set.name_any()
    };
    let of_pod = |reference: &OwnerReference| {
        refers_to::<Pod>(reference) && reference.name == pod.name_any()
    };
    let keeps_all = !retention.delete_with_set && !retention.delete_with_pod;
    let conflict = !keeps_all
        && present.iter().any(|reference| match () {
            () if of_set(reference) => Some(&reference.uid) != set.meta().uid.as_ref(),
            () if of_pod(reference) => Some(&reference.uid) != pod.meta().uid.as_ref(),
            () => reference.controller == Some(true),
        });
    let owner = match model::in_range(set, ordinal) {
        _ if conflict => None,
        false if retention.delete_with_pod => Some(controller_ref(pod)),
        _ => retention.delete_with_set.then(|| controller_ref(set)),
    };
    let others = present.iter().filter(|reference| !of_set(reference) && !of_pod(reference));
    let references: Vec<_> = others.cloned().chain(owner).collect();
    (references != present).then_some(Ownership { references, conflict })
}

/// Whether a claim still belongs to an earlier Pod of this name, and goes with it: a new Pod must
/// wait for a claim of its own.
pub(super) fn is_stale(set: &StatefulSet, ordinal: i32, claim: &PersistentVolumeClaim) -> bool {
    let name = model::pod_name(set, ordinal);
    model::retention(set).delete_with_pod
        && claim
            .owner_references()
            .iter()
            .any(|reference| refers_to::<Pod>(reference) && reference.name == name)
}
