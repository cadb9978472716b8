//! The kubelet's HTTP API over a pipe in memory, with the simulated runtime behind it.
#![allow(clippy::unwrap_used, reason = "what fails here is the test")]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::PostParams};
use rk_api::server::ApiServer;
use rk_cri::{
    SimRuntime,
    agent::{Agent, Kubelets},
    runtime::ExecOutput,
};
use rk_store::EmbeddedStore;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};
use tokio_util::sync::{CancellationToken, DropGuard};

struct World {
    kubelets: Kubelets,
    pods: Api<Pod>,
    _agent: DropGuard,
}

impl World {
    async fn new() -> Self {
        let store = Arc::new(EmbeddedStore::in_memory());
        let kubelets = Kubelets::new();
        let server = ApiServer::builder(store);
        #[cfg(feature = "server")]
        let server = server.node_connector(Arc::new(kubelets.clone()));
        let server = server.start().await.unwrap();
        let runtime = SimRuntime::builder().exec(|_, command| {
            (command[0] == "hostname")
                .then(|| ExecOutput { stdout: Bytes::from_static(b"web\n"), ..Default::default() })
        });
        let runtime = Arc::new(runtime.build().unwrap());
        let agent = Agent::builder(server.client(), runtime).node_name("n1").build().unwrap();
        kubelets.add("n1", agent.kubelet_api());
        let token = CancellationToken::new();
        tokio::spawn(agent.run(token.clone()));
        let pods = Api::default_namespaced(server.client());
        Self { kubelets, pods, _agent: token.drop_guard() }
    }

    /// Runs a pod whose container runs `script`, and waits until it has begun.
    async fn run(&self, name: &str, script: &str, container: Value) {
        let mut pod = json!({
            "metadata": {"name": name},
            "spec": {"nodeName": "n1", "containers": [
                {"name": "main", "image": "app:v1", "command": ["sh", "-c", script]}]},
        });
        for (key, value) in container.as_object().unwrap() {
            pod["spec"]["containers"][0][key] = value.clone();
        }
        let pod: Pod = serde_json::from_value(pod).unwrap();
        self.pods.create(&PostParams::default(), &pod).await.unwrap();
        for _ in 0..1000 {
            let status = self.pods.get(name).await.unwrap().status.unwrap_or_default();
            if status.phase.as_deref() != Some("Pending") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{name} did not start");
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let io = TokioIo::new(self.kubelets.connect_to("n1").unwrap());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let request =
            http::Request::get(path).header("host", "n1").body(Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    /// A WebSocket with the first of `protocols` that the kubelet takes.
    async fn websocket(
        &self,
        path: &str,
        protocols: &str,
    ) -> tokio_tungstenite::WebSocketStream<tokio::io::DuplexStream> {
        let mut request = format!("ws://n1{path}").into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
        let io = self.kubelets.connect_to("n1").unwrap();
        let (socket, response) = tokio_tungstenite::client_async(request, io).await.unwrap();
        let chosen = response.headers()["sec-websocket-protocol"].to_str().unwrap();
        assert_eq!(chosen, protocols.split(", ").next().unwrap());
        socket
    }
}

/// What came on each channel until the end.
async fn read_all(
    socket: &mut tokio_tungstenite::WebSocketStream<tokio::io::DuplexStream>,
) -> [String; 4] {
    let mut channels: [Vec<u8>; 4] = Default::default();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(data) = message {
            channels[usize::from(data[0])].extend_from_slice(&data[1..]);
        }
    }
    channels.map(|bytes| String::from_utf8(bytes).unwrap())
}

#[tokio::test(start_paused = true)]
async fn logs_are_chosen_by_the_query() {
    let world = World::new().await;
    world.run("web", "echo one; echo two >&2; echo three; sleep 1h", json!({})).await;
    let logs =
        async |query: &str| world.get(&format!("/containerLogs/default/web/main?{query}")).await;
    assert_eq!(logs("").await, (200, "one\ntwo\nthree\n".into()));
    assert_eq!(logs("tailLines=2").await.1, "two\nthree\n");
    assert_eq!(logs("limitBytes=5").await.1, "one\nt");
    assert_eq!(logs("stream=Stderr").await.1, "two\n");
    assert!(logs("timestamps=true&tailLines=1").await.1.ends_with("Z three\n"));
    let (status, message) = logs("previous=true").await;
    assert_eq!(
        (status, &*message),
        (400, "previous terminated container \"main\" in pod \"web\" not found")
    );
    assert_eq!(logs("tailLines=x").await.0, 400);
    let (status, message) = world.get("/containerLogs/default/web/other").await;
    assert_eq!((status, &*message), (400, "container \"other\" not found in pod \"web\""));
    assert_eq!(world.get("/containerLogs/default/nobody/main").await.0, 404);
}

#[tokio::test(start_paused = true)]
async fn a_log_is_followed_until_the_container_ends() {
    let world = World::new().await;
    world.run("web", "echo 1; sleep 2; echo 2; sleep 2; echo 3; sleep 2; echo 4", json!({})).await;
    let begun = tokio::time::Instant::now();
    let (_, log) = world.get("/containerLogs/default/web/main?follow=true").await;
    assert_eq!(log, "1\n2\n3\n4\n");
    assert!(begun.elapsed() >= Duration::from_secs(5));
    // It is started again at once; the one before can still be read.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (_, previous) = world.get("/containerLogs/default/web/main?previous=true").await;
    assert_eq!(previous, "1\n2\n3\n4\n");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_waits_has_no_log_yet() {
    let world = World::new().await;
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "ghost"},
        "spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "registry.invalid/a:v1"}]},
    }))
    .unwrap();
    world.pods.create(&PostParams::default(), &pod).await.unwrap();
    tokio::time::sleep(Duration::from_secs(8)).await;
    let (status, message) = world.get("/containerLogs/default/ghost/main").await;
    assert_eq!(status, 400);
    assert_eq!(
        message,
        "container \"main\" in pod \"ghost\" is waiting to start: trying and failing to pull image"
    );
}

#[tokio::test(start_paused = true)]
async fn a_command_runs_over_a_websocket() {
    let world = World::new().await;
    world.run("web", "sleep 1h", json!({})).await;
    let exec = |script: &str| {
        let script = script.replace(' ', "+").replace('&', "%26").replace('>', "%3E");
        format!(
            "/exec/default/web/main?command=sh&command=-c&command={script}&input=1&output=1&error=1"
        )
    };

    let mut socket = world
        .websocket(&exec("echo out; echo err >&2; exit 3"), "v5.channel.k8s.io, v4.channel.k8s.io")
        .await;
    let [_, out, err, status] = read_all(&mut socket).await;
    assert_eq!((&*out, &*err), ("out\n", "err\n"));
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));

    let mut socket = world.websocket(&exec("cat"), "v5.channel.k8s.io").await;
    socket.send(Message::Binary(Bytes::from_static(b"\0typed\n"))).await.unwrap();
    socket.send(Message::Binary(Bytes::from_static(b"\xff\0"))).await.unwrap();
    let [_, out, _, status] = read_all(&mut socket).await;
    assert_eq!((&*out, &*status), ("typed\n", r#"{"metadata":{},"status":"Success"}"#));

    let path = "/exec/default/web/main?command=hostname&output=1";
    let mut socket = world.websocket(path, "v4.channel.k8s.io").await;
    assert_eq!(read_all(&mut socket).await[1], "web\n");

    assert_eq!(world.get(path).await.0, 400, "without an upgrade");
    assert_eq!(world.get("/exec/default/nobody/main?command=x&output=1").await.0, 404);
}

#[tokio::test(start_paused = true)]
async fn an_attached_client_sees_what_is_printed_from_then_on() {
    let world = World::new().await;
    world.run("web", "echo before; sleep 2; echo after; sleep 1; exit 4", json!({})).await;
    let path = "/attach/default/web/main?output=1&error=1";
    let mut socket = world.websocket(path, "v4.channel.k8s.io").await;
    let [_, out, _, status] = read_all(&mut socket).await;
    assert_eq!(out, "after\n");
    assert!(status.contains("\"message\":\"4\""), "{status}");
}

#[tokio::test(start_paused = true)]
async fn a_port_is_forwarded_over_a_websocket() {
    let world = World::new().await;
    world.run("web", "sleep 1h", json!({})).await;
    let mut socket = world.websocket("/portForward/default/web?port=80", "v4.channel.k8s.io").await;
    for channel in [0, 1] {
        let Some(Ok(Message::Binary(first))) = socket.next().await else { panic!("no greeting") };
        assert_eq!(&first[..], [channel, 80, 0]);
    }
    let request = Bytes::from_static(b"\0GET / HTTP/1.1\r\n\r\n");
    socket.send(Message::Binary(request)).await.unwrap();
    let [answer, errors, ..] = read_all(&mut socket).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(errors, "");
}

#[tokio::test(start_paused = true)]
async fn the_nodes_pods_are_listed() {
    let world = World::new().await;
    world.run("web", "sleep 1h", json!({})).await;
    assert_eq!(world.get("/healthz").await, (200, "ok".into()));
    let (_, list) = world.get("/pods").await;
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(
        (&list["kind"], &list["items"][0]["metadata"]["name"]),
        (&json!("PodList"), &json!("web"))
    );
    assert_eq!(world.get("/nothing").await.0, 404);
    assert!(world.kubelets.connect_to("n2").is_err());
}

/// The same, asked of the API server as kubectl would.
#[cfg(feature = "server")]
#[tokio::test(start_paused = true)]
async fn logs_and_commands_come_through_the_api_server() {
    use kube::api::{AttachParams, LogParams};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let world = World::new().await;
    world.run("web", "echo one; sleep 1h", json!({})).await;
    assert_eq!(world.pods.logs("web", &LogParams::default()).await.unwrap(), "one\n");
    let previous = LogParams { previous: true, ..Default::default() };
    let kube::Error::Api(status) = world.pods.logs("web", &previous).await.unwrap_err() else {
        panic!("not an answer of the API");
    };
    assert_eq!(status.code, 400);

    let parameters = AttachParams::default().stdin(true);
    let mut process =
        world.pods.exec("web", ["sh", "-c", "cat; exit 3"], &parameters).await.unwrap();
    let (mut stdin, mut stdout) = (process.stdin().unwrap(), process.stdout().unwrap());
    let status = process.take_status().unwrap();
    stdin.write_all(b"typed\n").await.unwrap();
    stdin.shutdown().await.unwrap();
    drop(stdin);
    let mut text = String::new();
    stdout.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "typed\n");
    assert_eq!(status.await.unwrap().reason.as_deref(), Some("NonZeroExitCode"));
}
