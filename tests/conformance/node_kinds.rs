//! The kinds that nodes and Pods go by: templates, leases, nodes, runtime classes, ConfigMaps and
//! Secrets.

use rk::{
    k8s_openapi::api::{
        coordination::v1::Lease,
        core::v1::{ConfigMap, Node, Pod, PodTemplate, Secret},
        node::v1::RuntimeClass,
    },
    kube::{
        self, Api, ResourceExt,
        api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    },
};
use serde_json::{Value, json};

use crate::{
    cluster::{TestCluster, from_json, until},
    storage::lives,
    watched::{Happened, Watched},
};

fn template(label: &str) -> Value {
    let spec = json!({"containers": [{"name": "nginx", "image": "nginx"}]});
    json!({"template": {"metadata": {"labels": {"pod": label}}, "spec": spec}})
}

fn refused<T: std::fmt::Debug>(result: kube::Result<T>, code: u16) -> String {
    match result {
        Err(kube::Error::Api(status)) if status.code == code => status.message.clone(),
        other => panic!("not refused with {code}: {other:?}"),
    }
}

// Conformance: PodTemplate lifecycle
// Conformance: PodTemplate, replace
// Conformance: PodTemplate, delete a collection
#[tokio::test(start_paused = true)]
async fn pod_templates_live_through_all_verbs() {
    let t = TestCluster::start().await;
    let templates = t.api::<PodTemplate>();
    lives(templates.clone(), template).await;
    let mut object = template("replaced");
    object["metadata"]["name"] = json!("replaced");
    let mut made = t.create::<PodTemplate>(object).await;
    made.annotations_mut().insert("updated".to_owned(), "true".to_owned());
    templates.replace("replaced", &PostParams::default(), &made).await.expect("replaced");
    assert_eq!(templates.get("replaced").await.expect("read").annotations()["updated"], "true");
}

// Conformance: Node, resource lifecycle
#[tokio::test(start_paused = true)]
async fn a_node_lives_through_all_verbs() {
    let t = TestCluster::start().await;
    lives::<Node>(Api::all(t.client()), |_| json!({"metadata": {}})).await;
}

// Conformance: lease API should be available
#[tokio::test(start_paused = true)]
async fn leases_live_through_all_verbs() {
    let t = TestCluster::start().await;
    let leases = t.api::<Lease>();
    let spec = |holder: &str, seconds: i32, transitions: i32| {
        json!({
            "holderIdentity": holder, "leaseDurationSeconds": seconds,
            "leaseTransitions": transitions,
            "acquireTime": "2026-01-02T03:04:05.000006Z",
            "renewTime": "2026-01-02T03:04:15.000006Z",
        })
    };
    let lease = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let made = t.create::<Lease>(lease("lease", spec("holder", 30, 0))).await;
    assert_eq!(leases.get("lease").await.expect("read").spec, made.spec);
    assert_eq!(json!(made.spec), spec("holder", 30, 0));

    let mut changed = made;
    changed.spec = from_json(spec("holder2", 15, 1));
    leases.replace("lease", &PostParams::default(), &changed).await.expect("updated");
    let read = leases.get("lease").await.expect("read");
    assert_eq!(json!(read.spec), spec("holder2", 15, 1));

    let patch = Patch::Strategic(json!({"spec": spec("holder3", 60, 2)}));
    leases.patch("lease", &PatchParams::default(), &patch).await.expect("patched");
    let read = leases.get("lease").await.expect("read");
    assert_eq!(json!(read.spec), spec("holder3", 60, 2));

    let mut second = lease("lease2", spec("holder", 30, 0));
    second["metadata"]["labels"] = json!({"deletecollection": "true"});
    t.create::<Lease>(second).await;
    assert_eq!(t.list::<Lease>().await.len(), 2);
    let labelled = ListParams::default().labels("deletecollection=true");
    leases.delete_collection(&DeleteParams::default(), &labelled).await.expect("deleted");
    let left: Vec<_> = t.list::<Lease>().await.iter().map(ResourceExt::name_any).collect();
    assert_eq!(left, ["lease"]);
    leases.delete("lease", &DeleteParams::default()).await.expect("deleted");
    refused(leases.get("lease").await, 404);
}

fn of_class(name: &str, class: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"runtimeClassName": class, "containers": [{"name": "c", "image": "pause"}]},
    })
}

async fn class(t: &TestCluster, object: Value) -> Api<RuntimeClass> {
    let classes: Api<RuntimeClass> = Api::all(t.client());
    classes.create(&PostParams::default(), &from_json(object)).await.expect("created");
    classes
}

async fn is_scheduled(t: &TestCluster, name: &str) -> Pod {
    let pods = t.api::<Pod>();
    until("a node", async || {
        let pod = pods.get(name).await.expect("read");
        pod.spec.as_ref()?.node_name.as_ref()?;
        Some(pod)
    })
    .await
}

// Conformance: Pod with the non-existing RuntimeClass is rejected.
// Conformance: Pod with the deleted RuntimeClass is rejected.
#[tokio::test(start_paused = true)]
async fn a_pod_of_a_runtime_class_that_is_not_there_is_refused() {
    let t = TestCluster::start().await;
    let asked = async |class: &str| {
        let pod = from_json(of_class("asks", class));
        refused(t.api::<Pod>().create(&PostParams::default(), &pod).await, 403)
    };
    let why = asked("nonexistent").await;
    assert!(why.contains("RuntimeClass \"nonexistent\" not found"), "{why}");

    let classes = class(&t, json!({"metadata": {"name": "short"}, "handler": "runc"})).await;
    classes.delete("short", &DeleteParams::default()).await.expect("deleted");
    until("the class is gone", async || {
        classes.get_opt("short").await.expect("asked").is_none().then_some(())
    })
    .await;
    let why = asked("short").await;
    assert!(why.contains("RuntimeClass \"short\" not found"), "{why}");
}

// Conformance: Can schedule a pod requesting existing RuntimeClass.
// Conformance: RuntimeClass Overhead field must be respected.
#[tokio::test(start_paused = true)]
async fn a_pod_of_a_runtime_class_is_scheduled_with_its_overhead() {
    let t = TestCluster::start().await;
    class(&t, json!({"metadata": {"name": "plain"}, "handler": "plain"})).await;
    t.create::<Pod>(of_class("plain", "plain")).await;
    let scheduled = is_scheduled(&t, "plain").await.spec.expect("a spec");
    assert_eq!(
        (scheduled.runtime_class_name.as_deref(), scheduled.overhead),
        (Some("plain"), None)
    );

    let fixed = json!({"cpu": "10m", "memory": "1Mi"});
    class(
        &t,
        json!({"metadata": {"name": "heavy"}, "handler": "heavy", "overhead": {"podFixed": fixed}}),
    )
    .await;
    t.create::<Pod>(of_class("heavy", "heavy")).await;
    let scheduled = is_scheduled(&t, "heavy").await.spec.expect("a spec");
    assert_eq!(json!(scheduled.overhead), fixed);
}

// Conformance: RuntimeClass API
#[tokio::test(start_paused = true)]
async fn runtime_classes_are_discovered_and_live_through_all_verbs() {
    let t = TestCluster::start().await;
    let named = |list: &Value, key: &str, name: &str| {
        list.as_array().into_iter().flatten().any(|it| it[key] == name)
    };
    let groups = t.get("/apis").await;
    assert!(named(&groups["groups"], "name", "node.k8s.io"), "{groups}");
    let group = t.get("/apis/node.k8s.io").await;
    assert!(named(&group["versions"], "version", "v1"), "{group}");
    let resources = t.get("/apis/node.k8s.io/v1").await;
    assert!(named(&resources["resources"], "name", "runtimeclasses"), "{resources}");

    let classes: Api<RuntimeClass> = Api::all(t.client());
    let mut watched = Watched::new(&classes, "of=test").await;
    lives(classes, |name| json!({"handler": format!("handler-{name}")})).await;
    watched.happens(Happened::Added, "a creation").await;
    watched.happens(Happened::Modified, "a patch").await;
    watched.happens(Happened::Deleted, "a deletion").await;
}

// Conformance: ConfigMap, with empty-key
// Conformance: Secrets, with empty-key
#[tokio::test(start_paused = true)]
async fn a_key_has_a_name() {
    let t = TestCluster::start().await;
    let map: ConfigMap = from_json(json!({"metadata": {"name": "m"}, "data": {"": "value-1"}}));
    let why = refused(t.api().create(&PostParams::default(), &map).await, 422);
    assert!(why.contains("data[]"), "{why}");
    let secret: Secret =
        from_json(json!({"metadata": {"name": "s"}, "data": {"": "dmFsdWUtMQ=="}}));
    let why = refused(t.api().create(&PostParams::default(), &secret).await, 422);
    assert!(why.contains("data[]"), "{why}");
}

// Conformance: ConfigMap lifecycle
#[tokio::test(start_paused = true)]
async fn a_config_map_is_watched_through_its_life() {
    let t = TestCluster::start().await;
    let maps = t.api::<ConfigMap>();
    let selector = "test-configmap-static=true";
    let mut watched = Watched::new(&maps, selector).await;
    t.create::<ConfigMap>(json!({
        "metadata": {"name": "map", "labels": {"test-configmap-static": "true"}},
        "data": {"valueName": "value"},
    }))
    .await;
    watched.happens(Happened::Added, "the creation").await;
    let patch = json!({
        "metadata": {"labels": {"test-configmap": "patched"}}, "data": {"valueName": "value1"},
    });
    let patch = Patch::Strategic(patch);
    maps.patch("map", &PatchParams::default(), &patch).await.expect("patched");
    watched.happens(Happened::Modified, "the patch").await;
    let is_patched = |map: &ConfigMap| {
        let data = map.data.clone().unwrap_or_default();
        map.labels()["test-configmap"] == "patched" && data["valueName"] == "value1"
    };
    assert!(is_patched(&maps.get("map").await.expect("read")));

    let everywhere: Api<ConfigMap> = Api::all(t.client());
    let labelled = ListParams::default().labels(selector);
    let list = everywhere.list(&labelled).await.expect("listed");
    assert_eq!(list.items.iter().filter(|map| is_patched(map)).count(), 1);
    maps.delete_collection(&DeleteParams::default(), &labelled).await.expect("deleted");
    watched.happens(Happened::Deleted, "the deletion").await;
    assert!(everywhere.list(&labelled).await.expect("listed").items.is_empty());
}

// Conformance: Secret patching
#[tokio::test(start_paused = true)]
async fn a_secret_is_patched_and_deleted_by_its_label() {
    let t = TestCluster::start().await;
    let secrets = t.api::<Secret>();
    t.create::<Secret>(json!({
        "metadata": {"name": "secret", "labels": {"testsecret-constant": "true"}},
        "data": {"key": "dmFsdWU="}, "type": "Opaque",
    }))
    .await;
    let everywhere: Api<Secret> = Api::all(t.client());
    let labelled = ListParams::default().labels("testsecret-constant=true");
    assert_eq!(everywhere.list(&labelled).await.expect("listed").items.len(), 1);

    let patch = json!({
        "metadata": {"labels": {"testsecret": "true"}}, "data": {"key": "dmFsdWUx"},
    });
    let patch = Patch::Strategic(patch);
    secrets.patch("secret", &PatchParams::default(), &patch).await.expect("patched");
    let read = secrets.get("secret").await.expect("read");
    let data = read.data.clone().unwrap_or_default();
    assert_eq!((read.labels()["testsecret"].as_str(), &*data["key"].0), ("true", &b"value1"[..]));

    secrets.delete_collection(&DeleteParams::default(), &labelled).await.expect("deleted");
    assert!(everywhere.list(&labelled).await.expect("listed").items.is_empty());
}
