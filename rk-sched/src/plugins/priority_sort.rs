//! Pods of higher priority are tried first, then those that wait longer.

use std::cmp::Ordering;

use crate::{
    framework::{Plugin, QueueSort, QueuedPod},
    plugins::no_args,
};

/// The plugin's name.
pub const NAME: &str = "PrioritySort";

/// Sorts the queue by priority, then by time.
#[derive(Debug, Default)]
pub struct PrioritySort;

no_args!(PrioritySort);

impl Plugin for PrioritySort {
    fn name(&self) -> &'static str {
        NAME
    }
    fn as_queue_sort(&self) -> Option<&dyn QueueSort> {
        Some(self)
    }
}

impl QueueSort for PrioritySort {
    fn compare(&self, a: &QueuedPod, b: &QueuedPod) -> Ordering {
        b.info.priority.cmp(&a.info.priority).then(a.since.cmp(&b.since))
    }
}
