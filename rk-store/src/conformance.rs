//! What every [`Store`] has to pass: the trait's contract as cases that can be run.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use rk_store::{EmbeddedStore, Store, conformance};
//!
//! conformance::run(async || Arc::new(EmbeddedStore::in_memory()) as Arc<dyn Store>).await;
//! # });
//! ```
//!
//! Each case gets a store of its own that nobody else writes to. It may already have revisions, but
//! must not have keys below [`PREFIX`]. Run the kit on a runtime with several threads too: only
//! then are the races real.

mod ranges;
mod ttl;
mod watches;
mod writes;

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture};

use crate::{Event, Expect, Range, RangeResponse, Revision, Store, WatchStream};

/// All keys that the cases use are below this.
pub const PREFIX: &str = "/conformance/";

/// No case waits longer than this for anything.
const PATIENCE: Duration = Duration::from_secs(120);

/// One part of the contract.
#[derive(Clone, Copy)]
pub struct Case {
    /// What holds, in words joined by underscores.
    pub name: &'static str,
    case: fn(Arc<dyn Store>) -> BoxFuture<'static, ()>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Case").field(&self.name).finish()
    }
}

impl Case {
    /// Checks `store`. Panics, with the reason, if it does not hold.
    pub async fn run(&self, store: Arc<dyn Store>) {
        let outcome = tokio::time::timeout(PATIENCE, (self.case)(store)).await;
        assert!(outcome.is_ok(), "{} is not done after {PATIENCE:?}", self.name);
    }
}

macro_rules! cases {
    ($($module:ident: $($name:ident),+;)+) => {
        /// All cases, the simple ones first.
        pub fn cases() -> Vec<Case> {
            vec![$($(Case {
                name: stringify!($name),
                case: |store| $module::$name(store).boxed(),
            }),+),+]
        }
    };
}

cases! {
    writes:
        a_key_holds_what_was_put_last,
        each_write_has_a_larger_revision,
        created_stays_and_modified_moves,
        a_failed_expectation_says_what_is_there_and_writes_nothing,
        a_deletion_returns_what_was_there,
        deleting_a_missing_key_is_a_conflict,
        a_recreated_key_is_new,
        one_of_many_creators_wins,
        no_increment_is_lost_between_concurrent_writers,
        values_of_the_largest_size_fit_and_larger_ones_are_refused,
        unusual_keys_and_values_are_kept_as_they_are,
        dropping_a_write_leaves_no_half_of_it,
        reads_see_every_acknowledged_write;
    ranges:
        a_range_has_the_keys_of_its_prefix_in_byte_order,
        pages_at_one_revision_make_up_the_range_of_that_revision,
        a_limited_range_counts_what_remains,
        a_range_at_any_kept_revision_is_what_was_there_then,
        a_range_in_the_future_is_refused,
        compaction_forgets_the_past_and_keeps_the_present;
    watches:
        a_watch_tells_what_changed_and_what_was_there_before,
        a_watch_is_only_about_its_prefix,
        a_watch_from_any_kept_revision_tells_all_that_followed,
        watchers_that_reconnect_miss_nothing_and_see_nothing_twice,
        a_watch_from_a_compacted_revision_is_refused,
        a_quiet_watch_reports_progress,
        a_slow_watcher_gets_everything_or_is_told;
    ttl:
        a_key_expires_and_watchers_see_it,
        a_later_put_replaces_the_time_to_live;
}

/// Runs all [`cases`], each on a store from `make`, and panics with the names of those that failed.
///
/// Has to be called in a tokio runtime with its clock enabled. If the clock is paused, waiting for
/// times to live takes no time.
pub async fn run<Make, Made>(make: Make)
where
    Make: Fn() -> Made,
    Made: Future<Output = Arc<dyn Store>>,
{
    let cases = cases();
    let mut failed = Vec::new();
    for case in &cases {
        let store = make().await;
        let case = *case;
        if tokio::spawn(async move { case.run(store).await }).await.is_err() {
            failed.push(case.name);
        }
    }
    assert!(
        failed.is_empty(),
        "{} of {} cases failed (their panics are above): {}",
        failed.len(),
        cases.len(),
        failed.join(", ")
    );
}

// What the cases are written with.

fn key(name: impl fmt::Display) -> String {
    format!("{PREFIX}{name}")
}

fn bytes(value: impl fmt::Display) -> Bytes {
    Bytes::from(value.to_string())
}

async fn put(store: &dyn Store, name: &str, value: impl fmt::Display) -> Revision {
    let put = store.put(&key(name), bytes(value), Expect::Any, None).await;
    put.expect("a put without expectation commits")
}

async fn delete(store: &dyn Store, name: &str) -> Revision {
    let deleted = store.delete(&key(name), Expect::Any).await;
    deleted.expect("a key that is there can be deleted").0
}

async fn now(store: &dyn Store) -> Revision {
    store.revision().await.expect("a store knows its revision")
}

/// All that is below [`PREFIX`], as of `revision`.
async fn all_at(store: &dyn Store, revision: Option<Revision>) -> RangeResponse {
    let range = Range { prefix: PREFIX, revision, ..Range::default() };
    store.range(range).await.expect("a kept revision can be read")
}

async fn watch(store: &dyn Store, name: &str, from: Revision) -> WatchStream {
    store.watch(&key(name), from).await.expect("a kept revision can be watched from")
}

/// Reads on until everything up to `revision` was delivered; checks the order on the way.
async fn events_until(watch: &mut WatchStream, from: Revision, revision: Revision) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    let mut reached = from;
    while reached < revision {
        let batch = watch.next().await.expect("the watch goes on");
        let batch = batch.expect("what comes is still kept");
        for event in batch.events {
            let last = events.last().map_or(from, |event| event.revision);
            assert!(event.revision > last, "{} came after {last}", event.revision);
            assert!(event.revision <= batch.revision, "a batch reaches as far as its events");
            assert!(event.revision > reached, "{} was delivered before", event.revision);
            events.push(event);
        }
        assert!(batch.revision >= reached, "progress went back from {reached}");
        reached = batch.revision;
    }
    events
}

/// Numbers that look random and are the same each time (a linear congruential generator, Knuth's
/// constants).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}
