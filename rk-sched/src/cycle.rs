use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::core::v1::Pod;
use rk_api::rng::{self, Rng};

use crate::{
    Code, Diagnosis, FitError, NodeInfo, PodInfo, Profile, Snapshot, Status, Unschedulable,
    framework::{CycleState, MAX_NODE_SCORE, Nomination, PostFiltered, PreFiltered},
};

mod shared;
#[cfg(test)]
mod tests;

use shared::SharedWork;

/// From this many nodes on, not all are looked at for each Pod.
const FEASIBLE_NODES_MIN: usize = 100;
/// The smallest part of the nodes that is looked at.
const PERCENTAGE_MIN: usize = 5;

/// Where a Pod goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The node.
    pub node: String,
    /// How many nodes were found possible.
    pub feasible: usize,
}

/// Places one Pod after the other on the nodes of a [`Snapshot`].
///
/// A cycle goes the way described at [`framework`](crate::framework), from `PreFilter` to `Score`.
/// Of several nodes with the best score one is drawn; a seeded source makes that repeatable.
///
/// # Equal Pods share work
///
/// Pods whose plugins all [sign](crate::framework::Plugin::sign) them alike have the same possible
/// nodes and the same scores. From the second such Pod on these are kept, and corrected for the
/// nodes that changed since: after a Pod is assumed that is one node, however many there are. For
/// such Pods all nodes take part.
///
/// The first of its kind, and a Pod that cannot share, has a cycle of its own, in which the search
/// ends as upstream's does: as soon as enough nodes are possible, by `percentageOfNodesToScore`,
/// beginning where the last search ended.
#[derive(Debug)]
pub struct Scheduler {
    profile: Arc<Profile>,
    rng: Rng,
    shared: SharedWork,
    next_start: usize,
}

impl Scheduler {
    /// A scheduler whose draws come from the thread's source (see [`rk_api::rng`]).
    pub fn new(profile: Profile) -> Self {
        Self::with_rng(profile, rng::fork())
    }

    /// A scheduler with its own source for draws.
    pub fn with_rng(profile: Profile, rng: Rng) -> Self {
        Self { profile: Arc::new(profile), rng, shared: SharedWork::default(), next_start: 0 }
    }

    /// The profile.
    pub fn profile(&self) -> &Arc<Profile> {
        &self.profile
    }

    /// Names the node for a Pod, or says why there is none.
    pub fn schedule(&mut self, snapshot: &Snapshot, pod: &Pod) -> Result<Placement, Unschedulable> {
        self.schedule_info(snapshot, &PodInfo::from(pod))
    }

    /// The same for a Pod that was looked through before.
    pub fn schedule_info(
        &mut self,
        snapshot: &Snapshot,
        pod: &PodInfo,
    ) -> Result<Placement, Unschedulable> {
        if snapshot.nodes().is_empty() {
            return Err(Unschedulable::NoNodes);
        }
        let alone = snapshot.nominated().iter().all(|(other, _)| other.uid == pod.uid);
        let shares = alone && pod.nominated_node().is_none();
        let shared = if shares {
            self.shared.find(&self.profile, snapshot, pod, &mut self.rng)?
        } else {
            None
        };
        let found = match shared {
            Some(found) => found,
            None => self.find_alone(snapshot, pod)?,
        };
        match found {
            Found::Node { index, feasible } => {
                let node = snapshot.nodes()[index as usize].name.to_string();
                Ok(Placement { node, feasible })
            }
            Found::None(diagnosis) => Err(self.post_filter(snapshot, pod, diagnosis)),
        }
    }

    /// A cycle that shares nothing.
    fn find_alone(&mut self, snapshot: &Snapshot, pod: &PodInfo) -> Result<Found, Unschedulable> {
        let filters = Filters { profile: &self.profile, snapshot };
        let total = snapshot.nodes().len();
        let prepared = match filters.prepare(pod) {
            Ok(prepared) => prepared,
            Err((plugin, status)) if status.is_rejected() => {
                let diagnosis = Diagnosis::rejected_by_pre_filter(total, plugin, status);
                return Ok(Found::None(diagnosis));
            }
            Err((plugin, status)) => return Err(failed(plugin, &status)),
        };

        // Room was made for it here, so this is probably the only node.
        if let Some(index) = pod.nominated_node().and_then(|name| snapshot.index(name))
            && prepared.allows(&snapshot.nodes()[index as usize].name)
            && filters.filter_with_nominated(&prepared, pod, index).is_ok()
        {
            return Ok(Found::Node { index, feasible: 1 });
        }

        let named: Option<Vec<u32>> = prepared
            .only
            .as_ref()
            .map(|names| names.iter().filter_map(|name| snapshot.index(name)).collect());
        let candidates = named.as_ref().map_or(total, Vec::len);
        let candidate = |n: usize| match &named {
            Some(named) => named[n],
            None => ((n + self.next_start) % total) as u32,
        };
        let wanted = match self.profile.score.is_empty() {
            true => 1,
            false => feasible_nodes_to_find(
                self.profile.percentage_of_nodes_to_score as usize,
                candidates,
            ),
        };
        let mut diagnosis = Diagnosis::new(total);
        let mut feasible = Vec::new();
        let mut looked_at = 0;
        for index in (0..candidates).map(candidate) {
            looked_at += 1;
            match filters.filter_with_nominated(&prepared, pod, index) {
                Ok(()) => feasible.push(index),
                Err((plugin, status)) if status.code() == Code::Error => {
                    return Err(failed(plugin, &status));
                }
                Err((plugin, status)) => diagnosis.reject(index, plugin, status),
            }
            if feasible.len() >= wanted {
                break;
            }
        }
        if prepared.only.is_none() {
            self.next_start = (self.next_start + looked_at) % total;
        }

        match feasible.as_slice() {
            [] => {
                if prepared.only.is_some() {
                    let names: Vec<_> = prepared.narrowed_by.iter().copied().collect();
                    let reason = format!("node(s) didn't satisfy plugin(s) [{}]", names.join(" "));
                    diagnosis.set_absent(Status::unresolvable(reason), &prepared.narrowed_by);
                }
                Ok(Found::None(diagnosis))
            }
            [only] => Ok(Found::Node { index: *only, feasible: 1 }),
            _ => {
                let nodes: Vec<_> =
                    feasible.iter().map(|index| &snapshot.nodes()[*index as usize]).collect();
                let scores = score_all(&self.profile, prepared.state, pod, &nodes)?;
                let best = pick_best(&scores, &mut self.rng);
                Ok(Found::Node { index: feasible[best], feasible: feasible.len() })
            }
        }
    }

    /// Runs `PostFilter` and puts the message together.
    fn post_filter(
        &self,
        snapshot: &Snapshot,
        pod: &PodInfo,
        diagnosis: Diagnosis,
    ) -> Unschedulable {
        let filters = Filters { profile: &self.profile, snapshot };
        let mut error = FitError {
            diagnosis,
            post_filter_message: String::new(),
            nominated: Nomination::Unchanged,
            victims: Vec::new(),
        };
        let mut messages = Vec::new();
        for plugin in &self.profile.post_filter {
            let Some(post_filter) = plugin.as_post_filter() else { continue };
            let PostFiltered { status, nominated, victims } =
                post_filter.post_filter(&filters, pod, snapshot, &error.diagnosis);
            if nominated != Nomination::Unchanged {
                error.nominated = nominated;
            }
            if status.is_success() {
                messages.clear();
                error.victims = victims;
                break;
            }
            messages.extend(Some(status.message()).filter(|message| !message.is_empty()));
        }
        error.post_filter_message = messages.join(", ");
        Unschedulable::Unfit(Box::new(error))
    }
}

/// What filtering and scoring came to.
enum Found {
    Node { index: u32, feasible: usize },
    None(Diagnosis),
}

fn failed(plugin: &'static str, status: &Status) -> Unschedulable {
    Unschedulable::Failed { plugin, message: status.message() }
}

/// How many possible nodes end the search. Upstream's rule: half of 100 nodes, going down to 5 %
/// of 5,625, unless the profile sets the percentage; never fewer than 100.
fn feasible_nodes_to_find(percentage: usize, nodes: usize) -> usize {
    if nodes < FEASIBLE_NODES_MIN {
        return nodes;
    }
    let percentage = match percentage {
        0 => 50usize.saturating_sub(nodes / 125).max(PERCENTAGE_MIN),
        set => set,
    };
    (nodes * percentage / 100).max(FEASIBLE_NODES_MIN)
}

/// The place of the largest score; of several equal ones, any.
fn pick_best(scores: &[i64], rng: &mut Rng) -> usize {
    let best = scores.iter().copied().max().unwrap_or(0);
    let ties = scores.iter().filter(|score| **score == best).count();
    let drawn = rng.below(ties as u64) as usize;
    let mut places = scores.iter().enumerate().filter(|(_, score)| **score == best);
    places.nth(drawn).map_or(0, |(place, _)| place)
}

/// The weighted sum of all scores for each of the possible nodes.
fn score_all(
    profile: &Profile,
    mut state: CycleState,
    pod: &PodInfo,
    nodes: &[&NodeInfo],
) -> Result<Vec<i64>, Unschedulable> {
    let skipped = pre_score(profile, &mut state, pod, nodes)?;
    let mut totals = vec![0; nodes.len()];
    for weighted in &profile.score {
        let plugin = &weighted.plugin;
        let Some(score) = plugin.as_score().filter(|_| !skipped.contains(plugin.name())) else {
            continue;
        };
        let mut scores: Vec<_> = nodes.iter().map(|node| score.score(&state, pod, node)).collect();
        score.normalize_score(&state, pod, nodes, &mut scores);
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += score.clamp(0, MAX_NODE_SCORE) * weighted.weight;
        }
    }
    Ok(totals)
}

/// Runs `PreScore`; the plugins returned need not score.
fn pre_score(
    profile: &Profile,
    state: &mut CycleState,
    pod: &PodInfo,
    nodes: &[&NodeInfo],
) -> Result<BTreeSet<&'static str>, Unschedulable> {
    let mut skipped = BTreeSet::new();
    for plugin in &profile.pre_score {
        let Some(pre_score) = plugin.as_pre_score() else { continue };
        let status = pre_score.pre_score(state, pod, nodes);
        match status.code() {
            Code::Success => {}
            Code::Skip => {
                skipped.insert(plugin.name());
            }
            _ => return Err(failed(plugin.name(), &status)),
        }
    }
    Ok(skipped)
}

/// The filters of a profile, to be tried on any node: also on one that is not in the snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Filters<'a> {
    pub(crate) profile: &'a Profile,
    pub(crate) snapshot: &'a Snapshot,
}

/// What `PreFilter` left for the filters of one Pod.
#[derive(Debug, Default)]
pub struct Prepared {
    state: CycleState,
    /// Filters that need not run, by their place in the profile.
    skipped: Vec<bool>,
    /// The only nodes that are possible, if that is known, and who says so.
    only: Option<BTreeSet<String>>,
    narrowed_by: BTreeSet<&'static str>,
}

impl Prepared {
    /// Whether `PreFilter` leaves this node open.
    pub fn allows(&self, node: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(node))
    }
}

/// A plugin's name and what it said.
pub type Rejection = (&'static str, Status);

impl Filters<'_> {
    /// Runs `PreFilter` for a Pod.
    pub fn prepare(&self, pod: &PodInfo) -> Result<Prepared, Rejection> {
        let mut prepared =
            Prepared { skipped: vec![false; self.profile.filter.len()], ..Prepared::default() };
        for plugin in &self.profile.pre_filter {
            let Some(pre_filter) = plugin.as_pre_filter() else { continue };
            match pre_filter.pre_filter(&mut prepared.state, pod, self.snapshot) {
                PreFiltered::All => {}
                PreFiltered::Skip => {
                    for (skipped, filter) in prepared.skipped.iter_mut().zip(&self.profile.filter) {
                        *skipped |= filter.name() == plugin.name();
                    }
                }
                PreFiltered::Only(names) => {
                    prepared.narrowed_by.insert(plugin.name());
                    let narrowed = match prepared.only.take() {
                        Some(before) => before.intersection(&names).cloned().collect(),
                        None => names,
                    };
                    if narrowed.is_empty() {
                        let names: Vec<_> = prepared.narrowed_by.iter().copied().collect();
                        let reason = match names.as_slice() {
                            [one] => format!("node(s) didn't satisfy plugin {one}"),
                            several => format!(
                                "node(s) didn't satisfy plugin(s) {} simultaneously",
                                several.join(", ")
                            ),
                        };
                        return Err((plugin.name(), Status::unresolvable(reason)));
                    }
                    prepared.only = Some(narrowed);
                }
                PreFiltered::Rejected(status) => return Err((plugin.name(), status)),
            }
        }
        Ok(prepared)
    }

    /// Whether the Pod can run on a node.
    pub fn filter(
        &self,
        prepared: &Prepared,
        pod: &PodInfo,
        node: &NodeInfo,
    ) -> Result<(), Rejection> {
        for (plugin, skipped) in self.profile.filter.iter().zip(&prepared.skipped) {
            let Some(filter) = plugin.as_filter().filter(|_| !skipped) else { continue };
            let status = filter.filter(&prepared.state, pod, node);
            if !status.is_success() {
                return Err((plugin.name(), status));
            }
        }
        Ok(())
    }

    /// Adjusts `prepared` as if `added` were on `node` as well.
    pub fn add_pod(
        &self,
        prepared: &mut Prepared,
        pod: &PodInfo,
        added: &PodInfo,
        node: &NodeInfo,
    ) {
        for plugin in &self.profile.pre_filter {
            if let Some(pre_filter) = plugin.as_pre_filter() {
                pre_filter.add_pod(&mut prepared.state, pod, added, node);
            }
        }
    }

    /// Adjusts `prepared` as if `removed` were not on `node`.
    pub fn remove_pod(
        &self,
        prepared: &mut Prepared,
        pod: &PodInfo,
        removed: &PodInfo,
        node: &NodeInfo,
    ) {
        for plugin in &self.profile.pre_filter {
            if let Some(pre_filter) = plugin.as_pre_filter() {
                pre_filter.remove_pod(&mut prepared.state, pod, removed, node);
            }
        }
    }

    /// Whether the Pod can run on a node, both with the Pods for which room is kept there and
    /// without them: they may come, and may not. `prepared` is as before when it returns.
    pub fn filter_expecting(
        &self,
        prepared: &mut Prepared,
        pod: &PodInfo,
        node: &NodeInfo,
    ) -> Result<(), Rejection> {
        let expected: Vec<_> = self.expected(pod, &node.name).collect();
        if !expected.is_empty() {
            let mut with = node.clone();
            for other in &expected {
                with.add_pod((*other).clone());
                self.add_pod(prepared, pod, other, &with);
            }
            let verdict = self.filter(prepared, pod, &with);
            for other in expected.iter().rev() {
                with.remove_pod(&other.uid);
                self.remove_pod(prepared, pod, other, &with);
            }
            verdict?;
        }
        self.filter(prepared, pod, node)
    }

    /// [`filter_expecting`](Self::filter_expecting) for a node of the snapshot.
    fn filter_with_nominated(
        &self,
        prepared: &Prepared,
        pod: &PodInfo,
        index: u32,
    ) -> Result<(), Rejection> {
        let node = &self.snapshot.nodes()[index as usize];
        if self.expected(pod, &node.name).next().is_some() {
            return self.filter_expecting(&mut self.prepare(pod)?, pod, node);
        }
        self.filter(prepared, pod, node)
    }

    /// The Pods for which room is kept on a node, as far as this one must respect it.
    fn expected<'a>(
        &'a self,
        pod: &'a PodInfo,
        node: &'a str,
    ) -> impl Iterator<Item = &'a Arc<PodInfo>> {
        let nominated = self.snapshot.nominated().iter();
        nominated
            .filter(move |(other, on)| {
                **on == *node && other.priority >= pod.priority && other.uid != pod.uid
            })
            .map(|(other, _)| other)
    }
}
