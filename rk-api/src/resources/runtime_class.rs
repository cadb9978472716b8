//! RuntimeClass: how, and on which nodes, Pods of the class run.

use k8s_openapi::{api::node::v1::RuntimeClass, jiff::Timestamp};
use serde_json::{Value, json};

use super::{
    Column, Kind, Part, Resource,
    check::{Errors, labels, list, round_to_millis},
    pod::validation::tolerations,
    row::Row,
    warnings::node_label,
};
use crate::{
    field::{ErrorList, FieldError, Path},
    meta::{
        names,
        table::{age, name},
    },
};

/// The row of RuntimeClass.
pub(super) fn row() -> Resource {
    Row::of::<RuntimeClasses>().columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Handler", "string", "What the container runtime calls it."),
    Column::AGE,
];

/// How a RuntimeClass behaves.
#[derive(Debug, Default)]
pub(super) struct RuntimeClasses;

impl Kind for RuntimeClasses {
    type Object = RuntimeClass;

    fn default(class: &mut RuntimeClass) {
        if let Some(overhead) = &mut class.overhead {
            round_to_millis(&mut overhead.pod_fixed);
        }
    }

    fn validate(class: &RuntimeClass) -> ErrorList {
        let mut errors = Errors::default();
        let wrong = names::dns_label(&class.handler, false);
        errors.form(&Path::new("handler"), class.handler.as_str(), wrong);
        if let Some(overhead) = &class.overhead {
            for (resource, amount) in overhead.pod_fixed.iter().flatten() {
                let at = Path::new("overhead.limits").key(resource);
                errors.resource_name(&at, resource);
                errors.amount(&at, resource, amount);
            }
        }
        if let Some(scheduling) = &class.scheduling {
            let path = Path::new("scheduling");
            let selector = scheduling.node_selector.as_ref();
            errors.extend(labels(selector, &path.child("nodeSelector")));
            let (tolerated, at) = (list(&scheduling.tolerations), path.child("tolerations"));
            tolerations(&mut errors, tolerated, &at);
            for (i, toleration) in tolerated.iter().enumerate() {
                if tolerated[..i].contains(toleration) {
                    errors.push(FieldError::duplicate(&at.index(i), json!(toleration)));
                }
            }
        }
        errors.0
    }

    fn validate_update(new: &RuntimeClass, old: &RuntimeClass, _: Part) -> ErrorList {
        let mut errors = Errors::default();
        errors.immutable(&Path::new("handler"), &new.handler, &old.handler);
        errors.0
    }

    fn warnings(class: &RuntimeClass, _: Option<&RuntimeClass>) -> Vec<String> {
        let scheduling = class.scheduling.as_ref();
        let selector = scheduling.and_then(|scheduling| scheduling.node_selector.as_ref());
        let old = selector.into_iter().flat_map(|all| all.keys()).filter_map(|l| node_label(l));
        old.map(|why| format!("scheduling.nodeSelector: {why}")).collect()
    }

    fn cells(class: &RuntimeClass, now: Timestamp) -> Vec<Value> {
        vec![json!(name(&class.metadata)), json!(class.handler), json!(age(&class.metadata, now))]
    }

    const UNCONDITIONAL_UPDATE: bool = false;
}
