//! DaemonSets: a Pod on each node that may have one.
//!
//! # What it promises
//! - One Pod for each node that the template's node selector, affinity and tolerations admit, made
//!   for that node and bound by the scheduler. It tolerates the troubles of a node by itself.
//! - A node that joins or comes to fit gets a Pod; one that no longer fits loses it. A NoSchedule
//!   taint that comes later keeps the Pod there.
//! - A Pod that ends is made anew, a failed one after a delay that grows.
//! - An update replaces Pods node by node: at most maxUnavailable nodes are without an available
//!   one, or with maxSurge the new Pod is available before the old one goes. With OnDelete it
//!   replaces those that somebody else deletes.
//! - A revision for each template, as far back as `revisionHistoryLimit`; events and status in
//!   Kubernetes' words: `kubectl rollout` reads them.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use futures::future::join_all;
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus},
    core::v1::{Node, Pod},
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use rk_api::{
    client::{Change, EventRecorder, EventType, Informer, object_ref},
    clock,
    meta::selectors::LabelQuery,
};
use serde_json::json;

use crate::{
    batch::slow_start,
    children,
    controller::{Action, Controller, Reconciler},
    error::{self, Error},
    expectations::{Expectations, LOOK_AGAIN_AFTER},
    history::{self, Histories, POD_REVISION},
    key::ObjectKey,
    manager::Context,
    owners::{self, claims, controller_of, controller_ref, refers_to},
    pod_control::PodControl,
    pods, write,
};

mod backoff;
mod model;
mod placement;
mod plan;
mod status;

use backoff::Backoff;
use placement::Place;
use plan::{Plan, World};

struct DaemonSets {
    client: Client,
    recorder: EventRecorder,
    sets: Informer<DaemonSet>,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    histories: Histories,
    expectations: Arc<Expectations<ObjectKey>>,
    backoff: Arc<Backoff>,
}

/// The revision in force and those before it.
struct Revisions {
    hash: String,
    collisions: i32,
    past: Vec<Arc<ControllerRevision>>,
}

#[async_trait]
impl Reconciler for DaemonSets {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(set) = self.sets.get(&key.namespace, &key.name) else {
            self.expectations.forget(key);
            self.backoff.forget(key);
            return Ok(Action::Wait);
        };
        if LabelQuery::from_selector(&set.spec.selector).is_everything() {
            let message =
                "This daemon set is selecting all pods. A non-empty selector is required.";
            self.event(&set, EventType::Warning, "SelectingAll", message.into());
            return Ok(Action::Wait);
        }
        // Its revisions may be gone before its Pods, so nothing can be said about it any more.
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Action::Wait);
        }
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        self.expectations.look_up_overdue(key, &api).await?;
        // Read before the Pods: whatever is observed from here on only makes the cache newer.
        let settled = self.expectations.satisfied(key);
        let nodes = self.nodes.list();
        let owned = self.claim_pods(&set).await?;
        let revisions = self.revisions(&set, &owned).await?;

        let backoff = |node: &str| self.backoff.left(key, node);
        let world = World::new(&set, &revisions.hash, &nodes, &owned, &backoff, clock::now());
        let plan = match settled {
            true => plan::plan(&world),
            false => Plan::default(),
        };
        let retry_failed = plan.look_again;
        let applied = self.apply(key, &set, &revisions.hash, plan).await;
        let (mut status, look_again) = status::status(&world, revisions.collisions);
        if !settled {
            // This generation has not been acted on yet.
            let reported = set.status.as_ref();
            status.observed_generation = reported.and_then(|status| status.observed_generation);
        }
        let reported = self.report(&set, status).await;
        applied?;
        reported?;
        self.truncate_history(&set, &revisions, &owned).await?;

        let stale = (!settled).then_some(LOOK_AGAIN_AFTER);
        Ok(Action::after([retry_failed, look_again, stale].into_iter().flatten().min()))
    }
}

impl DaemonSets {
    /// The Pods of the set after adoption and release.
    async fn claim_pods(&self, set: &DaemonSet) -> Result<Vec<Arc<Pod>>, Error> {
        let namespace = set.namespace().unwrap_or_default();
        let uid = set.uid().unwrap_or_default();
        let selector = LabelQuery::from_selector(&set.spec.selector);
        let owned = children::owned(&self.pods, &uid).into_iter();
        let candidates = owned.chain(children::orphans(&self.pods, &namespace));
        let claims = claims(&uid, false, candidates, |labels| selector.matches(labels));
        let api = Api::namespaced(self.client.clone(), &namespace);
        let children = Api::namespaced(self.client.clone(), &namespace);
        owners::claim(set, &api, &children, claims).await
    }

    /// Sees to the revision of the set's template. Should there be several of it, which only
    /// others make, the newest stays and gets the Pods of the others.
    async fn revisions(&self, set: &DaemonSet, owned: &[Arc<Pod>]) -> Result<Revisions, Error> {
        let history = self.histories.of(set).await?;
        let current = self.histories.current(set, &history).await?;
        let hash = hash_of(&current.revision);
        let others = history.into_iter().filter(|it| it.name_any() != current.revision.name_any());
        let (same, past): (Vec<_>, Vec<_>) = others
            .partition(|revision| history::template(revision).as_ref() == Some(&set.spec.template));
        for duplicate in &same {
            let of_duplicate = hash_of(duplicate);
            let pods = owned
                .iter()
                .filter(|pod| pod.labels().get(POD_REVISION).is_some_and(|it| *it == of_duplicate));
            for pod in pods {
                let labels =
                    json!({"metadata": {"labels": {POD_REVISION: hash}, "uid": pod.uid()}});
                let api = self.pods_of(set);
                let patch = Patch::Merge(labels);
                api.patch(&pod.name_any(), &PatchParams::default(), &patch).await?;
            }
        }
        self.histories.delete(&same).await?;
        Ok(Revisions { hash, collisions: current.collisions, past })
    }

    async fn apply(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        hash: &str,
        plan: Plan,
    ) -> Result<(), Error> {
        self.note_ended(key, set, &plan);
        let control = &PodControl::new(self.client.clone(), self.recorder.clone(), object_ref(set));
        let owner = controller_ref(set);
        let nodes = plan.create.into_iter();
        let new = nodes.map(|node| placement::new_pod(set, &owner, hash, &node)).collect();
        let (_, _, failed) = slow_start(new, |pod: Pod| async move {
            let name = pod.name_any();
            self.expectations.creating(key, &name, control.create(&pod)).await.map(drop)
        })
        .await;
        let deletions = plan.delete.iter().map(|pod| async {
            let uid = pod.uid().unwrap_or_default();
            let deleted = self.expectations.deleting(key, &uid, control.delete(pod)).await;
            error::unless_gone(deleted)
        });
        let not_deleted = join_all(deletions).await.into_iter().find_map(Result::err);
        let failed = failed.filter(|error| !error::is_namespace_terminating(error));
        failed.or(not_deleted).map_or(Ok(()), |error| Err(error.into()))
    }

    /// Tells of Pods that ended, and has the next failed one of the node wait longer.
    fn note_ended(&self, key: &ObjectKey, set: &DaemonSet, plan: &Plan) {
        for (node, pod) in &plan.ended {
            let pod_key = ObjectKey::of(&**pod);
            if pods::phase(pod) == "Failed" {
                self.backoff.lengthen(key, node);
                let message = format!(
                    "Found failed daemon pod {pod_key} on node {node}, will try to kill it"
                );
                self.event(set, EventType::Warning, "FailedDaemonPod", message);
            } else {
                let message = format!(
                    "Found succeeded daemon pod {pod_key} on node {node}, will try to delete it"
                );
                self.event(set, EventType::Normal, "SucceededDaemonPod", message);
            }
        }
    }

    /// Writes the status if it says something new.
    async fn report(&self, set: &DaemonSet, status: DaemonSetStatus) -> Result<(), Error> {
        if set.status.as_ref().is_some_and(|reported| status::same(&status, reported)) {
            return Ok(());
        }
        let api = Api::namespaced(self.client.clone(), &set.namespace().unwrap_or_default());
        let reported = DaemonSet { status: Some(status), ..set.clone() };
        write::status(&api, set, &reported).await.map_err(Into::into)
    }

    async fn truncate_history(
        &self,
        set: &DaemonSet,
        revisions: &Revisions,
        owned: &[Arc<Pod>],
    ) -> Result<(), Error> {
        let with_pods: BTreeSet<&String> =
            owned.iter().filter_map(|pod| pod.labels().get(POD_REVISION)).collect();
        let past = revisions.past.iter();
        let live = past.filter(|it| with_pods.contains(&hash_of(it))).map(|it| it.name_any());
        let limit = set.spec.revision_history_limit.unwrap_or(10);
        let surplus = history::surplus(&revisions.past, &live.collect(), limit);
        self.histories.delete(&surplus).await
    }

    fn pods_of(&self, set: &DaemonSet) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &set.namespace().unwrap_or_default())
    }

    fn event(&self, set: &DaemonSet, kind: EventType, reason: &str, message: String) {
        self.recorder.event(&object_ref(set), kind, reason, message);
    }
}

/// What the Pods of a revision have as their label; one of others may have none but its name.
fn hash_of(revision: &ControllerRevision) -> String {
    revision.labels().get(POD_REVISION).cloned().unwrap_or_else(|| revision.name_any())
}

/// Sets to which a node becomes something else, or appears or goes where it matters.
fn wake_for_node(change: &Change<Node>, sets: &Informer<DaemonSet>) -> Vec<ObjectKey> {
    let concerned = |set: &DaemonSet| match change {
        Change::Added(node) | Change::Deleted(node) => {
            placement::place(set, node) != Place::Refused
        }
        Change::Updated { old, new } => placement::place(set, old) != placement::place(set, new),
    };
    // Most changes of a node are signs of life, which concern no set.
    if let Change::Updated { old, new } = change {
        let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
        if old.labels() == new.labels() && taints(old) == taints(new) {
            return Vec::new();
        }
    }
    let all = sets.list().into_iter();
    all.filter(|set| concerned(set)).map(|set| ObjectKey::of(&*set)).collect()
}

/// Sets that a revision concerns: its owner when it changes or goes, and for one of nobody's all
/// that select it. That a set's own revision appears is no news.
fn wake_for_revision(
    change: &Change<ControllerRevision>,
    sets: &Informer<DaemonSet>,
) -> Vec<ObjectKey> {
    let revision = change.object();
    let Some(owner) = controller_of(&**revision) else {
        let selector = |set: &DaemonSet| LabelQuery::from_selector(&set.spec.selector);
        return match change {
            Change::Deleted(_) => Vec::new(),
            _ => children::selecting(sets, &**revision, selector),
        };
    };
    if matches!(change, Change::Added(_)) || !refers_to::<DaemonSet>(owner) {
        return Vec::new();
    }
    vec![ObjectKey::new(revision.namespace().unwrap_or_default(), owner.name.clone())]
}

/// The controller, wired up.
pub(crate) fn controller(name: &'static str, context: &Context) -> Controller {
    let sets = context.informers.of::<DaemonSet>();
    let nodes = context.informers.of::<Node>();
    let pods = context.informers.of::<Pod>();
    let revisions = context.informers.of::<ControllerRevision>();
    children::index(&pods);
    let expectations = Arc::new(Expectations::new());
    let backoff = Arc::new(Backoff::default());
    let reconciler = DaemonSets {
        client: context.client.clone(),
        recorder: context.recorder(name),
        sets: sets.clone(),
        nodes: nodes.clone(),
        pods: pods.clone(),
        histories: Histories::new(context.client.clone(), revisions.clone()),
        expectations: expectations.clone(),
        backoff: backoff.clone(),
    };
    let (by_pod, by_node, by_revision) = (sets.clone(), sets.clone(), sets.clone());
    Controller::new(name, reconciler)
        .watches(&sets, move |change| {
            let key = ObjectKey::of(&**change.object());
            if let Change::Updated { old, new } = change
                && old.metadata.generation != new.metadata.generation
            {
                backoff.forget(&key);
            }
            vec![key]
        })
        .watches(&nodes, move |change| wake_for_node(change, &by_node))
        .watches(&pods, move |change| {
            let selector = |set: &DaemonSet| LabelQuery::from_selector(&set.spec.selector);
            children::wake(change, &by_pod, selector, &expectations)
        })
        .watches(&revisions, move |change| wake_for_revision(change, &by_revision))
        .workers(context.settings.workers)
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
