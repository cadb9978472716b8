use std::{
    any::{Any, TypeId},
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Weak},
};

use futures::future::join_all;
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

mod metadata;
mod reflector;
mod store;
mod subscription;

pub use metadata::MetadataSink;
use store::{Store, key_of};
pub use subscription::{Change, Subscription};

/// What an informer can hold: any statically typed kind.
pub trait Watchable:
    kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static
{
}

impl<K> Watchable for K where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static
{
}

/// The shared informers of a process: one list and watch for each kind and selector, however many
/// components ask for it, so that an object is decoded once. Clones share the same informers.
///
/// Objects have no `metadata.managedFields` here, which are of no use to most and large; writing an
/// object back without them keeps them.
///
/// An informer ends when its last [`Informer`] and [`Subscription`] is dropped.
#[derive(Clone)]
pub struct Informers(Arc<Factory>);

struct Factory {
    client: kube::Client,
    in_process: bool,
    made: Mutex<Made>,
}

/// The kind, the label selector and the field selector.
type Selected = (TypeId, Option<String>, Option<String>);

#[derive(Default)]
struct Made {
    informers: BTreeMap<Selected, Weak<dyn Any + Send + Sync>>,
    synced: Vec<CancellationToken>,
}

impl Debug for Informers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Informers").field("made", &self.0.made.lock().informers.len()).finish()
    }
}

impl Informers {
    /// Informers that list and watch through `client`.
    pub fn new(client: kube::Client) -> Self {
        Self(Arc::new(Factory { client, in_process: false, made: Mutex::default() }))
    }

    /// Informers that list and watch through the client of an API server of this process.
    ///
    /// A watch that no network comes between cannot hang, so it lasts four to eight hours instead of
    /// minutes and asks for no bookmarks: what has not changed costs nothing.
    pub fn in_process(client: kube::Client) -> Self {
        Self(Arc::new(Factory { client, in_process: true, made: Mutex::default() }))
    }

    /// The informer of all objects of a kind. The first call starts it, so it must come from
    /// within a tokio runtime.
    pub fn of<K: Watchable>(&self) -> Informer<K> {
        self.selected(None, None)
    }

    /// The informer of the objects that match a label selector and a field selector.
    pub fn selected<K: Watchable>(&self, label: Option<&str>, field: Option<&str>) -> Informer<K> {
        let key = (TypeId::of::<K>(), label.map(str::to_owned), field.map(str::to_owned));
        let mut made = self.0.made.lock();
        let existing = made.informers.get(&key).and_then(Weak::upgrade);
        if let Some(handle) = existing.and_then(|any| any.downcast::<Handle<K>>().ok()) {
            return Informer(handle);
        }

        let shared = Arc::new(Shared::<K> {
            store: RwLock::new(Store::new()),
            synced: CancellationToken::new(),
        });
        let source = reflector::Source::new::<K>(self.client(), self.0.in_process, label, field);
        let task = tokio::spawn(reflector::run(source, shared.clone()));
        let handle = Arc::new(Handle { shared, task: task.abort_handle() });

        made.synced.retain(|synced| !synced.is_cancelled());
        made.synced.push(handle.shared.synced.clone());
        let weak: Weak<dyn Any + Send + Sync> = Arc::<Handle<K>>::downgrade(&handle);
        made.informers.retain(|_, informer| informer.strong_count() > 0);
        made.informers.insert(key, weak);
        Informer(handle)
    }

    /// Waits until every informer made so far, and still in use, has listed once.
    pub async fn synced(&self) {
        let synced = self.0.made.lock().synced.clone();
        join_all(synced.iter().map(CancellationToken::cancelled)).await;
    }

    /// The client that the informers use.
    pub fn client(&self) -> kube::Client {
        self.0.client.clone()
    }
}

/// A cache of all objects of a kind, or of those that a selector matches, kept up to date by a
/// watch. Clones are handles to the same cache.
///
/// Objects come in the order of namespace and name, so what is computed from them does not depend
/// on chance.
pub struct Informer<K: Watchable>(Arc<Handle<K>>);

/// Ends the background task with the last handle.
struct Handle<K: Watchable> {
    shared: Arc<Shared<K>>,
    task: AbortHandle,
}

/// What the background task and the handles share.
struct Shared<K> {
    store: RwLock<Store<K>>,
    /// Cancelled with the first list, or with the informer: nobody needs that synced. It wakes
    /// those who wait in their order, where a `watch` channel leaves that to chance.
    synced: CancellationToken,
}

impl<K: Watchable> reflector::Sink<K> for Shared<K> {
    fn replace(&self, items: Vec<K>) {
        self.store.write().replace(items);
        self.synced.cancel();
    }

    fn put(&self, object: K) {
        self.store.write().put(object);
    }

    fn remove(&self, object: K) {
        self.store.write().remove(key_of(&object), Some(object));
    }
}

impl<K: Watchable> Drop for Handle<K> {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.synced.cancel();
    }
}

impl<K: Watchable> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Watchable> Debug for Informer<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Informer")
            .field("kind", &K::kind(&()))
            .field("len", &self.len())
            .field("synced", &self.has_synced())
            .finish()
    }
}

impl<K: Watchable> Informer<K> {
    /// The object of this name; `namespace` is empty for cluster-scoped kinds.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.0.shared.store.read().get(namespace, name)
    }

    /// All objects, by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.0.shared.store.read().list()
    }

    /// The objects of a namespace, by name.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        self.0.shared.store.read().list_in(namespace)
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.0.shared.store.read().len()
    }

    /// Whether there are no objects.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps an index of the objects by the values that `f` gives for each. The name stands for
    /// the function: a second call with the same name changes nothing.
    pub fn add_index(&self, name: &'static str, f: fn(&K) -> Vec<String>) {
        self.0.shared.store.write().add_index(name, f);
    }

    /// The objects with `value` in the index `name`, by namespace and name. Without such an index
    /// there are none.
    pub fn by_index(&self, name: &'static str, value: &str) -> Vec<Arc<K>> {
        self.0.shared.store.read().by_index(name, value)
    }

    /// Changes from now on, after an `Added` for every object that is there.
    pub fn subscribe(&self) -> Subscription<K> {
        let queue = self.0.shared.store.write().subscribe();
        Subscription::new(queue, self.clone())
    }

    /// Waits until the first list is in.
    pub async fn synced(&self) {
        self.0.shared.synced.cancelled().await;
    }

    /// Whether the first list is in.
    pub fn has_synced(&self) -> bool {
        self.0.shared.synced.is_cancelled()
    }
}

#[cfg(test)]
mod tests;
