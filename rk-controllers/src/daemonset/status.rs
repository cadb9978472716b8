//! What a DaemonSet reports about its Pods. Pure.

use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSetStatus;

use super::{model, placement::Place, plan::World};
use crate::pods::{self, Availability};

/// The status of the set, and when to look again because a Pod becomes available by the mere
/// passing of time. Of several Pods of a node the first counts.
pub(super) fn status(world: &World<'_>, collisions: i32) -> (DaemonSetStatus, Option<Duration>) {
    let set = world.set;
    let mut status = DaemonSetStatus {
        observed_generation: set.metadata.generation,
        collision_count: (collisions > 0).then_some(collisions),
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
        ..Default::default()
    };
    let (mut updated, mut available) = (0, 0);
    let mut look_again: Option<Duration> = None;
    for (node, place) in &world.nodes {
        let first = world.on(node).first();
        if *place != Place::Wanted {
            status.number_misscheduled += i32::from(first.is_some());
            continue;
        }
        status.desired_number_scheduled += 1;
        let Some(pod) = first else { continue };
        status.current_number_scheduled += 1;
        status.number_ready += i32::from(pods::is_ready(pod));
        updated += i32::from(model::is_updated(set, pod, world.hash));
        available += i32::from(
            pods::availability(pod, model::min_ready_seconds(set), world.now) == Availability::Now,
        );
    }
    // Also of a new Pod beside an old one, which the update waits for.
    for pod in world.pods.values().flatten() {
        if let Availability::After(wait) =
            pods::availability(pod, model::min_ready_seconds(set), world.now)
        {
            look_again = Some(look_again.map_or(wait, |other| other.min(wait)));
        }
    }
    status.updated_number_scheduled = Some(updated);
    status.number_available = Some(available);
    status.number_unavailable = Some(status.desired_number_scheduled - available);
    (status, look_again)
}

/// Whether two statuses say the same; a count that is left out is zero.
pub(super) fn same(ours: &DaemonSetStatus, theirs: &DaemonSetStatus) -> bool {
    let counts = |status: &DaemonSetStatus| {
        [
            Some(status.desired_number_scheduled),
            Some(status.current_number_scheduled),
            Some(status.number_misscheduled),
            Some(status.number_ready),
            status.updated_number_scheduled,
            status.number_available,
            status.number_unavailable,
            status.collision_count,
        ]
        .map(|count| count.unwrap_or(0))
    };
    counts(ours) == counts(theirs)
        && ours.observed_generation.unwrap_or(0) == theirs.observed_generation.unwrap_or(0)
}
