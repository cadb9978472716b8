//! Claims that one Pod alone may use.

use crate::{
    NodeInfo, PodInfo, Snapshot, Status,
    framework::{
        ClusterEvent, CycleState, EnqueueExtensions, Filter, Hint, Plugin, PreFilter, PreFiltered,
    },
    plugins::no_args,
    storage::{Storage, claims_of, has_claims},
};

/// The plugin's name.
pub const NAME: &str = "VolumeRestrictions";

const CONFLICT: &str =
    "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";

/// Rejects a Pod with a claim of access mode ReadWriteOncePod that another Pod uses (KEP-2485),
/// unless preemption takes that Pod away.
///
/// Upstream's plugin of this name also keeps two Pods of one node from the same disk of a cloud
/// where that is in the Pod itself; those disks are CSI volumes today.
#[derive(Debug, Default)]
pub struct VolumeRestrictions {
    storage: Storage,
}

no_args!(VolumeRestrictions);

/// The claims that the Pod must have alone, and how often others use one of them.
#[derive(Debug)]
struct Exclusive {
    claims: Vec<String>,
    conflicts: i64,
}

impl Exclusive {
    /// How many uses of these claims a Pod of the same namespace has.
    fn uses(&self, pod: &PodInfo, other: &PodInfo) -> i64 {
        if pod.namespace() != other.namespace() || pod.uid == other.uid {
            return 0;
        }
        let claims = rk_api::volumes::claims_of(&other.pod);
        claims.filter(|claim| self.claims.contains(claim)).count() as i64
    }
}

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        NAME
    }
    fn sign(&self, pod: &PodInfo, _: &Snapshot, _: &mut Vec<u8>) -> bool {
        !has_claims(pod)
    }
    fn storage(&self) -> Option<&Storage> {
        Some(&self.storage)
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

impl PreFilter for VolumeRestrictions {
    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
    ) -> PreFiltered {
        let Some(view) = self.storage.view().filter(|_| has_claims(pod)) else {
            return PreFiltered::Skip;
        };
        let alone = claims_of(pod, &*view).filter(|claim| {
            let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref());
            modes.unwrap_or_default().iter().any(|mode| mode == "ReadWriteOncePod")
        });
        let claims: Vec<String> = alone.filter_map(|claim| claim.metadata.name.clone()).collect();
        if claims.is_empty() {
            return PreFiltered::Skip;
        }
        let mut exclusive = Exclusive { claims, conflicts: 0 };
        let others = snapshot.nodes().iter().flat_map(|node| &node.pods);
        exclusive.conflicts = others.map(|other| exclusive.uses(pod, other)).sum();
        state.insert(exclusive);
        PreFiltered::All
    }

    fn add_pod(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        added: &PodInfo,
        _: &NodeInfo,
    ) -> Status {
        if let Some(exclusive) = state.get_mut::<Exclusive>() {
            exclusive.conflicts += exclusive.uses(pod, added);
        }
        Status::success()
    }

    fn remove_pod(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        removed: &PodInfo,
        _: &NodeInfo,
    ) -> Status {
        if let Some(exclusive) = state.get_mut::<Exclusive>() {
            exclusive.conflicts -= exclusive.uses(pod, removed);
        }
        Status::success()
    }
}

impl Filter for VolumeRestrictions {
    fn filter(&self, state: &CycleState, _: &PodInfo, _: &NodeInfo) -> Status {
        match state.get::<Exclusive>() {
            Some(exclusive) if exclusive.conflicts > 0 => Status::unschedulable(CONFLICT),
            _ => Status::success(),
        }
    }
}

impl EnqueueExtensions for VolumeRestrictions {
    fn hint(&self, pod: &PodInfo, event: &ClusterEvent<'_>) -> Hint {
        match event {
            ClusterEvent::StorageChanged => Hint::Queue,
            ClusterEvent::AssignedPodDeleted(gone) if gone.namespace() == pod.namespace() => {
                let of_pod: Vec<_> = rk_api::volumes::claims_of(&pod.pod).collect();
                let mut freed = rk_api::volumes::claims_of(&gone.pod);
                if freed.any(|claim| of_pod.contains(&claim)) { Hint::Queue } else { Hint::Skip }
            }
            _ => Hint::Skip,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rk_api::testing::{node, pod};
    use serde_json::json;

    use super::*;
    use crate::{
        plugins::tests::{check_filter_with, with_claim},
        storage::fake::Fake,
    };

    #[test]
    fn volume_restrictions_filter() {
        let plugin = VolumeRestrictions::default();
        let view = Fake::default()
            .claim("alone", json!({"spec": {"accessModes": ["ReadWriteOncePod"]}}))
            .claim("shared", json!({"spec": {"accessModes": ["ReadWriteOnce"]}}));
        plugin.storage.connect(Arc::new(view));
        let there = |claim| [with_claim(pod("other").node("n"), claim)];
        let of = |claim| with_claim(pod("p"), claim);
        let no = Err(Status::unschedulable(CONFLICT));
        check_filter_with(&plugin, "in use", node("n"), there("alone"), of("alone"), no);
        check_filter_with(&plugin, "free", node("n"), there("shared"), of("alone"), Ok(()));
        check_filter_with(&plugin, "shared", node("n"), there("shared"), of("shared"), Ok(()));
    }
}
