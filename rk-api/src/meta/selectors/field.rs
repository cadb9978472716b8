//! Field selectors: `status.phase=Running,spec.nodeName!=n1`.

use std::fmt;

use super::SelectorError;

/// Whether a field must have the value or must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldOperator {
    /// `=` or `==`
    Equals,
    /// `!=`
    NotEquals,
}

/// One condition of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    /// The field, for example `spec.nodeName`.
    pub field: String,
    /// Whether it must have the value or must not.
    pub operator: FieldOperator,
    /// The value.
    pub value: String,
}

/// A selector by fields: all its requirements must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldQuery(Vec<FieldRequirement>);

impl FieldQuery {
    /// Reads the `fieldSelector` of a query. Whether the fields exist is not judged here.
    ///
    /// # Errors
    /// Kubernetes' message when it is malformed.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for term in split_terms(text) {
            if term.is_empty() {
                continue;
            }
            let Some((field, operator, value)) = split_term(term) else {
                return Err(SelectorError(format!(
                    "invalid selector: '{text}'; can't understand '{term}'"
                )));
            };
            requirements.push(FieldRequirement {
                field: field.to_owned(),
                operator,
                value: unescape(value)?,
            });
        }
        Ok(Self(requirements))
    }

    /// Its conditions.
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.0
    }

    /// Whether an object is selected whose fields `get` looks up. A field that it does not have
    /// counts as empty.
    pub fn matches_with<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|wanted| {
            let equal = get(&wanted.field).unwrap_or("") == wanted.value;
            equal == (wanted.operator == FieldOperator::Equals)
        })
    }

    /// Whether it selects every object.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// The value that `field` must have, when a requirement fixes one.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|wanted| wanted.field == field && wanted.operator == FieldOperator::Equals)
            .map(|wanted| wanted.value.as_str())
    }
}

impl fmt::Display for FieldQuery {
    /// As [`FieldQuery::parse`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, wanted) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "," };
            let operator = match wanted.operator {
                FieldOperator::Equals => "=",
                FieldOperator::NotEquals => "!=",
            };
            write!(f, "{separator}{}{operator}{}", wanted.field, escape(&wanted.value))?;
        }
        Ok(())
    }
}

/// Splits at commas that no backslash precedes.
fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, FieldOperator, &str)> {
    for (i, _) in term.char_indices() {
        let rest = &term[i..];
        for (symbol, operator) in [
            ("!=", FieldOperator::NotEquals),
            ("==", FieldOperator::Equals),
            ("=", FieldOperator::Equals),
        ] {
            if let Some(value) = rest.strip_prefix(symbol) {
                return Some((&term[..i], operator, value));
            }
        }
    }
    None
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(next @ ('\\' | ',' | '=')) => out.push(next),
                next => {
                    let sequence: String = ['\\'].into_iter().chain(next).collect();
                    return Err(SelectorError(format!(
                        "invalid field selector: invalid escape sequence: {sequence}"
                    )));
                }
            },
            ',' | '=' => {
                return Err(SelectorError(format!(
                    "invalid field selector: unescaped character in value: {}",
                    u32::from(c)
                )));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn field_queries_are_read() {
        let query = FieldQuery::parse("a.b=c,d!=e,f==g\\,h").unwrap();
        assert_eq!(query.to_string(), "a.b=c,d!=e,f=g\\,h");
        assert_eq!(query.exact("f"), Some("g,h"));
        assert_eq!(query.exact("d"), None);
        let get = |field: &str| match field {
            "a.b" => Some("c"),
            "f" => Some("g,h"),
            _ => None,
        };
        assert!(query.matches_with(get));
        assert!(!FieldQuery::parse("d=e").unwrap().matches_with(get));
        assert!(FieldQuery::parse("").unwrap().is_everything());
    }

    #[test]
    fn malformed_field_queries_are_refused() {
        let message = |text| FieldQuery::parse(text).unwrap_err().to_string();
        assert_eq!(message("a=b,c"), "invalid selector: 'a=b,c'; can't understand 'c'");
        assert_eq!(message("a=\\x"), "invalid field selector: invalid escape sequence: \\x");
    }

    proptest! {
        #[test]
        fn a_printed_query_reads_back(value in "[a=,\\\\ ]{0,6}") {
            let query = FieldQuery(vec![FieldRequirement {
                field: "f".to_owned(), operator: FieldOperator::Equals, value,
            }]);
            prop_assert_eq!(FieldQuery::parse(&query.to_string()).unwrap(), query);
        }
    }
}
