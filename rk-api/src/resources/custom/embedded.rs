//! Objects within objects (`x-kubernetes-embedded-resource`): their types and their metadata.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::schema::Schema;
use crate::{
    field::{ErrorList, FieldError, Path},
    meta::{names, object::validate_metadata_of},
    resources::decode::decode,
};

/// Decodes metadata; what it does not know is taken away and named, as in `metadata.labelz`.
pub(super) fn metadata(value: &Value) -> Result<(ObjectMeta, Vec<String>), serde_json::Error> {
    #[derive(Deserialize)]
    struct Holder {
        #[serde(default)]
        metadata: ObjectMeta,
    }
    let json = serde_json::to_vec(&serde_json::json!({ "metadata": value }))?;
    let (holder, strict_errors) = decode::<Holder>(&json)?;
    Ok((holder.metadata, strict_errors))
}

/// Decodes metadata that was stored, without the fields that cannot be decoded: whoever stored them
/// had no schema yet.
pub(super) fn stored_metadata(value: &Value) -> ObjectMeta {
    if let Ok((meta, _)) = metadata(value) {
        return meta;
    }
    let fields = value.as_object().into_iter().flatten();
    let fits = |name: &str, field: &Value| {
        let alone = Map::from_iter([(name.to_owned(), field.clone())]);
        metadata(&Value::Object(alone)).is_ok()
    };
    let good: Map<_, _> = fields
        .filter(|(name, field)| fits(name, field))
        .map(|(name, field)| (name.clone(), field.clone()))
        .collect();
    metadata(&Value::Object(good)).map(|(meta, _)| meta).unwrap_or_default()
}

/// Brings the metadata of resources within `object` into form. What cannot be decoded is left for
/// [`validate`] to refuse. Names the unknown fields as [`super::prune::prune`] does.
pub(super) fn coerce(object: &mut Map<String, Value>, schema: &Schema) -> Vec<String> {
    let mut unknown = Vec::new();
    members(object, schema, "", &mut unknown);
    unknown
}

fn members(
    object: &mut Map<String, Value>,
    schema: &Schema,
    path: &str,
    unknown: &mut Vec<String>,
) {
    for (name, member) in object {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        if let Some(schema) = schema.member(name) {
            value(member, schema, &path, unknown);
        }
    }
}

fn value(found: &mut Value, schema: &Schema, path: &str, unknown: &mut Vec<String>) {
    match found {
        Value::Object(object) => {
            if schema.is_resource
                && let Some(found) = object.get_mut("metadata")
                && let Ok((meta, strict_errors)) = metadata(found)
                && let Ok(coerced) = serde_json::to_value(meta)
            {
                *found = coerced;
                let fields = strict_errors.iter().filter_map(|error| error.split('"').nth(1));
                unknown.extend(fields.map(|field| format!("{path}.{field}")));
            }
            members(object, schema, path, unknown);
        }
        Value::Array(items) => {
            let Some(schema) = &schema.items else { return };
            for (index, item) in items.iter_mut().enumerate() {
                value(item, schema, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}

/// What is wrong with the resources within `object`, which is itself one if `is_resource`.
pub(super) fn validate(
    object: &Map<String, Value>,
    schema: &Schema,
    is_resource: bool,
    path: &Path,
) -> ErrorList {
    let mut errors = ErrorList::new();
    judge_members(object, schema, is_resource, path, &mut errors);
    errors
}

fn judge_members(
    object: &Map<String, Value>,
    schema: &Schema,
    is_resource: bool,
    path: &Path,
    errors: &mut ErrorList,
) {
    if is_resource {
        judge_resource(object, path, errors);
    }
    for (name, member) in object {
        match schema.properties.get(name.as_str()) {
            Some(property) => judge(member, property, &path.child(name), errors),
            None => {
                if let Some(schema) = schema.member(name) {
                    judge(member, schema, &path.key(name), errors);
                }
            }
        }
    }
}

fn judge(found: &Value, schema: &Schema, path: &Path, errors: &mut ErrorList) {
    match found {
        Value::Object(object) => judge_members(object, schema, schema.is_resource, path, errors),
        Value::Array(items) => {
            let Some(schema) = &schema.items else { return };
            for (index, item) in items.iter().enumerate() {
                judge(item, schema, &path.index(index), errors);
            }
        }
        _ => {}
    }
}

fn judge_resource(object: &Map<String, Value>, path: &Path, errors: &mut ErrorList) {
    for name in ["apiVersion", "kind"] {
        let at = path.child(name);
        match object.get(name) {
            None => errors.push(FieldError::required(&at, "")),
            Some(Value::String(text)) if text.is_empty() => {
                errors.push(FieldError::invalid(&at, "", "must not be empty"));
            }
            Some(Value::String(text)) if name == "apiVersion" => {
                if text.matches('/').count() > 1 {
                    let detail = format!("unexpected GroupVersion string: {text}");
                    errors.push(FieldError::invalid(&at, text.as_str(), detail));
                }
            }
            Some(Value::String(text)) => {
                let wrong = names::dns1035_label(&text.to_lowercase(), false);
                if !wrong.is_empty() {
                    let detail = format!(
                        "may have mixed case, but should otherwise match: {}",
                        wrong.join(",")
                    );
                    errors.push(FieldError::invalid(&at, text.as_str(), detail));
                }
            }
            Some(other) => {
                errors.push(FieldError::invalid(&at, other.clone(), "must be a string"));
            }
        }
    }
    let Some(found) = object.get("metadata") else { return };
    let at = path.child("metadata");
    match metadata(found) {
        Err(error) => errors.push(FieldError::invalid(&at, found.clone(), error.to_string())),
        Ok((mut meta, _)) => {
            if meta.name.as_deref().unwrap_or_default().is_empty() {
                // It has none yet, which is nothing wrong.
                meta.name = Some("fakename".to_owned());
            }
            let namespaced = !meta.namespace.as_deref().unwrap_or_default().is_empty();
            errors.extend(validate_metadata_of(&meta, namespaced, names::path_segment, &at));
        }
    }
}
