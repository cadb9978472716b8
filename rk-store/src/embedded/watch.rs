//! Watching: who is woken by a commit, and how a watcher reads what it has not seen.
//!
//! A watcher has no buffer. It has a position, and reads the shared [`History`] from there when it
//! is polled. A gap, a duplicate or a reordering would need the history itself to have one.
//!
//! Watchers of one prefix form a group. The group lists the revisions that concern it, so that a
//! commit costs the watchers who care, and a quiet watcher is not made to read what others write.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures::{Stream, task::AtomicWaker};
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{
    history::{Chunk, History},
    memory::Memory,
};
use crate::{Revision, StoreError, WatchBatch};

/// A batch has at most so many events.
const BATCH_EVENTS_MAX: usize = 256;
/// A batch is gathered from at most so many chunks of the history.
const BATCH_CHUNKS_MAX: usize = 8;

/// One watcher, as those who wake it see it.
#[derive(Debug, Default)]
struct Watcher {
    waker: AtomicWaker,
    /// The revision of the last batch it was given.
    delivered: AtomicU64,
}

/// The watchers of one prefix. Outlives the lock on the state, so that waking happens outside it.
#[derive(Debug, Default)]
pub(super) struct Watchers(Mutex<BTreeMap<u64, Arc<Watcher>>>);

impl Watchers {
    fn wake(&self, behind: u64) {
        for watcher in self.0.lock().values() {
            if watcher.delivered.load(Ordering::Relaxed) < behind {
                watcher.waker.wake();
            }
        }
    }
}

/// Whom to wake once the lock on the state is released.
#[derive(Debug, Default)]
#[must_use = "watchers sleep until they are woken"]
pub(super) struct Wakes(SmallVec<[Arc<Watchers>; 4]>);

impl Wakes {
    fn add(&mut self, watchers: &Arc<Watchers>) {
        if !self.0.iter().any(|known| Arc::ptr_eq(known, watchers)) {
            self.0.push(watchers.clone());
        }
    }

    /// Wakes those who were not yet told of everything up to `revision`.
    pub(super) fn wake(self, revision: u64) {
        for watchers in self.0 {
            watchers.wake(revision);
        }
    }
}

/// The watchers of one prefix, and which changes concern them.
#[derive(Debug)]
struct Group {
    /// The revisions of the changes under the prefix, as far as they came after `since`.
    revisions: VecDeque<u64>,
    since: u64,
    /// The newest revision that was taken off the front because it is no longer kept.
    dropped: u64,
    watchers: Arc<Watchers>,
}

/// All groups, found by the keys that concern them.
#[derive(Debug, Default)]
pub(super) struct Groups {
    by_prefix: HashMap<Box<str>, Group, foldhash::fast::RandomState>,
    /// The lengths of the prefixes, each with the number of groups that have it: a key is looked
    /// up once per length, not once per group.
    lengths: BTreeMap<usize, usize>,
    next_id: u64,
}

impl Groups {
    /// Notes that `revision` changed `key`.
    pub(super) fn note(&mut self, key: &str, revision: u64, compacted: u64, wakes: &mut Wakes) {
        for length in self.lengths.keys() {
            // `None` when the key is shorter, or has no character boundary there.
            let Some(prefix) = key.get(..*length) else { continue };
            let Some(group) = self.by_prefix.get_mut(prefix) else { continue };
            group.revisions.push_back(revision);
            while let Some(&oldest) = group.revisions.front()
                && oldest <= compacted
            {
                group.dropped = oldest;
                group.revisions.pop_front();
            }
            wakes.add(&group.watchers);
        }
    }

    /// Everybody who watches anything.
    pub(super) fn all(&self) -> Wakes {
        // The order in which they run must not hang on hashes.
        let mut groups: Vec<_> = self.by_prefix.iter().collect();
        groups.sort_unstable_by_key(|(prefix, _)| *prefix);
        Wakes(groups.into_iter().map(|(_, group)| group.watchers.clone()).collect())
    }

    fn join(&mut self, prefix: &str, now: u64, watcher: Arc<Watcher>) -> u64 {
        let group = self.by_prefix.entry(prefix.into()).or_insert_with(|| {
            *self.lengths.entry(prefix.len()).or_default() += 1;
            let watchers = Arc::default();
            Group { revisions: VecDeque::new(), since: now, dropped: 0, watchers }
        });
        self.next_id += 1;
        group.watchers.0.lock().insert(self.next_id, watcher);
        self.next_id
    }

    fn leave(&mut self, prefix: &str, id: u64) {
        let Some(group) = self.by_prefix.get_mut(prefix) else { return };
        let mut watchers = group.watchers.0.lock();
        watchers.remove(&id);
        if !watchers.is_empty() {
            return;
        }
        drop(watchers);
        self.by_prefix.remove(prefix);
        if let Some(count) = self.lengths.get_mut(&prefix.len()) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&prefix.len());
            }
        }
    }
}

/// What a watcher at some position has before it.
#[derive(Debug)]
pub(super) enum Ahead {
    /// Something it has to see is no longer kept.
    Gone { oldest: u64 },
    /// These chunks hold what may concern it up to and including `upto`; nothing else does.
    Scan { chunks: SmallVec<[Arc<Chunk>; 1]>, upto: u64 },
    /// These revisions concern it, and nothing else up to and including `upto`.
    Pick { chunks: SmallVec<[Arc<Chunk>; 1]>, revisions: SmallVec<[u64; 8]>, upto: u64 },
    /// Nothing up to and including this revision concerns it.
    Nothing { upto: u64 },
}

impl Groups {
    /// What lies after `position` for the watchers of `prefix`. Takes time that does not grow with
    /// the history.
    fn ahead(&self, prefix: &str, position: u64, history: &History) -> Ahead {
        let (compacted, last) = (history.compacted(), history.last());
        let group = self.by_prefix.get(prefix).filter(|group| position >= group.since);
        let Some(group) = group else {
            // The group's list starts later: read everything, a chunk at a time.
            if position < compacted {
                return Ahead::Gone { oldest: compacted };
            }
            let mut chunks = history.chunks_after(position);
            let Some(chunk) = chunks.next().cloned() else { return Ahead::Nothing { upto: last } };
            let upto = chunk.after(position).last().map_or(last, |event| event.revision.0);
            return Ahead::Scan { chunks: SmallVec::from_iter([chunk]), upto };
        };
        let next = group.revisions.partition_point(|&revision| revision <= position);
        let Some(&first) = group.revisions.get(next) else {
            return if position < group.dropped {
                Ahead::Gone { oldest: compacted }
            } else {
                Ahead::Nothing { upto: last }
            };
        };
        if position < group.dropped || first <= compacted {
            return Ahead::Gone { oldest: compacted };
        }
        let mut stored = history.chunks_after(first - 1).peekable();
        let mut chunks: SmallVec<[Arc<Chunk>; 1]> = SmallVec::new();
        let mut revisions = SmallVec::new();
        for &revision in group.revisions.range(next..) {
            while stored.next_if(|chunk| chunk.get(revision).is_none()).is_some() {}
            let Some(chunk) = stored.peek() else { break };
            if !chunks.last().is_some_and(|known| Arc::ptr_eq(known, chunk)) {
                if chunks.len() == BATCH_CHUNKS_MAX {
                    break;
                }
                chunks.push(Arc::clone(chunk));
            }
            revisions.push(revision);
            if revisions.len() == BATCH_EVENTS_MAX {
                break;
            }
        }
        let all = next + revisions.len() == group.revisions.len();
        let upto = if all { last } else { revisions.last().copied().unwrap_or(position) };
        Ahead::Pick { chunks, revisions, upto }
    }
}

/// The stream that [`Store::watch`](crate::Store::watch) returns.
#[derive(Debug)]
pub(super) struct Watch {
    memory: Arc<Memory>,
    prefix: Box<str>,
    id: u64,
    watcher: Arc<Watcher>,
    /// Everything up to here is delivered, or does not concern the watcher.
    position: u64,
    ended: bool,
}

impl Watch {
    /// Watches what comes after revision `from`.
    pub(super) fn start(
        memory: Arc<Memory>,
        prefix: &str,
        from: Revision,
    ) -> Result<Self, StoreError> {
        let watcher = Arc::new(Watcher::default());
        watcher.delivered.store(from.0, Ordering::Relaxed);
        let id = {
            let mut state = memory.write();
            state.history.check_kept(from)?;
            let now = state.history.last();
            state.groups.join(prefix, now, watcher.clone())
        };
        Ok(Watch { memory, prefix: prefix.into(), id, watcher, position: from.0, ended: false })
    }

    /// The next batch, `None` when there is none yet.
    fn next(&mut self) -> Result<Option<WatchBatch>, StoreError> {
        loop {
            let ahead = {
                let state = self.memory.read();
                state.groups.ahead(&self.prefix, self.position, &state.history)
            };
            let (events, upto): (Vec<_>, u64) = match ahead {
                Ahead::Gone { oldest } => {
                    let (asked, oldest) = (Revision(self.position), Revision(oldest));
                    return Err(StoreError::Compacted { asked, oldest });
                }
                Ahead::Nothing { upto } => {
                    self.position = upto;
                    let delivered = self.watcher.delivered.load(Ordering::Relaxed);
                    if delivered < upto && delivered < self.memory.progress_asked() {
                        return Ok(Some(self.deliver(Vec::new())));
                    }
                    self.memory.check_open()?;
                    return Ok(None);
                }
                Ahead::Scan { chunks, upto } => {
                    let events = chunks
                        .iter()
                        .flat_map(|chunk| chunk.after(self.position))
                        .take_while(|event| event.revision.0 <= upto)
                        .filter(|event| event.key.starts_with(&*self.prefix));
                    (events.cloned().collect(), upto)
                }
                Ahead::Pick { chunks, revisions, upto } => {
                    let mut chunks = chunks.iter().peekable();
                    let events = revisions.iter().filter_map(|&revision| {
                        while chunks.next_if(|chunk| chunk.get(revision).is_none()).is_some() {}
                        chunks.peek()?.get(revision).cloned()
                    });
                    (events.collect(), upto)
                }
            };
            self.position = upto;
            if !events.is_empty() {
                return Ok(Some(self.deliver(events)));
            }
        }
    }

    fn deliver(&self, events: Vec<crate::Event>) -> WatchBatch {
        self.watcher.delivered.store(self.position, Ordering::Relaxed);
        WatchBatch { events, revision: Revision(self.position) }
    }
}

impl Stream for Watch {
    type Item = Result<WatchBatch, StoreError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // A watcher that always finds something must let others on its thread have a turn.
        let coop = ready!(tokio::task::coop::poll_proceed(cx));
        // Registered before looking: a commit in between wakes us again.
        self.watcher.waker.register(cx.waker());
        match self.next() {
            Ok(None) => Poll::Pending,
            Ok(Some(batch)) => {
                coop.made_progress();
                Poll::Ready(Some(Ok(batch)))
            }
            Err(error) => {
                self.ended = true;
                Poll::Ready(Some(Err(error)))
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.memory.write().groups.leave(&self.prefix, self.id);
    }
}
