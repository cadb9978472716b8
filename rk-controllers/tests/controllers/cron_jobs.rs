//! CronJobs over days of virtual time.

use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::cluster::TestCluster;

/// A cluster in which days pass quickly.
async fn start() -> TestCluster {
    TestCluster::start_with("cronjob,job,garbage-collector-controller", |builder| builder).await
}

fn cron_job(name: &str, spec: Value) -> Value {
    let mut all = json!({"schedule": "* * * * *", "jobTemplate": {
        "metadata": {"labels": {"cron": name}},
        "spec": {"template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"restartPolicy": "OnFailure", "containers": [{"name": "c", "image": "busybox"}]},
        }},
    }});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    json!({"metadata": {"name": name}, "spec": all})
}

async fn jobs(cluster: &TestCluster, name: &str) -> Vec<Job> {
    let mut jobs = cluster.list::<Job>(&format!("cron={name}")).await;
    jobs.sort_by_key(|job| job.name_any());
    jobs
}

fn is_running(job: &Job) -> bool {
    job.status.as_ref().and_then(|status| status.active).unwrap_or(0) > 0
}

async fn active(cluster: &TestCluster, name: &str) -> usize {
    let status = cluster.get::<CronJob>(name).await.unwrap().status.unwrap();
    status.active.unwrap_or_default().len()
}

#[tokio::test(start_paused = true)]
async fn each_hour_has_a_job_and_the_last_three_are_kept() {
    let cluster = start().await;
    cluster.run_in_pods(|_| Some((30, 0)));
    cluster.create::<CronJob>(cron_job("hourly", json!({"schedule": "@hourly"}))).await;
    cluster.wait(6 * 3600).await;

    let kept = jobs(&cluster, "hourly").await;
    assert!((3..=4).contains(&kept.len()), "{}", kept.len());
    let status = cluster.get::<CronJob>("hourly").await.unwrap().status.unwrap();
    let last = status.last_schedule_time.unwrap().0.as_second();
    assert!(status.last_successful_time.is_some());
    let mut minutes: Vec<i64> = kept
        .iter()
        .map(|job| job.name_any().strip_prefix("hourly-").unwrap().parse().unwrap())
        .collect();
    minutes.sort_unstable();
    let expected: Vec<i64> =
        (0..minutes.len() as i64).rev().map(|ago| last / 60 - ago * 60).collect();
    assert_eq!(minutes, expected);
    assert_eq!(last % 3600, 0);
    for job in kept {
        let annotation = &job.annotations()["batch.kubernetes.io/cronjob-scheduled-timestamp"];
        let time: k8s_openapi::jiff::Timestamp = annotation.parse().unwrap();
        assert_eq!(job.name_any(), format!("hourly-{}", time.as_second() / 60));
    }
}

// Conformance: CronJob AllowConcurrent
#[tokio::test(start_paused = true)]
async fn jobs_run_beside_each_other_where_that_is_allowed() {
    let cluster = start().await;
    cluster.create::<CronJob>(cron_job("both", json!({"concurrencyPolicy": "Allow"}))).await;
    cluster.wait(150).await;
    assert!(active(&cluster, "both").await >= 2, "{}", cluster.history().await);
    let running = jobs(&cluster, "both").await.iter().filter(|job| is_running(job)).count();
    assert!(running >= 2);
}

// Conformance: CronJob ForbidConcurrent
#[tokio::test(start_paused = true)]
async fn no_job_starts_beside_another_where_that_is_forbidden() {
    let cluster = start().await;
    cluster.create::<CronJob>(cron_job("one", json!({"concurrencyPolicy": "Forbid"}))).await;
    cluster.wait(300).await;
    assert_eq!(active(&cluster, "one").await, 1);
    assert_eq!(jobs(&cluster, "one").await.len(), 1);
    let why =
        "Not starting job because prior execution is running and concurrency policy is Forbid";
    assert_eq!(cluster.events("JobAlreadyActive").await, [why]);
}

// Conformance: CronJob ReplaceConcurrent
#[tokio::test(start_paused = true)]
async fn a_new_job_replaces_the_one_that_runs() {
    let cluster = start().await;
    cluster.create::<CronJob>(cron_job("new", json!({"concurrencyPolicy": "Replace"}))).await;
    cluster.wait(70).await;
    let first = jobs(&cluster, "new").await.remove(0).name_any();
    cluster.wait(120).await;
    assert_eq!(active(&cluster, "new").await, 1);
    let left = jobs(&cluster, "new").await;
    assert!(left.len() == 1 && left[0].name_any() != first, "{}", cluster.history().await);
}

// Conformance: CronJob Suspend
#[tokio::test(start_paused = true)]
async fn a_suspended_cron_job_starts_nothing_and_does_not_make_up_for_all_of_it() {
    let cluster = start().await;
    cluster.create::<CronJob>(cron_job("off", json!({"suspend": true}))).await;
    cluster.wait(600).await;
    assert!(jobs(&cluster, "off").await.is_empty());
    cluster.patch::<CronJob>("off", json!({"spec": {"suspend": false}})).await;
    cluster.wait(5).await;
    assert!(jobs(&cluster, "off").await.len() <= 2, "the last start at most, and one that is due");
}

#[tokio::test(start_paused = true)]
async fn a_schedule_follows_the_clocks_of_its_zone() {
    let cluster = start().await;
    // This zone's hours begin in the middle of those of UTC.
    let spec = json!({"schedule": "0 * * * *", "timeZone": "Asia/Kolkata"});
    cluster.create::<CronJob>(cron_job("zoned", spec)).await;
    cluster.wait(3600 + 60).await;
    let started = jobs(&cluster, "zoned").await;
    let annotation = &started[0].annotations()["batch.kubernetes.io/cronjob-scheduled-timestamp"];
    assert!(annotation.ends_with(":00:00+05:30"), "{annotation}");
}

#[tokio::test(start_paused = true)]
async fn a_changed_schedule_begins_with_its_next_time() {
    let cluster = start().await;
    cluster.create::<CronJob>(cron_job("changed", json!({"schedule": "0 0 29 2 *"}))).await;
    cluster.wait(3600).await;
    cluster.patch::<CronJob>("changed", json!({"spec": {"schedule": "* * * * *"}})).await;
    cluster.wait(1).await;
    assert!(jobs(&cluster, "changed").await.len() <= 1);
    cluster.wait(180).await;
    assert!(jobs(&cluster, "changed").await.len() >= 3);
}

#[tokio::test(start_paused = true)]
async fn failed_jobs_and_successful_ones_have_histories_of_their_own() {
    let cluster = start().await;
    cluster.run_in_pods(|_| Some((1, 1)));
    let spec = json!({"failedJobsHistoryLimit": 2, "jobTemplate": {
        "metadata": {"labels": {"cron": "fails"}},
        "spec": {"backoffLimit": 0, "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "busybox"}]}}},
    }});
    cluster.create::<CronJob>(cron_job("fails", spec)).await;
    cluster.wait(600).await;
    let kept = jobs(&cluster, "fails").await;
    assert!((2..=3).contains(&kept.len()), "{}", kept.len());
    assert_eq!(
        cluster.get::<CronJob>("fails").await.unwrap().status.unwrap().last_successful_time,
        None
    );
}

// Conformance: CronJob API Operations
#[tokio::test(start_paused = true)]
async fn a_cron_job_can_be_read_changed_listed_and_deleted() {
    let cluster = start().await;
    cluster.create::<CronJob>(cron_job("api", json!({"suspend": true}))).await;
    let api = cluster.api::<CronJob>();
    let label = json!({"metadata": {"labels": {"special": "yes"}}});
    api.patch("api", &PatchParams::default(), &Patch::Merge(label)).await.unwrap();
    let mut read = api.get("api").await.unwrap();
    read.annotations_mut().insert("updated".into(), "true".into());
    let replaced = api.replace("api", &Default::default(), &read).await.unwrap();
    assert_eq!(replaced.annotations()["updated"], "true");
    let everywhere = kube::Api::<CronJob>::all(cluster.client.clone());
    assert_eq!(
        everywhere.list(&ListParams::default().labels("special=yes")).await.unwrap().items.len(),
        1
    );

    let time = json!({"status": {"lastScheduleTime": "2026-01-01T00:00:00Z"}});
    let patched =
        api.patch_status("api", &PatchParams::default(), &Patch::Merge(time)).await.unwrap();
    assert!(patched.status.unwrap().last_schedule_time.is_some());
    assert!(api.get_status("api").await.unwrap().status.unwrap().last_schedule_time.is_some());

    api.delete_collection(&DeleteParams::default(), &ListParams::default().labels("special=yes"))
        .await
        .unwrap();
    cluster.settle().await;
    assert!(cluster.get::<CronJob>("api").await.is_none());
}
