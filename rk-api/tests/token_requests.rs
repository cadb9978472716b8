//! Tokens of service accounts, as they are asked for: whom they are for, how long they last and what
//! they are bound to.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use common::{Answer, send};
use http::Request;
use rk_api::server::{ApiServer, TokenKey};
use rk_store::EmbeddedStore;
use serde_json::{Value, json};

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const PODS: &str = "/api/v1/namespaces/default/pods";
const YEAR: i64 = 365 * 24 * 3600;

async fn post(server: &ApiServer, path: &str, body: Value) -> Answer {
    let request = Request::post(path).header("content-type", "application/json");
    send(server, request, body.to_string().into_bytes()).await
}

/// A server with this key, an account `robot`, and its Pod `p` on a node that is not there.
async fn with_key(key: TokenKey) -> ApiServer {
    let store = Arc::new(EmbeddedStore::in_memory());
    let server = ApiServer::builder(store).token_key(key).start().await.unwrap();
    let account = json!({ "metadata": { "name": "robot" } });
    assert_eq!(post(&server, ACCOUNTS, account).await.code, 201);
    let pod = json!({
        "metadata": { "name": "p" },
        "spec": {
            "serviceAccountName": "robot", "nodeName": "n1",
            "containers": [{ "name": "c", "image": "i" }],
        },
    });
    let made = post(&server, PODS, pod).await;
    assert_eq!(made.code, 201, "{}", made.body);
    server
}

async fn server() -> ApiServer {
    with_key(TokenKey::generate().unwrap()).await
}

async fn ask(server: &ApiServer, body: Value) -> Answer {
    post(server, &format!("{ACCOUNTS}/robot/token"), body).await
}

#[track_caller]
fn message(answer: &Answer, code: u16) -> &str {
    assert_eq!(answer.code, code, "{}", answer.body);
    answer.body["message"].as_str().unwrap()
}

/// What a token says.
fn claims(answer: &Answer) -> Value {
    assert_eq!(answer.code, 201, "{}", answer.body);
    let token = answer.body["status"]["token"].as_str().unwrap();
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice(&claims).unwrap()
}

/// How many seconds a token is taken.
fn lasts(claims: &Value) -> i64 {
    claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap()
}

fn bound_to_pod() -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "name": "p" })
}

#[tokio::test]
async fn a_token_that_a_kubelet_asks_for_outlasts_what_it_asks() {
    let server = server().await;
    let spec = json!({ "expirationSeconds": 3607, "boundObjectRef": bound_to_pod() });
    let answer = ask(&server, json!({ "spec": spec })).await;
    let said = claims(&answer);
    assert_eq!(lasts(&said), YEAR);
    let issued = said["iat"].as_i64().unwrap();
    assert_eq!(said["kubernetes.io"]["warnafter"], issued + 3607);
    // Kubelets replace it as if it did not.
    let expires = answer.body["status"]["expirationTimestamp"].as_str().unwrap();
    let expires: k8s_openapi::jiff::Timestamp = expires.parse().unwrap();
    assert_eq!(expires.as_second(), issued + 3607);

    let others = [
        json!({ "expirationSeconds": 3607 }),
        json!({ "expirationSeconds": 3600, "boundObjectRef": bound_to_pod() }),
        json!({
            "expirationSeconds": 3607, "boundObjectRef": bound_to_pod(), "audiences": ["vault"],
        }),
    ];
    for spec in others {
        let said = claims(&ask(&server, json!({ "spec": spec })).await);
        assert_eq!(lasts(&said), spec["expirationSeconds"].as_i64().unwrap());
        assert_eq!(said["kubernetes.io"].get("warnafter"), None);
    }

    let plain = with_key(TokenKey::generate().unwrap().extending_expiration(false)).await;
    let spec = json!({ "expirationSeconds": 3607, "boundObjectRef": bound_to_pod() });
    assert_eq!(lasts(&claims(&ask(&plain, json!({ "spec": spec })).await)), 3607);
}

#[tokio::test]
async fn no_token_lasts_longer_than_any_may() {
    let key = TokenKey::generate().unwrap().with_max_expiration(Duration::from_secs(7200));
    let server = with_key(key).await;
    let answer = ask(&server, json!({ "spec": { "expirationSeconds": 86400 } })).await;
    assert_eq!(lasts(&claims(&answer)), 7200);
    assert_eq!(answer.body["spec"]["expirationSeconds"], 7200);
    assert_eq!(
        answer.headers["warning"],
        "299 - \"requested expiration of 86400 seconds shortened to 7200 seconds\""
    );
}

#[tokio::test]
async fn a_token_of_a_pod_names_its_node_whether_there_is_one_or_not() {
    let server = server().await;
    let spec = json!({ "spec": { "boundObjectRef": bound_to_pod() } });
    let said = claims(&ask(&server, spec.clone()).await);
    assert_eq!(said["kubernetes.io"]["node"], json!({ "name": "n1" }));

    let node = json!({ "metadata": { "name": "n1" } });
    let node = post(&server, "/api/v1/nodes", node).await;
    let said = claims(&ask(&server, spec).await);
    let expected = json!({ "name": "n1", "uid": node.body["metadata"]["uid"] });
    assert_eq!(said["kubernetes.io"]["node"], expected);
}

#[tokio::test]
async fn a_token_is_bound_to_what_there_is_and_can_be_bound_to() {
    let server = server().await;
    let bind = async |reference: Value| {
        ask(&server, json!({ "spec": { "boundObjectRef": reference } })).await
    };
    let map = bind(json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "m" })).await;
    assert_eq!(message(&map, 400), "cannot bind token to object of type /v1, Kind=ConfigMap");
    let set = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": "d" });
    assert_eq!(
        message(&bind(set).await, 400),
        "cannot bind token to object of type apps/v1, Kind=Deployment"
    );
    let mut other = bound_to_pod();
    other["uid"] = "other".into();
    assert_eq!(
        message(&bind(other).await, 409),
        "Operation cannot be fulfilled on Pod \"p\": the UID in the bound object reference (other) \
         does not match the UID in record. The object might have been deleted and then recreated"
    );
    let gone = json!({ "apiVersion": "v1", "kind": "Secret", "name": "gone" });
    assert_eq!(message(&bind(gone).await, 404), "secrets \"gone\" not found");
}

#[tokio::test]
async fn a_request_that_names_another_account_is_refused() {
    let server = server().await;
    let answer = ask(&server, json!({ "metadata": { "name": "other" }, "spec": {} })).await;
    assert_eq!(
        message(&answer, 422),
        "TokenRequest.authentication.k8s.io \"robot\" is invalid: metadata.name: Invalid value: \
         \"other\": must match the service account name if specified"
    );
    let meta = json!({ "name": "robot", "namespace": "elsewhere" });
    let answer = ask(&server, json!({ "metadata": meta, "spec": {} })).await;
    let why = "must match the service account namespace if specified";
    assert!(message(&answer, 422).ends_with(why), "{}", answer.body);
    let meta = json!({ "name": "robot", "namespace": "default" });
    assert_eq!(ask(&server, json!({ "metadata": meta, "spec": {} })).await.code, 201);
}

#[tokio::test]
async fn a_token_ends_with_what_it_is_bound_to() {
    let server = server().await;
    let answer = ask(&server, json!({ "spec": { "boundObjectRef": bound_to_pod() } })).await;
    let token = answer.body["status"]["token"].clone();
    let review = async || {
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        post(&server, path, json!({ "spec": { "token": token } })).await.body["status"].clone()
    };
    let status = review().await;
    assert_eq!(status["authenticated"], true);
    let extra = &status["user"]["extra"];
    assert_eq!(extra["authentication.kubernetes.io/node-name"], json!(["n1"]));
    assert_eq!(extra.get("authentication.kubernetes.io/node-uid"), None);

    let path = format!("{PODS}/p?gracePeriodSeconds=0");
    assert_eq!(send(&server, Request::delete(path), Vec::new()).await.code, 200);
    let status = review().await;
    assert_eq!(status.get("authenticated"), None);
    let error = status["error"].as_str().unwrap();
    assert!(error.contains("service account token has been invalidated"), "{error}");
}
