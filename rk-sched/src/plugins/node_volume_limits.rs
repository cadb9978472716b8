//! How many volumes of a CSI driver a node can have.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use rk_api::volumes::{claim_class, is_bound, volume_name};

use crate::{
    NodeInfo, PodInfo, Snapshot, Status,
    framework::{
        ClusterEvent, CycleState, EnqueueExtensions, Filter, Hint, Plugin, PreFilter, PreFiltered,
    },
    plugins::no_args,
    storage::{Storage, StorageView, claims_of, has_claims},
};

/// The plugin's name.
pub const NAME: &str = "NodeVolumeLimits";

/// Rejects nodes whose CSINode says that a driver cannot attach as many volumes there as their Pods
/// and this one use.
#[derive(Debug, Default)]
pub struct NodeVolumeLimits {
    storage: Storage,
}

no_args!(NodeVolumeLimits);

impl Plugin for NodeVolumeLimits {
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

/// A claim's volume: its driver, and what tells it from others of the driver. A claim that has none
/// yet counts as one of the driver of its class.
fn volume_of(claim: &PersistentVolumeClaim, view: &dyn StorageView) -> Option<(String, String)> {
    let name = volume_name(claim).filter(|_| is_bound(claim));
    if let Some(volume) = name.and_then(|name| view.volume(name)) {
        let csi = volume.spec.as_ref()?.csi.as_ref()?;
        return Some((csi.driver.clone(), csi.volume_handle.clone()));
    }
    let class = view.class(claim_class(claim)?)?;
    let handle = format!("{}/{}", claim.namespace().unwrap_or_default(), claim.name_any());
    Some((class.provisioner.clone(), handle))
}

impl PreFilter for NodeVolumeLimits {
    fn pre_filter(&self, _: &mut CycleState, pod: &PodInfo, _: &Snapshot) -> PreFiltered {
        match self.storage.view() {
            Some(_) if has_claims(pod) => PreFiltered::All,
            _ => PreFiltered::Skip,
        }
    }
}

impl Filter for NodeVolumeLimits {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        let Some(view) = self.storage.view() else { return Status::success() };
        let Some(csi) = view.csi_node(&node.name) else { return Status::success() };
        let limits: BTreeMap<&str, usize> = csi
            .spec
            .drivers
            .iter()
            .filter_map(|driver| {
                let count = driver.allocatable.as_ref()?.count?;
                Some((driver.name.as_str(), usize::try_from(count).unwrap_or(0)))
            })
            .collect();
        let limited = |pod: &PodInfo| {
            let volumes = claims_of(pod, &*view);
            let volumes = volumes.filter_map(|claim| volume_of(&claim, &*view));
            volumes.filter(|(driver, _)| limits.contains_key(&**driver)).collect::<Vec<_>>()
        };
        let wanted = limited(pod);
        if wanted.is_empty() {
            return Status::success();
        }
        let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (driver, handle) in node.pods.iter().flat_map(|there| limited(there)) {
            used.entry(driver).or_default().insert(handle);
        }
        let mut more: BTreeSet<String> = BTreeSet::new();
        for (driver, handle) in wanted {
            // A volume that is attached already takes no further room.
            if used.entry(driver.clone()).or_default().insert(handle) {
                more.insert(driver);
            }
        }
        let exceeded = more.iter().any(|driver| {
            let limit = limits.get(driver.as_str()).copied().unwrap_or(usize::MAX);
            used.get(driver).map_or(0, BTreeSet::len) > limit
        });
        match exceeded {
            true => Status::unschedulable("node(s) exceed max volume count"),
            false => Status::success(),
        }
    }
}

impl EnqueueExtensions for NodeVolumeLimits {
    fn hint(&self, _: &PodInfo, event: &ClusterEvent<'_>) -> Hint {
        match event {
            ClusterEvent::StorageChanged
            | ClusterEvent::NodeAdded(_)
            | ClusterEvent::AssignedPodDeleted(_) => Hint::Queue,
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
    fn node_volume_limits_filter() {
        let plugin = NodeVolumeLimits::default();
        let bound = |volume: &str| {
            json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
                "spec": {"volumeName": volume}})
        };
        let csi = |handle: &str| json!({"spec": {"csi": {"driver": "d", "volumeHandle": handle}}});
        let driver = json!({"name": "d", "nodeID": "n", "allocatable": {"count": 1}});
        let view = Fake::default()
            .claim("a", bound("va"))
            .claim("b", bound("vb"))
            .claim("later", json!({"spec": {"storageClassName": "c"}}))
            .class("c", json!({"provisioner": "d"}))
            .volume("va", csi("1"))
            .volume("vb", csi("2"))
            .csi_node("n", json!({"spec": {"drivers": [driver]}}));
        plugin.storage.connect(Arc::new(view));
        let there = |claim| [with_claim(pod("other").node("n"), claim)];
        let of = |claim| with_claim(pod("p"), claim);
        let no = || Err(Status::unschedulable("node(s) exceed max volume count"));
        check_filter_with(&plugin, "a second one", node("n"), there("a"), of("b"), no());
        check_filter_with(&plugin, "the same", node("n"), there("a"), of("a"), Ok(()));
        check_filter_with(&plugin, "one to come", node("n"), there("a"), of("later"), no());
        check_filter_with(&plugin, "no limit", node("m"), there("a"), of("b"), Ok(()));
    }
}
