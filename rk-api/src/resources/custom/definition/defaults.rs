//! Defaults of a schema satisfy it, and hold nothing that it does not know.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray,
};
use serde_json::Value;

use crate::{
    field::{FieldError, Path},
    resources::{
        check::Errors,
        custom::{
            embedded, lists,
            schema::{Schema, properties},
            strategy::is_pruned,
            validate::validate as validate_value,
        },
    },
};

/// What is wrong with the defaults of a structural schema. Those of metadata are judged elsewhere:
/// at the root there may be none.
pub(super) fn validate(errors: &mut Errors, schema: &JSONSchemaProps, path: &Path) {
    below(errors, schema, true, path);
}

fn below(errors: &mut Errors, schema: &JSONSchemaProps, is_root: bool, path: &Path) {
    if let Some(default) = schema.default.as_ref().filter(|default| !default.0.is_null()) {
        one(errors, &default.0, &Schema::compile(schema), &path.child("default"));
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        below(errors, items, false, &path.child("items"));
    }
    for (name, property) in properties(schema) {
        if is_root && ["apiVersion", "kind", "metadata"].contains(&name) {
            continue;
        }
        below(errors, property, false, &path.child("properties").key(name));
    }
}

fn one(errors: &mut Errors, default: &Value, schema: &Schema, path: &Path) {
    if !is_pruned(default, schema, schema.is_resource) {
        errors.invalid(path, default.clone(), "must not have unknown fields");
    }
    let mut found = match default.as_object() {
        Some(object) => embedded::validate(object, schema, schema.is_resource, path),
        None => Vec::new(),
    };
    if found.is_empty() {
        let at = path.to_string();
        let wrong = validate_value(default, None, schema, "");
        found.extend(wrong.into_iter().map(|error| FieldError {
            path: match error.path.as_str() {
                "<nil>" => at.clone(),
                path => format!("{at}.{path}"),
            },
            ..error
        }));
    }
    if found.is_empty()
        && let Some(object) = default.as_object()
    {
        found.extend(lists::validate(object, schema, path));
    }
    errors.extend(found);
}
