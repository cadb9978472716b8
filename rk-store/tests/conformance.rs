//! The embedded store passes the conformance kit, in memory and durable.

#![allow(clippy::unwrap_used)] // Helpers of tests.

use std::sync::Arc;

use rk_store::{EmbeddedStore, Options, Store, conformance};
use tempfile::TempDir;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_store_in_memory_passes() {
    conformance::run(async || Arc::new(EmbeddedStore::in_memory()) as Arc<dyn Store>).await;
}

#[tokio::test(start_paused = true)]
async fn the_store_in_memory_passes_on_one_thread_with_a_paused_clock() {
    conformance::run(async || Arc::new(EmbeddedStore::in_memory()) as Arc<dyn Store>).await;
}

async fn durable(directory: &TempDir, options: Options) -> Arc<dyn Store> {
    let fresh = tempfile::tempdir_in(directory.path()).unwrap();
    Arc::new(EmbeddedStore::open(fresh.keep(), options).await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_durable_store_passes() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 1 << 20, ..Options::default() };
    conformance::run(async || durable(&directory, options.clone()).await).await;
}

#[tokio::test(start_paused = true)]
async fn the_durable_store_passes_with_a_paused_clock_and_tiny_files() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 4096, snapshot_bytes: 16384, ..Options::default() };
    conformance::run(async || durable(&directory, options.clone()).await).await;
}
