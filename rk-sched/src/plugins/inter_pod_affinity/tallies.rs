use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use super::meant::Meant;
use crate::{NodeInfo, Snapshot, affinity::Domains};

/// How many rows all tallies together may have: about 16 MiB.
const ROWS_MAX: usize = 512 * 1024;
/// How many tallies there may be in any case.
const TALLIES_MAX: usize = 256;

/// How many Pods of a kind there are in each domain, kept from cycle to cycle: the Pods of a
/// workload have equal terms, and from one to the next only a few nodes change. A tally that was
/// not used for long makes room for another.
#[derive(Debug, Default)]
pub(super) struct Tallies(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// The snapshot that was counted.
    snapshot: u64,
    tick: u64,
    tallies: HashMap<Kind, Tally, RandomState>,
}

/// Pods that all of these mean, by the node label of this name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    meant: Vec<Meant>,
    topology_key: Arc<str>,
}

#[derive(Debug, Default)]
struct Tally {
    used: u64,
    /// The state of the snapshot that it was brought to.
    version: u64,
    rows: Vec<Row>,
    domains: Arc<Domains>,
}

/// What a node contributes.
#[derive(Clone, Debug, Default)]
struct Row {
    domain: Option<Box<str>>,
    pods: i64,
    version: u64,
}

impl Tallies {
    /// How many Pods all of `meant` mean in each domain of a label.
    pub(super) fn count(
        &self,
        snapshot: &Snapshot,
        meant: Vec<Meant>,
        topology_key: &Arc<str>,
    ) -> Arc<Domains> {
        let kind = Kind { meant, topology_key: topology_key.clone() };
        let mut kept = self.0.lock();
        if kept.snapshot != snapshot.id() {
            kept.tallies.clear();
            kept.snapshot = snapshot.id();
        }
        kept.tick += 1;
        let tick = kept.tick;
        if !kept.tallies.contains_key(&kind) {
            kept.make_room(snapshot.nodes().len());
        }
        let tally = kept.tallies.entry(kind.clone()).or_default();
        tally.used = tick;
        tally.catch_up(&kind, snapshot);
        tally.domains.clone()
    }
}

impl Kept {
    fn make_room(&mut self, nodes: usize) {
        let limit = (ROWS_MAX / nodes.max(1)).clamp(8, TALLIES_MAX);
        while self.tallies.len() >= limit {
            let oldest = self.tallies.iter().min_by_key(|(_, tally)| tally.used);
            let Some(kind) = oldest.map(|(kind, _)| kind.clone()) else { return };
            self.tallies.remove(&kind);
        }
    }
}

impl Tally {
    fn catch_up(&mut self, kind: &Kind, snapshot: &Snapshot) {
        let (nodes, version) = (snapshot.nodes(), snapshot.version());
        let few = version.saturating_sub(self.version) <= nodes.len() as u64;
        match snapshot.changes_since(self.version).filter(|_| few && !self.rows.is_empty()) {
            Some(changes) => {
                self.rows.resize(nodes.len(), Row::default());
                for change in changes {
                    let index = change.node as usize;
                    // Several changes of one node are counted at once.
                    if self.rows[index].version < change.version {
                        self.recount(kind, index, &nodes[index], version);
                    }
                }
            }
            None => {
                self.rows = vec![Row::default(); nodes.len()];
                self.domains = Arc::default();
                for (index, node) in nodes.iter().enumerate() {
                    self.recount(kind, index, node, version);
                }
            }
        }
        self.version = version;
    }

    fn recount(&mut self, kind: &Kind, index: usize, node: &NodeInfo, version: u64) {
        let domain = node.label(&kind.topology_key);
        let matching = || node.pods.iter().filter(|pod| kind.meant.iter().all(|it| it.means(pod)));
        let pods = domain.map_or(0, |_| matching().count() as i64);
        let row = &mut self.rows[index];
        row.version = version;
        if row.pods == pods && row.domain.as_deref() == domain {
            return;
        }
        // A copy is made only while a cycle still looks at the old state.
        let domains = Arc::make_mut(&mut self.domains);
        if let Some(before) = &row.domain {
            domains.add(before, -row.pods);
        }
        if let Some(domain) = domain {
            domains.add(domain, pods);
        }
        if row.domain.as_deref() != domain {
            row.domain = domain.map(Box::from);
        }
        row.pods = pods;
    }
}
