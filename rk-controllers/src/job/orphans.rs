//! Pods with the tracking finalizer that no Job will count any more.
//!
//! A Job that is deleted may leave Pods behind, and one that is over has counted all it will. Their
//! Pods lose the finalizer here, so that they can go.

use async_trait::async_trait;
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{Api, Client, ResourceExt};
use rk_api::client::{Change, Informer};

use super::{
    model::{has_finalizer, is_finished, is_managed_elsewhere},
    report::take_finalizer,
};
use crate::{
    children::{BY_CONTROLLER, index_by_controller},
    controller::{Action, Controller, Reconciler},
    error::{self, Error},
    key::ObjectKey,
    manager::Context,
    owners::{controller_of, refers_to},
};

struct Orphans {
    client: Client,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
}

#[async_trait]
impl Reconciler for Orphans {
    /// Of a Pod.
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(pod) = self.pods.get(&key.namespace, &key.name) else { return Ok(Action::Wait) };
        if !has_finalizer(&pod) || !is_left(&pod, &self.jobs) || self.has_new_job(&pod).await? {
            return Ok(Action::Wait);
        }
        let api = Api::namespaced(self.client.clone(), &key.namespace);
        error::unless_gone(take_finalizer(&api, &pod).await)?;
        Ok(Action::Wait)
    }
}

impl Orphans {
    /// Whether the Pod's Job is there after all, only so new that the cache does not show it: a Pod
    /// of it that is let go now would never be counted.
    async fn has_new_job(&self, pod: &Pod) -> Result<bool, Error> {
        let namespace = pod.namespace().unwrap_or_default();
        let Some(owner) = controller_of(pod) else { return Ok(false) };
        if self.jobs.get(&namespace, &owner.name).is_some() {
            return Ok(false);
        }
        let jobs = Api::<Job>::namespaced(self.client.clone(), &namespace);
        let job = jobs.get_metadata_opt(&owner.name).await?;
        Ok(job.is_some_and(|job| job.metadata.uid.as_ref() == Some(&owner.uid)))
    }
}

/// Whether no Job will take the finalizer from the Pod: it has none, or that is gone or over.
fn is_left(pod: &Pod, jobs: &Informer<Job>) -> bool {
    let Some(owner) = controller_of(pod) else { return true };
    if !refers_to::<Job>(owner) {
        return false;
    }
    let job = jobs.get(&pod.namespace().unwrap_or_default(), &owner.name);
    match job.filter(|job| job.uid().as_ref() == Some(&owner.uid)) {
        Some(job) => !is_managed_elsewhere(&job) && is_finished(&job),
        None => true,
    }
}

/// The controller, wired up.
pub(crate) fn controller(name: &'static str, context: &Context) -> Controller {
    let jobs = context.informers.of::<Job>();
    let pods = context.informers.of::<Pod>();
    pods.add_index(BY_CONTROLLER, index_by_controller);
    let (known, of_jobs) = (jobs.clone(), pods.clone());
    let reconciler =
        Orphans { client: context.client.clone(), jobs: jobs.clone(), pods: pods.clone() };
    Controller::new(name, reconciler)
        .watches(&pods, move |change| match change {
            Change::Deleted(_) => Vec::new(),
            Change::Added(pod) | Change::Updated { new: pod, .. } => {
                let left = has_finalizer(pod) && is_left(pod, &known);
                left.then(|| ObjectKey::of(&**pod)).into_iter().collect()
            }
        })
        .watches(&jobs, move |change| {
            let job = change.object();
            if !matches!(change, Change::Deleted(_)) && !is_finished(job) {
                return Vec::new();
            }
            let left = of_jobs.by_index(BY_CONTROLLER, &job.uid().unwrap_or_default());
            left.iter().filter(|pod| has_finalizer(pod)).map(|pod| ObjectKey::of(&**pod)).collect()
        })
        .workers(context.settings.workers)
}
