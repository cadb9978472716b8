//! Custom objects of two versions that a webhook converts, and a store that has both.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/hooks.rs"]
mod hooks;

use std::sync::Arc;

use common::send;
use http::Request;
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, PostParams},
    core::GroupVersionKind,
};
use rk_api::server::ApiServer;
use rk_store::{EmbeddedStore, Store};
use serde_json::{Value, json};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const GROUP: &str = "stable.example.com";

/// v1 has `hostPort`, v2 has `host` and `port`.
fn convert(review: &Value) -> Value {
    let request = &review["request"];
    let desired = request["desiredAPIVersion"].as_str().unwrap();
    let converted = request["objects"].as_array().unwrap().iter().map(|object| {
        let mut object = object.clone();
        let members = object.as_object_mut().unwrap();
        let mut take = |name: &str| members.remove(name).unwrap().as_str().unwrap().to_owned();
        if desired.ends_with("/v2") {
            let address = take("hostPort");
            let (host, port) = address.split_once(':').unwrap();
            object["host"] = host.into();
            object["port"] = port.into();
        } else {
            object["hostPort"] = format!("{}:{}", take("host"), take("port")).into();
        }
        object["apiVersion"] = desired.into();
        object
    });
    json!({
        "apiVersion": review["apiVersion"], "kind": "ConversionReview",
        "response": {
            "uid": request["uid"], "result": { "status": "Success" },
            "convertedObjects": converted.collect::<Vec<_>>(),
        },
    })
}

struct Test {
    server: ApiServer,
    store: Arc<EmbeddedStore>,
    definition: Value,
}

impl Test {
    async fn start() -> Self {
        let hook = hooks::Hook::raw(convert).await;
        let store = Arc::new(EmbeddedStore::in_memory());
        let server = ApiServer::builder(store.clone()).start().await.unwrap();
        let version = |name: &str, storage: bool, fields: &[&str]| {
            let fields = fields.iter().map(|field| (*field, json!({ "type": "string" })));
            let properties: std::collections::BTreeMap<_, _> = fields.collect();
            json!({
                "name": name, "served": true, "storage": storage,
                "schema": { "openAPIV3Schema": { "type": "object", "properties": properties } },
            })
        };
        let definition = json!({
            "metadata": { "name": format!("addresses.{GROUP}") },
            "spec": {
                "group": GROUP, "scope": "Namespaced",
                "names": { "plural": "addresses", "kind": "Address" },
                "versions": [
                    version("v1", true, &["hostPort"]), version("v2", false, &["host", "port"]),
                ],
                "conversion": {
                    "strategy": "Webhook",
                    "webhook": { "clientConfig": hook.client(), "conversionReviewVersions": ["v1"] },
                },
            },
        });
        let request = Request::post(DEFINITIONS).header("content-type", "application/json");
        let made = send(&server, request, definition.to_string().into_bytes()).await;
        assert_eq!(made.code, 201, "{}", made.body);
        Self { server, store, definition }
    }

    fn api(&self, version: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk(GROUP, version, "Address");
        let resource = ApiResource::from_gvk_with_plural(&kind, "addresses");
        Api::default_namespaced_with(self.server.client(), &resource)
    }

    async fn create(&self, version: &str, name: &str, members: Value) {
        let mut object = json!({
            "apiVersion": format!("{GROUP}/{version}"), "kind": "Address",
            "metadata": { "name": name },
        });
        object.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        let object = serde_json::from_value(object).unwrap();
        self.api(version).create(&PostParams::default(), &object).await.unwrap();
    }

    /// The version that an object is stored in.
    async fn stored_as(&self, name: &str) -> String {
        let key = format!("/registry/{GROUP}/addresses/default/{name}");
        let stored = self.store.get(&key).await.unwrap().unwrap();
        let object: Value = serde_json::from_slice(&stored.value).unwrap();
        object["apiVersion"].as_str().unwrap().to_owned()
    }

    /// From now on the second version is stored.
    async fn store_v2(&mut self) {
        for (version, storage) in [(0, false), (1, true)] {
            self.definition["spec"]["versions"][version]["storage"] = storage.into();
        }
        let patch = json!({ "spec": { "versions": self.definition["spec"]["versions"] } });
        let request = Request::patch(format!("{DEFINITIONS}/addresses.{GROUP}"))
            .header("content-type", "application/merge-patch+json");
        let patched = send(&self.server, request, patch.to_string().into_bytes()).await;
        assert_eq!(patched.code, 200, "{}", patched.body);
        assert_eq!(patched.body["status"]["storedVersions"], json!(["v1", "v2"]));
    }
}

fn members<const N: usize>(object: &DynamicObject, names: [&str; N]) -> [String; N] {
    names.map(|name| object.data[name].as_str().unwrap_or_default().to_owned())
}

// Conformance: Custom Resource Definition Conversion Webhook, conversion custom resource
#[tokio::test]
async fn an_object_is_read_in_the_version_that_is_asked_for() {
    let t = Test::start().await;
    t.create("v1", "cr-instance-1", json!({ "hostPort": "localhost:8080" })).await;
    assert_eq!(t.stored_as("cr-instance-1").await, format!("{GROUP}/v1"));
    let found = t.api("v2").get("cr-instance-1").await.unwrap();
    assert_eq!(members(&found, ["hostPort", "host", "port"]), ["", "localhost", "8080"]);
}

// Conformance: Custom Resource Definition Conversion Webhook, convert mixed version list
#[tokio::test]
async fn objects_that_are_stored_in_two_versions_are_listed_in_either() {
    let mut t = Test::start().await;
    t.create("v1", "cr-instance-1", json!({ "hostPort": "localhost:8080" })).await;
    t.store_v2().await;
    // The definition is followed in the background.
    for attempt in 0.. {
        t.create("v2", "cr-instance-2", json!({ "host": "localhost", "port": "8081" })).await;
        if t.stored_as("cr-instance-2").await == format!("{GROUP}/v2") {
            break;
        }
        assert!(attempt < 1000, "the second version is not stored");
        t.api("v2").delete("cr-instance-2", &DeleteParams::default()).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(t.stored_as("cr-instance-1").await, format!("{GROUP}/v1"));

    let listed = t.api("v1").list(&ListParams::default()).await.unwrap();
    let found: Vec<_> =
        listed.items.iter().map(|item| (item.name_any(), members(item, ["hostPort"]))).collect();
    assert_eq!(
        found,
        [
            ("cr-instance-1".to_owned(), ["localhost:8080".to_owned()]),
            ("cr-instance-2".to_owned(), ["localhost:8081".to_owned()]),
        ]
    );
    let listed = t.api("v2").list(&ListParams::default()).await.unwrap();
    let found: Vec<_> = listed.items.iter().map(|item| members(item, ["host", "port"])).collect();
    assert_eq!(found, [["localhost", "8080"], ["localhost", "8081"]]);
}
