//! JSON as values, and values as JSON.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map as Object, Number, Value as Json};

use super::{List, Map, Text, Value};
use crate::cel::{
    EvalError,
    schema::{DYN, Schema, Shape},
    time,
};

fn kind(json: &Json) -> &'static str {
    match json {
        Json::Null => "<nil>",
        Json::Bool(_) => "bool",
        Json::Number(number) if number.is_f64() => "float64",
        Json::Number(_) => "int64",
        Json::String(_) => "string",
        Json::Array(_) => "[]interface {}",
        Json::Object(_) => "map[string]interface {}",
    }
}

/// The value that `json` is by its schema. What is inside it is not looked at.
pub(super) fn read<'a>(json: &'a Json, schema: &'a Schema) -> Result<Value<'a>, EvalError> {
    let wrong = |expected: &str| {
        let found = kind(json);
        Err(EvalError::new(format!("invalid data, expected {expected}, got {found}")))
    };
    if json.is_null() && !matches!(schema.shape, Shape::Dyn | Shape::Unknown) {
        return if schema.nullable {
            Ok(Value::Null)
        } else {
            Err(EvalError::new("invalid data, got null for schema with nullable=false"))
        };
    }
    match &schema.shape {
        Shape::Dyn => Ok(natural(json)),
        Shape::Unknown => Ok(Value::Unknown(json)),
        Shape::Object(_) | Shape::Map(_) => match json {
            Json::Object(entries) => Ok(Value::Map(Map::Json(entries, schema))),
            _ => Err(EvalError::new(
                "invalid data, expected a map for the provided schema with type=object",
            )),
        },
        Shape::List { .. } => match json {
            Json::Array(items) => Ok(Value::List(List::Json(items, schema))),
            _ => Err(EvalError::new(
                "invalid data, expected an array for the provided schema with type=array",
            )),
        },
        Shape::Bool => json.as_bool().map_or_else(|| wrong("bool"), |value| Ok(Value::Bool(value))),
        Shape::Int => match json.as_i64() {
            Some(value) => Ok(Value::Int(value)),
            None => wrong("int"),
        },
        Shape::Double => match json.as_f64() {
            Some(value) => Ok(Value::Double(value)),
            None => wrong("float"),
        },
        Shape::String | Shape::Bytes | Shape::Duration | Shape::Date | Shape::DateTime => {
            match json {
                Json::String(text) => formatted(text, &schema.shape),
                _ => wrong("string"),
            }
        }
    }
}

/// A string by its format.
fn formatted<'a>(text: &'a str, shape: &Shape) -> Result<Value<'a>, EvalError> {
    let invalid = |what: &str, why: String| EvalError::new(format!("Invalid {what} {text}: {why}"));
    match shape {
        Shape::Bytes => match BASE64_STANDARD.decode(text) {
            Ok(bytes) => Ok(Value::Bytes(bytes.into())),
            Err(error) => Err(invalid("byte formatted string", error.to_string())),
        },
        Shape::Duration => match time::parse_openapi_duration(text) {
            Ok(nanos) => Ok(Value::Duration(nanos)),
            Err(error) => Err(invalid("duration", error)),
        },
        Shape::Date => match time::parse_date(text) {
            Some(timestamp) => Ok(Value::Timestamp(timestamp)),
            None => Err(invalid("date formatted string", "not a date".to_owned())),
        },
        Shape::DateTime => match time::parse_openapi_date_time(text) {
            Some(timestamp) => Ok(Value::Timestamp(timestamp)),
            None => Err(invalid("date-time formatted string", "not a date-time".to_owned())),
        },
        _ => Ok(Value::String(Text::Borrowed(text))),
    }
}

/// JSON as it says itself.
fn natural(json: &Json) -> Value<'_> {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(value) => Value::Int(value),
            None => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::String(Text::Borrowed(text)),
        Json::Array(items) => Value::List(List::Json(items, &DYN)),
        Json::Object(entries) => Value::Map(Map::Json(entries, &DYN)),
    }
}

/// An item of a list with the schema `list`.
pub(super) fn item<'a>(json: &'a Json, list: &'a Schema) -> Result<Value<'a>, EvalError> {
    match &list.shape {
        Shape::List { items, .. } => read(json, items),
        _ => Ok(natural(json)),
    }
}

/// The entry of a map, or the field of an object, by the name that expressions use.
pub(super) fn field<'a>(
    entries: &'a Object<String, Json>,
    schema: &'a Schema,
    name: &str,
) -> Option<Result<Value<'a>, EvalError>> {
    match &schema.shape {
        Shape::Object(object) => {
            let field = object.field(name)?;
            // A field that is null is as good as not there.
            let json = entries.get(&field.json_name).filter(|json| !json.is_null())?;
            Some(read(json, &field.schema))
        }
        Shape::Map(values) => entries.get(name).map(|json| read(json, values)),
        _ => entries.get(name).map(|json| Ok(natural(json))),
    }
}

/// What expressions see of a map or object.
pub(super) fn entries<'a>(
    entries: &'a Object<String, Json>,
    schema: &'a Schema,
) -> Vec<(Value<'a>, Result<Value<'a>, EvalError>)> {
    match &schema.shape {
        Shape::Object(object) => object
            .fields
            .iter()
            .filter_map(|(name, field)| {
                let json = entries.get(&field.json_name)?;
                Some((Value::str(name), read(json, &field.schema)))
            })
            .collect(),
        shape => entries
            .iter()
            .map(|(key, json)| {
                let value = match shape {
                    Shape::Map(values) => read(json, values),
                    _ => Ok(natural(json)),
                };
                (Value::str(key), value)
            })
            .collect(),
    }
}

/// The JSON of a value: cel-go's conversion to `google.protobuf.Value`, but integers stay exact.
pub(super) fn write(value: &Value<'_>) -> Result<Json, EvalError> {
    let unsupported = || {
        let name = value.type_name();
        EvalError::new(format!("type conversion error from '{name}' to 'google.protobuf.Value'"))
    };
    Ok(match value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => Json::Number((*value).into()),
        Value::Uint(value) => Json::Number((*value).into()),
        Value::Double(value) => Json::Number(Number::from_f64(*value).ok_or_else(unsupported)?),
        Value::String(text) => Json::String(text.as_str().to_owned()),
        Value::Bytes(bytes) => Json::String(BASE64_STANDARD.encode(bytes)),
        Value::Duration(nanos) => Json::String(time::format_seconds(*nanos)),
        Value::Timestamp(timestamp) => Json::String(timestamp.to_string()),
        Value::List(List::Json(items, _)) => Json::Array(items.to_vec()),
        Value::List(list) => {
            Json::Array(list.iter().map(|item| write(&item?)).collect::<Result<_, _>>()?)
        }
        Value::Map(Map::Json(entries, _)) => Json::Object((*entries).clone()),
        Value::Map(Map::Lazy(_)) => return Err(unsupported()),
        Value::Map(Map::Owned(entries)) => {
            let mut object = Object::new();
            for (key, value) in entries.values() {
                let key = match key {
                    Value::String(text) => text.as_str().to_owned(),
                    Value::Bool(key) => key.to_string(),
                    Value::Int(key) => key.to_string(),
                    Value::Uint(key) => key.to_string(),
                    _ => return Err(unsupported()),
                };
                object.insert(key, write(value)?);
            }
            Json::Object(object)
        }
        Value::Struct(made) => {
            let mut object = Object::new();
            for (name, value) in &made.fields {
                let name =
                    crate::cel::escape::unescape(name).unwrap_or_else(|| (**name).to_owned());
                object.insert(name, write(value)?);
            }
            Json::Object(object)
        }
        Value::Unknown(json) => (*json).clone(),
        Value::Optional(_) | Value::Type(_) | Value::Library(_) => return Err(unsupported()),
    })
}
