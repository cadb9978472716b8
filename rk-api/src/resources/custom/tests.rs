//! Properties of pruning, defaulting and validation, over schemas and values that need not fit.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{defaults::default, prune::prune, schema::Schema, validate::validate};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-9..9).prop_map(Value::from),
        "[a-c]{0,2}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            members(inner).prop_map(Value::Object),
        ]
    })
}

fn members(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    let member = (prop::sample::select(&NAMES[..]), value);
    prop::collection::vec(member, 0..4).prop_map(|members| {
        members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    })
}

fn object() -> impl Strategy<Value = Map<String, Value>> {
    members(value())
}

/// A structural schema, with defaults that fit it.
fn schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({ "type": "string" })),
        Just(json!({ "type": "string", "default": "x", "maxLength": 1 })),
        Just(json!({ "type": "integer", "minimum": 0 })),
        Just(json!({ "type": "integer", "nullable": true })),
        Just(json!({ "type": "boolean", "default": true })),
        Just(json!({ "x-kubernetes-int-or-string": true })),
        Just(json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })),
    ];
    leaf.prop_recursive(3, 24, 3, |inner| {
        let properties =
            prop::collection::vec((prop::sample::select(&NAMES[..]), inner.clone()), 0..4);
        prop_oneof![
            inner.clone().prop_map(|items| json!({ "type": "array", "items": items })),
            inner.prop_map(|values| json!({ "type": "object", "additionalProperties": values })),
            (properties, any::<bool>()).prop_map(|(properties, preserves)| {
                let properties: Map<String, Value> = properties
                    .into_iter()
                    .map(|(name, schema)| (name.to_owned(), schema))
                    .collect();
                let mut schema = json!({ "type": "object", "properties": properties });
                if preserves {
                    schema["x-kubernetes-preserve-unknown-fields"] = true.into();
                }
                schema
            }),
        ]
    })
}

fn compiled(schema: &Value) -> Schema {
    let root = json!({ "type": "object", "properties": { "a": schema, "b": schema } });
    let props: JSONSchemaProps = serde_json::from_value(root).unwrap();
    Schema::compile(&props)
}

proptest! {
    #[test]
    fn pruning_twice_is_pruning_once(schema in schema(), object in object()) {
        let schema = compiled(&schema);
        let mut once = object;
        prune(&mut once, &schema);
        let mut twice = once.clone();
        prop_assert!(prune(&mut twice, &schema).is_empty());
        prop_assert_eq!(twice, once);
    }

    #[test]
    fn defaulting_twice_is_defaulting_once(schema in schema(), object in object()) {
        let schema = compiled(&schema);
        let mut once = object;
        default(&mut once, &schema);
        let mut twice = once.clone();
        prop_assert!(!default(&mut twice, &schema));
        prop_assert_eq!(twice, once);
    }

    #[test]
    fn unknown_fields_are_all_that_pruning_takes(schema in schema(), object in object()) {
        let schema = compiled(&schema);
        let mut pruned = object.clone();
        let unknown = prune(&mut pruned, &schema);
        prop_assert_eq!(unknown.is_empty(), pruned == object);
    }

    #[test]
    fn a_pruned_object_is_as_valid_as_it_was(schema in schema(), object in object()) {
        let schema = compiled(&schema);
        let before = validate(&Value::Object(object.clone()), None, &schema, "");
        let mut pruned = object;
        prune(&mut pruned, &schema);
        let after = validate(&Value::Object(pruned), None, &schema, "");
        prop_assert_eq!(after, before);
    }

    #[test]
    fn what_did_not_change_is_forgiven(schema in schema(), object in object()) {
        let schema = compiled(&schema);
        let object = Value::Object(object);
        prop_assert!(validate(&object, Some(&object), &schema, "").is_empty());
    }
}

#[test]
fn items_of_a_map_are_told_apart_by_their_keys() {
    let schema: JSONSchemaProps = serde_json::from_value(json!({
        "type": "object",
        "properties": { "list": {
            "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": { "type": "object", "properties": {
                "k": { "type": "string" }, "v": { "type": "integer", "maximum": 3 },
            } },
        } },
    }))
    .unwrap();
    let schema = Schema::compile(&schema);
    let old = json!({ "list": [{ "k": "a", "v": 9 }, { "k": "b", "v": 1 }] });
    let moved = json!({ "list": [{ "k": "b", "v": 2 }, { "k": "a", "v": 9 }] });
    assert!(validate(&moved, Some(&old), &schema, "").is_empty());
    let worse = json!({ "list": [{ "k": "b", "v": 9 }, { "k": "a", "v": 9 }] });
    let errors = validate(&worse, Some(&old), &schema, "");
    let paths: Vec<_> = errors.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(paths, ["list[0].v"]);
}
