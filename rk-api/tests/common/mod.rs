//! What the server's tests share. (Cargo takes `tests/common.rs` for a test of its own.)
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses a part, and fails by panicking"
)]

#[cfg(feature = "etcd")]
mod etcd;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use rk_api::server::ApiServer;
use rk_store::{EmbeddedStore, Store};
use serde_json::json;

/// A server with an empty store: in memory, or on etcd in the tests of `on_etcd.rs`.
pub async fn server() -> ApiServer {
    ApiServer::builder(store().await).start().await.unwrap()
}

/// A server with an empty store in memory, for tests that stop the clock: time would not wait for
/// another process.
pub async fn server_in_memory() -> ApiServer {
    ApiServer::builder(Arc::new(EmbeddedStore::in_memory())).start().await.unwrap()
}

/// An empty store.
pub async fn store() -> Arc<dyn Store> {
    #[cfg(feature = "etcd")]
    if env!("CARGO_CRATE_NAME") == "on_etcd"
        && let Some(store) = etcd::store().await
    {
        return store;
    }
    Arc::new(EmbeddedStore::in_memory())
}

/// A ConfigMap with one value.
pub fn config_map(name: &str, value: &str) -> ConfigMap {
    let map = json!({ "metadata": { "name": name }, "data": { "k": value } });
    serde_json::from_value(map).unwrap()
}

/// A Pod with one container.
pub fn pod(name: &str) -> Pod {
    let pod = json!({
        "metadata": { "name": name },
        "spec": { "containers": [{ "name": "c", "image": "image" }] },
    });
    serde_json::from_value(pod).unwrap()
}

/// An answer as it came: its code, its headers, and its body if that is JSON.
pub struct Answer {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub body: serde_json::Value,
}

/// Sends a request as an administrator, whatever comes of it.
pub async fn send(server: &ApiServer, request: http::request::Builder, body: Vec<u8>) -> Answer {
    let response = server.client().send(request.body(body.into()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
    let body = serde_json::from_slice(&bytes).unwrap_or_default();
    Answer { code: parts.status.as_u16(), headers: parts.headers, body }
}

/// What reading a path answers.
pub async fn get(server: &ApiServer, path: &str) -> Answer {
    send(server, http::Request::get(path), Vec::new()).await
}
