//! What clients are told of rules and patterns in the schemas of custom kinds.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Answer, send, server};
use http::Request;
use rk_api::server::ApiServer;
use serde_json::{Value, json};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const THINGS: &str = "/apis/example.com/v1/things";

async fn json(server: &ApiServer, request: http::request::Builder, body: &Value) -> Answer {
    let request = request.header("content-type", "application/json");
    send(server, request, body.to_string().into_bytes()).await
}

/// Defines a kind whose `spec` has these properties and rules.
fn definition(properties: Value, rules: Value) -> Value {
    json!({
        "metadata": { "name": "things.example.com" },
        "spec": {
            "group": "example.com", "scope": "Cluster",
            "names": { "plural": "things", "kind": "Thing" },
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": { "type": "object", "properties": { "spec": {
                    "type": "object", "properties": properties,
                    "x-kubernetes-validations": rules,
                } } } },
            }],
        },
    })
}

fn thing(spec: &Value) -> Value {
    json!({
        "apiVersion": "example.com/v1", "kind": "Thing", "metadata": { "name": "x" }, "spec": spec,
    })
}

fn warnings(answer: &Answer) -> Vec<&str> {
    answer.headers.get_all("warning").iter().map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test]
async fn who_leaves_alone_what_a_new_rule_forbids_is_warned() {
    let server = server().await;
    let properties = json!({
        "size": { "type": "integer", "x-kubernetes-validations": [{ "rule": "self < 1000" }] },
        "color": { "type": "string" },
    });
    let made = json(&server, Request::post(DEFINITIONS), &definition(properties, json!([]))).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let made = json(&server, Request::post(THINGS), &thing(&json!({ "size": 7 }))).await;
    assert_eq!((made.code, warnings(&made)), (201, vec![]), "{}", made.body);

    let rules = json!([{ "op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/\
        spec/properties/size/x-kubernetes-validations/-", "value": { "rule": "self > 10" } }]);
    let request = Request::patch(format!("{DEFINITIONS}/things.example.com"))
        .header("content-type", "application/json-patch+json");
    let patched = send(&server, request, rules.to_string().into_bytes()).await;
    assert_eq!(patched.code, 200, "{}", patched.body);

    // The definition is followed in the background.
    let mut object = made.body;
    let answer = loop {
        let color = object["spec"]["color"].as_str().map_or(1, |color| color.len() + 1);
        object["spec"]["color"] = "r".repeat(color).into();
        let answer = json(&server, Request::put(format!("{THINGS}/x")), &object).await;
        assert_eq!(answer.code, 200, "{}", answer.body);
        if !warnings(&answer).is_empty() {
            break answer;
        }
        assert!(color < 1000, "no warning came");
        object = answer.body;
        tokio::task::yield_now().await;
    };
    assert_eq!(
        warnings(&answer),
        [r#"299 - "spec.size: Invalid value: 7: failed rule: self > 10""#]
    );

    let mut object = answer.body;
    object["spec"]["size"] = json!(8);
    let refused = json(&server, Request::put(format!("{THINGS}/x")), &object).await;
    assert_eq!((refused.code, warnings(&refused)), (422, vec![]), "{}", refused.body);
}

#[tokio::test]
async fn patterns_are_read_as_re2_reads_them() {
    let server = server().await;
    let properties = json!({
        "digits": { "type": "string", "pattern": r"^\d+$" },
        "brace": { "type": "string", "pattern": "^a{,2}$" },
    });
    let made = json(&server, Request::post(DEFINITIONS), &definition(properties, json!([]))).await;
    assert_eq!(made.code, 201, "{}", made.body);
    for (spec, code) in [
        (json!({ "digits": "١٢٣" }), 422),
        (json!({ "brace": "aa" }), 422),
        (json!({ "digits": "123", "brace": "a{,2}" }), 201),
    ] {
        let answer = json(&server, Request::post(THINGS), &thing(&spec)).await;
        assert_eq!(answer.code, code, "{spec}: {}", answer.body);
    }
}
