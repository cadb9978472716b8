//! A custom kind's schema, as OpenAPI documents show it (apiextensions' `controller/openapi`).

use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use super::Version;
use crate::schema::{self, REFERENCE_PREFIX};

/// The type of every object's metadata.
pub(crate) const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

impl Version {
    /// The schema with what every object has. Swagger knows neither combinations nor null, and
    /// kubectl takes its `properties` for all that there may be: what it could misread is left out
    /// there, and of a kind that can hold anything it learns nothing else.
    pub(crate) fn published(&self, swagger: bool) -> Value {
        let mut schema = self.openapi();
        if swagger && schema["x-kubernetes-preserve-unknown-fields"] == true {
            return json!({"type": "object"});
        }
        publish(&mut schema, swagger);
        add_resource_members(&mut schema);
        if let Value::Object(members) = &mut schema {
            members.insert("type".to_owned(), "object".into());
        }
        schema
    }
}

fn flag(schema: &Map<String, Value>, name: &str) -> bool {
    schema.get(name) == Some(&Value::Bool(true))
}

fn publish(schema: &mut Value, swagger: bool) {
    let Value::Object(members) = schema else { return };
    if swagger {
        for name in ["allOf", "anyOf", "oneOf", "not"] {
            members.remove(name);
        }
        require_no_nullable(members);
        if flag(members, "nullable") || flag(members, "x-kubernetes-preserve-unknown-fields") {
            let is_nullable = members.remove("nullable").is_some();
            members.remove("items");
            members.remove("properties");
            members.remove("required");
            if is_nullable {
                members.remove("type");
            }
        }
        if flag(members, "x-kubernetes-int-or-string") {
            members.remove("type");
        }
    }
    for name in ["items", "additionalProperties"] {
        if let Some(inner) = members.get_mut(name) {
            publish(inner, swagger);
        }
    }
    if let Some(Value::Object(properties)) = members.get_mut("properties") {
        properties.values_mut().for_each(|property| publish(property, swagger));
    }
    if flag(members, "x-kubernetes-embedded-resource") {
        add_resource_members(schema);
    }
}

/// Swagger has no null: what may be null may not be required.
fn require_no_nullable(members: &mut Map<String, Value>) {
    let nullable = |name: &Value| {
        let property = members.get("properties")?.get(name.as_str()?)?.as_object()?;
        Some(flag(property, "nullable"))
    };
    let Some(Value::Array(required)) = members.get("required") else { return };
    let kept: Vec<Value> =
        required.iter().filter(|name| nullable(name) != Some(true)).cloned().collect();
    match kept.is_empty() {
        true => _ = members.remove("required"),
        false => _ = members.insert("required".to_owned(), kept.into()),
    }
}

fn add_resource_members(schema: &mut Value) {
    let Value::Object(members) = schema else { return };
    let properties = members.entry("properties").or_insert_with(|| json!({}));
    let Value::Object(properties) = properties else { return };
    properties.extend(type_members().clone());
    properties.insert(
        "metadata".to_owned(),
        json!({
            "$ref": format!("{REFERENCE_PREFIX}{OBJECT_META}"),
            "description": "Standard object's metadata.",
        }),
    );
}

/// The schemas of `apiVersion` and `kind`, as every built-in kind has them.
pub(crate) fn type_members() -> &'static Map<String, Value> {
    static MEMBERS: OnceLock<Map<String, Value>> = OnceLock::new();
    MEMBERS.get_or_init(|| {
        let kind = "io.k8s.api.core.v1.ConfigMap";
        let mut definitions = schema::definitions([kind]);
        let properties = definitions.get_mut(kind).map(|kind| kind["properties"].take());
        let Some(Value::Object(mut properties)) = properties else { return Map::new() };
        properties.retain(|name, _| matches!(name.as_str(), "apiVersion" | "kind"));
        properties
    })
}
