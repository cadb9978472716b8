//! Probes of containers that answer them, and what is read and written through the kubelet's API.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::atomic::{AtomicI64, Ordering},
};

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::StreamBody;
use hyper::{body::Frame, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::{
    api::core::v1::{Event, Pod},
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{AttachParams, PostParams},
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    agent::Cluster,
    lab::{Lab, PATIENCE, eventually, eventually_within},
};

fn container(status: &Value) -> &Value {
    &status["containerStatuses"][0]
}

fn time(text: &Value) -> Timestamp {
    text.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{text} is a time"))
}

// Conformance: Pod liveness probe, using http endpoint, multiple restarts (slow)
pub async fn what_fails_its_probe_again_and_again_is_started_again_and_again(lab: &mut Lab) {
    // The pauses between restarts stay short: it is their number that counts.
    let fields = "crashLoopBackOff: {maxContainerRestartPeriod: 1s}\n";
    let cluster = Cluster::configured(lab, fields).await;
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 1, "containers": [{
            "name": "main", "image": "busybox", "imagePullPolicy": "Never",
            // The page is there at first.
            "command": ["sh", "-c",
                "mkdir /www; echo ok > /www/healthz; httpd -p 8080 -h /www; \
                 (sleep 1; rm /www/healthz) & exec sleep 600"],
            "livenessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1,
                "timeoutSeconds": 20, "failureThreshold": 1, "terminationGracePeriodSeconds": 1},
        }]},
    }))
    .unwrap();
    cluster.pods().create(&PostParams::default(), &pod).await.unwrap();
    let seen = AtomicI64::new(0);
    let long = std::time::Duration::from_secs(300);
    eventually_within(long, || async {
        let pod = cluster.pods().get("web").await.unwrap();
        let status = serde_json::to_value(pod.status).unwrap();
        let count = container(&status)["restartCount"].as_i64().unwrap_or(0);
        let before = seen.swap(count, Ordering::Relaxed);
        assert!(count >= before, "{count} after {before}");
        (count >= 5).then_some(())
    })
    .await;
    // There may be others, of when it did not listen yet.
    let events = Api::<Event>::default_namespaced(cluster.client.clone());
    eventually(|| async {
        let all = events.list(&Default::default()).await.unwrap().items;
        let mut messages = all.iter().filter_map(|event| event.message.as_deref());
        let told = "Liveness probe failed: HTTP probe failed with statuscode: 404";
        messages.any(|message| message.contains(told)).then_some(())
    })
    .await;
    cluster.delete("web").await;
    cluster.end(lab).await;
}

// Conformance: Pod readiness probe, with initial delay
pub async fn a_pod_is_not_ready_before_its_probe_has_begun(lab: &mut Lab) {
    let cluster = Cluster::new(lab).await;
    let probe =
        json!({"exec": {"command": ["true"]}, "initialDelaySeconds": 3, "periodSeconds": 1});
    cluster.run("web", "exec sleep 600", json!({"readinessProbe": probe})).await;
    let status = cluster.until("web", |status| container(status)["ready"] == true).await;
    assert_eq!(container(&status)["restartCount"], 0);
    let started = time(&container(&status)["state"]["running"]["startedAt"]);
    let conditions = status["conditions"].as_array().unwrap();
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready").unwrap();
    let ready = time(&ready["lastTransitionTime"]);
    assert!(ready.duration_since(started).as_secs() >= 3, "{started} {ready}");
    cluster.delete("web").await;
    cluster.end(lab).await;
}

/// A gRPC server that says that all is well, until it is dropped.
async fn healthy(lab: &Lab) -> (SocketAddr, AbortOnDropHandle<()>) {
    let address = SocketAddr::new(lab.network.node_ips()[0], 5000);
    let netns = lab.network.netns().map(Into::into);
    let listener = rk_net::netns::listen(netns, address).await.unwrap();
    let serve = async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(|request: Request<hyper::body::Incoming>| async move {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                let serving = Bytes::from_static(b"\0\0\0\0\x02\x08\x01");
                let frames = [Frame::data(serving), Frame::trailers(trailers)];
                let frames = futures::stream::iter(frames.map(Ok::<_, Infallible>));
                Ok::<_, Infallible>(Response::new(StreamBody::new(frames)))
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    };
    (address, AbortOnDropHandle::new(tokio::spawn(serve)))
}

// Conformance: Pod liveness probe, using grpc call, success
pub async fn a_grpc_server_that_is_well_is_ready_and_left_alone(lab: &mut Lab) {
    let cluster = Cluster::new(lab).await;
    let (address, _server) = healthy(lab).await;
    let probe = json!({"grpc": {"port": address.port()}, "periodSeconds": 1, "failureThreshold": 1,
        "timeoutSeconds": 20});
    let spec = json!({"nodeName": "n1", "hostNetwork": true, "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "main", "image": "busybox", "imagePullPolicy": "Never",
            "command": ["sleep", "600"], "readinessProbe": probe, "livenessProbe": probe}]});
    let pod = serde_json::from_value(json!({"metadata": {"name": "rpc"}, "spec": spec})).unwrap();
    cluster.pods().create(&PostParams::default(), &pod).await.unwrap();
    let status = cluster.until("rpc", |status| container(status)["ready"] == true).await;
    let since = time(&container(&status)["state"]["running"]["startedAt"]);
    // Several times, as the node counts.
    let counted = http::Request::get("/api/v1/nodes/n1/proxy/metrics/probes");
    let counted = counted.body(Vec::new()).unwrap();
    eventually(|| async {
        let page = cluster.client.request_text(counted.clone()).await.unwrap();
        let mut lines = page.lines().filter(|line| !line.starts_with('#'));
        let line = lines.find(|line| {
            let about = ["Liveness", "successful", "rpc"];
            about.iter().all(|word| line.contains(word)) && line.contains("prober_probe_total")
        })?;
        (line.rsplit(' ').next()?.parse::<f64>().ok()? >= 3.0).then_some(())
    })
    .await;
    let status = cluster.until("rpc", |status| container(status)["ready"] == true).await;
    assert_eq!(container(&status)["restartCount"], 0);
    assert_eq!(time(&container(&status)["state"]["running"]["startedAt"]), since);
    cluster.delete("rpc").await;
    cluster.end(lab).await;
}

// Conformance: Pods, logs from websockets
pub async fn a_log_is_read_over_a_websocket(lab: &mut Lab) {
    let cluster = Cluster::new(lab).await;
    cluster.run("teller", "echo container is alive; exec sleep 600", json!({})).await;
    cluster.until("teller", |status| container(status)["ready"] == true).await;
    let request = http::Request::get("/api/v1/namespaces/default/pods/teller/log?follow=true")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", "binary.k8s.io")
        .body(kube::client::Body::empty())
        .unwrap();
    let answer = cluster.client.send(request).await.unwrap();
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.headers()["sec-websocket-protocol"], "binary.k8s.io");
    let stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
    let mut told = Vec::new();
    while told != b"container is alive\n" {
        let next = tokio::time::timeout(PATIENCE, socket.next()).await;
        match next.unwrap().unwrap().unwrap() {
            Message::Binary(data) => told.extend_from_slice(&data),
            other => panic!("{other:?} after {told:?}"),
        }
    }
    drop(socket);
    cluster.delete("teller").await;
    cluster.end(lab).await;
}

/// More than all the buffers on the way together.
const MUCH: usize = 5_000_000;

pub async fn much_input_and_output_of_a_command_arrive_whole(lab: &mut Lab) {
    let cluster = Cluster::new(lab).await;
    cluster.run("shell", "exec sleep 600", json!({})).await;
    cluster.until("shell", |status| container(status)["ready"] == true).await;
    let sent: Vec<u8> = (0..MUCH).map(|at| (at % 251) as u8).collect();
    let params = AttachParams::default().stdin(true).stderr(false);
    let mut session = cluster.pods().exec("shell", ["cat"], &params).await.unwrap();
    let (mut stdin, mut stdout) = (session.stdin().unwrap(), session.stdout().unwrap());
    let write = async {
        stdin.write_all(&sent).await.unwrap();
        stdin.shutdown().await.unwrap();
        drop(stdin);
    };
    let mut got = Vec::new();
    let read = async { stdout.read_to_end(&mut got).await.unwrap() };
    tokio::join!(write, read);
    assert_eq!(got.len(), sent.len());
    assert!(got == sent);
    let ended = session.take_status().unwrap().await.unwrap();
    assert_eq!(ended.status.as_deref(), Some("Success"));
    cluster.delete("shell").await;
    cluster.end(lab).await;
}
