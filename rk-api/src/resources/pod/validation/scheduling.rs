//! Where a Pod may run: affinity, tolerations, spreading, gates.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Affinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, PodSpec,
    Toleration, TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use serde_json::json;

use super::super::super::check::{Errors, list, text};
use crate::{
    field::{FieldError, Path},
    meta::names,
};

/// What a taint does.
pub(in super::super::super) const TAINT_EFFECTS: &[&str] =
    &["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(super) fn affinity(errors: &mut Errors, affinity: &Affinity, path: &Path) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    if let Some(nodes) = &affinity.node_affinity {
        let at = path.child("nodeAffinity");
        if let Some(selector) = &nodes.required_during_scheduling_ignored_during_execution {
            node_selector(errors, selector, &at.child(REQUIRED));
        }
        let preferred = list(&nodes.preferred_during_scheduling_ignored_during_execution);
        for (i, term) in preferred.iter().enumerate() {
            let at = at.child(PREFERRED).index(i);
            weight(errors, term.weight, &at);
            node_selector_term(errors, &term.preference, &at.child("preference"));
        }
    }
    let mut pods =
        |at: Path, required: &[PodAffinityTerm], preferred: &[WeightedPodAffinityTerm]| {
            for (i, term) in required.iter().enumerate() {
                pod_term(errors, term, &at.child(REQUIRED).index(i));
            }
            for (i, term) in preferred.iter().enumerate() {
                let at = at.child(PREFERRED).index(i);
                weight(errors, term.weight, &at);
                pod_term(errors, &term.pod_affinity_term, &at.child("podAffinityTerm"));
            }
        };
    if let Some(together) = &affinity.pod_affinity {
        pods(
            path.child("podAffinity"),
            list(&together.required_during_scheduling_ignored_during_execution),
            list(&together.preferred_during_scheduling_ignored_during_execution),
        );
    }
    if let Some(apart) = &affinity.pod_anti_affinity {
        pods(
            path.child("podAntiAffinity"),
            list(&apart.required_during_scheduling_ignored_during_execution),
            list(&apart.preferred_during_scheduling_ignored_during_execution),
        );
    }
}

fn weight(errors: &mut Errors, weight: i32, path: &Path) {
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.child("weight"), weight, "must be in the range 1-100");
    }
}

/// A node selector, of a Pod or of a volume.
pub(in super::super::super) fn node_selector(
    errors: &mut Errors,
    selector: &NodeSelector,
    path: &Path,
) {
    let at = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        errors.required(&at, "must have at least one node selector term");
    }
    for (i, term) in selector.node_selector_terms.iter().enumerate() {
        node_selector_term(errors, term, &at.index(i));
    }
}

fn node_selector_term(errors: &mut Errors, term: &NodeSelectorTerm, path: &Path) {
    for (i, wanted) in list(&term.match_expressions).iter().enumerate() {
        node_label(errors, wanted, &path.child("matchExpressions").index(i));
    }
    for (i, wanted) in list(&term.match_fields).iter().enumerate() {
        let at = path.child("matchFields").index(i);
        if !matches!(wanted.operator.as_str(), "In" | "NotIn") {
            errors.invalid(
                &at.child("operator"),
                wanted.operator.as_str(),
                "not a valid selector operator",
            );
        } else if list(&wanted.values).len() != 1 {
            errors.required(
                &at.child("values"),
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
            );
        }
        if wanted.key != "metadata.name" {
            errors.invalid(&at.child("key"), wanted.key.as_str(), "not a valid field selector key");
        }
        for (j, value) in list(&wanted.values).iter().enumerate() {
            let at = at.child("values").index(j);
            errors.form(&at, value.as_str(), names::dns_subdomain(value, false));
        }
    }
}

fn node_label(errors: &mut Errors, wanted: &NodeSelectorRequirement, path: &Path) {
    let values = list(&wanted.values);
    let at = path.child("values");
    match wanted.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(&at, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => errors
            .forbidden(&at, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
        "Gt" | "Lt" if values.len() != 1 => {
            errors.required(&at, "must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
    errors.label_key(&path.child("key"), &wanted.key);
    if matches!(wanted.operator.as_str(), "In" | "NotIn") {
        for (i, value) in values.iter().enumerate() {
            errors.form(&at.index(i), value.as_str(), names::label_value(value));
        }
    }
}

fn pod_term(errors: &mut Errors, term: &PodAffinityTerm, path: &Path) {
    if let Some(selector) = &term.label_selector {
        errors.selector(&path.child("labelSelector"), selector);
    }
    if let Some(selector) = &term.namespace_selector {
        errors.selector(&path.child("namespaceSelector"), selector);
    }
    for namespace in list(&term.namespaces) {
        let wrong = names::dns_label(namespace, false);
        errors.form(&path.child("namespace"), namespace.as_str(), wrong);
    }
    label_keys(errors, term, path);
    let at = path.child("topologyKey");
    if term.topology_key.is_empty() {
        errors.required(&at, "can not be empty");
    }
    errors.label_key(&at, &term.topology_key);
}

/// Keys of labels that are merged into the selector. A Pod comes here with that done, so a key of
/// `matchLabelKeys` may be there once.
fn label_keys(errors: &mut Errors, term: &PodAffinityTerm, path: &Path) {
    let (wanted, unwanted) = (list(&term.match_label_keys), list(&term.mismatch_label_keys));
    for (field, keys) in [("matchLabelKeys", wanted), ("mismatchLabelKeys", unwanted)] {
        let at = path.child(field);
        if term.label_selector.is_none() && !keys.is_empty() {
            errors.forbidden(&at, "must not be specified when labelSelector is not set");
            continue;
        }
        for (i, key) in keys.iter().enumerate() {
            errors.label_key(&at.index(i), key);
        }
    }
    if let Some(selector) = &term.label_selector {
        let mut seen: BTreeSet<&String> =
            selector.match_labels.iter().flat_map(BTreeMap::keys).collect();
        for expression in list(&selector.match_expressions) {
            let key = &expression.key;
            if let Some(i) = wanted.iter().rposition(|it| it == key).filter(|_| seen.contains(key))
            {
                let detail = "exists in both matchLabelKeys and labelSelector";
                errors.invalid(&path.index(i), key.as_str(), detail);
            }
            seen.insert(key);
        }
    }
    for (i, key) in wanted.iter().enumerate().filter(|(_, key)| unwanted.contains(key)) {
        let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
        errors.invalid(&path.child("matchLabelKeys").index(i), key.as_str(), detail);
    }
}

/// What a Pod, or the Pods of a runtime class, tolerate.
pub(in super::super::super) fn tolerations(
    errors: &mut Errors,
    tolerations: &[Toleration],
    path: &Path,
) {
    for (i, toleration) in tolerations.iter().enumerate() {
        let at = path.index(i);
        let (key, operator) = (text(&toleration.key), text(&toleration.operator));
        let (effect, value) = (text(&toleration.effect), text(&toleration.value));
        if !key.is_empty() {
            errors.label_key(&at.child("key"), key);
        } else if operator != "Exists" {
            errors.invalid(
                &at.child("operator"),
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and \
                 all keys\"",
            );
        }
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            errors.invalid(
                &at.child("effect"),
                effect,
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            );
        }
        match operator {
            "Equal" | "" => {
                let wrong = names::label_value(value);
                if !wrong.is_empty() {
                    errors.invalid(&at.child("operator"), value, wrong.join(";"));
                }
            }
            "Exists" if !value.is_empty() => errors.invalid(
                &at.child("operator"),
                json!(toleration),
                "value must be empty when `operator` is 'Exists'",
            ),
            other => errors.one_of(&at.child("operator"), other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            errors.one_of(&at.child("effect"), effect, TAINT_EFFECTS);
        }
    }
}

pub(super) fn topology_spread(
    errors: &mut Errors,
    constraints: &[TopologySpreadConstraint],
    path: &Path,
) {
    for (i, constraint) in constraints.iter().enumerate() {
        let at = path.index(i);
        if constraint.max_skew <= 0 {
            errors.invalid(&at.child("maxSkew"), constraint.max_skew, "must be greater than zero");
        }
        let key = constraint.topology_key.as_str();
        if key.is_empty() {
            errors.required(&at.child("topologyKey"), "can not be empty");
        } else {
            errors.label_key(&at.child("topologyKey"), key);
        }
        let action = constraint.when_unsatisfiable.as_str();
        let actions = ["DoNotSchedule", "ScheduleAnyway"];
        errors.one_of(&at.child("whenUnsatisfiable"), action, &actions);
        let same = |other: &TopologySpreadConstraint| {
            other.topology_key == key && other.when_unsatisfiable == action
        };
        if constraints[i + 1..].iter().any(same) {
            errors.push(FieldError::duplicate(
                &at.child("{topologyKey, whenUnsatisfiable}"),
                format!("{{{key}, {action}}}"),
            ));
        }
        if let Some(domains) = constraint.min_domains {
            if domains <= 0 {
                errors.invalid(&at.child("minDomains"), domains, "must be greater than zero");
            }
            if action != "DoNotSchedule" {
                errors.invalid(
                    &at.child("minDomains"),
                    domains,
                    format!(
                        "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"
                    ),
                );
            }
        }
        for (field, policy) in [
            ("nodeAffinityPolicy", &constraint.node_affinity_policy),
            ("nodeTaintsPolicy", &constraint.node_taints_policy),
        ] {
            if let Some(policy) = policy {
                errors.one_of(&at.child(field), policy, &["Honor", "Ignore"]);
            }
        }
        if let Some(selector) = &constraint.label_selector {
            errors.selector(&at.child("labelSelector"), selector);
        }
    }
}

/// Readiness gates and scheduling gates.
pub(super) fn gates(errors: &mut Errors, spec: &PodSpec, path: &Path) {
    for (i, gate) in list(&spec.readiness_gates).iter().enumerate() {
        let at = path.child("readinessGates").index(i).child("conditionType");
        errors.label_key(&at, &gate.condition_type);
    }
    let mut seen = BTreeSet::new();
    for (i, gate) in list(&spec.scheduling_gates).iter().enumerate() {
        let at = path.child("schedulingGates").index(i);
        errors.label_key(&at.child("name"), &gate.name);
        if !seen.insert(gate.name.as_str()) {
            errors.push(FieldError::duplicate(&at, gate.name.as_str()));
        }
    }
}
