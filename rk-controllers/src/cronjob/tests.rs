//! When Jobs start, and what is reported.

use std::{collections::BTreeSet, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::ResourceExt;
use proptest::prelude::*;
use rk_api::client::object_ref;
use serde_json::{Value, json};

use super::{
    plan::{self, Plan, Timetable, surplus_history},
    status::{add_started, remove_active, seen},
};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn cron(spec: Value, status: Value) -> CronJob {
    let mut all = json!({"schedule": "*/10 * * * *", "jobTemplate": {
        "metadata": {"labels": {"app": "c"}, "annotations": {"note": "n"}},
        "spec": {"template": {}},
    }});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "metadata": {"name": "c", "namespace": "default", "uid": "cron", "creationTimestamp": "2026-11-21T09:00:30Z"},
        "spec": all, "status": status,
    }))
    .unwrap()
}

fn planned(cron: &CronJob, now: &str) -> Plan {
    let timetable = Timetable::of(cron).unwrap();
    plan::plan(cron, &cron.status.clone().unwrap_or_default(), &timetable, at(now))
}

#[track_caller]
fn check(cron: &CronJob, now: &str, start: Option<&str>, told: &[&str]) {
    let plan = planned(cron, now);
    assert_eq!(plan.start, start.map(at));
    let reasons: Vec<_> = plan.told.iter().map(|notice| notice.reason).collect();
    assert_eq!(reasons, told);
}

fn job(name: &str, uid: &str, end: Option<&str>, annotation: Option<&str>) -> Job {
    let conditions = end.map(|end| json!([{"type": end, "status": "True"}]));
    let annotations = annotation.map(|time| json!({(plan::SCHEDULED): time}));
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default", "uid": uid, "annotations": annotations},
        "status": {"conditions": conditions, "startTime": "2026-11-21T09:10:00Z", "completionTime": "2026-11-21T09:11:00Z"},
    }))
    .unwrap()
}

#[test]
fn a_start_is_due_from_its_time_on_and_once() {
    let new = cron(json!({}), Value::Null);
    check(&new, "2026-11-21T09:09:59Z", None, &[]);
    check(&new, "2026-11-21T09:10:00Z", Some("2026-11-21T09:10:00Z"), &[]);
    let done = cron(json!({}), json!({"lastScheduleTime": "2026-11-21T09:10:00Z"}));
    check(&done, "2026-11-21T09:19:59Z", None, &[]);
    check(&done, "2026-11-21T09:45:00Z", Some("2026-11-21T09:40:00Z"), &[]);
}

#[test]
fn very_many_missed_starts_are_told_and_the_last_is_made_up_for() {
    let idle =
        cron(json!({"schedule": "* * * * *"}), json!({"lastScheduleTime": "2026-11-19T09:10:00Z"}));
    check(&idle, "2026-11-21T09:10:30Z", Some("2026-11-21T09:10:00Z"), &["TooManyMissedTimes"]);
}

#[test]
fn a_start_that_is_late_beyond_the_deadline_is_left_out() {
    let strict = cron(json!({"startingDeadlineSeconds": 60}), Value::Null);
    check(&strict, "2026-11-21T09:10:59Z", Some("2026-11-21T09:10:00Z"), &[]);
    check(&strict, "2026-11-21T09:12:00Z", None, &["MissSchedule"]);
    let message = planned(&strict, "2026-11-21T09:12:00Z").told.remove(0).message;
    assert_eq!(message, "Missed scheduled time to start a job: Sat, 21 Nov 2026 09:10:00 +0000");
}

#[test]
fn what_happens_while_a_job_runs_is_the_policys_choice() {
    let running = json!({"active": [object_ref(&job("c-1", "1", None, None))], "lastScheduleTime": "2026-11-21T09:10:00Z"});
    let of = |policy: &str| cron(json!({"concurrencyPolicy": policy}), running.clone());
    let now = "2026-11-21T09:20:00Z";
    check(&of("Allow"), now, Some(now), &[]);
    check(&of("Forbid"), now, None, &["JobAlreadyActive"]);
    check(&of("Replace"), now, Some(now), &[]);
    assert!(planned(&of("Replace"), now).replace && !planned(&of("Allow"), now).replace);
}

#[test]
fn the_job_is_named_by_the_minute_and_says_what_it_is_for() {
    let zoned = cron(json!({"timeZone": "Asia/Kolkata"}), Value::Null);
    let made = plan::job(&zoned, &Timetable::of(&zoned).unwrap(), at("2026-11-21T09:10:00Z"));
    assert_eq!(made.name_any(), "c-29920870");
    assert_eq!(made.labels()["app"], "c");
    assert_eq!(made.annotations()["note"], "n");
    assert_eq!(made.annotations()[plan::SCHEDULED], "2026-11-21T14:40:00+05:30");
    assert_eq!(plan::scheduled_for(&made), Some(at("2026-11-21T09:10:00Z")));
    let utc = cron(json!({}), Value::Null);
    let made = plan::job(&utc, &Timetable::of(&utc).unwrap(), at("2026-11-21T09:10:00Z"));
    assert_eq!(made.annotations()[plan::SCHEDULED], "2026-11-21T09:10:00Z");
}

#[test]
fn what_cannot_be_read_is_told() {
    let reason = |spec| Timetable::of(&cron(spec, Value::Null)).unwrap_err();
    assert_eq!(reason(json!({"timeZone": "Mars/Base"})).reason, "UnknownTimeZone");
    let wrong = reason(json!({"schedule": "nope"}));
    assert_eq!(wrong.reason, "UnparseableSchedule");
    assert_eq!(
        wrong.message,
        "unparseable schedule: \"nope\" : expected exactly 5 fields, found 1: [nope]"
    );
}

#[test]
fn the_active_list_follows_the_jobs() {
    let listed = job("c-1", "1", None, None);
    let cron = cron(
        json!({}),
        json!({"active": [object_ref(&listed), object_ref(&job("c-9", "9", None, None))]}),
    );
    let jobs = [
        job("c-1", "1", Some("Complete"), Some("2026-11-21T09:10:00Z")),
        job("c-2", "2", None, Some("2026-11-21T09:20:00Z")),
        job("by-hand", "3", None, None),
    ];
    let seen = seen(&cron, &jobs.map(Arc::new));
    let reasons: Vec<_> = seen.told.iter().map(|notice| notice.message.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "Saw completed job: c-1, condition: Complete",
            "Saw a job that the controller did not create or forgot: by-hand"
        ]
    );
    let active: Vec<_> =
        seen.status.active.iter().flatten().filter_map(|one| one.name.clone()).collect();
    assert_eq!(active, ["c-9", "c-2"], "a start that was not written down is found again");
    assert_eq!(seen.status.last_schedule_time.unwrap().0, at("2026-11-21T09:20:00Z"));
    assert_eq!(seen.status.last_successful_time.unwrap().0, at("2026-11-21T09:11:00Z"));
    assert_eq!(seen.missing.len(), 1, "c-9 is to be looked up");
}

#[test]
fn history_is_cut_oldest_first_for_each_end() {
    let cron =
        cron(json!({"successfulJobsHistoryLimit": 2, "failedJobsHistoryLimit": 0}), Value::Null);
    let started = |name: &str, end, minute: u8| {
        let mut job = job(name, name, end, None);
        let time = at(&format!("2026-11-21T09:{minute:02}:00Z"));
        job.status.as_mut().unwrap().start_time =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time));
        Arc::new(job)
    };
    let jobs = [
        started("new", Some("Complete"), 30),
        started("old", Some("Complete"), 10),
        started("middle", Some("Complete"), 20),
        started("failed", Some("Failed"), 40),
        started("running", None, 5),
    ];
    let names: Vec<_> = surplus_history(&cron, &jobs).iter().map(|job| job.name_any()).collect();
    assert_eq!(names, ["old", "failed"]);
}

proptest! {
    /// A controller that is stopped between any two writes, at any time, starts each minute's Job
    /// once, and under Forbid never two beside each other.
    #[test]
    fn each_minute_has_one_job_and_forbid_never_two(
        policy in prop::sample::select(vec!["Allow", "Forbid", "Replace"]),
        steps in prop::collection::vec((0u8..4, 1i64..400), 1..80),
    ) {
        let mut cron = cron(json!({"schedule": "*/2 * * * *", "concurrencyPolicy": policy}), Value::Null);
        let timetable = Timetable::of(&cron).unwrap();
        let mut now = at("2026-11-21T09:00:30Z");
        // What the server has; made counts creations, deleted ones too.
        let mut jobs: Vec<Arc<Job>> = Vec::new();
        let mut made = BTreeSet::new();
        for (step, seconds) in steps {
            if step == 3 {
                // The oldest Job ends.
                if let Some(job) = jobs.iter_mut().find(|job| !crate::job::is_finished(job)) {
                    Arc::make_mut(job).status =
                        serde_json::from_value(json!({"conditions": [{"type": "Complete", "status": "True"}]})).unwrap();
                }
                continue;
            }
            now += SignedDuration::from_secs(seconds);
            let mut status = seen(&cron, &jobs).status;
            let plan = plan::plan(&cron, &status, &timetable, now);
            if let Some(time) = plan.start {
                if plan.replace {
                    for one in status.active.clone().unwrap_or_default() {
                        jobs.retain(|job| job.uid() != one.uid);
                        remove_active(&mut status, one.uid.as_deref());
                    }
                }
                if step == 2 && seconds % 2 == 0 {
                    continue; // Stopped before the creation.
                }
                let mut job = plan::job(&cron, &timetable, time);
                match jobs.iter().find(|one| one.name_any() == job.name_any()) {
                    Some(there) => job = Job::clone(there),
                    None => {
                        job.metadata.uid = Some(format!("uid-{}", made.len()));
                        let first = made.insert(job.name_any());
                        prop_assert!(first, "{} was made twice", job.name_any());
                        jobs.push(Arc::new(job.clone()));
                    }
                }
                add_started(&mut status, &job, time);
            }
            if step != 1 {
                cron.status = Some(status); // With 1, stopped before this write.
            }
            let running = jobs.iter().filter(|job| !crate::job::is_finished(job)).count();
            prop_assert!(policy == "Allow" || running <= 1, "{running} run with {policy}");
        }
    }
}
