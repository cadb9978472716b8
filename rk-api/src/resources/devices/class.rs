//! DeviceClass: devices that can be asked for by a name.

use k8s_openapi::{api::resource::v1::DeviceClass, jiff::Timestamp};
use serde_json::Value;

use super::{
    super::{
        Kind, Part, Resource,
        check::{Errors, is_extended_resource, list},
        row::Row,
        workload,
    },
    forms,
};
use crate::{
    field::{ErrorList, Path},
    meta::table::name_and_age,
};

/// The row of DeviceClass.
pub(super) fn row() -> Resource {
    Row::of::<DeviceClasses>().done()
}

/// How a DeviceClass behaves.
#[derive(Debug, Default)]
pub(super) struct DeviceClasses;

impl Kind for DeviceClasses {
    type Object = DeviceClass;

    fn default(class: &mut DeviceClass) {
        class.spec.get_or_insert_default();
    }

    fn prepare_create(class: &mut DeviceClass) {
        workload::first_generation(&mut class.metadata);
    }

    fn prepare_update(new: &mut DeviceClass, old: &DeviceClass, _: Part) {
        let changed = new.spec != old.spec;
        workload::next_generation(&mut new.metadata, &old.metadata, changed);
    }

    fn validate(class: &DeviceClass) -> ErrorList {
        let mut errors = Errors::default();
        let (Some(spec), path) = (&class.spec, Path::new("spec")) else { return errors.0 };
        forms::selectors(&mut errors, list(&spec.selectors), &path.child("selectors"));
        let (config, at) = (list(&spec.config), path.child("config"));
        if forms::fits(&mut errors, config, forms::CONFIG_MAX, &at) {
            for (i, config) in config.iter().enumerate() {
                forms::configuration(&mut errors, config.opaque.as_ref(), &at.index(i));
            }
        }
        if let Some(name) = spec.extended_resource_name.as_deref()
            && !is_extended_resource(name)
        {
            let at = path.child("extendedResourceName");
            errors.invalid(&at, name, "must be a valid extended resource name");
        }
        errors.0
    }

    fn cells(class: &DeviceClass, now: Timestamp) -> Vec<Value> {
        name_and_age(&class.metadata, now)
    }
}
