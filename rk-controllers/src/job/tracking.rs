//! Counting finished Pods once (KEP-2307). Pure.
//!
//! A finished Pod goes into a Job's counts in three writes, each of which can be the last that a
//! controller makes:
//!
//! 1. its UID is listed in `status.uncountedTerminatedPods`;
//! 2. its finalizer is taken away;
//! 3. its UID is taken from the list, and the count raised, in one write.
//!
//! A UID on the list whose Pod has no finalizer, or is gone, is one for which only the third write
//! is missing. Successes of an Indexed Job need no list: their indexes are a set.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::{
    api::{
        batch::v1::{JobStatus, UncountedTerminatedPods},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    conditions::{self, End},
    indexes::Indexes,
    model::{View, index, uid},
    observed::{Observed, Uncounted, count},
};
use crate::pods;

/// At most so many Pods are on the list at the same time, which bounds the size of a status and
/// how long one Job holds up others.
const LISTED_MAX: usize = 500;

/// The counting that one reconcile does.
#[derive(Debug)]
pub(super) struct Tracking {
    /// To be written before any finalizer goes.
    pub(super) listed: JobStatus,
    /// Pods whose finalizers go then.
    pub(super) release: Vec<Arc<Pod>>,
    /// UIDs of Pods that are still to be counted before that.
    tracked: BTreeSet<String>,
    /// Finished Pods are left for the next reconcile.
    more: bool,
}

/// Lists the Pods of `view` that ended, in `status`: that of the Job with the numbers of this
/// reconcile in it. `end` is how the Job ends, if it does.
pub(super) fn track(
    view: &View<'_>,
    observed: &Observed,
    end: Option<&End>,
    mut status: JobStatus,
) -> Tracking {
    let mut pods = view.pods.to_vec();
    if view.is_indexed() {
        // The status grows in the order of the indexes.
        pods.sort_by_key(|pod| index(pod));
    }
    let is_tracked = |pod: &Arc<Pod>| view.is_tracked(pod);
    let tracked: BTreeSet<String> =
        pods.iter().filter(|pod| is_tracked(pod)).map(|pod| uid(pod).to_owned()).collect();
    // What the last controller had no time for.
    settle(&mut status, &tracked);

    let had = status.uncounted_terminated_pods.take().unwrap_or_default();
    let known = Uncounted::of(Some(&had));
    let mut succeeded = had.succeeded.clone().unwrap_or_default();
    let mut failed = had.failed.clone().unwrap_or_default();
    let mut new_indexes = BTreeSet::new();
    let (mut release, mut more) = (Vec::new(), false);
    // Those on the list first: they make room on it.
    let is_listed =
        |pod: &Arc<Pod>| known.succeeded.contains(uid(pod)) || known.failed.contains(uid(pod));
    let (listed, others): (Vec<_>, Vec<_>) =
        pods.iter().filter(|pod| is_tracked(pod)).partition(|pod| is_listed(pod));
    for pod in listed.into_iter().chain(others) {
        if !may_be_released(view, observed, end, pod) {
            continue;
        }
        if release.len() >= LISTED_MAX {
            more = true;
            break;
        }
        release.push(pod.clone());
        let uid = uid(pod);
        if pods::phase(pod) == "Succeeded" && !known.failed.contains(uid) {
            match (view.is_indexed(), view.valid_index(pod)) {
                (true, Some(index)) => {
                    if !observed.counted_indexes.contains(index) {
                        new_indexes.insert(index);
                    }
                }
                (true, None) => {}
                (false, _) if known.succeeded.contains(uid) => {}
                (false, _) => succeeded.push(uid.to_owned()),
            }
        // In a Job that fails, a Pod that is not over has failed too.
        } else if (view.has_failed(pod) || end.is_some_and(|end| !end.is_success()))
            && view.is_countable(pod)
            && !known.failed.contains(uid)
            && view.judge(pod).counts()
        {
            failed.push(uid.to_owned());
        }
    }
    let list = |uids: Vec<String>| (!uids.is_empty()).then_some(uids);
    status.uncounted_terminated_pods =
        Some(UncountedTerminatedPods { succeeded: list(succeeded), failed: list(failed) });
    if view.is_indexed() {
        let indexes = observed.counted_indexes.union(&new_indexes.into_iter().collect::<Indexes>());
        status.succeeded = some_count(indexes.len());
        status.completed_indexes = Some(indexes.to_string()).filter(|text| !text.is_empty());
        status.failed_indexes = observed.failed_indexes.as_ref().map(ToString::to_string);
    }
    if let Some(end) = end {
        let announced = end.announced(view.now);
        conditions::set(status.conditions.get_or_insert_default(), announced);
    }
    Tracking { listed: status, release, tracked, more }
}

impl Tracking {
    /// The status after the finalizers of the Pods with UIDs `released` were taken away: `written`,
    /// which is what the server made of `listed`, with these Pods counted, and with the end if
    /// nothing stands in its way. Whether the end is reached.
    pub(super) fn settled(
        mut self,
        written: &JobStatus,
        released: &BTreeSet<String>,
        end: Option<&End>,
        view: &View<'_>,
    ) -> (JobStatus, bool) {
        let mut status = written.clone();
        self.tracked.retain(|uid| !released.contains(uid));
        settle(&mut status, &self.tracked);
        let waiting = status.uncounted_terminated_pods.as_ref().is_some_and(|pods| {
            let listed = [&pods.succeeded, &pods.failed];
            listed.into_iter().flatten().any(|uids| !uids.is_empty())
        });
        let Some(end) = end else { return (status, false) };
        if self.more || waiting || status.terminating.unwrap_or(0) > 0 {
            return (status, false);
        }
        conditions::set(status.conditions.get_or_insert_default(), end.reached(view.now));
        if end.is_success() {
            status.completion_time = Some(Time(view.now));
        }
        (status, true)
    }
}

/// Whether nothing needs the Pod any more, once it is listed.
fn may_be_released(view: &View<'_>, observed: &Observed, end: Option<&End>, pod: &Pod) -> bool {
    if view.is_deleting() || end.is_some() || pods::phase(pod) == "Succeeded" {
        return true;
    }
    let awaited = index(pod).and_then(|index| observed.awaiting_replacement.get(&index));
    view.has_failed(pod) && awaited.is_none_or(|awaited| uid(awaited) != uid(pod))
}

/// Counts the Pods on the list that have no finalizer any more.
fn settle(status: &mut JobStatus, tracked: &BTreeSet<String>) {
    let Some(listed) = &mut status.uncounted_terminated_pods else { return };
    let take = |uids: &mut Option<Vec<String>>, counter: &mut Option<i32>| {
        let Some(listed) = uids else { return };
        let before = count(listed.iter());
        listed.retain(|uid| tracked.contains(uid));
        let counted = before - count(listed.iter());
        *counter = some_count(counter.unwrap_or(0) + counted);
        if listed.is_empty() {
            *uids = None;
        }
    };
    take(&mut listed.succeeded, &mut status.succeeded);
    take(&mut listed.failed, &mut status.failed);
}

/// A count as the API writes it: zero is left out.
pub(super) fn some_count(count: i32) -> Option<i32> {
    Some(count).filter(|count| *count != 0)
}
