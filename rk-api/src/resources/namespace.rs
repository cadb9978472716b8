//! Namespace.

use k8s_openapi::{
    api::core::v1::{Namespace, NamespaceStatus},
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Fields, Kind, Part, Resource,
    check::{Errors, list, text},
    row::Row,
};
use crate::{
    field::{ErrorList, Path},
    meta::{
        names,
        table::{age, name},
    },
};

/// The row of Namespace.
pub(super) fn row() -> Resource {
    Row::of::<Namespaces>()
        .short(&["ns"])
        .verbs(&["create", "delete", "get", "list", "patch", "update", "watch"])
        .sub("finalize", "Namespace", &["update"])
        .status()
        .columns(COLUMNS)
        .done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Status", "string", "Whether it is in use or being deleted."),
    Column::AGE,
];

/// The finalizer that keeps a namespace until its content is gone.
const FINALIZER: &str = "kubernetes";
/// The label that repeats the name, for selectors.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// How a Namespace behaves.
#[derive(Debug, Default)]
pub(super) struct Namespaces;

impl Kind for Namespaces {
    type Object = Namespace;

    fn default(namespace: &mut Namespace) {
        let status = namespace.status.get_or_insert_default();
        if text(&status.phase).is_empty() {
            status.phase = Some("Active".to_owned());
        }
        label_with_name(namespace);
    }

    fn prepare_create(namespace: &mut Namespace) {
        label_with_name(namespace);
        namespace.status = Some(NamespaceStatus {
            phase: Some("Active".to_owned()),
            ..NamespaceStatus::default()
        });
        let finalizers = namespace.spec.get_or_insert_default().finalizers.get_or_insert_default();
        if !finalizers.iter().any(|name| name == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
        }
    }

    fn prepare_update(new: &mut Namespace, old: &Namespace, part: Part) {
        match part {
            Part::Status => new.spec = old.spec.clone(),
            Part::Finalize => new.status = old.status.clone(),
            _ => {
                new.spec = old.spec.clone();
                new.status = old.status.clone();
            }
        }
    }

    fn validate(namespace: &Namespace) -> ErrorList {
        let mut errors = Errors::default();
        let finalizers = namespace.spec.as_ref().map_or(&[][..], |spec| list(&spec.finalizers));
        for (i, finalizer) in finalizers.iter().enumerate() {
            let at = Path::new("spec.finalizers").index(i);
            errors.form(&at, finalizer.as_str(), names::qualified_name(finalizer));
            if finalizer != FINALIZER && !finalizer.contains('/') {
                errors.invalid(
                    &at,
                    finalizer.as_str(),
                    "name is neither a standard finalizer name nor is it fully qualified",
                );
            }
        }
        errors.0
    }

    fn validate_update(new: &Namespace, _: &Namespace, part: Part) -> ErrorList {
        let mut errors = Errors::default();
        let phase = new.status.as_ref().map_or("", |status| text(&status.phase));
        let wanted = match new.metadata.deletion_timestamp {
            None => "Active",
            Some(_) => "Terminating",
        };
        if part == Part::Status && phase != wanted {
            let detail = match wanted {
                "Active" => "may only be 'Active' if `deletionTimestamp` is empty",
                _ => "may only be 'Terminating' if `deletionTimestamp` is not empty",
            };
            errors.invalid(&Path::new("status.Phase"), phase, detail);
        }
        errors.0
    }

    fn validate_name(name: &str, generate_prefix: bool) -> Vec<String> {
        names::dns_label(name, generate_prefix)
    }

    fn fields(namespace: &Namespace) -> Fields {
        let phase = namespace.status.as_ref().map_or("", |status| text(&status.phase));
        Fields::from_iter([("status.phase", phase.to_owned())])
    }

    const FIELDS: &'static [&'static str] = &["status.phase"];

    fn cells(namespace: &Namespace, now: Timestamp) -> Vec<Value> {
        let phase = namespace.status.as_ref().map_or("", |status| text(&status.phase));
        vec![json!(name(&namespace.metadata)), json!(phase), json!(age(&namespace.metadata, now))]
    }
}

fn label_with_name(namespace: &mut Namespace) {
    let is_label = |name: &String| !name.is_empty() && names::label_value(name).is_empty();
    // A name that is no label value is refused for itself.
    if let Some(name) = namespace.metadata.name.clone().filter(is_label) {
        let labels = namespace.metadata.labels.get_or_insert_default();
        labels.insert(NAME_LABEL.to_owned(), name);
    }
}
