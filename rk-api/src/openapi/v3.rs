//! OpenAPI 3.0 documents.

use serde_json::{Map, Value, json};

use super::{
    operations::{Answer, Body, Operation, PATCH},
    parameters::Parameter,
    schemas::{Dialect, reference},
};

/// The document of one group version.
pub(super) fn document(operations: &[Operation], schemas: Map<String, Value>) -> Value {
    let mut paths = Map::new();
    for operation in operations {
        let path = paths.entry(&operation.path).or_insert_with(|| path_item(operation));
        path[operation.method] = describe(operation);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "BearerToken": {
                    "type": "apiKey",
                    "name": "authorization",
                    "in": "header",
                    "description": "Bearer token",
                },
            },
        },
    })
}

fn path_item(operation: &Operation) -> Value {
    if operation.path_parameters.is_empty() {
        return json!({});
    }
    let in_path = operation.path_parameters.iter().map(|each| parameter(each, "path"));
    json!({"parameters": in_path.collect::<Vec<_>>()})
}

fn describe(operation: &Operation) -> Value {
    let mut document = json!({
        "tags": [operation.tag],
        "description": operation.description,
        "operationId": operation.id,
        "responses": responses(operation),
    });
    if !operation.query_parameters.is_empty() {
        let in_query = operation.query_parameters.iter().map(|each| parameter(each, "query"));
        document["parameters"] = in_query.collect();
    }
    if let Some(body) = body(&operation.body) {
        document["requestBody"] = body;
    }
    if !operation.action.is_empty() {
        let kind = &operation.kind;
        document["x-kubernetes-action"] = operation.action.into();
        document["x-kubernetes-group-version-kind"] =
            json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    }
    document
}

fn parameter(parameter: &Parameter, place: &str) -> Value {
    let mut document = json!({
        "name": parameter.name,
        "in": place,
        "description": parameter.description,
        "schema": {"type": parameter.kind, "uniqueItems": true},
    });
    if place == "path" {
        document["required"] = true.into();
    }
    document
}

fn body(body: &Body) -> Option<Value> {
    let (name, media_types, required): (&str, &[&str], bool) = match body {
        Body::Nothing => return None,
        Body::Object(name) => (name, &["*/*"], true),
        Body::Options(name) => (name, &["*/*"], false),
        Body::Patch(media_types) => (PATCH, media_types, true),
    };
    let mut document = json!({"content": content(media_types, &reference(Dialect::V3, name))});
    if required {
        document["required"] = true.into();
    }
    Some(document)
}

fn responses(operation: &Operation) -> Value {
    let (schema, media_types): (_, &[&str]) = match &operation.answer {
        Answer::Object(name) => {
            (reference(Dialect::V3, name), &["application/json", "application/yaml"])
        }
        Answer::List(name) => (
            reference(Dialect::V3, name),
            &["application/json", "application/json;stream=watch", "application/yaml"],
        ),
        Answer::Text => (json!({"type": "string"}), &["*/*"]),
    };
    let mut responses = json!({"401": {"description": "Unauthorized"}});
    for code in operation.codes {
        responses[code.to_string()] = json!({"description": super::status_text(*code), "content": content(media_types, &schema)});
    }
    responses
}

fn content(media_types: &[&str], schema: &Value) -> Value {
    media_types
        .iter()
        .map(|media_type| ((*media_type).to_owned(), json!({"schema": schema})))
        .collect()
}
