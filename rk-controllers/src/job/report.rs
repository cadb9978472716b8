//! Writing down what became of a Job, and letting go the Pods that are counted.

use std::{collections::BTreeSet, sync::Arc};

use futures::future::join_all;
use k8s_openapi::api::{
    batch::v1::{Job, JobStatus},
    core::v1::Pod,
};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use rk_api::client::EventType;
use serde_json::json;

use super::{
    Jobs,
    backoff::Backoff,
    conditions::{End, Suspension},
    model::{FINALIZER, View, has_finalizer, uid},
    observed::Observed,
    tracking::track,
};
use crate::{
    error::{self, Error},
    key::ObjectKey,
    write::{self, Part},
};

impl Jobs {
    /// Counts Pods that ended and writes the status, in the order that `tracking` needs.
    pub(super) async fn report(
        &self,
        key: &ObjectKey,
        view: &View<'_>,
        observed: &Observed,
        end: Option<&End>,
        status: JobStatus,
        backoff: Backoff,
    ) -> Result<(), Error> {
        let tracking = track(view, observed, end, status);
        let Some(job) = self.write_status(key, view.job, tracking.listed.clone()).await? else {
            return Ok(());
        };
        self.memory.set_backoff(key, backoff);
        let (released, failure) = self.release(key, &tracking.release).await;
        let written = job.status.clone().unwrap_or_default();
        let (status, ended) =
            tracking.settled(&written, &released, end.filter(|_| failure.is_none()), view);
        if self.write_status(key, &job, status).await?.is_some() && ended {
            self.tell_end(&job, end);
        }
        failure.map_or(Ok(()), |error| Err(error.into()))
    }

    /// The Job with this status, unless it is gone. Nothing is sent if it has that already.
    async fn write_status(
        &self,
        key: &ObjectKey,
        job: &Job,
        status: JobStatus,
    ) -> Result<Option<Job>, Error> {
        let after = Job { status: Some(status), ..job.clone() };
        let api = Api::<Job>::namespaced(self.client.clone(), &key.namespace);
        match write::update(&api, job, &after, Part::Status).await {
            Ok(written) => {
                self.writes.wrote(key, &written);
                Ok(Some(written))
            }
            Err(gone) if error::is_not_found(&gone) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the finalizers of Pods that are listed. The UIDs of those that have none any more.
    async fn release(
        &self,
        key: &ObjectKey,
        pods: &[Arc<Pod>],
    ) -> (BTreeSet<String>, Option<kube::Error>) {
        let removals = pods.iter().map(|pod| async move {
            self.memory.expect_release(key, uid(pod));
            match self.take_finalizer(pod).await {
                // One that is gone has none, whatever a cache that lags behind shows.
                Err(error) if !error::is_not_found(&error) => {
                    self.memory.release_observed(key, uid(pod));
                    Err(error)
                }
                _ => Ok(uid(pod).to_owned()),
            }
        });
        let (mut released, mut failure) = (BTreeSet::new(), None);
        for result in join_all(removals).await {
            match result {
                Ok(uid) => drop(released.insert(uid)),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        (released, failure)
    }

    pub(super) async fn take_finalizer(&self, pod: &Pod) -> Result<(), kube::Error> {
        let api = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        take_finalizer(&api, pod).await
    }

    pub(super) fn tell_suspension(&self, job: &Job, change: Option<Suspension>) {
        match change {
            Some(Suspension::Suspended) => {
                self.event(job, EventType::Normal, "Suspended", "Job suspended");
            }
            Some(Suspension::Resumed) => {
                self.event(job, EventType::Normal, "Resumed", "Job resumed");
            }
            None => {}
        }
    }

    fn tell_end(&self, job: &Job, end: Option<&End>) {
        match end {
            Some(End::Success { .. }) => {
                let wanted = job.spec.as_ref().and_then(|spec| spec.completions);
                let succeeded = job.status.as_ref().and_then(|status| status.succeeded);
                if wanted.is_some_and(|wanted| succeeded.unwrap_or(0) > wanted) {
                    let why = "Too many succeeded pods running after completion count reached";
                    self.event(job, EventType::Warning, "TooManySucceededPods", why);
                }
                self.event(job, EventType::Normal, "Completed", "Job completed");
            }
            Some(End::Failure { reason, message }) => {
                self.event(job, EventType::Warning, reason, message);
            }
            None => {}
        }
    }
}

/// Takes the tracking finalizer from exactly this Pod, not from another of its name.
pub(super) async fn take_finalizer(api: &Api<Pod>, pod: &Pod) -> Result<(), kube::Error> {
    if !has_finalizer(pod) {
        return Ok(());
    }
    let patch = json!({"metadata": {
        "uid": pod.uid(),
        "$deleteFromPrimitiveList/finalizers": [FINALIZER],
    }});
    api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await.map(drop)
}
