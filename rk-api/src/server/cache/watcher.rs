//! The queue between the cache and one client's watch.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
};

use futures::task::AtomicWaker;
use parking_lot::Mutex;

use super::event::{Change, WatchEvent};
use crate::server::filter::Filter;

/// How many changes wait for a slow client before its watch is ended. They are shared with the
/// history and with other watchers, so a full queue costs little memory of its own.
const QUEUE_MAX: usize = 16_384;

/// How often a watcher with changes gives way to the other tasks while ever more changes come:
/// those of a busy time then travel together, and each costs a fraction of a system call.
const TURNS_MAX: u32 = 16;

/// So many changes are handed out without waiting for more.
const ENOUGH: usize = 64;

/// Why no more changes come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// The client did not keep up, or the cache had to start over: it must list again.
    Expired,
    /// The server stops.
    Shutdown,
}

/// What a watcher is handed.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// The next changes, at least one.
    Changes(VecDeque<(Change, Arc<WatchEvent>)>),
    /// There will be no more.
    Closed(Closed),
}

/// One client's watch.
#[derive(Debug)]
pub(crate) struct Watcher {
    /// What the client sees.
    pub filter: Filter,
    /// The client has seen everything up to here. A writer can learn its revision, and watch from
    /// it, before the cache has applied it.
    pub after: u64,
    queue: Mutex<Queue>,
    waker: AtomicWaker,
}

#[derive(Debug, Default)]
struct Queue {
    changes: VecDeque<(Change, Arc<WatchEvent>)>,
    closed: Option<Closed>,
    /// How often the watcher has given way for these changes, and how many they were then.
    turns: (u32, usize),
}

impl Watcher {
    /// A watch of what happens after revision `after`, that begins with `changes`.
    pub(crate) fn new(
        filter: Filter,
        after: u64,
        changes: VecDeque<(Change, Arc<WatchEvent>)>,
    ) -> Self {
        Self {
            filter,
            after,
            queue: Mutex::new(Queue { changes, ..Queue::default() }),
            waker: AtomicWaker::new(),
        }
    }

    /// Queues a change if the client sees it.
    pub(crate) fn offer(&self, event: &Arc<WatchEvent>) {
        if event.past.revision <= self.after {
            return;
        }
        // Who is asked is in the right place: without a selector there is nothing to look at.
        let change = if self.filter.selects() {
            let Some(change) = event.past.change_for(&self.filter) else { return };
            change
        } else {
            event.past.change()
        };
        {
            let mut queue = self.queue.lock();
            if queue.closed.is_some() {
                return;
            }
            if queue.changes.len() >= QUEUE_MAX {
                queue.changes = VecDeque::new();
                queue.closed = Some(Closed::Expired);
            } else {
                queue.changes.push_back((change, event.clone()));
            }
        }
        self.waker.wake();
    }

    /// Ends the watch; what is queued is still delivered.
    pub(crate) fn close(&self, why: Closed) {
        self.queue.lock().closed.get_or_insert(why);
        self.waker.wake();
    }

    /// Whether everything was handed out.
    pub(crate) fn is_drained(&self) -> bool {
        self.queue.lock().changes.is_empty()
    }

    /// The next changes, as many as there are. While they keep coming, the task that asks is sent
    /// to the end of the line a few times first.
    pub(crate) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Delivery> {
        self.waker.register(cx.waker());
        let mut queue = self.queue.lock();
        let waiting = queue.changes.len();
        if waiting == 0 {
            return queue.closed.map_or(Poll::Pending, |why| Poll::Ready(Delivery::Closed(why)));
        }
        let (turns, seen) = queue.turns;
        if waiting < ENOUGH && turns < TURNS_MAX && waiting > seen && queue.closed.is_none() {
            queue.turns = (turns + 1, waiting);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        queue.turns = (0, 0);
        Poll::Ready(Delivery::Changes(std::mem::take(&mut queue.changes)))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::server::cache::event::Past;

    fn changed(watcher: &Watcher, revisions: std::ops::RangeInclusive<usize>) {
        for revision in revisions {
            let past = Past { revision: revision as u64, object: None, previous: None };
            watcher.offer(&Arc::new(past.event()));
        }
    }

    /// How many changes the watcher is handed until there are none, and why it ended if it did.
    fn handed(watcher: &Watcher) -> (usize, Option<Closed>) {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut count, mut turns) = (0, 0);
        loop {
            match watcher.poll_next(&mut cx) {
                Poll::Ready(Delivery::Changes(changes)) => count += changes.len(),
                Poll::Ready(Delivery::Closed(why)) => return (count, Some(why)),
                Poll::Pending if turns == 2 => return (count, None),
                Poll::Pending => turns += 1,
            }
        }
    }

    #[test]
    fn who_keeps_up_sees_all_and_who_does_not_must_list_again() {
        let (quick, slow) = (
            Watcher::new(Filter::default(), 0, VecDeque::new()),
            Watcher::new(Filter::default(), 0, VecDeque::new()),
        );
        for half in [1..=QUEUE_MAX, QUEUE_MAX + 1..=2 * QUEUE_MAX] {
            changed(&quick, half.clone());
            changed(&slow, half);
            assert_eq!(handed(&quick), (QUEUE_MAX, None));
        }
        // Nothing is left out in the middle: what was queued is not handed out either.
        assert_eq!(handed(&slow), (0, Some(Closed::Expired)));
    }

    #[test]
    fn what_was_seen_is_not_shown_again() {
        let watcher = Watcher::new(Filter::default(), 3, VecDeque::new());
        changed(&watcher, 1..=5);
        assert_eq!(handed(&watcher).0, 2);
    }
}
