//! The embedded store against a slow and obvious model: a list of everything that happened.
#![allow(clippy::unwrap_used)] // Helpers of tests.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use proptest::prelude::*;
use rk_store::{
    EmbeddedStore, Event, Expect, Options, Range, Revision, Store, StoreError, Versioned,
    WatchStream,
};
use tokio::time::{Instant, sleep};

const KEYS: [&str; 7] = ["/a", "/a/1", "/a/2", "/a/3", "/b/1", "/b/2", "/b/20"];
const PREFIXES: [&str; 5] = ["", "/a", "/a/", "/b/2", "/c"];
/// The store keeps some more, or at least half.
const HISTORY: usize = 16;

#[derive(Clone, Debug)]
enum Step {
    Put { key: usize, expect: u8, ttl: Option<u8> },
    Delete { key: usize, expect: u8 },
    Range { prefix: usize, after: Option<usize>, limit: usize, back: u64 },
    Compact { back: u64 },
    Watch { prefix: usize, back: u64 },
    Read { watch: usize },
    Wait { seconds: u8 },
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..KEYS.len();
    let prefix = 0..PREFIXES.len();
    let ttl = prop::option::weighted(0.2, 1u8..20);
    let step = prop_oneof![
        8 => (key.clone(), 0u8..6, ttl).prop_map(|(key, expect, ttl)| Step::Put { key, expect, ttl }),
        4 => (key.clone(), 0u8..6).prop_map(|(key, expect)| Step::Delete { key, expect }),
        4 => (prefix.clone(), prop::option::of(key), 0usize..5, 0u64..30)
            .prop_map(|(prefix, after, limit, back)| Step::Range { prefix, after, limit, back }),
        1 => (0u64..30).prop_map(|back| Step::Compact { back }),
        2 => (prefix, 0u64..30).prop_map(|(prefix, back)| Step::Watch { prefix, back }),
        4 => (0usize..8).prop_map(|watch| Step::Read { watch }),
        1 => (0u8..10).prop_map(|seconds| Step::Wait { seconds }),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..150)
}

/// Everything that happened, and what would have to expire when.
#[derive(Default)]
struct Model {
    history: Vec<Event>,
    /// For keys with a time to live: when it ends, how long it is.
    leases: BTreeMap<String, (Instant, Duration)>,
    compacted: u64,
}

impl Model {
    fn revision(&self) -> u64 {
        self.history.len() as u64
    }

    /// What was there as of `revision`.
    fn at(&self, revision: u64) -> BTreeMap<String, Versioned> {
        let mut state = BTreeMap::new();
        for event in &self.history[..revision as usize] {
            match &event.value {
                Some(value) => {
                    let (key, created) = (event.key.clone(), event.created);
                    let (value, modified) = (value.clone(), event.revision);
                    let item = Versioned { key, value, created, modified };
                    state.insert(event.key.to_string(), item);
                }
                None => {
                    state.remove(&*event.key);
                }
            }
        }
        state
    }

    fn get(&self, key: &str) -> Option<Versioned> {
        self.at(self.revision()).remove(key)
    }

    fn write(&mut self, key: &str, value: Option<Bytes>, ttl: Option<Duration>) -> Revision {
        let previous = self.get(key);
        let revision = Revision(self.revision() + 1);
        let created = previous.as_ref().map_or(revision, |previous| previous.created);
        self.leases.remove(key);
        self.leases.extend(ttl.map(|ttl| (key.to_owned(), (Instant::now() + ttl, ttl))));
        self.history.push(Event { key: Arc::from(key), revision, value, created, previous });
        revision
    }

    /// Lets go of what has expired by now.
    fn expire(&mut self) {
        let mut due: Vec<_> =
            self.leases.iter().filter(|(_, lease)| lease.0 <= Instant::now()).collect();
        due.sort_by_key(|(key, lease)| (lease.0, self.get(key).unwrap().modified));
        let due: Vec<_> = due.into_iter().map(|(key, _)| key.clone()).collect();
        for key in due {
            self.write(&key, None, None);
        }
    }

    fn must_have(&self, revision: u64) -> bool {
        revision >= self.compacted && revision + HISTORY as u64 / 2 >= self.revision()
    }
}

struct Bench {
    home: Option<tempfile::TempDir>,
    store: Option<EmbeddedStore>,
    model: Model,
    watches: Vec<(usize, u64, WatchStream)>,
    written: u64,
}

impl Bench {
    async fn new(durable: bool) -> Bench {
        let home = durable.then(|| tempfile::tempdir().unwrap());
        let (model, watches, store) = (Model::default(), Vec::new(), None);
        let mut bench = Bench { home, store, model, watches, written: 0 };
        bench.open().await;
        bench
    }

    async fn open(&mut self) {
        let options = Options {
            history_events_max: HISTORY,
            segment_bytes: 4096,
            snapshot_bytes: 8192,
            ..Options::default()
        };
        self.store = Some(match &self.home {
            Some(home) => EmbeddedStore::open(home.path(), options).await.unwrap(),
            None => EmbeddedStore::in_memory_with(&options),
        });
    }

    fn store(&self) -> &EmbeddedStore {
        self.store.as_ref().unwrap()
    }

    fn expect(&self, key: &str, kind: u8) -> Expect {
        match kind {
            0 => Expect::Absent,
            1 => Expect::Revision(Revision(self.model.revision() / 2)),
            2 | 3 => {
                self.model.get(key).map_or(Expect::Any, |item| Expect::Revision(item.modified))
            }
            _ => Expect::Any,
        }
    }

    fn holds(&self, key: &str, expect: Expect) -> bool {
        let found = self.model.get(key);
        match expect {
            Expect::Any => true,
            Expect::Absent => found.is_none(),
            Expect::Revision(revision) => found.is_some_and(|item| item.modified == revision),
        }
    }

    fn conflicts<T: std::fmt::Debug>(&self, key: &str, outcome: Result<T, StoreError>) {
        let Err(StoreError::Conflict { key: named, found }) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!((&*named, found.map(|found| *found)), (key, self.model.get(key)));
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Put { key, expect, ttl } => {
                let key = KEYS[key];
                let expect = self.expect(key, expect);
                self.written += 1;
                let value =
                    Bytes::from(format!("{:0>1$}", self.written, 1 + self.written as usize % 500));
                // Half seconds, so that nothing expires just when a wait ends.
                let ttl = ttl.map(|ttl| Duration::from_millis(u64::from(ttl) * 1000 + 500));
                let outcome = self.store().put(key, value.clone(), expect, ttl).await;
                if self.holds(key, expect) {
                    assert_eq!(outcome.unwrap(), self.model.write(key, Some(value), ttl));
                } else {
                    self.conflicts(key, outcome);
                }
            }
            Step::Delete { key, expect } => {
                let key = KEYS[key];
                let expect = self.expect(key, expect);
                let outcome = self.store().delete(key, expect).await;
                match self.model.get(key) {
                    Some(item) if self.holds(key, expect) => {
                        let revision = self.model.write(key, None, None);
                        assert_eq!(outcome.unwrap(), (revision, item));
                    }
                    _ => self.conflicts(key, outcome),
                }
            }
            Step::Range { prefix, after, limit, back } => {
                self.range(PREFIXES[prefix], after.map(|key| KEYS[key]), limit, back).await;
            }
            Step::Compact { back } => {
                let revision = self.model.revision().saturating_sub(back);
                self.store().compact(Revision(revision)).await.unwrap();
                self.model.compacted = self.model.compacted.max(revision);
            }
            Step::Watch { prefix, back } => {
                let from = self.model.revision().saturating_sub(back);
                match self.store().watch(PREFIXES[prefix], Revision(from)).await {
                    Ok(watch) => {
                        assert!(from >= self.model.compacted);
                        self.watches.push((prefix, from, watch));
                    }
                    Err(error) => self.compacted(from, error),
                }
            }
            Step::Read { watch } => self.read(watch).await,
            Step::Wait { seconds } => {
                sleep(Duration::from_secs(u64::from(seconds))).await;
                self.model.expire();
            }
            Step::Reopen => self.reopen().await,
        }
        let item = self.store().get(KEYS[1]).await.unwrap();
        assert_eq!(item, self.model.get(KEYS[1]));
        assert_eq!(self.store().revision().await.unwrap().0, self.model.revision());
    }

    /// That this was refused is all right.
    fn compacted(&self, asked: u64, error: StoreError) {
        let StoreError::Compacted { asked: named, oldest } = error else { panic!("{error}") };
        assert_eq!(named.0, asked);
        assert!(oldest.0 > asked && oldest.0 <= self.model.revision());
        assert!(!self.model.must_have(asked), "{asked} of {}", self.model.revision());
    }

    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize, back: u64) {
        let asked = self.model.revision().saturating_sub(back);
        let revision = (back > 0).then_some(Revision(asked));
        match self.store().range(Range { prefix, after, limit, revision }).await {
            Ok(answer) => {
                assert!(back == 0 || asked >= self.model.compacted);
                let state = self.model.at(asked);
                let wanted = state.into_values().filter(|item| {
                    item.key.starts_with(prefix) && after.is_none_or(|after| &*item.key > after)
                });
                let wanted: Vec<_> = wanted.collect();
                let page = if limit == 0 { wanted.len() } else { limit.min(wanted.len()) };
                assert_eq!(answer.items, wanted[..page]);
                assert_eq!((answer.remaining, answer.revision.0), (wanted.len() - page, asked));
            }
            Err(error) => self.compacted(asked, error),
        }
    }

    async fn read(&mut self, watch: usize) {
        if self.watches.is_empty() {
            return;
        }
        let at = watch % self.watches.len();
        let (prefix, from, watch) = &mut self.watches[at];
        let last = self.model.revision();
        // Everything that is there, at once: nothing has to be waited for.
        while let Some(next) = watch.next().now_or_never() {
            match next.unwrap() {
                Ok(batch) => {
                    let upto = batch.revision.0;
                    assert!(upto >= *from && upto <= last);
                    let news = &self.model.history[*from as usize..upto as usize];
                    let news = news.iter().filter(|event| event.key.starts_with(PREFIXES[*prefix]));
                    assert_eq!(batch.events, news.cloned().collect::<Vec<_>>());
                    *from = upto;
                }
                Err(error) => {
                    assert!(watch.next().await.is_none());
                    let (_, from, _) = self.watches.remove(at);
                    return self.compacted(from, error);
                }
            }
        }
        // It said that nothing more is there.
        let news = &self.model.history[*from as usize..];
        assert!(!news.iter().any(|event| event.key.starts_with(PREFIXES[*prefix])));
    }

    async fn reopen(&mut self) {
        if self.home.is_none() {
            return;
        }
        self.watches.clear();
        self.store().close().await;
        self.store = None;
        self.open().await;
        // A snapshot may have replaced any part of the history; times to live begin anew.
        self.model.compacted = self.store().open_report().unwrap().snapshot.0;
        let now = Instant::now();
        for lease in self.model.leases.values_mut() {
            lease.0 = now + lease.1;
        }
    }
}

fn run(durable: bool, steps: Vec<Step>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut bench = Bench::new(durable).await;
        for step in steps {
            bench.step(step).await;
        }
        for watch in 0..bench.watches.len() {
            bench.read(watch).await;
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_in_memory_is_like_its_model(steps in steps()) {
        run(false, steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_durable_store_is_like_its_model(steps in steps()) {
        run(true, steps);
    }
}
