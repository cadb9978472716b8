//! Which Pods come and go, and what is reported.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};
use kube::ResourceExt;
use rk_api::testing::{PodBuilder, pod, replica_set};

use super::{
    plan::{Plan, plan},
    status::{Failure, same, status},
};

fn now() -> Timestamp {
    Timestamp::from_second(100_000).unwrap()
}

fn running(name: &str) -> PodBuilder {
    ready_since(name, 1)
}

fn ready_since(name: &str, second: i64) -> PodBuilder {
    pod(name).uid(name).node("n").ready_since(second).created(1)
}

fn pods(pods: impl IntoIterator<Item = PodBuilder>) -> Vec<Arc<Pod>> {
    pods.into_iter().map(|pod| Arc::new(pod.build())).collect()
}

fn web(replicas: i32) -> ReplicaSet {
    replica_set("web").replicas(replicas).build()
}

#[track_caller]
fn check_victim(why: &str, victim: PodBuilder, other: PodBuilder) {
    // Whichever comes first in the list, and whatever their names.
    for pair in [[victim.clone(), other.clone()], [other, victim.clone()]] {
        let Plan { create, delete } = plan(&web(1), &pods(pair.clone()), &pods(pair), now());
        let names: Vec<_> = delete.iter().map(|pod| pod.name_any()).collect();
        assert_eq!((create, names), (0, vec![victim.clone().build().name_any()]), "{why}");
    }
}

#[test]
fn missing_pods_are_made_and_ended_ones_replaced() {
    let observed = pods([
        running("a"),
        running("b").phase("Failed"),
        running("c").phase("Succeeded"),
        running("d").deleting(),
    ]);
    assert_eq!(plan(&web(3), &observed, &[], now()), Plan { create: 2, delete: vec![] });
}

#[test]
fn at_most_500_pods_are_made_at_a_time() {
    assert_eq!(plan(&web(1200), &[], &[], now()).create, 500);
}

#[test]
fn a_set_that_is_being_deleted_neither_makes_nor_deletes() {
    let going = replica_set("web").replicas(3).deleting().build();
    assert_eq!(plan(&going, &pods([running("a")]), &[], now()), Plan::default());
}

#[test]
fn the_least_useful_pod_goes_first() {
    check_victim(
        "not bound to a node",
        pod("b").uid("b").phase("Pending"),
        running("a").phase("Pending"),
    );
    check_victim("pending", running("b").phase("Pending"), running("a"));
    check_victim("of unknown state", running("b").phase("Unknown"), running("a"));
    check_victim(
        "not ready",
        pod("b").uid("b").node("n").phase("Running").created(1),
        running("a"),
    );
    check_victim(
        "cheap",
        running("b").annotation("controller.kubernetes.io/pod-deletion-cost", "-5"),
        running("a"),
    );
    check_victim(
        "dear one stays",
        running("b"),
        running("a").annotation("controller.kubernetes.io/pod-deletion-cost", "1"),
    );
    check_victim("ready for a shorter time", ready_since("b", 99_990), running("a"));
    check_victim("younger", running("b").created(99_990), running("a"));
}

#[test]
fn where_pods_crowd_on_a_node_one_goes() {
    let observed = pods([running("a"), running("b").node("other"), running("c").node("other")]);
    let delete = plan(&web(2), &observed, &observed, now()).delete;
    assert_ne!(delete[0].name_any(), "a");
}

#[test]
fn counts_distinguish_going_ready_and_available_pods() {
    let mut set = web(5);
    set.spec.min_ready_seconds = Some(60);
    set.metadata.generation = Some(7);
    let observed = pods([
        running("available"),
        ready_since("ready", 99_970),
        pod("starting").phase("Pending"),
        running("going").deleting(),
        running("failed").phase("Failed"),
    ]);
    let (status, look_again) = status(&set, &observed, None, now());

    assert_eq!(
        (status.replicas, status.ready_replicas, status.available_replicas),
        (3, Some(2), Some(1))
    );
    assert_eq!((status.terminating_replicas, status.observed_generation), (Some(1), Some(7)));
    assert_eq!(look_again.unwrap().as_secs(), 30, "the ready Pod becomes available then");
}

#[test]
fn a_failure_is_shown_until_it_is_over() {
    let failure = Failure { reason: "FailedCreate", message: "quota".into() };
    let mut set = web(1);
    let (failing, _) = status(&set, &[], Some(&failure), now());
    let condition = &failing.conditions.as_ref().unwrap()[0];
    assert_eq!(
        (condition.type_.as_deref(), condition.reason.as_deref()),
        (Some("ReplicaFailure"), Some("FailedCreate"))
    );

    set.status = Some(failing.clone());
    let later = now() + jiff::SignedDuration::from_secs(60);
    let (still_failing, _) = status(&set, &[], Some(&failure), later);
    assert!(same(&failing, &still_failing));
    assert_eq!(status(&set, &[], None, later).0.conditions, None);
}
