//! Custom resources: their definitions, what they are checked for, and where they are found.

use std::pin::pin;

use futures::TryStreamExt;
use http::Request;
use rk::{
    k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    kube::{
        Api, Discovery, ResourceExt,
        api::{
            ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
            WatchEvent, WatchParams,
        },
        core::GroupVersionKind,
    },
};
use serde_json::{Value, json};

use crate::cluster::{TestCluster, from_json, until};

const GROUP: &str = "stable.example.com";

fn definitions(t: &TestCluster) -> Api<CustomResourceDefinition> {
    Api::all(t.client())
}

/// A definition of a cluster-wide kind, named after its plural.
fn definition(plural: &str, schema: Value) -> Value {
    let kind = format!("Kind{plural}");
    json!({
        "metadata": {"name": format!("{plural}.{GROUP}"), "labels": {"e2e": "crd"}},
        "spec": {
            "group": GROUP, "scope": "Cluster",
            "names": {"plural": plural, "singular": plural, "kind": kind, "listKind": format!("{kind}List")},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": schema}}],
        },
    })
}

fn anything() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// Makes a definition and waits until its kind is served.
async fn define(t: &TestCluster, plural: &str, schema: Value) -> Api<DynamicObject> {
    let object = from_json(definition(plural, schema));
    definitions(t).create(&PostParams::default(), &object).await.expect("created");
    established(t, plural).await;
    let gvk = GroupVersionKind::gvk(GROUP, "v1", &format!("Kind{plural}"));
    Api::all_with(t.client(), &ApiResource::from_gvk_with_plural(&gvk, plural))
}

async fn established(t: &TestCluster, plural: &str) {
    let name = format!("{plural}.{GROUP}");
    until("the kind", async || {
        let found = definitions(t).get(&name).await.expect("read");
        conditions(&found).contains(&"Established".to_owned()).then_some(())
    })
    .await;
    let path = format!("/apis/{GROUP}/v1/{plural}");
    until("the path", async || {
        let (code, _) = t.request(Request::get(&path), Value::Null).await;
        (code == 200).then_some(())
    })
    .await;
}

fn conditions(definition: &CustomResourceDefinition) -> Vec<String> {
    let conditions = definition.status.clone().and_then(|status| status.conditions);
    conditions.unwrap_or_default().into_iter().map(|condition| condition.type_).collect()
}

fn object(plural: &str, name: &str, more: Value) -> DynamicObject {
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": format!("Kind{plural}"),
        "metadata": {"name": name},
    });
    for (key, value) in more.as_object().expect("fields") {
        object[key] = value.clone();
    }
    from_json(object)
}

// Conformance: Custom Resource Definition, create
#[tokio::test(start_paused = true)]
async fn a_kind_comes_and_goes() {
    let t = TestCluster::start().await;
    define(&t, "foos", anything()).await;
    let name = format!("foos.{GROUP}");
    definitions(&t).delete(&name, &DeleteParams::default()).await.expect("deleted");
    until("no definition", async || {
        definitions(&t).get_opt(&name).await.expect("asked").is_none().then_some(())
    })
    .await;
}

// Conformance: Custom Resource Definition, list
#[tokio::test(start_paused = true)]
async fn definitions_are_listed_and_deleted_by_their_label() {
    let t = TestCluster::start().await;
    for number in 0..10 {
        define(&t, &format!("list{number}s"), anything()).await;
    }
    let labelled = ListParams::default().labels("e2e=crd");
    let listed = definitions(&t).list(&labelled).await.expect("listed").items;
    assert_eq!(listed.len(), 10);
    for (number, definition) in listed.iter().enumerate() {
        assert_eq!(definition.name_any(), format!("list{number}s.{GROUP}"));
        assert_eq!(definition.spec.versions[0].name, "v1");
    }
    let all = DeleteParams::default();
    definitions(&t).delete_collection(&all, &labelled).await.expect("deleted");
    until("no definitions", async || {
        let left = definitions(&t).list(&labelled).await.expect("listed");
        left.items.is_empty().then_some(())
    })
    .await;
}

// Conformance: Custom Resource Definition, status sub-resource
#[tokio::test(start_paused = true)]
async fn the_status_of_a_definition_is_read_updated_and_patched() {
    let t = TestCluster::start().await;
    define(&t, "foos", anything()).await;
    let (api, name) = (definitions(&t), format!("foos.{GROUP}"));
    let condition = |type_: &str| json!({"type": type_, "status": "True", "reason": "E2E", "message": "Set from e2e test"});
    let mut read = api.get_status(&name).await.expect("read");
    assert_eq!(read.name_any(), name);
    let list = read.status.get_or_insert_default().conditions.get_or_insert_default();
    list.push(from_json(condition("StatusUpdate")));
    let updated = api.replace_status(&name, &PostParams::default(), &read).await.expect("updated");
    assert!(conditions(&updated).contains(&"StatusUpdate".to_owned()));

    let mut list = json!(updated.status.and_then(|status| status.conditions));
    list.as_array_mut().expect("conditions").push(condition("StatusPatched"));
    let patch =
        json!({"metadata": {"annotations": {"patched": "true"}}, "status": {"conditions": list}});
    let patched = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
    let patched = patched.expect("patched");
    for type_ in ["Established", "StatusUpdate", "StatusPatched"] {
        assert!(conditions(&patched).contains(&type_.to_owned()), "{type_}");
    }
    assert_eq!(patched.annotations()["patched"], "true");
}

// Conformance: Custom Resource Definition, discovery
#[tokio::test(start_paused = true)]
async fn the_kind_of_definitions_is_discovered() {
    let t = TestCluster::start().await;
    let has = |values: &Value, key: &str, wanted: &str| {
        values.as_array().expect("a list").iter().any(|value| value[key] == wanted)
    };
    let groups = t.get("/apis").await;
    assert!(has(&groups["groups"], "name", "apiextensions.k8s.io"));
    let group = t.get("/apis/apiextensions.k8s.io").await;
    assert!(has(&group["versions"], "groupVersion", "apiextensions.k8s.io/v1"));
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let resources = t.get("/apis/apiextensions.k8s.io/v1").await;
    assert!(has(&resources["resources"], "name", "customresourcedefinitions"));
}

// Conformance: Custom Resource Definition, defaulting
#[tokio::test(start_paused = true)]
async fn defaults_are_filled_in_when_written_and_when_read() {
    let t = TestCluster::start().await;
    let schema = json!({"type": "object", "properties": {
        "a": {"type": "string"}, "b": {"type": "string"},
    }});
    let api = define(&t, "foos", schema).await;
    let field = |object: &DynamicObject, key: &str| object.data.get(key).cloned();
    let made = api.create(&PostParams::default(), &object("foos", "one", json!({}))).await;
    assert_eq!(field(&made.expect("created"), "a"), None);

    let default = async |key: &str, value: Value| {
        let path = format!("/spec/versions/0/schema/openAPIV3Schema/properties/{key}");
        let patch = json!([{"op": "replace", "path": path, "value": value}]);
        let patch = Patch::Json::<()>(from_json(patch));
        let name = format!("foos.{GROUP}");
        definitions(&t).patch(&name, &PatchParams::default(), &patch).await.expect("patched");
    };
    let reads = async |name: &str, key: &str, value: &str| {
        until(&format!("{name} to have {key}"), async || {
            (field(&api.get(name).await.expect("read"), key) == Some(json!(value))).then_some(())
        })
        .await;
    };
    default("a", json!({"type": "string", "default": "A"})).await;
    reads("one", "a", "A").await;
    let made = api.create(&PostParams::default(), &object("foos", "two", json!({}))).await;
    assert_eq!(field(&made.expect("created"), "a"), Some(json!("A")));

    default("a", json!({"type": "string"})).await;
    default("b", json!({"type": "string", "default": "B"})).await;
    reads("two", "b", "B").await;
    // What was written with a default has it for good; what was read with one had it only then.
    assert_eq!(field(&api.get("two").await.expect("read"), "a"), Some(json!("A")));
    assert_eq!(field(&api.get("one").await.expect("read"), "a"), None);
}

// Conformance: Custom Resource Definition, watch
#[tokio::test(start_paused = true)]
async fn custom_objects_are_watched() {
    let t = TestCluster::start().await;
    let api = define(&t, "foos", anything()).await;
    let version = api.list(&ListParams::default()).await.expect("listed").metadata.resource_version;
    let params = WatchParams { bookmarks: false, ..WatchParams::default() };
    let mut events = pin!(api.watch(&params, &version.expect("a version")).await.expect("watched"));
    for name in ["one", "two"] {
        let made = object("foos", name, json!({"content": "made"}));
        api.create(&PostParams::default(), &made).await.expect("created");
    }
    for name in ["one", "two"] {
        let patch = Patch::Merge(json!({"content": "changed"}));
        api.patch(name, &PatchParams::default(), &patch).await.expect("patched");
    }
    for name in ["one", "two"] {
        api.delete(name, &DeleteParams::default()).await.expect("deleted");
    }
    for (type_, name) in [
        ("ADDED", "one"),
        ("ADDED", "two"),
        ("MODIFIED", "one"),
        ("MODIFIED", "two"),
        ("DELETED", "one"),
        ("DELETED", "two"),
    ] {
        let event = events.try_next().await.expect("watched").expect("an event");
        let found = match &event {
            WatchEvent::Added(object) => ("ADDED", object.name_any()),
            WatchEvent::Modified(object) => ("MODIFIED", object.name_any()),
            WatchEvent::Deleted(object) => ("DELETED", object.name_any()),
            other => panic!("{other:?}"),
        };
        assert_eq!(found, (type_, name.to_owned()));
    }
}

// Conformance: Aggregated Discovery Endpoint Accept Headers CRDs
#[tokio::test(start_paused = true)]
async fn a_custom_kind_is_in_the_one_document_of_discovery() {
    let t = TestCluster::start().await;
    define(&t, "testcrds", anything()).await;
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    until("the kind", async || {
        let request = Request::get("/apis").header("accept", accept);
        let (_, document) = t.request(request, Value::Null).await;
        let groups = document["items"].as_array().expect("groups").clone();
        let group = groups.iter().find(|group| group["metadata"]["name"] == GROUP)?;
        let version = &group["versions"][0];
        assert_eq!(version["version"], "v1");
        (version["resources"][0]["resource"] == "testcrds").then_some(())
    })
    .await;
}

// Conformance: Aggregated Discovery Interface CRDs
#[tokio::test(start_paused = true)]
async fn a_client_finds_a_custom_kind() {
    let t = TestCluster::start().await;
    define(&t, "testcrds", anything()).await;
    until("the kind", async || {
        let found = Discovery::new(t.client()).run_aggregated().await.expect("discovered");
        let group = found.get(GROUP)?;
        group.recommended_kind("Kindtestcrds").map(drop)
    })
    .await;
}

/// A schema of some fields, ports being a map.
fn ports() -> Value {
    let pattern = r"^(\d+|\*)(/\d+)?(\s+(\d+|\*)(/\d+)?){4}$";
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "foo": {"type": "string"},
        "cronSpec": {"type": "string", "pattern": pattern},
        "ports": {
            "type": "array", "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["containerPort", "protocol"],
            "items": {
                "type": "object", "required": ["containerPort", "protocol"],
                "properties": {
                    "containerPort": {"type": "integer", "format": "int32"},
                    "hostIP": {"type": "string"},
                    "hostPort": {"type": "integer", "format": "int32"},
                    "name": {"type": "string"},
                    "protocol": {"type": "string"},
                },
            },
        },
    }}}})
}

/// Applies an object with strict validation; the code and the message of the answer.
async fn applied(t: &TestCluster, plural: &str, body: &str) -> (u16, String) {
    let path = format!(
        "/apis/{GROUP}/v1/{plural}/mytest?fieldManager=field_validation_mgr&fieldValidation=Strict"
    );
    let head = format!("apiVersion: {GROUP}/v1\nkind: Kind{plural}\n");
    let request = Request::patch(path)
        .header("content-type", "application/apply-patch+yaml")
        .body(format!("{head}{body}").into_bytes().into());
    let response = t.client().send(request.expect("a request")).await.expect("an answer");
    let code = response.status().as_u16();
    let body = http_body_util::BodyExt::collect(response.into_body()).await.expect("a body");
    (code, String::from_utf8_lossy(&body.to_bytes()).into_owned())
}

const PORTS: &str =
    "  cronSpec: '* * * * */5'\n  ports:\n  - {name: x, containerPort: 80, protocol: TCP}\n";

// Conformance: Server side field validation, valid CR with validation schema
#[tokio::test(start_paused = true)]
async fn what_fits_the_schema_is_applied() {
    let t = TestCluster::start().await;
    define(&t, "noxus", ports()).await;
    let body = format!(
        "metadata: {{name: mytest, finalizers: [example.com/f]}}\nspec:\n  foo: foo1\n{PORTS}"
    );
    let (code, answer) = applied(&t, "noxus", &body).await;
    assert_eq!(code, 201, "{answer}");
}

// Conformance: Server side field validation, unknown fields CR no validation schema
#[tokio::test(start_paused = true)]
async fn without_a_schema_nothing_is_unknown() {
    let t = TestCluster::start().await;
    define(&t, "noxus", anything()).await;
    let body = format!(
        "metadata: {{name: mytest, finalizers: [example.com/f]}}\nspec:\n  unknown: uk1\n{PORTS}"
    );
    let (code, answer) = applied(&t, "noxus", &body).await;
    assert_eq!(code, 201, "{answer}");
}

// Conformance: Server side field validation, unknown fields CR fails validation
#[tokio::test(start_paused = true)]
async fn what_the_schema_does_not_have_is_refused() {
    let t = TestCluster::start().await;
    define(&t, "noxus", ports()).await;
    let body =
        format!("metadata: {{name: mytest}}\nunknownField: unknown\nspec:\n  foo: foo1\n{PORTS}");
    let (_, answer) = applied(&t, "noxus", &body).await;
    assert!(answer.contains(".unknownField: field not declared in schema"), "{answer}");
}

// Conformance: Server side field validation, unknown metadata
#[tokio::test(start_paused = true)]
async fn unknown_metadata_is_refused_also_of_objects_within() {
    let t = TestCluster::start().await;
    let mut schema = ports();
    let spec = &mut schema["properties"]["spec"];
    spec["x-kubernetes-preserve-unknown-fields"] = json!(true);
    spec["properties"]["template"] = json!({
        "type": "object", "x-kubernetes-embedded-resource": true, "properties": {
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
            "spec": {"type": "object"},
        },
    });
    define(&t, "noxus", schema).await;
    let body = format!(
        "metadata: {{name: mytest, unknownMeta: unknown}}\nspec:\n  template:\n    apiversion: \
         foo/v1\n    kind: Sub\n    metadata:\n      unknownSubMeta: unknown\n      name: \
         subobject\n      namespace: {}\n  foo: foo1\n{PORTS}",
        t.namespace
    );
    let (_, answer) = applied(&t, "noxus", &body).await;
    let unknown = [".spec.template.metadata.unknownSubMeta", ".metadata.unknownMeta"];
    let told =
        unknown.map(|field| answer.contains(&format!("{field}: field not declared in schema")));
    assert!(told.contains(&true), "{answer}");
}

// Conformance: Server side field validation, CR duplicates
#[tokio::test(start_paused = true)]
async fn what_is_said_twice_is_refused() {
    let t = TestCluster::start().await;
    let mut schema = ports();
    schema["properties"]["spec"]["x-kubernetes-preserve-unknown-fields"] = json!(true);
    define(&t, "noxus", schema).await;
    let body = format!(
        "metadata: {{name: mytest}}\nspec:\n  unknown: uk1\n  foo: foo1\n  foo: foo2\n{PORTS}"
    );
    let (_, answer) = applied(&t, "noxus", &body).await;
    assert!(answer.contains(r#"line 7: key \"foo\" already set in map"#), "{answer}");

    let path = format!("/apis/{GROUP}/v1/noxus?fieldValidation=Strict");
    let text = format!(
        r#"{{"apiVersion": "{GROUP}/v1", "kind": "Kindnoxus", "metadata": {{"name": "mytest"}},
            "spec": {{"foo": "foo1", "foo": "foo2"}}}}"#
    );
    let request = Request::post(path).header("content-type", "application/json");
    let request = request.body(text.into_bytes().into()).expect("a request");
    let response = t.client().send(request).await.expect("an answer");
    assert_eq!(response.status(), 400);
    let body = http_body_util::BodyExt::collect(response.into_body()).await.expect("a body");
    let body: Value = serde_json::from_slice(&body.to_bytes()).expect("a status");
    let message = body["message"].as_str().expect("a message");
    assert!(message.contains(r#"strict decoding error: duplicate field "spec.foo""#), "{message}");
}
