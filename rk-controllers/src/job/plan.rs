//! Which Pods to make and which to delete. Pure.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::{
    backoff::{self, Backoff},
    indexes::Indexes,
    model::{View, index},
    observed::{Observed, count},
};
use crate::pods;

/// At most so many creations or deletions in one reconcile; the next one goes on.
const BURST: usize = 500;

/// A Pod to make.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Slot {
    /// Its completion index, in an Indexed Job.
    pub(super) index: Option<i32>,
    /// The failed Pod of the index whose count of failures it takes over.
    pub(super) replaces: Option<Arc<Pod>>,
}

/// What one reconcile does about the number of Pods. Deletions go before creations, so that a Job
/// that needs both never has too many.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Plan {
    /// The number is right.
    Keep,
    /// These are too many. They are not counted as failures.
    Delete(Vec<Arc<Pod>>),
    /// So many are missing.
    Create(Vec<Slot>),
    /// Some are missing, but after failures no Pod is made before this time is over.
    Wait(Duration),
}

/// Compares the active Pods of a Job that goes on with what it asks for.
pub(super) fn plan(view: &View<'_>, observed: &Observed, backoff: &Backoff) -> Plan {
    let active = count(observed.active.iter());
    if view.is_suspended() {
        let all = surplus(view, &observed.active, observed.active.len());
        return if all.is_empty() { Plan::Keep } else { Plan::Delete(all) };
    }
    let wanted = wanted_active(view, observed, active);
    let too_many = usize::try_from(active - wanted).unwrap_or(0);
    let mut doomed = surplus(view, &observed.active, too_many);
    if !doomed.is_empty() {
        doomed.truncate(BURST);
        return Plan::Delete(doomed);
    }
    let leaving = if view.replaces_only_failed() { count(observed.terminating.iter()) } else { 0 };
    match usize::try_from(wanted - active - leaving) {
        Ok(missing) if missing > 0 => create(view, observed, backoff, missing.min(BURST)),
        _ => Plan::Keep,
    }
}

/// How many Pods should run at the same time.
fn wanted_active(view: &View<'_>, observed: &Observed, active: i32) -> i32 {
    match view.spec.completions {
        // A work queue: after one success those that run finish, and no others start.
        None if observed.succeeded > 0 => active,
        None => view.parallelism(),
        Some(completions) => {
            completions.saturating_sub(observed.succeeded).min(view.parallelism()).max(0)
        }
    }
}

fn create(view: &View<'_>, observed: &Observed, backoff: &Backoff, missing: usize) -> Plan {
    if view.limit_per_index().is_none() {
        let pause = backoff.remaining(view.now);
        if !pause.is_zero() {
            return Plan::Wait(pause);
        }
    }
    if !view.is_indexed() {
        return Plan::Create(vec![Slot::default(); missing]);
    }
    let indexes = pending_indexes(view, observed, missing);
    if view.limit_per_index().is_none() {
        let slot = |index| Slot { index: Some(index), replaces: None };
        return created(indexes.into_iter().map(slot).collect());
    }
    // Each index has a pause of its own.
    let slots = indexes.into_iter().map(|index| Slot {
        index: Some(index),
        replaces: observed.awaiting_replacement.get(&index).cloned(),
    });
    let pause = |slot: &Slot| backoff::remaining_of_index(slot.replaces.as_deref(), view.now);
    let (due, waiting): (Vec<_>, Vec<_>) = slots.partition(|slot| pause(slot).is_zero());
    match waiting.iter().map(pause).min() {
        Some(shortest) if due.is_empty() => Plan::Wait(shortest),
        _ => created(due),
    }
}

fn created(slots: Vec<Slot>) -> Plan {
    if slots.is_empty() { Plan::Keep } else { Plan::Create(slots) }
}

/// The lowest indexes that have no Pod, did not succeed and are still to be tried.
fn pending_indexes(view: &View<'_>, observed: &Observed, most: usize) -> Vec<i32> {
    let of = |pods: &[Arc<Pod>]| pods.iter().filter_map(|pod| index(pod)).collect::<Indexes>();
    let mut taken = observed.succeeded_indexes.union(&of(&observed.active));
    if view.replaces_only_failed() {
        taken = taken.union(&of(&observed.terminating));
    }
    if let Some(failed) = &observed.failed_indexes {
        taken = taken.union(failed);
    }
    taken.first_missing(most, view.completions())
}

/// At least `at_least` of the active Pods, those first with which least is lost. Of an Indexed Job
/// also all Pods without a valid index, and all but one of each index.
fn surplus(view: &View<'_>, active: &[Arc<Pod>], at_least: usize) -> Vec<Arc<Pod>> {
    let mut rest = active.to_vec();
    rest.sort_by_cached_key(|pod| worth(pod));
    let mut doomed = Vec::new();
    if view.is_indexed() {
        // The last of each index is the one that is furthest.
        let mut best: BTreeMap<i32, Arc<Pod>> = BTreeMap::new();
        for pod in rest.drain(..) {
            match view.valid_index(&pod) {
                Some(index) => doomed.extend(best.insert(index, pod)),
                None => doomed.push(pod),
            }
        }
        rest = best.into_values().collect();
        rest.sort_by_cached_key(|pod| worth(pod));
    }
    let more = at_least.saturating_sub(doomed.len());
    doomed.extend(rest.into_iter().take(more));
    doomed
}

/// How much is lost with a Pod: least with one that is not bound, then one that is pending, not
/// ready, ready for a shorter time, restarted more often, younger.
fn worth(pod: &Pod) -> impl Ord + use<> {
    let phase = match pods::phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let containers =
        pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let restarts = containers.map(|container| container.restart_count).max().unwrap_or(0);
    let older = |time: Option<jiff::Timestamp>| std::cmp::Reverse(time);
    (
        (pods::node_name(pod).is_some(), phase, pods::is_ready(pod)),
        older(pods::ready_since(pod)),
        std::cmp::Reverse(restarts),
        older(pod.creation_timestamp().map(|time| time.0)),
        pod.name_any(),
    )
}
