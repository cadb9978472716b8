use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::schema::graph;

const POD: &str = "io.k8s.api.core.v1.Pod";

fn pod_patch(object: Value, patch: Value) -> Result<Value, PatchError> {
    let mut object = object;
    let schema = graph().get(POD).unwrap();
    apply(graph(), schema, &mut object, patch.to_string().as_bytes())?;
    Ok(object)
}

#[track_caller]
fn spec(original: Value, patch: Value, expected: Value) {
    let patched = pod_patch(json!({"spec": original}), json!({"spec": patch}));
    assert_eq!(patched, Ok(json!({"spec": expected})));
}

#[track_caller]
fn refused(original: Value, patch: Value, code: u16, message: &str) {
    let error = pod_patch(json!({"spec": original}), json!({"spec": patch})).unwrap_err();
    assert_eq!((error.code(), error.to_string().as_str()), (code, message));
}

fn named(names: &[&str]) -> Value {
    names.iter().map(|name| json!({"name": name})).collect()
}

#[test]
fn keyed_lists_merge_item_by_item() {
    spec(
        json!({"containers": [{"name": "a", "image": "1", "args": ["x"]}, {"name": "b"}]}),
        json!({"containers": [{"name": "a", "image": "2"}]}),
        json!({"containers": [{"name": "a", "image": "2", "args": ["x"]}, {"name": "b"}]}),
    );
}

#[test]
fn new_items_come_where_the_patch_has_them() {
    spec(
        json!({"containers": named(&["a", "b"])}),
        json!({"containers": named(&["c"])}),
        json!({"containers": named(&["c", "a", "b"])}),
    );
    spec(
        json!({"containers": named(&["a", "b", "c"])}),
        json!({"containers": named(&["x", "b"])}),
        json!({"containers": named(&["x", "a", "b", "c"])}),
    );
}

#[test]
fn lists_without_a_strategy_are_replaced() {
    spec(
        json!({"tolerations": [{"key": "a"}], "containers": [{"name": "a", "args": ["x"]}]}),
        json!({"tolerations": [{"key": "b"}], "containers": [{"name": "a", "args": ["y"]}]}),
        json!({"tolerations": [{"key": "b"}], "containers": [{"name": "a", "args": ["y"]}]}),
    );
}

#[test]
fn items_are_deleted_by_key() {
    spec(
        json!({"containers": named(&["a", "b"])}),
        json!({"containers": [{"$patch": "delete", "name": "a"}, {"$patch": "delete", "name": "z"}]}),
        json!({"containers": named(&["b"])}),
    );
}

#[test]
fn a_list_is_replaced_on_request() {
    spec(
        json!({"containers": named(&["a", "b"])}),
        json!({"containers": [{"name": "c"}, {"$patch": "replace"}]}),
        json!({"containers": named(&["c"])}),
    );
}

#[test]
fn objects_are_replaced_and_emptied_on_request() {
    spec(
        json!({"securityContext": {"runAsUser": 1, "fsGroup": 2}, "nodeSelector": {"a": "b"}}),
        json!({
            "securityContext": {"$patch": "replace", "runAsUser": 3},
            "nodeSelector": {"$patch": "delete"},
        }),
        json!({"securityContext": {"runAsUser": 3}, "nodeSelector": {}}),
    );
}

#[test]
fn retained_keys_are_the_only_ones_left() {
    spec(
        json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
        json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}, "$retainKeys": ["name", "hostPath"]}]}),
        json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
    );
    refused(
        json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
        json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}, "$retainKeys": ["name"]}]}),
        400,
        "invalid patch format of retainKeys",
    );
}

#[test]
fn scalars_merge_as_a_set_and_are_deleted_by_value() {
    let finalizers = |patch: Value| {
        let object = json!({"metadata": {"finalizers": ["a", "b", "c"]}});
        pod_patch(object, json!({"metadata": patch}))
            .map(|mut pod| pod["metadata"]["finalizers"].take())
    };
    assert_eq!(finalizers(json!({"finalizers": ["d", "a"]})), Ok(json!(["d", "a", "b", "c"])));
    assert_eq!(
        finalizers(json!({"$deleteFromPrimitiveList/finalizers": ["b", "z"]})),
        Ok(json!(["a", "c"]))
    );
    assert_eq!(
        finalizers(json!({"$deleteFromPrimitiveListfinalizers": ["b"]})),
        Err(PatchError::Malformed("invalid patch format of primitive list".into()))
    );
}

#[test]
fn the_order_of_a_list_can_be_set() {
    spec(
        json!({"containers": named(&["a", "b", "c"])}),
        json!({"$setElementOrder/containers": named(&["c", "a"])}),
        json!({"containers": named(&["b", "c", "a"])}),
    );
    spec(
        json!({}),
        json!({"$setElementOrder/containers": named(&["b", "a"]), "containers": named(&["b", "a"])}),
        json!({"containers": named(&["b", "a"])}),
    );
}

#[test]
fn an_order_that_the_patch_contradicts_is_refused() {
    let message = "The order in patch list:\n[map[name:a] map[name:b]]\n doesn't match \
                   $setElementOrder list:\n[map[name:b] map[name:a]]\n";
    refused(
        json!({"containers": named(&["a"])}),
        json!({"$setElementOrder/containers": named(&["b", "a"]), "containers": named(&["a", "b"])}),
        500,
        message,
    );
}

#[test]
fn nulls_delete_and_are_never_kept() {
    spec(
        json!({"nodeName": "n", "nodeSelector": {"a": "b"}}),
        json!({"nodeName": null, "hostname": null, "affinity": {"nodeAffinity": null}}),
        json!({"nodeSelector": {"a": "b"}, "affinity": {}}),
    );
}

#[test]
fn what_is_new_holds_no_directives() {
    spec(
        json!({}),
        json!({"containers": [{"name": "a"}, {"name": "b", "$patch": "delete"}], "affinity": {"$patch": "delete"}}),
        json!({"containers": named(&["a"])}),
    );
}

#[test]
fn contradictions_are_worded_as_kubernetes_words_them() {
    let original = json!({"containers": named(&["a"])});
    refused(
        original.clone(),
        json!({"containers": [{"image": "x"}]}),
        500,
        "map: map[image:x] does not contain declared merge key: name",
    );
    refused(
        original.clone(),
        json!({"containers": [{"name": "a", "$patch": "shred"}]}),
        500,
        "unknown patch type: shred in map: map[$patch:shred name:a]",
    );
    refused(
        original.clone(),
        json!({"containers": ["a"]}),
        500,
        "list element types are not identical: [[map[name:a]] [a]]",
    );
    refused(
        json!({"containers": [["a"]]}),
        json!({"containers": [["a"]]}),
        422,
        "the server rejected our request due to an error in our request",
    );
    refused(
        original,
        json!({"$setElementOrder/containers": "a"}),
        500,
        "expected a []interface {}, but received a string",
    );
}

#[test]
fn a_patch_must_be_an_object() {
    assert_eq!(pod_patch(json!({}), json!(null)), Ok(json!({})));
    assert_eq!(
        pod_patch(json!({}), json!([])),
        Err(PatchError::Malformed(
            "json: cannot unmarshal array into Go value of type map[string]interface {}".into()
        ))
    );
}

/// Distinct names in any order.
fn names() -> impl Strategy<Value = Vec<String>> {
    proptest::sample::subsequence(vec!["a", "b", "c", "d", "e", "f"], 0..=6)
        .prop_shuffle()
        .prop_map(|names| names.into_iter().map(str::to_owned).collect())
}

fn containers(names: &[String], image: &str) -> Value {
    names.iter().map(|name| json!({"name": name, "image": image})).collect()
}

fn names_of(pod: &Value) -> Vec<&str> {
    let containers = pod["spec"]["containers"].as_array();
    containers.into_iter().flatten().filter_map(|container| container["name"].as_str()).collect()
}

proptest! {
    #[test]
    fn the_order_that_was_set_is_the_order(live in names(), order in names()) {
        let pod = json!({"spec": {"containers": containers(&live, "old")}});
        let keys: Value = order.iter().map(|name| json!({"name": name})).collect();
        let patch = json!({"spec": {
            "$setElementOrder/containers": keys,
            "containers": containers(&order, "new"),
        }});

        let pod = pod_patch(pod, patch).unwrap();

        let patched = names_of(&pod);
        let ordered: Vec<&str> = patched.iter().copied().filter(|name| order.iter().any(|each| each == name)).collect();
        prop_assert_eq!(&ordered, &order);
        let others: Vec<&str> = patched.iter().copied().filter(|name| !order.iter().any(|each| each == name)).collect();
        let expected: Vec<&String> = live.iter().filter(|name| !order.contains(name)).collect();
        prop_assert_eq!(others, expected, "the server's own items keep their order");
    }

    #[test]
    fn deleting_twice_is_deleting_once(live in names(), gone in names()) {
        let pod = json!({"spec": {"containers": containers(&live, "i")}});
        let deletions: Value = gone.iter().map(|name| json!({"$patch": "delete", "name": name})).collect();
        let patch = json!({"spec": {"containers": deletions}});

        let once = pod_patch(pod, patch.clone()).unwrap();
        let twice = pod_patch(once.clone(), patch).unwrap();

        let expected: Vec<&String> = live.iter().filter(|name| !gone.contains(name)).collect();
        prop_assert_eq!(names_of(&once), expected);
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn applying_a_patch_twice_changes_no_more(live in names(), patch in names()) {
        let pod = json!({"spec": {"containers": containers(&live, "old")}});
        let patch = json!({"spec": {"containers": containers(&patch, "new")}});

        let once = pod_patch(pod, patch.clone()).unwrap();
        let twice = pod_patch(once.clone(), patch).unwrap();

        prop_assert_eq!(once, twice);
    }
}
