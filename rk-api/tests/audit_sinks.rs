//! Audit to a service of somebody else, a real HTTPS server, and what is recorded of a panic.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/hooks.rs"]
mod hooks;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{config_map, send};
use hooks::Hook;
use http::Request;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, api::PostParams};
use parking_lot::Mutex;
use rk_api::server::{
    ApiServer,
    admission::{Admission, AdmissionRequest},
    audit::{
        AuditConfig, AuditError, AuditMode, AuditSink, AuditWebhook, BatchConfig, Event, Policy,
    },
};
use rk_store::EmbeddedStore;
use serde_json::{Value, json};

/// Records the creation of ConfigMaps, once each.
const RULES: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\n\
                     rules: [{level: Metadata, verbs: [create], resources: [{resources: \
                     [configmaps]}]}]";

async fn audited(policy: &str, webhook: AuditWebhook) -> ApiServer {
    let config = AuditConfig {
        policy: Some(Policy::parse(policy).unwrap()),
        webhook: Some(webhook),
        ..AuditConfig::default()
    };
    let store = Arc::new(EmbeddedStore::in_memory());
    ApiServer::builder(store).audit(config).start().await.unwrap()
}

async fn create(server: &ApiServer, name: &str) -> Result<ConfigMap, kube::Error> {
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    maps.create(&PostParams::default(), &config_map(name, "1")).await
}

/// The lists that a service took: the names of the objects of their events.
fn taken(lists: &[Value]) -> Vec<Vec<String>> {
    let names = |list: &Value| {
        let events = list["items"].as_array().unwrap().iter();
        events.map(|event| event["objectRef"]["name"].as_str().unwrap().to_owned()).collect()
    };
    lists.iter().map(names).collect()
}

#[tokio::test]
async fn a_batch_is_sent_as_a_list_when_it_is_full_or_the_server_ends() {
    let hook = Hook::raw(|_| json!({})).await;
    let batch = BatchConfig {
        max_batch_size: 2,
        max_batch_wait: Duration::from_secs(3600),
        parallel: false,
        ..BatchConfig::for_webhook()
    };
    let webhook = AuditWebhook { batch, ..AuditWebhook::new(hook.kubeconfig()) };
    let server = audited(RULES, webhook).await;
    for name in ["a", "b", "c"] {
        create(&server, name).await.unwrap();
    }
    server.shutdown().await;

    let lists = hook.asked.lock().clone();
    assert_eq!(taken(&lists), [vec!["a", "b"], vec!["c"]]);
    assert_eq!(lists[0]["kind"], "EventList");
    assert_eq!(lists[0]["apiVersion"], "audit.k8s.io/v1");
    assert_eq!(lists[0]["items"][0]["stage"], "ResponseComplete");
    assert_eq!(lists[0]["items"][0]["level"], "Metadata");
}

#[tokio::test]
async fn a_blocking_webhook_has_taken_the_event_before_the_request_is_answered() {
    let hook = Hook::raw(|_| json!({})).await;
    let webhook =
        AuditWebhook { mode: AuditMode::Blocking, ..AuditWebhook::new(hook.kubeconfig()) };
    let server = audited(RULES, webhook).await;
    for name in ["a", "b"] {
        create(&server, name).await.unwrap();
        let lists = hook.asked.lock().clone();
        assert_eq!(taken(&lists).last().unwrap(), &[name]);
    }
}

#[tokio::test]
async fn a_list_that_is_not_taken_is_sent_again() {
    let tries = Arc::new(AtomicUsize::new(0));
    let hook = Hook::raw({
        let tries = tries.clone();
        move |_| match tries.fetch_add(1, Ordering::Relaxed) {
            0 => json!(500),
            1 => json!(429),
            _ => json!({}),
        }
    })
    .await;
    let webhook = AuditWebhook {
        mode: AuditMode::Blocking,
        initial_backoff: Duration::from_millis(1),
        ..AuditWebhook::new(hook.kubeconfig())
    };
    let server = audited(RULES, webhook).await;
    create(&server, "a").await.unwrap();
    assert_eq!(taken(&hook.asked.lock()), [["a"], ["a"], ["a"]]);
    create(&server, "b").await.unwrap();
    assert_eq!(hook.asked.lock().len(), 4);
}

#[tokio::test]
async fn without_a_strict_webhook_nothing_is_done() {
    let hook = Hook::raw(|_| json!(500)).await;
    let received = RULES.replace("omitStages: [RequestReceived]\n", "");
    for (mode, is_refused) in [(AuditMode::Blocking, false), (AuditMode::BlockingStrict, true)] {
        let webhook = AuditWebhook {
            mode,
            initial_backoff: Duration::from_millis(1),
            ..AuditWebhook::new(hook.kubeconfig())
        };
        let server = audited(&received, webhook).await;
        let created = create(&server, "a").await;
        assert_eq!(created.is_err(), is_refused, "{created:?}");
        let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
        assert_eq!(maps.get_opt("a").await.unwrap().is_none(), is_refused);
    }
    let gone = AuditWebhook::new("not a kubeconfig");
    let config = AuditConfig {
        policy: Some(Policy::parse(RULES).unwrap()),
        webhook: Some(gone),
        ..AuditConfig::default()
    };
    let store = Arc::new(EmbeddedStore::in_memory());
    assert!(ApiServer::builder(store).audit(config).start().await.is_err());
}

// === A handler that panics ===

/// A plug-in with a mistake.
#[derive(Debug)]
struct Panics;

#[async_trait::async_trait]
impl Admission for Panics {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        request.is_about("configmaps") && request.name == "bad"
    }

    async fn validate(&self, _: &AdmissionRequest<'_>) -> Result<(), rk_api::server::ApiError> {
        panic!("a mistake of the plug-in")
    }
}

#[derive(Debug, Default)]
struct Kept(Mutex<Vec<Value>>);

#[async_trait::async_trait]
impl AuditSink for Kept {
    async fn process(&self, events: &[Arc<Event>]) -> Result<(), AuditError> {
        self.0.lock().extend(events.iter().map(|event| json!(event.as_ref())));
        Ok(())
    }
}

#[tokio::test]
async fn a_panic_is_answered_and_recorded_and_hurts_nobody_else() {
    let kept = Arc::new(Kept::default());
    let config = AuditConfig {
        policy: Some(Policy::parse(RULES).unwrap()),
        sinks: vec![kept.clone()],
        ..AuditConfig::default()
    };
    let store = Arc::new(EmbeddedStore::in_memory());
    let server =
        ApiServer::builder(store).audit(config).admission(Arc::new(Panics)).start().await.unwrap();
    let post = async |name: &str| {
        let request = Request::post("/api/v1/namespaces/default/configmaps")
            .header("content-type", "application/json");
        let body = json!(config_map(name, "1")).to_string().into_bytes();
        send(&server, request, body).await
    };
    let answer = post("bad").await;
    assert_eq!(answer.code, 500);
    assert_eq!(
        answer.body["message"],
        "This request caused apiserver to panic. Look in the logs for details: POST \
         /api/v1/namespaces/default/configmaps"
    );
    let events = std::mem::take(&mut *kept.0.lock());
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["stage"], "Panic");
    let status = &events[0]["responseStatus"];
    assert_eq!((&status["code"], &status["reason"]), (&json!(500), &json!("InternalError")));
    assert_eq!(status["message"], "APIServer panic'd: a mistake of the plug-in");

    assert_eq!(post("good").await.code, 201);
    assert_eq!(kept.0.lock()[0]["stage"], "ResponseComplete");
}
