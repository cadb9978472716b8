//! Operators.

use std::cmp::Ordering;

use super::{A, B, Cost, Function, function, global};
use crate::cel::{
    EvalError, Value,
    ast::op,
    error::Effort,
    types::Type,
    value::{Key, List, Map, Text},
};

type Result<'a> = std::result::Result<Value<'a>, EvalError>;

pub(super) fn functions() -> Vec<Function> {
    use Type::{Bool, Bytes, Double, Duration, Int, String, Timestamp, Uint};
    let one = Cost::One;
    let pair = |of: Type| vec![of.clone(), of];
    let same = |id, of: Type, cost| global(id, vec![of.clone(), of.clone()], of, cost);
    let ordered = |ids: [&'static str; 14]| {
        let numbers = [Int, Uint, Double];
        let mut ids = ids.into_iter();
        let mut rows = Vec::new();
        let mut add = |left: Type, right: Type, cost| {
            if let Some(id) = ids.next() {
                rows.push(global(id, vec![left, right], Bool, cost));
            }
        };
        add(Bool, Bool, one);
        for left in &numbers {
            for right in &numbers {
                add(left.clone(), right.clone(), one);
            }
        }
        add(String, String, Cost::OrderText);
        add(Bytes, Bytes, Cost::OrderText);
        add(Timestamp, Timestamp, one);
        add(Duration, Duration, one);
        rows
    };
    macro_rules! order {
        ($name:literal) => {
            ordered([
                concat!($name, "_bool"),
                concat!($name, "_int64"),
                concat!($name, "_int64_uint64"),
                concat!($name, "_int64_double"),
                concat!($name, "_uint64_int64"),
                concat!($name, "_uint64"),
                concat!($name, "_uint64_double"),
                concat!($name, "_double_int64"),
                concat!($name, "_double_uint64"),
                concat!($name, "_double"),
                concat!($name, "_string"),
                concat!($name, "_bytes"),
                concat!($name, "_timestamp"),
                concat!($name, "_duration"),
            ])
        };
    }
    // The evaluator does these itself, for they do not look at all of their arguments.
    let lazy: super::Call = |_, _| Err(EvalError::no_such_overload());
    let list = Type::list(A);
    let map = Type::map(A, B);
    vec![
        function(
            op::CONDITIONAL,
            Cost::Conditional,
            lazy,
            vec![global("conditional", vec![Bool, A, A], A, Cost::Conditional)],
        ),
        function(
            op::AND,
            Cost::And,
            lazy,
            vec![global("logical_and", pair(Bool), Bool, Cost::And)],
        ),
        function(op::OR, Cost::Or, lazy, vec![global("logical_or", pair(Bool), Bool, Cost::Or)]),
        function(op::NOT, one, not, vec![global("logical_not", vec![Bool], Bool, one)]),
        function(
            op::NOT_STRICTLY_FALSE,
            one,
            lazy,
            vec![global("not_strictly_false", vec![Bool], Bool, one)],
        ),
        function(
            op::EQUALS,
            Cost::Equals,
            |effort, args| Ok(Value::Bool(equal(effort, args)?)),
            vec![global("equals", pair(A), Bool, Cost::Equals)],
        ),
        function(
            op::NOT_EQUALS,
            Cost::Equals,
            |effort, args| Ok(Value::Bool(!equal(effort, args)?)),
            vec![global("not_equals", pair(A), Bool, Cost::Equals)],
        ),
        function(
            op::ADD,
            one,
            add,
            vec![
                same("add_bytes", Bytes, Cost::AddText),
                same("add_double", Double, one),
                same("add_duration_duration", Duration, one),
                global("add_duration_timestamp", vec![Duration, Timestamp], Timestamp, one),
                global("add_timestamp_duration", vec![Timestamp, Duration], Timestamp, one),
                same("add_int64", Int, one),
                same("add_list", list.clone(), Cost::AddList),
                same("add_string", String, Cost::AddText),
                same("add_uint64", Uint, one),
            ],
        ),
        function(
            op::SUBTRACT,
            one,
            subtract,
            vec![
                same("subtract_double", Double, one),
                same("subtract_duration_duration", Duration, one),
                same("subtract_int64", Int, one),
                global("subtract_timestamp_duration", vec![Timestamp, Duration], Timestamp, one),
                global("subtract_timestamp_timestamp", pair(Timestamp), Duration, one),
                same("subtract_uint64", Uint, one),
            ],
        ),
        function(
            op::MULTIPLY,
            one,
            multiply,
            vec![
                same("multiply_double", Double, one),
                same("multiply_int64", Int, one),
                same("multiply_uint64", Uint, one),
            ],
        ),
        function(
            op::DIVIDE,
            one,
            divide,
            vec![
                same("divide_double", Double, one),
                same("divide_int64", Int, one),
                same("divide_uint64", Uint, one),
            ],
        ),
        function(
            op::MODULO,
            one,
            modulo,
            vec![same("modulo_int64", Int, one), same("modulo_uint64", Uint, one)],
        ),
        function(
            op::NEGATE,
            one,
            negate,
            vec![
                global("negate_double", vec![Double], Double, one),
                global("negate_int64", vec![Int], Int, one),
            ],
        ),
        function(op::LESS, one, |_, args| compare(args, Ordering::is_lt), order!("less")),
        function(
            op::LESS_EQUALS,
            one,
            |_, args| compare(args, Ordering::is_le),
            order!("less_equals"),
        ),
        function(op::GREATER, one, |_, args| compare(args, Ordering::is_gt), order!("greater")),
        function(
            op::GREATER_EQUALS,
            one,
            |_, args| compare(args, Ordering::is_ge),
            order!("greater_equals"),
        ),
        function(
            op::INDEX,
            one,
            |_, args| index(args),
            vec![
                global("index_list", vec![list.clone(), Int], A, Cost::IndexList),
                global("index_map", vec![map.clone(), A], B, Cost::IndexMap),
                global(
                    "optional_list_index_int",
                    vec![Type::optional(list.clone()), Int],
                    Type::optional(A),
                    one,
                ),
                global(
                    "optional_map_index_value",
                    vec![Type::optional(map.clone()), A],
                    Type::optional(B),
                    one,
                ),
            ],
        ),
        function(
            op::OPT_INDEX,
            one,
            |_, args| optional_index(args),
            vec![
                global(
                    "list_optindex_optional_int",
                    vec![list.clone(), Int],
                    Type::optional(A),
                    one,
                ),
                global(
                    "optional_list_optindex_optional_int",
                    vec![Type::optional(list.clone()), Int],
                    Type::optional(A),
                    one,
                ),
                global("map_optindex_optional_value", vec![map.clone(), A], Type::optional(B), one),
                global(
                    "optional_map_optindex_optional_value",
                    vec![Type::optional(map.clone()), A],
                    Type::optional(B),
                    one,
                ),
            ],
        ),
        function(
            op::IN,
            one,
            contains,
            vec![
                global("in_list", vec![A, list], Bool, Cost::InList),
                global("in_map", vec![A, map], Bool, one),
            ],
        ),
    ]
}

fn not<'a>(_: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    match args {
        [Value::Bool(value)] => Ok(Value::Bool(!value)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn equal(effort: &mut Effort, args: &[Value<'_>]) -> std::result::Result<bool, EvalError> {
    match args {
        [left, right] => effort.equal(left, right),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn compare<'a>(args: &[Value<'a>], wanted: fn(Ordering) -> bool) -> Result<'a> {
    match args {
        [left, right] => Ok(Value::Bool(wanted(left.compare(right)?))),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn int<'a>(value: Option<i64>) -> Result<'a> {
    value.map(Value::Int).ok_or_else(|| EvalError::new("integer overflow"))
}

fn uint<'a>(value: Option<u64>) -> Result<'a> {
    value.map(Value::Uint).ok_or_else(|| EvalError::new("unsigned integer overflow"))
}

fn duration<'a>(value: Option<i64>) -> Result<'a> {
    value.map(Value::Duration).ok_or_else(|| EvalError::new("duration overflow"))
}

pub(crate) fn add<'a>(effort: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    let [left, right] = args else { return Err(EvalError::no_such_overload()) };
    match (left, right) {
        (Value::Int(left), Value::Int(right)) => int(left.checked_add(*right)),
        (Value::Uint(left), Value::Uint(right)) => uint(left.checked_add(*right)),
        (Value::Double(left), Value::Double(right)) => Ok(Value::Double(left + right)),
        (Value::Duration(left), Value::Duration(right)) => duration(left.checked_add(*right)),
        (Value::Timestamp(at), Value::Duration(by))
        | (Value::Duration(by), Value::Timestamp(at)) => {
            at.plus(i128::from(*by)).map(Value::Timestamp)
        }
        (Value::String(left), Value::String(right)) => {
            let (left, right) = (left.as_str(), right.as_str());
            effort.spend((left.len() + right.len()) as u64 / 16)?;
            let mut out = String::with_capacity(left.len() + right.len());
            out.push_str(left);
            out.push_str(right);
            Ok(Value::String(Text::Shared(out.into())))
        }
        (Value::Bytes(left), Value::Bytes(right)) => {
            effort.spend((left.len() + right.len()) as u64 / 16)?;
            Ok(Value::Bytes([&**left, &**right].concat().into()))
        }
        (Value::List(left), Value::List(right)) => {
            effort.spend((left.len() + right.len()) as u64)?;
            add_lists(left, right, effort)
        }
        _ => Err(EvalError::no_such_overload()),
    }
}

/// Lists that are sets or have keys are merged; all others follow each other.
fn add_lists<'a>(left: &List<'a>, right: &List<'a>, effort: &mut Effort) -> Result<'a> {
    let mut items = left.to_vec()?;
    match left.merge_rule() {
        None => items.extend(right.to_vec()?),
        Some(rule) => {
            for item in right.iter() {
                let item = item?;
                let mut place = None;
                for (n, known) in items.iter().enumerate() {
                    if rule.same(known, &item, effort)? {
                        place = Some(n);
                        break;
                    }
                }
                match place.and_then(|n| items.get_mut(n)) {
                    Some(known) => *known = item,
                    None => items.push(item),
                }
            }
        }
    }
    Ok(Value::list(items))
}

fn subtract<'a>(_: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    let [left, right] = args else { return Err(EvalError::no_such_overload()) };
    match (left, right) {
        (Value::Int(left), Value::Int(right)) => int(left.checked_sub(*right)),
        (Value::Uint(left), Value::Uint(right)) => uint(left.checked_sub(*right)),
        (Value::Double(left), Value::Double(right)) => Ok(Value::Double(left - right)),
        (Value::Duration(left), Value::Duration(right)) => duration(left.checked_sub(*right)),
        (Value::Timestamp(at), Value::Duration(by)) => {
            at.plus(-i128::from(*by)).map(Value::Timestamp)
        }
        (Value::Timestamp(left), Value::Timestamp(right)) => {
            duration(i64::try_from(left.nanos() - right.nanos()).ok())
        }
        _ => Err(EvalError::no_such_overload()),
    }
}

fn multiply<'a>(_: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    match args {
        [Value::Int(left), Value::Int(right)] => int(left.checked_mul(*right)),
        [Value::Uint(left), Value::Uint(right)] => uint(left.checked_mul(*right)),
        [Value::Double(left), Value::Double(right)] => Ok(Value::Double(left * right)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn divide<'a>(_: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    const BY_ZERO: &str = "division by zero";
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => {
            Err(EvalError::new(BY_ZERO))
        }
        [Value::Int(left), Value::Int(right)] => int(left.checked_div(*right)),
        [Value::Uint(left), Value::Uint(right)] => uint(left.checked_div(*right)),
        [Value::Double(left), Value::Double(right)] => Ok(Value::Double(left / right)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn modulo<'a>(_: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    const BY_ZERO: &str = "modulus by zero";
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => {
            Err(EvalError::new(BY_ZERO))
        }
        [Value::Int(left), Value::Int(right)] => int(left.checked_rem(*right)),
        [Value::Uint(left), Value::Uint(right)] => uint(left.checked_rem(*right)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn negate<'a>(_: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    match args {
        [Value::Int(value)] => int(value.checked_neg()),
        [Value::Double(value)] => Ok(Value::Double(-value)),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// The place in a list that a number names, if it is a whole one.
fn place(index: &Value<'_>) -> std::result::Result<i64, EvalError> {
    match index {
        Value::Int(_) | Value::Uint(_) | Value::Double(_) => match Key::of(index) {
            Some(Key::Int(place)) => Ok(place),
            _ => Err(EvalError::new(format!("unsupported index value {} in list", show(index)))),
        },
        _ => Err(EvalError::new(format!("unsupported index type '{}' in list", index.type_name()))),
    }
}

fn show(value: &Value<'_>) -> String {
    match value {
        Value::String(text) => text.as_str().to_owned(),
        _ => value.to_json().map_or_else(|_| value.type_name().to_owned(), |json| json.to_string()),
    }
}

/// An element or entry, or what is in an optional list or map.
pub(crate) fn index<'a>(args: &[Value<'a>]) -> Result<'a> {
    let [operand, key] = args else { return Err(EvalError::no_such_overload()) };
    match operand {
        Value::List(list) => {
            let place = place(key)?;
            let item = usize::try_from(place).ok().and_then(|place| list.get(place));
            item.unwrap_or_else(|| Err(EvalError::new(format!("index out of bounds: {place}"))))
        }
        Value::Map(map) => map.get(key).unwrap_or_else(|| Err(EvalError::no_such_key(&show(key)))),
        Value::Struct(_) => select(operand, key.as_str().unwrap_or("")),
        Value::Optional(None) => Ok(Value::Optional(None)),
        Value::Optional(Some(inner)) => optional_index(&[(**inner).clone(), key.clone()]),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// The same, as an optional value.
pub(crate) fn optional_index<'a>(args: &[Value<'a>]) -> Result<'a> {
    let [operand, key] = args else { return Err(EvalError::no_such_overload()) };
    let found = match operand {
        Value::List(list) => {
            usize::try_from(place(key)?).ok().and_then(|place| list.get(place)).transpose()?
        }
        Value::Map(map) => map.get(key).transpose()?,
        Value::Optional(None) => None,
        Value::Optional(Some(inner)) => {
            return optional_index(&[(**inner).clone(), key.clone()]);
        }
        _ => return Err(EvalError::no_such_overload()),
    };
    Ok(Value::Optional(found.map(std::sync::Arc::new)))
}

/// The field of an object, or the entry of a map.
pub(crate) fn select<'a>(operand: &Value<'a>, field: &str) -> Result<'a> {
    match operand {
        Value::Map(map) => map.get_str(field).unwrap_or_else(|| Err(EvalError::no_such_key(field))),
        Value::Struct(object) => {
            object.fields.get(field).cloned().ok_or_else(|| EvalError::no_such_key(field))
        }
        Value::Optional(_) => optional_select(operand, field),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// The same, as an optional value.
pub(crate) fn optional_select<'a>(operand: &Value<'a>, field: &str) -> Result<'a> {
    let found = match operand {
        Value::Map(map) => map.get_str(field).transpose()?,
        Value::Struct(object) => object.fields.get(field).cloned(),
        Value::Optional(None) => None,
        Value::Optional(Some(inner)) => return optional_select(inner, field),
        _ => return Err(EvalError::no_such_overload()),
    };
    Ok(Value::Optional(found.map(std::sync::Arc::new)))
}

/// Whether the field is there.
pub(crate) fn has<'a>(operand: &Value<'a>, field: &str) -> Result<'a> {
    Ok(Value::Bool(match operand {
        Value::Map(map) => match map.get_str(field) {
            // A field that is there and malformed is an error even here.
            Some(Err(error)) => return Err(error),
            found => found.is_some(),
        },
        Value::Struct(object) => object.fields.contains_key(field),
        Value::Optional(None) => false,
        Value::Optional(Some(inner)) => return has(inner, field),
        Value::List(_) => return Err(EvalError::no_such_overload()),
        // What is no container, as an int-or-string, has nothing in it.
        _ => false,
    }))
}

pub(crate) fn contains<'a>(effort: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    let [item, container] = args else { return Err(EvalError::no_such_overload()) };
    match container {
        Value::List(list) => {
            for known in list.iter() {
                if effort.equal(item, &known?)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        Value::Map(Map::Lazy(fields)) => {
            Ok(Value::Bool(item.as_str().is_some_and(|name| fields.field(name).is_some())))
        }
        Value::Map(map) => Ok(Value::Bool(map.get(item).is_some())),
        _ => Err(EvalError::no_such_overload()),
    }
}
