//! What a ReplicaSet reports about its Pods. Pure.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::ResourceExt;

use crate::pods::{self, Availability};

/// Why the number of Pods could not be brought to what is asked.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// `FailedCreate` or `FailedDelete`.
    pub reason: &'static str,
    /// The first error, in the server's words.
    pub message: String,
}

/// The status of `set`, given all Pods it owns, and when to look again because a Pod becomes
/// available by the mere passing of time.
pub(super) fn status(
    set: &ReplicaSet,
    owned: &[Arc<Pod>],
    failure: Option<&Failure>,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Duration>) {
    let min_ready_seconds = set.spec.min_ready_seconds.unwrap_or(0);
    let template = set.spec.template.as_ref().and_then(|template| template.metadata.as_ref());
    let template_labels = template.and_then(|metadata| metadata.labels.clone()).unwrap_or_default();

    let mut status = ReplicaSetStatus {
        observed_generation: set.metadata.generation,
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
        ..Default::default()
    };
    let (mut labelled, mut ready, mut available, mut terminating) = (0, 0, 0, 0);
    let mut look_again = None;
    for pod in owned.iter().filter(|pod| !pods::is_terminal(pod)) {
        if pods::is_deleting(pod) {
            terminating += 1;
            continue;
        }
        status.replicas += 1;
        let labels = pod.labels();
        labelled +=
            i32::from(template_labels.iter().all(|(key, value)| labels.get(key) == Some(value)));
        ready += i32::from(pods::is_ready(pod));
        match pods::availability(pod, min_ready_seconds, now) {
            Availability::Now => available += 1,
            Availability::After(wait) => {
                look_again = Some(look_again.map_or(wait, |other: Duration| other.min(wait)))
            }
            Availability::No => {}
        }
    }
    status.fully_labeled_replicas = Some(labelled);
    status.ready_replicas = Some(ready);
    status.available_replicas = Some(available);
    status.terminating_replicas = Some(terminating);
    set_replica_failure(&mut status, failure, now);
    (status, look_again)
}

/// A failure that lasts keeps its first message and time, so that a refusal repeated every second
/// does not write the status every second.
fn set_replica_failure(status: &mut ReplicaSetStatus, failure: Option<&Failure>, now: Timestamp) {
    let mut conditions = status.conditions.take().unwrap_or_default();
    let is_failure =
        |condition: &ReplicaSetCondition| condition.type_.as_deref() == Some("ReplicaFailure");
    match failure {
        None => conditions.retain(|condition| !is_failure(condition)),
        Some(_) if conditions.iter().any(is_failure) => {}
        Some(failure) => conditions.push(ReplicaSetCondition {
            type_: Some("ReplicaFailure".into()),
            status: Some("True".into()),
            reason: Some(failure.reason.into()),
            message: Some(failure.message.clone()),
            last_transition_time: Some(Time(crate::time::whole_seconds(now))),
        }),
    }
    status.conditions = (!conditions.is_empty()).then_some(conditions);
}

/// Whether two statuses say the same. A server that never heard of a field leaves it out, which
/// must not look like a difference from zero, or the status would be written for ever.
pub(super) fn same(ours: &ReplicaSetStatus, theirs: &ReplicaSetStatus) -> bool {
    let number = |value: Option<i32>| value.unwrap_or(0);
    ours.replicas == theirs.replicas
        && number(ours.fully_labeled_replicas) == number(theirs.fully_labeled_replicas)
        && number(ours.ready_replicas) == number(theirs.ready_replicas)
        && number(ours.available_replicas) == number(theirs.available_replicas)
        && (theirs.terminating_replicas.is_none()
            || ours.terminating_replicas == theirs.terminating_replicas)
        && ours.observed_generation.unwrap_or(0) == theirs.observed_generation.unwrap_or(0)
        && ours.conditions.as_deref().unwrap_or_default()
            == theirs.conditions.as_deref().unwrap_or_default()
}
