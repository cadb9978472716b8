//! Which nodes a Pod's node selector and required node affinity leave to it. Pure.

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};
use kube::ResourceExt;

/// The only field that `matchFields` knows.
pub(crate) const NAME_FIELD: &str = "metadata.name";

/// Whether the node has the labels of `spec.nodeSelector` and matches one of the required terms of
/// the node affinity, if there are any.
pub(crate) fn selects(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.labels();
    let mut selector = spec.node_selector.iter().flatten();
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selector.all(|(key, value)| labels.get(key) == Some(value))
        && required.is_none_or(|required| {
            required.node_selector_terms.iter().any(|term| matches(term, node))
        })
}

/// Whether all requirements of a term hold; a term without any matches nothing.
pub(crate) fn matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = node.name_any();
    (!expressions.is_empty() || !fields.is_empty())
        && expressions
            .iter()
            .all(|wanted| holds(wanted, node.labels().get(&wanted.key).map(String::as_str)))
        && fields
            .iter()
            .all(|wanted| holds(wanted, Some(name.as_str()).filter(|_| wanted.key == NAME_FIELD)))
}

fn holds(wanted: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = wanted.values.as_deref().unwrap_or_default();
    let listed = || value.is_some_and(|value| values.iter().any(|one| one == value));
    let numbers = || match values {
        [bound] => Some((value?.parse::<i64>().ok()?, bound.parse::<i64>().ok()?)),
        _ => None,
    };
    match wanted.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, bound)| value > bound),
        "Lt" => numbers().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use rk_api::testing::{PodBuilder, node, pod};

    use super::*;

    #[track_caller]
    fn check(why: &str, pod: PodBuilder, selected: bool) {
        let node = node("n1").label("zone", "a").label("cpus", "8").build();
        assert_eq!(selects(pod.spec.as_ref().unwrap(), &node), selected, "{why}");
    }

    #[test]
    fn a_node_must_pass_the_selector_and_one_of_the_terms() {
        check("nothing asked", pod("p"), true);
        check("label there", pod("p").node_selector("zone", "a"), true);
        check("other value", pod("p").node_selector("zone", "b"), false);
        check("one of the values", pod("p").requires_node("zone", "In", &["b", "a"]), true);
        check("not one of them", pod("p").requires_node("zone", "NotIn", &["a"]), false);
        check("absent is not one of them", pod("p").requires_node("gpu", "NotIn", &["a"]), true);
        check("more than", pod("p").requires_node("cpus", "Gt", &["4"]), true);
        check("less than", pod("p").requires_node("cpus", "Lt", &["4"]), false);
        check("number of nothing", pod("p").requires_node("zone", "Gt", &["4"]), false);
        check("by name", pod("p").requires_node_named("n1"), true);
        check("another's name", pod("p").requires_node_named("n2"), false);
        let either =
            pod("p").requires_node("zone", "In", &["b"]).requires_node("gpu", "DoesNotExist", &[]);
        check("one of two terms", either, true);
        let both = pod("p").node_selector("zone", "b").requires_node_named("n1");
        check("selector and term", both, false);
    }
}
