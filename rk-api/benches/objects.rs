//! What it costs to take in an object: its parts, and a whole create in process.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use rk_api::{
    meta::quantity::Quantity,
    resources::{Resource, Resources},
    server::{ApiServer, UserInfo, authn::TokenList},
};
use rk_store::EmbeddedStore;
use tower::ServiceExt;

fn main() {
    divan::main();
}

fn pods() -> Arc<Resource> {
    Resources::builtin().get("", "v1", "pods").expect("Pods are built in").clone()
}

fn pod(name: &str) -> Vec<u8> {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "speed", "tier": "backend"}},
        "spec": {"containers": [
            {"name": "app", "image": "registry.example.com/team/app:v1.2.3",
             "command": ["/app", "--listen=:8080", "--log-level=info"],
             "env": [{"name": "A", "value": "one"}, {"name": "B", "value": "two"},
                     {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
             "ports": [{"name": "http", "containerPort": 8080}],
             "resources": {"requests": {"cpu": "100m", "memory": "128Mi"},
                           "limits": {"cpu": "500m", "memory": "256Mi"}},
             "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}}}],
            "tolerations": [{"key": "example.com/pool", "operator": "Exists"}]}
    })
    .to_string()
    .into_bytes()
}

/// What serde alone needs for the same text: the floor of [`decode`].
#[divan::bench]
fn decode_by_serde_alone(bencher: divan::Bencher<'_, '_>) {
    let json = pod("p");
    bencher.bench(|| serde_json::from_slice::<k8s_openapi::api::core::v1::Pod>(&json).is_ok());
}

#[divan::bench]
fn decode(bencher: divan::Bencher<'_, '_>) {
    let (resource, json) = (pods(), pod("p"));
    bencher.bench(|| resource.strategy.decode(&json).map(|decoded| decoded.strict_errors.len()));
}

#[divan::bench]
fn validate(bencher: divan::Bencher<'_, '_>) {
    let (resource, json) = (pods(), pod("p"));
    let mut object = resource.strategy.decode(&json).expect("it is a Pod").object;
    resource.strategy.default(object.as_mut());
    bencher.bench(|| resource.strategy.validate(object.as_ref()).len());
}

#[divan::bench]
fn encode(bencher: divan::Bencher<'_, '_>) {
    let (resource, json) = (pods(), pod("p"));
    let mut object = resource.strategy.decode(&json).expect("it is a Pod").object;
    resource.strategy.default(object.as_mut());
    bencher.bench(|| object.encode().map(|json| json.len()));
}

#[divan::bench(args = ["128Mi", "500m", "1024Mi", "0.5"])]
fn canonical_quantity(text: &str) -> bool {
    Quantity::canonical(text).is_ok()
}

/// A create from the request to the answer, without a client around it.
#[divan::bench(sample_count = 50, sample_size = 100)]
fn create(bencher: divan::Bencher<'_, '_>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime can be made");
    let admins = Arc::new(TokenList::default().with("secret", UserInfo::admin()));
    let store = Arc::new(EmbeddedStore::in_memory());
    let server = runtime.block_on(ApiServer::builder(store).authenticator(admins).start());
    let server = server.expect("an empty server starts");
    let count = AtomicUsize::new(0);
    bencher
        .with_inputs(|| {
            let body = pod(&format!("p{}", count.fetch_add(1, Ordering::Relaxed)));
            Request::post("/api/v1/namespaces/default/pods")
                .header("authorization", "Bearer secret")
                .header("content-type", "application/json")
                .body(Full::new(Bytes::from(body)))
                .expect("a valid request")
        })
        .bench_values(|request| {
            let answer = runtime.block_on(server.clone().oneshot(request));
            assert_eq!(answer.map(|answer| answer.status().as_u16()), Ok(201));
        });
}
