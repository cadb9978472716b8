//! Cloud controllers through the API, with a cloud that is only remembered.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Node, NodeAddress, Service};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use rk_api::clock;
use rk_controllers::{InstanceMetadata, MemoryCloud, Route};
use serde_json::{Value, json};

use crate::cluster::{TestCluster, from_json};

async fn start() -> (TestCluster, MemoryCloud) {
    let cloud = MemoryCloud::new();
    for node in ["n1", "n2"] {
        cloud.add_machine(node, machine("a"));
    }
    let provider = Arc::new(cloud.clone());
    let cluster = TestCluster::start_with("*", |builder| builder.cloud_provider(provider)).await;
    (cluster, cloud)
}

fn machine(zone: &str) -> InstanceMetadata {
    InstanceMetadata {
        instance_type: "large".into(),
        zone: zone.into(),
        region: "r".into(),
        addresses: vec![NodeAddress { type_: "InternalIP".into(), address: "10.1.0.3".into() }],
        ..InstanceMetadata::default()
    }
}

fn nodes(cluster: &TestCluster) -> Api<Node> {
    Api::all(cluster.client.clone())
}

async fn node(cluster: &TestCluster, name: &str) -> Node {
    nodes(cluster).get(name).await.unwrap()
}

fn taints(node: &Node) -> Vec<String> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.map(|taint| taint.key.clone()).collect()
}

async fn set_condition(cluster: &TestCluster, name: &str, kind: &str, status: &str) {
    let now = clock::now_seconds();
    let mut conditions =
        json!(node(cluster, name).await.status.unwrap().conditions.unwrap_or_default());
    let all = conditions.as_array_mut().unwrap();
    all.retain(|condition| condition["type"] != kind);
    all.push(json!({"type": kind, "status": status, "lastHeartbeatTime": now, "lastTransitionTime": now}));
    let patch = Patch::Merge(json!({"status": {"conditions": conditions}}));
    nodes(cluster).patch_status(name, &PatchParams::default(), &patch).await.unwrap();
}

const UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";
const SHUT_DOWN: &str = "node.cloudprovider.kubernetes.io/shutdown";

#[tokio::test(start_paused = true)]
async fn a_node_that_joins_waits_for_what_the_cloud_says_of_it() {
    let (cluster, cloud) = start().await;
    let joining: Node = from_json(json!({
        "metadata": {"name": "n3"},
        "spec": {"taints": [{"key": UNINITIALIZED, "effect": "NoSchedule", "value": "true"}]},
        "status": {"addresses": [{"type": "Hostname", "address": "n3.local"}]},
    }));
    nodes(&cluster).create(&PostParams::default(), &joining).await.unwrap();
    cluster.settle().await;
    assert!(taints(&node(&cluster, "n3").await).contains(&UNINITIALIZED.to_owned()));

    cloud.delay("instances.metadata", Duration::from_secs(2));
    cloud.add_machine("n3", machine("b"));
    cluster.wait(20).await;
    let joined = node(&cluster, "n3").await;
    assert!(!taints(&joined).contains(&UNINITIALIZED.to_owned()), "{:?}", cloud.calls());
    assert_eq!(joined.spec.as_ref().unwrap().provider_id.as_deref(), Some("memory://n3"));
    assert_eq!(joined.labels()["topology.kubernetes.io/zone"], "b");
    assert_eq!(joined.labels()["failure-domain.beta.kubernetes.io/region"], "r");
    assert_eq!(joined.labels()["node.kubernetes.io/instance-type"], "large");
    let addresses = joined.status.unwrap().addresses.unwrap();
    let addresses: Vec<&str> = addresses.iter().map(|address| address.address.as_str()).collect();
    assert_eq!(addresses, ["10.1.0.3", "n3.local"]);
    assert_eq!(cluster.events("Synced").await, ["Node synced successfully"]);
}

#[tokio::test(start_paused = true)]
async fn a_node_goes_with_its_machine_and_is_marked_while_that_is_off() {
    let (cluster, cloud) = start().await;
    cluster.kill_node("n1");
    cloud.shut_down("n1", true);
    cluster.settle().await;
    assert!(!taints(&node(&cluster, "n1").await).contains(&SHUT_DOWN.to_owned()), "still ready");
    cluster.wait(60).await;
    assert!(taints(&node(&cluster, "n1").await).contains(&SHUT_DOWN.to_owned()));

    cloud.shut_down("n1", false);
    cluster.revive_node("n1");
    set_condition(&cluster, "n1", "Ready", "True").await;
    cluster.wait(15).await;
    assert!(!taints(&node(&cluster, "n1").await).contains(&SHUT_DOWN.to_owned()));

    cluster.kill_node("n1");
    cloud.fail("instances.exists", Some("no answer"));
    cloud.remove_machine("n1");
    cluster.wait(90).await;
    assert!(nodes(&cluster).get_opt("n1").await.unwrap().is_some(), "nobody knows");
    cloud.fail("instances.exists", None);
    cluster.wait(15).await;
    assert!(nodes(&cluster).get_opt("n1").await.unwrap().is_none());
    let message = "Deleting node n1 because it does not exist in the cloud provider";
    assert!(cluster.events("DeletingNode").await.contains(&message.to_owned()));
    assert!(nodes(&cluster).get_opt("n2").await.unwrap().is_some());
}

fn balanced(name: &str, more: Value) -> Value {
    let mut spec =
        json!({"type": "LoadBalancer", "ports": [{"port": 80}], "selector": {"app": "x"}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"metadata": {"name": name}, "spec": spec})
}

fn address(service: &Service) -> Option<String> {
    let status = service.status.as_ref()?.load_balancer.as_ref()?;
    status.ingress.as_ref()?.first()?.ip.clone()
}

#[tokio::test(start_paused = true)]
async fn a_service_has_its_load_balancer_until_it_ends() {
    let (cluster, cloud) = start().await;
    cluster.create::<Service>(balanced("web", json!({"externalTrafficPolicy": "Local"}))).await;
    cluster.settle().await;
    let service = cluster.get::<Service>("web").await.unwrap();
    let balancer = cloud.balancer("default", "web").unwrap();
    assert_eq!(address(&service), Some(balancer.address.clone()));
    assert_eq!(service.finalizers(), ["service.kubernetes.io/load-balancer-cleanup"]);
    assert_eq!(balancer.nodes, ["n1", "n2"]);
    assert_eq!(balancer.traffic_policy.as_deref(), Some("Local"));
    assert_eq!(cluster.events("EnsuredLoadBalancer").await, ["Ensured load balancer"]);
    let ensured = || cloud.calls().iter().filter(|call| call.contains(".ensure")).count();
    assert_eq!(ensured(), 1, "{:?}", cloud.calls());

    // A node less: the same load balancer in front of fewer nodes.
    let exclude = json!({"metadata": {"labels": {"node.kubernetes.io/exclude-from-external-load-balancers": ""}}});
    nodes(&cluster).patch("n1", &PatchParams::default(), &Patch::Merge(exclude)).await.unwrap();
    cluster.settle().await;
    assert_eq!(cloud.balancer("default", "web").unwrap().nodes, ["n2"]);
    assert_eq!(ensured(), 1);
    cluster.add_node("n3").await;
    cluster.settle().await;
    assert_eq!(cloud.balancer("default", "web").unwrap().nodes, ["n2", "n3"]);

    cluster.patch::<Service>("web", json!({"spec": {"ports": [{"port": 8080}]}})).await;
    cluster.settle().await;
    assert_eq!(cloud.balancer("default", "web").unwrap().ports[0].port, 8080);
    assert_eq!(ensured(), 2);

    // It does not end before its load balancer has.
    cloud.fail("load_balancers.delete", Some("not now"));
    cluster.delete::<Service>("web", &Default::default()).await;
    cluster.settle().await;
    assert!(cluster.get::<Service>("web").await.is_some());
    let why = "Error syncing load balancer: failed to delete load balancer: not now";
    assert!(cluster.events("SyncLoadBalancerFailed").await.contains(&why.to_owned()));
    cloud.fail("load_balancers.delete", None);
    cluster.wait(30).await;
    assert!(cluster.get::<Service>("web").await.is_none());
    assert_eq!(cloud.balancer("default", "web"), None);
}

#[tokio::test(start_paused = true)]
async fn a_load_balancer_is_tried_again_and_goes_when_it_is_no_longer_wanted() {
    let (cluster, cloud) = start().await;
    cloud.fail("load_balancers.ensure", Some("quota exceeded"));
    cluster.create::<Service>(balanced("web", json!({}))).await;
    let class = json!({"loadBalancerClass": "example.com/other"});
    cluster.create::<Service>(balanced("other", class)).await;
    cluster.settle().await;
    let why = "Error syncing load balancer: failed to ensure load balancer: quota exceeded";
    assert_eq!(cluster.events("SyncLoadBalancerFailed").await, [why]);
    cloud.fail("load_balancers.ensure", None);
    cluster.wait(10).await;
    assert!(address(&cluster.get::<Service>("web").await.unwrap()).is_some());

    cluster.patch::<Service>("web", json!({"spec": {"type": "ClusterIP"}})).await;
    cluster.settle().await;
    let service = cluster.get::<Service>("web").await.unwrap();
    assert_eq!((address(&service), service.finalizers().len()), (None, 0));
    assert_eq!(cloud.balancer("default", "web"), None);
    assert_eq!(cluster.events("Type").await, ["LoadBalancer -> ClusterIP"]);

    let other = cluster.get::<Service>("other").await.unwrap();
    assert_eq!((address(&other), other.finalizers().len()), (None, 0));
    assert!(
        !cloud.calls().iter().any(|call| call.contains("default/other")),
        "{:?}",
        cloud.calls()
    );
}

#[tokio::test(start_paused = true)]
async fn every_node_has_a_route_to_its_pods() {
    let (cluster, cloud) = start().await;
    let gone =
        Route { node: "gone".into(), destination: "10.244.9.0/24".into(), ..Route::default() };
    let foreign =
        Route { node: "vpn".into(), destination: "192.168.0.0/16".into(), ..Route::default() };
    cloud.add_route(gone);
    cloud.add_route(foreign.clone());
    cluster.wait(15).await;
    let routes = cloud.all_routes();
    assert_eq!(routes.len(), 3, "{routes:?}");
    assert_eq!(routes.iter().filter(|route| **route == foreign).count(), 1);
    for name in ["n1", "n2"] {
        let node = node(&cluster, name).await;
        let range = node.spec.as_ref().unwrap().pod_cidr.clone().unwrap();
        assert!(routes.iter().any(|route| route.node == name && route.destination == range));
        let conditions = node.status.unwrap().conditions.unwrap();
        let network = conditions.iter().find(|condition| condition.type_ == "NetworkUnavailable");
        assert_eq!(network.unwrap().reason.as_deref(), Some("RouteCreated"));
    }

    cloud.fail("routes.create", Some("table full"));
    cluster.add_node("n3").await;
    cluster.wait(15).await;
    let n3 = node(&cluster, "n3").await;
    assert!(taints(&n3).contains(&"node.kubernetes.io/network-unavailable".to_owned()), "{n3:?}");
    let failed = cluster.events("FailedToCreateRoute").await;
    assert!(failed[0].ends_with(" for node n3: table full"), "{failed:?}");
    cloud.fail("routes.create", None);
    cluster.wait(15).await;
    assert!(taints(&node(&cluster, "n3").await).is_empty());
}
