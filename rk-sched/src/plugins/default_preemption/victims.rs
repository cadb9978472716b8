//! Which Pods of a node would have to go, and how much harm that does. Pure.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use rk_api::meta::selectors::LabelQuery;

use crate::{Filters, NodeInfo, PodInfo, budgets::BudgetView};

/// A node and the Pods that would have to go.
pub(super) struct Candidate<'a> {
    pub(super) node: &'a NodeInfo,
    /// The most important first.
    pub(super) victims: Vec<Arc<PodInfo>>,
    /// How many of them a budget would keep.
    pub(super) violations: usize,
}

impl Candidate<'_> {
    /// Smaller is better.
    pub(super) fn harm(&self) -> (usize, i32, i64, usize, Reverse<i64>) {
        let victims = &self.victims;
        let highest = victims.iter().map(|it| it.priority).max().unwrap_or(i32::MIN);
        // Shifted, so that more victims of negative priority are not better than fewer.
        let sum = victims.iter().map(|it| i64::from(it.priority) - i64::from(i32::MIN)).sum();
        let important = victims.iter().filter(|it| it.priority == highest);
        let earliest = important.map(|it| start(it)).min().unwrap_or(i64::MAX);
        (self.violations, highest, sum, victims.len(), Reverse(earliest))
    }
}

/// The Pods that must go from a node for the Pod to fit, or why their going does not help.
pub(super) fn select<'a>(
    filters: &Filters<'_>,
    pod: &PodInfo,
    node: &'a NodeInfo,
    budgets: Option<&dyn BudgetView>,
) -> Result<Candidate<'a>, String> {
    let mut lower: Vec<_> =
        node.pods.iter().filter(|it| it.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return Err("No preemption victims found for incoming pod".to_owned());
    }
    // A dry run: the snapshot stays as it is.
    let mut trial = node.clone();
    let mut prepared = filters.prepare(pod).map_err(|(_, status)| status.message())?;
    for victim in &lower {
        trial.remove_pod(&victim.uid);
        filters.remove_pod(&mut prepared, pod, victim, &trial);
    }
    filters.filter_expecting(&mut prepared, pod, &trial).map_err(|(_, status)| status.message())?;

    lower.sort_by_key(importance);
    let (protected, free) = by_budgets(lower, budgets);
    let mut spare = |candidates: Vec<Arc<PodInfo>>| -> Vec<Arc<PodInfo>> {
        let mut victims = Vec::new();
        for spared in candidates {
            trial.add_pod(spared.clone());
            filters.add_pod(&mut prepared, pod, &spared, &trial);
            if filters.filter_expecting(&mut prepared, pod, &trial).is_err() {
                trial.remove_pod(&spared.uid);
                filters.remove_pod(&mut prepared, pod, &spared, &trial);
                victims.push(spared);
            }
        }
        victims
    };
    let mut victims = spare(protected);
    let violations = victims.len();
    victims.extend(spare(free));
    victims.sort_by_key(importance);
    if victims.is_empty() {
        return Err("No preemption victims found for incoming pod".to_owned());
    }
    Ok(Candidate { node, victims, violations })
}

/// Sorts the more important first: by priority, then by how long they have been running.
fn importance(pod: &Arc<PodInfo>) -> (Reverse<i32>, i64, Arc<str>) {
    (Reverse(pod.priority), start(pod), pod.key.clone())
}

/// When a Pod started; one that has not yet is the youngest.
fn start(pod: &PodInfo) -> i64 {
    let status = pod.pod.status.as_ref();
    let time = status.and_then(|status| status.start_time.as_ref());
    time.map_or(i64::MAX, |time| time.0.as_second())
}

/// Those whose loss, were all before them lost too, a budget does not allow; and the others. Both
/// keep their order.
fn by_budgets(
    pods: Vec<Arc<PodInfo>>,
    view: Option<&dyn BudgetView>,
) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let Some(view) = view else { return (Vec::new(), pods) };
    let mut namespaces: HashMap<String, Vec<Allowance>> = HashMap::new();
    pods.into_iter().partition(|pod| {
        let labels = pod.pod.metadata.labels.as_ref().filter(|labels| !labels.is_empty());
        let Some(labels) = labels else { return false };
        let allowances = namespaces.entry(pod.namespace().to_owned()).or_insert_with(|| {
            view.budgets(pod.namespace()).iter().filter_map(allowance).collect()
        });
        let mut violated = false;
        for allowance in allowances {
            let goes_already = allowance.disrupted.iter().any(|name| name == pod.name());
            if !goes_already && allowance.selector.matches(labels) {
                allowance.left -= 1;
                violated |= allowance.left < 0;
            }
        }
        violated
    })
}

/// What a budget still allows.
struct Allowance {
    selector: LabelQuery,
    /// Pods whose eviction it has allowed already.
    disrupted: Vec<String>,
    left: i32,
}

/// Nothing for a budget that selects nothing.
fn allowance(budget: &Arc<PodDisruptionBudget>) -> Option<Allowance> {
    let selector = budget.spec.as_ref()?.selector.as_ref().map(LabelQuery::from_selector)?;
    let status = budget.status.as_ref();
    let disrupted = status.and_then(|status| status.disrupted_pods.clone()).unwrap_or_default();
    (!selector.is_everything()).then(|| Allowance {
        selector,
        disrupted: disrupted.into_keys().collect(),
        left: status.and_then(|status| status.disruptions_allowed).unwrap_or(0),
    })
}
