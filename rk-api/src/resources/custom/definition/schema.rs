//! What the schema of a definition may say (apiextensions' `validation.go`, from
//! `validateCustomResourceDefinitionValidation` on).

use std::collections::BTreeSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinitionSpec, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::{Value, json};

use super::{any, defaults, field_path, spec::Leniency, structural, walk};
use crate::{
    cel::rules::Rules,
    field::{FieldError, Path},
    resources::{
        check::{Errors, list, text},
        custom::{
            formats::Format,
            schema::{Kind, properties},
        },
    },
};

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
const RULE_REASONS: &[&str] =
    &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
/// What every object has, whose schema is not a definition's concern.
const META: [&str; 3] = ["metadata", "kind", "apiVersion"];

/// What is wrong with the schema of a version.
pub(super) fn validate(
    errors: &mut Errors,
    schema: &JSONSchemaProps,
    version: &str,
    has_status: bool,
    must_be_structural: bool,
    leniency: &Leniency,
    path: &Path,
) {
    if has_status {
        root_with_status(errors, schema, path);
    }
    if schema.nullable == Some(true) {
        errors.forbidden(&path.child("nullable"), "nullable cannot be true at the root");
    }
    let before = errors.0.len();
    if must_be_structural {
        let wrong = structural::validate(schema, path);
        if wrong.is_empty() {
            defaults::validate(errors, schema, path);
        }
        errors.extend(wrong);
    }
    let judge = Judge { leniency, in_meta: false, no_defaults: None };
    judge.schema(errors, schema, true, path);
    let has_rules = |schema: &JSONSchemaProps| !list(&schema.x_kubernetes_validations).is_empty();
    // Expressions about a schema that is none would only be misunderstood.
    if must_be_structural && errors.0.len() == before && any(schema, has_rules) {
        let forgiven = leniency.unchanged.contains(version);
        errors.extend(Rules::compile(&json!(schema), path, forgiven).1);
    }
}

/// With a status of its own, an object's schema is taken apart at the root: what reaches over
/// several members would be lost.
fn root_with_status(errors: &mut Errors, schema: &JSONSchemaProps, path: &Path) {
    if let Some(kind) = schema.type_.as_deref().filter(|kind| !["", "object"].contains(kind)) {
        let detail = "only \"object\" is allowed as the type at the root of the schema if the \
                      status subresource is enabled";
        errors.invalid(&path.child("type"), kind, detail);
        return;
    }
    let is_set = |list: &Option<Vec<JSONSchemaProps>>| list.as_ref().is_some_and(|l| !l.is_empty());
    let refused = schema.id.is_some()
        || schema.schema.is_some()
        || schema.ref_path.is_some()
        || schema.default.is_some()
        || !list(&schema.enum_).is_empty()
        || schema.max_properties.is_some()
        || schema.min_properties.is_some()
        || [&schema.all_of, &schema.any_of, &schema.one_of].into_iter().any(is_set)
        || schema.not.is_some()
        || schema.additional_properties.is_some()
        || schema.nullable == Some(true)
        || schema.x_kubernetes_embedded_resource == Some(true)
        || schema.x_kubernetes_int_or_string == Some(true)
        || schema.x_kubernetes_list_type.is_some()
        || schema.x_kubernetes_map_type.is_some();
    if refused {
        let detail = "only [Description Type Format Title Maximum ExclusiveMaximum Minimum \
                      ExclusiveMinimum MaxLength MinLength Pattern MaxItems MinItems UniqueItems \
                      MultipleOf Required Items Properties ExternalDocs Example \
                      XPreserveUnknownFields XValidations] fields are allowed at the root of the \
                      schema if the status subresource is enabled";
        errors.invalid(path, json!(schema), detail);
    }
}

/// Judges a schema and those within it.
#[derive(Clone, Copy)]
struct Judge<'a> {
    leniency: &'a Leniency,
    /// Whether this is about the metadata of a resource.
    in_meta: bool,
    /// Why there may be no defaults.
    no_defaults: Option<&'a str>,
}

impl Judge<'_> {
    fn schema(self, errors: &mut Errors, schema: &JSONSchemaProps, is_root: bool, path: &Path) {
        self.supported(errors, schema, path);
        if schema.unique_items == Some(true) {
            let detail =
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            errors.forbidden(&path.child("uniqueItems"), detail);
        }
        self.members(errors, schema, is_root, path);
        for (name, list) in
            [("allOf", &schema.all_of), ("oneOf", &schema.one_of), ("anyOf", &schema.any_of)]
        {
            if name == "allOf"
                && let Some(not) = &schema.not
            {
                self.schema(errors, not, false, &path.child("not"));
            }
            for (index, schema) in list.iter().flatten().enumerate() {
                self.schema(errors, schema, false, &path.child(name).index(index));
            }
        }
        match &schema.items {
            Some(JSONSchemaPropsOrArray::Schema(items)) => {
                self.schema(errors, items, false, &path.child("items"));
            }
            Some(JSONSchemaPropsOrArray::Schemas(items)) => {
                for (index, schema) in items.iter().enumerate() {
                    self.schema(errors, schema, false, &path.child("items").index(index));
                }
            }
            None => {}
        }
        extensions(errors, schema, self.leniency, path);
        rules(errors, schema, path);
    }

    /// What no schema of a definition may use.
    fn supported(self, errors: &mut Errors, schema: &JSONSchemaProps, path: &Path) {
        if !self.leniency.odd_types && has_odd_type(schema) {
            let error = FieldError::not_supported(&path.child("type"), text(&schema.type_), TYPES);
            errors.push(error);
        }
        if let (Some(why), Some(_)) = (self.no_defaults, &schema.default) {
            errors.forbidden(&path.child("default"), &format!("must not be set {why}"));
        }
        for (name, is_used) in [
            ("id", schema.id.as_deref().is_some_and(|id| !id.is_empty())),
            ("additionalItems", schema.additional_items.is_some()),
            (
                "patternProperties",
                schema.pattern_properties.as_ref().is_some_and(|m| !m.is_empty()),
            ),
            ("definitions", schema.definitions.as_ref().is_some_and(|m| !m.is_empty())),
            ("dependencies", schema.dependencies.is_some()),
            ("$ref", schema.ref_path.is_some()),
        ] {
            if is_used {
                errors.forbidden(&path.child(name), &format!("{name} is not supported"));
            }
        }
        if schema.type_.as_deref() == Some("null") {
            let detail = "type cannot be set to null, use nullable as an alternative";
            errors.forbidden(&path.child("type"), detail);
        }
        if let Some(JSONSchemaPropsOrArray::Schemas(items)) = &schema.items
            && !items.is_empty()
        {
            let detail = "items must be a schema object and not an array";
            errors.forbidden(&path.child("items"), detail);
        }
        if self.in_meta && schema.x_kubernetes_embedded_resource == Some(true) {
            let detail = "must not be used inside of resource meta";
            errors.forbidden(&path.child("x-kubernetes-embedded-resource"), detail);
        }
    }

    fn members(self, errors: &mut Errors, schema: &JSONSchemaProps, is_root: bool, path: &Path) {
        if let Some(additional) = &schema.additional_properties {
            let at = path.child("additionalProperties");
            if properties(schema).next().is_some()
                && *additional != JSONSchemaPropsOrBool::Bool(true)
            {
                let detail = "additionalProperties and properties are mutual exclusive";
                errors.forbidden(&at, detail);
            }
            if let JSONSchemaPropsOrBool::Schema(schema) = additional {
                let why = "inside additionalProperties applying to object metadata";
                let judge = match self.in_meta {
                    true => Self { no_defaults: Some(why), ..self },
                    false => self,
                };
                judge.schema(errors, schema, false, &at);
            }
        }
        let embedded = schema.x_kubernetes_embedded_resource == Some(true);
        for (name, property) in properties(schema) {
            let in_meta = self.in_meta || (is_root || embedded) && META.contains(&name);
            let why = format!("in top-level {name}");
            let no_defaults = match is_root && META.contains(&name) {
                true => Some(why.as_str()),
                false => self.no_defaults,
            };
            let judge = Judge { leniency: self.leniency, in_meta, no_defaults };
            judge.schema(errors, property, false, &path.child("properties").key(name));
        }
    }
}

/// Whether the type is none of OpenAPI's.
pub(super) fn has_odd_type(schema: &JSONSchemaProps) -> bool {
    schema.type_.as_deref().is_some_and(|kind| !kind.is_empty() && !TYPES.contains(&kind))
}

/// Whether sets and maps are made of what they should not be.
pub(super) fn has_odd_list(schema: &JSONSchemaProps) -> bool {
    let mut errors = Errors::default();
    set_items(&mut errors, schema, &Path::root());
    map_keys(&mut errors, schema, &Path::root());
    !errors.0.is_empty()
}

/// Whether it uses what only structural schemas have.
pub(super) fn has_extensions(schema: &JSONSchemaProps) -> bool {
    schema.x_kubernetes_embedded_resource == Some(true)
        || schema.x_kubernetes_preserve_unknown_fields.is_some()
        || schema.x_kubernetes_int_or_string == Some(true)
        || !list(&schema.x_kubernetes_list_map_keys).is_empty()
        || schema.x_kubernetes_list_type.is_some()
        || !list(&schema.x_kubernetes_validations).is_empty()
}

fn items(schema: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match &schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => Some(items),
        _ => None,
    }
}

/// A type that an extension goes with.
fn has_type(errors: &mut Errors, schema: &JSONSchemaProps, wanted: &str, with: &str, path: &Path) {
    let detail = format!("must be {wanted} if {with} is specified");
    match text(&schema.type_) {
        found if found == wanted => {}
        "" => errors.required(&path.child("type"), &detail),
        found => errors.invalid(&path.child("type"), found, detail),
    }
}

fn extensions(errors: &mut Errors, schema: &JSONSchemaProps, leniency: &Leniency, path: &Path) {
    if schema.x_kubernetes_preserve_unknown_fields == Some(false) {
        let at = path.child("x-kubernetes-preserve-unknown-fields");
        errors.invalid(&at, false, "must be true or undefined");
    }
    if let Some(map_type) = schema.x_kubernetes_map_type.as_deref() {
        has_type(errors, schema, "object", "x-kubernetes-map-type", path);
        errors.one_of(&path.child("x-kubernetes-map-type"), map_type, &["atomic", "granular"]);
    }
    let list_type = schema.x_kubernetes_list_type.as_deref();
    if list_type.is_some() && schema.type_.as_deref() != Some("array") {
        has_type(errors, schema, "array", "x-kubernetes-list-type", path);
    } else if !leniency.odd_lists {
        set_items(errors, schema, path);
    }
    let at = path.child("x-kubernetes-list-type");
    if let Some(list_type) = list_type {
        errors.one_of(&at, list_type, &["atomic", "set", "map"]);
    }
    if !list(&schema.x_kubernetes_list_map_keys).is_empty() {
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        match list_type {
            None => errors.required(&at, detail),
            Some("map") => {}
            Some(other) => errors.invalid(&at, other, detail),
        }
    }
    if list_type == Some("map") {
        map_items(errors, schema, path);
    }
    if !leniency.odd_lists {
        map_keys(errors, schema, path);
    }
}

/// Items of a set are compared as a whole.
fn set_items(errors: &mut Errors, schema: &JSONSchemaProps, path: &Path) {
    let Some(items) = items(schema) else { return };
    if schema.x_kubernetes_list_type.as_deref() != Some("set") {
        return;
    }
    let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let found = json!(items.x_kubernetes_list_type);
    match text(&items.type_) {
        "array" if !matches!(items.x_kubernetes_list_type.as_deref(), None | Some("atomic")) => {
            errors.invalid(&path.child("items.x-kubernetes-list-type"), found, detail);
        }
        "object" if items.x_kubernetes_map_type.as_deref() != Some("atomic") => {
            errors.invalid(&path.child("items.x-kubernetes-map-type"), found, detail);
        }
        _ => {}
    }
}

fn map_items(errors: &mut Errors, schema: &JSONSchemaProps, path: &Path) {
    let keys = list(&schema.x_kubernetes_list_map_keys);
    let at_keys = path.child("x-kubernetes-list-map-keys");
    if keys.is_empty() {
        let detail = "must not be empty if x-kubernetes-list-type is map";
        errors.required(&at_keys, detail);
    }
    let items = match &schema.items {
        None => {
            let detail = "must have a schema if x-kubernetes-list-type is map";
            return errors.required(&path.child("items"), detail);
        }
        Some(JSONSchemaPropsOrArray::Schemas(_)) => {
            let detail = "must only have a single schema if x-kubernetes-list-type is map";
            return errors.invalid(&path.child("items"), json!(schema.items), detail);
        }
        Some(JSONSchemaPropsOrArray::Schema(items)) => items,
    };
    if items.type_.as_deref() != Some("object") {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        return errors.invalid(&path.child("items.type"), text(&items.type_), detail);
    }
    let mut seen = BTreeSet::new();
    for key in keys {
        match properties(items).find(|(name, _)| name == key) {
            None => {
                let detail = "entries must all be names of item properties";
                errors.invalid(&at_keys, json!(keys), detail);
            }
            Some((name, property)) => {
                if matches!(text(&property.type_), "array" | "object") {
                    let detail =
                        "must be a scalar type if parent array's x-kubernetes-list-type is map";
                    let at = path.child("items.properties").key(name);
                    errors.invalid(&at.child("type"), text(&items.type_), detail);
                }
            }
        }
        if !seen.insert(key) {
            errors.invalid(&at_keys, json!(keys), "must not contain duplicate entries");
        }
    }
}

/// Items of sets and maps are there, and so are the keys of the latter.
fn map_keys(errors: &mut Errors, schema: &JSONSchemaProps, path: &Path) {
    let Some(items) = items(schema) else { return };
    let list_type = schema.x_kubernetes_list_type.as_deref();
    let Some(list_type @ ("set" | "map")) = list_type else { return };
    if items.nullable == Some(true) {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        errors.forbidden(&path.child("items.nullable"), &detail);
    }
    if list_type == "set" {
        return;
    }
    for key in list(&schema.x_kubernetes_list_map_keys) {
        let Some((name, property)) = properties(items).find(|(name, _)| name == key) else {
            continue;
        };
        let at = path.child("items.properties").key(name);
        if !list(&items.required).contains(key) && property.default.is_none() {
            let detail = "this property is in x-kubernetes-list-map-keys, so it must have a \
                          default or be a required property";
            errors.required(&at.child("default"), detail);
        }
        if property.nullable == Some(true) {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.forbidden(&at.child("nullable"), detail);
        }
    }
}

/// What is wrong with rules, apart from their expressions.
fn rules(errors: &mut Errors, schema: &JSONSchemaProps, path: &Path) {
    let breaks = |text: &str| text.contains(['\n', '\r']);
    for (index, rule) in list(&schema.x_kubernetes_validations).iter().enumerate() {
        let at = path.child("x-kubernetes-validations").index(index);
        let (message, expression) = (text(&rule.message), text(&rule.message_expression));
        if rule.rule.trim().is_empty() {
            errors.required(&at.child("rule"), "rule is not specified");
        } else if !message.is_empty() && message.trim().is_empty() {
            errors.invalid(&at.child("message"), message, "must be non-empty if specified");
        } else if breaks(message.trim()) {
            errors.invalid(&at.child("message"), message, "must not contain line breaks");
        } else if breaks(rule.rule.trim()) && message.trim().is_empty() {
            let detail = "message must be specified if rule contains line breaks";
            errors.required(&at.child("message"), detail);
        }
        if !expression.is_empty() && expression.trim().is_empty() {
            let detail = "messageExpression must be non-empty if specified";
            errors.required(&at.child("messageExpression"), detail);
        }
        if let Some(reason) = rule.reason.as_deref() {
            errors.one_of(&at.child("reason"), reason, RULE_REASONS);
        }
        let (field, at) = (text(&rule.field_path), at.child("fieldPath"));
        if field.is_empty() {
            continue;
        }
        if field.trim().is_empty() {
            errors.invalid(&at, field, "must be non-empty if specified");
        }
        if breaks(field) {
            errors.invalid(&at, field, "must not contain line breaks");
        }
        if field_path::resolve(field, schema, true).is_err() {
            errors.invalid(&at, field, "must be a valid path");
        }
    }
}

/// What clients are told who write such a definition.
pub(super) fn warnings(spec: &CustomResourceDefinitionSpec) -> Vec<String> {
    let (mut formats, mut sets) = (Vec::new(), BTreeSet::new());
    let schemas = spec.versions.iter().filter_map(|version| version.schema.as_ref());
    for schema in schemas.filter_map(|schema| schema.open_api_v3_schema.as_ref()) {
        walk(schema, &mut |schema| {
            let kind = schema.type_.as_deref().and_then(Kind::parse);
            if let Some(format) = schema.format.as_deref().filter(|format| !format.is_empty())
                && Format::of(format, kind).is_none()
            {
                formats.push(format!("unrecognized format {}", Value::from(format)));
            }
            if let Some(kind @ ("object" | "array")) = items(schema).map(|it| text(&it.type_))
                && schema.x_kubernetes_list_type.as_deref() == Some("set")
            {
                sets.insert(format!(
                    "x-kubernetes-list-type: set for items of type {kind:?} is not supported by \
                     server-side apply or CEL validation rules"
                ));
            }
        });
    }
    formats.extend(sets);
    formats
}
