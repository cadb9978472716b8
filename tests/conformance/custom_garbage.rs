//! Custom objects among others: as owners and as dependents, in namespaces that go, and counted by
//! quotas, whose controllers were there before the kind was.

use rk::{
    k8s_openapi::{
        api::core::v1::{ConfigMap, Namespace, ResourceQuota},
        apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    },
    kube::{
        Api, ResourceExt,
        api::{
            ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
            PropagationPolicy,
        },
        core::GroupVersionKind,
    },
};
use serde_json::{Value, json};

use crate::cluster::{TestCluster, delete, from_json, until, wait};

const GROUP: &str = "garbage.example.com";

/// A cluster whose controllers have run for a while before there is a kind `Thing`.
async fn with_things() -> TestCluster {
    let t = TestCluster::start().await;
    wait(60).await;
    let definition = json!({
        "metadata": {"name": format!("things.{GROUP}")},
        "spec": {
            "group": GROUP, "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {
                    "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                }},
            }],
        },
    });
    let made = definitions(&t).create(&PostParams::default(), &from_json(definition)).await;
    made.expect("created");
    until("the kind", async || things(&t).list(&ListParams::default()).await.ok()).await;
    t
}

fn definitions(t: &TestCluster) -> Api<CustomResourceDefinition> {
    Api::all(t.client())
}

fn kind() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, "v1", "Thing"), "things")
}

fn things_in(t: &TestCluster, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(t.client(), namespace, &kind())
}

fn things(t: &TestCluster) -> Api<DynamicObject> {
    things_in(t, &t.namespace)
}

fn thing(name: &str, owners: Value) -> DynamicObject {
    let metadata = json!({"name": name, "ownerReferences": owners});
    from_json(json!({"apiVersion": format!("{GROUP}/v1"), "kind": "Thing", "metadata": metadata}))
}

async fn make(t: &TestCluster, name: &str, owners: Value) -> DynamicObject {
    things(t).create(&PostParams::default(), &thing(name, owners)).await.expect("created")
}

async fn config_map(t: &TestCluster, name: &str, owners: Value) -> ConfigMap {
    t.create(json!({"metadata": {"name": name, "ownerReferences": owners}})).await
}

fn owned_by(owner: &DynamicObject) -> Value {
    json!([{
        "apiVersion": format!("{GROUP}/v1"), "kind": "Thing", "name": owner.name_any(),
        "uid": owner.uid(), "blockOwnerDeletion": true,
    }])
}

async fn gone<K>(t: &TestCluster, api: Api<K>, name: &str)
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let namespace = &t.namespace;
    until(&format!("{namespace}/{name} to go"), async || {
        api.get_opt(name).await.expect("asked").is_none().then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_a_custom_object_owns_goes_after_it() {
    let t = with_things().await;
    let owner = make(&t, "owner", json!([])).await;
    config_map(&t, "owned", owned_by(&owner)).await;
    make(&t, "owned", owned_by(&owner)).await;
    config_map(&t, "free", json!([])).await;
    let params = delete(PropagationPolicy::Background, owner.uid().as_deref());
    things(&t).delete("owner", &params).await.expect("deleted");
    gone(&t, t.api::<ConfigMap>(), "owned").await;
    gone(&t, things(&t), "owned").await;
    wait(120).await;
    assert!(t.api::<ConfigMap>().get_opt("free").await.expect("asked").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_custom_object_goes_after_its_owner() {
    let t = with_things().await;
    let owner = config_map(&t, "owner", json!([])).await;
    let reference =
        json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.uid()}]);
    make(&t, "owned", reference).await;
    let nobody = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "nobody", "uid": "u"}]);
    make(&t, "owned-by-nobody", nobody).await;
    gone(&t, things(&t), "owned-by-nobody").await;
    wait(60).await;
    assert!(things(&t).get_opt("owned").await.expect("asked").is_some());
    t.api::<ConfigMap>().delete("owner", &DeleteParams::default()).await.expect("deleted");
    gone(&t, things(&t), "owned").await;
}

#[tokio::test(start_paused = true)]
async fn in_the_foreground_a_custom_object_waits_for_what_it_owns() {
    let t = with_things().await;
    let owner = make(&t, "owner", json!([])).await;
    config_map(&t, "owned", owned_by(&owner)).await;
    let finalizers = |list: Value| Patch::Merge(json!({"metadata": {"finalizers": list}}));
    let maps = t.api::<ConfigMap>();
    let keeps = finalizers(json!(["example.com/keep"]));
    maps.patch("owned", &PatchParams::default(), &keeps).await.expect("patched");
    let params = delete(PropagationPolicy::Foreground, None);
    things(&t).delete("owner", &params).await.expect("deleted");
    until("the dependent to be deleted", async || {
        maps.get("owned").await.expect("read").metadata.deletion_timestamp
    })
    .await;
    wait(60).await;
    let waiting = things(&t).get("owner").await.expect("it waits");
    assert_eq!(waiting.finalizers(), ["foregroundDeletion"]);
    let lets_go = finalizers(Value::Null);
    maps.patch("owned", &PatchParams::default(), &lets_go).await.expect("patched");
    gone(&t, maps, "owned").await;
    gone(&t, things(&t), "owner").await;
}

#[tokio::test(start_paused = true)]
async fn orphans_of_a_custom_object_stay() {
    let t = with_things().await;
    let owner = make(&t, "owner", json!([])).await;
    config_map(&t, "owned", owned_by(&owner)).await;
    let params = delete(PropagationPolicy::Orphan, None);
    things(&t).delete("owner", &params).await.expect("deleted");
    gone(&t, things(&t), "owner").await;
    wait(120).await;
    let left = t.api::<ConfigMap>().get("owned").await.expect("it stays");
    assert!(left.owner_references().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_definition_takes_with_it_what_its_objects_own() {
    let t = with_things().await;
    let owner = make(&t, "owner", json!([])).await;
    config_map(&t, "owned", owned_by(&owner)).await;
    // The collector finds new kinds twice a minute, and learns of no owner that it never saw.
    wait(60).await;
    let name = format!("things.{GROUP}");
    definitions(&t).delete(&name, &DeleteParams::default()).await.expect("deleted");
    gone(&t, definitions(&t), &name).await;
    gone(&t, t.api::<ConfigMap>(), "owned").await;
    // The collector goes on with the kinds that are left.
    let owner = config_map(&t, "owner", json!([])).await;
    let reference =
        json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.uid()}]);
    config_map(&t, "other", reference).await;
    t.api::<ConfigMap>().delete("owner", &DeleteParams::default()).await.expect("deleted");
    gone(&t, t.api::<ConfigMap>(), "other").await;
}

#[tokio::test(start_paused = true)]
async fn a_namespace_waits_for_its_custom_objects() {
    let t = with_things().await;
    t.make_namespace("goes").await;
    let api = things_in(&t, "goes");
    api.create(&PostParams::default(), &thing("plain", json!([]))).await.expect("created");
    let mut kept = thing("kept", json!([]));
    kept.metadata.finalizers = Some(vec!["example.com/keep".to_owned()]);
    api.create(&PostParams::default(), &kept).await.expect("created");
    let namespaces: Api<Namespace> = Api::all(t.client());
    namespaces.delete("goes", &DeleteParams::default()).await.expect("deleted");
    gone(&t, api.clone(), "plain").await;
    let told = until("the namespace to tell", async || {
        let status = namespaces.get("goes").await.expect("it waits").status?;
        let conditions = status.conditions.unwrap_or_default();
        let remaining =
            conditions.into_iter().find(|it| it.type_ == "NamespaceContentRemaining")?;
        (remaining.status == "True").then_some(remaining.message?)
    })
    .await;
    assert!(told.contains(&format!("things.{GROUP} has 1 resource instances")), "{told}");
    let lets_go = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    api.patch("kept", &PatchParams::default(), &lets_go).await.expect("patched");
    gone(&t, namespaces, "goes").await;
}

#[tokio::test(start_paused = true)]
async fn a_quota_counts_custom_objects() {
    let t = with_things().await;
    make(&t, "before", json!([])).await;
    let count = format!("count/things.{GROUP}");
    let hard = json!({"metadata": {"name": "two"}, "spec": {"hard": {&count: "2"}}});
    let _: ResourceQuota = t.create(hard).await;
    let comes_to = async |amount: &str| {
        until(&format!("{amount} of {count}"), async || {
            let status = t.api::<ResourceQuota>().get("two").await.expect("read").status?;
            (status.used?.get(&count)?.0 == amount).then_some(())
        })
        .await;
    };
    comes_to("1").await;
    make(&t, "after", json!([])).await;
    comes_to("2").await;
    let third = things(&t).create(&PostParams::default(), &thing("third", json!([]))).await;
    let why = third.expect_err("one too many").to_string();
    assert!(why.contains(&format!("exceeded quota: two, requested: {count}=1")), "{why}");
    things(&t).delete("before", &DeleteParams::default()).await.expect("deleted");
    comes_to("1").await;
    make(&t, "third", json!([])).await;
    comes_to("2").await;
}
