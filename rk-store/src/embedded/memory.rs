//! What readers see: the committed state, its recent history, and who waits for changes.

use std::{
    collections::{BTreeMap, HashMap},
    iter,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::{sync::Notify, time::Instant};

use super::{
    history::{Chunk, History, Limits},
    tree::{Entry, Lease, Tree, prefix_end},
    watch::{Groups, Wakes},
};
use crate::{Event, Expect, Range, RangeResponse, Revision, StoreError, Versioned};

/// What a write does to its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Put { value: Bytes, ttl: Option<Duration> },
    Delete,
}

/// A write whose revision is settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) key: Arc<str>,
    pub(super) revision: u64,
    pub(super) change: Change,
}

/// Everything that changes together.
#[derive(Debug)]
pub(super) struct State {
    pub(super) tree: Tree,
    pub(super) history: History,
    pub(super) groups: Groups,
    /// The keys with a time to live, by when it ends and which write gave it.
    pub(super) expiring: BTreeMap<(Instant, u64), Arc<str>>,
    /// Whether a task looks after `expiring`.
    pub(super) expirer_runs: bool,
}

/// The state and what surrounds it. Locked for moments only: readers take a snapshot and go.
#[derive(Debug)]
pub(super) struct Memory {
    state: RwLock<State>,
    /// The last committed revision, readable without the lock.
    revision: AtomicU64,
    /// Watchers tell of their progress at least up to here.
    asked: AtomicU64,
    closed: AtomicBool,
    /// Notified when the next expiry may be earlier than it was.
    pub(super) expiry_moved: Notify,
}

impl Memory {
    /// The state `tree` as of `revision`, without a history before it.
    pub(super) fn new(tree: Tree, revision: u64, limits: Limits) -> Self {
        let mut expiring = BTreeMap::new();
        tree.visit_from("", |entry| {
            if let Some(lease) = &entry.lease {
                let write = (lease.deadline, entry.item.modified.0);
                expiring.insert(write, entry.item.key.clone());
            }
            ControlFlow::Continue(())
        });
        let state = State {
            tree,
            history: History::starting_after(revision, limits),
            groups: Groups::default(),
            expiring,
            expirer_runs: false,
        };
        Memory {
            state: RwLock::new(state),
            revision: AtomicU64::new(revision),
            asked: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            expiry_moved: Notify::new(),
        }
    }

    /// The state, and as of when.
    pub(super) fn snapshot(&self) -> (Tree, u64) {
        let state = self.read();
        (state.tree.clone(), state.history.last())
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write()
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    pub(super) fn progress_asked(&self) -> u64 {
        self.asked.load(Ordering::Acquire)
    }

    /// Makes every watcher tell that it is at `revision` at least.
    pub(super) fn ask_progress(&self, revision: u64) {
        if self.progress_asked() < revision
            && self.asked.fetch_max(revision, Ordering::AcqRel) < revision
        {
            let all = self.read().groups.all();
            all.wake(revision);
        }
    }

    /// Writes are refused and watches end from now on.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.expiry_moved.notify_one();
        let all = self.read().groups.all();
        all.wake(u64::MAX);
    }

    pub(super) fn check_open(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Unavailable { reason: "the store was closed".into() });
        }
        Ok(())
    }

    /// Applies writes in their order and makes them visible.
    pub(super) fn commit(&self, mut state: RwLockWriteGuard<'_, State>, writes: &[Write]) {
        let mut wakes = Wakes::default();
        let before = state.expiring.first_key_value().map(|(&at, _)| at);
        for write in writes {
            state.apply(write, &mut wakes);
        }
        let after = state.expiring.first_key_value().map(|(&at, _)| at);
        let revision = state.history.last();
        self.revision.store(revision, Ordering::Release);
        drop(state);
        wakes.wake(revision);
        if after.is_some_and(|after| before.is_none_or(|before| after < before)) {
            self.expiry_moved.notify_one();
        }
    }

    /// Writes, when nothing stands between a write and its being visible.
    pub(super) fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
        ttl: Option<Duration>,
    ) -> Result<Revision, StoreError> {
        self.check_open()?;
        let state = self.write();
        state.check(key, expect)?;
        let revision = state.history.last() + 1;
        let write = Write { key: key.into(), revision, change: Change::Put { value, ttl } };
        self.commit(state, &[write]);
        Ok(Revision(revision))
    }

    /// Deletes, like [`Memory::put`].
    pub(super) fn delete(
        &self,
        key: &str,
        expect: Expect,
    ) -> Result<(Revision, Versioned), StoreError> {
        self.check_open()?;
        let state = self.write();
        state.check(key, expect)?;
        let found = state.tree.get(key).map(|entry| entry.item.clone());
        let found = found.ok_or_else(|| conflict(key, None))?;
        let revision = state.history.last() + 1;
        let write = Write { key: found.key.clone(), revision, change: Change::Delete };
        self.commit(state, &[write]);
        Ok((Revision(revision), found))
    }

    /// The answer to a range read.
    pub(super) fn range(&self, range: Range<'_>) -> Result<RangeResponse, StoreError> {
        let (tree, revision, chunks) = {
            let state = self.read();
            let last = state.history.last();
            let mut chunks = Vec::new();
            if let Some(asked) = range.revision {
                state.history.check_kept(asked)?;
                if asked.0 < last {
                    chunks.extend(state.history.chunks_after(asked.0).cloned());
                }
            }
            (state.tree.clone(), range.revision.map_or(last, |asked| asked.0), chunks)
        };
        let undone = undone(&chunks, revision, range.prefix);
        Ok(read_range(&tree, &undone, range, revision))
    }
}

impl State {
    /// Whether `expect` holds for what `key` has now.
    pub(super) fn check(&self, key: &str, expect: Expect) -> Result<(), StoreError> {
        check(key, self.tree.get(key).map(|entry| &entry.item), expect)
    }

    fn apply(&mut self, write: &Write, wakes: &mut Wakes) {
        let Write { key, revision, change } = write;
        let event = match change {
            Change::Put { value, ttl } => {
                let found = self.tree.get(key).map(|entry| &entry.item);
                let item = Versioned {
                    // The key that is there already, so that its versions share one copy.
                    key: found.map_or(key, |found| &found.key).clone(),
                    value: value.clone(),
                    created: found.map_or(Revision(*revision), |found| found.created),
                    modified: Revision(*revision),
                };
                let lease =
                    ttl.map(|ttl| Box::new(Lease { ttl, deadline: deadline(Instant::now(), ttl) }));
                if let Some(lease) = &lease {
                    self.expiring.insert((lease.deadline, *revision), item.key.clone());
                }
                let (key, created) = (item.key.clone(), item.created);
                let previous = self.tree.insert(Entry { item, lease });
                let previous = previous.map(|entry| self.without_lease(entry));
                let (revision, value) = (Revision(*revision), Some(value.clone()));
                Event { key, revision, value, created, previous }
            }
            Change::Delete => {
                let removed = self.tree.remove(key);
                let previous = removed.map(|entry| self.without_lease(entry));
                let found = previous.as_ref();
                Event {
                    key: found.map_or(key, |found| &found.key).clone(),
                    revision: Revision(*revision),
                    value: None,
                    created: found.map_or(Revision(0), |found| found.created),
                    previous,
                }
            }
        };
        let key = event.key.clone();
        self.history.push(event);
        self.groups.note(&key, *revision, self.history.compacted(), wakes);
    }

    fn without_lease(&mut self, entry: Entry) -> Versioned {
        if let Some(lease) = entry.lease {
            self.expiring.remove(&(lease.deadline, entry.item.modified.0));
        }
        entry.item
    }
}

/// When a key ends that is to live for `ttl` from `now`.
pub(super) fn deadline(now: Instant, ttl: Duration) -> Instant {
    // A time to live beyond the clock's end is as good as this.
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    now.checked_add(ttl.min(CENTURY)).unwrap_or(now)
}

/// Whether `expect` holds for `found`.
pub(super) fn check(
    key: &str,
    found: Option<&Versioned>,
    expect: Expect,
) -> Result<(), StoreError> {
    let holds = match expect {
        Expect::Any => true,
        Expect::Absent => found.is_none(),
        Expect::Revision(revision) => found.is_some_and(|found| found.modified == revision),
    };
    if holds { Ok(()) } else { Err(conflict(key, found)) }
}

pub(super) fn conflict(key: &str, found: Option<&Versioned>) -> StoreError {
    let found = found.cloned().map(Box::new);
    StoreError::Conflict { key: key.into(), found }
}

/// What the keys that changed after `revision` held as of it.
fn undone(
    chunks: &[Arc<Chunk>],
    revision: u64,
    prefix: &str,
) -> BTreeMap<Arc<str>, Option<Versioned>> {
    let mut first: HashMap<&Arc<str>, &Option<Versioned>, foldhash::fast::RandomState> =
        HashMap::default();
    for event in chunks.iter().flat_map(|chunk| chunk.after(revision)) {
        if event.key.starts_with(prefix) {
            first.entry(&event.key).or_insert(&event.previous);
        }
    }
    first.into_iter().map(|(key, previous)| (key.clone(), previous.clone())).collect()
}

/// Reads a range of `tree`, in which the keys of `undone` hold that instead.
fn read_range(
    tree: &Tree,
    undone: &BTreeMap<Arc<str>, Option<Versioned>>,
    range: Range<'_>,
    revision: u64,
) -> RangeResponse {
    let Range { prefix, after, limit, .. } = range;
    let limit = if limit == 0 { usize::MAX } else { limit };
    let start = after.map_or(prefix, |after| after.max(prefix));
    let wanted = |key: &str| key.starts_with(prefix) && after.is_none_or(|after| key > after);

    let mut old = undone.iter().filter(|(key, _)| wanted(key)).peekable();
    let mut items = Vec::new();
    tree.visit_from(start, |entry| {
        let key = &*entry.item.key;
        if !key.starts_with(prefix) || items.len() >= limit {
            return ControlFlow::Break(());
        }
        let before = iter::from_fn(|| old.next_if(|(old, _)| &***old < key));
        items.extend(before.filter_map(|(_, item)| item.clone()));
        if let Some((_, item)) = old.next_if(|(old, _)| &***old == key) {
            items.extend(item.clone());
        } else if wanted(key) {
            items.push(entry.item.clone());
        }
        ControlFlow::Continue(())
    });
    items.extend(old.filter_map(|(_, item)| item.clone()));
    items.truncate(limit);

    // Without a last item there is either nothing left, or nothing at all.
    let remaining = items.last().filter(|_| items.len() == limit).map_or(0, |last| {
        let end = prefix_end(prefix).map_or(tree.len(), |end| tree.rank(&end));
        let next = [last.key.as_bytes(), b"\0"].concat();
        let present = end - tree.rank(&next);
        let later = undone.iter().filter(|(key, _)| **key > last.key);
        later.fold(present, |count, (key, item)| {
            count + usize::from(item.is_some()) - usize::from(tree.get(key).is_some())
        })
    });
    RangeResponse { items, revision: Revision(revision), remaining }
}
