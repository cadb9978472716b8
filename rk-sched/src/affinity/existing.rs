use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;

use super::{Domains, PodTerm};
use crate::{NodeInfo, PodInfo};

/// What a term is to the Pod that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Required,
    RequiredAnti,
    /// With its weight, negative for anti-affinity.
    Preferred(i64),
}

type Terms = HashMap<(Role, PodTerm), Arc<Domains>, RandomState>;

/// The different terms that the Pods on nodes have, and in which domains those Pods are.
///
/// All Pods of a workload have equal terms, so there are few, and what holds for another Pod is
/// found without a look at the Pods: only terms that may mean one of its namespace are tried on it.
#[derive(Debug, Default)]
pub(crate) struct Existing {
    /// Terms that name their namespaces, by each of them.
    named: HashMap<Box<str>, Terms, RandomState>,
    /// Terms that select namespaces by labels.
    selecting: Terms,
}

impl Existing {
    /// Counts the terms of a Pod on `node` in (`by` is 1) or out (-1).
    pub(crate) fn count(&mut self, node: &NodeInfo, pod: &PodInfo, by: i64) {
        if pod.terms.is_empty() {
            return;
        }
        let required = pod.terms.required.iter().map(|term| (Role::Required, term));
        let anti = pod.terms.required_anti.iter().map(|term| (Role::RequiredAnti, term));
        let preferred =
            pod.terms.preferred.iter().map(|(weight, term)| (Role::Preferred(*weight), term));
        for (role, term) in required.chain(anti).chain(preferred) {
            // On a node without the label it is in no domain.
            let Some(value) = node.label(&term.topology_key) else { continue };
            let key = (role, term.clone());
            if term.namespace_selector.is_some() {
                add(&mut self.selecting, key, value, by);
                continue;
            }
            for namespace in &term.namespaces {
                let terms = self.named.entry(namespace.as_str().into()).or_default();
                add(terms, key.clone(), value, by);
                if terms.is_empty() {
                    self.named.remove(namespace.as_str());
                }
            }
        }
    }

    /// The terms that may mean Pods of a namespace, each once, with the domains of the Pods that
    /// have them. In no particular order.
    pub(crate) fn about(
        &self,
        namespace: &str,
    ) -> impl Iterator<Item = (Role, &PodTerm, &Arc<Domains>)> {
        let named = self.named.get(namespace).into_iter().flatten();
        named.chain(&self.selecting).map(|((role, term), domains)| (*role, term, domains))
    }
}

fn add(terms: &mut Terms, key: (Role, PodTerm), value: &str, by: i64) {
    let domains = terms.entry(key.clone()).or_default();
    // A copy is made only while somebody still looks at the old state.
    Arc::make_mut(domains).add(value, by);
    if domains.total() == 0 {
        terms.remove(&key);
    }
}
