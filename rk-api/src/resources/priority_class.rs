//! PriorityClass.

use k8s_openapi::{api::scheduling::v1::PriorityClass, jiff::Timestamp};
use serde_json::{Value, json};

use super::{
    Column, Kind, Part, Resource,
    check::{Errors, text},
    row::Row,
    workload,
};
use crate::{
    field::{ErrorList, Path},
    meta::table::{age, name},
};

/// The row of PriorityClass.
pub(super) fn row() -> Resource {
    Row::of::<PriorityClasses>().short(&["pc"]).columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Value", "integer", "The priority of its Pods; higher goes first."),
    Column::new("Global-Default", "boolean", "Whether Pods without a class get this one."),
    Column::AGE,
    Column::new("PreemptionPolicy", "string", "Whether its Pods may push others out."),
];

/// The highest priority outside the system's own classes.
const USER_MAX: i32 = 1_000_000_000;
const SYSTEM_PREFIX: &str = "system-";
/// The system's own classes and their priorities.
const SYSTEM: &[(&str, i32)] =
    &[("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

/// How a PriorityClass behaves.
#[derive(Debug, Default)]
pub(super) struct PriorityClasses;

impl Kind for PriorityClasses {
    type Object = PriorityClass;

    fn default(class: &mut PriorityClass) {
        class.preemption_policy.get_or_insert_with(|| "PreemptLowerPriority".to_owned());
    }

    fn prepare_create(class: &mut PriorityClass) {
        workload::first_generation(&mut class.metadata);
    }

    fn prepare_update(new: &mut PriorityClass, old: &PriorityClass, _: Part) {
        workload::next_generation(&mut new.metadata, &old.metadata, false);
    }

    fn validate(class: &PriorityClass) -> ErrorList {
        let mut errors = Errors::default();
        let name = text(&class.metadata.name);
        let value = class.value.unwrap_or(0);
        if name.starts_with(SYSTEM_PREFIX) {
            if let Some(wrong) = not_the_systems(class, name, value) {
                errors.forbidden(
                    &Path::new("metadata.name"),
                    &format!(
                        "priority class names with '{SYSTEM_PREFIX}' prefix are reserved for \
                         system use only. error: {wrong}"
                    ),
                );
            }
        } else if value > USER_MAX {
            errors.forbidden(
                &Path::new("value"),
                &format!("maximum allowed value of a user defined priority is {USER_MAX}"),
            );
        }
        if let Some(policy) = &class.preemption_policy {
            let policies = ["PreemptLowerPriority", "Never"];
            errors.required_one_of(&Path::new("preemptionPolicy"), policy, &policies);
        }
        errors.0
    }

    fn validate_update(new: &PriorityClass, old: &PriorityClass, _: Part) -> ErrorList {
        let mut errors = Errors::default();
        if new.value.unwrap_or(0) != old.value.unwrap_or(0) {
            // Kubernetes writes this one field in Go's way.
            errors.forbidden(&Path::new("Value"), "may not be changed in an update.");
        }
        errors.immutable(
            &Path::new("preemptionPolicy"),
            &new.preemption_policy,
            &old.preemption_policy,
        );
        errors.0
    }

    fn cells(class: &PriorityClass, now: Timestamp) -> Vec<Value> {
        vec![
            json!(name(&class.metadata)),
            json!(class.value.unwrap_or(0)),
            json!(class.global_default.unwrap_or(false)),
            json!(age(&class.metadata, now)),
            json!(text(&class.preemption_policy)),
        ]
    }
}

/// Why a class with the system's prefix is not one of the system's.
fn not_the_systems(class: &PriorityClass, name: &str, value: i32) -> Option<String> {
    match SYSTEM.iter().find(|(system, _)| *system == name) {
        None => Some(format!("{name} is not a known system priority class")),
        Some((_, wanted)) if *wanted != value => {
            Some(format!("value of {name} PriorityClass must be {wanted}"))
        }
        Some(_) if class.global_default == Some(true) => {
            Some(format!("globalDefault of {name} PriorityClass must be false"))
        }
        Some(_) => None,
    }
}
