//! `matchLabelKeys` and `mismatchLabelKeys`: labels of the Pod itself become part of the selectors
//! that say which other Pods it means (KEP-3633, KEP-3243).

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Pod, PodAffinityTerm, WeightedPodAffinityTerm},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
};

/// Merges the keys into the selectors, so that nobody but the API server need know of them. A key
/// that the Pod has no label of is left out. The keys stay.
pub(super) fn merge(pod: &mut Pod) {
    let (Some(spec), Some(labels)) = (&mut pod.spec, &pod.metadata.labels) else { return };
    if let Some(affinity) = &mut spec.affinity {
        let near = affinity.pod_affinity.as_mut().map(|it| {
            (
                &mut it.required_during_scheduling_ignored_during_execution,
                &mut it.preferred_during_scheduling_ignored_during_execution,
            )
        });
        let apart = affinity.pod_anti_affinity.as_mut().map(|it| {
            (
                &mut it.required_during_scheduling_ignored_during_execution,
                &mut it.preferred_during_scheduling_ignored_during_execution,
            )
        });
        for (required, preferred) in near.into_iter().chain(apart) {
            let preferred = preferred.iter_mut().flatten();
            let preferred =
                preferred.map(|it: &mut WeightedPodAffinityTerm| &mut it.pod_affinity_term);
            required
                .iter_mut()
                .flatten()
                .chain(preferred)
                .for_each(|term| merge_term(term, labels));
        }
    }
    for constraint in spec.topology_spread_constraints.iter_mut().flatten() {
        let keys = constraint.match_label_keys.as_deref().unwrap_or_default();
        if let Some(selector) = &mut constraint.label_selector {
            demand(selector, keys, "In", labels);
        }
    }
}

fn merge_term(term: &mut PodAffinityTerm, labels: &BTreeMap<String, String>) {
    // Without a selector the term means nobody.
    let Some(selector) = &mut term.label_selector else { return };
    demand(selector, term.match_label_keys.as_deref().unwrap_or_default(), "In", labels);
    demand(selector, term.mismatch_label_keys.as_deref().unwrap_or_default(), "NotIn", labels);
}

fn demand(
    selector: &mut LabelSelector,
    keys: &[String],
    operator: &str,
    labels: &BTreeMap<String, String>,
) {
    for (key, value) in keys.iter().filter_map(|key| labels.get_key_value(key)) {
        selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
            key: key.clone(),
            operator: operator.to_owned(),
            values: Some(vec![value.clone()]),
        });
    }
}
