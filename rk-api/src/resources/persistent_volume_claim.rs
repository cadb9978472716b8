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
    field::{ErrorList, Path},
    meta::{
        names,
        quantity::Quantity,
        table::{age, name},
    },
};

mod source;
mod update;

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
        let spec = claim.spec.get_or_insert_default();
        source::drop_unknown(spec);
        source::copy(spec);
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
            new.spec.iter_mut().for_each(source::copy);
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
        if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
            let wrong = "may not use ReadWriteOncePod with other access modes";
            errors.forbidden(&path.child("accessModes"), wrong);
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
        source::validate(&mut errors, spec, &path);
        let attributes = text(&spec.volume_attributes_class_name);
        if !attributes.is_empty() {
            let wrong = names::dns_subdomain(attributes, false);
            errors.form(&path.child("volumeAttributesClassName"), attributes, wrong);
        }
        errors.0
    }

    fn validate_update(
        new: &PersistentVolumeClaim,
        old: &PersistentVolumeClaim,
        part: Part,
    ) -> ErrorList {
        if part == Part::Status { update::status(new) } else { update::validate(new, old) }
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
