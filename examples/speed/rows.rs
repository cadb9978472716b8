//! The rows of the table, each a measurement.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::StatusCode;
use http_body_util::BodyExt;
use rk::{
    Cluster, Component,
    k8s_openapi::api::core::v1::{Node, Pod},
    kube::{
        Api, ResourceExt,
        api::{ListParams, PostParams},
    },
};
use tokio::time::Instant;

use crate::{
    controllers,
    load::{self, Caller, Connection, Error, Latencies, TOKEN},
    nodes, objects,
};

/// One row.
pub(crate) struct Row {
    /// What is measured.
    pub(crate) name: &'static str,
    /// What the reference control plane gave.
    pub(crate) reference: &'static str,
    /// What we aim at.
    pub(crate) aim: &'static str,
    /// Measures it.
    pub(crate) measure: fn() -> BoxFuture<'static, Result<String, Error>>,
}

/// All rows, in the order of the README.
pub(crate) fn all() -> Vec<Row> {
    macro_rules! row {
        ($name:literal, $reference:literal, $aim:literal, $measure:path) => {
            Row { name: $name, reference: $reference, aim: $aim, measure: || Box::pin($measure()) }
        };
    }
    vec![
        row!("ready, in process", "3.3 s", "50 ms", ready_in_process),
        row!("ready, over TLS", "3.3 s", "150 ms", ready_over_tls),
        row!("memory, idle", "350 MiB", "40 MiB", idle_memory),
        row!("Pod creates/s, 64 in flight, over TLS", "2,413 (p99 102 ms)", "15,000", creates_tls),
        row!("Pod creates/s, 64 in flight, in process", "-", "40,000", creates_in_process),
        row!("Pod gets/s, 64 in flight, over TLS", "6,661 (p99 34 ms)", "30,000", gets_tls),
        row!("list of 5,000 Pods, over TLS", "125 ms (9.2 MB)", "12 ms", list_tls),
        row!(
            "watch events/s to 200 watchers, over TLS",
            "62,000 (p99 13.6 ms)",
            "500,000",
            watch_tls
        ),
        row!("applies/s of a 50-field Deployment, over TLS", "-", "-", objects::applies),
        row!("first request of a custom kind, over TLS", "-", "-", objects::first_custom_request),
        row!("5,000 custom objects, over TLS", "-", "-", objects::custom_objects),
        row!("memory, 300 custom kinds", "-", "-", objects::many_kinds),
        row!("memory, 100,000 ConfigMaps of 1 kB", "-", "-", objects::many_config_maps),
        row!("Pods/s scheduled on 1,000 nodes", "442", "5,000", scheduled),
        row!("memory, 5,000 nodes with 50,000 Pods", "-", "2 GiB", fleet_memory),
        row!("Pods/s, Deployment of 5,000 on 100 nodes", "328", "5,000", controllers::deployment),
        row!("StatefulSet of 500, all ready", "-", "-", controllers::stateful_sets),
        row!("namespace with 10,000 objects deleted", "-", "-", controllers::namespace_deletion),
        row!("50,000 dependents collected", "-", "-", controllers::garbage_collection),
        row!("memory, all controllers, 50,000 Pods", "-", "-", controllers::controllers_memory),
        row!("a week of 1,000 nodes, simulated", "-", "60 s", controllers::week),
        row!("Pod to Ready, one at a time, native", "-", "150 ms", nodes::one_by_one_native),
        row!(
            "Pod to Ready, one at a time, containerd",
            "1,002 ms",
            "400 ms",
            nodes::one_by_one_containerd
        ),
        row!("50 Pods to Ready at once, native", "-", "2 s", nodes::at_once_native),
        row!("50 Pods to Ready at once, containerd", "5.1 s", "2 s", nodes::at_once_containerd),
        row!("100 Pods to Running on a node, native", "-", "-", nodes::many_native),
        row!("100 Pods to Running on a node, containerd", "-", "-", nodes::many_containerd),
        row!("memory of the agent, 110 Pods, native", "-", "40 MiB", nodes::agent_memory_native),
        row!(
            "memory of the agent, 110 Pods, containerd",
            "100 MiB",
            "40 MiB",
            nodes::agent_memory_containerd
        ),
    ]
}

async fn ready_in_process() -> Result<String, Error> {
    let mut took = Vec::new();
    for _ in 0..11 {
        let begin = Instant::now();
        let cluster = Cluster::builder().start().await?;
        took.push(begin.elapsed());
        cluster.shutdown().await;
    }
    took.sort_unstable();
    Ok(format!("{:.1} ms", millis(took[took.len() / 2])))
}

async fn ready_over_tls() -> Result<String, Error> {
    let mut took = Vec::new();
    for _ in 0..11 {
        let begin = Instant::now();
        let server = Served::start(Cluster::builder()).await?;
        server.connect().await?.call("GET", "/readyz", Bytes::new(), StatusCode::OK).await?;
        took.push(begin.elapsed());
        server.cluster.shutdown().await;
    }
    took.sort_unstable();
    Ok(format!("{:.1} ms", millis(took[took.len() / 2])))
}

async fn idle_memory() -> Result<String, Error> {
    let server = Served::start(Cluster::builder()).await?;
    server.connect().await?.call("GET", "/readyz", Bytes::new(), StatusCode::OK).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    Ok(format!("{:.0} MiB", resident_mib()?))
}

const CREATES: usize = 40_000;
const GETS: usize = 100_000;
const PODS: &str = "/api/v1/namespaces/default/pods";

struct OverTls<F> {
    connection: Connection,
    request: F,
}

#[async_trait::async_trait]
impl<F> Caller for OverTls<F>
where
    F: Fn(usize) -> (&'static str, String, Bytes, StatusCode) + Send + Sync,
{
    async fn call(&mut self, n: usize) -> Result<(), Error> {
        let (method, path, body, status) = (self.request)(n);
        self.connection.call(method, &path, body, status).await.map(|_| ())
    }
}

pub(crate) async fn over_tls<F>(
    server: &Arc<Served>,
    calls: usize,
    request: F,
) -> Result<Latencies, Error>
where
    F: Fn(usize) -> (&'static str, String, Bytes, StatusCode) + Clone + Send + Sync + 'static,
{
    let server = server.clone();
    load::run(64, calls, move |_| {
        let (server, request) = (server.clone(), request.clone());
        async move {
            let connection = server.connect().await?;
            Ok(Box::new(OverTls { connection, request }) as Box<dyn Caller>)
        }
    })
    .await
}

pub(crate) fn api_only() -> rk::ClusterBuilder {
    Cluster::builder().components([])
}

async fn creates_tls() -> Result<String, Error> {
    let server = Arc::new(Served::start(api_only()).await?);
    let latencies = over_tls(&server, CREATES, |n| {
        ("POST", PODS.to_owned(), load::pod(&format!("pod-{n}")), StatusCode::CREATED)
    })
    .await?;
    Ok(rate(&latencies))
}

struct InProcess {
    pods: Api<Pod>,
    pod: Pod,
}

#[async_trait::async_trait]
impl Caller for InProcess {
    async fn call(&mut self, n: usize) -> Result<(), Error> {
        self.pod.metadata.name = Some(format!("pod-{n}"));
        self.pods.create(&PostParams::default(), &self.pod).await?;
        Ok(())
    }
}

async fn creates_in_process() -> Result<String, Error> {
    let cluster = api_only().start().await?;
    let client = cluster.client();
    let latencies = load::run(64, CREATES, move |_| {
        let pods = Api::default_namespaced(client.clone());
        async move {
            let pod = serde_json::from_slice(&load::pod("pod"))?;
            Ok(Box::new(InProcess { pods, pod }) as Box<dyn Caller>)
        }
    })
    .await?;
    Ok(rate(&latencies))
}

async fn gets_tls() -> Result<String, Error> {
    let server = Arc::new(Served::start(api_only()).await?);
    create_pods(&server.cluster, 1_000).await?;
    let latencies = over_tls(&server, GETS, |n| {
        ("GET", format!("{PODS}/pod-{}", n % 1_000), Bytes::new(), StatusCode::OK)
    })
    .await?;
    Ok(rate(&latencies))
}

async fn list_tls() -> Result<String, Error> {
    let server = Served::start(api_only()).await?;
    create_pods(&server.cluster, 5_000).await?;
    let mut connection = server.connect().await?;
    let (mut took, mut bytes) = (Vec::new(), 0);
    for _ in 0..21 {
        let begin = Instant::now();
        bytes = connection.call("GET", PODS, Bytes::new(), StatusCode::OK).await?.len();
        took.push(begin.elapsed());
    }
    took.sort_unstable();
    Ok(format!("{:.1} ms ({:.1} MB)", millis(took[took.len() / 2]), bytes as f64 / 1e6))
}

const WATCHERS: usize = 200;
const EVENTS: usize = 2_000;

async fn watch_tls() -> Result<String, Error> {
    let server = Served::start(api_only()).await?;
    let received = Arc::new(AtomicUsize::new(0));
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let mut connection = server.connect().await?;
        let path = "/api/v1/namespaces/default/configmaps?watch=1&resourceVersion=0";
        let response = connection.send("GET", path, Bytes::new()).await?;
        let (mut body, received) = (response.into_body(), received.clone());
        watchers.push(tokio::spawn(async move {
            // Kept until the watch ends: dropping it would close the connection.
            let _connection = connection;
            let mut late = Vec::with_capacity(EVENTS);
            while let Some(Ok(frame)) = body.frame().await {
                let Some(data) = frame.data_ref() else { continue };
                late.extend(sent_at(data));
                let events = memchr_lines(data);
                received.fetch_add(events, Ordering::Relaxed);
            }
            late
        }));
    }
    // What was there before the load (the namespace's own ConfigMap) is not counted.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = received.load(Ordering::Relaxed);

    let origin = Instant::now();
    ORIGIN.set(origin).map_err(|_| "measured twice")?;
    let maps = Api::<rk::k8s_openapi::api::core::v1::ConfigMap>::default_namespaced(
        server.cluster.client(),
    );
    for n in 0..EVENTS {
        let map = serde_json::from_value(serde_json::json!({
            "metadata": {"name": format!("m-{n}")},
            "data": {"sent": format!("at{:012}", origin.elapsed().as_micros()), "fill": "x".repeat(200)},
        }))?;
        maps.create(&PostParams::default(), &map).await?;
    }
    let all = WATCHERS * EVENTS;
    let deadline = Instant::now() + Duration::from_secs(60);
    while received.load(Ordering::Relaxed) - before < all {
        if Instant::now() > deadline {
            let got = received.load(Ordering::Relaxed) - before;
            return Err(format!("only {got} of {all} events arrived").into());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let elapsed = origin.elapsed();
    server.cluster.shutdown().await;
    let mut late = Vec::new();
    for watcher in watchers {
        late.extend(watcher.await?);
    }
    let latencies = Latencies::new(late, elapsed);
    Ok(format!(
        "{} (p99 {:.1} ms)",
        thousands(all as f64 / elapsed.as_secs_f64()),
        millis(latencies.p99())
    ))
}

static ORIGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();

/// How long ago the newest event in `data` was sent.
fn sent_at(data: &[u8]) -> Option<Duration> {
    let at = data.windows(10).rposition(|window| window == b"\"sent\":\"at")? + 10;
    let digits = std::str::from_utf8(data.get(at..at + 12)?).ok()?;
    let sent = Duration::from_micros(digits.parse().ok()?);
    Some(ORIGIN.get()?.elapsed().saturating_sub(sent))
}

pub(crate) fn memchr_lines(data: &[u8]) -> usize {
    data.iter().filter(|byte| **byte == b'\n').count()
}

async fn scheduled() -> Result<String, Error> {
    let cluster = Cluster::builder().nodes(0).components([Component::Scheduler]).start().await?;
    let client = cluster.client();
    let nodes: Api<Node> = Api::all(client.clone());
    for n in 0..1_000 {
        let node: Node = serde_json::from_value(serde_json::json!({
            "metadata": {"name": format!("node-{n}"), "labels": {"kubernetes.io/hostname": format!("node-{n}")}}
        }))?;
        nodes.create(&PostParams::default(), &node).await?;
        let status = serde_json::json!({
            "metadata": {"name": format!("node-{n}")},
            "status": {"allocatable": {"cpu": "32", "memory": "256Gi", "pods": "110"},
                       "capacity": {"cpu": "32", "memory": "256Gi", "pods": "110"},
                       "conditions": [{"type": "Ready", "status": "True"}]}
        });
        let patch = rk::kube::api::Patch::Merge(status);
        nodes.patch_status(&format!("node-{n}"), &Default::default(), &patch).await?;
        let untaint = serde_json::json!({"spec": {"taints": null}});
        nodes
            .patch(&format!("node-{n}"), &Default::default(), &rk::kube::api::Patch::Merge(untaint))
            .await?;
    }
    let count = 10_000;
    let begin = Instant::now();
    create_pods(&cluster, count).await?;
    let pods: Api<Pod> = Api::default_namespaced(client);
    let unscheduled = ListParams::default().fields("spec.nodeName=").limit(1);
    let deadline = Instant::now() + Duration::from_secs(120);
    while !pods.list_metadata(&unscheduled).await?.items.is_empty() {
        if Instant::now() > deadline {
            return Err("Pods are still unscheduled after 120 s".into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(thousands(count as f64 / begin.elapsed().as_secs_f64()))
}

async fn fleet_memory() -> Result<String, Error> {
    let begin = Instant::now();
    let cluster = Cluster::builder().nodes(5_000).start().await?;
    let ready = begin.elapsed();
    create_pods(&cluster, 50_000).await?;
    let pods: Api<Pod> = Api::default_namespaced(cluster.client());
    let pending = ListParams::default().fields("status.phase!=Running").limit(1);
    let deadline = Instant::now() + Duration::from_secs(300);
    while !pods.list_metadata(&pending).await?.items.is_empty() {
        if Instant::now() > deadline {
            return Err("Pods are not all Running after 300 s".into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(format!(
        "{:.0} MiB (nodes Ready after {:.1} s, Pods Running after {:.1} s)",
        resident_mib()?,
        ready.as_secs_f64(),
        begin.elapsed().as_secs_f64()
    ))
}

/// A cluster that listens, and its CA.
pub(crate) struct Served {
    cluster: Cluster,
    ca: Vec<u8>,
}

impl Served {
    pub(crate) async fn start(builder: rk::ClusterBuilder) -> Result<Self, Error> {
        let cluster = builder.listen(([127, 0, 0, 1], 0)).token(TOKEN).start().await?;
        let ca = cluster.ca_pem().ok_or("the cluster does not listen")?.as_bytes().to_vec();
        Ok(Self { cluster, ca })
    }

    pub(crate) async fn connect(&self) -> Result<Connection, Error> {
        let address = self.cluster.address().ok_or("the cluster does not listen")?;
        Connection::open(address, &self.ca).await
    }

    pub(crate) fn client(&self) -> rk::kube::Client {
        self.cluster.client()
    }

    pub(crate) fn kubeconfig(&self) -> Option<&str> {
        self.cluster.kubeconfig()
    }

    pub(crate) async fn shutdown(&self) {
        self.cluster.shutdown().await;
    }
}

/// Creates this many Pods in process, 64 at a time.
pub(crate) async fn create_pods(cluster: &Cluster, count: usize) -> Result<(), Error> {
    let client = cluster.client();
    load::run(64, count, move |_| {
        let pods = Api::default_namespaced(client.clone());
        async move {
            let pod: Pod = serde_json::from_slice(&load::pod("pod"))?;
            debug_assert_eq!(pod.name_any(), "pod");
            Ok(Box::new(InProcess { pods, pod }) as Box<dyn Caller>)
        }
    })
    .await
    .map(|_| ())
}

pub(crate) fn rate(latencies: &Latencies) -> String {
    format!("{} (p99 {:.1} ms)", thousands(latencies.rate()), millis(latencies.p99()))
}

pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// `12345.6` as `12,346`.
pub(crate) fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The memory of this process that is in RAM.
pub(crate) fn resident_mib() -> Result<f64, Error> {
    resident_mib_of(std::process::id())
}

/// The memory that a process holds.
pub(crate) fn resident_mib_of(process: u32) -> Result<f64, Error> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    let kib: f64 = line.split_whitespace().nth(1).ok_or("no VmRSS")?.parse()?;
    Ok(kib / 1024.0)
}
