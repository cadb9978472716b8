//! ReplicaSets and ReplicationControllers: a number of equal Pods.
//!
//! # What it promises
//! - As many active Pods match the selector and belong to the set as `spec.replicas` says. A Pod
//!   that ends or is deleted is replaced; surplus Pods are deleted, the least useful first.
//! - Matching Pods without a controller are adopted; owned Pods that stop matching are let go,
//!   and live on without an owner.
//! - At most 500 Pods are created or deleted at a time, and creation starts slowly, so that a set
//!   whose Pods are refused does not flood the API server.
//! - Never two Pods where one was wanted because a cache lags: a set with writes that the cache
//!   does not show yet only gets its status updated.

use std::{borrow::Cow, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::future::join_all;
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetSpec, ReplicaSetStatus},
        core::v1::{ObjectReference, Pod, ReplicationController, ReplicationControllerStatus},
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{Api, Client, Resource, ResourceExt, core::NamespaceResourceScope};
use rk_api::{
    client::{EventRecorder, Informer, Watchable, object_ref},
    clock,
    meta::selectors::LabelQuery,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    batch::slow_start,
    children,
    controller::{Action, Controller, Reconciler},
    error::{self, Error},
    expectations::{Expectations, LOOK_AGAIN_AFTER},
    key::ObjectKey,
    manager::Context,
    owners::{self, claims, controller_of, controller_ref},
    pod_control::{PodControl, pod_from_template},
    pods, write,
};

mod plan;
mod status;

use status::Failure;

/// Index of ReplicaSets by the UID of their controller.
const SIBLINGS: &str = "sibling-uid";

/// A kind that keeps a number of Pods.
pub(crate) trait Replicated:
    Watchable + Serialize + Resource<Scope = NamespaceResourceScope>
{
    /// The object in the form of a ReplicaSet.
    fn as_set(&self) -> Cow<'_, ReplicaSet>;

    /// The object with this status.
    fn with_status(&self, status: ReplicaSetStatus) -> Self;
}

impl Replicated for ReplicaSet {
    fn as_set(&self) -> Cow<'_, ReplicaSet> {
        Cow::Borrowed(self)
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        Self { status: Some(status), ..self.clone() }
    }
}

impl Replicated for ReplicationController {
    fn as_set(&self) -> Cow<'_, ReplicaSet> {
        let spec = self.spec.clone().unwrap_or_default();
        let status = self.status.as_ref().map(|status| ReplicaSetStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            observed_generation: status.observed_generation,
            terminating_replicas: None,
            conditions: convert_conditions(&status.conditions),
        });
        Cow::Owned(ReplicaSet {
            metadata: self.metadata.clone(),
            spec: ReplicaSetSpec {
                replicas: spec.replicas,
                min_ready_seconds: spec.min_ready_seconds,
                selector: LabelSelector { match_labels: spec.selector, match_expressions: None },
                template: spec.template,
            },
            status,
        })
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        let status = ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            observed_generation: status.observed_generation,
            conditions: convert_conditions(&status.conditions),
        };
        Self { status: Some(status), ..self.clone() }
    }
}

/// The conditions of the two kinds have the same fields under the same names.
fn convert_conditions<A: Serialize, B: DeserializeOwned>(
    conditions: &Option<Vec<A>>,
) -> Option<Vec<B>> {
    rk_api::json::from_value(conditions.as_ref()?).ok()
}

struct Replicator<K: Replicated> {
    client: Client,
    recorder: EventRecorder,
    sets: Informer<K>,
    pods: Informer<Pod>,
    expectations: Arc<Expectations<ObjectKey>>,
}

#[async_trait]
impl<K: Replicated> Reconciler for Replicator<K> {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(object) = self.sets.get(&key.namespace, &key.name) else {
            self.expectations.forget(key);
            return Ok(Action::Wait);
        };
        let set = object.as_set();
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        self.expectations.look_up_overdue(key, &api).await?;
        // Read before the Pods: whatever is observed from here on only makes the cache newer.
        let settled = self.expectations.satisfied(key);

        let owned = self.claim_pods(&*object, &set).await?;
        let failure = match settled && set.metadata.deletion_timestamp.is_none() {
            true => self.manage_pods(key, &*object, &set, &owned).await,
            false => None,
        };
        let reported = failure.as_ref().map(|(failure, _)| failure);
        let look_again = self.report(&*object, &set, &owned, reported).await?;

        match failure {
            Some((_, error)) => Err(error),
            None if !settled => Ok(Action::RequeueAfter(look_again.unwrap_or(LOOK_AGAIN_AFTER))),
            None => Ok(Action::after(look_again)),
        }
    }
}

impl<K: Replicated> Replicator<K> {
    /// The Pods of the set after adoption and release.
    async fn claim_pods(&self, object: &K, set: &ReplicaSet) -> Result<Vec<Arc<Pod>>, Error> {
        let namespace = object.namespace().unwrap_or_default();
        let uid = object.uid().unwrap_or_default();
        let selector = LabelQuery::from_selector(&set.spec.selector);
        let owned = children::owned(&self.pods, &uid);
        let orphans = children::orphans(&self.pods, &namespace);
        let candidates =
            owned.into_iter().chain(orphans.into_iter().filter(|pod| pods::is_active(pod)));

        let deleting = set.metadata.deletion_timestamp.is_some();
        // A selector that matches everything is refused by validation; should one get here all the
        // same, it must not adopt the namespace.
        let claims = claims(&uid, deleting, candidates, |labels| {
            !selector.is_everything() && selector.matches(labels)
        });
        let api = Api::namespaced(self.client.clone(), &namespace);
        let children = Api::namespaced(self.client.clone(), &namespace);
        owners::claim(object, &api, &children, claims).await
    }

    /// Creates and deletes Pods by plan. The failure that the status is to show, if any.
    async fn manage_pods(
        &self,
        key: &ObjectKey,
        object: &K,
        set: &ReplicaSet,
        owned: &[Arc<Pod>],
    ) -> Option<(Failure, Error)> {
        let related = self.related_pods(object, owned);
        let plan = plan::plan(set, owned, &related, clock::now());
        let control =
            PodControl::new(self.client.clone(), self.recorder.clone(), reference(object));
        if plan.create > 0 {
            self.create(key, object, set, plan.create, &control).await
        } else {
            self.delete(key, plan.delete, &control).await
        }
    }

    async fn create(
        &self,
        key: &ObjectKey,
        object: &K,
        set: &ReplicaSet,
        count: usize,
        control: &PodControl,
    ) -> Option<(Failure, Error)> {
        let template = set.spec.template.clone().unwrap_or_default();
        let owner = controller_ref(object);
        let pods =
            (0..count).map(|_| pod_from_template(&template, &key.namespace, &owner)).collect();
        let (_, _, error) = slow_start(pods, |pod: Pod| async move {
            let name = pod.name_any();
            self.expectations.creating(key, &name, control.create(&pod)).await.map(drop)
        })
        .await;
        let error = error.filter(|error| !error::is_namespace_terminating(error))?;
        Some((Failure { reason: "FailedCreate", message: error::message(&error) }, error.into()))
    }

    async fn delete(
        &self,
        key: &ObjectKey,
        doomed: Vec<Arc<Pod>>,
        control: &PodControl,
    ) -> Option<(Failure, Error)> {
        let deletions = doomed.iter().map(|pod| async move {
            let uid = pod.uid().unwrap_or_default();
            let deleted = self.expectations.deleting(key, &uid, control.delete(pod)).await;
            error::unless_gone(deleted)
        });
        let error = join_all(deletions).await.into_iter().find_map(Result::err)?;
        Some((Failure { reason: "FailedDelete", message: error::message(&error) }, error.into()))
    }

    /// Pods of all sets that have the same owner as this one.
    fn related_pods(&self, object: &K, owned: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let Some(owner) = controller_of(object) else { return owned.to_vec() };
        let siblings = self.sets.by_index(SIBLINGS, &owner.uid);
        siblings
            .iter()
            .filter_map(|sibling| sibling.uid())
            .flat_map(|uid| children::owned(&self.pods, &uid))
            .collect()
    }

    /// Writes the status if it says something new; when it will without any change of a Pod.
    async fn report(
        &self,
        object: &K,
        set: &ReplicaSet,
        owned: &[Arc<Pod>],
        failure: Option<&Failure>,
    ) -> Result<Option<Duration>, Error> {
        let (status, look_again) = status::status(set, owned, failure, clock::now());
        if set.status.as_ref().is_some_and(|reported| status::same(&status, reported)) {
            return Ok(look_again);
        }
        let api =
            Api::<K>::namespaced(self.client.clone(), &object.namespace().unwrap_or_default());
        write::status(&api, object, &object.with_status(status)).await?;
        Ok(look_again)
    }
}

fn reference<K: Replicated>(object: &K) -> ObjectReference {
    object_ref(object)
}

fn index_by_owner<K: Replicated>(set: &K) -> Vec<String> {
    controller_of(set).map(|owner| owner.uid.clone()).into_iter().collect()
}

/// The controller for kind `K`, wired up.
pub(crate) fn controller<K: Replicated>(name: &'static str, context: &Context) -> Controller {
    let sets = context.informers.of::<K>();
    let pods = context.informers.of::<Pod>();
    children::index(&pods);
    sets.add_index(SIBLINGS, index_by_owner::<K>);
    let expectations = Arc::new(Expectations::new());
    let replicator = Replicator {
        client: context.client.clone(),
        recorder: context.recorder(name),
        sets: sets.clone(),
        pods: pods.clone(),
        expectations: expectations.clone(),
    };
    let known_sets = sets.clone();
    Controller::new(name, replicator)
        .reconciles(&sets)
        .watches(&pods, move |change| {
            let selector = |set: &K| LabelQuery::from_selector(&set.as_set().spec.selector);
            children::wake(change, &known_sets, selector, &expectations)
        })
        .workers(context.settings.workers)
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
