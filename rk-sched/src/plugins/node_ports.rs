//! Two Pods on one node cannot have the same host port.

use crate::{
    NodeInfo, PodInfo, Snapshot, Status,
    framework::{
        ClusterEvent, CycleState, EnqueueExtensions, Filter, Hint, Plugin, PreFilter, PreFiltered,
    },
    plugins::{no_args, sign_count, sign_part},
};

/// The plugin's name.
pub const NAME: &str = "NodePorts";

/// Rejects nodes where a host port that the Pod asks for is taken.
#[derive(Debug, Default)]
pub struct NodePorts;

no_args!(NodePorts);

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        NAME
    }
    fn sign(&self, pod: &PodInfo, _: &Snapshot, signature: &mut Vec<u8>) -> bool {
        sign_count(signature, pod.host_ports.len());
        for port in &pod.host_ports {
            sign_part(signature, &port.ip);
            sign_part(signature, &port.protocol);
            signature.extend_from_slice(&port.port.to_le_bytes());
        }
        true
    }
    fn as_pre_filter(&self) -> Option<&dyn PreFilter> {
        Some(self)
    }
    fn as_filter(&self) -> Option<&dyn Filter> {
        Some(self)
    }
    fn as_enqueue_extensions(&self) -> Option<&dyn EnqueueExtensions> {
        Some(self)
    }
}

impl PreFilter for NodePorts {
    fn pre_filter(&self, _: &mut CycleState, pod: &PodInfo, _: &Snapshot) -> PreFiltered {
        if pod.host_ports.is_empty() { PreFiltered::Skip } else { PreFiltered::All }
    }
}

impl Filter for NodePorts {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        let taken = |port| node.used_ports.iter().any(|used| used.conflicts_with(port));
        if pod.host_ports.iter().any(taken) {
            return Status::unschedulable(
                "node(s) didn't have free ports for the requested pod ports",
            );
        }
        Status::success()
    }
}

impl EnqueueExtensions for NodePorts {
    fn hint(&self, pod: &PodInfo, event: &ClusterEvent<'_>) -> Hint {
        match event {
            ClusterEvent::NodeAdded(_) => Hint::Queue,
            ClusterEvent::AssignedPodDeleted(gone) => {
                let freed = |port| gone.host_ports.iter().any(|it| it.conflicts_with(port));
                if pod.host_ports.iter().any(freed) { Hint::Queue } else { Hint::Skip }
            }
            _ => Hint::Skip,
        }
    }
}

#[cfg(test)]
mod tests {
    use rk_api::testing::{PodBuilder, node, pod};

    use super::*;
    use crate::plugins::tests::check_filter_with;

    #[track_caller]
    fn check(name: &str, there: PodBuilder, pod: PodBuilder, fits: bool) {
        let taken = "node(s) didn't have free ports for the requested pod ports";
        let expected = if fits { Ok(()) } else { Err(Status::unschedulable(taken)) };
        check_filter_with(&NodePorts, name, node("n"), [there.node("n")], pod, expected);
    }

    #[test]
    fn node_ports_filter() {
        let port = |name, port| pod(name).host_port(port);
        let on = |name, ip, protocol| pod(name).host_port_on(ip, protocol, 80);
        check("no ports", port("a", 80), pod("p"), true);
        check("same port", port("a", 80), port("p", 80), false);
        check("another port", port("a", 80), port("p", 81), true);
        check("another protocol", on("a", "", "TCP"), on("p", "", "UDP"), true);
        check("two addresses", on("a", "10.0.0.1", "TCP"), on("p", "10.0.0.2", "TCP"), true);
        check("same address", on("a", "10.0.0.1", "TCP"), on("p", "10.0.0.1", "TCP"), false);
        check("all addresses are there", on("a", "", "TCP"), on("p", "10.0.0.2", "TCP"), false);
        check("all addresses wanted", on("a", "10.0.0.1", "TCP"), on("p", "0.0.0.0", "TCP"), false);
    }
}
