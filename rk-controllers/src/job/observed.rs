//! What the Pods of a Job amount to. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::{batch::v1::UncountedTerminatedPods, core::v1::Pod};

use super::{
    backoff::finished_at,
    failure_policy::Judgement,
    indexes::Indexes,
    model::{FAILURES, View, earlier_failures, index, number, uid},
};
use crate::pods;

/// The Pods of a Job, sorted by what they mean for it.
#[derive(Debug, Default)]
pub(super) struct Observed {
    /// Neither over nor on their way out.
    pub(super) active: Vec<Arc<Pod>>,
    /// Active Pods that are ready.
    pub(super) ready: i32,
    /// Pods on their way out.
    pub(super) terminating: Vec<Arc<Pod>>,
    /// Succeeded and in no count yet.
    pub(super) new_succeeded: Vec<Arc<Pod>>,
    /// Failed and in no count yet.
    pub(super) new_failed: Vec<Arc<Pod>>,
    /// Successes in all; of an Indexed Job, indexes that succeeded.
    pub(super) succeeded: i32,
    /// Failures in all, those that a failure policy ignores left out.
    pub(super) failed: i32,
    /// Indexes that the status says succeeded.
    pub(super) counted_indexes: Indexes,
    /// These and those of Pods that succeeded since.
    pub(super) succeeded_indexes: Indexes,
    /// Indexes that are not tried again, of a Job with a limit for each index.
    pub(super) failed_indexes: Option<Indexes>,
    /// By index, the failed Pod whose count of failures the next Pod of the index takes over. It
    /// keeps its finalizer until then, of a Job with a limit for each index.
    pub(super) awaiting_replacement: BTreeMap<i32, Arc<Pod>>,
}

/// UIDs of Pods that the status lists as on their way into its counts.
pub(super) struct Uncounted<'a> {
    pub(super) succeeded: BTreeSet<&'a str>,
    pub(super) failed: BTreeSet<&'a str>,
}

impl<'a> Uncounted<'a> {
    pub(super) fn of(pods: Option<&'a UncountedTerminatedPods>) -> Self {
        let set = |uids: Option<&'a Vec<String>>| uids.into_iter().flatten().map(String::as_str);
        Self {
            succeeded: set(pods.and_then(|pods| pods.succeeded.as_ref())).collect(),
            failed: set(pods.and_then(|pods| pods.failed.as_ref())).collect(),
        }
    }
}

/// Sorts and counts the Pods of `view`.
pub(super) fn observe(view: &View<'_>) -> Observed {
    let pods_of = |keep: &dyn Fn(&Pod) -> bool| -> Vec<Arc<Pod>> {
        view.pods.iter().filter(|pod| keep(pod)).cloned().collect()
    };
    let uncounted = Uncounted::of(view.status.uncounted_terminated_pods.as_ref());
    let counts = |pod: &Pod| view.is_tracked(pod) && view.is_countable(pod);
    let active = pods_of(&|pod| pods::is_active(pod));
    let mut observed = Observed {
        ready: count(active.iter().filter(|pod| pods::is_ready(pod))),
        terminating: pods_of(&|pod| pods::is_deleting(pod) && !pods::is_terminal(pod)),
        new_succeeded: pods_of(&|pod| {
            counts(pod)
                && pods::phase(pod) == "Succeeded"
                && !uncounted.succeeded.contains(uid(pod))
        }),
        new_failed: pods_of(&|pod| {
            counts(pod) && view.has_failed(pod) && !uncounted.failed.contains(uid(pod))
        }),
        active,
        ..Observed::default()
    };
    let failures = observed.new_failed.iter().filter(|pod| view.judge(pod).counts());
    observed.failed =
        view.status.failed.unwrap_or(0) + count(failures) + count(uncounted.failed.iter());
    observed.succeeded = view.status.succeeded.unwrap_or(0)
        + count(observed.new_succeeded.iter())
        + count(uncounted.succeeded.iter());
    if view.is_indexed() {
        observe_indexes(view, &mut observed);
    }
    observed
}

fn observe_indexes(view: &View<'_>, observed: &mut Observed) {
    let completed = view.status.completed_indexes.as_deref().unwrap_or_default();
    observed.counted_indexes = Indexes::parse(completed, view.completions());
    // Without a look at `released`: what succeeded stays succeeded, and is a set.
    let succeeded = view
        .pods
        .iter()
        .filter(|pod| pods::phase(pod) == "Succeeded" && super::model::has_finalizer(pod));
    let succeeded: Indexes = succeeded.filter_map(|pod| view.valid_index(pod)).collect();
    observed.succeeded_indexes = observed.counted_indexes.union(&succeeded);
    observed.succeeded = observed.succeeded_indexes.len();
    if let Some(limit) = view.limit_per_index() {
        let listed = view.status.failed_indexes.as_deref().unwrap_or_default();
        let tracked = view.pods.iter().filter(|pod| super::model::has_finalizer(pod));
        let failed = tracked.filter(|pod| exhausts_index(view, pod, limit));
        let failed: Indexes = failed.filter_map(|pod| view.valid_index(pod)).collect();
        let failed = Indexes::parse(listed, view.completions()).union(&failed);
        observed.awaiting_replacement = awaiting_replacement(view, observed, &failed);
        observed.failed_indexes = Some(failed);
    }
}

/// Whether this failure is the last that the Pod's index may have.
fn exhausts_index(view: &View<'_>, pod: &Pod, limit: i32) -> bool {
    if !view.has_failed(pod) {
        return false;
    }
    match view.judge(pod) {
        Judgement::FailIndex => true,
        Judgement::Ignore => false,
        Judgement::Count | Judgement::FailJob(_) => number(pod, FAILURES).unwrap_or(0) >= limit,
    }
}

/// For each index that is to be tried again and has no active Pod, its last failed one.
fn awaiting_replacement(
    view: &View<'_>,
    observed: &Observed,
    failed_indexes: &Indexes,
) -> BTreeMap<i32, Arc<Pod>> {
    let active: BTreeSet<i32> = observed.active.iter().filter_map(|pod| index(pod)).collect();
    let mut last: BTreeMap<i32, Arc<Pod>> = BTreeMap::new();
    for pod in view.pods.iter().filter(|pod| view.is_tracked(pod) && view.has_failed(pod)) {
        let Some(index) = view.valid_index(pod) else { continue };
        if observed.succeeded_indexes.contains(index)
            || failed_indexes.contains(index)
            || active.contains(&index)
        {
            continue;
        }
        let age = |pod: &Pod| (earlier_failures(pod), finished_at(pod));
        let newer = last.get(&index).is_none_or(|other| age(pod) >= age(other));
        if newer {
            last.insert(index, pod.clone());
        }
    }
    last
}

/// How many there are, as a status counts.
pub(super) fn count<T>(items: impl Iterator<Item = T>) -> i32 {
    i32::try_from(items.count()).unwrap_or(i32::MAX)
}
