use std::collections::BTreeSet;

use super::*;
use crate::schema::{ListType, graph};

/// Every reference in a document.
fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                found.push(reference);
            }
            fields.values().for_each(|field| references(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[track_caller]
fn all_references_resolve(document: &Value) {
    let mut found = Vec::new();
    references(document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference}"));
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[test]
fn every_reference_of_every_document_resolves() {
    let resources = Resources::builtin();
    for (group, version) in group_versions(&resources).into_values() {
        all_references_resolve(&v3(&resources, &group, &version).unwrap());
    }
    all_references_resolve(&v2(&resources));
}

#[test]
fn every_kind_has_paths_and_a_schema_that_is_marked_as_its_own() {
    let resources = Resources::builtin();
    let swagger = v2(&resources);
    for row in resources.iter() {
        let document = v3(&resources, &row.group, &row.version).unwrap();
        let kind = json!({"group": row.group, "version": row.version, "kind": row.kind});
        for schemas in [&document["components"]["schemas"], &swagger["definitions"]] {
            let schema = &schemas[row.schema.as_ref()];
            let marks = schema["x-kubernetes-group-version-kind"].as_array().unwrap();
            assert!(marks.contains(&kind), "{}", row.schema);
        }
        for paths in [&document["paths"], &swagger["paths"]] {
            let operations = paths
                .as_object()
                .unwrap()
                .values()
                .flat_map(|path| path.as_object().unwrap().values());
            let of_kind = operations
                .filter(|each| each.get("x-kubernetes-group-version-kind") == Some(&kind));
            assert!(of_kind.count() > 0, "{}", row.qualified());
        }
    }
}

#[test]
fn patching_takes_dry_run_and_field_validation() {
    let resources = Resources::builtin();
    for row in resources.iter().filter(|row| row.verbs.iter().any(|verb| verb == "patch")) {
        let document = v3(&resources, &row.group, &row.version).unwrap();
        let kind = json!({"group": row.group, "version": row.version, "kind": row.kind});
        let paths = document["paths"].as_object().unwrap().values();
        let patches: Vec<_> = paths
            .filter_map(|path| path.get("patch"))
            .filter(|patch| patch["x-kubernetes-group-version-kind"] == kind)
            .collect();
        assert!(!patches.is_empty(), "{}", row.qualified());
        for patch in patches {
            let parameters = patch["parameters"].as_array().unwrap();
            for name in ["dryRun", "fieldValidation", "fieldManager", "force"] {
                assert!(parameters.iter().any(|parameter| parameter["name"] == name));
            }
            let content = &patch["requestBody"]["content"];
            assert!(content.get("application/strategic-merge-patch+json").is_some());
        }
    }
}

/// Follows fields from a kind's schema, as `kubectl explain` does.
fn explain<'a>(document: &'a Value, schema: &str, path: &[&str]) -> &'a Value {
    let resolve = |schema: &'a Value| -> &'a Value {
        let schema = schema.pointer("/allOf/0").unwrap_or(schema);
        match schema.get("$ref").and_then(Value::as_str) {
            Some(reference) => document.pointer(&reference[1..]).unwrap(),
            None => schema,
        }
    };
    let mut place = &document["components"]["schemas"][schema];
    for field in path {
        let field = &place["properties"][field];
        place = resolve(field);
        if let Some(items) = place.get("items").or_else(|| place.get("additionalProperties")) {
            place = resolve(items);
        }
    }
    place
}

#[test]
fn fields_can_be_explained() {
    let document = v3(&Resources::builtin(), "", "v1").unwrap();
    let pod = "io.k8s.api.core.v1.Pod";

    let container = explain(&document, pod, &["spec", "containers"]);
    assert!(container["properties"]["image"]["description"].as_str().unwrap().contains("image"));
    assert_eq!(container["required"], json!(["name"]));
    let choices = &container["properties"]["imagePullPolicy"]["enum"];
    assert_eq!(choices, &json!(["Always", "IfNotPresent", "Never"]));

    let quantity = explain(&document, pod, &["spec", "containers", "resources", "limits"]);
    assert_eq!(quantity["oneOf"], json!([{"type": "string"}, {"type": "number"}]));
    let port = explain(&document, pod, &["spec", "containers", "livenessProbe", "httpGet", "port"]);
    assert_eq!(port["format"], "int-or-string");
}

/// The schemas of a document, in either dialect.
fn schemas(document: &Value) -> &Map<String, Value> {
    let schemas = document.pointer("/components/schemas").or_else(|| document.get("definitions"));
    schemas.unwrap().as_object().unwrap()
}

#[test]
fn every_field_of_every_kind_can_be_explained() {
    let resources = Resources::builtin();
    let mut lacking = BTreeSet::new();
    for (group, version) in group_versions(&resources).into_values() {
        let document = v3(&resources, &group, &version).unwrap();
        let schemas = schemas(&document);
        let rows = resources.iter().filter(|row| row.group == group && row.version == version);
        for row in rows {
            let schema = &schemas[row.schema.as_ref()];
            let fields = schema["properties"].as_object().map_or(0, Map::len);
            if schema["description"].as_str().is_none_or(str::is_empty) || fields < 3 {
                lacking.insert(row.qualified());
            }
        }
        // Nobody ever described what a schema of a definition consists of.
        let bare = |name: &str| {
            ["JSONSchemaProps", "ExternalDocumentation"].iter().any(|it| name.ends_with(it))
        };
        for (name, schema) in schemas.iter().filter(|(name, _)| !bare(name)) {
            for (field, property) in schema["properties"].as_object().into_iter().flatten() {
                // A reference alone is described by what it refers to.
                let target = property["$ref"].as_str().and_then(|it| it.strip_prefix('#'));
                let described = target.map_or(property, |at| document.pointer(at).unwrap());
                if described["description"].as_str().is_none_or(str::is_empty) {
                    lacking.insert(format!("{name}.{field}"));
                }
            }
        }
    }
    assert_eq!(lacking, BTreeSet::new());
}

#[test]
fn every_list_and_map_says_how_it_merges() {
    let resources = Resources::builtin();
    let documents = group_versions(&resources)
        .into_values()
        .map(|(group, version)| v3(&resources, &group, &version).unwrap())
        .chain([v2(&resources)]);
    let mut merging = 0;
    for document in documents {
        for (name, schema) in schemas(&document) {
            let Some(definition) = graph().get(name) else { continue };
            assert_eq!(definition.atomic, schema["x-kubernetes-map-type"] == "atomic", "{name}");
            for (field, property) in schema["properties"].as_object().into_iter().flatten() {
                let merge = &definition.field(field).unwrap().merge;
                let says = |name: &str| property.get(format!("x-kubernetes-{name}"));
                let list_type = match merge.list_type {
                    Some(ListType::Atomic) => Some("atomic"),
                    Some(ListType::Set) => Some("set"),
                    Some(ListType::Map) => Some("map"),
                    None => None,
                };
                let text = |name: &str| says(name).and_then(Value::as_str);
                assert_eq!(text("list-type"), list_type, "{name}.{field}");
                let keys = says("list-map-keys").cloned().unwrap_or(json!([]));
                assert_eq!(keys, json!(merge.list_map_keys), "{name}.{field}");
                assert_eq!(text("map-type"), merge.map_type.as_deref(), "{name}.{field}");
                let key = merge.patch_merge_key.as_deref();
                assert_eq!(text("patch-merge-key"), key, "{name}.{field}");
                let strategies: Vec<_> =
                    text("patch-strategy").into_iter().flat_map(|it| it.split(',')).collect();
                assert_eq!(strategies.contains(&"merge"), merge.merges(), "{name}.{field}");
                assert_eq!(strategies.contains(&"replace"), merge.replaces(), "{name}.{field}");
                merging += usize::from(merge.list_type.is_some());
            }
        }
    }
    assert!(merging > 1000, "{merging}");
}

#[test]
fn lists_say_how_they_merge() {
    let document = v3(&Resources::builtin(), "", "v1").unwrap();
    let spec = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"];

    assert_eq!(spec["containers"]["x-kubernetes-list-type"], "map");
    assert_eq!(spec["containers"]["x-kubernetes-list-map-keys"], json!(["name"]));
    assert_eq!(spec["containers"]["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(spec["volumes"]["x-kubernetes-patch-strategy"], "merge,retainKeys");
    let reference = &document["components"]["schemas"]["io.k8s.api.core.v1.LocalObjectReference"];
    assert_eq!(reference["x-kubernetes-map-type"], "atomic");
}

#[test]
fn documents_are_the_same_each_time() {
    let (one, other) = (Documents::new(Resources::builtin()), Documents::new(Resources::builtin()));
    assert_eq!(one.v3_index().body, other.v3_index().body);
    assert_eq!(one.v2_json().hash, other.v2_json().hash);
    assert_eq!(one.v2_protobuf().etag(), other.v2_protobuf().etag());
}

#[test]
fn the_index_leads_to_every_document() {
    let documents = Documents::new(Resources::builtin());
    let index: Value = serde_json::from_slice(&documents.v3_index().body).unwrap();
    let paths = index["paths"].as_object().unwrap();
    assert!(paths.contains_key("api/v1") && paths.contains_key("apis/apps/v1"));
    for (path, entry) in paths {
        let document = documents.v3(path).unwrap();
        let url = format!("/openapi/v3/{path}?hash={}", document.hash);
        assert_eq!(entry["serverRelativeURL"], url);
    }
    assert!(documents.v3("apis/nope/v1").is_none());
}

#[test]
fn a_group_version_without_kinds_has_no_document() {
    assert_eq!(v3(&Resources::builtin(), "apps", "v7"), None);
}
