//! IngressClass.

use k8s_openapi::{api::networking::v1::IngressClass, jiff::Timestamp};
use serde_json::{Value, json};

use super::{
    Column, Kind, Part, Resource,
    check::{Errors, default_text, text},
    row::Row,
    workload,
};
use crate::{
    field::{ErrorList, Path},
    meta::{
        names,
        table::{NONE, age, name},
    },
};

/// The row of IngressClass.
pub(super) fn row() -> Resource {
    Row::of::<IngressClasses>().columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Controller", "string", "The controller that serves the class."),
    Column::new("Parameters", "string", "An object with more configuration."),
    Column::AGE,
];

/// How an IngressClass behaves.
#[derive(Debug, Default)]
pub(super) struct IngressClasses;

impl Kind for IngressClasses {
    type Object = IngressClass;

    fn default(class: &mut IngressClass) {
        let spec = class.spec.get_or_insert_default();
        if let Some(parameters) = &mut spec.parameters {
            default_text(&mut parameters.scope, "Cluster");
        }
    }

    fn prepare_create(class: &mut IngressClass) {
        workload::first_generation(&mut class.metadata);
    }

    fn prepare_update(new: &mut IngressClass, old: &IngressClass, _: Part) {
        let changed = new.spec != old.spec;
        workload::next_generation(&mut new.metadata, &old.metadata, changed);
    }

    fn validate(class: &IngressClass) -> ErrorList {
        let mut errors = Errors::default();
        let spec = class.spec.clone().unwrap_or_default();
        let controller = text(&spec.controller);
        let at = Path::new("spec.controller");
        if controller.len() > 250 {
            errors.invalid(&at, controller, names::too_long(250));
        }
        errors.required_form(&at, controller, names::domain_prefixed_path);
        let Some(parameters) = &spec.parameters else { return errors.0 };
        let at = Path::new("spec.parameters");
        for (field, value) in [("kind", &parameters.kind), ("name", &parameters.name)] {
            if value.is_empty() {
                errors.required(&at.child(field), "");
            }
        }
        let namespace = text(&parameters.namespace);
        match text(&parameters.scope) {
            "Namespace" if namespace.is_empty() => {
                errors.required(&at.child("namespace"), "`parameters.scope` is set to 'Namespace'")
            }
            "Cluster" if !namespace.is_empty() => {
                errors.forbidden(&at.child("namespace"), "`parameters.scope` is set to 'Cluster'")
            }
            scope => errors.one_of(&at.child("scope"), scope, &["Cluster", "Namespace"]),
        }
        errors.0
    }

    fn validate_update(new: &IngressClass, old: &IngressClass, _: Part) -> ErrorList {
        let mut errors = Errors::default();
        let controller = |class: &IngressClass| class.spec.clone().unwrap_or_default().controller;
        errors.immutable(&Path::new("spec.controller"), &controller(new), &controller(old));
        errors.0
    }

    fn cells(class: &IngressClass, now: Timestamp) -> Vec<Value> {
        let spec = class.spec.clone().unwrap_or_default();
        let parameters = spec.parameters.map(|parameters| {
            let group = text(&parameters.api_group);
            let dot = if group.is_empty() { "" } else { "." };
            format!("{}{dot}{group}/{}", parameters.kind, parameters.name)
        });
        vec![
            json!(name(&class.metadata)),
            json!(text(&spec.controller)),
            json!(parameters.unwrap_or_else(|| NONE.to_owned())),
            json!(age(&class.metadata, now)),
        ]
    }
}
