//! Which Pods and claims come, go or change next. Pure.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaim, Pod},
};
use kube::ResourceExt;

use super::{
    claims::{self, Ownership},
    identity,
    model::{self, Version},
    status::is_running_and_ready,
};
use crate::pods::{self, Availability};

/// At most so many steps of a phase in one reconcile; the next one goes on.
const BURST: usize = 500;

/// All that a decision rests on.
pub(super) struct World<'a> {
    /// The set.
    pub set: &'a StatefulSet,
    /// The version that Pods below the partition have.
    pub current: &'a Version,
    /// The version of the set's template.
    pub update: &'a Version,
    /// The Pods that the set owns.
    pub pods: &'a [Arc<Pod>],
    /// The claim of this name, if there is one.
    pub claim: &'a (dyn Fn(&str) -> Option<Arc<PersistentVolumeClaim>> + Sync),
    /// The time.
    pub now: Timestamp,
}

/// One thing to do.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Create these claims, then this Pod.
    Create {
        /// New.
        pod: Box<Pod>,
        /// Those of its claims that are missing.
        claims: Vec<PersistentVolumeClaim>,
    },
    /// The Pod cannot be created yet, and the user is told why.
    Refuse {
        /// Its name.
        pod: String,
        /// The reason.
        message: String,
    },
    /// Create claims that a Pod waits for.
    Claims {
        /// The Pod's name.
        pod: String,
        /// Those that are missing.
        claims: Vec<PersistentVolumeClaim>,
    },
    /// Give a Pod back its identity.
    Repair {
        /// As it is.
        before: Arc<Pod>,
        /// As it should be.
        after: Box<Pod>,
    },
    /// Change who owns a claim.
    Own {
        /// As it is.
        claim: Arc<PersistentVolumeClaim>,
        /// As it should be.
        ownership: Ownership,
    },
    /// Delete a Pod.
    Delete(Arc<Pod>),
}

/// Steps in phases: those of one phase may go side by side if the set is a parallel one; a phase
/// begins when all steps before it succeeded.
pub(super) type Plan = Vec<Vec<Step>>;

/// The Pods of a set by their place.
struct Places {
    /// Those whose ordinal is wanted.
    wanted: BTreeMap<i32, Arc<Pod>>,
    /// Those whose ordinal is not.
    surplus: BTreeMap<i32, Arc<Pod>>,
}

/// What the next steps are. A set that is being deleted takes none.
///
/// First every ordinal gets a healthy Pod, lowest first; then surplus Pods go, highest first; then
/// Pods of old versions go, highest first, to be made anew. Without the parallel policy each Pod
/// waits for the one before: nothing is made, scaled away or updated past a Pod that is not
/// available. This is also why an update that cannot get ready stays where it is, until the Pod is
/// deleted by hand.
pub(super) fn plan(world: &World<'_>) -> Plan {
    if world.set.metadata.deletion_timestamp.is_some() {
        return Plan::new();
    }
    let ordered = !model::is_parallel(world.set);
    let places = world.places();

    let mut tending = Vec::new();
    // There may be more ordinals than memory: they are gone through, never collected.
    for ordinal in model::ordinals(world.set) {
        let (steps, healthy) = world.tend(ordinal, places.wanted.get(&ordinal));
        tending.extend(steps);
        if (ordered && !healthy) || tending.len() >= BURST {
            return vec![tending];
        }
    }
    let surplus = places.surplus.iter().rev();
    let given_away = surplus.flat_map(|(ordinal, pod)| world.own_claims(*ordinal, pod)).collect();
    let mut phases = vec![tending, given_away, world.scale_down(&places, ordered)];
    if !ordered || places.surplus.is_empty() {
        phases.push(world.replace_old(&places));
    }
    phases.retain(|phase| !phase.is_empty());
    phases.iter_mut().for_each(|phase| phase.truncate(BURST));
    phases
}

impl World<'_> {
    /// A Pod whose name has no ordinal has no place.
    fn places(&self) -> Places {
        let named = self
            .pods
            .iter()
            .filter_map(|pod| Some((model::ordinal(self.set, &pod.name_any())?, pod.clone())));
        let (wanted, surplus) = named.partition(|(ordinal, _)| model::in_range(self.set, *ordinal));
        Places { wanted, surplus }
    }

    /// What an ordinal needs, and whether its Pod is one that others need not wait for.
    fn tend(&self, ordinal: i32, pod: Option<&Arc<Pod>>) -> (Vec<Step>, bool) {
        let Some(pod) = pod else {
            return (self.create(ordinal).into_iter().collect(), false);
        };
        if pods::is_deleting(pod) {
            return (Vec::new(), false);
        }
        if pods::is_terminal(pod) {
            return (vec![Step::Delete(pod.clone())], false);
        }
        let mut steps = Vec::new();
        if pods::phase(pod) == "Pending" {
            let claims = self.missing_claims(ordinal);
            if !claims.is_empty() {
                steps.push(Step::Claims { pod: pod.name_any(), claims });
            }
        }
        let healthy = is_running_and_ready(pod) && self.is_available(pod);
        if healthy || model::is_parallel(self.set) {
            if let Some(after) = identity::repaired(self.set, pod, ordinal) {
                steps.push(Step::Repair { before: pod.clone(), after: Box::new(after) });
            }
            steps.extend(self.own_claims(ordinal, pod));
        }
        (steps, healthy)
    }

    fn create(&self, ordinal: i32) -> Option<Step> {
        let name = model::pod_name(self.set, ordinal);
        let present: Vec<_> = claims::names(self.set, ordinal)
            .iter()
            .filter_map(|(_, claim)| (self.claim)(claim))
            .collect();
        if present.iter().any(|claim| claims::is_stale(self.set, ordinal, claim)) {
            return None;
        }
        if let Some(going) = present.iter().find(|it| it.metadata.deletion_timestamp.is_some()) {
            let message = format!("pvc {} is being deleted", going.name_any());
            return Some(Step::Refuse { pod: name, message });
        }
        let pod = Box::new(identity::new_pod(self.set, self.version_of(ordinal), ordinal));
        Some(Step::Create { pod, claims: self.missing_claims(ordinal) })
    }

    /// The version that a Pod of this ordinal is made from now.
    fn version_of(&self, ordinal: i32) -> &Version {
        if model::is_on_delete(self.set) {
            return self.update;
        }
        let status = self.set.status.as_ref();
        let kept = model::partition(self.set)
            .or_else(|| status.and_then(|status| status.current_replicas))
            .unwrap_or(0);
        let is_kept = ordinal < model::start(self.set).saturating_add(kept);
        if is_kept { self.current } else { self.update }
    }

    fn missing_claims(&self, ordinal: i32) -> Vec<PersistentVolumeClaim> {
        let claims = claims::new_claims(self.set, ordinal).into_iter();
        claims.filter(|claim| (self.claim)(&claim.name_any()).is_none()).collect()
    }

    /// The claims of a Pod that should have other owners.
    fn own_claims(&self, ordinal: i32, pod: &Pod) -> Vec<Step> {
        let names = claims::names(self.set, ordinal).into_iter();
        let claims = names.filter_map(|(_, claim)| (self.claim)(&claim));
        claims
            .filter_map(|claim| {
                let ownership = claims::ownership(self.set, pod, ordinal, &claim)?;
                Some(Step::Own { claim, ownership })
            })
            .collect()
    }

    /// Surplus Pods that go now: all, or without the parallel policy the highest, if it and the one
    /// before it are as they should be.
    fn scale_down(&self, places: &Places, ordered: bool) -> Vec<Step> {
        let surplus = &places.surplus;
        if !ordered {
            let staying = surplus.values().rev().filter(|pod| !pods::is_deleting(pod));
            return staying.map(|pod| Step::Delete(pod.clone())).collect();
        }
        let Some(highest) = surplus.values().next_back() else { return Vec::new() };
        // Every wanted Pod is available here. Of the others that are not only the lowest may go; but
        // to wait for one that has ended is to wait for ever, which Kubernetes does.
        let lowest_unavailable = surplus.values().find(|pod| !self.serves(pod));
        let done = pods::is_terminal(highest)
            || is_running_and_ready(highest) && self.is_available(highest);
        let may_go = done || lowest_unavailable.is_some_and(|pod| Arc::ptr_eq(pod, highest));
        match !pods::is_deleting(highest) && may_go {
            true => vec![Step::Delete(highest.clone())],
            false => Vec::new(),
        }
    }

    /// Pods of old versions that go now to be made anew, highest first: so many that together with
    /// those that are not available anyway they are at most maxUnavailable.
    ///
    /// An old Pod that is not available costs nothing, so with the parallel policy it goes in any
    /// case: this is how an update that cannot get ready is mended by the next. (Kubernetes 1.35
    /// and later count it and stay stuck; before, they replaced such Pods too.)
    fn replace_old(&self, places: &Places) -> Vec<Step> {
        if model::is_on_delete(self.set) {
            return Vec::new();
        }
        let serving = places.wanted.values().filter(|pod| self.serves(pod)).count();
        let count = |number: i32| usize::try_from(number).unwrap_or(0);
        let unavailable = count(model::replicas(self.set)).saturating_sub(serving);
        let mut budget = count(model::max_unavailable(self.set)).saturating_sub(unavailable);
        let first = model::start(self.set).saturating_add(model::partition(self.set).unwrap_or(0));
        let mut steps = Vec::new();
        for pod in places.wanted.range(first..).rev().map(|(_, pod)| pod) {
            // An ended one goes anyway; what is going need not be deleted again.
            let is_old = model::revision(pod) != self.update.name && pods::is_active(pod);
            if !is_old {
                continue;
            }
            if self.serves(pod) {
                if budget == 0 {
                    continue;
                }
                budget -= 1;
            }
            steps.push(Step::Delete(pod.clone()));
        }
        steps
    }

    /// Available, and not on its way out.
    fn serves(&self, pod: &Pod) -> bool {
        self.is_available(pod) && !pods::is_deleting(pod)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        let min_ready = model::min_ready_seconds(self.set);
        pods::availability(pod, min_ready, self.now) == Availability::Now
    }
}
