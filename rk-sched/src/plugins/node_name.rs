//! A Pod that names its node fits only there.

use crate::{
    NodeInfo, PodInfo, Snapshot, Status,
    framework::{ClusterEvent, CycleState, EnqueueExtensions, Filter, Hint, Plugin, Reads},
    plugins::{no_args, sign_option},
};

/// The plugin's name.
pub const NAME: &str = "NodeName";

/// Rejects every node but the one in `spec.nodeName`.
#[derive(Debug, Default)]
pub struct NodeName;

no_args!(NodeName);

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        NAME
    }
    fn sign(&self, pod: &PodInfo, _: &Snapshot, signature: &mut Vec<u8>) -> bool {
        sign_option(signature, pod.node_name());
        true
    }
    fn as_filter(&self) -> Option<&dyn Filter> {
        Some(self)
    }
    fn as_enqueue_extensions(&self) -> Option<&dyn EnqueueExtensions> {
        Some(self)
    }
}

impl Filter for NodeName {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        match pod.node_name() {
            Some(name) if name != &*node.name => {
                Status::unresolvable("node(s) didn't match the requested node name")
            }
            _ => Status::success(),
        }
    }

    fn reads(&self) -> Reads {
        Reads::Node
    }
}

impl EnqueueExtensions for NodeName {
    fn hint(&self, pod: &PodInfo, event: &ClusterEvent<'_>) -> Hint {
        match event {
            ClusterEvent::NodeAdded(node) if pod.node_name() == Some(&*node.name) => Hint::Queue,
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
    fn node_name_filter() {
        let check = |name, node_name: &str, fits| {
            let pod = pod("p").node(node_name);
            check_filter(&NodeName, name, node("n"), pod, fits);
        };
        check("no name", "", Ok(()));
        check("this node", "n", Ok(()));
        check(
            "another node",
            "m",
            Err(Status::unresolvable("node(s) didn't match the requested node name")),
        );
    }
}
