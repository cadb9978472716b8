use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::apis::meta::v1::Time};
use serde_json::json;

use super::health::{Health, Readiness, condition, no_schedule_taints, readiness};

const GRACE: Duration = Duration::from_secs(40);

fn start() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

fn after(seconds: i64) -> Timestamp {
    start() + SignedDuration::from_secs(seconds)
}

fn node(ready: &str) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": "n"},
        "status": {"conditions": [{"type": "Ready", "status": ready}, {"type": "DiskPressure", "status": "False"}]},
    }))
    .unwrap()
}

#[test]
fn a_silent_node_becomes_unknown_after_the_grace_period() {
    let node = node("True");
    let mut health = Health::first_seen(&node, start());
    health.observe(&node, start());
    assert_eq!(health.silent(&node, GRACE, after(40)), None);

    let marked = health.silent(&node, GRACE, after(41)).unwrap();
    assert_eq!(readiness(&marked), Readiness::Unreachable);
    let ready = condition(&marked, "Ready").unwrap();
    assert_eq!(
        (ready.reason.as_deref(), ready.message.as_deref()),
        (Some("NodeStatusUnknown"), Some("Kubelet stopped posting node status."))
    );
    let never = condition(&marked, "MemoryPressure").unwrap();
    assert_eq!(
        (never.reason.as_deref(), never.message.as_deref()),
        (Some("NodeStatusNeverUpdated"), Some("Kubelet never posted node status."))
    );
    assert_eq!(health.silent(&marked, GRACE, after(50)), None, "said once");
}

#[test]
fn a_renewed_lease_is_a_sign_of_life() {
    let node = node("True");
    let mut health = Health::first_seen(&node, start());
    // Whatever the node's clock says: only that it changed counts.
    health.renewed(Some(Timestamp::UNIX_EPOCH), after(30));
    assert_eq!(health.silent(&node, GRACE, after(70)), None);
    health.renewed(Some(Timestamp::UNIX_EPOCH), after(60));
    assert!(health.silent(&node, GRACE, after(71)).is_some());
}

#[test]
fn a_heartbeat_is_a_sign_of_life() {
    let mut node = node("True");
    let mut health = Health::first_seen(&node, start());
    health.observe(&node, start());
    node.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].last_heartbeat_time =
        Some(Time(after(30)));
    health.observe(&node, after(31));
    assert_eq!(health.silent(&node, GRACE, after(71)), None);
}

#[test]
fn our_own_unknown_is_no_sign_of_life() {
    let node = node("True");
    let mut health = Health::first_seen(&node, start());
    health.observe(&node, start());
    let marked = health.silent(&node, GRACE, after(41)).unwrap();
    health.observe(&marked, after(45));
    // Had it counted, the node would now be within its grace period.
    assert!(health.silent(&node, GRACE, after(46)).is_some());
}

#[test]
fn conditions_become_taints() {
    let keys =
        |node: &Node| no_schedule_taints(node).into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert!(keys(&node("True")).is_empty());
    assert_eq!(keys(&node("False")), ["node.kubernetes.io/not-ready"]);
    assert_eq!(keys(&node("Unknown")), ["node.kubernetes.io/unreachable"]);
    let mut cordoned = node("True");
    cordoned.spec.get_or_insert_default().unschedulable = Some(true);
    assert_eq!(keys(&cordoned), ["node.kubernetes.io/unschedulable"]);
}
