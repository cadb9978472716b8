//! What the server tells of tokens that should be used no longer, and of those that never end.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use common::Answer;
use http_body_util::{BodyExt, Full};
use k8s_openapi::{
    ByteString,
    api::{
        authentication::v1::{TokenRequest, TokenReview},
        core::v1::{ConfigMap, Pod, Secret, ServiceAccount},
    },
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use rk_api::server::{
    ApiServer, TokenKey,
    audit::{AuditConfig, AuditError, AuditSink, Event, Policy},
};
use rk_store::EmbeddedStore;
use serde_json::{Value, json};
use tower::ServiceExt;

/// Keeps audit events.
#[derive(Debug, Default)]
struct Kept(Mutex<Vec<Value>>);

#[async_trait]
impl AuditSink for Kept {
    async fn process(&self, events: &[Arc<Event>]) -> Result<(), AuditError> {
        let events = events.iter().map(|event| serde_json::to_value(event.as_ref()).unwrap());
        self.0.lock().unwrap().extend(events);
        Ok(())
    }
}

struct Test {
    server: ApiServer,
    client: Client,
    kept: Arc<Kept>,
    key: TokenKey,
}

impl Test {
    /// A server that records, and an account `robot`.
    async fn start() -> Self {
        let kept = Arc::new(Kept::default());
        let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\n\
                      rules: [{level: Metadata, resources: [{group: authentication.k8s.io}]}]";
        let config = AuditConfig {
            policy: Some(Policy::parse(policy).unwrap()),
            sinks: vec![kept.clone()],
            ..AuditConfig::default()
        };
        let key = TokenKey::generate().unwrap();
        let server = ApiServer::builder(Arc::new(EmbeddedStore::in_memory()))
            .token_key(key.clone())
            .audit(config)
            .start()
            .await
            .unwrap();
        server.roles_ready().await;
        let test = Self { client: server.client(), server, kept, key };
        test.create(json!({ "metadata": { "name": "robot" } }), test.accounts()).await;
        test
    }

    fn accounts(&self) -> Api<ServiceAccount> {
        Api::default_namespaced(self.client.clone())
    }

    fn secrets(&self) -> Api<Secret> {
        Api::default_namespaced(self.client.clone())
    }

    async fn create<K>(&self, object: Value, api: Api<K>) -> K
    where
        K: Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
    {
        let object = serde_json::from_value(object).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap()
    }

    /// Asks who one is, with a token: the answer, and the annotations of its audit event.
    async fn ask(&self, token: &str) -> (Answer, Value) {
        self.kept.0.lock().unwrap().clear();
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview",
        });
        let request = http::Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {token}"));
        let request = request.body(Full::from(review.to_string())).unwrap();
        let (parts, body) = self.server.clone().oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let answer = Answer {
            code: parts.status.as_u16(),
            headers: parts.headers,
            body: serde_json::from_slice(&body).unwrap(),
        };
        let events = std::mem::take(&mut *self.kept.0.lock().unwrap());
        (answer, events.last().map(|event| event["annotations"].clone()).unwrap_or_default())
    }

    /// How often something was counted.
    async fn counted(&self, name: &str) -> u64 {
        let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
        let text = self.client.request_text(request).await.unwrap();
        let name = format!("serviceaccount_{name}_total ");
        text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
    }

    /// A Secret of this name with a token of the account in it, as a controller fills them in.
    async fn token_in_secret(&self, name: &str) -> String {
        let account = self.accounts().get("robot").await.unwrap();
        let uid = account.metadata.uid.unwrap();
        let token = self.key.sign_for_secret("default", ("robot", &uid), name).unwrap();
        let secret = json!({
            "metadata": {
                "name": name,
                "annotations": {
                    "kubernetes.io/service-account.name": "robot",
                    "kubernetes.io/service-account.uid": uid,
                },
            },
            "type": "kubernetes.io/service-account-token",
            "stringData": { "token": token },
        });
        self.create(secret, self.secrets()).await;
        token
    }

    async fn label(&self, secret: &str, label: &str) -> Option<String> {
        let secret = self.secrets().get(secret).await.unwrap();
        secret.metadata.labels?.remove(label)
    }
}

const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";

#[tokio::test(start_paused = true)]
async fn a_token_that_a_pod_should_have_read_again_is_told_of_and_taken() {
    let test = Test::start().await;
    let pod = json!({
        "metadata": { "name": "p" },
        "spec": { "serviceAccountName": "robot", "containers": [{ "name": "c", "image": "i" }] },
    });
    test.create::<Pod>(pod, Api::default_namespaced(test.client.clone())).await;
    let bound = json!({ "apiVersion": "v1", "kind": "Pod", "name": "p" });
    let request: TokenRequest = serde_json::from_value(json!({
        "metadata": {},
        "spec": { "audiences": [], "expirationSeconds": 3607, "boundObjectRef": bound },
    }))
    .unwrap();
    let accounts = test.accounts();
    let made = accounts.create_token_request("robot", &PostParams::default(), &request).await;
    let token = made.unwrap().status.unwrap().token.unwrap();

    let (answer, annotations) = test.ask(&token).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    assert_eq!(annotations.get("authentication.k8s.io/stale-token"), None);
    assert_eq!((test.counted("valid_tokens").await, test.counted("stale_tokens").await), (1, 0));

    tokio::time::advance(Duration::from_secs(3607 + 60)).await;
    let (answer, annotations) = test.ask(&token).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    let told = annotations["authentication.k8s.io/stale-token"].as_str().unwrap();
    let subject = "subject: system:serviceaccount:default:robot, seconds after warning threshold: ";
    let late: i64 = told.strip_prefix(subject).unwrap().parse().unwrap();
    assert!(late >= 60, "{told}");
    assert_eq!((test.counted("valid_tokens").await, test.counted("stale_tokens").await), (1, 1));

    tokio::time::advance(Duration::from_secs(366 * 24 * 3600)).await;
    assert_eq!(test.ask(&token).await.0.code, 401);
}

#[tokio::test(start_paused = true)]
async fn a_token_in_a_secret_is_marked_on_each_day_that_it_is_used() {
    let test = Test::start().await;
    let token = test.token_in_secret("by-hand").await;
    assert_eq!(test.label("by-hand", LAST_USED).await, None);

    let (answer, annotations) = test.ask(&token).await;
    assert_eq!(
        answer.body["status"]["userInfo"]["username"],
        "system:serviceaccount:default:robot"
    );
    assert_eq!(answer.headers.get("warning"), None);
    assert_eq!(
        annotations["authentication.k8s.io/legacy-token"],
        "system:serviceaccount:default:robot"
    );
    assert_eq!(annotations["authentication.k8s.io/legacy-token-manual-secret"], "by-hand");
    let today = test.label("by-hand", LAST_USED).await.unwrap();
    assert_eq!(today.len(), "2026-01-01".len());

    // It need not be marked again on the same day, and is on another one.
    let version = async || test.secrets().get("by-hand").await.unwrap().metadata.resource_version;
    let before = version().await;
    test.ask(&token).await;
    assert_eq!(version().await, before);
    tokio::time::advance(Duration::from_secs(3 * 24 * 3600)).await;
    test.ask(&token).await;
    assert!(test.label("by-hand", LAST_USED).await.unwrap() > today);
    assert_eq!(test.counted("legacy_manual_token_uses").await, 3);
    assert_eq!(test.counted("legacy_tokens").await, 3);
}

#[tokio::test]
async fn a_token_that_a_controller_made_is_warned_of() {
    let test = Test::start().await;
    let token = test.token_in_secret("robot-token-x").await;
    let listed = json!({ "secrets": [{ "name": "robot-token-x" }] });
    let params = PatchParams::default();
    test.accounts().patch("robot", &params, &Patch::Merge(listed)).await.unwrap();
    // What is read like this is at least as new, so the server knows of it.
    test.accounts().list(&Default::default()).await.unwrap();

    let (answer, annotations) = test.ask(&token).await;
    assert_eq!(
        answer.headers["warning"],
        "299 - \"Use tokens from the TokenRequest API or manually created secret-based tokens \
         instead of auto-generated secret-based tokens.\""
    );
    let key = "authentication.k8s.io/legacy-token-autogenerated-secret";
    assert_eq!(annotations[key], "robot-token-x");
    assert_eq!(test.counted("legacy_auto_token_uses").await, 1);
}

#[tokio::test]
async fn a_token_that_is_marked_as_invalid_is_refused_and_its_use_noted() {
    let test = Test::start().await;
    let token = test.token_in_secret("old").await;
    let label = json!({ "kubernetes.io/legacy-token-invalid-since": "2026-01-01" });
    let mark = json!({ "metadata": { "labels": label } });
    let params = PatchParams::default();
    test.secrets().patch("old", &params, &Patch::Merge(mark)).await.unwrap();
    // What is read like this is at least as new, so the server knows of the mark.
    test.secrets().list(&Default::default()).await.unwrap();

    let (answer, annotations) = test.ask(&token).await;
    assert_eq!(answer.code, 401);
    assert_eq!(annotations["authentication.k8s.io/legacy-token-invalidated"], "old/default");
    assert!(test.label("old", LAST_USED).await.is_some());
    assert_eq!(test.counted("invalid_legacy_auto_token_uses").await, 1);
}

#[tokio::test]
async fn a_token_is_worth_nothing_without_its_secret() {
    let test = Test::start().await;
    let token = test.token_in_secret("kept").await;
    assert_eq!(test.ask(&token).await.0.code, 201);

    // Another one is in it now.
    let other = ByteString(b"another".to_vec());
    let other = json!({ "data": { "token": other } });
    let params = PatchParams::default();
    test.secrets().patch("kept", &params, &Patch::Merge(other)).await.unwrap();
    test.secrets().list(&Default::default()).await.unwrap();
    assert_eq!(test.ask(&token).await.0.code, 401);

    test.secrets().delete("kept", &Default::default()).await.unwrap();
    test.secrets().list(&Default::default()).await.unwrap();
    assert_eq!(test.ask(&token).await.0.code, 401);
}

#[tokio::test]
async fn a_review_of_a_token_in_a_secret_tells_of_it_too() {
    let test = Test::start().await;
    let token = test.token_in_secret("by-hand").await;
    let review = json!({ "metadata": {}, "spec": { "token": token } });
    let review = test.create::<TokenReview>(review, Api::all(test.client.clone())).await;
    assert_eq!(review.status.unwrap().authenticated, Some(true));
    let event = test.kept.0.lock().unwrap().last().cloned().unwrap();
    let key = "authentication.k8s.io/legacy-token-manual-secret";
    assert_eq!(event["annotations"][key], "by-hand");
}

#[tokio::test]
async fn the_cluster_says_since_when_such_tokens_are_marked() {
    let test = Test::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(test.client.clone(), "kube-system");
    let map = maps.get("kube-apiserver-legacy-service-account-token-tracking").await.unwrap();
    let since: k8s_openapi::jiff::civil::Date = map.data.unwrap()["since"].parse().unwrap();
    assert!(since <= rk_api::clock::now().to_zoned(k8s_openapi::jiff::tz::TimeZone::UTC).date());
}
