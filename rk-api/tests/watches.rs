//! Watches: what a client sees is what happened, in order, once.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{collections::BTreeMap, pin::pin, time::Duration};

use common::{config_map, pod, server, server_in_memory};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};
use rk_api::rng::Rng;
use serde_json::json;

type State = BTreeMap<String, String>;

fn entry(map: &ConfigMap) -> (String, String) {
    let version = map.metadata.resource_version.clone().unwrap();
    (map.metadata.name.clone().unwrap(), version)
}

/// What a client knows that lists and then watches, and lists again when it must.
struct Reflector {
    maps: Api<ConfigMap>,
    labels: Option<&'static str>,
    state: State,
    version: String,
    /// The version of the last event: they only grow.
    seen: u64,
}

impl Reflector {
    fn new(client: Client, labels: Option<&'static str>) -> Self {
        let maps = Api::default_namespaced(client);
        Self { maps, labels, state: State::new(), version: String::new(), seen: 0 }
    }

    async fn list(&mut self) {
        let label_selector = self.labels.map(Into::into);
        let params = ListParams { label_selector, ..ListParams::default() };
        let list = self.maps.list(&params).await.unwrap();
        self.state = list.items.iter().map(entry).collect();
        self.version = list.metadata.resource_version.unwrap();
        self.seen = self.version.parse().unwrap();
    }

    /// Watches until an event of at least `until` came, or for a moment.
    async fn watch(&mut self, events: usize) {
        let mut params = WatchParams::default().timeout(5);
        params.label_selector = self.labels.map(Into::into);
        let stream = self.maps.watch(&params, &self.version).await.unwrap();
        let mut stream = pin!(stream.take(events));
        while let Ok(Some(event)) =
            tokio::time::timeout(Duration::from_millis(200), stream.try_next())
                .await
                .unwrap_or(Ok(None))
        {
            self.apply(event);
        }
    }

    fn apply(&mut self, event: WatchEvent<ConfigMap>) {
        let (map, present) = match &event {
            WatchEvent::Added(map) => {
                assert!(!self.state.contains_key(&entry(map).0), "added twice: {map:?}");
                (map, true)
            }
            WatchEvent::Modified(map) => {
                assert!(self.state.contains_key(&entry(map).0), "modified before added: {map:?}");
                (map, true)
            }
            WatchEvent::Deleted(map) => {
                assert!(self.state.contains_key(&entry(map).0), "deleted before added: {map:?}");
                (map, false)
            }
            other => panic!("{other:?}"),
        };
        let (name, version) = entry(map);
        let number: u64 = version.parse().unwrap();
        assert!(number > self.seen, "{number} came after {}", self.seen);
        self.seen = number;
        self.version.clone_from(&version);
        if present {
            self.state.insert(name, version);
        } else {
            self.state.remove(&name);
        }
    }
}

/// Random writes to a few objects, half of which have the label `s`.
async fn write(client: Client, seed: u64, count: usize) {
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let mut rng = Rng::seeded(seed);
    for number in 0..count {
        let name = format!("m{}", rng.below(8));
        let labels = if rng.below(2) == 0 { json!({ "s": "1" }) } else { json!({ "s": null }) };
        let outcome = match rng.below(4) {
            0 => {
                let mut map = config_map(&name, &number.to_string());
                map.metadata.labels =
                    (rng.below(2) == 0).then(|| [("s".to_owned(), "1".to_owned())].into());
                maps.create(&PostParams::default(), &map).await.map(drop)
            }
            1 => maps.delete(&name, &DeleteParams::default()).await.map(drop),
            _ => {
                let patch = json!({ "metadata": { "labels": labels }, "data": { "k": number.to_string() } });
                maps.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
            }
        };
        // There, not there, changed by another writer: all of that is part of the game.
        if let Err(kube::Error::Api(status)) = outcome {
            assert!([404, 409].contains(&status.code), "{status:?}");
        }
        if rng.below(8) == 0 {
            tokio::task::yield_now().await;
        }
    }
}

async fn follow_random_writes(seed: u64, labels: Option<&'static str>) {
    let server = server().await;
    let mut reflector = Reflector::new(server.client(), labels);
    reflector.list().await;
    let writers: Vec<_> =
        (0..3).map(|n| tokio::spawn(write(server.client(), seed * 10 + n, 150))).collect();

    // Watches end in the middle and go on where they were.
    let mut rng = Rng::seeded(seed);
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        reflector.watch(1 + rng.below(40) as usize).await;
    }
    reflector.watch(usize::MAX).await;

    for writer in writers {
        writer.await.unwrap();
    }
    let followed = reflector.state.clone();
    reflector.list().await;
    assert_eq!(followed, reflector.state, "seed {seed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_leads_to_the_same_state_as_a_list() {
    for seed in 1..4 {
        follow_random_writes(seed, None).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_with_a_selector_leads_to_the_same_state_as_a_list() {
    for seed in 4..7 {
        follow_random_writes(seed, Some("s=1")).await;
    }
}

#[tokio::test]
async fn a_watch_from_before_the_history_is_told_to_list_again() {
    let server = server().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    // What is kept is bounded by its size too.
    for number in 0..42 {
        let patch = json!({ "data": { "k": number.to_string(), "large": "x".repeat(1_000_000) } });
        maps.patch("a", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }
    let mut stream = pin!(maps.watch(&WatchParams::default(), "1").await.unwrap());
    let first = stream.next().await.unwrap();
    match first {
        Ok(WatchEvent::Error(status)) => assert_eq!(status.code, 410),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_streamed_list_ends_with_a_bookmark() {
    let server = server().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    let params = WatchParams::default().initial_events();
    let mut stream = pin!(maps.watch(&params, "").await.unwrap());

    let first = stream.try_next().await.unwrap().unwrap();
    assert!(matches!(first, WatchEvent::Added(map) if map.metadata.name.as_deref() == Some("a")));
    match stream.try_next().await.unwrap().unwrap() {
        WatchEvent::Bookmark(bookmark) => {
            assert_eq!(bookmark.metadata.annotations["k8s.io/initial-events-end"], "true");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_pod_that_moves_to_a_node_comes_into_its_view() {
    let server = server().await;
    let pods: Api<Pod> = Api::default_namespaced(server.client());
    let params = WatchParams::default().fields("spec.nodeName=n1");
    let mut stream = pin!(pods.watch(&params, "0").await.unwrap());
    pods.create(&PostParams::default(), &pod("other")).await.unwrap();
    pods.create(&PostParams::default(), &pod("mine")).await.unwrap();
    let binding =
        json!({ "metadata": { "name": "mine" }, "target": { "kind": "Node", "name": "n1" } });
    let bound: serde_json::Value =
        pods.create_subresource("binding", "mine", &PostParams::default(), &binding).await.unwrap();
    assert_eq!(bound["status"], "Success");

    let end = stream.try_next().await.unwrap().unwrap();
    assert!(matches!(end, WatchEvent::Bookmark(_)), "{end:?}");
    let first = stream.try_next().await.unwrap().unwrap();
    match first {
        WatchEvent::Added(pod) => assert_eq!(pod.metadata.name.as_deref(), Some("mine")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn bookmarks_come_every_minute_and_the_watch_ends_in_time() {
    let server = server_in_memory().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    let params = WatchParams::default().timeout(150);
    let stream = maps.watch(&params, "0").await.unwrap();
    let events: Vec<_> = stream.try_collect().await.unwrap();
    let bookmarks = events.iter().filter(|event| matches!(event, WatchEvent::Bookmark(_))).count();
    // After the objects there are, after one and two minutes, and shortly before the end.
    assert_eq!((events.len(), bookmarks), (4, 4));
}
