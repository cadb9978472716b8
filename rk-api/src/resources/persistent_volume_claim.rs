//! PersistentVolumeClaim.

use k8s_openapi::{
    api::core::v1::{
        PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimStatus,
    },
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Kind, Part, Resource,
    check::{Errors, default_text, list, round_to_millis, text},
    persistent_volume::{ACCESS_MODES, access_modes, class},
    row::Row,
};
use crate::{
    field::{ErrorList, FieldError, Path},
    meta::{
        names,
        quantity::Quantity,
        table::{age, name},
    },
};

/// The row of PersistentVolumeClaim.
pub(super) fn row() -> Resource {
    Row::of::<PersistentVolumeClaims>().short(&["pvc"]).status().columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Status", "string", "Whether it is bound."),
    Column::new("Volume", "string", "The volume that it is bound to."),
    Column::new("Capacity", "string", "The size of that volume."),
    Column::new("Access Modes", "string", "How that volume can be mounted."),
    Column::new("StorageClass", "string", "The class that it asks for."),
    Column::new("VolumeAttributesClass", "string", "The attributes that it asks for."),
    Column::AGE,
    Column::wide("VolumeMode", "string", "Whether it is a file system or a block device."),
];

/// Defaults of a claim, also of one that a StatefulSet makes.
pub(super) fn default(claim: &mut PersistentVolumeClaim) {
    let spec = claim.spec.get_or_insert_default();
    default_text(&mut spec.volume_mode, "Filesystem");
    if let Some(resources) = &mut spec.resources {
        round_to_millis(&mut resources.requests);
        round_to_millis(&mut resources.limits);
    }
    default_text(&mut claim.status.get_or_insert_default().phase, "Pending");
}

/// How a PersistentVolumeClaim behaves.
#[derive(Debug, Default)]
pub(super) struct PersistentVolumeClaims;

impl Kind for PersistentVolumeClaims {
    type Object = PersistentVolumeClaim;

    fn default(claim: &mut PersistentVolumeClaim) {
        default(claim);
    }

    fn prepare_create(claim: &mut PersistentVolumeClaim) {
        claim.status = Some(PersistentVolumeClaimStatus {
            phase: Some("Pending".to_owned()),
            ..PersistentVolumeClaimStatus::default()
        });
    }

    fn prepare_update(new: &mut PersistentVolumeClaim, old: &PersistentVolumeClaim, part: Part) {
        if part == Part::Status {
            new.spec = old.spec.clone();
        } else {
            new.status = old.status.clone();
        }
    }

    fn validate(claim: &PersistentVolumeClaim) -> ErrorList {
        let none = PersistentVolumeClaimSpec::default();
        let (spec, path) = (claim.spec.as_ref().unwrap_or(&none), Path::new("spec"));
        let mut errors = Errors::default();
        let modes = list(&spec.access_modes);
        if modes.is_empty() {
            errors.required(&path.child("accessModes"), "at least 1 access mode is required");
        }
        for mode in modes {
            errors.one_of(&path.child("accessModes"), mode, ACCESS_MODES);
        }
        if let Some(selector) = &spec.selector {
            errors.selector(&path.child("selector"), selector);
        }
        let requests = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let at = path.child("resources").key("storage");
        match requests.and_then(|requests| requests.get("storage")).map(Quantity::try_from) {
            None | Some(Err(_)) => errors.required(&at, ""),
            Some(Ok(size)) if size <= Quantity::ZERO => {
                errors.invalid(&at, size.to_string(), "must be greater than zero");
            }
            Some(Ok(_)) => {}
        }
        if let Some(class) = spec.storage_class_name.as_deref().filter(|class| !class.is_empty()) {
            let wrong = names::dns_subdomain(class, false);
            errors.form(&path.child("storageClassName"), class, wrong);
        }
        if let Some(mode) = &spec.volume_mode {
            errors.one_of(&path.child("volumeMode"), mode, &["Block", "Filesystem"]);
        }
        errors.0
    }

    fn validate_update(
        new: &PersistentVolumeClaim,
        old: &PersistentVolumeClaim,
        part: Part,
    ) -> ErrorList {
        let mut errors = Errors::default();
        let (Some(new_spec), Some(old_spec)) = (&new.spec, &old.spec) else { return errors.0 };
        if part == Part::Status {
            return errors.0;
        }
        let mut fixed = new_spec.clone();
        if text(&old_spec.volume_name).is_empty() {
            fixed.volume_name = old_spec.volume_name.clone();
        }
        fixed.volume_attributes_class_name = old_spec.volume_attributes_class_name.clone();
        if may_get_class(new, old) {
            fixed.storage_class_name = None;
        }
        let size = |spec: &PersistentVolumeClaimSpec| {
            let requests = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
            let size = requests.and_then(|requests| requests.get("storage"));
            size.and_then(|size| Quantity::try_from(size).ok()).unwrap_or(Quantity::ZERO)
        };
        let bound = new.status.as_ref().is_some_and(|status| text(&status.phase) == "Bound");
        if bound {
            fixed.resources = old_spec.resources.clone();
            if size(new_spec) < size(old_spec) {
                errors.push(FieldError::forbidden(
                    &Path::new("spec.resources.requests.storage"),
                    "field can not be less than status.capacity",
                ));
            }
        }
        if fixed != *old_spec {
            errors.forbidden(
                &Path::new("spec"),
                "spec is immutable after creation except resources.requests and \
                 volumeAttributesClassName for bound claims",
            );
        }
        errors.0
    }

    fn cells(claim: &PersistentVolumeClaim, now: Timestamp) -> Vec<Value> {
        let spec = claim.spec.clone().unwrap_or_default();
        let status = claim.status.clone().unwrap_or_default();
        let phase = match claim.metadata.deletion_timestamp {
            Some(_) => "Terminating",
            None => text(&status.phase),
        };
        let bound = !text(&spec.volume_name).is_empty();
        let capacity = status.capacity.as_ref().and_then(|capacity| capacity.get("storage"));
        let capacity = match (bound, capacity) {
            (false, _) => "",
            (true, None) => "0",
            (true, Some(size)) => &size.0,
        };
        let modes = if bound { access_modes(list(&status.access_modes)) } else { String::new() };
        vec![
            json!(name(&claim.metadata)),
            json!(phase),
            json!(text(&spec.volume_name)),
            json!(capacity),
            json!(modes),
            json!(class(&claim.metadata, spec.storage_class_name.as_deref())),
            json!(spec.volume_attributes_class_name.as_deref().unwrap_or("<unset>")),
            json!(age(&claim.metadata, now)),
            json!(spec.volume_mode.as_deref().unwrap_or("<unset>")),
        ]
    }
}
/// A claim without a class may get one later, the default one (KEP-3333); one that names its class
/// in an annotation may say the same in the field.
fn may_get_class(new: &PersistentVolumeClaim, old: &PersistentVolumeClaim) -> bool {
    let class = |claim: &PersistentVolumeClaim| claim.spec.as_ref()?.storage_class_name.clone();
    let annotated = |claim: &PersistentVolumeClaim| {
        claim.metadata.annotations.as_ref()?.get(OLD_CLASS).cloned()
    };
    let (None, Some(wanted)) = (class(old), class(new)) else { return false };
    match annotated(old) {
        None => true,
        Some(named) => wanted == named && annotated(new).is_none_or(|still| still == named),
    }
}

/// Where a claim named its class before there was a field for it.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
