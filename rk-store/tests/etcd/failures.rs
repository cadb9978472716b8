//! Members that are killed and paused while there is much to do.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use rk_store::{EtcdStore, Event, Expect, Range, Revision, Store, StoreError};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{cluster::Etcd, store_on};

const WRITERS: usize = 6;

/// What a writer was told, in order: the key, the value and the revision of each write that was
/// acknowledged.
type Acknowledged = Vec<(String, Bytes, Revision)>;

struct Load {
    done: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Acknowledged>>,
    watcher: JoinHandle<Vec<Event>>,
}

/// Writes and watches until it is told to stop.
async fn begin(store: &EtcdStore) -> Load {
    let done = Arc::new(AtomicBool::new(false));
    let start = store.revision().await.unwrap();
    let writers =
        (0..WRITERS).map(|writer| tokio::spawn(write(store.clone(), writer, done.clone())));
    let writers = writers.collect();
    let watcher = tokio::spawn(watch(store.clone(), start));
    Load { done, writers, watcher }
}

async fn write(store: EtcdStore, writer: usize, done: Arc<AtomicBool>) -> Acknowledged {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        if done.load(Ordering::Acquire) {
            break;
        }
        let key = format!("/load/{writer}/{}", number % 10);
        let value = Bytes::from(format!("{writer} {number}"));
        match store.put(&key, value.clone(), Expect::Any, None).await {
            Ok(revision) => acknowledged.push((key, value, revision)),
            // It may have happened, or not.
            Err(StoreError::Unavailable { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    acknowledged
}

/// Everything that happens below `/load/`, until its last key comes.
async fn watch(store: EtcdStore, from: Revision) -> Vec<Event> {
    let mut seen: Vec<Event> = Vec::new();
    let mut watch = store.watch("/load/", from).await.unwrap();
    loop {
        let batch = match watch.next().await {
            Some(Ok(batch)) => batch,
            // The cluster was away for longer than a watch waits. Where it was is known.
            Some(Err(StoreError::Unavailable { .. })) | None => {
                let from = seen.last().map_or(from, |event| event.revision);
                while let Err(error) = store.watch("/load/", from).await.map(|again| watch = again)
                {
                    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
                }
                continue;
            }
            Some(Err(other)) => panic!("{other}"),
        };
        seen.extend(batch.events);
        if seen.last().is_some_and(|event| &*event.key == "/load/last") {
            return seen;
        }
    }
}

impl Load {
    /// Stops, and checks that what was acknowledged happened, in that order, and was watched once.
    async fn end(self, store: &EtcdStore) {
        self.done.store(true, Ordering::Release);
        let mut acknowledged = Vec::new();
        for writer in self.writers {
            acknowledged.push(timeout(Duration::from_secs(60), writer).await.unwrap().unwrap());
        }
        while let Err(error) = store.put("/load/last", "".into(), Expect::Any, None).await {
            assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        }
        let seen = timeout(Duration::from_secs(60), self.watcher).await.unwrap().unwrap();

        assert!(seen.is_sorted_by(|one, next| one.revision < next.revision), "out of order");
        let by_revision: BTreeMap<_, _> =
            seen.iter().map(|event| (event.revision, event)).collect();
        let mut count = 0;
        for writes in &acknowledged {
            assert!(writes.is_sorted_by(|one, next| one.2 < next.2), "reordered");
            for (key, value, revision) in writes {
                let event = by_revision.get(revision);
                let event = event.unwrap_or_else(|| panic!("{key} at {revision} is lost"));
                assert_eq!((&*event.key, event.value.as_ref()), (key.as_str(), Some(value)));
                count += 1;
            }
        }
        // The events, one after the other, are how the store came to be as it is.
        let mut model: BTreeMap<&str, &Event> = BTreeMap::new();
        for event in &seen {
            let before = model.insert(&event.key, event);
            let previous = event.previous.as_ref().map(|previous| previous.modified);
            assert_eq!(previous, before.map(|before| before.revision), "{}", event.key);
        }
        let all = store.range(Range { prefix: "/load/", ..Range::default() }).await.unwrap();
        let all = all.items.iter().map(|item| (&*item.key, item.modified));
        assert!(all.eq(model.iter().map(|(key, event)| (*key, event.revision))));
        println!("{count} writes acknowledged, {} watched", seen.len());
        assert!(count > 20, "too little to tell anything");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn members_that_are_killed_lose_and_reorder_nothing() {
    let Some(mut etcd) = Etcd::start(3).await else { return };
    let store = store_on(&etcd).await;
    let load = begin(&store).await;
    for round in 0..6 {
        sleep(Duration::from_secs(2)).await;
        etcd.kill(round % 3);
        sleep(Duration::from_secs(2)).await;
        etcd.restart(round % 3);
        etcd.ready().await;
    }
    sleep(Duration::from_secs(2)).await;
    load.end(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn members_that_hang_lose_and_reorder_nothing() {
    let Some(etcd) = Etcd::start(3).await else { return };
    let store = store_on(&etcd).await;
    let load = begin(&store).await;
    for round in 0..4 {
        sleep(Duration::from_secs(2)).await;
        etcd.pause(round % 3);
        sleep(Duration::from_secs(5)).await;
        etcd.resume(round % 3);
    }
    sleep(Duration::from_secs(2)).await;
    load.end(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_a_majority_writes_fail_and_work_goes_on_when_it_is_back() {
    let Some(mut etcd) = Etcd::start(3).await else { return };
    let store = store_on(&etcd).await;
    store.put("/kept", "1".into(), Expect::Absent, None).await.unwrap();

    etcd.kill(0);
    etcd.kill(1);
    let written = store.put("/kept", "2".into(), Expect::Any, None).await;
    assert!(matches!(written, Err(StoreError::Unavailable { .. })), "{written:?}");

    etcd.restart(0);
    etcd.restart(1);
    etcd.ready().await;
    let kept = store.get("/kept").await.unwrap().unwrap();
    assert!(kept.value == "1" || kept.value == "2", "{:?}", kept.value);
    store.put("/kept", "3".into(), Expect::Revision(kept.modified), None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_watch_outlives_the_whole_cluster() {
    let Some(mut etcd) = Etcd::start(1).await else { return };
    let store = store_on(&etcd).await;
    let start = store.put("/a", "1".into(), Expect::Any, None).await.unwrap();
    let mut watch = store.watch("/a", start).await.unwrap();
    let watcher = tokio::spawn(async move { watch.next().await });

    etcd.kill(0);
    sleep(Duration::from_secs(3)).await;
    etcd.restart(0);
    etcd.ready().await;
    let written = loop {
        match store.put("/a", "2".into(), Expect::Revision(start), None).await {
            Ok(written) => break written,
            Err(error) => assert!(matches!(error, StoreError::Unavailable { .. }), "{error}"),
        }
    };
    let batch = timeout(Duration::from_secs(40), watcher).await.unwrap().unwrap();
    assert_eq!(batch.unwrap().unwrap().revision, written);
}
