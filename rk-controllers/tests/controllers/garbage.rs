//! Owner references: background, foreground and orphan deletion.

use k8s_openapi::api::{
    apps::v1::ReplicaSet,
    core::v1::{ConfigMap, Pod},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams},
};
use serde_json::json;

use crate::{
    cluster::{TestCluster, from_json},
    replica_sets::replica_set,
};

async fn with_replica_set() -> TestCluster {
    let cluster = TestCluster::start().await;
    cluster.create::<ReplicaSet>(replica_set("web", 2)).await;
    cluster.settle().await;
    assert_eq!(cluster.pods_of("web").await.len(), 2);
    cluster
}

#[tokio::test(start_paused = true)]
async fn in_background_the_owner_goes_at_once_and_dependents_follow() {
    let cluster = with_replica_set().await;
    cluster.delete::<ReplicaSet>("web", &DeleteParams::background()).await;
    assert!(cluster.get::<ReplicaSet>("web").await.is_none());
    cluster.settle().await;
    assert!(cluster.list::<Pod>("app=web").await.is_empty(), "{}", cluster.history().await);
}

#[tokio::test(start_paused = true)]
async fn in_foreground_the_owner_waits_for_its_dependents() {
    let cluster = with_replica_set().await;
    cluster.kill_node("n1");
    cluster.kill_node("n2");

    cluster.delete::<ReplicaSet>("web", &DeleteParams::foreground()).await;
    cluster.settle().await;
    let waiting = cluster.get::<ReplicaSet>("web").await.expect("its Pods have not ended");
    assert!(waiting.metadata.deletion_timestamp.is_some());
    assert!(
        cluster
            .list::<Pod>("app=web")
            .await
            .iter()
            .all(|pod| pod.metadata.deletion_timestamp.is_some())
    );

    for pod in cluster.list::<Pod>("app=web").await {
        cluster.delete::<Pod>(&pod.name_any(), &DeleteParams::default().grace_period(0)).await;
    }
    cluster.settle().await;
    assert!(cluster.get::<ReplicaSet>("web").await.is_none());
}

#[tokio::test(start_paused = true)]
async fn orphaned_dependents_stay_and_can_be_adopted() {
    let cluster = with_replica_set().await;
    let before: Vec<_> = cluster.pods_of("web").await.iter().map(|pod| pod.name_any()).collect();
    cluster.delete::<ReplicaSet>("web", &DeleteParams::orphan()).await;
    cluster.settle().await;
    assert!(cluster.get::<ReplicaSet>("web").await.is_none());
    let pods = cluster.pods_of("web").await;
    assert_eq!(pods.len(), 2);
    assert!(pods.iter().all(|pod| pod.owner_references().is_empty()));

    cluster.create::<ReplicaSet>(replica_set("web", 2)).await;
    cluster.settle().await;
    let after: Vec<_> = cluster.pods_of("web").await.iter().map(|pod| pod.name_any()).collect();
    assert_eq!(after, before);
}

#[tokio::test(start_paused = true)]
async fn an_object_whose_owner_never_was_is_collected() {
    let cluster = TestCluster::start().await;
    let owner =
        |uid: &str| json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}]);
    cluster
        .create::<ConfigMap>(
            json!({"metadata": {"name": "lost", "ownerReferences": owner("nobody")}}),
        )
        .await;
    cluster.settle().await;
    assert!(cluster.get::<ConfigMap>("lost").await.is_none());

    let there = cluster.create::<ConfigMap>(json!({"metadata": {"name": "owner"}})).await;
    cluster
        .create::<ConfigMap>(
            json!({"metadata": {"name": "kept", "ownerReferences": owner(&there.uid().unwrap())}}),
        )
        .await;
    cluster
        .create::<ConfigMap>(
            json!({"metadata": {"name": "wrong-uid", "ownerReferences": owner("another")}}),
        )
        .await;
    cluster.settle().await;
    assert!(cluster.get::<ConfigMap>("kept").await.is_some());
    assert!(cluster.get::<ConfigMap>("wrong-uid").await.is_none());
}

#[tokio::test(start_paused = true)]
async fn one_owner_that_stays_is_enough() {
    let cluster = TestCluster::start().await;
    let a = cluster.create::<ConfigMap>(json!({"metadata": {"name": "a"}})).await;
    let b = cluster.create::<ConfigMap>(json!({"metadata": {"name": "b"}})).await;
    let reference = |owner: &ConfigMap| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner.name_any(), "uid": owner.uid()});
    cluster.create::<ConfigMap>(json!({"metadata": {"name": "shared", "ownerReferences": [reference(&a), reference(&b)]}})).await;
    cluster.delete::<ConfigMap>("a", &DeleteParams::default()).await;
    cluster.settle().await;
    let shared = cluster.get::<ConfigMap>("shared").await.unwrap();
    assert_eq!(shared.owner_references().len(), 1);

    cluster.delete::<ConfigMap>("b", &DeleteParams::default()).await;
    cluster.settle().await;
    assert!(cluster.get::<ConfigMap>("shared").await.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_owner_in_another_namespace_is_no_owner() {
    let cluster = TestCluster::start().await;
    let elsewhere = Api::<ConfigMap>::namespaced(cluster.client.clone(), "kube-public");
    let owner: ConfigMap = from_json(json!({"metadata": {"name": "owner"}}));
    let owner = elsewhere.create(&PostParams::default(), &owner).await.unwrap();
    let reference =
        json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.uid()}]);
    cluster
        .create::<ConfigMap>(
            json!({"metadata": {"name": "dependent", "ownerReferences": reference}}),
        )
        .await;
    cluster.settle().await;
    assert!(cluster.get::<ConfigMap>("dependent").await.is_none());
    let events = cluster.events("OwnerRefInvalidNamespace").await;
    assert!(events[0].contains("does not exist in namespace \"default\""), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn objects_that_own_each_other_do_not_wait_for_each_other() {
    let cluster = TestCluster::start().await;
    let a = cluster.create::<ConfigMap>(json!({"metadata": {"name": "a"}})).await;
    let reference = |owner: &ConfigMap| json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": owner.name_any(), "uid": owner.uid(), "blockOwnerDeletion": true}]);
    let b = cluster
        .create::<ConfigMap>(json!({"metadata": {"name": "b", "ownerReferences": reference(&a)}}))
        .await;
    cluster.patch::<ConfigMap>("a", json!({"metadata": {"ownerReferences": reference(&b)}})).await;
    cluster.delete::<ConfigMap>("a", &DeleteParams::foreground()).await;
    cluster.settle().await;
    assert!(cluster.get::<ConfigMap>("a").await.is_none());
    assert!(cluster.get::<ConfigMap>("b").await.is_none());
}
