//! What a StatefulSet reports about its Pods. Pure.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{StatefulSet, StatefulSetStatus},
    core::v1::Pod,
};

use super::model;
use crate::pods::{self, Availability};

/// Names of revisions, and how many names were taken by others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Revisions<'a> {
    /// That which the Pods have, or had before the update.
    pub current: &'a str,
    /// That which the Pods are to have.
    pub update: &'a str,
    /// `status.collisionCount`.
    pub collisions: i32,
}

/// The status of `set`, given all Pods that it owns, and when to look again because a Pod becomes
/// available by the mere passing of time.
///
/// Pods that are on their way out count as replicas, and as ready ones while they are ready: the
/// counts say what runs. They count for no revision.
pub(super) fn status(
    set: &StatefulSet,
    owned: &[Arc<Pod>],
    revisions: Revisions<'_>,
    now: Timestamp,
) -> (StatefulSetStatus, Option<Duration>) {
    let mut look_again: Option<Duration> = None;
    let (mut replicas, mut ready, mut available, mut current, mut updated) = (0, 0, 0, 0, 0);
    for pod in owned {
        let created = !pods::phase(pod).is_empty();
        replicas += i32::from(created);
        if is_running_and_ready(pod) {
            ready += 1;
            match pods::availability(pod, model::min_ready_seconds(set), now) {
                Availability::Now => available += 1,
                Availability::After(wait) => {
                    look_again = Some(look_again.map_or(wait, |other| other.min(wait)));
                }
                Availability::No => {}
            }
        }
        if created && !pods::is_deleting(pod) {
            current += i32::from(model::revision(pod) == revisions.current);
            updated += i32::from(model::revision(pod) == revisions.update);
        }
    }
    let wanted = model::replicas(set);
    let complete = !model::is_on_delete(set) && [updated, ready, replicas] == [wanted; 3];
    let status = StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas,
        ready_replicas: Some(ready),
        available_replicas: Some(available),
        current_replicas: Some(if complete { updated } else { current }),
        updated_replicas: Some(updated),
        current_revision: Some(if complete { revisions.update } else { revisions.current }.into()),
        update_revision: Some(revisions.update.into()),
        collision_count: Some(revisions.collisions),
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
    };
    (status, look_again)
}

/// Its containers run and its probes pass.
pub(super) fn is_running_and_ready(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod)
}

/// Whether two statuses say the same; a count that is left out is zero.
pub(super) fn same(ours: &StatefulSetStatus, theirs: &StatefulSetStatus) -> bool {
    let counts = |status: &StatefulSetStatus| {
        [
            Some(status.replicas),
            status.ready_replicas,
            status.available_replicas,
            status.current_replicas,
            status.updated_replicas,
            status.collision_count,
        ]
        .map(|count| count.unwrap_or(0))
    };
    counts(ours) == counts(theirs)
        && ours.observed_generation.unwrap_or(0) == theirs.observed_generation.unwrap_or(0)
        && ours.current_revision == theirs.current_revision
        && ours.update_revision == theirs.update_revision
}
