//! Single keys: expectations, revisions, sizes, races.

use std::{sync::Arc, task::Poll};

use bytes::Bytes;
use futures::future::join_all;

use super::{bytes, delete, key, now, put};
use crate::{Expect, Revision, Store, StoreError, VALUE_BYTES_MAX, Versioned};

async fn get(store: &dyn Store, name: &str) -> Option<Versioned> {
    store.get(&key(name)).await.expect("a key can be read")
}

fn found(error: StoreError) -> Option<Versioned> {
    match error {
        StoreError::Conflict { found, .. } => found.map(|found| *found),
        other => panic!("expected a conflict, not: {other}"),
    }
}

pub(super) async fn a_key_holds_what_was_put_last(store: Arc<dyn Store>) {
    assert_eq!(get(&*store, "a").await, None);

    put(&*store, "a", "one").await;
    let second = put(&*store, "a", "two").await;

    let held = get(&*store, "a").await.expect("it was put");
    assert_eq!((&*held.key, &held.value[..]), (&*key("a"), &b"two"[..]));
    assert_eq!(held.modified, second);
}

pub(super) async fn each_write_has_a_larger_revision(store: Arc<dyn Store>) {
    let mut last = now(&*store).await;
    for name in ["a", "b", "a", "a", "c"] {
        let next = put(&*store, name, "").await;
        assert!(next > last, "{next} after {last}");
        last = next;
    }
    let deleted = delete(&*store, "b").await;
    assert!(deleted > last, "{deleted} after {last}");
}

pub(super) async fn created_stays_and_modified_moves(store: Arc<dyn Store>) {
    let first = put(&*store, "a", "one").await;
    let second = put(&*store, "a", "two").await;

    let held = get(&*store, "a").await.expect("it was put");
    assert_eq!((held.created, held.modified), (first, second));
}

pub(super) async fn a_failed_expectation_says_what_is_there_and_writes_nothing(
    store: Arc<dyn Store>,
) {
    let before = now(&*store).await;
    let old = put(&*store, "a", "one").await;
    let current = put(&*store, "a", "two").await;
    let held = get(&*store, "a").await;

    for expect in [Expect::Absent, Expect::Revision(old), Expect::Revision(before)] {
        let error = store.put(&key("a"), bytes("no"), expect, None).await.expect_err("a conflict");
        assert_eq!(found(error), held, "put, expecting {expect:?}");
        let error = store.delete(&key("a"), expect).await.expect_err("a conflict");
        assert_eq!(found(error), held, "delete, expecting {expect:?}");
    }
    let error = store.put(&key("b"), bytes("no"), Expect::Revision(old), None).await;
    assert_eq!(found(error.expect_err("a conflict")), None);

    assert_eq!(get(&*store, "a").await, held);
    assert_eq!(get(&*store, "b").await, None);
    assert_eq!(now(&*store).await, current, "what fails makes no revision");
    let next = store.put(&key("a"), bytes("yes"), Expect::Revision(current), None).await;
    assert!(next.expect("it is as expected") > current);
}

pub(super) async fn a_deletion_returns_what_was_there(store: Arc<dyn Store>) {
    let put_at = put(&*store, "a", "one").await;
    let held = get(&*store, "a").await.expect("it was put");

    let deleted = store.delete(&key("a"), Expect::Revision(put_at)).await;
    let (revision, previous) = deleted.expect("it is as expected");

    assert!(revision > put_at);
    assert_eq!(previous, held);
    assert_eq!(get(&*store, "a").await, None);
}

pub(super) async fn deleting_a_missing_key_is_a_conflict(store: Arc<dyn Store>) {
    let gone = put(&*store, "gone", "").await;
    delete(&*store, "gone").await;
    let before = now(&*store).await;
    for name in ["gone", "never"] {
        for expect in [Expect::Any, Expect::Absent, Expect::Revision(gone)] {
            let error = store.delete(&key(name), expect).await.expect_err("nothing to delete");
            assert_eq!(found(error), None, "{name}, expecting {expect:?}");
        }
    }
    assert_eq!(now(&*store).await, before);
}

pub(super) async fn a_recreated_key_is_new(store: Arc<dyn Store>) {
    let first = put(&*store, "a", "one").await;
    delete(&*store, "a").await;
    let error = store.put(&key("a"), bytes("no"), Expect::Revision(first), None).await;
    assert_eq!(found(error.expect_err("it is gone")), None);

    let again = store.put(&key("a"), bytes("two"), Expect::Absent, None).await;
    let again = again.expect("it is absent");

    let held = get(&*store, "a").await.expect("it was put");
    assert_eq!((held.created, held.modified), (again, again));
}

pub(super) async fn one_of_many_creators_wins(store: Arc<dyn Store>) {
    for round in 0..20 {
        let name = key(format!("round-{round}"));
        let creators = (0..16).map(|creator| {
            let (store, name) = (store.clone(), name.clone());
            tokio::spawn(
                async move { store.put(&name, bytes(creator), Expect::Absent, None).await },
            )
        });
        let outcomes = join_all(creators).await;
        let outcomes = outcomes.into_iter().map(|outcome| outcome.expect("no creator panics"));
        let (won, lost): (Vec<_>, Vec<_>) = outcomes.partition(Result::is_ok);

        assert_eq!(won.len(), 1, "of 16 creators");
        let held = store.get(&name).await.expect("a key can be read");
        for error in lost {
            assert_eq!(found(error.expect_err("partitioned")), held);
        }
    }
}

pub(super) async fn no_increment_is_lost_between_concurrent_writers(store: Arc<dyn Store>) {
    const WRITERS: u64 = 8;
    const EACH: u64 = 25;
    put(&*store, "counter", 0).await;
    let writers = (0..WRITERS).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..EACH {
                let mut held = get(&*store, "counter").await.expect("it stays");
                loop {
                    let count: u64 = number(&held.value) + 1;
                    let expect = Expect::Revision(held.modified);
                    match store.put(&key("counter"), bytes(count), expect, None).await {
                        Ok(_) => break,
                        // What is there now is good enough to go on from.
                        Err(error) => held = found(error).expect("it stays"),
                    }
                }
            }
        })
    });
    for writer in join_all(writers).await {
        writer.expect("no writer panics");
    }
    let held = get(&*store, "counter").await.expect("it stays");
    assert_eq!(number(&held.value), WRITERS * EACH);
}

fn number(value: &[u8]) -> u64 {
    let text = std::str::from_utf8(value).expect("a number was put");
    text.parse().expect("a number was put")
}

pub(super) async fn values_of_the_largest_size_fit_and_larger_ones_are_refused(
    store: Arc<dyn Store>,
) {
    let largest: Bytes = (0..VALUE_BYTES_MAX).map(|at| (at % 251) as u8).collect();
    let revision = store.put(&key("a"), largest.clone(), Expect::Any, None).await;
    let revision = revision.expect("the largest value fits");

    let larger = Bytes::from(vec![1; VALUE_BYTES_MAX + 1]);
    match store.put(&key("a"), larger, Expect::Any, None).await {
        Err(StoreError::TooLarge { size_bytes, max_bytes, key: refused }) => {
            assert_eq!((size_bytes, max_bytes), (VALUE_BYTES_MAX + 1, VALUE_BYTES_MAX));
            assert_eq!(*refused, *key("a"));
        }
        other => panic!("expected TooLarge, not: {other:?}"),
    }

    let held = get(&*store, "a").await.expect("it was put");
    assert_eq!(held.modified, revision);
    assert!(held.value == largest, "the largest value came back changed");
}

pub(super) async fn unusual_keys_and_values_are_kept_as_they_are(store: Arc<dyn Store>) {
    let names =
        ["", "/", "a", "a/", "a//b", "a b", "ä", "日本", "\u{10ffff}", "\0", "a\nb", "\u{7f}"];
    for name in names {
        put(&*store, name, format!("of {name}")).await;
    }
    let nothing = store.put(&key("empty"), Bytes::new(), Expect::Absent, None).await;
    nothing.expect("an empty value is one");
    let all: Bytes = (0..=255).collect();
    let binary = store.put(&key("binary"), all.clone(), Expect::Absent, None).await;
    binary.expect("any bytes are a value");

    for name in names {
        let held = get(&*store, name).await.expect("it was put");
        assert_eq!(held.value, bytes(format!("of {name}")), "{name:?}");
    }
    assert_eq!(get(&*store, "empty").await.expect("it was put").value, Bytes::new());
    assert_eq!(get(&*store, "binary").await.expect("it was put").value, all);
}

pub(super) async fn dropping_a_write_leaves_no_half_of_it(store: Arc<dyn Store>) {
    for round in 0..50 {
        let name = key(format!("dropped-{}", round % 5));
        let value = bytes(round);
        let mut write = store.put(&name, value.clone(), Expect::Any, None);
        // Polled once, if at all, then dropped.
        if round % 3 > 0 {
            let _ = futures::poll!(&mut write);
        }
        drop(write);
    }
    let last = put(&*store, "last", "").await;

    let all = super::all_at(&*store, Some(last)).await;
    for item in &all.items {
        assert!(item.modified <= last);
    }
    // What happened is in the history like any other write.
    let mut watch = super::watch(&*store, "", all.revision).await;
    assert!(matches!(futures::poll!(futures::StreamExt::next(&mut watch)), Poll::Pending));
}

pub(super) async fn reads_see_every_acknowledged_write(store: Arc<dyn Store>) {
    let tasks = (0..8).map(|task| {
        let store = store.clone();
        tokio::spawn(async move {
            let name = format!("task-{task}");
            let mut last = Revision(0);
            for round in 0..30 {
                let revision = put(&*store, &name, round).await;
                assert!(now(&*store).await >= revision);
                let held = get(&*store, &name).await.expect("it was put");
                assert_eq!(held.modified, revision);
                let all = super::all_at(&*store, None).await;
                assert!(all.revision >= revision && all.revision >= last);
                assert!(all.items.contains(&held), "the list lacks {name} of {revision}");
                last = all.revision;
            }
        })
    });
    for task in join_all(tasks).await {
        task.expect("no task panics");
    }
}
