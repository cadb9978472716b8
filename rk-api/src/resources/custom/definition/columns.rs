//! Printer columns, selectable fields and scales: paths into the objects.

use std::collections::HashSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceSubresources, JSONSchemaProps, SelectableField,
};

use super::field_path;
use crate::{
    field::{FieldError, Path},
    resources::check::{Errors, text},
};

const TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
const FORMATS: &[&str] =
    &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
/// How many fields of a version can be selected by (KEP-4358).
const SELECTABLE_MAX: usize = 8;

pub(super) fn column(errors: &mut Errors, column: &CustomResourceColumnDefinition, path: &Path) {
    if column.name.is_empty() {
        errors.required(&path.child("name"), "");
    }
    let known = format!("must be one of {}", TYPES.join(","));
    if column.type_.is_empty() {
        errors.required(&path.child("type"), &known);
    } else if !TYPES.contains(&column.type_.as_str()) {
        errors.invalid(&path.child("type"), column.type_.as_str(), known);
    }
    let format = text(&column.format);
    if !format.is_empty() && !FORMATS.contains(&format) {
        let detail = format!("must be one of {}", FORMATS.join(","));
        errors.invalid(&path.child("format"), format, detail);
    }
    simple_path(errors, &column.json_path, &path.child("JSONPath"));
}

/// A path that must be there and begin with a dot. Says whether it does.
fn simple_path(errors: &mut Errors, found: &str, path: &Path) -> bool {
    if found.is_empty() {
        errors.required(path, "");
        return false;
    }
    if !found.starts_with('.') {
        errors.invalid(path, found, "must be a simple json path starting with .");
        return false;
    }
    true
}

pub(super) fn subresources(
    errors: &mut Errors,
    subresources: &CustomResourceSubresources,
    path: &Path,
) {
    let Some(scale) = &subresources.scale else { return };
    let mut below = |name: &str, found: &str, parents: &[&str], words: &str| {
        let at = path.child(name);
        if simple_path(errors, found, &at)
            && !parents.iter().any(|parent| found.starts_with(parent))
        {
            errors.invalid(&at, found, format!("should be a json path under {words}"));
        }
    };
    below("scale.specReplicasPath", &scale.spec_replicas_path, &[".spec."], ".spec");
    below("scale.statusReplicasPath", &scale.status_replicas_path, &[".status."], ".status");
    let selector = text(&scale.label_selector_path);
    if !selector.is_empty() {
        let parents = [".spec.", ".status."];
        below("scale.labelSelectorPath", selector, &parents, "either .spec or .status");
    }
}

/// `unchanged`: as many fields as there were before may stay.
pub(super) fn selectable(
    errors: &mut Errors,
    fields: &[SelectableField],
    schema: &JSONSchemaProps,
    unchanged: bool,
    path: &Path,
) {
    let mut unique = HashSet::new();
    for (index, field) in fields.iter().enumerate() {
        let found = field.json_path.as_str();
        let at = path.index(index);
        let at = at.child("jsonPath");
        if found.is_empty() {
            errors.required(&at, "");
            continue;
        }
        let (steps, target) = match field_path::resolve(found, schema, false) {
            Ok(resolved) => resolved,
            Err(why) => {
                errors.invalid(&at, found, format!("is an invalid path: {why}"));
                continue;
            }
        };
        if steps.first().is_some_and(|first| first == "metadata") {
            errors.invalid(&at, found, "must not point to fields in metadata");
        }
        if !matches!(text(&target.type_), "string" | "boolean" | "integer") {
            let detail = "must point to a field of type string, boolean or integer. Enum string \
                          fields and strings with formats are allowed.";
            errors.invalid(&at, found, detail);
        }
        if !unique.insert(steps) {
            errors.push(FieldError::duplicate(&at, found));
        }
    }
    if unique.len() > SELECTABLE_MAX && !unchanged {
        errors.push(FieldError::too_many(path, unique.len(), SELECTABLE_MAX));
    }
}
