//! One metadata watch for each kind that can be collected, feeding the graph.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, pin_mut};
use kube::{
    Api, Client, ResourceExt,
    api::DynamicObject,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use parking_lot::Mutex;
use rk_api::client::WorkQueue;
use tokio::{sync::watch, task::AbortHandle};

use super::graph::{Graph, Node};
use crate::{
    discovery::{Served, ServedKind},
    key::ObjectKey,
};

/// How often new kinds (CRDs) are looked for.
pub(super) const REDISCOVERY: Duration = Duration::from_secs(30);

/// Kinds that own nothing, that nothing is owned by and that change all the time.
const IGNORED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];

/// The running watches.
pub(super) struct Monitors {
    client: Client,
    graph: Arc<Mutex<Graph>>,
    queue: WorkQueue<ObjectKey>,
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
    pub fn new(client: Client, graph: Arc<Mutex<Graph>>, queue: WorkQueue<ObjectKey>) -> Self {
        Self { client, graph, queue, running: BTreeMap::new() }
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
        let (done, synced) = watch::channel(false);
        let api = Api::<PartialObjectMeta<DynamicObject>>::all_with(
            self.client.clone(),
            &kind.api_resource(),
        );
        let feed = Feed {
            kind,
            graph: self.graph.clone(),
            queue: self.queue.clone(),
            listed: None,
            known: BTreeSet::new(),
        };
        let task = tokio::spawn(feed.run(api, done)).abort_handle();
        Monitor { task, synced }
    }
}

/// The objects of one kind on their way into the graph.
struct Feed {
    kind: ServedKind,
    graph: Arc<Mutex<Graph>>,
    queue: WorkQueue<ObjectKey>,
    /// UIDs of the list that is under way.
    listed: Option<BTreeSet<String>>,
    /// UIDs that are in the graph.
    known: BTreeSet<String>,
}

impl Feed {
    async fn run(
        mut self,
        api: Api<PartialObjectMeta<DynamicObject>>,
        synced: watch::Sender<bool>,
    ) {
        let events = watcher::watcher(api, watcher::Config::default()).default_backoff();
        pin_mut!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => self.listed = Some(BTreeSet::new()),
                Ok(Event::InitApply(object) | Event::Apply(object)) => self.observe(object),
                Ok(Event::InitDone) => {
                    self.drop_unlisted();
                    synced.send_replace(true);
                }
                Ok(Event::Delete(object)) => self.forget(&object.uid().unwrap_or_default()),
                Err(error) => {
                    tracing::debug!(kind = self.kind.kind, %error, "watch failed, trying again")
                }
            }
        }
    }

    fn observe(&mut self, object: PartialObjectMeta<DynamicObject>) {
        let uid = object.uid().unwrap_or_default();
        if let Some(listed) = &mut self.listed {
            listed.insert(uid.clone());
        }
        self.known.insert(uid.clone());
        let node = Node {
            api_version: self.kind.api_resource().api_version,
            kind: self.kind.kind.clone(),
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            owners: object.owner_references().to_vec(),
            deleting: object.metadata.deletion_timestamp.is_some(),
            finalizers: object.finalizers().to_vec(),
        };
        let look_at = self.graph.lock().observe(uid, node);
        self.enqueue(look_at);
    }

    fn forget(&mut self, uid: &str) {
        self.known.remove(uid);
        let look_at = self.graph.lock().forget(uid);
        self.enqueue(look_at);
    }

    /// What was known before a list and is not in it was deleted while nobody watched.
    fn drop_unlisted(&mut self) {
        let listed = self.listed.take().unwrap_or_default();
        let gone: Vec<String> = self.known.difference(&listed).cloned().collect();
        gone.iter().for_each(|uid| self.forget(uid));
    }

    fn enqueue(&self, uids: Vec<String>) {
        uids.into_iter().for_each(|uid| self.queue.add(ObjectKey::cluster(uid)));
    }
}
