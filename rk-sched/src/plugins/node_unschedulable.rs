//! A cordoned node takes no Pods but those that tolerate it.

use k8s_openapi::api::core::v1::Taint;

use crate::{
    NodeInfo, PodInfo, Snapshot, Status,
    framework::{ClusterEvent, CycleState, EnqueueExtensions, Filter, Hint, Plugin, Reads},
    plugins::{no_args, taint_toleration::tolerates},
};

/// The plugin's name.
pub const NAME: &str = "NodeUnschedulable";

/// Rejects nodes with `spec.unschedulable`.
#[derive(Debug, Default)]
pub struct NodeUnschedulable;

no_args!(NodeUnschedulable);

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        NAME
    }
    fn sign(&self, pod: &PodInfo, _: &Snapshot, signature: &mut Vec<u8>) -> bool {
        signature.push(u8::from(tolerates_cordon(pod)));
        true
    }
    fn as_filter(&self) -> Option<&dyn Filter> {
        Some(self)
    }
    fn as_enqueue_extensions(&self) -> Option<&dyn EnqueueExtensions> {
        Some(self)
    }
}

/// DaemonSet Pods tolerate the taint that stands for a cordon.
fn tolerates_cordon(pod: &PodInfo) -> bool {
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    pod.tolerations().iter().any(|toleration| tolerates(toleration, &taint))
}

impl Filter for NodeUnschedulable {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        if node.unschedulable() && !tolerates_cordon(pod) {
            return Status::unresolvable("node(s) were unschedulable");
        }
        Status::success()
    }

    fn reads(&self) -> Reads {
        Reads::Node
    }
}

impl EnqueueExtensions for NodeUnschedulable {
    fn hint(&self, pod: &PodInfo, event: &ClusterEvent<'_>) -> Hint {
        match event {
            ClusterEvent::NodeAdded(node) | ClusterEvent::NodeUpdated { new: node, .. }
                if !node.unschedulable() =>
            {
                match event {
                    ClusterEvent::NodeUpdated { old, .. } if !old.unschedulable() => Hint::Skip,
                    _ => Hint::Queue,
                }
            }
            ClusterEvent::PodUpdated { .. } if tolerates_cordon(pod) => Hint::Queue,
            _ => Hint::Skip,
        }
    }
}

#[cfg(test)]
mod tests {
    use rk_api::testing::{node, pod};

    use super::*;
    use crate::plugins::tests::check_filter;

    #[test]
    fn node_unschedulable_filter() {
        let cordoned = || Err(Status::unresolvable("node(s) were unschedulable"));
        let plugin = NodeUnschedulable;
        check_filter(&plugin, "open", node("n"), pod("p"), Ok(()));
        check_filter(&plugin, "cordoned", node("n").unschedulable(), pod("p"), cordoned());
        let tolerant = pod("p").tolerates("node.kubernetes.io/unschedulable");
        check_filter(&plugin, "tolerated", node("n").unschedulable(), tolerant, Ok(()));
        let tolerant = pod("p").tolerates("gpu");
        check_filter(&plugin, "other", node("n").unschedulable(), tolerant, cordoned());
    }
}
