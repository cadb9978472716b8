//! What a controller has written but its cache does not show yet.
//!
//! A reconcile decides from a cache that lags behind its own writes. Acting again on such a cache
//! would create the same child twice or delete one too many. So each write to a child is recorded
//! before it is sent, struck out when the cache shows it, and the owner is left alone until then.
//!
//! Children get their names from us, not from the server (see [`crate::pod_control`]), so a
//! creation is recorded by name before the request leaves: no window between answer and record,
//! and an answer that got lost can be looked up.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    time::Duration,
};

use kube::{Api, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

/// How soon an owner is looked at again whose writes the cache does not show.
pub const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// How long a write may stay unseen before the controller trusts its cache again. Only a lost
/// event (created and deleted between two lists) ever lasts this long.
const EXPIRY: Duration = Duration::from_secs(300);

/// The unseen writes of a controller, by owner. Bounded by the number of owners times the burst of
/// one reconcile.
#[derive(Debug)]
pub struct Expectations<Owner> {
    pending: Mutex<HashMap<Owner, Pending>>,
}

#[derive(Debug)]
struct Pending {
    creations: BTreeSet<String>,
    deletions: BTreeSet<String>,
    since: Instant,
}

impl<Owner> Default for Expectations<Owner> {
    fn default() -> Self {
        Self { pending: Mutex::default() }
    }
}

impl<Owner: Eq + Hash + Clone> Expectations<Owner> {
    /// Nothing expected yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the cache shows every write made for `owner`, or the oldest expired.
    pub fn satisfied(&self, owner: &Owner) -> bool {
        let mut pending = self.pending.lock();
        let Some(entry) = pending.get(owner) else { return true };
        let settled = entry.creations.is_empty() && entry.deletions.is_empty();
        if settled || entry.since.elapsed() >= EXPIRY {
            pending.remove(owner);
            return true;
        }
        false
    }

    /// Records that a child of this name is about to be created.
    pub fn expect_creation(&self, owner: &Owner, name: &str) {
        self.with(owner, |entry| entry.creations.insert(name.to_owned()));
    }

    /// Records that the child with this UID is about to be deleted.
    pub fn expect_deletion(&self, owner: &Owner, uid: &str) {
        self.with(owner, |entry| entry.deletions.insert(uid.to_owned()));
    }

    /// Sends the request that creates the child of this name; it is expected unless that fails.
    pub async fn creating<T, E>(
        &self,
        owner: &Owner,
        name: &str,
        request: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.expect_creation(owner, name);
        let result = request.await;
        if result.is_err() {
            self.creation_observed(owner, name);
        }
        result
    }

    /// Sends the request that deletes the child with this UID; that is expected unless it fails.
    pub async fn deleting<T, E>(
        &self,
        owner: &Owner,
        uid: &str,
        request: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.expect_deletion(owner, uid);
        let result = request.await;
        if result.is_err() {
            self.deletion_observed(owner, uid);
        }
        result
    }

    /// The cache shows the child, or its creation failed.
    pub fn creation_observed(&self, owner: &Owner, name: &str) {
        if let Some(entry) = self.pending.lock().get_mut(owner) {
            entry.creations.remove(name);
        }
    }

    /// The cache shows the child gone or going, or its deletion failed.
    pub fn deletion_observed(&self, owner: &Owner, uid: &str) {
        if let Some(entry) = self.pending.lock().get_mut(owner) {
            entry.deletions.remove(uid);
        }
    }

    /// Looks up the creations that the cache has not shown for ten seconds, and strikes
    /// out those that are not there: a child that was created and deleted between two looks of the
    /// cache is never shown.
    pub async fn look_up_overdue<K>(&self, owner: &Owner, api: &Api<K>) -> Result<(), kube::Error>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        for name in self.overdue(owner) {
            if api.get_metadata_opt(&name).await?.is_none() {
                self.creation_observed(owner, &name);
            }
        }
        Ok(())
    }

    fn overdue(&self, owner: &Owner) -> Vec<String> {
        let pending = self.pending.lock();
        let overdue = pending.get(owner).filter(|it| it.since.elapsed() >= LOOK_AGAIN_AFTER);
        overdue.map(|entry| entry.creations.iter().cloned().collect()).unwrap_or_default()
    }

    /// Drops what is known of an owner that is gone.
    pub fn forget(&self, owner: &Owner) {
        self.pending.lock().remove(owner);
    }

    fn with(&self, owner: &Owner, change: impl FnOnce(&mut Pending) -> bool) {
        let mut pending = self.pending.lock();
        let entry = pending.entry(owner.clone()).or_insert_with(|| Pending {
            creations: BTreeSet::new(),
            deletions: BTreeSet::new(),
            since: Instant::now(),
        });
        entry.since = Instant::now();
        change(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_owner_waits_until_the_cache_shows_its_writes() {
        let expectations = Expectations::new();
        assert!(expectations.satisfied(&"web"));

        expectations.expect_creation(&"web", "web-a");
        expectations.expect_deletion(&"web", "uid-1");
        assert!(!expectations.satisfied(&"web"));
        assert!(expectations.satisfied(&"other"));

        expectations.creation_observed(&"web", "web-a");
        assert!(!expectations.satisfied(&"web"));
        expectations.deletion_observed(&"web", "uid-1");
        assert!(expectations.satisfied(&"web"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_event_blocks_for_five_minutes_only() {
        let expectations = Expectations::new();
        expectations.expect_creation(&"web", "web-a");

        tokio::time::advance(Duration::from_secs(299)).await;
        assert!(!expectations.satisfied(&"web"));
        assert_eq!(expectations.overdue(&"web"), ["web-a"]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(expectations.satisfied(&"web"));
    }
}
