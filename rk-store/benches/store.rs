//! What the store does in a second: `cargo bench -p rk-store`.
//!
//! Values have 2.5 KB, about what a Pod has. Durable writes go to a directory below `RK_BENCH_DIR`,
//! or the system's for temporary files: mind that this may be memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use divan::{Bencher, counter::ItemsCount};
use futures::{StreamExt, executor::block_on};
use rk_store::{EmbeddedStore, Expect, Options, Range, Revision, Store};
use tempfile::TempDir;
use tokio::runtime::Runtime;

fn main() {
    divan::main();
}

fn value(bytes: usize) -> Bytes {
    Bytes::from(vec![7; bytes])
}

fn filled(keys: usize, bytes: usize) -> EmbeddedStore {
    let store = EmbeddedStore::in_memory();
    for number in 0..keys {
        block_on(store.put(&key(number), value(bytes), Expect::Absent, None)).expect("a new key");
    }
    store
}

fn key(number: usize) -> String {
    format!("/registry/pods/default/pod-{number:06}")
}

fn scratch() -> TempDir {
    let directory = std::env::var_os("RK_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    tempfile::tempdir_in(directory).expect("a directory for the benchmark")
}

/// New keys, on one thread.
#[divan::bench(sample_count = 20)]
fn put_in_memory_new(bencher: Bencher<'_, '_>) {
    const COUNT: usize = 10_000;
    let keys: Vec<_> = (0..COUNT).map(key).collect();
    let value = value(2500);
    bencher.counter(ItemsCount::new(COUNT)).with_inputs(EmbeddedStore::in_memory).bench_values(
        |store| {
            for key in &keys {
                let put = store.put(key, value.clone(), Expect::Absent, None);
                block_on(put).expect("the key is new");
            }
            store
        },
    );
}

/// Conditional updates of 50,000 keys, on one thread, each with a value of its own.
#[divan::bench(sample_count = 20)]
fn put_in_memory_update(bencher: Bencher<'_, '_>) {
    const COUNT: usize = 10_000;
    let store = filled(50_000, 2500);
    let keys: Vec<_> = (0..COUNT).map(|number| key(number * 5)).collect();
    let source = value(2500);
    bencher.counter(ItemsCount::new(COUNT)).bench_local(|| {
        for key in &keys {
            let held = block_on(store.get(key)).expect("it can be read").expect("it is there");
            let value = Bytes::copy_from_slice(&source);
            let put = store.put(key, value, Expect::Revision(held.modified), None);
            block_on(put).expect("nobody else writes");
        }
    });
}

/// Durable writes by so many writers, each waiting for its answer.
#[divan::bench(args = [1, 64, 256], sample_count = 10, max_time = Duration::from_secs(10))]
fn put_durable(bencher: Bencher<'_, '_>, in_flight: usize) {
    let each = if in_flight == 1 { 500 } else { 10_000 / in_flight };
    let directory = scratch();
    let runtime = Runtime::new().expect("a runtime");
    let store = runtime.block_on(EmbeddedStore::open(directory.path(), Options::default()));
    let store = store.expect("an empty directory");
    let round = AtomicU64::new(0);
    bencher.counter(ItemsCount::new(in_flight * each)).bench(|| {
        let round = round.fetch_add(1, Ordering::Relaxed);
        let writers: Vec<_> = (0..in_flight)
            .map(|writer| {
                let store = store.clone();
                runtime.spawn(async move {
                    for number in 0..each {
                        let key = format!("/{}/{writer}/{number}", round % 2);
                        let put = store.put(&key, value(2500), Expect::Any, None).await;
                        put.expect("the disk works");
                    }
                })
            })
            .collect();
        for writer in writers {
            block_on(writer).expect("no writer panics");
        }
    });
}

/// Opening a directory that is empty: its first segment is filled with zeros.
#[divan::bench(sample_count = 10)]
fn open_new(bencher: Bencher<'_, '_>) {
    bencher.with_inputs(scratch).bench_values(|directory| {
        let store = block_on(EmbeddedStore::open(directory.path(), Options::default()));
        (store.expect("an empty directory"), directory)
    });
}

/// Opening a directory with 20,000 writes in its log.
#[divan::bench(sample_count = 10)]
fn open_with_20000(bencher: Bencher<'_, '_>) {
    let directory = scratch();
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let options = Options { snapshot_bytes: 1 << 30, ..Options::default() };
        let store = EmbeddedStore::open(directory.path(), options).await.expect("empty");
        let puts = (0..20_000).map(|number| {
            let store = store.clone();
            async move { store.put(&key(number), value(2500), Expect::Absent, None).await }
        });
        futures::future::try_join_all(puts).await.expect("the disk works");
        store.close().await;
    });
    bencher.counter(ItemsCount::new(20_000_usize)).bench_local(|| {
        runtime.block_on(async {
            let store = EmbeddedStore::open(directory.path(), Options::default()).await;
            store.expect("a store").close().await;
        });
    });
}

/// A list of 5,000 keys.
#[divan::bench]
fn range_5000(bencher: Bencher<'_, '_>) {
    let store = filled(5000, 2000);
    bencher.counter(ItemsCount::new(5000_usize)).bench(|| {
        let range = Range { prefix: "/registry/pods/", ..Range::default() };
        block_on(store.range(range)).expect("the present can be read")
    });
}

/// The same list, as of before 5,000 later updates.
#[divan::bench]
fn range_5000_in_the_past(bencher: Bencher<'_, '_>) {
    let store = filled(5000, 2000);
    for number in 0..5000 {
        block_on(store.put(&key(number), value(2000), Expect::Any, None)).expect("a put");
    }
    bencher.counter(ItemsCount::new(5000_usize)).bench(|| {
        let revision = Some(Revision(5000));
        let range = Range { prefix: "/registry/pods/", revision, ..Range::default() };
        block_on(store.range(range)).expect("the past is kept")
    });
}

/// One of 50,000 keys.
#[divan::bench]
fn get(bencher: Bencher<'_, '_>) {
    let store = filled(50_000, 100);
    let keys: Vec<_> = (0..1000).map(|number| key(number * 50)).collect();
    bencher.counter(ItemsCount::new(keys.len())).bench(|| {
        for key in &keys {
            divan::black_box(block_on(store.get(key)).expect("it can be read"));
        }
    });
}

/// 500 writes seen by 200 watchers: items are events delivered.
#[divan::bench(sample_count = 20)]
fn watch_by_200(bencher: Bencher<'_, '_>) {
    const WATCHERS: usize = 200;
    const WRITES: usize = 500;
    let runtime = Runtime::new().expect("a runtime");
    let store = EmbeddedStore::in_memory();
    bencher.counter(ItemsCount::new(WATCHERS * WRITES)).bench_local(|| {
        runtime.block_on(async {
            let from = store.revision().await.expect("it has one");
            let mut watchers = Vec::new();
            for _ in 0..WATCHERS {
                let mut watch = store.watch("/registry/", from).await.expect("the present");
                watchers.push(tokio::spawn(async move {
                    let mut seen = 0;
                    while seen < WRITES {
                        seen += watch.next().await.expect("it goes on").expect("kept").events.len();
                    }
                }));
            }
            let store: Arc<dyn Store> = Arc::new(store.clone());
            let writer = tokio::spawn(async move {
                for number in 0..WRITES {
                    let put = store.put(&key(number), value(2500), Expect::Any, None).await;
                    put.expect("a put");
                    tokio::task::yield_now().await;
                }
            });
            writer.await.expect("no panic");
            for watcher in watchers {
                watcher.await.expect("no panic");
            }
        });
    });
}
