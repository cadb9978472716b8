//! The Swagger 2.0 document.

use serde_json::{Map, Value, json};

use super::{
    operations::{Answer, Body, Operation, PATCH},
    parameters::Parameter,
    schemas::{Dialect, reference},
};

/// A part of a document: members of its `paths` and `definitions`, as JSON without the braces.
#[derive(Debug)]
pub(super) struct Fragment {
    paths: String,
    definitions: String,
}

impl Fragment {
    /// The part that is about these operations.
    pub(super) fn of(operations: &[Operation], definitions: Map<String, Value>) -> Self {
        let members = |map: Map<String, Value>| {
            let mut json = Value::Object(map).to_string();
            json.pop();
            json.split_off(1.min(json.len()))
        };
        Self { paths: members(paths(operations)), definitions: members(definitions) }
    }
}

/// The document that has these parts, as JSON.
pub(super) fn assemble<'a>(fragments: impl Iterator<Item = &'a Fragment>) -> Vec<u8> {
    let (mut paths, mut definitions) = (Vec::new(), Vec::new());
    for fragment in fragments {
        paths.push(fragment.paths.as_str());
        definitions.push(fragment.definitions.as_str());
    }
    let mut members = Vec::new();
    if let Value::Object(shell) = document(&[], Map::new()) {
        for (name, value) in shell {
            let value = match name.as_str() {
                "paths" => braced(&paths),
                "definitions" => braced(&definitions),
                _ => value.to_string(),
            };
            members.push(format!("\"{name}\":{value}"));
        }
    }
    let members: Vec<_> = members.iter().map(String::as_str).collect();
    braced(&members).into_bytes()
}

fn braced(members: &[&str]) -> String {
    let members: Vec<_> = members.iter().copied().filter(|member| !member.is_empty()).collect();
    format!("{{{}}}", members.join(","))
}

fn paths(operations: &[Operation]) -> Map<String, Value> {
    let mut paths = Map::new();
    for operation in operations {
        let path = paths.entry(&operation.path).or_insert_with(|| path_item(operation));
        path[operation.method] = describe(operation);
    }
    paths
}

/// The document of all group versions.
pub(super) fn document(operations: &[Operation], definitions: Map<String, Value>) -> Value {
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths(operations),
        "definitions": definitions,
        "security": [{"BearerToken": []}],
        "securityDefinitions": {
            "BearerToken": {
                "type": "apiKey",
                "name": "authorization",
                "in": "header",
                "description": "Bearer token",
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
    let consumes: &[&str] = match operation.body {
        Body::Patch(media_types) => media_types,
        _ => &["*/*"],
    };
    let produces: &[&str] = match operation.answer {
        Answer::Object(_) => &["application/json", "application/yaml"],
        Answer::List(_) => {
            &["application/json", "application/yaml", "application/json;stream=watch"]
        }
        Answer::Text => &["*/*"],
    };
    let mut document = json!({
        "tags": [operation.tag],
        "description": operation.description,
        "operationId": operation.id,
        "consumes": consumes,
        "produces": produces,
        "schemes": ["https"],
        "responses": responses(operation),
    });
    let in_query = operation.query_parameters.iter().map(|each| parameter(each, "query"));
    let parameters: Vec<_> = body(&operation.body).into_iter().chain(in_query).collect();
    if !parameters.is_empty() {
        document["parameters"] = parameters.into();
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
        "type": parameter.kind,
        "uniqueItems": true,
    });
    if place == "path" {
        document["required"] = true.into();
    }
    document
}

fn body(body: &Body) -> Option<Value> {
    let (name, required): (&str, bool) = match body {
        Body::Nothing => return None,
        Body::Object(name) => (name, true),
        Body::Options(name) => (name, false),
        Body::Patch(_) => (PATCH, true),
    };
    let mut document =
        json!({"name": "body", "in": "body", "schema": reference(Dialect::V2, name)});
    if required {
        document["required"] = true.into();
    }
    Some(document)
}

fn responses(operation: &Operation) -> Value {
    let schema = match &operation.answer {
        Answer::Object(name) | Answer::List(name) => reference(Dialect::V2, name),
        Answer::Text => json!({"type": "string"}),
    };
    let mut responses = json!({"401": {"description": "Unauthorized"}});
    for code in operation.codes {
        responses[code.to_string()] =
            json!({"description": super::status_text(*code), "schema": schema});
    }
    responses
}
