//! When two values are equal (CEL specification, "Equality"; lists of sets and of keyed items as
//! Kubernetes has them).

use std::{cmp::Ordering, collections::HashMap};

use serde_json::Value as Json;

use super::{Key, List, Map, Value, compare_numbers};
use crate::cel::{
    EvalError,
    schema::{ListKind, Shape},
};

/// Whether two values are equal. Values of different types are not, save for numbers.
///
/// `effort` counts the values compared: whoever calls bounds it, for the cost model does not count
/// what is inside nested values.
pub(crate) fn equal(
    left: &Value<'_>,
    right: &Value<'_>,
    effort: &mut u64,
) -> Result<bool, EvalError> {
    *effort += 1;
    Ok(match (left, right) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(left), Value::Bool(right)) => left == right,
        (Value::String(left), Value::String(right)) => left.as_str() == right.as_str(),
        (Value::Bytes(left), Value::Bytes(right)) => left == right,
        (Value::Duration(left), Value::Duration(right)) => left == right,
        (Value::Timestamp(left), Value::Timestamp(right)) => left == right,
        (Value::Type(left), Value::Type(right)) => left == right,
        (Value::List(left), Value::List(right)) => lists(left, right, effort)?,
        (Value::Map(left), Value::Map(right)) => maps(left, right, effort)?,
        (Value::Struct(left), Value::Struct(right)) => {
            if left.type_name != right.type_name || left.fields.len() != right.fields.len() {
                return Ok(false);
            }
            for (name, value) in &left.fields {
                match right.fields.get(name) {
                    Some(other) if equal(value, other, effort)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (Value::Optional(left), Value::Optional(right)) => match (left, right) {
            (None, None) => true,
            (Some(left), Some(right)) => equal(left, right, effort)?,
            _ => false,
        },
        (Value::Library(left), Value::Library(right)) => left == right,
        (Value::Unknown(left), Value::Unknown(right)) => left == right,
        (left, right) => compare_numbers(left, right) == Some(Some(Ordering::Equal)),
    })
}

/// The list kind of a list that has one.
fn list_kind<'v>(list: &'v List<'_>) -> Option<&'v ListKind> {
    match list {
        List::Json(_, schema) => match &schema.shape {
            Shape::List { kind, .. } => Some(kind),
            _ => None,
        },
        List::Owned(_) => None,
    }
}

fn lists(left: &List<'_>, right: &List<'_>, effort: &mut u64) -> Result<bool, EvalError> {
    if left.len() != right.len() {
        return Ok(false);
    }
    // The list with a schema says what counts; the left one if both have one.
    let kind = list_kind(left).filter(|kind| **kind != ListKind::Atomic).or(list_kind(right));
    match kind {
        Some(ListKind::Set) => unordered(left, right, effort, |value| Ok(scalar_key(value))),
        Some(ListKind::Map(keys)) => unordered(left, right, effort, |value| item_key(value, keys)),
        _ => {
            for (left, right) in left.iter().zip(right.iter()) {
                if !equal(&left?, &right?, effort)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
    }
}

fn scalar_key(value: &Value<'_>) -> Option<String> {
    Some(match value {
        Value::Double(double) => match Key::of(value) {
            Some(key) => format!("{key:?}"),
            None => format!("{double:?}"),
        },
        Value::Null => "null".to_owned(),
        _ => match Key::of(value) {
            Some(key) => format!("{key:?}"),
            None => value.to_json().ok()?.to_string(),
        },
    })
}

fn item_key(value: &Value<'_>, keys: &[String]) -> Result<Option<String>, EvalError> {
    let Value::Map(map) = value else { return Ok(None) };
    let mut out = String::new();
    for key in keys {
        let field = crate::cel::escape::escape(key).unwrap_or_else(|| key.clone());
        if let Some(value) = map.get_str(&field) {
            out.push_str(&scalar_key(&value?).unwrap_or_default());
        }
        out.push('\u{0}');
    }
    Ok(Some(out))
}

/// Whether both lists have the same items by key, in whatever order.
fn unordered(
    left: &List<'_>,
    right: &List<'_>,
    effort: &mut u64,
    key: impl Fn(&Value<'_>) -> Result<Option<String>, EvalError>,
) -> Result<bool, EvalError> {
    let mut items = HashMap::with_capacity(left.len());
    for item in left.iter() {
        let item = item?;
        *effort += 1;
        if let Some(key) = key(&item)? {
            items.insert(key, item);
        }
    }
    let mut seen = std::collections::HashSet::new();
    for other in right.iter() {
        let other = other?;
        let Some(key) = key(&other)? else { return Ok(false) };
        match items.get(&key) {
            Some(item) if equal(item, &other, effort)? => {
                seen.insert(key);
            }
            _ => return Ok(false),
        }
    }
    Ok(seen.len() == items.len())
}

fn maps(left: &Map<'_>, right: &Map<'_>, effort: &mut u64) -> Result<bool, EvalError> {
    if left.len() != right.len() {
        return Ok(false);
    }
    if let (Map::Json(left, left_schema), Map::Json(right, right_schema)) = (left, right)
        && let (Shape::Object(_), Shape::Object(_)) = (&left_schema.shape, &right_schema.shape)
    {
        return objects(left, left_schema, right, right_schema, effort);
    }
    for (key, value) in left.entries() {
        match right.get(&key) {
            Some(other) => {
                if !equal(&value?, &other?, effort)? {
                    return Ok(false);
                }
            }
            None => return Ok(false),
        }
    }
    Ok(true)
}

/// Objects are compared with the fields that expressions do not see.
fn objects<'a>(
    left: &'a serde_json::Map<String, Json>,
    left_schema: &'a crate::cel::schema::Schema,
    right: &'a serde_json::Map<String, Json>,
    right_schema: &'a crate::cel::schema::Schema,
    effort: &mut u64,
) -> Result<bool, EvalError> {
    let by_name = |schema: &'a crate::cel::schema::Schema, name: &str| match &schema.shape {
        Shape::Object(object) => object.by_json_name(name),
        _ => None,
    };
    for (name, value) in left {
        let Some(other) = right.get(name) else { return Ok(false) };
        let same = match (by_name(left_schema, name), by_name(right_schema, name)) {
            (Some(left), Some(right)) => {
                equal(&super::json::read(value, left)?, &super::json::read(other, right)?, effort)?
            }
            _ => value == other,
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

/// How two lists of which at least one is a set or keyed are added.
pub(crate) enum MergeRule<'l> {
    /// Each value once.
    Set,
    /// One item for each combination of these keys; the later one counts.
    Keys(&'l [String]),
}

impl List<'_> {
    /// How the list is added to, if not by appending.
    pub(crate) fn merge_rule(&self) -> Option<MergeRule<'_>> {
        match list_kind(self)? {
            ListKind::Atomic => None,
            ListKind::Set => Some(MergeRule::Set),
            ListKind::Map(keys) => Some(MergeRule::Keys(keys)),
        }
    }
}

impl MergeRule<'_> {
    /// Whether two items are the same one.
    pub fn same(
        &self,
        left: &Value<'_>,
        right: &Value<'_>,
        effort: &mut crate::cel::error::Effort,
    ) -> Result<bool, EvalError> {
        match self {
            MergeRule::Set => effort.equal(left, right),
            MergeRule::Keys(keys) => {
                effort.spend(keys.len() as u64 * 2)?;
                Ok(item_key(left, keys)? == item_key(right, keys)?)
            }
        }
    }
}
