//! A schema of OpenAPI or something else in its place: one value in JSON, a message with a field for
//! each in protobuf (`JSONSchemaPropsOrArray`, `…OrBool` and `…OrStringArray` of apiextensions).

use serde_json::{Value, json};

use super::{
    Kind, Other,
    decode::{self, Reader, Result},
    encode,
};

/// A schema: the versions of apiextensions do not differ in it.
const SCHEMA: Kind = Kind::Message("apiextensions.v1.JSONSchemaProps");

/// The numbers of the fields that hold the schema and the other.
const fn numbers(other: Other) -> (u32, u32) {
    match other {
        Other::Schemas | Other::Names => (1, 2),
        Other::Allowed => (2, 1),
    }
}

/// The message's value. Where it has several, as no encoder writes it, Go's order of preference
/// counts: a list before a schema, a schema before a boolean.
pub(super) fn decode(other: Other, bytes: &[u8], depth: usize) -> Result<Value> {
    let (in_schema, in_other) = numbers(other);
    let (mut schema, mut list, mut allowed) = (None, Vec::new(), false);
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        if number == in_schema {
            schema = Some(decode::value(&SCHEMA, wire, depth)?);
        } else if number == in_other {
            match other {
                Other::Schemas => list.push(decode::value(&SCHEMA, wire, depth)?),
                Other::Names => list.push(json!(wire.text()?)),
                Other::Allowed => allowed = wire.varint()? != 0,
            }
        }
    }
    Ok(match (schema, other) {
        _ if !list.is_empty() => Value::Array(list),
        (Some(schema), _) => schema,
        (None, Other::Allowed) => Value::Bool(allowed),
        (None, Other::Schemas | Other::Names) => Value::Null,
    })
}

/// The message's bytes.
pub(super) fn encode(other: Other, value: &Value) -> Vec<u8> {
    let (in_schema, in_other) = numbers(other);
    let mut out = Vec::new();
    match (other, value) {
        (Other::Allowed, Value::Bool(_)) => encode::put(&mut out, in_other, &Kind::Bool, value),
        (Other::Allowed, Value::Object(_)) => {
            encode::put(&mut out, in_other, &Kind::Bool, &Value::Bool(true));
            encode::put(&mut out, in_schema, &SCHEMA, value);
        }
        (_, Value::Object(_)) => encode::put(&mut out, in_schema, &SCHEMA, value),
        (_, Value::Array(items)) => {
            let kind = if other == Other::Names { Kind::Text } else { SCHEMA };
            items.iter().for_each(|item| encode::put(&mut out, in_other, &kind, item));
        }
        _ => {}
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_there_is_comes_back() {
        let schema = json!({"type": "string", "maxLength": 3});
        for (other, value) in [
            (Other::Schemas, schema.clone()),
            (Other::Schemas, json!([schema, {}])),
            (Other::Allowed, schema.clone()),
            (Other::Allowed, json!(true)),
            (Other::Allowed, json!(false)),
            (Other::Names, schema),
            (Other::Names, json!(["a", "b"])),
        ] {
            assert_eq!(decode(other, &encode(other, &value), 0), Ok(value));
        }
    }

    #[test]
    fn schemas_nest_only_so_deep() {
        let deep = (0..120).fold(json!({}), |inner, _| json!({"items": inner}));
        assert!(decode(Other::Schemas, &encode(Other::Schemas, &deep), 0).is_err());
    }
}
