//! JSON merge patch (RFC 7396).

use serde_json::{Map, Value};

use super::{PatchError, wording};

pub(super) fn apply(object: &mut Value, patch: &[u8]) -> Result<(), PatchError> {
    let malformed = |text: String| PatchError::Malformed(format!("error decoding patch: {text}"));
    let patch: Value = serde_json::from_slice(patch)
        .map_err(|error| malformed(wording::json_error(patch, &error)))?;
    match patch {
        Value::Object(_) => {
            merge(object, patch);
            Ok(())
        }
        Value::Null => Err(PatchError::Malformed("invalid JSON Patch".into())),
        other => Err(malformed(wording::type_error(&other, "map[string]interface {}"))),
    }
}

/// Lays `patch` over `target`: objects merge, null removes, all else replaces.
///
/// Where the RFC keeps nulls in objects that are in lists, kube-apiserver drops them, and so does
/// this.
pub(super) fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = without_nulls(patch);
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(&name);
        } else {
            merge(target.entry(name).or_insert(Value::Null), value);
        }
    }
}

/// `value` with null fields left out of every object in it.
pub(super) fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, field)| !field.is_null())
            .map(|(name, field)| (name, without_nulls(field)))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        scalar => scalar,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn examples_of_the_rfc() {
        // RFC 7396, appendix A.
        let check = |mut target: Value, patch: Value, result: Value| {
            merge(&mut target, patch);
            assert_eq!(target, result);
        };
        check(json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"}));
        check(json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"}));
        check(json!({"a": "b"}), json!({"a": null}), json!({}));
        check(json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"}));
        check(
            json!({"a": {"b": "c"}}),
            json!({"a": {"b": "d", "c": null}}),
            json!({"a": {"b": "d"}}),
        );
        check(json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]}));
        check(json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1}));
        check(json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"}));
        check(json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}}));
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![Just(Value::Null), (0..3).prop_map(Value::from), Just(json!([1, 2]))];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop::collection::btree_map("[abc]", inner, 0..4)
                .prop_map(|fields| fields.into_iter().collect())
        })
    }

    /// Every path to a leaf or an empty object, with what is there.
    fn paths(value: &Value, prefix: &str, into: &mut Vec<(String, Value)>) {
        match value.as_object() {
            Some(fields) if !fields.is_empty() => {
                for (name, field) in fields {
                    paths(field, &format!("{prefix}/{name}"), into);
                }
            }
            _ => into.push((prefix.to_owned(), value.clone())),
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_pseudocode_of_the_rfc(mut target in tree(), patch in tree()) {
            let mut model = target.clone();
            json_patch::merge(&mut model, &patch);

            merge(&mut target, patch);

            prop_assert_eq!(target, model);
        }

        #[test]
        fn what_the_patch_says_holds_afterwards(mut target in tree(), patch in tree()) {
            let mut said = Vec::new();
            paths(&patch, "", &mut said);
            let says_object = patch.is_object();

            merge(&mut target, patch);

            for (path, value) in said.iter().filter(|_| says_object) {
                match value {
                    Value::Null => prop_assert_eq!(target.pointer(path), None),
                    Value::Object(_) => prop_assert!(target.pointer(path).is_some_and(Value::is_object)),
                    _ => prop_assert_eq!(target.pointer(path), Some(value)),
                }
            }
        }
    }
}
