//! What the controller knows that its caches do not show yet.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;

use super::backoff::Backoff;
use crate::key::ObjectKey;

/// Facts about Jobs between two reconciles. Everything here may be lost at any time; what must not
/// be lost is in the status of the Job and in the finalizers of its Pods.
#[derive(Debug, Default)]
pub(super) struct Memory {
    jobs: Mutex<HashMap<ObjectKey, Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// UIDs of Pods whose finalizers were taken away.
    released: HashSet<String>,
    backoff: Backoff,
}

impl Memory {
    pub(super) fn released(&self, job: &ObjectKey) -> HashSet<String> {
        self.jobs.lock().get(job).map(|known| known.released.clone()).unwrap_or_default()
    }

    /// The finalizer of the Pod is about to be taken away.
    pub(super) fn expect_release(&self, job: &ObjectKey, pod: &str) {
        self.jobs.lock().entry(job.clone()).or_default().released.insert(pod.to_owned());
    }

    /// The cache shows the Pod without finalizer, or no more; or the finalizer stayed.
    pub(super) fn release_observed(&self, job: &ObjectKey, pod: &str) {
        if let Some(known) = self.jobs.lock().get_mut(job) {
            known.released.remove(pod);
        }
    }

    pub(super) fn backoff(&self, job: &ObjectKey) -> Backoff {
        self.jobs.lock().get(job).map(|known| known.backoff).unwrap_or_default()
    }

    pub(super) fn set_backoff(&self, job: &ObjectKey, backoff: Backoff) {
        self.jobs.lock().entry(job.clone()).or_default().backoff = backoff;
    }

    /// The Job is over or gone.
    pub(super) fn forget(&self, job: &ObjectKey) {
        self.jobs.lock().remove(job);
    }
}
