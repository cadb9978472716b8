use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    Watchable,
    subscription::{Key, Queue},
};

/// The objects of an informer, its indices and its subscribers.
pub(super) struct Store<K> {
    /// By namespace, then name.
    objects: BTreeMap<String, BTreeMap<String, Arc<K>>>,
    len: usize,
    indices: Vec<Index<K>>,
    subscribers: Vec<std::sync::Weak<Queue<K>>>,
}

struct Index<K> {
    name: &'static str,
    values: fn(&K) -> Vec<String>,
    objects: HashMap<String, BTreeMap<Key, Arc<K>>>,
}

impl<K: Watchable> Store<K> {
    pub(super) fn new() -> Self {
        Self { objects: BTreeMap::new(), len: 0, indices: Vec::new(), subscribers: Vec::new() }
    }

    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.objects.get(namespace)?.get(name).cloned()
    }

    pub(super) fn list(&self) -> Vec<Arc<K>> {
        let mut all = Vec::with_capacity(self.len);
        all.extend(self.objects.values().flat_map(BTreeMap::values).cloned());
        all
    }

    pub(super) fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        self.objects.get(namespace).map(|of| of.values().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn add_index(&mut self, name: &'static str, values: fn(&K) -> Vec<String>) {
        if self.indices.iter().any(|index| index.name == name) {
            return;
        }
        let mut index = Index { name, values, objects: HashMap::new() };
        for object in self.objects.values().flat_map(BTreeMap::values) {
            index.insert(object);
        }
        self.indices.push(index);
    }

    pub(super) fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        let index = self.indices.iter().find(|index| index.name == name);
        index
            .and_then(|index| index.objects.get(value))
            .map(|of| of.values().cloned().collect())
            .unwrap_or_default()
    }

    pub(super) fn subscribe(&mut self) -> Arc<Queue<K>> {
        let queue = Arc::new(Queue::new());
        for object in self.objects.values().flat_map(BTreeMap::values) {
            queue.push(key_of(&**object), None, Some(object.clone()), None);
        }
        self.subscribers.retain(|subscriber| subscriber.strong_count() > 0);
        self.subscribers.push(Arc::downgrade(&queue));
        queue
    }

    /// Takes in the newest state of an object.
    pub(super) fn put(&mut self, object: K) {
        let (namespace, name) = key_of(&object);
        let of_namespace = match self.objects.get_mut(&namespace) {
            Some(of_namespace) => of_namespace,
            None => self.objects.entry(namespace.clone()).or_default(),
        };
        let object = Arc::new(object);
        let old = of_namespace.insert(name.clone(), object.clone());
        match &old {
            // A relist shows most objects as they were.
            Some(old) if same_version(&**old, &*object) => return,
            Some(old) => {
                for index in &mut self.indices {
                    index.remove(&(namespace.clone(), name.clone()), old);
                }
            }
            None => self.len += 1,
        }
        for index in &mut self.indices {
            index.insert(&object);
        }
        self.notify(&(namespace, name), old, Some(object), None);
    }

    /// The object is gone; `last` is its final state as the watch gave it.
    pub(super) fn remove(&mut self, key: Key, last: Option<K>) {
        let Some(of_namespace) = self.objects.get_mut(&key.0) else { return };
        let Some(old) = of_namespace.remove(&key.1) else { return };
        if of_namespace.is_empty() {
            self.objects.remove(&key.0);
        }
        self.len -= 1;
        for index in &mut self.indices {
            index.remove(&key, &old);
        }
        let last = last.map_or_else(|| old.clone(), Arc::new);
        self.notify(&key, Some(old), None, Some(last));
    }

    /// Takes in a complete list: what is not in it is gone.
    pub(super) fn replace(&mut self, items: Vec<K>) {
        let listed: std::collections::HashSet<Key> = items.iter().map(key_of).collect();
        let gone: Vec<Key> = self
            .objects
            .values()
            .flat_map(BTreeMap::values)
            .map(|object| key_of(&**object))
            .filter(|key| !listed.contains(key))
            .collect();
        for key in gone {
            self.remove(key, None);
        }
        for item in items {
            self.put(item);
        }
    }

    fn notify(
        &mut self,
        key: &Key,
        old: Option<Arc<K>>,
        new: Option<Arc<K>>,
        last: Option<Arc<K>>,
    ) {
        let mut ended = false;
        for subscriber in &self.subscribers {
            match subscriber.upgrade() {
                Some(queue) => queue.push(key.clone(), old.clone(), new.clone(), last.clone()),
                None => ended = true,
            }
        }
        if ended {
            self.subscribers.retain(|subscriber| subscriber.strong_count() > 0);
        }
    }
}

impl<K: Watchable> Index<K> {
    fn insert(&mut self, object: &Arc<K>) {
        for value in (self.values)(object) {
            self.objects.entry(value).or_default().insert(key_of(&**object), object.clone());
        }
    }

    fn remove(&mut self, key: &Key, object: &K) {
        for value in (self.values)(object) {
            if let Some(of_value) = self.objects.get_mut(&value) {
                of_value.remove(key);
                if of_value.is_empty() {
                    self.objects.remove(&value);
                }
            }
        }
    }
}

/// Namespace and name of an object.
pub(super) fn key_of<K: Watchable>(object: &K) -> Key {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

fn same_version<K: Watchable>(a: &K, b: &K) -> bool {
    let (a, b) = (a.meta(), b.meta());
    a.resource_version.is_some() && a.resource_version == b.resource_version && a.uid == b.uid
}
