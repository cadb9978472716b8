//! Ranges of Service addresses that are added and taken away (KEP-1880).

use k8s_openapi::api::{core::v1::Service, networking::v1::ServiceCIDR};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams},
};
use serde_json::json;

use crate::cluster::{TestCluster, from_json};

const CONTROLLER: &str = "service-cidr-controller";

fn ranges(cluster: &TestCluster) -> Api<ServiceCIDR> {
    Api::all(cluster.client.clone())
}

async fn add_range(cluster: &TestCluster, name: &str, cidr: &str) {
    let range = json!({"metadata": {"name": name}, "spec": {"cidrs": [cidr]}});
    ranges(cluster).create(&PostParams::default(), &from_json(range)).await.unwrap();
    cluster.settle().await;
}

async fn delete_range(cluster: &TestCluster, name: &str) {
    ranges(cluster).delete(name, &DeleteParams::default()).await.unwrap();
    cluster.settle().await;
}

/// The status and the reason of its condition; `None` when the range is gone.
async fn ready(cluster: &TestCluster, name: &str) -> Option<(String, String)> {
    let range = ranges(cluster).get_opt(name).await.unwrap()?;
    let conditions = range.status.unwrap().conditions.unwrap();
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready").unwrap();
    Some((ready.status, ready.reason))
}

fn service(name: &str, address: &str) -> Service {
    from_json(json!({
        "metadata": {"name": name},
        "spec": {"clusterIP": address, "ports": [{"port": 80}]},
    }))
}

async fn try_service(cluster: &TestCluster, name: &str, address: &str) -> Result<Service, String> {
    let created = cluster.api().create(&PostParams::default(), &service(name, address)).await;
    created.map_err(|error| error.to_string())
}

#[tokio::test(start_paused = true)]
async fn a_new_range_is_protected_ready_and_has_addresses() {
    let cluster = TestCluster::start_with(CONTROLLER, |builder| builder).await;
    let refused = try_service(&cluster, "early", "192.168.0.7").await.unwrap_err();
    assert!(refused.contains("is not in the valid range"), "{refused}");

    add_range(&cluster, "more", "192.168.0.0/24").await;
    assert_eq!(ready(&cluster, "more").await.unwrap(), ("True".to_owned(), String::new()));
    let finalizers = ranges(&cluster).get("more").await.unwrap().finalizers().to_vec();
    assert_eq!(finalizers, ["networking.k8s.io/service-cidr-finalizer"]);
    try_service(&cluster, "s", "192.168.0.7").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_range_with_addresses_in_use_stays_until_they_go() {
    let cluster = TestCluster::start_with(CONTROLLER, |builder| builder).await;
    add_range(&cluster, "more", "192.168.0.0/24").await;
    try_service(&cluster, "s", "192.168.0.7").await.unwrap();

    delete_range(&cluster, "more").await;
    let held = ready(&cluster, "more").await.unwrap();
    assert_eq!(held, ("False".to_owned(), "Terminating".to_owned()));
    // What goes gives out nothing any more.
    let refused = try_service(&cluster, "late", "192.168.0.8").await.unwrap_err();
    assert!(refused.contains("is not in the valid range"), "{refused}");
    cluster.wait(60).await;
    assert!(ready(&cluster, "more").await.is_some(), "an address still needs it");

    cluster.api::<Service>().delete("s", &DeleteParams::default()).await.unwrap();
    cluster.wait(15).await;
    assert_eq!(ready(&cluster, "more").await, None);
}

#[tokio::test(start_paused = true)]
async fn a_range_goes_when_another_takes_its_addresses_over() {
    let cluster = TestCluster::start_with(CONTROLLER, |builder| builder).await;
    add_range(&cluster, "small", "192.168.0.0/24").await;
    try_service(&cluster, "s", "192.168.0.7").await.unwrap();
    delete_range(&cluster, "small").await;
    assert_eq!(ready(&cluster, "small").await.unwrap().0, "False");

    add_range(&cluster, "wide", "192.168.0.0/16").await;
    cluster.wait(15).await;
    assert_eq!(ready(&cluster, "small").await, None);
    assert_eq!(ready(&cluster, "wide").await.unwrap().0, "True");
    try_service(&cluster, "t", "192.168.9.9").await.unwrap();
}
