//! What a Deployment reports: counts, availability, progress. `kubectl rollout status` reads it.

use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{DeploymentCondition, DeploymentStatus, ReplicaSet},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::ResourceExt;

use super::{
    model::{self, actual, available, desired, fenceposts, progress_deadline_seconds, size, total},
    plan::Rollout,
};
use crate::time::{plus_seconds, until, whole_seconds};

pub(super) const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";

const NEW_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

impl Rollout<'_> {
    /// The status without judging progress: nothing is rolled out now.
    pub(super) fn sync_status(&mut self) {
        self.status = self.count();
    }

    /// The status with progress: each step forward restarts the deadline.
    pub(super) fn sync_progress(&mut self) {
        let reported = self.status.clone();
        let mut status = self.count();
        if let Some(deadline) = progress_deadline_seconds(self.deployment) {
            self.judge_progress(&reported, &mut status, deadline);
        } else {
            remove(&mut status, PROGRESSING);
        }
        match self.replica_failure() {
            Some(failure) => set(&mut status, failure),
            None => remove(&mut status, REPLICA_FAILURE),
        }
        self.requeue_after = self.deadline_check(&status);
        self.status = status;
    }

    fn judge_progress(
        &self,
        reported: &DeploymentStatus,
        status: &mut DeploymentStatus,
        deadline: i32,
    ) {
        let current = get(reported, PROGRESSING).cloned();
        let was_complete = current
            .as_ref()
            .is_some_and(|current| current.reason.as_deref() == Some(NEW_AVAILABLE));
        if was_complete && status.replicas == status.updated_replicas {
            return;
        }
        let subject = match self.new {
            Some(new) => format!("ReplicaSet \"{}\"", self.sets[new].name_any()),
            None => format!("Deployment \"{}\"", self.deployment.name_any()),
        };
        if self.is_complete(status) {
            let message = format!("{subject} has successfully progressed.");
            set(status, self.condition(PROGRESSING, "True", NEW_AVAILABLE, message));
        } else if advanced(reported, status) {
            let mut condition = self.condition(
                PROGRESSING,
                "True",
                "ReplicaSetUpdated",
                format!("{subject} is progressing."),
            );
            if let Some(current) = current.filter(|current| current.status == condition.status) {
                condition.last_transition_time = current.last_transition_time;
            }
            // Not `set`, which keeps the update time while the reason stays: a further step must
            // move it, since the deadline counts from there.
            remove(status, PROGRESSING);
            set(status, condition);
        } else if timed_out(status, deadline, self.now) {
            let message = format!("{subject} has timed out progressing.");
            set(status, self.condition(PROGRESSING, "False", TIMED_OUT, message));
        }
    }

    /// Counts over all sets, as they will be after this plan.
    fn count(&self) -> DeploymentStatus {
        let sets = || self.sets.iter();
        let ready = |set: &ReplicaSet| {
            set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
        };
        let terminating =
            |set: &ReplicaSet| set.status.as_ref().and_then(|status| status.terminating_replicas);
        let available_replicas = total(sets(), available);
        let mut status = DeploymentStatus {
            observed_generation: self.deployment.metadata.generation,
            replicas: Some(total(sets(), actual)),
            updated_replicas: Some(self.new.map_or(0, |new| actual(&self.sets[new]))),
            ready_replicas: Some(total(sets(), ready)),
            available_replicas: Some(available_replicas),
            unavailable_replicas: Some((total(sets(), size) - available_replicas).max(0)),
            terminating_replicas: sets().map(terminating).sum(),
            collision_count: self.status.collision_count,
            conditions: self.status.conditions.clone(),
        };
        let enough = available_replicas
            >= desired(self.deployment) - fenceposts(self.deployment).unavailable;
        let (value, reason, message) = match enough {
            true => ("True", "MinimumReplicasAvailable", "Deployment has minimum availability."),
            false => (
                "False",
                "MinimumReplicasUnavailable",
                "Deployment does not have minimum availability.",
            ),
        };
        set(&mut status, self.condition(AVAILABLE, value, reason, message.into()));
        status
    }

    /// All wanted Pods are new and available, and no old one is left.
    pub(super) fn is_complete(&self, status: &DeploymentStatus) -> bool {
        let desired = desired(self.deployment);
        status.updated_replicas.unwrap_or(0) == desired
            && status.replicas.unwrap_or(0) == desired
            && status.available_replicas.unwrap_or(0) == desired
            && status.observed_generation.unwrap_or(0)
                >= self.deployment.metadata.generation.unwrap_or(0)
    }

    /// Pausing and resuming are written down, so that the time between does not count against the
    /// deadline. A roll-out that timed out stays so.
    pub(super) fn note_pause_and_resume(&mut self) {
        if progress_deadline_seconds(self.deployment).is_none() {
            return;
        }
        let reason = get(&self.status, PROGRESSING).and_then(|condition| condition.reason.clone());
        if reason.as_deref() == Some(TIMED_OUT) {
            return;
        }
        let was_paused = reason.as_deref() == Some(PAUSED);
        let is_paused = model::is_paused(self.deployment);
        if is_paused && !was_paused {
            let condition =
                self.condition(PROGRESSING, "Unknown", PAUSED, "Deployment is paused".into());
            set(&mut self.status, condition);
        } else if !is_paused && was_paused {
            let condition = self.condition(
                PROGRESSING,
                "Unknown",
                "DeploymentResumed",
                "Deployment is resumed".into(),
            );
            set(&mut self.status, condition);
        }
    }

    /// The template has a ReplicaSet already. Only says so if nothing is said about progress yet.
    pub(super) fn found_new(&mut self, new: usize) {
        if progress_deadline_seconds(self.deployment).is_some()
            && get(&self.status, PROGRESSING).is_none()
        {
            let message = format!("Found new replica set \"{}\"", self.sets[new].name_any());
            let condition = self.condition(PROGRESSING, "True", "FoundNewReplicaSet", message);
            set(&mut self.status, condition);
        }
    }

    pub(super) fn created_new(&mut self, new: usize) {
        if progress_deadline_seconds(self.deployment).is_some() {
            let message = format!("Created new replica set \"{}\"", self.sets[new].name_any());
            let condition = self.condition(PROGRESSING, "True", "NewReplicaSetCreated", message);
            set(&mut self.status, condition);
        }
    }

    /// A failure of the new set, else of an old one, as the Deployment's own.
    fn replica_failure(&self) -> Option<DeploymentCondition> {
        let failure = |set: usize| {
            let conditions = self.sets[set].status.as_ref()?.conditions.as_deref()?;
            conditions.iter().find(|condition| condition.type_.as_deref() == Some(REPLICA_FAILURE))
        };
        let found = self.new.into_iter().chain(self.old()).find_map(failure)?;
        Some(DeploymentCondition {
            type_: found.type_.clone(),
            status: found.status.clone(),
            reason: found.reason.clone(),
            message: found.message.clone(),
            last_transition_time: found.last_transition_time.clone(),
            last_update_time: found.last_transition_time.clone(),
        })
    }

    /// When the deadline is due, if the roll-out is under way: nobody sends an event for it.
    fn deadline_check(&self, status: &DeploymentStatus) -> Option<std::time::Duration> {
        let deadline = progress_deadline_seconds(self.deployment)?;
        let current = get(status, PROGRESSING)?;
        if self.is_complete(status)
            || matches!(current.reason.as_deref(), Some(TIMED_OUT | NEW_AVAILABLE))
        {
            return None;
        }
        let due = plus_seconds(current.last_update_time.as_ref()?.0, deadline.into());
        Some(until(due, self.now) + std::time::Duration::from_secs(1))
    }

    fn condition(
        &self,
        kind: &str,
        status: &str,
        reason: &str,
        message: String,
    ) -> DeploymentCondition {
        condition(kind, status, reason, message, self.now)
    }
}

/// A condition that is new at `now`.
pub(super) fn condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> DeploymentCondition {
    let now = Time(whole_seconds(now));
    DeploymentCondition {
        type_: Some(kind.into()),
        status: Some(status.into()),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(now.clone()),
        last_transition_time: Some(now),
    }
}

fn advanced(before: &DeploymentStatus, after: &DeploymentStatus) -> bool {
    let number = |value: Option<i32>| value.unwrap_or(0);
    let old = |status: &DeploymentStatus| number(status.replicas) - number(status.updated_replicas);
    number(after.updated_replicas) > number(before.updated_replicas)
        || old(after) < old(before)
        || number(after.ready_replicas) > number(before.ready_replicas)
        || number(after.available_replicas) > number(before.available_replicas)
}

fn timed_out(status: &DeploymentStatus, deadline_seconds: i32, now: Timestamp) -> bool {
    let Some(current) = get(status, PROGRESSING) else { return false };
    match current.reason.as_deref() {
        Some(NEW_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => {
            let since = current.last_update_time.as_ref().map_or(now, |time| time.0);
            plus_seconds(since, deadline_seconds.into()) < now
        }
    }
}

pub(super) fn get<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_.as_deref() == Some(kind))
}

/// Puts a condition in place of the one of its type. One with the same status and reason stays as
/// it is; one with the same status keeps its transition time.
pub(super) fn set(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    let conditions = status.conditions.get_or_insert_default();
    if let Some(position) = conditions.iter().position(|other| other.type_ == condition.type_) {
        let current = &conditions[position];
        if current.status == condition.status && current.reason == condition.reason {
            return;
        }
        if current.status == condition.status {
            condition.last_transition_time = current.last_transition_time.clone();
        }
        conditions.remove(position);
    }
    conditions.push(condition);
}

fn remove(status: &mut DeploymentStatus, kind: &str) {
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_.as_deref() != Some(kind));
    if conditions.is_empty() {
        status.conditions = None;
    }
}
