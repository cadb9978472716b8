//! When a CronJob starts its next Job, and which of its Jobs go. Pure.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use kube::ResourceExt;
use rk_api::meta::cron::Schedule;

use crate::{job::finished_as, owners::controller_ref, time::until};

/// Tells a Job for which time it was started.
pub(super) const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// With more missed starts than this since the last one, a warning is given.
const MISSED_MAX: usize = 100;

/// A wake-up comes a little after the time it is for, so that it is not too early by a rounding.
const AFTER: Duration = Duration::from_millis(100);

/// How a schedule of a CronJob is read.
#[derive(Debug)]
pub(super) struct Timetable {
    schedule: Schedule,
    zone: TimeZone,
}

/// Why a CronJob starts nothing until it is changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Timetable {
    /// The schedule of `cron`, by the clocks of its time zone. Without one that is UTC: what a
    /// cluster does must not depend on where it runs.
    pub(super) fn of(cron: &CronJob) -> Result<Self, Unreadable> {
        let name = cron.spec.time_zone.as_deref().unwrap_or("UTC");
        let zone = TimeZone::get(name).map_err(|_| Unreadable {
            reason: "UnknownTimeZone",
            message: format!("invalid timeZone: {name:?}: unknown time zone {name}"),
        })?;
        let text = &cron.spec.schedule;
        let schedule = Schedule::parse(text).map_err(|error| Unreadable {
            reason: "UnparseableSchedule",
            message: format!("unparseable schedule: {text:?} : {error}"),
        })?;
        Ok(Self { schedule, zone })
    }

    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        self.schedule.next(after, &self.zone)
    }

    /// The last start that is due at `now`, and whether there are very many. A start further back
    /// than the starting deadline is none, if the deadline is looked at.
    fn last_due(
        &self,
        cron: &CronJob,
        status: &CronJobStatus,
        now: Timestamp,
        look_at_deadline: bool,
    ) -> (Option<Timestamp>, bool) {
        let last = status.last_schedule_time.as_ref().map(|time| time.0);
        let created = cron.creation_timestamp().map(|time| time.0);
        let mut start = last.or(created).unwrap_or(now);
        if let Some(seconds) = cron.spec.starting_deadline_seconds.filter(|_| look_at_deadline) {
            let deadline = now.checked_sub(SignedDuration::from_secs(seconds));
            start = start.max(deadline.unwrap_or(Timestamp::MIN));
        }
        self.schedule.last_between(start, now, &self.zone, MISSED_MAX)
    }

    /// How long until the next start.
    pub(super) fn wait(&self, now: Timestamp) -> Option<Duration> {
        self.next(now).map(|next| until(next, now) + AFTER)
    }

    /// `time` by the clocks of the zone, as RFC 3339 writes it.
    fn show(&self, time: Timestamp) -> String {
        let local = time.to_zoned(self.zone.clone());
        let format = match local.offset().seconds() {
            0 => "%Y-%m-%dT%H:%M:%SZ",
            _ => "%Y-%m-%dT%H:%M:%S%:z",
        };
        local.strftime(format).to_string()
    }
}

/// What a CronJob does now.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Start the Job of this time.
    pub(super) start: Option<Timestamp>,
    /// After deleting those that run.
    pub(super) replace: bool,
    /// What users are told.
    pub(super) told: Vec<Notice>,
}

/// What users are told in an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) warning: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

fn warning(reason: &'static str, message: String) -> Notice {
    Notice { warning: true, reason, message }
}

/// Decides for a CronJob that is neither suspended nor on its way out. `status` is up to date with
/// its Jobs.
pub(super) fn plan(
    cron: &CronJob,
    status: &CronJobStatus,
    timetable: &Timetable,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let (due, many) = timetable.last_due(cron, status, now, true);
    let Some(due) = due else {
        // Only one that lies before the deadline is worth a word.
        let missed = timetable.last_due(cron, status, now, false).0;
        if let Some(missed) = missed.filter(|_| cron.spec.starting_deadline_seconds.is_some()) {
            let time = missed.strftime("%a, %d %b %Y %H:%M:%S +0000");
            let message = format!("Missed scheduled time to start a job: {time}");
            plan.told.push(warning("MissSchedule", message));
        }
        return plan;
    };
    if many {
        let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or \
                       check clock skew";
        plan.told.push(warning("TooManyMissedTimes", message.to_owned()));
    }
    let name = job_name(cron, due);
    let active = status.active.as_deref().unwrap_or_default();
    if active.iter().any(|job| job.name.as_deref() == Some(name.as_str())) {
        return plan;
    }
    let policy = cron.spec.concurrency_policy.as_deref().unwrap_or("Allow");
    if policy == "Forbid" && !active.is_empty() {
        plan.told.push(Notice {
            warning: false,
            reason: "JobAlreadyActive",
            message:
                "Not starting job because prior execution is running and concurrency policy is \
                      Forbid"
                    .to_owned(),
        });
        return plan;
    }
    plan.start = Some(due);
    plan.replace = policy == "Replace";
    plan
}

/// The name of the Job of a time. There is one for each minute, which makes it a lock: however often
/// a start is tried, it happens once.
fn job_name(cron: &CronJob, time: Timestamp) -> String {
    format!("{}-{}", cron.name_any(), time.as_second().div_euclid(60))
}

/// The Job of a time.
pub(super) fn job(cron: &CronJob, timetable: &Timetable, time: Timestamp) -> Job {
    let template = &cron.spec.job_template;
    let metadata = template.metadata.clone().unwrap_or_default();
    let mut job = Job {
        metadata: Default::default(),
        spec: Some(template.spec.clone().unwrap_or_default()),
        status: None,
    };
    let mut annotations: BTreeMap<String, String> = metadata.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED.to_owned(), timetable.show(time));
    job.metadata.name = Some(job_name(cron, time));
    job.metadata.namespace = cron.namespace();
    job.metadata.labels = metadata.labels;
    job.metadata.annotations = Some(annotations);
    job.metadata.owner_references = Some(vec![controller_ref(cron)]);
    job
}

/// The time for which the controller started a Job; nothing for one that a user started.
pub(super) fn scheduled_for(job: &Job) -> Option<Timestamp> {
    job.annotations().get(SCHEDULED)?.parse().ok()
}

/// Finished Jobs beyond the limits of history, the oldest of each end.
pub(super) fn surplus_history(cron: &CronJob, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let limits = [
        ("Complete", cron.spec.successful_jobs_history_limit),
        ("Failed", cron.spec.failed_jobs_history_limit),
    ];
    let of_each_end = limits.into_iter().filter_map(|(end, limit)| {
        let limit = usize::try_from(limit?).unwrap_or(0);
        let ended = jobs.iter().filter(|job| finished_as(job) == Some(end));
        let mut ended: Vec<Arc<Job>> = ended.cloned().collect();
        let started = |job: &Job| {
            let time = job.status.as_ref().and_then(|status| status.start_time.as_ref());
            (time.is_none(), time.map(|time| time.0), job.name_any())
        };
        ended.sort_by_cached_key(|job| started(job));
        ended.truncate(ended.len().saturating_sub(limit));
        Some(ended)
    });
    of_each_end.flatten().collect()
}
