use std::sync::Arc;

use super::InterPodAffinity;
use crate::{NodeInfo, PodInfo, Snapshot, affinity::Domains};

/// What counts for and against a node, on both sides.
pub(super) struct Preferences(Vec<Preference>);

/// Each of these Pods in a node's domain adds the weight to its score.
struct Preference {
    weight: i64,
    topology_key: Arc<str>,
    pods: Arc<Domains>,
}

impl Preferences {
    /// Nothing if all nodes are alike.
    pub(super) fn of(
        plugin: &InterPodAffinity,
        pod: &PodInfo,
        snapshot: &Snapshot,
    ) -> Option<Self> {
        let own = pod.terms.preferred.iter().map(|(weight, term)| {
            let meant = vec![plugin.meant(term)];
            let pods = plugin.tallies.count(snapshot, meant, &term.topology_key);
            Preference { weight: *weight, topology_key: term.topology_key.clone(), pods }
        });
        let mut all: Vec<_> = own.filter(|it| it.pods.total() > 0).collect();
        if plugin.hears_others(pod) {
            let others = snapshot.affinity().about(pod.namespace());
            all.extend(others.filter_map(|(role, term, domains)| {
                let weight = plugin.weight(role);
                (weight != 0 && plugin.means(term, pod)).then(|| Preference {
                    weight,
                    topology_key: term.topology_key.clone(),
                    pods: domains.clone(),
                })
            }));
        }
        (!all.is_empty()).then_some(Self(all))
    }

    pub(super) fn score(&self, node: &NodeInfo) -> i64 {
        let scores = self.0.iter().map(|preference| {
            let domain = node.label(&preference.topology_key);
            preference.weight * domain.map_or(0, |domain| preference.pods.at(domain))
        });
        scores.sum()
    }
}
