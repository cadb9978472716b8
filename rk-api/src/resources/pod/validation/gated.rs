//! What may change of a Pod that scheduling gates hold back: where it may run can be narrowed
//! (KEP-3838).

use k8s_openapi::api::core::v1::{Affinity, NodeAffinity, NodeSelectorTerm, PodSpec};
use serde_json::json;

use super::super::super::check::{Errors, list};
use crate::field::Path;

/// Judges what the Pod says about nodes, and puts back the old, so that the rest can be compared.
pub(super) fn put_back(errors: &mut Errors, spec: &mut PodSpec, old: &PodSpec, path: &Path) {
    let is_kept = |(key, value): (&String, &String)| {
        spec.node_selector.as_ref().and_then(|new| new.get(key)) == Some(value)
    };
    if !old.node_selector.iter().flatten().all(is_kept) {
        errors.invalid(
            &path.child("nodeSelector"),
            json!(spec.node_selector),
            "only additions to spec.nodeSelector are allowed (no mutations or deletions)",
        );
    }
    spec.node_selector.clone_from(&old.node_selector);

    let nodes = |spec: &PodSpec| spec.affinity.as_ref().and_then(|all| all.node_affinity.clone());
    let (new_nodes, old_nodes) = (nodes(spec), nodes(old));
    if new_nodes != old_nodes {
        let at = path.child("affinity.nodeAffinity");
        affinity(errors, new_nodes.as_ref(), old_nodes.as_ref(), &at);
        let mut all = spec.affinity.take().unwrap_or_default();
        all.node_affinity = old_nodes;
        let is_nothing = old.affinity.is_none() && all == Affinity::default();
        spec.affinity = (!is_nothing).then_some(all);
    }
}

/// The terms, of which one must hold.
fn terms(affinity: Option<&NodeAffinity>) -> &[NodeSelectorTerm] {
    let required = affinity
        .and_then(|nodes| nodes.required_during_scheduling_ignored_during_execution.as_ref());
    required.map_or(&[], |required| &required.node_selector_terms)
}

/// Where there were no terms, any may come; where there were some, each may only demand more.
fn affinity(
    errors: &mut Errors,
    new: Option<&NodeAffinity>,
    old: Option<&NodeAffinity>,
    path: &Path,
) {
    let at = path.child("requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms");
    let (new, old) = (terms(new), terms(old));
    if old.is_empty() {
        return;
    }
    if new.len() != old.len() {
        let wrong = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        return errors.invalid(&at, json!(new), wrong);
    }
    for (i, (new, old)) in new.iter().zip(old).enumerate() {
        if !demands_no_less(new, old) {
            let wrong = "only additions are allowed (no mutations or deletions)";
            errors.invalid(&at.index(i), json!(new), wrong);
        }
    }
}

/// Whether the term begins with what it was. A term without demands matches no node, so it must
/// not become one that does.
fn demands_no_less(new: &NodeSelectorTerm, old: &NodeSelectorTerm) -> bool {
    let (labels, fields) = (list(&old.match_expressions), list(&old.match_fields));
    if labels.is_empty() && fields.is_empty() {
        return list(&new.match_expressions).is_empty() && list(&new.match_fields).is_empty();
    }
    list(&new.match_expressions).starts_with(labels) && list(&new.match_fields).starts_with(fields)
}
