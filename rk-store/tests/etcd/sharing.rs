//! What several users of one etcd agree over.

use std::time::Duration;

use futures::StreamExt;
use rk_store::{EtcdOptions, EtcdStore, Expect, Range, Revision, Store, StoreError};
use tokio::time::{sleep, timeout};

use crate::{
    cluster::{Etcd, present},
    options, store_on,
};

#[tokio::test(flavor = "multi_thread")]
async fn history_is_kept_for_a_period_and_forgotten_once_however_many_would_do_it() {
    let Some(etcd) = Etcd::start(1).await.filter(|_| present("etcdctl")) else { return };
    let period = Duration::from_secs(2);
    let compacting = EtcdOptions { compact_every: Some(period), ..options(&etcd) };
    let mut stores = Vec::new();
    for _ in 0..3 {
        stores.push(EtcdStore::open(compacting.clone()).await.unwrap());
    }
    let store = &stores[0];
    let first = store.put("/a", "1".into(), Expect::Any, None).await.unwrap();
    store.put("/a", "2".into(), Expect::Any, None).await.unwrap();
    let at_first =
        || store.range(Range { prefix: "/a", revision: Some(first), ..Range::default() });
    assert_eq!(at_first().await.unwrap().items[0].value, "1");

    let gone = async {
        loop {
            match at_first().await {
                Ok(_) => sleep(period / 4).await,
                Err(error) => break error,
            }
        }
    };
    let error = timeout(Duration::from_secs(60), gone).await.unwrap();
    assert!(matches!(error, StoreError::Compacted { oldest, .. } if oldest > first), "{error}");
    assert_eq!(store.get("/a").await.unwrap().unwrap().value, "2");

    // kube-apiserver's own key and form: the next one to come, theirs or ours, goes on from it.
    let key = etcd.etcdctl(&["get", "compact_rev_key", "--print-value-only"]).stdout;
    let revision: u64 = String::from_utf8(key).unwrap().trim().parse().unwrap();
    assert!(revision >= first.0);
    let json = etcd.etcdctl(&["get", "compact_rev_key", "-w", "json"]).stdout;
    let json = String::from_utf8(json).unwrap();
    let version = json.split("\"version\":").nth(1).unwrap();
    let version: u64 =
        version.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
    sleep(period * 3).await;
    let json = etcd.etcdctl(&["get", "compact_rev_key", "-w", "json"]).stdout;
    let json = String::from_utf8(json).unwrap();
    let later = json.split("\"version\":").nth(1).unwrap();
    let later: u64 = later.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
    assert!(later - version <= 5, "three stores, {} turns in three periods", later - version);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_expire_together_share_a_lease() {
    let Some(etcd) = Etcd::start(1).await.filter(|_| present("etcdctl")) else { return };
    let store = store_on(&etcd).await;
    let hour = Some(Duration::from_secs(3600));
    for number in 0..50 {
        store.put(&format!("/events/{number}"), "".into(), Expect::Absent, hour).await.unwrap();
    }
    let leases = String::from_utf8(etcd.etcdctl(&["lease", "list"]).stdout).unwrap();
    assert!(leases.starts_with("found 1 leases"), "{leases}");

    // Somebody revokes it: everything on it expires, and the next key gets a lease of its own.
    let before = store.revision().await.unwrap();
    let mut watch = store.watch("/events/", before).await.unwrap();
    let id = leases.lines().nth(1).unwrap();
    etcd.etcdctl(&["lease", "revoke", id]);
    let batch = timeout(Duration::from_secs(20), watch.next()).await.unwrap().unwrap().unwrap();
    assert_eq!((batch.events.len(), batch.revision), (50, Revision(before.0 + 1)));
    store.put("/events/new", "".into(), Expect::Absent, hour).await.unwrap();
    assert!(store.get("/events/new").await.unwrap().is_some());
}
