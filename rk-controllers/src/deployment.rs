//! Deployments: ReplicaSets that follow one another.
//!
//! # What it promises
//! - One ReplicaSet for each Pod template, named after the Deployment and a hash of the template.
//!   Going back to an earlier template takes its ReplicaSet again and gives it the next revision.
//! - RollingUpdate: never more than replicas + maxSurge Pods, never fewer than
//!   replicas - maxUnavailable available ones. Recreate: no new Pod before the last old one ended.
//! - A change of `replicas` is spread over the ReplicaSets in proportion and makes no revision.
//! - The annotation `deprecated.deployment.rollback.to` brings an earlier revision's template back.
//! - Nothing is rolled out while paused.
//! - Conditions and events in Kubernetes' words: `kubectl rollout` reads them.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::{
    apps::v1::{Deployment, DeploymentStatus, ReplicaSet},
    core::v1::Pod,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};
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
    owners::{self, claims, controller_of, is_controlled_by, refers_to},
    pods,
    write::{self, Part},
};

pub(crate) mod model;
mod plan;
mod revisions;
mod rollback;
mod rolling;
mod scaling;
mod status;
pub(crate) mod template_hash;

use plan::{Plan, Resize};
use rollback::Rollback;

struct Deployments {
    client: Client,
    recorder: EventRecorder,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
}

#[async_trait]
impl Reconciler for Deployments {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(deployment) = self.deployments.get(&key.namespace, &key.name) else {
            return Ok(Action::Wait);
        };
        if LabelQuery::from_selector(&deployment.spec.selector).is_everything() {
            let message =
                "This deployment is selecting all pods. A non-empty selector is required.";
            self.event(&deployment, EventType::Warning, "SelectingAll", message.into());
            return Ok(Action::Wait);
        }
        let sets = self.claim_sets(&deployment).await?;
        let old_pods_run = |new: Option<&str>| self.old_pods_run(&deployment, &sets, new);
        let plan = plan::plan(&deployment, &sets, old_pods_run, clock::now());

        let requeue_after = plan.requeue_after;
        self.apply(&deployment, plan).await?;
        Ok(Action::after(requeue_after))
    }
}

impl Deployments {
    async fn claim_sets(&self, deployment: &Deployment) -> Result<Vec<Arc<ReplicaSet>>, Error> {
        let namespace = deployment.namespace().unwrap_or_default();
        let selector = LabelQuery::from_selector(&deployment.spec.selector);
        let claims = claims(
            &deployment.uid().unwrap_or_default(),
            deployment.metadata.deletion_timestamp.is_some(),
            self.sets.list_in(&namespace),
            |labels| selector.matches(labels),
        );
        let api = Api::namespaced(self.client.clone(), &namespace);
        let children = Api::namespaced(self.client.clone(), &namespace);
        let mut sets = owners::claim(deployment, &api, &children, claims).await?;
        sets.sort_by_cached_key(|set| model::by_age(set));
        Ok(sets)
    }

    /// Whether any Pod of a ReplicaSet other than `new` has not ended, going ones included.
    fn old_pods_run(
        &self,
        deployment: &Deployment,
        sets: &[Arc<ReplicaSet>],
        new: Option<&str>,
    ) -> bool {
        let pods = self.pods.list_in(&deployment.namespace().unwrap_or_default());
        pods.iter().filter(|pod| !pods::is_terminal(pod)).any(|pod| {
            let owner = controller_of(&**pod).map(|owner| owner.uid.as_str());
            owner != new && sets.iter().any(|set| set.uid().as_deref() == owner && owner.is_some())
        })
    }

    async fn apply(&self, deployment: &Deployment, plan: Plan) -> Result<(), Error> {
        if let Some(set) = plan.create {
            self.create(deployment, set).await?;
        }
        for resize in plan.resize {
            self.resize(deployment, resize).await?;
        }
        for set in plan.delete {
            self.delete(set).await?;
        }
        if let Some(rollback) = plan.rollback {
            return self.roll_back(deployment, rollback).await;
        }
        let mut reported = deployment.clone();
        reported.status = Some(plan.status);
        if let Some(revision) = plan.revision {
            // It goes with the status: written with the spec, an annotation makes a new generation.
            let annotations = reported.metadata.annotations.get_or_insert_default();
            annotations.insert(model::REVISION.into(), revision);
        }
        self.report(deployment, &reported).await
    }

    async fn create(&self, deployment: &Deployment, set: ReplicaSet) -> Result<(), Error> {
        let api = self.sets_in(deployment);
        let name = set.name_any();
        let replicas = model::size(&set);
        match api.create(&PostParams::default(), &set).await {
            Ok(_) if replicas > 0 => {
                let message = format!("Scaled up replica set {name} from 0 to {replicas}");
                self.event(deployment, EventType::Normal, "ScalingReplicaSet", message);
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(taken) if error::is_already_exists(&taken) => {
                self.name_is_taken(deployment, &set).await
            }
            Err(terminating) if error::is_namespace_terminating(&terminating) => Ok(()),
            Err(refused) => {
                let message = format!(
                    "Failed to create new replica set \"{name}\": {}",
                    error::message(&refused)
                );
                self.event(
                    deployment,
                    EventType::Warning,
                    "ReplicaSetCreateError",
                    message.clone(),
                );
                if model::progress_deadline_seconds(deployment).is_some() {
                    let mut status = deployment.status.clone().unwrap_or_default();
                    let failed = status::condition(
                        status::PROGRESSING,
                        "False",
                        "ReplicaSetCreateError",
                        message,
                        clock::now(),
                    );
                    status::set(&mut status, failed);
                    self.report_status(deployment, status).await?;
                }
                Err(refused.into())
            }
        }
    }

    /// A ReplicaSet of this name is there. Ours, for this template: the cache only lags. Otherwise
    /// two templates share a hash, and the next try uses another collision count.
    async fn name_is_taken(
        &self,
        deployment: &Deployment,
        wanted: &ReplicaSet,
    ) -> Result<(), Error> {
        let name = wanted.name_any();
        let there = self.sets_in(deployment).get(&name).await?;
        let same_template = match (model::template(&there), model::template(wanted)) {
            (Some(theirs), Some(ours)) => template_hash::same_template(theirs, ours),
            _ => false,
        };
        if is_controlled_by(&there, &deployment.uid().unwrap_or_default()) && same_template {
            return Err(Error::NotYet(format!("ReplicaSet {name} exists but is not in the cache")));
        }
        let mut status = deployment.status.clone().unwrap_or_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        self.report_status(deployment, status).await?;
        Err(Error::NotYet(format!("another ReplicaSet is named {name}")))
    }

    async fn resize(&self, deployment: &Deployment, resize: Resize) -> Result<(), Error> {
        let Resize { before, after } = resize;
        let (from, to) = (model::size(&before), model::size(&after));
        let name = after.name_any();
        write::update(&self.sets_in(deployment), &before, &after, Part::Main).await?;
        if from != to {
            let direction = if from < to { "up" } else { "down" };
            let message = format!("Scaled {direction} replica set {name} from {from} to {to}");
            self.event(deployment, EventType::Normal, "ScalingReplicaSet", message);
        }
        Ok(())
    }

    async fn roll_back(&self, deployment: &Deployment, rollback: Rollback) -> Result<(), Error> {
        let Rollback { after, outcome } = rollback;
        if !outcome.is_done() {
            self.event(deployment, EventType::Warning, outcome.reason(), outcome.message(&after));
        }
        let api = self.deployments_in(deployment);
        write::update(&api, deployment, &after, Part::Main).await?;
        if outcome.is_done() {
            self.event(deployment, EventType::Normal, outcome.reason(), outcome.message(&after));
        }
        Ok(())
    }

    async fn delete(&self, set: ReplicaSet) -> Result<(), Error> {
        let api = Api::<ReplicaSet>::namespaced(
            self.client.clone(),
            &set.namespace().unwrap_or_default(),
        );
        let unchanged = Preconditions { uid: set.uid(), resource_version: set.resource_version() };
        let params = DeleteParams { preconditions: Some(unchanged), ..Default::default() };
        ignore_gone(api.delete(&set.name_any(), &params).await)
    }

    async fn report_status(
        &self,
        deployment: &Deployment,
        status: DeploymentStatus,
    ) -> Result<(), Error> {
        let reported = Deployment { status: Some(status), ..deployment.clone() };
        self.report(deployment, &reported).await
    }

    /// Writes status and annotations if they say something new.
    async fn report(&self, deployment: &Deployment, reported: &Deployment) -> Result<(), Error> {
        let api = self.deployments_in(deployment);
        write::update(&api, deployment, reported, Part::Status).await?;
        Ok(())
    }

    fn deployments_in(&self, deployment: &Deployment) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), &deployment.namespace().unwrap_or_default())
    }

    fn sets_in(&self, deployment: &Deployment) -> Api<ReplicaSet> {
        Api::namespaced(self.client.clone(), &deployment.namespace().unwrap_or_default())
    }

    fn event(&self, deployment: &Deployment, kind: EventType, reason: &str, message: String) {
        self.recorder.event(&object_ref(deployment), kind, reason, message);
    }
}

fn ignore_gone<T>(result: Result<T, kube::Error>) -> Result<(), Error> {
    match result {
        Err(gone) if error::is_not_found(&gone) => Ok(()),
        result => result.map(drop).map_err(Into::into),
    }
}

/// Deployments that a change of a ReplicaSet concerns: its owner, the one it left, or for an
/// orphan all that select it.
fn wake(change: &Change<ReplicaSet>, deployments: &Informer<Deployment>) -> Vec<ObjectKey> {
    let owner = |set: &ReplicaSet| {
        let reference =
            controller_of(set).filter(|reference| refers_to::<Deployment>(reference))?;
        Some(ObjectKey::new(set.namespace().unwrap_or_default(), reference.name.clone()))
    };
    let set = change.object();
    let mut keys: Vec<ObjectKey> = owner(set).into_iter().collect();
    if let Change::Updated { old, .. } = change {
        keys.extend(owner(old).filter(|old| !keys.contains(old)));
    }
    if controller_of(&**set).is_none() && !matches!(change, Change::Deleted(_)) {
        let selecting = deployments
            .list_in(&set.namespace().unwrap_or_default())
            .into_iter()
            .filter(|deployment| {
                let selector = LabelQuery::from_selector(&deployment.spec.selector);
                !selector.is_everything() && selector.matches(set.labels())
            });
        keys.extend(selecting.map(|deployment| ObjectKey::of(&*deployment)));
    }
    keys
}

/// A Recreate roll-out waits for Pods to end, which no ReplicaSet need report.
fn wake_for_pod(
    change: &Change<Pod>,
    deployments: &Informer<Deployment>,
    sets: &Informer<ReplicaSet>,
) -> Vec<ObjectKey> {
    let pod = change.object();
    let ended = matches!(change, Change::Deleted(_)) || pods::is_terminal(pod);
    let namespace = pod.namespace().unwrap_or_default();
    let find = || {
        let set = controller_of(&**pod).filter(|owner| refers_to::<ReplicaSet>(owner))?;
        let set = sets.get(&namespace, &set.name)?;
        let owner = controller_of(&*set).filter(|owner| refers_to::<Deployment>(owner))?;
        let deployment = deployments.get(&namespace, &owner.name)?;
        model::is_recreate(&deployment).then(|| ObjectKey::of(&*deployment))
    };
    if ended { find().into_iter().collect() } else { Vec::new() }
}

/// The controller, wired up.
pub(crate) fn controller(name: &'static str, context: &Context) -> Controller {
    let deployments = context.informers.of::<Deployment>();
    let sets = context.informers.of::<ReplicaSet>();
    let pods = context.informers.of::<Pod>();
    let reconciler = Deployments {
        client: context.client.clone(),
        recorder: context.recorder(name),
        deployments: deployments.clone(),
        sets: sets.clone(),
        pods: pods.clone(),
    };
    let (by_set, by_pod, sets_by_pod) = (deployments.clone(), deployments.clone(), sets.clone());
    Controller::new(name, reconciler)
        .reconciles(&deployments)
        .watches(&sets, move |change| wake(change, &by_set))
        .watches(&pods, move |change| wake_for_pod(change, &by_pod, &sets_by_pod))
        .workers(context.settings.workers)
}

#[cfg(test)]
mod tests;
