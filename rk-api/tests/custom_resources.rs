//! Custom resources through kube's client, with kinds as its derive makes them.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/hooks.rs"]
mod hooks;

use std::{sync::Arc, time::Duration};

use common::server;
use futures::{Stream, StreamExt, TryStreamExt};
use http::{Request, header};
use k8s_openapi::{
    api::autoscaling::v1::Scale,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, CustomResource, CustomResourceExt, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use rk_api::server::ApiServer;
use rk_store::EmbeddedStore;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What a widget is to be.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, JsonSchema, PartialEq)]
#[kube(
    group = "example.com",
    version = "v1",
    kind = "Widget",
    namespaced,
    status = "WidgetStatus",
    shortname = "wd",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn = r#"{"name":"Size","type":"integer","jsonPath":".spec.size"}"#,
    selectable = ".spec.color"
)]
struct WidgetSpec {
    size: i32,
    #[serde(default = "red")]
    color: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    replicas: Option<i32>,
}

/// What a widget is.
#[derive(Serialize, Deserialize, Clone, Debug, Default, JsonSchema, PartialEq)]
struct WidgetStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    replicas: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    selector: Option<String>,
}

fn red() -> String {
    "red".to_owned()
}

fn widget(name: &str, size: i32) -> Widget {
    Widget::new(name, WidgetSpec { size, color: red(), replicas: None })
}

/// A definition with these versions.
fn definition(plural: &str, kind: &str, versions: Value) -> CustomResourceDefinition {
    let group = "example.com";
    let definition = json!({
        "metadata": { "name": format!("{plural}.{group}") },
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": { "plural": plural, "kind": kind }, "versions": versions,
        },
    });
    serde_json::from_value(definition).unwrap()
}

fn version(name: &str, storage: bool, spec: Value) -> Value {
    json!({
        "name": name, "served": true, "storage": storage,
        "schema": { "openAPIV3Schema": { "type": "object", "properties": { "spec": spec } } },
    })
}

fn is_true(definition: &CustomResourceDefinition, type_: &str) -> bool {
    let conditions = definition.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|it| it.type_ == type_ && it.status == "True")
}

/// The first object that a watch tells of.
async fn added(
    events: &mut (impl Stream<Item = kube::Result<WatchEvent<DynamicObject>>> + Unpin),
) -> DynamicObject {
    let found = async {
        loop {
            match events.try_next().await.unwrap() {
                Some(WatchEvent::Added(object)) => return object,
                Some(WatchEvent::Bookmark(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), found).await.unwrap()
}

/// Waits until a definition is like that.
async fn until(
    client: &Client,
    name: &str,
    test: impl Fn(&CustomResourceDefinition) -> bool,
) -> CustomResourceDefinition {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let params = WatchParams::default().fields(&format!("metadata.name={name}"));
    let mut events = definitions.watch(&params, "0").await.unwrap().boxed();
    let found = async {
        while let Some(event) = events.try_next().await.unwrap() {
            match event {
                WatchEvent::Added(found) | WatchEvent::Modified(found) if test(&found) => {
                    return found;
                }
                _ => {}
            }
        }
        panic!("the watch ended");
    };
    tokio::time::timeout(Duration::from_secs(20), found).await.unwrap()
}

async fn define(client: &Client, definition: CustomResourceDefinition) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let created = definitions.create(&PostParams::default(), &definition).await.unwrap();
    until(client, &created.name_any(), |found| is_true(found, "Established")).await;
}

async fn widgets() -> (ApiServer, Api<Widget>) {
    let server = server().await;
    define(&server.client(), Widget::crd()).await;
    let widgets = Api::default_namespaced(server.client());
    (server, widgets)
}

fn dynamic(client: &Client, version: &str, kind: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("example.com", version, kind);
    Api::default_namespaced_with(client.clone(), &ApiResource::from_gvk(&kind))
}

fn reason(error: &kube::Error) -> (u16, String) {
    match error {
        kube::Error::Api(status) => (status.code, status.message.clone()),
        other => panic!("{other}"),
    }
}

async fn get(client: &Client, path: &str) -> Value {
    client.request(Request::get(path).body(Vec::new()).unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_kind_can_be_used_once_it_is_established() {
    let (server, widgets) = widgets().await;

    let created = widgets.create(&PostParams::default(), &widget("x", 3)).await.unwrap();
    assert_eq!((created.spec.size, created.metadata.generation), (3, Some(1)));
    let listed = widgets.list(&ListParams::default().fields("spec.color=red")).await.unwrap();
    assert_eq!(listed.items.len(), 1);
    let none = widgets.list(&ListParams::default().fields("spec.color=blue")).await.unwrap();
    assert!(none.items.is_empty());

    let client = server.client();
    let found = get(&client, "/apis/example.com/v1").await;
    let names: Vec<_> =
        found["resources"].as_array().unwrap().iter().map(|each| &each["name"]).collect();
    assert_eq!(names, ["widgets", "widgets/status", "widgets/scale"]);
    let index = get(&client, "/openapi/v3").await;
    assert!(index["paths"]["apis/example.com/v1"].is_object());
    let document = get(&client, "/openapi/v3/apis/example.com/v1").await;
    let schema = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(schema["properties"]["spec"]["properties"]["size"]["type"], "integer");
    assert_eq!(
        schema["x-kubernetes-group-version-kind"],
        json!([{ "group": "example.com", "version": "v1", "kind": "Widget" }])
    );
    let swagger = get(&client, "/openapi/v2").await;
    assert!(swagger["definitions"]["com.example.v1.Widget"].is_object());
    assert!(swagger["definitions"]["io.k8s.api.core.v1.Pod"].is_object());
    assert!(swagger["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets"].is_object());
}

#[tokio::test]
async fn an_object_that_does_not_fit_its_schema_is_refused() {
    let (server, _) = widgets().await;
    let widgets = dynamic(&server.client(), "v1", "Widget");
    let of = |spec: Value| -> DynamicObject {
        let object = json!({
            "apiVersion": "example.com/v1", "kind": "Widget", "metadata": { "name": "x" },
            "spec": spec,
        });
        serde_json::from_value(object).unwrap()
    };

    let error = widgets.create(&PostParams::default(), &of(json!({ "size": "big" }))).await;
    let (code, message) = reason(&error.unwrap_err());
    assert_eq!(code, 422);
    assert_eq!(
        message,
        "Widget.example.com \"x\" is invalid: spec.size: Invalid value: \"string\": spec.size in \
         body must be of type integer: \"string\""
    );
    let path = "/apis/example.com/v1/namespaces/default/widgets?fieldValidation=Strict";
    let unknown = serde_json::to_vec(&of(json!({ "size": 1, "nope": 1 }))).unwrap();
    let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
    let error = server.client().request::<Value>(request.body(unknown).unwrap()).await.unwrap_err();
    let (code, message) = reason(&error);
    assert_eq!(code, 400);
    assert!(message.ends_with("strict decoding error: unknown field \"spec.nope\""), "{message}");
    let pruned =
        widgets.create(&PostParams::default(), &of(json!({ "size": 1, "nope": 1 }))).await.unwrap();
    assert_eq!(pruned.data["spec"], json!({ "size": 1, "color": "red" }));
}

#[tokio::test]
async fn status_and_scale_are_apart_from_the_object() {
    let (_server, widgets) = widgets().await;
    let created = widgets.create(&PostParams::default(), &widget("x", 3)).await.unwrap();

    let mut both = created.clone();
    both.spec.size = 9;
    both.status = Some(WidgetStatus { replicas: Some(2), selector: Some("a=b".into()) });
    let updated = widgets.replace_status("x", &PostParams::default(), &both).await.unwrap();
    assert_eq!((updated.spec.size, updated.metadata.generation), (3, Some(1)));
    let mut both = updated.clone();
    both.spec.size = 9;
    both.status = None;
    let updated = widgets.replace("x", &PostParams::default(), &both).await.unwrap();
    assert_eq!((updated.spec.size, updated.metadata.generation), (9, Some(2)));
    assert!(updated.status.is_some());

    let patch = Patch::Merge(json!({ "spec": { "replicas": 5 } }));
    let scale: Scale = widgets.patch_scale("x", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(5));
    let status = scale.status.unwrap();
    assert_eq!((status.replicas, status.selector.as_deref()), (2, Some("a=b")));
    assert_eq!(widgets.get("x").await.unwrap().spec.replicas, Some(5));
}

#[tokio::test]
async fn two_appliers_of_one_field_conflict() {
    let (_server, widgets) = widgets().await;
    let apply = |size: i32| {
        let object = json!({
            "apiVersion": "example.com/v1", "kind": "Widget", "metadata": { "name": "x" },
            "spec": { "size": size },
        });
        Patch::Apply(object)
    };
    let (one, two) = (PatchParams::apply("one"), PatchParams::apply("two"));

    widgets.patch("x", &one, &apply(1)).await.unwrap();
    let error = widgets.patch("x", &two, &apply(2)).await.unwrap_err();
    let expected = "Apply failed with 1 conflict: conflict with \"one\": .spec.size";
    assert_eq!(reason(&error), (409, expected.to_owned()));
    let forced = widgets.patch("x", &two.clone().force(), &apply(2)).await.unwrap();
    assert_eq!(forced.spec.size, 2);
    let strategic = Patch::Strategic(json!({ "spec": { "size": 3 } }));
    let error = widgets.patch("x", &PatchParams::default(), &strategic).await.unwrap_err();
    assert_eq!(reason(&error).0, 415);
}

#[tokio::test]
async fn objects_are_watched_in_every_version() {
    let server = server().await;
    let client = server.client();
    let spec = json!({ "type": "object", "properties": { "size": { "type": "integer" } } });
    let versions = json!([version("v1", true, spec.clone()), version("v2", false, spec)]);
    define(&client, definition("gadgets", "Gadget", versions)).await;
    let (v1, v2) = (dynamic(&client, "v1", "Gadget"), dynamic(&client, "v2", "Gadget"));

    let mut events = v2.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    let object = json!({
        "apiVersion": "example.com/v1", "kind": "Gadget", "metadata": { "name": "x" },
        "spec": { "size": 1 },
    });
    v1.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    let seen = added(&mut events).await;
    assert_eq!(seen.types.unwrap().api_version, "example.com/v2");
    assert_eq!(seen.data["spec"], json!({ "size": 1 }));
}

/// v1 has `spec.size`, v2 has `spec.dimensions.size`.
fn convert(review: &Value) -> Value {
    let request = &review["request"];
    let desired = request["desiredAPIVersion"].as_str().unwrap();
    let converted = request["objects"].as_array().unwrap().iter().map(|object| {
        let mut object = object.clone();
        let size = match desired {
            "example.com/v1" => object["spec"]["dimensions"]["size"].clone(),
            _ => object["spec"]["size"].clone(),
        };
        object["spec"] = match desired {
            "example.com/v1" => json!({ "size": size }),
            _ => json!({ "dimensions": { "size": size } }),
        };
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

fn object(version: &str, name: &str, spec: Value) -> DynamicObject {
    let object = json!({
        "apiVersion": format!("example.com/{version}"), "kind": "Gadget",
        "metadata": { "name": name }, "spec": spec,
    });
    serde_json::from_value(object).unwrap()
}

async fn converted_by(hook: &hooks::Hook) -> ApiServer {
    let server = server().await;
    let number = json!({ "type": "integer" });
    let v1 = json!({ "type": "object", "properties": { "size": number } });
    let v2 = json!({ "type": "object", "properties": {
        "dimensions": { "type": "object", "properties": { "size": number } },
    } });
    let versions = json!([version("v1", true, v1), version("v2", false, v2)]);
    let mut gadgets = serde_json::to_value(definition("gadgets", "Gadget", versions)).unwrap();
    gadgets["spec"]["conversion"] = json!({
        "strategy": "Webhook",
        "webhook": { "clientConfig": hook.client(), "conversionReviewVersions": ["v1"] },
    });
    define(&server.client(), serde_json::from_value(gadgets).unwrap()).await;
    server
}

#[tokio::test]
async fn a_webhook_converts_what_is_written_read_listed_and_watched() {
    let hook = hooks::Hook::raw(convert).await;
    let server = converted_by(&hook).await;
    let client = server.client();
    let (v1, v2) = (dynamic(&client, "v1", "Gadget"), dynamic(&client, "v2", "Gadget"));

    let mut events = v2.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    let created = v2
        .create(&PostParams::default(), &object("v2", "x", json!({ "dimensions": { "size": 3 } })))
        .await
        .unwrap();
    assert_eq!(created.data["spec"], json!({ "dimensions": { "size": 3 } }));
    let seen = added(&mut events).await;
    assert_eq!(seen.data["spec"], json!({ "dimensions": { "size": 3 } }));
    assert_eq!(v1.get("x").await.unwrap().data["spec"], json!({ "size": 3 }));

    let more = ["y", "z"].map(|name| object("v1", name, json!({ "size": 1 })));
    for object in &more {
        v1.create(&PostParams::default(), object).await.unwrap();
    }
    let patch = Patch::Merge(json!({ "spec": { "dimensions": { "size": 7 } } }));
    let patched = v2.patch("y", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(patched.metadata.generation, Some(2));
    assert_eq!(v1.get("y").await.unwrap().data["spec"], json!({ "size": 7 }));
    let listed = v2.list(&ListParams::default()).await.unwrap();
    let sizes: Vec<_> =
        listed.items.iter().map(|item| &item.data["spec"]["dimensions"]["size"]).collect();
    assert_eq!(sizes, [&json!(3), &json!(7), &json!(1)]);
    let asked = hook.asked.lock().len();
    v2.list(&ListParams::default()).await.unwrap();
    assert_eq!(hook.asked.lock().len(), asked, "what was converted once is not asked for again");
}

#[tokio::test]
async fn a_webhook_may_not_change_the_identity_of_an_object() {
    let hook = hooks::Hook::raw(|review| {
        let mut answer = convert(review);
        answer["response"]["convertedObjects"][0]["metadata"]["name"] = "other".into();
        answer
    })
    .await;
    let server = converted_by(&hook).await;
    let client = server.client();
    dynamic(&client, "v1", "Gadget")
        .create(&PostParams::default(), &object("v1", "x", json!({ "size": 1 })))
        .await
        .unwrap();
    let error = dynamic(&client, "v2", "Gadget").get("x").await.unwrap_err();
    let expected = "conversion webhook for example.com/v1, Kind=Gadget returned invalid converted \
                    object at index 0: must have the same name: x != other";
    assert_eq!(reason(&error), (500, expected.to_owned()));
}

#[tokio::test]
async fn a_definition_goes_when_its_objects_have() {
    let (server, widgets) = widgets().await;
    let client = server.client();
    let mut kept = widget("kept", 1);
    kept.metadata.finalizers = Some(vec!["example.com/f".into()]);
    widgets.create(&PostParams::default(), &kept).await.unwrap();
    widgets.create(&PostParams::default(), &widget("gone", 1)).await.unwrap();

    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions.delete("widgets.example.com", &DeleteParams::default()).await.unwrap();
    until(&client, "widgets.example.com", |found| is_true(found, "Terminating")).await;
    let error = widgets.create(&PostParams::default(), &widget("new", 1)).await.unwrap_err();
    assert_eq!(reason(&error).0, 405);
    let unlock = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    let freed = async {
        loop {
            match widgets.patch("kept", &PatchParams::default(), &unlock).await {
                Ok(object) if object.metadata.deletion_timestamp.is_some() => break,
                Err(kube::Error::Api(status)) if status.code == 404 => break,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        while definitions.get_opt("widgets.example.com").await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), freed).await.unwrap();

    define(&client, Widget::crd()).await;
    assert!(widgets.list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn a_name_that_is_taken_is_accepted_once_it_is_free() {
    let server = server().await;
    let client = server.client();
    let spec = json!({ "type": "object" });
    let of =
        |plural: &str| definition(plural, "Gadget", json!([version("v1", true, spec.clone())]));
    define(&client, of("gadgets")).await;

    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions.create(&PostParams::default(), &of("others")).await.unwrap();
    let refused = until(&client, "others.example.com", |found| {
        let conditions = found.status.iter().flat_map(|it| it.conditions.iter().flatten());
        conditions.into_iter().any(|it| it.type_ == "NamesAccepted")
    })
    .await;
    let conditions = refused.status.unwrap().conditions.unwrap();
    let names = conditions.iter().find(|it| it.type_ == "NamesAccepted").unwrap();
    assert_eq!(names.status, "False");
    assert_eq!(names.message.as_deref(), Some("\"GadgetList\" is already in use"));

    definitions.delete("gadgets.example.com", &DeleteParams::default()).await.unwrap();
    until(&client, "others.example.com", |found| is_true(found, "Established")).await;
}

#[tokio::test]
async fn servers_of_one_store_serve_the_same_kinds() {
    let store = Arc::new(EmbeddedStore::in_memory());
    let one = ApiServer::builder(store.clone()).start().await.unwrap();
    let two = ApiServer::builder(store.clone()).start().await.unwrap();
    define(&one.client(), Widget::crd()).await;

    let widgets: Api<Widget> = Api::default_namespaced(two.client());
    widgets.create(&PostParams::default(), &widget("x", 1)).await.unwrap();
    let widgets: Api<Widget> = Api::default_namespaced(one.client());
    assert_eq!(widgets.get("x").await.unwrap().spec.size, 1);

    let later = ApiServer::builder(store).start().await.unwrap();
    let widgets: Api<Widget> = Api::default_namespaced(later.client());
    assert_eq!(widgets.get("x").await.unwrap().spec.size, 1);
}

#[tokio::test]
async fn a_changed_schema_counts_for_what_is_stored() {
    let server = server().await;
    let client = server.client();
    let of = |properties: Value| {
        let spec = json!({ "type": "object", "properties": properties });
        definition("gadgets", "Gadget", json!([version("v1", true, spec)]))
    };
    define(&client, of(json!({ "size": { "type": "integer" } }))).await;
    let gadgets = dynamic(&client, "v1", "Gadget");
    let created = object("v1", "x", json!({ "size": 1 }));
    gadgets.create(&PostParams::default(), &created).await.unwrap();

    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut changed = definitions.get("gadgets.example.com").await.unwrap();
    changed.spec = of(json!({ "color": { "type": "string", "default": "red" } })).spec;
    definitions.replace("gadgets.example.com", &PostParams::default(), &changed).await.unwrap();
    let seen = async {
        loop {
            let found = gadgets.get("x").await.unwrap();
            if found.data["spec"] == json!({ "color": "red" }) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), seen).await.unwrap();
}

#[tokio::test]
async fn old_definitions_are_taken_and_shown_in_their_form() {
    let server = server().await;
    let client = server.client();
    let old = json!({
        "apiVersion": "apiextensions.k8s.io/v1beta1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "crontabs.stable.example.com" },
        "spec": {
            "group": "stable.example.com", "version": "v1",
            "names": { "plural": "crontabs", "kind": "CronTab" },
            "subresources": { "status": {} },
            "additionalPrinterColumns": [
                { "name": "Spec", "type": "string", "JSONPath": ".spec.cronSpec" },
            ],
        },
    });
    let path = "/apis/apiextensions.k8s.io/v1beta1/customresourcedefinitions";
    let request = Request::post(path)
        .header(header::CONTENT_TYPE, "application/json")
        .body(old.to_string().into_bytes())
        .unwrap();
    let created: Value = client.request(request).await.unwrap();
    assert_eq!(created["spec"]["version"], "v1");
    assert_eq!(created["spec"]["preserveUnknownFields"], true);
    assert_eq!(created["spec"]["subresources"], json!({ "status": {} }));
    let name = "crontabs.stable.example.com";
    let stored = until(&client, name, |found| is_true(found, "Established")).await;
    assert!(stored.spec.versions[0].subresources.is_some());
    let columns = stored.spec.versions[0].additional_printer_columns.as_ref().unwrap();
    assert_eq!(columns[0].json_path, ".spec.cronSpec");

    let object = json!({
        "apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": { "name": "x" },
        "spec": { "anything": { "goes": [1] } },
    });
    let path = "/apis/stable.example.com/v1/namespaces/default/crontabs";
    let request = Request::post(path)
        .header(header::CONTENT_TYPE, "application/json")
        .body(object.to_string().into_bytes())
        .unwrap();
    let created: Value = client.request(request).await.unwrap();
    assert_eq!(created["spec"], object["spec"]);
}
