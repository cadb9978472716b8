//! From JSON to protobuf.

use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};

use super::{Field, Kind, MAGIC, Shape, either, message, messages};

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;

/// A whole body: the magic bytes, the type, the object.
pub(super) fn unknown(object: &Value) -> Option<Vec<u8>> {
    let object = object.as_object()?;
    let api_version = object.get("apiVersion")?.as_str()?;
    let kind = object.get("kind")?.as_str()?;
    let (_, fields) = message(api_version, kind)?;
    let mut type_meta = Vec::new();
    put_bytes(&mut type_meta, 1, api_version.as_bytes());
    put_bytes(&mut type_meta, 2, kind.as_bytes());
    let mut out = MAGIC.to_vec();
    put_bytes(&mut out, 1, &type_meta);
    put_bytes(&mut out, 2, &object_bytes(fields, object));
    Some(out)
}

fn object_bytes(fields: &[Field], object: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    for field in fields {
        if field.shape == Shape::Inline {
            if let Kind::Message(inner) = field.kind
                && let Some(fields) = messages().get(inner)
            {
                put_bytes(&mut out, field.number, &object_bytes(fields, object));
            }
            continue;
        }
        match (field.shape, object.get(field.name)) {
            (_, None | Some(Value::Null)) => {}
            (Shape::List, Some(Value::Array(items))) => {
                items.iter().for_each(|item| put(&mut out, field.number, &field.kind, item));
            }
            (Shape::Map, Some(Value::Object(entries))) => {
                for (key, item) in entries {
                    let mut entry = Vec::new();
                    put_bytes(&mut entry, 1, key.as_bytes());
                    put(&mut entry, 2, &field.kind, item);
                    put_bytes(&mut out, field.number, &entry);
                }
            }
            (_, Some(value)) => put(&mut out, field.number, &field.kind, value),
        }
    }
    out
}

/// Writes a value of this kind; one of another JSON type is left out.
pub(super) fn put(out: &mut Vec<u8>, number: u32, kind: &Kind, value: &Value) {
    match (kind, value) {
        (Kind::Text, Value::String(text)) => put_bytes(out, number, text.as_bytes()),
        (Kind::Bool, Value::Bool(flag)) => put_varint_field(out, number, u64::from(*flag)),
        (Kind::Integer, Value::Number(integer)) => {
            if let Some(integer) = integer.as_i64() {
                put_varint_field(out, number, integer.cast_unsigned());
            }
        }
        (Kind::Double, Value::Number(double)) => {
            if let Some(double) = double.as_f64() {
                put_varint(out, u64::from(number << 3 | FIXED64));
                out.extend(double.to_bits().to_le_bytes());
            }
        }
        (Kind::Bytes, Value::String(text)) => {
            if let Ok(bytes) = STANDARD.decode(text) {
                put_bytes(out, number, &bytes);
            }
        }
        (Kind::Time | Kind::MicroTime, Value::String(text)) => {
            if let Ok(time) = text.parse::<Timestamp>() {
                let mut inner = Vec::new();
                put_varint_field(&mut inner, 1, time.as_second().cast_unsigned());
                let nanos = i64::from(time.subsec_nanosecond());
                put_varint_field(&mut inner, 2, nanos.cast_unsigned());
                put_bytes(out, number, &inner);
            }
        }
        (Kind::Duration, Value::String(text)) => {
            if let Ok(duration) = text.parse::<SignedDuration>() {
                let nanos = i64::try_from(duration.as_nanos()).unwrap_or_default();
                let mut inner = Vec::new();
                put_varint_field(&mut inner, 1, nanos.cast_unsigned());
                put_bytes(out, number, &inner);
            }
        }
        (Kind::Quantity, Value::String(text)) => put_message(out, number, 1, text.as_bytes()),
        (Kind::IntOrString, Value::String(text)) => {
            let mut inner = Vec::new();
            put_varint_field(&mut inner, 1, 1);
            put_varint_field(&mut inner, 2, 0);
            put_bytes(&mut inner, 3, text.as_bytes());
            put_bytes(out, number, &inner);
        }
        (Kind::IntOrString, Value::Number(integer)) => {
            let mut inner = Vec::new();
            put_varint_field(&mut inner, 1, 0);
            let integer = integer.as_i64().unwrap_or_default();
            put_varint_field(&mut inner, 2, integer.cast_unsigned());
            put_bytes(&mut inner, 3, b"");
            put_bytes(out, number, &inner);
        }
        (Kind::Raw, value) => put_message(out, number, 1, value.to_string().as_bytes()),
        (Kind::Items, Value::Array(items)) => {
            let mut inner = Vec::new();
            for item in items {
                put(&mut inner, 1, &Kind::Text, item);
            }
            put_bytes(out, number, &inner);
        }
        (Kind::SchemaOr(other), value) => {
            put_bytes(out, number, &either::encode(*other, value));
        }
        (Kind::Message(name), Value::Object(object)) => {
            let fields = messages().get(name).map(Vec::as_slice).unwrap_or_default();
            put_bytes(out, number, &object_bytes(fields, object));
        }
        _ => {}
    }
}

/// Writes a message whose only field holds these bytes.
/// An event of a watch (`meta/v1.WatchEvent`) with the bytes of its object. It stands without the
/// envelope that objects have.
pub(super) fn watch_event(type_: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.len() + 24);
    put_bytes(&mut out, 1, type_.as_bytes());
    // A `runtime.RawExtension`.
    put_message(&mut out, 2, 1, object);
    out
}

fn put_message(out: &mut Vec<u8>, number: u32, inner_number: u32, bytes: &[u8]) {
    let mut inner = Vec::with_capacity(bytes.len() + 4);
    put_bytes(&mut inner, inner_number, bytes);
    put_bytes(out, number, &inner);
}

fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_varint(out, u64::from(number << 3 | BYTES));
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_varint_field(out: &mut Vec<u8>, number: u32, value: u64) {
    put_varint(out, u64::from(number << 3 | VARINT));
    put_varint(out, value);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
