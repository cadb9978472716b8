//! StatefulSets: Pods with a number, a name and claims of their own.
//!
//! # What it promises
//! - At most one Pod for each ordinal, ever: a Pod is made anew only when the one before is gone.
//! - Pods come lowest first, each when all before it are available; they go highest first, each
//!   when the one after it is gone. With the parallel policy they come and go at once.
//! - An update replaces Pods highest first, down to the partition, and keeps all but
//!   maxUnavailable of them available. With OnDelete it replaces those that somebody else deletes.
//! - A claim from each template for each Pod, found again by the Pod that has its ordinal next,
//!   and kept or deleted as the retention policy says.
//! - A revision for each template, as far back as `revisionHistoryLimit`; events and status in
//!   Kubernetes' words: `kubectl rollout` reads them.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus},
    core::v1::{PersistentVolumeClaim, Pod},
};
use kube::{Api, Client, ResourceExt};
use rk_api::{
    client::{Change, EventRecorder, Informer},
    clock,
    meta::selectors::LabelQuery,
};

use crate::{
    batch::slow_start,
    children,
    controller::{Action, Controller, Reconciler},
    error::Error,
    expectations::{Expectations, LOOK_AGAIN_AFTER},
    history::{self, Histories},
    key::ObjectKey,
    manager::Context,
    owners::{self, claims as claims_on},
    write,
};

mod claims;
mod identity;
mod model;
mod plan;
mod status;
mod steps;

use model::Version;
use plan::{Plan, World};
use status::Revisions;

struct StatefulSets {
    client: Client,
    recorder: EventRecorder,
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    histories: Histories,
    expectations: Arc<Expectations<ObjectKey>>,
}

/// The two versions of a set that matter, and the revisions that it has.
struct Versions {
    current: Version,
    update: Version,
    collisions: i32,
    history: Vec<Arc<ControllerRevision>>,
}

#[async_trait]
impl Reconciler for StatefulSets {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(set) = self.sets.get(&key.namespace, &key.name) else {
            self.expectations.forget(key);
            return Ok(Action::Wait);
        };
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        self.expectations.look_up_overdue(key, &api).await?;
        // Read before the Pods: whatever is observed from here on only makes the cache newer.
        let settled = self.expectations.satisfied(key);
        let pods = self.claim_pods(&set).await?;
        if set.metadata.deletion_timestamp.is_some() {
            return self.report_going(&set, &pods).await;
        }
        let versions = self.versions(&set).await?;

        let planned = match settled {
            true => self.plan(&set, &versions, &pods),
            false => Plan::new(),
        };
        let applied = self.apply(key, &set, planned).await;
        let revisions = Revisions {
            current: &versions.current.name,
            update: &versions.update.name,
            collisions: versions.collisions,
        };
        let (status, look_again) = status::status(&set, &pods, revisions, clock::now());
        let reported = self.report(&set, status).await;
        applied?;
        reported?;
        self.truncate_history(&set, &versions, &pods).await?;
        match settled {
            true => Ok(Action::after(look_again)),
            false => Ok(Action::RequeueAfter(look_again.unwrap_or(LOOK_AGAIN_AFTER))),
        }
    }
}

impl StatefulSets {
    /// The Pods of the set after adoption and release. Only those with a name that the set gives.
    async fn claim_pods(&self, set: &StatefulSet) -> Result<Vec<Arc<Pod>>, Error> {
        let namespace = set.namespace().unwrap_or_default();
        let uid = set.uid().unwrap_or_default();
        let selector = LabelQuery::from_selector(&set.spec.selector);
        let owned = children::owned(&self.pods, &uid).into_iter();
        let candidates = owned.chain(children::orphans(&self.pods, &namespace));
        let members = candidates.filter(|pod| model::ordinal(set, &pod.name_any()).is_some());
        let deleting = set.metadata.deletion_timestamp.is_some();
        let claims = claims_on(&uid, deleting, members, |labels| {
            !selector.is_everything() && selector.matches(labels)
        });
        let api = Api::namespaced(self.client.clone(), &namespace);
        let children = Api::namespaced(self.client.clone(), &namespace);
        owners::claim(set, &api, &children, claims).await
    }

    /// Sees to the revision of the set's template.
    async fn versions(&self, set: &StatefulSet) -> Result<Versions, Error> {
        let history = self.histories.of(set).await?;
        let update = self.histories.current(set, &history).await?;
        let name = set.status.as_ref().and_then(|status| status.current_revision.as_deref());
        let current = history.iter().find(|it| Some(it.name_any().as_str()) == name);
        let version = |revision: &ControllerRevision| Version {
            name: revision.name_any(),
            template: history::template(revision).unwrap_or_else(|| set.spec.template.clone()),
        };
        Ok(Versions {
            current: version(current.unwrap_or(&update.revision)),
            update: version(&update.revision),
            collisions: update.collisions,
            history,
        })
    }

    fn plan(&self, set: &StatefulSet, versions: &Versions, pods: &[Arc<Pod>]) -> Plan {
        let namespace = set.namespace().unwrap_or_default();
        plan::plan(&World {
            set,
            current: &versions.current,
            update: &versions.update,
            pods,
            claim: &|name| self.claims.get(&namespace, name),
            now: clock::now(),
        })
    }

    /// Takes the steps: side by side within a phase if the set is a parallel one.
    async fn apply(&self, key: &ObjectKey, set: &StatefulSet, plan: Plan) -> Result<(), Error> {
        let hand = self.hand(key, set);
        for phase in plan {
            if model::is_parallel(set) {
                let (_, _, error) = slow_start(phase, |step| hand.take(step)).await;
                error.map_or(Ok(()), Err)?;
            } else {
                for step in phase {
                    hand.take(step).await?;
                }
            }
        }
        Ok(())
    }

    /// Writes the status if it says something new.
    async fn report(&self, set: &StatefulSet, status: StatefulSetStatus) -> Result<(), Error> {
        if set.status.as_ref().is_some_and(|reported| status::same(&status, reported)) {
            return Ok(());
        }
        let api = Api::namespaced(self.client.clone(), &set.namespace().unwrap_or_default());
        let reported = StatefulSet { status: Some(status), ..set.clone() };
        write::status(&api, set, &reported).await.map_err(Into::into)
    }

    /// The status of a set that is being deleted: its Pods are the garbage collector's.
    async fn report_going(&self, set: &StatefulSet, pods: &[Arc<Pod>]) -> Result<Action, Error> {
        let reported = set.status.clone().unwrap_or_default();
        let revisions = Revisions {
            current: reported.current_revision.as_deref().unwrap_or_default(),
            update: reported.update_revision.as_deref().unwrap_or_default(),
            collisions: reported.collision_count.unwrap_or(0),
        };
        let (status, _) = status::status(set, pods, revisions, clock::now());
        self.report(set, status).await?;
        Ok(Action::Wait)
    }

    async fn truncate_history(
        &self,
        set: &StatefulSet,
        versions: &Versions,
        pods: &[Arc<Pod>],
    ) -> Result<(), Error> {
        let of_pods = pods.iter().map(|pod| model::revision(pod).to_owned());
        let named = [versions.current.name.clone(), versions.update.name.clone()];
        let live: BTreeSet<String> = of_pods.chain(named).collect();
        let limit = set.spec.revision_history_limit.unwrap_or(10);
        self.histories.delete(&history::surplus(&versions.history, &live, limit)).await
    }
}

/// A claim that goes may be what a new Pod waits for.
fn wake_for_claim(
    change: &Change<PersistentVolumeClaim>,
    sets: &Informer<StatefulSet>,
) -> Vec<ObjectKey> {
    let Change::Deleted(claim) = change else { return Vec::new() };
    let sets = sets.list_in(&claim.namespace().unwrap_or_default()).into_iter();
    let concerned = sets.filter(|set| claims::may_be_of(set, &claim.name_any()));
    concerned.map(|set| ObjectKey::of(&*set)).collect()
}

/// The controller, wired up.
pub(crate) fn controller(name: &'static str, context: &Context) -> Controller {
    let sets = context.informers.of::<StatefulSet>();
    let pods = context.informers.of::<Pod>();
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let revisions = context.informers.of::<ControllerRevision>();
    children::index(&pods);
    let expectations = Arc::new(Expectations::new());
    let reconciler = StatefulSets {
        client: context.client.clone(),
        recorder: context.recorder(name),
        sets: sets.clone(),
        pods: pods.clone(),
        claims: claims.clone(),
        histories: Histories::new(context.client.clone(), revisions.clone()),
        expectations: expectations.clone(),
    };
    let (by_pod, by_claim) = (sets.clone(), sets.clone());
    Controller::new(name, reconciler)
        .reconciles(&sets)
        .watches(&pods, move |change| {
            let selector = |set: &StatefulSet| LabelQuery::from_selector(&set.spec.selector);
            children::wake(change, &by_pod, selector, &expectations)
        })
        .watches(&claims, move |change| wake_for_claim(change, &by_claim))
        .reads(&revisions)
        .workers(context.settings.workers)
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
