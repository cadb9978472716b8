//! `spec.topologySpreadConstraints`: Pods of a kind spread evenly over zones, hosts and the like.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::core::v1::TopologySpreadConstraint, apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use rk_api::meta::selectors::LabelQuery;

use super::{node_affinity, taint_toleration::tolerates};
use crate::{
    NodeInfo, PodInfo, Snapshot, Status,
    framework::{
        ClusterEvent, CycleState, EnqueueExtensions, Filter, Hint, MAX_NODE_SCORE, Normalize,
        Plugin, PreFilter, PreFiltered, PreScore, Score,
    },
    plugins::no_args,
};

/// The plugin's name.
pub const NAME: &str = "PodTopologySpread";

/// The label that makes each node a domain of its own.
const HOSTNAME: &str = "kubernetes.io/hostname";

/// Rejects nodes where a `DoNotSchedule` constraint would be broken, and prefers those that serve
/// the `ScheduleAnyway` ones best.
///
/// Only a Pod's own constraints count: upstream's defaults for Pods that have none are not applied.
#[derive(Debug, Default)]
pub struct PodTopologySpread;

no_args!(PodTopologySpread);

/// A constraint with the number of matching Pods in each domain.
#[derive(Debug)]
struct Constraint {
    key: String,
    max_skew: i64,
    min_domains: i64,
    selector: LabelQuery,
    honor_affinity: bool,
    honor_taints: bool,
    /// By the label's value, over all nodes that count.
    domains: BTreeMap<String, i64>,
}

/// What the filter needs.
struct Hard(Vec<Constraint>);
/// What the score needs.
struct Soft {
    constraints: Vec<Constraint>,
    /// How much a Pod counts in each constraint's domains: more, the more domains there are.
    weights: Vec<f64>,
    /// Nodes that lack a label that a constraint goes by.
    ignored: BTreeSet<String>,
}

fn constraints(pod: &PodInfo) -> &[TopologySpreadConstraint] {
    let spec = pod.spec();
    spec.and_then(|spec| spec.topology_spread_constraints.as_deref()).unwrap_or_default()
}

fn compile(pod: &PodInfo, when: &str) -> Vec<Constraint> {
    let of_kind = constraints(pod).iter().filter(|it| it.when_unsatisfiable == when);
    of_kind
        .map(|it| {
            let mut selector = it.label_selector.clone();
            let labels = pod.pod.metadata.labels.as_ref();
            for key in it.match_label_keys.iter().flatten() {
                let value = labels.and_then(|labels| labels.get(key));
                if let (Some(value), Some(selector)) = (value, &mut selector) {
                    let LabelSelector { match_labels, .. } = selector;
                    match_labels.get_or_insert_default().insert(key.clone(), value.clone());
                }
            }
            Constraint {
                key: it.topology_key.clone(),
                max_skew: it.max_skew.into(),
                min_domains: it.min_domains.unwrap_or(1).into(),
                selector: LabelQuery::from_optional(selector.as_ref()),
                honor_affinity: it.node_affinity_policy.as_deref() != Some("Ignore"),
                honor_taints: it.node_taints_policy.as_deref() == Some("Honor"),
                domains: BTreeMap::new(),
            }
        })
        .collect()
}

fn label<'a>(node: &'a NodeInfo, key: &str) -> Option<&'a str> {
    node.labels()?.get(key).map(String::as_str)
}

impl Constraint {
    /// Whether a Pod is one of those that are spread.
    fn counts(&self, pod: &PodInfo, other: &PodInfo) -> bool {
        other.namespace() == pod.namespace()
            && !other.is_terminating()
            && self.selector.matches_optional(other.pod.metadata.labels.as_ref())
    }

    /// How many there are on a node.
    fn count_on(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        node.pods.iter().filter(|other| self.counts(pod, other)).count() as i64
    }

    /// Whether a node's Pods count: by default if the Pod could go there by its node affinity.
    fn includes(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        let untolerated = || {
            node.taints().iter().any(|taint| {
                matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
                    && !pod.tolerations().iter().any(|it| tolerates(it, taint))
            })
        };
        (!self.honor_affinity || node_affinity::matches(pod, node))
            && (!self.honor_taints || !untolerated())
    }

    /// The smallest number of Pods in a domain; 0 while there are fewer domains than wanted.
    fn least(&self) -> i64 {
        if (self.domains.len() as i64) < self.min_domains {
            return 0;
        }
        self.domains.values().copied().min().unwrap_or(0)
    }
}

fn has_all_keys(constraints: &[Constraint], node: &NodeInfo) -> bool {
    constraints.iter().all(|it| label(node, &it.key).is_some())
}

/// Counts the Pods in all domains.
fn count(constraints: &mut [Constraint], pod: &PodInfo, snapshot: &Snapshot) {
    for node in
        snapshot.nodes().iter().filter(|node| has_all_keys(constraints, node)).collect::<Vec<_>>()
    {
        for constraint in constraints.iter_mut() {
            if let Some(value) = label(node, &constraint.key)
                && constraint.includes(pod, node)
            {
                let matching = constraint.count_on(pod, node);
                *constraint.domains.entry(value.to_owned()).or_insert(0) += matching;
            }
        }
    }
}

/// One Pod more or fewer on a node, in a dry run.
fn adjust(state: &mut CycleState, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, by: i64) {
    let Some(Hard(constraints)) = state.get_mut() else { return };
    if !has_all_keys(constraints, node) {
        return;
    }
    for constraint in constraints {
        if constraint.counts(pod, other)
            && constraint.includes(pod, node)
            && let Some(value) = label(node, &constraint.key)
        {
            *constraint.domains.entry(value.to_owned()).or_insert(0) += by;
        }
    }
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        NAME
    }
    /// A constraint looks at other nodes, so Pods with one do not share.
    fn sign(&self, pod: &PodInfo, _: &Snapshot, _: &mut Vec<u8>) -> bool {
        constraints(pod).is_empty()
    }
    fn as_pre_filter(&self) -> Option<&dyn PreFilter> {
        Some(self)
    }
    fn as_filter(&self) -> Option<&dyn Filter> {
        Some(self)
    }
    fn as_pre_score(&self) -> Option<&dyn PreScore> {
        Some(self)
    }
    fn as_score(&self) -> Option<&dyn Score> {
        Some(self)
    }
    fn as_enqueue_extensions(&self) -> Option<&dyn EnqueueExtensions> {
        Some(self)
    }
}

impl PreFilter for PodTopologySpread {
    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
    ) -> PreFiltered {
        let mut soft = compile(pod, "ScheduleAnyway");
        if !soft.is_empty() {
            count(&mut soft, pod, snapshot);
            state.insert(Soft { constraints: soft, weights: Vec::new(), ignored: BTreeSet::new() });
        }
        let mut hard = compile(pod, "DoNotSchedule");
        if hard.is_empty() {
            return PreFiltered::Skip;
        }
        count(&mut hard, pod, snapshot);
        state.insert(Hard(hard));
        PreFiltered::All
    }

    fn add_pod(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        added: &PodInfo,
        node: &NodeInfo,
    ) -> Status {
        adjust(state, pod, added, node, 1);
        Status::success()
    }

    fn remove_pod(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        removed: &PodInfo,
        node: &NodeInfo,
    ) -> Status {
        adjust(state, pod, removed, node, -1);
        Status::success()
    }
}

impl Filter for PodTopologySpread {
    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        let Some(Hard(constraints)) = state.get() else { return Status::success() };
        for constraint in constraints {
            let Some(value) = label(node, &constraint.key) else {
                return Status::unresolvable(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                );
            };
            let itself = constraint.selector.matches_optional(pod.pod.metadata.labels.as_ref());
            let there = constraint.domains.get(value).copied().unwrap_or(0);
            if there + i64::from(itself) - constraint.least() > constraint.max_skew {
                return Status::unschedulable(
                    "node(s) didn't match pod topology spread constraints",
                );
            }
        }
        Status::success()
    }
}

impl PreScore for PodTopologySpread {
    fn pre_score(&self, state: &mut CycleState, _: &PodInfo, nodes: &[&NodeInfo]) -> Status {
        let Some(soft) = state.get_mut::<Soft>() else { return Status::skip() };
        let (with, without): (Vec<&NodeInfo>, Vec<_>) =
            nodes.iter().partition(|node| has_all_keys(&soft.constraints, node));
        soft.ignored = without.iter().map(|node| node.name.to_string()).collect();
        let weight = |constraint: &Constraint| {
            let domains = match constraint.key.as_str() {
                HOSTNAME => with.len(),
                key => with.iter().filter_map(|it| label(it, key)).collect::<BTreeSet<_>>().len(),
            };
            ((domains + 2) as f64).ln()
        };
        soft.weights = soft.constraints.iter().map(weight).collect();
        Status::success()
    }
}

impl Score for PodTopologySpread {
    fn score(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let Some(soft) = state.get::<Soft>() else { return 0 };
        if soft.ignored.contains(&*node.name) {
            return 0;
        }
        let parts = soft.constraints.iter().zip(&soft.weights).map(|(constraint, weight)| {
            let matching = match constraint.key.as_str() {
                HOSTNAME => constraint.count_on(pod, node),
                key => label(node, key)
                    .and_then(|value| constraint.domains.get(value))
                    .copied()
                    .unwrap_or(0),
            };
            matching as f64 * weight + (constraint.max_skew - 1) as f64
        });
        parts.sum::<f64>().round() as i64
    }

    fn normalization(&self) -> Normalize {
        Normalize::Custom
    }

    fn normalize_score(
        &self,
        state: &CycleState,
        _: &PodInfo,
        nodes: &[&NodeInfo],
        scores: &mut [i64],
    ) {
        let ignored = |node: &NodeInfo| {
            state.get::<Soft>().is_none_or(|soft| soft.ignored.contains(&*node.name))
        };
        let valid: Vec<_> =
            nodes.iter().zip(&*scores).filter(|it| !ignored(it.0)).map(|it| *it.1).collect();
        let min = valid.iter().copied().min().unwrap_or(0);
        let max = valid.iter().copied().max().unwrap_or(0);
        for (node, score) in nodes.iter().zip(scores) {
            *score = match (ignored(node), max) {
                (true, _) => 0,
                (false, 0) => MAX_NODE_SCORE,
                (false, max) => MAX_NODE_SCORE * (max + min - *score) / max,
            };
        }
    }
}

impl EnqueueExtensions for PodTopologySpread {
    fn hint(&self, pod: &PodInfo, event: &ClusterEvent<'_>) -> Hint {
        let hard = compile(pod, "DoNotSchedule");
        let counts = |other: &PodInfo| hard.iter().any(|it| it.counts(pod, other));
        let queue = match event {
            // A new or a vanished domain changes the least of all.
            ClusterEvent::NodeAdded(node) => has_all_keys(&hard, node),
            ClusterEvent::NodeUpdated { change, .. } => change.labels || change.taints,
            ClusterEvent::AssignedPodAdded(other) => counts(other),
            ClusterEvent::AssignedPodDeleted(other) => {
                other.namespace() == pod.namespace()
                    && hard
                        .iter()
                        .any(|it| it.selector.matches_optional(other.pod.metadata.labels.as_ref()))
            }
            ClusterEvent::AssignedPodUpdated { old, new } => counts(old) != counts(new),
            ClusterEvent::PodUpdated { .. } => true,
            ClusterEvent::StorageChanged | ClusterEvent::NamespaceChanged => false,
        };
        if queue { Hint::Queue } else { Hint::Skip }
    }
}

#[cfg(test)]
mod tests {
    use rk_api::testing::{NodeBuilder, PodBuilder, node, pod};
    use serde_json::json;

    use super::*;
    use crate::{Profile, Scheduler};

    fn spread(pod: PodBuilder, key: &str, skew: i32, when: &str) -> PodBuilder {
        let constraint = json!({"topologyKey": key, "maxSkew": skew, "whenUnsatisfiable": when,
            "labelSelector": {"matchLabels": {"app": "web"}}});
        pod.label("app", "web").with(|pod| {
            let all = &mut pod.spec.as_mut().unwrap().topology_spread_constraints;
            all.get_or_insert_default().push(serde_json::from_value(constraint).unwrap());
        })
    }

    fn zone(name: &str, zone: &str) -> NodeBuilder {
        node(name).label("zone", zone)
    }

    /// A cluster of two nodes in zone a and one in zone b, with web Pods on these nodes.
    fn cluster(on: &[&str]) -> Snapshot {
        let nodes = [zone("a1", "a"), zone("a2", "a"), zone("b1", "b")];
        let pods = on
            .iter()
            .enumerate()
            .map(|(n, node)| pod(&format!("w{n}")).label("app", "web").node(node));
        Snapshot::with_pods(nodes, pods)
    }

    /// The nodes that the filter leaves.
    #[track_caller]
    fn check(name: &str, snapshot: &Snapshot, pod: PodBuilder, expected: &[&str]) {
        let info = PodInfo::from(&*pod);
        let mut state = CycleState::default();
        PodTopologySpread.pre_filter(&mut state, &info, snapshot);
        let fits = |node: &&NodeInfo| PodTopologySpread.filter(&state, &info, node).is_success();
        let names: Vec<_> = snapshot.nodes().iter().filter(fits).map(|it| &*it.name).collect();
        assert_eq!(names, expected, "{name}");
    }

    #[test]
    fn hard_constraints() {
        let by_zone = |skew| spread(pod("p"), "zone", skew, "DoNotSchedule");
        let all = ["a1", "a2", "b1"];
        check("empty", &cluster(&[]), by_zone(1), &all);
        check("one in a", &cluster(&["a1"]), by_zone(1), &["b1"]);
        check("skew of 2", &cluster(&["a1"]), by_zone(2), &all);
        check("even", &cluster(&["a1", "b1"]), by_zone(1), &all);
        check("two in a", &cluster(&["a1", "a2"]), by_zone(2), &["b1"]);
        let by_host = spread(pod("p"), HOSTNAME, 1, "DoNotSchedule");
        check("by host", &cluster(&["a1", "b1"]), by_host.clone(), &["a2"]);
        let both = spread(by_host, "zone", 1, "DoNotSchedule");
        check("both", &cluster(&["a1"]), both, &["b1"]);
        let no_key = spread(pod("p"), "rack", 1, "DoNotSchedule");
        check("label missing", &cluster(&[]), no_key, &[]);
        let only_a = by_zone(1).node_selector("zone", "a");
        check("zones it cannot go to do not count", &cluster(&["a1"]), only_a, &all);
        let other = by_zone(1).namespace("other");
        check("another namespace", &cluster(&["a1"]), other, &all);
        let min_domains = by_zone(1).with(|pod| {
            let all = &mut pod.spec.as_mut().unwrap().topology_spread_constraints;
            all.as_mut().unwrap()[0].min_domains = Some(3);
        });
        check("too few domains", &cluster(&["a1", "b1"]), min_domains, &[]);
    }

    #[test]
    fn soft_constraints_prefer_emptier_domains() {
        let mut scheduler = Scheduler::new(Profile::default());
        let pod = spread(pod("p"), "zone", 1, "ScheduleAnyway");
        for _ in 0..10 {
            let snapshot = cluster(&["a1", "a2"]);
            assert_eq!(scheduler.schedule(&snapshot, &pod).unwrap().node, "b1");
        }
    }

    #[test]
    fn pods_with_constraints_fill_zones_evenly() {
        let mut scheduler = Scheduler::new(Profile::default());
        let mut snapshot = cluster(&[]);
        for n in 0..12 {
            let pod = spread(pod(&format!("p{n}")), "zone", 1, "DoNotSchedule");
            let node = scheduler.schedule(&snapshot, &pod).unwrap().node;
            snapshot.assume(std::sync::Arc::new(PodInfo::from(&*pod)), &node);
        }
        assert_eq!(snapshot.node("b1").unwrap().pods.len(), 6);
    }

    #[test]
    fn the_message_is_upstreams() {
        let mut scheduler = Scheduler::new(Profile::default());
        let nodes = [zone("a1", "a"), zone("b1", "b").unschedulable()];
        let there = [pod("w").label("app", "web").node("a1")];
        let snapshot = Snapshot::with_pods(nodes, there);
        let pod = spread(pod("p"), "zone", 1, "DoNotSchedule");
        let message = scheduler.schedule(&snapshot, &pod).unwrap_err().to_string();
        assert!(
            message.starts_with(
                "0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, \
                 1 node(s) were unschedulable."
            ),
            "{message}"
        );
    }
}
