//! PodDisruptionBudgets and evictions.

use k8s_openapi::api::{
    apps::v1::Deployment, batch::v1::Job, core::v1::Pod, policy::v1::PodDisruptionBudget,
};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::cluster::TestCluster;

fn deployment(name: &str, replicas: i32) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "myapp:v1"}]}},
        },
    })
}

fn budget(name: &str, spec: Value) -> Value {
    let mut all = json!({"selector": {"matchLabels": {"app": name}}});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    json!({"metadata": {"name": name}, "spec": all})
}

async fn evict(cluster: &TestCluster, pod: &str) -> Result<(), kube::Error> {
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}});
    let path = format!("/api/v1/namespaces/default/pods/{pod}/eviction");
    let request = http::Request::post(path).header("content-type", "application/json");
    let body = serde_json::to_vec(&eviction).unwrap();
    cluster.client.request::<Value>(request.body(body).unwrap()).await.map(drop)
}

/// Expected, desired, healthy, allowed.
async fn counts(cluster: &TestCluster, name: &str) -> [i32; 4] {
    let status = cluster.get::<PodDisruptionBudget>(name).await.unwrap().status.unwrap();
    let counts = [
        status.expected_pods,
        status.desired_healthy,
        status.current_healthy,
        status.disruptions_allowed,
    ];
    counts.map(|count| count.unwrap_or(-1))
}

async fn condition(cluster: &TestCluster, name: &str) -> (String, String, String) {
    let status = cluster.get::<PodDisruptionBudget>(name).await.unwrap().status.unwrap();
    let condition = status.conditions.unwrap().remove(0);
    assert_eq!(condition.type_, "DisruptionAllowed");
    (condition.status, condition.reason, condition.message)
}

#[tokio::test(start_paused = true)]
async fn a_budget_counts_its_pods_by_numbers_and_by_shares() {
    let cluster = TestCluster::start().await;
    cluster.create::<Deployment>(deployment("web", 5)).await;
    cluster.create::<PodDisruptionBudget>(budget("web", json!({"minAvailable": 2}))).await;
    cluster.wait(10).await;
    assert_eq!(counts(&cluster, "web").await, [5, 2, 5, 3]);
    assert_eq!(condition(&cluster, "web").await.1, "SufficientPods");

    for (spec, expected) in [
        (json!({"minAvailable": null, "maxUnavailable": 1}), [5, 4, 5, 1]),
        (json!({"maxUnavailable": "50%"}), [5, 2, 5, 3]),
        (json!({"maxUnavailable": null, "minAvailable": "100%"}), [5, 5, 5, 0]),
    ] {
        cluster.patch::<PodDisruptionBudget>("web", json!({"spec": spec})).await;
        cluster.settle().await;
        assert_eq!(counts(&cluster, "web").await, expected, "{spec}");
    }
    assert_eq!(condition(&cluster, "web").await.1, "InsufficientPods");
    // A share is of what the Deployment wants, not of what is there.
    cluster.break_image("broken");
    let update = json!({"spec": {"replicas": 9, "template": {"spec": {"containers": [{"name": "c", "image": "broken"}]}}}});
    cluster.patch::<Deployment>("web", update).await;
    cluster.wait(10).await;
    assert_eq!(counts(&cluster, "web").await[..2], [9, 9]);
}

// Conformance: PodDisruptionBudget: block an eviction until the PDB is updated to allow it
#[tokio::test(start_paused = true)]
async fn an_eviction_waits_until_the_budget_allows_it() {
    let cluster = TestCluster::start().await;
    cluster.create::<Deployment>(deployment("db", 3)).await;
    cluster.create::<PodDisruptionBudget>(budget("db", json!({"minAvailable": 3}))).await;
    cluster.wait(10).await;
    let pods: Vec<_> = cluster.pods_of("db").await.iter().map(ResourceExt::name_any).collect();
    let (pod, other) = (&pods[0], &pods[1]);

    let kube::Error::Api(refused) = evict(&cluster, pod).await.unwrap_err() else { panic!() };
    assert_eq!((refused.code, refused.reason.as_str()), (429, "TooManyRequests"));
    assert_eq!(
        refused.message,
        "Cannot evict pod as it would violate the pod's disruption budget."
    );
    let cause = &refused.details.as_ref().unwrap().causes[0];
    assert_eq!(cause.message, "The disruption budget db needs 3 healthy pods and has 3 currently");
    assert_eq!(cause.reason, "DisruptionBudget");

    cluster.patch::<PodDisruptionBudget>("db", json!({"spec": {"minAvailable": 2}})).await;
    cluster.settle().await;
    evict(&cluster, pod).await.unwrap();
    assert!(evict(&cluster, other).await.is_err(), "only one at a time");
    cluster.wait(30).await;
    assert!(cluster.get::<Pod>(pod).await.is_none());
    assert_eq!(counts(&cluster, "db").await, [3, 2, 3, 1], "one came in its place");
}

#[tokio::test(start_paused = true)]
async fn a_budget_of_pods_that_have_no_scale_allows_nothing_and_says_why() {
    let cluster = TestCluster::start().await;
    let job = json!({"metadata": {"name": "work"}, "spec": {"template": {
        "metadata": {"labels": {"app": "work"}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "busybox"}]},
    }}});
    cluster.create::<Job>(job).await;
    cluster.create::<PodDisruptionBudget>(budget("work", json!({"maxUnavailable": 1}))).await;
    cluster.wait(10).await;
    let (status, reason, message) = condition(&cluster, "work").await;
    assert_eq!((status.as_str(), reason.as_str()), ("False", "SyncFailed"));
    assert_eq!(message, "jobs.batch does not implement the scale subresource");
    assert_eq!(counts(&cluster, "work").await[3], 0);

    let pod = cluster.pods_of("work").await.remove(0).name_any();
    let kube::Error::Api(refused) = evict(&cluster, &pod).await.unwrap_err() else { panic!() };
    assert_eq!(refused.code, 429);
}

#[tokio::test(start_paused = true)]
async fn an_unready_pod_may_always_go_where_the_budget_says_so() {
    let cluster = TestCluster::start().await;
    cluster.break_image("myapp:v1");
    cluster.create::<Deployment>(deployment("sick", 2)).await;
    cluster.create::<PodDisruptionBudget>(budget("sick", json!({"minAvailable": 1}))).await;
    cluster.wait(10).await;
    let pod = cluster.pods_of("sick").await.remove(0).name_any();
    assert!(evict(&cluster, &pod).await.is_err());
    let policy = json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}});
    cluster.patch::<PodDisruptionBudget>("sick", policy).await;
    cluster.settle().await;
    evict(&cluster, &pod).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_mark_of_a_disruption_is_left_by_an_eviction_and_goes_if_none_comes() {
    let cluster = TestCluster::start().await;
    cluster.create::<Deployment>(deployment("marked", 1)).await;
    cluster.wait(5).await;
    let pod = cluster.pods_of("marked").await.remove(0);
    let mark = json!({"status": {"conditions": [{
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "lastTransitionTime": rk_api::clock::now_seconds(),
    }]}});
    let api = cluster.api::<Pod>();
    api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(mark))
        .await
        .unwrap();
    let marked = async || {
        let pod = cluster.get::<Pod>(&pod.name_any()).await.unwrap();
        let conditions = pod.status.unwrap().conditions.unwrap();
        conditions.into_iter().find(|one| one.type_ == "DisruptionTarget").unwrap().status
    };
    cluster.wait(100).await;
    assert_eq!(marked().await, "True");
    cluster.wait(30).await;
    assert_eq!(marked().await, "False");

    let node = pod.spec.as_ref().unwrap().node_name.clone().unwrap();
    cluster.kill_node(&node);
    evict(&cluster, &pod.name_any()).await.unwrap();
    let evicted = cluster.get::<Pod>(&pod.name_any()).await.unwrap();
    let conditions = evicted.status.unwrap().conditions.unwrap();
    let target = conditions.iter().find(|one| one.type_ == "DisruptionTarget").unwrap();
    assert_eq!(target.status, "True");
    assert_eq!(target.reason.as_deref(), Some("EvictionByEvictionAPI"));
    assert_eq!(target.message.as_deref(), Some("Eviction API: evicting"));
}

// Conformance: PodDisruptionBudget: create, update, patch, and delete object
// Conformance: PodDisruptionBudget: list and delete collection
// Conformance: PodDisruptionBudget: Status updates
// Conformance: PodDisruptionBudget: update and patch status
#[tokio::test(start_paused = true)]
async fn a_budget_can_be_read_changed_listed_and_deleted() {
    let cluster = TestCluster::start().await;
    for name in ["a", "b"] {
        let mut new = budget(name, json!({"minAvailable": 1}));
        new["metadata"]["labels"] = json!({"group": "x"});
        cluster.create::<PodDisruptionBudget>(new).await;
    }
    let api = cluster.api::<PodDisruptionBudget>();
    cluster.settle().await;
    assert_eq!(counts(&cluster, "a").await, [0, 1, 0, 0]);
    let mut read = api.get("a").await.unwrap();
    read.spec.as_mut().unwrap().min_available =
        Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(2));
    api.replace("a", &Default::default(), &read).await.unwrap();
    cluster.settle().await;
    assert_eq!(counts(&cluster, "a").await[1], 2);

    cluster.create::<Deployment>(deployment("a", 3)).await;
    cluster.wait(10).await;
    assert_eq!(counts(&cluster, "a").await, [3, 2, 3, 1]);
    // A status that others write is made right again.
    let wrong = json!({"status": {"disruptionsAllowed": 17, "disruptedPods": {"ghost": "2026-01-01T00:00:00Z"}}});
    let patched =
        api.patch_status("a", &PatchParams::default(), &Patch::Merge(wrong)).await.unwrap();
    assert_eq!(patched.status.unwrap().disruptions_allowed, Some(17));
    cluster.settle().await;
    assert_eq!(counts(&cluster, "a").await[3], 1);
    let mut read = api.get_status("a").await.unwrap();
    assert_eq!(read.status.as_ref().unwrap().disrupted_pods, None);
    read.status.as_mut().unwrap().observed_generation = Some(0);
    api.replace_status("a", &Default::default(), &read).await.unwrap();

    let everywhere = kube::Api::<PodDisruptionBudget>::all(cluster.client.clone());
    let of_group = ListParams::default().labels("group=x");
    assert_eq!(everywhere.list(&of_group).await.unwrap().items.len(), 2);
    api.delete_collection(&DeleteParams::default(), &of_group).await.unwrap();
    assert!(api.list(&of_group).await.unwrap().items.is_empty());
}
