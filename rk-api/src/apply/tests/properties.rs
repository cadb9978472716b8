//! What always holds, whatever the objects.

use std::{borrow::Cow, collections::BTreeSet, sync::OnceLock};

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::apply::{
    ApplyError, FieldSet, Filter, Managers, OneVersion, PathElement, Schema, TypeRef, Write, apply,
    compare_bytes, owned_by_creator,
};

/// A kind with one of each: scalars, a map, a set, a map list, an atomic list, a free tree.
fn schema() -> &'static (Schema, TypeRef) {
    static SCHEMA: OnceLock<(Schema, TypeRef)> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        Schema::of_openapi(&json!({
            "type": "object",
            "properties": {
                "atoms": {"type": "array", "items": {"type": "integer"}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "items": {"type": "array", "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["id"],
                    "items": {"type": "object", "properties": {
                        "id": {"type": "integer"},
                        "value": {"type": "string"},
                        "more": {"type": "object", "additionalProperties": {"type": "string"}}}}},
                "map": {"type": "object", "additionalProperties": {"type": "string"}},
                "number": {"type": "integer"},
                "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            },
        }))
    })
}

fn word() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c", "d"]).prop_map(str::to_owned)
}

fn words() -> impl Strategy<Value = Value> {
    prop::collection::btree_map(word(), word(), 0..3).prop_map(|map| json!(map))
}

fn items() -> impl Strategy<Value = Value> {
    let item = (prop::option::of(word()), prop::option::of(words()));
    prop::collection::btree_map(0..5i64, item, 0..4).prop_flat_map(|items| {
        let list: Vec<Value> = items
            .into_iter()
            .map(|(id, (value, more))| {
                let mut item = Map::new();
                item.insert("id".into(), id.into());
                item.extend(more.map(|more| ("more".to_owned(), more)));
                item.extend(value.map(|value| ("value".to_owned(), value.into())));
                Value::Object(item)
            })
            .collect();
        Just(list).prop_shuffle().prop_map(Value::Array)
    })
}

/// An object of the kind, with any of the fields.
fn object() -> impl Strategy<Value = Value> {
    let tags = prop::collection::btree_set(word(), 0..4).prop_map(|set| json!(set));
    let atoms = prop::collection::vec(0..3i64, 0..3).prop_map(|list| json!(list));
    let free = prop::option::of(words()).prop_map(|below| match below {
        Some(below) => json!({"x": below, "y": [1]}),
        None => json!({"y": 1}),
    });
    let fields = (
        prop::option::of(atoms),
        prop::option::of(free),
        prop::option::of(items()),
        prop::option::of(words()),
        prop::option::of((0..3i64).prop_map(Value::from)),
        prop::option::of(tags),
    );
    fields.prop_map(|(atoms, free, items, map, number, tags)| {
        let fields = [
            ("atoms", atoms),
            ("free", free),
            ("items", items),
            ("map", map),
            ("number", number),
            ("tags", tags),
        ];
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    })
}

fn set() -> impl Strategy<Value = FieldSet> {
    prop::collection::vec(path(), 0..12).prop_map(|paths| {
        let mut set = FieldSet::default();
        for path in paths {
            set.insert(&path);
        }
        set
    })
}

fn element() -> impl Strategy<Value = PathElement> {
    prop_oneof![
        word().prop_map(|name| PathElement::field(&name)),
        (0..3i64).prop_map(|id| PathElement::key(vec![("id".into(), id.into())])),
        word().prop_map(|word| PathElement::Value(word.into())),
    ]
}

fn path() -> impl Strategy<Value = Vec<PathElement>> {
    prop::collection::vec(element(), 1..4)
}

/// A set as a plain set of paths.
fn model(set: &FieldSet) -> BTreeSet<Vec<PathElement>> {
    set.paths().into_iter().map(|path| path.into_iter().cloned().collect()).collect()
}

fn write<'a>(manager: &'a str, filter: &'a Filter) -> Write<'a> {
    Write { manager, api_version: "v1", subresource: "", filter, now: "2026-01-01T00:00:00Z" }
}

fn apply_as(
    manager: &str,
    live: &Value,
    configuration: &Value,
    managers: &Managers,
    force: bool,
) -> Result<(Value, Managers), ApplyError> {
    let (schema, kind) = schema();
    let versions = OneVersion { api_version: "v1", schema, kind: *kind };
    let filter = Filter::default();
    let applied = apply(&versions, &write(manager, &filter), live, configuration, managers, force)?;
    Ok((applied.object.unwrap_or_else(|| live.clone()), applied.managers))
}

/// The configuration, and the rest of the same object as another.
fn split(object: &Value) -> (Value, Value) {
    let members = object.as_object().unwrap().clone();
    let (left, right): (Map<_, _>, Map<_, _>) =
        members.into_iter().partition(|(name, _)| name.as_bytes()[0] % 2 == 0);
    (Value::Object(left), Value::Object(right))
}

proptest! {
    #[test]
    fn the_algebra_of_sets_is_that_of_paths(a in set(), b in set()) {
        let (x, y) = (model(&a), model(&b));
        prop_assert_eq!(model(&a.union(&b)), &x | &y);
        prop_assert_eq!(model(&a.intersection(&b)), &x & &y);
        prop_assert_eq!(model(&a.clone().difference(&b)), &x - &y);
        let under = |path: &Vec<PathElement>| (1..=path.len()).any(|length| y.contains(&path[..length]));
        let recursive: BTreeSet<_> = x.iter().filter(|path| !under(path)).cloned().collect();
        prop_assert_eq!(model(&a.clone().recursive_difference(&b)), recursive);
        let parent = |path: &Vec<PathElement>| {
            x.iter().any(|other| other.len() > path.len() && other.starts_with(path))
        };
        let leaves: BTreeSet<_> = x.iter().filter(|path| !parent(path)).cloned().collect();
        prop_assert_eq!(model(&a.leaves()), leaves);
        prop_assert_eq!(a.len(), x.len());
        prop_assert!(x.iter().all(|path| a.has(path)));
    }

    #[test]
    fn a_set_is_read_as_it_was_written(set in set()) {
        prop_assert_eq!(FieldSet::from_json(set.to_json().as_bytes()).unwrap(), set);
    }

    #[test]
    fn numbers_come_back_to_the_last_bit(number in any::<f64>().prop_filter("as JSON has them", |n| n.is_finite())) {
        let value = Value::from(number);
        prop_assert_eq!(serde_json::from_str::<Value>(&value.to_string()).unwrap(), value);
    }

    #[test]
    fn applying_twice_is_applying_once(live in object(), configuration in object()) {
        let managers = Managers::default();
        let (once, by_once) = apply_as("a", &live, &configuration, &managers, true).unwrap();
        // Empty lists belong to nobody, and what nobody manages is adopted when it is applied next.
        prop_assume!(!by_once.is_empty());
        let (twice, by_twice) = apply_as("a", &once, &configuration, &by_once, false).unwrap();
        prop_assert_eq!(twice, once);
        prop_assert_eq!(by_twice, by_once);
    }

    #[test]
    fn what_is_applied_is_there(live in object(), configuration in object()) {
        let (schema, kind) = schema();
        let (new, _) = apply_as("a", &live, &configuration, &Managers::default(), true).unwrap();
        let wanted = schema.fields(*kind, &configuration);
        let comparison = schema.compare(*kind, &configuration, &new).unwrap();
        prop_assert!(comparison.modified.intersection(&wanted).is_empty());
        prop_assert!(comparison.removed.intersection(&wanted).is_empty());
    }

    #[test]
    fn managers_of_disjoint_fields_never_conflict(first in object(), second in object()) {
        let (a, b) = (split(&first).0, split(&second).1);
        let (live, managers) = apply_as("a", &json!({}), &a, &Managers::default(), false).unwrap();
        let (live, managers) = apply_as("b", &live, &b, &managers, false).unwrap();
        let (again, by_again) = apply_as("a", &live, &a, &managers, false).unwrap();
        prop_assert_eq!(again, live);
        // Who owns nothing is no manager: the first application then begins anew.
        if !managers.is_empty() {
            prop_assert_eq!(by_again, managers);
        }
    }

    #[test]
    fn what_one_gives_up_and_nobody_owns_is_removed(before in object(), after in object(), other in object()) {
        let (schema, kind) = schema();
        let (live, managers) = apply_as("b", &json!({}), &other, &Managers::default(), false).unwrap();
        let Ok((live, managers)) = apply_as("a", &live, &before, &managers, true) else {
            return Ok(());
        };
        let (new, managers) = apply_as("a", &live, &after, &managers, true).unwrap();
        let owned = managers.entries().iter().fold(FieldSet::default(), |all, entry| all.union(&entry.fields));
        let given_up = schema.fields(*kind, &before).leaves().difference(&owned);
        let there = schema.fields(*kind, &new).leaves();
        prop_assert!(given_up.intersection(&there).is_empty(), "{} left in {new}", given_up.to_json());
    }

    #[test]
    fn owners_always_own_what_is_there(configurations in prop::collection::vec((0..3usize, object(), any::<bool>()), 1..6)) {
        let (schema, kind) = schema();
        let (mut live, mut managers) = (json!({}), Managers::default());
        for (who, configuration, by_update) in configurations {
            let manager = ["a", "b", "c"][who];
            if by_update && live != json!({}) {
                let comparison = schema.compare(*kind, &live, &configuration).unwrap();
                let filter = Filter::default();
                managers.record_update(&write(manager, &filter), |_| Some(Cow::Borrowed(&comparison)));
                live = configuration;
            } else {
                (live, managers) = apply_as(manager, &live, &configuration, &managers, true).unwrap();
            }
            let json = managers.to_json();
            if !json.is_empty() {
                prop_assert_eq!(&Managers::from_json(json.as_bytes()).unwrap(), &managers);
            }
        }
    }

    #[test]
    fn comparing_bytes_is_comparing_trees(old in object(), new in object()) {
        let (schema, kind) = schema();
        let trees = schema.compare(*kind, &old, &new).unwrap();
        let bytes = compare_bytes(schema, *kind, old.to_string().as_bytes(), new.to_string().as_bytes());
        prop_assert_eq!(bytes.unwrap(), trees);
    }

    #[test]
    fn what_a_creator_owns_is_what_it_added(object in object()) {
        let (schema, kind) = schema();
        let owned = owned_by_creator(schema, *kind, &object, &FieldSet::default());
        let added = schema.compare(*kind, &json!({}), &object).unwrap().set();
        prop_assert_eq!(String::from_utf8(owned.unwrap()).unwrap(), added.to_json());
    }

    #[test]
    fn a_comparison_leads_from_one_object_to_the_other(old in object(), new in object()) {
        let (schema, kind) = schema();
        let there = schema.compare(*kind, &old, &new).unwrap();
        let back = schema.compare(*kind, &new, &old).unwrap();
        prop_assert_eq!(&there.added, &back.removed);
        prop_assert_eq!(&there.removed, &back.added);
        prop_assert_eq!(&there.modified, &back.modified);
        prop_assert_eq!(there.is_same(), schema.compare(*kind, &old, &new).unwrap().set().is_empty() && there.removed.is_empty());
    }
}
