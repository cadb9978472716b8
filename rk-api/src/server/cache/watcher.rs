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
            queue: Mutex::new(Queue { changes, closed: None }),
            waker: AtomicWaker::new(),
        }
    }

    /// Queues a change if the client sees it.
    pub(crate) fn offer(&self, event: &Arc<WatchEvent>) {
        if event.revision <= self.after {
            return;
        }
        let Some(change) = event.change_for(&self.filter) else { return };
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

    /// The next changes, as many as there are.
    pub(crate) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Delivery> {
        if let Some(delivery) = self.take() {
            return Poll::Ready(delivery);
        }
        self.waker.register(cx.waker());
        // Something may have come between looking and registering.
        self.take().map_or(Poll::Pending, Poll::Ready)
    }

    fn take(&self) -> Option<Delivery> {
        let mut queue = self.queue.lock();
        if !queue.changes.is_empty() {
            return Some(Delivery::Changes(std::mem::take(&mut queue.changes)));
        }
        queue.closed.map(Delivery::Closed)
    }
}
