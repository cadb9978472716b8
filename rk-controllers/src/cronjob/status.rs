//! What a CronJob reports about its Jobs. Pure.

use std::sync::Arc;

use k8s_openapi::{
    api::{
        batch::v1::{CronJob, CronJobStatus, Job},
        core::v1::ObjectReference,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::ResourceExt;
use rk_api::client::object_ref;

use super::plan::{Notice, scheduled_for};
use crate::job::{finished_as, is_finished};

/// The status as far as the Jobs in the cache say.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Seen {
    pub(super) status: CronJobStatus,
    /// Listed as active, but not in the cache: gone, or too new for it.
    pub(super) missing: Vec<ObjectReference>,
    pub(super) told: Vec<Notice>,
}

/// Brings the status of `cron` up to date with the `jobs` that it controls.
///
/// A Job that the controller started, but whose start was not written down, is taken as if it had
/// been: otherwise another could start beside it where that is forbidden. Unlike in Kubernetes, which
/// leaves it out. A Job that a user started (`kubectl create job --from`) is nobody's turn.
pub(super) fn seen(cron: &CronJob, jobs: &[Arc<Job>]) -> Seen {
    let mut status = cron.status.clone().unwrap_or_default();
    let mut active = status.active.take().unwrap_or_default();
    let mut told = Vec::new();
    let mut tell = |reason, warning, message| told.push(Notice { warning, reason, message });
    for job in jobs {
        let name = job.name_any();
        let listed = active.iter().position(|one| one.uid == job.metadata.uid);
        match (listed, finished_as(job)) {
            (Some(at), Some(end)) => {
                active.remove(at);
                let message = format!("Saw completed job: {name}, condition: {end}");
                tell("SawCompletedJob", false, message);
            }
            (None, end) => match scheduled_for(job) {
                Some(time) => {
                    let last = status.last_schedule_time.as_ref().map(|time| time.0);
                    status.last_schedule_time = last.max(Some(time)).map(Time);
                    if end.is_none() {
                        active.push(object_ref(&**job));
                    }
                }
                None if end.is_none() => {
                    let message =
                        format!("Saw a job that the controller did not create or forgot: {name}");
                    tell("UnexpectedJob", true, message);
                }
                None => {}
            },
            (Some(_), None) => {}
        }
        if finished_as(job) == Some("Complete") {
            let end = job.status.as_ref().and_then(|status| status.completion_time.as_ref());
            let last = status.last_successful_time.as_ref().map(|time| time.0);
            status.last_successful_time = last.max(end.map(|time| time.0)).map(Time);
        }
    }
    let known = |one: &ObjectReference| jobs.iter().any(|job| job.metadata.uid == one.uid);
    let missing = active.iter().filter(|one| !known(one)).cloned().collect();
    set_active(&mut status, active);
    Seen { status, missing, told }
}

/// Lists the Jobs that run.
pub(super) fn set_active(status: &mut CronJobStatus, active: Vec<ObjectReference>) {
    status.active = (!active.is_empty()).then_some(active);
}

/// Takes a Job from the list of those that run.
pub(super) fn remove_active(status: &mut CronJobStatus, uid: Option<&str>) {
    let active = status.active.take().unwrap_or_default();
    set_active(status, active.into_iter().filter(|one| one.uid.as_deref() != uid).collect());
}

/// Adds a Job that was started for `time`.
pub(super) fn add_started(status: &mut CronJobStatus, job: &Job, time: jiff::Timestamp) {
    let mut active = status.active.take().unwrap_or_default();
    if !is_finished(job) && !active.iter().any(|one| one.uid == job.metadata.uid) {
        active.push(object_ref(job));
    }
    set_active(status, active);
    status.last_schedule_time = Some(Time(time));
}
