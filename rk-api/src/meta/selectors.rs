//! Label and field selectors, as in the query of a list (apimachinery's `labels` and `fields`),
//! and the label selectors of specs.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

mod field;
mod parser;

pub use self::field::{FieldOperator, FieldQuery, FieldRequirement};
use super::names;

/// A text that is no selector. The message is that of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

/// What a requirement demands of a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LabelOperator {
    /// `key=value`: the label is there with this value.
    Equals(String),
    /// `key!=value`: the label is not there with this value.
    NotEquals(String),
    /// `key in (a,b)`: the label is there with one of these values.
    In(Vec<String>),
    /// `key notin (a,b)`: the label is not there with one of these values.
    NotIn(Vec<String>),
    /// `key`: the label is there.
    Exists,
    /// `!key`: the label is not there.
    DoesNotExist,
    /// `key>1`: the label is there and a larger integer.
    GreaterThan(i64),
    /// `key<1`: the label is there and a smaller integer.
    LessThan(i64),
    /// An operator that does not exist: no object matches.
    Unknown(String),
}

/// One condition of a selector, on one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LabelRequirement {
    /// The key of the label.
    pub key: String,
    /// What is demanded of it.
    pub operator: LabelOperator,
}

impl LabelRequirement {
    /// Whether `value`, the label's if it is there, is as demanded.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let integer = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.operator {
            LabelOperator::Equals(wanted) => value == Some(wanted.as_str()),
            LabelOperator::NotEquals(unwanted) => value != Some(unwanted.as_str()),
            LabelOperator::In(wanted) => {
                value.is_some_and(|value| wanted.iter().any(|wanted| wanted == value))
            }
            LabelOperator::NotIn(unwanted) => {
                !value.is_some_and(|value| unwanted.iter().any(|unwanted| unwanted == value))
            }
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
            LabelOperator::GreaterThan(bound) => integer().is_some_and(|value| value > *bound),
            LabelOperator::LessThan(bound) => integer().is_some_and(|value| value < *bound),
            LabelOperator::Unknown(_) => false,
        }
    }
}

/// A selector by labels: all its requirements must hold. The default one has none and matches
/// every object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LabelQuery {
    requirements: Vec<LabelRequirement>,
    nothing: bool,
}

impl LabelQuery {
    /// Matches every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Matches no object.
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// Reads the `labelSelector` of a query, for example `app in (web,db),!old`.
    ///
    /// # Errors
    /// Kubernetes' message when it is malformed.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = parser::parse(text)?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// The selector of a spec. An operator that does not exist, which validation refuses, matches
    /// nothing.
    pub fn from_selector(selector: &LabelSelector) -> Self {
        let labels = selector.match_labels.iter().flatten().map(|(key, value)| LabelRequirement {
            key: key.clone(),
            operator: LabelOperator::Equals(value.clone()),
        });
        let expressions = selector.match_expressions.iter().flatten().map(|expression| {
            let mut values = expression.values.clone().unwrap_or_default();
            values.sort();
            LabelRequirement {
                key: expression.key.clone(),
                operator: match expression.operator.as_str() {
                    "In" => LabelOperator::In(values),
                    "NotIn" => LabelOperator::NotIn(values),
                    "Exists" => LabelOperator::Exists,
                    "DoesNotExist" => LabelOperator::DoesNotExist,
                    other => LabelOperator::Unknown(other.to_owned()),
                },
            }
        });
        let mut requirements: Vec<_> = labels.chain(expressions).collect();
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements, nothing: false }
    }

    /// The selector of a spec that may leave it out; no selector matches nothing.
    pub fn from_optional(selector: Option<&LabelSelector>) -> Self {
        selector.map_or_else(Self::nothing, Self::from_selector)
    }

    /// The selector that demands each of these labels, as Services have it.
    pub fn from_labels(labels: &BTreeMap<String, String>) -> Self {
        let requirement = |(key, value): (&String, &String)| LabelRequirement {
            key: key.clone(),
            operator: LabelOperator::Equals(value.clone()),
        };
        Self { requirements: labels.iter().map(requirement).collect(), nothing: false }
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }

    /// Whether the labels of an object, which may have none, are selected.
    pub fn matches_optional(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        self.matches_with(|key| labels.and_then(|labels| labels.get(key)).map(String::as_str))
    }

    /// Whether an object is selected whose labels `get` looks up.
    pub fn matches_with<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|wanted| wanted.matches(get(&wanted.key)))
    }

    /// Whether it selects every object.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Its conditions, sorted by key.
    pub fn requirements(&self) -> &[LabelRequirement] {
        &self.requirements
    }
}

impl fmt::Display for LabelQuery {
    /// As [`LabelQuery::parse`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            let separator = if i == 0 { "" } else { "," };
            write!(f, "{separator}{requirement}")?;
        }
        Ok(())
    }
}

impl fmt::Display for LabelRequirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match &self.operator {
            LabelOperator::Equals(value) => write!(f, "{key}={value}"),
            LabelOperator::NotEquals(value) => write!(f, "{key}!={value}"),
            LabelOperator::In(values) => write!(f, "{key} in ({})", Values(values)),
            LabelOperator::NotIn(values) => write!(f, "{key} notin ({})", Values(values)),
            LabelOperator::Exists => write!(f, "{key}"),
            LabelOperator::DoesNotExist => write!(f, "!{key}"),
            LabelOperator::GreaterThan(bound) => write!(f, "{key}>{bound}"),
            LabelOperator::LessThan(bound) => write!(f, "{key}<{bound}"),
            LabelOperator::Unknown(operator) => write!(f, "{key} {operator}"),
        }
    }
}

/// Values of a set. One that is empty and alone has a comma: `()` would be a set of none, which
/// cannot be read again.
struct Values<'a>(&'a [String]);

impl fmt::Display for Values<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [only] if only.is_empty() => f.write_str(","),
            values => f.write_str(&values.join(",")),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;
    use proptest::prelude::*;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[track_caller]
    fn check(query: &str, matching: &[&[(&str, &str)]], others: &[&[(&str, &str)]]) {
        let parsed = LabelQuery::parse(query).unwrap();
        for pairs in matching {
            assert!(parsed.matches(&labels(pairs)), "{query} selects {pairs:?}");
        }
        for pairs in others {
            assert!(!parsed.matches(&labels(pairs)), "{query} does not select {pairs:?}");
        }
    }

    #[test]
    fn label_queries_select() {
        let (web, db, old): (&[_], &[_], &[_]) =
            (&[("app", "web")], &[("app", "db"), ("tier", "2")], &[("old", "")]);
        check("", &[web, db, old, &[]], &[]);
        check("app=web", &[web], &[db, old]);
        check("app==web", &[web], &[db, old]);
        check("app!=web", &[db, old], &[web]);
        check("app", &[web, db], &[old]);
        check("!app", &[old, &[]], &[web]);
        check("! app", &[old], &[web]);
        check("app in ( web , db )", &[web, db], &[old]);
        check("app notin (web)", &[db, old], &[web]);
        check("app=db,tier>1", &[db], &[web]);
        check("app=db, tier<2", &[], &[db, web]);
        check("app in (web,)", &[web, &[("app", "")]], &[db, old]);
        check("old=", &[old], &[web]);
        check("in in (in)", &[&[("in", "in")]], &[web]);
    }

    #[test]
    fn malformed_label_queries_say_what_was_expected() {
        #[track_caller]
        fn check(query: &str, message: &str) {
            assert_eq!(LabelQuery::parse(query).unwrap_err().to_string(), message);
        }
        check(
            "a b",
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
        );
        check("app in web", "unable to parse requirement: found 'web' expected: '('");
        check("app=a b", "found 'b', expected: ',' or 'end of string'");
        check("a,,b", "found ',', expected: identifier after ','");
        check("=a", "found '=', expected: !, identifier, or 'end of string'");
        check(
            "tier>x",
            "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' \
             operators, the value must be an integer",
        );
        let wrong = LabelQuery::parse("a=-").unwrap_err().to_string();
        assert!(
            wrong
                .starts_with("unable to parse requirement: values[0][a]: Invalid value: \"-\": a "),
            "{wrong}"
        );
        let wrong = LabelQuery::parse("a*").unwrap_err().to_string();
        assert!(
            wrong.starts_with("unable to parse requirement: <nil>: Invalid value: \"a*\": name "),
            "{wrong}"
        );
    }

    #[test]
    fn selectors_of_specs_select_and_print() {
        let expression = |key: &str, operator: &str, values: &[&str]| LabelSelectorRequirement {
            key: key.to_owned(),
            operator: operator.to_owned(),
            values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
        };
        let selector = LabelSelector {
            match_labels: Some(labels(&[("b", "1")])),
            match_expressions: Some(vec![
                expression("c", "In", &["y", "x"]),
                expression("a", "DoesNotExist", &[]),
            ]),
        };
        let query = LabelQuery::from_selector(&selector);
        assert_eq!(query.to_string(), "!a,b=1,c in (x,y)");
        assert!(query.matches(&labels(&[("b", "1"), ("c", "x")])));
        assert!(!query.matches(&labels(&[("a", ""), ("b", "1"), ("c", "x")])));
        assert!(LabelQuery::from_selector(&LabelSelector::default()).is_everything());
        assert!(!LabelQuery::from_optional(None).matches(&BTreeMap::new()));
    }

    proptest! {
        #[test]
        fn a_printed_query_reads_back(text in "[a-c]( in \\([x-z](,[x-z])?\\)|=[x-z]?|!=[x-z])?(,![a-c])?") {
            let query = LabelQuery::parse(&text).unwrap();
            prop_assert_eq!(LabelQuery::parse(&query.to_string()).unwrap(), query);
        }

        #[test]
        fn any_text_is_judged(text in "[a-c=!()<>, in\\\\]{0,20}") {
            let _ = LabelQuery::parse(&text);
            let _ = FieldQuery::parse(&text);
        }
    }
}
