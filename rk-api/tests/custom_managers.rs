//! Who manages which fields of objects that have several versions: each entry is of the version
//! that was written, and compared in it.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/hooks.rs"]
mod hooks;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use common::{get, send, server};
use http::Request;
use kube::{
    Api, Error,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
};
use rk_api::server::ApiServer;
use serde_json::{Value, json};

const DEFINITION: &str = "gadgets.example.com";

/// v1 has `spec.size`, v2 has `spec.dimensions.size`; both have `spec.color`.
fn convert(review: &Value, works: bool) -> Value {
    let request = &review["request"];
    let desired = request["desiredAPIVersion"].as_str().unwrap();
    let converted = request["objects"].as_array().unwrap().iter().map(|object| {
        let mut object = object.clone();
        // It may have nothing left that either version knows.
        let mut none = serde_json::Map::new();
        let spec = object["spec"].as_object_mut().unwrap_or(&mut none);
        if desired == "example.com/v1" {
            let dimensions = spec.remove("dimensions");
            let size = dimensions.and_then(|dimensions| dimensions.get("size").cloned());
            spec.extend(size.map(|size| ("size".to_owned(), size)));
        } else if let Some(size) = spec.remove("size") {
            spec.insert("dimensions".to_owned(), json!({ "size": size }));
        }
        object["apiVersion"] = desired.into();
        object
    });
    let result = match works {
        true => json!({ "status": "Success" }),
        false => json!({ "status": "Failure", "message": "not today" }),
    };
    json!({
        "apiVersion": review["apiVersion"], "kind": "ConversionReview",
        "response": {
            "uid": request["uid"], "result": result,
            "convertedObjects": converted.collect::<Vec<_>>(),
        },
    })
}

struct Test {
    server: ApiServer,
    works: Arc<AtomicBool>,
}

impl Test {
    async fn start() -> Self {
        let works = Arc::new(AtomicBool::new(true));
        let answers = works.clone();
        let hook =
            hooks::Hook::raw(move |review| convert(review, answers.load(Ordering::SeqCst))).await;
        let server = server().await;
        let (number, text) = (json!({ "type": "integer" }), json!({ "type": "string" }));
        let version = |name: &str, storage: bool, properties: Value| {
            json!({
                "name": name, "served": true, "storage": storage,
                "schema": { "openAPIV3Schema": { "type": "object", "properties": {
                    "spec": { "type": "object", "properties": properties },
                } } },
            })
        };
        let dimensions = json!({ "type": "object", "properties": { "size": number } });
        let definition = json!({
            "metadata": { "name": DEFINITION },
            "spec": {
                "group": "example.com", "scope": "Cluster",
                "names": { "plural": "gadgets", "kind": "Gadget" },
                "versions": [
                    version("v1", true, json!({ "size": number, "color": text })),
                    version("v2", false, json!({ "dimensions": dimensions, "color": text })),
                ],
                "conversion": {
                    "strategy": "Webhook",
                    "webhook": { "clientConfig": hook.client(), "conversionReviewVersions": ["v1"] },
                },
            },
        });
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let request = Request::post(path).header("content-type", "application/json");
        let made = send(&server, request, definition.to_string().into_bytes()).await;
        assert_eq!(made.code, 201, "{}", made.body);
        Self { server, works }
    }

    fn api(&self, version: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("example.com", version, "Gadget");
        Api::all_with(self.server.client(), &ApiResource::from_gvk_with_plural(&kind, "gadgets"))
    }

    async fn apply(
        &self,
        manager: &str,
        version: &str,
        spec: Value,
        force: bool,
    ) -> kube::Result<DynamicObject> {
        let params = PatchParams { force, ..PatchParams::apply(manager) };
        let api_version = format!("example.com/{version}");
        let object = json!({
            "apiVersion": api_version, "kind": "Gadget", "metadata": { "name": "x" }, "spec": spec,
        });
        self.api(version).patch("x", &params, &Patch::Apply(&object)).await
    }

    /// The version and the fields that each manager has.
    async fn managers(&self) -> Vec<(String, String, Value)> {
        let object = self.api("v1").get("x").await.unwrap();
        let entries = object.metadata.managed_fields.unwrap();
        let mut found: Vec<_> = entries
            .into_iter()
            .map(|entry| {
                let fields = entry.fields_v1.map(|fields| fields.0["f:spec"].clone());
                let version = entry.api_version.unwrap();
                let version = version.trim_start_matches("example.com/").to_owned();
                (entry.manager.unwrap(), version, fields.unwrap_or_default())
            })
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }
}

fn entry(manager: &str, version: &str, fields: Value) -> (String, String, Value) {
    (manager.to_owned(), version.to_owned(), fields)
}

#[tokio::test]
async fn a_conflict_is_told_in_the_version_of_who_has_the_field() {
    let t = Test::start().await;
    t.apply("one", "v1", json!({ "size": 1, "color": "red" }), false).await.unwrap();
    let wanted = json!({ "dimensions": { "size": 2 } });
    let Err(Error::Api(refused)) = t.apply("two", "v2", wanted.clone(), false).await else {
        panic!("it was applied");
    };
    assert_eq!(refused.code, 409);
    let why = "Apply failed with 1 conflict: conflict with \"one\": .spec.size";
    assert_eq!(refused.message, why);

    let applied = t.apply("two", "v2", wanted, true).await.unwrap();
    assert_eq!(applied.data["spec"], json!({ "dimensions": { "size": 2 }, "color": "red" }));
    assert_eq!(
        t.managers().await,
        [
            entry("one", "v1", json!({ "f:color": {} })),
            entry("two", "v2", json!({ "f:dimensions": { "f:size": {} } })),
        ]
    );
}

#[tokio::test]
async fn an_update_takes_fields_from_managers_of_other_versions() {
    let t = Test::start().await;
    t.apply("one", "v1", json!({ "size": 1, "color": "red" }), false).await.unwrap();
    t.apply("two", "v2", json!({ "dimensions": { "size": 1 } }), false).await.unwrap();
    let params = PatchParams { field_manager: Some("three".into()), ..PatchParams::default() };
    let patch = Patch::Merge(json!({ "spec": { "dimensions": { "size": 3 } } }));
    t.api("v2").patch("x", &params, &patch).await.unwrap();
    assert_eq!(
        t.managers().await,
        [
            entry("one", "v1", json!({ "f:color": {} })),
            entry("three", "v2", json!({ "f:dimensions": { "f:size": {} } })),
        ]
    );
}

#[tokio::test]
async fn what_is_applied_no_more_goes_also_when_the_version_changes() {
    let t = Test::start().await;
    t.apply("one", "v1", json!({ "size": 1, "color": "red" }), false).await.unwrap();
    let applied = t.apply("one", "v2", json!({ "dimensions": { "size": 1 } }), false).await;
    assert_eq!(applied.unwrap().data["spec"], json!({ "dimensions": { "size": 1 } }));
    let fields = json!({ "f:dimensions": { ".": {}, "f:size": {} } });
    let found = t.managers().await;
    let without_parents = json!({ "f:dimensions": { "f:size": {} } });
    assert!(
        found == [entry("one", "v2", fields)] || found == [entry("one", "v2", without_parents)],
        "{found:?}"
    );
}

#[tokio::test]
async fn without_its_webhook_an_object_is_not_applied_but_updated() {
    let t = Test::start().await;
    t.apply("one", "v2", json!({ "dimensions": { "size": 1 }, "color": "red" }), false)
        .await
        .unwrap();
    let before = t.managers().await;
    let mut object = t.api("v1").get("x").await.unwrap();
    t.works.store(false, Ordering::SeqCst);

    let Err(Error::Api(refused)) = t.apply("two", "v1", json!({ "size": 2 }), true).await else {
        panic!("it was applied");
    };
    let why = "conversion webhook for example.com/v1, Kind=Gadget failed: not today";
    assert_eq!((refused.code, refused.message.as_str()), (500, why));

    object.data["spec"]["size"] = json!(5);
    object.metadata.managed_fields = None;
    let updated = t.api("v1").replace("x", &PostParams::default(), &object).await.unwrap();
    assert_eq!(updated.data["spec"]["size"], 5);
    assert_eq!(t.managers().await, before);
}

#[tokio::test]
async fn a_definition_is_applied_in_its_old_form() {
    let server = server().await;
    let old = |columns: Value| {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1beta1", "kind": "CustomResourceDefinition",
            "metadata": { "name": "tabs.example.com" },
            "spec": {
                "group": "example.com", "version": "v1", "scope": "Cluster",
                "preserveUnknownFields": false,
                "names": { "plural": "tabs", "kind": "Tab" },
                "validation": { "openAPIV3Schema": { "type": "object" } },
                "additionalPrinterColumns": columns,
            },
        })
    };
    let path = "/apis/apiextensions.k8s.io/v1beta1/customresourcedefinitions/tabs.example.com";
    let apply = async |manager: &str, body: Value| {
        let request = Request::patch(format!("{path}?fieldManager={manager}"))
            .header("content-type", "application/apply-patch+yaml");
        send(&server, request, body.to_string().into_bytes()).await
    };
    let column = json!([{ "name": "A", "type": "string", "JSONPath": ".spec.a" }]);
    let made = apply("one", old(column.clone())).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(made.body["spec"]["additionalPrinterColumns"], column);
    let again = apply("one", old(column)).await;
    assert_eq!(again.body["metadata"]["generation"], 1, "{}", again.body);

    let other = json!([{ "name": "B", "type": "string", "JSONPath": ".spec.b" }]);
    let refused = apply("two", old(other.clone())).await;
    assert_eq!(refused.code, 409, "{}", refused.body);
    let message = refused.body["message"].as_str().unwrap();
    let told = "conflict with \"one\": .spec.additionalPrinterColumns";
    assert!(message.ends_with(told), "{message}");
    let changed = apply("one", old(other)).await;
    assert_eq!(changed.code, 200, "{}", changed.body);
    let stored = get(&server, &path.replace("v1beta1", "v1")).await.body;
    let columns = &stored["spec"]["versions"][0]["additionalPrinterColumns"];
    assert_eq!(columns[0]["jsonPath"], ".spec.b");
}
