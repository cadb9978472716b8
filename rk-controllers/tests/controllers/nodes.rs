//! Nodes that fall silent, and Pod ranges: scenario S122.

use k8s_openapi::api::{
    apps::v1::ReplicaSet,
    coordination::v1::Lease,
    core::v1::{Node, Pod},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PostParams},
};
use rk_api::{clock, meta::RENEWED_WITH};
use serde_json::json;

use crate::{cluster::TestCluster, replica_sets::replica_set};

async fn node(cluster: &TestCluster, name: &str) -> Node {
    Api::all(cluster.client.clone()).get(name).await.unwrap()
}

fn taints(node: &Node) -> Vec<String> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let mut taints: Vec<_> =
        taints.into_iter().map(|taint| format!("{}:{}", taint.key, taint.effect)).collect();
    taints.sort();
    taints
}

fn ready(node: &Node) -> (String, String) {
    let conditions = node.status.as_ref().unwrap().conditions.clone().unwrap();
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready").unwrap();
    (ready.status, ready.reason.unwrap_or_default())
}

fn node_of(pod: &Pod) -> String {
    pod.spec.as_ref().unwrap().node_name.clone().unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_loses_its_pods_after_five_minutes() {
    let cluster = TestCluster::start().await;
    cluster.create::<ReplicaSet>(replica_set("web", 4)).await;
    cluster.settle().await;
    let on_n1 = |pods: &[Pod]| pods.iter().filter(|pod| node_of(pod) == "n1").count();
    assert_eq!(on_n1(&cluster.pods_of("web").await), 2);
    assert!(taints(&node(&cluster, "n1").await).is_empty());

    cluster.kill_node("n1");
    cluster.wait(35).await;
    assert_eq!(ready(&node(&cluster, "n1").await).0, "True", "within the grace period");
    cluster.wait(25).await;
    let silent = node(&cluster, "n1").await;
    assert_eq!(ready(&silent), ("Unknown".into(), "NodeStatusUnknown".into()));
    assert_eq!(
        taints(&silent),
        ["node.kubernetes.io/unreachable:NoExecute", "node.kubernetes.io/unreachable:NoSchedule"]
    );
    let status = cluster.get::<ReplicaSet>("web").await.unwrap().status.unwrap();
    assert_eq!(
        (status.replicas, status.ready_replicas),
        (4, Some(2)),
        "its Pods are marked not ready"
    );

    cluster.wait(230).await;
    assert_eq!(on_n1(&cluster.pods_of("web").await), 2, "they are tolerated for 300 s");
    cluster.wait(80).await;
    let pods = cluster.pods_of("web").await;
    assert_eq!((pods.len(), on_n1(&pods)), (4, 0), "{}", cluster.history().await);
    let status = cluster.get::<ReplicaSet>("web").await.unwrap().status.unwrap();
    assert_eq!(status.ready_replicas, Some(4));
    assert!(!cluster.events("TaintManagerEviction").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_back_keeps_its_pods() {
    let cluster = TestCluster::start().await;
    cluster.create::<ReplicaSet>(replica_set("web", 4)).await;
    cluster.settle().await;
    let before: Vec<_> = cluster.pods_of("web").await.iter().map(|pod| pod.name_any()).collect();

    cluster.kill_node("n1");
    cluster.wait(120).await;
    cluster.revive_node("n1");
    let status = json!({"status": {"conditions": [{
        "type": "Ready", "status": "True", "lastHeartbeatTime": rk_api::clock::now_seconds(), "lastTransitionTime": rk_api::clock::now_seconds(),
    }]}});
    let nodes = Api::<Node>::all(cluster.client.clone());
    nodes
        .patch_status("n1", &Default::default(), &kube::api::Patch::Strategic(status))
        .await
        .unwrap();
    cluster.wait(400).await;

    assert!(taints(&node(&cluster, "n1").await).is_empty());
    let after: Vec<_> = cluster.pods_of("web").await.iter().map(|pod| pod.name_any()).collect();
    assert_eq!(after, before);
}

#[tokio::test(start_paused = true)]
async fn a_node_lives_as_long_as_the_lease_that_its_own_is_renewed_with() {
    let cluster = TestCluster::start().await;
    cluster.settle().await;
    let leases = Api::<Lease>::namespaced(cluster.client.clone(), "kube-node-lease");
    let with = json!({"metadata": {"annotations": {RENEWED_WITH: "shared"}}});
    leases.patch("n1", &Default::default(), &Patch::Merge(with)).await.unwrap();
    cluster.kill_node("n1");
    let shared = serde_json::from_value(json!({"metadata": {"name": "shared"}})).unwrap();
    leases.create(&PostParams::default(), &shared).await.unwrap();
    for _ in 0..20 {
        let renewed = json!({"spec": {"renewTime": clock::now_micros()}});
        leases.patch("shared", &Default::default(), &Patch::Merge(renewed)).await.unwrap();
        cluster.wait(10).await;
    }
    assert_eq!(ready(&node(&cluster, "n1").await).0, "True");

    cluster.wait(60).await;
    assert_eq!(ready(&node(&cluster, "n1").await).0, "Unknown");
}

#[tokio::test(start_paused = true)]
async fn nobody_is_evicted_when_every_node_is_silent() {
    let cluster = TestCluster::start().await;
    cluster.create::<ReplicaSet>(replica_set("web", 2)).await;
    cluster.settle().await;
    cluster.kill_node("n1");
    cluster.kill_node("n2");
    cluster.wait(1000).await;
    assert_eq!(cluster.pods_of("web").await.len(), 2);
    assert_eq!(taints(&node(&cluster, "n1").await), ["node.kubernetes.io/unreachable:NoSchedule"]);
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_deleted_node_are_collected() {
    let cluster = TestCluster::start().await;
    cluster.create::<ReplicaSet>(replica_set("web", 2)).await;
    cluster.settle().await;
    cluster.kill_node("n1");
    Api::<Node>::all(cluster.client.clone()).delete("n1", &DeleteParams::default()).await.unwrap();
    cluster.wait(90).await;
    let pods = cluster.list::<Pod>("app=web").await;
    assert_eq!(pods.len(), 2, "{}", cluster.history().await);
    assert!(pods.iter().all(|pod| node_of(pod) == "n2"));
}

#[tokio::test(start_paused = true)]
async fn each_node_has_a_range_of_its_own() {
    let cluster = TestCluster::start().await;
    cluster.add_node("n3").await;
    cluster.settle().await;
    let mut ranges = Vec::new();
    for name in ["n1", "n2", "n3"] {
        ranges.push(node(&cluster, name).await.spec.unwrap().pod_cidr.unwrap());
    }
    ranges.sort();
    assert_eq!(ranges, ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"]);
}

#[tokio::test(start_paused = true)]
async fn a_cordoned_node_is_tainted() {
    let cluster = TestCluster::start().await;
    let nodes = Api::<Node>::all(cluster.client.clone());
    let cordon = |value: bool| kube::api::Patch::Merge(json!({"spec": {"unschedulable": value}}));
    nodes.patch("n1", &Default::default(), &cordon(true)).await.unwrap();
    cluster.settle().await;
    assert_eq!(
        taints(&node(&cluster, "n1").await),
        ["node.kubernetes.io/unschedulable:NoSchedule"]
    );
    nodes.patch("n1", &Default::default(), &cordon(false)).await.unwrap();
    cluster.settle().await;
    assert!(taints(&node(&cluster, "n1").await).is_empty());
}
