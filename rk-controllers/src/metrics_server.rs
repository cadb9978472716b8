//! A metrics server: what nodes and Pods use, as metrics.k8s.io/v1beta1.
//!
//! It asks every node's kubelet for `/metrics/resource`, through the API server's node proxy, and
//! keeps the last two answers: two samples of a counter make a rate. `kubectl top` and the
//! HorizontalPodAutoscaler read the result through the API server, which passes on what is asked of
//! the group to [`MetricsServer::answer`].
//!
//! # Asleep and awake
//! A cluster that nobody measures is not asked: rounds are made every resolution only while
//! somebody asked within the last five minutes. Whoever wakes it waits a second, for two samples.
//!
//! # Where to start
//! - `scrape.rs`: a kubelet's page. `windows.rs`: from samples to rates. Both pure.
//! - `answer.rs`: what is answered, without I/O.

use std::{collections::BTreeMap, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use rk_api::{
    client::{Informer, Informers},
    clock,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

mod answer;
mod scrape;
mod windows;

use answer::{Known, Question};
use scrape::Page;
use windows::Windows;

/// How long rounds go on after the last question.
const AWAKE_FOR: Duration = Duration::from_secs(300);
/// How far apart the two samples are that are taken for whoever wakes it.
const FIRST_WINDOW: Duration = Duration::from_secs(1);
/// How long a node may take to answer.
const NODE_WITHIN: Duration = Duration::from_secs(10);
/// How many nodes are asked at the same time.
const AT_ONCE: usize = 32;

/// A metrics server; see the module's documentation.
pub struct MetricsServer {
    client: Client,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    resolution: Duration,
    windows: Mutex<Windows>,
    times: Mutex<Times>,
    asked: Notify,
    /// Held for a round; who waits for one shares it.
    round: tokio::sync::Mutex<()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Times {
    asked: Option<Instant>,
    /// The last two rounds, the newer one second.
    rounds: (Option<Instant>, Option<Instant>),
}

impl std::fmt::Debug for MetricsServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetricsServer")
            .field("resolution", &self.resolution)
            .finish_non_exhaustive()
    }
}

impl MetricsServer {
    /// One that reads through `client` and these caches, with a resolution of 15 s.
    pub fn new(client: Client, informers: &Informers) -> Self {
        Self {
            client,
            nodes: informers.of(),
            pods: informers.of(),
            resolution: Duration::from_secs(15),
            windows: Mutex::default(),
            times: Mutex::default(),
            asked: Notify::new(),
            round: tokio::sync::Mutex::default(),
        }
    }

    /// How far apart samples are (`--metric-resolution`). Default 15 s.
    #[must_use]
    pub fn resolution(mut self, resolution: Duration) -> Self {
        self.resolution = resolution;
        self
    }

    /// Keeps measuring while it is asked, until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        let work = async {
            loop {
                if self.is_awake() {
                    sleep(self.resolution).await;
                    self.sample().await;
                } else {
                    self.asked.notified().await;
                }
            }
        };
        shutdown.run_until_cancelled(work).await;
    }

    /// Answers a GET of the group's documents: the path and query as the API server was asked, and
    /// the `Accept` header. Returns the status code and the body, which is JSON.
    ///
    /// Who asks has been let in by the API server.
    pub async fn answer(&self, path: &str, query: &str, accept: &str) -> (u16, Vec<u8>) {
        let question = Question { path, query, table: accept.contains("as=Table") };
        if question.is_about_metrics() {
            self.wake().await;
        }
        let (nodes, pods) = (self.nodes.list(), self.pods.list());
        let windows = self.windows.lock();
        let (code, body) = question.answer(&Known { windows: &windows, nodes, pods });
        (code, serde_json::to_vec(&body).unwrap_or_default())
    }

    fn is_awake(&self) -> bool {
        self.times.lock().asked.is_some_and(|asked| asked.elapsed() < AWAKE_FOR)
    }

    /// Makes sure that there are two samples, not too old.
    async fn wake(&self) {
        self.times.lock().asked = Some(Instant::now());
        self.asked.notify_one();
        if self.is_up_to_date() {
            return;
        }
        let _round = self.round.lock().await;
        // Somebody else may have waited for the same.
        if self.is_up_to_date() {
            return;
        }
        self.nodes.synced().await;
        self.pods.synced().await;
        self.take_sample().await;
        sleep(FIRST_WINDOW).await;
        self.take_sample().await;
    }

    fn is_up_to_date(&self) -> bool {
        let (before, last) = self.times.lock().rounds;
        let old = self.resolution * 3;
        before.is_some() && last.is_some_and(|last| last.elapsed() < old)
    }

    async fn sample(&self) {
        let _round = self.round.lock().await;
        self.take_sample().await;
    }

    async fn take_sample(&self) {
        let names = self.nodes.list().into_iter().map(|node| node.name_any());
        let pages = futures::stream::iter(names)
            .map(|node| async move {
                let page = self.page(&node).await;
                (node, page)
            })
            .buffer_unordered(AT_ONCE);
        let round: BTreeMap<String, Option<Page>> = pages.collect().await;
        self.windows.lock().take(round);
        let mut times = self.times.lock();
        times.rounds = (times.rounds.1, Some(Instant::now()));
    }

    async fn page(&self, node: &str) -> Option<Page> {
        let path = format!("/api/v1/nodes/{node}/proxy/metrics/resource");
        let request = http::Request::get(path).body(Vec::new()).ok()?;
        match timeout(NODE_WITHIN, self.client.request_text(request)).await {
            Ok(Ok(text)) => Some(Page::read(&text, clock::now())),
            Ok(Err(error)) => {
                tracing::debug!(node, %error, "a node does not say what it uses");
                None
            }
            Err(_) => {
                tracing::debug!(node, "a node does not say in time what it uses");
                None
            }
        }
    }
}
