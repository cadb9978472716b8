//! Priority and fairness: how requests are told apart, wait, and are refused.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/operations.rs"]
mod operations;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use common::config_map;
use futures::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use k8s_openapi::api::{
    core::v1::ConfigMap,
    flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchParams},
};
use operations::{Kind, every_operation};
use rk_api::server::{
    ApiServer, ResponseBody, UserInfo,
    admission::{Admission, AdmissionRequest},
    authn::TokenList,
};
use rk_store::EmbeddedStore;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tower::ServiceExt;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";

/// Holds requests for ConfigMaps named `slow…` until it is told to let them go.
#[derive(Debug)]
struct Turnstile(Arc<Semaphore>);

#[async_trait]
impl Admission for Turnstile {
    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
    ) -> Result<(), rk_api::server::ApiError> {
        if request.is_about("configmaps") && request.name.starts_with("slow") {
            self.0.acquire().await.unwrap().forget();
        }
        Ok(())
    }
}

async fn server() -> (ApiServer, Arc<Semaphore>) {
    let turnstile = Arc::new(Semaphore::new(0));
    let tokens = TokenList::default().with("secret", UserInfo::new("bob", []));
    let server = ApiServer::builder(Arc::new(EmbeddedStore::in_memory()))
        .authorizer(Arc::new(rk_api::server::authz::AlwaysAllow))
        .authenticator(Arc::new(tokens))
        .admission(Arc::new(Turnstile(turnstile.clone())))
        .max_in_flight(1, 1)
        .start()
        .await
        .unwrap();
    (server, turnstile)
}

/// Bob's requests have one seat.
async fn narrow(server: &ApiServer, response: Value) {
    let client = server.client();
    let levels: Api<PriorityLevelConfiguration> = Api::all(client.clone());
    let level = json!({
        "metadata": { "name": "narrow" },
        "spec": {
            "type": "Limited",
            "limited": {
                "nominalConcurrencyShares": 1, "lendablePercent": 0, "borrowingLimitPercent": 0,
                "limitResponse": response,
            },
        },
    });
    create(&levels, level).await;
    let schemas: Api<FlowSchema> = Api::all(client);
    let schema = json!({
        "metadata": { "name": "bobs" },
        "spec": {
            "matchingPrecedence": 50,
            "priorityLevelConfiguration": { "name": "narrow" },
            "distinguisherMethod": { "type": "ByUser" },
            "rules": [{
                "subjects": [{ "kind": "User", "user": { "name": "bob" } }],
                "resourceRules": [{
                    "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"],
                    "namespaces": ["*"], "clusterScope": true,
                }],
            }],
        },
    });
    create(&schemas, schema).await;
    // It is in force once its condition says so.
    loop {
        let schema = schemas.get("bobs").await.unwrap();
        if schema.status.and_then(|status| status.conditions).is_some() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

async fn create<K>(api: &Api<K>, object: Value) -> K
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + serde::Serialize,
{
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
}

async fn send(server: &ApiServer, method: &str, path: &str, body: Value) -> Response<ResponseBody> {
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", "Bearer secret")
        .header("content-type", "application/json")
        .body(Full::from(body))
        .unwrap();
    server.clone().oneshot(request).await.unwrap()
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn slow(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } })
}

async fn dump(server: &ApiServer, what: &str) -> String {
    let path = format!("/debug/api_priority_and_fairness/{what}");
    let request = Request::get(path).body(Vec::new()).unwrap();
    server.client().request_text(request).await.unwrap()
}

#[tokio::test]
async fn a_request_that_finds_no_seat_is_refused_and_told_when_to_come_back() {
    let (server, turnstile) = server().await;
    narrow(&server, json!({ "type": "Reject" })).await;
    let mut first = std::pin::pin!(send(&server, "POST", MAPS, slow("slow-1")));
    assert!(first.as_mut().now_or_never().is_none(), "it is held");

    let refused = send(&server, "GET", MAPS, Value::Null).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["retry-after"], "1");
    let text = refused.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(text, "Too many requests, please try again later.\n");

    turnstile.add_permits(1);
    assert_eq!(first.await.status(), StatusCode::CREATED);
    assert_eq!(send(&server, "GET", MAPS, Value::Null).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_request_waits_for_a_seat_and_gives_it_back_whatever_becomes_of_it() {
    let (server, turnstile) = server().await;
    let queuing = json!({ "queues": 4, "handSize": 1, "queueLengthLimit": 2 });
    narrow(&server, json!({ "type": "Queue", "queuing": queuing })).await;
    let mut first = Box::pin(send(&server, "POST", MAPS, slow("slow-1")));
    assert!(first.as_mut().now_or_never().is_none());
    let mut second = Box::pin(send(&server, "GET", MAPS, Value::Null));
    assert!(second.as_mut().now_or_never().is_none(), "it waits");
    let mut third = Box::pin(send(&server, "GET", MAPS, Value::Null));
    assert!(third.as_mut().now_or_never().is_none(), "it waits");
    let full = send(&server, "GET", MAPS, Value::Null).await;
    assert_eq!(full.status(), StatusCode::TOO_MANY_REQUESTS);
    let waiting = dump(&server, "dump_requests").await;
    assert_eq!(waiting.lines().filter(|line| line.starts_with("narrow,")).count(), 3, "{waiting}");

    drop(second);
    drop(first);
    assert_eq!(third.await.status(), StatusCode::OK, "those before it hung up");
    let levels = dump(&server, "dump_priority_levels").await;
    let level = levels.lines().find(|line| line.starts_with("narrow,")).unwrap();
    let cells: Vec<_> = level.split(',').map(str::trim).collect();
    assert_eq!(cells[1..], ["0", "true", "false", "0", "0", "2", "2", "0", "1"], "{levels}");
    drop(turnstile);
}

#[tokio::test]
async fn a_watch_gives_its_seat_back_when_it_has_begun() {
    let (server, _turnstile) = server().await;
    narrow(&server, json!({ "type": "Reject" })).await;
    let mut watches = Vec::new();
    for _ in 0..3 {
        let path = format!("{MAPS}?watch=1");
        let watch = send(&server, "GET", &path, Value::Null).await;
        assert_eq!(watch.status(), StatusCode::OK);
        watches.push(watch);
    }
    assert_eq!(send(&server, "GET", MAPS, Value::Null).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn an_answer_names_the_schema_and_the_level_of_its_request() {
    let (server, _) = server().await;
    narrow(&server, json!({ "type": "Reject" })).await;
    let schemas: Api<FlowSchema> = Api::all(server.client());
    let levels: Api<PriorityLevelConfiguration> = Api::all(server.client());
    let schema = schemas.get("bobs").await.unwrap().metadata.uid.unwrap();
    let level = levels.get("narrow").await.unwrap().metadata.uid.unwrap();
    let answer = send(&server, "GET", MAPS, Value::Null).await;
    assert_eq!(answer.headers()["x-kubernetes-pf-flowschema-uid"], *schema);
    assert_eq!(answer.headers()["x-kubernetes-pf-prioritylevel-uid"], *level);

    let request = Request::get("/metrics").body(Vec::new()).unwrap();
    let metrics = server.client().request_text(request).await.unwrap();
    let line = "apiserver_flowcontrol_dispatched_requests_total{priority_level=\"narrow\",\
                flow_schema=\"bobs\"} 1";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn the_default_objects_are_there_and_come_back() {
    let (server, _) = server().await;
    let schemas: Api<FlowSchema> = Api::all(server.client());
    let levels: Api<PriorityLevelConfiguration> = Api::all(server.client());
    let count = async || {
        let schemas = schemas.list(&ListParams::default()).await.unwrap().items;
        let levels = levels.list(&ListParams::default()).await.unwrap().items;
        (schemas.len(), levels.len())
    };
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(count().await, (11, 8));
    let probes = schemas.get("probes").await.unwrap();
    let condition = &probes.status.unwrap().conditions.unwrap()[0];
    assert_eq!(condition.reason.as_deref(), Some("Found"));

    schemas.delete("exempt", &DeleteParams::default()).await.unwrap();
    let patch = json!({ "spec": { "matchingPrecedence": 3 } });
    schemas.patch("probes", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    levels.delete("system", &DeleteParams::default()).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    let nodes = schemas.get("system-nodes").await.unwrap();
    let condition = &nodes.status.unwrap().conditions.unwrap()[0];
    assert_eq!(
        (condition.status.as_deref(), condition.reason.as_deref()),
        (Some("True"), Some("NotFound"))
    );

    tokio::time::sleep(std::time::Duration::from_secs(61)).await;
    assert_eq!(count().await, (11, 8));
    assert_eq!(schemas.get("probes").await.unwrap().spec.matching_precedence, Some(2));
}

#[tokio::test]
async fn without_it_requests_are_only_counted() {
    let turnstile = Arc::new(Semaphore::new(0));
    let server = ApiServer::builder(Arc::new(EmbeddedStore::in_memory()))
        .authorizer(Arc::new(rk_api::server::authz::AlwaysAllow))
        .admission(Arc::new(Turnstile(turnstile.clone())))
        .priority_and_fairness(false)
        .max_in_flight(0, 1)
        .start()
        .await
        .unwrap();
    let client: Client = server.client_as(UserInfo::new("bob", []));
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let params = PostParams::default();
    let (slow, quick) = (config_map("slow", "1"), config_map("quick", "1"));
    let mut first = std::pin::pin!(maps.create(&params, &slow));
    assert!(first.as_mut().now_or_never().is_none());
    let refused = maps.create(&params, &quick).await;
    assert!(matches!(refused, Err(kube::Error::Api(status)) if status.code == 429));
    maps.list(&ListParams::default()).await.unwrap();
    let _watch = maps.watch(&WatchParams::default(), "0").await.unwrap();
    turnstile.add_permits(1);
    first.await.unwrap();
    maps.create(&params, &quick).await.unwrap();
}

// Conformance: Priority and Fairness FlowSchema API
#[tokio::test]
async fn flow_schemas_have_every_operation() {
    let rule = json!({
        "subjects": [{ "kind": "User", "user": { "name": "example-e2e-non-existent" } }],
        "nonResourceRules": [{ "verbs": ["*"], "nonResourceURLs": ["*"] }],
    });
    let spec = json!({
        "matchingPrecedence": 10_000,
        "priorityLevelConfiguration": { "name": "global-default" },
        "distinguisherMethod": { "type": "ByUser" },
        "rules": [rule],
    });
    let kind = Kind { group: GROUP, plural: "flowschemas", name: "FlowSchema", spec };
    every_operation(kind, Some("Tested")).await;
}

// Conformance: Priority and Fairness PriorityLevelConfiguration API
#[tokio::test]
async fn priority_levels_have_every_operation() {
    let limited = json!({ "nominalConcurrencyShares": 2, "limitResponse": { "type": "Reject" } });
    let spec = json!({ "type": "Limited", "limited": limited });
    let (plural, name) = ("prioritylevelconfigurations", "PriorityLevelConfiguration");
    every_operation(Kind { group: GROUP, plural, name, spec }, Some("Tested")).await;
}
