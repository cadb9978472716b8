//! Job.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::batch::v1::{Job, JobSpec, JobStatus},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Fields, Kind, Part, Resource,
    check::{Errors, default_text, list, text},
    pod::{defaults, validation},
    row::Row,
    workload,
};
use crate::{
    field::{ErrorList, FieldError, Path},
    meta::{
        conditions,
        selectors::LabelQuery,
        table::{age, containers_and_images, human_duration, name, selector},
    },
};

mod indexes;
mod policies;
mod status;
mod update;

/// The row of Job.
pub(super) fn row() -> Resource {
    Row::of::<Jobs>().in_all().status().columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Status", "string", "Whether it runs, or how it ended."),
    Column::new("Completions", "string", "Pods that succeeded, of those that should."),
    Column::new("Duration", "string", "How long it has run, or ran."),
    Column::AGE,
    Column::CONTAINERS,
    Column::IMAGES,
    Column::SELECTOR,
];

const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";
const OLD_UID_LABEL: &str = "controller-uid";
const OLD_NAME_LABEL: &str = "job-name";

/// How a Job behaves.
#[derive(Debug, Default)]
pub(super) struct Jobs;

impl Kind for Jobs {
    type Object = Job;

    fn default(job: &mut Job) {
        let spec = job.spec.get_or_insert_default();
        if spec.completions.is_none() && spec.parallelism.is_none() {
            spec.completions = Some(1);
        }
        spec.parallelism.get_or_insert(1);
        let unlimited = spec.backoff_limit_per_index.is_some();
        spec.backoff_limit.get_or_insert(if unlimited { i32::MAX } else { 6 });
        default_text(&mut spec.completion_mode, "NonIndexed");
        spec.suspend.get_or_insert(false);
        spec.manual_selector.get_or_insert(false);
        if spec.pod_replacement_policy.is_none() {
            let failed = spec.pod_failure_policy.is_some();
            let policy = if failed { "Failed" } else { "TerminatingOrFailed" };
            spec.pod_replacement_policy = Some(policy.to_owned());
        }
        let rules = spec.pod_failure_policy.iter_mut().flat_map(|policy| &mut policy.rules);
        for pattern in rules.flat_map(|rule| rule.on_pod_conditions.iter_mut().flatten()) {
            default_text(&mut pattern.status, "True");
        }
        defaults::template(&mut spec.template);
        label_like_template(job);
    }

    fn prepare_create(job: &mut Job) {
        job.status = Some(JobStatus::default());
        workload::first_generation(&mut job.metadata);
        let meta = job.metadata.clone();
        let spec = job.spec.get_or_insert_default();
        if spec.manual_selector != Some(true) {
            select_own_pods(spec, &meta);
        }
        label_like_template(job);
    }

    fn prepare_update(new: &mut Job, old: &Job, part: Part) {
        if part == Part::Status {
            new.spec = old.spec.clone();
        } else {
            new.status = old.status.clone();
        }
        let changed = new.spec != old.spec;
        workload::next_generation(&mut new.metadata, &old.metadata, changed);
    }

    fn validate(job: &Job) -> ErrorList {
        let none = JobSpec::default();
        let (spec, path) = (job.spec.as_ref().unwrap_or(&none), Path::new("spec"));
        let mut errors = Errors::default();
        match &spec.selector {
            None => errors.required(&path.child("selector"), ""),
            Some(selector) => {
                errors.selector(&path.child("selector"), selector);
                let template = spec.template.metadata.as_ref();
                let labels = template.and_then(|meta| meta.labels.as_ref());
                if !LabelQuery::from_selector(selector).matches_optional(labels) {
                    errors.invalid(
                        &path.child("template.metadata.labels"),
                        json!(labels),
                        "`selector` does not match template `labels`",
                    );
                }
            }
        }
        is_own_selector(&mut errors, job, spec);
        validate_spec(&mut errors, spec, &path);
        errors.0
    }

    fn validate_update(new: &Job, old: &Job, part: Part) -> ErrorList {
        if part == Part::Status { status::validate(new, old) } else { update::validate(new, old) }
    }

    fn validate_name(name: &str, generate_prefix: bool) -> Vec<String> {
        crate::meta::names::dns_subdomain(name, generate_prefix)
    }

    fn fields(job: &Job) -> Fields {
        let succeeded = job.status.as_ref().and_then(|status| status.succeeded).unwrap_or(0);
        Fields::from_iter([("status.successful", succeeded.to_string())])
    }

    const FIELDS: &'static [&'static str] = &["status.successful"];

    fn cells(job: &Job, now: Timestamp) -> Vec<Value> {
        let spec = job.spec.clone().unwrap_or_default();
        let status = job.status.clone().unwrap_or_default();
        let pod = spec.template.spec.as_ref();
        let [containers, images] = containers_and_images(pod.map_or(&[][..], |p| &p.containers));
        let succeeded = status.succeeded.unwrap_or(0);
        let completions = match (spec.completions, spec.parallelism.unwrap_or(0)) {
            (Some(wanted), _) => format!("{succeeded}/{wanted}"),
            (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
            (None, _) => format!("{succeeded}/1"),
        };
        let duration = status.start_time.as_ref().map(|start| {
            let end = status.completion_time.as_ref().map_or(now, |end| end.0);
            human_duration(end.as_second() - start.0.as_second())
        });
        vec![
            json!(name(&job.metadata)),
            json!(summary(job, &status)),
            json!(completions),
            json!(duration.unwrap_or_default()),
            json!(age(&job.metadata, now)),
            containers,
            images,
            json!(selector(spec.selector.as_ref())),
        ]
    }

    const ORPHAN_BY_DEFAULT: bool = true;
}

/// A Job without labels has those of its Pods.
fn label_like_template(job: &mut Job) {
    let template = job.spec.as_ref().and_then(|spec| spec.template.metadata.as_ref());
    let labels = template.and_then(|meta| meta.labels.clone());
    let own = &mut job.metadata.labels;
    if own.as_ref().is_none_or(|own| own.is_empty()) {
        *own = labels.filter(|labels| !labels.is_empty());
    }
}

/// What of a Job's spec is judged also where a CronJob holds it.
pub(super) fn validate_spec(errors: &mut Errors, spec: &JobSpec, path: &Path) {
    for (field, number) in [
        ("parallelism", spec.parallelism.map(i64::from)),
        ("completions", spec.completions.map(i64::from)),
        ("activeDeadlineSeconds", spec.active_deadline_seconds),
        ("backoffLimit", spec.backoff_limit.map(i64::from)),
        ("ttlSecondsAfterFinished", spec.ttl_seconds_after_finished.map(i64::from)),
        ("backoffLimitPerIndex", spec.backoff_limit_per_index.map(i64::from)),
        ("maxFailedIndexes", spec.max_failed_indexes.map(i64::from)),
    ] {
        errors.opt_not_negative(&path.child(field), number);
    }
    if let Some(mode) = &spec.completion_mode {
        errors.one_of(&path.child("completionMode"), mode, &["Indexed", "NonIndexed"]);
        if mode == "Indexed" && spec.completions.is_none() {
            let at = path.child("completions");
            errors.required(&at, "when completion mode is Indexed");
        }
    }
    policies::validate(errors, spec, path);
    let at = path.child("template");
    errors.extend(validation::template(&spec.template, &at));
    let at = at.child("spec.restartPolicy");
    match spec.template.spec.as_ref().map_or("", |spec| text(&spec.restart_policy)) {
        "Always" | "" => errors.required(&at, "valid values: \"OnFailure\", \"Never\""),
        policy => {
            if !["OnFailure", "Never"].contains(&policy) {
                let supported = ["OnFailure", "Never"];
                errors.push(FieldError::not_supported(&at, policy, &supported));
            }
            if spec.pod_failure_policy.is_some() && policy != "Never" {
                let wrong = "only \"Never\" is supported when podFailurePolicy is specified";
                errors.invalid(&at, policy, wrong);
            }
        }
    }
}

/// Labels the template with the Job's uid, and selects by it. Labels that are there already stay:
/// [`is_own_selector`] refuses those of another Job.
fn select_own_pods(spec: &mut JobSpec, meta: &ObjectMeta) {
    let (uid, name) = (text(&meta.uid), text(&meta.name));
    let labels = spec.template.metadata.get_or_insert_default().labels.get_or_insert_default();
    for (label, value) in own_labels(name, uid) {
        labels.entry(label.to_owned()).or_insert_with(|| value.to_owned());
    }
    let selector = spec.selector.get_or_insert_default().match_labels.get_or_insert_default();
    selector.entry(UID_LABEL.to_owned()).or_insert_with(|| uid.to_owned());
}

fn own_labels<'a>(name: &'a str, uid: &'a str) -> [(&'static str, &'a str); 4] {
    [(OLD_UID_LABEL, uid), (OLD_NAME_LABEL, name), (UID_LABEL, uid), (NAME_LABEL, name)]
}

/// A Job that does not select by labels of the user's has Pods of its own.
fn is_own_selector(errors: &mut Errors, job: &Job, spec: &JobSpec) {
    let Some(selector) = spec.selector.as_ref().filter(|_| spec.manual_selector != Some(true))
    else {
        return;
    };
    let (name, uid) = (text(&job.metadata.name), text(&job.metadata.uid));
    let labels = spec.template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
    let found = |label: &str| labels.and_then(|labels| labels.get(label));
    // Jobs from before there were labels with a prefix do not have them.
    let is_old = found(UID_LABEL).is_none() && found(NAME_LABEL).is_none();
    let wanted = own_labels(name, uid);
    let wanted = if is_old { &wanted[..2] } else { &wanted[..] };
    for (label, value) in wanted {
        let at = Path::new("spec.template.metadata.labels").key(label);
        let wrong = format!("must be '{value}'");
        match found(label) {
            None => errors.required(&at, &wrong),
            Some(found) if found != value => errors.invalid(&at, json!(labels), wrong),
            Some(_) => {}
        }
    }
    let own = own_labels(name, uid).map(|(label, value)| (label.to_owned(), value.to_owned()));
    if !LabelQuery::from_selector(selector).matches(&BTreeMap::from(own)) {
        let wrong = "`selector` not auto-generated";
        errors.invalid(&Path::new("spec.selector"), json!(selector), wrong);
    }
}

fn summary(job: &Job, status: &JobStatus) -> &'static str {
    let has = |type_| conditions::is_true(list(&status.conditions), type_);
    match () {
        () if has("Complete") => "Complete",
        () if has("Failed") => "Failed",
        () if job.metadata.deletion_timestamp.is_some() => "Terminating",
        () if has("Suspended") => "Suspended",
        () if has("FailureTarget") => "FailureTarget",
        () if has("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}
