//! ReplicationControllers: their life, their subresources, and whose Pods they take.

use rk::{
    k8s_openapi::api::core::v1::{Pod, ReplicationController},
    kube::{
        Api, ResourceExt,
        api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    },
};
use serde_json::{Value, json};

use crate::{
    cluster::{TestCluster, until},
    replica_sets::{bare_pod, controlled, pod_quota, running},
    watched::{Happened, Watched},
};

fn controller(name: &str, replicas: i32) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"name": name}},
        "spec": {
            "replicas": replicas,
            "selector": {"name": name},
            "template": {
                "metadata": {"labels": {"name": name}},
                "spec": {"containers": [{"name": name, "image": "nginx"}]},
            },
        },
    })
}

fn counts(controller: &ReplicationController) -> (i32, i32) {
    let status = controller.status.clone().unwrap_or_default();
    (status.replicas, status.ready_replicas.unwrap_or(0))
}

// Conformance: Replication Controller, lifecycle
#[tokio::test(start_paused = true)]
async fn a_replication_controller_is_created_patched_scaled_and_deleted() {
    let t = TestCluster::start().await;
    let controllers = t.api::<ReplicationController>();
    let selector = "test-rc-static=true";
    let mut watched = Watched::new(&controllers, selector).await;
    let mut object = controller("rc-test", 1);
    let labels = json!({"test-rc-static": "true"});
    object["metadata"]["labels"] = labels.clone();
    object["spec"]["selector"] = labels.clone();
    object["spec"]["template"]["metadata"]["labels"] = labels;
    t.create::<ReplicationController>(object).await;
    watched.happens(Happened::Added, "the creation").await;
    watched.shows("its Pod ready", |it| counts(it) == (1, 1)).await;

    let params = PatchParams::default();
    let patch = Patch::Strategic(json!({"metadata": {"labels": {"test-rc": "patched"}}}));
    let patched = controllers.patch("rc-test", &params, &patch).await.expect("patched");
    assert_eq!(patched.labels()["test-rc"], "patched");
    watched.happens(Happened::Modified, "the patch").await;

    let none = json!({"status": {"readyReplicas": 0, "availableReplicas": 0}});
    let patched = controllers.patch_status("rc-test", &params, &Patch::Strategic(none)).await;
    assert_eq!(counts(&patched.expect("patched")), (1, 0));
    watched.shows("the patched status", |it| counts(it) == (1, 0)).await;
    watched.shows("what the controller knows better", |it| counts(it) == (1, 1)).await;
    let read = controllers.get_status("rc-test").await.expect("read");
    assert_eq!(counts(&read).0, 1);

    let two = Patch::Merge(json!({"spec": {"replicas": 2}}));
    controllers.patch_scale("rc-test", &params, &two).await.expect("scaled");
    watched.happens(Happened::Modified, "the new scale").await;
    watched.shows("two ready Pods", |it| counts(it) == (2, 2)).await;

    let mut read = controllers.get("rc-test").await.expect("read");
    assert_eq!(read.labels()["test-rc"], "patched");
    read.metadata.resource_version = None;
    let status = read.status.as_mut().expect("a status");
    (status.available_replicas, status.ready_replicas) = (Some(1), Some(1));
    let name = "rc-test";
    controllers.replace_status(name, &PostParams::default(), &read).await.expect("updated");
    watched.shows("the updated status", |it| counts(it) == (2, 1)).await;

    let everywhere: Api<ReplicationController> = Api::all(t.client());
    let labelled = ListParams::default().labels(selector);
    let list = everywhere.list(&labelled).await.expect("listed");
    let found: Vec<_> = list.iter().map(|it| (it.name_any(), &it.labels()["test-rc"])).collect();
    assert_eq!(found, [("rc-test".to_owned(), &"patched".to_owned())]);

    controllers.delete_collection(&DeleteParams::default(), &labelled).await.expect("deleted");
    watched.happens(Happened::Deleted, "the deletion").await;
}

// Conformance: Replication Controller, adopt matching pods
#[tokio::test(start_paused = true)]
async fn a_pod_that_matches_is_adopted() {
    let t = TestCluster::start().await;
    bare_pod(&t, "pod-adoption").await;
    let made = t.create::<ReplicationController>(controller("pod-adoption", 1)).await;
    controlled(&t, "pod-adoption", made.metadata.uid.as_deref()).await;
    running(&t, "name=pod-adoption", 1).await;
}

// Conformance: Replication Controller, release pods
#[tokio::test(start_paused = true)]
async fn a_pod_that_matches_no_more_is_released() {
    let t = TestCluster::start().await;
    let made = t.create::<ReplicationController>(controller("pod-release", 1)).await;
    let pod = running(&t, "name=pod-release", 1).await[0].name_any();
    controlled(&t, &pod, made.metadata.uid.as_deref()).await;
    let other = Patch::Merge(json!({"metadata": {"labels": {"name": "not-matching-name"}}}));
    t.api::<Pod>().patch(&pod, &PatchParams::default(), &other).await.expect("patched");
    controlled(&t, &pod, None).await;
    running(&t, "name=pod-release", 1).await;
}

// Conformance: Replication Controller, check for issues like exceeding allocated quota
#[tokio::test(start_paused = true)]
async fn a_replication_controller_says_that_a_quota_stops_it_until_it_does_not() {
    let t = TestCluster::start().await;
    pod_quota(&t, "condition-test", "2").await;
    t.create::<ReplicationController>(controller("condition-test", 3)).await;
    let controllers = t.api::<ReplicationController>();
    let failure = async || {
        let read = controllers.get("condition-test").await.expect("read");
        let status = read.status.clone().unwrap_or_default();
        let seen = status.observed_generation >= read.metadata.generation;
        let mut conditions = status.conditions.into_iter().flatten();
        (seen, conditions.find(|it| it.type_ == "ReplicaFailure"))
    };
    let said = until("the failure", async || failure().await.1).await;
    assert_eq!((said.status.as_str(), said.reason.as_deref()), ("True", Some("FailedCreate")));
    running(&t, "name=condition-test", 2).await;

    let two = Patch::Merge(json!({"spec": {"replicas": 2}}));
    controllers.patch("condition-test", &PatchParams::default(), &two).await.expect("patched");
    until("no failure", async || matches!(failure().await, (true, None)).then_some(())).await;
}

// Conformance: Replication Controller, get and update ReplicationController scale
#[tokio::test(start_paused = true)]
async fn a_replication_controller_is_scaled_by_its_subresource() {
    let t = TestCluster::start().await;
    let controllers = t.api::<ReplicationController>();
    t.create::<ReplicationController>(controller("e2e-rc", 1)).await;
    running(&t, "name=e2e-rc", 1).await;
    let mut scale = until("its status", async || {
        let scale = controllers.get_scale("e2e-rc").await.expect("read");
        (scale.status.as_ref()?.replicas == 1).then_some(scale)
    })
    .await;
    assert_eq!(scale.spec.as_ref().and_then(|spec| spec.replicas), Some(1));
    scale.metadata.resource_version = None;
    scale.spec.as_mut().expect("a spec").replicas = Some(2);
    let scaled = controllers.replace_scale("e2e-rc", &PostParams::default(), &scale).await;
    assert_eq!(scaled.expect("updated").spec.and_then(|spec| spec.replicas), Some(2));
    running(&t, "name=e2e-rc", 2).await;
    let read = controllers.get("e2e-rc").await.expect("read");
    assert_eq!(read.spec.and_then(|spec| spec.replicas), Some(2));
}
