//! The objects of one resource, their recent changes, and who watches them.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use foldhash::fast::RandomState;
use parking_lot::RwLock;

use super::{
    event::{Past, WatchEvent},
    watcher::{Closed, Watcher},
};
use crate::{
    resources::Resource,
    server::{
        filter::Filter,
        object::{CachedObject, Facts, Stored, Views},
        status::{ApiError, Result},
    },
};

/// How many changes are kept for watches that start in the past.
const HISTORY_EVENTS_MAX: usize = 16_384;

/// How much memory these changes may hold.
const HISTORY_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The objects of one resource.
#[derive(Debug)]
pub(crate) struct Table {
    /// The resource, at the version that is stored.
    pub resource: Arc<Resource>,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Arc<str>, Arc<CachedObject>>,
    /// The last change that was applied here.
    revision: u64,
    history: VecDeque<Past>,
    history_bytes: usize,
    /// Changes up to here are no longer in `history`.
    floor: u64,
    watchers: Watchers,
    observers: Vec<Arc<dyn Observer>>,
    /// Changes that wait for the table to be loaded; `None` once it is.
    waiting: Option<Vec<Waiting>>,
}

/// A change of the object at a key: what it became at a revision.
type Waiting = (Arc<str>, u64, Option<CachedObject>);

/// Somebody within the server who must know of a change before anybody can read it. It is called
/// while the table is locked, so it must be quick and must not look at the table.
pub(crate) trait Observer: std::fmt::Debug + Send + Sync {
    /// An object came (no `old`), changed, or went (no `new`).
    fn changed(&self, new: Option<&Arc<CachedObject>>, old: Option<&Arc<CachedObject>>);

    /// From now on there are these objects.
    fn replaced(&self, objects: &mut dyn Iterator<Item = &Arc<CachedObject>>);
}

/// Watchers by what they care about: each is in exactly one place.
#[derive(Debug, Default)]
struct Watchers {
    all: Vec<Arc<Watcher>>,
    by_namespace: HashMap<String, Vec<Arc<Watcher>>, RandomState>,
    by_name: HashMap<String, Vec<Arc<Watcher>>, RandomState>,
    by_node: HashMap<String, Vec<Arc<Watcher>>, RandomState>,
    count: usize,
}

/// The field by which kubelets watch their Pods.
const NODE_NAME: &str = "spec.nodeName";

/// Objects of a list, in key order.
#[derive(Debug)]
pub(crate) struct Page {
    /// The objects.
    pub items: Vec<Arc<CachedObject>>,
    /// What the list is true for.
    pub revision: u64,
    /// The last key looked at, when the limit ended the page.
    pub next_after: Option<Arc<str>>,
    /// How many objects follow, when that is known: with a selector it is not.
    pub remaining: Option<usize>,
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// With the objects there are, as if just added.
    Objects,
    /// With the changes after this revision.
    After(u64),
    /// With what happens from now on.
    Now,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(resource: Arc<Resource>) -> Self {
        Self { resource, state: RwLock::default() }
    }

    /// A table that keeps changes until it is [`loaded`](Self::loaded).
    pub(super) fn loading(resource: Arc<Resource>) -> Self {
        let state = State { waiting: Some(Vec::new()), ..State::default() };
        Self { resource, state: RwLock::new(state) }
    }

    /// The objects of a table that was loading, as of a revision; the changes that came since are
    /// applied to them. Nothing happens to a table that holds newer objects by now.
    pub(super) fn loaded(&self, objects: Vec<CachedObject>, revision: u64) {
        let Some(waiting) = self.state.write().waiting.take() else { return };
        self.replace(objects, revision);
        for (key, revision, object) in waiting {
            self.apply(&key, revision, object);
        }
    }

    /// Whether a key is of this table.
    pub(super) fn holds(&self, key: &str) -> bool {
        key.starts_with(self.resource.key_prefix.as_ref())
    }

    /// An object of this table.
    pub(crate) fn object(
        &self,
        key: Arc<str>,
        stored: Stored,
        revision: u64,
        facts: Facts,
    ) -> CachedObject {
        let prefix_length = self.resource.key_prefix.len() as u32;
        CachedObject { key, stored, revision, facts, prefix_length, views: Views::default() }
    }

    /// The object at `key`.
    pub(crate) fn get(&self, key: &str) -> Option<Arc<CachedObject>> {
        self.state.read().objects.get(key).cloned()
    }

    /// Tells `observer` what there is, and of every change from then on.
    pub(crate) fn observe(&self, observer: Arc<dyn Observer>) {
        let mut state = self.state.write();
        observer.replaced(&mut state.objects.values());
        state.observers.push(observer);
    }

    /// How many objects there are.
    pub(crate) fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    /// How long an object is on average, as far as a few of them tell; 0 when there are none.
    pub(crate) fn mean_bytes(&self) -> usize {
        const SAMPLE: usize = 8;
        let state = self.state.read();
        let sizes = state.objects.values().take(SAMPLE).map(|object| object.stored.len_max());
        sizes.sum::<usize>() / state.objects.len().clamp(1, SAMPLE)
    }

    /// How many watches there are.
    pub(crate) fn watch_count(&self) -> usize {
        self.state.read().watchers.count
    }

    /// The revision of the last change here.
    pub(crate) fn revision(&self) -> u64 {
        self.state.read().revision
    }

    /// The objects that `filter` matches after key `after`, at most `limit` (0: all). `applied` is
    /// the revision that the whole cache had reached before this call.
    pub(crate) fn list(
        &self,
        filter: &Filter,
        after: Option<&str>,
        limit: usize,
        applied: u64,
    ) -> Page {
        let state = self.state.read();
        let revision = applied.max(state.revision);
        if let Some(key) = filter.key(&self.resource) {
            let found = state.objects.get(key.as_str()).filter(|object| {
                filter.matches(object) && after.is_none_or(|after| object.key.as_ref() > after)
            });
            let items = found.cloned().into_iter().collect();
            return Page { items, revision, next_after: None, remaining: None };
        }
        let prefix = filter.key_prefix(&self.resource);
        let from = match after {
            Some(after) if after >= prefix.as_str() => Bound::Excluded(after),
            _ => Bound::Included(prefix.as_str()),
        };
        let mut rest = state
            .objects
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(&prefix));
        let mut items = Vec::new();
        if limit == 0 {
            items.extend(rest.filter(|(_, object)| filter.matches(object)).map(|(_, o)| o.clone()));
            return Page { items, revision, next_after: None, remaining: None };
        }
        let mut next_after = None;
        for (key, object) in rest.by_ref() {
            if filter.matches(object) {
                items.push(object.clone());
                if items.len() == limit {
                    next_after = Some(key.clone());
                    break;
                }
            }
        }
        // With a selector nobody is told how many follow, only whether any do.
        let selects = filter.selects();
        let remaining = if selects { rest.next().is_some().into() } else { rest.count() };
        if remaining == 0 {
            next_after = None;
        }
        let remaining = (next_after.is_some() && !selects).then_some(remaining);
        Page { items, revision, next_after, remaining }
    }

    /// Begins a watch. Also returns the objects that it begins with, in key order, and the
    /// revision from which on changes are delivered.
    ///
    /// # Errors
    /// 410 when changes after the start are no longer kept.
    pub(crate) fn watch(
        &self,
        filter: Filter,
        start: Start,
        applied: u64,
    ) -> Result<(Arc<Watcher>, Vec<Arc<CachedObject>>, u64)> {
        let mut state = self.state.write();
        let current = applied.max(state.revision);
        let (mut changes, mut objects, mut revision) = (VecDeque::new(), Vec::new(), current);
        match start {
            Start::Objects => {
                let prefix = filter.key_prefix(&self.resource);
                let from = Bound::Included(prefix.as_str());
                let matching = state
                    .objects
                    .range::<str, _>((from, Bound::Unbounded))
                    .take_while(|(key, _)| key.starts_with(&prefix))
                    .filter(|(_, object)| filter.matches(object));
                objects.extend(matching.map(|(_, object)| object.clone()));
            }
            Start::After(after) => {
                if after < state.floor {
                    let oldest = state.floor;
                    return Err(ApiError::expired(format!(
                        "too old resource version: {after} ({oldest})"
                    )));
                }
                revision = after;
                let first = state.history.partition_point(|event| event.revision <= after);
                changes.extend(state.history.range(first..).filter_map(|past| {
                    past.change_for(&filter).map(|change| (change, Arc::new(past.event())))
                }));
            }
            Start::Now => {}
        }
        let watcher = Arc::new(Watcher::new(filter, revision, changes));
        state.watchers.add(watcher.clone());
        Ok((watcher, objects, revision))
    }

    /// Ends a watch.
    pub(crate) fn unwatch(&self, watcher: &Arc<Watcher>) {
        self.state.write().watchers.remove(watcher);
    }

    /// The revision up to which `watcher` has been handed everything, or `None` while changes wait
    /// for it. `applied` is the revision that the whole cache had reached before this call.
    pub(crate) fn progress(&self, watcher: &Watcher, applied: u64) -> Option<u64> {
        let state = self.state.read();
        watcher.is_drained().then(|| applied.max(state.revision).max(watcher.after))
    }

    /// Applies a change and tells those who watch. `None` deletes.
    pub(super) fn apply(&self, key: &Arc<str>, revision: u64, object: Option<CachedObject>) {
        let mut state = self.state.write();
        if let Some(waiting) = &mut state.waiting {
            waiting.push((key.clone(), revision, object));
            return;
        }
        let object = object.map(Arc::new);
        let previous = match &object {
            Some(object) => state.objects.insert(key.clone(), object.clone()),
            None => state.objects.remove(key),
        };
        state.revision = revision;
        if object.is_none() && previous.is_none() {
            return;
        }
        for observer in &state.observers {
            observer.changed(object.as_ref(), previous.as_ref());
        }
        let past = Past { revision, object, previous };
        if state.watchers.count > 0 {
            state.watchers.tell(&Arc::new(past.event()));
        }
        state.remember(past);
    }

    /// Starts over with these objects; all watches end.
    pub(super) fn replace(&self, objects: Vec<CachedObject>, revision: u64) {
        let mut state = self.state.write();
        state.waiting = None;
        state.objects =
            objects.into_iter().map(|object| (object.key.clone(), Arc::new(object))).collect();
        state.revision = 0;
        state.floor = revision;
        state.history.clear();
        state.history_bytes = 0;
        for observer in &state.observers {
            observer.replaced(&mut state.objects.values());
        }
        state.watchers.close(Closed::Expired);
    }

    /// Ends all watches.
    pub(super) fn close_watches(&self, why: Closed) {
        self.state.write().watchers.close(why);
    }
}

impl State {
    fn remember(&mut self, past: Past) {
        self.history_bytes += past.size_bytes();
        self.history.push_back(past);
        while self.history.len() > HISTORY_EVENTS_MAX || self.history_bytes > HISTORY_BYTES_MAX {
            let Some(oldest) = self.history.pop_front() else { break };
            self.history_bytes -= oldest.size_bytes();
            self.floor = oldest.revision;
        }
    }
}

impl Watchers {
    fn place(&mut self, filter: &Filter) -> &mut Vec<Arc<Watcher>> {
        if let Some(name) = filter.name() {
            self.by_name.entry(name.to_owned()).or_default()
        } else if let Some(node) = filter.field(NODE_NAME) {
            self.by_node.entry(node.to_owned()).or_default()
        } else if let Some(namespace) = &filter.namespace {
            self.by_namespace.entry(namespace.clone()).or_default()
        } else {
            &mut self.all
        }
    }

    fn add(&mut self, watcher: Arc<Watcher>) {
        self.place(&watcher.filter).push(watcher.clone());
        self.count += 1;
    }

    fn remove(&mut self, watcher: &Arc<Watcher>) {
        let place = self.place(&watcher.filter);
        let before = place.len();
        place.retain(|other| !Arc::ptr_eq(other, watcher));
        let (removed, empty) = (before - place.len(), place.is_empty());
        self.count -= removed;
        if !empty {
            return;
        }
        let filter = &watcher.filter;
        if let Some(name) = filter.name() {
            self.by_name.remove(name);
        } else if let Some(node) = filter.field(NODE_NAME) {
            self.by_node.remove(node);
        } else if let Some(namespace) = &filter.namespace {
            self.by_namespace.remove(namespace);
        }
    }

    fn tell(&self, event: &Arc<WatchEvent>) {
        let (new, old) = (event.past.object.as_deref(), event.past.previous.as_deref());
        let Some(any) = new.or(old) else { return };
        let offer = |watchers: Option<&Vec<Arc<Watcher>>>| {
            watchers.into_iter().flatten().for_each(|watcher| watcher.offer(event));
        };
        offer(Some(&self.all));
        if !self.by_namespace.is_empty() {
            offer(self.by_namespace.get(any.namespace()));
        }
        if !self.by_name.is_empty() {
            offer(self.by_name.get(any.name()));
        }
        if !self.by_node.is_empty() {
            let node =
                |object: Option<&CachedObject>| object.map(|o| o.field(NODE_NAME).to_owned());
            let (new, old) = (node(new), node(old));
            offer(new.as_deref().and_then(|node| self.by_node.get(node)));
            if old != new {
                offer(old.as_deref().and_then(|node| self.by_node.get(node)));
            }
        }
    }

    fn close(&mut self, why: Closed) {
        let indexes = [&self.by_namespace, &self.by_name, &self.by_node];
        let indexed = indexes.into_iter().flat_map(|index| index.values().flatten());
        self.all.iter().chain(indexed).for_each(|watcher| watcher.close(why));
    }
}
