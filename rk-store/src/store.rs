//! The [`Store`] trait: the seam between the API server and whatever keeps its bytes.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

/// The largest value a store takes: 1.5 MiB, the request limit that etcd ships with.
pub const VALUE_BYTES_MAX: usize = 1536 * 1024;

/// A point in the store's one history. Revision 0 is before the first write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key's value at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The key.
    pub key: Arc<str>,
    /// The value, shared: cloning it copies no bytes.
    pub value: Bytes,
    /// The revision that created the key (since it was last absent).
    pub created: Revision,
    /// The revision that wrote this value.
    pub modified: Revision,
}

/// What must hold for a write to commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Anything, the key may be absent or at any revision.
    Any,
    /// The key must be absent.
    Absent,
    /// The key must exist, last modified by exactly this revision.
    Revision(Revision),
}

/// Which keys a range read returns, and as of when.
#[derive(Clone, Copy, Debug, Default)]
pub struct Range<'a> {
    /// Every key that starts with this.
    pub prefix: &'a str,
    /// Only keys strictly greater than this one; it is the last key of the page before.
    pub after: Option<&'a str>,
    /// At most so many keys; 0 means all.
    pub limit: usize,
    /// As of this revision; `None` is the latest committed one.
    pub revision: Option<Revision>,
}

/// The answer to a [`Range`].
#[derive(Clone, Debug, Default)]
pub struct RangeResponse {
    /// The keys with their values, in key order.
    pub items: Vec<Versioned>,
    /// The revision that the answer is true for.
    pub revision: Revision,
    /// How many keys of the prefix follow the last item returned; 0 when the answer is complete.
    pub remaining: usize,
}

/// One committed change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key that changed.
    pub key: Arc<str>,
    /// The revision of the change.
    pub revision: Revision,
    /// The value written; `None` when the key was deleted or expired.
    pub value: Option<Bytes>,
    /// The revision that created the key (since it was last absent).
    pub created: Revision,
    /// What the key held before; `None` when it was absent.
    pub previous: Option<Versioned>,
}

/// Changes in revision order, and how far they reach.
#[derive(Clone, Debug, Default)]
pub struct WatchBatch {
    /// The changes; empty when the batch only reports progress.
    pub events: Vec<Event>,
    /// Every change of the watched prefix up to and including this revision has been delivered.
    pub revision: Revision,
}

/// What [`Store::watch`] returns. It ends after its first error.
pub type WatchStream = BoxStream<'static, Result<WatchBatch, StoreError>>;

/// Versioned keys with watch: everything the API server asks of persistence.
///
/// # What an implementation guarantees
/// - One history: each committed write has a revision larger than every earlier one.
/// - Conditional writes: a write commits only if its [`Expect`] holds at that moment.
/// - Durability: once a write is acknowledged, it survives what the implementation claims to
///   survive (a durable one: the process being killed at any instant, and power loss).
/// - Consistent reads: `get`, `range` (without a revision) and `revision` see every write that was
///   acknowledged before they were called.
/// - Gap-free watch: every event after `from`, in revision order, none twice; or the stream ends
///   with [`StoreError::Compacted`] and the caller lists again.
///
/// # What it must not assume
/// - That a future is polled to its end: dropping it may lose the answer, never half a write.
/// - That a key means anything: only `rk-api` knows the layout of keys.
///
/// A backend is done when it passes `rk_store::conformance::run`.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// The latest value of `key`. A missing key is `None`, not an error.
    async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError>;

    /// The keys of a range with their values, all as of one revision.
    ///
    /// Fails with [`StoreError::Compacted`] when `range.revision` is no longer kept and with
    /// [`StoreError::Future`] when it has not happened yet.
    async fn range(&self, range: Range<'_>) -> Result<RangeResponse, StoreError>;

    /// Writes `value` (at most [`VALUE_BYTES_MAX`]) if `expect` holds, and returns its revision.
    ///
    /// With `ttl` the key expires that long after this write, as a deletion that watchers see.
    /// A later `put` replaces the time to live, or ends it when it names none.
    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
        ttl: Option<Duration>,
    ) -> Result<Revision, StoreError>;

    /// Deletes `key` if `expect` holds; returns the deletion's revision and what was there.
    ///
    /// A missing key is [`StoreError::Conflict`] with `found: None`, whatever `expect` says.
    async fn delete(&self, key: &str, expect: Expect) -> Result<(Revision, Versioned), StoreError>;

    /// The latest committed revision, no older than any write acknowledged before the call.
    ///
    /// Open watches then report their progress up to it, if necessary by an empty batch: who needs
    /// to know that a watch has caught up asks for the revision and waits for the watch to get
    /// there.
    async fn revision(&self) -> Result<Revision, StoreError>;

    /// Events under `prefix` after revision `from`, until the stream is dropped.
    ///
    /// Fails with [`StoreError::Compacted`] when events after `from` are no longer all kept, and
    /// with [`StoreError::Future`] when `from` has not happened yet. The stream also ends with it when the reader falls behind further than the store keeps.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError>;

    /// Forgets versions that were superseded at or before `revision`. The state as of `revision`
    /// can still be read, and watched from. What is forgotten already stays so: that is no error.
    ///
    /// Fails with [`StoreError::Future`] when the revision has not happened yet.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;
}

/// Why a store call failed, by what the caller does next.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The write's [`Expect`] did not hold. Nothing was written.
    #[error("{key} is not as expected: read it again and redo the change")]
    Conflict {
        /// The key.
        key: Arc<str>,
        /// What the key holds now; `None` when it is absent.
        found: Option<Box<Versioned>>,
    },

    /// History up to `oldest` is gone.
    #[error("revision {asked} is compacted, the oldest kept is {oldest}: list again, then watch")]
    Compacted {
        /// The revision asked for.
        asked: Revision,
        /// The oldest revision that can still be read and watched from.
        oldest: Revision,
    },

    /// The revision has not happened yet.
    #[error("revision {asked} is in the future, the latest is {latest}")]
    Future {
        /// The revision asked for.
        asked: Revision,
        /// The latest committed revision.
        latest: Revision,
    },

    /// The value is larger than a store takes. Nothing was written.
    #[error(
        "the value of {key} has {size_bytes} bytes, at most {max_bytes} are possible: make it smaller"
    )]
    TooLarge {
        /// The key.
        key: Arc<str>,
        /// The value's size.
        size_bytes: usize,
        /// The largest size possible.
        max_bytes: usize,
    },

    /// What is on disk is not what was written. Nothing was changed.
    #[error("{file} is damaged at byte {offset}: {detail}")]
    Corrupt {
        /// The damaged file.
        file: String,
        /// Where in the file the damage begins.
        offset: u64,
        /// What is wrong, and what can be done about it.
        detail: String,
    },

    /// Somebody else has the directory open, in this process or another. Nothing was changed.
    #[error("{directory} is in use by another store: close that one first")]
    Locked {
        /// The directory.
        directory: String,
    },

    /// A backup can only be restored into an empty directory. Nothing was changed.
    #[error("{directory} already has a store in it: restore into an empty directory")]
    NotEmpty {
        /// The directory.
        directory: String,
    },

    /// No answer. A write may or may not have happened.
    #[error("the store does not answer ({reason}): retry with back-off, reading before writing")]
    Unavailable {
        /// Why.
        reason: String,
    },
}
