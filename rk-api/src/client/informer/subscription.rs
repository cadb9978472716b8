use std::{
    collections::{BTreeMap, HashMap},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures::Stream;
use parking_lot::Mutex;

use super::{Informer, Watchable};

/// Namespace and name.
pub(super) type Key = (String, String);

/// What happened to an object.
#[derive(Debug)]
pub enum Change<K> {
    /// It is new to the subscriber.
    Added(Arc<K>),
    /// It changed; changes that the subscriber was too slow for are one.
    Updated {
        /// As the subscriber last saw it.
        old: Arc<K>,
        /// As it is now.
        new: Arc<K>,
    },
    /// It is gone. This is its last known state.
    Deleted(Arc<K>),
}

impl<K> Clone for Change<K> {
    fn clone(&self) -> Self {
        match self {
            Change::Added(object) => Change::Added(object.clone()),
            Change::Updated { old, new } => Change::Updated { old: old.clone(), new: new.clone() },
            Change::Deleted(object) => Change::Deleted(object.clone()),
        }
    }
}

impl<K> Change<K> {
    /// The newest state known.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Change::Added(object) | Change::Deleted(object) => object,
            Change::Updated { new, .. } => new,
        }
    }
}

/// A stream of changes that never ends and never holds more than one pending entry per object: a
/// subscriber that is slow sees fewer changes, the newest state always among them. An object
/// deleted and created again under its name is a `Deleted` followed by an `Added`.
///
/// The informer's own cache is at least as new as what the stream has yielded.
pub struct Subscription<K: Watchable> {
    queue: Arc<Queue<K>>,
    /// Keeps the informer running.
    informer: Informer<K>,
}

impl<K: Watchable> Subscription<K> {
    pub(super) fn new(queue: Arc<Queue<K>>, informer: Informer<K>) -> Self {
        Self { queue, informer }
    }

    /// The informer that this subscribes to.
    pub fn informer(&self) -> &Informer<K> {
        &self.informer
    }

    /// The next change if one is pending.
    pub fn try_next(&mut self) -> Option<Change<K>> {
        self.queue.state.lock().pop()
    }

    /// The next change. Dropping the future loses nothing.
    pub async fn next_change(&mut self) -> Change<K> {
        std::future::poll_fn(|context| self.queue.poll(context)).await
    }
}

impl<K: Watchable> std::fmt::Debug for Subscription<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription")
            .field("pending", &self.queue.state.lock().order.len())
            .field("informer", &self.informer)
            .finish()
    }
}

impl<K: Watchable> Stream for Subscription<K> {
    type Item = Change<K>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Change<K>>> {
        self.queue.poll(context).map(Some)
    }
}

/// What one subscriber has not seen yet.
pub(super) struct Queue<K> {
    state: Mutex<State<K>>,
}

struct State<K> {
    /// Keys in the order of their first unseen change.
    order: BTreeMap<u64, Key>,
    pending: HashMap<Key, Pending<K>>,
    sequence: u64,
    waker: Option<Waker>,
}

struct Pending<K> {
    sequence: u64,
    /// As the subscriber saw it last, with the final state in case that incarnation is gone.
    seen: Option<Arc<K>>,
    last: Option<Arc<K>>,
    now: Option<Arc<K>>,
}

impl<K: Watchable> Queue<K> {
    pub(super) fn new() -> Self {
        let state =
            State { order: BTreeMap::new(), pending: HashMap::new(), sequence: 0, waker: None };
        Self { state: Mutex::new(state) }
    }

    /// Notes that the object went from `old` to `new`; `last` is the final state of a deleted one.
    pub(super) fn push(
        &self,
        key: Key,
        old: Option<Arc<K>>,
        new: Option<Arc<K>>,
        last: Option<Arc<K>>,
    ) {
        let mut state = self.state.lock();
        let state = &mut *state;
        match state.pending.get_mut(&key) {
            Some(pending) if pending.seen.is_none() && new.is_none() => {
                // Come and gone unseen.
                state.order.remove(&pending.sequence);
                state.pending.remove(&key);
                return;
            }
            Some(pending) => {
                pending.now = new;
                // The final state is wanted for the incarnation that the subscriber knows.
                let of_seen = |last: &Arc<K>| {
                    pending.seen.as_ref().is_some_and(|seen| seen.meta().uid == last.meta().uid)
                };
                if let Some(last) = last.filter(of_seen) {
                    pending.last = Some(last);
                }
            }
            None => {
                state.sequence += 1;
                let sequence = state.sequence;
                state.order.insert(sequence, key.clone());
                state.pending.insert(key, Pending { sequence, seen: old, last, now: new });
            }
        }
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<Change<K>> {
        let mut state = self.state.lock();
        match state.pop() {
            Some(change) => Poll::Ready(change),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<K: Watchable> State<K> {
    fn pop(&mut self) -> Option<Change<K>> {
        loop {
            let (sequence, key) = self.order.pop_first()?;
            let Some(pending) = self.pending.remove(&key) else { continue };
            return Some(match (pending.seen, pending.now) {
                (None, Some(new)) => Change::Added(new),
                (Some(old), None) => Change::Deleted(pending.last.unwrap_or(old)),
                (Some(old), Some(new)) if old.meta().uid != new.meta().uid => {
                    let rest = Pending { sequence, seen: None, last: None, now: Some(new) };
                    self.order.insert(sequence, key.clone());
                    self.pending.insert(key, rest);
                    Change::Deleted(pending.last.unwrap_or(old))
                }
                (Some(old), Some(new)) => Change::Updated { old, new },
                (None, None) => continue,
            });
        }
    }
}
