//! What a reconcile of a claim or a volume looks at, and what it leads to.

use std::sync::Arc;

use k8s_openapi::api::{
    core::v1::{
        PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus,
        PersistentVolumeStatus,
    },
    storage::v1::StorageClass,
};
use kube::ResourceExt;
use rk_api::{
    client::{EventType, object_ref},
    volumes::{BIND_COMPLETED, BOUND_BY_CONTROLLER, is_reserved_for, volume_name},
};

/// What a decision may look at.
pub(super) trait View {
    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>>;
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>>;
    fn volumes_of_class(&self, class: &str) -> Vec<Arc<PersistentVolume>>;
    /// Volumes that name a claim of this name.
    fn volumes_kept_for(&self, namespace: &str, claim: &str) -> Vec<Arc<PersistentVolume>>;
    fn class(&self, name: &str) -> Option<Arc<StorageClass>>;
    fn classes(&self) -> Vec<Arc<StorageClass>>;
    /// Names of Pods that use a claim and have no node.
    fn pods_without_node(&self, namespace: &str, claim: &str) -> Vec<String>;
}

/// What to do. The writes are made in the order of the fields, of each object first its spec and
/// metadata, then its status; where one fails those after it are left out.
#[derive(Default)]
pub(super) struct Plan {
    pub volume: Option<(Arc<PersistentVolume>, PersistentVolume)>,
    pub claim: Option<(Arc<PersistentVolumeClaim>, PersistentVolumeClaim)>,
    pub notes: Vec<Note>,
    pub then: Then,
}

/// An event to record.
pub(super) struct Note {
    pub about: About,
    pub kind: EventType,
    pub reason: &'static str,
    pub message: String,
}

pub(super) enum About {
    Claim(Arc<PersistentVolumeClaim>),
    Volume(Arc<PersistentVolume>),
}

/// What follows the writes.
#[derive(Default)]
pub(super) enum Then {
    /// Nothing until something changes.
    #[default]
    Wait,
    /// Another look after a while.
    LookAgain,
    /// The volume is to be emptied.
    Recycle(Arc<PersistentVolume>),
}

impl Plan {
    /// Whether a volume comes to be Released.
    pub fn releases(&self) -> bool {
        self.volume.as_ref().is_some_and(|(_, after)| phase(after) == "Released")
    }

    /// With an event.
    pub fn note(
        mut self,
        about: About,
        kind: EventType,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        self.notes.push(Note { about, kind, reason, message: message.into() });
        self
    }

    /// With what follows.
    pub fn then(mut self, then: Then) -> Self {
        self.then = then;
        self
    }

    /// Both sides name each other and are Bound.
    pub fn bind(volume: &Arc<PersistentVolume>, claim: &Arc<PersistentVolumeClaim>) -> Self {
        Self {
            volume: Some((volume.clone(), bound_volume(volume, claim))),
            claim: Some((claim.clone(), bound_claim(claim, volume))),
            ..Self::default()
        }
    }

    /// The claim has no volume: `phase` is Pending or Lost.
    pub fn claim_without_volume(claim: &Arc<PersistentVolumeClaim>, phase: &str) -> Self {
        let mut after = (**claim).clone();
        set_claim_phase(&mut after, phase, None);
        Self { claim: Some((claim.clone(), after)), ..Self::default() }
    }

    /// The volume enters a phase.
    pub fn volume_phase(volume: &Arc<PersistentVolume>, phase: &str, message: &str) -> Self {
        let mut after = (**volume).clone();
        set_volume_phase(&mut after, phase, message);
        Self { volume: Some((volume.clone(), after)), ..Self::default() }
    }
}

fn bound_volume(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> PersistentVolume {
    let mut after = volume.clone();
    if !is_reserved_for(volume, claim) {
        after.annotations_mut().insert(BOUND_BY_CONTROLLER.into(), "yes".into());
    }
    let spec = after.spec.get_or_insert_default();
    let known = spec.claim_ref.as_ref().and_then(|claimant| claimant.uid.as_deref());
    if known != claim.metadata.uid.as_deref() || !is_reserved_for(volume, claim) {
        spec.claim_ref = Some(object_ref(claim));
    }
    set_volume_phase(&mut after, "Bound", "");
    after
}

fn bound_claim(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> PersistentVolumeClaim {
    let mut after = claim.clone();
    let name = volume.name_any();
    if volume_name(claim) != Some(&name) {
        after.annotations_mut().insert(BOUND_BY_CONTROLLER.into(), "yes".into());
        after.spec.get_or_insert_default().volume_name = Some(name);
    }
    if !after.annotations().contains_key(BIND_COMPLETED) {
        after.annotations_mut().insert(BIND_COMPLETED.into(), "yes".into());
    }
    set_claim_phase(&mut after, "Bound", Some(volume));
    after
}

/// The binding of a volume to its claim undone. A reference that a person wrote stays, so that the
/// volume is still kept for a claim of that name.
pub(super) fn unbound_volume(volume: &PersistentVolume) -> PersistentVolume {
    let mut after = volume.clone();
    let ours = after.annotations_mut().remove(BOUND_BY_CONTROLLER).is_some();
    if after.annotations().is_empty() {
        after.metadata.annotations = None;
    }
    if let Some(spec) = &mut after.spec {
        match &mut spec.claim_ref {
            Some(claimant) if !ours => (claimant.uid, claimant.resource_version) = (None, None),
            claimant => *claimant = None,
        }
    }
    set_volume_phase(&mut after, "Available", "");
    after
}

pub(super) fn phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn set_volume_phase(volume: &mut PersistentVolume, phase: &str, message: &str) {
    let status = volume.status.get_or_insert_with(PersistentVolumeStatus::default);
    if status.phase.as_deref() != Some(phase) {
        status.phase = Some(phase.to_owned());
        status.message = Some(message.to_owned()).filter(|message| !message.is_empty());
    }
}

/// The size is taken over when the claim becomes Bound and never again: after that it is that of
/// the file system, which may lag behind its volume's.
fn set_claim_phase(
    claim: &mut PersistentVolumeClaim,
    phase: &str,
    volume: Option<&PersistentVolume>,
) {
    let status = claim.status.get_or_insert_with(PersistentVolumeClaimStatus::default);
    let entered = status.phase.as_deref() != Some(phase);
    status.phase = Some(phase.to_owned());
    let Some(spec) = volume.and_then(|volume| volume.spec.as_ref()) else {
        (status.access_modes, status.capacity) = (None, None);
        return;
    };
    status.access_modes = spec.access_modes.clone();
    if entered {
        status.capacity = spec.capacity.clone();
        status.current_volume_attributes_class_name = spec.volume_attributes_class_name.clone();
    }
}
