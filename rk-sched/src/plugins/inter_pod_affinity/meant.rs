use rk_api::meta::selectors::LabelQuery;

use crate::{Namespaces, PodInfo, PodTerm};

/// Which Pods a term matches, its selector of namespaces worked out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Meant {
    /// Of these namespaces, sorted; or of all.
    namespaces: Option<Vec<String>>,
    selector: LabelQuery,
}

impl Meant {
    pub(super) fn by(term: &PodTerm, namespaces: &Namespaces) -> Self {
        let selector = term.selector.clone();
        let names = match &term.namespace_selector {
            None => Some(term.namespaces.clone()),
            Some(all) if all.is_everything() => None,
            Some(some) => {
                let all = namespaces.view().map(|view| view.namespaces()).unwrap_or_default();
                let selected =
                    all.iter().filter(|it| some.matches_optional(it.metadata.labels.as_ref()));
                let selected = selected.filter_map(|it| it.metadata.name.clone());
                let mut names: Vec<_> = term.namespaces.iter().cloned().chain(selected).collect();
                names.sort();
                names.dedup();
                Some(names)
            }
        };
        Self { namespaces: names, selector }
    }

    pub(super) fn means(&self, pod: &PodInfo) -> bool {
        let names = self.namespaces.as_ref();
        names.is_none_or(|names| names.iter().any(|name| name == pod.namespace()))
            && self.selector.matches_optional(pod.pod.metadata.labels.as_ref())
    }
}
