//! Makes room for a Pod by deleting Pods of lower priority.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use crate::{
    Diagnosis, Filters, NodeInfo, PodInfo, Snapshot, Status,
    diagnosis::join_counts,
    framework::{Plugin, PostFilter, PostFiltered},
    plugins::FromArgs,
};
use serde::Deserialize;
use serde_json::Value;

/// The plugin's name.
pub const NAME: &str = "DefaultPreemption";

/// Chooses the node where deleting Pods of lower priority does the least harm, and keeps it for
/// the Pod.
///
/// A node is a candidate if the Pod would fit there without any Pods of lower priority; then as
/// many of those as possible are spared, the most important first. Of the candidates the best has,
/// in this order: the lowest priority of its most important victim, the lowest sum of victims'
/// priorities, the fewest victims, the youngest most important victim.
///
/// PodDisruptionBudgets are not looked at, and all candidates are tried; upstream tries a part.
#[derive(Debug, Default)]
pub struct DefaultPreemption;

/// `DefaultPreemptionArgs`: accepted for compatibility, as all candidates are tried.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DefaultPreemptionArgs {
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
    #[serde(rename = "minCandidateNodesPercentage")]
    _percentage: Option<i32>,
    #[serde(rename = "minCandidateNodesAbsolute")]
    _absolute: Option<i32>,
}

impl FromArgs for DefaultPreemption {
    fn from_args(args: Option<Value>) -> Result<Self, serde_json::Error> {
        if let Some(args) = args {
            serde_json::from_value::<DefaultPreemptionArgs>(args)?;
        }
        Ok(Self)
    }
}

impl Plugin for DefaultPreemption {
    fn name(&self) -> &'static str {
        NAME
    }
    fn as_post_filter(&self) -> Option<&dyn PostFilter> {
        Some(self)
    }
}

/// A node and the Pods that would have to go.
struct Candidate<'a> {
    node: &'a NodeInfo,
    /// The most important first.
    victims: Vec<Arc<PodInfo>>,
}

impl PostFilter for DefaultPreemption {
    fn post_filter(
        &self,
        filters: &Filters<'_>,
        pod: &PodInfo,
        snapshot: &Snapshot,
        diagnosis: &Diagnosis,
    ) -> PostFiltered {
        let no = |message: String| PostFiltered {
            status: Status::unschedulable(format!("preemption: {message}")),
            nominated: None,
            victims: Vec::new(),
        };
        if let Some(reason) = not_eligible(pod, snapshot) {
            return no(format!("not eligible due to {reason}."));
        }

        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        let mut candidates = Vec::new();
        let mut tried = 0;
        for node in diagnosis.resolvable(snapshot) {
            tried += 1;
            match select_victims(filters, pod, node) {
                Ok(victims) => candidates.push(Candidate { node, victims }),
                Err(reason) => *reasons.entry(reason).or_default() += 1,
            }
        }
        let helpless = diagnosis.node_count() - tried;
        if helpless > 0 {
            let reason = "Preemption is not helpful for scheduling".to_owned();
            *reasons.entry(reason).or_default() += helpless;
        }

        match candidates.into_iter().min_by_key(|candidate| rank(candidate)) {
            Some(Candidate { node, victims }) => PostFiltered {
                status: Status::success(),
                nominated: Some(node.name.to_string()),
                victims,
            },
            None => no(format!(
                "0/{} nodes are available: {}.",
                diagnosis.node_count(),
                join_counts(reasons.iter().map(|(reason, count)| (reason.as_str(), *count)))
            )),
        }
    }
}

/// Why the Pod may not preempt.
fn not_eligible(pod: &PodInfo, snapshot: &Snapshot) -> Option<&'static str> {
    let policy = pod.spec().and_then(|spec| spec.preemption_policy.as_deref());
    if policy == Some("Never") {
        return Some("preemptionPolicy=Never");
    }
    // It preempted before, and its victims are still going.
    let node = snapshot.node(pod.nominated_node()?)?;
    let going = |it: &Arc<PodInfo>| it.is_terminating() && it.priority < pod.priority;
    node.pods.iter().any(going).then_some("a terminating pod on the nominated node")
}

/// The Pods that must go from a node for the Pod to fit, the most important first.
fn select_victims(
    filters: &Filters<'_>,
    pod: &PodInfo,
    node: &NodeInfo,
) -> Result<Vec<Arc<PodInfo>>, String> {
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
    filters.filter(&prepared, pod, &trial).map_err(|(_, status)| status.message())?;

    lower.sort_by_key(|it| (Reverse(it.priority), start(it), it.key.clone()));
    let mut victims = Vec::new();
    for spared in lower {
        trial.add_pod(spared.clone());
        filters.add_pod(&mut prepared, pod, &spared, &trial);
        if filters.filter(&prepared, pod, &trial).is_err() {
            trial.remove_pod(&spared.uid);
            filters.remove_pod(&mut prepared, pod, &spared, &trial);
            victims.push(spared);
        }
    }
    if victims.is_empty() {
        return Err("No preemption victims found for incoming pod".to_owned());
    }
    Ok(victims)
}

/// When a Pod started; one that has not yet is the youngest.
fn start(pod: &PodInfo) -> i64 {
    let status = pod.pod.status.as_ref();
    let time = status.and_then(|status| status.start_time.as_ref());
    time.map_or(i64::MAX, |time| time.0.as_second())
}

/// Smaller is better.
fn rank(candidate: &Candidate<'_>) -> (i32, i64, usize, Reverse<i64>, Arc<str>) {
    let victims = &candidate.victims;
    let highest = victims.iter().map(|it| it.priority).max().unwrap_or(i32::MIN);
    // Shifted, so that more victims of negative priority are not better than fewer.
    let sum = victims.iter().map(|it| i64::from(it.priority) - i64::from(i32::MIN)).sum();
    let important = victims.iter().filter(|it| it.priority == highest);
    let earliest = important.map(|it| start(it)).min().unwrap_or(i64::MAX);
    (highest, sum, victims.len(), Reverse(earliest), candidate.node.name.clone())
}

#[cfg(test)]
mod tests {
    use rk_api::testing::{PodBuilder, node, pod};

    use super::*;
    use crate::{Profile, Scheduler, Unschedulable};

    /// The node and victims chosen, or the message.
    fn preempt(snapshot: &Snapshot, pod: PodBuilder) -> Result<(String, Vec<String>), String> {
        match Scheduler::new(Profile::default()).schedule(snapshot, &pod) {
            Err(Unschedulable::Unfit(error)) => match &error.nominated {
                Some(node) => {
                    let names = error.victims.iter().map(|it| it.name().to_owned()).collect();
                    Ok((node.clone(), names))
                }
                None => Err(error.to_string()),
            },
            other => panic!("{other:?}"),
        }
    }

    fn on(name: &str, node: &str, priority: i32) -> PodBuilder {
        pod(name).cpu("1").priority(priority).node(node)
    }

    #[test]
    fn the_least_important_pods_go_and_the_others_are_spared() {
        let pods = [on("a", "n", 5), on("b", "n", 1), on("c", "n", 3)];
        let snapshot = Snapshot::with_pods([node("n").cpu("3")], pods);
        let chosen = preempt(&snapshot, pod("p").cpu("2").priority(10)).unwrap();
        assert_eq!(chosen, ("n".to_owned(), vec!["c".to_owned(), "b".to_owned()]));
    }

    #[test]
    fn the_node_with_the_least_harm_is_chosen() {
        let pods = [on("a1", "a", 4), on("b1", "b", 2), on("b2", "b", 2), on("c1", "c", 2)];
        let nodes = [node("a").cpu("1"), node("b").cpu("2"), node("c").cpu("1")];
        let snapshot = Snapshot::with_pods(nodes, pods);
        let chosen = preempt(&snapshot, pod("p").cpu("1").priority(10)).unwrap();
        assert!(chosen.1.len() == 1 && chosen.0 != "a", "{chosen:?}");
        let chosen = preempt(&snapshot, pod("p").cpu("2").priority(10)).unwrap();
        assert_eq!(chosen, ("b".to_owned(), vec!["b1".to_owned(), "b2".to_owned()]));
    }

    #[test]
    fn messages_say_why_preemption_does_not_help() {
        let nodes =
            [node("a").cpu("1"), node("b").cpu("1").taint("gpu:NoSchedule"), node("c").cpu("500m")];
        let snapshot = Snapshot::with_pods(nodes, [on("there", "a", 7)]);
        let message = preempt(&snapshot, pod("p").cpu("1").priority(7)).unwrap_err();
        assert_eq!(
            message,
            "0/3 nodes are available: 1 node(s) had untolerated taint {gpu: }, 2 Insufficient cpu. \
             preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, \
             2 Preemption is not helpful for scheduling."
        );
        let never = pod("p").cpu("1").priority(9).with(|pod| {
            pod.spec.as_mut().unwrap().preemption_policy = Some("Never".to_owned());
        });
        let message = preempt(&snapshot, never).unwrap_err();
        assert!(
            message.ends_with("preemption: not eligible due to preemptionPolicy=Never."),
            "{message}"
        );
    }

    #[test]
    fn room_that_is_kept_is_not_given_to_others() {
        let mut snapshot = Snapshot::with_pods([node("n").cpu("2")], [on("there", "n", 0)]);
        let urgent = Arc::new(PodInfo::from(&*pod("urgent").cpu("1").priority(5)));
        snapshot.nominate(urgent, "n");
        let mut scheduler = Scheduler::new(Profile::default());

        assert!(scheduler.schedule(&snapshot, &pod("p").cpu("1")).is_err());
        assert!(scheduler.schedule(&snapshot, &pod("p").cpu("1").priority(6)).is_ok());
        let urgent = pod("urgent").cpu("1").priority(5);
        assert!(scheduler.schedule(&snapshot, &urgent).is_ok(), "it is its own room");

        snapshot.clear_nomination("uid-urgent");
        assert!(scheduler.schedule(&snapshot, &pod("p").cpu("1")).is_ok());
    }
}
