//! Jobs that are over are deleted some time later, with their Pods (KEP-592).
//!
//! # What it promises
//! - A Job with `spec.ttlSecondsAfterFinished` is deleted that long after it finished, not before.
//! - Before the deletion the Job is read from the server: a time to live that was just made longer
//!   holds.
//! - A Job that finished in the future, by the clock of this process, is kept for as much longer.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Preconditions, PropagationPolicy},
};
use rk_api::{client::Informer, clock};

use crate::{
    controller::{Action, Controller, Reconciler},
    error::{self, Error},
    job::finished_as,
    key::ObjectKey,
    manager::Context,
    time::{plus_seconds, until},
};

struct TtlAfterFinished {
    client: Client,
    jobs: Informer<Job>,
}

#[async_trait]
impl Reconciler for TtlAfterFinished {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(job) = self.jobs.get(&key.namespace, &key.name) else { return Ok(Action::Wait) };
        let now = clock::now();
        match time_left(&job, now) {
            None => return Ok(Action::Wait),
            Some(left) if !left.is_zero() => return Ok(Action::RequeueAfter(left)),
            Some(_) => {}
        }
        let api = Api::<Job>::namespaced(self.client.clone(), &key.namespace);
        let Some(fresh) = api.get_opt(&key.name).await? else { return Ok(Action::Wait) };
        match time_left(&fresh, now) {
            None => return Ok(Action::Wait),
            Some(left) if !left.is_zero() => return Ok(Action::RequeueAfter(left)),
            Some(_) => {}
        }
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Foreground),
            preconditions: Some(Preconditions {
                uid: fresh.uid(),
                resource_version: fresh.resource_version(),
            }),
            ..Default::default()
        };
        match api.delete(&key.name, &params).await {
            Err(gone) if error::is_not_found(&gone) => {}
            result => drop(result?),
        }
        Ok(Action::Wait)
    }
}

/// How long the Job still lives; `None` for one that nobody limits, that is not over, or that is
/// going already. Pure.
fn time_left(job: &Job, now: Timestamp) -> Option<Duration> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let end = finished_as(job).filter(|_| job.metadata.deletion_timestamp.is_none())?;
    let conditions = job.status.as_ref()?.conditions.as_deref()?;
    let condition = conditions.iter().find(|condition| condition.type_ == end)?;
    let finished = condition.last_transition_time.as_ref()?.0;
    if finished > now {
        tracing::warn!(
            job = %ObjectKey::of(job),
            "finished in the future: the clocks of the cluster differ, its deletion is put off"
        );
    }
    Some(until(plus_seconds(finished, ttl.into()), now))
}

/// The controller, wired up.
pub(crate) fn controller(name: &'static str, context: &Context) -> Controller {
    let jobs = context.informers.of::<Job>();
    let reconciler = TtlAfterFinished { client: context.client.clone(), jobs: jobs.clone() };
    let limited =
        |job: &Job| job.spec.as_ref().is_some_and(|spec| spec.ttl_seconds_after_finished.is_some());
    Controller::new(name, reconciler)
        .reconciles_if(&jobs, move |change| limited(change.object()))
        .workers(context.settings.workers)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(ttl: Option<i32>, finished: Option<&str>) -> Job {
        let conditions = finished
            .map(|time| json!([{"type": "Failed", "status": "True", "lastTransitionTime": time}]));
        serde_json::from_value(json!({
            "metadata": {"name": "j", "namespace": "default"},
            "spec": {"ttlSecondsAfterFinished": ttl, "template": {}},
            "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    #[test]
    fn the_time_counts_from_the_end() {
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let left = |ttl, finished| time_left(&job(ttl, finished), now).map(|left| left.as_secs());
        assert_eq!(left(Some(100), Some("2026-11-21T09:59:00Z")), Some(40));
        assert_eq!(left(Some(30), Some("2026-11-21T09:59:00Z")), Some(0));
        assert_eq!(left(Some(0), Some("2026-11-21T10:00:00Z")), Some(0));
        assert_eq!(left(Some(10), Some("2026-11-21T10:00:30Z")), Some(40), "clocks differ");
        assert_eq!(left(None, Some("2026-11-21T09:00:00Z")), None);
        assert_eq!(left(Some(10), None), None);
    }

    #[test]
    fn a_job_on_its_way_out_is_left_to_it() {
        let mut going = job(Some(0), Some("2026-11-21T09:00:00Z"));
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        assert!(time_left(&going, now).is_some());
        going.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
        assert!(time_left(&going, now).is_none());
    }
}
