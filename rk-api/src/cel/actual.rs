//! What a call costs when it is made: cel-go's `interpreter/runtimecost.go` and `ext`, and
//! Kubernetes' `library/cost.go`.

use super::{Value, functions::Cost, kubernetes::LibraryValue, value::List};

/// Of a string, by character: what one traversal costs.
pub(crate) const TRAVERSAL: f64 = 0.1;
/// Of a regular expression, by character.
pub(crate) const REGEX: f64 = 0.25;
/// An authorization check: two are possible in one evaluation.
pub(crate) const CHECK: u64 = 350_000;
/// Adding two lists.
pub(crate) const ADD_LIST: u64 = 1;
/// A new list.
pub(crate) const LIST_BASE: u64 = 10;

fn scaled(size: u64, factor: f64) -> u64 {
    (size as f64 * factor).ceil() as u64
}

/// The cost of a call with these arguments (the receiver first) and this result.
pub(crate) fn call(cost: Cost, args: &[Value<'_>], result: &Value<'_>) -> u64 {
    let size = |n: usize| args.get(n).map_or(1, Value::size);
    let allocating =
        |factor: f64, size: u64| ((size as f64 * factor) as u64).saturating_add(1 + LIST_BASE);
    match cost {
        Cost::One | Cost::AddList | Cost::IndexList | Cost::IndexMap | Cost::ToDyn => 1,
        // Their parts are charged, they are not.
        Cost::And | Cost::Or | Cost::Conditional => 0,
        Cost::Equals if matches!(args, [Value::Library(_), ..]) => 1,
        Cost::Equals | Cost::OrderText => scaled(size(0).min(size(1)), TRAVERSAL),
        Cost::AddText => scaled(size(0).saturating_add(size(1)), TRAVERSAL),
        Cost::InList => size(1),
        Cost::StringToBytes
        | Cost::BytesToString
        | Cost::Quote
        | Cost::Format
        | Cost::Transform
        | Cost::Parse
        | Cost::Url => scaled(size(0), TRAVERSAL),
        Cost::Affix => scaled(size(1), TRAVERSAL),
        Cost::Contains => scaled(size(0), TRAVERSAL).saturating_mul(scaled(size(1), TRAVERSAL)),
        Cost::Matches | Cost::Find => regex(size(0), size(1)),
        Cost::Replace | Cost::Split | Cost::ParseTwice => scaled(size(0), 2.0 * TRAVERSAL),
        Cost::Join => scaled(result.size(), 2.0 * TRAVERSAL),
        Cost::ListScan => args.first().map_or(0, traversal),
        Cost::Slice | Cost::Range | Cost::Reverse => allocating(1.0, result.size()),
        Cost::Flatten => {
            let depth = match args.get(1) {
                Some(Value::Int(depth)) => *depth as f64,
                _ => 1.0,
            };
            allocating(depth, size(0))
        }
        Cost::Distinct | Cost::Sort { .. } => self_compare(args.first()),
        Cost::SortBy { .. } => self_compare(args.get(1)),
        Cost::Sets { passes } => {
            1 + size(0).saturating_mul(size(1)).saturating_mul(u64::from(passes))
        }
        Cost::Check => CHECK,
        Cost::Selector => selector(size(1)),
        Cost::ContainsIp { text } => {
            scaled(2 * size(0), TRAVERSAL) + if text { scaled(size(1), TRAVERSAL) } else { 0 }
        }
        Cost::ContainsCidr { text } => {
            let text = if text { scaled(size(1), TRAVERSAL) } else { 0 };
            scaled(2 * size(0), TRAVERSAL) + scaled(size(0), TRAVERSAL) + 1 + text
        }
        Cost::Validate => match args.first() {
            Some(Value::Library(LibraryValue::Format(format))) => regex(size(1), format.regex_size),
            _ => 1,
        },
    }
}

/// A string against a regular expression, by their lengths.
fn regex(text: u64, pattern: u64) -> u64 {
    scaled(text.saturating_add(1), TRAVERSAL).saturating_mul(scaled(pattern, REGEX))
}

/// Parsing a selector: a list, a traversal, and a list and an object for each requirement, of two
/// characters or more.
pub(crate) fn selector(length: u64) -> u64 {
    LIST_BASE + scaled(length, TRAVERSAL) + scaled(scaled(length, 0.5), 50.0)
}

fn self_compare(list: Option<&Value<'_>>) -> u64 {
    let Some(Value::List(list)) = list else { return 1 };
    let text = matches!(list.get(0), Some(Ok(Value::String(_) | Value::Bytes(_))));
    let factor = if text { 2.0 + TRAVERSAL } else { 2.0 };
    let length = list.len() as u64;
    ((length.saturating_mul(length) as f64 * factor) as u64).saturating_add(1 + LIST_BASE)
}

/// One look at everything in a value.
fn traversal(value: &Value<'_>) -> u64 {
    match value {
        Value::String(text) => (text.as_str().len() as f64 * TRAVERSAL) as u64,
        Value::Bytes(bytes) => (bytes.len() as f64 * TRAVERSAL) as u64,
        Value::List(list) => {
            let items: &mut dyn Iterator<Item = u64> = match list {
                List::Owned(items) => &mut items.iter().map(traversal),
                List::Json(..) => {
                    &mut list.iter().map(|item| item.map_or(1, |item| traversal(&item)))
                }
            };
            items.fold(0, u64::saturating_add)
        }
        Value::Map(map) => map
            .entries()
            .iter()
            .map(|(key, value)| traversal(key) + value.as_ref().map_or(1, traversal))
            .fold(0, u64::saturating_add),
        _ => 1,
    }
}
