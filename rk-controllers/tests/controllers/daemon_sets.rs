//! DaemonSets: scenarios S15, S85, S135 to S138.

use std::collections::BTreeSet;

use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus},
    core::v1::{Node, Pod},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::cluster::{TestCluster, from_json, image};

fn daemon_set() -> Value {
    json!({
        "metadata": {"name": "log", "labels": {"app": "log"}},
        "spec": {
            "selector": {"matchLabels": {"app": "log"}},
            "template": {"metadata": {"labels": {"app": "log"}}, "spec": {"containers": [{"name": "c", "image": "myapp:v1"}]}},
        },
    })
}

fn new_image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
}

/// The nodes of the Pods that are not on their way out.
async fn nodes(cluster: &TestCluster) -> Vec<String> {
    let pods = cluster.pods_of("log").await;
    let mut nodes: Vec<_> =
        pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
    nodes.sort();
    nodes
}

async fn images(cluster: &TestCluster) -> Vec<String> {
    cluster.pods_of("log").await.iter().map(|pod| image(pod).replace("myapp:", "")).collect()
}

async fn uids(cluster: &TestCluster) -> BTreeSet<String> {
    cluster.pods_of("log").await.iter().filter_map(|pod| pod.uid()).collect()
}

async fn status(cluster: &TestCluster) -> DaemonSetStatus {
    cluster.get::<DaemonSet>("log").await.unwrap().status.unwrap()
}

async fn patch_node(cluster: &TestCluster, node: &str, patch: Value) {
    let api = Api::<Node>::all(cluster.client.clone());
    api.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

async fn mutate(cluster: &TestCluster, patch: Value) {
    let params = PatchParams::default();
    cluster.api::<DaemonSet>().patch("log", &params, &Patch::Strategic(patch)).await.unwrap();
}

// Conformance: DaemonSet-Creation
#[tokio::test(start_paused = true)]
async fn each_node_has_a_pod_and_one_that_joins_gets_one() {
    let cluster = TestCluster::start().await;
    cluster.create::<DaemonSet>(daemon_set()).await;
    cluster.settle().await;
    assert_eq!(nodes(&cluster).await, ["n1", "n2"], "{}", cluster.history().await);

    let pod = cluster.pods_of("log").await[0].name_any();
    cluster.delete::<Pod>(&pod, &DeleteParams::default()).await;
    cluster.settle().await;
    assert_eq!(nodes(&cluster).await, ["n1", "n2"], "a deleted one is made anew");

    cluster.add_node("n3").await;
    cluster.settle().await;
    assert_eq!(nodes(&cluster).await, ["n1", "n2", "n3"]);
    let seen = status(&cluster).await;
    assert_eq!(
        (seen.desired_number_scheduled, seen.number_ready, seen.number_available),
        (3, 3, Some(3))
    );

    Api::<Node>::all(cluster.client.clone()).delete("n3", &DeleteParams::default()).await.unwrap();
    cluster.wait(120).await;
    assert_eq!(nodes(&cluster).await, ["n1", "n2"], "the Pod of a node that is gone is collected");
    assert_eq!(status(&cluster).await.desired_number_scheduled, 2);

    cluster.delete::<DaemonSet>("log", &DeleteParams::default()).await;
    cluster.settle().await;
    assert!(nodes(&cluster).await.is_empty());
}

// Conformance: DaemonSet-NodeSelection
#[tokio::test(start_paused = true)]
async fn labels_of_nodes_decide_which_have_a_pod() {
    let cluster = TestCluster::start().await;
    let mut set = daemon_set();
    set["spec"]["template"]["spec"]["nodeSelector"] = json!({"color": "blue"});
    cluster.create::<DaemonSet>(set).await;
    cluster.settle().await;
    assert!(nodes(&cluster).await.is_empty());
    patch_node(&cluster, "n2", json!({"metadata": {"labels": {"color": "blue"}}})).await;
    cluster.settle().await;
    assert_eq!(nodes(&cluster).await, ["n2"]);
    patch_node(&cluster, "n2", json!({"metadata": {"labels": {"color": "green"}}})).await;
    cluster.settle().await;
    assert!(nodes(&cluster).await.is_empty());
    mutate(&cluster, json!({"spec": {"template": {"spec": {"nodeSelector": {"color": "green"}}}}}))
        .await;
    cluster.settle().await;
    assert_eq!(nodes(&cluster).await, ["n2"]);
}

#[tokio::test(start_paused = true)]
async fn taints_of_nodes_keep_pods_away_or_drive_them_off() {
    let cluster = TestCluster::start().await;
    let taint = |effect: &str| json!({"spec": {"taints": [{"key": "role", "effect": effect}]}});
    patch_node(&cluster, "n1", taint("NoSchedule")).await;
    cluster.create::<DaemonSet>(daemon_set()).await;
    cluster.settle().await;
    assert_eq!(nodes(&cluster).await, ["n2"]);
    patch_node(&cluster, "n2", taint("NoSchedule")).await;
    cluster.settle().await;
    assert_eq!(nodes(&cluster).await, ["n2"], "it stays where it is");
    assert_eq!(status(&cluster).await.number_misscheduled, 1);
    patch_node(&cluster, "n2", taint("NoExecute")).await;
    cluster.settle().await;
    assert!(nodes(&cluster).await.is_empty());
    mutate(&cluster, json!({"spec": {"template": {"spec": {"tolerations": [{"key": "role", "operator": "Exists"}]}}}})).await;
    cluster.settle().await;
    assert_eq!(nodes(&cluster).await, ["n1", "n2"]);
}

// Conformance: DaemonSet-FailedPodCreation
#[tokio::test(start_paused = true)]
async fn a_failed_pod_is_made_anew_with_a_growing_delay() {
    let cluster = TestCluster::start().await;
    cluster.create::<DaemonSet>(daemon_set()).await;
    cluster.settle().await;
    let fail = async || {
        let pod = cluster.pods_of("log").await.remove(0);
        let failed = Patch::Merge(json!({"status": {"phase": "Failed"}}));
        let api = cluster.api::<Pod>();
        api.patch_status(&pod.name_any(), &PatchParams::default(), &failed).await.unwrap();
        pod.name_any()
    };
    let first = fail().await;
    cluster.settle().await;
    assert!(cluster.get::<Pod>(&first).await.is_none());
    assert_eq!(nodes(&cluster).await, ["n1", "n2"]);
    let said = cluster.events("FailedDaemonPod").await;
    let prefix = format!("Found failed daemon pod default/{first} on node ");
    assert!(said[0].starts_with(&prefix) && said[0].ends_with(", will try to kill it"), "{said:?}");
}

// Conformance: DaemonSet-RollingUpdate
#[tokio::test(start_paused = true)]
async fn an_update_goes_node_by_node() {
    let cluster = TestCluster::start().await;
    cluster.create::<DaemonSet>(daemon_set()).await;
    cluster.settle().await;
    cluster.break_image("myapp:broken");
    mutate(&cluster, new_image("myapp:broken")).await;
    cluster.settle().await;
    let mut seen = images(&cluster).await;
    seen.sort();
    assert_eq!(seen, ["broken", "v1"], "it stops at the first");
    assert_eq!(status(&cluster).await.updated_number_scheduled, Some(1));

    mutate(&cluster, new_image("myapp:v2")).await;
    cluster.settle().await;
    assert_eq!(images(&cluster).await, ["v2", "v2"], "the broken one is replaced by itself");
    let pods = cluster.pods_of("log").await;
    let revisions = cluster.list::<ControllerRevision>("app=log").await;
    let newest = revisions.iter().max_by_key(|it| it.revision).unwrap();
    for pod in pods {
        assert_eq!(
            pod.labels()["controller-revision-hash"],
            newest.labels()["controller-revision-hash"]
        );
        assert_eq!(pod.labels()["pod-template-generation"], "3");
    }
}

// Conformance: DaemonSet-Rollback
#[tokio::test(start_paused = true)]
async fn going_back_restarts_only_what_was_updated() {
    let cluster = TestCluster::start().await;
    cluster.create::<DaemonSet>(daemon_set()).await;
    cluster.settle().await;
    let before = uids(&cluster).await;
    cluster.break_image("myapp:broken");
    mutate(&cluster, new_image("myapp:broken")).await;
    cluster.settle().await;
    mutate(&cluster, new_image("myapp:v1")).await;
    cluster.settle().await;
    assert_eq!(images(&cluster).await, ["v1", "v1"]);
    assert_eq!(uids(&cluster).await.intersection(&before).count(), 1, "the other never stopped");
    let mut revisions: Vec<_> =
        cluster.list::<ControllerRevision>("app=log").await.iter().map(|it| it.revision).collect();
    revisions.sort();
    assert_eq!(revisions, [Some(2), Some(3)], "the old revision has a new number");
}

#[tokio::test(start_paused = true)]
async fn with_a_surge_the_new_pod_is_ready_before_the_old_one_goes() {
    let cluster = TestCluster::start().await;
    let mut set = daemon_set();
    set["spec"]["updateStrategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "100%"}});
    cluster.create::<DaemonSet>(set).await;
    cluster.settle().await;
    let before = uids(&cluster).await;
    cluster.break_image("myapp:broken");
    mutate(&cluster, new_image("myapp:broken")).await;
    cluster.settle().await;
    assert!(uids(&cluster).await.is_superset(&before), "the old ones serve on");
    assert_eq!(uids(&cluster).await.len(), 4, "one more on each node");
    assert_eq!(status(&cluster).await.number_available, Some(2));
    mutate(&cluster, new_image("myapp:v2")).await;
    cluster.settle().await;
    assert_eq!(images(&cluster).await, ["v2", "v2"], "{}", cluster.history().await);
}

#[tokio::test(start_paused = true)]
async fn with_on_delete_a_pod_is_updated_when_somebody_deletes_it() {
    let cluster = TestCluster::start().await;
    let mut set = daemon_set();
    set["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
    cluster.create::<DaemonSet>(set).await;
    cluster.settle().await;
    mutate(&cluster, new_image("myapp:v2")).await;
    cluster.settle().await;
    assert_eq!(images(&cluster).await, ["v1", "v1"]);
    let pod = cluster.pods_of("log").await[0].name_any();
    cluster.delete::<Pod>(&pod, &DeleteParams::default()).await;
    cluster.settle().await;
    let mut seen = images(&cluster).await;
    seen.sort();
    assert_eq!(seen, ["v1", "v2"]);
}

// Conformance: DaemonSet, list and delete a collection of DaemonSets
#[tokio::test(start_paused = true)]
async fn daemon_sets_are_listed_and_deleted_together() {
    let cluster = TestCluster::start().await;
    cluster.create::<DaemonSet>(daemon_set()).await;
    cluster.settle().await;
    let one = ListParams::default().labels("app=log");
    assert_eq!(cluster.api::<DaemonSet>().list(&one).await.unwrap().items.len(), 1);
    cluster.api::<DaemonSet>().delete_collection(&DeleteParams::default(), &one).await.unwrap();
    cluster.settle().await;
    assert!(cluster.get::<DaemonSet>("log").await.is_none() && nodes(&cluster).await.is_empty());
}

// Conformance: DaemonSet, status sub-resource
#[tokio::test(start_paused = true)]
async fn the_status_is_read_updated_and_patched() {
    let cluster = TestCluster::start().await;
    cluster.create::<DaemonSet>(daemon_set()).await;
    cluster.settle().await;
    let sets = cluster.api::<DaemonSet>();
    let mut set = sets.get_status("log").await.unwrap();
    let conditions =
        |reason: &str| json!([{"type": "StatusUpdate", "status": "True", "reason": reason}]);
    set.status.get_or_insert_default().conditions = from_json(conditions("E2E"));
    sets.replace_status("log", &PostParams::default(), &set).await.unwrap();
    cluster.settle().await;
    let patch = Patch::Merge(json!({"status": {"conditions": conditions("patched")}}));
    sets.patch_status("log", &PatchParams::default(), &patch).await.unwrap();
    cluster.settle().await;
    let seen = status(&cluster).await.conditions.unwrap();
    assert_eq!(seen[0].reason.as_deref(), Some("patched"), "the controller leaves it alone");
}

// Conformance: ControllerRevision, resource lifecycle
#[tokio::test(start_paused = true)]
async fn revisions_are_labelled_replaced_and_deleted_by_users() {
    let cluster = TestCluster::start().await;
    cluster.create::<DaemonSet>(daemon_set()).await;
    cluster.settle().await;
    let revisions = cluster.api::<ControllerRevision>();
    let all = async || cluster.list::<ControllerRevision>("app=log").await;
    let [initial] = all().await.try_into().unwrap();
    let label = |value: &str| json!({"metadata": {"labels": {"stage": value}}});
    let patched = cluster.patch::<ControllerRevision>(&initial.name_any(), label("patched")).await;
    assert_eq!(patched.labels()["stage"], "patched");
    cluster.settle().await;
    let running = uids(&cluster).await;

    let mut copy = initial.clone();
    copy.metadata.name = Some("log-copy".into());
    (copy.metadata.uid, copy.metadata.resource_version) = (None, None);
    copy.labels_mut().insert("controller-revision-hash".into(), "copy".into());
    copy.revision = initial.revision.map(|number| number + 1);
    revisions.create(&PostParams::default(), &copy).await.unwrap();
    assert_eq!(all().await.len(), 2);
    cluster.delete::<ControllerRevision>(&initial.name_any(), &DeleteParams::default()).await;
    cluster.settle().await;
    let [mut kept] = all().await.try_into().unwrap();
    assert_eq!(kept.name_any(), "log-copy");
    kept.labels_mut().insert("stage".into(), "updated".into());
    revisions.replace("log-copy", &PostParams::default(), &kept).await.unwrap();

    mutate(&cluster, json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}}))
        .await;
    cluster.settle().await;
    assert_eq!(all().await.len(), 2);
    assert!(uids(&cluster).await.is_disjoint(&running));
    let old = ListParams::default().labels("stage=updated");
    revisions.delete_collection(&DeleteParams::default(), &old).await.unwrap();
    let [newest] = all().await.try_into().unwrap();
    assert_eq!(newest.revision, Some(3));
}

#[tokio::test(start_paused = true)]
async fn of_two_revisions_of_one_template_the_newer_gets_the_pods() {
    let cluster = TestCluster::start().await;
    cluster.create::<DaemonSet>(daemon_set()).await;
    cluster.settle().await;
    let running = uids(&cluster).await;
    let [initial] = cluster.list::<ControllerRevision>("app=log").await.try_into().unwrap();
    let mut copy = initial.clone();
    copy.metadata.name = Some("log-copy".into());
    (copy.metadata.uid, copy.metadata.resource_version) = (None, None);
    copy.labels_mut().insert("controller-revision-hash".into(), "copy".into());
    copy.revision = Some(2);
    cluster.api().create(&PostParams::default(), &copy).await.unwrap();
    cluster.patch::<DaemonSet>("log", json!({"metadata": {"annotations": {"wake": "up"}}})).await;
    cluster.settle().await;
    let [kept] = cluster.list::<ControllerRevision>("app=log").await.try_into().unwrap();
    assert_eq!(kept.name_any(), "log-copy");
    assert_eq!(uids(&cluster).await, running, "no Pod was restarted");
    let pods = cluster.pods_of("log").await;
    assert!(pods.iter().all(|pod| pod.labels()["controller-revision-hash"] == "copy"));
}

#[tokio::test(start_paused = true)]
async fn matching_orphans_are_adopted_and_others_let_go() {
    let cluster = TestCluster::start().await;
    cluster.create::<DaemonSet>(daemon_set()).await;
    cluster.settle().await;
    let before = uids(&cluster).await;
    cluster.delete::<DaemonSet>("log", &DeleteParams::orphan()).await;
    cluster.settle().await;
    cluster.create::<DaemonSet>(daemon_set()).await;
    cluster.settle().await;
    assert_eq!(uids(&cluster).await, before);
    assert_eq!(status(&cluster).await.updated_number_scheduled, Some(2));

    let pod = cluster.pods_of("log").await[0].name_any();
    cluster.patch::<Pod>(&pod, json!({"metadata": {"labels": {"app": "other"}}})).await;
    cluster.settle().await;
    assert!(cluster.get::<Pod>(&pod).await.unwrap().owner_references().is_empty());
    assert_eq!(nodes(&cluster).await, ["n1", "n2"]);
}
