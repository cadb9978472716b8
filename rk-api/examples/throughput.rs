//! How many requests an API server answers in this process: creates, gets, lists, watch events.
//!
//! ```sh
//! cargo run --release -p rk-api --features server --example throughput [COUNT]
//! ```

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use http::Request;
use http_body_util::{BodyExt, Full};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::PostParams};
use rk_api::server::{ApiServer, UserInfo, authn::TokenList};
use rk_store::EmbeddedStore;
use serde_json::json;
use tokio::time::Instant;
use tower::ServiceExt;

const IN_FLIGHT: usize = 64;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count = std::env::args().nth(1).map_or(Ok(40_000), |count| count.parse())?;
    let started = Instant::now();
    let admins = TokenList::default().with("secret", UserInfo::admin());
    let server = ApiServer::builder(Arc::new(EmbeddedStore::in_memory()))
        .authenticator(Arc::new(admins))
        .start()
        .await?;
    println!("ready after            {:>10.2?}", started.elapsed());

    let pods: Api<Pod> = Api::namespaced(server.client(), "default");
    let body: Pod = serde_json::from_value(pod("x"))?;
    println!("a Pod has              {:>10} bytes", serde_json::to_vec(&body)?.len());
    let took = drive(count, |number| {
        let (pods, mut pod) = (pods.clone(), body.clone());
        pod.metadata.name = Some(format!("p{number:06}"));
        async move { pods.create(&PostParams::default(), &pod).await.map(drop) }
    })
    .await?;
    report("creates by kube", count, took);

    let raw = raw_client(&server);
    let text = pod("NAME").to_string();
    let took = drive(count, |number| {
        let pod = text.replace("NAME", &format!("q{number:06}"));
        let request = post("/api/v1/namespaces/default/pods", pod);
        let raw = raw.clone();
        async move { raw(request).await.map(drop) }
    })
    .await?;
    report("creates, raw", count, took);

    let took = drive(count, |number| {
        let pods = pods.clone();
        async move { pods.get(&format!("p{number:06}")).await.map(drop) }
    })
    .await?;
    report("gets by kube", count, took);

    let took = drive(count, |number| {
        let raw = raw.clone();
        let request = get(&format!("/api/v1/namespaces/default/pods/p{number:06}"));
        async move { raw(request).await.map(drop) }
    })
    .await?;
    report("gets, raw", count, took);

    let started = Instant::now();
    const LISTS: u32 = 20;
    let mut bytes = 0;
    for _ in 0..LISTS {
        bytes = raw(get("/api/v1/namespaces/default/pods?limit=5000")).await?.len();
    }
    println!("list of 5000 ({bytes} B) {:>10.2?}", started.elapsed() / LISTS);

    watch(&server, &raw).await?;
    Ok(())
}

/// 200 watchers of everything, 2,000 changes.
async fn watch(
    server: &ApiServer,
    raw: &(impl Fn(Request<Full<Bytes>>) -> Answer + Clone + Send + 'static),
) -> Result<(), Box<dyn std::error::Error>> {
    const WATCHERS: usize = 200;
    const CHANGES: usize = 2_000;
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let path = "/api/v1/namespaces/default/pods?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan";
        let response = server.clone().oneshot(get(path)).await?;
        let mut body = response.into_body().into_data_stream();
        watchers.push(tokio::spawn(async move {
            let mut lines = 0;
            while lines < CHANGES {
                let Some(Ok(chunk)) = body.next().await else { break };
                lines += chunk.iter().filter(|byte| **byte == b'\n').count();
            }
            lines
        }));
    }
    let text = pod("NAME").to_string();
    let took = drive(CHANGES, |number| {
        let pod = text.replace("NAME", &format!("w{number:06}"));
        let answer = raw(post("/api/v1/namespaces/default/pods", pod));
        async move { answer.await.map(drop) }
    });
    let started = Instant::now();
    took.await?;
    let mut events = 0;
    for watcher in watchers {
        events += watcher.await?;
    }
    report("watch events", events, started.elapsed());
    Ok(())
}

type Answer = futures::future::BoxFuture<'static, Result<Bytes, kube::Error>>;

fn raw_client(
    server: &ApiServer,
) -> impl Fn(Request<Full<Bytes>>) -> Answer + Clone + Send + 'static + use<> {
    let server = server.clone();
    move |request| {
        let server = server.clone();
        Box::pin(async move {
            let Ok(response) = server.oneshot(request).await;
            let status = response.status();
            let body =
                response.into_body().collect().await.map_err(kube::Error::Service)?.to_bytes();
            if !status.is_success() {
                return Err(kube::Error::Service(
                    String::from_utf8_lossy(&body).into_owned().into(),
                ));
            }
            Ok(body)
        })
    }
}

fn get(path: &str) -> Request<Full<Bytes>> {
    let request = Request::get(path).header("authorization", "Bearer secret");
    request.body(Full::default()).expect("a valid request")
}

fn post(path: &str, body: String) -> Request<Full<Bytes>> {
    let request = Request::post(path).header("authorization", "Bearer secret");
    request.body(Full::from(body)).expect("a valid request")
}

/// Runs `count` requests, [`IN_FLIGHT`] at a time, on two tasks per core.
async fn drive<F>(
    count: usize,
    request: impl Fn(usize) -> F,
) -> Result<Duration, Box<dyn std::error::Error>>
where
    F: Future<Output = Result<(), kube::Error>> + Send + 'static,
    F: Sized,
{
    let started = Instant::now();
    let mut running = futures::stream::iter((0..count).map(|number| tokio::spawn(request(number))))
        .buffer_unordered(IN_FLIGHT);
    while let Some(done) = running.next().await {
        done??;
    }
    Ok(started.elapsed())
}

fn report(what: &str, count: usize, took: Duration) {
    let rate = count as f64 / took.as_secs_f64();
    let cpu = cpu_seconds();
    let used = (cpu - LAST_CPU.replace_bits(cpu)) / count as f64 * 1e6;
    println!("{what:<22} {rate:>10.0} /s  {used:>8.1} us of CPU each, client and server");
}

/// The CPU time that had been used when the last line was printed.
static LAST_CPU: Cell = Cell(std::sync::atomic::AtomicU64::new(0));

struct Cell(std::sync::atomic::AtomicU64);

impl Cell {
    fn replace_bits(&self, value: f64) -> f64 {
        f64::from_bits(self.0.swap(value.to_bits(), std::sync::atomic::Ordering::Relaxed))
    }
}

/// The CPU time that this process has used, on systems with /proc.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.split(' ').collect();
    let ticks = |index: usize| fields.get(index).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(13) + ticks(14)) / 100.0
}

/// A Pod of about 2 KB, as a Deployment makes them.
fn pod(name: &str) -> serde_json::Value {
    let container = json!({
        "name": "web",
        "image": "registry.example.com/team/web:v1.2.3",
        "args": ["--listen=:8080", "--log-level=info", "--config=/etc/web/config.yaml"],
        "env": (0..8).map(|n| json!({ "name": format!("SETTING_{n}"), "value": format!("the value of setting {n}") })).collect::<Vec<_>>(),
        "ports": [{ "containerPort": 8080, "name": "http", "protocol": "TCP" }],
        "resources": { "requests": { "cpu": "100m", "memory": "128Mi" }, "limits": { "cpu": "1", "memory": "512Mi" } },
        "readinessProbe": { "httpGet": { "path": "/ready", "port": 8080 }, "periodSeconds": 10 },
        "volumeMounts": [{ "name": "config", "mountPath": "/etc/web" }],
    });
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": { "app": "web", "pod-template-hash": "5d8f7c9b4", "team": "storefront" },
            "annotations": { "example.com/checksum": "0123456789abcdef0123456789abcdef" },
        },
        "spec": {
            "containers": [container],
            "volumes": [{ "name": "config", "configMap": { "name": "web" } }],
            "nodeSelector": { "kubernetes.io/os": "linux" },
        },
    })
}
