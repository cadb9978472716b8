//! VolumeAttributesClass: attributes of volumes that may change while they are used.

use k8s_openapi::{api::storage::v1::VolumeAttributesClass, jiff::Timestamp};
use serde_json::{Value, json};

use super::{Column, Kind, Part, Resource, check::Errors, row::Row, storage_class};
use crate::{
    field::{ErrorList, Path},
    meta::table::{age, name},
};

/// The row of VolumeAttributesClass.
pub(super) fn row() -> Resource {
    Row::of::<VolumeAttributesClasses>().short(&["vac"]).columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("DriverName", "string", "The driver that knows the attributes."),
    Column::AGE,
];

/// How a VolumeAttributesClass behaves.
#[derive(Debug, Default)]
pub(super) struct VolumeAttributesClasses;

impl Kind for VolumeAttributesClasses {
    type Object = VolumeAttributesClass;

    fn validate(class: &VolumeAttributesClass) -> ErrorList {
        let mut errors = Errors::default();
        storage_class::provisioner(&mut errors, &Path::new("driverName"), &class.driver_name);
        let at = Path::new("parameters");
        storage_class::parameters(&mut errors, &at, class.parameters.as_ref());
        if class.parameters.as_ref().is_none_or(|parameters| parameters.is_empty()) {
            errors.required(&at, "must contain at least one key/value pair");
        }
        errors.0
    }

    fn validate_update(
        new: &VolumeAttributesClass,
        old: &VolumeAttributesClass,
        _: Part,
    ) -> ErrorList {
        let mut errors = Errors::default();
        if new.driver_name != old.driver_name {
            let at = Path::new("driverName");
            errors.forbidden(&at, "updates to driverName are forbidden.");
        }
        if new.parameters != old.parameters {
            let at = Path::new("parameters");
            errors.forbidden(&at, "updates to parameters are forbidden.");
        }
        errors.0
    }

    fn cells(class: &VolumeAttributesClass, now: Timestamp) -> Vec<Value> {
        vec![
            json!(name(&class.metadata)),
            json!(class.driver_name),
            json!(age(&class.metadata, now)),
        ]
    }
}
