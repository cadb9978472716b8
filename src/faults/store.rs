//! A store that can be full.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use rk_store::{Expect, Range, RangeResponse, Revision, Store, StoreError, Versioned, WatchStream};

/// What etcd says when its quota is used up.
const FULL: &str = "etcdserver: mvcc: database space exceeded";

/// Takes no writes while it is full; all else goes to the store behind it.
#[derive(Debug)]
pub(super) struct LimitedStore {
    inner: Arc<dyn Store>,
    full: Arc<AtomicBool>,
}

impl LimitedStore {
    pub(super) fn new(inner: Arc<dyn Store>, full: Arc<AtomicBool>) -> Self {
        Self { inner, full }
    }
}

#[async_trait]
impl Store for LimitedStore {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        self.inner.get(key).await
    }

    async fn range(&self, range: Range<'_>) -> Result<RangeResponse, StoreError> {
        self.inner.range(range).await
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
        ttl: Option<Duration>,
    ) -> Result<Revision, StoreError> {
        if self.full.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable { reason: FULL.to_owned() });
        }
        self.inner.put(key, value, expect, ttl).await
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<(Revision, Versioned), StoreError> {
        self.inner.delete(key, expect).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.revision().await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError> {
        self.inner.watch(prefix, from).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }
}

#[cfg(test)]
mod tests {
    use rk_store::EmbeddedStore;

    use super::*;

    #[tokio::test]
    async fn a_full_store_takes_deletions_but_no_writes() {
        let full = Arc::new(AtomicBool::new(false));
        let store = LimitedStore::new(Arc::new(EmbeddedStore::in_memory()), full.clone());
        let write = |key| store.put(key, Bytes::from_static(b"{}"), Expect::Any, None);
        write("/a").await.unwrap();

        full.store(true, Ordering::Relaxed);
        let refused = write("/b").await.unwrap_err();
        assert!(refused.to_string().contains("database space exceeded"), "{refused}");
        assert!(store.get("/a").await.unwrap().is_some());
        store.delete("/a", Expect::Any).await.unwrap();

        full.store(false, Ordering::Relaxed);
        write("/b").await.unwrap();
    }
}
