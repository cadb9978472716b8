//! From a claim in a Pod's spec to a directory of the node.
//!
//! A Pod waits until its claims are bound. What is behind a volume has to be on the node: `hostPath`
//! and `local` volumes are, whichever the node is; where they are is for the scheduler to see to.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kube::Api;
use rk_api::volumes::{claim_of, is_made_for, volume_name};

use super::{
    csi::Wanted,
    volumes::{self, Failure, Source},
    worker::Core,
};

/// Volumes of the Pod that no container may write to, whatever its mount says.
pub(super) fn read_only(pod: &Pod) -> BTreeSet<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let unwritable = volumes.filter(|volume| {
        let claim = volume.persistent_volume_claim.as_ref();
        // What the agent itself writes is for it alone to change: it goes on with what it finds.
        volumes::has_contents(volume)
            || volume.image.is_some()
            || claim.is_some_and(|source| source.read_only == Some(true))
    });
    unwritable.map(|volume| volume.name.clone()).collect()
}

impl Core {
    /// What the Pod's volumes with claims are made from, by the volume's name, but for those that
    /// are mounted.
    pub(super) async fn claimed(
        &self,
        pod: &Pod,
        mounted: &BTreeMap<String, PathBuf>,
    ) -> Result<BTreeMap<String, Source>, Failure> {
        let mut sources = BTreeMap::new();
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        for volume in volumes.filter(|volume| !mounted.contains_key(&volume.name)) {
            let Some(claim) = claim_of(pod, volume) else { continue };
            let source = self.behind(pod, volume, &claim).await.map_err(|why| {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                (volume.name.clone(), format!("error processing PVC {namespace}/{claim}: {why}"))
            })?;
            sources.insert(volume.name.clone(), source);
        }
        Ok(sources)
    }

    async fn behind(&self, pod: &Pod, volume: &Volume, name: &str) -> Result<Source, String> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let claims = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), namespace);
        let claim = claims
            .get(name)
            .await
            .map_err(|error| format!("failed to fetch PVC from API server: {error}"))?;
        let (bound_to, name_in_pod) = (usable(&claim, volume, pod)?, volume.name.as_str());
        let source_of_pod = volume.persistent_volume_claim.as_ref();
        let read_only = source_of_pod.is_some_and(|source| source.read_only == Some(true));
        let volumes = Api::<PersistentVolume>::all(self.client.clone());
        let volume = volumes
            .get(bound_to)
            .await
            .map_err(|error| format!("failed to fetch PV {bound_to} from API server: {error}"))?;
        is_used_as_what_it_is(pod, name_in_pod, &volume)?;
        source(&volume, &claim, read_only)
    }
}

/// A file system is mounted, and a block device is handed on as one.
fn is_used_as_what_it_is(pod: &Pod, name: &str, volume: &PersistentVolume) -> Result<(), String> {
    let (mounts, devices) = uses(pod);
    let wrong = match is_block(volume) {
        true if mounts.contains(name) => ("Block", "volumeMounts"),
        false if devices.contains(name) => ("Filesystem", "volumeDevices"),
        _ => return Ok(()),
    };
    Err(format!("volume {name} has volumeMode {}, but is specified in {}", wrong.0, wrong.1))
}

/// The volumes that containers of a Pod mount, and those that they use as devices.
fn uses(pod: &Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut mounts, mut devices) = (BTreeSet::new(), BTreeSet::new());
    let spec = pod.spec.iter();
    let all =
        spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    for container in all {
        mounts.extend(container.volume_mounts.iter().flatten().map(|mount| mount.name.clone()));
        devices.extend(container.volume_devices.iter().flatten().map(|device| device.name.clone()));
    }
    (mounts, devices)
}

fn is_block(volume: &PersistentVolume) -> bool {
    volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()) == Some("Block")
}

/// The volume of a claim that a Pod may be started with.
fn usable<'a>(
    claim: &'a PersistentVolumeClaim,
    volume: &Volume,
    pod: &Pod,
) -> Result<&'a str, String> {
    if volume.ephemeral.is_some() && !is_made_for(claim, pod) {
        let name = |meta: &Option<String>| meta.clone().unwrap_or_default();
        return Err(format!(
            "PVC {:?} was not created for pod {:?} (pod is not owner)",
            name(&claim.metadata.name),
            name(&pod.metadata.name)
        ));
    }
    // It would only keep the claim from going.
    if claim.metadata.deletion_timestamp.is_some() {
        return Err("PVC is being deleted".to_owned());
    }
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    let bound = volume_name(claim).filter(|_| phase == Some("Bound"));
    bound.ok_or_else(|| "PVC is not bound".to_owned())
}

/// Where a volume is on this node.
fn source(
    volume: &PersistentVolume,
    claim: &PersistentVolumeClaim,
    read_only: bool,
) -> Result<Source, String> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let spec = volume.spec.as_ref().ok_or_else(|| format!("PV {name} has no spec"))?;
    let claimant = spec.claim_ref.as_ref().and_then(|claimant| claimant.uid.as_ref());
    if claimant != claim.metadata.uid.as_ref() {
        return Err(format!("PV {name} is not bound to this PVC"));
    }
    if let Some(local) = spec.local.as_ref().filter(|_| is_block(volume)) {
        return Ok(Source::Device(local.path.clone().into()));
    }
    if is_block(volume) && spec.csi.is_none() {
        return Err(format!("PV {name} is of a kind that has no block devices"));
    }
    if let Some(host_path) = &spec.host_path {
        let type_ = host_path.type_.clone().unwrap_or_default();
        return Ok(Source::HostPath { path: host_path.path.clone().into(), type_ });
    }
    if let Some(local) = &spec.local {
        // It is never made: on a node where it is missing the data is elsewhere.
        return Ok(Source::HostPath { path: local.path.clone().into(), type_: "Directory".into() });
    }
    if let Some(wanted) = Wanted::persistent(volume, read_only) {
        return Ok(Source::Csi(Box::new(wanted)));
    }
    Err(format!("PV {name} is of a kind that this node cannot mount"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn claim(value: Value) -> PersistentVolumeClaim {
        from_value(value).unwrap()
    }

    #[test]
    fn a_claim_is_used_once_it_is_bound() {
        let (pod, volume) = (Pod::default(), Volume::default());
        let bound = |phase| json!({"metadata": {}, "spec": {"volumeName": "v"}, "status": {"phase": phase}});
        assert_eq!(usable(&claim(bound("Bound")), &volume, &pod), Ok("v"));
        let lost = claim(bound("Lost"));
        assert_eq!(usable(&lost, &volume, &pod), Err("PVC is not bound".to_owned()));
        let mut going = bound("Bound");
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(usable(&claim(going), &volume, &pod), Err("PVC is being deleted".to_owned()));
    }

    #[test]
    fn the_claim_of_an_ephemeral_volume_must_be_the_pods_own() {
        let pod = from_value(json!({"metadata": {"name": "p", "uid": "u"}})).unwrap();
        let volume = from_value(json!({"name": "v", "ephemeral": {}})).unwrap();
        let owned = |uid: &str| {
            claim(json!({
                "metadata": {"name": "p-v", "ownerReferences": [{"apiVersion": "v1",
                    "kind": "Pod", "name": "p", "uid": uid, "controller": true}]},
                "spec": {"volumeName": "v"}, "status": {"phase": "Bound"},
            }))
        };
        assert_eq!(usable(&owned("u"), &volume, &pod), Ok("v"));
        let refused = usable(&owned("x"), &volume, &pod).unwrap_err();
        assert_eq!(refused, "PVC \"p-v\" was not created for pod \"p\" (pod is not owner)");
    }

    #[test]
    fn a_device_is_not_mounted_and_a_file_system_is_no_device() {
        let volume = |mode: &str| -> PersistentVolume {
            from_value(json!({"metadata": {}, "spec": {"volumeMode": mode}})).unwrap()
        };
        let pod: Pod = from_value(json!({"metadata": {}, "spec": {"containers": [
            {"name": "a", "volumeMounts": [{"name": "files", "mountPath": "/m"}]},
            {"name": "b", "volumeDevices": [{"name": "disk", "devicePath": "/dev/x"}]}]}}))
        .unwrap();
        for (name, right, wrong, told) in [
            ("files", "Filesystem", "Block", "volumeMounts"),
            ("disk", "Block", "Filesystem", "volumeDevices"),
        ] {
            assert_eq!(is_used_as_what_it_is(&pod, name, &volume(right)), Ok(()));
            let why = is_used_as_what_it_is(&pod, name, &volume(wrong)).unwrap_err();
            let expected =
                format!("volume {name} has volumeMode {wrong}, but is specified in {told}");
            assert_eq!(why, expected);
        }
    }

    #[test]
    fn a_volume_of_another_claim_is_not_mounted() {
        let volume = |uid: &str, spec: Value| -> PersistentVolume {
            let mut spec = spec;
            spec["claimRef"] = json!({"uid": uid});
            from_value(json!({"metadata": {"name": "v"}, "spec": spec})).unwrap()
        };
        let mine = claim(json!({"metadata": {"uid": "u"}}));
        let local = || json!({"local": {"path": "/disk"}});
        match source(&volume("u", local()), &mine, false) {
            Ok(Source::HostPath { path, type_ }) => {
                assert_eq!((path, &*type_), (PathBuf::from("/disk"), "Directory"));
            }
            _ => panic!("a directory of the node"),
        }
        assert!(source(&volume("x", local()), &mine, false).is_err());
        let mut device = local();
        device["volumeMode"] = json!("Block");
        assert!(matches!(source(&volume("u", device), &mine, false), Ok(Source::Device(_))));
        let directory = json!({"hostPath": {"path": "/x"}, "volumeMode": "Block"});
        assert!(source(&volume("u", directory), &mine, false).is_err());
        let nfs = json!({"nfs": {"server": "s", "path": "/"}});
        assert!(source(&volume("u", nfs), &mine, false).is_err());
    }
}
