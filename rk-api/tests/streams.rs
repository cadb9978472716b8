//! Logs, exec and port-forward: through the server to the agent of the Pod's node.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{convert::Infallible, io, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use common::pod;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api,
    api::{AttachParams, LogParams, PostParams},
};
use rk_api::{
    io::Io,
    server::{ApiServer, NodeConnector, UserInfo, authn::TokenList},
};
use rk_store::EmbeddedStore;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Agents that answer with what they were asked, and send back what they get on a stream.
#[derive(Debug)]
struct EchoNodes;

#[async_trait]
impl NodeConnector for EchoNodes {
    async fn connect(&self, node: &Node) -> io::Result<Box<dyn Io>> {
        if node.metadata.name.as_deref() != Some("n1") {
            return Err(io::Error::other("no route to host"));
        }
        let (near, far) = tokio::io::duplex(4096);
        let serving = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(far), service_fn(agent))
            .with_upgrades();
        tokio::spawn(serving);
        Ok(Box::new(near))
    }
}

async fn agent(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let asked = request.uri().to_string();
    if !request.headers().contains_key(header::UPGRADE) {
        return Ok(Response::new(Full::from(asked)));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.unwrap());
        stream.write_all(format!("{asked}\n").as_bytes()).await.unwrap();
        let mut buffer = [0; 64];
        while let Ok(length @ 1..) = stream.read(&mut buffer).await {
            stream.write_all(&buffer[..length]).await.unwrap();
        }
    });
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for name in [header::CONNECTION, header::UPGRADE] {
        response.headers_mut().insert(name.clone(), request.headers()[&name].clone());
    }
    Ok(response)
}

/// A server with a node and a Pod with two containers on it.
async fn server() -> ApiServer {
    let admins = TokenList::default().with("secret", UserInfo::admin());
    let server = ApiServer::builder(Arc::new(EmbeddedStore::in_memory()))
        .authenticator(Arc::new(admins))
        .node_connector(Arc::new(EchoNodes))
        .start()
        .await
        .unwrap();
    let nodes: Api<Node> = Api::all(server.client());
    for name in ["n1", "n2"] {
        let node = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
        nodes.create(&PostParams::default(), &node).await.unwrap();
    }
    for (name, node) in [("a", Some("n1")), ("far", Some("n2")), ("nowhere", None)] {
        let mut made = pod(name);
        let spec = made.spec.as_mut().unwrap();
        spec.node_name = node.map(Into::into);
        let mut second = spec.containers[0].clone();
        second.name = "d".into();
        spec.containers.push(second);
        pods(&server).create(&PostParams::default(), &made).await.unwrap();
    }
    server
}

fn pods(server: &ApiServer) -> Api<Pod> {
    Api::default_namespaced(server.client())
}

#[tokio::test]
async fn logs_come_from_the_agent_with_the_options_asked_for() {
    let server = server().await;
    let params = LogParams {
        container: Some("d".into()),
        tail_lines: Some(3),
        previous: true,
        ..LogParams::default()
    };
    let text = pods(&server).logs("a", &params).await.unwrap();
    assert_eq!(text, "/containerLogs/default/a/d?tailLines=3&previous=true");
}

#[tokio::test]
async fn what_cannot_be_told_is_said_in_kubernetes_words() {
    let server = server().await;
    let log = |pod: &'static str, container: Option<&str>| {
        let params = LogParams { container: container.map(Into::into), ..LogParams::default() };
        let pods = pods(&server);
        async move {
            match pods.logs(pod, &params).await {
                Ok(text) => text,
                Err(kube::Error::Api(status)) => format!("{} {}", status.code, status.message),
                Err(error) => panic!("{error}"),
            }
        }
    };
    assert_eq!(
        log("a", None).await,
        "400 a container name must be specified for pod a, choose one of: [c d]"
    );
    assert_eq!(log("a", Some("x")).await, "400 container x is not valid for pod a");
    assert_eq!(log("nowhere", Some("c")).await, "");
    assert_eq!(log("none", None).await, "404 pods \"none\" not found");
    assert_eq!(
        log("far", Some("c")).await,
        "500 Internal error occurred: error dialing backend: no route to host"
    );
}

#[tokio::test]
async fn a_stream_carries_bytes_both_ways() {
    let server = server().await;
    let (near, far) = tokio::io::duplex(4096);
    let service = service_fn(move |request| tower::ServiceExt::oneshot(server.clone(), request));
    let serving = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(far), service)
        .with_upgrades();
    tokio::spawn(serving);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let path = "/api/v1/namespaces/default/pods/a/exec?container=c&command=echo&command=a%20b&stdin=1&tty=1";
    let request = Request::get(path)
        .header("authorization", "Bearer secret")
        .header("connection", "upgrade")
        .header("upgrade", "SPDY/3.1")
        .body(Full::<Bytes>::default())
        .unwrap();

    let response = sender.send_request(request).await.unwrap();

    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "/exec/default/a/c?input=1&tty=1&command=echo&command=a%20b\nhello");
}

#[tokio::test]
async fn exec_into_a_pod_that_is_nowhere_is_refused() {
    let server = server().await;
    let params = AttachParams::default().container("c");
    let error = pods(&server).exec("nowhere", ["ls"], &params).await.err().unwrap();
    assert!(error.to_string().contains("400"), "{error}");
}
