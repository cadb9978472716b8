//! Steps of a field's path, and their order.

use std::{cmp::Ordering, fmt, sync::Arc};

use serde_json::{Map, Value};
use smol_str::SmolStr;

/// One step from a value to a part of it. Sets of fields copy them a lot, so that a copy costs next to
/// nothing.
#[derive(Clone, Debug)]
pub enum PathElement {
    /// A field of an object, by name.
    Field(SmolStr),
    /// The item of a list whose key fields have these values, sorted by field.
    Key(Arc<[(SmolStr, Value)]>),
    /// The item of a set that is this value.
    Value(Value),
    /// An item of a list, by position.
    Index(i64),
}

impl PathElement {
    /// The field of this name.
    pub fn field(name: &str) -> Self {
        Self::Field(name.into())
    }

    /// Reads the form that fieldsV1 uses: `f:spec`, `k:{"name":"a"}`, `v:1`, `i:0`. `Ok(None)` when
    /// the letter is one that nobody knows yet: such entries are passed over.
    ///
    /// # Errors
    /// What is wrong, when the text is none of these.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        let Some((letter, rest)) = text.split_at_checked(2) else {
            return Err("key must be 2 characters long:".to_owned());
        };
        if !letter.ends_with(':') {
            return Err(format!("missing colon: {text}"));
        }
        let element = match letter {
            "f:" => Self::Field(rest.into()),
            "v:" => Self::Value(serde_json::from_str(rest).map_err(|error| error.to_string())?),
            "k:" => {
                let fields: Map<String, Value> =
                    serde_json::from_str(rest).map_err(|error| error.to_string())?;
                Self::key(fields.into_iter().map(|(name, value)| (name.into(), value)).collect())
            }
            "i:" => Self::Index(
                rest.parse()
                    .map_err(|_| format!("strconv.Atoi: parsing {rest:?}: invalid syntax"))?,
            ),
            _ => return Ok(None),
        };
        Ok(Some(element))
    }

    /// The item with these key fields.
    pub fn key(mut fields: Vec<(SmolStr, Value)>) -> Self {
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        Self::Key(fields.into())
    }

    /// Writes the form that [`Self::parse`] reads.
    pub fn write(&self, out: &mut String) {
        match self {
            Self::Field(name) => {
                out.push_str("f:");
                out.push_str(name);
            }
            Self::Value(value) => {
                out.push_str("v:");
                out.push_str(&value.to_string());
            }
            Self::Index(index) => {
                out.push_str("i:");
                out.push_str(&index.to_string());
            }
            Self::Key(fields) => {
                out.push_str("k:{");
                for (at, (name, value)) in fields.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    out.push_str(&Value::from(name.as_str()).to_string());
                    out.push(':');
                    out.push_str(&value.to_string());
                }
                out.push('}');
            }
        }
    }
}

/// As conflicts name it: `.spec`, `[name="a"]`, `[="x"]`, `[0]`.
impl fmt::Display for PathElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Value(value) => write!(f, "[={value}]"),
            Self::Index(index) => write!(f, "[{index}]"),
            Self::Key(fields) => {
                f.write_str("[")?;
                for (at, (name, value)) in fields.iter().enumerate() {
                    let comma = if at > 0 { "," } else { "" };
                    write!(f, "{comma}{name}={value}")?;
                }
                f.write_str("]")
            }
        }
    }
}

impl Ord for PathElement {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(a), Self::Field(b)) => a.cmp(b),
            (Self::Key(a), Self::Key(b)) => compare_keys(a, b),
            (Self::Value(a), Self::Value(b)) => compare_values(a, b),
            (Self::Index(a), Self::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for PathElement {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for PathElement {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for PathElement {}

impl PathElement {
    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }
}

fn compare_keys(a: &[(SmolStr, Value)], b: &[(SmolStr, Value)]) -> Ordering {
    for ((a_name, a_value), (b_name, b_value)) in a.iter().zip(b) {
        let order = a_name.cmp(b_name).then_with(|| compare_values(a_value, b_value));
        if order.is_ne() {
            return order;
        }
    }
    a.len().cmp(&b.len())
}

/// The order of values: numbers, strings, booleans, lists, objects, null; each kind in itself.
pub(super) fn compare_values(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => match (x.as_i64(), y.as_i64()) {
            (Some(x), Some(y)) => x.cmp(&y),
            _ => {
                let float = |n: &serde_json::Number| n.as_f64().unwrap_or(f64::NAN);
                float(x).total_cmp(&float(y))
            }
        },
        (Value::String(x), Value::String(y)) => x.cmp(y),
        (Value::Bool(x), Value::Bool(y)) => x.cmp(y),
        (Value::Array(x), Value::Array(y)) => {
            let different = x.iter().zip(y).map(|(x, y)| compare_values(x, y));
            different.into_iter().find(|order| order.is_ne()).unwrap_or(x.len().cmp(&y.len()))
        }
        (Value::Object(x), Value::Object(y)) => {
            let (x, y) = (sorted(x), sorted(y));
            let different =
                x.iter().zip(&y).map(|(x, y)| x.0.cmp(y.0).then_with(|| compare_values(x.1, y.1)));
            different.into_iter().find(|order| order.is_ne()).unwrap_or(x.len().cmp(&y.len()))
        }
        _ => value_rank(a).cmp(&value_rank(b)),
    }
}

/// Whether two values are the same: 1 and 1.0 are.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    a == b || compare_values(a, b).is_eq()
}

fn sorted(map: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by(|a, b| a.0.cmp(b.0));
    entries
}

fn value_rank(value: &Value) -> u8 {
    match value {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    }
}

/// A path as conflicts print it.
pub(super) fn print(path: &[&PathElement]) -> String {
    path.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(text: &str, shown: &str) {
        let element = PathElement::parse(text).unwrap().unwrap();
        assert_eq!(element.to_string(), shown);
        let mut out = String::new();
        element.write(&mut out);
        assert_eq!(out, text);
    }

    #[test]
    fn elements_are_read_and_written() {
        check("f:spec", ".spec");
        check("f:a/b.c", ".a/b.c");
        check(r#"k:{"containerPort":80,"protocol":"TCP"}"#, r#"[containerPort=80,protocol="TCP"]"#);
        check(r#"v:"x""#, r#"[="x"]"#);
        check("v:1", "[=1]");
        check("i:7", "[7]");
    }

    #[test]
    fn what_nobody_knows_yet_is_passed_over() {
        assert_eq!(PathElement::parse("z:new"), Ok(None));
        for bad in ["", "f", "fx", "v:", "v:{", "k:1", "k:{} {}", "i:x"] {
            assert!(PathElement::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn elements_have_an_order() {
        let key = |name: &str, value: Value| PathElement::key(vec![(name.into(), value)]);
        let ordered = [
            PathElement::field("a"),
            PathElement::field("b"),
            key("name", json!(2)),
            key("name", json!(10)),
            key("name", json!("a")),
            key("port", json!(1)),
            PathElement::Value(json!(1)),
            PathElement::Value(json!("a")),
            PathElement::Value(json!(true)),
            PathElement::Index(0),
        ];
        assert!(ordered.is_sorted());
        assert_eq!(PathElement::Value(json!(1)), PathElement::Value(json!(1.0)));
    }
}
