//! Requests that make no sense: the right status, reason and message, nothing stored, and a server
//! that goes on.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use bytes::Bytes;
use common::server;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, api::ListParams};
use rk_api::server::{ApiServer, UserInfo, authn::TokenList};
use rk_store::EmbeddedStore;
use serde_json::Value;
use std::sync::Arc;
use tower::ServiceExt;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

struct Answer {
    code: u16,
    body: Value,
    headers: http::HeaderMap,
}

async fn secured() -> ApiServer {
    let admins = TokenList::default().with("secret", UserInfo::admin());
    let builder = ApiServer::builder(Arc::new(EmbeddedStore::in_memory()));
    builder.authenticator(Arc::new(admins)).start().await.unwrap()
}

async fn send(
    server: &ApiServer,
    method: Method,
    path: &str,
    media_type: &str,
    body: &[u8],
) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", "Bearer secret")
        .header("content-type", media_type)
        .body(Full::new(Bytes::copy_from_slice(body)))
        .unwrap();
    let Ok(response) = server.clone().oneshot(request).await;
    let (code, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    Answer { code, body: serde_json::from_slice(&body).unwrap_or_default(), headers }
}

/// Sends one request and compares the status code, the reason and a part of the message.
#[track_caller]
fn check(answer: &Answer, code: u16, reason: &str, message: &str) {
    let text = |key: &str| answer.body[key].as_str().unwrap_or_default().to_owned();
    assert_eq!((answer.code, text("reason").as_str()), (code, reason), "{}", answer.body);
    assert!(text("message").contains(message), "{}", text("message"));
    assert_eq!((text("kind").as_str(), text("status").as_str()), ("Status", "Failure"));
}

#[tokio::test]
async fn bad_bodies_are_refused_and_nothing_is_stored() {
    let server = secured().await;
    let json = "application/json";
    let deep = "[".repeat(100_000);
    let huge = format!("{{\"data\":{{\"k\":\"{}\"}}}}", "x".repeat(4 << 20));
    let long_name = format!("{{\"metadata\":{{\"name\":\"{}\"}}}}", "a".repeat(300));
    let long_key =
        format!("{{\"metadata\":{{\"name\":\"x\"}},\"data\":{{\"{}\":\"\"}}}}", "k".repeat(300));
    let cases: &[(&str, &[u8], u16, &str, &str)] = &[
        (json, b"", 400, "BadRequest", "unexpected end of JSON input (<empty>)"),
        (json, b"{\"metadata\":", 400, "BadRequest", "unexpected end of JSON input"),
        (json, b"[]", 400, "BadRequest", "cannot unmarshal array"),
        (json, b"null", 400, "BadRequest", ""),
        (json, b"\xff\xfe", 400, "BadRequest", ""),
        (json, deep.as_bytes(), 400, "BadRequest", ""),
        (json, b"{\"metadata\":{\"name\":7}}", 400, "BadRequest", "cannot unmarshal number"),
        (
            json,
            b"{\"kind\":\"Pod\",\"metadata\":{\"name\":\"x\"}}",
            400,
            "BadRequest",
            "cannot be handled as a ConfigMap",
        ),
        (
            json,
            b"{\"apiVersion\":\"v2\",\"metadata\":{\"name\":\"x\"}}",
            400,
            "BadRequest",
            "does not match the expected API version",
        ),
        (json, b"{}", 422, "Invalid", "name or generateName is required"),
        (
            json,
            b"{\"metadata\":{\"name\":\"UPPER\"}}",
            422,
            "Invalid",
            "a lowercase RFC 1123 subdomain",
        ),
        (json, b"{\"metadata\":{\"name\":\"a/b\"}}", 422, "Invalid", ""),
        (json, b"{\"metadata\":{\"name\":\"..\"}}", 422, "Invalid", ""),
        (json, long_name.as_bytes(), 422, "Invalid", "no more than 253"),
        (json, long_key.as_bytes(), 422, "Invalid", "data["),
        (
            json,
            b"{\"metadata\":{\"name\":\"x\",\"labels\":{\"a b\":\"c\"}}}",
            422,
            "Invalid",
            "metadata.labels",
        ),
        (
            json,
            b"{\"metadata\":{\"name\":\"x\",\"namespace\":\"other\"}}",
            400,
            "BadRequest",
            "does not match the namespace",
        ),
        (
            json,
            b"{\"metadata\":{\"name\":\"x\",\"resourceVersion\":\"5\"}}",
            500,
            "",
            "resourceVersion should not be set",
        ),
        (json, huge.as_bytes(), 413, "RequestEntityTooLarge", "limit is 3145728"),
        ("application/yaml", b"a: b: c", 400, "BadRequest", ""),
        (
            "application/yaml",
            b"metadata: {name: x}\ndata: {a: no}",
            400,
            "BadRequest",
            "cannot unmarshal bool",
        ),
        ("application/yaml", b"&a [*a, *a]", 400, "BadRequest", ""),
        ("text/plain", b"hello", 415, "UnsupportedMediaType", "unknown format"),
        ("application/vnd.kubernetes.protobuf", b"k8s\0", 400, "BadRequest", "protobuf"),
    ];
    for (media_type, body, code, reason, message) in cases {
        let answer = send(&server, Method::POST, MAPS, media_type, body).await;
        println!("{media_type} {:?}", String::from_utf8_lossy(&body[..body.len().min(60)]));
        check(&answer, *code, reason, message);
    }
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    assert!(maps.list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn bad_paths_verbs_and_parameters_are_refused() {
    let server = secured().await;
    let one = &format!("{MAPS}/x");
    let cases: &[(Method, &str, u16, &str, &str)] = &[
        (Method::GET, "/api/v1/nosuch", 404, "NotFound", "could not find the requested resource"),
        (Method::GET, "/api/v2/pods", 404, "NotFound", ""),
        (Method::GET, "/apis/apps/v1/namespaces/default/pods", 404, "NotFound", ""),
        (Method::GET, "/api/v1/namespaces/default/nodes", 404, "NotFound", ""),
        (Method::GET, &format!("{one}/nosuch"), 404, "NotFound", ""),
        (Method::GET, one, 404, "NotFound", "configmaps \"x\" not found"),
        (Method::GET, "/api/v1/%zz", 400, "BadRequest", ""),
        (Method::PATCH, MAPS, 405, "MethodNotAllowed", ""),
        (Method::POST, one, 405, "MethodNotAllowed", ""),
        (Method::POST, "/api/v1/configmaps", 405, "MethodNotAllowed", ""),
        (Method::DELETE, "/api/v1/namespaces", 405, "MethodNotAllowed", ""),
        (Method::OPTIONS, MAPS, 405, "MethodNotAllowed", ""),
        (Method::PATCH, one, 415, "UnsupportedMediaType", ""),
        (Method::GET, &format!("{MAPS}?limit=x"), 400, "BadRequest", "strconv.ParseInt"),
        (Method::GET, &format!("{MAPS}?resourceVersion=x"), 400, "BadRequest", ""),
        (
            Method::GET,
            &format!("{MAPS}?resourceVersion=99999999"),
            504,
            "Timeout",
            "Too large resource version",
        ),
        (
            Method::GET,
            &format!("{MAPS}?labelSelector=a+b"),
            400,
            "BadRequest",
            "unable to parse requirement",
        ),
        (
            Method::GET,
            &format!("{MAPS}?fieldSelector=data.k=v"),
            400,
            "BadRequest",
            "not a known field selector",
        ),
        (
            Method::GET,
            &format!("{MAPS}?continue=abc"),
            400,
            "BadRequest",
            "continue key is not valid",
        ),
        (Method::POST, &format!("{MAPS}?dryRun=Some"), 422, "Invalid", "dryRun"),
        (Method::POST, &format!("{MAPS}?fieldValidation=Some"), 422, "Invalid", "fieldValidation"),
    ];
    for (method, path, code, reason, message) in cases {
        println!("{method} {path}");
        let answer = send(&server, method.clone(), path, "application/json", b"{}").await;
        check(&answer, *code, reason, message);
    }
}

#[tokio::test]
async fn unknown_fields_are_told_refused_or_ignored_as_asked() {
    let server = secured().await;
    let body = |name: &str| format!("{{\"metadata\":{{\"name\":\"{name}\"}},\"foo\":1}}");
    let create = |query: &str, name: &str| {
        let (path, body) = (format!("{MAPS}{query}"), body(name));
        let server = server.clone();
        async move { send(&server, Method::POST, &path, "application/json", body.as_bytes()).await }
    };

    let warned = create("", "a").await;
    assert_eq!(warned.code, 201, "{}", warned.body);
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"foo\\\"\"");
    let ignored = create("?fieldValidation=Ignore", "b").await;
    assert!(ignored.code == 201 && !ignored.headers.contains_key("warning"));
    let refused = create("?fieldValidation=Strict", "c").await;
    check(&refused, 400, "BadRequest", "strict decoding error: unknown field \"foo\"");
}

#[tokio::test]
async fn duplicate_fields_are_told_refused_or_ignored_as_asked() {
    let server = secured().await;
    let create = |query: &str, name: &str| {
        let body = format!(
            r#"{{"metadata":{{"name":"{name}"}},"data":{{"k":"a","k":"b"}},"immutable":true,"immutable":false}}"#
        );
        let (path, server) = (format!("{MAPS}{query}"), server.clone());
        async move { send(&server, Method::POST, &path, "application/json", body.as_bytes()).await }
    };

    let warned = create("", "a").await;
    assert_eq!(warned.code, 201, "{}", warned.body);
    assert_eq!(warned.headers["warning"], "299 - \"duplicate field \\\"data.k\\\"\"");
    assert_eq!(warned.headers.get_all("warning").iter().count(), 2);
    let ignored = create("?fieldValidation=Ignore", "b").await;
    assert!(ignored.code == 201 && !ignored.headers.contains_key("warning"));
    let refused = create("?fieldValidation=Strict", "c").await;
    let why = "strict decoding error: duplicate field \"data.k\", duplicate field \"immutable\"";
    check(&refused, 400, "BadRequest", why);
}

#[tokio::test]
async fn a_patch_that_says_a_thing_twice_is_told_refused_or_taken_as_asked() {
    let server = secured().await;
    let made =
        send(&server, Method::POST, MAPS, "application/json", br#"{"metadata":{"name":"m"}}"#);
    assert_eq!(made.await.code, 201);
    let patch = |query: &str, kind: &str, body: &'static str| {
        let (path, kind, server) = (format!("{MAPS}/m{query}"), kind.to_owned(), server.clone());
        async move { send(&server, Method::PATCH, &path, &kind, body.as_bytes()).await }
    };
    for (kind, body, told) in [
        (
            "application/merge-patch+json",
            r#"{"data":{"k":"a","k":"b"}}"#,
            r#"duplicate field "data.k""#,
        ),
        (
            "application/strategic-merge-patch+json",
            r#"{"data":{"k":"c"},"foo":1,"foo":2}"#,
            r#"duplicate field "foo", unknown field "foo""#,
        ),
        (
            "application/json-patch+json",
            r#"[{"op":"add","path":"/data/k","path":"/data/l","value":"d"}]"#,
            r#"json patch duplicate field "[0].path""#,
        ),
    ] {
        let refused = patch("?fieldValidation=Strict", kind, body).await;
        assert_eq!(refused.code, 422, "{}", refused.body);
        let message = refused.body["message"].as_str().unwrap();
        assert!(message.ends_with(&format!("strict decoding error: {told}")), "{message}");
        let warned = patch("", kind, body).await;
        assert_eq!(warned.code, 200, "{}", warned.body);
        let warnings = warned.headers.get_all("warning").iter().count();
        assert_eq!(warnings, told.matches("field \"").count());
        let ignored = patch("?fieldValidation=Ignore", kind, body).await;
        assert!(ignored.code == 200 && !ignored.headers.contains_key("warning"));
    }
}

#[tokio::test]
async fn who_does_not_say_who_they_are_is_anonymous_and_who_says_it_wrongly_gets_nowhere() {
    let server = secured().await;
    server.roles_ready().await;
    for (path, authorization, code) in [
        ("/api/v1/pods", None, 403),
        ("/api/v1/pods", Some("Bearer wrong"), 401),
        ("/api/v1/pods", Some("Bearer a.b.c"), 401),
        ("/api/v1/pods", Some("Basic c2VjcmV0"), 403),
        ("/metrics", None, 403),
        ("/api", None, 403),
        ("/version", None, 200),
        ("/livez", None, 200),
        ("/readyz", None, 200),
        ("/readyz/etcd", None, 403),
        ("/api/v1/pods", Some("bearer secret"), 200),
    ] {
        let mut request = Request::get(path);
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        let Ok(response) =
            server.clone().oneshot(request.body(Full::<Bytes>::default()).unwrap()).await;
        assert_eq!(response.status().as_u16(), code, "{path} {authorization:?}");
    }
}

#[tokio::test]
async fn others_than_administrators_only_see_discovery() {
    let server = server().await;
    server.roles_ready().await;
    let client = server.client_as(UserInfo::new("ann", []));
    assert!(client.list_core_api_versions().await.is_ok());
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let kube::Error::Api(status) = maps.get("x").await.unwrap_err() else { panic!() };
    assert_eq!(
        (status.code, status.message.as_str()),
        (
            403,
            "configmaps \"x\" is forbidden: User \"ann\" cannot get resource \"configmaps\" in API group \"\" in the namespace \"default\""
        )
    );
}

#[tokio::test]
async fn what_is_odd_is_told_when_it_is_written() {
    const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
    let server = secured().await;
    let told = async |method: Method, path: &str, kind: &str, body: Value| -> Vec<String> {
        let answer = send(&server, method, path, kind, body.to_string().as_bytes()).await;
        assert!(answer.code < 300, "{}", answer.body);
        let headers = answer.headers.get_all("warning").iter();
        headers.map(|value| value.to_str().unwrap().to_owned()).collect()
    };
    let merge = "application/merge-patch+json";
    let deployment = serde_json::json!({"metadata": {"name": "a.b"}, "spec": {
        "selector": {"matchLabels": {"app": "a"}},
        "template": {"metadata": {"labels": {"app": "a"}}, "spec": {
            "nodeSelector": {"beta.kubernetes.io/os": "linux"},
            "containers": [{"name": "c", "image": "i"}]}}}});
    let label = "299 - \"spec.template.spec.nodeSelector[beta.kubernetes.io/os]: deprecated since \
                 v1.14; use \\\"kubernetes.io/os\\\" instead\"";

    let created = told(Method::POST, DEPLOYMENTS, "application/json", deployment.clone()).await;
    assert_eq!(created.len(), 2, "{created:?}");
    let name = "299 - \"metadata.name: this is used in Pod names and hostnames, which can result \
                in surprising behavior; a DNS label is recommended: [";
    assert!(created[0].starts_with(name) && created[1] == label, "{created:?}");

    let path = format!("{DEPLOYMENTS}/a.b");
    let scaled = serde_json::json!({"spec": {"replicas": 2}});
    assert_eq!(told(Method::PATCH, &path, merge, scaled.clone()).await, [label]);
    assert_eq!(told(Method::PATCH, &path, merge, scaled).await, [""; 0]);
    let labelled = serde_json::json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(told(Method::PATCH, &path, merge, labelled).await, [""; 0]);
    let status = serde_json::json!({"status": {"replicas": 1}});
    assert_eq!(told(Method::PATCH, &format!("{path}/status"), merge, status).await, [""; 0]);
}

#[tokio::test]
async fn configurations_of_webhooks_are_replaced_only_as_they_were_read() {
    const HOOKS: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    let server = secured().await;
    let body = |version: &str| {
        let hooks = serde_json::json!({"metadata": {"name": "h", "resourceVersion": version}});
        hooks.to_string()
    };
    let json = "application/json";
    let created = send(&server, Method::POST, HOOKS, json, body("").as_bytes()).await;
    assert_eq!(created.code, 201, "{}", created.body);
    let put = async |version: &str| {
        send(&server, Method::PUT, &format!("{HOOKS}/h"), json, body(version).as_bytes()).await
    };
    let why = "validatingwebhookconfigurations.admissionregistration.k8s.io \"h\" is invalid: \
               metadata.resourceVersion: Invalid value: 0: must be specified for an update";
    check(&put("").await, 422, "Invalid", why);
    let version = created.body["metadata"]["resourceVersion"].as_str().unwrap();
    assert_eq!(put(version).await.code, 200);
}

#[tokio::test]
async fn a_status_says_nothing_about_the_metadata_of_a_volume_attachment() {
    const ALL: &str = "/apis/storage.k8s.io/v1/volumeattachments";
    let server = secured().await;
    let attachment = serde_json::json!({"metadata": {"name": "a", "labels": {"a": "b"}}, "spec": {
        "attacher": "d.example.com", "nodeName": "n",
        "source": {"persistentVolumeName": "v"}}});
    let json = "application/json";
    let body = attachment.to_string();
    let created = send(&server, Method::POST, ALL, json, body.as_bytes()).await;
    assert_eq!(created.code, 201, "{}", created.body);
    let patch = serde_json::json!({"metadata": {"labels": {"a": "c"}, "finalizers": ["x.y/z"]},
        "status": {"attached": true}});
    let (path, merge) = (format!("{ALL}/a/status"), "application/merge-patch+json");
    let told = send(&server, Method::PATCH, &path, merge, patch.to_string().as_bytes()).await;
    assert_eq!(told.code, 200, "{}", told.body);
    assert_eq!(told.body["metadata"]["labels"]["a"], "b");
    assert!(told.body["metadata"]["finalizers"].is_null());
    assert_eq!(told.body["status"]["attached"], true);
}
