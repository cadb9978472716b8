//! Jobs: Pods that run until enough of them succeeded.
//!
//! # What it promises
//! - Never more Pods run at the same time than `spec.parallelism`, nor more than successes are
//!   missing. An Indexed Job has one active Pod for each index at most.
//! - A Pod that ends is counted once, whenever the controller is stopped: see `job/tracking.rs`.
//! - Failed Pods are replaced after a pause that doubles from 10 s to 10 min, until a limit, the
//!   deadline or a policy ends the Job. A Job that ends is announced by a condition before its Pods
//!   are let go, and has its last condition only when none of them runs any more.
//! - A suspended Job has no active Pods, and its time stands still.
//! - Pods with the tracking finalizer lose it when their Job is over or gone, so none is stuck.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::future::join_all;
use k8s_openapi::{
    api::{batch::v1::Job, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{Api, Client, ResourceExt};
use rk_api::{
    client::{EventRecorder, EventType, Informer, object_ref},
    clock,
    meta::selectors::LabelQuery,
};

use crate::{
    batch::slow_start,
    children::{BY_CONTROLLER, ORPHANS, index_by_controller},
    controller::{Action, Controller, Reconciler},
    error::{self, Error},
    expectations::{Expectations, LOOK_AGAIN_AFTER},
    key::ObjectKey,
    last_writes::LastWrites,
    manager::Context,
    owners::{self, claims, controller_ref},
    pod_control::PodControl,
    pods,
    time::whole_seconds,
};

mod backoff;
mod conditions;
mod failure_policy;
mod indexes;
mod memory;
mod model;
mod observed;
mod orphans;
mod plan;
mod report;
mod success_policy;
mod template;
mod tracking;
mod wake;

pub(crate) use model::{finished_as, is_finished};
pub(crate) use orphans::controller as orphan_controller;

use backoff::Backoff;
use conditions::{End, Suspension};
use memory::Memory;
use model::{FINALIZER, View, uid};
use observed::{Observed, count};
use plan::{Plan, Slot};
use tracking::some_count;

/// Pods end in groups: their Job is looked at once for all that change in so much time.
const BATCH: Duration = Duration::from_millis(200);

struct Jobs {
    client: Client,
    recorder: EventRecorder,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    expectations: Arc<Expectations<ObjectKey>>,
    memory: Arc<Memory>,
    writes: LastWrites,
}

/// What became of a plan.
#[derive(Debug, Default)]
struct Outcome {
    active: i32,
    ready: i32,
    terminating: i32,
    /// Some of it could not be done.
    error: Option<kube::Error>,
    /// Something is due at this time, without any change before.
    again: Option<Duration>,
}

#[async_trait]
impl Reconciler for Jobs {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(job) = self.jobs.get(&key.namespace, &key.name) else {
            self.expectations.forget(key);
            self.memory.forget(key);
            self.writes.forget(key);
            return Ok(Action::Wait);
        };
        if model::is_managed_elsewhere(&job) {
            return Ok(Action::Wait);
        }
        if is_finished(&job) {
            self.memory.forget(key);
            self.writes.forget(key);
            return Ok(Action::Wait);
        }
        let Some(spec) = &job.spec else { return Ok(Action::Wait) };
        let mode = spec.completion_mode.as_deref().unwrap_or("NonIndexed");
        if !["NonIndexed", "Indexed"].contains(&mode) {
            let why = "Skipped Job sync because completion mode is unknown";
            self.event(&job, EventType::Warning, "UnknownCompletionMode", why);
            return Ok(Action::Wait);
        }
        if self.writes.is_outdated(key, &*job) {
            // Pods that were counted and let go since would look as if they had never been. The change that shows our write wakes the Job again.
            return Ok(Action::RequeueAfter(LOOK_AGAIN_AFTER));
        }
        self.expectations.look_up_overdue(key, &self.pods_of(key)).await?;
        // Read before the Pods: whatever is observed from here on only makes the cache newer.
        let settled = self.expectations.satisfied(key);
        let pods = self.claim_pods(&job).await?;

        let now = whole_seconds(clock::now());
        let mut status = job.status.clone().unwrap_or_default();
        if status.start_time.is_none() && spec.suspend != Some(true) {
            status.start_time = Some(Time(now));
        }
        let released = self.memory.released(key);
        let view = View { job: &job, spec, status: &status, pods: &pods, released: &released, now };
        self.bring_on(key, &view, settled).await
    }
}

impl Jobs {
    /// Does for the Job what is to be done, and reports.
    async fn bring_on(
        &self,
        key: &ObjectKey,
        view: &View<'_>,
        settled: bool,
    ) -> Result<Action, Error> {
        let observed = observed::observe(view);
        let backoff = self.memory.backoff(key).after(&observed.new_succeeded, &observed.new_failed);
        let mut status = view.status.clone();
        let mut suspension = None;
        let mut end = conditions::early_end(view, &observed);
        let outcome = if end.is_some() {
            let outcome =
                self.delete(key, view, &observed, &observed.active, Keep::Finalizer).await;
            // Pods that are left, or not seen yet, could still succeed.
            if !settled || outcome.active > 0 {
                end = None;
            }
            outcome
        } else {
            let managed = settled && !view.is_deleting();
            let outcome = match managed {
                true => self.manage(key, view, &observed, &backoff).await,
                false => Outcome::of(&observed),
            };
            if is_complete(view, &observed, outcome.active) {
                end = Some(End::all_completions());
            } else if managed {
                let conditions = status.conditions.get_or_insert_default();
                suspension = conditions::set_suspended(conditions, view.is_suspended(), view.now);
                // A resumed Job has all its time again.
                if suspension == Some(Suspension::Resumed) {
                    status.start_time = Some(Time(view.now));
                }
            }
            outcome
        };
        status.conditions = status.conditions.filter(|conditions| !conditions.is_empty());
        status.active = some_count(outcome.active);
        status.ready = Some(outcome.ready);
        status.terminating = Some(outcome.terminating);
        let deadline = conditions::time_left(view).filter(|left| end.is_none() && !left.is_zero());
        self.report(key, view, &observed, end.as_ref(), status, backoff).await?;
        self.tell_suspension(view.job, suspension);
        match outcome.error {
            Some(error) if !error::is_namespace_terminating(&error) => return Err(error.into()),
            _ => {}
        }
        let stale = (!settled).then_some(LOOK_AGAIN_AFTER);
        Ok(Action::after([outcome.again, deadline, stale].into_iter().flatten().min()))
    }

    /// The Pods of the Job after adoption and release. Who is adopted is tracked from then on.
    async fn claim_pods(&self, job: &Job) -> Result<Vec<Arc<Pod>>, Error> {
        let namespace = job.namespace().unwrap_or_default();
        let job_uid = job.uid().unwrap_or_default();
        let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let selector = selector.map(LabelQuery::from_selector);
        let owned = self.pods.by_index(BY_CONTROLLER, &job_uid);
        let orphans = self.pods.by_index(BY_CONTROLLER, &format!("{ORPHANS}{namespace}"));
        let deleting = job.metadata.deletion_timestamp.is_some();
        let claims = claims(&job_uid, deleting, owned.into_iter().chain(orphans), |labels| {
            // A selector that matches everything is refused by validation; should one get here all
            // the same, it must not adopt the namespace.
            selector.as_ref().is_some_and(|query| !query.is_everything() && query.matches(labels))
        });
        let jobs = Api::namespaced(self.client.clone(), &namespace);
        let children = Api::namespaced(self.client.clone(), &namespace);
        owners::claim_with_finalizer(job, &jobs, &children, claims, Some(FINALIZER)).await
    }

    /// Makes and deletes Pods by plan, of a Job that goes on.
    async fn manage(
        &self,
        key: &ObjectKey,
        view: &View<'_>,
        observed: &Observed,
        backoff: &Backoff,
    ) -> Outcome {
        match plan::plan(view, observed, backoff) {
            Plan::Keep => Outcome::of(observed),
            Plan::Delete(doomed) => self.delete(key, view, observed, &doomed, Keep::Nothing).await,
            Plan::Create(slots) => self.create(key, view, observed, slots).await,
            Plan::Wait(pause) => Outcome { again: Some(pause), ..Outcome::of(observed) },
        }
    }

    async fn create(
        &self,
        key: &ObjectKey,
        view: &View<'_>,
        observed: &Observed,
        slots: Vec<Slot>,
    ) -> Outcome {
        let owner = controller_ref(view.job);
        let control = self.control(view.job);
        let new: Vec<Pod> = slots.iter().map(|slot| template::pod(view, &owner, slot)).collect();
        let (created, _, error) = slow_start(new, |pod: Pod| {
            let control = &control;
            async move {
                let name = pod.name_any();
                self.expectations.creating(key, &name, control.create(&pod)).await.map(drop)
            }
        })
        .await;
        let active = count(observed.active.iter()) + i32::try_from(created).unwrap_or(0);
        Outcome { active, error, ..Outcome::of(observed) }
    }

    /// Deletes active Pods.
    async fn delete(
        &self,
        key: &ObjectKey,
        view: &View<'_>,
        observed: &Observed,
        doomed: &[Arc<Pod>],
        keep: Keep,
    ) -> Outcome {
        let control = self.control(view.job);
        let (gone, gone_ready) = (AtomicI32::new(0), AtomicI32::new(0));
        let deletions = doomed.iter().map(|pod| async {
            let deletion = async {
                if matches!(keep, Keep::Nothing) {
                    self.take_finalizer(pod).await?;
                }
                control.delete(pod).await
            };
            match self.expectations.deleting(key, uid(pod), deletion).await {
                Err(error) if !error::is_not_found(&error) && !error::is_conflict(&error) => {
                    Err(error)
                }
                _ => {
                    gone.fetch_add(1, Relaxed);
                    gone_ready.fetch_add(i32::from(pods::is_ready(pod)), Relaxed);
                    Ok(())
                }
            }
        });
        let error = join_all(deletions).await.into_iter().find_map(Result::err);
        let before = Outcome::of(observed);
        let gone = gone.into_inner();
        Outcome {
            active: before.active - gone,
            ready: before.ready - gone_ready.into_inner(),
            terminating: before.terminating + gone,
            error,
            again: None,
        }
    }

    fn event(&self, job: &Job, kind: EventType, reason: &str, message: &str) {
        self.recorder.event(&object_ref(job), kind, reason, message);
    }

    fn control(&self, job: &Job) -> PodControl {
        PodControl::new(self.client.clone(), self.recorder.clone(), object_ref(job))
    }

    fn pods_of(&self, key: &ObjectKey) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }
}

/// What a Pod that is deleted keeps until it is counted.
#[derive(Clone, Copy)]
enum Keep {
    /// It counts as failed.
    Finalizer,
    /// It is only one too many, and does not count.
    Nothing,
}

impl Outcome {
    /// Of doing nothing.
    fn of(observed: &Observed) -> Self {
        Self {
            active: count(observed.active.iter()),
            ready: observed.ready,
            terminating: count(observed.terminating.iter()),
            ..Self::default()
        }
    }
}

/// Whether all Pods succeeded that had to. A work queue is done when one Pod said so and the others
/// ended.
fn is_complete(view: &View<'_>, observed: &Observed, active: i32) -> bool {
    let enough = match view.spec.completions {
        None => observed.succeeded > 0,
        Some(completions) => observed.succeeded >= completions,
    };
    enough && active == 0
}

/// The controller, wired up.
pub(crate) fn controller(name: &'static str, context: &Context) -> Controller {
    let jobs = context.informers.of::<Job>();
    let pods = context.informers.of::<Pod>();
    pods.add_index(BY_CONTROLLER, index_by_controller);
    let expectations = Arc::new(Expectations::new());
    let memory = Arc::new(Memory::default());
    let reconciler = Jobs {
        client: context.client.clone(),
        recorder: context.recorder(name),
        jobs: jobs.clone(),
        pods: pods.clone(),
        expectations: expectations.clone(),
        memory: memory.clone(),
        writes: LastWrites::default(),
    };
    let controller = Controller::new(name, reconciler).reconciles(&jobs);
    let queue = controller.queue();
    let known = jobs.clone();
    controller
        .watches(&pods, move |change| {
            for key in wake::jobs_of(change, &known, &expectations, &memory) {
                queue.add_after(key, BATCH);
            }
            Vec::new()
        })
        .workers(context.settings.workers)
}

#[cfg(test)]
mod tests;
