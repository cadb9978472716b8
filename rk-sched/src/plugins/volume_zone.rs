//! Zones and regions in the labels of volumes.

use std::collections::BTreeSet;

use rk_api::volumes::{is_bound, volume_name};

use crate::{
    NodeInfo, PodInfo, Snapshot, Status,
    framework::{
        ClusterEvent, CycleState, EnqueueExtensions, Filter, Hint, Plugin, PreFilter, PreFiltered,
        Reads,
    },
    plugins::no_args,
    storage::{Storage, claims_of, has_claims},
};

/// The plugin's name.
pub const NAME: &str = "VolumeZone";

/// The labels that say where a volume is, with what nodes may call the same.
const TOPOLOGY: [(&str, &str); 4] = [
    ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
];
/// Between the zones of a volume that is in several.
const SEPARATOR: &str = "__";

/// Rejects nodes that are not in the zone or region of a bound volume of the Pod. Nodes without any
/// of these labels are taken to be everywhere.
#[derive(Debug, Default)]
pub struct VolumeZone {
    storage: Storage,
}

no_args!(VolumeZone);

/// Labels of a node of which one must be there, and the values it may have.
type Places = Vec<([&'static str; 2], BTreeSet<String>)>;

impl Plugin for VolumeZone {
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

impl PreFilter for VolumeZone {
    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, _: &Snapshot) -> PreFiltered {
        let Some(view) = self.storage.view().filter(|_| has_claims(pod)) else {
            return PreFiltered::Skip;
        };
        // Claims that have no volume yet, or none any more, are up to VolumeBinding.
        let bound = claims_of(pod, &*view).filter(|claim| is_bound(claim));
        let volumes = bound.filter_map(|claim| view.volume(volume_name(&claim)?));
        let mut places = Places::new();
        for volume in volumes {
            let Some(labels) = &volume.metadata.labels else { continue };
            for (label, alias) in TOPOLOGY {
                if let Some(value) = labels.get(label) {
                    let values = value.split(SEPARATOR).map(|value| value.trim().to_owned());
                    places.push(([label, alias], values.collect()));
                }
            }
        }
        if places.is_empty() {
            return PreFiltered::Skip;
        }
        state.insert(places);
        PreFiltered::All
    }
}

impl Filter for VolumeZone {
    fn filter(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> Status {
        let (Some(places), Some(labels)) = (state.get::<Places>(), node.labels()) else {
            return Status::success();
        };
        if !TOPOLOGY.iter().any(|(label, _)| labels.contains_key(*label)) {
            return Status::success();
        }
        let is_in = |(names, values): &([&str; 2], BTreeSet<String>)| {
            let found = names.iter().find_map(|name| labels.get(*name));
            found.is_some_and(|found| values.contains(found))
        };
        match places.iter().all(is_in) {
            true => Status::success(),
            false => Status::unresolvable("node(s) had no available volume zone"),
        }
    }

    fn reads(&self) -> Reads {
        Reads::Node
    }
}

impl EnqueueExtensions for VolumeZone {
    fn hint(&self, _: &PodInfo, event: &ClusterEvent<'_>) -> Hint {
        match event {
            ClusterEvent::StorageChanged | ClusterEvent::NodeAdded(_) => Hint::Queue,
            ClusterEvent::NodeUpdated { change, .. } if change.labels => Hint::Queue,
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
        plugins::tests::{check_filter, with_claim},
        storage::fake::Fake,
    };

    #[test]
    fn volume_zone_filter() {
        let zone = "topology.kubernetes.io/zone";
        let plugin = VolumeZone::default();
        let bound = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
            "spec": {"volumeName": "v"}});
        let view = Fake::default()
            .claim("data", bound)
            .volume("v", json!({"metadata": {"labels": {zone: "a__b"}}}));
        plugin.storage.connect(Arc::new(view));
        let no = || Err(Status::unresolvable("node(s) had no available volume zone"));
        let of = || with_claim(pod("p"), "data");
        check_filter(&plugin, "its zone", node("n").label(zone, "b"), of(), Ok(()));
        check_filter(&plugin, "another", node("n").label(zone, "c"), of(), no());
        check_filter(&plugin, "a node of no zone", node("n"), of(), Ok(()));
        let old = node("n").label("failure-domain.beta.kubernetes.io/zone", "a");
        check_filter(&plugin, "the label's old name", old, of(), Ok(()));
        check_filter(&plugin, "no claim", node("n").label(zone, "c"), pod("p"), Ok(()));
    }
}
