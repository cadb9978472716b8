//! CronJob.

use k8s_openapi::{
    api::{
        batch::v1::{CronJob, CronJobStatus},
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
    field::{ErrorList, Path},
    meta::{
        cron::Schedule,
        names,
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
        let name = text(&cron.metadata.name);
        if name.len() > NAME_MAX_BYTES {
            errors.invalid(&Path::new("metadata.name"), name, names::too_long(NAME_MAX_BYTES));
        }
        let at = path.child("schedule");
        if spec.schedule.is_empty() {
            errors.required(&at, "");
        } else if spec.schedule.contains("TZ") {
            let wrong = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            errors.invalid(&at, spec.schedule.as_str(), wrong);
        } else if let Err(wrong) = Schedule::parse(&spec.schedule) {
            errors.invalid(&at, spec.schedule.as_str(), wrong);
        }
        if let Some(zone) = &spec.time_zone {
            let at = path.child("timeZone");
            if zone.is_empty() {
                errors.invalid(&at, "", "timeZone must be nil or non-empty string");
            } else if zone.eq_ignore_ascii_case("Local") || TimeZone::get(zone).is_err() {
                errors.invalid(&at, zone.as_str(), format!("unknown time zone {zone}"));
            }
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
