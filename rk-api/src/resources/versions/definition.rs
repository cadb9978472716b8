//! CustomResourceDefinition in `apiextensions.k8s.io/v1beta1`: what versions have in common can be
//! said once for all of them, and fields that nobody described are kept unless told otherwise.

use serde_json::{Map, Value, json};

use super::{
    Conversion, Rules,
    tree::{self, refuse},
};
use crate::resources::custom::definition;

pub(super) const V1BETA1: Conversion = Conversion { read, write };

/// Old definitions may lack schemas, and keep what they do not know.
pub(super) const V1BETA1_RULES: Rules = Rules {
    fields: &[],
    judge: Some(definition::judge_beta),
    judge_change: Some(definition::judge_beta_change),
    tolerates: |_| false,
};

/// What can be said for all versions at once, and where a version says it.
const SHARED: [(&str, &str); 4] = [
    ("validation", "schema"),
    ("subresources", "subresources"),
    ("additionalPrinterColumns", "additionalPrinterColumns"),
    ("selectableFields", "selectableFields"),
];

fn spec(object: &mut Value) -> Option<&mut Map<String, Value>> {
    tree::object(object, &["spec"])
}

fn read(object: &mut Value, unknown: &mut Vec<String>) {
    let Some(spec) = spec(object) else { return };
    let is_empty = |value: Option<&Value>| {
        value.is_none_or(|value| value.is_null() || value.as_array().is_some_and(Vec::is_empty))
    };
    if is_empty(spec.get("versions"))
        && let Some(version @ Value::String(_)) = spec.get("version")
    {
        let only = json!([{ "name": version, "served": true, "storage": true }]);
        spec.insert("versions".to_owned(), only);
    }
    spec.remove("version");
    if is_empty(spec.get("scope")) {
        spec.insert("scope".to_owned(), "Namespaced".into());
    }
    // True unless it says otherwise, where v1 leaves out what is false.
    if spec.get("preserveUnknownFields") == Some(&Value::Bool(false)) {
        spec.remove("preserveUnknownFields");
    } else {
        spec.insert("preserveUnknownFields".to_owned(), Value::Bool(true));
    }
    for (shared, own) in SHARED {
        let value = spec.remove(shared).filter(|value| !value.is_null());
        let versions = spec.get_mut("versions").and_then(Value::as_array_mut);
        for version in versions.into_iter().flatten().filter_map(Value::as_object_mut) {
            if let Some(value) = &value {
                version.entry(own).or_insert_with(|| value.clone());
            }
            if own == "additionalPrinterColumns" {
                columns(version, "JSONPath", "jsonPath");
            }
        }
    }
    if let Some(Value::Object(conversion)) = spec.get_mut("conversion") {
        read_conversion(conversion, unknown);
    }
}

fn columns(version: &mut Map<String, Value>, from: &str, to: &str) {
    let columns = version.get_mut("additionalPrinterColumns").and_then(Value::as_array_mut);
    for column in columns.into_iter().flatten().filter_map(Value::as_object_mut) {
        if let Some(path) = column.remove(from) {
            column.insert(to.to_owned(), path);
        }
    }
}

fn read_conversion(conversion: &mut Map<String, Value>, unknown: &mut Vec<String>) {
    refuse(conversion, "webhook", "spec.conversion.", unknown);
    let client = conversion.remove("webhookClientConfig").filter(|client| !client.is_null());
    let reviews = conversion.remove("conversionReviewVersions").filter(|list| !list.is_null());
    if client.is_none()
        && reviews.is_none()
        && conversion.get("strategy") != Some(&"Webhook".into())
    {
        return;
    }
    let mut webhook = Map::new();
    webhook.extend(client.map(|client| ("clientConfig".to_owned(), client)));
    let reviews = reviews.unwrap_or_else(|| json!(["v1beta1"]));
    webhook.insert("conversionReviewVersions".to_owned(), reviews);
    conversion.insert("webhook".to_owned(), Value::Object(webhook));
}

fn write(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    spec.entry("preserveUnknownFields").or_insert(Value::Bool(false));
    write_versions(spec);
    if let Some(Value::Object(conversion)) = spec.get_mut("conversion")
        && let Some(Value::Object(mut webhook)) = conversion.remove("webhook")
    {
        let moved = [("clientConfig", "webhookClientConfig"), ("conversionReviewVersions", "")];
        for (from, to) in moved {
            if let Some(value) = webhook.remove(from) {
                let to = if to.is_empty() { from } else { to };
                conversion.insert(to.to_owned(), value);
            }
        }
    }
}

/// Says once what all versions have in common, and which version is the first.
fn write_versions(spec: &mut Map<String, Value>) {
    let first = spec.get("versions").and_then(|versions| versions.get(0)).cloned();
    let Some(Value::Object(first)) = first else { return };
    if let Some(name) = first.get("name") {
        spec.insert("version".to_owned(), name.clone());
    }
    for (shared, own) in SHARED {
        let versions = spec.get_mut("versions").and_then(Value::as_array_mut);
        let Some(versions) = versions else { continue };
        if own == "additionalPrinterColumns" {
            for version in versions.iter_mut().filter_map(Value::as_object_mut) {
                columns(version, "jsonPath", "JSONPath");
            }
        }
        let value = versions.first().and_then(|version| version.get(own)).cloned();
        let Some(value) = value else { continue };
        if versions.iter().all(|version| version.get(own) == Some(&value)) {
            for version in versions.iter_mut().filter_map(Value::as_object_mut) {
                version.remove(own);
            }
            spec.insert(shared.to_owned(), value);
        }
    }
}
