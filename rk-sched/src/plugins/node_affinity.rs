//! `spec.nodeSelector` and `spec.affinity.nodeAffinity`.

use k8s_openapi::api::core::v1::Node;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    NodeInfo, NodeTerm, NodeTerms, PodInfo, Snapshot, Status,
    framework::{
        ClusterEvent, CycleState, EnqueueExtensions, Filter, Hint, Normalize, Plugin, PreFilter,
        PreFiltered, PreScore, Reads, Score,
    },
    plugins::{FromArgs, sign_count, sign_part},
};

/// The plugin's name.
pub const NAME: &str = "NodeAffinity";

/// Rejects nodes that the Pod's node selector or required node affinity does not match, and
/// prefers those that match its preferred node affinity.
#[derive(Debug, Default)]
pub struct NodeAffinity {
    added_required: Option<NodeTerms>,
    added_preferred: Vec<(i64, NodeTerm)>,
}

/// `NodeAffinityArgs`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeAffinityArgs {
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
    /// An affinity that all Pods of the profile have besides their own.
    pub added_affinity: Option<k8s_openapi::api::core::v1::NodeAffinity>,
}

impl FromArgs for NodeAffinity {
    fn from_args(args: Option<Value>) -> Result<Self, serde_json::Error> {
        let Some(args) = args else { return Ok(Self::default()) };
        let args: NodeAffinityArgs = serde_json::from_value(args)?;
        let added = args.added_affinity.unwrap_or_default();
        let preferred = added.preferred_during_scheduling_ignored_during_execution;
        Ok(Self {
            added_required: added
                .required_during_scheduling_ignored_during_execution
                .as_ref()
                .map(NodeTerms::new),
            added_preferred: preferred
                .iter()
                .flatten()
                .map(|term| (term.weight.into(), NodeTerm::new(&term.preference)))
                .collect(),
        })
    }
}

/// Whether the Pod's own selector and required affinity match a node.
pub fn matches(pod: &PodInfo, node: &NodeInfo) -> bool {
    let labels = node.labels();
    let has = |key: &str, value: &str| {
        labels.and_then(|labels| labels.get(key)).is_some_and(|have| have == value)
    };
    pod.node_selector.iter().all(|(key, value)| has(key, value))
        && pod.required_nodes.as_ref().is_none_or(|terms| terms.matches(labels, &node.name))
}

/// The same for a node as the API has it.
pub fn matches_node(pod: &PodInfo, node: &Node) -> bool {
    matches(pod, &NodeInfo::new(std::sync::Arc::new(node.clone())))
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        NAME
    }
    fn sign(&self, pod: &PodInfo, _: &Snapshot, signature: &mut Vec<u8>) -> bool {
        // Pods that name their node, as those of a DaemonSet, are not alike.
        if pod.required_nodes.as_ref().is_some_and(|terms| terms.node_names().is_some()) {
            return false;
        }
        sign_count(signature, pod.node_selector.len());
        for (key, value) in &pod.node_selector {
            sign_part(signature, key);
            sign_part(signature, value);
        }
        let has_affinity = pod.required_nodes.is_some() || !pod.preferred_nodes.is_empty();
        signature.push(u8::from(has_affinity));
        if has_affinity {
            let of_pod = (&pod.required_nodes, &pod.preferred_nodes);
            sign_part(signature, &format!("{of_pod:?}"));
        }
        true
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

impl PreFilter for NodeAffinity {
    fn pre_filter(&self, _: &mut CycleState, pod: &PodInfo, _: &Snapshot) -> PreFiltered {
        let open = pod.node_selector.is_empty() && pod.required_nodes.is_none();
        if open && self.added_required.is_none() {
            return PreFiltered::Skip;
        }
        match pod.required_nodes.as_ref().and_then(NodeTerms::node_names) {
            None => PreFiltered::All,
            Some(names) if names.is_empty() => {
                PreFiltered::Rejected(Status::unresolvable("pod affinity terms conflict"))
            }
            Some(names) => PreFiltered::Only(names.into_iter().collect()),
        }
    }
}

impl Filter for NodeAffinity {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        let enforced = |terms: &NodeTerms| terms.matches(node.labels(), &node.name);
        if !self.added_required.as_ref().is_none_or(enforced) {
            return Status::unresolvable("node(s) didn't match scheduler-enforced node affinity");
        }
        if !matches(pod, node) {
            return Status::unresolvable("node(s) didn't match Pod's node affinity/selector");
        }
        Status::success()
    }

    fn reads(&self) -> Reads {
        Reads::Node
    }
}

impl PreScore for NodeAffinity {
    fn pre_score(&self, _: &mut CycleState, pod: &PodInfo, _: &[&NodeInfo]) -> Status {
        match pod.preferred_nodes.is_empty() && self.added_preferred.is_empty() {
            true => Status::skip(),
            false => Status::success(),
        }
    }
}

impl Score for NodeAffinity {
    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let terms = self.added_preferred.iter().chain(&pod.preferred_nodes);
        let matching = terms.filter(|(_, term)| term.matches(node.labels(), &node.name));
        matching.map(|(weight, _)| weight).sum()
    }

    fn normalization(&self) -> Normalize {
        Normalize::ToMax
    }

    fn reads(&self) -> Reads {
        Reads::Node
    }
}

impl EnqueueExtensions for NodeAffinity {
    fn hint(&self, pod: &PodInfo, event: &ClusterEvent<'_>) -> Hint {
        let fits = |node: &NodeInfo| {
            let enforced = |terms: &NodeTerms| terms.matches(node.labels(), &node.name);
            self.added_required.as_ref().is_none_or(enforced) && matches(pod, node)
        };
        match event {
            ClusterEvent::NodeAdded(node) if fits(node) => Hint::Queue,
            ClusterEvent::NodeUpdated { old, new, change } if change.labels => {
                if fits(new) && !fits(old) { Hint::Queue } else { Hint::Skip }
            }
            ClusterEvent::PodUpdated { .. } => Hint::Queue,
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
    fn node_affinity_filter() {
        let ssd = || node("n").label("disk", "ssd").label("zone", "a");
        let no = || Err(Status::unresolvable("node(s) didn't match Pod's node affinity/selector"));
        let check = |name, node, pod, expected| {
            check_filter(&NodeAffinity::default(), name, node, pod, expected);
        };
        check("nothing asked", node("n"), pod("p"), Ok(()));
        check("selector matches", ssd(), pod("p").node_selector("disk", "ssd"), Ok(()));
        check("selector does not", ssd(), pod("p").node_selector("disk", "hdd"), no());
        check("label missing", node("n"), pod("p").node_selector("disk", "ssd"), no());
        let zones = |zones: &[&str]| pod("p").requires_node("zone", "In", zones);
        check("affinity matches", ssd(), zones(&["a", "b"]), Ok(()));
        check("affinity does not", ssd(), zones(&["b"]), no());
        check(
            "one term is enough",
            ssd(),
            zones(&["b"]).requires_node("disk", "Exists", &[]),
            Ok(()),
        );
        check("both must match", ssd(), zones(&["a"]).node_selector("disk", "hdd"), no());
        check("by name", ssd(), pod("p").requires_node_named("n"), Ok(()));
        check("another name", ssd(), pod("p").requires_node_named("m"), no());
    }

    #[test]
    fn node_affinity_score() {
        let nodes = || [node("a").label("zone", "a"), node("b").label("zone", "b"), node("c")];
        let plugin = NodeAffinity::default();
        let two =
            pod("p").prefers_node(2, "zone", "In", &["a"]).prefers_node(8, "zone", "In", &["b"]);
        check_scores(&plugin, "weights in proportion", nodes(), two, &[25, 100, 0]);
        check_scores(&plugin, "no preference", nodes(), pod("p"), &[0, 0, 0]);
    }

    #[test]
    fn an_affinity_can_be_added_for_all_pods() {
        let args = serde_json::json!({"addedAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["a"]}]}]}}});
        let plugin = NodeAffinity::from_args(Some(args)).unwrap();
        let no = Status::unresolvable("node(s) didn't match scheduler-enforced node affinity");
        check_filter(&plugin, "in", node("n").label("pool", "a"), pod("p"), Ok(()));
        check_filter(&plugin, "out", node("n"), pod("p"), Err(no));
    }
}
