use std::{collections::BTreeMap, sync::Arc};

use smallvec::SmallVec;

use super::{InterPodAffinity, Meant};
use crate::{
    NodeInfo, PodInfo, PodTerm, Snapshot, Status,
    affinity::{Domains, Role},
};

/// What is required for one Pod, and how things stand.
pub(super) struct Rules {
    near: Vec<Rule>,
    /// Whether the Pod's own affinity means itself, so that it may be the first of its group.
    means_itself: bool,
    apart: Vec<Rule>,
    /// Existing Pods that must not be near this one, by the node label.
    kept_off: BTreeMap<Arc<str>, Counted>,
}

/// A term of the Pod's own.
struct Rule {
    meant: Meant,
    topology_key: Arc<str>,
    counted: Counted,
}

/// Pods by domain: those of the snapshot, and what a dry run adds or takes away.
#[derive(Default)]
struct Counted {
    snapshot: SmallVec<[Arc<Domains>; 1]>,
    dry_run: Domains,
}

impl Counted {
    fn at(&self, domain: &str) -> i64 {
        let there: i64 = self.snapshot.iter().map(|domains| domains.at(domain)).sum();
        there + self.dry_run.at(domain)
    }

    fn total(&self) -> i64 {
        let there: i64 = self.snapshot.iter().map(|domains| domains.total()).sum();
        there + self.dry_run.total()
    }
}

impl Rule {
    fn add(&mut self, node: &NodeInfo, by: i64) {
        if let Some(domain) = node.label(&self.topology_key) {
            self.counted.dry_run.add(domain, by);
        }
    }
}

impl Rules {
    /// Nothing if no node can break a rule.
    pub(super) fn of(
        plugin: &InterPodAffinity,
        pod: &PodInfo,
        snapshot: &Snapshot,
    ) -> Option<Self> {
        let mut kept_off: BTreeMap<Arc<str>, Counted> = BTreeMap::new();
        for (role, term, domains) in snapshot.affinity().about(pod.namespace()) {
            if role == Role::RequiredAnti && plugin.means(term, pod) {
                let counted = kept_off.entry(term.topology_key.clone()).or_default();
                counted.snapshot.push(domains.clone());
            }
        }
        let terms = &pod.terms;
        let expects = snapshot.nominated().iter();
        let mut expects = expects.filter(|(other, _)| !other.terms.required_anti.is_empty());
        if terms.required.is_empty()
            && terms.required_anti.is_empty()
            && kept_off.is_empty()
            && expects.next().is_none()
        {
            return None;
        }

        let rule = |term: &PodTerm, all: Vec<Meant>| Rule {
            meant: plugin.meant(term),
            topology_key: term.topology_key.clone(),
            counted: Counted {
                snapshot: [plugin.tallies.count(snapshot, all, &term.topology_key)].into(),
                dry_run: Domains::default(),
            },
        };
        // Only a Pod that all terms mean counts, and it counts for each.
        let all = plugin.all_meant(&terms.required);
        let apart = terms.required_anti.iter();
        Some(Self {
            means_itself: all.iter().all(|it| it.means(pod)),
            near: terms.required.iter().map(|term| rule(term, all.clone())).collect(),
            apart: apart.map(|term| rule(term, vec![plugin.meant(term)])).collect(),
            kept_off,
        })
    }

    /// As if `other` had come to `node` (`by` is 1) or gone from it (-1).
    pub(super) fn adjust(
        &mut self,
        plugin: &InterPodAffinity,
        pod: &PodInfo,
        other: &PodInfo,
        node: &NodeInfo,
        by: i64,
    ) {
        if self.near.iter().all(|rule| rule.meant.means(other)) {
            self.near.iter_mut().for_each(|rule| rule.add(node, by));
        }
        let apart = self.apart.iter_mut().filter(|rule| rule.meant.means(other));
        apart.for_each(|rule| rule.add(node, by));
        for term in &other.terms.required_anti {
            if let Some(domain) = node.label(&term.topology_key)
                && plugin.means(term, pod)
            {
                let counted = self.kept_off.entry(term.topology_key.clone()).or_default();
                counted.dry_run.add(domain, by);
            }
        }
    }

    /// Whether the Pod may go to a node. That nobody is there whom it wants to be near, the going
    /// of others does not change.
    pub(super) fn judge(&self, node: &NodeInfo) -> Status {
        if !self.is_near(node) {
            return Status::unresolvable("node(s) didn't match pod affinity rules");
        }
        let has = |key: &str, counted: &Counted| {
            node.label(key).is_some_and(|domain| counted.at(domain) > 0)
        };
        if self.apart.iter().any(|rule| has(&rule.topology_key, &rule.counted)) {
            return Status::unschedulable("node(s) didn't match pod anti-affinity rules");
        }
        if self.kept_off.iter().any(|(key, counted)| has(key, counted)) {
            return Status::unschedulable(
                "node(s) didn't satisfy existing pods anti-affinity rules",
            );
        }
        Status::success()
    }

    fn is_near(&self, node: &NodeInfo) -> bool {
        let mut all = true;
        for rule in &self.near {
            let Some(domain) = node.label(&rule.topology_key) else { return false };
            all &= rule.counted.at(domain) > 0;
        }
        let begins = || self.means_itself && self.near.iter().all(|it| it.counted.total() == 0);
        all || begins()
    }
}
