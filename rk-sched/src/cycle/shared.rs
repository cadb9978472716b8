//! What Pods of equal signature share: the possible nodes and their scores.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::BuildHasher,
    sync::Arc,
};

use foldhash::fast::RandomState;
use rk_api::rng::Rng;

use super::{Filters, Found, Prepared, failed, pre_score};
use crate::{
    Code, Diagnosis, NodeInfo, PodInfo, Profile, Snapshot, Status, Unschedulable,
    diagnosis::NO_VERDICT,
    framework::{MAX_NODE_SCORE, Normalize, Reads, Score, normalized},
};

/// How many rows all entries together may have: about 30 MiB.
const ROWS_MAX: usize = 512 * 1024;
/// How many entries there may be in any case.
const ENTRIES_MAX: usize = 256;

/// How many signatures seen once are remembered.
const SEEN_MAX: usize = 4096;

/// Evaluations by signature, the least recently used dropped first.
#[derive(Debug, Default)]
pub(super) struct SharedWork {
    entries: HashMap<Box<[u8]>, Entry, RandomState>,
    /// Hashes of signatures that came once: only one that comes again is worth an entry. Two that
    /// collide cost a needless entry.
    seen: HashSet<u64, RandomState>,
    snapshot: u64,
    tick: u64,
    signature: Vec<u8>,
}

impl SharedWork {
    /// The best node for a Pod, or why there is none; `None` if the Pod cannot share, or is the
    /// first of its kind.
    pub(super) fn find(
        &mut self,
        profile: &Arc<Profile>,
        snapshot: &Snapshot,
        pod: &PodInfo,
        rng: &mut Rng,
    ) -> Result<Option<Found>, Unschedulable> {
        if !self.sign(profile, snapshot, pod) || self.is_first() {
            return Ok(None);
        }
        let Some(entry) = self.entry(profile, snapshot, pod)? else { return Ok(None) };
        let found = match entry.best(rng) {
            Some(index) => Found::Node { index, feasible: entry.feasible },
            None => Found::None(entry.diagnosis()),
        };
        Ok(Some(found))
    }

    /// Writes down the Pod's signature; returns whether it has one.
    pub(super) fn sign(&mut self, profile: &Profile, snapshot: &Snapshot, pod: &PodInfo) -> bool {
        self.signature.clear();
        profile.all.iter().all(|plugin| {
            let judges = plugin.as_filter().is_some()
                || plugin.as_score().is_some()
                || plugin.as_pre_filter().is_some();
            !judges || plugin.sign(pod, snapshot, &mut self.signature)
        })
    }

    /// Whether the signature written down comes for the first time.
    fn is_first(&mut self) -> bool {
        if self.entries.contains_key(self.signature.as_slice()) {
            return false;
        }
        if self.seen.len() >= SEEN_MAX {
            self.seen.clear();
        }
        self.seen.insert(self.entries.hasher().hash_one(self.signature.as_slice()))
    }

    /// The up-to-date entry for a Pod whose signature is written down.
    pub(super) fn entry(
        &mut self,
        profile: &Arc<Profile>,
        snapshot: &Snapshot,
        pod: &PodInfo,
    ) -> Result<Option<&Entry>, Unschedulable> {
        if self.snapshot != snapshot.id() {
            self.entries.clear();
            self.snapshot = snapshot.id();
        }
        self.tick += 1;
        if !self.entries.contains_key(self.signature.as_slice()) {
            let Some(entry) = Entry::new(profile, snapshot, pod)? else { return Ok(None) };
            self.make_room(snapshot.nodes().len());
            self.entries.insert(self.signature.as_slice().into(), entry);
        }
        let Some(entry) = self.entries.get_mut(self.signature.as_slice()) else { return Ok(None) };
        entry.used = self.tick;
        if let Err(error) = entry.catch_up(profile, snapshot, pod) {
            // What is half corrected must not be used again.
            self.entries.remove(self.signature.as_slice());
            return Err(error);
        }
        Ok(self.entries.get(self.signature.as_slice()))
    }

    fn make_room(&mut self, nodes: usize) {
        let limit = (ROWS_MAX / nodes.max(1)).clamp(4, ENTRIES_MAX);
        while self.entries.len() >= limit {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else { return };
            self.entries.remove(&key);
        }
    }
}

/// A score plugin of an entry.
#[derive(Debug)]
struct Scorer {
    /// Where it is in the profile's list.
    place: usize,
    weight: i64,
    normalize: Normalize,
    reads: Reads,
    /// For normalized scores: where the raw one is in a row, and how many possible nodes have it.
    raw: Option<usize>,
    counts: BTreeMap<i64, u32>,
    max: i64,
}

/// The evaluation of all nodes for the Pods of one signature.
#[derive(Debug)]
pub(super) struct Entry {
    used: u64,
    version: u64,
    prepared: Prepared,
    /// The filters that run, by their place in the profile: those that read the node alone, and the
    /// others.
    static_filters: Vec<u32>,
    pod_filters: Vec<u32>,
    scorers: Vec<Scorer>,
    raw_width: usize,
    rows: Vec<Row>,
    /// Raw scores, `raw_width` for each row.
    raw: Vec<i64>,
    /// Distinct rejections, found again by `known`.
    statuses: Vec<(&'static str, Status)>,
    known: HashMap<(&'static str, Status), u32, RandomState>,
    pub(super) feasible: usize,
    /// Possible nodes by their total score.
    buckets: Vec<Vec<u32>>,
    /// No bucket above this one has nodes.
    top: usize,
}

/// One node.
#[derive(Clone, Copy, Debug)]
struct Row {
    /// The rejection, or `NO_VERDICT` if the node is possible.
    verdict: u32,
    /// The first filter that rejects the node by what it reads of the node alone, and its words.
    static_filter: u32,
    static_verdict: u32,
    /// Weighted scores that need no normalization: from the node alone, and in all.
    static_score: i64,
    score: i64,
    /// Score and place in its bucket while the node is possible.
    total: u32,
    slot: u32,
    /// The snapshot's version that this was computed from.
    version: u64,
}

const UNKNOWN: Row = Row {
    verdict: NO_VERDICT,
    static_filter: u32::MAX,
    static_verdict: NO_VERDICT,
    static_score: 0,
    score: 0,
    total: u32::MAX,
    slot: u32::MAX,
    version: 0,
};

impl Entry {
    /// An entry without rows; `None` if the Pod turns out not to be one to share.
    fn new(
        profile: &Profile,
        snapshot: &Snapshot,
        pod: &PodInfo,
    ) -> Result<Option<Self>, Unschedulable> {
        let filters = Filters { profile, snapshot };
        let mut prepared = match filters.prepare(pod) {
            Ok(prepared) if prepared.only.is_none() => prepared,
            Ok(_) => return Ok(None),
            Err((_, status)) if status.is_rejected() => return Ok(None),
            Err((plugin, status)) => return Err(failed(plugin, &status)),
        };
        // A plugin that signs must not look at the nodes here.
        let skipped = pre_score(profile, &mut prepared.state, pod, &[])?;
        let mut raw_width = 0;
        let scorers: Vec<_> = profile
            .score
            .iter()
            .enumerate()
            .filter(|(_, it)| !skipped.contains(it.plugin.name()))
            .filter_map(|(place, it)| {
                let score = it.plugin.as_score()?;
                let normalize = score.normalization();
                let raw = (normalize != Normalize::No).then(|| {
                    raw_width += 1;
                    raw_width - 1
                });
                Some(Scorer {
                    place,
                    weight: it.weight,
                    normalize,
                    reads: score.reads(),
                    raw,
                    counts: BTreeMap::new(),
                    max: 0,
                })
            })
            .collect();
        // Such a normalization looks at all nodes together.
        if scorers.iter().any(|it: &Scorer| it.normalize == Normalize::Custom) {
            return Ok(None);
        }
        let total_max: i64 = scorers.iter().map(|it| it.weight * MAX_NODE_SCORE).sum();
        let filters_that = |reads: Reads| -> Vec<u32> {
            let runs = |place: &u32| {
                let filter = profile.filter[*place as usize].as_filter();
                filter.is_some_and(|it| it.reads() == reads) && !prepared.skipped[*place as usize]
            };
            (0..profile.filter.len() as u32).filter(runs).collect()
        };
        Ok(Some(Self {
            used: 0,
            version: 0,
            static_filters: filters_that(Reads::Node),
            pod_filters: filters_that(Reads::NodeAndPods),
            prepared,
            buckets: vec![Vec::new(); total_max as usize + 1],
            scorers,
            raw_width,
            rows: Vec::new(),
            raw: Vec::new(),
            statuses: Vec::new(),
            known: HashMap::default(),
            feasible: 0,
            top: 0,
        }))
    }

    /// Evaluates the nodes that changed since the last time.
    fn catch_up(
        &mut self,
        profile: &Profile,
        snapshot: &Snapshot,
        pod: &PodInfo,
    ) -> Result<(), Unschedulable> {
        let nodes = snapshot.nodes();
        let few = snapshot.version().saturating_sub(self.version) <= nodes.len() as u64;
        let changes = match few && !self.rows.is_empty() {
            true => snapshot.changes_since(self.version),
            false => None,
        };
        match changes {
            Some(changes) => {
                for change in changes {
                    let index = change.node as usize;
                    if index >= self.rows.len() {
                        self.add_row();
                    }
                    // Several changes of one node are corrected at once.
                    if change.object || self.rows[index].version < change.version {
                        self.evaluate(profile, pod, change.node, &nodes[index], change.object)?;
                        self.rows[index].version = snapshot.version();
                    }
                }
            }
            None => {
                self.clear();
                for (index, node) in nodes.iter().enumerate() {
                    self.add_row();
                    self.evaluate(profile, pod, index as u32, node, true)?;
                    self.rows[index].version = snapshot.version();
                }
            }
        }
        self.version = snapshot.version();
        self.normalize_again();
        Ok(())
    }

    fn clear(&mut self) {
        self.rows.clear();
        self.raw.clear();
        self.statuses.clear();
        self.known.clear();
        self.feasible = 0;
        self.buckets.iter_mut().for_each(Vec::clear);
        self.top = 0;
        for scorer in &mut self.scorers {
            scorer.counts.clear();
            scorer.max = 0;
        }
    }

    fn add_row(&mut self) {
        self.rows.push(UNKNOWN);
        self.raw.resize(self.raw.len() + self.raw_width, 0);
    }

    /// Judges one node. `object` says that the node itself may have changed, not only its Pods.
    fn evaluate(
        &mut self,
        profile: &Profile,
        pod: &PodInfo,
        index: u32,
        node: &NodeInfo,
        object: bool,
    ) -> Result<(), Unschedulable> {
        let was_feasible = self.take_out(index);
        if object {
            self.evaluate_static(profile, pod, index, node)?;
        }

        let row = self.rows[index as usize];
        let mut verdict = row.static_verdict;
        let before = self.pod_filters.iter().take_while(|place| **place < row.static_filter);
        if let Some((_, plugin, status)) = self.first_rejection(before, profile, pod, node) {
            verdict = self.verdict(plugin, status)?;
        }
        self.rows[index as usize].verdict = verdict;
        if verdict == NO_VERDICT {
            self.score(profile, pod, index, node, object || !was_feasible);
            self.put_in(index);
        }
        Ok(())
    }

    /// The first filter that rejects the node itself, whatever Pods it has.
    fn evaluate_static(
        &mut self,
        profile: &Profile,
        pod: &PodInfo,
        index: u32,
        node: &NodeInfo,
    ) -> Result<(), Unschedulable> {
        let rejection = self.first_rejection(self.static_filters.iter(), profile, pod, node);
        let (at, verdict) = match rejection {
            Some((place, plugin, status)) => (place, self.verdict(plugin, status)?),
            None => (u32::MAX, NO_VERDICT),
        };
        let row = &mut self.rows[index as usize];
        (row.static_filter, row.static_verdict) = (at, verdict);
        Ok(())
    }

    /// The first of some filters that rejects a node, with its place.
    fn first_rejection<'a>(
        &self,
        places: impl Iterator<Item = &'a u32>,
        profile: &Profile,
        pod: &PodInfo,
        node: &NodeInfo,
    ) -> Option<(u32, &'static str, Status)> {
        for place in places {
            let plugin = &profile.filter[*place as usize];
            let Some(filter) = plugin.as_filter() else { continue };
            let status = filter.filter(&self.prepared.state, pod, node);
            if !status.is_success() {
                return Some((*place, plugin.name(), status));
            }
        }
        None
    }

    /// The number of a rejection.
    fn verdict(&mut self, plugin: &'static str, status: Status) -> Result<u32, Unschedulable> {
        if status.code() == Code::Error {
            return Err(failed(plugin, &status));
        }
        let next = self.statuses.len() as u32;
        let key = (plugin, status);
        if let Some(known) = self.known.get(&key) {
            return Ok(*known);
        }
        self.statuses.push(key.clone());
        self.known.insert(key, next);
        Ok(next)
    }

    /// Computes the scores of a possible node. `all` includes those from the node alone.
    fn score(&mut self, profile: &Profile, pod: &PodInfo, index: u32, node: &NodeInfo, all: bool) {
        let row = &mut self.rows[index as usize];
        let raw = &mut self.raw[index as usize * self.raw_width..][..self.raw_width];
        let mut fixed = [0, 0];
        for scorer in &self.scorers {
            let is_static = scorer.reads == Reads::Node;
            if is_static && !all {
                continue;
            }
            let plugin = profile.score[scorer.place].plugin.as_score();
            let score = |it: &dyn Score| it.score(&self.prepared.state, pod, node);
            let score = plugin.map_or(0, score);
            match scorer.raw {
                Some(at) => raw[at] = score,
                None => {
                    fixed[usize::from(is_static)] += score.clamp(0, MAX_NODE_SCORE) * scorer.weight;
                }
            }
        }
        if all {
            row.static_score = fixed[1];
        }
        row.score = row.static_score + fixed[0];
    }

    /// Counts a possible node out before it is judged again; returns whether it was possible.
    fn take_out(&mut self, index: u32) -> bool {
        let row = self.rows[index as usize];
        if row.slot == u32::MAX {
            return false;
        }
        self.feasible -= 1;
        for scorer in &mut self.scorers {
            let Some(at) = scorer.raw else { continue };
            let raw = self.raw[index as usize * self.raw_width + at];
            if let Some(count) = scorer.counts.get_mut(&raw) {
                *count -= 1;
                if *count == 0 {
                    scorer.counts.remove(&raw);
                }
            }
        }
        self.leave_bucket(index);
        true
    }

    fn put_in(&mut self, index: u32) {
        self.feasible += 1;
        for scorer in &mut self.scorers {
            let Some(at) = scorer.raw else { continue };
            let raw = self.raw[index as usize * self.raw_width + at];
            *scorer.counts.entry(raw).or_insert(0) += 1;
        }
        self.enter_bucket(index);
    }

    fn total(&self, index: u32) -> u32 {
        let mut total = self.rows[index as usize].score;
        for scorer in &self.scorers {
            let Some(at) = scorer.raw else { continue };
            let raw = self.raw[index as usize * self.raw_width + at];
            let score = normalized(scorer.normalize, raw, scorer.max);
            total += score.clamp(0, MAX_NODE_SCORE) * scorer.weight;
        }
        total.clamp(0, self.buckets.len() as i64 - 1) as u32
    }

    fn enter_bucket(&mut self, index: u32) {
        let total = self.total(index);
        let bucket = &mut self.buckets[total as usize];
        let row = &mut self.rows[index as usize];
        (row.total, row.slot) = (total, bucket.len() as u32);
        bucket.push(index);
        self.top = self.top.max(total as usize);
    }

    fn leave_bucket(&mut self, index: u32) {
        let Row { total, slot, .. } = self.rows[index as usize];
        let bucket = &mut self.buckets[total as usize];
        bucket.swap_remove(slot as usize);
        if let Some(moved) = bucket.get(slot as usize) {
            self.rows[*moved as usize].slot = slot;
        }
        self.rows[index as usize].slot = u32::MAX;
        while self.top > 0 && self.buckets[self.top].is_empty() {
            self.top -= 1;
        }
    }

    /// Normalized scores hang on the largest raw one of all possible nodes: when that changed, all
    /// totals are new.
    fn normalize_again(&mut self) {
        let mut changed = false;
        for scorer in &mut self.scorers {
            let max = scorer.counts.last_key_value().map_or(0, |(raw, _)| *raw);
            changed |= scorer.raw.is_some() && max != scorer.max;
            scorer.max = max;
        }
        if changed {
            for index in 0..self.rows.len() as u32 {
                if self.rows[index as usize].slot != u32::MAX {
                    self.leave_bucket(index);
                    self.enter_bucket(index);
                }
            }
        }
    }

    /// A node with the best score.
    fn best(&self, rng: &mut Rng) -> Option<u32> {
        let bucket = &self.buckets[self.top];
        bucket.get(rng.below(bucket.len() as u64) as usize).copied()
    }

    fn diagnosis(&self) -> Diagnosis {
        let verdicts = self.rows.iter().map(|row| row.verdict).collect();
        Diagnosis::from_parts(self.statuses.clone(), verdicts)
    }

    /// Each node's score, or why it is not possible; for tests.
    #[cfg(test)]
    pub(super) fn verdicts(&self) -> Vec<Result<i64, super::Rejection>> {
        let verdict = |row: &Row| match row.verdict {
            NO_VERDICT => Ok(row.total.into()),
            index => Err(self.statuses[index as usize].clone()),
        };
        self.rows.iter().map(verdict).collect()
    }
}
