//! `EtcdStore` against real etcd clusters, which the tests start in temporary directories.
//!
//! What lacks `etcd` or `etcdctl` is skipped by name; with `RK_REQUIRE=all` that is a failure.
#![allow(clippy::unwrap_used)] // Tests from top to bottom.

mod cluster;
mod failures;
mod layout;
mod sharing;
mod snapshot;
mod tls;

use std::{sync::Arc, time::Duration};

use rk_store::{EtcdOptions, EtcdStore, Keyspace, Store, conformance};

use self::cluster::Etcd;

/// A store on `etcd` that gives up on members sooner than usual, and leaves compaction alone.
async fn store_on(etcd: &Etcd) -> EtcdStore {
    EtcdStore::open(options(etcd)).await.unwrap()
}

fn options(etcd: &Etcd) -> EtcdOptions {
    EtcdOptions {
        endpoints: etcd.endpoints(),
        tls: etcd.client_tls(),
        attempt_timeout: Duration::from_secs(2),
        timeout: Duration::from_secs(30),
        compact_every: None,
        ..EtcdOptions::default()
    }
}

/// A store whose keys are apart from those of all others of the same etcd.
async fn apart(etcd: &Etcd, number: usize) -> Arc<dyn Store> {
    let keyspace = Keyspace::moved("", format!("/part-{number}"));
    Arc::new(EtcdStore::open(EtcdOptions { keyspace, ..options(etcd) }).await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cluster_of_one_member_passes_the_kit() {
    let Some(etcd) = Etcd::start(1).await else { return };
    let number = std::sync::atomic::AtomicUsize::new(0);
    conformance::run(async || {
        apart(&etcd, number.fetch_add(1, std::sync::atomic::Ordering::Relaxed)).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cluster_of_three_members_passes_the_kit() {
    let Some(etcd) = Etcd::start(3).await else { return };
    let number = std::sync::atomic::AtomicUsize::new(0);
    conformance::run(async || {
        apart(&etcd, number.fetch_add(1, std::sync::atomic::Ordering::Relaxed)).await
    })
    .await;
}
