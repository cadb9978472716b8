//! Makes room for a Pod by deleting Pods of lower priority.

use std::collections::BTreeMap;

use rk_api::rng;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    Budgets, Code, Diagnosis, Filters, NodeInfo, PodInfo, Snapshot, Status,
    diagnosis::join_counts,
    framework::{Nomination, Plugin, PostFilter, PostFiltered},
    plugins::FromArgs,
};

mod victims;

use victims::{Candidate, select};

/// The plugin's name.
pub const NAME: &str = "DefaultPreemption";

/// Chooses the node where deleting Pods of lower priority does the least harm, and keeps it for
/// the Pod.
///
/// A node is a candidate if the Pod would fit there without any Pods of lower priority, and with
/// those that are nominated for it at no lower one; then as many as possible are spared, those
/// first whose PodDisruptionBudget forbids their loss, the most important first. Of the candidates
/// the best has, in this order: the fewest violated budgets, the lowest priority of its most
/// important victim, the lowest sum of victims' priorities, the fewest victims, the youngest most
/// important victim.
///
/// Not all nodes need be tried: from a random one on, until there are as many candidates as the
/// arguments ask for, one of which violates no budget.
///
/// A Pod that preempted before and whose victims are still going waits for them, unless its node
/// became impossible for it. When nothing helps, its nomination is withdrawn.
#[derive(Debug)]
pub struct DefaultPreemption {
    budgets: Budgets,
    min_percentage: usize,
    min_absolute: usize,
}

impl Default for DefaultPreemption {
    fn default() -> Self {
        Self { budgets: Budgets::default(), min_percentage: 10, min_absolute: 100 }
    }
}

/// `DefaultPreemptionArgs`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DefaultPreemptionArgs {
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
    min_candidate_nodes_percentage: Option<i32>,
    min_candidate_nodes_absolute: Option<i32>,
}

impl FromArgs for DefaultPreemption {
    fn from_args(args: Option<Value>) -> Result<Self, serde_json::Error> {
        let mut plugin = Self::default();
        let Some(args) = args else { return Ok(plugin) };
        let args = serde_json::from_value::<DefaultPreemptionArgs>(args)?;
        let invalid = |what: &str| serde::de::Error::custom(what);
        if let Some(percentage) = args.min_candidate_nodes_percentage {
            plugin.min_percentage = usize::try_from(percentage)
                .ok()
                .filter(|percentage| *percentage <= 100)
                .ok_or_else(|| {
                    invalid("minCandidateNodesPercentage: not in the range of [0, 100]")
                })?;
        }
        if let Some(absolute) = args.min_candidate_nodes_absolute {
            plugin.min_absolute = usize::try_from(absolute)
                .map_err(|_| invalid("minCandidateNodesAbsolute: not in the range of [0, inf)"))?;
        }
        if plugin.min_percentage == 0 && plugin.min_absolute == 0 {
            return Err(invalid(
                "minCandidateNodesPercentage and minCandidateNodesAbsolute cannot both be zero",
            ));
        }
        Ok(plugin)
    }
}

impl Plugin for DefaultPreemption {
    fn name(&self) -> &'static str {
        NAME
    }
    fn budgets(&self) -> Option<&Budgets> {
        Some(&self.budgets)
    }
    fn as_post_filter(&self) -> Option<&dyn PostFilter> {
        Some(self)
    }
}

impl PostFilter for DefaultPreemption {
    fn post_filter(
        &self,
        filters: &Filters<'_>,
        pod: &PodInfo,
        snapshot: &Snapshot,
        diagnosis: &Diagnosis,
    ) -> PostFiltered {
        if let Some(reason) = not_eligible(pod, snapshot, diagnosis) {
            return no(format!("not eligible due to {reason}."), Nomination::Unchanged);
        }
        let mut nodes: Vec<&NodeInfo> = diagnosis.resolvable(snapshot).collect();
        let helpless = diagnosis.node_count() - nodes.len();
        if !nodes.is_empty() {
            let offset = rng::below(nodes.len() as u64) as usize;
            nodes.rotate_left(offset);
        }
        match self.candidates(filters, pod, &nodes) {
            Ok(candidates) => {
                let best = candidates.into_iter().min_by_key(|candidate| candidate.harm());
                let nominated = best.as_ref().map(|best| best.node.name.to_string());
                PostFiltered {
                    status: Status::success(),
                    nominated: nominated.map_or(Nomination::Unchanged, Nomination::Node),
                    victims: best.map(|best| best.victims).unwrap_or_default(),
                }
            }
            Err(mut reasons) => {
                if helpless > 0 {
                    let reason = "Preemption is not helpful for scheduling".to_owned();
                    *reasons.entry(reason).or_default() += helpless;
                }
                let counts = reasons.iter().map(|(reason, count)| (reason.as_str(), *count));
                let message = format!(
                    "0/{} nodes are available: {}.",
                    diagnosis.node_count(),
                    join_counts(counts)
                );
                no(message, Nomination::Withdrawn)
            }
        }
    }
}

impl DefaultPreemption {
    /// Candidates among these nodes, at least one; or why each is none.
    fn candidates<'a>(
        &self,
        filters: &Filters<'_>,
        pod: &PodInfo,
        nodes: &[&'a NodeInfo],
    ) -> Result<Vec<Candidate<'a>>, BTreeMap<String, usize>> {
        let wanted = (nodes.len() * self.min_percentage / 100).max(self.min_absolute);
        let view = self.budgets.view();
        let mut candidates: Vec<Candidate<'_>> = Vec::new();
        let mut reasons = BTreeMap::new();
        let mut harmless = false;
        for node in nodes {
            match select(filters, pod, node, view.as_deref()) {
                Ok(candidate) => {
                    harmless |= candidate.violations == 0;
                    candidates.push(candidate);
                }
                Err(reason) => *reasons.entry(reason).or_default() += 1,
            }
            if harmless && candidates.len() >= wanted {
                break;
            }
        }
        if candidates.is_empty() { Err(reasons) } else { Ok(candidates) }
    }
}

fn no(message: String, nominated: Nomination) -> PostFiltered {
    PostFiltered {
        status: Status::unschedulable(format!("preemption: {message}")),
        nominated,
        victims: Vec::new(),
    }
}

/// Why the Pod may not preempt.
fn not_eligible(pod: &PodInfo, snapshot: &Snapshot, diagnosis: &Diagnosis) -> Option<&'static str> {
    let policy = pod.spec().and_then(|spec| spec.preemption_policy.as_deref());
    if policy == Some("Never") {
        return Some("preemptionPolicy=Never");
    }
    let index = snapshot.index(pod.nominated_node()?)?;
    let verdict = diagnosis.status(index as usize);
    if verdict.is_some_and(|status| status.code() == Code::UnschedulableAndUnresolvable) {
        return None;
    }
    // It preempted before, and its victims are still going.
    let mut there = snapshot.nodes()[index as usize].pods.iter();
    let going = there.any(|it| it.priority < pod.priority && goes_by_preemption(it));
    going.then_some("a terminating pod on the nominated node")
}

/// Whether a scheduler made the Pod go. One that goes for another reason makes nobody wait.
fn goes_by_preemption(pod: &PodInfo) -> bool {
    let status = pod.pod.status.as_ref();
    let mut conditions =
        status.and_then(|status| status.conditions.as_deref()).into_iter().flatten();
    let target = conditions.find(|condition| condition.type_ == "DisruptionTarget");
    pod.is_terminating()
        && target.is_some_and(|target| {
            target.status == "True" && target.reason.as_deref() == Some("PreemptionByScheduler")
        })
}

#[cfg(test)]
mod tests;
