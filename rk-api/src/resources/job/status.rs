//! What a Job's status may become. Since others than Kubernetes' controller may manage Jobs
//! (KEP-4368), the API server holds all of them to what clients rely on: a Job that has ended has
//! ended, and its counts make sense.
//!
//! Only what changes is judged, so that a status that was wrong before can still be put right.
//!
//! Kubernetes also demands that `FailureTarget` comes with `Failed`, and `SuccessCriteriaMet` with
//! `Complete`. Controllers before 1.31 set neither, and are to work here, so this is not demanded.

use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use serde_json::json;

use super::{
    super::check::{Errors, list, text},
    indexes::{intervals, overlap},
};
use crate::{
    field::{ErrorList, FieldError, Path},
    meta::conditions,
};

/// A Job with its status at hand.
struct Seen<'a> {
    spec: &'a JobSpec,
    status: &'a JobStatus,
}

impl Seen<'_> {
    fn has(&self, condition: &str) -> bool {
        conditions::is_true(list(&self.status.conditions), condition)
    }

    fn is_finished(&self) -> bool {
        self.has("Complete") || self.has("Failed")
    }

    fn is_indexed(&self) -> bool {
        text(&self.spec.completion_mode) == "Indexed"
    }
}

/// What is wrong with a change of the Job's status.
pub(super) fn validate(new: &Job, old: &Job) -> ErrorList {
    let (no_spec, no_status) = (JobSpec::default(), JobStatus::default());
    let seen = |job: &'_ Job| (job.spec.clone(), job.status.clone());
    let (new_spec, new_status) = seen(new);
    let (old_spec, old_status) = seen(old);
    let new = Seen {
        spec: new_spec.as_ref().unwrap_or(&no_spec),
        status: new_status.as_ref().unwrap_or(&no_status),
    };
    let old = Seen {
        spec: old_spec.as_ref().unwrap_or(&no_spec),
        status: old_status.as_ref().unwrap_or(&no_status),
    };
    let path = Path::new("status");
    let mut errors = Errors::default();
    counts(&mut errors, &new, &old, &path);
    uncounted(&mut errors, new.status, &path.child("uncountedTerminatedPods"));
    conditions_agree(&mut errors, &new, &old, &path.child("conditions"));
    times(&mut errors, &new, &old, &path);
    ended(&mut errors, &new, &old, &path);
    indexes(&mut errors, &new, &old, &path);
    errors.0
}

fn counts(errors: &mut Errors, new: &Seen<'_>, old: &Seen<'_>, path: &Path) {
    let status = new.status;
    for (field, count) in [
        ("active", status.active),
        ("succeeded", status.succeeded),
        ("failed", status.failed),
        ("ready", status.ready),
        ("terminating", status.terminating),
    ] {
        errors.opt_not_negative(&path.child(field), count);
    }
    let changed = (status.ready, status.active) != (old.status.ready, old.status.active);
    if let Some(ready) = status.ready.filter(|ready| *ready > status.active.unwrap_or(0))
        && changed
    {
        errors.invalid(&path.child("ready"), ready, "cannot set more ready pods than active");
    }
    // An Indexed Job that became smaller forgets what succeeded beyond.
    let may_shrink = new.is_indexed() && new.spec.completions == new.spec.parallelism;
    for (field, count, was, wrong) in [
        (
            "failed",
            status.failed.unwrap_or(0),
            old.status.failed.unwrap_or(0),
            "cannot decrease the failed counter",
        ),
        (
            "succeeded",
            status.succeeded.unwrap_or(0),
            old.status.succeeded.unwrap_or(0),
            "cannot decrease the succeeded counter",
        ),
    ] {
        if count < was && !(field == "succeeded" && may_shrink) {
            errors.invalid(&path.child(field), count, wrong);
        }
    }
}

/// Pods that ended and are not counted yet: each once.
fn uncounted(errors: &mut Errors, status: &JobStatus, path: &Path) {
    let Some(uncounted) = &status.uncounted_terminated_pods else { return };
    let mut known = std::collections::BTreeSet::new();
    for (field, uids) in
        [("succeeded", list(&uncounted.succeeded)), ("failed", list(&uncounted.failed))]
    {
        for (i, uid) in uids.iter().enumerate() {
            let at = path.child(field).index(i);
            if uid.is_empty() {
                errors.invalid(&at, "", "must not be empty");
            } else if !known.insert(uid) {
                errors.push(FieldError::duplicate(&at, uid.as_str()));
            }
        }
    }
}

/// Conditions exclude each other, and those that end a Job stay.
fn conditions_agree(errors: &mut Errors, new: &Seen<'_>, old: &Seen<'_>, path: &Path) {
    let changed = |condition: &str| new.has(condition) != old.has(condition);
    if new.has("Complete") {
        if new.has("Failed") && (changed("Complete") || changed("Failed")) {
            let wrong = "cannot set Complete=True and Failed=true conditions";
            errors.invalid_as_it_is(path, wrong);
        }
        if new.has("FailureTarget") && (changed("Complete") || changed("FailureTarget")) {
            let wrong = "cannot set Complete=True and FailureTarget=true conditions";
            errors.invalid_as_it_is(path, wrong);
        }
        if new.spec.success_policy.is_some() && !new.has("SuccessCriteriaMet") {
            let wrong = "cannot set Complete=True for Job with SuccessPolicy unless \
                         SuccessCriteriaMet=True";
            errors.invalid_as_it_is(path, wrong);
        }
    }
    if new.has("SuccessCriteriaMet") {
        for (other, name) in [("Failed", "Failed"), ("FailureTarget", "FailureTarget")] {
            if new.has(other) {
                let wrong =
                    format!("cannot set SuccessCriteriaMet=True and {name}=true conditions");
                errors.invalid_as_it_is(path, wrong);
            }
        }
        if old.has("Complete") && !old.has("SuccessCriteriaMet") {
            let wrong =
                "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
            errors.invalid_as_it_is(path, wrong);
        }
    }
    for condition in ["Failed", "Complete", "FailureTarget"] {
        if old.has(condition) && !new.has(condition) {
            let wrong = format!("cannot disable the terminal {condition}=True condition");
            errors.invalid_as_it_is(path, wrong);
        }
    }
    if old.has("SuccessCriteriaMet") && !new.has("SuccessCriteriaMet") {
        let wrong = "cannot disable the SuccessCriteriaMet=True condition";
        errors.invalid_as_it_is(path, wrong);
    }
}

fn times(errors: &mut Errors, new: &Seen<'_>, old: &Seen<'_>, path: &Path) {
    let (start, was_start) = (&new.status.start_time, &old.status.start_time);
    let (end, was_end) = (&new.status.completion_time, &old.status.completion_time);
    let completes = new.has("Complete") != old.has("Complete") || end != was_end;
    let at = path.child("completionTime");
    match end {
        Some(end) if completes && !new.has("Complete") => {
            let wrong = "cannot set completionTime when there is no Complete=True condition";
            errors.invalid(&at, json!(end), wrong);
        }
        None if completes && new.has("Complete") => {
            errors.required(&at, "completionTime is required for Complete jobs");
        }
        _ => {}
    }
    if let (Some(start), Some(end)) = (start, end)
        && end.0 < start.0
        && (Some(start) != was_start.as_ref() || Some(end) != was_end.as_ref())
    {
        errors.invalid(&at, json!(end), "completionTime cannot be set before startTime");
    }
    if let (Some(end), Some(was)) = (end, was_end)
        && end != was
    {
        errors.invalid(&at, json!(end), "completionTime cannot be mutated");
    }
    // A Job that was suspended starts anew.
    let resumes = new.spec.suspend == Some(true) || old.has("Suspended");
    if was_start.is_some() && start != was_start && !resumes {
        let wrong = "startTime cannot be removed for unsuspended job";
        errors.required(&path.child("startTime"), wrong);
    }
}

/// Nothing goes on in a Job that has ended.
fn ended(errors: &mut Errors, new: &Seen<'_>, old: &Seen<'_>, path: &Path) {
    if !new.is_finished() {
        return;
    }
    let (status, was) = (new.status, old.status);
    let ends = !old.is_finished();
    if let Some(active) = status.active.filter(|active| *active > 0)
        && (ends || status.active != was.active)
    {
        errors.invalid(&path.child("active"), active, "active>0 is invalid for finished job");
    }
    if status.start_time.is_none() && (ends || was.start_time.is_some()) {
        errors.required(&path.child("startTime"), "startTime is required for finished job");
    }
    let uncounted = status
        .uncounted_terminated_pods
        .as_ref()
        .filter(|pods| !list(&pods.succeeded).is_empty() || !list(&pods.failed).is_empty());
    if let Some(uncounted) = uncounted
        && (ends || status.uncounted_terminated_pods != was.uncounted_terminated_pods)
    {
        errors.invalid(
            &path.child("uncountedTerminatedPods"),
            json!(uncounted),
            "uncountedTerminatedPods needs to be empty for finished job",
        );
    }
    if let Some(terminating) = status.terminating.filter(|terminating| *terminating > 0)
        && (ends || status.terminating != was.terminating)
    {
        let wrong = "terminating>0 is invalid for finished job";
        errors.invalid(&path.child("terminating"), terminating, wrong);
    }
}

/// Indexes are those of the Job, in order, and have either failed or not.
fn indexes(errors: &mut Errors, new: &Seen<'_>, old: &Seen<'_>, path: &Path) {
    let (done_at, failed_at) = (path.child("completedIndexes"), path.child("failedIndexes"));
    let done = text(&new.status.completed_indexes);
    let failed = new.status.failed_indexes.as_deref();
    let done_changed = done != text(&old.status.completed_indexes);
    let failed_changed = failed != old.status.failed_indexes.as_deref();
    let completions = new.spec.completions;
    let in_groups = |indexes: &str| completions.map(|completions| intervals(indexes, completions));
    if done_changed {
        if let Some(Err(wrong)) = in_groups(done) {
            let wrong = format!("error parsing completedIndexes: {wrong}");
            errors.invalid(&done_at, done, wrong);
        }
        if !done.is_empty() && !new.is_indexed() {
            let wrong = "cannot set non-empty completedIndexes when non-indexed completion mode";
            errors.invalid(&done_at, done, wrong);
        }
    }
    let Some(failed) = failed else { return };
    if failed_changed {
        match new.spec.backoff_limit_per_index {
            None => {
                let wrong = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
                errors.invalid(&failed_at, failed, wrong);
            }
            Some(_) => {
                if let Some(Err(wrong)) = in_groups(failed) {
                    let wrong = format!("error parsing failedIndexes: {wrong}");
                    errors.invalid(&failed_at, failed, wrong);
                }
            }
        }
    }
    if (done_changed || failed_changed)
        && let (Some(Ok(done)), Some(Ok(groups))) = (in_groups(done), in_groups(failed))
        && let Some(both) = overlap(&done, &groups)
    {
        let wrong = format!("failedIndexes and completedIndexes overlap at index: {both}");
        errors.invalid(&failed_at, failed, wrong);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const START: &str = "2026-01-01T00:00:00Z";
    const END: &str = "2026-01-01T01:00:00Z";

    fn job(spec: Value, status: Value) -> Job {
        let mut spec = spec;
        spec["template"] = json!({});
        serde_json::from_value(json!({"metadata": {}, "spec": spec, "status": status})).unwrap()
    }

    #[track_caller]
    fn check(spec: Value, old: Value, new: Value, wrong: &[&str]) {
        let errors = validate(&job(spec.clone(), new), &job(spec, old));
        let messages: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(messages, wrong);
    }

    fn ended(condition: &str, more: Value) -> Value {
        let mut status = json!({"startTime": START,
            "conditions": [{"type": condition, "status": "True"}]});
        if condition == "Complete" {
            status["completionTime"] = json!(END);
        }
        for (field, value) in more.as_object().unwrap() {
            status[field] = value.clone();
        }
        status
    }

    #[test]
    fn a_job_that_ended_stays_as_it_is() {
        let running = json!({"startTime": START, "active": 1});
        let none = json!({});
        check(none.clone(), running.clone(), ended("Complete", json!({})), &[]);
        check(none.clone(), running.clone(), ended("Failed", json!({})), &[]);
        check(
            none.clone(),
            ended("Failed", json!({})),
            json!({"startTime": START}),
            &[
                "status.conditions: Invalid value: cannot disable the terminal Failed=True condition",
            ],
        );
        check(
            none.clone(),
            running.clone(),
            ended(
                "Complete",
                json!({"active": 2, "terminating": 1, "completionTime": null,
                "startTime": null}),
            ),
            &[
                "status.completionTime: Required value: completionTime is required for Complete \
                 jobs",
                "status.startTime: Required value: startTime cannot be removed for unsuspended job",
                "status.active: Invalid value: 2: active>0 is invalid for finished job",
                "status.startTime: Required value: startTime is required for finished job",
                "status.terminating: Invalid value: 1: terminating>0 is invalid for finished job",
            ],
        );
        check(
            none.clone(),
            ended("Complete", json!({})),
            ended("Complete", json!({"completionTime": "2026-01-01T02:00:00Z"})),
            &["status.completionTime: Invalid value: \"2026-01-01T02:00:00Z\": completionTime \
               cannot be mutated"],
        );
        let both = json!([{"type": "Complete", "status": "True"},
            {"type": "Failed", "status": "True"}]);
        check(
            none,
            running,
            ended("Complete", json!({"conditions": both})),
            &["status.conditions: Invalid value: cannot set Complete=True and Failed=true \
               conditions"],
        );
    }

    #[test]
    fn a_wrong_status_can_be_put_right_in_parts() {
        let wrong = json!({"active": 1,
            "conditions": [{"type": "Failed", "status": "True"}]});
        let mut less_wrong = wrong.clone();
        less_wrong["startTime"] = json!(START);
        check(json!({}), wrong, less_wrong, &[]);
    }

    #[test]
    fn counts_only_grow_but_for_a_job_that_shrank() {
        let counted = |succeeded: i32| json!({"succeeded": succeeded});
        let shrunk = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2});
        check(shrunk, counted(3), counted(2), &[]);
        check(
            json!({}),
            counted(3),
            counted(2),
            &["status.succeeded: Invalid value: 2: cannot decrease the succeeded counter"],
        );
        check(
            json!({}),
            json!({"failed": 1}),
            json!({"ready": 2, "active": 1}),
            &[
                "status.ready: Invalid value: 2: cannot set more ready pods than active",
                "status.failed: Invalid value: 0: cannot decrease the failed counter",
            ],
        );
        check(
            json!({}),
            json!({}),
            json!({"uncountedTerminatedPods": {"succeeded": ["a", ""], "failed": ["a"]}}),
            &[
                "status.uncountedTerminatedPods.succeeded[1]: Invalid value: \"\": must not be \
                 empty",
                "status.uncountedTerminatedPods.failed[0]: Duplicate value: \"a\"",
            ],
        );
    }

    #[test]
    fn a_job_starts_anew_only_after_it_was_suspended() {
        let started = |at: &str, suspended: &str| json!({"startTime": at, "conditions": [{"type": "Suspended", "status": suspended}]});
        check(json!({}), started(START, "True"), started(END, "False"), &[]);
        check(json!({"suspend": true}), started(START, "False"), json!({}), &[]);
        check(
            json!({}),
            started(START, "False"),
            started(END, "False"),
            &["status.startTime: Required value: startTime cannot be removed for unsuspended job"],
        );
    }

    #[test]
    fn indexes_are_in_order_and_in_one_list() {
        let indexed =
            json!({"completionMode": "Indexed", "completions": 9, "backoffLimitPerIndex": 1});
        let done =
            |done: &str, failed: &str| json!({"completedIndexes": done, "failedIndexes": failed});
        let check_indexes = |done_: &str, failed: &str, wrong: &[&str]| {
            check(indexed.clone(), json!({}), done(done_, failed), wrong);
        };
        check_indexes("0-2,5", "3,8", &[]);
        check_indexes(
            "0-2,5",
            "1,5",
            &["status.failedIndexes: Invalid value: \"1,5\": failedIndexes and completedIndexes \
               overlap at index: 1"],
        );
        for (indexes, why) in [
            ("9", "too large index: \"9\""),
            ("a", "cannot convert string to integer for index: \"a\""),
            ("3,1", "non-increasing order, previous: 3, current: 1"),
            ("3-3", "non-increasing order, previous: 3, current: 3"),
            (
                "1-2-3",
                "the fragment \"1-2-3\" violates the requirement that an index interval can have \
                 at most two parts separated by '-'",
            ),
        ] {
            let at = "status.completedIndexes: Invalid value";
            let wrong = format!("{at}: {indexes:?}: error parsing completedIndexes: {why}");
            check_indexes(indexes, "", &[&wrong]);
        }
        check(
            json!({"completions": 3}),
            json!({}),
            done("1", "2"),
            &[
                "status.completedIndexes: Invalid value: \"1\": cannot set non-empty \
                 completedIndexes when non-indexed completion mode",
                "status.failedIndexes: Invalid value: \"2\": cannot set non-null failedIndexes \
                 when backoffLimitPerIndex is null",
            ],
        );
    }
}
