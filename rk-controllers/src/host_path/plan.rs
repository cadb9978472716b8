//! What volumes of a directory look like, and when they go.

use std::path::{Path, PathBuf};

use k8s_openapi::{
    api::{
        core::v1::{
            HostPathVolumeSource, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec,
        },
        storage::v1::StorageClass,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use kube::ResourceExt;
use rk_api::{client::object_ref, volumes::PROVISIONED_BY};

use super::{FINALIZER, HostPathProvisioner};

/// The name of the volume that is made for a claim: no other claim ever has it, and a repeat finds
/// what an earlier try made.
pub(super) fn volume_name_for(claim: &PersistentVolumeClaim) -> Option<String> {
    claim.metadata.uid.as_ref().map(|uid| format!("pvc-{uid}"))
}

fn requested(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage").cloned()
}

/// The volume for a claim, or why there can be none.
pub(super) fn volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    name: &str,
    path: &Path,
) -> Result<PersistentVolume, &'static str> {
    let spec = claim.spec.clone().unwrap_or_default();
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err("a directory cannot be a block device");
    }
    if spec.selector.is_some() {
        return Err("claim Selector is not supported");
    }
    let size = requested(claim).ok_or("the claim asks for no size")?;
    let path = path.to_str().ok_or("the directory's name is no text")?;
    let mut claim_ref = object_ref(claim);
    claim_ref.resource_version = None;
    Ok(PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            annotations: Some(
                [(PROVISIONED_BY.to_owned(), HostPathProvisioner::NAME.to_owned())].into(),
            ),
            finalizers: Some(vec![FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity: Some([("storage".to_owned(), size)].into()),
            claim_ref: Some(claim_ref),
            host_path: Some(HostPathVolumeSource {
                path: path.to_owned(),
                type_: Some("DirectoryOrCreate".to_owned()),
            }),
            mount_options: class.mount_options.clone(),
            persistent_volume_reclaim_policy: class.reclaim_policy.clone(),
            storage_class_name: Some(class.name_any()),
            volume_mode: spec.volume_mode,
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    })
}

/// The volume as large as its claim asks.
pub(super) fn grown_volume(
    volume: &PersistentVolume,
    claim: &PersistentVolumeClaim,
) -> PersistentVolume {
    let mut larger = volume.clone();
    if let (Some(spec), Some(size)) = (&mut larger.spec, requested(claim)) {
        spec.capacity.get_or_insert_default().insert("storage".to_owned(), size);
    }
    larger
}

/// The claim with all that it asks for. A directory needs no step on the node, so that the
/// condition FileSystemResizePending never comes up.
pub(super) fn grown_claim(claim: &PersistentVolumeClaim) -> PersistentVolumeClaim {
    let mut grown = claim.clone();
    let status = grown.status.get_or_insert_default();
    if let Some(size) = requested(claim) {
        status.capacity.get_or_insert_default().insert("storage".to_owned(), size.clone());
        status.allocated_resources = Some([("storage".to_owned(), size)].into());
    }
    if let Some(conditions) = &mut status.conditions {
        let of_resizing = ["Resizing", "FileSystemResizePending"];
        conditions.retain(|condition| !of_resizing.contains(&&*condition.type_));
    }
    grown
}

/// What is to happen to a volume of ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reclaim {
    /// Nothing.
    Keep,
    /// It is to be deleted.
    Delete,
    /// It was deleted: our finalizer goes, after the directory if that is to go as well.
    Remove { directory: bool },
}

pub(super) fn reclaim(volume: &PersistentVolume) -> Reclaim {
    let spec = volume.spec.as_ref();
    let delete =
        spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()) == Some("Delete");
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let ours = volume.finalizers().iter().any(|found| found == FINALIZER);
    match (volume.metadata.deletion_timestamp.is_some(), phase) {
        (false, Some("Released")) if delete => Reclaim::Delete,
        // While a claim is bound to it, pv-protection holds it and so do we.
        (true, phase) if ours && phase != Some("Bound") => Reclaim::Remove { directory: delete },
        _ => Reclaim::Keep,
    }
}

/// The volume without our finalizer.
pub(super) fn let_go(volume: &PersistentVolume) -> PersistentVolume {
    let mut after = volume.clone();
    after.finalizers_mut().retain(|found| found != FINALIZER);
    after
}

/// A volume's directory, if it is one of those that we make: whoever may edit volumes must not be
/// able to have any other directory of the machine removed.
pub(super) fn path(volume: &PersistentVolume, directory: &Path) -> Option<PathBuf> {
    let path = &volume.spec.as_ref()?.host_path.as_ref()?.path;
    let expected = directory.join(volume.name_any());
    (Path::new(path) == expected).then_some(expected)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn claim(spec: Value) -> PersistentVolumeClaim {
        let metadata = json!({"name": "data", "namespace": "ns", "uid": "u"});
        from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    fn made() -> PersistentVolume {
        let asks = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        let class =
            json!({"metadata": {"name": "c"}, "provisioner": "p", "reclaimPolicy": "Delete"});
        let class = from_value(class).unwrap();
        volume(&claim(asks), &class, "pvc-u", Path::new("/volumes/pvc-u")).unwrap()
    }

    #[test]
    fn a_volume_is_kept_for_its_claim_and_as_large_as_asked() {
        let volume = made();
        assert!(rk_api::volumes::is_reserved_for(&volume, &claim(json!({}))));
        let spec = volume.spec.unwrap();
        assert_eq!(spec.capacity.unwrap()["storage"].0, "1Gi");
        assert_eq!(spec.storage_class_name.as_deref(), Some("c"));
        let none = StorageClass::default();
        let device = claim(json!({"volumeMode": "Block"}));
        assert!(self::volume(&device, &none, "v", Path::new("/v")).is_err());
    }

    #[test]
    fn a_volume_goes_when_it_is_released_and_its_directory_before_it() {
        let mut volume = made();
        let mut check = |phase: &str, deleted: bool, expected: Reclaim| {
            volume.status.get_or_insert_default().phase = Some(phase.to_owned());
            let time = json!("2026-01-01T00:00:00Z");
            volume.metadata.deletion_timestamp = deleted.then(|| from_value(time).unwrap());
            assert_eq!(reclaim(&volume), expected, "{phase} {deleted}");
        };
        check("Bound", false, Reclaim::Keep);
        check("Released", false, Reclaim::Delete);
        check("Released", true, Reclaim::Remove { directory: true });
        check("Bound", true, Reclaim::Keep);
        volume.spec.as_mut().unwrap().persistent_volume_reclaim_policy = Some("Retain".into());
        assert_eq!(reclaim(&volume), Reclaim::Keep);
        let volume = let_go(&volume);
        assert!(volume.finalizers().is_empty());
    }

    #[test]
    fn no_other_directory_is_ever_removed() {
        let mut volume = made();
        assert!(path(&volume, Path::new("/volumes")).is_some());
        volume.spec.as_mut().unwrap().host_path.as_mut().unwrap().path = "/etc".into();
        assert_eq!(path(&volume, Path::new("/volumes")), None);
    }
}
