//! ReplicaSets: their life, their subresources, and whose Pods they take.

use rk::{
    k8s_openapi::api::{
        apps::v1::ReplicaSet,
        core::v1::{Pod, ResourceQuota},
    },
    kube::{
        Api, ResourceExt,
        api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    },
};
use serde_json::{Value, json};

use crate::{
    cluster::{TestCluster, until},
    watched::Watched,
};

/// A ReplicaSet whose Pods have the label `name`, one of their own, and stop at once.
pub fn replica_set(name: &str, label: &str, replicas: i32, image: &str) -> Value {
    let labels = json!({"name": label, "pod": "httpd"});
    json!({
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{"name": "httpd", "image": image}],
                },
            },
        },
    })
}

/// Waits until just so many Pods of this label run and are ready.
pub async fn running(t: &TestCluster, labels: &str, count: usize) -> Vec<Pod> {
    let pods = t.api::<Pod>();
    let is_ready = |pod: &Pod| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|it| it.type_ == "Ready" && it.status == "True")
    };
    until(&format!("{count} running Pods"), async || {
        let pods = pods.list(&ListParams::default().labels(labels)).await.expect("listed").items;
        (pods.len() == count && pods.iter().all(is_ready)).then_some(pods)
    })
    .await
}

fn controllers(pod: &Pod) -> Vec<String> {
    let owners = pod.owner_references().iter();
    owners.filter(|it| it.controller == Some(true)).map(|it| it.uid.clone()).collect()
}

/// A bare Pod of the label `name=<name>`.
pub async fn bare_pod(t: &TestCluster, name: &str) {
    t.create::<Pod>(json!({
        "metadata": {"name": name, "labels": {"name": name}},
        "spec": {"containers": [{"name": "c", "image": "httpd"}]},
    }))
    .await;
    running(t, &format!("name={name}"), 1).await;
}

/// Waits until the Pod of this name is controlled by this owner, or by none.
pub async fn controlled(t: &TestCluster, pod: &str, owner: Option<&str>) {
    let pods = t.api::<Pod>();
    until(&format!("{pod} controlled by {owner:?}"), async || {
        let pod = pods.get(pod).await.expect("read");
        (controllers(&pod).first().map(String::as_str) == owner).then_some(())
    })
    .await;
}

/// A quota of this many Pods, enforced.
pub async fn pod_quota(t: &TestCluster, name: &str, pods: &str) {
    let quota = json!({"metadata": {"name": name}, "spec": {"hard": {"pods": pods}}});
    t.create::<ResourceQuota>(quota).await;
    let quotas = t.api::<ResourceQuota>();
    until("the quota's status", async || {
        let status = quotas.get(name).await.expect("read").status?;
        status.hard?.get("pods").map(|hard| assert_eq!(hard.0, pods))
    })
    .await;
}

// Conformance: Replica Set, adopt matching pods and release non matching pods
#[tokio::test(start_paused = true)]
async fn a_matching_pod_is_adopted_and_let_go_when_it_matches_no_more() {
    let t = TestCluster::start().await;
    let name = "pod-adoption-release";
    bare_pod(&t, name).await;
    let mut set = replica_set(name, name, 1, "httpd");
    for path in ["/spec/selector/matchLabels", "/spec/template/metadata/labels"] {
        *set.pointer_mut(path).expect("labels") = json!({"name": name});
    }
    let uid = t.create::<ReplicaSet>(set).await.uid().expect("a UID");
    controlled(&t, name, Some(&uid)).await;
    assert_eq!(running(&t, &format!("name={name}"), 1).await[0].name_any(), name);

    let other = Patch::Merge(json!({"metadata": {"labels": {"name": "not-matching-name"}}}));
    t.api::<Pod>().patch(name, &PatchParams::default(), &other).await.expect("patched");
    controlled(&t, name, None).await;
    let instead = running(&t, &format!("name={name}"), 1).await;
    assert_eq!(controllers(&instead[0]), [uid]);
}

// Conformance: ReplicaSet, completes the scaling of a ReplicaSet subresource
#[tokio::test(start_paused = true)]
async fn a_replica_set_is_scaled_by_its_subresource() {
    let t = TestCluster::start().await;
    t.create::<ReplicaSet>(replica_set("test-rs", "sample-pod", 1, "httpd")).await;
    running(&t, "name=sample-pod", 1).await;
    let sets = t.api::<ReplicaSet>();
    let mut scale = until("its status", async || {
        let scale = sets.get_scale("test-rs").await.expect("read");
        (scale.status.as_ref()?.replicas == 1).then_some(scale)
    })
    .await;
    assert_eq!(scale.spec.as_ref().and_then(|spec| spec.replicas), Some(1));

    scale.metadata.resource_version = None;
    scale.spec.as_mut().expect("a spec").replicas = Some(2);
    let scaled = sets.replace_scale("test-rs", &PostParams::default(), &scale).await;
    assert_eq!(scaled.expect("updated").spec.and_then(|spec| spec.replicas), Some(2));
    assert_eq!(sets.get("test-rs").await.expect("read").spec.replicas, Some(2));

    let four = Patch::Merge(json!({"spec": {"replicas": 4}}));
    sets.patch_scale("test-rs", &PatchParams::default(), &four).await.expect("patched");
    assert_eq!(sets.get("test-rs").await.expect("read").spec.replicas, Some(4));
    running(&t, "name=sample-pod", 4).await;
}

// Conformance: ReplicaSet, is created, Replaced and Patched
#[tokio::test(start_paused = true)]
async fn a_replica_set_is_replaced_and_patched() {
    let t = TestCluster::start().await;
    let sets = t.api::<ReplicaSet>();
    let mut watched = Watched::new(&sets, "test-rs=patched").await;
    t.create::<ReplicaSet>(replica_set("test-rs", "sample-pod", 1, "httpd")).await;
    running(&t, "name=sample-pod", 1).await;

    until("the update", async || {
        let mut set = sets.get("test-rs").await.expect("read");
        set.spec.replicas = Some(2);
        sets.replace("test-rs", &PostParams::default(), &set).await.ok()
    })
    .await;
    let patch = json!({
        "metadata": {"labels": {"test-rs": "patched"}},
        "spec": {"replicas": 3, "template": {"spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "test-rs", "image": "pause"}],
        }}},
    });
    let (params, patch) = (PatchParams::default(), Patch::Strategic(patch));
    sets.patch("test-rs", &params, &patch).await.expect("patched");
    let patched = watched
        .shows("three available Pods", |set| {
            let status = set.status.clone().unwrap_or_default();
            (status.ready_replicas, status.available_replicas) == (Some(3), Some(3))
        })
        .await;
    let spec = patched.spec.template.and_then(|template| template.spec).expect("a spec");
    // A strategic patch merges containers by name: the new one comes first.
    assert_eq!(spec.containers[0].image.as_deref(), Some("pause"));
    assert_eq!(spec.containers.len(), 2);
    assert_eq!(spec.termination_grace_period_seconds, Some(0));
}

// Conformance: ReplicaSet, list and delete a collection of ReplicaSets
#[tokio::test(start_paused = true)]
async fn replica_sets_are_listed_and_deleted_by_label() {
    let t = TestCluster::start().await;
    let mut set = replica_set("test-rs", "sample-pod", 3, "httpd");
    set["metadata"]["labels"]["e2e"] = json!("x7k2p");
    t.create::<ReplicaSet>(set).await;
    running(&t, "name=sample-pod", 3).await;
    let labelled = ListParams::default().labels("e2e=x7k2p");
    let everywhere: Api<ReplicaSet> = Api::all(t.client());
    assert_eq!(everywhere.list(&labelled).await.expect("listed").items.len(), 1);
    let params = DeleteParams::default().grace_period(1);
    t.api::<ReplicaSet>().delete_collection(&params, &labelled).await.expect("deleted");
    assert!(everywhere.list(&labelled).await.expect("listed").items.is_empty());
}

// Conformance: ReplicaSet, status sub-resource
#[tokio::test(start_paused = true)]
async fn the_status_of_a_replica_set_is_read_updated_and_patched() {
    let t = TestCluster::start().await;
    let sets = t.api::<ReplicaSet>();
    let mut watched = Watched::new(&sets, "name=sample-pod,pod=httpd").await;
    t.create::<ReplicaSet>(replica_set("test-rs", "sample-pod", 1, "httpd")).await;
    running(&t, "name=sample-pod", 1).await;
    watched
        .shows("its Pod ready", |set| {
            set.status.as_ref().and_then(|status| status.ready_replicas) == Some(1)
        })
        .await;

    let read = sets.get_status("test-rs").await.expect("read");
    assert_eq!(read.status.expect("a status").replicas, 1);
    let condition = json!({"type": "StatusUpdate", "status": "True", "reason": "E2E",
        "message": "Set from e2e test"});
    let has = |set: &ReplicaSet, kind: &str| {
        let conditions = set.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|it| it.type_.as_deref() == Some(kind))
    };
    let updated = until("the update", async || {
        let mut set = sets.get("test-rs").await.expect("read");
        let status = set.status.as_mut().expect("a status");
        let condition = serde_json::from_value(condition.clone()).expect("a condition");
        status.conditions.get_or_insert_default().push(condition);
        sets.replace_status("test-rs", &PostParams::default(), &set).await.ok()
    })
    .await;
    assert!(has(&updated, "StatusUpdate"));
    watched.shows("the updated status", |set| has(set, "StatusUpdate")).await;

    let patch = json!({"status": {"conditions": [{"type": "StatusPatched", "status": "True"}]}});
    let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
    let patched = sets.patch_status("test-rs", &params, &patch).await.expect("patched");
    assert!(has(&patched, "StatusPatched"));
    watched.shows("the patched status", |set| has(set, "StatusPatched")).await;
}

/// Not on the list of conformance tests, unlike the same for ReplicationControllers.
#[tokio::test(start_paused = true)]
async fn a_replica_set_says_that_a_quota_stops_it_until_it_does_not() {
    let t = TestCluster::start().await;
    pod_quota(&t, "condition-test", "2").await;
    t.create::<ReplicaSet>(replica_set("condition-test", "limited", 3, "httpd")).await;
    let sets = t.api::<ReplicaSet>();
    let failure = async || {
        let status = sets.get("condition-test").await.expect("read").status.unwrap_or_default();
        let mut conditions = status.conditions.into_iter().flatten();
        conditions.find(|it| it.type_.as_deref() == Some("ReplicaFailure"))
    };
    let said = until("the failure", failure).await;
    assert_eq!(said.reason.as_deref(), Some("FailedCreate"));
    assert!(said.message.unwrap_or_default().contains("exceeded quota: condition-test"));

    let two = Patch::Merge(json!({"spec": {"replicas": 2}}));
    sets.patch("condition-test", &PatchParams::default(), &two).await.expect("patched");
    until("no failure", async || failure().await.is_none().then_some(())).await;
}
