//! Pods through their lives, as a client sees them.

use rk::{
    k8s_openapi::api::core::v1::{Node, Pod},
    kube::{
        Api, ResourceExt,
        api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    },
};
use serde_json::{Value, json};

use crate::{
    cluster::{TestCluster, until, wait},
    replica_sets::{bare_pod, running},
    watched::{Happened, Watched},
};

fn pod(name: &str, labels: Value) -> Value {
    json!({
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": "httpd"}],
        },
    })
}

fn labelled(selector: &str) -> ListParams {
    ListParams::default().labels(selector)
}

async fn names(t: &TestCluster, selector: &str) -> Vec<String> {
    let list = t.api::<Pod>().list(&labelled(selector)).await.expect("listed");
    list.iter().map(ResourceExt::name_any).collect()
}

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

// Conformance: Pods, QOS
#[tokio::test(start_paused = true)]
async fn requests_and_limits_decide_the_quality_of_service() {
    let t = TestCluster::start().await;
    let amounts = |cpu: &str| json!({"cpu": cpu, "memory": "100Mi"});
    for (name, resources, class) in [
        ("equal", json!({"requests": amounts("100m"), "limits": amounts("100m")}), "Guaranteed"),
        ("more", json!({"requests": amounts("100m"), "limits": amounts("200m")}), "Burstable"),
        ("none", json!({}), "BestEffort"),
    ] {
        let mut object = pod(name, json!({}));
        object["spec"]["containers"][0]["resources"] = resources;
        let made = t.create::<Pod>(object).await;
        let found = made.status.and_then(|status| status.qos_class);
        assert_eq!(found.as_deref(), Some(class), "{name}");
    }
}

// Conformance: Pods, ActiveDeadlineSeconds
#[tokio::test(start_paused = true)]
async fn a_deadline_that_is_set_later_ends_a_pod() {
    let t = TestCluster::start().await;
    bare_pod(&t, "deadline").await;
    assert_eq!(names(&t, "name=deadline").await, ["deadline"]);
    let pods = t.api::<Pod>();
    until("the update", async || {
        let mut pod = pods.get("deadline").await.expect("read");
        pod.spec.as_mut().expect("a spec").active_deadline_seconds = Some(5);
        pods.replace("deadline", &PostParams::default(), &pod).await.ok()
    })
    .await;
    let ended = until("the end", async || {
        let pod = pods.get("deadline").await.expect("read");
        (phase(&pod) == Some("Failed")).then_some(pod)
    });
    let reason = ended.await.status.and_then(|status| status.reason);
    assert_eq!(reason.as_deref(), Some("DeadlineExceeded"));
}

// Conformance: Pods, lifecycle
#[tokio::test(start_paused = true)]
async fn a_pod_is_watched_from_its_creation_to_its_end() {
    let t = TestCluster::start().await;
    let pods = t.api::<Pod>();
    assert!(names(&t, "time=now").await.is_empty());
    let mut watched = Watched::new(&pods, "time=now").await;
    t.create::<Pod>(pod("submitted", json!({"time": "now"}))).await;
    watched.happens(Happened::Added, "the creation").await;
    assert_eq!(names(&t, "time=now").await, ["submitted"]);
    watched.shows("it runs", |pod| phase(pod) == Some("Running")).await;

    pods.delete("submitted", &DeleteParams::default().grace_period(30)).await.expect("deleted");
    watched
        .shows("that it is to end", |pod| {
            pod.metadata.deletion_timestamp.is_some()
                && pod.metadata.deletion_grace_period_seconds == Some(30)
        })
        .await;
    let last = watched.happens(Happened::Deleted, "the end").await;
    assert_eq!(last.name_any(), "submitted");
    assert!(last.metadata.deletion_timestamp.is_some());
    assert!(names(&t, "time=now").await.is_empty());
}

// Conformance: Pods, update
#[tokio::test(start_paused = true)]
async fn a_pod_is_found_by_the_label_that_an_update_gave_it() {
    let t = TestCluster::start().await;
    bare_pod(&t, "updated").await;
    assert_eq!(names(&t, "name=updated").await, ["updated"]);
    let pods = t.api::<Pod>();
    until("the update", async || {
        let mut pod = pods.get("updated").await.expect("read");
        pod.labels_mut().insert("time".to_owned(), "later".to_owned());
        pods.replace("updated", &PostParams::default(), &pod).await.ok()
    })
    .await;
    assert_eq!(names(&t, "time=later").await, ["updated"]);
}

// Conformance: Pods, delete a collection
#[tokio::test(start_paused = true)]
async fn pods_are_deleted_by_their_label() {
    let t = TestCluster::start().await;
    for name in ["test-pod-1", "test-pod-2", "test-pod-3"] {
        t.create::<Pod>(pod(name, json!({"type": "Testing"}))).await;
    }
    t.create::<Pod>(pod("other", json!({"type": "Other"}))).await;
    running(&t, "type=Testing", 3).await;
    let deleted = DeleteParams::default().grace_period(1);
    t.api::<Pod>().delete_collection(&deleted, &labelled("type=Testing")).await.expect("deleted");
    until("their end", async || names(&t, "type=Testing").await.is_empty().then_some(())).await;
    assert_eq!(names(&t, "").await, ["other"]);
}

// Conformance: Pods, patching status
#[tokio::test(start_paused = true)]
async fn the_status_of_a_pod_is_patched() {
    let t = TestCluster::start().await;
    bare_pod(&t, "patched").await;
    let patch = json!({"status": {"message": "Patched by a test", "reason": "Test"}});
    let pods = t.api::<Pod>();
    let params = PatchParams::default();
    let patched = pods.patch_status("patched", &params, &Patch::Merge(patch)).await;
    let status = patched.expect("patched").status.expect("a status");
    assert_eq!(status.message.as_deref(), Some("Patched by a test"));
    assert_eq!(status.reason.as_deref(), Some("Test"));
    assert_eq!(status.phase.as_deref(), Some("Running"));
}

// Conformance: Pods, completes the lifecycle of a Pod and the PodStatus
#[tokio::test(start_paused = true)]
async fn a_pod_and_its_status_are_changed_on_the_way() {
    let t = TestCluster::start().await;
    let pods = t.api::<Pod>();
    let selector = "test-pod-static=true";
    let mut watched = Watched::new(&pods, selector).await;
    t.create::<Pod>(pod("pod-test", json!({"test-pod-static": "true"}))).await;
    watched.happens(Happened::Added, "the creation").await;
    let ready = |pod: &Pod, wanted: &str| {
        let conditions = pod.status.iter().filter_map(|status| status.conditions.as_ref());
        conditions.flatten().any(|it| it.type_ == "Ready" && it.status == wanted)
    };
    watched.shows("it is ready", |pod| ready(pod, "True")).await;

    let patch = json!({
        "metadata": {"labels": {"test-pod": "patched"}},
        "spec": {"containers": [{"name": "c", "image": "nginx"}]},
    });
    let patch = Patch::Strategic(patch);
    pods.patch("pod-test", &PatchParams::default(), &patch).await.expect("patched");
    let is_patched = |pod: &Pod| {
        let images = pod.spec.iter().flat_map(|spec| &spec.containers);
        pod.labels().get("test-pod").is_some_and(|value| value == "patched")
            && images.filter_map(|it| it.image.as_deref()).eq(["nginx"])
    };
    watched.shows("the patch", is_patched).await;
    assert!(is_patched(&pods.get("pod-test").await.expect("read")));

    // Whoever else writes the status may come first.
    let replaced = until("the status to be replaced", async || {
        let mut pod = pods.get_status("pod-test").await.expect("read");
        let conditions = pod.status.as_mut().and_then(|status| status.conditions.as_mut());
        for condition in conditions.into_iter().flatten() {
            if condition.type_ == "Ready" {
                condition.status = "False".to_owned();
            }
        }
        pods.replace_status("pod-test", &PostParams::default(), &pod).await.ok()
    })
    .await;
    assert!(ready(&replaced, "False"));
    watched.shows("the status", |pod| ready(pod, "False")).await;

    let deleted = DeleteParams::default().grace_period(1);
    pods.delete_collection(&deleted, &labelled(selector)).await.expect("deleted");
    watched.happens(Happened::Deleted, "the end").await;
    assert!(names(&t, selector).await.is_empty());
}

const TAINT: &str = "kubernetes.io/e2e-evict-taint-key";

/// A Pod on the first node that endures its taint for some seconds.
async fn enduring(t: &TestCluster, name: &str, seconds: i64) {
    let mut object = pod(name, json!({"name": name}));
    object["spec"]["nodeName"] = json!("node-1");
    object["spec"]["tolerations"] = json!([{
        "key": TAINT, "value": "evictTaintVal", "effect": "NoExecute",
        "tolerationSeconds": seconds,
    }]);
    t.create::<Pod>(object).await;
    running(t, &format!("name={name}"), 1).await;
}

async fn taint(t: &TestCluster, taints: Value) {
    let nodes: Api<Node> = Api::all(t.client());
    let patch = Patch::Merge(json!({"spec": {"taints": taints}}));
    nodes.patch("node-1", &PatchParams::default(), &patch).await.expect("patched");
}

/// Whether the Pod is there, and not on its way out.
async fn stays(t: &TestCluster, name: &str) -> bool {
    let pod = t.api::<Pod>().get_opt(name).await.expect("asked");
    pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_none())
}

// Conformance: Taint, Pod Eviction on taint removal
#[tokio::test(start_paused = true)]
async fn a_pod_stays_when_the_taint_goes_in_time() {
    let t = TestCluster::start().await;
    enduring(&t, "endures", 60).await;
    taint(&t, json!([{"key": TAINT, "value": "evictTaintVal", "effect": "NoExecute"}])).await;
    wait(30).await;
    assert!(stays(&t, "endures").await);
    taint(&t, Value::Null).await;
    wait(120).await;
    assert!(stays(&t, "endures").await);
}

// Conformance: Pod Eviction, Toleration limits
#[tokio::test(start_paused = true)]
async fn each_pod_goes_when_its_own_time_is_over() {
    let t = TestCluster::start().await;
    enduring(&t, "shortly", 20).await;
    enduring(&t, "longer", 100).await;
    taint(&t, json!([{"key": TAINT, "value": "evictTaintVal", "effect": "NoExecute"}])).await;
    wait(10).await;
    assert!(stays(&t, "shortly").await && stays(&t, "longer").await);
    wait(40).await;
    assert!(!stays(&t, "shortly").await && stays(&t, "longer").await);
    wait(80).await;
    assert!(!stays(&t, "longer").await);
    until("nothing is left", async || names(&t, "").await.is_empty().then_some(())).await;
}
