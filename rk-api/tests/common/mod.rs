//! What the server's tests share. (Cargo takes `tests/common.rs` for a test of its own.)
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses a part, and fails by panicking"
)]

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use rk_api::server::ApiServer;
use rk_store::EmbeddedStore;
use serde_json::json;

/// A server with an empty store in memory.
pub async fn server() -> ApiServer {
    ApiServer::builder(Arc::new(EmbeddedStore::in_memory())).start().await.unwrap()
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
