//! Endpoints and EndpointSlices: scenarios S62, S84, S89, S133.

use k8s_openapi::api::{
    apps::v1::ReplicaSet,
    core::v1::{Endpoints, Service},
    discovery::v1::EndpointSlice,
};
use kube::{ResourceExt, api::DeleteParams};
use serde_json::{Value, json};

use crate::{cluster::TestCluster, replica_sets::replica_set};

fn service() -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}})
}

async fn slices(cluster: &TestCluster, name: &str) -> Vec<EndpointSlice> {
    cluster.list(&format!("kubernetes.io/service-name={name}")).await
}

/// Addresses in slices and in Endpoints, each sorted.
async fn addresses(cluster: &TestCluster) -> (Vec<String>, Vec<String>) {
    let mut sliced: Vec<String> = slices(cluster, "web")
        .await
        .into_iter()
        .flat_map(|slice| slice.endpoints.unwrap_or_default())
        .filter(|endpoint| endpoint.conditions.as_ref().unwrap().ready == Some(true))
        .flat_map(|endpoint| endpoint.addresses)
        .collect();
    let endpoints = cluster
        .get::<Endpoints>("web")
        .await
        .and_then(|endpoints| endpoints.subsets)
        .unwrap_or_default();
    let mut listed: Vec<String> = endpoints
        .into_iter()
        .flat_map(|subset| subset.addresses.unwrap_or_default())
        .map(|address| address.ip)
        .collect();
    sliced.sort();
    listed.sort();
    (sliced, listed)
}

#[tokio::test(start_paused = true)]
async fn endpoints_follow_the_pods() {
    let cluster = TestCluster::start().await;
    cluster.create::<Service>(service()).await;
    cluster.settle().await;
    assert_eq!(addresses(&cluster).await, (vec![], vec![]));
    assert_eq!(slices(&cluster, "web").await.len(), 1);

    cluster.create::<ReplicaSet>(replica_set("web", 3)).await;
    for replicas in [3, 6, 2] {
        cluster.patch::<ReplicaSet>("web", json!({"spec": {"replicas": replicas}})).await;
        cluster.settle().await;
        let mut wanted: Vec<_> = cluster
            .pods_of("web")
            .await
            .into_iter()
            .map(|pod| pod.status.unwrap().pod_ip.unwrap())
            .collect();
        wanted.sort();
        assert_eq!(wanted.len(), replicas);
        assert_eq!(
            addresses(&cluster).await,
            (wanted.clone(), wanted),
            "{}",
            cluster.history().await
        );
    }
    let slice = &slices(&cluster, "web").await[0];
    assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080));
    assert_eq!(
        slice.labels()["endpointslice.kubernetes.io/managed-by"],
        "endpointslice-controller.k8s.io"
    );
}

#[tokio::test(start_paused = true)]
async fn removed_endpoints_come_back() {
    let cluster = TestCluster::start().await;
    cluster.create::<Service>(service()).await;
    cluster.create::<ReplicaSet>(replica_set("web", 2)).await;
    cluster.settle().await;
    let before = addresses(&cluster).await;
    assert_eq!(before.0.len(), 2);

    cluster.delete::<Endpoints>("web", &DeleteParams::default()).await;
    for slice in slices(&cluster, "web").await {
        cluster.delete::<EndpointSlice>(&slice.name_any(), &DeleteParams::default()).await;
    }
    cluster.settle().await;
    assert_eq!(addresses(&cluster).await, before);
}

#[tokio::test(start_paused = true)]
async fn endpoints_go_with_their_service() {
    let cluster = TestCluster::start().await;
    cluster.create::<Service>(service()).await;
    cluster.settle().await;
    assert!(cluster.get::<Endpoints>("web").await.is_some());
    cluster.delete::<Service>("web", &DeleteParams::default()).await;
    cluster.settle().await;
    assert!(cluster.get::<Endpoints>("web").await.is_none());
    assert!(slices(&cluster, "web").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn endpoints_of_a_service_without_selector_are_the_users_and_are_mirrored() {
    let cluster = TestCluster::start().await;
    cluster
        .create::<Service>(json!({"metadata": {"name": "db"}, "spec": {"ports": [{"port": 5432}]}}))
        .await;
    let subsets = json!([{"addresses": [{"ip": "192.168.1.10"}], "ports": [{"port": 5432}]}]);
    let written =
        cluster.create::<Endpoints>(json!({"metadata": {"name": "db"}, "subsets": subsets})).await;
    cluster.settle().await;

    assert_eq!(
        cluster.get::<Endpoints>("db").await.unwrap().resource_version(),
        written.resource_version()
    );
    let mirrored = slices(&cluster, "db").await;
    assert_eq!(mirrored.len(), 1);
    assert_eq!(mirrored[0].endpoints.as_ref().unwrap()[0].addresses, ["192.168.1.10"]);

    cluster.delete::<Endpoints>("db", &DeleteParams::default()).await;
    cluster.settle().await;
    assert!(slices(&cluster, "db").await.is_empty());
}
