use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Requests to a reference kube-apiserver and what it answered, without the fields that the
/// server filled in: lines that define objects, then lines that patch them.
const RECORDED: &str = include_str!("tests/recorded.jsonl");

#[test]
fn patches_give_what_a_reference_server_gave() {
    let lines: Vec<Value> =
        RECORDED.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (definitions, cases): (Vec<_>, Vec<_>) =
        lines.iter().partition(|line| line.get("define").is_some());
    assert!(cases.len() > 20);
    for case in cases {
        let definition = definitions.iter().find(|each| each["define"] == case["object"]).unwrap();
        check(definition, case);
    }
}

fn check(definition: &Value, case: &Value) {
    let name = &case["name"];
    let kind = match case["kind"].as_str().unwrap() {
        "Json" => PatchKind::Json,
        "Merge" => PatchKind::Merge,
        _ => PatchKind::Strategic,
    };
    let patch = match &case["patch"] {
        Value::String(text) => text.clone(),
        tree => tree.to_string(),
    };
    let mut object = definition["object"].clone();
    let outcome =
        apply(kind, definition["schema"].as_str().unwrap(), &mut object, patch.as_bytes());
    match outcome {
        Ok(()) => {
            // The recordings leave out what differs from run to run.
            let owners =
                object.pointer_mut("/metadata/ownerReferences").and_then(Value::as_array_mut);
            for owner in owners.into_iter().flatten() {
                owner.as_object_mut().unwrap().remove("uid");
            }
            // Encoding leaves out empty maps and lists.
            let metadata = object["metadata"].as_object_mut().unwrap();
            metadata.retain(|_, value| *value != json!({}) && *value != json!([]));
            assert_eq!(object, case["result"], "{name}");
        }
        Err(error) => {
            assert_eq!(u64::from(error.code()), case["status"], "{name}: {error:?}");
            assert!(
                error.to_string().ends_with(case["message"].as_str().unwrap()),
                "{name}: {error}"
            );
        }
    }
}

#[track_caller]
fn json_patch(object: Value, patch: Value) -> Result<Value, PatchError> {
    let mut object = object;
    apply(PatchKind::Json, "", &mut object, patch.to_string().as_bytes())?;
    Ok(object)
}

#[test]
fn a_json_patch_can_count_from_the_end() {
    let patched = json_patch(json!({"a": [1, 2, 3]}), json!([{"op": "remove", "path": "/a/-1"}]));
    assert_eq!(patched, Ok(json!({"a": [1, 2]})));
    let patched = json_patch(json!({"a": [1]}), json!([{"op": "add", "path": "/a/-", "value": 2}]));
    assert_eq!(patched, Ok(json!({"a": [1, 2]})));
    let patched = json_patch(json!({"a": [1]}), json!([{"op": "remove", "path": "/a/-2"}]));
    assert_eq!(patched.unwrap_err().code(), 422);
}

#[test]
fn a_json_patch_can_test() {
    let test = |value: Value| json!([{"op": "test", "path": "/a", "value": value}]);
    assert!(json_patch(json!({"a": 1}), test(json!(1))).is_ok());
    assert_eq!(json_patch(json!({"a": 1}), test(json!(2))).unwrap_err().code(), 422);
    assert!(json_patch(json!({}), test(json!(null))).is_ok());
    assert_eq!(json_patch(json!({}), test(json!(1))).unwrap_err().code(), 422);
}

#[test]
fn an_operation_that_is_none_does_not_apply() {
    assert_eq!(
        json_patch(json!({}), json!([{"op": "frobnicate", "path": "/a"}])).unwrap_err().code(),
        422
    );
    assert_eq!(json_patch(json!({}), json!([{"op": "remove"}])).unwrap_err().code(), 422);
    assert_eq!(json_patch(json!({}), json!(["remove"])).unwrap_err().code(), 400);
    assert_eq!(json_patch(json!({}), json!({"op": "remove"})).unwrap_err().code(), 400);
}

#[test]
fn a_json_patch_has_a_limit() {
    let operation = json!({"op": "test", "path": "/a", "value": null});
    let patch = vec![operation; JSON_PATCH_OPERATIONS_MAX + 1];
    let error = json_patch(json!({}), patch.into()).unwrap_err();
    assert_eq!((error.code(), error.reason()), (413, "RequestEntityTooLarge"));
}

#[test]
fn a_merge_patch_must_be_an_object() {
    for (patch, message) in [
        (
            "[]",
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}",
        ),
        ("{", "error decoding patch: unexpected end of JSON input"),
        ("null", "invalid JSON Patch"),
    ] {
        let error = apply(PatchKind::Merge, "", &mut json!({}), patch.as_bytes()).unwrap_err();
        assert_eq!((error.code(), error.to_string().as_str()), (400, message));
    }
}

#[test]
fn a_kind_without_schema_has_no_strategic_merge_patch() {
    let error =
        apply(PatchKind::Strategic, "com.example.v1.Widget", &mut json!({}), b"{}").unwrap_err();
    assert_eq!(error.code(), 415);
}

/// Trees of names that mean something to a Pod or to a patch.
fn tree() -> impl Strategy<Value = Value> {
    let names = vec![
        "metadata",
        "finalizers",
        "labels",
        "spec",
        "containers",
        "name",
        "env",
        "volumes",
        "$patch",
        "$retainKeys",
        "$setElementOrder/containers",
        "$setElementOrder/",
        "$setElementOrder",
        "$deleteFromPrimitiveList/finalizers",
        "$deleteFromPrimitiveList",
        "op",
        "path",
        "from",
        "value",
    ];
    let words = vec![
        "a",
        "b",
        "delete",
        "replace",
        "merge",
        "add",
        "remove",
        "move",
        "copy",
        "test",
        "/spec",
        "/spec/containers/-1",
        "/spec/containers/-",
        "/-",
        "",
        "~",
        "/spec/containers/0/name",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        (-1..2).prop_map(Value::from),
        proptest::sample::select(words).prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 4, move |inner| {
        let name = proptest::sample::select(names.clone()).prop_map(str::to_owned);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name, inner, 0..4)
                .prop_map(|fields| fields.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn nonsense_is_refused_or_applied_but_never_panics(object in tree(), patch in tree()) {
        let patch = patch.to_string();
        for kind in [PatchKind::Json, PatchKind::Merge, PatchKind::Strategic] {
            let outcome = apply(kind, "io.k8s.api.core.v1.Pod", &mut object.clone(), patch.as_bytes());
            if let Err(error) = outcome {
                prop_assert!([400, 413, 415, 422, 500].contains(&error.code()));
            }
        }
    }
}
