//! What a volume needs next.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PersistentVolume;
use kube::ResourceExt;
use rk_api::{
    client::EventType::Warning,
    volumes::{PROVISIONED_BY, annotation, same_mode, volume_name},
};

use super::plan::{About, Plan, Then, View, phase, unbound_volume};

/// What to do for a volume now.
pub(super) fn plan(volume: &Arc<PersistentVolume>, view: &dyn View) -> Plan {
    let claimant = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let Some(claimant) = claimant else { return Plan::volume_phase(volume, "Available", "") };
    let uid = claimant.uid.as_deref().filter(|uid| !uid.is_empty());
    // Kept for a claim that was not bound yet: that is up to the claim.
    if uid.is_none() {
        return Plan::volume_phase(volume, "Available", "");
    }
    let namespace = claimant.namespace.as_deref().unwrap_or_default();
    let name = claimant.name.as_deref().unwrap_or_default();
    let claim = view.claim(namespace, name).filter(|claim| claim.metadata.uid.as_deref() == uid);
    let Some(claim) = claim else { return released(volume) };
    match volume_name(&claim) {
        Some(bound) if bound == volume.name_any() => Plan::volume_phase(volume, "Bound", ""),
        // The binding is under way; a change of the volume has woken the claim too.
        None if same_mode(volume, &claim) => Plan::default(),
        None => {
            let of_volume = format!(
                "Cannot bind PersistentVolume to requested PersistentVolumeClaim {name:?} due to \
                 incompatible volumeMode."
            );
            let of_claim = format!(
                "Cannot bind PersistentVolume {:?} to requested PersistentVolumeClaim due to \
                 incompatible volumeMode.",
                volume.name_any()
            );
            Plan::default()
                .note(About::Volume(volume.clone()), Warning, "VolumeMismatch", of_volume)
                .note(About::Claim(claim), Warning, "VolumeMismatch", of_claim)
        }
        // Made for this claim, which in the meantime found another: nobody will want it.
        Some(_) if is_provisioned(volume) && policy(volume) == "Delete" => released(volume),
        Some(_) => {
            let after = unbound_volume(volume);
            Plan { volume: Some((volume.clone(), after)), ..Plan::default() }
        }
    }
}

fn policy(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()).unwrap_or("Retain")
}

fn is_provisioned(volume: &PersistentVolume) -> bool {
    annotation(&volume.metadata, PROVISIONED_BY).is_some()
}

/// The claim is gone. A failure to reclaim stays visible while it is tried again.
fn released(volume: &Arc<PersistentVolume>) -> Plan {
    if !matches!(phase(volume), "Released" | "Failed") {
        return Plan::volume_phase(volume, "Released", "");
    }
    let failed = phase(volume) == "Failed";
    let recyclable =
        volume.spec.as_ref().is_some_and(|spec| spec.host_path.is_some() || spec.nfs.is_some());
    let (reason, message) = match policy(volume) {
        "Recycle" if recyclable && volume.metadata.deletion_timestamp.is_none() => {
            return Plan::default().then(Then::Recycle(volume.clone()));
        }
        "Recycle" if !recyclable => {
            ("VolumeFailedRecycle", "no volume plugin found for recycling".to_owned())
        }
        // Who made it deletes it; nobody else knows what is behind it.
        "Delete" if !is_provisioned(volume) && !is_csi(volume) => (
            "VolumeFailedDelete",
            format!(
                "error getting deleter volume plugin for volume {:?}: no deletable volume plugin \
                 matched",
                volume.name_any()
            ),
        ),
        _ => return Plan::default(),
    };
    if failed {
        return Plan::default();
    }
    let about = About::Volume(volume.clone());
    Plan::volume_phase(volume, "Failed", &message).note(about, Warning, reason, message)
}

fn is_csi(volume: &PersistentVolume) -> bool {
    volume.spec.as_ref().is_some_and(|spec| spec.csi.is_some())
}
