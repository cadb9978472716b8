//! CronJobs: a Job at each time of a schedule.
//!
//! # What it promises
//! - For each time of the schedule at most one Job is made, however often the controller is stopped:
//!   the Job's name is the minute it is for.
//! - With the policy Forbid no two Jobs of the schedule run at the same time, with Replace the one
//!   that runs is deleted first.
//! - Of starts that were missed, the last is made up for, unless it is older than the starting
//!   deadline.
//! - Finished Jobs beyond the limits of history are deleted, the oldest first.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::{CronJob, CronJobStatus, Job},
    core::v1::ObjectReference,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions, PropagationPolicy},
};
use parking_lot::Mutex;
use rk_api::{
    client::{Change, EventRecorder, EventType, Informer, object_ref},
    clock,
};

use crate::{
    controller::{Action, Controller, Reconciler},
    error::{self, Error},
    expectations::LOOK_AGAIN_AFTER,
    key::ObjectKey,
    last_writes::LastWrites,
    manager::Context,
    owners::{controller_of, is_controlled_by},
    write::{self, Part},
};

mod plan;
mod status;

use plan::{Notice, Timetable};

/// Index of Jobs by the UID of their controller.
const BY_CONTROLLER: &str = "controller-uid";

struct CronJobs {
    client: Client,
    recorder: EventRecorder,
    crons: Informer<CronJob>,
    jobs: Informer<Job>,
    writes: LastWrites,
    /// Names of Jobs whose creation was not answered: they may be there or come yet.
    unanswered: Mutex<HashMap<ObjectKey, String>>,
}

#[async_trait]
impl Reconciler for CronJobs {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(cron) = self.crons.get(&key.namespace, &key.name) else {
            self.writes.forget(key);
            self.unanswered.lock().remove(key);
            return Ok(Action::Wait);
        };
        if self.writes.is_outdated(key, &*cron) {
            return Ok(Action::RequeueAfter(LOOK_AGAIN_AFTER));
        }
        let jobs = self.jobs_of(key, &cron).await?;
        let mut seen = status::seen(&cron, &jobs);
        for job in std::mem::take(&mut seen.missing) {
            self.drop_missing(&cron, &mut seen.status, &job).await?;
        }
        self.tell(&cron, &seen.told);
        let mut status = seen.status;
        // What was done is written down and the history cut also if the start fails.
        let started = self.start_due(key, &cron, &mut status).await;
        self.cut_history(&cron, &jobs, &mut status).await;
        self.write_status(key, &cron, status).await?;
        started.map(Action::after)
    }
}

impl CronJobs {
    /// The Jobs that the CronJob controls, with one that was just created but is not in the cache.
    async fn jobs_of(&self, key: &ObjectKey, cron: &CronJob) -> Result<Vec<Arc<Job>>, Error> {
        let uid = cron.uid().unwrap_or_default();
        let mut jobs = self.jobs.by_index(BY_CONTROLLER, &uid);
        let unanswered = self.unanswered.lock().get(key).cloned();
        if let Some(name) = unanswered {
            let found = self.api(key).get_opt(&name).await?;
            self.unanswered.lock().remove(key);
            let found = found.filter(|job| is_controlled_by(job, &uid));
            if let Some(job) = found.filter(|job| !jobs.iter().any(|one| one.uid() == job.uid())) {
                jobs.push(Arc::new(job));
            }
        }
        Ok(jobs)
    }

    /// Takes a Job from the active ones if the server does not have it either.
    async fn drop_missing(
        &self,
        cron: &CronJob,
        status: &mut CronJobStatus,
        job: &ObjectReference,
    ) -> Result<(), Error> {
        let name = job.name.clone().unwrap_or_default();
        let found = self.api(&ObjectKey::of(cron)).get_metadata_opt(&name).await?;
        if found.is_none_or(|found| found.metadata.uid != job.uid) {
            status::remove_active(status, job.uid.as_deref());
            self.event(
                cron,
                EventType::Normal,
                "MissingJob",
                format!("Active job went missing: {name}"),
            );
        }
        Ok(())
    }

    /// Starts the Job that is due, if one is. When the next is.
    async fn start_due(
        &self,
        key: &ObjectKey,
        cron: &CronJob,
        status: &mut CronJobStatus,
    ) -> Result<Option<Duration>, Error> {
        if cron.metadata.deletion_timestamp.is_some() || cron.spec.suspend == Some(true) {
            return Ok(None);
        }
        let timetable = match Timetable::of(cron) {
            Ok(timetable) => timetable,
            Err(wrong) => {
                self.event(cron, EventType::Warning, wrong.reason, wrong.message);
                return Ok(None);
            }
        };
        if cron.spec.schedule.contains("TZ") {
            let message = format!(
                "CRON_TZ or TZ used in schedule {:?} is not officially supported, see \
                 https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more \
                 details",
                cron.spec.schedule
            );
            self.event(cron, EventType::Warning, "UnsupportedSchedule", message);
        }
        let now = clock::now();
        let plan = plan::plan(cron, status, &timetable, now);
        self.tell(cron, &plan.told);
        if let Some(time) = plan.start {
            if plan.replace {
                self.delete_active(key, cron, status).await?;
            }
            self.start(key, cron, &timetable, time, status).await?;
        }
        Ok(timetable.wait(now))
    }

    async fn start(
        &self,
        key: &ObjectKey,
        cron: &CronJob,
        timetable: &Timetable,
        time: Timestamp,
        status: &mut CronJobStatus,
    ) -> Result<(), Error> {
        let job = plan::job(cron, timetable, time);
        let name = job.name_any();
        let api = self.api(key);
        let created = match api.create(&PostParams::default(), &job).await {
            Ok(created) => {
                let message = format!("Created job {name}");
                self.event(cron, EventType::Normal, "SuccessfulCreate", message);
                created
            }
            // Made before, by us or by somebody who knows the name.
            Err(taken) if error::is_already_exists(&taken) => api.get(&name).await?,
            Err(refused) if error::is_namespace_terminating(&refused) => return Ok(()),
            Err(refused) => {
                if error::code(&refused) == 0 {
                    self.unanswered.lock().insert(key.clone(), name);
                }
                let message = format!("Error creating job: {}", error::message(&refused));
                self.event(cron, EventType::Warning, "FailedCreate", message);
                return Err(refused.into());
            }
        };
        if is_controlled_by(&created, &cron.uid().unwrap_or_default()) {
            status::add_started(status, &created, time);
        }
        Ok(())
    }

    async fn delete_active(
        &self,
        key: &ObjectKey,
        cron: &CronJob,
        status: &mut CronJobStatus,
    ) -> Result<(), Error> {
        for active in status.active.clone().unwrap_or_default() {
            let name = active.name.clone().unwrap_or_default();
            let deleted = self.delete(cron, &name, active.uid.clone()).await;
            if !deleted {
                let namespace = &key.namespace;
                return Err(Error::NotYet(format!("could not replace job {namespace}/{name}")));
            }
            status::remove_active(status, active.uid.as_deref());
        }
        Ok(())
    }

    async fn cut_history(&self, cron: &CronJob, jobs: &[Arc<Job>], status: &mut CronJobStatus) {
        for job in plan::surplus_history(cron, jobs) {
            if self.delete(cron, &job.name_any(), job.uid()).await {
                status::remove_active(status, job.metadata.uid.as_deref());
            }
        }
    }

    /// Deletes exactly this Job, with its Pods. Whether it is gone or going.
    async fn delete(&self, cron: &CronJob, name: &str, uid: Option<String>) -> bool {
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions: Some(Preconditions { uid, resource_version: None }),
            ..Default::default()
        };
        match self.api(&ObjectKey::of(cron)).delete(name, &params).await {
            Ok(_) => {
                let message = format!("Deleted job {name}");
                self.event(cron, EventType::Normal, "SuccessfulDelete", message);
                true
            }
            Err(gone) if error::is_not_found(&gone) || error::is_conflict(&gone) => true,
            Err(refused) => {
                let message = format!("Deleted job: {}", error::message(&refused));
                self.event(cron, EventType::Warning, "FailedDelete", message);
                false
            }
        }
    }

    async fn write_status(
        &self,
        key: &ObjectKey,
        cron: &CronJob,
        status: CronJobStatus,
    ) -> Result<(), Error> {
        let after = CronJob { status: Some(status), ..cron.clone() };
        let api = Api::<CronJob>::namespaced(self.client.clone(), &key.namespace);
        match write::update(&api, cron, &after, Part::Status).await {
            Ok(written) => {
                self.writes.wrote(key, &written);
                Ok(())
            }
            Err(gone) if error::is_not_found(&gone) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn tell(&self, cron: &CronJob, notices: &[Notice]) {
        for notice in notices {
            let kind = if notice.warning { EventType::Warning } else { EventType::Normal };
            self.event(cron, kind, notice.reason, notice.message.clone());
        }
    }

    fn event(&self, cron: &CronJob, kind: EventType, reason: &str, message: impl Into<String>) {
        self.recorder.event(&object_ref(cron), kind, reason, message);
    }

    fn api(&self, key: &ObjectKey) -> Api<Job> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }
}

/// How long a CronJob whose schedule was changed is left alone: the new schedule begins with its
/// next time, and does not make up for what it would have started before.
fn pause_after(change: &Change<CronJob>) -> Option<Duration> {
    let Change::Updated { old, new } = change else { return None };
    let same = old.spec.schedule == new.spec.schedule && old.spec.time_zone == new.spec.time_zone;
    if same {
        return None;
    }
    Timetable::of(new).ok()?.wait(clock::now())
}

/// The controller, wired up.
pub(crate) fn controller(name: &'static str, context: &Context) -> Controller {
    let crons = context.informers.of::<CronJob>();
    let jobs = context.informers.of::<Job>();
    jobs.add_index(BY_CONTROLLER, |job| {
        controller_of(job).map(|owner| owner.uid.clone()).into_iter().collect()
    });
    let reconciler = CronJobs {
        client: context.client.clone(),
        recorder: context.recorder(name),
        crons: crons.clone(),
        jobs: jobs.clone(),
        writes: LastWrites::default(),
        unanswered: Mutex::default(),
    };
    let controller = Controller::new(name, reconciler);
    let queue = controller.queue();
    controller
        .watches(&crons, move |change| {
            let key = ObjectKey::of(&**change.object());
            match pause_after(change) {
                Some(pause) => {
                    queue.add_after(key, pause);
                    Vec::new()
                }
                None => vec![key],
            }
        })
        .owns::<Job, CronJob>(&jobs)
        .workers(context.settings.workers)
}

#[cfg(test)]
mod tests;
