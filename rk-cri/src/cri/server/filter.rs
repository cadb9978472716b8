//! What a client wants to see of a list: all conditions hold, and one that is empty always does.

use std::collections::BTreeMap;

use super::super::v1;

/// Ids may be given by their beginning, as people type them.
fn id_matches(wanted: &str, id: &str) -> bool {
    id.starts_with(wanted)
}

fn labels_match(wanted: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}

pub(super) fn sandbox(filter: &v1::PodSandboxFilter, item: &v1::PodSandbox) -> bool {
    id_matches(&filter.id, &item.id)
        && filter.state.as_ref().is_none_or(|wanted| wanted.state == item.state)
        && labels_match(&filter.label_selector, &item.labels)
}

pub(super) fn container(filter: &v1::ContainerFilter, item: &v1::Container) -> bool {
    id_matches(&filter.id, &item.id)
        && id_matches(&filter.pod_sandbox_id, &item.pod_sandbox_id)
        && filter.state.as_ref().is_none_or(|wanted| wanted.state == item.state)
        && labels_match(&filter.label_selector, &item.labels)
}

pub(super) fn stats(filter: &v1::ContainerStatsFilter, item: &v1::Container) -> bool {
    let v1::ContainerStatsFilter { id, pod_sandbox_id, label_selector } = filter;
    id_matches(id, &item.id)
        && id_matches(pod_sandbox_id, &item.pod_sandbox_id)
        && labels_match(label_selector, &item.labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_conditions_must_hold() {
        let item = v1::Container {
            id: "abcdef".into(),
            pod_sandbox_id: "s1".into(),
            state: 1,
            labels: [("app".to_owned(), "web".to_owned())].into(),
            ..Default::default()
        };
        let empty = v1::ContainerFilter::default;
        let state = |state| Some(v1::ContainerStateValue { state });
        let labels = |value: &str| [("app".to_owned(), value.to_owned())].into();
        let check =
            |filter, expected| assert_eq!(container(&filter, &item), expected, "{filter:?}");
        check(empty(), true);
        check(v1::ContainerFilter { id: "abc".into(), ..empty() }, true);
        check(v1::ContainerFilter { id: "abd".into(), ..empty() }, false);
        check(v1::ContainerFilter { state: state(1), ..empty() }, true);
        check(v1::ContainerFilter { state: state(2), ..empty() }, false);
        check(v1::ContainerFilter { label_selector: labels("web"), ..empty() }, true);
        check(v1::ContainerFilter { label_selector: labels("db"), ..empty() }, false);
        check(v1::ContainerFilter { pod_sandbox_id: "s2".into(), ..empty() }, false);
    }
}
