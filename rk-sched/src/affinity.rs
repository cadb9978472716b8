//! What Pods say of other Pods: near which they are to run, and near which not.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, WeightedPodAffinityTerm};
use rk_api::meta::selectors::LabelQuery;

use crate::PodInfo;

mod domains;
mod existing;

pub(crate) use domains::Domains;
pub(crate) use existing::{Existing, Role};

/// `spec.affinity.podAffinity` and `podAntiAffinity` of a Pod, made ready for matching.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodTerms {
    /// Required affinity: in the domain of each term there must be a Pod that all terms match.
    pub required: Vec<PodTerm>,
    /// Required anti-affinity: no Pod that a term matches may be in the term's domain.
    pub required_anti: Vec<PodTerm>,
    /// Preferred terms with what each matching Pod counts: less than nothing for anti-affinity.
    pub preferred: Vec<(i64, PodTerm)>,
}

/// One term: Pods of some namespaces with some labels, and the node label whose values are the
/// domains in which they count.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodTerm {
    /// The node label.
    pub topology_key: Arc<str>,
    /// Sorted.
    pub(crate) namespaces: Vec<String>,
    /// Further namespaces, by their labels.
    pub(crate) namespace_selector: Option<LabelQuery>,
    pub(crate) selector: LabelQuery,
}

impl PodTerms {
    /// The terms of a Pod.
    pub fn of(pod: &Pod) -> Self {
        let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
        let Some(affinity) = affinity else { return Self::default() };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let required = |terms: Option<&Vec<PodAffinityTerm>>| -> Vec<PodTerm> {
            terms.into_iter().flatten().map(|term| PodTerm::new(term, namespace)).collect()
        };
        let preferred = |terms: Option<&Vec<WeightedPodAffinityTerm>>, sign: i64| -> Vec<_> {
            let term = |it: &WeightedPodAffinityTerm| {
                (sign * i64::from(it.weight), PodTerm::new(&it.pod_affinity_term, namespace))
            };
            terms.into_iter().flatten().map(term).collect()
        };
        let (near, apart) = (affinity.pod_affinity.as_ref(), affinity.pod_anti_affinity.as_ref());
        Self {
            required: required(
                near.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            required_anti: required(
                apart
                    .and_then(|it| it.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            preferred: [
                preferred(
                    near.and_then(|it| {
                        it.preferred_during_scheduling_ignored_during_execution.as_ref()
                    }),
                    1,
                ),
                preferred(
                    apart.and_then(|it| {
                        it.preferred_during_scheduling_ignored_during_execution.as_ref()
                    }),
                    -1,
                ),
            ]
            .concat(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.required.is_empty() && self.required_anti.is_empty() && self.preferred.is_empty()
    }
}

impl PodTerm {
    /// The term of a Pod in `namespace`, which is the namespace that it means unless it says so
    /// itself. Without a selector it matches nothing; the API server has merged `matchLabelKeys`
    /// into that.
    pub fn new(term: &PodAffinityTerm, namespace: &str) -> Self {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(namespace.to_owned());
        }
        namespaces.sort();
        namespaces.dedup();
        Self {
            topology_key: term.topology_key.as_str().into(),
            namespaces,
            namespace_selector: term.namespace_selector.as_ref().map(LabelQuery::from_selector),
            selector: LabelQuery::from_optional(term.label_selector.as_ref()),
        }
    }

    /// Whether it matches a Pod whose namespace has these labels.
    pub fn matches(
        &self,
        pod: &PodInfo,
        namespace_labels: Option<&BTreeMap<String, String>>,
    ) -> bool {
        let names = &self.namespaces;
        let selected = || {
            let selector = self.namespace_selector.as_ref();
            selector.is_some_and(|selector| selector.matches_optional(namespace_labels))
        };
        (names.iter().any(|name| name == pod.namespace()) || selected())
            && self.selector.matches_optional(pod.pod.metadata.labels.as_ref())
    }
}
