//! Objects whose owners are gone.
//!
//! # What it promises
//! - An object all of whose owners are gone is deleted (background deletion). An owner counts as
//!   gone only when the API server says so: its deletion was watched, or there is no object of that
//!   name, or one with another UID.
//! - An object with an owner that stays is kept; its references to owners that went are removed.
//! - An owner with the finalizer `foregroundDeletion` waits for the dependents that block it, and
//!   they are deleted in the same way; one with the finalizer `orphan` goes after its dependents
//!   were let go.
//! - An owner in another namespace than its dependent is no owner: to the dependent it is gone, and
//!   an event `OwnerRefInvalidNamespace` says so. A cluster-scoped object is never deleted because
//!   of a namespaced owner. Owners of an unknown kind are never taken for gone.
//!
//! All kinds that the API server serves take part, custom ones too; only their metadata is read.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use k8s_openapi::{
    api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Client, ResourceExt,
    api::{
        DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy, Request,
    },
    core::PartialObjectMeta,
};
use parking_lot::{Mutex, RwLock};
use rk_api::client::{EventRecorder, EventType};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    controller::{Action, Controller, Reconciler},
    discovery::{Discovery, Served, ServedKind},
    error::{self, Error},
    key::ObjectKey,
    manager::Context,
};

mod graph;
mod monitors;

use graph::{FOREGROUND, Graph, Node, ORPHAN, OwnerState, Uid, Verdict, judge};
use monitors::{Monitors, REDISCOVERY, REDISCOVERY_IN_ANY_CASE};

/// How many objects are looked at at the same time.
const WORKERS: usize = 20;
/// How long to wait for the first lists. A kind that cannot be listed must not stop all others;
/// what is not in the graph is asked of the API server.
const FIRST_LISTS: Duration = Duration::from_secs(30);

type Meta = PartialObjectMeta<DynamicObject>;

/// Works until `shutdown`.
pub(crate) async fn run(name: &'static str, context: Context, shutdown: CancellationToken) {
    let graph = Arc::new(Mutex::new(Graph::default()));
    let served = Arc::new(RwLock::new(Arc::new(Served::default())));
    let collector = Collector {
        client: context.client.clone(),
        recorder: context.recorder(name),
        graph: graph.clone(),
        served: served.clone(),
    };
    let controller = Controller::new(name, collector).metrics(&context.metrics).workers(WORKERS);
    let mut monitors =
        Monitors::new(context.client.clone(), context.informers.clone(), graph, controller.queue());

    let client = context.client.clone();
    let first = async {
        let found = Served::discover(&client).await;
        monitors.adjust(&found);
        *served.write() = Arc::new(found);
        if tokio::time::timeout(FIRST_LISTS, monitors.synced()).await.is_err() {
            tracing::warn!("not every kind could be listed; collecting what is known");
        }
    };
    if shutdown.run_until_cancelled(first).await.is_none() {
        return;
    }
    let rediscover = async {
        let mut discovery = Discovery::default();
        let mut known = None;
        // What brings a kind changes a moment before the kind comes, so it is looked for twice.
        let mut looks = 0_u32;
        let mut in_any_case = Instant::now() + REDISCOVERY_IN_ANY_CASE;
        loop {
            tokio::time::sleep(REDISCOVERY).await;
            if monitors.kinds_changed() {
                looks = 2;
            }
            let now = Instant::now();
            if looks == 0 && now < in_any_case {
                continue;
            }
            let Ok(found) = discovery.read(&client).await else { continue };
            looks = looks.saturating_sub(1);
            in_any_case = now + REDISCOVERY_IN_ANY_CASE;
            if known.as_ref().is_some_and(|known| Arc::ptr_eq(known, &found)) {
                continue;
            }
            monitors.adjust(&found);
            served.write().clone_from(&found);
            known = Some(found);
        }
    };
    tokio::join!(controller.run(shutdown.clone()), shutdown.run_until_cancelled(rediscover));
}

/// Keys are UIDs.
struct Collector {
    client: Client,
    recorder: EventRecorder,
    graph: Arc<Mutex<Graph>>,
    served: Arc<RwLock<Arc<Served>>>,
}

#[async_trait]
impl Reconciler for Collector {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let uid = &key.name;
        let Some(node) = self.graph.lock().get(uid).cloned() else { return Ok(Action::Wait) };
        if node.lets_dependents_go() {
            self.let_dependents_go(uid, &node).await?;
        }
        if node.waits_for_dependents() {
            return self.delete_dependents_first(uid, &node).await;
        }
        if node.deleting {
            return Ok(Action::Wait);
        }
        self.collect(uid, &node).await
    }
}

impl Collector {
    /// Deletes the object if no owner of it stays.
    async fn collect(&self, uid: &Uid, node: &Node) -> Result<Action, Error> {
        let is_orphaned = self.graph.lock().is_orphaned(node);
        if is_orphaned && !node.version.is_empty() {
            // What the graph has is enough to delete by, provided that the object is still that.
            let unchanged = Preconditions {
                uid: Some(uid.clone()),
                resource_version: Some(node.version.to_string()),
            };
            match self.delete(node, &node.finalizers, unchanged, false).await {
                Err(changed) if changed.is_conflict() => {}
                result => return result.map(|()| Action::Wait),
            }
        }
        let Some(object) = self.read(uid, node).await? else { return Ok(Action::Wait) };
        let mut owners = Vec::new();
        for owner in object.owner_references() {
            match self.owner_state(node, owner).await? {
                Some(state) => owners.push((owner.clone(), state)),
                // Not a valid owner; nothing may be concluded from it.
                None => return Ok(Action::Wait),
            }
        }
        let has_dependents = !self.graph.lock().dependents_of(uid).is_empty();
        match judge(&owners, has_dependents) {
            Verdict::Keep => self.until_owners_are_watched(node, &owners),
            Verdict::DropReferences(gone) => {
                self.drop_references(node, &object, &gone).await?;
                Ok(Action::Wait)
            }
            Verdict::Delete { foreground } => {
                if foreground {
                    self.break_circle(uid, node, &object).await?;
                }
                // Exactly the object that was judged: not one that was given another owner
                // meanwhile.
                let version = object.resource_version().filter(|_| !foreground);
                let unchanged = Preconditions { uid: object.uid(), resource_version: version };
                self.delete(node, object.finalizers(), unchanged, foreground).await?;
                Ok(Action::Wait)
            }
        }
    }

    /// An owner that exists but is not in the graph may go without our seeing it, so its dependent
    /// is looked at again until the graph has it.
    fn until_owners_are_watched(
        &self,
        node: &Node,
        owners: &[(OwnerReference, OwnerState)],
    ) -> Result<Action, Error> {
        let graph = self.graph.lock();
        match owners.iter().find(|(owner, _)| !graph.is_solid(owner, &node.namespace)) {
            Some((owner, _)) => Err(Error::NotYet(format!(
                "owner {} {} is not watched yet",
                owner.kind, owner.name
            ))),
            None => Ok(Action::Wait),
        }
    }

    /// What the owner is; `None` for a namespaced owner of a cluster-scoped object.
    async fn owner_state(
        &self,
        node: &Node,
        owner: &OwnerReference,
    ) -> Result<Option<OwnerState>, Error> {
        {
            let graph = self.graph.lock();
            if graph.is_solid(owner, &node.namespace) {
                return Ok(Some(OwnerState::Solid));
            }
            if graph.is_gone(owner, &node.namespace) {
                return Ok(Some(OwnerState::Dangling));
            }
        }
        let kind = self.kind(&owner.api_version, &owner.kind).await?;
        if kind.namespaced && node.namespace.is_empty() {
            tracing::debug!(
                owner = owner.name,
                object = node.name,
                "a cluster-scoped object cannot have a namespaced owner"
            );
            return Ok(None);
        }
        let api = self.api(&kind, &node.namespace);
        let found = api.get_metadata_opt(&owner.name).await?;
        let Some(found) = found.filter(|found| found.uid().as_deref() == Some(&owner.uid)) else {
            self.tell_of_wrong_namespace(node, owner);
            return Ok(Some(OwnerState::Dangling));
        };
        let waiting = found.metadata.deletion_timestamp.is_some()
            && found.finalizers().iter().any(|name| name == FOREGROUND);
        Ok(Some(if waiting { OwnerState::Waiting } else { OwnerState::Solid }))
    }

    fn tell_of_wrong_namespace(&self, node: &Node, owner: &OwnerReference) {
        let elsewhere =
            self.graph.lock().get(&owner.uid).is_some_and(|other| {
                !other.namespace.is_empty() && other.namespace != node.namespace
            });
        if !elsewhere {
            return;
        }
        let about = ObjectReference {
            api_version: Some(node.api_version.clone()),
            kind: Some(node.kind.clone()),
            namespace: Some(node.namespace.clone()),
            name: Some(node.name.clone()),
            ..Default::default()
        };
        let message = format!(
            "ownerRef [{}/{}, namespace: {}, name: {}, uid: {}] does not exist in namespace \"{}\"",
            owner.api_version, owner.kind, node.namespace, owner.name, owner.uid, node.namespace
        );
        self.recorder.event(&about, EventType::Warning, "OwnerRefInvalidNamespace", message);
    }

    /// Foreground deletion: when no dependent blocks it any more, the object may go.
    async fn delete_dependents_first(&self, uid: &Uid, node: &Node) -> Result<Action, Error> {
        let blocking = self.graph.lock().blocking_dependents_of(uid);
        if blocking.is_empty() {
            self.remove_finalizer(uid, node, FOREGROUND).await?;
            return Ok(Action::Wait);
        }
        // They were looked at when the deletion began; this is for those that came later.
        for dependent in blocking {
            let node = self.graph.lock().get(&dependent).cloned();
            if let Some(node) = node.filter(|node| !node.deleting) {
                self.collect(&dependent, &node).await?;
            }
        }
        Ok(Action::Wait)
    }

    /// Orphaning: dependents lose their reference, then the object may go.
    async fn let_dependents_go(&self, uid: &Uid, node: &Node) -> Result<(), Error> {
        let dependents = self.graph.lock().dependents_of(uid);
        for dependent in dependents {
            let node = self.graph.lock().get(&dependent).cloned();
            let Some(node) = node else { continue };
            if let Some(object) = self.read(&dependent, &node).await? {
                self.drop_references(&node, &object, std::slice::from_ref(uid)).await?;
            }
        }
        self.remove_finalizer(uid, node, ORPHAN).await
    }

    /// Objects that own each other would wait for each other for ever: this one stops blocking.
    async fn break_circle(&self, uid: &Uid, node: &Node, object: &Meta) -> Result<(), Error> {
        let circular = {
            let graph = self.graph.lock();
            let dependents = graph.dependents_of(uid);
            dependents
                .iter()
                .any(|dependent| graph.get(dependent).is_some_and(Node::waits_for_dependents))
        };
        if !circular {
            return Ok(());
        }
        let mut owners = object.owner_references().to_vec();
        owners.iter_mut().for_each(|owner| owner.block_owner_deletion = Some(false));
        let patch = json!({"metadata": {"uid": uid, "ownerReferences": owners}});
        let api = self.api_of(node).await?;
        match api.patch_metadata(&node.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(gone) if error::is_not_found(&gone) => Ok(()),
            result => result.map(drop).map_err(Into::into),
        }
    }

    async fn delete(
        &self,
        node: &Node,
        finalizers: &[String],
        unchanged: Preconditions,
        foreground: bool,
    ) -> Result<(), Error> {
        // A finalizer that says how its own dependents go is respected.
        let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
        let policy = if has(ORPHAN) {
            PropagationPolicy::Orphan
        } else if foreground || has(FOREGROUND) {
            PropagationPolicy::Foreground
        } else {
            PropagationPolicy::Background
        };
        let params = DeleteParams {
            propagation_policy: Some(policy.clone()),
            preconditions: Some(unchanged),
            ..Default::default()
        };
        tracing::debug!(
            kind = node.kind,
            namespace = node.namespace,
            name = node.name,
            ?policy,
            "no owner left, deleting"
        );
        let objects = Request::new(self.api_of(node).await?.resource_url());
        let request = objects.delete(&node.name, &params).map_err(kube::Error::BuildRequest)?;
        // The answer is the object again, which nobody looks at.
        match self.client.request_text(request).await {
            Err(gone) if error::is_not_found(&gone) => Ok(()),
            result => result.map(drop).map_err(Into::into),
        }
    }

    async fn drop_references(&self, node: &Node, object: &Meta, gone: &[Uid]) -> Result<(), Error> {
        let mut owners = object.owner_references().to_vec();
        owners.retain(|owner| !gone.contains(&owner.uid));
        if owners.len() == object.owner_references().len() {
            return Ok(());
        }
        let patch = json!({"metadata": {
            "uid": object.uid(),
            "resourceVersion": object.resource_version(),
            "ownerReferences": owners,
        }});
        match self
            .api_of(node)
            .await?
            .patch_metadata(&node.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
        {
            Err(gone) if error::is_not_found(&gone) => Ok(()),
            result => result.map(drop).map_err(Into::into),
        }
    }

    async fn remove_finalizer(&self, uid: &Uid, node: &Node, finalizer: &str) -> Result<(), Error> {
        let Some(object) = self.read(uid, node).await? else { return Ok(()) };
        let mut finalizers = object.finalizers().to_vec();
        finalizers.retain(|name| name != finalizer);
        if finalizers.len() == object.finalizers().len() {
            return Ok(());
        }
        let patch = json!({"metadata": {"resourceVersion": object.resource_version(), "finalizers": finalizers}});
        match self
            .api_of(node)
            .await?
            .patch_metadata(&node.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
        {
            Err(gone) if error::is_not_found(&gone) => Ok(()),
            result => result.map(drop).map_err(Into::into),
        }
    }

    /// The object as it is now. One that is gone is struck from the graph.
    async fn read(&self, uid: &Uid, node: &Node) -> Result<Option<Meta>, Error> {
        let found = self.api_of(node).await?.get_metadata_opt(&node.name).await?;
        let found = found.filter(|object| object.uid().as_deref() == Some(uid));
        if found.is_none() {
            // Its watch will say so too; until then nothing is to be concluded from it.
            return Ok(None);
        }
        Ok(found)
    }

    async fn api_of(&self, node: &Node) -> Result<Api<DynamicObject>, Error> {
        let kind = self.kind(&node.api_version, &node.kind).await?;
        Ok(self.api(&kind, &node.namespace))
    }

    fn api(&self, kind: &ServedKind, namespace: &str) -> Api<DynamicObject> {
        match kind.namespaced {
            true => Api::namespaced_with(self.client.clone(), namespace, &kind.api_resource()),
            false => Api::all_with(self.client.clone(), &kind.api_resource()),
        }
    }

    /// How a kind is served. One that is not known is asked for once more, then again with
    /// backoff: its CRD may just be missing for a moment.
    async fn kind(&self, api_version: &str, kind: &str) -> Result<ServedKind, Error> {
        if let Some(known) = self.served.read().kind(api_version, kind) {
            return Ok(known.clone());
        }
        let served = Arc::new(Served::read(&self.client).await?);
        *self.served.write() = served.clone();
        let found = served.kind(api_version, kind).cloned();
        found.ok_or_else(|| Error::NotYet(format!("kind {kind} of {api_version} is not served")))
    }
}
