//! From protobuf to JSON.

use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::{DEPTH_MAX, Field, Kind, MAGIC, Shape, either, message, messages};

pub(super) type Result<T> = std::result::Result<T, String>;

/// A field's value on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

impl<'a> Wire<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8]> {
        match self {
            Wire::Bytes(bytes) => Ok(bytes),
            _ => Err("a field has the wrong wire type".to_owned()),
        }
    }

    pub(super) fn text(self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| "text is not UTF-8".to_owned())
    }

    pub(super) fn varint(self) -> Result<u64> {
        match self {
            Wire::Varint(number) => Ok(number),
            _ => Err("a field has the wrong wire type".to_owned()),
        }
    }
}

/// Reads fields one after the other.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or("the message ends early")?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err("a number is too long".to_owned())
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let length = usize::try_from(length).map_err(|_| "a length is too large")?;
        if length > self.0.len() {
            return Err("the message ends early".to_owned());
        }
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(taken)
    }

    /// The next field's number and value; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| "a field number is too large")?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                let bytes = self.take(8)?;
                Wire::Fixed64(u64::from_le_bytes(bytes.try_into().unwrap_or_default()))
            }
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            other => return Err(format!("wire type {other} is unknown")),
        };
        Ok(Some((number, wire)))
    }
}

/// A whole body: the magic bytes, the type, the object.
pub(super) fn unknown(body: &[u8]) -> Result<Value> {
    let rest = body.strip_prefix(MAGIC).ok_or("the body does not begin with k8s\\0")?;
    let (mut api_version, mut kind, mut raw) = ("", "", None);
    let mut reader = Reader(rest);
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => {
                let mut reader = Reader(wire.bytes()?);
                while let Some((number, wire)) = reader.next()? {
                    match number {
                        1 => api_version = wire.text()?,
                        2 => kind = wire.text()?,
                        _ => {}
                    }
                }
            }
            2 => raw = Some(wire.bytes()?),
            _ => {}
        }
    }
    let (_, fields) = message(api_version, kind)
        .ok_or_else(|| format!("{api_version}, Kind={kind} has no protobuf form here"))?;
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), json!(api_version));
    object.insert("kind".to_owned(), json!(kind));
    merge(fields, raw.unwrap_or_default(), &mut object, 0)?;
    Ok(Value::Object(object))
}

/// Decodes a message's fields into `object`.
fn merge(
    fields: &[Field],
    bytes: &[u8],
    object: &mut Map<String, Value>,
    depth: usize,
) -> Result<()> {
    if depth > DEPTH_MAX {
        return Err(format!("messages nest deeper than {DEPTH_MAX}"));
    }
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        // A field of a newer version is skipped, as protobuf has it.
        let Some(field) = fields.iter().find(|field| field.number == number) else { continue };
        match field.shape {
            Shape::Value | Shape::Pointer => {
                let value = value(&field.kind, wire, depth)?;
                if field.shape == Shape::Pointer || !absent(&field.kind, &value) {
                    object.insert(field.name.to_owned(), value);
                }
            }
            Shape::List => {
                let item = value(&field.kind, wire, depth)?;
                let list = object.entry(field.name).or_insert_with(|| json!([]));
                if let Value::Array(list) = list {
                    list.push(item);
                }
            }
            Shape::Map => {
                let (key, item) = entry(&field.kind, wire.bytes()?, depth)?;
                let map = object.entry(field.name).or_insert_with(|| json!({}));
                if let Value::Object(map) = map {
                    map.insert(key, item);
                }
            }
            Shape::Inline => {
                if let Kind::Message(inner) = field.kind
                    && let Some(fields) = messages().get(inner)
                {
                    merge(fields, wire.bytes()?, object, depth + 1)?;
                }
            }
        }
    }
    Ok(())
}

/// Whether a value that is no pointer in Go is what JSON leaves out.
fn absent(kind: &Kind, value: &Value) -> bool {
    match (kind, value) {
        // Empty messages are there or not by themselves; only their bytes can say.
        (Kind::Message(_), _) => false,
        (_, Value::Null | Value::Bool(false)) => true,
        (_, Value::String(text)) => text.is_empty(),
        (Kind::Integer | Kind::Double, Value::Number(number)) => number.as_f64() == Some(0.0),
        _ => false,
    }
}

fn entry(kind: &Kind, bytes: &[u8], depth: usize) -> Result<(String, Value)> {
    let (mut key, mut item) = (String::new(), None);
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => key = wire.text()?.to_owned(),
            2 => item = Some(value(kind, wire, depth)?),
            _ => {}
        }
    }
    let item = item.unwrap_or_else(|| match kind {
        Kind::Message(_) => json!({}),
        Kind::Items => json!([]),
        _ => json!(""),
    });
    Ok((key, item))
}

pub(super) fn value(kind: &Kind, wire: Wire<'_>, depth: usize) -> Result<Value> {
    Ok(match kind {
        Kind::Text => json!(wire.text()?),
        Kind::Bool => json!(wire.varint()? != 0),
        // Negative numbers are ten bytes of two's complement.
        Kind::Integer => json!(wire.varint()?.cast_signed()),
        Kind::Double => match wire {
            Wire::Fixed64(bits) => json!(f64::from_bits(bits)),
            _ => return Err("a field has the wrong wire type".to_owned()),
        },
        Kind::Bytes => json!(STANDARD.encode(wire.bytes()?)),
        Kind::Time => time(wire.bytes()?, false)?,
        Kind::MicroTime => time(wire.bytes()?, true)?,
        Kind::Duration => {
            let nanos = numbers(wire.bytes()?)?[0];
            json!(go_duration(nanos))
        }
        Kind::Quantity => match field_bytes(wire.bytes()?, 1)? {
            Some(text) => json!(Wire::Bytes(text).text()?),
            None => json!("0"),
        },
        Kind::IntOrString => {
            let bytes = wire.bytes()?;
            let [kind, number, ..] = numbers(bytes)?;
            match (kind, field_bytes(bytes, 3)?) {
                (1, text) => json!(Wire::Bytes(text.unwrap_or_default()).text()?),
                (_, _) => json!(number),
            }
        }
        Kind::Raw => match field_bytes(wire.bytes()?, 1)? {
            Some(raw) if !raw.is_empty() => {
                serde_json::from_slice(raw).map_err(|_| "raw bytes are not JSON".to_owned())?
            }
            _ => Value::Null,
        },
        Kind::Items => {
            let mut items = Vec::new();
            let mut reader = Reader(wire.bytes()?);
            while let Some((number, wire)) = reader.next()? {
                if number == 1 {
                    items.push(json!(wire.text()?));
                }
            }
            Value::Array(items)
        }
        Kind::SchemaOr(other) => either::decode(*other, wire.bytes()?, depth)?,
        Kind::Message(name) => {
            let mut object = Map::new();
            if let Some(fields) = messages().get(name) {
                merge(fields, wire.bytes()?, &mut object, depth + 1)?;
            }
            Value::Object(object)
        }
    })
}

/// The bytes of field `wanted` of a small message.
fn field_bytes(bytes: &[u8], wanted: u32) -> Result<Option<&[u8]>> {
    let mut reader = Reader(bytes);
    let mut found = None;
    while let Some((number, wire)) = reader.next()? {
        if number == wanted {
            found = Some(wire.bytes()?);
        }
    }
    Ok(found)
}

/// The numbers in fields 1, 2 and 3 of a small message.
fn numbers(bytes: &[u8]) -> Result<[i64; 3]> {
    let mut reader = Reader(bytes);
    let mut numbers = [0; 3];
    while let Some((number, wire)) = reader.next()? {
        if let (1..=3, Wire::Varint(value)) = (number, wire) {
            numbers[number as usize - 1] = value.cast_signed();
        }
    }
    Ok(numbers)
}

/// Seconds and nanoseconds as a time. An empty message is Go's zero time, which is null in JSON.
fn time(bytes: &[u8], micros: bool) -> Result<Value> {
    let [seconds, nanos, _] = numbers(bytes)?;
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let nanos = i32::try_from(nanos).map_err(|_| "a time is out of range")?;
    let time = Timestamp::new(seconds, nanos).map_err(|_| "a time is out of range")?;
    Ok(json!(match micros {
        true => format!("{time:.6}"),
        false => format!("{time:.0}"),
    }))
}

/// A duration as Go writes it: `1h2m3.5s`.
fn go_duration(nanos: i64) -> String {
    let duration = SignedDuration::from_nanos(nanos);
    if duration.is_zero() {
        return "0s".to_owned();
    }
    let sign = if nanos < 0 { "-" } else { "" };
    let seconds = duration.unsigned_abs();
    let (whole, fraction) = (seconds.as_secs(), seconds.subsec_nanos());
    let (hours, minutes, rest) = (whole / 3600, whole / 60 % 60, whole % 60);
    let mut out = sign.to_owned();
    if hours > 0 {
        out.push_str(&format!("{hours}h"));
    }
    if hours > 0 || minutes > 0 {
        out.push_str(&format!("{minutes}m"));
    }
    let fraction = format!("{fraction:09}");
    match fraction.trim_end_matches('0') {
        "" => out.push_str(&format!("{rest}s")),
        fraction => out.push_str(&format!("{rest}.{fraction}s")),
    }
    out
}
