//! PodDisruptionBudgets: how many Pods may be evicted now.
//!
//! # What it promises
//! - `status.disruptionsAllowed` is never more than the healthy Pods beyond those that the budget
//!   keeps. A Pod whose eviction was granted counts as gone from then on, for two minutes or until
//!   it is.
//! - Where the number of Pods cannot be known, nothing is allowed, and a condition says why.
//! - A Pod that was marked as a target of a disruption which did not come loses that mark after two
//!   minutes.
//!
//! The API server takes evictions from the budget, in the same status; a write of either that starts
//! from an older status is refused.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, StatefulSet},
        core::v1::{Pod, ReplicationController},
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{Api, Client, ResourceExt};
use rk_api::{
    client::{Change, EventRecorder, EventType, Informer, object_ref},
    clock,
    meta::selectors::LabelQuery,
};

use crate::{
    controller::{Action, Controller, Reconciler},
    error::{self, Error},
    key::ObjectKey,
    manager::Context,
    time::whole_seconds,
    write::{self, Part},
};

mod plan;
mod scales;

use scales::{Scales, Total};

struct Budgets {
    client: Client,
    recorder: EventRecorder,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    scales: Scales,
}

#[async_trait]
impl Reconciler for Budgets {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(budget) = self.budgets.get(&key.namespace, &key.name) else {
            return Ok(Action::Wait);
        };
        match self.update(key, &budget).await {
            Err(error) if !error.is_conflict() => {
                // Whatever went wrong: what is not known must not be disrupted.
                let why = match &error {
                    Error::Api(source) => error::message(source),
                    other => other.to_string(),
                };
                let status = plan::failed(&budget, &why, clock::now());
                self.write(key, &budget, status).await?;
                Err(error)
            }
            result => result,
        }
    }
}

impl Budgets {
    async fn update(&self, key: &ObjectKey, budget: &PodDisruptionBudget) -> Result<Action, Error> {
        let spec = budget.spec.clone().unwrap_or_default();
        let mut pods = self.pods.list_in(&key.namespace);
        pods.retain(|pod| covers(budget, pod));
        if pods.is_empty() {
            self.event(budget, EventType::Normal, "NoPods", "No matching pods found");
        }
        let total = match self.total(key, &spec, &pods).await {
            Ok(total) => total,
            Err(error) => {
                let why = format!("Failed to calculate the number of expected pods: {error}");
                self.event(budget, EventType::Warning, "CalculateExpectedPodCountFailed", &why);
                return Err(error);
            }
        };
        if !total.unmanaged.is_empty() {
            let selector = spec.selector.as_ref().map(LabelQuery::from_selector);
            let why = format!(
                "Pods selected by this PodDisruptionBudget (selector: {}) were found to be \
                 unmanaged. As a result, the status of the PDB cannot be calculated correctly, which \
                 may result in undefined behavior. To account for these pods please set \
                 \".spec.minAvailable\" field of the PDB to an integer value.",
                selector.map(|query| query.to_string()).unwrap_or_default()
            );
            self.event(budget, EventType::Warning, "UnmanagedPods", &why);
        }
        let expected = plan::expected(&spec, pods.len(), total.scale);
        let plan = plan::plan(budget, &pods, expected, clock::now());
        for pod in &plan.not_deleted {
            let why = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
            self.recorder.event(&object_ref(&**pod), EventType::Warning, "NotDeleted", why);
        }
        self.write(key, budget, plan.status).await?;
        Ok(Action::after(plan.look_again))
    }

    async fn total(
        &self,
        key: &ObjectKey,
        spec: &PodDisruptionBudgetSpec,
        pods: &[Arc<Pod>],
    ) -> Result<Total, Error> {
        match plan::needs_scales(spec) {
            true => self.scales.of(&key.namespace, pods).await,
            false => Ok(Total::default()),
        }
    }

    async fn write(
        &self,
        key: &ObjectKey,
        budget: &PodDisruptionBudget,
        status: PodDisruptionBudgetStatus,
    ) -> Result<(), Error> {
        let after = PodDisruptionBudget { status: Some(status), ..budget.clone() };
        let api = Api::namespaced(self.client.clone(), &key.namespace);
        match write::update(&api, budget, &after, Part::Status).await {
            Err(gone) if error::is_not_found(&gone) => Ok(()),
            result => result.map(drop).map_err(Into::into),
        }
    }

    fn event(&self, budget: &PodDisruptionBudget, kind: EventType, reason: &str, message: &str) {
        self.recorder.event(&object_ref(budget), kind, reason, message);
    }
}

/// Whether the budget speaks of the Pod. Without a selector it speaks of none, with an empty one of
/// all in its namespace.
fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| LabelQuery::from_selector(selector).matches(pod.labels()))
}

/// Takes back marks of disruptions that did not come.
struct StaleTargets {
    client: Client,
    pods: Informer<Pod>,
}

#[async_trait]
impl Reconciler for StaleTargets {
    /// Of a Pod.
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(pod) = self.pods.get(&key.namespace, &key.name) else { return Ok(Action::Wait) };
        let now = clock::now();
        match plan::stale_disruption(&pod, now) {
            None => return Ok(Action::Wait),
            Some(left) if !left.is_zero() => return Ok(Action::RequeueAfter(left)),
            Some(_) => {}
        }
        let mut after = Pod::clone(&pod);
        let status = after.status.get_or_insert_default();
        for condition in status.conditions.iter_mut().flatten() {
            if condition.type_ == "DisruptionTarget" {
                condition.status = "False".to_owned();
                condition.last_transition_time = Some(Time(whole_seconds(now)));
                (condition.reason, condition.message) = (None, None);
            }
        }
        let api = Api::namespaced(self.client.clone(), &key.namespace);
        match write::update(&api, &*pod, &after, Part::Status).await {
            Err(gone) if error::is_not_found(&gone) => {}
            result => drop(result?),
        }
        Ok(Action::Wait)
    }
}

/// The budgets that cover a Pod. More than one is a mistake that its users are told of: such a Pod
/// cannot be evicted.
fn budgets_of(
    pod: &Pod,
    budgets: &Informer<PodDisruptionBudget>,
    recorder: &EventRecorder,
) -> Vec<ObjectKey> {
    let namespace = pod.namespace().unwrap_or_default();
    let covering = budgets.list_in(&namespace).into_iter().filter(|budget| covers(budget, pod));
    let keys: Vec<ObjectKey> = covering.map(|budget| ObjectKey::of(&*budget)).collect();
    if let [first, _, ..] = keys.as_slice() {
        let why = format!(
            "Pod {namespace:?}/{:?} matches multiple PodDisruptionBudgets.  Chose {:?} arbitrarily.",
            pod.name_any(),
            first.name
        );
        let reason = "MultiplePodDisruptionBudgets";
        recorder.event(&object_ref(pod), EventType::Warning, reason, why);
    }
    keys
}

/// The controller of budgets, wired up.
pub(crate) fn controller(name: &'static str, context: &Context) -> Controller {
    let informers = &context.informers;
    let (budgets, pods) = (informers.of::<PodDisruptionBudget>(), informers.of::<Pod>());
    let deployments = informers.of::<Deployment>();
    let replica_sets = informers.of::<ReplicaSet>();
    let stateful_sets = informers.of::<StatefulSet>();
    let replication_controllers = informers.of::<ReplicationController>();
    let scales = Scales {
        client: context.client.clone(),
        deployments: deployments.clone(),
        replica_sets: replica_sets.clone(),
        stateful_sets: stateful_sets.clone(),
        replication_controllers: replication_controllers.clone(),
    };
    let recorder = context.recorder(name);
    let reconciler = Budgets {
        client: context.client.clone(),
        recorder: recorder.clone(),
        budgets: budgets.clone(),
        pods: pods.clone(),
        scales,
    };
    let known = budgets.clone();
    Controller::new(name, reconciler)
        .reconciles(&budgets)
        .watches(&pods, move |change| {
            let mut keys = budgets_of(change.object(), &known, &recorder);
            // Labels that change take a Pod from one budget to another.
            if let Change::Updated { old, new } = change
                && old.labels() != new.labels()
            {
                let left = known.list_in(&old.namespace().unwrap_or_default()).into_iter();
                let left = left.filter(|budget| covers(budget, old));
                keys.extend(left.map(|budget| ObjectKey::of(&*budget)));
            }
            keys
        })
        .reads(&deployments)
        .reads(&replica_sets)
        .reads(&stateful_sets)
        .reads(&replication_controllers)
        .workers(context.settings.workers)
}

/// The controller of stale marks, wired up.
pub(crate) fn stale_target_controller(name: &'static str, context: &Context) -> Controller {
    let pods = context.informers.of::<Pod>();
    let reconciler = StaleTargets { client: context.client.clone(), pods: pods.clone() };
    Controller::new(name, reconciler)
        .reconciles_if(&pods, |change| {
            plan::stale_disruption(change.object(), clock::now()).is_some()
        })
        .workers(context.settings.workers)
}

#[cfg(test)]
mod tests;
