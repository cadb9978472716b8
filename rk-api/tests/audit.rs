//! Audit: what is recorded of a request, at which stage, and where it goes.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use common::config_map;
use futures::StreamExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams, WatchParams},
};
use rk_api::server::{
    ApiServer, ResponseBody, UserInfo,
    audit::{AuditConfig, AuditError, AuditLog, AuditSink, Event, Policy},
    authn::TokenList,
};
use rk_store::EmbeddedStore;
use serde_json::{Value, json};
use tower::ServiceExt;

/// Keeps events; refuses them while it is told to.
#[derive(Debug, Default)]
struct Kept {
    events: Mutex<Vec<Value>>,
    refuses: std::sync::atomic::AtomicBool,
}

#[async_trait]
impl AuditSink for Kept {
    async fn process(&self, events: &[Arc<Event>]) -> Result<(), AuditError> {
        if self.refuses.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(AuditError::Stopped);
        }
        let events = events.iter().map(|event| serde_json::to_value(event.as_ref()).unwrap());
        self.events.lock().unwrap().extend(events);
        Ok(())
    }
}

impl Kept {
    fn take(&self) -> Vec<Value> {
        std::mem::take(&mut *self.events.lock().unwrap())
    }
}

fn policy(rest: &str) -> Policy {
    Policy::parse(&format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rest}")).unwrap()
}

async fn audited(rest: &str) -> (ApiServer, Arc<Kept>) {
    let kept = Arc::new(Kept::default());
    let config = AuditConfig {
        policy: Some(policy(rest)),
        sinks: vec![kept.clone()],
        ..AuditConfig::default()
    };
    let tokens = TokenList::default().with("secret", UserInfo::new("bob", ["devs"]));
    let server = ApiServer::builder(Arc::new(EmbeddedStore::in_memory()))
        .authenticator(Arc::new(tokens))
        .audit(config)
        .start()
        .await
        .unwrap();
    server.roles_ready().await;
    kept.take();
    (server, kept)
}

async fn send(server: &ApiServer, request: http::request::Builder) -> Response<ResponseBody> {
    server.clone().oneshot(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap()
}

fn stages(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["stage"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn an_event_tells_of_all_that_policies_find() {
    let (server, kept) = audited("omitStages: [RequestReceived]\nrules: [{level: Metadata}]").await;
    let post = async |plural: &str, object: Value| {
        let request = Request::post(format!("/apis/admissionregistration.k8s.io/v1/{plural}"))
            .header("content-type", "application/json");
        let made = common::send(&server, request, object.to_string().into_bytes()).await;
        assert_eq!(made.code, 201, "{}", made.body);
    };
    let rules = json!([{
        "operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
    }]);
    for (policy, validations) in [
        (
            "a",
            json!([{ "expression": "false" }, { "expression": "true" }, { "expression": "1 > 2" }]),
        ),
        ("b", json!([{ "expression": "object.nothing == 1" }])),
    ] {
        let spec = json!({
            "matchConstraints": { "resourceRules": rules }, "validations": validations,
        });
        post(
            "validatingadmissionpolicies",
            json!({ "metadata": { "name": policy }, "spec": spec }),
        )
        .await;
        let spec = json!({ "policyName": policy, "validationActions": ["Audit"] });
        let binding = json!({ "metadata": { "name": format!("{policy}-all") }, "spec": spec });
        post("validatingadmissionpolicybindings", binding).await;
    }
    kept.take();
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    maps.create(&PostParams::default(), &config_map("m", "1")).await.unwrap();

    let events = kept.take();
    let of_map = |event: &&Value| event["objectRef"]["resource"] == "configmaps";
    let event = events.iter().find(of_map).unwrap();
    let told = &event["annotations"]["validation.policy.admission.k8s.io/validation_failure"];
    let failures: Value = serde_json::from_str(told.as_str().unwrap()).unwrap();
    let failure = |policy: &str, index: usize, message: &str| {
        json!({
            "message": message, "policy": policy, "binding": format!("{policy}-all"),
            "expressionIndex": index, "validationActions": ["Audit"],
        })
    };
    let missing = "expression 'object.nothing == 1' resulted in error: no such key: nothing";
    assert_eq!(
        failures,
        json!([
            failure("a", 0, "failed expression: false"),
            failure("a", 2, "failed expression: 1 > 2"),
            failure("b", 0, missing),
        ])
    );
}

#[tokio::test]
async fn an_event_says_who_did_what_to_which_object() {
    let (server, kept) = audited("rules: [{level: RequestResponse}]").await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();

    let events = kept.take();
    assert_eq!(stages(&events), ["RequestReceived", "ResponseComplete"]);
    let (received, complete) = (&events[0], &events[1]);
    assert_eq!(received["auditID"], complete["auditID"]);
    assert_eq!(received.get("responseStatus"), None);
    assert_eq!(complete["verb"], "create");
    assert_eq!(complete["user"]["username"], "system:admin");
    assert_eq!(complete["objectRef"]["resource"], "configmaps");
    assert_eq!(complete["objectRef"]["name"], "a", "it is taken from the body");
    assert_eq!(complete["responseStatus"], json!({ "metadata": {}, "code": 201 }));
    assert_eq!(complete["requestObject"]["data"], json!({ "k": "1" }));
    assert!(complete["responseObject"]["metadata"]["uid"].is_string());
    assert_eq!(complete["annotations"]["authorization.k8s.io/decision"], "allow");
}

#[tokio::test]
async fn levels_and_stages_are_the_policys() {
    let (server, kept) = audited(
        "omitStages: [RequestReceived]\n\
         omitManagedFields: true\n\
         rules:\n\
         - {level: None, verbs: [get]}\n\
         - {level: Metadata, verbs: [create]}\n\
         - {level: RequestResponse, verbs: [patch]}",
    )
    .await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    maps.get("a").await.unwrap();
    let patch = Patch::Merge(json!({ "data": { "k": "2" } }));
    maps.patch("a", &PatchParams::default(), &patch).await.unwrap();

    let events = kept.take();
    assert_eq!(stages(&events), ["ResponseComplete", "ResponseComplete"]);
    assert_eq!(events[0]["verb"], "create");
    assert!(events[0].get("requestObject").is_none() && events[0].get("responseObject").is_none());
    assert_eq!(events[1]["requestObject"], json!({ "data": { "k": "2" } }));
    assert!(events[1]["responseObject"]["metadata"].get("managedFields").is_none());
}

#[tokio::test]
async fn a_watch_is_recorded_when_it_starts_and_when_it_ends() {
    let (server, kept) = audited("rules: [{level: Metadata, verbs: [watch]}]").await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    let watch = maps.watch(&WatchParams::default().timeout(1), "0").await.unwrap();
    assert_eq!(stages(&kept.take()), ["RequestReceived", "ResponseStarted"]);

    watch.boxed().collect::<Vec<_>>().await;
    while kept.events.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(stages(&kept.take()), ["ResponseComplete"]);
}

#[tokio::test]
async fn refusals_are_recorded_with_their_reason() {
    let (server, kept) = audited("omitStages: [RequestReceived]\nrules: [{level: Metadata}]").await;
    let request = Request::get("/api/v1/namespaces/default/secrets/x?a=b");
    let request = request.header("authorization", "Bearer secret").header("user-agent", "curl/8");
    assert_eq!(send(&server, request).await.status(), 403);

    let event = kept.take().remove(0);
    assert_eq!(event["requestURI"], "/api/v1/namespaces/default/secrets/x?a=b");
    assert_eq!(event["userAgent"], "curl/8");
    assert_eq!(event["user"]["groups"], json!(["devs", "system:authenticated"]));
    assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "forbid");
    let status = &event["responseStatus"];
    assert_eq!((&status["code"], &status["reason"]), (&json!(403), &json!("Forbidden")));
    assert_eq!(status["details"]["kind"], "secrets");

    let request = Request::get("/version").header("authorization", "Bearer wrong");
    assert_eq!(send(&server, request).await.status(), 401);
    let event = kept.take().remove(0);
    assert_eq!(event["stage"], "ResponseStarted");
    let message = "Authentication failed, attempted: bearer";
    assert_eq!(event["responseStatus"]["message"], message);
}

#[tokio::test]
async fn an_event_names_the_user_and_whom_they_impersonate() {
    let (server, kept) = audited("omitStages: [RequestReceived]\nrules: [{level: Metadata}]").await;
    let request = Request::get("/api/v1/namespaces/default/configmaps")
        .extension(())
        .header("impersonate-user", "jane")
        .header("impersonate-group", "system:masters");
    let client = server.client();
    let request = request.body(Vec::new()).unwrap();
    client.request::<Value>(request).await.unwrap();

    let event = kept.take().remove(0);
    assert_eq!(event["user"]["username"], "system:admin");
    assert_eq!(event["impersonatedUser"]["username"], "jane");
    assert_eq!(
        event["impersonatedUser"]["groups"],
        json!(["system:masters", "system:authenticated"])
    );
    assert_eq!(event.get("authenticationMetadata"), None);

    let request = Request::get("/api/v1/namespaces/default/configmaps")
        .header("impersonate-user", "jane")
        .header("impersonate-group", "devs");
    let refused = common::send(&server, request, Vec::new()).await;
    assert_eq!(refused.code, 403);
    let event = kept.take().remove(0);
    let metadata = json!({ "impersonationConstraint": "impersonate:user-info" });
    assert_eq!(event["authenticationMetadata"], metadata);
}

#[tokio::test]
async fn a_request_that_a_strict_sink_does_not_take_is_refused() {
    let (server, kept) = audited("rules: [{level: Metadata}]").await;
    kept.refuses.store(true, std::sync::atomic::Ordering::Relaxed);
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    let error = maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap_err();
    let kube::Error::Api(status) = error else { panic!("{error}") };
    let message = "Internal error occurred: failed to store audit event";
    assert_eq!((status.code, status.message.as_str()), (500, message));
}

#[tokio::test]
async fn a_log_has_a_line_for_each_event() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("logs/audit.log");
    let config = AuditConfig {
        policy: Some(policy(
            "omitStages: [RequestReceived]\nrules: [{level: Metadata, verbs: [create], resources: [{resources: [configmaps]}]}]",
        )),
        log: Some(AuditLog::new(&path)),
        ..AuditConfig::default()
    };
    let store = Arc::new(EmbeddedStore::in_memory());
    let server = ApiServer::builder(store).audit(config).start().await.unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    for name in ["a", "b"] {
        maps.create(&PostParams::default(), &config_map(name, "1")).await.unwrap();
    }
    server.shutdown().await;

    let log = std::fs::read_to_string(&path).unwrap();
    let events: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<_> = events.iter().map(|event| &event["objectRef"]["name"]).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(events[0]["apiVersion"], "audit.k8s.io/v1");
}

#[tokio::test]
async fn reading_the_answer_is_not_changed_by_recording_it() {
    let (server, _kept) = audited("rules: [{level: RequestResponse}]").await;
    let request = Request::get("/version").header("authorization", "Bearer secret");
    let body = send(&server, request).await.into_body().collect().await.unwrap().to_bytes();
    assert!(serde_json::from_slice::<Value>(&body).unwrap()["gitVersion"].is_string());
}
