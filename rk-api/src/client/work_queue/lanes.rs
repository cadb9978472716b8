//! The order of what waits.

use std::collections::{BTreeMap, VecDeque};

/// Items by priority, higher ones first, and by the time they came. Nearly all have priority 0, and
/// cost no more than a queue.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    normal: VecDeque<T>,
    /// Those of other priorities; no lane is empty.
    others: BTreeMap<i32, VecDeque<T>>,
}

impl<T> Lanes<T> {
    pub(super) fn new() -> Self {
        Self { normal: VecDeque::new(), others: BTreeMap::new() }
    }

    pub(super) fn push(&mut self, priority: i32, item: T) {
        match priority {
            0 => self.normal.push_back(item),
            _ => self.others.entry(priority).or_default().push_back(item),
        }
    }

    /// The next item, with its priority.
    pub(super) fn pop(&mut self) -> Option<(i32, T)> {
        let highest = self.others.last_key_value().map(|(priority, _)| *priority);
        if highest.is_none_or(|highest| highest < 0)
            && let Some(item) = self.normal.pop_front()
        {
            return Some((0, item));
        }
        let priority = highest?;
        let lane = self.others.get_mut(&priority)?;
        let item = lane.pop_front();
        if lane.is_empty() {
            self.others.remove(&priority);
        }
        Some((priority, item?))
    }
}
