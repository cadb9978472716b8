//! Which nodes get a Pod and which Pods go. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Node, Pod},
};
use kube::ResourceExt;

use super::{
    model,
    placement::{self, Place},
};
use crate::pods::{self, Availability};

/// At most so many creations and so many deletions in one reconcile; the next one goes on.
const BURST: usize = 250;

/// All that a decision rests on.
pub(super) struct World<'a> {
    /// The set.
    pub set: &'a DaemonSet,
    /// The hash of its present template's revision.
    pub hash: &'a str,
    /// What each node is to the set.
    pub nodes: BTreeMap<String, Place>,
    /// The Pods of the set by the node that they are on or made for, the one that counts first.
    pub pods: BTreeMap<String, Vec<Arc<Pod>>>,
    /// How long the node's failed Pod must stay yet.
    pub backoff: &'a (dyn Fn(&str) -> Option<Duration> + Sync),
    /// The time.
    pub now: Timestamp,
}

/// What one reconcile does.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// These nodes get a Pod.
    pub create: Vec<String>,
    /// These Pods go.
    pub delete: Vec<Arc<Pod>>,
    /// Of those that go, the ones that ended by themselves, each with its node.
    pub ended: Vec<(String, Arc<Pod>)>,
    /// When a failed Pod may go that has to wait.
    pub look_again: Option<Duration>,
}

impl<'a> World<'a> {
    /// Sorts nodes and Pods. A Pod that ended and is being deleted is as good as gone.
    pub(super) fn new(
        set: &'a DaemonSet,
        hash: &'a str,
        nodes: &[Arc<Node>],
        owned: &[Arc<Pod>],
        backoff: &'a (dyn Fn(&str) -> Option<Duration> + Sync),
        now: Timestamp,
    ) -> Self {
        let nodes = nodes.iter().map(|node| (node.name_any(), placement::place(set, node)));
        let mut pods: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
        let there = owned.iter().filter(|pod| !(pods::is_deleting(pod) && pods::is_terminal(pod)));
        for (node, pod) in there.filter_map(|pod| Some((placement::target(pod)?, pod))) {
            pods.entry(node.to_owned()).or_default().push(pod.clone());
        }
        pods.values_mut().for_each(|pods| pods.sort_by_cached_key(|pod| by_precedence(pod)));
        Self { set, hash, nodes: nodes.collect(), pods, backoff, now }
    }

    /// The Pods of a node.
    pub(super) fn on(&self, node: &str) -> &[Arc<Pod>] {
        self.pods.get(node).map(Vec::as_slice).unwrap_or_default()
    }

    /// The names of the nodes that are to have a Pod.
    pub(super) fn wanted(&self) -> impl Iterator<Item = &str> {
        let wanted = self.nodes.iter().filter(|(_, place)| **place == Place::Wanted);
        wanted.map(|(node, _)| node.as_str())
    }

    fn is_available(&self, pod: &Pod) -> bool {
        let min_ready = model::min_ready_seconds(self.set);
        pods::availability(pod, min_ready, self.now) == Availability::Now
    }

    fn is_updated(&self, pod: &Pod) -> bool {
        model::is_updated(self.set, pod, self.hash)
    }
}

/// Bound Pods first, then the oldest.
fn by_precedence(pod: &Pod) -> impl Ord + use<> {
    let created = pod.creation_timestamp().map(|time| time.0);
    (pods::node_name(pod).is_none(), created, pod.name_any())
}

/// What to do next: first each node gets the Pod that it lacks and loses those that it should not
/// have; when there is nothing of this left to do, the update goes on.
pub(super) fn plan(world: &World<'_>) -> Plan {
    let mut plan = manage(world);
    if plan.create.is_empty() && plan.delete.is_empty() && !model::is_on_delete(world.set) {
        let bounds = model::bounds(world.set, world.wanted().count());
        let update = match bounds.surge {
            0 => replace(world, bounds.unavailable),
            surge => surge_over(world, surge),
        };
        plan = Plan { look_again: plan.look_again, ..update };
    }
    plan.create.truncate(BURST);
    plan.delete.truncate(BURST);
    let going: BTreeSet<_> = plan.delete.iter().map(|pod| pod.name_any()).collect();
    plan.ended.retain(|(_, pod)| going.contains(&pod.name_any()));
    plan
}

fn manage(world: &World<'_>) -> Plan {
    let mut plan = Plan::default();
    for (node, place) in &world.nodes {
        match place {
            Place::Refused => plan.delete.extend(staying(world.on(node))),
            Place::Wanted | Place::Kept => tend(world, node, *place, &mut plan),
        }
    }
    // A Pod made for a node that is gone is never bound, so nobody else collects it.
    let lost = world.pods.iter().filter(|(node, _)| !world.nodes.contains_key(*node));
    let unbound = lost.flat_map(|(_, pods)| staying(pods));
    plan.delete.extend(unbound.filter(|pod| pods::node_name(pod).is_none()));
    plan
}

fn staying(pods: &[Arc<Pod>]) -> impl Iterator<Item = Arc<Pod>> {
    pods.iter().filter(|pod| !pods::is_deleting(pod)).cloned()
}

/// A node that may have a Pod.
fn tend(world: &World<'_>, node: &str, place: Place, plan: &mut Plan) {
    let there = world.on(node);
    if there.is_empty() {
        if place == Place::Wanted {
            plan.create.push(node.to_owned());
        }
        return;
    }
    let mut running = Vec::new();
    for pod in staying(there) {
        match pods::phase(&pod) {
            "Failed" => match (world.backoff)(node) {
                // Deleting it at once would have it made and refused again in a hot loop.
                Some(wait) => {
                    plan.look_again = Some(plan.look_again.map_or(wait, |other| other.min(wait)));
                }
                None => plan.ended.push((node.to_owned(), pod)),
            },
            "Succeeded" => plan.ended.push((node.to_owned(), pod)),
            _ => running.push(pod),
        }
    }
    let ended = plan.ended.iter().filter(|(of, _)| of == node).map(|(_, pod)| pod.clone());
    plan.delete.extend(ended.collect::<Vec<_>>());

    if !model::surges(world.set) {
        plan.delete.extend(running.into_iter().skip(1));
        return;
    }
    if running.is_empty() && place == Place::Wanted {
        // While the old one ends, which may take long, the node need not be without.
        plan.create.push(node.to_owned());
    }
    prune_surged(world, running, plan);
}

/// Leaves of more than one running Pods of a node two at most, one of each version: the old one
/// until the new one is available, if it is ready itself.
fn prune_surged(world: &World<'_>, running: Vec<Arc<Pod>>, plan: &mut Plan) {
    if running.len() < 2 {
        return;
    }
    let (mut new, mut old): (Vec<_>, Vec<_>) =
        running.into_iter().partition(|pod| world.is_updated(pod));
    // Updated again before the last update was over, a node has two old Pods: the one that serves
    // stays, where Kubernetes keeps the older one.
    new.sort_by_key(|pod| !world.is_available(pod));
    old.sort_by_key(|pod| !world.is_available(pod));
    if let (Some(new), Some(old)) = (new.first(), old.first())
        && (!pods::is_ready(old) || world.is_available(new))
    {
        plan.delete.push(old.clone());
    }
    plan.delete.extend(new.into_iter().skip(1).chain(old.into_iter().skip(1)));
}

/// The one new and the one old Pod of a node that stay; `None` if there are more of either.
type Pair = Option<(Option<Arc<Pod>>, Option<Arc<Pod>>)>;

fn pair(world: &World<'_>, node: &str) -> Pair {
    let (new, old): (Vec<_>, Vec<_>) =
        staying(world.on(node)).partition(|pod| world.is_updated(pod));
    match (new.as_slice(), old.as_slice()) {
        ([_, _, ..], _) | (_, [_, _, ..]) => None,
        (new, old) => Some((new.first().cloned(), old.first().cloned())),
    }
}

/// Nodes that have a Pod or are to have one.
fn concerned<'a>(world: &'a World<'_>) -> BTreeSet<&'a str> {
    world.pods.keys().map(String::as_str).chain(world.wanted()).collect()
}

/// An update that deletes first: old Pods that are not available go in any case, the others as far
/// as that leaves no more than `limit` nodes without an available Pod.
fn replace(world: &World<'_>, limit: usize) -> Plan {
    let mut unavailable = 0;
    let (mut free, mut costly) = (Vec::new(), Vec::new());
    for node in concerned(world) {
        match pair(world, node) {
            Some((Some(new), None)) if world.is_available(&new) => {}
            Some((None, Some(old))) if world.is_available(&old) => costly.push(old),
            Some((None, Some(old))) => {
                unavailable += 1;
                free.push(old);
            }
            // What else there is on the node has to be sorted out or made first.
            _ => unavailable += 1,
        }
    }
    costly.truncate(limit.saturating_sub(unavailable));
    Plan { delete: free.into_iter().chain(costly).collect(), ..Plan::default() }
}

/// An update that creates first: on nodes whose old Pod is not available in any case, on others as
/// far as that leaves no more than `limit` nodes with a new Pod that is not available yet. An old
/// Pod goes when the new one is available.
fn surge_over(world: &World<'_>, limit: usize) -> Plan {
    let mut plan = Plan::default();
    let (mut surging, mut available) = (0, 0);
    let (mut costly, mut misplaced) = (Vec::new(), Vec::new());
    for node in concerned(world) {
        let Some((new, old)) = pair(world, node) else {
            surging += 1;
            continue;
        };
        let counted = old.as_ref().or(new.as_ref());
        available += usize::from(counted.is_some_and(|pod| world.is_available(pod)));
        let wanted = world.nodes.get(node) == Some(&Place::Wanted);
        match (new, old) {
            (_, None) => {}
            (Some(new), Some(old)) => match world.is_available(&new) {
                true => plan.delete.push(old),
                false => surging += 1,
            },
            (None, Some(old)) => match (wanted, world.is_available(&old)) {
                (true, true) => costly.push(node.to_owned()),
                (true, false) => plan.create.push(node.to_owned()),
                (false, true) => misplaced.push(old),
                (false, false) => plan.delete.push(old),
            },
        }
    }
    // A Pod on a node that is not wanted any more serves until others do in its place.
    misplaced.truncate(available.saturating_sub(world.wanted().count()));
    costly.truncate(limit.saturating_sub(surging));
    plan.delete.extend(misplaced);
    plan.create.extend(costly);
    plan
}
