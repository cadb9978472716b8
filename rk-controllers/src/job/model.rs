//! A Job and its Pods as one reconcile sees them. Pure.

use std::{collections::HashSet, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::{Job, JobSpec, JobStatus},
    core::v1::Pod,
};
use kube::ResourceExt;

use super::failure_policy;
use crate::pods;

/// Keeps a finished Pod until it is counted (KEP-2307).
pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Annotation and label of a Pod of an Indexed Job.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How often Pods of this index failed before, as far as it counts (KEP-3850).
pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// How often Pods of this index failed before in a way that a failure policy ignores.
pub(super) const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// The value of `spec.managedBy` that means this controller.
const OURS: &str = "kubernetes.io/job-controller";

/// Whether Complete or Failed is true: nothing about the Job changes any more.
pub(crate) fn is_finished(job: &Job) -> bool {
    finished_as(job).is_some()
}

/// `Complete` or `Failed`, of a Job that is over.
pub(crate) fn finished_as(job: &Job) -> Option<&'static str> {
    let has = |kind: &str| {
        let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions
            .into_iter()
            .any(|condition| condition.type_ == kind && condition.status == "True")
    };
    ["Complete", "Failed"].into_iter().find(|kind| has(kind))
}

/// Whether some other controller looks after the Job (KEP-4368).
pub(super) fn is_managed_elsewhere(job: &Job) -> bool {
    let manager = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
    manager.is_some_and(|manager| manager != OURS)
}

/// Whether the Pod carries the tracking finalizer.
pub(super) fn has_finalizer(pod: &Pod) -> bool {
    pod.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

/// What one reconcile looks at.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) job: &'a Job,
    pub(super) spec: &'a JobSpec,
    pub(super) status: &'a JobStatus,
    /// All that belong to the Job, as the cache shows them.
    pub(super) pods: &'a [Arc<Pod>],
    /// UIDs of Pods whose finalizer was taken away, which the cache may not show yet.
    pub(super) released: &'a HashSet<String>,
    /// In whole seconds.
    pub(super) now: Timestamp,
}

impl View<'_> {
    pub(super) fn is_deleting(&self) -> bool {
        self.job.metadata.deletion_timestamp.is_some()
    }

    pub(super) fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    pub(super) fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    pub(super) fn parallelism(&self) -> i32 {
        self.spec.parallelism.unwrap_or(1)
    }

    /// How many Pods have to succeed; 0 for an Indexed Job without, which validation refuses.
    pub(super) fn completions(&self) -> i32 {
        self.spec.completions.unwrap_or(0)
    }

    /// The limit of failures of each index, if the Job has one.
    pub(super) fn limit_per_index(&self) -> Option<i32> {
        self.spec.backoff_limit_per_index.filter(|_| self.is_indexed())
    }

    /// Whether a Pod that terminates keeps its place until it is over. A failure policy has to see
    /// how it ended (KEP-3939).
    pub(super) fn replaces_only_failed(&self) -> bool {
        self.spec.pod_replacement_policy.as_deref() == Some("Failed")
            || self.spec.pod_failure_policy.is_some()
    }

    /// Still to be counted: it has its finalizer, and we did not take it away.
    pub(super) fn is_tracked(&self, pod: &Pod) -> bool {
        has_finalizer(pod) && !self.released.contains(uid(pod))
    }

    /// Whether the Pod failed, or is taken for failed because it is on its way out: one that was on
    /// a lost node never gets to say how it ended.
    pub(super) fn has_failed(&self, pod: &Pod) -> bool {
        match pods::phase(pod) {
            "Failed" => true,
            "Succeeded" => false,
            _ => !self.replaces_only_failed() && pods::is_deleting(pod),
        }
    }

    /// What the Job's failure policy says of a Pod that failed.
    pub(super) fn judge(&self, pod: &Pod) -> failure_policy::Judgement {
        failure_policy::judge(self.spec.pod_failure_policy.as_ref(), pod)
    }

    /// The Pod's index, if it is one of this Job's.
    pub(super) fn valid_index(&self, pod: &Pod) -> Option<i32> {
        index(pod).filter(|index| *index < self.completions())
    }

    /// Whether the Pod counts for the Job at all: those of an Indexed Job need a valid index.
    pub(super) fn is_countable(&self, pod: &Pod) -> bool {
        !self.is_indexed() || self.valid_index(pod).is_some()
    }
}

/// The completion index that a Pod was made for.
pub(super) fn index(pod: &Pod) -> Option<i32> {
    number(pod, INDEX)
}

/// An annotation that holds a number of at least 0.
pub(super) fn number(pod: &Pod, annotation: &str) -> Option<i32> {
    let number = pod.annotations().get(annotation)?.parse().ok()?;
    (number >= 0).then_some(number)
}

/// All failures of the Pod's index before this Pod.
pub(super) fn earlier_failures(pod: &Pod) -> i32 {
    let count = |annotation| number(pod, annotation).unwrap_or(0);
    count(FAILURES).saturating_add(count(IGNORED_FAILURES))
}

/// `metadata.uid`.
pub(super) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}
