use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use crate::{Code, NodeInfo, PodInfo, Snapshot, Status, framework::Nomination};

/// Why a Pod was not placed.
#[derive(Debug, thiserror::Error)]
pub enum Unschedulable {
    /// There is no node at all.
    #[error("no nodes available to schedule pods")]
    NoNodes,
    /// No node is possible. The message is the one of the Pod's event and condition.
    #[error("{0}")]
    Unfit(Box<FitError>),
    /// A plugin broke; the Pod may be fine.
    #[error("running plugin {plugin:?}: {message}")]
    Failed {
        /// Which one.
        plugin: &'static str,
        /// What it said.
        message: String,
    },
}

impl Unschedulable {
    /// The `reason` of the Pod's condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Unschedulable::NoNodes | Unschedulable::Unfit(_) => "Unschedulable",
            Unschedulable::Failed { .. } => "SchedulerError",
        }
    }

    /// The plugins that turned the Pod down: an event that none of them minds does not wake it.
    pub fn rejected_by(&self) -> BTreeSet<&'static str> {
        match self {
            Unschedulable::Unfit(error) => error.diagnosis.plugins.clone(),
            _ => BTreeSet::new(),
        }
    }
}

/// No node is possible: why, and what preemption would do about it.
#[derive(Debug)]
pub struct FitError {
    /// What each node was rejected for.
    pub diagnosis: Diagnosis,
    /// What `PostFilter` said.
    pub post_filter_message: String,
    /// The node that is kept for the Pod.
    pub nominated: Nomination,
    /// Pods to delete from it.
    pub victims: Vec<Arc<PodInfo>>,
}

/// What each node was rejected for.
#[derive(Clone, Debug, Default)]
pub struct Diagnosis {
    /// Distinct rejections with the plugin that made them.
    statuses: Vec<(&'static str, Status)>,
    /// For each node of the snapshot an index into `statuses`.
    verdicts: Vec<u32>,
    /// What holds for nodes that were not looked at.
    absent: Option<Status>,
    /// What `PreFilter` said, if that ended it.
    pre_filter_message: Option<String>,
    /// The plugins that turned the Pod down.
    plugins: BTreeSet<&'static str>,
}

/// Marks a node that was not rejected, or not looked at.
pub(crate) const NO_VERDICT: u32 = u32::MAX;

impl Diagnosis {
    pub(crate) fn new(nodes: usize) -> Self {
        Self { verdicts: vec![NO_VERDICT; nodes], ..Self::default() }
    }

    pub(crate) fn from_parts(statuses: Vec<(&'static str, Status)>, verdicts: Vec<u32>) -> Self {
        let mut used = vec![false; statuses.len()];
        for verdict in verdicts.iter().filter(|verdict| **verdict != NO_VERDICT) {
            used[*verdict as usize] = true;
        }
        let plugins = statuses.iter().zip(used).filter(|(_, used)| *used);
        let plugins = plugins.map(|((plugin, _), _)| *plugin).collect();
        Self { statuses, verdicts, plugins, ..Self::default() }
    }

    /// All nodes were rejected at once.
    pub(crate) fn rejected_by_pre_filter(
        nodes: usize,
        plugin: &'static str,
        status: Status,
    ) -> Self {
        Self {
            pre_filter_message: Some(status.message()),
            absent: Some(status),
            plugins: [plugin].into(),
            ..Self::new(nodes)
        }
    }

    pub(crate) fn reject(&mut self, node: u32, plugin: &'static str, status: Status) {
        self.plugins.insert(plugin);
        let known = self.statuses.iter().position(|it| it.0 == plugin && it.1 == status);
        let index = known.unwrap_or_else(|| {
            self.statuses.push((plugin, status));
            self.statuses.len() - 1
        });
        self.verdicts[node as usize] = index as u32;
    }

    pub(crate) fn set_absent(&mut self, status: Status, plugins: &BTreeSet<&'static str>) {
        self.absent = Some(status);
        self.plugins.extend(plugins);
    }

    /// How many nodes there are.
    pub fn node_count(&self) -> usize {
        self.verdicts.len()
    }

    /// The plugins that turned the Pod down.
    pub fn plugins(&self) -> &BTreeSet<&'static str> {
        &self.plugins
    }

    /// Why a node was rejected, by its place in the snapshot.
    pub fn status(&self, node: usize) -> Option<&Status> {
        match self.verdicts.get(node)? {
            &NO_VERDICT => self.absent.as_ref(),
            index => self.statuses.get(*index as usize).map(|(_, status)| status),
        }
    }

    /// The nodes with why they were rejected.
    pub fn nodes<'a>(
        &'a self,
        snapshot: &'a Snapshot,
    ) -> impl Iterator<Item = (&'a NodeInfo, Option<&'a Status>)> {
        snapshot.nodes().iter().enumerate().map(|(index, node)| (node, self.status(index)))
    }

    /// The nodes where other Pods stand in the way, in the snapshot's order.
    pub fn resolvable<'a>(&'a self, snapshot: &'a Snapshot) -> impl Iterator<Item = &'a NodeInfo> {
        self.nodes(snapshot)
            .filter(|(_, status)| status.is_some_and(|it| it.code() == Code::Unschedulable))
            .map(|(node, _)| node)
    }

    /// How many nodes were rejected for each reason.
    fn histogram(&self) -> BTreeMap<&str, usize> {
        let mut counts = vec![0usize; self.statuses.len()];
        let mut absent = 0;
        for verdict in &self.verdicts {
            match *verdict {
                NO_VERDICT => absent += 1,
                index => counts[index as usize] += 1,
            }
        }
        let explicit = self.statuses.iter().map(|(_, status)| status).zip(counts);
        let mut reasons = BTreeMap::new();
        for (status, count) in explicit.chain(self.absent.as_ref().map(|status| (status, absent))) {
            for reason in status.reasons().iter().filter(|_| count > 0) {
                *reasons.entry(&**reason).or_insert(0) += count;
            }
        }
        reasons
    }
}

/// `2 Insufficient cpu, 1 node(s) were unschedulable`, sorted as text, as upstream has it.
pub(crate) fn join_counts<'a>(counts: impl IntoIterator<Item = (&'a str, usize)>) -> String {
    let mut parts: Vec<_> =
        counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    parts.join(", ")
}

impl fmt::Display for FitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0/{} nodes are available:", self.diagnosis.node_count())?;
        match &self.diagnosis.pre_filter_message {
            Some(message) => write!(f, " {message}.")?,
            None => {
                let reasons = join_counts(self.diagnosis.histogram());
                if !reasons.is_empty() {
                    write!(f, " {reasons}.")?;
                }
            }
        }
        // It ends in a full stop of its own.
        if !self.post_filter_message.is_empty() {
            write!(f, " {}", self.post_filter_message)?;
        }
        Ok(())
    }
}
