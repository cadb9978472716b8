//! Schemas from the structural schemas of custom resources (and from OpenAPI schemas of built-in
//! kinds, once their references are resolved).

use std::{collections::BTreeSet, sync::Arc};

use serde_json::{Map, Value};

use super::{ListKind, MAX_REQUEST, ObjectType, Schema, Shape};

impl Schema {
    /// The schema that expressions see for an OpenAPI v3 schema, or nothing if they see no such
    /// value at all (no type, or items that have none).
    ///
    /// Objects are named after their path, beginning with `name`. `resource_root` is for the root
    /// of a custom resource: `apiVersion`, `kind` and the name in `metadata` are always there.
    pub fn from_openapi(openapi: &Value, name: &str, resource_root: bool) -> Option<Self> {
        declare(openapi, name, resource_root)
    }
}

fn text<'v>(openapi: &'v Value, key: &str) -> &'v str {
    openapi.get(key).and_then(Value::as_str).unwrap_or("")
}

fn flag(openapi: &Value, key: &str) -> bool {
    openapi.get(key).and_then(Value::as_bool).unwrap_or(false)
}

/// A limit such as `maxItems`. Negative ones count as 0; JSON may write them with a fraction.
fn limit(openapi: &Value, key: &str) -> Option<u64> {
    let value = openapi.get(key)?;
    value.as_u64().or_else(|| value.as_f64().map(|limit| limit.max(0.0) as u64))
}

fn int_or_string(openapi: &Value) -> bool {
    flag(openapi, "x-kubernetes-int-or-string") || text(openapi, "format") == "int-or-string"
}

fn declare(openapi: &Value, name: &str, resource_root: bool) -> Option<Schema> {
    let mut schema = shape(openapi, name, resource_root)?;
    schema.nullable = flag(openapi, "nullable");
    Some(schema)
}

fn shape(openapi: &Value, name: &str, resource_root: bool) -> Option<Schema> {
    if int_or_string(openapi) {
        let max = limit(openapi, "maxLength").map_or(MAX_REQUEST - 2, |length| length * 4);
        return Some(Schema::new(Shape::Dyn, Some(max), 1));
    }
    match text(openapi, "type") {
        "array" => array(openapi, name),
        "object" => object(openapi, name, resource_root),
        // The root of a resource is an object even if its schema does not say so.
        "" if resource_root => object(openapi, name, true),
        "string" => Some(string(openapi)),
        "boolean" => Some(Schema::bool()),
        "number" => Some(Schema::new(Shape::Double, None, 1)),
        "integer" => Some(Schema::int()),
        _ => None,
    }
}

fn embedded(openapi: &Value) -> bool {
    flag(openapi, "x-kubernetes-embedded-resource")
}

fn array(openapi: &Value, name: &str) -> Option<Schema> {
    let items = openapi.get("items")?;
    let items = declare(items, &format!("{name}.@idx"), embedded(items))?;
    let kind = match text(openapi, "x-kubernetes-list-type") {
        "set" => ListKind::Set,
        "map" => ListKind::Map(
            openapi
                .get("x-kubernetes-list-map-keys")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|key| key.as_str().map(str::to_owned))
                .collect(),
        ),
        _ => ListKind::Atomic,
    };
    let max = limit(openapi, "maxItems").unwrap_or((MAX_REQUEST - 2) / (items.min_size + 1));
    Some(Schema::new(Shape::List { items: Arc::new(items), kind }, Some(max), 2))
}

fn object(openapi: &Value, name: &str, resource_root: bool) -> Option<Schema> {
    if let Some(values) = openapi.get("additionalProperties").filter(|more| more.is_object()) {
        let values = declare(values, &format!("{name}.@elem"), embedded(values))?;
        return Some(Schema::map(values, limit(openapi, "maxProperties")));
    }
    let none = Map::new();
    let properties = openapi.get("properties").and_then(Value::as_object).unwrap_or(&none);
    let required: BTreeSet<&str> = openapi
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let mut object = ObjectType::named(name);
    // The braces, then each field that must be there with its quotes, colon and comma.
    let mut min_size = 2;
    for (field, property) in properties {
        if resource_root && matches!(&**field, "apiVersion" | "kind" | "metadata") {
            continue;
        }
        let path = super::super::escape::escape(field)
            .map_or_else(|| format!("{name}.{field}"), |escaped| format!("{name}.{escaped}"));
        match declare(property, &path, embedded(property)) {
            Some(schema) => {
                let has_default = property.get("default").is_some_and(|value| !value.is_null());
                if required.contains(&**field) && !has_default {
                    min_size += field.len() as u64 + schema.min_size + 4;
                }
                object.add(field, schema);
            }
            None => {
                object.hidden.insert(field.clone(), Schema::new(Shape::Unknown, None, 1));
            }
        }
    }
    if resource_root {
        let string = || Schema::string(Some(MAX_REQUEST - 2));
        object.add("apiVersion", string());
        object.add("kind", string());
        object.add("metadata", metadata(properties.get("metadata"), name));
    }
    Some(Schema::new(Shape::Object(Arc::new(object)), None, min_size))
}

/// `metadata` of a resource: what expressions see of it is the name, unless a schema of a built-in
/// kind declares all.
fn metadata(declared: Option<&Value>, name: &str) -> Schema {
    const NAME_MAX: u64 = 253;
    let path = format!("{name}.metadata");
    let of = |field: &str| declared.and_then(|schema| schema.get("properties")?.get(field));
    if of("resourceVersion").is_some()
        && let Some(full) = declared.and_then(|schema| declare(schema, &path, false))
    {
        return full;
    }
    let capped = |field: &str, max: u64| {
        let length = of(field).and_then(|schema| limit(schema, "maxLength")).unwrap_or(max);
        Schema::string(Some(length.min(max) * 4))
    };
    let fields = [
        ("name", capped("name", NAME_MAX)),
        ("generateName", capped("generateName", NAME_MAX - 1)),
    ];
    Schema::object(&path, fields)
}

fn string(openapi: &Value) -> Schema {
    let any = MAX_REQUEST - 2;
    match text(openapi, "format") {
        "byte" => Schema::new(Shape::Bytes, Some(limit(openapi, "maxLength").unwrap_or(any)), 2),
        "duration" => Schema::new(Shape::Duration, Some(32), 3),
        "date" => Schema::new(Shape::Date, Some(12), 12),
        "date-time" => Schema::date_time(),
        _ => {
            let enumerated =
                openapi.get("enum").and_then(Value::as_array).filter(|e| !e.is_empty());
            let max = match (limit(openapi, "maxLength"), enumerated) {
                // Lengths are in code points there, and of up to four bytes each.
                (Some(length), _) => length.saturating_mul(4),
                (None, Some(values)) => values
                    .iter()
                    .filter_map(|value| value.as_str().map(|text| text.len() as u64))
                    .max()
                    .unwrap_or(0),
                (None, None) => any,
            };
            Schema::string(Some(max))
        }
    }
}
