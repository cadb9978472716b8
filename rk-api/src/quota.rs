//! What objects use of the quotas of their namespace.
//!
//! Admission lets in what still fits, and a controller counts again when something goes. Both ask
//! this module, so that they agree. Nothing here does any I/O.

pub mod pod_resources;
mod usage;

use k8s_openapi::{
    api::core::v1::{ResourceQuota, ScopedResourceSelectorRequirement},
    jiff::Timestamp,
};

use self::pod_resources::{Amounts, add};
pub use self::usage::{Item, Tracked};
use crate::meta::quantity::Quantity;

/// What a quota is about: its scopes, old and new style. All of them must hold of an object.
pub fn scopes(quota: &ResourceQuota) -> Vec<ScopedResourceSelectorRequirement> {
    let spec = quota.spec.clone().unwrap_or_default();
    let plain = spec.scopes.unwrap_or_default().into_iter().map(|scope_name| {
        let operator = "Exists".to_owned();
        ScopedResourceSelectorRequirement { scope_name, operator, values: None }
    });
    let selected = spec.scope_selector.and_then(|selector| selector.match_expressions);
    plain.chain(selected.unwrap_or_default()).collect()
}

/// What these objects use of the resources that are in `hard` and that such objects can use: zero
/// of what none of them uses. Objects that are not in all of the scopes do not count.
pub fn total<'a>(
    hard: &Amounts,
    scopes: &[ScopedResourceSelectorRequirement],
    tracked: &Tracked,
    items: impl IntoIterator<Item = Item<'a>>,
    now: Timestamp,
) -> Amounts {
    let names = hard.keys().filter(|name| Tracked::by(name).as_ref() == Some(tracked));
    let mut total: Amounts = names.map(|name| (name.clone(), Quantity::ZERO)).collect();
    if total.is_empty() {
        return total;
    }
    for item in items.into_iter().filter(|item| scopes.iter().all(|scope| item.is_in(scope))) {
        let mut usage = item.usage(now);
        usage.retain(|name, _| total.contains_key(name));
        add(&mut total, &usage);
    }
    total
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{
        core::v1::{PersistentVolumeClaim, Pod, Service},
        resource::v1::ResourceClaim,
    };
    use serde_json::{Value, json};

    use super::*;

    fn hard(names: &[&str]) -> Amounts {
        names.iter().map(|name| ((*name).to_owned(), Quantity::new(9, 0))).collect()
    }

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    fn shown(amounts: &Amounts) -> String {
        let each = amounts.iter().map(|(name, amount)| format!("{name}={amount}"));
        each.collect::<Vec<_>>().join(" ")
    }

    #[track_caller]
    fn check(names: &[&str], scopes: &[&str], pods: &[Pod], used: &str) {
        let quota: ResourceQuota =
            serde_json::from_value(json!({ "spec": { "scopes": scopes } })).unwrap();
        let items = pods.iter().map(Item::pod);
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let total = total(&hard(names), &super::scopes(&quota), &Tracked::Pods, items, now);
        assert_eq!(shown(&total), used);
    }

    #[test]
    fn what_is_left_of_a_pod_that_ended_is_its_number() {
        let container =
            json!([{ "name": "c", "resources": { "requests": { "cpu": "1", "memory": "1Gi" } } }]);
        let with = |phase: &str| {
            pod(json!({ "spec": { "containers": container }, "status": { "phase": phase } }))
        };
        let names = ["count/pods", "pods", "requests.cpu", "memory", "services"];
        check(&names, &[], &[], "count/pods=0 memory=0 pods=0 requests.cpu=0");
        let pods = [with("Running"), with("Pending"), with("Failed"), with("Succeeded")];
        check(&names, &[], &pods, "count/pods=4 memory=2Gi pods=2 requests.cpu=2");
        check(&names, &["BestEffort"], &pods, "count/pods=0 memory=0 pods=0 requests.cpu=0");
    }

    #[test]
    fn a_pod_that_should_be_gone_lets_go() {
        let deleted = |at: &str| {
            pod(json!({
                "metadata": { "deletionTimestamp": at, "deletionGracePeriodSeconds": 30 },
                "spec": { "containers": [{ "name": "c" }] },
            }))
        };
        check(&["pods"], &[], &[deleted("2026-01-01T00:00:30Z")], "pods=1");
        check(&["pods"], &[], &[deleted("2026-01-01T00:00:29Z")], "pods=0");
    }

    #[test]
    fn a_claim_of_devices_uses_the_most_that_it_can_be_given() {
        let requests = json!([
            { "name": "a", "exactly": { "deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 2 } },
            { "name": "b", "exactly": { "deviceClassName": "nic", "allocationMode": "All" } },
            { "name": "c", "firstAvailable": [
                { "name": "x", "deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 3 },
                { "name": "y", "deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 5 },
                { "name": "z", "deviceClassName": "nic", "allocationMode": "ExactCount", "count": 1 },
            ] },
            { "name": "d", "exactly": { "deviceClassName": "gpu", "allocationMode": "Later" } },
        ]);
        let claim = json!({ "spec": { "devices": { "requests": requests } } });
        let claim: ResourceClaim = serde_json::from_value(claim).unwrap();
        let class = |name: &str| format!("{name}.deviceclass.resource.k8s.io/devices");
        assert_eq!(
            shown(&Item::resource_claim(&claim).usage(Timestamp::UNIX_EPOCH)),
            format!(
                "count/resourceclaims.resource.k8s.io=1 {}=7 {}=33",
                class("gpu"),
                class("nic")
            )
        );
    }

    #[test]
    fn a_claim_is_in_the_scope_of_each_class_that_it_has_or_had() {
        let claim = |spec: &str, current: &str, target: &str| -> PersistentVolumeClaim {
            let modify = json!({ "status": "Pending", "targetVolumeAttributesClassName": target });
            serde_json::from_value(json!({
                "spec": { "volumeAttributesClassName": spec },
                "status": {
                    "currentVolumeAttributesClassName": current, "modifyVolumeStatus": modify,
                },
            }))
            .unwrap()
        };
        let scope = |operator: &str, values: &[&str]| -> ScopedResourceSelectorRequirement {
            let name = "VolumeAttributesClass";
            let scope = json!({ "scopeName": name, "operator": operator, "values": values });
            serde_json::from_value(scope).unwrap()
        };
        let (gold, none) = (scope("In", &["gold"]), scope("DoesNotExist", &[]));
        for classes in [["gold", "", ""], ["", "gold", ""], ["slow", "slow", "gold"]] {
            let [spec, current, target] = classes;
            let claim = claim(spec, current, target);
            assert!(Item::claim(&claim).is_in(&gold), "{classes:?}");
            assert!(Item::claim(&claim).is_in(&scope("Exists", &[])), "{classes:?}");
            assert!(!Item::claim(&claim).is_in(&none), "{classes:?}");
        }
        let other = claim("slow", "slow", "");
        assert!(!Item::claim(&other).is_in(&gold));
        assert!(Item::claim(&claim("", "", "")).is_in(&none));
        assert!(!Item::claim(&other).same_scopes(&Item::claim(&claim("slow", "slow", "gold"))));
    }

    #[test]
    fn a_volume_is_counted_in_whole_bytes_by_the_class_that_counts() {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "metadata": { "annotations": { "volume.beta.kubernetes.io/storage-class": "old" } },
            "spec": { "resources": { "requests": { "storage": "1500m" } }, "storageClassName": "new" },
        }))
        .unwrap();
        assert_eq!(
            shown(&Item::claim(&claim).usage(Timestamp::UNIX_EPOCH)),
            "count/persistentvolumeclaims=1 old.storageclass.storage.k8s.io/persistentvolumeclaims=1 \
             old.storageclass.storage.k8s.io/requests.storage=2 persistentvolumeclaims=1 \
             requests.storage=2"
        );
    }

    #[test]
    fn each_resource_has_its_users() {
        let others = |group: &str, plural: &str| {
            Some(Tracked::Others { group: group.to_owned(), plural: plural.to_owned() })
        };
        assert_eq!(Tracked::by("count/deployments.apps"), others("apps", "deployments"));
        assert_eq!(Tracked::by("count/a.b.example.com"), others("b.example.com", "a"));
        assert_eq!(Tracked::by("count/secrets"), others("", "secrets"));
        assert_eq!(Tracked::by("secrets"), others("", "secrets"));
        assert_eq!(Tracked::by("resourcequotas"), others("", "resourcequotas"));
        assert_eq!(Tracked::by("services"), Some(Tracked::Services));
        assert_eq!(Tracked::by("services.nodeports"), Some(Tracked::Services));
        assert_eq!(Tracked::by("requests.storage"), Some(Tracked::Claims));
        let gold = "gold.storageclass.storage.k8s.io/requests.storage";
        assert_eq!(Tracked::by(gold), Some(Tracked::Claims));
        assert_eq!(Tracked::by("count/pods"), Some(Tracked::Pods));
        assert_eq!(Tracked::by("requests.example.com/gpu"), Some(Tracked::Pods));
        assert_eq!(Tracked::by("gold.storageclass.storage.k8s.io/other"), None);
        let devices = "gpu.example.com.deviceclass.resource.k8s.io/devices";
        assert_eq!(Tracked::by(devices), Some(Tracked::ResourceClaims));
        let claims = Tracked::by("count/resourceclaims.resource.k8s.io");
        assert_eq!(claims, Some(Tracked::ResourceClaims));
        assert_eq!(Tracked::by("example.com/gpu"), None);
        assert_eq!(Tracked::by("deployments"), None);
    }

    #[test]
    fn an_object_uses_only_what_is_tracked_by_its_kind() {
        let service: Service = serde_json::from_value(json!({
            "spec": { "type": "LoadBalancer", "ports": [{ "port": 1 }, { "port": 2 }] },
        }))
        .unwrap();
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "spec": { "storageClassName": "gold", "resources": { "requests": { "storage": "2Gi" } } },
        }))
        .unwrap();
        let pod = pod(json!({ "spec": { "containers": [{ "name": "c" }] } }));
        let devices: ResourceClaim = serde_json::from_value(json!({ "spec": { "devices": {
            "requests": [{ "name": "r", "exactly": { "deviceClassName": "gpu", "count": 2 } }],
        } } }))
        .unwrap();
        let now = Timestamp::UNIX_EPOCH;
        for item in [
            Item::service(&service),
            Item::claim(&claim),
            Item::pod(&pod),
            Item::resource_claim(&devices),
        ] {
            let usage = item.usage(now);
            let users: Vec<_> = usage.keys().map(|name| Tracked::by(name)).collect();
            assert!(users.iter().all(|user| *user == users[0] && user.is_some()), "{usage:?}");
            assert!(usage.keys().all(|name| item.knows(name)), "{usage:?}");
        }
    }
}
