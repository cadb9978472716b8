//! The watch cache: what the store holds, in memory, ready to be read, listed and watched.
//!
//! One task follows the store's history and applies it in order to one [`Table`] for each prefix of
//! keys. Reads are served from the tables. A read that must be consistent first asks the store how
//! far its history goes and waits until the cache is there; for the embedded store this is one
//! atomic load and rarely a wait.
//!
//! On a busy machine that task may not get its turn for long. So whoever needs the cache to be
//! further than it is applies what the store has ready, and so does each writer: the cache cannot
//! fall behind them.

mod bell;
mod event;
mod table;
mod watcher;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use foldhash::fast::{FixedState, RandomState};
use futures::StreamExt;
use parking_lot::Mutex;
use rk_store::{Range, Revision, Store, StoreError, Versioned, WatchBatch, WatchStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub(super) use self::{
    bell::Bell,
    event::{Change, WatchEvent, frame},
    table::{Observer, Page, Start, Table},
    watcher::{Closed, Delivery, Watcher},
};
use super::{
    labels::Labels,
    object::{CachedObject, Facts, Stored},
    status::{ApiError, Result},
};
use crate::resources::{Object, Resource, Resources};

/// What all keys of the API begin with.
pub(super) const ROOT: &str = "/registry/";

/// How long a read waits for the cache to reach the version it needs, as in kube-apiserver.
const FRESH_WITHIN: Duration = Duration::from_secs(3);

/// Pause before the store is asked again after it failed.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// See the module's documentation.
pub(super) struct Cache {
    store: Arc<dyn Store>,
    /// The store's watch, while there is one. Locked for moments only.
    feed: Mutex<Option<Feed>>,
    tables: ArcSwap<Tables>,
    /// Held while tables are loaded: only one does that at a time.
    loading: tokio::sync::Mutex<()>,
    /// Every change up to here has been applied.
    revision: AtomicU64,
    /// Wakes those who wait for `revision` to move.
    moved: Notify,
    /// What writers know about values that the cache will see next, by key. It spares the cache
    /// from decoding what a writer of this process has just encoded.
    announced: Mutex<HashMap<String, (Bytes, Facts), RandomState>>,
}

/// The tables, by their prefix of keys. Readers take what there is; a change makes a new map.
#[derive(Clone, Debug, Default)]
struct Tables {
    /// The same hashes in every run, so that all tables are gone through in the same order.
    ready: HashMap<String, Arc<Table>, FixedState>,
    /// One that is being loaded, which hears of changes already. It may be the successor of one
    /// that is ready.
    loading: Option<Arc<Table>>,
}

/// What of the store's history is still to be applied.
struct Feed {
    batches: WatchStream,
    /// The following task's, which must be woken for what comes next, whoever looked last.
    follower: Waker,
    /// How the watch ended, if somebody else than the following task found out.
    ended: Option<Result<(), StoreError>>,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache")
            .field("store", &self.store)
            .field("revision", &self.revision())
            .finish_non_exhaustive()
    }
}

impl Cache {
    /// Loads all objects and starts to follow the store until `shutdown`.
    pub(super) async fn start(
        store: Arc<dyn Store>,
        resources: &Resources,
        shutdown: CancellationToken,
    ) -> Result<Arc<Self>, StoreError> {
        let mut tables = Tables::default();
        for resource in resources.iter().filter(|row| row.verbs.iter().any(|verb| verb == "get")) {
            // Several versions of a kind share a prefix, and one of them is stored.
            if !resource.strategy.is_shown_as_stored() {
                continue;
            }
            tables
                .ready
                .entry(resource.key_prefix.clone().into_owned())
                .or_insert_with(|| Arc::new(Table::new(resource.clone())));
        }
        let cache = Arc::new(Self {
            store,
            feed: Mutex::default(),
            tables: ArcSwap::from_pointee(tables),
            loading: tokio::sync::Mutex::default(),
            revision: AtomicU64::new(0),
            moved: Notify::new(),
            announced: Mutex::default(),
        });
        let loaded = cache.load().await?;
        tokio::spawn(cache.clone().follow(loaded, shutdown));
        Ok(cache)
    }

    /// The table of a resource. Every resource that can be read has one.
    pub(super) fn table(&self, resource: &Resource) -> Result<Arc<Table>> {
        self.tables
            .load()
            .ready
            .get(resource.key_prefix.as_ref())
            .cloned()
            .ok_or_else(|| ApiError::internal(format!("{} is not stored", resource.qualified())))
    }

    /// All tables, in an order that means nothing but is the same in every run.
    pub(super) fn tables(&self) -> Vec<Arc<Table>> {
        self.tables.load().ready.values().cloned().collect()
    }

    /// Makes a table for `resource`, whose version is the one that is stored, and loads what the
    /// store holds of it. Where there was a table for these keys it is replaced: its watches end,
    /// so that clients come back to the new one. The cost is that of the objects of this kind.
    pub(super) async fn attach(&self, resource: Arc<Resource>) -> Result<(), StoreError> {
        let _alone = self.loading.lock().await;
        let table = Arc::new(Table::loading(resource));
        let from = {
            // Nothing is applied while the feed is locked: the table hears of every change after
            // this revision.
            let _feed = self.feed.lock();
            self.change_tables(|tables| tables.loading = Some(table.clone()));
            Revision(self.revision())
        };
        let prefix = table.resource.key_prefix.clone();
        let range = Range { prefix: &prefix, revision: Some(from), ..Range::default() };
        let objects = self.store.range(range).await.map(|loaded| {
            let objects = loaded.items.iter().filter_map(|value| {
                let object = Self::cached(&table, value);
                if object.is_none() {
                    tracing::error!(key = %value.key, "the store holds something that is no object");
                }
                object
            });
            objects.collect::<Vec<_>>()
        });
        let _feed = self.feed.lock();
        let mut replaced = None;
        let ended = objects.map(|objects| table.loaded(objects, from.0));
        self.change_tables(|tables| {
            tables.loading = None;
            if ended.is_ok() {
                replaced = tables.ready.insert(prefix.into_owned(), table);
            }
        });
        if let Some(replaced) = replaced {
            replaced.close_watches(Closed::Shutdown);
        }
        ended
    }

    /// Forgets the table for these keys; its watches end.
    pub(super) fn detach(&self, key_prefix: &str) {
        let mut removed = None;
        self.change_tables(|tables| removed = tables.ready.remove(key_prefix));
        if let Some(removed) = removed {
            removed.close_watches(Closed::Shutdown);
        }
    }

    /// Tables are changed by one task at a time: at the start, and by who follows custom resources.
    fn change_tables(&self, change: impl FnOnce(&mut Tables)) {
        let mut tables = Tables::clone(&self.tables.load());
        change(&mut tables);
        self.tables.store(Arc::new(tables));
    }

    /// The store behind it.
    pub(super) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Every change up to this revision has been applied.
    pub(super) fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Waits until the cache has everything that was acknowledged before this call.
    pub(super) async fn fresh(&self) -> Result<u64> {
        let latest = self.store.revision().await?;
        self.wait_for(latest.0).await
    }

    /// Waits until the cache has reached `revision`.
    pub(super) async fn wait_for(&self, revision: u64) -> Result<u64> {
        if self.revision() < revision {
            self.catch_up_with(self.feed.lock().as_mut());
        }
        if self.revision() >= revision {
            return Ok(self.revision());
        }
        let reached = async {
            loop {
                let moved = self.moved.notified();
                let current = self.revision();
                if current >= revision {
                    return current;
                }
                moved.await;
            }
        };
        tokio::time::timeout(FRESH_WITHIN, reached)
            .await
            .map_err(|_| ApiError::version_ahead(revision, self.revision()))
    }

    /// Applies what the store has ready, unless somebody else is doing so.
    pub(super) fn catch_up(&self) {
        if let Some(mut feed) = self.feed.try_lock() {
            self.catch_up_with(feed.as_mut());
        }
    }

    fn catch_up_with(&self, feed: Option<&mut Feed>) {
        let Some(feed) = feed.filter(|feed| feed.ended.is_none()) else { return };
        let follower = feed.follower.clone();
        // Also a task that should yield by now is served, or it would wait for the following task.
        let work = tokio::task::unconstrained(std::future::poll_fn(|cx| self.poll_feed(feed, cx)));
        let polled = std::pin::pin!(work).poll(&mut Context::from_waker(&follower));
        if let Poll::Ready(ended) = polled {
            feed.ended = Some(ended);
            follower.wake();
        }
    }

    /// Says what a value that is about to be written holds. When the write fails, the announcement
    /// must be [withdrawn](Self::withdraw).
    pub(super) fn announce(&self, key: &str, value: &Stored, facts: Facts) {
        self.announced.lock().insert(key.to_owned(), (value.bytes().clone(), facts));
    }

    /// Takes back an announcement.
    pub(super) fn withdraw(&self, key: &str) {
        self.announced.lock().remove(key);
    }

    /// What selectors look at in `object`.
    pub(super) fn facts(resource: &Resource, object: &dyn Object) -> Facts {
        Facts {
            labels: Labels::new(object.meta().labels.as_ref()),
            fields: resource.strategy.fields(object),
            more: resource.strategy.more_fields(object),
        }
    }

    /// An object of the store as the cache would hold it; `None` when the value is no object.
    pub(super) fn cached(table: &Table, value: &Versioned) -> Option<CachedObject> {
        let mut stored = Stored::new(value.value.clone())?;
        let mut object = table.resource.strategy.decode_stored(stored.bytes()).ok()?;
        let facts = Self::facts(&table.resource, object.as_ref());
        if table.resource.strategy.custom().is_some() {
            // It may have been written by another schema than the one that counts now.
            stored = stored.again(object.as_mut())?;
        }
        Some(table.object(value.key.clone(), stored, value.modified.0, facts))
    }

    /// Ends all watches.
    pub(super) fn close_watches(&self) {
        for table in self.tables() {
            table.close_watches(Closed::Shutdown);
        }
    }

    async fn load(&self) -> Result<Revision, StoreError> {
        let _alone = self.loading.lock().await;
        let range = Range { prefix: ROOT, ..Range::default() };
        let loaded = self.store.range(range).await?;
        let tables = self.tables.load_full();
        let mut contents: HashMap<&str, Vec<CachedObject>, RandomState> = HashMap::default();
        for value in &loaded.items {
            let Some(table) = tables.of(&value.key) else { continue };
            match Self::cached(table, value) {
                Some(object) => {
                    contents.entry(&table.resource.key_prefix).or_default().push(object)
                }
                None => {
                    tracing::error!(key = %value.key, "the store holds something that is no object")
                }
            }
        }
        for table in tables.ready.values() {
            let objects = contents.remove(table.resource.key_prefix.as_ref()).unwrap_or_default();
            table.replace(objects, loaded.revision.0);
        }
        // What was announced before is either loaded or will never come.
        self.announced.lock().clear();
        self.advance(loaded.revision);
        Ok(loaded.revision)
    }

    /// Applies the store's history as it grows; loads everything again when it has a gap.
    async fn follow(self: Arc<Self>, mut from: Revision, shutdown: CancellationToken) {
        loop {
            let ended = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                ended = self.follow_from(&mut from) => ended,
            };
            tracing::warn!(%from, error = ?ended.as_ref().err(), "the store's watch ended");
            if let Err(StoreError::Compacted { .. }) = ended {
                match self.load().await {
                    Ok(loaded) => from = loaded,
                    Err(error) => tracing::warn!(%error, "cannot load the store's objects"),
                }
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(RETRY_AFTER) => {}
            }
        }
        *self.feed.lock() = None;
        self.close_watches();
    }

    async fn follow_from(&self, from: &mut Revision) -> Result<(), StoreError> {
        let batches = self.store.watch(ROOT, *from).await?;
        let feed = Feed { batches, follower: Waker::noop().clone(), ended: None };
        *self.feed.lock() = Some(feed);
        let ended = std::future::poll_fn(|cx| {
            let mut feed = self.feed.lock();
            let Some(feed) = feed.as_mut() else { return Poll::Ready(Ok(())) };
            feed.follower.clone_from(cx.waker());
            match feed.ended.take() {
                Some(ended) => Poll::Ready(ended),
                None => self.poll_feed(feed, cx),
            }
        })
        .await;
        *self.feed.lock() = None;
        *from = Revision(self.revision());
        ended
    }

    /// Applies what the store has ready; ready itself when the watch has ended.
    fn poll_feed(&self, feed: &mut Feed, cx: &mut Context<'_>) -> Poll<Result<(), StoreError>> {
        loop {
            match ready!(feed.batches.poll_next_unpin(cx)) {
                Some(Ok(batch)) => self.apply(batch),
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Ok(())),
            }
        }
    }

    fn apply(&self, batch: WatchBatch) {
        let tables = self.tables.load();
        for event in &batch.events {
            if let Some(table) = tables.loading.as_deref().filter(|table| table.holds(&event.key)) {
                let object = event
                    .value
                    .as_ref()
                    .and_then(|value| Self::cached(table, &Self::versioned(event, value)));
                table.apply(&event.key, event.revision.0, object);
            }
            let Some(table) = tables.of(&event.key) else { continue };
            let object = event.value.as_ref().and_then(|value| {
                let object = match self.announced_facts(&event.key, value) {
                    Some(facts) => Stored::new(value.clone())
                        .map(|stored| table.object(event.key.clone(), stored, event.revision.0, facts)),
                    None => Self::cached(table, &Self::versioned(event, value)),
                };
                if object.is_none() {
                    tracing::error!(key = %event.key, "the store holds something that is no object");
                }
                object
            });
            table.apply(&event.key, event.revision.0, object);
        }
        self.advance(batch.revision);
    }

    fn versioned(event: &rk_store::Event, value: &Bytes) -> Versioned {
        Versioned {
            key: event.key.clone(),
            value: value.clone(),
            created: event.created,
            modified: event.revision,
        }
    }

    /// What the writer of this very value said about it.
    fn announced_facts(&self, key: &str, value: &Bytes) -> Option<Facts> {
        let mut announced = self.announced.lock();
        let (bytes, _) = announced.get(key)?;
        // Usually the same allocation. If not, another writer came in between.
        if bytes.as_ptr() != value.as_ptr() && bytes != value {
            return None;
        }
        announced.remove(key).map(|(_, facts)| facts)
    }

    fn advance(&self, revision: Revision) {
        self.revision.fetch_max(revision.0, Ordering::AcqRel);
        self.moved.notify_waiters();
    }
}

impl Tables {
    /// The table with the longest prefix of `key`.
    fn of(&self, key: &str) -> Option<&Arc<Table>> {
        let below_root = ROOT.len();
        let slashes = key.as_bytes().iter().enumerate().skip(below_root).rev();
        slashes.filter(|(_, byte)| **byte == b'/').find_map(|(at, _)| self.ready.get(&key[..=at]))
    }
}
