//! Who hears of changes.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use futures::stream::BoxStream;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::runtime::RuntimeEvent;

/// How many events wait for a reader; beyond that the oldest are dropped.
const WAITING_MAX: usize = 4096;

/// Subscribers of one node's events. An event that waits already is not queued twice.
#[derive(Default)]
pub(super) struct Events {
    readers: Mutex<Vec<Weak<Reader>>>,
}

#[derive(Default)]
struct Reader {
    waiting: Mutex<VecDeque<RuntimeEvent>>,
    more: Notify,
}

impl Events {
    pub(super) fn send(&self, event: RuntimeEvent) {
        self.readers.lock().retain(|reader| {
            let Some(reader) = reader.upgrade() else { return false };
            let mut waiting = reader.waiting.lock();
            if waiting.iter().rev().take(16).any(|other| *other == event) {
                return true;
            }
            if waiting.len() == WAITING_MAX {
                waiting.pop_front();
            }
            waiting.push_back(event.clone());
            reader.more.notify_one();
            true
        });
    }

    pub(super) fn subscribe(&self) -> BoxStream<'static, RuntimeEvent> {
        let reader = Arc::new(Reader::default());
        self.readers.lock().push(Arc::downgrade(&reader));
        Box::pin(futures::stream::unfold(reader, |reader| async move {
            loop {
                let next = reader.waiting.lock().pop_front();
                match next {
                    Some(event) => return Some((event, reader)),
                    None => reader.more.notified().await,
                }
            }
        }))
    }
}
