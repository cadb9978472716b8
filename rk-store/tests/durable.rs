//! What a directory keeps: across restarts, against a second opener, through backups.
#![allow(clippy::unwrap_used)] // Helpers of tests.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use rk_store::{EmbeddedStore, Expect, Options, Range, Revision, Store, StoreError, Versioned};

async fn open(directory: &Path) -> EmbeddedStore {
    let options =
        Options { segment_bytes: 64 << 10, snapshot_bytes: 256 << 10, ..Options::default() };
    EmbeddedStore::open(directory, options).await.unwrap()
}

async fn put(store: &EmbeddedStore, key: &str, value: &str) -> Revision {
    store.put(key, Bytes::copy_from_slice(value.as_bytes()), Expect::Any, None).await.unwrap()
}

async fn all(store: &EmbeddedStore) -> Vec<Versioned> {
    store.range(Range::default()).await.unwrap().items
}

#[tokio::test]
async fn everything_is_there_again_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let first = put(&store, "/a", "one").await;
    put(&store, "/b", "two").await;
    put(&store, "/a", "three").await;
    let (last, _) = store.delete("/b", Expect::Any).await.unwrap();
    let before = all(&store).await;
    drop(store);

    let store = open(directory.path()).await;
    let report = store.open_report().unwrap();
    assert_eq!((report.revision, report.replayed, &report.torn), (last, 4, &None));
    assert_eq!(store.revision().await.unwrap(), last);
    assert_eq!(all(&store).await, before);
    assert_eq!(before[0].created, first);
    let old = store.range(Range { revision: Some(first), ..Range::default() }).await.unwrap();
    assert_eq!(old.items[0].value, "one");
    let mut watch = store.watch("/b", first).await.unwrap();
    let batch = watch.next().await.unwrap().unwrap();
    assert_eq!((batch.events.len(), batch.revision), (2, last));
}

#[tokio::test]
async fn a_restart_after_many_writes_starts_from_a_snapshot_and_keeps_the_directory_small() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let value = "x".repeat(2000);
    for round in 0..3000 {
        put(&store, &format!("/{}", round % 20), &value).await;
    }
    let before = all(&store).await;
    store.close().await;

    let store = open(directory.path()).await;
    assert_eq!(all(&store).await, before);
    let report = store.open_report().unwrap();
    assert!(report.snapshot > Revision(0) && report.replayed < 500, "{report:?}");
    let files = std::fs::read_dir(directory.path()).unwrap();
    let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes < 1 << 20, "6 MB were written, 40 kB are alive, the files have {bytes} bytes");
}

#[tokio::test]
async fn a_directory_has_one_store_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    put(&store, "/a", "one").await;

    let second = EmbeddedStore::open(directory.path(), Options::default()).await;
    assert!(matches!(second, Err(StoreError::Locked { .. })), "{second:?}");

    // Whoever has the answer to the last write may drop the store and open it again at once.
    let mut store = store;
    for round in 0..20 {
        put(&store, "/a", "again").await;
        drop(store);
        store = open(directory.path()).await;
        assert_eq!(store.revision().await.unwrap(), Revision(round + 2));
    }
    let other = store.clone();
    store.close().await;
    let refused = other.put("/a", Bytes::new(), Expect::Any, None).await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    assert_eq!(all(&other).await.len(), 1, "reading still works");
    open(directory.path()).await;
}

#[tokio::test]
async fn the_end_of_a_store_ends_its_watches() {
    let store = EmbeddedStore::in_memory();
    let mut watch = store.watch("/", Revision(0)).await.unwrap();
    put(&store, "/a", "one").await;
    drop(store);
    assert_eq!(watch.next().await.unwrap().unwrap().events.len(), 1, "what was committed arrives");
    assert!(matches!(watch.next().await, Some(Err(StoreError::Unavailable { .. }))));
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_backup_taken_while_running_can_be_restored() {
    let home = tempfile::tempdir().unwrap();
    let store = open(&home.path().join("store")).await;
    for round in 0..100 {
        put(&store, &format!("/{round:03}"), &"x".repeat(round * 50)).await;
    }
    let copy = home.path().join("backup");
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for round in 0..200 {
                put(&store, &format!("/{round:03}"), "later").await;
            }
        }
    });
    let revision = store.backup(&copy).await.unwrap();
    writer.await.unwrap();
    let then = Range { revision: Some(revision), ..Range::default() };
    let then = store.range(then).await.unwrap().items;

    let restored = home.path().join("restored");
    assert_eq!(EmbeddedStore::restore(&copy, &restored).await.unwrap(), revision);
    let again = EmbeddedStore::restore(&copy, &restored).await;
    assert!(matches!(again, Err(StoreError::NotEmpty { .. })), "{again:?}");
    let store = open(&restored).await;
    assert_eq!(all(&store).await, then);
    assert_eq!(put(&store, "/new", "one").await, Revision(revision.0 + 1));
    drop(store);
    assert_eq!(all(&open(&restored).await).await.len(), then.len() + 1);
}

#[tokio::test]
async fn a_damaged_backup_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::in_memory();
    put(&store, "/a", "some value").await;
    let copy = home.path().join("backup");
    store.backup(&copy).await.unwrap();
    let mut bytes = std::fs::read(&copy).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&copy, bytes).unwrap();

    let refused = EmbeddedStore::restore(&copy, home.path().join("restored")).await;
    assert!(matches!(refused, Err(StoreError::Corrupt { offset: 64, .. })), "{refused:?}");
    assert!(!home.path().join("restored").exists());
}

#[tokio::test(start_paused = true)]
async fn a_time_to_live_begins_anew_with_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let ttl = Some(Duration::from_secs(60));
    store.put("/a", Bytes::new(), Expect::Any, ttl).await.unwrap();
    tokio::time::sleep(Duration::from_secs(40)).await;
    store.close().await;

    let store = open(directory.path()).await;
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert!(store.get("/a").await.unwrap().is_some());
    tokio::time::sleep(Duration::from_secs(21)).await;
    assert!(store.get("/a").await.unwrap().is_none());
    drop(store);
    assert!(open(directory.path()).await.get("/a").await.unwrap().is_none());
}

#[test]
fn a_store_works_without_a_runtime_and_survives_the_one_it_was_used_in() {
    let directory = tempfile::tempdir().unwrap();
    futures::executor::block_on(async {
        let store = open(directory.path()).await;
        put(&store, "/a", "one").await;
        let mut watch = store.watch("/", Revision(0)).await.unwrap();
        assert_eq!(watch.next().await.unwrap().unwrap().events.len(), 1);
    });
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let store = first.block_on(async {
        let store = open(directory.path()).await;
        let ttl = Some(Duration::from_millis(1));
        store.put("/short", Bytes::new(), Expect::Any, ttl).await.unwrap();
        // Begun, and left to its fate.
        let mut write = store.put("/begun", Bytes::new(), Expect::Any, None);
        assert!(futures::poll!(&mut write).is_pending());
        store.clone()
    });
    drop(first);
    runtime().block_on(async {
        let ttl = Some(Duration::from_millis(1));
        store.put("/other", Bytes::new(), Expect::Any, ttl).await.unwrap();
        let mut watch = store.watch("/", store.revision().await.unwrap()).await.unwrap();
        while store.get("/short").await.unwrap().is_some() {
            watch.next().await.unwrap().unwrap();
        }
        assert!(store.get("/begun").await.unwrap().is_some());
    });
}
