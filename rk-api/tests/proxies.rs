//! The proxies to Pods, Services and nodes.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{convert::Infallible, io, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use rk_api::{
    io::Io,
    server::{ApiServer, Dialer, NodeConnector, ResponseBody, UserInfo, authn::TokenList},
};
use rk_store::EmbeddedStore;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::ServiceExt;

/// The backends of a cluster: each answers with what it was asked, where and how.
#[derive(Debug)]
struct Backends;

fn serve(who: String) -> Box<dyn Io> {
    let (near, far) = tokio::io::duplex(4096);
    let service = service_fn(move |request| backend(who.clone(), request));
    let serving = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(far), service)
        .with_upgrades();
    tokio::spawn(serving);
    Box::new(near)
}

#[async_trait]
impl Dialer for Backends {
    async fn dial(&self, host: &str, port: u16) -> io::Result<Box<dyn Io>> {
        if host == "10.0.0.9" {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(serve(format!("{host}:{port}")))
    }
}

#[async_trait]
impl NodeConnector for Backends {
    async fn connect(&self, node: &Node) -> io::Result<Box<dyn Io>> {
        Ok(serve(format!("the agent of {}", node.metadata.name.clone().unwrap())))
    }
}

async fn backend(
    who: String,
    mut request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.headers().contains_key(header::UPGRADE) {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            let mut buffer = [0; 64];
            while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                stream.write_all(&buffer[..length]).await.unwrap();
            }
        });
        let answer = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("connection", "upgrade")
            .header("upgrade", "echo");
        return Ok(answer.body(Full::default()).unwrap());
    }
    let header = |name: &str| {
        let value = request.headers().get(name);
        value.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let asked = json!({
        "who": who,
        "method": request.method().as_str(),
        "uri": request.uri().to_string(),
        "host": header("host"),
        "authorization": header("authorization"),
        "forwarded": header("x-forwarded-uri"),
    });
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let answer = match path.as_str() {
        "/page" => Response::builder()
            .header("content-type", "text/html; charset=utf-8")
            .header("access-control-allow-origin", "*")
            .body(Full::from("<a href=\"/next\">next</a>")),
        "/moved" => {
            Response::builder().status(302).header("location", "/there").body(Full::default())
        }
        "/body" => Response::builder().status(201).body(Full::from(body)),
        _ => Response::builder().body(Full::from(asked.to_string())),
    };
    Ok(answer.unwrap())
}

async fn server() -> ApiServer {
    let tokens = TokenList::default().with("secret", UserInfo::admin());
    let server = ApiServer::builder(Arc::new(EmbeddedStore::in_memory()))
        .authenticator(Arc::new(tokens))
        .dialer(Arc::new(Backends))
        .node_connector(Arc::new(Backends))
        .start()
        .await
        .unwrap();
    let client = server.client();
    for (name, ip) in [("p", "10.0.0.1"), ("q", "10.0.0.9"), ("own", "127.0.0.1")] {
        let container = json!({ "name": "c", "image": "i", "ports": [{ "containerPort": 8080 }] });
        let pod = json!({ "metadata": { "name": name }, "spec": { "containers": [container] } });
        make(&client, "/api/v1/namespaces/default/pods", "POST", pod).await;
        let status = json!({ "metadata": { "name": name }, "status": { "podIP": ip, "podIPs": [{ "ip": ip }] } });
        let path = format!("/api/v1/namespaces/default/pods/{name}/status");
        make(&client, &path, "PATCH", status).await;
    }
    let ports = json!([{ "name": "web", "port": 80, "targetPort": 8080 }]);
    let service = json!({ "metadata": { "name": "s" }, "spec": { "ports": ports } });
    make(&client, "/api/v1/namespaces/default/services", "POST", service).await;
    let pod = json!({ "kind": "Pod", "name": "p", "namespace": "default" });
    let slice = json!({
        "metadata": { "name": "s-1", "labels": { "kubernetes.io/service-name": "s" } },
        "addressType": "IPv4",
        "ports": [{ "name": "web", "port": 8080 }],
        "endpoints": [
            { "addresses": ["10.0.0.9"], "conditions": { "ready": false }, "targetRef": pod },
            { "addresses": ["10.0.0.7"], "targetRef": pod },
            { "addresses": ["10.0.0.8"] },
            { "addresses": ["10.0.0.1"], "targetRef": pod },
        ],
    });
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    make(&client, slices, "POST", slice).await;
    make(&client, "/api/v1/nodes", "POST", json!({ "metadata": { "name": "n" } })).await;
    let address = json!({ "type": "InternalIP", "address": "10.1.0.1" });
    let status = json!({ "status": { "addresses": [address] } });
    make(&client, "/api/v1/nodes/n/status", "PATCH", status).await;
    server
}

async fn make(client: &Client, path: &str, method: &str, body: Value) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(
            "content-type",
            match method {
                "PATCH" => "application/merge-patch+json",
                _ => "application/json",
            },
        )
        .body(serde_json::to_vec(&body).unwrap())
        .unwrap();
    client.request::<Value>(request).await.unwrap();
}

async fn send(server: &ApiServer, method: Method, path: &str) -> Response<ResponseBody> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", "Bearer secret")
        .header("host", "api")
        .body(Full::from("hello"))
        .unwrap();
    server.clone().oneshot(request).await.unwrap()
}

async fn text(response: Response<ResponseBody>) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

async fn asked(server: &ApiServer, path: &str) -> Value {
    serde_json::from_str(&text(send(server, Method::GET, path).await).await).unwrap()
}

const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";

#[tokio::test]
async fn a_pod_is_reached_at_its_address_and_port() {
    let server = server().await;
    let found = asked(&server, &format!("{PODS}/p/proxy/a%2Fb/?x=1&y=%20")).await;
    assert_eq!(found["who"], "10.0.0.1:8080", "the first port that it says it has");
    assert_eq!(found["uri"], "/a%2Fb/?x=1&y=%20");
    assert_eq!(found["host"], "10.0.0.1:8080");
    assert_eq!(found["authorization"], "", "credentials are for the server alone");
    assert_eq!(found["forwarded"], format!("{PODS}/p/proxy/a%2Fb/"));
    let found = asked(&server, &format!("{PODS}/p:99/proxy/")).await;
    assert_eq!((&found["who"], &found["uri"]), (&json!("10.0.0.1:99"), &json!("/")));
    let found = asked(&server, &format!("{PODS}/http:p:99/proxy/x")).await;
    assert_eq!(found["who"], "10.0.0.1:99");
}

#[tokio::test]
async fn any_method_is_passed_on_with_its_body() {
    let server = server().await;
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "GET"] {
        let method: Method = method.parse().unwrap();
        let found = send(&server, method.clone(), &format!("{SERVICES}/s:web/proxy/m")).await;
        let found: Value = serde_json::from_str(&text(found).await).unwrap();
        assert_eq!(found["method"], method.as_str());
    }
    let head = send(&server, Method::HEAD, &format!("{SERVICES}/s:web/proxy/m")).await;
    assert_eq!(head.status(), StatusCode::OK);
    let answer = send(&server, Method::POST, &format!("{PODS}/p/proxy/body")).await;
    assert_eq!(answer.status(), StatusCode::CREATED);
    assert_eq!(text(answer).await, "hello");
}

#[tokio::test]
async fn a_service_is_reached_at_a_ready_pod_of_it() {
    let server = server().await;
    for name in ["s:web", "s:80", "http:s:web", "http:s:80"] {
        let found = asked(&server, &format!("{SERVICES}/{name}/proxy/")).await;
        assert_eq!(found["who"], "10.0.0.1:8080", "{name}");
    }
    let check = async |name: &str, code: u16, message: &str| {
        let answer = send(&server, Method::GET, &format!("{SERVICES}/{name}/proxy/")).await;
        assert_eq!(answer.status(), code, "{name}");
        let status: Value = serde_json::from_str(&text(answer).await).unwrap();
        assert_eq!(status["message"], message);
    };
    check("s", 503, "no endpoints available for service \"s\"").await;
    check("s:81", 503, "no service port 81 found for service \"s\"").await;
    check("t", 404, "services \"t\" not found").await;
    check("a:b:c", 400, "invalid service request \"a:b:c\"").await;
}

#[tokio::test]
async fn a_node_is_reached_at_its_agent_or_at_another_port() {
    let server = server().await;
    let found = asked(&server, "/api/v1/nodes/n/proxy/healthz").await;
    assert_eq!((&found["who"], &found["uri"]), (&json!("the agent of n"), &json!("/healthz")));
    let found = asked(&server, "/api/v1/nodes/n:10250/proxy/pods").await;
    assert_eq!(found["who"], "the agent of n");
    let found = asked(&server, "/api/v1/nodes/n:9100/proxy/metrics").await;
    assert_eq!(found["who"], "10.1.0.1:9100");
}

#[tokio::test]
async fn links_and_redirects_lead_through_the_proxy() {
    let server = server().await;
    let page = send(&server, Method::GET, &format!("{PODS}/p/proxy/page")).await;
    assert!(page.headers().get("access-control-allow-origin").is_none());
    assert_eq!(text(page).await, format!("<a href=\"{PODS}/p/proxy/next\">next</a>"));
    let moved = send(&server, Method::GET, &format!("{PODS}/p/proxy/moved")).await;
    assert_eq!(moved.status(), StatusCode::FOUND);
    assert_eq!(moved.headers()["location"], format!("{PODS}/p/proxy/there"));
    let root = send(&server, Method::GET, &format!("{PODS}/p/proxy?x=1")).await;
    assert_eq!(root.status(), StatusCode::MOVED_PERMANENTLY);
    assert_eq!(root.headers()["location"], format!("{PODS}/p/proxy/?x=1"));
}

#[tokio::test]
async fn what_cannot_be_reached_is_told() {
    let server = server().await;
    let check = async |path: &str, code: u16, message: &str| {
        let answer = send(&server, Method::GET, path).await;
        assert_eq!(answer.status(), code, "{path}");
        let status: Value = serde_json::from_str(&text(answer).await).unwrap();
        assert_eq!(status["message"], message);
    };
    let refused =
        "error trying to reach service: dial tcp 10.0.0.9:8080: connect: connection refused";
    check(&format!("{PODS}/q/proxy/"), 503, refused).await;
    check(&format!("{PODS}/own/proxy/"), 400, "address not allowed").await;
    check(&format!("{PODS}/nobody/proxy/"), 404, "pods \"nobody\" not found").await;
}

#[tokio::test]
async fn a_stream_is_carried_both_ways() {
    let server = server().await;
    let request = Request::get(format!("{PODS}/p/proxy/stream"))
        .header("connection", "upgrade")
        .header("upgrade", "echo")
        .body(kube::client::Body::empty())
        .unwrap();
    let answer = server.client().send(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(answer.headers()["upgrade"], "echo");
    let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    stream.write_all(b"there and back").await.unwrap();
    let mut back = [0; 14];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"there and back");
}
