mod lanes;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    fmt,
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use self::lanes::Lanes;

/// How long an item waits after each failure.
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    /// After the first failure.
    pub min: Duration,
    /// At most. Each failure doubles the wait.
    pub max: Duration,
}

impl Default for RateLimit {
    /// 5 ms to 1000 s, as client-go's default.
    fn default() -> Self {
        Self { min: Duration::from_millis(5), max: Duration::from_secs(1000) }
    }
}

/// A queue of items to work on, with client-go's guarantees:
///
/// - Items are handed out in the order added, those of a higher priority first. Adding one that
///   waits already can only raise its priority.
/// - An item is worked on by one worker at a time: added again meanwhile, it is handed out once
///   more after [`done`](Self::done).
/// - After [`shut_down`](Self::shut_down) what was added before is still handed out, then `get`
///   returns `None`; delayed items are dropped.
///
/// Its length is bounded by the number of distinct items. Clones share one queue.
pub struct WorkQueue<T>(Arc<Shared<T>>);

struct Shared<T> {
    state: Mutex<State<T>>,
    /// One permit wakes one worker.
    wake: Notify,
    limit: RateLimit,
}

struct State<T> {
    /// What waits. An entry counts only if its item waits, and with the entry's priority: an item
    /// that was raised leaves one behind.
    lanes: Lanes<T>,
    /// How many items wait.
    waiting: usize,
    /// Of the items that wait, or will after `done`, those that have one other than 0.
    priorities: HashMap<T, i32>,
    /// To be handed out, now or after `done`.
    dirty: HashSet<T>,
    processing: HashSet<T>,
    /// When delayed items are due; an entry counts only if `delayed` has the same number.
    timers: BinaryHeap<Reverse<(Instant, u64)>>,
    /// The item of each timer, and the timer of each item.
    due: HashMap<u64, T>,
    delayed: HashMap<T, (Instant, u64)>,
    sequence: u64,
    failures: HashMap<T, u32>,
    shut_down: bool,
}

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for WorkQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.state.lock();
        f.debug_struct("WorkQueue")
            .field("len", &state.waiting)
            .field("processing", &state.processing.len())
            .field("delayed", &state.delayed.len())
            .finish()
    }
}

impl<T: Clone + Eq + Hash> Default for WorkQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Clone + Eq + Hash> WorkQueue<T> {
    /// An empty queue with the default back-off.
    pub fn new() -> Self {
        Self::with_rate_limit(RateLimit::default())
    }

    /// An empty queue.
    pub fn with_rate_limit(limit: RateLimit) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                lanes: Lanes::new(),
                waiting: 0,
                priorities: HashMap::new(),
                dirty: HashSet::new(),
                processing: HashSet::new(),
                timers: BinaryHeap::new(),
                due: HashMap::new(),
                delayed: HashMap::new(),
                sequence: 0,
                failures: HashMap::new(),
                shut_down: false,
            }),
            wake: Notify::new(),
            limit,
        }))
    }

    /// Adds an item, unless it waits already. Its priority is 0.
    pub fn add(&self, item: T) {
        self.add_with_priority(item, 0);
    }

    /// Adds an item that is handed out before those of lower priority, however long these wait.
    /// When it waits already, the higher of both priorities counts. A priority is for once: a
    /// retry has the usual one, 0, again.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use rk_api::client::WorkQueue;
    ///
    /// let queue = WorkQueue::new();
    /// queue.add_with_priority("found at the start", -100);
    /// queue.add("just changed");
    /// assert_eq!(queue.get().await, Some("just changed"));
    /// # }
    /// ```
    pub fn add_with_priority(&self, item: T, priority: i32) {
        let added = self.0.state.lock().add(item, priority);
        if added {
            self.0.wake.notify_one();
        }
    }

    /// Adds an item after `delay`. Of several delays of one item the shortest counts.
    pub fn add_after(&self, item: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(item);
        }
        let mut state = self.0.state.lock();
        if state.shut_down {
            return;
        }
        let when = Instant::now() + delay;
        if state.delayed.get(&item).is_some_and(|(already, _)| *already <= when) {
            return;
        }
        state.sequence += 1;
        let sequence = state.sequence;
        if let Some((_, old)) = state.delayed.insert(item.clone(), (when, sequence)) {
            state.due.remove(&old);
        }
        state.due.insert(sequence, item);
        state.timers.push(Reverse((when, sequence)));
        drop(state);
        // A waiting worker has to look at its timer again.
        self.0.wake.notify_one();
    }

    /// Adds an item after its back-off, which grows with every call until [`forget`](Self::forget).
    pub fn add_rate_limited(&self, item: T) {
        let delay = {
            let mut state = self.0.state.lock();
            let failures = state.failures.entry(item.clone()).or_insert(0);
            let factor = 2f64.powi((*failures).min(60) as i32);
            *failures = failures.saturating_add(1);
            let limit = self.0.limit;
            let seconds = (limit.min.as_secs_f64() * factor).min(limit.max.as_secs_f64());
            Duration::from_secs_f64(seconds)
        };
        self.add_after(item, delay);
    }

    /// The item succeeded: its next back-off is the shortest.
    pub fn forget(&self, item: &T) {
        self.0.state.lock().failures.remove(item);
    }

    /// How often the item was added with a back-off since it was last forgotten.
    pub fn failures(&self, item: &T) -> u32 {
        self.0.state.lock().failures.get(item).copied().unwrap_or(0)
    }

    /// The next item, when there is one; `None` after shutdown. The caller works on it and then
    /// calls [`done`](Self::done). Dropping the future loses nothing.
    pub async fn get(&self) -> Option<T> {
        loop {
            let notified = self.0.wake.notified();
            let next_timer = {
                let mut state = self.0.state.lock();
                state.release_due(Instant::now());
                if let Some(item) = state.pop() {
                    // Another worker may sleep past the next timer, which this one watched.
                    if state.waiting > 0 || !state.timers.is_empty() || state.shut_down {
                        self.0.wake.notify_one();
                    }
                    return Some(item);
                }
                if state.shut_down {
                    // Pass the news on to the next worker.
                    self.0.wake.notify_one();
                    return None;
                }
                state.timers.peek().map(|Reverse((when, _))| *when)
            };
            match next_timer {
                Some(when) => {
                    let _ = tokio::time::timeout_at(when, notified).await;
                }
                None => notified.await,
            }
        }
    }

    /// The work on an item that `get` returned is over.
    pub fn done(&self, item: &T) {
        let mut state = self.0.state.lock();
        if state.processing.remove(item) && state.dirty.contains(item) {
            state.enqueue(item.clone());
            drop(state);
            self.0.wake.notify_one();
        }
    }

    /// Takes no more items; workers get what is left and then `None`.
    pub fn shut_down(&self) {
        let mut state = self.0.state.lock();
        state.shut_down = true;
        state.timers.clear();
        state.due.clear();
        state.delayed.clear();
        drop(state);
        self.0.wake.notify_one();
    }

    /// Whether the queue takes no more items.
    pub fn is_shut_down(&self) -> bool {
        self.0.state.lock().shut_down
    }

    /// How many items wait for a worker, delayed ones not counted.
    pub fn len(&self) -> usize {
        self.0.state.lock().waiting
    }

    /// Whether no item waits for a worker.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether nothing waits, nothing is being worked on and nothing is delayed for less than
    /// `horizon`.
    pub fn is_idle(&self, horizon: Duration) -> bool {
        let state = self.0.state.lock();
        let now = Instant::now();
        state.waiting == 0
            && state.processing.is_empty()
            && state.delayed.values().all(|(when, _)| *when >= now + horizon)
    }
}

impl<T: Clone + Eq + Hash> State<T> {
    /// Whether there is one more item to hand out.
    fn add(&mut self, item: T, priority: i32) -> bool {
        if self.shut_down {
            return false;
        }
        let waits = !self.dirty.insert(item.clone());
        let current = self.priority(&item);
        if waits && priority <= current {
            return false;
        }
        if priority != 0 {
            self.priorities.insert(item.clone(), priority);
        } else if current != 0 {
            self.priorities.remove(&item);
        }
        if self.processing.contains(&item) {
            return false;
        }
        if waits {
            self.lanes.push(priority, item);
            return false;
        }
        self.enqueue(item);
        true
    }

    fn enqueue(&mut self, item: T) {
        self.waiting += 1;
        self.lanes.push(self.priority(&item), item);
    }

    fn priority(&self, item: &T) -> i32 {
        if self.priorities.is_empty() {
            return 0;
        }
        self.priorities.get(item).copied().unwrap_or(0)
    }

    /// Takes the next item that waits.
    fn pop(&mut self) -> Option<T> {
        while let Some((priority, item)) = self.lanes.pop() {
            let counts = self.priority(&item) == priority && !self.processing.contains(&item);
            if counts && self.dirty.remove(&item) {
                self.priorities.remove(&item);
                self.waiting -= 1;
                self.processing.insert(item.clone());
                return Some(item);
            }
        }
        None
    }

    fn release_due(&mut self, now: Instant) {
        while let Some(Reverse((when, sequence))) = self.timers.peek().copied() {
            if when > now {
                // An entry that was replaced by an earlier one needs no wake-up.
                if self.due.contains_key(&sequence) {
                    return;
                }
                self.timers.pop();
                continue;
            }
            self.timers.pop();
            if let Some(item) = self.due.remove(&sequence) {
                self.delayed.remove(&item);
                self.add(item, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn an_item_added_twice_is_handed_out_once() {
        let queue = WorkQueue::new();
        queue.add("a");
        queue.add("b");
        queue.add("a");

        assert_eq!(queue.len(), 2);
        assert_eq!(queue.get().await, Some("a"));
        assert_eq!(queue.get().await, Some("b"));
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_a_higher_priority_comes_first_and_can_be_raised() {
        let queue = WorkQueue::new();
        queue.add_with_priority("initial", -100);
        queue.add_with_priority("changed", -100);
        queue.add("usual");
        queue.add_with_priority("urgent", 10);
        queue.add("changed");
        queue.add_with_priority("urgent", 5);

        assert_eq!(queue.len(), 4);
        for expected in ["urgent", "usual", "changed", "initial"] {
            assert_eq!(queue.get().await, Some(expected));
        }
        assert!(queue.is_empty());
        // What is worked on keeps the priority that it will come with.
        queue.add_with_priority("initial", 1);
        queue.add("new");
        queue.done(&"initial");
        assert_eq!(queue.get().await, Some("initial"));
        assert_eq!(queue.get().await, Some("new"));
        assert!(queue.is_empty());
    }

    proptest::proptest! {
        /// Against a list that is searched: whatever is added, raised and done, the next item is one
        /// of the highest priority among those that wait, and none comes twice or never.
        #[test]
        fn the_order_is_that_of_a_simple_model(
            steps in proptest::collection::vec((0..6_u8, -2..3_i32, 0..3_u8), 1..60)
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let queue = WorkQueue::new();
                let mut wanted: HashMap<u8, i32> = HashMap::new();
                let mut held: Vec<u8> = Vec::new();
                for (item, priority, action) in steps {
                    match action {
                        0 | 1 => {
                            queue.add_with_priority(item, priority);
                            let kept = wanted.entry(item).or_insert(priority);
                            *kept = priority.max(*kept);
                        }
                        _ => {
                            let mut ready = wanted.iter().filter(|(item, _)| !held.contains(item));
                            let highest = ready.clone().map(|(_, priority)| *priority).max();
                            assert_eq!(queue.len(), ready.by_ref().count());
                            match highest {
                                Some(highest) => {
                                    let item = queue.get().await.unwrap();
                                    assert_eq!(wanted.remove(&item), Some(highest));
                                    assert!(!held.contains(&item));
                                    held.push(item);
                                }
                                None => held.drain(..).for_each(|item| queue.done(&item)),
                            }
                        }
                    }
                }
            });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_item_added_while_worked_on_comes_again_after_done() {
        let queue = WorkQueue::new();
        queue.add(1);
        let item = queue.get().await.unwrap();
        queue.add(1);
        queue.add(1);
        assert_eq!(queue.len(), 0, "never two workers on one item");

        queue.done(&item);

        assert_eq!(queue.get().await, Some(1));
        queue.done(&1);
        assert!(queue.is_idle(Duration::MAX / 4));
    }

    #[tokio::test(start_paused = true)]
    async fn the_shortest_delay_of_an_item_counts() {
        let queue = WorkQueue::new();
        let start = Instant::now();
        queue.add_after("x", 50 * MS);
        queue.add_after("x", 10 * MS);
        queue.add_after("x", 90 * MS);

        assert_eq!(queue.get().await, Some("x"));
        assert_eq!(start.elapsed().as_millis(), 10);
        queue.done(&"x");

        let more = tokio::time::timeout(1000 * MS, queue.get()).await;
        assert!(more.is_err(), "the longer delays are gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_added_while_a_worker_waits_wakes_it_in_time() {
        let queue = WorkQueue::new();
        let worker = tokio::spawn({
            let queue = queue.clone();
            async move { queue.get().await }
        });
        tokio::time::sleep(MS).await;
        queue.add_after(7, 5 * MS);
        assert_eq!(worker.await.unwrap(), Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_double_the_wait_until_forgotten() {
        let queue = WorkQueue::with_rate_limit(RateLimit { min: 10 * MS, max: 35 * MS });
        let mut waits = Vec::new();
        for _ in 0..4 {
            let start = Instant::now();
            queue.add_rate_limited("x");
            queue.get().await;
            queue.done(&"x");
            waits.push(start.elapsed().as_millis());
        }
        assert_eq!(waits, [10, 20, 35, 35]);
        assert_eq!(queue.failures(&"x"), 4);

        queue.forget(&"x");
        let start = Instant::now();
        queue.add_rate_limited("x");
        queue.get().await;
        assert_eq!(start.elapsed().as_millis(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_hands_out_what_is_left_and_ends_all_workers() {
        let queue = WorkQueue::new();
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move {
                    let mut seen = 0;
                    while let Some(item) = queue.get().await {
                        seen += 1;
                        queue.done(&item);
                    }
                    seen
                })
            })
            .collect();
        (0..5).for_each(|n| queue.add(n));
        queue.add_after(9, MS);
        queue.shut_down();
        queue.add(10);

        let mut total = 0;
        for worker in workers {
            total += worker.await.unwrap();
        }
        assert_eq!(total, 5);
    }
}
