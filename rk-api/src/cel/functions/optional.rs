//! Optional values (CEL specification, "Optional types").

use super::{A, Cost, Function, function, global, method};
use crate::cel::{EvalError, Value, types::Type, value::Map};

pub(super) fn functions() -> Vec<Function> {
    let one = Cost::One;
    let optional = Type::optional(A);
    // The evaluator does these itself: they look at their argument only if they need it.
    let lazy: super::Call = |_, _| Err(EvalError::no_such_overload());
    vec![
        function(
            "optional.of",
            one,
            |_, args| match args {
                [value] => Ok(Value::some(value.clone())),
                _ => Err(EvalError::no_such_overload()),
            },
            vec![global("optional_of", vec![A], optional.clone(), one)],
        ),
        function(
            "optional.ofNonZeroValue",
            one,
            |_, args| match args {
                [value] if is_zero(value) => Ok(Value::Optional(None)),
                [value] => Ok(Value::some(value.clone())),
                _ => Err(EvalError::no_such_overload()),
            },
            vec![global("optional_ofNonZeroValue", vec![A], optional.clone(), one)],
        ),
        function(
            "optional.none",
            one,
            |_, _| Ok(Value::Optional(None)),
            vec![global("optional_none", vec![], optional.clone(), one)],
        ),
        function(
            "value",
            one,
            |_, args| match args {
                [Value::Optional(Some(value))] => Ok((**value).clone()),
                [Value::Optional(None)] => Err(EvalError::new("optional.none() dereference")),
                _ => Err(EvalError::no_such_overload()),
            },
            vec![method("optional_value", vec![optional.clone()], A, one)],
        ),
        function(
            "hasValue",
            one,
            |_, args| match args {
                [Value::Optional(value)] => Ok(Value::Bool(value.is_some())),
                _ => Err(EvalError::no_such_overload()),
            },
            vec![method("optional_hasValue", vec![optional.clone()], Type::Bool, one)],
        ),
        function(
            "or",
            one,
            lazy,
            vec![method(
                "optional_or_optional",
                vec![optional.clone(), optional.clone()],
                optional.clone(),
                one,
            )],
        ),
        function(
            "orValue",
            one,
            lazy,
            vec![method("optional_orValue_value", vec![optional, A], A, one)],
        ),
    ]
}

/// Whether a value is its type's zero.
fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null | Value::Optional(None) => true,
        Value::Bool(value) => !value,
        Value::Int(value) | Value::Duration(value) => *value == 0,
        Value::Uint(value) => *value == 0,
        Value::Double(value) => *value == 0.0,
        Value::String(text) => text.as_str().is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::List(list) => list.is_empty(),
        Value::Map(Map::Lazy(_)) => false,
        Value::Map(map) => map.is_empty(),
        Value::Struct(object) => object.fields.is_empty(),
        // Go's zero time is the first moment of the year 1.
        Value::Timestamp(at) => at.seconds() == -62_135_596_800,
        _ => false,
    }
}
