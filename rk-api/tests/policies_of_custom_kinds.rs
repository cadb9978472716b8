//! Policies about custom objects, and with parameters that are custom objects.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{Answer, get, send, server};
use http::Request;
use rk_api::server::ApiServer;
use serde_json::{Value, json};

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const LIMITS: &str = "/apis/example.com/v1/namespaces/default/limits";
const SHARED: &str = "/apis/example.com/v1/sharedlimits";
const SHIRTS: &str = "/apis/example.com/v1/namespaces/default/shirts";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn post(server: &ApiServer, path: &str, body: Value) -> Answer {
    let request = Request::post(path).header("content-type", "application/json");
    send(server, request, body.to_string().into_bytes()).await
}

async fn created(server: &ApiServer, path: &str, body: Value) {
    let answer = post(server, path, body).await;
    assert_eq!(answer.code, 201, "{path}: {}", answer.body);
}

async fn delete(server: &ApiServer, path: &str) {
    assert_eq!(send(server, Request::delete(path), Vec::new()).await.code, 200);
}

/// Defines a kind with the integer `spec.max` and the text `spec.size`, and waits until it is served.
async fn define(server: &ApiServer, kind: &str, plural: &str, scope: &str) {
    let fields = json!({ "max": { "type": "integer" }, "size": { "type": "string" } });
    let spec = json!({ "type": "object", "properties": fields });
    let schema = json!({ "openAPIV3Schema": { "type": "object", "properties": { "spec": spec } } });
    let version = json!({ "name": "v1", "served": true, "storage": true, "schema": schema });
    let definition = json!({
        "metadata": { "name": format!("{plural}.example.com") },
        "spec": {
            "group": "example.com", "scope": scope,
            "names": { "plural": plural, "kind": kind },
            "versions": [version],
        },
    });
    created(server, DEFINITIONS, definition).await;
    let path = format!("/apis/example.com/v1/{plural}");
    let served = async {
        while get(server, &path).await.code != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), served).await.unwrap();
}

fn rules(group: &str, resource: &str) -> Value {
    json!([{
        "operations": ["CREATE", "UPDATE"], "apiGroups": [group], "apiVersions": ["v1"],
        "resources": [resource],
    }])
}

/// A policy that ConfigMaps have no more keys than `params.spec.max`, with parameters of this kind.
async fn at_most(server: &ApiServer, kind: &str, reference: Value) {
    let policy = json!({
        "metadata": { "name": "at-most" },
        "spec": {
            "paramKind": { "apiVersion": "example.com/v1", "kind": kind },
            "matchConstraints": { "resourceRules": rules("", "configmaps") },
            "validations": [{
                "expression": "size(object.data) <= params.spec.max",
                "messageExpression": "'at most ' + string(params.spec.max) + ' keys by ' + params.metadata.name",
            }],
        },
    });
    created(server, POLICIES, policy).await;
    let binding = json!({
        "metadata": { "name": "at-most" },
        "spec": { "policyName": "at-most", "validationActions": ["Deny"], "paramRef": reference },
    });
    created(server, BINDINGS, binding).await;
}

fn limit(name: &str, max: i64) -> Value {
    json!({
        "apiVersion": "example.com/v1", "kind": "Limit",
        "metadata": { "name": name, "labels": { "for": "maps" } }, "spec": { "max": max },
    })
}

/// Creates a ConfigMap with so many keys; what is wrong with it, if it is refused.
async fn keys(server: &ApiServer, count: usize) -> String {
    let data: serde_json::Map<_, _> = (0..count).map(|n| (format!("k{n}"), json!(""))).collect();
    let map = json!({ "metadata": { "generateName": "m-" }, "data": data });
    let answer = post(server, MAPS, map).await;
    match answer.code {
        201 => String::new(),
        _ => answer.body["message"].as_str().unwrap_or_default().to_owned(),
    }
}

/// Waits until a ConfigMap with so many keys is refused with words that end like this, or, when they
/// are empty, created: parameters are read from the watch cache, which follows writes.
#[track_caller]
fn until(server: &ApiServer, count: usize, ending: &str) -> impl Future<Output = ()> {
    let (server, ending) = (server.clone(), ending.to_owned());
    let caller = std::panic::Location::caller();
    async move {
        let mut last = String::new();
        let so = async {
            loop {
                last = keys(&server, count).await;
                if last.ends_with(&ending) && (last.is_empty() == ending.is_empty()) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), so).await;
        assert!(waited.is_ok(), "{caller}: {last:?} does not become {ending:?}");
    }
}

#[tokio::test]
async fn parameters_are_custom_objects_by_name() {
    let server = server().await;
    define(&server, "Limit", "limits", "Namespaced").await;
    let reference = json!({ "name": "two", "parameterNotFoundAction": "Deny" });
    at_most(&server, "Limit", reference).await;
    let nothing = "no params found for policy binding with `Deny` parameterNotFoundAction";
    until(&server, 1, nothing).await;
    created(&server, LIMITS, limit("two", 2)).await;
    until(&server, 2, "").await;
    until(&server, 3, "denied request: at most 2 keys by two").await;

    // A change of the parameters counts at once.
    let patch = Request::patch(format!("{LIMITS}/two"))
        .header("content-type", "application/merge-patch+json");
    let changed = send(&server, patch, br#"{"spec": {"max": 3}}"#.to_vec()).await;
    assert_eq!(changed.code, 200);
    until(&server, 3, "").await;
}

#[tokio::test]
async fn parameters_that_a_selector_finds_must_all_agree() {
    let server = server().await;
    define(&server, "Limit", "limits", "Namespaced").await;
    let selector = json!({ "matchLabels": { "for": "maps" } });
    let reference = json!({ "selector": selector, "parameterNotFoundAction": "Allow" });
    at_most(&server, "Limit", reference).await;
    until(&server, 9, "").await;
    for (name, max) in [("five", 5), ("two", 2)] {
        created(&server, LIMITS, limit(name, max)).await;
    }
    until(&server, 2, "").await;
    until(&server, 3, "at most 2 keys by two").await;
    delete(&server, &format!("{LIMITS}/two")).await;
    until(&server, 3, "").await;
}

#[tokio::test]
async fn parameters_of_the_cluster_have_no_namespace() {
    let server = server().await;
    define(&server, "SharedLimit", "sharedlimits", "Cluster").await;
    let reference = json!({ "name": "one", "parameterNotFoundAction": "Deny" });
    at_most(&server, "SharedLimit", reference).await;
    let mut one = limit("one", 1);
    one["kind"] = "SharedLimit".into();
    created(&server, SHARED, one).await;
    until(&server, 1, "").await;
    until(&server, 2, "at most 1 keys by one").await;
}

#[tokio::test]
async fn a_kind_of_parameters_may_come_after_its_policy_and_go_before_it() {
    let server = server().await;
    let reference = json!({ "name": "two", "parameterNotFoundAction": "Allow" });
    at_most(&server, "Limit", reference).await;
    let unknown = "denied request: failed to configure policy: failed to find resource referenced by \
                   paramKind: 'example.com/v1, Kind=Limit'";
    until(&server, 1, unknown).await;

    define(&server, "Limit", "limits", "Namespaced").await;
    until(&server, 9, "").await;
    created(&server, LIMITS, limit("two", 2)).await;
    until(&server, 3, "at most 2 keys by two").await;

    delete(&server, &format!("{DEFINITIONS}/limits.example.com")).await;
    until(&server, 1, unknown).await;
}

#[tokio::test]
async fn policies_judge_and_change_custom_objects_whichever_came_first() {
    let server = server().await;
    let policy = json!({
        "metadata": { "name": "sizes" },
        "spec": {
            "matchConstraints": { "resourceRules": rules("example.com", "shirts") },
            "variables": [{ "name": "size", "expression": "object.spec.size" }],
            "validations": [{
                "expression": "variables.size in ['S', 'M', 'L'] && object.spec.max > 0",
                "message": "no such size",
            }],
        },
    });
    created(&server, POLICIES, policy).await;
    let binding = json!({
        "metadata": { "name": "sizes" },
        "spec": { "policyName": "sizes", "validationActions": ["Deny"] },
    });
    created(&server, BINDINGS, binding).await;
    let expression = "Object{spec: Object.spec{max: has(object.spec.max) ? object.spec.max : 7}}";
    let mutation = json!({
        "metadata": { "name": "defaults" },
        "spec": {
            "matchConstraints": { "resourceRules": rules("example.com", "shirts") },
            "reinvocationPolicy": "Never",
            "mutations": [{
                "patchType": "ApplyConfiguration",
                "applyConfiguration": { "expression": expression },
            }],
        },
    });
    let mutations = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies";
    created(&server, mutations, mutation).await;
    let binding =
        json!({ "metadata": { "name": "defaults" }, "spec": { "policyName": "defaults" } });
    let bindings = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings";
    created(&server, bindings, binding).await;
    define(&server, "Shirt", "shirts", "Namespaced").await;

    let shirt = |name: &str, size: &str| {
        json!({
            "apiVersion": "example.com/v1", "kind": "Shirt",
            "metadata": { "name": name }, "spec": { "size": size },
        })
    };
    let fits = post(&server, SHIRTS, shirt("fits", "M")).await;
    assert_eq!((fits.code, &fits.body["spec"]["max"]), (201, &json!(7)));
    let refused = post(&server, SHIRTS, shirt("huge", "XXL")).await;
    let message = "shirts.example.com \"huge\" is forbidden: ValidatingAdmissionPolicy 'sizes' with \
                   binding 'sizes' denied request: no such size";
    assert_eq!(refused.body["message"], message);
}

/// The expression warnings of a policy, once it was looked at.
async fn warnings(server: &ApiServer, name: &str) -> Vec<String> {
    let checked = async {
        loop {
            let policy = get(server, &format!("{POLICIES}/{name}")).await.body;
            if policy["status"]["observedGeneration"] == 1 {
                return policy["status"]["typeChecking"]["expressionWarnings"].clone();
            }
            tokio::task::yield_now().await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(60), checked).await.unwrap();
    let found = found.as_array().cloned().unwrap_or_default();
    found.iter().map(|warning| warning["warning"].as_str().unwrap().to_owned()).collect()
}

/// The e2e test of type checking a custom kind, which is no requirement.
#[tokio::test]
async fn expressions_are_checked_against_the_schemas_of_custom_kinds() {
    let server = server().await;
    define(&server, "Shirt", "shirts", "Namespaced").await;
    define(&server, "Limit", "limits", "Namespaced").await;
    let policy = |name: &str, expression: &str| {
        json!({
            "metadata": { "name": name },
            "spec": {
                "paramKind": { "apiVersion": "example.com/v1", "kind": "Limit" },
                "matchConstraints": { "resourceRules": rules("example.com", "shirts") },
                "validations": [{ "expression": expression }],
            },
        })
    };
    let right = "object.spec.size == 'M' && object.spec.max < params.spec.max";
    created(&server, POLICIES, policy("right", right)).await;
    assert_eq!(warnings(&server, "right").await, [""; 0]);
    for (name, expression, wrong) in [
        ("field", "object.spec.colour == 'red'", "undefined field 'colour'"),
        ("type", "object.spec.max > '1'", "found no matching overload for '_>_'"),
        ("params", "object.spec.max < params.spec.least", "undefined field 'least'"),
    ] {
        created(&server, POLICIES, policy(name, expression)).await;
        let found = warnings(&server, name).await;
        assert_eq!(found.len(), 1, "{expression}");
        assert!(found[0].starts_with("example.com/v1, Kind=Shirt: ERROR: "), "{}", found[0]);
        assert!(found[0].contains(wrong), "{}", found[0]);
    }
}
