//! Selectable fields of custom kinds (KEP-4358): they are those of the version that is asked for, and
//! are looked for in objects of this version, whatever is stored.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/hooks.rs"]
mod hooks;

use std::time::Duration;

use common::{get, send, server};
use futures::{Stream, StreamExt};
use http::Request;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use rk_api::server::ApiServer;
use serde_json::{Value, json};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const LINK: &str = "/apis/example.com";

/// A version with these strings in its `spec`, of which the last can be selected by.
fn version(name: &str, storage: bool, fields: &[&str]) -> Value {
    let properties: serde_json::Map<_, _> =
        fields.iter().map(|field| ((*field).to_owned(), json!({ "type": "string" }))).collect();
    let spec = json!({ "type": "object", "properties": properties });
    json!({
        "name": name, "served": true, "storage": storage,
        "schema": { "openAPIV3Schema": { "type": "object", "properties": { "spec": spec } } },
        "selectableFields": [{ "jsonPath": format!(".spec.{}", fields.last().unwrap()) }],
    })
}

/// A server that has links in these versions.
async fn links(versions: [Value; 2], conversion: Value) -> ApiServer {
    let server = server().await;
    let definition = json!({
        "metadata": { "name": "links.example.com" },
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": { "plural": "links", "kind": "Link" },
            "versions": versions, "conversion": conversion,
        },
    });
    let request = Request::post(DEFINITIONS).header("content-type", "application/json");
    let made = send(&server, request, definition.to_string().into_bytes()).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let served = async {
        for version in ["v1", "v2"] {
            while get(&server, &format!("{LINK}/{version}/links")).await.code != 200 {
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), served).await.unwrap();
    server
}

fn api(server: &ApiServer, version: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("example.com", version, "Link");
    Api::default_namespaced_with(server.client(), &ApiResource::from_gvk(&kind))
}

async fn create(server: &ApiServer, version: &str, name: &str, spec: Value) -> DynamicObject {
    let object = json!({
        "apiVersion": format!("example.com/{version}"), "kind": "Link",
        "metadata": { "name": name }, "spec": spec,
    });
    let object = serde_json::from_value(object).unwrap();
    api(server, version).create(&PostParams::default(), &object).await.unwrap()
}

/// The names that a selector selects in a version.
async fn selected(server: &ApiServer, version: &str, selector: &str) -> Vec<String> {
    let list = api(server, version).list(&ListParams::default().fields(selector)).await.unwrap();
    list.items.iter().map(ResourceExt::name_any).collect()
}

/// v1 has `address`, v2 has `port` and `host`.
fn convert(review: &Value) -> Value {
    let request = &review["request"];
    let desired = request["desiredAPIVersion"].as_str().unwrap();
    let converted = request["objects"].as_array().unwrap().iter().map(|object| {
        let mut object = object.clone();
        let spec = &object["spec"];
        object["spec"] = if desired.ends_with("/v2") {
            let (host, port) = spec["address"].as_str().unwrap().split_once(':').unwrap();
            json!({ "host": host, "port": port })
        } else {
            let [host, port] = ["host", "port"].map(|field| spec[field].as_str().unwrap());
            json!({ "address": format!("{host}:{port}") })
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

async fn converted_links() -> ApiServer {
    let hook = hooks::Hook::raw(convert).await;
    let versions = [version("v1", true, &["address"]), version("v2", false, &["port", "host"])];
    let conversion = json!({
        "strategy": "Webhook",
        "webhook": { "clientConfig": hook.client(), "conversionReviewVersions": ["v1"] },
    });
    links(versions, conversion).await
}

type Events<'a> = futures::stream::BoxStream<'a, kube::Result<WatchEvent<DynamicObject>>>;

async fn watch<'a>(api: &Api<DynamicObject>, selector: &str, from: &str) -> Events<'a> {
    let params = WatchParams::default().fields(selector).timeout(120);
    api.watch(&params, from).await.unwrap().boxed()
}

/// The next change: what happened to which object, as it was last seen.
async fn next(
    events: &mut (impl Stream<Item = kube::Result<WatchEvent<DynamicObject>>> + Unpin),
) -> (&'static str, String, Value) {
    let change = async {
        loop {
            let (what, object) = match events.next().await.expect("the watch goes on").unwrap() {
                WatchEvent::Added(object) => ("added", object),
                WatchEvent::Modified(object) => ("modified", object),
                WatchEvent::Deleted(object) => ("deleted", object),
                WatchEvent::Bookmark(_) => continue,
                WatchEvent::Error(status) => panic!("{status:?}"),
            };
            return (what, object.name_any(), object.data["spec"].clone());
        }
    };
    tokio::time::timeout(Duration::from_secs(60), change).await.unwrap()
}

#[tokio::test]
async fn a_list_selects_by_the_fields_of_its_version() {
    let server = converted_links().await;
    create(&server, "v1", "a", json!({ "address": "one:1" })).await;
    create(&server, "v2", "b", json!({ "host": "two", "port": "2" })).await;
    create(&server, "v1", "c", json!({ "address": "one:3" })).await;
    assert_eq!(selected(&server, "v2", "spec.host=one").await, ["a", "c"]);
    assert_eq!(selected(&server, "v2", "spec.host!=one").await, ["b"]);
    assert_eq!(selected(&server, "v2", "spec.host=one,metadata.name=c").await, ["c"]);
    assert_eq!(selected(&server, "v1", "spec.address=two:2").await, ["b"]);

    for (version, field) in [("v1", "spec.host"), ("v2", "spec.address"), ("v2", "spec.port")] {
        let path = format!("{LINK}/{version}/links?fieldSelector={field}%3Done");
        let refused = get(&server, &path).await;
        assert_eq!(refused.code, 400);
        assert_eq!(refused.body["message"], format!("field label not supported: {field}"));
    }
}

#[tokio::test]
async fn pages_are_as_long_as_they_may_be() {
    let server = converted_links().await;
    for number in 0..9 {
        let host = if number % 2 == 0 { "even" } else { "odd" };
        let name = format!("link-{number}");
        create(&server, "v1", &name, json!({ "address": format!("{host}:{number}") })).await;
    }
    let v2 = api(&server, "v2");
    let mut params = ListParams::default().fields("spec.host=even").limit(2);
    let mut pages = Vec::new();
    loop {
        let page = v2.list(&params).await.unwrap();
        pages.push(page.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>());
        assert_eq!(page.metadata.remaining_item_count, None);
        let Some(token) = page.metadata.continue_.filter(|token| !token.is_empty()) else { break };
        params = params.continue_token(&token);
    }
    assert_eq!(pages, [vec!["link-0", "link-2"], vec!["link-4", "link-6"], vec!["link-8"]]);
}

#[tokio::test]
async fn a_collection_is_deleted_as_far_as_it_is_selected() {
    let server = converted_links().await;
    create(&server, "v1", "a", json!({ "address": "one:1" })).await;
    create(&server, "v1", "b", json!({ "address": "two:2" })).await;
    let params = ListParams::default().fields("spec.host=one");
    api(&server, "v2").delete_collection(&DeleteParams::default(), &params).await.unwrap();
    assert_eq!(selected(&server, "v2", "").await, ["b"]);
}

#[tokio::test]
async fn a_watch_sees_objects_come_and_go_as_its_version_shows_them() {
    let server = converted_links().await;
    let (v1, v2) = (api(&server, "v1"), api(&server, "v2"));
    create(&server, "v1", "a", json!({ "address": "one:1" })).await;
    create(&server, "v1", "b", json!({ "address": "two:1" })).await;
    let since = v2.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut events = watch(&v2, "spec.host=one", "0").await;
    let change = async |name: &str, address: &str| {
        let patch = Patch::Merge(json!({ "spec": { "address": address } }));
        v1.patch(name, &PatchParams::default(), &patch).await.unwrap();
    };
    let spec = |host: &str, port: &str| json!({ "host": host, "port": port });

    change("b", "two:2").await;
    change("b", "one:2").await;
    change("a", "one:2").await;
    change("a", "two:2").await;
    v1.delete("b", &DeleteParams::default()).await.unwrap();
    // The first watch begins with what there was before it, which is `a`, or after that.
    let mut seen = next(&mut events).await;
    if seen == ("added", "a".to_owned(), spec("one", "1")) {
        seen = next(&mut events).await;
    }
    let mut late = watch(&v2, "spec.host=one", &since).await;
    assert_eq!(next(&mut late).await, seen);
    for events in [&mut events, &mut late] {
        assert_eq!(seen, ("added", "b".to_owned(), spec("one", "2")));
        assert_eq!(next(events).await, ("modified", "a".to_owned(), spec("one", "2")));
        assert_eq!(next(events).await, ("deleted", "a".to_owned(), spec("one", "2")));
        assert_eq!(next(events).await, ("deleted", "b".to_owned(), spec("one", "2")));
    }
}

#[tokio::test]
async fn a_streamed_list_is_selected_as_well() {
    let server = converted_links().await;
    create(&server, "v1", "a", json!({ "address": "one:1" })).await;
    create(&server, "v1", "b", json!({ "address": "two:1" })).await;
    let path = format!(
        "{LINK}/v2/links?watch=1&sendInitialEvents=true&allowWatchBookmarks=true\
         &resourceVersionMatch=NotOlderThan&fieldSelector=spec.host%3Dtwo&timeoutSeconds=1"
    );
    let request = Request::get(path).body(Vec::new().into()).unwrap();
    let answer = server.client().send(request).await.unwrap();
    let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let events: Vec<Value> = lines.map(|line| serde_json::from_slice(line).unwrap()).collect();
    assert_eq!(events[0]["type"], "ADDED");
    assert_eq!(events[0]["object"]["metadata"]["name"], "b");
    assert_eq!(events[1]["type"], "BOOKMARK");
}

#[tokio::test]
async fn without_a_webhook_a_version_has_what_the_stored_one_keeps_of_it() {
    let versions =
        [version("v1", true, &["name", "color"]), version("v2", false, &["name", "shade"])];
    let server = links(versions, json!({ "strategy": "None" })).await;
    let spec = json!({ "name": "n", "shade": "dark" });
    let created = create(&server, "v2", "a", spec).await;
    // The stored version knows no shade.
    assert_eq!(created.data["spec"], json!({ "name": "n" }));
    assert_eq!(api(&server, "v1").get("a").await.unwrap().data["spec"], json!({ "name": "n" }));
    create(&server, "v1", "b", json!({ "name": "n", "color": "red" })).await;

    assert_eq!(selected(&server, "v2", "spec.shade=dark").await, Vec::<String>::new());
    assert_eq!(selected(&server, "v2", "spec.shade=").await, ["a", "b"]);
    assert_eq!(selected(&server, "v1", "spec.color=red").await, ["b"]);
    assert_eq!(selected(&server, "v1", "spec.color=").await, ["a"]);
}
