//! What lasts with an aggregated API: watches, upgrades, and a backend that comes and goes.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/backends.rs"]
mod backends;
mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use backends::{Backend, Everywhere, Handler};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use common::{get, send};
use futures::{StreamExt, channel::mpsc};
use http::{Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rk_api::server::{ApiServer, ResponseBody};
use rk_store::EmbeddedStore;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SERVICE: &str = "/apis/apiregistration.k8s.io/v1/apiservices/v1.example.com";
const SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/api-1";
const ROOT: &str = "/apis/example.com/v1";

/// A group with a kind, whose name ends in the number of its version.
#[derive(Debug, Default)]
struct Group {
    version: AtomicU32,
    /// Where the watchers' events are put.
    watchers: Mutex<Vec<mpsc::UnboundedSender<Bytes>>>,
}

impl Group {
    fn kind(&self) -> String {
        format!("Thing{}", self.version.load(Ordering::Relaxed))
    }

    fn document(&self, path: &str) -> Option<Value> {
        let kind = self.kind();
        Some(match path {
            ROOT => json!({
                "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "example.com/v1",
                "resources": [{
                    "name": "things", "singularName": "thing", "namespaced": true, "kind": kind,
                    "verbs": ["list", "watch"],
                }],
            }),
            "/openapi/v2" => json!({
                "swagger": "2.0",
                "paths": { "/apis/example.com/v1/things": { "get": {} } },
                "definitions": { format!("com.example.{kind}"): { "type": "object" } },
            }),
            "/openapi/v3" => {
                let url = format!("/openapi/v3{ROOT}?hash={kind}");
                json!({ "paths": { "apis/example.com/v1": { "serverRelativeURL": url } } })
            }
            "/openapi/v3/apis/example.com/v1" => json!({ "openapi": "3.0.0", "kind": kind }),
            _ => return None,
        })
    }
}

impl Handler for Group {
    fn answer(&self, mut request: Request<Incoming>) -> Response<ResponseBody> {
        let path = request.uri().path().to_owned();
        if let Some(protocol) = request.headers().get(header::UPGRADE).cloned() {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.unwrap());
                stream.write_all(b"hello\n").await.unwrap();
                let (mut input, mut output) = tokio::io::split(stream);
                let _ = tokio::io::copy(&mut input, &mut output).await;
            });
            let answer = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
            let answer = answer.header(header::CONNECTION, "Upgrade");
            return answer.header(header::UPGRADE, protocol).body(ResponseBody::empty()).unwrap();
        }
        if request.uri().query().is_some_and(|query| query.contains("watch=")) {
            let (sender, events) = mpsc::unbounded();
            self.watchers.lock().push(sender);
            let frames = events.map(|event| Ok::<_, std::io::Error>(Frame::data(event)));
            return Response::new(ResponseBody::stream(StreamBody::new(frames)));
        }
        match self.document(&path) {
            Some(document) => Response::new(ResponseBody::full(document.to_string())),
            None => {
                let missing = Response::builder().status(StatusCode::NOT_FOUND);
                missing.body(ResponseBody::empty()).unwrap()
            }
        }
    }
}

/// Asks until it is so, for a minute at most.
async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(60), found).await;
    found.unwrap_or_else(|_| panic!("in vain: {what}"))
}

async fn write(server: &ApiServer, method: &str, path: &str, body: Value) {
    let kind = match method {
        "POST" => "application/json",
        _ => "application/merge-patch+json",
    };
    let request = Request::builder().method(method).uri(path).header("content-type", kind);
    let answer = send(server, request, body.to_string().into_bytes()).await;
    assert!(answer.code < 300, "{path}: {}", answer.body);
}

/// Waits until the APIService says so.
async fn available(server: &ApiServer, status: &str, reason: &str) {
    eventually(reason, async || {
        let found = get(server, SERVICE).await.body;
        let condition = &found["status"]["conditions"][0];
        (condition["status"] == status && condition["reason"] == reason).then_some(())
    })
    .await;
}

/// A server with a group that a backend serves.
async fn server() -> (ApiServer, Arc<Group>) {
    let group = Arc::new(Group::default());
    let backend = Backend::start("api.default.svc", group.clone()).await;
    let server = ApiServer::builder(Arc::new(EmbeddedStore::in_memory()))
        .dialer(Arc::new(Everywhere(backend.address)))
        .start()
        .await
        .unwrap();
    let service = json!({ "metadata": { "name": "api" }, "spec": { "ports": [{ "port": 443 }] } });
    write(&server, "POST", "/api/v1/namespaces/default/services", service).await;
    let slice = json!({
        "metadata": { "name": "api-1", "labels": { "kubernetes.io/service-name": "api" } },
        "addressType": "IPv4",
        "ports": [{ "name": "", "port": 8443 }],
        "endpoints": [{ "addresses": ["10.0.0.5"], "conditions": { "ready": true } }],
    });
    let slices = SLICE.strip_suffix("/api-1").unwrap();
    write(&server, "POST", slices, slice).await;
    let service = json!({
        "metadata": { "name": "v1.example.com" },
        "spec": {
            "group": "example.com", "version": "v1",
            "groupPriorityMinimum": 1000, "versionPriority": 10,
            "service": { "namespace": "default", "name": "api" },
            "caBundle": STANDARD.encode(&backend.ca_pem),
        },
    });
    write(&server, "POST", SERVICE.strip_suffix("/v1.example.com").unwrap(), service).await;
    available(&server, "True", "Passed").await;
    (server, group)
}

fn request(path: &str) -> http::request::Builder {
    Request::get(format!("{ROOT}/namespaces/default/things{path}"))
}

#[tokio::test]
async fn events_of_a_watch_pass_as_they_come_and_its_end_is_told() {
    let (server, group) = server().await;
    let body = kube::client::Body::empty();
    let answer = server.client().send(request("?watch=true").body(body).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut body = answer.into_body();
    for event in ["{\"type\":\"ADDED\"}\n", "{\"type\":\"MODIFIED\"}\n"] {
        // The next one is sent when this one has come through.
        group.watchers.lock()[0].unbounded_send(Bytes::from_static(event.as_bytes())).unwrap();
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), event);
    }
    // The backend hears of it when the client goes.
    drop(body);
    eventually("the watch to end", async || group.watchers.lock()[0].is_closed().then_some(()))
        .await;

    let body = kube::client::Body::empty();
    let answer = server.client().send(request("?watch=true").body(body).unwrap()).await.unwrap();
    group.watchers.lock()[1].close_channel();
    let rest = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(rest.is_empty(), "and the client when the backend does: {rest:?}");
}

#[tokio::test]
async fn upgrades_are_carried_both_ways_whatever_they_are_to() {
    let (server, _group) = server().await;
    for protocol in ["websocket", "SPDY/3.1"] {
        let asked = request("/a/attach?stdin=1")
            .header("connection", "Upgrade")
            .header("upgrade", protocol)
            .body(kube::client::Body::empty())
            .unwrap();
        let answer = server.client().send(asked).await.unwrap();
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(answer.headers()["upgrade"], protocol);
        let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
        stream.write_all(b"and back").await.unwrap();
        let mut found = [0; 14];
        stream.read_exact(&mut found).await.unwrap();
        assert_eq!(&found, b"hello\nand back");
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut found).await.unwrap(), 0, "it ends when both have ended");
    }
}

#[tokio::test]
async fn a_backend_that_comes_and_goes_is_asked_anew_each_time() {
    let (server, group) = server().await;
    let ready = async |ready: bool| {
        let conditions = json!({ "ready": ready });
        let endpoints = json!([{ "addresses": ["10.0.0.5"], "conditions": conditions }]);
        write(&server, "PATCH", SLICE, json!({ "endpoints": endpoints })).await;
    };
    for version in 1..=3 {
        ready(false).await;
        available(&server, "False", "MissingEndpoints").await;
        eventually("a refusal", async || (get(&server, ROOT).await.code == 503).then_some(()))
            .await;
        let groups = get(&server, "/apis").await.body;
        let names = groups["groups"].as_array().unwrap().iter().map(|group| &group["name"]);
        assert!(names.clone().any(|name| name == "example.com"), "it is still known");

        group.version.store(version, Ordering::Relaxed);
        ready(true).await;
        available(&server, "True", "Passed").await;
        let kind = group.kind();
        eventually("the new document", async || {
            let swagger = get(&server, "/openapi/v2").await.body;
            let definitions = swagger["definitions"].as_object()?;
            let has = |name: &str| definitions.contains_key(&format!("com.example.{name}"));
            let old = format!("Thing{}", version - 1);
            (has(&kind) && !has(&old) && definitions.len() > 100).then_some(())
        })
        .await;
        let index = get(&server, "/openapi/v3").await.body;
        let url = index["paths"]["apis/example.com/v1"]["serverRelativeURL"].as_str().unwrap();
        assert!(url.ends_with(&format!("?hash={kind}")), "{url}");
        assert_eq!(get(&server, url).await.body["kind"], kind);
        let list = get(&server, ROOT).await.body;
        assert_eq!(list["resources"][0]["kind"], kind);
    }
}
