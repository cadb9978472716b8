use std::collections::HashMap;

use foldhash::fast::RandomState;

/// How many Pods of some kind there are in each domain: by the value of a node label.
#[derive(Clone, Debug, Default)]
pub(crate) struct Domains {
    counts: HashMap<Box<str>, i64, RandomState>,
    total: i64,
}

impl Domains {
    /// Counts Pods in, or out with a negative number.
    pub(crate) fn add(&mut self, value: &str, by: i64) {
        if by == 0 {
            return;
        }
        self.total += by;
        match self.counts.get_mut(value) {
            Some(count) => {
                *count += by;
                if *count == 0 {
                    self.counts.remove(value);
                }
            }
            None => {
                self.counts.insert(value.into(), by);
            }
        }
    }

    /// How many there are in one domain.
    pub(crate) fn at(&self, value: &str) -> i64 {
        self.counts.get(value).copied().unwrap_or(0)
    }

    /// How many there are in all.
    pub(crate) fn total(&self) -> i64 {
        self.total
    }
}
