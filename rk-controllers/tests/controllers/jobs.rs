//! Jobs, with the fakes' containers ending as each test says.

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PropagationPolicy},
};
use serde_json::{Value, json};

use crate::cluster::TestCluster;

/// How a Job ends all of whose Pods succeeded.
const COMPLETE: &str = "Complete: CompletionsReached: Reached expected number of succeeded pods";

const INDEX: &str = "batch.kubernetes.io/job-completion-index";

fn job(name: &str, spec: Value) -> Value {
    let mut all = json!({"template": {
        "metadata": {"labels": {"app": name}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "busybox"}]},
    }});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    json!({"metadata": {"name": name}, "spec": all})
}

fn index(pod: &Pod) -> i32 {
    pod.annotations()[INDEX].parse().unwrap()
}

async fn status(cluster: &TestCluster, name: &str) -> Value {
    serde_json::to_value(cluster.get::<Job>(name).await.unwrap().status.unwrap()).unwrap()
}

/// The conditions that are true: type, reason, message.
async fn conditions(cluster: &TestCluster, name: &str) -> Vec<[String; 3]> {
    let job = cluster.get::<Job>(name).await.unwrap();
    let conditions = job.status.unwrap().conditions.unwrap_or_default();
    let is_true = conditions.into_iter().filter(|condition| condition.status == "True");
    let text = |text: Option<String>| text.unwrap_or_default();
    is_true.map(|one| [one.type_, text(one.reason), text(one.message)]).collect()
}

async fn ended(cluster: &TestCluster, name: &str) -> String {
    let ends = conditions(cluster, name).await;
    ends.last().map(|end| end.join(": ")).unwrap_or_default()
}

async fn check_end(cluster: &TestCluster, name: &str, end: &str) {
    let found = ended(cluster, name).await;
    assert_eq!(found, end, "{} {}", status(cluster, name).await, cluster.history().await);
}

#[tokio::test(start_paused = true)]
async fn a_job_runs_its_pods_to_completion() {
    let cluster = TestCluster::start().await;
    cluster.run_in_pods(|_| Some((20, 0)));
    cluster.create::<Job>(job("pi", json!({"completions": 3, "parallelism": 2}))).await;
    cluster.wait(10).await;

    let pods = cluster.list::<Pod>("job-name=pi,batch.kubernetes.io/job-name=pi").await;
    assert_eq!(pods.len(), 2);
    assert!(pods.iter().all(|pod| pod.finalizers() == ["batch.kubernetes.io/job-tracking"]));
    let running = status(&cluster, "pi").await;
    assert_eq!((&running["active"], &running["ready"]), (&json!(2), &json!(2)));
    assert!(running["startTime"].is_string());

    cluster.wait(60).await;
    let done = status(&cluster, "pi").await;
    assert_eq!(done["succeeded"], 3, "{}", cluster.history().await);
    assert_eq!(
        (&done["active"], &done["ready"], &done["terminating"]),
        (&json!(null), &json!(0), &json!(0))
    );
    assert_eq!(done["uncountedTerminatedPods"], json!({}));
    assert!(done["completionTime"].is_string());
    let kinds: Vec<_> =
        conditions(&cluster, "pi").await.into_iter().map(|[kind, ..]| kind).collect();
    assert_eq!(kinds, ["SuccessCriteriaMet", "Complete"]);
    let pods = cluster.list::<Pod>("job-name=pi").await;
    assert!(pods.len() == 3 && pods.iter().all(|pod| pod.finalizers().is_empty()));
    assert_eq!(cluster.events("Completed").await, ["Job completed"]);
    assert_eq!(cluster.events("SuccessfulCreate").await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_work_queue_is_done_when_one_pod_says_so_and_the_others_ended() {
    let cluster = TestCluster::start().await;
    cluster.run_in_pods(|pod| Some((if pod.name_any().as_str() < "queue-k" { 10 } else { 40 }, 0)));
    cluster.create::<Job>(job("queue", json!({"parallelism": 6}))).await;
    cluster.wait(60).await;
    check_end(&cluster, "queue", COMPLETE).await;
    assert_eq!(status(&cluster, "queue").await["succeeded"], 6);
}

// Conformance: Ensure Pods of an Indexed Job get a unique index.
#[tokio::test(start_paused = true)]
async fn an_indexed_job_has_one_pod_for_each_index() {
    let cluster = TestCluster::start().await;
    cluster.run_in_pods(|pod| Some((if index(pod) == 3 { 100 } else { 5 }, 0)));
    let spec = json!({"completions": 6, "parallelism": 4, "completionMode": "Indexed"});
    cluster.create::<Job>(job("idx", spec)).await;
    cluster.wait(30).await;

    assert_eq!(status(&cluster, "idx").await["completedIndexes"], "0-2,4,5");
    let mut pods = cluster.list::<Pod>("job-name=idx").await;
    pods.sort_by_key(index);
    assert_eq!(pods.iter().map(index).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    let pod = &pods[2];
    assert!(pod.name_any().starts_with("idx-2-"));
    assert_eq!(pod.labels()[INDEX], "2");
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!(spec.hostname.as_deref(), Some("idx-2"));
    let env = serde_json::to_value(&spec.containers[0].env).unwrap();
    assert_eq!(env[0]["name"], "JOB_COMPLETION_INDEX");
    assert_eq!(env[0]["valueFrom"]["fieldRef"]["fieldPath"], format!("metadata.labels['{INDEX}']"));
    cluster.wait(100).await;
    assert_eq!(status(&cluster, "idx").await["completedIndexes"], "0-5");
    check_end(&cluster, "idx", COMPLETE).await;
}

#[tokio::test(start_paused = true)]
async fn failures_are_tried_again_with_growing_pauses_up_to_a_limit() {
    let cluster = TestCluster::start().await;
    cluster.run_in_pods(|_| Some((0, 1)));
    cluster.create::<Job>(job("bad", json!({"backoffLimit": 4}))).await;
    cluster.wait(400).await;

    check_end(
        &cluster,
        "bad",
        "Failed: BackoffLimitExceeded: Job has reached the specified backoff limit",
    )
    .await;
    let mut times: Vec<i64> = cluster
        .list::<Pod>("job-name=bad")
        .await
        .iter()
        .map(|pod| pod.creation_timestamp().unwrap().0.as_second())
        .collect();
    times.sort_unstable();
    let pauses: Vec<i64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(times.len(), 5);
    for (pause, least) in pauses.iter().zip([10, 20, 40, 80]) {
        assert!((least..least + 4).contains(pause), "{pauses:?}");
    }
    assert_eq!(status(&cluster, "bad").await["failed"], 5);
    assert_eq!(cluster.events("BackoffLimitExceeded").await.len(), 1);
}

// Conformance: Ensure that all indexes are executed for an indexed job with backoffLimitPerIndex despite some failing
#[tokio::test(start_paused = true)]
async fn with_a_limit_for_each_index_all_indexes_are_tried() {
    let cluster = TestCluster::start().await;
    cluster.run_in_pods(|pod| Some((1, index(pod) % 2)));
    let spec = json!({"completions": 4, "parallelism": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 1});
    cluster.create::<Job>(job("each", spec)).await;
    cluster.wait(120).await;

    check_end(&cluster, "each", "Failed: FailedIndexes: Job has failed indexes").await;
    let status = status(&cluster, "each").await;
    assert_eq!(
        (&status["completedIndexes"], &status["failedIndexes"]),
        (&json!("0,2"), &json!("1,3"))
    );
    assert_eq!((&status["succeeded"], &status["failed"]), (&json!(2), &json!(4)));
    let mut counts: Vec<_> = cluster
        .list::<Pod>("job-name=each")
        .await
        .iter()
        .filter(|pod| index(pod) == 1)
        .map(|pod| pod.annotations()["batch.kubernetes.io/job-index-failure-count"].clone())
        .collect();
    counts.sort();
    assert_eq!(counts, ["0", "1"]);
}

// Conformance: Terminate job execution when the maxFailedIndexes is exceeded
#[tokio::test(start_paused = true)]
async fn too_many_failed_indexes_end_the_job() {
    let cluster = TestCluster::start().await;
    cluster.run_in_pods(|pod| if index(pod) < 2 { Some((1, 1)) } else { None });
    let spec = json!({"completions": 10, "parallelism": 10, "completionMode": "Indexed", "backoffLimitPerIndex": 0, "maxFailedIndexes": 1});
    cluster.create::<Job>(job("most", spec)).await;
    cluster.wait(60).await;

    let why = "Failed: MaxFailedIndexesExceeded: Job has exceeded the specified maximal number of failed indexes";
    check_end(&cluster, "most", why).await;
    assert_eq!(status(&cluster, "most").await["failedIndexes"], "0,1");
    let left = cluster.pods_of("most").await;
    let running =
        left.iter().filter(|pod| pod.status.as_ref().unwrap().phase.as_deref() == Some("Running"));
    assert_eq!(running.count(), 0);
}

// Conformance: Mark indexes as failed when the FailIndex action is matched in podFailurePolicy
#[tokio::test(start_paused = true)]
async fn a_policy_can_give_up_an_index_at_once() {
    let cluster = TestCluster::start().await;
    cluster.run_in_pods(|pod| Some((1, if index(pod) == 0 { 42 } else { 0 })));
    let spec = json!({
        "completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 5,
        "podFailurePolicy": {"rules": [{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [42]}}]},
    });
    cluster.create::<Job>(job("give-up", spec)).await;
    cluster.wait(30).await;
    check_end(&cluster, "give-up", "Failed: FailedIndexes: Job has failed indexes").await;
    let status = status(&cluster, "give-up").await;
    assert_eq!((&status["failedIndexes"], &status["failed"]), (&json!("0"), &json!(1)));
}

// Conformance: Verify Pod Failure policy allows to fail job early on exit code.
#[tokio::test(start_paused = true)]
async fn a_policy_can_fail_the_job_by_an_exit_code() {
    let cluster = TestCluster::start().await;
    cluster.run_in_pods(|_| Some((1, 3)));
    let spec = json!({
        "backoffLimit": 10, "completions": 4, "parallelism": 2,
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [3]}}]},
    });
    cluster.create::<Job>(job("early", spec)).await;
    cluster.wait(30).await;
    let [target, failed] = conditions(&cluster, "early").await.try_into().unwrap();
    assert_eq!((target[0].as_str(), failed[0].as_str()), ("FailureTarget", "Failed"));
    assert_eq!(failed[1], "PodFailurePolicy");
    assert!(
        failed[2].starts_with("Container c for pod default/early-")
            && failed[2].ends_with(" failed with exit code 3 matching FailJob rule at index 0"),
        "{}",
        failed[2]
    );
}

// Conformance: Ensure pod failure policy allows to ignore failure matching on the DisruptionTarget condition
#[tokio::test(start_paused = true)]
async fn a_policy_can_ignore_failures_through_disruptions() {
    let cluster = TestCluster::start().await;
    let spec = json!({
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]},
    });
    cluster.create::<Job>(job("moved", spec)).await;
    cluster.wait(10).await;
    let pod = cluster.pods_of("moved").await.remove(0);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod.name_any()}});
    let path = format!("/api/v1/namespaces/default/pods/{}/eviction", pod.name_any());
    let request = http::Request::post(path).header("content-type", "application/json");
    let body = serde_json::to_vec(&eviction).unwrap();
    let answer: Value = cluster.client.request(request.body(body).unwrap()).await.unwrap();
    assert_eq!(answer["status"], "Success");

    cluster.run_in_pods(|_| Some((1, 0)));
    cluster.wait(60).await;
    check_end(&cluster, "moved", COMPLETE).await;
    assert_eq!(status(&cluster, "moved").await["failed"], json!(null));
}

async fn check_success_policy(rules: Value, ready: fn(i32) -> bool, message: &str) {
    let cluster = TestCluster::start().await;
    cluster.run_in_pods(move |pod| ready(index(pod)).then_some((1, 0)));
    let spec = json!({"completions": 5, "parallelism": 5, "completionMode": "Indexed", "successPolicy": {"rules": rules}});
    cluster.create::<Job>(job("enough", spec)).await;
    cluster.wait(60).await;
    check_end(&cluster, "enough", &format!("Complete: SuccessPolicy: {message}")).await;
    let status = status(&cluster, "enough").await;
    assert_eq!((&status["active"], &status["failed"]), (&json!(null), &json!(null)));
}

// Conformance: Ensure that job with successPolicy succeededIndexes rule succeeded even when some indexes remain pending
#[tokio::test(start_paused = true)]
async fn the_success_of_some_indexes_can_be_enough() {
    let rules = json!([{"succeededCount": 4}, {"succeededIndexes": "0,2"}]);
    check_success_policy(rules, |index| index % 2 == 0 && index < 4, "Matched rules at index 1")
        .await;
}

// Conformance: Ensure that job with successPolicy succeededCount rule succeeded even when some indexes remain pending
#[tokio::test(start_paused = true)]
async fn the_success_of_so_many_indexes_can_be_enough() {
    check_success_policy(
        json!([{"succeededCount": 2}]),
        |index| index < 2,
        "Matched rules at index 0",
    )
    .await;
}

// Conformance: Ensure that job with successPolicy succeeded when all indexes succeeded
#[tokio::test(start_paused = true)]
async fn a_job_with_a_success_policy_completes_when_all_indexes_succeeded() {
    check_success_policy(
        json!([{"succeededIndexes": "0-4"}]),
        |_| true,
        "Matched rules at index 0",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_suspended_job_has_no_pods_and_its_time_begins_again_when_it_is_resumed() {
    let cluster = TestCluster::start().await;
    let spec =
        json!({"suspend": true, "parallelism": 2, "completions": 2, "activeDeadlineSeconds": 100});
    cluster.create::<Job>(job("later", spec)).await;
    cluster.wait(200).await;
    assert!(cluster.pods_of("later").await.is_empty());
    check_end(&cluster, "later", "Suspended: JobSuspended: Job suspended").await;
    assert_eq!(status(&cluster, "later").await["startTime"], json!(null));

    cluster.patch::<Job>("later", json!({"spec": {"suspend": false}})).await;
    cluster.wait(50).await;
    assert_eq!(cluster.pods_of("later").await.len(), 2, "{}", cluster.history().await);
    let first_start = status(&cluster, "later").await["startTime"].clone();
    cluster.patch::<Job>("later", json!({"spec": {"suspend": true}})).await;
    cluster.wait(90).await;
    assert!(cluster.pods_of("later").await.is_empty());
    let status_now = status(&cluster, "later").await;
    assert_eq!((&status_now["active"], &status_now["failed"]), (&json!(null), &json!(null)));

    cluster.patch::<Job>("later", json!({"spec": {"suspend": false}})).await;
    cluster.wait(60).await;
    assert_ne!(status(&cluster, "later").await["startTime"], first_start);
    assert_eq!(cluster.pods_of("later").await.len(), 2);
    assert_eq!(cluster.events("Suspended").await.len() + cluster.events("Resumed").await.len(), 2);
    cluster.wait(60).await;
    let why = "Failed: DeadlineExceeded: Job was active longer than specified deadline";
    check_end(&cluster, "later", why).await;
}

#[tokio::test(start_paused = true)]
async fn an_indexed_job_can_be_made_larger_and_smaller() {
    let cluster = TestCluster::start().await;
    cluster.run_in_pods(|pod| (index(pod) % 2 == 0).then_some((1, 0)));
    let spec = json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed"});
    cluster.create::<Job>(job("elastic", spec)).await;
    cluster.wait(10).await;
    assert_eq!(status(&cluster, "elastic").await["completedIndexes"], "0");

    cluster.patch::<Job>("elastic", json!({"spec": {"completions": 5, "parallelism": 5}})).await;
    cluster.wait(10).await;
    let larger = status(&cluster, "elastic").await;
    assert_eq!((&larger["completedIndexes"], &larger["active"]), (&json!("0,2,4"), &json!(2)));

    cluster.patch::<Job>("elastic", json!({"spec": {"completions": 1, "parallelism": 1}})).await;
    cluster.wait(10).await;
    check_end(&cluster, "elastic", COMPLETE).await;
    let smaller = status(&cluster, "elastic").await;
    assert_eq!((&smaller["completedIndexes"], &smaller["succeeded"]), (&json!("0"), &json!(1)));
}

#[tokio::test(start_paused = true)]
async fn where_only_failed_pods_are_replaced_one_that_terminates_keeps_its_place() {
    let cluster = TestCluster::start().await;
    cluster.create::<Job>(job("slow", json!({"podReplacementPolicy": "Failed"}))).await;
    cluster.wait(5).await;
    let pod = cluster.pods_of("slow").await.remove(0);
    let node = pod.spec.as_ref().unwrap().node_name.clone().unwrap();
    // The node does not answer, so that the Pod stays on its way out.
    cluster.kill_node(&node);
    cluster.delete::<Pod>(&pod.name_any(), &DeleteParams::default()).await;
    cluster.wait(15).await;
    let going = status(&cluster, "slow").await;
    assert_eq!((&going["terminating"], &going["active"]), (&json!(1), &json!(null)));
    assert!(cluster.pods_of("slow").await.is_empty());

    cluster.revive_node(&node);
    cluster
        .patch::<Pod>(&pod.name_any(), json!({"metadata": {"labels": {"touched": "yes"}}}))
        .await;
    cluster.wait(30).await;
    assert_eq!(cluster.pods_of("slow").await.len(), 1, "{}", cluster.history().await);
    assert_eq!(status(&cluster, "slow").await["failed"], 1);
}

// Conformance: Jobs, orphan pods, re-adoption
#[tokio::test(start_paused = true)]
async fn matching_orphans_are_adopted_and_others_released() {
    let cluster = TestCluster::start().await;
    cluster.create::<Job>(job("own", json!({"parallelism": 2, "completions": 2}))).await;
    cluster.wait(5).await;
    let name = cluster.pods_of("own").await[0].name_any();

    let api = cluster.api::<Pod>();
    let orphaned = json!({"metadata": {"ownerReferences": null}});
    api.patch(&name, &PatchParams::default(), &Patch::Merge(orphaned)).await.unwrap();
    cluster.wait(5).await;
    let pod = cluster.get::<Pod>(&name).await.unwrap();
    assert_eq!(pod.owner_references()[0].name, "own");
    assert_eq!(pod.finalizers(), ["batch.kubernetes.io/job-tracking"]);

    let labels = json!({"metadata": {"labels": {"batch.kubernetes.io/controller-uid": null}}});
    api.patch(&name, &PatchParams::default(), &Patch::Merge(labels)).await.unwrap();
    cluster.wait(5).await;
    let pod = cluster.get::<Pod>(&name).await.unwrap();
    assert!(pod.owner_references().is_empty() && pod.finalizers().is_empty());
    assert_eq!(cluster.pods_of("own").await.len(), 3, "one was made in its place");
}

// Conformance: Jobs, active pods, graceful termination
#[tokio::test(start_paused = true)]
async fn a_deleted_job_takes_its_pods_along_or_leaves_them_without_finalizers() {
    let cluster = TestCluster::start().await;
    for (name, policy) in [
        ("front", PropagationPolicy::Foreground),
        ("back", PropagationPolicy::Background),
        ("left", PropagationPolicy::Orphan),
    ] {
        cluster.create::<Job>(job(name, json!({"parallelism": 2, "completions": 2}))).await;
        cluster.wait(5).await;
        let params = DeleteParams { propagation_policy: Some(policy), ..Default::default() };
        cluster.delete::<Job>(name, &params).await;
        cluster.wait(60).await;
        assert!(cluster.get::<Job>(name).await.is_none());
        let pods = cluster.list::<Pod>(&format!("app={name}")).await;
        let expected = if name == "left" { 2 } else { 0 };
        assert_eq!(pods.len(), expected, "{name}");
        assert!(pods.iter().all(|pod| pod.finalizers().is_empty()), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_another_manages_is_left_alone() {
    let cluster = TestCluster::start().await;
    cluster.create::<Job>(job("theirs", json!({"managedBy": "example.com/queue"}))).await;
    cluster.wait(30).await;
    assert!(cluster.pods_of("theirs").await.is_empty());
    let status = cluster.get::<Job>("theirs").await.unwrap().status;
    assert!(status.is_none_or(|status| status == Default::default()));
}

// Conformance: Jobs, apply changes to status
// Conformance: Jobs, manage lifecycle
#[tokio::test(start_paused = true)]
async fn a_job_can_be_read_changed_listed_and_deleted() {
    let cluster = TestCluster::start().await;
    cluster.create::<Job>(job("life", json!({"suspend": true}))).await;
    cluster.wait(2).await;
    let api = cluster.api::<Job>();
    let note = json!({"metadata": {"annotations": {"note": "patched"}}, "status": {"startTime": "2026-01-01T00:00:00Z"}});
    let patched =
        api.patch_status("life", &PatchParams::default(), &Patch::Merge(note)).await.unwrap();
    assert_eq!(patched.annotations()["note"], "patched");
    let start = patched.status.unwrap().start_time.unwrap();
    assert_eq!(start.0.to_string(), "2026-01-01T00:00:00Z");
    let mut read = api.get_status("life").await.unwrap();
    read.annotations_mut().insert("note".into(), "replaced".into());
    read.status.as_mut().unwrap().start_time = None;
    let name = read.name_any();
    let replaced = api.replace_status(&name, &Default::default(), &read).await.unwrap();
    assert_eq!(replaced.status.unwrap().start_time, None);

    cluster.patch::<Job>("life", json!({"metadata": {"labels": {"round": "2"}}, "spec": {"suspend": false, "parallelism": 1}})).await;
    assert_eq!(cluster.list::<Job>("round=2").await.len(), 1);
    cluster.run_in_pods(|_| Some((1, 0)));
    cluster.wait(20).await;
    check_end(&cluster, "life", COMPLETE).await;
    api.delete_collection(
        &DeleteParams::background(),
        &kube::api::ListParams::default().labels("round=2"),
    )
    .await
    .unwrap();
    cluster.wait(20).await;
    assert!(cluster.list::<Job>("round=2").await.is_empty());
    assert!(cluster.list::<Pod>("job-name=life").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_finished_job_is_deleted_when_its_time_is_over() {
    let cluster = TestCluster::start().await;
    cluster.run_in_pods(|_| Some((1, 0)));
    cluster.create::<Job>(job("brief", json!({"ttlSecondsAfterFinished": 100}))).await;
    cluster.create::<Job>(job("kept", json!({"ttlSecondsAfterFinished": 100}))).await;
    cluster.wait(60).await;
    check_end(&cluster, "brief", COMPLETE).await;
    cluster.patch::<Job>("kept", json!({"spec": {"ttlSecondsAfterFinished": 1000}})).await;
    cluster.wait(100).await;
    assert!(cluster.get::<Job>("brief").await.is_none());
    assert!(cluster.list::<Pod>("job-name=brief").await.is_empty());
    assert!(cluster.get::<Job>("kept").await.is_some());
    cluster.wait(1000).await;
    assert!(cluster.get::<Job>("kept").await.is_none());
}
