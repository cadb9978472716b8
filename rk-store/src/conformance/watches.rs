//! Watches: complete, in order, nothing twice, whatever happens around them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use futures::{FutureExt, StreamExt, future::join_all};

use super::{Dice, all_at, bytes, delete, events_until, key, now, put, watch};
use crate::{Event, Revision, Store, StoreError};

pub(super) async fn a_watch_tells_what_changed_and_what_was_there_before(store: Arc<dyn Store>) {
    let start = now(&*store).await;
    let mut watch = watch(&*store, "", start).await;

    let created = put(&*store, "a", "one").await;
    let first = all_at(&*store, None).await.items[0].clone();
    let updated = put(&*store, "a", "two").await;
    let second = all_at(&*store, None).await.items[0].clone();
    let deleted = delete(&*store, "a").await;
    let again = put(&*store, "a", "three").await;

    let of = |revision, value: Option<&str>, created, previous| {
        let (key, value) = (key("a").into(), value.map(bytes));
        Event { key, revision, value, created, previous }
    };
    let expected = [
        of(created, Some("one"), created, None),
        of(updated, Some("two"), created, Some(first)),
        of(deleted, None, created, Some(second)),
        of(again, Some("three"), again, None),
    ];
    assert_eq!(events_until(&mut watch, start, again).await, expected);
}

pub(super) async fn a_watch_is_only_about_its_prefix(store: Arc<dyn Store>) {
    let start = now(&*store).await;
    let mut early = watch(&*store, "a/", start).await;
    for name in ["a", "a/1", "b/1", "a0", "a/2", "a/1/x", "b"] {
        put(&*store, name, "").await;
    }
    delete(&*store, "b/1").await;
    delete(&*store, "a/2").await;
    let last = put(&*store, "a/3", "").await;
    let mut late = watch(&*store, "a/", start).await;

    for watch in [&mut early, &mut late] {
        let events = events_until(watch, start, last).await;
        let names: Vec<_> = events.iter().map(|event| &event.key[key("").len()..]).collect();
        assert_eq!(names, ["a/1", "a/2", "a/1/x", "a/2", "a/3"]);
    }
}

/// Some changes of some keys; the last is a put below `a/`.
async fn scribble(store: &dyn Store, seed: u64, rounds: u64) -> Revision {
    let mut dice = Dice(seed);
    let mut there = std::collections::BTreeSet::new();
    for round in 0..rounds {
        let name = format!("{}/{}", ["a", "b", "c"][dice.below(3) as usize], dice.below(9));
        if there.remove(&name) {
            delete(store, &name).await;
        } else {
            put(store, &name, round).await;
            there.insert(name);
        }
    }
    put(store, "a/last", "").await
}

pub(super) async fn a_watch_from_any_kept_revision_tells_all_that_followed(store: Arc<dyn Store>) {
    let start = now(&*store).await;
    let last = scribble(&*store, 5, 100).await;
    let mut whole = watch(&*store, "a/", start).await;
    let whole = events_until(&mut whole, start, last).await;
    assert!(whole.len() > 10);

    for from in start.0..last.0 {
        let from = Revision(from);
        let mut watch = watch(&*store, "a/", from).await;
        let wanted: Vec<_> = whole.iter().filter(|event| event.revision > from).collect();
        let events = events_until(&mut watch, from, last).await;
        assert_eq!(events.iter().collect::<Vec<_>>(), wanted, "from {from}");
    }
    let mut watch = watch(&*store, "a/", last).await;
    let next = put(&*store, "a/next", "").await;
    assert_eq!(events_until(&mut watch, last, next).await.len(), 1, "from the present");
}

pub(super) async fn watchers_that_reconnect_miss_nothing_and_see_nothing_twice(
    store: Arc<dyn Store>,
) {
    let start = now(&*store).await;
    let done = Arc::new(AtomicBool::new(false));
    let watchers: Vec<_> = (0..6)
        .map(|seed| tokio::spawn(reconnecting(store.clone(), seed, start, done.clone())))
        .collect();
    let writers = (0..4).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0..100 {
                let name = format!("{}/{writer}-{}", ["a", "b"][round % 2], round % 10);
                put(&*store, &name, round).await;
                if round % 5 == 4 {
                    delete(&*store, &name).await;
                }
                // Lets the watchers in between also where there is one thread only.
                tokio::task::yield_now().await;
            }
        })
    });
    for writer in join_all(writers).await {
        writer.expect("no writer panics");
    }
    done.store(true, Ordering::Release);
    let last = put(&*store, "a/last", "").await;

    let mut whole = watch(&*store, "a/", start).await;
    let whole = events_until(&mut whole, start, last).await;
    // Of each writer 50 puts and 10 deletions are below a/.
    assert_eq!(whole.len(), 4 * 60 + 1);
    for watcher in join_all(watchers).await {
        let seen = watcher.expect("no watcher panics");
        assert_eq!(seen.len(), whole.len());
        assert!(seen == whole, "a watcher saw something else than what happened");
    }
}

/// Watches until `a/last`, and starts anew every now and then from where it was.
async fn reconnecting(
    store: Arc<dyn Store>,
    seed: u64,
    start: Revision,
    done: Arc<AtomicBool>,
) -> Vec<Event> {
    let mut dice = Dice(seed);
    let (mut seen, mut reached): (Vec<Event>, _) = (Vec::new(), start);
    loop {
        let mut watch = watch(&*store, "a/", reached).await;
        // Few at a time while there is much to come.
        let batches = if done.load(Ordering::Acquire) { u64::MAX } else { 1 + dice.below(4) };
        for _ in 0..batches {
            let batch = watch.next().await.expect("the watch goes on");
            let batch = batch.expect("what comes is still kept");
            for event in batch.events {
                assert!(event.revision > reached, "{} came after {reached}", event.revision);
                reached = event.revision;
                seen.push(event);
            }
            reached = batch.revision;
            if seen.last().is_some_and(|event| *event.key == *key("a/last")) {
                return seen;
            }
        }
    }
}

pub(super) async fn a_watch_from_a_compacted_revision_is_refused(store: Arc<dyn Store>) {
    let start = now(&*store).await;
    let last = scribble(&*store, 7, 60).await;
    let middle = Revision(start.0 + 30);
    store.compact(middle).await.expect("a kept revision can be compacted to");

    // Some stores only find out once they are read from.
    let refused = match store.watch(&key("a/"), start).await {
        Ok(mut watch) => match watch.next().await {
            Some(Err(error)) => {
                assert!(watch.next().await.is_none(), "a watch ends after its error");
                error
            }
            other => panic!("expected Compacted, not: {other:?}"),
        },
        Err(error) => error,
    };
    let StoreError::Compacted { oldest, .. } = refused else {
        panic!("expected Compacted, not: {refused}")
    };
    assert!(oldest > start && oldest <= middle, "{oldest} is the oldest kept");
    let mut rest = watch(&*store, "", oldest).await;
    let events = events_until(&mut rest, oldest, last).await;
    assert_eq!(events.len() as u64, last.0 - oldest.0, "all after the oldest kept");
}

pub(super) async fn a_quiet_watch_reports_progress(store: Arc<dyn Store>) {
    let start = now(&*store).await;
    let mut quiet = watch(&*store, "quiet/", start).await;
    for round in 0..10 {
        let written = put(&*store, &format!("loud/{round}"), "").await;
        // Whoever asks for the revision may wait for a watch to get there.
        let asked = now(&*store).await;
        assert!(asked >= written);
        let batch = quiet.next().await.expect("the watch goes on").expect("nothing is compacted");
        assert!(batch.events.is_empty(), "nothing happened below the prefix");
        if batch.revision < asked {
            assert!(events_until(&mut quiet, batch.revision, asked).await.is_empty());
        }
    }
    let written = put(&*store, "quiet/1", "").await;
    let reached = Revision(written.0 - 1);
    assert_eq!(events_until(&mut quiet, reached, written).await.len(), 1);
}

pub(super) async fn a_slow_watcher_gets_everything_or_is_told(store: Arc<dyn Store>) {
    let start = now(&*store).await;
    let mut slow = watch(&*store, "a/", start).await;
    let first = put(&*store, "a/first", "").await;
    assert_eq!(events_until(&mut slow, start, first).await.len(), 1);

    let mut last = first;
    for round in 0..300 {
        last = put(&*store, "a/busy", round).await;
    }
    store.compact(last).await.expect("all of the past can be forgotten");

    let mut seen = first;
    loop {
        match slow.next().await {
            // What was sent before the compaction may still arrive, without a gap.
            Some(Ok(batch)) => {
                for event in batch.events {
                    assert_eq!(event.revision.0, seen.0 + 1, "a gap");
                    seen = event.revision;
                }
                if seen == last {
                    break;
                }
            }
            Some(Err(StoreError::Compacted { oldest, .. })) => {
                assert!(oldest <= last, "{oldest} can be watched from");
                assert!(slow.next().now_or_never().flatten().is_none(), "it ends");
                break;
            }
            other => panic!("expected events or Compacted, not: {other:?}"),
        }
    }
    let mut anew = watch(&*store, "a/", last).await;
    let next = put(&*store, "a/next", "").await;
    assert_eq!(events_until(&mut anew, last, next).await.len(), 1);
}
