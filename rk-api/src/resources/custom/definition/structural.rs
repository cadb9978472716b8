//! Structural schemas (KEP-1693): the shape of an object is said once, outside of all combinations,
//! and these only restrict values.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

use crate::{
    cel::regex,
    field::{ErrorList, FieldError, Path},
    resources::{
        check::{Errors, list, text},
        custom::schema::properties,
    },
};

/// Where a schema stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// What is not structural about a schema, sorted by what it says.
pub(super) fn validate(schema: &JSONSchemaProps, path: &Path) -> ErrorList {
    let mut errors = Errors::default();
    invariants(&mut errors, schema, Level::Root, path);
    complete(&mut errors, schema, Some(schema), path, path);
    let mut errors = errors.0;
    errors.sort_by_cached_key(FieldError::to_string);
    errors
}

/// Whether a schema is not structural.
pub(super) fn is_wrong(schema: &JSONSchemaProps) -> bool {
    !validate(schema, &Path::root()).is_empty()
}

fn items(schema: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match &schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => Some(items),
        _ => None,
    }
}

fn flag(flag: Option<bool>) -> bool {
    flag == Some(true)
}

// === invariants ===

fn invariants(errors: &mut Errors, schema: &JSONSchemaProps, level: Level, path: &Path) {
    let kind = text(&schema.type_);
    match items(schema) {
        Some(items) => invariants(errors, items, Level::Item, &path.child("items")),
        None if kind == "array" => errors.required(&path.child("items"), "must be specified"),
        None => {}
    }
    for (name, property) in properties(schema) {
        invariants(errors, property, Level::Field, &path.child("properties").key(name));
    }
    if let Some(additional) = &schema.additional_properties {
        let at = path.child("additionalProperties");
        if level == Level::Root {
            errors.forbidden(&at, "must not be used at the root");
        }
        if let JSONSchemaPropsOrBool::Schema(values) = additional {
            invariants(errors, values, Level::Field, &at);
        }
    }
    let is_resource = flag(schema.x_kubernetes_embedded_resource);
    let int_or_string = flag(schema.x_kubernetes_int_or_string);
    let preserves = flag(schema.x_kubernetes_preserve_unknown_fields);
    if int_or_string && preserves {
        let at = path.child("x-kubernetes-preserve-unknown-fields");
        errors.invalid(&at, true, "must be false if x-kubernetes-int-or-string is true");
    }
    if int_or_string && is_resource {
        let at = path.child("x-kubernetes-embedded-resource");
        errors.invalid(&at, true, "must be false if x-kubernetes-int-or-string is true");
    }
    let skips_any_of = is_int_or_string(list(&schema.any_of));
    let first = list(&schema.all_of).first();
    let skips_first = first.is_some_and(|first| is_int_or_string(list(&first.any_of)));
    restrictions(errors, schema, skips_any_of, skips_first, path);
    let at_type = path.child("type");
    if is_resource && kind != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        match kind {
            "" => errors.required(&at_type, detail),
            kind => errors.invalid(&at_type, kind, detail),
        }
    } else if kind.is_empty() && !int_or_string && !preserves {
        errors.required(
            &at_type,
            match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            },
        );
    }
    if is_resource && schema.additional_properties.is_some() {
        let detail = "must not be used if x-kubernetes-embedded-resource is set";
        errors.forbidden(&path.child("additionalProperties"), detail);
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        errors.invalid(&at_type, kind, "must be object at the root");
    }
    metadata(errors, schema, level, is_resource, path);
    if is_resource && !preserves && properties(schema).next().is_none() {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without \
                      x-kubernetes-preserve-unknown-fields";
        errors.required(&path.child("properties"), detail);
    }
}

/// What is said of the type and the metadata of a resource: of the object's own, only its names can
/// be restricted.
fn metadata(
    errors: &mut Errors,
    schema: &JSONSchemaProps,
    level: Level,
    is_resource: bool,
    path: &Path,
) {
    let checks = level == Level::Root || is_resource;
    for (name, property) in properties(schema) {
        let at = path.child("properties").key(name);
        let kind = text(&property.type_);
        match name {
            "kind" | "apiVersion" if checks && kind != "string" => {
                errors.invalid(&at.child("type"), kind, "must be string");
            }
            "metadata" => {
                if checks && kind != "object" {
                    errors.invalid(&at.child("type"), kind, "must be object");
                }
                if level == Level::Root && restricts_more_than_names(property) {
                    let detail = "must not specify anything other than name and generateName, but \
                                  metadata is implicitly specified";
                    errors.forbidden(&at, detail);
                }
            }
            _ => {}
        }
    }
}

fn restricts_more_than_names(metadata: &JSONSchemaProps) -> bool {
    let names_alone =
        properties(metadata).all(|(name, _)| ["name", "generateName"].contains(&name));
    let rest = JSONSchemaProps {
        type_: None,
        default: None,
        properties: metadata.properties.clone().filter(|_| !names_alone),
        ..metadata.clone()
    };
    let empty = JSONSchemaProps::default();
    rest != empty
        && rest
            != JSONSchemaProps { properties: Some(BTreeMap::new()), ..JSONSchemaProps::default() }
}

/// `anyOf` an integer or a string, which says what `x-kubernetes-int-or-string` does.
fn is_int_or_string(any_of: &[JSONSchemaProps]) -> bool {
    let of =
        |kind: &str| JSONSchemaProps { type_: Some(kind.to_owned()), ..JSONSchemaProps::default() };
    any_of == [of("integer"), of("string")]
}

// === restrictions ===

fn restrictions(
    errors: &mut Errors,
    schema: &JSONSchemaProps,
    skips_any_of: bool,
    skips_any_of_in_first: bool,
    path: &Path,
) {
    if !skips_any_of {
        for (index, schema) in list(&schema.any_of).iter().enumerate() {
            nested(errors, schema, false, &path.child("anyOf").index(index));
        }
    }
    for (index, schema) in list(&schema.all_of).iter().enumerate() {
        let skips = skips_any_of_in_first && index == 0;
        nested(errors, schema, skips, &path.child("allOf").index(index));
    }
    for (index, schema) in list(&schema.one_of).iter().enumerate() {
        nested(errors, schema, false, &path.child("oneOf").index(index));
    }
    if let Some(not) = &schema.not {
        nested(errors, not, false, &path.child("not"));
    }
    let pattern = text(&schema.pattern);
    if !pattern.is_empty()
        && let Err(why) = regex::compile(pattern)
    {
        let detail = format!("must be a valid regular expression, but isn't: {why}");
        errors.invalid(&path.child("pattern"), pattern, detail);
    }
}

/// A schema within a combination: it restricts, and says nothing of the shape.
fn nested(errors: &mut Errors, schema: &JSONSchemaProps, skips_any_of: bool, path: &Path) {
    restrictions(errors, schema, skips_any_of, false, path);
    if let Some(items) = items(schema) {
        nested(errors, items, false, &path.child("items"));
    }
    for (name, property) in properties(schema) {
        nested(errors, property, false, &path.child("properties").key(name));
    }
    let (empty, undefined, no) = (
        "must be empty to be structural",
        "must be undefined to be structural",
        "must be false to be structural",
    );
    for (name, is_used, detail) in [
        ("type", !text(&schema.type_).is_empty(), empty),
        ("additionalProperties", schema.additional_properties.is_some(), undefined),
        ("default", schema.default.as_ref().is_some_and(|it| !it.0.is_null()), undefined),
        ("title", !text(&schema.title).is_empty(), empty),
        ("description", !text(&schema.description).is_empty(), empty),
        ("nullable", flag(schema.nullable), no),
        (
            "x-kubernetes-preserve-unknown-fields",
            flag(schema.x_kubernetes_preserve_unknown_fields),
            no,
        ),
        ("x-kubernetes-embedded-resource", flag(schema.x_kubernetes_embedded_resource), no),
        ("x-kubernetes-int-or-string", flag(schema.x_kubernetes_int_or_string), no),
        ("x-kubernetes-list-map-keys", !list(&schema.x_kubernetes_list_map_keys).is_empty(), empty),
        ("x-kubernetes-list-type", schema.x_kubernetes_list_type.is_some(), undefined),
        ("x-kubernetes-map-type", schema.x_kubernetes_map_type.is_some(), undefined),
        ("x-kubernetes-validations", !list(&schema.x_kubernetes_validations).is_empty(), empty),
    ] {
        if is_used {
            errors.forbidden(&path.child(name), detail);
        }
    }
    if properties(schema).any(|(name, _)| name == "metadata") {
        let at = path.child("properties").key("metadata");
        errors.forbidden(&at, "must not be specified in a nested context");
    }
}

// === completeness ===

/// What combinations speak of is part of the shape: `shape` is what stands where they do.
fn complete(
    errors: &mut Errors,
    restriction: &JSONSchemaProps,
    shape: Option<&JSONSchemaProps>,
    at_shape: &Path,
    path: &Path,
) {
    if let Some(not) = &restriction.not {
        complete_nested(errors, not, shape, at_shape, &path.child("not"));
    }
    for (name, schemas) in [
        ("allOf", &restriction.all_of),
        ("anyOf", &restriction.any_of),
        ("oneOf", &restriction.one_of),
    ] {
        for (index, schema) in schemas.iter().flatten().enumerate() {
            complete_nested(errors, schema, shape, at_shape, &path.child(name).index(index));
        }
    }
}

fn complete_nested(
    errors: &mut Errors,
    restriction: &JSONSchemaProps,
    shape: Option<&JSONSchemaProps>,
    at_shape: &Path,
    path: &Path,
) {
    let Some(shape) = shape else {
        errors.required(at_shape, &format!("because it is defined in {path}"));
        return;
    };
    complete(errors, restriction, Some(shape), at_shape, path);
    if let Some(inner) = items(restriction) {
        let (at_shape, path) = (at_shape.child("items"), path.child("items"));
        complete_nested(errors, inner, items(shape), &at_shape, &path);
    }
    for (name, property) in properties(restriction) {
        let (at_shape, path) =
            (at_shape.child("properties").key(name), path.child("properties").key(name));
        let known = properties(shape).find(|(known, _)| *known == name);
        complete_nested(errors, property, known.map(|(_, schema)| schema), &at_shape, &path);
    }
}
