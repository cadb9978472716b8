//! A node's taints keep Pods away that do not tolerate them.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::{
    NodeInfo, PodInfo, Snapshot, Status,
    framework::{
        ClusterEvent, CycleState, EnqueueExtensions, Filter, Hint, Normalize, Plugin, Reads, Score,
    },
    plugins::{no_args, sign_count, sign_option},
};

/// The plugin's name.
pub const NAME: &str = "TaintToleration";

/// Rejects nodes with a `NoSchedule` or `NoExecute` taint that the Pod does not tolerate, and
/// prefers those with fewer untolerated `PreferNoSchedule` taints.
///
/// The message names the taint, which upstream's no longer does from 1.35 on: with it, the event
/// says what to tolerate.
#[derive(Debug, Default)]
pub struct TaintToleration;

no_args!(TaintToleration);

/// Whether a toleration is for this taint. `Gt` and `Lt` compare the taint's value as a number.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |it: &Option<String>| it.clone().unwrap_or_default();
    let effect = text(&toleration.effect);
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    let key = text(&toleration.key);
    if !key.is_empty() && key != taint.key {
        return false;
    }
    let value = toleration.value.as_deref().unwrap_or_default();
    let of_taint = taint.value.as_deref().unwrap_or_default();
    let numbers = || Some((of_taint.parse::<i64>().ok()?, value.parse::<i64>().ok()?));
    match toleration.operator.as_deref().unwrap_or_default() {
        // An empty key with Exists is every taint; with Equal it is refused by the API.
        "" | "Equal" => value == of_taint,
        "Exists" => true,
        "Gt" => numbers().is_some_and(|(taint, bound)| taint > bound),
        "Lt" => numbers().is_some_and(|(taint, bound)| taint < bound),
        _ => false,
    }
}

/// The first taint that keeps the Pod away.
fn untolerated<'a>(taints: &'a [Taint], tolerations: &[Toleration]) -> Option<&'a Taint> {
    taints.iter().find(|taint| {
        matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
            && !tolerations.iter().any(|toleration| tolerates(toleration, taint))
    })
}

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        NAME
    }
    fn sign(&self, pod: &PodInfo, _: &Snapshot, signature: &mut Vec<u8>) -> bool {
        sign_count(signature, pod.tolerations().len());
        for toleration in pod.tolerations() {
            sign_option(signature, toleration.key.as_deref());
            sign_option(signature, toleration.operator.as_deref());
            sign_option(signature, toleration.value.as_deref());
            sign_option(signature, toleration.effect.as_deref());
        }
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

impl Filter for TaintToleration {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        match untolerated(node.taints(), pod.tolerations()) {
            None => Status::success(),
            Some(taint) => {
                let value = taint.value.as_deref().unwrap_or_default();
                let reason = format!("node(s) had untolerated taint {{{}: {value}}}", taint.key);
                Status::unresolvable(reason)
            }
        }
    }

    fn reads(&self) -> Reads {
        Reads::Node
    }
}

impl Score for TaintToleration {
    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let untolerated = node.taints().iter().filter(|taint| {
            taint.effect == "PreferNoSchedule"
                && !pod.tolerations().iter().any(|toleration| tolerates(toleration, taint))
        });
        untolerated.count() as i64
    }

    fn normalization(&self) -> Normalize {
        Normalize::ToMaxReversed
    }

    fn reads(&self) -> Reads {
        Reads::Node
    }
}

impl EnqueueExtensions for TaintToleration {
    fn hint(&self, pod: &PodInfo, event: &ClusterEvent<'_>) -> Hint {
        let fits = |node: &NodeInfo| untolerated(node.taints(), pod.tolerations()).is_none();
        match event {
            ClusterEvent::NodeAdded(node) if fits(node) => Hint::Queue,
            ClusterEvent::NodeUpdated { old, new, .. } if fits(new) && !fits(old) => Hint::Queue,
            ClusterEvent::PodUpdated { old, new } if old.tolerations() != new.tolerations() => {
                Hint::Queue
            }
            _ => Hint::Skip,
        }
    }
}

#[cfg(test)]
mod tests {
    use rk_api::testing::{node, pod};

    use super::*;
    use crate::plugins::tests::{check_filter, check_scores};

    #[test]
    fn taint_toleration_filter() {
        let tainted = || node("n").taint("gpu=a100:NoSchedule");
        let check =
            |name, node, pod, expected| check_filter(&TaintToleration, name, node, pod, expected);
        let rejected = || Err(Status::unresolvable("node(s) had untolerated taint {gpu: a100}"));

        check("no taint", node("n"), pod("p"), Ok(()));
        check("taint not tolerated", tainted(), pod("p"), rejected());
        check("tolerated by key", tainted(), pod("p").tolerates("gpu"), Ok(()));
        check("everything tolerated", tainted(), pod("p").tolerates(""), Ok(()));
        let equal = |value| pod("p").toleration("gpu", "Equal", value, "");
        check("tolerated by value", tainted(), equal("a100"), Ok(()));
        check("another value", tainted(), equal("h100"), rejected());
        let effect = |effect| pod("p").toleration("gpu", "Exists", "", effect);
        check("tolerated by effect", tainted(), effect("NoSchedule"), Ok(()));
        check("another effect", tainted(), effect("NoExecute"), rejected());
        check("soft taint", node("n").taint("gpu=:PreferNoSchedule"), pod("p"), Ok(()));
        let no_value = Err(Status::unresolvable("node(s) had untolerated taint {gpu: }"));
        check("no execute", node("n").taint("gpu:NoExecute"), pod("p"), no_value);
        let level = || node("n").taint("level=5:NoSchedule");
        check("greater", level(), pod("p").toleration("level", "Gt", "4", ""), Ok(()));
        check(
            "not less",
            level(),
            pod("p").toleration("level", "Lt", "5", ""),
            Err(Status::unresolvable("node(s) had untolerated taint {level: 5}")),
        );
    }

    #[test]
    fn taint_toleration_score() {
        let soft = |name, count: usize| {
            (0..count).fold(node(name), |n, i| n.taint(&format!("t{i}:PreferNoSchedule")))
        };
        check_scores(
            &TaintToleration,
            "fewer soft taints are better",
            [soft("a", 0), soft("b", 1), soft("c", 2)],
            pod("p"),
            &[100, 50, 0],
        );
        check_scores(
            &TaintToleration,
            "tolerated ones do not count",
            [soft("a", 0), soft("b", 1)],
            pod("p").tolerates("t0"),
            &[100, 100],
        );
    }
}
