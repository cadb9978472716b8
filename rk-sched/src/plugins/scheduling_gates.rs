//! A Pod with scheduling gates is not tried until they are gone.

use crate::{
    PodInfo, Status,
    framework::{ClusterEvent, EnqueueExtensions, Hint, Plugin, PreEnqueue},
    plugins::no_args,
};

/// The plugin's name.
pub const NAME: &str = "SchedulingGates";

/// Holds back Pods with `spec.schedulingGates`.
#[derive(Debug, Default)]
pub struct SchedulingGates;

no_args!(SchedulingGates);

impl Plugin for SchedulingGates {
    fn name(&self) -> &'static str {
        NAME
    }
    fn as_pre_enqueue(&self) -> Option<&dyn PreEnqueue> {
        Some(self)
    }
    fn as_enqueue_extensions(&self) -> Option<&dyn EnqueueExtensions> {
        Some(self)
    }
}

impl PreEnqueue for SchedulingGates {
    fn pre_enqueue(&self, pod: &PodInfo) -> Status {
        let gates = pod.spec().and_then(|spec| spec.scheduling_gates.as_deref());
        let gates: Vec<_> = gates.unwrap_or_default().iter().map(|it| it.name.as_str()).collect();
        if gates.is_empty() {
            return Status::success();
        }
        Status::unresolvable(format!("waiting for scheduling gates: [{}]", gates.join(" ")))
    }
}

impl EnqueueExtensions for SchedulingGates {
    fn hint(&self, _: &PodInfo, event: &ClusterEvent<'_>) -> Hint {
        match event {
            ClusterEvent::PodUpdated { .. } => Hint::Queue,
            _ => Hint::Skip,
        }
    }
}

#[cfg(test)]
mod tests {
    use rk_api::testing::pod;

    use super::*;

    #[test]
    fn gates_hold_a_pod_back() {
        let judge = |pod| SchedulingGates.pre_enqueue(&PodInfo::from(&pod));
        assert!(judge(pod("p").build()).is_success());
        let status = judge(pod("p").gate("a").gate("b").build());
        assert_eq!(status.message(), "waiting for scheduling gates: [a b]");
    }
}
