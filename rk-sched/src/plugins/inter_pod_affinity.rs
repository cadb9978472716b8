//! `spec.affinity.podAffinity` and `podAntiAffinity`: Pods near others, or apart from them.

use serde::Deserialize;
use serde_json::Value;

use crate::{
    Namespaces, NodeInfo, PodInfo, PodTerm, Snapshot, Status,
    affinity::Role,
    framework::{
        ClusterEvent, CycleState, EnqueueExtensions, Filter, Hint, MAX_NODE_SCORE, Normalize,
        Plugin, PreFilter, PreFiltered, PreScore, Score,
    },
    plugins::FromArgs,
};

mod meant;
mod preferences;
mod rules;
mod tallies;
#[cfg(test)]
mod tests;

use meant::Meant;
use preferences::Preferences;
use rules::Rules;
use tallies::Tallies;

/// The plugin's name.
pub const NAME: &str = "InterPodAffinity";

/// Keeps a Pod near those that its required affinity names, and apart from those that its required
/// anti-affinity names or whose anti-affinity names it; prefers nodes by the preferred terms on
/// both sides.
///
/// Near means: on a node with the same value of the term's `topologyKey`. All terms of required
/// affinity must match one and the same Pod, each in its own domain; while no Pod is matched, one
/// that its own terms match may go anywhere where the labels are, so that a group can begin. Pods
/// that are being deleted count until they are gone.
#[derive(Debug)]
pub struct InterPodAffinity {
    hard_pod_affinity_weight: i64,
    ignore_preferred_terms_of_existing_pods: bool,
    namespaces: Namespaces,
    tallies: Tallies,
}

impl Default for InterPodAffinity {
    fn default() -> Self {
        Self {
            hard_pod_affinity_weight: 1,
            ignore_preferred_terms_of_existing_pods: false,
            namespaces: Namespaces::default(),
            tallies: Tallies::default(),
        }
    }
}

/// `InterPodAffinityArgs`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct InterPodAffinityArgs {
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
    hard_pod_affinity_weight: Option<i32>,
    #[serde(default)]
    ignore_preferred_terms_of_existing_pods: bool,
}

impl FromArgs for InterPodAffinity {
    fn from_args(args: Option<Value>) -> Result<Self, serde_json::Error> {
        let mut plugin = Self::default();
        let Some(args) = args else { return Ok(plugin) };
        let args = serde_json::from_value::<InterPodAffinityArgs>(args)?;
        if let Some(weight) = args.hard_pod_affinity_weight {
            if !(0..=100).contains(&weight) {
                let message = "hardPodAffinityWeight: not in valid range [0, 100]";
                return Err(serde::de::Error::custom(message));
            }
            plugin.hard_pod_affinity_weight = weight.into();
        }
        plugin.ignore_preferred_terms_of_existing_pods =
            args.ignore_preferred_terms_of_existing_pods;
        Ok(plugin)
    }
}

impl InterPodAffinity {
    /// What an existing Pod's term adds to the score of a Pod that it matches.
    fn weight(&self, role: Role) -> i64 {
        match role {
            Role::Required => self.hard_pod_affinity_weight,
            Role::RequiredAnti => 0,
            Role::Preferred(weight) => weight,
        }
    }

    /// Whether existing Pods' terms count for the score of this Pod.
    fn hears_others(&self, pod: &PodInfo) -> bool {
        !self.ignore_preferred_terms_of_existing_pods || !pod.terms.preferred.is_empty()
    }

    fn meant(&self, term: &PodTerm) -> Meant {
        Meant::by(term, &self.namespaces)
    }

    /// Whether a term means a Pod, at once: what is asked more often is worked out as [`Meant`].
    fn means(&self, term: &PodTerm, other: &PodInfo) -> bool {
        // Only a selector of namespaces makes it look one up.
        let view = term.namespace_selector.as_ref().and_then(|_| self.namespaces.view());
        let namespace = view.and_then(|view| view.namespace(other.namespace()));
        term.matches(other, namespace.as_ref().and_then(|it| it.metadata.labels.as_ref()))
    }

    fn all_meant(&self, terms: &[PodTerm]) -> Vec<Meant> {
        terms.iter().map(|term| self.meant(term)).collect()
    }
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        NAME
    }
    /// Terms look at other nodes, so neither a Pod with one shares, nor one that another's means.
    fn sign(&self, pod: &PodInfo, snapshot: &Snapshot, _: &mut Vec<u8>) -> bool {
        let scores = self.hears_others(pod);
        let counts = |role| role == Role::RequiredAnti || (scores && self.weight(role) != 0);
        let about = snapshot.affinity().about(pod.namespace());
        let mut others = about.filter(|(role, ..)| counts(*role));
        pod.terms.is_empty() && !others.any(|(_, term, _)| self.means(term, pod))
    }
    fn namespaces(&self) -> Option<&Namespaces> {
        Some(&self.namespaces)
    }
    fn as_pre_filter(&self) -> Option<&dyn PreFilter> {
        Some(self)
    }
    fn as_filter(&self) -> Option<&dyn Filter> {
        Some(self)
    }
    fn as_pre_score(&self) -> Option<&dyn PreScore> {
        Some(self)
    }
    fn as_score(&self) -> Option<&dyn Score> {
        Some(self)
    }
    fn as_enqueue_extensions(&self) -> Option<&dyn EnqueueExtensions> {
        Some(self)
    }
}

impl PreFilter for InterPodAffinity {
    /// What the score needs is looked up here as well, because all nodes count for it, not only
    /// those that turn out to be possible.
    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
    ) -> PreFiltered {
        if let Some(preferences) = Preferences::of(self, pod, snapshot) {
            state.insert(preferences);
        }
        match Rules::of(self, pod, snapshot) {
            Some(rules) => {
                state.insert(rules);
                PreFiltered::All
            }
            None => PreFiltered::Skip,
        }
    }

    fn add_pod(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        added: &PodInfo,
        node: &NodeInfo,
    ) -> Status {
        if let Some(rules) = state.get_mut::<Rules>() {
            rules.adjust(self, pod, added, node, 1);
        }
        Status::success()
    }

    fn remove_pod(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        removed: &PodInfo,
        node: &NodeInfo,
    ) -> Status {
        if let Some(rules) = state.get_mut::<Rules>() {
            rules.adjust(self, pod, removed, node, -1);
        }
        Status::success()
    }
}

impl Filter for InterPodAffinity {
    fn filter(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> Status {
        state.get::<Rules>().map_or_else(Status::success, |rules| rules.judge(node))
    }
}

impl PreScore for InterPodAffinity {
    fn pre_score(&self, state: &mut CycleState, _: &PodInfo, _: &[&NodeInfo]) -> Status {
        match state.get::<Preferences>() {
            Some(_) => Status::success(),
            None => Status::skip(),
        }
    }
}

impl Score for InterPodAffinity {
    fn score(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> i64 {
        state.get::<Preferences>().map_or(0, |preferences| preferences.score(node))
    }

    fn normalization(&self) -> Normalize {
        Normalize::Custom
    }

    /// The smallest score becomes 0 and the largest 100; equal ones become 0.
    fn normalize_score(&self, _: &CycleState, _: &PodInfo, _: &[&NodeInfo], scores: &mut [i64]) {
        let min = scores.iter().copied().min().unwrap_or(0);
        let range = scores.iter().copied().max().unwrap_or(0) - min;
        for score in scores {
            *score = match range {
                0 => 0,
                // In floating point, as upstream rounds.
                range => (MAX_NODE_SCORE as f64 * ((*score - min) as f64 / range as f64)) as i64,
            };
        }
    }
}

impl EnqueueExtensions for InterPodAffinity {
    fn hint(&self, pod: &PodInfo, event: &ClusterEvent<'_>) -> Hint {
        let terms = &pod.terms;
        let is_near = |other: &PodInfo| {
            !terms.required.is_empty() && terms.required.iter().all(|it| self.means(it, other))
        };
        let is_apart = |other: &PodInfo| terms.required_anti.iter().any(|it| self.means(it, other));
        let keeps_off =
            |other: &PodInfo| other.terms.required_anti.iter().any(|term| self.means(term, pod));
        // Without the last of its group, it may begin the group anew.
        let leaves = |other: &PodInfo| is_near(other) && is_near(pod);
        let queue = match event {
            ClusterEvent::NodeAdded(node) => {
                let has_label = |term: &PodTerm| node.label(&term.topology_key).is_some();
                terms.required.is_empty() || terms.required.iter().any(has_label)
            }
            // Which labels matter to existing Pods is not known here.
            ClusterEvent::NodeUpdated { change, .. } => change.labels,
            ClusterEvent::AssignedPodAdded(other) => is_near(other),
            ClusterEvent::AssignedPodDeleted(other) => {
                is_apart(other) || keeps_off(other) || leaves(other)
            }
            ClusterEvent::AssignedPodUpdated { old, new } => {
                (is_near(new) && !is_near(old))
                    || (is_apart(old) && !is_apart(new))
                    || (leaves(old) && !is_near(new))
            }
            ClusterEvent::PodUpdated { .. } | ClusterEvent::NamespaceChanged => true,
            ClusterEvent::StorageChanged => false,
        };
        if queue { Hint::Queue } else { Hint::Skip }
    }
}
