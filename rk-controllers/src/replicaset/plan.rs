//! How many Pods to make, and which ones to delete. Pure.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};
use kube::ResourceExt;

use crate::pods;

/// At most so many creations or deletions in one reconcile; the next one goes on.
const BURST: usize = 500;

/// The annotation with which a user says how costly losing a Pod is; default 0, lowest goes first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// What one reconcile does about the number of Pods.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// So many new Pods.
    pub create: usize,
    /// These go, most dispensable first.
    pub delete: Vec<Arc<Pod>>,
}

/// Compares the Pods that `set` owns with what it asks for.
///
/// `related` are the Pods of all sets with the same owner (the other ReplicaSets of a Deployment):
/// where two of them share a node, the surplus Pod there goes first.
pub(super) fn plan(
    set: &ReplicaSet,
    owned: &[Arc<Pod>],
    related: &[Arc<Pod>],
    now: Timestamp,
) -> Plan {
    if set.metadata.deletion_timestamp.is_some() {
        return Plan::default();
    }
    let mut active: Vec<_> = owned.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
    let desired = usize::try_from(desired_replicas(set)).unwrap_or(0);

    if active.len() <= desired {
        return Plan { create: (desired - active.len()).min(BURST), delete: Vec::new() };
    }
    let surplus = active.len() - desired;
    if desired > 0 {
        let neighbours = pods_per_node(related);
        active.sort_by_cached_key(|pod| dispensability(pod, &neighbours, now));
    }
    active.truncate(surplus.min(BURST));
    Plan { create: 0, delete: active }
}

/// `spec.replicas`, by default 1.
pub(super) fn desired_replicas(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

fn pods_per_node(pods: &[Arc<Pod>]) -> HashMap<&str, usize> {
    let mut counts = HashMap::new();
    for pod in pods.iter().filter(|pod| pods::is_active(pod)) {
        if let Some(node) = pods::node_name(pod) {
            *counts.entry(node).or_default() += 1;
        }
    }
    counts
}

/// Sorts by how little is lost with a Pod, the least first: not yet bound, then pending, then of
/// unknown state, then not ready, then cheap by its annotation, then on a node with more of its
/// kind, then ready for a shorter time, then restarted more often, then younger.
///
/// Times are compared by order of magnitude, so that Pods of about one age go in the random order
/// of their UIDs rather than always the youngest, which tends to sit on the newest node. Unlike in
/// Kubernetes the UID decides last, not before the restarts: that keeps this a total order.
fn dispensability(
    pod: &Pod,
    neighbours: &HashMap<&str, usize>,
    now: Timestamp,
) -> impl Ord + use<> {
    let node = pods::node_name(pod);
    let phase = match pods::phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let crowd = node.and_then(|node| neighbours.get(node)).copied().unwrap_or(0);
    (
        (node.is_some(), phase, pods::is_ready(pod)),
        deletion_cost(pod),
        Reverse(crowd),
        pods::ready_since(pod).map_or(0, |since| magnitude(since, now)),
        Reverse(max_restarts(pod)),
        pod.creation_timestamp().map_or(0, |time| magnitude(time.0, now)),
        pod.uid().unwrap_or_default(),
    )
}

fn deletion_cost(pod: &Pod) -> i32 {
    pod.annotations().get(DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

/// The binary logarithm of an age in nanoseconds, -1 for none.
fn magnitude(since: Timestamp, now: Timestamp) -> i64 {
    let age = now.duration_since(since).as_nanos();
    if age > 0 { i64::from(age.ilog2()) } else { -1 }
}

fn max_restarts(pod: &Pod) -> (i32, i32) {
    let Some(status) = &pod.status else { return (0, 0) };
    let most = |statuses: &Option<Vec<k8s_openapi::api::core::v1::ContainerStatus>>| {
        statuses.iter().flatten().map(|status| status.restart_count).max().unwrap_or(0)
    };
    (most(&status.container_statuses), most(&status.init_container_statuses))
}
