//! CronJob.

use k8s_openapi::{
    api::{
        batch::v1::{CronJob, CronJobSpec, CronJobStatus},
        core::v1::Container,
    },
    jiff::{Timestamp, tz::TimeZone},
};
use serde_json::{Value, json};

use super::{
    Column, Kind, Part, Resource,
    check::{Errors, default_text, list, text},
    job,
    pod::defaults,
    row::Row,
    workload,
};
use crate::{
    field::{ErrorList, FieldError, Path},
    meta::{
        cron::Schedule,
        table::{NONE, age, containers_and_images, name, selector, since},
    },
};

/// The row of CronJob.
pub(super) fn row() -> Resource {
    Row::of::<CronJobs>().short(&["cj"]).in_all().status().columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Schedule", "string", "When it starts Jobs, in cron's form."),
    Column::new("Timezone", "string", "The time zone of the schedule."),
    Column::new("Suspend", "boolean", "Whether it starts none for now."),
    Column::new("Active", "integer", "Jobs of its that run."),
    Column::new("Last Schedule", "string", "When it last started one."),
    Column::AGE,
    Column::CONTAINERS,
    Column::IMAGES,
    Column::SELECTOR,
];

/// The names of its Jobs are eleven characters longer.
const NAME_MAX_BYTES: usize = 52;

/// How a CronJob behaves.
#[derive(Debug, Default)]
pub(super) struct CronJobs;

impl Kind for CronJobs {
    type Object = CronJob;

    fn default(cron: &mut CronJob) {
        let spec = &mut cron.spec;
        default_text(&mut spec.concurrency_policy, "Allow");
        spec.suspend.get_or_insert(false);
        spec.successful_jobs_history_limit.get_or_insert(3);
        spec.failed_jobs_history_limit.get_or_insert(1);
        defaults::template(&mut spec.job_template.spec.get_or_insert_default().template);
    }

    fn prepare_create(cron: &mut CronJob) {
        cron.status = Some(CronJobStatus::default());
        workload::first_generation(&mut cron.metadata);
    }

    fn prepare_update(new: &mut CronJob, old: &CronJob, part: Part) {
        if part == Part::Status {
            new.spec = old.spec.clone();
        } else {
            new.status = old.status.clone();
        }
        let changed = new.spec != old.spec;
        workload::next_generation(&mut new.metadata, &old.metadata, changed);
    }

    fn validate(cron: &CronJob) -> ErrorList {
        let (spec, path) = (&cron.spec, Path::new("spec"));
        let mut errors = Errors::default();
        let at = path.child("schedule");
        if spec.schedule.is_empty() {
            errors.required(&at, "");
        } else if let Err(wrong) = Schedule::parse(&spec.schedule) {
            errors.invalid(&at, spec.schedule.as_str(), wrong);
        }
        errors.opt_not_negative(
            &path.child("startingDeadlineSeconds"),
            spec.starting_deadline_seconds,
        );
        errors.required_one_of(
            &path.child("concurrencyPolicy"),
            text(&spec.concurrency_policy),
            &["Allow", "Forbid", "Replace"],
        );
        for (field, limit) in [
            ("successfulJobsHistoryLimit", spec.successful_jobs_history_limit),
            ("failedJobsHistoryLimit", spec.failed_jobs_history_limit),
        ] {
            errors.opt_not_negative(&path.child(field), limit);
        }
        let none = Default::default();
        let job_spec = spec.job_template.spec.as_ref().unwrap_or(&none);
        let at = path.child("jobTemplate.spec");
        job::validate_spec(&mut errors, job_spec, &at);
        if let Some(selector) = &job_spec.selector {
            errors.invalid(
                &at.child("selector"),
                json!(selector),
                "`selector` will be auto-generated",
            );
        }
        if job_spec.manual_selector == Some(true) {
            let mut error =
                FieldError::not_supported(&at.child("manualSelector"), "true", &["nil", "false"]);
            error.value = Some(json!(true));
            errors.push(error);
        }
        errors.0
    }

    fn validate_create(cron: &CronJob) -> ErrorList {
        let (spec, path) = (&cron.spec, Path::new("spec"));
        let mut errors = Errors::default();
        let name = text(&cron.metadata.name);
        if name.len() > NAME_MAX_BYTES {
            let wrong = format!("must be no more than {NAME_MAX_BYTES} characters");
            errors.invalid(&Path::new("metadata.name"), name, wrong);
        }
        zone_in_schedule(&mut errors, spec, false, &path);
        time_zone(&mut errors, spec, &path);
        errors.0
    }

    /// A name that is too long stays, and so do a time zone that is not known any more and one in
    /// the schedule.
    fn validate_update(new: &CronJob, old: &CronJob, part: Part) -> ErrorList {
        let mut errors = Errors::default();
        if part == Part::Main {
            let path = Path::new("spec");
            zone_in_schedule(&mut errors, &new.spec, old.spec.schedule.contains("TZ"), &path);
            if new.spec.time_zone != old.spec.time_zone {
                time_zone(&mut errors, &new.spec, &path);
            }
        }
        errors.0
    }

    fn cells(cron: &CronJob, now: Timestamp) -> Vec<Value> {
        let spec = &cron.spec;
        let status = cron.status.clone().unwrap_or_default();
        let job = spec.job_template.spec.as_ref();
        let pod = job.and_then(|job| job.template.spec.as_ref());
        let none: &[Container] = &[];
        let [containers, images] = containers_and_images(pod.map_or(none, |pod| &pod.containers));
        let last = status.last_schedule_time.as_ref();
        vec![
            json!(name(&cron.metadata)),
            json!(spec.schedule),
            json!(spec.time_zone.as_deref().unwrap_or(NONE)),
            json!(if spec.suspend == Some(true) { "True" } else { "False" }),
            json!(list(&status.active).len()),
            json!(last.map_or_else(|| NONE.to_owned(), |last| since(Some(last), now))),
            json!(age(&cron.metadata, now)),
            containers,
            images,
            json!(selector(job.and_then(|job| job.selector.as_ref()))),
        ]
    }
}

/// A schedule names no time zone any more; one that did before may (KEP-3140).
fn zone_in_schedule(errors: &mut Errors, spec: &CronJobSpec, did: bool, path: &Path) {
    if !spec.schedule.contains("TZ") {
        return;
    }
    let wrong = match did {
        false => "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        true if spec.time_zone.is_some() => {
            "cannot use both timeZone field and TZ or CRON_TZ in schedule"
        }
        true => return,
    };
    errors.invalid(&path.child("schedule"), spec.schedule.as_str(), wrong);
}

fn time_zone(errors: &mut Errors, spec: &CronJobSpec, path: &Path) {
    let Some(zone) = spec.time_zone.as_deref() else { return };
    let wrong = if zone.is_empty() {
        "timeZone must be nil or non-empty string".to_owned()
    } else if zone.eq_ignore_ascii_case("Local") {
        "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
            .to_owned()
    } else if TimeZone::get(zone).is_err() {
        format!("unknown time zone {zone}")
    } else {
        return;
    };
    errors.invalid(&path.child("timeZone"), zone, wrong);
}
