//! Webhooks that are asked about custom objects and about their definitions.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/hooks.rs"]
mod hooks;

use std::time::Duration;

use common::{Answer, get, send, server};
use hooks::{Hook, patch};
use http::Request;
use rk_api::server::ApiServer;
use serde_json::{Value, json};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1";

async fn post(server: &ApiServer, path: &str, body: Value) -> Answer {
    let request = Request::post(path).header("content-type", "application/json");
    send(server, request, body.to_string().into_bytes()).await
}

async fn merge(server: &ApiServer, path: &str, body: Value) -> Answer {
    let request = Request::patch(path).header("content-type", "application/merge-patch+json");
    send(server, request, body.to_string().into_bytes()).await
}

#[track_caller]
fn done(answer: Answer) -> Value {
    assert!(answer.code < 300, "{}", answer.body);
    answer.body
}

/// What a definition says that has these fields of `data` in all versions; of any names if there are
/// none.
fn schema(fields: &[&str]) -> Value {
    let properties: serde_json::Map<_, _> =
        fields.iter().map(|field| ((*field).to_owned(), json!({ "type": "string" }))).collect();
    let mut data = json!({ "type": "object", "properties": properties });
    if fields.is_empty() {
        data["x-kubernetes-preserve-unknown-fields"] = true.into();
    }
    json!({ "openAPIV3Schema": { "type": "object", "properties": { "data": data } } })
}

fn version(name: &str, storage: bool, fields: &[&str]) -> Value {
    json!({ "name": name, "served": true, "storage": storage, "schema": schema(fields) })
}

fn definition(versions: Value) -> Value {
    json!({
        "metadata": { "name": "things.example.com" },
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": { "plural": "things", "kind": "Thing" }, "versions": versions,
        },
    })
}

/// Defines a kind with these versions, and waits until all are served.
async fn define(server: &ApiServer, versions: &[Value]) {
    done(post(server, DEFINITIONS, definition(json!(versions))).await);
    let served = async {
        for version in versions {
            let path = format!("/apis/example.com/{}/things", version["name"].as_str().unwrap());
            while get(server, &path).await.code != 200 {
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), served).await.unwrap();
}

fn thing(name: &str) -> Value {
    json!({
        "apiVersion": "example.com/v1", "kind": "Thing", "metadata": { "name": name },
        "data": { "mutation-start": "yes" },
    })
}

fn entry(name: &str, hook: &Hook, rules: Value) -> Value {
    json!({
        "name": name, "clientConfig": hook.client(), "admissionReviewVersions": ["v1"],
        "sideEffects": "None", "rules": [rules],
    })
}

async fn configure(server: &ApiServer, plural: &str, webhooks: Value) {
    let body = json!({ "metadata": { "name": "c" }, "webhooks": webhooks });
    done(post(server, &format!("{CONFIGURATIONS}/{plural}"), body).await);
}

/// Has two webhooks asked about new and changed things: each adds the stage after the one it finds.
async fn two_stages(server: &ApiServer) -> Hook {
    let hook = Hook::new(|request| {
        let data = &request["object"]["data"];
        let add = |stage: &str| json!([{ "op": "add", "path": format!("/data/{stage}"), "value": "yes" }]);
        if data["mutation-start"] == "yes" && data["mutation-stage-1"].is_null() {
            patch(add("mutation-stage-1"))
        } else if data["mutation-stage-1"] == "yes" && data["mutation-stage-2"].is_null() {
            patch(add("mutation-stage-2"))
        } else {
            json!({ "allowed": true })
        }
    })
    .await;
    let rules = json!({
        "operations": ["CREATE", "UPDATE"], "apiGroups": ["example.com"], "apiVersions": ["*"],
        "resources": ["things"],
    });
    let entries =
        ["one.example.com", "two.example.com"].map(|name| entry(name, &hook, rules.clone()));
    configure(server, "mutatingwebhookconfigurations", json!(entries)).await;
    hook
}

// Conformance: Admission webhook, mutate custom resource
#[tokio::test]
async fn webhooks_change_custom_objects() {
    let server = server().await;
    define(&server, &[version("v1", true, &[])]).await;
    let _hook = two_stages(&server).await;
    let path = "/apis/example.com/v1/namespaces/default/things";
    let made = done(post(&server, path, thing("t")).await);
    let stages =
        json!({ "mutation-start": "yes", "mutation-stage-1": "yes", "mutation-stage-2": "yes" });
    assert_eq!(made["data"], stages);
    assert_eq!(get(&server, &format!("{path}/t")).await.body["data"], stages);
}

// Conformance: Admission webhook, mutate custom resource with pruning
#[tokio::test]
async fn what_a_webhook_adds_is_pruned() {
    let server = server().await;
    define(&server, &[version("v1", true, &["mutation-start", "mutation-stage-1"])]).await;
    let hook = two_stages(&server).await;
    let path = "/apis/example.com/v1/namespaces/default/things";
    let made = done(post(&server, path, thing("t")).await);
    let known = json!({ "mutation-start": "yes", "mutation-stage-1": "yes" });
    assert_eq!(made["data"], known);
    assert_eq!(get(&server, &format!("{path}/t")).await.body["data"], known);
    // The second did add something.
    assert_eq!(hook.requests().len(), 2);
}

// Conformance: Admission webhook, mutate custom resource with different stored version
#[tokio::test]
async fn webhooks_change_objects_that_are_stored_in_another_version_by_now() {
    let server = server().await;
    define(&server, &[version("v1", true, &[]), version("v2", false, &[])]).await;
    let hook = two_stages(&server).await;
    let path = "/apis/example.com/v1/namespaces/default/things";
    done(post(&server, path, thing("t")).await);

    let versions = json!([version("v1", false, &[]), version("v2", true, &[])]);
    let definition = format!("{DEFINITIONS}/things.example.com");
    done(merge(&server, &definition, json!({ "spec": { "versions": versions } })).await);
    let stored = async {
        loop {
            let definition = get(&server, &definition).await.body;
            if definition["status"]["storedVersions"] == json!(["v1", "v2"]) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), stored).await.unwrap();

    let labels = json!({ "metadata": { "labels": { "patched": "yes" } } });
    let patched = done(merge(&server, &format!("{path}/t"), labels).await);
    assert_eq!(patched["apiVersion"], "example.com/v1");
    assert_eq!(patched["data"]["mutation-stage-2"], "yes");
    let asked = hook.requests();
    let last = asked.last().unwrap();
    assert_eq!((&last["operation"], &last["kind"]["version"]), (&json!("UPDATE"), &json!("v1")));
    for object in ["object", "oldObject"] {
        assert_eq!(last[object]["apiVersion"], "example.com/v1", "{object}");
    }
    let read = get(&server, "/apis/example.com/v2/namespaces/default/things/t").await.body;
    assert_eq!(read["apiVersion"], "example.com/v2");
    assert_eq!(read["metadata"]["labels"]["patched"], "yes");
    assert_eq!(read["data"], patched["data"]);
}

// Conformance: Admission webhook, deny custom resource definition
#[tokio::test]
async fn a_webhook_refuses_a_definition() {
    let server = server().await;
    let hook = Hook::new(|request| match &request["object"]["metadata"]["labels"]["unwanted"] {
        Value::Null => json!({ "allowed": true }),
        _ => json!({
            "allowed": false, "status": { "message": "the crd contains unwanted label" },
        }),
    })
    .await;
    let rules = json!({
        "operations": ["CREATE"], "apiGroups": ["apiextensions.k8s.io"], "apiVersions": ["*"],
        "resources": ["customresourcedefinitions"],
    });
    let webhooks = json!([entry("crds.example.com", &hook, rules)]);
    configure(&server, "validatingwebhookconfigurations", webhooks).await;

    let mut unwanted = definition(json!([version("v1", true, &[])]));
    unwanted["metadata"]["labels"] = json!({ "unwanted": "yes" });
    let refused = post(&server, DEFINITIONS, unwanted).await;
    assert_eq!(
        refused.body["message"],
        "admission webhook \"crds.example.com\" denied the request: the crd contains unwanted label"
    );
    assert_eq!(get(&server, &format!("{DEFINITIONS}/things.example.com")).await.code, 404);
    done(post(&server, DEFINITIONS, definition(json!([version("v1", true, &[])]))).await);
}
