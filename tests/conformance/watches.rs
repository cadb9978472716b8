//! Watches: what is seen, from where, and in which order.

use std::{pin::pin, time::Duration};

use futures::{Stream, StreamExt, TryStreamExt};
use rk::{
    k8s_openapi::api::core::v1::ConfigMap,
    kube::{
        Api, ResourceExt,
        api::{DeleteParams, ListParams, Patch, PatchParams, WatchEvent, WatchParams},
    },
};
use serde_json::{Value, json};

use crate::cluster::TestCluster;

const LABEL: &str = "watch-this-configmap";

fn map(name: &str, label: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {LABEL: label}}})
}

async fn change(maps: &Api<ConfigMap>, name: &str, patch: Value) -> ConfigMap {
    maps.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("patched")
}

async fn mutate(maps: &Api<ConfigMap>, name: &str, mutation: u32) -> ConfigMap {
    change(maps, name, json!({"data": {"mutation": mutation.to_string()}})).await
}

async fn relabel(maps: &Api<ConfigMap>, name: &str, label: &str) -> ConfigMap {
    change(maps, name, json!({"metadata": {"labels": {LABEL: label}}})).await
}

/// A watch without bookmarks, from a version.
async fn watch(
    maps: &Api<ConfigMap>,
    labels: &str,
    version: &str,
) -> impl Stream<Item = rk::kube::Result<WatchEvent<ConfigMap>>> + use<> {
    let params = WatchParams { bookmarks: false, ..WatchParams::default().labels(labels) };
    maps.watch(&params, version).await.expect("watched").boxed()
}

/// The next event as its type, its object's name, and the mutation that it shows.
async fn next(
    stream: &mut (impl Stream<Item = rk::kube::Result<WatchEvent<ConfigMap>>> + Unpin),
) -> String {
    let event = tokio::time::timeout(Duration::from_secs(60), stream.try_next()).await;
    let event = event.expect("in time").expect("watched").expect("an event");
    let (type_, map) = match event {
        WatchEvent::Added(map) => ("ADDED", map),
        WatchEvent::Modified(map) => ("MODIFIED", map),
        WatchEvent::Deleted(map) => ("DELETED", map),
        other => panic!("{other:?}"),
    };
    let mutation = map.data.as_ref().and_then(|data| data.get("mutation").cloned());
    format!("{type_} {} {}", map.name_any(), mutation.unwrap_or_default()).trim().to_owned()
}

async fn is_silent(
    stream: &mut (impl Stream<Item = rk::kube::Result<WatchEvent<ConfigMap>>> + Unpin),
) {
    let event = tokio::time::timeout(Duration::from_secs(10), stream.try_next()).await;
    assert!(event.is_err(), "{event:?}");
}

async fn latest(maps: &Api<ConfigMap>) -> String {
    let list = maps.list(&ListParams::default()).await.expect("listed");
    list.metadata.resource_version.expect("a version")
}

// Conformance: watch-configmaps-with-multiple-watchers
#[tokio::test(start_paused = true)]
async fn each_watcher_sees_what_its_selector_selects() {
    let t = TestCluster::start().await;
    let maps = t.api::<ConfigMap>();
    let from = latest(&maps).await;
    let mut a = watch(&maps, "watch-this-configmap=multiple-watchers-A", &from).await;
    let mut b = watch(&maps, "watch-this-configmap=multiple-watchers-B", &from).await;
    let either = "watch-this-configmap in (multiple-watchers-A,multiple-watchers-B)";
    let mut ab = watch(&maps, either, &from).await;

    t.create::<ConfigMap>(map("a", "multiple-watchers-A")).await;
    assert_eq!((next(&mut a).await, next(&mut ab).await), ("ADDED a".into(), "ADDED a".into()));
    is_silent(&mut b).await;
    for (mutation, event) in [(1, "MODIFIED a 1"), (2, "MODIFIED a 2")] {
        mutate(&maps, "a", mutation).await;
        assert_eq!((next(&mut a).await, next(&mut ab).await), (event.into(), event.into()));
        is_silent(&mut b).await;
    }
    maps.delete("a", &DeleteParams::default()).await.expect("deleted");
    let gone = "DELETED a 2".to_owned();
    assert_eq!((next(&mut a).await, next(&mut ab).await), (gone.clone(), gone));
    is_silent(&mut b).await;

    t.create::<ConfigMap>(map("b", "multiple-watchers-B")).await;
    assert_eq!((next(&mut b).await, next(&mut ab).await), ("ADDED b".into(), "ADDED b".into()));
    is_silent(&mut a).await;
    maps.delete("b", &DeleteParams::default()).await.expect("deleted");
    assert_eq!((next(&mut b).await, next(&mut ab).await), ("DELETED b".into(), "DELETED b".into()));
    is_silent(&mut a).await;
}

// Conformance: watch-configmaps-from-resource-version
#[tokio::test(start_paused = true)]
async fn a_watch_begins_after_a_version() {
    let t = TestCluster::start().await;
    let maps = t.api::<ConfigMap>();
    t.create::<ConfigMap>(map("m", "from-resource-version")).await;
    let first = mutate(&maps, "m", 1).await.resource_version().expect("a version");
    mutate(&maps, "m", 2).await;
    maps.delete("m", &DeleteParams::default()).await.expect("deleted");
    let mut events = watch(&maps, "watch-this-configmap=from-resource-version", &first).await;
    assert_eq!(next(&mut events).await, "MODIFIED m 2");
    assert_eq!(next(&mut events).await, "DELETED m 2");
}

// Conformance: watch-configmaps-closed-and-restarted
#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_from_the_last_event_seen() {
    let t = TestCluster::start().await;
    let maps = t.api::<ConfigMap>();
    let labels = "watch-this-configmap=watch-closed-and-restarted";
    let from = latest(&maps).await;
    let mut events = watch(&maps, labels, &from).await;
    t.create::<ConfigMap>(map("m", "watch-closed-and-restarted")).await;
    let seen = mutate(&maps, "m", 1).await.resource_version().expect("a version");
    assert_eq!(next(&mut events).await, "ADDED m");
    assert_eq!(next(&mut events).await, "MODIFIED m 1");
    drop(events);

    mutate(&maps, "m", 2).await;
    let mut events = watch(&maps, labels, &seen).await;
    maps.delete("m", &DeleteParams::default()).await.expect("deleted");
    assert_eq!(next(&mut events).await, "MODIFIED m 2");
    assert_eq!(next(&mut events).await, "DELETED m 2");
}

// Conformance: watch-configmaps-label-changed
#[tokio::test(start_paused = true)]
async fn an_object_leaves_the_view_and_comes_back_with_its_label() {
    let t = TestCluster::start().await;
    let maps = t.api::<ConfigMap>();
    let from = latest(&maps).await;
    let labels = "watch-this-configmap=label-changed-and-restored";
    let mut events = watch(&maps, labels, &from).await;
    t.create::<ConfigMap>(map("m", "label-changed-and-restored")).await;
    mutate(&maps, "m", 1).await;
    relabel(&maps, "m", "wrong-value").await;
    for event in ["ADDED m", "MODIFIED m 1", "DELETED m 1"] {
        assert_eq!(next(&mut events).await, event);
    }
    mutate(&maps, "m", 2).await;
    is_silent(&mut events).await;
    relabel(&maps, "m", "label-changed-and-restored").await;
    mutate(&maps, "m", 3).await;
    maps.delete("m", &DeleteParams::default()).await.expect("deleted");
    for event in ["ADDED m 2", "MODIFIED m 3", "DELETED m 3"] {
        assert_eq!(next(&mut events).await, event);
    }
}

// Conformance: watch-consistency
#[tokio::test(start_paused = true)]
async fn all_watchers_see_the_same_events_in_the_same_order() {
    const WATCHERS: usize = 100;
    let t = TestCluster::start().await;
    let maps = t.api::<ConfigMap>();
    let from = latest(&maps).await;
    let (writer, target) = (maps.clone(), t.namespace.clone());
    let writing = tokio::spawn(async move {
        for number in 0..200_u32 {
            let name = format!("m{}", number % 7);
            let map = json!({"metadata": {"name": name, "namespace": target}});
            let map: ConfigMap = serde_json::from_value(map).expect("a map");
            // There or not: what matters is that something happens.
            let _ = writer.create(&Default::default(), &map).await;
            if number % 3 == 0 {
                let _ = writer.delete(&name, &DeleteParams::default()).await;
            } else {
                mutate(&writer, &name, number).await;
            }
        }
    });
    let version = |event: &WatchEvent<ConfigMap>| match event {
        WatchEvent::Added(map) | WatchEvent::Modified(map) | WatchEvent::Deleted(map) => {
            map.resource_version().expect("a version")
        }
        other => panic!("{other:?}"),
    };
    // One watcher begins after each event that the one before it has seen first.
    let mut watchers = Vec::new();
    let mut at = from;
    for _ in 0..WATCHERS {
        let mut stream = pin!(watch(&maps, "", &at).await);
        at = version(&stream.try_next().await.expect("watched").expect("an event"));
        watchers.push(watch(&maps, "", &at).await);
    }
    writing.await.expect("written");
    let last = latest(&maps).await;
    let mut orders = Vec::new();
    for mut stream in watchers {
        let mut order = Vec::new();
        // The last write may be one of another namespace: what comes until it is silent counts.
        while let Ok(event) = tokio::time::timeout(Duration::from_secs(1), stream.try_next()).await
        {
            order.push(version(&event.expect("watched").expect("an event")));
        }
        orders.push(order);
    }
    let longest = &orders[0];
    assert!(longest.last().is_some_and(|seen| seen.parse::<u64>().ok() <= last.parse().ok()));
    for (number, order) in orders.iter().enumerate() {
        assert_eq!(order[..], longest[number..], "the watcher {number}");
    }
}
