//! StorageClass.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::{core::v1::TopologySelectorTerm, storage::v1::StorageClass},
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Kind, Part, Resource,
    check::{Errors, list, text},
    row::Row,
    warnings::node_label,
};
use crate::{
    field::{ErrorList, FieldError, Path},
    meta::{
        names,
        table::{age, name},
    },
    volumes::is_default_class,
};

/// The row of StorageClass.
pub(super) fn row() -> Resource {
    Row::of::<StorageClasses>().short(&["sc"]).columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Provisioner", "string", "Who makes volumes of the class."),
    Column::new("ReclaimPolicy", "string", "What becomes of a volume when its claim is gone."),
    Column::new("VolumeBindingMode", "string", "When a claim gets its volume."),
    Column::new("AllowVolumeExpansion", "string", "Whether volumes can grow."),
    Column::AGE,
];

/// How a StorageClass behaves.
#[derive(Debug, Default)]
pub(super) struct StorageClasses;

impl Kind for StorageClasses {
    type Object = StorageClass;

    fn default(class: &mut StorageClass) {
        class.reclaim_policy.get_or_insert_with(|| "Delete".to_owned());
        class.volume_binding_mode.get_or_insert_with(|| "Immediate".to_owned());
    }

    fn validate(class: &StorageClass) -> ErrorList {
        let mut errors = Errors::default();
        provisioner(&mut errors, &Path::new("provisioner"), &class.provisioner);
        parameters(&mut errors, &Path::new("parameters"), class.parameters.as_ref());
        if let Some(policy) = class.reclaim_policy.as_deref().filter(|policy| !policy.is_empty()) {
            errors.one_of(&Path::new("reclaimPolicy"), policy, &["Delete", "Retain"]);
        }
        let modes = ["Immediate", "WaitForFirstConsumer"];
        let mode = text(&class.volume_binding_mode);
        errors.required_one_of(&Path::new("volumeBindingMode"), mode, &modes);
        topologies(&mut errors, list(&class.allowed_topologies), &Path::new("allowedTopologies"));
        errors.0
    }

    fn validate_update(new: &StorageClass, old: &StorageClass, _: Part) -> ErrorList {
        let mut errors = Errors::default();
        let changes = [
            ("parameters", new.parameters != old.parameters),
            ("provisioner", new.provisioner != old.provisioner),
            ("reclaimPolicy", new.reclaim_policy != old.reclaim_policy),
        ];
        for (field, _) in changes.into_iter().filter(|(_, changed)| *changed) {
            errors.forbidden(&Path::new(field), &format!("updates to {field} are forbidden."));
        }
        errors.immutable(
            &Path::new("volumeBindingMode"),
            &new.volume_binding_mode,
            &old.volume_binding_mode,
        );
        errors.0
    }

    fn warnings(class: &StorageClass, _: Option<&StorageClass>) -> Vec<String> {
        let mut all = Vec::new();
        for (i, term) in list(&class.allowed_topologies).iter().enumerate() {
            for (j, wanted) in list(&term.match_label_expressions).iter().enumerate() {
                if let Some(why) = node_label(&wanted.key) {
                    let at = Path::new("allowedTopologies").index(i);
                    let at = at.child("matchLabelExpressions").index(j).child("key");
                    all.push(format!("{at}: {why}"));
                }
            }
        }
        all
    }

    fn cells(class: &StorageClass, now: Timestamp) -> Vec<Value> {
        let suffix = if is_default_class(&class.metadata) { " (default)" } else { "" };
        vec![
            json!(format!("{}{suffix}", name(&class.metadata))),
            json!(class.provisioner),
            json!(class.reclaim_policy.as_deref().unwrap_or("Delete")),
            json!(class.volume_binding_mode.as_deref().unwrap_or("<unset>")),
            json!(class.allow_volume_expansion.unwrap_or(false)),
            json!(age(&class.metadata, now)),
        ]
    }

    const CREATE_ON_UPDATE: bool = false;
}

/// The most parameters of a class, and how many bytes they may have together.
const PARAMETERS_MAX: usize = 512;
const PARAMETERS_SIZE_MAX: usize = 256 * 1024;

/// The name of who provides storage.
pub(super) fn provisioner(errors: &mut Errors, path: &Path, name: &str) {
    let qualified = |name: &str| names::qualified_name(&name.to_lowercase());
    errors.required_form(path, name, qualified);
}

/// What a class tells its provisioner.
pub(super) fn parameters(
    errors: &mut Errors,
    path: &Path,
    parameters: Option<&BTreeMap<String, String>>,
) {
    let Some(parameters) = parameters else { return };
    if parameters.len() > PARAMETERS_MAX {
        return errors.push(FieldError::too_long(path, PARAMETERS_MAX));
    }
    if parameters.keys().any(String::is_empty) {
        errors.invalid(path, "", "field can not be empty.");
    }
    let size: usize = parameters.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size > PARAMETERS_SIZE_MAX {
        errors.push(FieldError::too_long(path, PARAMETERS_SIZE_MAX));
    }
}

/// Where volumes may be made: labels of nodes, each key once in a term.
fn topologies(errors: &mut Errors, terms: &[TopologySelectorTerm], path: &Path) {
    for (i, term) in terms.iter().enumerate() {
        let at = path.index(i).child("matchLabelExpressions");
        let mut keys = BTreeSet::new();
        for (j, wanted) in list(&term.match_label_expressions).iter().enumerate() {
            let at = at.index(j);
            if wanted.values.is_empty() {
                errors.required(&at.child("values"), "");
            }
            let mut values = BTreeSet::new();
            for (k, value) in wanted.values.iter().enumerate() {
                let at = at.child("values").index(k);
                errors.form(&at, value.as_str(), names::label_value(value));
                if !values.insert(value) {
                    errors.push(FieldError::duplicate(&at, value.as_str()));
                }
            }
            errors.label_key(&at.child("key"), &wanted.key);
            if !keys.insert(&wanted.key) {
                errors.push(FieldError::duplicate(&at.child("key"), wanted.key.as_str()));
            }
        }
        if terms[..i].contains(term) {
            errors.push(FieldError::duplicate(&at, ""));
        }
    }
}
