//! ReplicaSets and ReplicationControllers: scenarios S62, S125 to S129.

use k8s_openapi::api::{
    apps::v1::ReplicaSet,
    core::v1::{Pod, ReplicationController},
};
use kube::{ResourceExt, api::DeleteParams};
use serde_json::{Value, json};

use crate::cluster::TestCluster;

pub fn replica_set(name: &str, replicas: i32) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "myapp:v1"}]}},
        },
    })
}

fn names(pods: &[Pod]) -> Vec<String> {
    pods.iter().map(|pod| pod.name_any()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_replicaset_makes_its_pods_and_reports_them() {
    let cluster = TestCluster::start().await;
    cluster.create::<ReplicaSet>(replica_set("web", 3)).await;
    cluster.settle().await;

    let pods = cluster.pods_of("web").await;
    assert_eq!(pods.len(), 3, "{}", cluster.history().await);
    for pod in &pods {
        assert!(pod.name_any().starts_with("web-"));
        let owner = &pod.owner_references()[0];
        assert_eq!(
            (owner.kind.as_str(), owner.name.as_str(), owner.controller),
            ("ReplicaSet", "web", Some(true))
        );
    }
    let status = cluster.get::<ReplicaSet>("web").await.unwrap().status.unwrap();
    assert_eq!(
        (status.replicas, status.ready_replicas, status.available_replicas),
        (3, Some(3), Some(3))
    );
    assert_eq!(cluster.events("SuccessfulCreate").await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_replicaset_replaces_a_deleted_pod() {
    let cluster = TestCluster::start().await;
    cluster.create::<ReplicaSet>(replica_set("web", 3)).await;
    cluster.settle().await;
    let before = names(&cluster.pods_of("web").await);

    cluster.delete::<Pod>(&before[0], &DeleteParams::default()).await;
    cluster.settle().await;

    let after = names(&cluster.pods_of("web").await);
    assert_eq!(after.len(), 3, "{}", cluster.history().await);
    assert!(
        !after.contains(&before[0]) && after.contains(&before[1]) && after.contains(&before[2])
    );
}

#[tokio::test(start_paused = true)]
async fn scaling_makes_and_deletes_pods() {
    let cluster = TestCluster::start().await;
    cluster.create::<ReplicaSet>(replica_set("web", 1)).await;
    for replicas in [40, 3, 0, 2] {
        cluster.patch::<ReplicaSet>("web", json!({"spec": {"replicas": replicas}})).await;
        cluster.settle().await;
        assert_eq!(cluster.pods_of("web").await.len(), replicas, "{}", cluster.history().await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_relabelled_pod_is_let_go_and_taken_back() {
    let cluster = TestCluster::start().await;
    cluster.create::<ReplicaSet>(replica_set("web", 3)).await;
    cluster.settle().await;
    let pod = cluster.pods_of("web").await[0].name_any();

    cluster.patch::<Pod>(&pod, json!({"metadata": {"labels": {"app": "other"}}})).await;
    cluster.settle().await;
    let released = cluster.get::<Pod>(&pod).await.unwrap();
    assert!(released.owner_references().is_empty(), "{released:?}");
    assert_eq!(cluster.pods_of("web").await.len(), 3);

    cluster.patch::<Pod>(&pod, json!({"metadata": {"labels": {"app": "web"}}})).await;
    cluster.settle().await;
    let pods = cluster.pods_of("web").await;
    assert_eq!(pods.len(), 3);
    assert!(pods.iter().all(|pod| pod.owner_references().len() == 1));
}

#[tokio::test(start_paused = true)]
async fn a_matching_pod_is_adopted_and_anothers_is_left_alone() {
    let cluster = TestCluster::start().await;
    let container = json!({"containers": [{"name": "c", "image": "x"}]});
    let bare = json!({"metadata": {"name": "bare", "labels": {"app": "web"}}, "spec": container});
    let foreign_owner = json!([{"apiVersion": "example.com/v1", "kind": "Thing", "name": "t", "uid": "t", "controller": true}]);
    let foreign = json!({"metadata": {"name": "foreign", "labels": {"app": "web"}, "ownerReferences": foreign_owner}, "spec": container});
    cluster.create::<Pod>(bare).await;
    cluster.create::<Pod>(foreign).await;
    cluster.create::<ReplicaSet>(replica_set("web", 2)).await;
    cluster.settle().await;

    let owner = |pod: Option<Pod>| pod.unwrap().owner_references()[0].kind.clone();
    assert_eq!(owner(cluster.get("bare").await), "ReplicaSet");
    assert_eq!(owner(cluster.get("foreign").await), "Thing");
    assert_eq!(cluster.pods_of("web").await.len(), 3, "two of the set and the foreign one");
}

#[tokio::test(start_paused = true)]
async fn set_based_selectors_select_as_written() {
    let cluster = TestCluster::start().await;
    let mut set = replica_set("web", 2);
    set["spec"]["selector"] = json!({"matchExpressions": [
        {"key": "app", "operator": "In", "values": ["web", "shop"]},
        {"key": "tier", "operator": "DoesNotExist"},
    ]});
    cluster.create::<ReplicaSet>(set).await;
    cluster.settle().await;
    let pod = cluster.pods_of("web").await[0].name_any();

    cluster.patch::<Pod>(&pod, json!({"metadata": {"labels": {"tier": "x"}}})).await;
    cluster.settle().await;
    assert!(cluster.get::<Pod>(&pod).await.unwrap().owner_references().is_empty());
    assert_eq!(cluster.pods_of("web").await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_replication_controller_keeps_its_count_too() {
    let cluster = TestCluster::start().await;
    cluster
        .create::<ReplicationController>(json!({
            "metadata": {"name": "rc"},
            "spec": {"replicas": 2, "selector": {"app": "rc"},
                "template": {"metadata": {"labels": {"app": "rc"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}},
        }))
        .await;
    cluster.settle().await;
    let pods = cluster.pods_of("rc").await;
    assert_eq!(pods.len(), 2);
    assert_eq!(pods[0].owner_references()[0].kind, "ReplicationController");

    cluster.delete::<Pod>(&pods[0].name_any(), &DeleteParams::default()).await;
    cluster.settle().await;
    assert_eq!(cluster.pods_of("rc").await.len(), 2);
    let status = cluster.get::<ReplicationController>("rc").await.unwrap().status.unwrap();
    assert_eq!((status.replicas, status.ready_replicas), (2, Some(2)));
}

#[tokio::test(start_paused = true)]
async fn pods_become_available_when_they_have_been_ready_for_long_enough() {
    let cluster = TestCluster::start().await;
    let mut set = replica_set("web", 2);
    set["spec"]["minReadySeconds"] = json!(60);
    cluster.create::<ReplicaSet>(set).await;
    cluster.settle().await;
    let available =
        async || cluster.get::<ReplicaSet>("web").await.unwrap().status.unwrap().available_replicas;
    assert_eq!(available().await, Some(0));
    cluster.wait(60).await;
    assert_eq!(available().await, Some(2));
}
