//! Volumes, claims and what is between them: scenarios S255 and S256.

use std::fmt::Debug;

use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::{StorageClass, VolumeAttachment, VolumeAttributesClass},
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use rk_controllers::HostPathProvisioner;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::cluster::{TestCluster, from_json};

async fn make<K>(cluster: &TestCluster, object: Value) -> K
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug,
{
    Api::<K>::all(cluster.client.clone())
        .create(&PostParams::default(), &from_json(object))
        .await
        .unwrap()
}

async fn volume(cluster: &TestCluster, name: &str) -> Option<PersistentVolume> {
    Api::all(cluster.client.clone()).get_opt(name).await.unwrap()
}

/// The phase of a volume and the claim it names, `-` for none; empty when there is no volume.
async fn volume_state(cluster: &TestCluster, name: &str) -> String {
    let Some(volume) = volume(cluster, name).await else { return String::new() };
    let claimant = volume.spec.unwrap().claim_ref.and_then(|claimant| claimant.name);
    let phase = volume.status.unwrap().phase.unwrap();
    format!("{phase} {}", claimant.as_deref().unwrap_or("-"))
}

/// The phase of a claim and its volume, `-` for none; empty when there is no claim.
async fn claim_state(cluster: &TestCluster, name: &str) -> String {
    let claim = cluster.get::<PersistentVolumeClaim>(name).await;
    let Some(claim) = claim else { return String::new() };
    let volume = claim.spec.unwrap().volume_name;
    let phase = claim.status.unwrap().phase.unwrap();
    format!("{phase} {}", volume.as_deref().unwrap_or("-"))
}

fn of_size(name: &str, size: &str, policy: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "accessModes": ["ReadWriteOnce"], "capacity": {"storage": size},
        "hostPath": {"path": "/tmp/x"}, "persistentVolumeReclaimPolicy": policy,
    }})
}

fn asks(name: &str, size: &str, class: Option<&str>) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": class,
        "resources": {"requests": {"storage": size}},
    }})
}

fn uses(name: &str, claim: &str, node: Option<&str>) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "nodeName": node,
        "containers": [{"name": "c", "image": "x"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}],
    }})
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_bound_to_the_smallest_volume_that_fits_and_released_with_its_end() {
    let cluster = TestCluster::start().await;
    for (name, size) in [("large", "9Gi"), ("right", "4Gi"), ("small", "1Gi")] {
        make::<PersistentVolume>(&cluster, of_size(name, size, "Retain")).await;
    }
    cluster.settle().await;
    assert_eq!(volume_state(&cluster, "small").await, "Available -");

    cluster.create::<PersistentVolumeClaim>(asks("data", "3Gi", None)).await;
    cluster.create::<PersistentVolumeClaim>(asks("huge", "99Gi", None)).await;
    cluster.settle().await;
    assert_eq!(claim_state(&cluster, "data").await, "Bound right");
    assert_eq!(volume_state(&cluster, "right").await, "Bound data");
    assert_eq!(claim_state(&cluster, "huge").await, "Pending -");
    let said = "no persistent volumes available for this claim and no storage class is set";
    assert!(cluster.events("FailedBinding").await.iter().any(|message| message == said));

    // A volume that fits ends the wait at once.
    make::<PersistentVolume>(&cluster, of_size("enough", "100Gi", "Retain")).await;
    cluster.settle().await;
    assert_eq!(claim_state(&cluster, "huge").await, "Bound enough");

    cluster.delete::<PersistentVolumeClaim>("data", &DeleteParams::default()).await;
    cluster.settle().await;
    assert_eq!(claim_state(&cluster, "data").await, "");
    assert_eq!(volume_state(&cluster, "right").await, "Released data");
    // What is retained goes to nobody else.
    cluster.create::<PersistentVolumeClaim>(asks("data", "4Gi", None)).await;
    cluster.settle().await;
    assert_eq!(claim_state(&cluster, "data").await, "Bound large");
}

#[tokio::test(start_paused = true)]
async fn storage_in_use_is_not_deleted() {
    let cluster = TestCluster::start().await;
    make::<PersistentVolume>(&cluster, of_size("v", "1Gi", "Retain")).await;
    cluster.create::<PersistentVolumeClaim>(asks("data", "1Gi", None)).await;
    cluster.create::<Pod>(uses("user", "data", None)).await;
    cluster.settle().await;
    let claim = cluster.get::<PersistentVolumeClaim>("data").await.unwrap();
    assert_eq!(claim.finalizers(), ["kubernetes.io/pvc-protection"]);

    cluster.delete::<PersistentVolumeClaim>("data", &DeleteParams::default()).await;
    let volumes = Api::<PersistentVolume>::all(cluster.client.clone());
    volumes.delete("v", &DeleteParams::default()).await.unwrap();
    cluster.wait(60).await;
    assert_eq!(claim_state(&cluster, "data").await, "Bound v");
    assert_eq!(volume_state(&cluster, "v").await, "Bound data");

    cluster.delete::<Pod>("user", &DeleteParams::default()).await;
    cluster.settle().await;
    assert_eq!(claim_state(&cluster, "data").await, "");
    assert_eq!(volume_state(&cluster, "v").await, "");
}

#[tokio::test(start_paused = true)]
async fn a_class_of_attributes_stays_while_a_volume_names_it() {
    let cluster = TestCluster::start().await;
    let class =
        json!({"metadata": {"name": "fast"}, "driverName": "d", "parameters": {"iops": "1"}});
    make::<VolumeAttributesClass>(&cluster, class).await;
    let mut named = of_size("v", "1Gi", "Retain");
    named["spec"]["volumeAttributesClassName"] = json!("fast");
    named["spec"].as_object_mut().unwrap().remove("hostPath");
    named["spec"]["csi"] = json!({"driver": "d", "volumeHandle": "h"});
    make::<PersistentVolume>(&cluster, named).await;
    cluster.settle().await;
    let classes = Api::<VolumeAttributesClass>::all(cluster.client.clone());
    classes.delete("fast", &DeleteParams::default()).await.unwrap();
    cluster.settle().await;
    assert!(classes.get_opt("fast").await.unwrap().is_some());

    let volumes = Api::<PersistentVolume>::all(cluster.client.clone());
    volumes.delete("v", &DeleteParams::default()).await.unwrap();
    cluster.settle().await;
    assert!(classes.get_opt("fast").await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_claim_without_a_class_gets_the_default_one_when_it_comes() {
    let cluster = TestCluster::start().await;
    cluster.create::<PersistentVolumeClaim>(asks("data", "1Gi", None)).await;
    cluster.settle().await;
    let default = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    let class = json!({"metadata": {"name": "standard", "annotations": default}, "provisioner": "example.com/disk"});
    make::<StorageClass>(&cluster, class).await;
    cluster.settle().await;
    let claim = cluster.get::<PersistentVolumeClaim>("data").await.unwrap();
    assert_eq!(claim.spec.as_ref().unwrap().storage_class_name.as_deref(), Some("standard"));
    assert_eq!(claim.annotations()["volume.kubernetes.io/storage-provisioner"], "example.com/disk");
    let waits = cluster.events("ExternalProvisioning").await;
    assert!(waits[0].contains("external provisioner 'example.com/disk'"), "{waits:?}");
}

async fn with_host_paths(directory: &std::path::Path) -> TestCluster {
    let provisioner = HostPathProvisioner::new(directory);
    TestCluster::start_with("*", |builder| {
        builder.with(move |context| provisioner.controller(context))
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_class_makes_grows_and_deletes_a_volume_with_its_claim() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = with_host_paths(directory.path()).await;
    let class = json!({"metadata": {"name": "disk"}, "provisioner": HostPathProvisioner::NAME,
        "reclaimPolicy": "Delete", "allowVolumeExpansion": true});
    make::<StorageClass>(&cluster, class).await;
    cluster.create::<PersistentVolumeClaim>(asks("data", "1Gi", Some("disk"))).await;
    cluster.wait(20).await;
    let claim = cluster.get::<PersistentVolumeClaim>("data").await.unwrap();
    let name = format!("pvc-{}", claim.uid().unwrap());
    assert_eq!(claim_state(&cluster, "data").await, format!("Bound {name}"));
    assert!(directory.path().join(&name).is_dir());

    let more = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    cluster.patch::<PersistentVolumeClaim>("data", more).await;
    cluster.settle().await;
    let claim = cluster.get::<PersistentVolumeClaim>("data").await.unwrap();
    assert_eq!(claim.status.unwrap().capacity.unwrap()["storage"].0, "2Gi");
    let grown = volume(&cluster, &name).await.unwrap();
    assert_eq!(grown.spec.unwrap().capacity.unwrap()["storage"].0, "2Gi");
    assert_eq!(cluster.events("VolumeResizeSuccessful").await.len(), 1);

    cluster.delete::<PersistentVolumeClaim>("data", &DeleteParams::default()).await;
    // Directories are removed on threads that know nothing of paused time.
    for _ in 0..1000 {
        if volume(&cluster, &name).await.is_none() {
            break;
        }
        cluster.wait(1).await;
    }
    assert_eq!(volume_state(&cluster, &name).await, "");
    assert!(!directory.path().join(&name).exists());
}

#[tokio::test(start_paused = true)]
async fn a_recycled_volume_is_emptied_and_free_again() {
    let cluster = TestCluster::start().await;
    make::<PersistentVolume>(&cluster, of_size("v", "1Gi", "Recycle")).await;
    cluster.create::<PersistentVolumeClaim>(asks("first", "1Gi", None)).await;
    cluster.settle().await;
    cluster.delete::<PersistentVolumeClaim>("first", &DeleteParams::default()).await;
    cluster.settle().await;
    assert_eq!(volume_state(&cluster, "v").await, "Released first");
    let recycler = cluster.get::<Pod>("recycler-for-v").await.expect("a Pod empties it");
    let spec = recycler.spec.unwrap();
    assert_eq!(spec.volumes.unwrap()[0].host_path.as_ref().unwrap().path, "/tmp/x");

    let ended = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
    let pods = cluster.api::<Pod>();
    pods.patch_status("recycler-for-v", &PatchParams::default(), &ended).await.unwrap();
    cluster.settle().await;
    assert_eq!(volume_state(&cluster, "v").await, "Available -");
    assert_eq!(cluster.events("VolumeRecycled").await, ["Volume recycled"]);
    cluster.wait(60).await;
    assert!(cluster.get::<Pod>("recycler-for-v").await.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_ephemeral_volume_has_a_claim_that_goes_with_its_pod() {
    let cluster = TestCluster::start().await;
    cluster.create::<PersistentVolumeClaim>(asks("other-scratch", "1Gi", None)).await;
    let pod = |name: &str| {
        let template =
            json!({"metadata": {"labels": {"of": name}}, "spec": asks("", "1Gi", None)["spec"]});
        let volume = json!({"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}});
        json!({"metadata": {"name": name}, "spec": {
            "containers": [{"name": "c", "image": "x"}], "volumes": [volume]}})
    };
    cluster.create::<Pod>(pod("web")).await;
    cluster.create::<Pod>(pod("other")).await;
    cluster.settle().await;
    let claim = cluster.get::<PersistentVolumeClaim>("web-scratch").await.unwrap();
    assert_eq!(claim.labels()["of"], "web");
    assert_eq!(claim.owner_references()[0].kind, "Pod");
    let said = cluster.events("FailedBinding").await;
    let refused = "ephemeral volume scratch: PVC \"other-scratch\" was not created for pod \"other\" (pod is not owner)";
    assert!(said.iter().any(|message| message == refused), "{said:?}");

    cluster.delete::<Pod>("web", &DeleteParams::default()).await;
    cluster.wait(10).await;
    assert_eq!(claim_state(&cluster, "web-scratch").await, "");
}

async fn attachments(cluster: &TestCluster) -> Vec<VolumeAttachment> {
    let api = Api::<VolumeAttachment>::all(cluster.client.clone());
    api.list(&ListParams::default()).await.unwrap().items
}

async fn report_attached(cluster: &TestCluster, name: &str) {
    let done = Patch::Merge(json!({"status": {"attached": true}}));
    let api = Api::<VolumeAttachment>::all(cluster.client.clone());
    api.patch_status(name, &PatchParams::default(), &done).await.unwrap();
    cluster.settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_csi_volume_follows_its_pod_from_node_to_node() {
    let cluster = TestCluster::start().await;
    let nodes = Api::<Node>::all(cluster.client.clone());
    let managed = Patch::Merge(json!({"metadata": {"annotations": {
        "volumes.kubernetes.io/controller-managed-attach-detach": "true"}}}));
    for node in ["n1", "n2"] {
        nodes.patch(node, &PatchParams::default(), &managed).await.unwrap();
    }
    let mut csi = of_size("disk", "1Gi", "Retain");
    csi["spec"].as_object_mut().unwrap().remove("hostPath");
    csi["spec"]["csi"] = json!({"driver": "example.com", "volumeHandle": "h-1"});
    make::<PersistentVolume>(&cluster, csi).await;
    cluster.create::<PersistentVolumeClaim>(asks("data", "1Gi", None)).await;
    cluster.settle().await;
    cluster.create::<Pod>(uses("first", "data", Some("n1"))).await;
    cluster.settle().await;

    let made = attachments(&cluster).await;
    assert_eq!(made.len(), 1, "{made:?}");
    assert_eq!((&*made[0].spec.node_name, &*made[0].spec.attacher), ("n1", "example.com"));
    report_attached(&cluster, &made[0].name_any()).await;
    let unique = "kubernetes.io/csi/example.com^h-1";
    let status = nodes.get("n1").await.unwrap().status.unwrap();
    assert_eq!(status.volumes_attached.unwrap()[0].name, unique);

    // Another node has to wait for the first one.
    let in_use = Patch::Merge(json!({"status": {"volumesInUse": [unique]}}));
    nodes.patch_status("n1", &PatchParams::default(), &in_use).await.unwrap();
    cluster.create::<Pod>(uses("second", "data", Some("n2"))).await;
    cluster.settle().await;
    assert_eq!(attachments(&cluster).await.len(), 1);
    let said = cluster.events("FailedAttachVolume").await;
    assert_eq!(
        said,
        ["Multi-Attach error for volume \"disk\" Volume is already used by pod(s) first"]
    );

    cluster.delete::<Pod>("first", &DeleteParams::default()).await;
    cluster.settle().await;
    assert_eq!(attachments(&cluster).await[0].spec.node_name, "n1", "it is still mounted");
    let unmounted = Patch::Merge(json!({"status": {"volumesInUse": []}}));
    nodes.patch_status("n1", &PatchParams::default(), &unmounted).await.unwrap();
    cluster.settle().await;
    let made = attachments(&cluster).await;
    assert_eq!(made.len(), 1);
    assert_eq!(made[0].spec.node_name, "n2");
    assert_eq!(nodes.get("n1").await.unwrap().status.unwrap().volumes_attached, None);
}
