use std::sync::Arc;

use rk_api::testing::{node, pod};
use serde_json::{Value, json};

use super::*;
use crate::{
    plugins::tests::{check_filter, with_claim},
    storage::fake::Fake,
};

fn plugin(view: Fake) -> VolumeBinding {
    let plugin = VolumeBinding::default();
    plugin.storage.connect(Arc::new(view));
    plugin
}

fn no(why: &'static str) -> Result<(), Status> {
    Err(Status::unresolvable(why))
}

/// A claim that is bound to the volume of its name.
fn bound(volume: &str) -> Value {
    json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
        "spec": {"volumeName": volume}, "status": {"phase": "Bound"}})
}

/// A volume that only nodes of a zone reach.
fn in_zone(zone: &str, class: &str) -> Value {
    let term = json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]});
    json!({"spec": {
        "storageClassName": class, "capacity": {"storage": "1Gi"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
    }, "status": {"phase": "Available"}})
}

fn waiting() -> Value {
    json!({"spec": {"storageClassName": "c", "resources": {"requests": {"storage": "1Gi"}}}})
}

fn class(provisioner: &str) -> Value {
    json!({"provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"})
}

#[test]
fn a_pod_waits_for_what_is_wrong_with_its_claims() {
    let reason = |view, why| {
        check_filter(&plugin(view), why, node("n"), with_claim(pod("p"), "data"), no(why));
    };
    reason(Fake::default(), "persistentvolumeclaim \"data\" not found");
    let mut going = bound("v");
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    reason(Fake::default().claim("data", going), "persistentvolumeclaim \"data\" is being deleted");
    reason(
        Fake::default().claim("data", json!({"spec": {}})),
        "pod has unbound immediate PersistentVolumeClaims",
    );
    let gone = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
    reason(Fake::default().claim("data", bound("v")), gone);
}

#[test]
fn a_node_must_reach_the_bound_volumes() {
    let view = Fake::default().claim("data", bound("v")).volume("v", in_zone("a", ""));
    let plugin = plugin(view);
    let of = || with_claim(pod("p"), "data");
    let unreached = no("node(s) didn't match PersistentVolume's node affinity");
    check_filter(&plugin, "in", node("n").label("zone", "a"), of(), Ok(()));
    check_filter(&plugin, "out", node("n").label("zone", "b"), of(), unreached);
    check_filter(&plugin, "no claim", node("n"), pod("p"), Ok(()));
}

#[test]
fn a_waiting_claim_takes_a_free_volume_that_the_node_reaches() {
    let view = Fake::default()
        .claim("data", waiting())
        .class("c", class("kubernetes.io/no-provisioner"))
        .volume("v", in_zone("a", "c"));
    let plugin = plugin(view);
    let of = || with_claim(pod("p"), "data");
    let none = || no("node(s) didn't find available persistent volumes to bind");
    check_filter(&plugin, "in", node("n").label("zone", "a"), of(), Ok(()));
    check_filter(&plugin, "out", node("n").label("zone", "b"), of(), none());
}

#[test]
fn a_waiting_claim_is_provisioned_where_its_class_allows() {
    let mut here = class("example.com/disk");
    here["allowedTopologies"] =
        json!([{"matchLabelExpressions": [{"key": "zone", "values": ["a"]}]}]);
    let view = Fake::default().claim("data", waiting()).class("c", here);
    let plugin = plugin(view);
    let of = || with_claim(pod("p"), "data");
    let none = no("node(s) didn't find available persistent volumes to bind");
    check_filter(&plugin, "in", node("n").label("zone", "a"), of(), Ok(()));
    check_filter(&plugin, "out", node("n").label("zone", "b"), of(), none);
}

#[test]
fn what_is_reserved_for_one_pod_is_not_there_for_another() {
    let mut view = Fake::default()
        .claim("one", waiting())
        .claim("two", waiting())
        .class("c", class("kubernetes.io/no-provisioner"))
        .volume("v", in_zone("a", "c"));
    let here = node("n").label("zone", "a").build();
    view.nodes.insert("n".into(), Arc::new(here));
    let plugin = plugin(view);
    let info = |name: &str, claim| PodInfo::from(&with_claim(pod(name), claim));
    let (first, second) = (info("p", "one"), info("q", "two"));
    assert!(plugin.reserve(&first, "n").is_success());
    assert!(!plugin.reserve(&second, "n").is_success(), "the only volume is taken");
    // The same claim of another Pod goes the same way.
    assert!(plugin.reserve(&info("r", "one"), "n").is_success());
    plugin.unreserve(&info("r", "one"), "n");
    plugin.unreserve(&first, "n");
    assert!(plugin.reserve(&second, "n").is_success());
}
