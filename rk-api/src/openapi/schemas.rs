//! The schemas of a document, in the dialect of either OpenAPI version.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::operations::{self, Answer, Body, Operation};
use crate::{
    resources::{
        Resource, Resources,
        custom::{self, OBJECT_META},
    },
    schema::{self, REFERENCE_PREFIX},
};

/// A version of OpenAPI, as far as schemas differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Swagger 2.0.
    V2,
    /// OpenAPI 3.0.
    V3,
}

/// Where references of Swagger documents point.
const V2_REFERENCE_PREFIX: &str = "#/definitions/";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";

/// A reference to the schema `name`.
pub(super) fn reference(dialect: Dialect, name: &str) -> Value {
    let prefix = match dialect {
        Dialect::V2 => V2_REFERENCE_PREFIX,
        Dialect::V3 => REFERENCE_PREFIX,
    };
    json!({"$ref": format!("{prefix}{name}")})
}

/// Every schema that the operations need, by name, marked with the kinds that it describes.
pub(super) fn of_operations(
    resources: &Resources,
    operations: &[Operation],
    dialect: Dialect,
) -> Map<String, Value> {
    let (mut names, mut lists) = (BTreeSet::new(), BTreeSet::new());
    for operation in operations {
        match &operation.body {
            Body::Nothing => {}
            Body::Object(name) => _ = names.insert(name.as_str()),
            Body::Options(name) => _ = names.insert(name),
            Body::Patch(_) => _ = names.insert(operations::PATCH),
        }
        match &operation.answer {
            Answer::Text => {}
            Answer::Object(name) => _ = names.insert(name.as_str()),
            Answer::List(name) => _ = lists.insert(name.as_str()),
        }
    }
    let items = lists.iter().filter_map(|name| name.strip_suffix("List"));
    names.extend(items.chain([LIST_META]));

    let rows: Vec<_> = names.iter().filter_map(|name| custom(resources, name)).collect();
    if !rows.is_empty() {
        names.insert(OBJECT_META);
    }
    let mut schemas = schema::definitions(names.iter().copied());
    for (row, custom) in rows {
        schemas.insert(row.schema.to_string(), custom.published(dialect == Dialect::V2));
    }
    for name in names {
        // A kind whose type is not known: its objects can be anything.
        schemas.entry(name).or_insert_with(
            || json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
        );
    }
    for name in lists {
        let item = name.strip_suffix("List").unwrap_or(name);
        schemas.insert(name.into(), list_schema(item));
    }
    for (name, schema) in &mut schemas {
        translate_definition(name, schema, dialect);
    }
    mark_kinds(&mut schemas, resources, operations);
    schemas
}

/// The custom kind that a schema describes.
fn custom<'a>(resources: &'a Resources, name: &str) -> Option<(&'a Resource, &'a custom::Version)> {
    let row = resources.iter().find(|row| row.schema == name)?;
    Some((row, row.strategy.custom()?))
}

fn list_schema(item: &str) -> Value {
    let kind = item.rsplit('.').next().unwrap_or(item);
    let types = custom::type_members();
    json!({
        "description": format!("{kind}List is a list of {kind} objects."),
        "type": "object",
        "properties": {
            "apiVersion": types.get("apiVersion"),
            "kind": types.get("kind"),
            "metadata": {
                "$ref": format!("{REFERENCE_PREFIX}{LIST_META}"),
                "description": "The list's resourceVersion, and where to continue.",
            },
            "items": {
                "type": "array",
                "description": format!("The {kind} objects."),
                "items": reference(Dialect::V3, item),
            },
        },
        "required": ["items"],
    })
}

// === marking ===

/// Adds `x-kubernetes-group-version-kind`, by which clients find the schema of a kind.
fn mark_kinds(schemas: &mut Map<String, Value>, resources: &Resources, operations: &[Operation]) {
    let mut mark = |schema: &str, group: &str, version: &str, kind: &str| {
        let Some(Value::Object(schema)) = schemas.get_mut(schema) else { return };
        let mark = json!({"group": group, "version": version, "kind": kind});
        let marks = schema.entry("x-kubernetes-group-version-kind").or_insert_with(|| json!([]));
        if let Value::Array(marks) = marks
            && !marks.contains(&mark)
        {
            marks.push(mark);
        }
    };
    for row in resources.iter() {
        mark(&row.schema, &row.group, &row.version, &row.kind);
        mark(&format!("{}List", row.schema), &row.group, &row.version, &row.list_kind());
        // Options are understood in every version. Those of custom kinds, which come and go, would
        // change the documents of all others.
        if row.strategy.custom().is_none() {
            mark(operations::DELETE_OPTIONS, &row.group, &row.version, "DeleteOptions");
        }
    }
    mark(operations::STATUS, "", "v1", "Status");
    mark(operations::RESOURCE_LIST, "", "v1", "APIResourceList");
    for operation in operations {
        if let Answer::Object(schema) = &operation.answer
            && schema.ends_with(&format!(".{}", operation.kind.kind))
        {
            mark(schema, &operation.kind.group, &operation.kind.version, &operation.kind.kind);
        }
    }
}

// === translation ===

fn translate_definition(name: &str, schema: &mut Value, dialect: Dialect) {
    match (name, dialect) {
        (INT_OR_STRING, Dialect::V2) => plain(schema, &[("type", json!("string"))]),
        (INT_OR_STRING, Dialect::V3) => {
            plain(schema, &[("oneOf", json!([{"type": "integer"}, {"type": "string"}]))]);
        }
        (QUANTITY, Dialect::V2) => plain(schema, &[("type", json!("string"))]),
        (QUANTITY, Dialect::V3) => {
            plain(schema, &[("oneOf", json!([{"type": "string"}, {"type": "number"}]))]);
        }
        _ => {}
    }
    if name == INT_OR_STRING {
        schema["format"] = "int-or-string".into();
    }
    if is_any_json(name) {
        plain(schema, &[]);
    }
    translate(schema, dialect);
}

/// Types of CustomResourceDefinition that hold JSON of more than one shape.
fn is_any_json(name: &str) -> bool {
    let package = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.";
    let kind = name.strip_prefix(package).and_then(|name| name.split_once('.'));
    matches!(
        kind.map(|(_, kind)| kind),
        Some(
            "JSON"
                | "JSONSchemaPropsOrArray"
                | "JSONSchemaPropsOrBool"
                | "JSONSchemaPropsOrStringArray"
        )
    )
}

/// Leaves of a schema only its description, and these.
fn plain(schema: &mut Value, fields: &[(&str, Value)]) {
    let Value::Object(schema) = schema else { return };
    schema.retain(|name, _| name == "description");
    schema.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
}

/// Rewrites references as the dialect has them, in `schema` and all schemas in it.
fn translate(schema: &mut Value, dialect: Dialect) {
    let Value::Object(fields) = schema else { return };
    if let Some(name) = fields
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|name| name.strip_prefix(REFERENCE_PREFIX))
    {
        let reference = self::reference(dialect, name);
        fields.remove("$ref");
        match (dialect, reference) {
            // In OpenAPI 3.0 a reference has no siblings.
            (Dialect::V3, reference) if !fields.is_empty() => {
                fields.insert("allOf".into(), json!([reference]));
            }
            (_, reference) => _ = fields.insert("$ref".into(), reference["$ref"].clone()),
        }
        return;
    }
    for name in ["items", "additionalProperties"] {
        if let Some(inner) = fields.get_mut(name) {
            translate(inner, dialect);
        }
    }
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        for property in properties.values_mut() {
            translate(property, dialect);
        }
    }
}
