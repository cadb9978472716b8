//! Resource quotas: what is used follows what comes and goes.

use std::collections::BTreeMap;

use rk::{
    k8s_openapi::{
        NamespaceResourceScope,
        api::{
            apps::v1::ReplicaSet,
            core::v1::{ConfigMap, Pod, ReplicationController, ResourceQuota, Secret, Service},
        },
    },
    kube::{
        Api, Resource, ResourceExt,
        api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    },
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::cluster::{TestCluster, from_json, until};

const NAME: &str = "test-quota";

/// A limit for everything that the requirements are about.
fn everything() -> Value {
    json!({
        "pods": "5", "services": "10", "services.nodeports": "1", "services.loadbalancers": "1",
        "replicationcontrollers": "10", "resourcequotas": "1", "cpu": "1", "memory": "500Mi",
        "configmaps": "10", "secrets": "10", "persistentvolumeclaims": "10",
        "requests.storage": "10Gi", "ephemeral-storage": "50Gi",
        "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "10",
        "gold.storageclass.storage.k8s.io/requests.storage": "10Gi",
        "count/replicasets.apps": "5", "requests.example.com/dongle": "3",
    })
}

async fn make(t: &TestCluster, name: &str, spec: Value) -> ResourceQuota {
    t.create(json!({"metadata": {"name": name}, "spec": spec})).await
}

fn list(amounts: &BTreeMap<String, impl Serialize>) -> Value {
    json!(amounts)
}

fn used(quota: &ResourceQuota) -> Value {
    let status = quota.status.clone().unwrap_or_default();
    status.used.map_or(Value::Null, |used| list(&used))
}

fn hard(quota: &ResourceQuota) -> (Value, Value) {
    let spec = quota.spec.clone().and_then(|spec| spec.hard);
    let status = quota.status.clone().and_then(|status| status.hard);
    let shown = |hard: Option<_>| hard.map_or(Value::Null, |hard| list(&hard));
    (shown(spec), shown(status))
}

/// Waits until the quota says that so much is used, whatever it says of the rest.
async fn comes_to(t: &TestCluster, name: &str, expected: Value) {
    let expected = expected.as_object().expect("amounts").clone();
    let quotas = t.api::<ResourceQuota>();
    let what = format!("{name} to use {expected:?}");
    until(&what, async || {
        let found = used(&quotas.get(name).await.expect("read"));
        expected.iter().all(|(resource, amount)| found[resource] == *amount).then_some(())
    })
    .await;
}

async fn refused(t: &TestCluster, object: Value) -> String {
    let object: Pod = from_json(object);
    match t.api().create(&PostParams::default(), &object).await {
        Err(rk::kube::Error::Api(status)) if status.code == 403 => status.message,
        other => panic!("it was not refused: {other:?}"),
    }
}

async fn remove<K>(t: &TestCluster, name: &str)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let params = DeleteParams::default().grace_period(0);
    t.api::<K>().delete(name, &params).await.expect("deleted");
}

fn pod(name: &str, requests: Value, limits: Value) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"containers": [{
            "name": "pause", "image": "pause",
            "resources": {"requests": requests, "limits": limits},
        }]},
    })
}

// Conformance: ResourceQuota, object count quota, resourcequotas
#[tokio::test(start_paused = true)]
async fn a_quota_counts_quotas() {
    let t = TestCluster::start().await;
    assert!(t.list::<ResourceQuota>().await.is_empty());
    make(&t, NAME, json!({"hard": everything()})).await;
    comes_to(&t, NAME, json!({"resourcequotas": "1"})).await;
}

// Conformance: ResourceQuota, object count quota, service
#[tokio::test(start_paused = true)]
async fn a_quota_follows_services() {
    let t = TestCluster::start().await;
    make(&t, NAME, json!({"hard": everything()})).await;
    comes_to(&t, NAME, json!({"resourcequotas": "1", "services": "0"})).await;
    let service = |name: &str, type_: &str| -> Service {
        from_json(json!({
            "metadata": {"name": name},
            "spec": {"type": type_, "ports": [{"port": 80, "targetPort": 80}]},
        }))
    };
    let services = t.api::<Service>();
    let create = async |name: &str, type_: &str| {
        services.create(&PostParams::default(), &service(name, type_)).await
    };
    create("test-service", "ClusterIP").await.expect("created");
    create("test-service-np", "NodePort").await.expect("created");
    create("test-service-lb", "LoadBalancer").await.expect_err("a second node port is too much");
    comes_to(&t, NAME, json!({"resourcequotas": "1", "services": "2", "services.nodeports": "1"}))
        .await;
    remove::<Service>(&t, "test-service").await;
    remove::<Service>(&t, "test-service-np").await;
    comes_to(&t, NAME, json!({"services": "0", "services.nodeports": "0"})).await;
}

/// Creates an object, and deletes it: what is used of `resource` follows.
async fn follows<K>(t: &TestCluster, resource: &str, before: usize, object: Value)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Serialize,
{
    make(t, NAME, json!({"hard": everything()})).await;
    comes_to(t, NAME, json!({"resourcequotas": "1", resource: before.to_string()})).await;
    let made = t.create::<K>(object).await;
    comes_to(t, NAME, json!({resource: (before + 1).to_string()})).await;
    remove::<K>(t, &made.name_any()).await;
    comes_to(t, NAME, json!({resource: before.to_string()})).await;
}

// Conformance: ResourceQuota, object count quota, secret
#[tokio::test(start_paused = true)]
async fn a_quota_follows_secrets() {
    let t = TestCluster::start().await;
    let before = t.list::<Secret>().await.len();
    let secret = json!({"metadata": {"name": "test-secret"}, "data": {"data-1": "dmFsdWUtMQ=="}});
    follows::<Secret>(&t, "secrets", before, secret).await;
}

// Conformance: ResourceQuota, object count quota, configmap
#[tokio::test(start_paused = true)]
async fn a_quota_follows_config_maps() {
    let t = TestCluster::start().await;
    // The one with the certificate of the API server.
    let before = until("a map", async || Some(t.list::<ConfigMap>().await.len())).await;
    let map = json!({"metadata": {"name": "test-configmap"}, "data": {"a": "b"}});
    follows::<ConfigMap>(&t, "configmaps", before, map).await;
}

fn owner_of_no_pods(name: &str, selector: Value) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"replicas": 0, "selector": selector, "template": {
            "metadata": {"labels": {"name": name}},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        }},
    })
}

// Conformance: ResourceQuota, object count quota, replicationController
#[tokio::test(start_paused = true)]
async fn a_quota_follows_replication_controllers() {
    let t = TestCluster::start().await;
    let rc = owner_of_no_pods("test-rc", json!({"name": "test-rc"}));
    follows::<ReplicationController>(&t, "replicationcontrollers", 0, rc).await;
}

// Conformance: ResourceQuota, object count quota, replicaSet
#[tokio::test(start_paused = true)]
async fn a_quota_follows_replica_sets() {
    let t = TestCluster::start().await;
    let rs = owner_of_no_pods("test-rs", json!({"matchLabels": {"name": "test-rs"}}));
    follows::<ReplicaSet>(&t, "count/replicasets.apps", 0, rs).await;
}

// Conformance: ResourceQuota, object count quota, pod
#[tokio::test(start_paused = true)]
async fn a_quota_follows_pods_and_what_they_request() {
    let t = TestCluster::start().await;
    make(&t, NAME, json!({"hard": everything()})).await;
    comes_to(&t, NAME, json!({"resourcequotas": "1", "pods": "0"})).await;
    let dongles = json!({"example.com/dongle": "2"});
    let requests = json!({
        "cpu": "500m", "memory": "252Mi", "ephemeral-storage": "30Gi", "example.com/dongle": "2",
    });
    let mut made: Pod = t.create(pod("test-pod", requests.clone(), dongles.clone())).await;
    let uses = json!({
        "resourcequotas": "1", "pods": "1", "cpu": "500m", "memory": "252Mi",
        "ephemeral-storage": "30Gi", "requests.example.com/dongle": "2",
    });
    comes_to(&t, NAME, uses.clone()).await;

    let more = json!({"cpu": "600m", "memory": "100Mi"});
    refused(&t, pod("fail-pod", more, json!({}))).await;
    let why = refused(&t, pod("fail-pod-for-extended-resource", requests, dongles)).await;
    assert!(why.contains("exceeded quota: test-quota"), "{why}");

    let spec = made.spec.get_or_insert_default();
    let less = json!({"requests": {"cpu": "100m", "memory": "100Mi", "ephemeral-storage": "10Gi"}});
    spec.containers[0].resources = Some(from_json(less));
    let changed = t.api::<Pod>().replace("test-pod", &PostParams::default(), &made).await;
    changed.expect_err("what a Pod requests does not change like this");
    comes_to(&t, NAME, uses).await;

    remove::<Pod>(&t, "test-pod").await;
    let nothing = json!({
        "pods": "0", "cpu": "0", "memory": "0", "ephemeral-storage": "0",
        "requests.example.com/dongle": "0",
    });
    comes_to(&t, NAME, nothing).await;
}

/// Two quotas of opposite scopes, and a Pod that is in one of them.
async fn counts_one_of(t: &TestCluster, scopes: [&str; 2], object: Value, amounts: Value) {
    let zero = |amounts: &Value| {
        let amounts = amounts.as_object().expect("amounts");
        Value::Object(amounts.keys().map(|name| (name.clone(), json!("0"))).collect())
    };
    let names = scopes.map(|scope| format!("quota-{}", scope.to_lowercase()));
    let made: Pod = t.create(object).await;
    comes_to(t, &names[0], amounts.clone()).await;
    comes_to(t, &names[1], zero(&amounts)).await;
    remove::<Pod>(t, &made.name_any()).await;
    comes_to(t, &names[0], zero(&amounts)).await;
}

async fn scoped(t: &TestCluster, scope: &str, hard: Value) {
    let name = format!("quota-{}", scope.to_lowercase());
    let zero: serde_json::Map<_, _> =
        hard.as_object().expect("amounts").keys().map(|key| (key.clone(), json!("0"))).collect();
    make(t, &name, json!({"hard": hard, "scopes": [scope]})).await;
    comes_to(t, &name, Value::Object(zero)).await;
}

// Conformance: ResourceQuota, quota scope, Terminating and NotTerminating scope
#[tokio::test(start_paused = true)]
async fn a_quota_is_about_pods_that_end_or_about_those_that_do_not() {
    let t = TestCluster::start().await;
    let hard = json!({
        "pods": "5", "requests.cpu": "1", "requests.memory": "500Mi", "limits.cpu": "2",
        "limits.memory": "1Gi",
    });
    scoped(&t, "Terminating", hard.clone()).await;
    scoped(&t, "NotTerminating", hard).await;

    let (requests, limits) =
        (json!({"cpu": "500m", "memory": "200Mi"}), json!({"cpu": "1", "memory": "400Mi"}));
    let amounts = json!({
        "pods": "1", "requests.cpu": "500m", "requests.memory": "200Mi", "limits.cpu": "1",
        "limits.memory": "400Mi",
    });
    let long = pod("test-pod", requests, limits);
    counts_one_of(&t, ["NotTerminating", "Terminating"], long.clone(), amounts.clone()).await;
    let mut short = long;
    short["metadata"]["name"] = json!("terminating-pod");
    short["spec"]["activeDeadlineSeconds"] = json!(3600);
    counts_one_of(&t, ["Terminating", "NotTerminating"], short, amounts).await;
}

// Conformance: ResourceQuota, quota scope, BestEffort and NotBestEffort scope
#[tokio::test(start_paused = true)]
async fn a_quota_is_about_pods_that_request_nothing_or_about_the_others() {
    let t = TestCluster::start().await;
    scoped(&t, "BestEffort", json!({"pods": "5"})).await;
    scoped(&t, "NotBestEffort", json!({"pods": "5"})).await;
    let one = json!({"pods": "1"});
    let best = pod("besteffort-pod", json!({}), json!({}));
    counts_one_of(&t, ["BestEffort", "NotBestEffort"], best, one.clone()).await;
    let (requests, limits) =
        (json!({"cpu": "500m", "memory": "200Mi"}), json!({"cpu": "1", "memory": "400Mi"}));
    let burstable = pod("burstable-pod", requests, limits);
    counts_one_of(&t, ["NotBestEffort", "BestEffort"], burstable, one).await;
}

// Conformance: ResourceQuota, update and delete
#[tokio::test(start_paused = true)]
async fn a_quota_is_read_updated_and_deleted() {
    let t = TestCluster::start().await;
    let quotas = t.api::<ResourceQuota>();
    let first = json!({"cpu": "1", "memory": "500Mi"});
    make(&t, NAME, json!({"hard": first})).await;
    let mut quota = quotas.get(NAME).await.expect("read");
    assert_eq!(hard(&quota).0, first);

    let second = json!({"cpu": "2", "memory": "1Gi"});
    // Its status was written since.
    let updated = until("an update", async || {
        quota.spec.get_or_insert_default().hard = Some(from_json(second.clone()));
        let answer = quotas.replace(NAME, &PostParams::default(), &quota).await;
        if answer.is_err() {
            quota = quotas.get(NAME).await.expect("read");
        }
        answer.ok()
    })
    .await;
    assert_eq!(hard(&updated).0, second);
    assert_eq!(hard(&quotas.get(NAME).await.expect("read")).0, second);

    quotas.delete(NAME, &DeleteParams::default()).await.expect("deleted");
    assert!(quotas.get_opt(NAME).await.expect("asked").is_none());
}

// Conformance: ResourceQuota, manage lifecycle of a ResourceQuota
#[tokio::test(start_paused = true)]
async fn a_quota_is_listed_patched_and_deleted_by_its_label() {
    let t = TestCluster::start().await;
    let quotas = t.api::<ResourceQuota>();
    let spec = json!({"hard": {"cpu": "1", "memory": "500Mi"}});
    let metadata = json!({"name": NAME, "labels": {NAME: "yes"}});
    t.create::<ResourceQuota>(json!({"metadata": metadata, "spec": spec})).await;
    assert_eq!(hard(&quotas.get(NAME).await.expect("read")).0, spec["hard"]);

    let labelled = ListParams::default().labels("test-quota=yes");
    let everywhere: Api<ResourceQuota> = Api::all(t.client());
    assert_eq!(everywhere.list(&labelled).await.expect("listed").items.len(), 1);

    let changed = json!({"cpu": "750m", "memory": "250Mi"});
    let patch = json!({"metadata": {"labels": {NAME: "patched"}}, "spec": {"hard": changed}});
    let patched = quotas.patch(NAME, &PatchParams::default(), &Patch::Strategic(patch)).await;
    let patched = patched.expect("patched");
    assert_eq!((hard(&patched).0, patched.labels()[NAME].as_str()), (changed, "patched"));

    let labelled = ListParams::default().labels("test-quota=patched");
    quotas.delete_collection(&DeleteParams::default(), &labelled).await.expect("deleted");
    assert!(everywhere.list(&labelled).await.expect("listed").items.is_empty());
}

// Conformance: ResourceQuota, apply changes to a ResourceQuota status
#[tokio::test(start_paused = true)]
async fn the_status_of_a_quota_is_changed_and_put_right_again() {
    let t = TestCluster::start().await;
    let quotas = t.api::<ResourceQuota>();
    let is_right = async |expected: &Value| {
        until("the status to say what the spec says", async || {
            let quota = quotas.get(NAME).await.expect("read");
            (hard(&quota) == (expected.clone(), expected.clone())).then_some(quota)
        })
        .await
    };
    let spec = json!({"cpu": "500m", "memory": "500Mi"});
    make(&t, NAME, json!({"hard": spec})).await;
    let mut quota = is_right(&spec).await;

    let other = json!({"cpu": "1", "memory": "1Gi"});
    quota.status.get_or_insert_default().hard = Some(from_json(other.clone()));
    let updated = quotas.replace_status(NAME, &PostParams::default(), &quota).await;
    assert_eq!(hard(&updated.expect("updated")), (spec.clone(), other.clone()));
    is_right(&spec).await;

    let params = PatchParams::default();
    let patch = Patch::Merge(json!({"spec": {"hard": other}}));
    assert_eq!(hard(&quotas.patch(NAME, &params, &patch).await.expect("patched")).0, other);
    is_right(&other).await;

    let third = json!({"cpu": "100m", "memory": "100Mi"});
    let patch = Patch::Merge(json!({"status": {"hard": third}}));
    let patched = quotas.patch_status(NAME, &params, &patch).await.expect("patched");
    assert_eq!(hard(&patched), (other.clone(), third));
    is_right(&other).await;
    assert_eq!(hard(&quotas.get_status(NAME).await.expect("read")).1, other);

    // A patch of the status changes nothing but the status.
    let both = json!({"spec": {"hard": spec}, "status": {"hard": spec}});
    let patched = quotas.patch_status(NAME, &params, &Patch::Merge(both)).await.expect("patched");
    assert_eq!(hard(&patched), (other.clone(), spec));
    is_right(&other).await;
}
