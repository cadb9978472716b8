//! What a claim needs next.

use std::sync::Arc;

use k8s_openapi::api::{core::v1::PersistentVolumeClaim, storage::v1::StorageClass};
use kube::ResourceExt;
use rk_api::{
    client::EventType::{Normal, Warning},
    volumes::{
        BETA_STORAGE_PROVISIONER, BIND_COMPLETED, BOUND_BY_CONTROLLER, NO_PROVISIONER,
        SELECTED_NODE, STORAGE_PROVISIONER, annotation, best_match, claim_class, is_default_class,
        is_reserved_for, satisfies, volume_name, waits_for_consumer,
    },
};

use super::plan::{About, Plan, Then, View};

/// Provisioners that were part of Kubernetes, and the CSI drivers that took over from them
/// (KEP-625).
const MOVED: [(&str, &str); 7] = [
    ("kubernetes.io/aws-ebs", "ebs.csi.aws.com"),
    ("kubernetes.io/azure-disk", "disk.csi.azure.com"),
    ("kubernetes.io/azure-file", "file.csi.azure.com"),
    ("kubernetes.io/cinder", "cinder.csi.openstack.org"),
    ("kubernetes.io/gce-pd", "pd.csi.storage.gke.io"),
    ("kubernetes.io/portworx-volume", "pxd.portworx.com"),
    ("kubernetes.io/vsphere-volume", "csi.vsphere.vmware.com"),
];

/// What to do for a claim now.
pub(super) fn plan(claim: &Arc<PersistentVolumeClaim>, view: &dyn View) -> Plan {
    let completed = annotation(&claim.metadata, BIND_COMPLETED).is_some();
    match (completed, volume_name(claim)) {
        (false, None) => find_volume(claim, view),
        (false, Some(volume)) => bind_as_asked(claim, volume, view),
        (true, volume) => keep_bound(claim, volume, view),
    }
}

/// The claim takes any volume that suits it.
fn find_volume(claim: &Arc<PersistentVolumeClaim>, view: &dyn View) -> Plan {
    let (namespace, name) = (claim.namespace().unwrap_or_default(), claim.name_any());
    let class_name = claim_class(claim).unwrap_or_default();
    let class = view.class(class_name);
    let has_node = annotation(&claim.metadata, SELECTED_NODE).is_some();
    let delayed = !has_node && class.as_deref().is_some_and(waits_for_consumer);

    // What is kept for the claim is bound at once even if others have to wait for the scheduler.
    let mut candidates = view.volumes_kept_for(&namespace, &name);
    if !delayed {
        candidates.extend(view.volumes_of_class(class_name));
    }
    if let Some(volume) = best_match(claim, &candidates) {
        return Plan::bind(volume, claim);
    }
    if claim_class(claim).is_none()
        && let Some(default) = default_class(&view.classes())
    {
        return with_class(claim, default);
    }
    if delayed {
        return wait_for_consumer(claim, &view.pods_without_node(&namespace, &name));
    }
    if !class_name.is_empty() {
        return provision(claim, class_name, class.as_deref());
    }
    let message = "no persistent volumes available for this claim and no storage class is set";
    pending(claim).note(About::Claim(claim.clone()), Normal, "FailedBinding", message)
}

fn pending(claim: &Arc<PersistentVolumeClaim>) -> Plan {
    Plan::claim_without_volume(claim, "Pending").then(Then::LookAgain)
}

/// Of several default classes the newest one, of those of the same second the first by name.
fn default_class(classes: &[Arc<StorageClass>]) -> Option<String> {
    let defaults = classes.iter().filter(|class| is_default_class(&class.metadata));
    let created = |class: &StorageClass| class.creation_timestamp().map(|time| time.0);
    let newest = defaults.max_by(|a, b| {
        created(a).cmp(&created(b)).then_with(|| b.metadata.name.cmp(&a.metadata.name))
    });
    newest.map(|class| class.name_any())
}

fn with_class(claim: &Arc<PersistentVolumeClaim>, class: String) -> Plan {
    let mut after = (**claim).clone();
    after.spec.get_or_insert_default().storage_class_name = Some(class);
    Plan { claim: Some((claim.clone(), after)), ..Plan::default() }
}

fn wait_for_consumer(claim: &Arc<PersistentVolumeClaim>, pods: &[String]) -> Plan {
    let (reason, message) = match pods {
        [] => (
            "WaitForFirstConsumer",
            "waiting for first consumer to be created before binding".to_owned(),
        ),
        [pod] => ("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
        pods => {
            ("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", pods.join(",")))
        }
    };
    pending(claim).note(About::Claim(claim.clone()), Normal, reason, message)
}

/// Marks the claim for the provisioner of its class.
fn provision(
    claim: &Arc<PersistentVolumeClaim>,
    class_name: &str,
    class: Option<&StorageClass>,
) -> Plan {
    let about = || About::Claim(claim.clone());
    let Some(class) = class else {
        let message = format!("storageclass.storage.k8s.io {class_name:?} not found");
        return pending(claim).note(about(), Warning, "ProvisioningFailed", message);
    };
    if class.provisioner == NO_PROVISIONER {
        let message = "no volume plugin matched name: kubernetes.io/no-provisioner";
        return pending(claim).note(about(), Warning, "ProvisioningFailed", message);
    }
    let moved = MOVED.iter().find(|(old, _)| *old == class.provisioner);
    let provisioner = moved.map_or(class.provisioner.as_str(), |(_, driver)| driver);
    let mut plan = pending(claim);
    if let Some((_, after)) = &mut plan.claim {
        for key in [BETA_STORAGE_PROVISIONER, STORAGE_PROVISIONER] {
            after.annotations_mut().insert(key.to_owned(), provisioner.to_owned());
        }
    }
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or \
         manually by the system administrator. If volume creation is delayed, please verify that \
         the provisioner is running and correctly registered."
    );
    plan.note(about(), Normal, "ExternalProvisioning", message)
}

/// The claim names its volume.
fn bind_as_asked(claim: &Arc<PersistentVolumeClaim>, name: &str, view: &dyn View) -> Plan {
    let Some(volume) = view.volume(name) else { return pending(claim) };
    let about = || About::Claim(claim.clone());
    if is_reserved_for(&volume, claim) {
        return Plan::bind(&volume, claim);
    }
    if volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none()) {
        return match satisfies(&volume, claim) {
            Ok(()) => Plan::bind(&volume, claim),
            Err(why) => {
                let message = format!("Cannot bind to requested volume {name:?}: {why}");
                pending(claim).note(about(), Warning, "VolumeMismatch", message)
            }
        };
    }
    if annotation(&claim.metadata, BOUND_BY_CONTROLLER).is_some() {
        tracing::warn!(
            claim = claim.name_any(),
            volume = name,
            "somebody took the mark of a complete binding off a claim, and its volume is another's"
        );
    }
    let message = format!("volume {name:?} already bound to a different claim.");
    pending(claim).note(about(), Warning, "FailedBinding", message)
}

/// The claim was bound before: it gets this volume or none.
fn keep_bound(claim: &Arc<PersistentVolumeClaim>, name: Option<&str>, view: &dyn View) -> Plan {
    let Some(name) = name else {
        let message =
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
        return lost(claim, "ClaimLost", message);
    };
    let Some(volume) = view.volume(name) else {
        let message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
        return lost(claim, "ClaimLost", message);
    };
    let claimant = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    match claimant {
        // A reference that got lost is written again.
        None => Plan::bind(&volume, claim),
        Some(claimant) if claimant.uid == claim.metadata.uid => Plan::bind(&volume, claim),
        Some(_) => {
            let message = "Two claims are bound to the same volume, this one is bound incorrectly";
            lost(claim, "ClaimMisbound", message)
        }
    }
}

/// Says so once, when it happens.
fn lost(claim: &Arc<PersistentVolumeClaim>, reason: &'static str, message: &str) -> Plan {
    let plan = Plan::claim_without_volume(claim, "Lost");
    let known = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost");
    if known { plan } else { plan.note(About::Claim(claim.clone()), Warning, reason, message) }
}
