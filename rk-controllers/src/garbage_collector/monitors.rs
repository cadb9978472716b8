//! One watch for each kind that can be collected, feeding the graph.
//!
//! Kinds that other controllers cache anyway come from the shared informers, so that an object is
//! sent and decoded once; of all others only the metadata is read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        coordination::v1::Lease,
        core::v1::{
            Endpoints, Namespace, Node, Pod, ReplicationController, Service, ServiceAccount,
        },
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Client, ResourceExt};
use parking_lot::{Mutex, MutexGuard};
use rk_api::client::{Change, Informers, MetadataSink, Watchable, WorkQueue};
use tokio::{sync::watch, task::AbortHandle};

use super::graph::{self, Graph};
use crate::{
    discovery::{Served, ServedKind},
    key::ObjectKey,
};

/// How often new kinds are looked for: after what brings them has changed, and in any case.
pub(super) const REDISCOVERY: Duration = Duration::from_secs(30);
pub(super) const REDISCOVERY_IN_ANY_CASE: Duration = Duration::from_secs(300);

/// Kinds whose objects bring other kinds.
const BRINGING_KINDS: [(&str, &str); 2] = [
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "apiservices"),
];

/// Kinds that own nothing, that nothing is owned by and that change all the time.
const IGNORED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];

/// The running watches.
pub(super) struct Monitors {
    client: Client,
    graph: Arc<Mutex<Graph>>,
    queue: WorkQueue<ObjectKey>,
    informers: Informers,
    /// Whether an object that brings kinds has changed.
    kinds_changed: Arc<AtomicBool>,
    running: BTreeMap<ServedKind, Monitor>,
}

struct Monitor {
    task: AbortHandle,
    synced: watch::Receiver<bool>,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Monitors {
    pub fn new(
        client: Client,
        informers: Informers,
        graph: Arc<Mutex<Graph>>,
        queue: WorkQueue<ObjectKey>,
    ) -> Self {
        let kinds_changed = Arc::default();
        Self { client, graph, queue, informers, kinds_changed, running: BTreeMap::new() }
    }

    /// Whether an object that brings kinds has changed since this was last asked.
    pub fn kinds_changed(&self) -> bool {
        self.kinds_changed.swap(false, Relaxed)
    }

    /// Starts watches for kinds that came and ends those for kinds that went. A group that could
    /// not be read keeps its watches.
    pub fn adjust(&mut self, served: &Served) {
        let collectable = |kind: &&ServedKind| {
            kind.can(&["list", "watch", "delete"])
                && !IGNORED.contains(&(kind.group.as_str(), kind.plural.as_str()))
        };
        let wanted: BTreeSet<&ServedKind> = served.preferred().iter().filter(collectable).collect();
        self.running.retain(|kind, _| {
            let unreadable =
                served.unreadable.iter().any(|version| *version == kind.api_resource().api_version);
            unreadable || wanted.contains(kind)
        });
        for kind in wanted {
            if !self.running.contains_key(kind) {
                let monitor = self.start(kind.clone());
                self.running.insert(kind.clone(), monitor);
            }
        }
    }

    /// Waits until every watch has listed once.
    pub async fn synced(&self) {
        let receivers: Vec<_> =
            self.running.values().map(|monitor| monitor.synced.clone()).collect();
        for mut receiver in receivers {
            // An error means that the watch ended, so there is nothing to wait for.
            let _ = receiver.wait_for(|synced| *synced).await;
        }
    }

    fn start(&self, kind: ServedKind) -> Monitor {
        match (kind.group.as_str(), kind.version.as_str(), kind.plural.as_str()) {
            ("", "v1", "endpoints") => self.share::<Endpoints>(kind),
            ("", "v1", "namespaces") => self.share::<Namespace>(kind),
            ("", "v1", "nodes") => self.share::<Node>(kind),
            ("", "v1", "pods") => self.share::<Pod>(kind),
            ("", "v1", "replicationcontrollers") => self.share::<ReplicationController>(kind),
            ("", "v1", "serviceaccounts") => self.share::<ServiceAccount>(kind),
            ("", "v1", "services") => self.share::<Service>(kind),
            ("apps", "v1", "deployments") => self.share::<Deployment>(kind),
            ("apps", "v1", "replicasets") => self.share::<ReplicaSet>(kind),
            ("coordination.k8s.io", "v1", "leases") => self.share::<Lease>(kind),
            ("discovery.k8s.io", "v1", "endpointslices") => self.share::<EndpointSlice>(kind),
            _ => self.watch(kind),
        }
    }

    /// Follows a shared informer.
    fn share<K: Watchable>(&self, kind: ServedKind) -> Monitor {
        let (done, synced) = watch::channel(false);
        let informer = self.informers.of::<K>();
        let mut changes = informer.subscribe();
        let mut feed = self.feed(kind);
        let follow = async move {
            loop {
                match changes.next_change().await {
                    Change::Updated { old, new } if same_ties(old.meta(), new.meta()) => {
                        feed.touch(new.meta())
                    }
                    Change::Added(object) | Change::Updated { new: object, .. } => {
                        feed.observe(object.meta())
                    }
                    Change::Deleted(object) => feed.forget(&object.uid().unwrap_or_default()),
                }
            }
        };
        let list = async move {
            informer.synced().await;
            done.send_replace(true);
        };
        let task = tokio::spawn(async { tokio::join!(list, follow) }).abort_handle();
        Monitor { task, synced }
    }

    /// Watches the metadata of a kind that nobody else caches.
    fn watch(&self, kind: ServedKind) -> Monitor {
        let (done, synced) = watch::channel(false);
        let resource = kind.api_resource();
        let brings = BRINGING_KINDS.contains(&(kind.group.as_str(), kind.plural.as_str()));
        let sink = Followed {
            feed: Mutex::new(self.feed(kind)),
            listed: done,
            kinds_changed: brings.then(|| self.kinds_changed.clone()),
        };
        let follow = self.informers.follow_metadata(self.client.clone(), &resource, sink);
        Monitor { task: tokio::spawn(follow).abort_handle(), synced }
    }

    fn feed(&self, kind: ServedKind) -> Feed {
        let api_version = kind.api_resource().api_version;
        Feed {
            kind: kind.kind,
            api_version,
            graph: self.graph.clone(),
            queue: self.queue.clone(),
            known: BTreeSet::new(),
        }
    }
}

/// Whether a change of an object means nothing to the graph, as most do.
fn same_ties(old: &ObjectMeta, new: &ObjectMeta) -> bool {
    old.uid == new.uid
        && old.owner_references == new.owner_references
        && old.finalizers == new.finalizers
        && old.deletion_timestamp.is_some() == new.deletion_timestamp.is_some()
}

/// The objects of one kind on their way into the graph.
struct Feed {
    kind: String,
    api_version: String,
    graph: Arc<Mutex<Graph>>,
    queue: WorkQueue<ObjectKey>,
    /// UIDs that are in the graph.
    known: BTreeSet<String>,
}

impl Feed {
    fn observe(&mut self, meta: &ObjectMeta) {
        let uid = meta.uid.clone().unwrap_or_default();
        self.known.insert(uid.clone());
        let node = graph::Node {
            api_version: self.api_version.clone(),
            kind: self.kind.clone(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
            version: meta.resource_version.as_deref().unwrap_or_default().into(),
        };
        let look_at = self.graph.lock().observe(uid, node);
        self.enqueue(look_at);
    }

    fn touch(&self, meta: &ObjectMeta) {
        if let (Some(uid), Some(version)) = (&meta.uid, &meta.resource_version) {
            self.graph.lock().touch(uid, version);
        }
    }

    fn forget(&mut self, uid: &str) {
        self.known.remove(uid);
        let look_at = self.graph.lock().forget(uid);
        self.enqueue(look_at);
    }

    /// Takes in a list. What was known before and is not in it was deleted while nobody watched.
    fn replace(&mut self, all: &[ObjectMeta]) {
        all.iter().for_each(|object| self.observe(object));
        let listed: BTreeSet<&str> =
            all.iter().filter_map(|object| object.uid.as_deref()).collect();
        let gone = self.known.iter().filter(|uid| !listed.contains(uid.as_str()));
        let gone: Vec<String> = gone.cloned().collect();
        gone.iter().for_each(|uid| self.forget(uid));
    }

    fn enqueue(&self, uids: Vec<String>) {
        uids.into_iter().for_each(|uid| self.queue.add(ObjectKey::cluster(uid)));
    }
}

/// A kind whose metadata is followed for the graph alone.
struct Followed {
    feed: Mutex<Feed>,
    listed: watch::Sender<bool>,
    kinds_changed: Option<Arc<AtomicBool>>,
}

impl Followed {
    fn feed(&self) -> MutexGuard<'_, Feed> {
        if let Some(kinds_changed) = &self.kinds_changed {
            kinds_changed.store(true, Relaxed);
        }
        self.feed.lock()
    }
}

impl MetadataSink for Followed {
    fn replace(&self, all: Vec<ObjectMeta>) {
        self.feed().replace(&all);
        self.listed.send_replace(true);
    }

    fn put(&self, object: ObjectMeta) {
        self.feed().observe(&object);
    }

    fn remove(&self, object: ObjectMeta) {
        self.feed().forget(object.uid.as_deref().unwrap_or_default());
    }
}
