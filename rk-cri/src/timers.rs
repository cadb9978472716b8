//! One clock for many alarms: a heap and, while it is not empty, one task.
//!
//! Thousands of simulated nodes with tens of thousands of pods have as many things to do later
//! (a container's exit, the end of a back-off, the next heartbeat). A tokio timer and a task for
//! each would cost more than all the rest; here an alarm is 40 bytes in a heap.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

/// What an alarm wakes.
pub trait Alarm: Send + Sync + 'static {
    /// The time set for `key` has come. Must not block; alarms are level-triggered, so one that
    /// has lost its purpose meanwhile is to be ignored.
    fn ring(self: Arc<Self>, key: u64);
}

/// A set of alarms. Clones share it. Its task runs on the tokio runtime that sets an alarm while
/// none is pending, and ends when none is left.
#[derive(Clone, Default)]
pub struct Timers {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    heap: Mutex<Heap>,
    earlier: Notify,
}

#[derive(Default)]
struct Heap {
    alarms: BinaryHeap<Reverse<Entry>>,
    sequence: u64,
    running: bool,
}

struct Entry {
    at: Instant,
    /// Alarms of one instant ring in the order in which they were set.
    sequence: u64,
    key: u64,
    alarm: Weak<dyn Alarm>,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

impl std::fmt::Debug for Timers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Timers").field("pending", &self.pending()).finish()
    }
}

impl Timers {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many alarms are pending.
    pub fn pending(&self) -> usize {
        self.shared.heap.lock().alarms.len()
    }

    /// Rings `alarm` with `key` at `at`; at once if that has passed. Nothing happens if the alarm's
    /// owner is gone by then. Must be called within a tokio runtime.
    pub fn set(&self, at: Instant, alarm: Weak<dyn Alarm>, key: u64) {
        let mut heap = self.shared.heap.lock();
        let first = heap.alarms.peek().is_none_or(|Reverse(entry)| at < entry.at);
        heap.sequence += 1;
        let sequence = heap.sequence;
        heap.alarms.push(Reverse(Entry { at, sequence, key, alarm }));
        if !heap.running {
            heap.running = true;
            tokio::spawn(Self { shared: self.shared.clone() }.run());
        } else if first {
            self.shared.earlier.notify_one();
        }
    }

    async fn run(self) {
        loop {
            let next = {
                let mut heap = self.shared.heap.lock();
                match heap.alarms.peek() {
                    Some(Reverse(entry)) => entry.at,
                    None => {
                        heap.running = false;
                        return;
                    }
                }
            };
            tokio::select! { biased;
                () = self.shared.earlier.notified() => continue,
                () = tokio::time::sleep_until(next) => {}
            }
            self.ring_due(Instant::now());
            // A burst of due alarms must not keep the tasks they wake from running.
            tokio::task::yield_now().await;
        }
    }

    fn ring_due(&self, now: Instant) {
        loop {
            let due = {
                let mut heap = self.shared.heap.lock();
                match heap.alarms.peek() {
                    Some(Reverse(entry)) if entry.at <= now => heap.alarms.pop(),
                    _ => return,
                }
            };
            let Some(Reverse(entry)) = due else { return };
            if let Some(alarm) = entry.alarm.upgrade() {
                alarm.ring(entry.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<u64>>);
    impl Alarm for Heard {
        fn ring(self: Arc<Self>, key: u64) {
            self.0.lock().push(key);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn alarms_ring_in_order_of_time_whatever_the_order_of_setting() {
        let timers = Timers::new();
        let heard = Arc::new(Heard::default());
        let weak: Weak<dyn Alarm> = Arc::downgrade(&(heard.clone() as Arc<dyn Alarm>));
        let now = Instant::now();

        for (seconds, key) in [(5, 1), (1, 2), (3, 3), (1, 4)] {
            timers.set(now + Duration::from_secs(seconds), weak.clone(), key);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        timers.set(now, weak.clone(), 5);
        tokio::time::sleep(Duration::from_secs(10)).await;

        assert_eq!(*heard.0.lock(), [2, 4, 5, 3, 1]);
        assert_eq!(timers.pending(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_whose_owner_is_gone_does_nothing() {
        let timers = Timers::new();
        let heard: Arc<dyn Alarm> = Arc::new(Heard::default());
        timers.set(Instant::now() + Duration::from_secs(1), Arc::downgrade(&heard), 1);
        drop(heard);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(timers.pending(), 0);
    }
}
