//! What to do about a Deployment: which ReplicaSet to make, how to size each, which to drop, and
//! what to report. Pure.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::ResourceExt;

use super::{
    model::{self, REVISION, desired, size},
    rollback::{self, Rollback},
    template_hash::{same_template, template_hash},
};
use crate::owners::controller_ref;

/// The writes of one reconcile, in the order in which they are made.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// A ReplicaSet for a template that has none.
    pub create: Option<ReplicaSet>,
    /// ReplicaSets whose size or annotations change.
    pub resize: Vec<Resize>,
    /// ReplicaSets that the history limit leaves no room for.
    pub delete: Vec<ReplicaSet>,
    /// An earlier template takes the place of the Deployment's, in place of a report.
    pub rollback: Option<Rollback>,
    /// The revision that the Deployment is to carry, if it carries another.
    pub revision: Option<String>,
    /// The status after all this.
    pub status: DeploymentStatus,
    /// When to look again because the progress deadline passes.
    pub requeue_after: Option<Duration>,
}

/// One ReplicaSet before and after.
#[derive(Debug)]
pub(super) struct Resize {
    /// As the cache has it; the write is refused if it changed since.
    pub before: Arc<ReplicaSet>,
    /// As it should be.
    pub after: ReplicaSet,
}

/// Decides from the Deployment, the ReplicaSets it owns, and whether Pods of an old one still run
/// (only looked at for strategy Recreate).
pub(super) fn plan(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    old_pods_run: impl FnOnce(Option<&str>) -> bool,
    now: Timestamp,
) -> Plan {
    let mut rollout = Rollout::observe(deployment, sets, now);
    if deployment.metadata.deletion_timestamp.is_some() {
        rollout.sync_status();
    } else {
        rollout.note_pause_and_resume();
        let rollback = rollback::requested(deployment);
        if model::is_paused(deployment) {
            rollout.scale();
            // What is asked for must be there when the Deployment is resumed.
            if rollback.is_none() {
                rollout.clean_up_history();
            }
            rollout.sync_status();
        } else if let Some(revision) = rollback {
            rollout.roll_back(revision);
        } else if rollout.is_scaling_event() {
            rollout.scale();
            rollout.sync_status();
        } else if model::is_recreate(deployment) {
            rollout.recreate(old_pods_run);
            rollout.sync_progress();
        } else {
            rollout.roll();
            rollout.sync_progress();
        }
    }
    rollout.into_plan()
}

/// The state of a roll-out while a plan for it is made.
pub(super) struct Rollout<'a> {
    pub(super) deployment: &'a Deployment,
    pub(super) now: Timestamp,
    /// As observed, in the order of `sets`.
    before: &'a [Arc<ReplicaSet>],
    /// The owned ReplicaSets as they will be; a new one comes last.
    pub(super) sets: Vec<ReplicaSet>,
    /// Which of `sets` has the Deployment's template.
    pub(super) new: Option<usize>,
    /// Which of `sets` are to be deleted.
    pub(super) doomed: Vec<usize>,
    /// The status with conditions as far as they are known.
    pub(super) status: DeploymentStatus,
    pub(super) requeue_after: Option<Duration>,
    pub(super) rollback: Option<Rollback>,
}

impl<'a> Rollout<'a> {
    fn observe(deployment: &'a Deployment, before: &'a [Arc<ReplicaSet>], now: Timestamp) -> Self {
        let sets: Vec<ReplicaSet> = before.iter().map(|set| (**set).clone()).collect();
        let mut rollout = Self {
            deployment,
            now,
            before,
            sets,
            new: None,
            doomed: Vec::new(),
            status: deployment.status.clone().unwrap_or_default(),
            requeue_after: None,
            rollback: None,
        };
        rollout.new = rollout.find_new();
        if let Some(new) = rollout.new {
            rollout.annotate_existing(new);
        }
        rollout
    }

    /// The set with the Deployment's template. Should there be several, the oldest: a fixed
    /// choice, so that two of them never take turns.
    fn find_new(&self) -> Option<usize> {
        let template = &self.deployment.spec.template;
        let matching = (0..self.sets.len()).filter(|set| {
            model::template(&self.sets[*set]).is_some_and(|theirs| same_template(theirs, template))
        });
        matching.min_by_key(|set| model::by_age(&self.sets[*set]))
    }

    /// All sets but the new one, oldest first.
    pub(super) fn old(&self) -> Vec<usize> {
        let mut old: Vec<usize> =
            (0..self.sets.len()).filter(|set| Some(*set) != self.new).collect();
        old.sort_by_key(|set| model::by_age(&self.sets[*set]));
        old
    }

    /// Makes the ReplicaSet for the Deployment's template, sized as the strategy allows.
    pub(super) fn create_new(&mut self) {
        let spec = model::spec(self.deployment);
        let hash = template_hash(&spec.template, self.status.collision_count);
        let mut template = spec.template;
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(model::POD_TEMPLATE_HASH.into(), hash.clone());
        let labels = labels.clone();
        let mut selector = spec.selector;
        selector
            .match_labels
            .get_or_insert_default()
            .insert(model::POD_TEMPLATE_HASH.into(), hash.clone());

        let set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", self.deployment.name_any())),
                namespace: self.deployment.namespace(),
                labels: Some(labels),
                owner_references: Some(vec![controller_ref(self.deployment)]),
                ..Default::default()
            },
            spec: ReplicaSetSpec {
                replicas: Some(0),
                min_ready_seconds: spec.min_ready_seconds,
                selector,
                template: Some(template),
            },
            status: None,
        };
        self.sets.push(set);
        let new = self.sets.len() - 1;
        self.new = Some(new);
        let replicas = self.room_for_new(new);
        model::set_size(&mut self.sets[new], replicas);
        self.annotate_created(new);
    }

    /// Rolling update: first room for the new, then less of the old.
    fn roll(&mut self) {
        if self.new.is_none() {
            self.create_new();
        }
        let Some(new) = self.new else { return };
        // One step at a time: the next one is decided when the caches show this one, so a single
        // reconcile never spends the surge and the unavailability on the same Pods.
        if !self.grow_new(new) && !self.shrink_old() && self.is_complete(&self.reported()) {
            self.clean_up_history();
        }
    }

    /// Recreate: every old Pod gone before the first new one.
    fn recreate(&mut self, old_pods_run: impl FnOnce(Option<&str>) -> bool) {
        let mut scaled_down = false;
        for old in self.old() {
            if size(&self.sets[old]) != 0 {
                self.resize(old, 0);
                scaled_down = true;
            }
        }
        let new_uid = self.new.and_then(|new| self.sets[new].uid());
        let old_pods = self.old().into_iter().any(|old| model::actual(&self.sets[old]) > 0);
        if scaled_down || old_pods || old_pods_run(new_uid.as_deref()) {
            return;
        }
        if self.new.is_none() {
            self.create_new();
        }
        let Some(new) = self.new else { return };
        self.resize(new, desired(self.deployment));
        if self.is_complete(&self.reported()) {
            self.clean_up_history();
        }
    }

    /// The status as the API has it.
    pub(super) fn reported(&self) -> DeploymentStatus {
        self.deployment.status.clone().unwrap_or_default()
    }

    fn into_plan(self) -> Plan {
        let observed = self.before.len();
        let revision = self
            .new
            .and_then(|new| model::annotation(&self.sets[new], REVISION).map(str::to_owned));
        let carried = self.deployment.annotations().get(REVISION);
        let mut plan = Plan {
            revision: revision.filter(|revision| Some(revision) != carried),
            status: self.status,
            requeue_after: self.requeue_after,
            rollback: self.rollback,
            ..Default::default()
        };
        for (index, after) in self.sets.into_iter().enumerate() {
            if index >= observed {
                plan.create = Some(after);
            } else if self.doomed.contains(&index) {
                plan.delete.push(after);
            } else if after != *self.before[index] {
                plan.resize.push(Resize { before: self.before[index].clone(), after });
            }
        }
        plan
    }
}
