//! [`EmbeddedStore`]: the store that lives in this process.

mod expiry;
mod history;
mod memory;
mod tree;
mod watch;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use self::{
    history::Limits,
    memory::{Change, Memory, Write, conflict},
    tree::Tree,
    watch::Watch,
};
use crate::{
    Expect, Range, RangeResponse, Revision, Store, StoreError, VALUE_BYTES_MAX, Versioned,
    WatchStream,
};

/// How an [`EmbeddedStore`] is set up. `Options::default()` suits most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The store keeps at most so many past changes, for watches and for reads at a past revision.
    /// The oldest go first, some at a time. Default: 100,000.
    pub history_events_max: usize,
    /// The past changes kept have at most so many bytes, but for the newest few. Default: 64 MiB.
    pub history_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { history_events_max: 100_000, history_bytes_max: 64 << 20 }
    }
}

/// A [`Store`] in this process. Clones are handles to one store.
///
/// Progress: a call of [`Store::revision`] makes every open watch report, soon, that it has
/// delivered everything up to that revision, if necessary by an empty batch.
///
/// # Runtime
/// No call needs a tokio runtime, except that keys with a time to live expire only while one runs
/// that the store was written to in: that is where the task which deletes them lives.
#[derive(Clone, Debug)]
pub struct EmbeddedStore {
    core: Arc<Core>,
}

#[derive(Debug)]
struct Core {
    memory: Arc<Memory>,
}

impl EmbeddedStore {
    /// An empty store that lives as long as its handles do.
    pub fn in_memory() -> Self {
        Self::in_memory_with(Options::default())
    }

    /// An empty store in memory that keeps as much history as `options` say.
    pub fn in_memory_with(options: Options) -> Self {
        let limits =
            Limits { events: options.history_events_max, bytes: options.history_bytes_max };
        let memory = Arc::new(Memory::new(Tree::default(), 0, limits));
        EmbeddedStore { core: Arc::new(Core { memory }) }
    }
}

impl Core {
    async fn put(
        self: &Arc<Self>,
        key: &str,
        value: Bytes,
        expect: Expect,
        ttl: Option<Duration>,
    ) -> Result<Revision, StoreError> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(StoreError::TooLarge {
                key: key.into(),
                size_bytes: value.len(),
                max_bytes: VALUE_BYTES_MAX,
            });
        }
        self.memory.check_open()?;
        let state = self.memory.write();
        state.check(key, expect)?;
        let revision = state.history.last() + 1;
        let write = Write { key: key.into(), revision, change: Change::Put { value, ttl } };
        self.memory.commit(state, &[write]);
        if ttl.is_some() {
            expiry::ensure(self);
        }
        Ok(Revision(revision))
    }

    async fn delete(
        self: &Arc<Self>,
        key: &str,
        expect: Expect,
    ) -> Result<(Revision, Versioned), StoreError> {
        self.memory.check_open()?;
        let state = self.memory.write();
        state.check(key, expect)?;
        let Some(found) = state.tree.get(key) else { return Err(conflict(key, None)) };
        let previous = found.item.clone();
        let revision = state.history.last() + 1;
        let write = Write { key: previous.key.clone(), revision, change: Change::Delete };
        self.memory.commit(state, &[write]);
        Ok((Revision(revision), previous))
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.memory.close();
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        Ok(self.core.memory.read().tree.get(key).map(|entry| entry.item.clone()))
    }

    async fn range(&self, range: Range<'_>) -> Result<RangeResponse, StoreError> {
        self.core.memory.range(range)
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
        ttl: Option<Duration>,
    ) -> Result<Revision, StoreError> {
        self.core.put(key, value, expect, ttl).await
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<(Revision, Versioned), StoreError> {
        self.core.delete(key, expect).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        let revision = self.core.memory.revision();
        self.core.memory.ask_progress(revision);
        Ok(Revision(revision))
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError> {
        self.core.memory.check_open()?;
        Ok(Box::pin(Watch::start(self.core.memory.clone(), prefix, from)?))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let mut state = self.core.memory.write();
        let latest = Revision(state.history.last());
        if revision > latest {
            return Err(StoreError::Future { asked: revision, latest });
        }
        state.history.compact(revision.0);
        Ok(())
    }
}
