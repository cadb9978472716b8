//! What is used of quotas: scenario S34.

use k8s_openapi::api::core::v1::{ConfigMap, Pod, ResourceQuota, Service};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::cluster::{TestCluster, from_json};

async fn used(cluster: &TestCluster, name: &str) -> Value {
    let quota = cluster.get::<ResourceQuota>(name).await.unwrap();
    json!(quota.status.unwrap_or_default().used.unwrap_or_default())
}

async fn quota(cluster: &TestCluster, name: &str, spec: Value) {
    cluster.create::<ResourceQuota>(json!({"metadata": {"name": name}, "spec": spec})).await;
    cluster.settle().await;
}

fn pod(name: &str, cpu: Option<&str>) -> Value {
    let resources = cpu.map(|cpu| json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}));
    json!({
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "x", "resources": resources}]},
    })
}

async fn refused(cluster: &TestCluster, object: Value) -> String {
    let result = cluster.api::<Pod>().create(&PostParams::default(), &from_json(object)).await;
    match result.unwrap_err() {
        kube::Error::Api(status) => status.message,
        other => panic!("{other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_quota_says_what_is_used_of_it() {
    let cluster = TestCluster::start().await;
    cluster.create::<Pod>(pod("before", Some("300m"))).await;
    cluster.settle().await;

    quota(&cluster, "q", json!({"hard": {"pods": "2", "requests.cpu": "1"}})).await;
    assert_eq!(used(&cluster, "q").await, json!({"pods": "1", "requests.cpu": "300m"}));

    cluster.create::<Pod>(pod("fits", Some("200m"))).await;
    assert_eq!(used(&cluster, "q").await, json!({"pods": "2", "requests.cpu": "500m"}));
    let message = refused(&cluster, pod("third", Some("1m"))).await;
    assert!(
        message.contains("exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2")
    );

    cluster.delete::<Pod>("before", &DeleteParams::default()).await;
    cluster.settle().await;
    assert_eq!(used(&cluster, "q").await, json!({"pods": "1", "requests.cpu": "200m"}));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_ended_makes_room() {
    let cluster = TestCluster::start().await;
    quota(&cluster, "q", json!({"hard": {"pods": "1", "count/pods": "9"}})).await;
    cluster.create::<Pod>(pod("job", None)).await;
    cluster.settle().await;
    assert_eq!(used(&cluster, "q").await, json!({"pods": "1", "count/pods": "1"}));

    let ended = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
    cluster.api::<Pod>().patch_status("job", &PatchParams::default(), &ended).await.unwrap();
    cluster.settle().await;

    assert_eq!(used(&cluster, "q").await, json!({"pods": "0", "count/pods": "1"}));
}

#[tokio::test(start_paused = true)]
async fn what_a_quota_limits_can_change() {
    let cluster = TestCluster::start().await;
    quota(&cluster, "q", json!({"hard": {"pods": "1"}})).await;
    let patch =
        json!({"spec": {"hard": {"pods": null, "services": "2", "services.nodeports": "1"}}});
    cluster.patch::<ResourceQuota>("q", patch).await;
    cluster.settle().await;
    assert_eq!(used(&cluster, "q").await, json!({"services": "1", "services.nodeports": "0"}));

    let service =
        json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{"port": 1}]}});
    cluster.create::<Service>(service).await;
    assert_eq!(used(&cluster, "q").await, json!({"services": "2", "services.nodeports": "1"}));
    let inner = json!({"spec": {"type": "ClusterIP", "ports": [{"port": 1, "nodePort": null}]}});
    cluster.patch::<Service>("s", inner).await;
    cluster.settle().await;
    assert_eq!(used(&cluster, "q").await, json!({"services": "2", "services.nodeports": "0"}));
}

#[tokio::test(start_paused = true)]
async fn objects_of_any_kind_are_counted() {
    let cluster = TestCluster::start().await;
    let hard =
        json!({"configmaps": "9", "count/deployments.apps": "1", "count/nothing.example.com": "3"});
    quota(&cluster, "q", json!({"hard": hard})).await;
    let before = used(&cluster, "q").await;
    assert_eq!(before, json!({"configmaps": "0", "count/deployments.apps": "0"}));

    for name in ["a", "b"] {
        cluster.create::<ConfigMap>(json!({"metadata": {"name": name}})).await;
    }
    assert_eq!(used(&cluster, "q").await["configmaps"], "2");
    cluster.delete::<ConfigMap>("a", &DeleteParams::default()).await;
    cluster.settle().await;
    assert_eq!(used(&cluster, "q").await["configmaps"], "1");
}

#[tokio::test(start_paused = true)]
async fn scopes_choose_what_counts() {
    let cluster = TestCluster::start().await;
    quota(&cluster, "best", json!({"hard": {"pods": "5"}, "scopes": ["BestEffort"]})).await;
    quota(&cluster, "other", json!({"hard": {"pods": "5"}, "scopes": ["NotBestEffort"]})).await;
    let of = async |name| used(&cluster, name).await["pods"].clone();

    cluster.create::<Pod>(pod("without", None)).await;
    cluster.create::<Pod>(pod("with", Some("1"))).await;
    assert_eq!((of("best").await, of("other").await), (json!("1"), json!("1")));
    cluster.delete::<Pod>("with", &DeleteParams::default()).await;
    cluster.settle().await;
    assert_eq!((of("best").await, of("other").await), (json!("1"), json!("0")));
}

#[tokio::test(start_paused = true)]
async fn what_was_counted_for_nothing_is_given_back() {
    let cluster = TestCluster::start().await;
    quota(&cluster, "q", json!({"hard": {"secrets": "5"}})).await;
    let wrong = Patch::Merge(json!({"status": {"used": {"secrets": "4"}}}));
    let quotas: Api<ResourceQuota> = cluster.api();
    quotas.patch_status("q", &PatchParams::default(), &wrong).await.unwrap();
    cluster.settle().await;
    assert_eq!(used(&cluster, "q").await, json!({"secrets": "4"}));

    cluster.wait(5 * 60).await;

    assert_eq!(used(&cluster, "q").await, json!({"secrets": "0"}));
}
