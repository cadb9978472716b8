//! The kinds of storage through their lives, with the controllers that act on them at work.

use std::fmt::Debug;

use rk::{
    k8s_openapi::{
        NamespaceResourceScope,
        api::{
            core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Secret},
            storage::v1::{
                CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment,
                VolumeAttributesClass,
            },
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

/// A kind that can be taken through its life.
pub trait Kind: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug {}
impl<K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug> Kind for K {}

fn labelled(selector: &str) -> ListParams {
    ListParams::default().labels(selector)
}

async fn gone<K: Kind>(api: &Api<K>, selector: &str) {
    until("nothing is left", async || {
        let left = api.list(&labelled(selector)).await.expect("listed");
        left.items.is_empty().then_some(())
    })
    .await;
}

async fn label<K: Kind>(api: &Api<K>, name: &str, value: &str) {
    let patch = Patch::Merge(json!({"metadata": {"labels": {"step": value}}}));
    let patched = api.patch(name, &PatchParams::default(), &patch).await.expect("patched");
    assert_eq!(patched.labels()["step"], value);
}

/// Updates the whole object with another label, again if somebody wrote it in between.
async fn update<K: Kind>(api: &Api<K>, name: &str, value: &str) {
    let updated = until("the update", async || {
        let mut object = api.get(name).await.expect("read");
        object.labels_mut().insert("step".to_owned(), value.to_owned());
        api.replace(name, &PostParams::default(), &object).await.ok()
    })
    .await;
    assert_eq!(updated.labels()["step"], value);
}

/// Created, read, patched, listed, deleted; once more created, updated, deleted with all of its
/// label.
pub async fn lives<K: Kind>(api: Api<K>, object: impl Fn(&str) -> Value) {
    let make = async |name: &str| {
        let mut object = object(name);
        object["metadata"]["name"] = json!(name);
        object["metadata"]["labels"]["of"] = json!("test");
        let object = from_json::<K>(object);
        api.create(&PostParams::default(), &object).await.expect("created")
    };
    let first = make("first").await;
    let read = api.get("first").await.expect("read");
    assert_eq!((read.name_any(), read.uid()), ("first".to_owned(), first.uid()));
    label(&api, "first", "patched").await;
    let patched = api.list(&labelled("step=patched")).await.expect("listed");
    assert_eq!(patched.items.len(), 1);
    api.delete("first", &DeleteParams::default()).await.expect("deleted");
    gone(&api, "step=patched").await;

    make("second").await;
    make("third").await;
    update(&api, "second", "updated").await;
    update(&api, "third", "updated").await;
    let both = labelled("step=updated");
    assert_eq!(api.list(&both).await.expect("listed").items.len(), 2);
    api.delete_collection(&DeleteParams::default(), &both).await.expect("deleted");
    gone(&api, "of=test").await;
}

// Conformance: StorageClass, lifecycle
// Conformance: CSINode, lifecycle
// Conformance: VolumeAttachment, lifecycle
#[tokio::test(start_paused = true)]
async fn kinds_of_storage_live_through_all_verbs() {
    let t = TestCluster::start().await;
    let client = || t.client();
    lives::<StorageClass>(Api::all(client()), |_| json!({"provisioner": "example.com/x"})).await;
    lives::<CSINode>(
        Api::all(client()),
        |name| json!({"spec": {"drivers": [{"name": "example.com", "nodeID": name}]}}),
    )
    .await;
    lives::<VolumeAttachment>(Api::all(client()), attachment).await;
    // Protected by a controller, as volumes are.
    lives::<VolumeAttributesClass>(
        Api::all(client()),
        |_| json!({"driverName": "example.com", "parameters": {"iops": "1"}}),
    )
    .await;
}

fn attachment(name: &str) -> Value {
    json!({"spec": {
        "attacher": "example.com", "nodeName": format!("node-of-{name}"),
        "source": {"persistentVolumeName": format!("volume-of-{name}")},
    }})
}

// Conformance: VolumeAttachment, apply changes to a volumeattachment status
#[tokio::test(start_paused = true)]
async fn the_status_of_an_attachment_is_patched_and_updated() {
    let t = TestCluster::start().await;
    let api = Api::<VolumeAttachment>::all(t.client());
    let mut object = attachment("a");
    object["metadata"] = json!({"name": "a"});
    api.create(&PostParams::default(), &from_json(object)).await.expect("created");
    label(&api, "a", "patched").await;
    let attached = |found: &VolumeAttachment| found.status.as_ref().map(|status| status.attached);
    assert_ne!(attached(&api.get_status("a").await.expect("read")), Some(true));

    let done = Patch::Merge(json!({"status": {"attached": true}}));
    let patched = api.patch_status("a", &PatchParams::default(), &done).await.expect("patched");
    assert_eq!(attached(&patched), Some(true));
    let mut undone = patched;
    undone.status = Some(from_json(json!({"attached": false})));
    let updated = api.replace_status("a", &PostParams::default(), &undone).await.expect("updated");
    assert_eq!(attached(&updated), Some(false));
    api.delete("a", &DeleteParams::default()).await.expect("deleted");
    gone(&api, "step=patched").await;
}

/// Data changes until the object is made immutable; its labels may change ever after.
async fn becomes_immutable<K>(t: &TestCluster, first: Value, second: Value)
where
    K: Kind + Resource<Scope = NamespaceResourceScope>,
{
    let api = t.api::<K>();
    let mut object = first;
    object["metadata"] = json!({"name": "fixed"});
    t.create::<K>(object).await;
    let patch = async |patch: Value| {
        api.patch("fixed", &PatchParams::default(), &Patch::Merge(patch)).await
    };
    patch(json!({"data": second})).await.expect("it may change");
    patch(json!({"immutable": true})).await.expect("it is fixed");
    patch(json!({"data": {"key": null}})).await.expect_err("it is fixed");
    patch(json!({"immutable": false})).await.expect_err("for good");
    label(&api, "fixed", "after").await;
    api.delete("fixed", &DeleteParams::default()).await.expect("deleted");
    gone(&api, "step=after").await;
}

// Conformance: ConfigMap Volume, immutability
// Conformance: Secrets Volume, immutability
#[tokio::test(start_paused = true)]
async fn what_is_immutable_stays_as_it_is() {
    let t = TestCluster::start().await;
    let text = (json!({"data": {"key": "one"}}), json!({"key": "two"}));
    becomes_immutable::<ConfigMap>(&t, text.0, text.1).await;
    let bytes = (json!({"data": {"key": "b25l"}}), json!({"key": "dHdv"}));
    becomes_immutable::<Secret>(&t, bytes.0, bytes.1).await;
}

// Conformance: CSIInlineVolumes should support ephemeral CSIDrivers
#[tokio::test(start_paused = true)]
async fn drivers_of_ephemeral_volumes_live_through_all_verbs() {
    let t = TestCluster::start().await;
    lives::<CSIDriver>(Api::all(t.client()), |name| {
        let modes =
            if name == "first" { json!(["Ephemeral"]) } else { json!(["Persistent", "Ephemeral"]) };
        json!({"spec": {
            "volumeLifecycleModes": modes, "fsGroupPolicy": "ReadWriteOnceWithFSType",
        }})
    })
    .await;
}

fn volume(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"of": "test"}}, "spec": {
        "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
        "csi": {"driver": "example.com", "volumeHandle": "h"}, "storageClassName": "none",
    }})
}

fn claim(name: &str, class: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"of": "test"}}, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": class,
        "resources": {"requests": {"storage": "1Gi"}},
    }})
}

// Conformance: PersistentVolumes(Claims), lifecycle
#[tokio::test(start_paused = true)]
async fn a_volume_and_a_claim_live_through_all_verbs() {
    let t = TestCluster::start().await;
    let volumes = Api::<PersistentVolume>::all(t.client());
    let claims = t.api::<PersistentVolumeClaim>();
    let make = async |name: &str| {
        let first = from_json(volume(name));
        let volume = volumes.create(&PostParams::default(), &first).await.expect("created");
        // Of another class, so that nothing binds them.
        let claim = t.create::<PersistentVolumeClaim>(claim(name, "other")).await;
        (volume, claim)
    };
    let (volume, claim) = make("first").await;
    assert_eq!(volumes.list(&labelled("of=test")).await.expect("listed").items.len(), 1);
    assert_eq!(claims.list(&ListParams::default()).await.expect("listed").items.len(), 1);
    label(&volumes, "first", "patched").await;
    label(&claims, "first", "patched").await;
    assert_eq!(volumes.get("first").await.expect("read").uid(), volume.uid());
    assert_eq!(claims.get("first").await.expect("read").uid(), claim.uid());
    claims.delete("first", &DeleteParams::default()).await.expect("deleted");
    gone(&claims, "of=test").await;
    volumes.delete("first", &DeleteParams::default()).await.expect("deleted");
    gone(&volumes, "of=test").await;

    make("second").await;
    update(&volumes, "second", "updated").await;
    update(&claims, "second", "updated").await;
    let selected = labelled("step=updated");
    claims.delete_collection(&DeleteParams::default(), &selected).await.expect("deleted");
    gone(&claims, "of=test").await;
    volumes.delete_collection(&DeleteParams::default(), &selected).await.expect("deleted");
    gone(&volumes, "of=test").await;
}

// Conformance: PersistentVolumes(Claims), apply changes to a pv/pvc status
#[tokio::test(start_paused = true)]
async fn the_statuses_of_a_volume_and_its_claim_are_patched_and_updated() {
    let t = TestCluster::start().await;
    let volumes = Api::<PersistentVolume>::all(t.client());
    let claims = t.api::<PersistentVolumeClaim>();
    volumes.create(&PostParams::default(), &from_json(volume("v"))).await.expect("created");
    t.create::<PersistentVolumeClaim>(claim("c", "none")).await;
    let phase = async || {
        let claim = claims.get_status("c").await.expect("read").status.unwrap_or_default();
        let volume = volumes.get_status("v").await.expect("read").status.unwrap_or_default();
        (claim.phase.unwrap_or_default(), volume.phase.unwrap_or_default())
    };
    until("both are bound", async || {
        let bound = ("Bound".to_owned(), "Bound".to_owned());
        (phase().await == bound).then_some(())
    })
    .await;
    assert_eq!(volumes.list(&labelled("of=test")).await.expect("listed").items.len(), 1);
    assert_eq!(claims.list(&ListParams::default()).await.expect("listed").items.len(), 1);

    let condition = |kind: &str| json!([{"type": kind, "status": "True", "reason": "Test"}]);
    let patch = Patch::Merge(json!({"status": {"conditions": condition("Patched")}}));
    let patched = claims.patch_status("c", &PatchParams::default(), &patch).await.expect("patched");
    let kinds = |claim: &PersistentVolumeClaim| {
        let conditions = claim.status.clone().unwrap_or_default().conditions.unwrap_or_default();
        conditions.into_iter().map(|condition| condition.type_).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&patched), ["Patched"]);
    let said = json!({"reason": "Patched", "message": "by a test"});
    let patch = Patch::Merge(json!({"status": said}));
    let volume = volumes.patch_status("v", &PatchParams::default(), &patch).await.expect("patched");
    assert_eq!(volume.status.unwrap_or_default().reason.as_deref(), Some("Patched"));

    let updated = until("the update", async || {
        let mut claim = claims.get("c").await.expect("read");
        claim.status.get_or_insert_default().conditions = Some(from_json(condition("Updated")));
        claims.replace_status("c", &PostParams::default(), &claim).await.ok()
    })
    .await;
    assert_eq!(kinds(&updated), ["Updated"]);
    let updated = until("the update", async || {
        let mut volume = volumes.get("v").await.expect("read");
        volume.status.get_or_insert_default().message = Some("updated by a test".to_owned());
        volumes.replace_status("v", &PostParams::default(), &volume).await.ok()
    })
    .await;
    let message = updated.status.unwrap_or_default().message;
    assert_eq!(message.as_deref(), Some("updated by a test"));
}

// Conformance: CSIStorageCapacity API
#[tokio::test(start_paused = true)]
async fn storage_capacities_are_discovered_and_live_through_all_verbs() {
    let t = TestCluster::start().await;
    let groups = t.get("/apis").await;
    let named = |list: &Value, key: &str, name: &str| {
        list.as_array().is_some_and(|list| list.iter().any(|it| it[key] == name))
    };
    assert!(named(&groups["groups"], "name", "storage.k8s.io"));
    let group = t.get("/apis/storage.k8s.io").await;
    assert!(named(&group["versions"], "version", "v1"));
    let resources = t.get("/apis/storage.k8s.io/v1").await;
    let found = resources["resources"]
        .as_array()
        .and_then(|list| list.iter().find(|resource| resource["name"] == "csistoragecapacities"));
    let verbs = json!(found.expect("it is discovered")["verbs"]);
    for verb in ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
    {
        assert!(verbs.as_array().is_some_and(|verbs| verbs.contains(&json!(verb))), "{verb}");
    }
    let capacity = |_: &str| json!({"storageClassName": "x", "capacity": "1Gi"});
    lives::<CSIStorageCapacity>(t.api(), capacity).await;

    // A watch tells of each change, and a list of all namespaces has the objects of this one.
    let api = t.api::<CSIStorageCapacity>();
    let everywhere = Api::<CSIStorageCapacity>::all(t.client());
    let start = api.list(&ListParams::default()).await.expect("listed");
    let version = start.metadata.resource_version.unwrap_or_default();
    let mut changes =
        std::pin::pin!(api.watch(&Default::default(), &version).await.expect("watched"));
    let mut object = capacity("");
    object["metadata"] = json!({"name": "watched"});
    t.create::<CSIStorageCapacity>(object).await;
    label(&api, "watched", "patched").await;
    assert_eq!(everywhere.list(&ListParams::default()).await.expect("listed").items.len(), 1);
    api.delete("watched", &DeleteParams::default()).await.expect("deleted");
    let mut seen = Vec::new();
    while seen.len() < 3 {
        use rk::kube::api::WatchEvent::{Added, Deleted, Modified};
        match futures::StreamExt::next(&mut changes).await.expect("a change").expect("sound") {
            Added(_) => seen.push("added"),
            Modified(_) => seen.push("modified"),
            Deleted(_) => seen.push("deleted"),
            _ => {}
        }
    }
    assert_eq!(seen, ["added", "modified", "deleted"]);
}
