//! A node must have what a Pod requests; how much is left there ranks it.

use serde::Deserialize;
use serde_json::Value;
use smallvec::SmallVec;

use crate::{
    Code, NodeInfo, PodInfo, Snapshot, Status,
    framework::{ClusterEvent, CycleState, EnqueueExtensions, Filter, Hint, Plugin, Score},
    plugins::{FromArgs, sign_count, sign_part},
};

/// The plugin's name.
pub const NAME: &str = "NodeResourcesFit";

/// Rejects nodes without enough CPU, memory, local storage, extended resources or room for one
/// more Pod, and ranks the others by how much is allocated: least first by default.
#[derive(Debug, Default)]
pub struct NodeResourcesFit {
    args: NodeResourcesFitArgs,
    scored: Scored,
}

/// The resources that count for a score, and their weights, with the names looked at once.
#[derive(Clone, Debug)]
pub(super) struct Scored(SmallVec<[(Kind, i64); 2]>);

/// A resource.
#[derive(Clone, Debug)]
enum Kind {
    Cpu,
    Memory,
    Ephemeral,
    Extended(String),
}

impl Default for Scored {
    fn default() -> Self {
        Self::new(&WeightedResources::default())
    }
}

impl Scored {
    pub(super) fn new(resources: &WeightedResources) -> Self {
        let kind = |name: &str| match name {
            "cpu" => Kind::Cpu,
            "memory" => Kind::Memory,
            "ephemeral-storage" => Kind::Ephemeral,
            name => Kind::Extended(name.to_owned()),
        };
        Self(resources.0.iter().map(|it| (kind(&it.name), it.weight)).collect())
    }

    /// For each resource what a node can give, what would be taken with the Pod on it, and the
    /// weight. What a node does not have is left out, as is an extended resource that the Pod does
    /// not request.
    pub(super) fn allocations(
        &self,
        pod: &PodInfo,
        node: &NodeInfo,
        non_zero: bool,
    ) -> impl Iterator<Item = (i64, i64, i64)> {
        let (want, have, taken) = (&pod.requests, &node.allocatable, &node.requested);
        let amounts = move |kind: &Kind| match kind {
            Kind::Cpu if non_zero => {
                (have.cpu_milli, node.non_zero.cpu_milli + pod.non_zero.cpu_milli)
            }
            Kind::Cpu => (have.cpu_milli, taken.cpu_milli + want.cpu_milli),
            Kind::Memory if non_zero => {
                (have.memory_bytes, node.non_zero.memory_bytes + pod.non_zero.memory_bytes)
            }
            Kind::Memory => (have.memory_bytes, taken.memory_bytes + want.memory_bytes),
            Kind::Ephemeral => (have.ephemeral_bytes, taken.ephemeral_bytes + want.ephemeral_bytes),
            Kind::Extended(name) => match want.extended(name) {
                0 => (0, 0),
                amount => (have.extended(name), taken.extended(name) + amount),
            },
        };
        self.0.iter().filter_map(move |(kind, weight)| {
            let (have, taken) = amounts(kind);
            (have != 0).then_some((have, taken, *weight))
        })
    }
}

/// `NodeResourcesFitArgs`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeResourcesFitArgs {
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
    /// Extended resources that the filter leaves out of account.
    #[serde(default)]
    pub ignored_resources: Vec<String>,
    /// The same by the part of their names before the slash.
    #[serde(default)]
    pub ignored_resource_groups: Vec<String>,
    /// How nodes are ranked.
    #[serde(default)]
    pub scoring_strategy: ScoringStrategy,
}

/// How nodes are ranked by what is allocated of them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScoringStrategy {
    /// The strategy.
    #[serde(default, rename = "type")]
    pub kind: ScoringKind,
    /// The resources that count; CPU and memory, equally, by default.
    #[serde(default = "default_resources")]
    pub resources: WeightedResources,
    /// For `RequestedToCapacityRatio`.
    pub requested_to_capacity_ratio: Option<RequestedToCapacityRatio>,
}

/// A scoring strategy's type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ScoringKind {
    /// Nodes with more left are better: spreads.
    #[default]
    LeastAllocated,
    /// Nodes with less left are better: packs.
    MostAllocated,
    /// By a given function of the part that is allocated.
    RequestedToCapacityRatio,
}

/// A resource and how much it counts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightedResource {
    /// `cpu`, `memory` or another resource's name.
    pub name: String,
    /// Its weight, 1 to 100.
    #[serde(default = "one")]
    pub weight: i64,
}

/// Points of a function from allocated percent to a score of 0 to 10.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestedToCapacityRatio {
    /// In order of growing utilization; straight lines in between.
    pub shape: Vec<ShapePoint>,
}

/// See [`RequestedToCapacityRatio`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShapePoint {
    /// Percent allocated, 0 to 100.
    pub utilization: i64,
    /// 0 to 10.
    pub score: i64,
}

/// Resources that count for a score. An empty list is CPU and memory.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct WeightedResources(pub Vec<WeightedResource>);

impl Default for WeightedResources {
    fn default() -> Self {
        let resource = |name: &str| WeightedResource { name: name.to_owned(), weight: 1 };
        Self(vec![resource("cpu"), resource("memory")])
    }
}

fn default_resources() -> WeightedResources {
    WeightedResources::default()
}

fn one() -> i64 {
    1
}

impl FromArgs for NodeResourcesFit {
    fn from_args(args: Option<Value>) -> Result<Self, serde_json::Error> {
        let args: NodeResourcesFitArgs = match args {
            Some(args) => serde_json::from_value(args)?,
            None => NodeResourcesFitArgs::default(),
        };
        let strategy = &args.scoring_strategy;
        let error = |text: &str| Err(serde::de::Error::custom(text));
        if strategy.resources.0.iter().any(|it| !(1..=100).contains(&it.weight)) {
            return error("resource weight should be in the range 1 to 100");
        }
        if strategy.kind == ScoringKind::RequestedToCapacityRatio {
            let shape = strategy.requested_to_capacity_ratio.as_ref();
            let shape = shape.map(|it| it.shape.as_slice()).unwrap_or_default();
            let ascending = shape.windows(2).all(|two| two[0].utilization < two[1].utilization);
            let in_range = |it: &ShapePoint| {
                (0..=100).contains(&it.utilization) && (0..=10).contains(&it.score)
            };
            if shape.is_empty() || !ascending || !shape.iter().all(in_range) {
                return error(
                    "requestedToCapacityRatio needs a shape of ascending utilizations from 0 to \
                     100 with scores from 0 to 10",
                );
            }
        }
        let scored = Scored::new(&args.scoring_strategy.resources);
        Ok(Self { args, scored })
    }
}

impl NodeResourcesFit {
    /// The plugin with another scoring strategy.
    pub fn with_strategy(kind: ScoringKind) -> Self {
        let mut plugin = Self::default();
        plugin.args.scoring_strategy.kind = kind;
        plugin
    }

    fn ignores(&self, resource: &str) -> bool {
        let group = resource.split_once('/').map_or("", |(group, _)| group);
        self.args.ignored_resources.iter().any(|it| it == resource)
            || self.args.ignored_resource_groups.iter().any(|it| it == group)
    }

    /// Whether the Pod would fit on the node if it were empty.
    fn fits_empty(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        let (want, have) = (&pod.requests, &node.allocatable);
        have.pods > 0
            && want.cpu_milli <= have.cpu_milli
            && want.memory_bytes <= have.memory_bytes
            && want.ephemeral_bytes <= have.ephemeral_bytes
            && want
                .extended
                .iter()
                .all(|(name, amount)| self.ignores(name) || *amount <= have.extended(name))
    }
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        NAME
    }
    fn sign(&self, pod: &PodInfo, _: &Snapshot, signature: &mut Vec<u8>) -> bool {
        sign_requests(pod, signature);
        true
    }
    fn as_filter(&self) -> Option<&dyn Filter> {
        Some(self)
    }
    fn as_score(&self) -> Option<&dyn Score> {
        Some(self)
    }
    fn as_enqueue_extensions(&self) -> Option<&dyn EnqueueExtensions> {
        Some(self)
    }
}

/// Writes down what a Pod requests.
pub(super) fn sign_requests(pod: &PodInfo, signature: &mut Vec<u8>) {
    let (requests, non_zero) = (&pod.requests, &pod.non_zero);
    for amount in [
        requests.cpu_milli,
        requests.memory_bytes,
        requests.ephemeral_bytes,
        non_zero.cpu_milli,
        non_zero.memory_bytes,
    ] {
        signature.extend_from_slice(&amount.to_le_bytes());
    }
    sign_count(signature, requests.extended.len());
    for (name, amount) in &requests.extended {
        sign_part(signature, name);
        signature.extend_from_slice(&amount.to_le_bytes());
    }
}

impl Filter for NodeResourcesFit {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        let (want, have, taken) = (&pod.requests, &node.allocatable, &node.requested);
        let too_many = node.pods.len() as i64 + 1 > have.pods;
        let short = |want: i64, have: i64, taken: i64| want > 0 && want > have - taken;
        // The usual case first: it allocates nothing.
        let cpu = short(want.cpu_milli, have.cpu_milli, taken.cpu_milli);
        let memory = short(want.memory_bytes, have.memory_bytes, taken.memory_bytes);
        let storage = short(want.ephemeral_bytes, have.ephemeral_bytes, taken.ephemeral_bytes);
        if !(too_many || cpu || memory || storage) && want.extended.is_empty() {
            return Status::success();
        }

        let mut reasons: SmallVec<[std::borrow::Cow<'static, str>; 2]> = SmallVec::new();
        // What even the empty node does not have, no preemption will give.
        let mut hopeless = false;
        if too_many {
            reasons.push("Too many pods".into());
        }
        if cpu {
            reasons.push("Insufficient cpu".into());
            hopeless |= want.cpu_milli > have.cpu_milli;
        }
        if memory {
            reasons.push("Insufficient memory".into());
            hopeless |= want.memory_bytes > have.memory_bytes;
        }
        if storage {
            reasons.push("Insufficient ephemeral-storage".into());
            hopeless |= want.ephemeral_bytes > have.ephemeral_bytes;
        }
        for (name, amount) in &want.extended {
            if !self.ignores(name) && short(*amount, have.extended(name), taken.extended(name)) {
                reasons.push(format!("Insufficient {name}").into());
                hopeless |= *amount > have.extended(name);
            }
        }
        match (reasons.is_empty(), hopeless) {
            (true, _) => Status::success(),
            (_, true) => Status::with_reasons(Code::UnschedulableAndUnresolvable, reasons),
            (_, false) => Status::with_reasons(Code::Unschedulable, reasons),
        }
    }
}

impl Score for NodeResourcesFit {
    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let strategy = &self.args.scoring_strategy;
        let (mut sum, mut weights) = (0, 0);
        for (have, taken, weight) in self.scored.allocations(pod, node, true) {
            let score = match strategy.kind {
                ScoringKind::LeastAllocated if taken > have => 0,
                ScoringKind::LeastAllocated => (have - taken) * 100 / have,
                ScoringKind::MostAllocated => taken.min(have) * 100 / have,
                ScoringKind::RequestedToCapacityRatio => {
                    let utilization = if taken > have { 100 } else { taken * 100 / have };
                    let shape = strategy.requested_to_capacity_ratio.as_ref();
                    let shape = shape.map(|it| it.shape.as_slice()).unwrap_or_default();
                    // A resource that scores nothing does not pull the others down.
                    match on_shape(shape, utilization) {
                        0 => continue,
                        score => score,
                    }
                }
            };
            sum += score * weight;
            weights += weight;
        }
        match (weights, strategy.kind) {
            (0, _) => 0,
            (_, ScoringKind::RequestedToCapacityRatio) => {
                (sum as f64 / weights as f64).round() as i64
            }
            _ => sum / weights,
        }
    }
}

/// The value at `utilization` of the function through these points, times 10.
fn on_shape(shape: &[ShapePoint], utilization: i64) -> i64 {
    let Some(next) = shape.iter().position(|point| utilization <= point.utilization) else {
        return shape.last().map_or(0, |point| point.score * 10);
    };
    let right = shape[next];
    match next.checked_sub(1).map(|left| shape[left]) {
        None => right.score * 10,
        Some(left) => {
            let (rise, run) = (right.score - left.score, right.utilization - left.utilization);
            left.score * 10 + rise * 10 * (utilization - left.utilization) / run
        }
    }
}

impl EnqueueExtensions for NodeResourcesFit {
    fn hint(&self, pod: &PodInfo, event: &ClusterEvent<'_>) -> Hint {
        match event {
            ClusterEvent::NodeAdded(node) if self.fits_empty(pod, node) => Hint::Queue,
            ClusterEvent::NodeUpdated { new, change, .. }
                if change.allocatable && self.fits_empty(pod, new) =>
            {
                Hint::Queue
            }
            // Any Pod that goes makes room for one more.
            ClusterEvent::AssignedPodDeleted(_) => Hint::Queue,
            ClusterEvent::AssignedPodUpdated { old, new } if old.requests != new.requests => {
                Hint::Queue
            }
            ClusterEvent::PodUpdated { old, new } if old.requests != new.requests => Hint::Queue,
            _ => Hint::Skip,
        }
    }
}

#[cfg(test)]
mod tests {
    use rk_api::testing::{PodBuilder, node, pod};
    use serde_json::json;

    use super::*;
    use crate::plugins::tests::{check_filter, check_filter_with, check_scores};

    fn fit() -> NodeResourcesFit {
        NodeResourcesFit::default()
    }

    #[track_caller]
    fn check(name: &str, pod: PodBuilder, reasons: &[&'static str]) {
        let there = rk_api::testing::pod("there").cpu("1").memory("1Gi").requests("e.com/x", "1");
        let node = node("n").cpu("2").memory("2Gi").pods("2").allocatable("e.com/x", "2");
        let reasons: Vec<_> = reasons.iter().map(|reason| (*reason).into()).collect();
        let expected = match reasons.is_empty() {
            true => Ok(()),
            false => Err(Status::with_reasons(Code::Unschedulable, reasons)),
        };
        check_filter_with(&fit(), name, node, [there.node("n")], pod, expected);
    }

    #[test]
    fn node_resources_fit_filter() {
        check("nothing requested", pod("p"), &[]);
        check("just enough", pod("p").cpu("1").memory("1Gi").requests("e.com/x", "1"), &[]);
        check("cpu", pod("p").cpu("1001m"), &["Insufficient cpu"]);
        check("memory", pod("p").memory("1025Mi"), &["Insufficient memory"]);
        check("extended", pod("p").requests("e.com/x", "2"), &["Insufficient e.com/x"]);
        check(
            "several",
            pod("p").cpu("2").memory("2Gi"),
            &["Insufficient cpu", "Insufficient memory"],
        );
    }

    #[test]
    fn more_than_the_node_has_cannot_be_resolved() {
        let storage = Status::unresolvable("Insufficient ephemeral-storage");
        let pod = || pod("p").requests("ephemeral-storage", "1Gi");
        check_filter(&fit(), "no storage", node("n"), pod(), Err(storage));
        let with = node("n").allocatable("ephemeral-storage", "1Gi");
        check_filter(&fit(), "storage", with, pod(), Ok(()));
    }

    #[test]
    fn a_node_has_room_for_so_many_pods() {
        let full = Status::unschedulable("Too many pods");
        let there = [pod("there").node("n")];
        check_filter_with(&fit(), "full", node("n").pods("1"), there, pod("p"), Err(full));
    }

    #[test]
    fn ignored_resources_are_not_counted() {
        let args = json!({"ignoredResources": ["a.com/x"], "ignoredResourceGroups": ["b.com"]});
        let plugin = NodeResourcesFit::from_args(Some(args)).unwrap();
        let check = |resource: &str, expected| {
            check_filter(&plugin, resource, node("n"), pod("p").requests(resource, "1"), expected);
        };
        check("a.com/x", Ok(()));
        check("b.com/any", Ok(()));
        check("a.com/y", Err(Status::unresolvable("Insufficient a.com/y")));
    }

    #[test]
    fn scoring_strategies() {
        let nodes = || [node("a").cpu("4").memory("10Gi"), node("b").cpu("8").memory("10Gi")];
        let pod = || pod("p").cpu("2").memory("5Gi");
        check_scores(&fit(), "least allocated", nodes(), pod(), &[50, 62]);
        let most = NodeResourcesFit::with_strategy(ScoringKind::MostAllocated);
        check_scores(&most, "most allocated", nodes(), pod(), &[50, 37]);

        let args = json!({"scoringStrategy": {"type": "LeastAllocated", "resources": [
            {"name": "cpu", "weight": 3}, {"name": "memory", "weight": 1}]}});
        let weighted = NodeResourcesFit::from_args(Some(args)).unwrap();
        check_scores(&weighted, "weighted", nodes(), pod(), &[50, 68]);

        let args = json!({"scoringStrategy": {"type": "RequestedToCapacityRatio",
            "requestedToCapacityRatio": {"shape": [
                {"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}]}}});
        let ratio = NodeResourcesFit::from_args(Some(args)).unwrap();
        check_scores(&ratio, "ratio", nodes(), pod(), &[50, 38]);
    }

    #[test]
    fn pods_without_requests_count_a_little() {
        let nodes = [node("a").cpu("1").memory("2000Mi"), node("b").cpu("2").memory("2000Mi")];
        check_scores(&fit(), "defaults", nodes, pod("p"), &[90, 92]);
    }

    #[test]
    fn bad_arguments_are_refused() {
        let bad = |args| NodeResourcesFit::from_args(Some(args)).unwrap_err().to_string();
        assert!(bad(json!({"nope": 1})).contains("unknown field"));
        let weight = json!({"scoringStrategy": {"resources": [{"name": "cpu", "weight": 0}]}});
        assert!(bad(weight).contains("range 1 to 100"));
        let shape = json!({"scoringStrategy": {"type": "RequestedToCapacityRatio"}});
        assert!(bad(shape).contains("shape"));
    }
}
