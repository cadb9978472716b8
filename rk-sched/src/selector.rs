use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};

/// Labels as objects have them.
type Labels = BTreeMap<String, String>;

/// Node selector terms made ready for matching. They are alternatives: one that matches is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeTerms(Vec<NodeTerm>);

/// One term: all of its requirements must hold. A term without any matches nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeTerm {
    expressions: Vec<Requirement>,
    /// On `metadata.name`, the only field there is.
    fields: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    Gt(i64),
    Lt(i64),
    /// Malformed: it never holds.
    Never,
}

impl NodeTerms {
    /// The terms of `selector`.
    pub fn new(selector: &NodeSelector) -> Self {
        Self(selector.node_selector_terms.iter().map(NodeTerm::new).collect())
    }

    /// Whether one of the terms matches the node.
    pub fn matches(&self, labels: Option<&Labels>, name: &str) -> bool {
        self.0.iter().any(|term| term.matches(labels, name))
    }

    /// The nodes that the terms name: `None` when some term leaves them open.
    pub fn node_names(&self) -> Option<Vec<String>> {
        let mut names = Vec::new();
        for term in &self.0 {
            let mut of_term: Option<Vec<String>> = None;
            for field in term.fields.iter().filter(|field| field.key == "metadata.name") {
                let Operator::In(values) = &field.operator else { continue };
                of_term = Some(match of_term {
                    None => values.clone(),
                    Some(before) => before.into_iter().filter(|n| values.contains(n)).collect(),
                });
            }
            names.extend(of_term?);
        }
        names.sort();
        names.dedup();
        Some(names).filter(|_| !self.0.is_empty())
    }
}

impl NodeTerm {
    /// A term made ready for matching.
    pub fn new(term: &NodeSelectorTerm) -> Self {
        let compile = |requirements: &Option<Vec<NodeSelectorRequirement>>| {
            requirements.iter().flatten().map(Requirement::new).collect()
        };
        Self { expressions: compile(&term.match_expressions), fields: compile(&term.match_fields) }
    }

    /// Whether all requirements hold for the node.
    pub fn matches(&self, labels: Option<&Labels>, name: &str) -> bool {
        if self.expressions.is_empty() && self.fields.is_empty() {
            return false;
        }
        let label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
        let field = |key: &str| Some(name).filter(|_| key == "metadata.name");
        self.expressions.iter().all(|expression| expression.holds(label(&expression.key)))
            && self.fields.iter().all(|requirement| requirement.holds(field(&requirement.key)))
    }
}

impl Requirement {
    fn new(requirement: &NodeSelectorRequirement) -> Self {
        let values = requirement.values.clone().unwrap_or_default();
        let number = || match values.as_slice() {
            [value] => value.parse().ok(),
            _ => None,
        };
        let operator = match requirement.operator.as_str() {
            "In" => Operator::In(values),
            "NotIn" => Operator::NotIn(values),
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => number().map_or(Operator::Never, Operator::Gt),
            "Lt" => number().map_or(Operator::Never, Operator::Lt),
            _ => Operator::Never,
        };
        Self { key: requirement.key.clone(), operator }
    }

    fn holds(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.iter().any(|v| v == value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.iter().any(|v| v == value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt(bound) => number().is_some_and(|number| number > *bound),
            Operator::Lt(bound) => number().is_some_and(|number| number < *bound),
            Operator::Never => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(key: &str, operator: &str, values: &[&str], expected: bool) {
        let requirement = NodeSelectorRequirement {
            key: key.to_owned(),
            operator: operator.to_owned(),
            values: Some(values.iter().map(|value| (*value).to_owned()).collect()),
        };
        let term =
            NodeSelectorTerm { match_expressions: Some(vec![requirement]), match_fields: None };
        let labels = [("disk", "ssd"), ("cores", "8")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        assert_eq!(NodeTerm::new(&term).matches(Some(&labels), "n"), expected, "{term:?}");
    }

    #[test]
    fn operators() {
        check("disk", "In", &["hdd", "ssd"], true);
        check("disk", "In", &["hdd"], false);
        check("none", "In", &[""], false);
        check("disk", "NotIn", &["hdd"], true);
        check("disk", "NotIn", &["ssd"], false);
        check("none", "NotIn", &["ssd"], true);
        check("disk", "Exists", &[], true);
        check("none", "Exists", &[], false);
        check("none", "DoesNotExist", &[], true);
        check("disk", "DoesNotExist", &[], false);
        check("cores", "Gt", &["7"], true);
        check("cores", "Gt", &["8"], false);
        check("cores", "Lt", &["9"], true);
        check("disk", "Lt", &["9"], false);
        check("none", "Gt", &["0"], false);
        check("cores", "Gt", &["many"], false);
        check("cores", "Near", &["8"], false);
    }

    #[test]
    fn a_term_without_requirements_matches_nothing() {
        let empty = NodeSelectorTerm::default();
        assert!(!NodeTerm::new(&empty).matches(Some(&Labels::new()), "n"));
    }
}
