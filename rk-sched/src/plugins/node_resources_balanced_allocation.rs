//! Prefers nodes whose resources would be used evenly, so that none is left over for want of
//! another.

use serde::Deserialize;
use serde_json::Value;
use smallvec::SmallVec;

use super::node_resources_fit::{Scored, WeightedResources, sign_requests};
use crate::{
    NodeInfo, PodInfo, Snapshot, Status,
    framework::{CycleState, MAX_NODE_SCORE, Plugin, PreScore, Score},
    plugins::FromArgs,
};

/// The plugin's name.
pub const NAME: &str = "NodeResourcesBalancedAllocation";

/// Scores `(1 - d) * 100`, where `d` is the standard deviation of the allocated fractions.
#[derive(Debug, Default)]
pub struct NodeResourcesBalancedAllocation {
    args: NodeResourcesBalancedAllocationArgs,
    scored: Scored,
}

/// `NodeResourcesBalancedAllocationArgs`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeResourcesBalancedAllocationArgs {
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
    /// The resources that count, each with weight 1; CPU and memory by default.
    #[serde(default)]
    pub resources: WeightedResources,
}

impl FromArgs for NodeResourcesBalancedAllocation {
    fn from_args(args: Option<Value>) -> Result<Self, serde_json::Error> {
        let Some(args) = args else { return Ok(Self::default()) };
        let args: NodeResourcesBalancedAllocationArgs = serde_json::from_value(args)?;
        if args.resources.0.iter().any(|it| it.weight != 1) {
            return Err(serde::de::Error::custom("resource weights must be 1"));
        }
        let scored = Scored::new(&args.resources);
        Ok(Self { args, scored })
    }
}

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        NAME
    }
    fn sign(&self, pod: &PodInfo, _: &Snapshot, signature: &mut Vec<u8>) -> bool {
        sign_requests(pod, signature);
        true
    }
    fn as_pre_score(&self) -> Option<&dyn PreScore> {
        Some(self)
    }
    fn as_score(&self) -> Option<&dyn Score> {
        Some(self)
    }
}

impl PreScore for NodeResourcesBalancedAllocation {
    fn pre_score(&self, _: &mut CycleState, pod: &PodInfo, _: &[&NodeInfo]) -> Status {
        // A Pod that requests nothing changes no node's balance; scoring it would send all of them
        // to the node that happens to be balanced best.
        let requests = |name: &str| pod.requests.amount(name) != 0;
        match self.args.resources.0.iter().any(|it| requests(&it.name)) {
            true => Status::success(),
            false => Status::skip(),
        }
    }
}

impl Score for NodeResourcesBalancedAllocation {
    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let fractions: SmallVec<[f64; 4]> = self
            .scored
            .allocations(pod, node, false)
            .map(|(have, taken, _)| (taken as f64 / have as f64).min(1.0))
            .collect();
        let deviation = match fractions.as_slice() {
            [] | [_] => 0.0,
            [a, b] => (a - b).abs() / 2.0,
            all => {
                let mean = all.iter().sum::<f64>() / all.len() as f64;
                let squares: f64 = all.iter().map(|it| (it - mean) * (it - mean)).sum();
                (squares / all.len() as f64).sqrt()
            }
        };
        ((1.0 - deviation) * MAX_NODE_SCORE as f64) as i64
    }
}

#[cfg(test)]
mod tests {
    use rk_api::testing::{node, pod};

    use super::*;
    use crate::plugins::tests::check_scores;

    #[test]
    fn balanced_allocation_score() {
        let plugin = NodeResourcesBalancedAllocation::default();
        let nodes = || [node("a").cpu("4").memory("4Gi"), node("b").cpu("4").memory("16Gi")];
        let even = pod("p").cpu("2").memory("2Gi");
        check_scores(&plugin, "evenly used is best", nodes(), even, &[100, 81]);
        let only_cpu = pod("p").cpu("4");
        check_scores(&plugin, "one resource only", nodes(), only_cpu, &[50, 50]);
        check_scores(&plugin, "nothing requested", nodes(), pod("p"), &[0, 0]);
    }
}
