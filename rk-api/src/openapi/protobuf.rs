//! The Swagger document in protobuf, which is the only form that client-go reads.
//!
//! The messages are those of gnostic's `openapi.v2` package, of which `Document` is the outermost.
//! Only what our documents contain is written: numbers are the fields' numbers there, and values
//! of any type are kept as YAML text, for which JSON will do.

use serde_json::{Map, Value};

/// The document as an `openapi.v2.Document`.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut message = Message::default();
    message.string(1, document.get("swagger"));
    message.nested(2, document.get("info"), |info, value| {
        info.string(1, value.get("title"));
        info.string(2, value.get("version"));
    });
    message.nested(8, document.get("paths"), |paths, value| paths.named(2, value, path_item));
    message.nested(9, document.get("definitions"), |all, value| all.named(1, value, schema));
    for requirement in items(document.get("security")) {
        message.nested(12, Some(requirement), |each, value| {
            each.named(1, value, |scopes, value| scopes.strings(1, Some(value)));
        });
    }
    message.nested(13, document.get("securityDefinitions"), |all, value| {
        all.named(1, value, |item, value| item.nested(2, Some(value), api_key));
    });
    message.0
}

fn api_key(message: &mut Message, value: &Value) {
    message.string(1, value.get("type"));
    message.string(2, value.get("name"));
    message.string(3, value.get("in"));
    message.string(4, value.get("description"));
}

fn path_item(message: &mut Message, value: &Value) {
    for (number, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        message.nested(number, value.get(method), operation);
    }
    for each in items(value.get("parameters")) {
        message.nested(9, Some(each), parameters_item);
    }
}

fn operation(message: &mut Message, value: &Value) {
    message.strings(1, value.get("tags"));
    message.string(3, value.get("description"));
    message.string(5, value.get("operationId"));
    message.strings(6, value.get("produces"));
    message.strings(7, value.get("consumes"));
    for each in items(value.get("parameters")) {
        message.nested(8, Some(each), parameters_item);
    }
    message.nested(9, value.get("responses"), |responses, value| {
        responses.named(1, value, |item, value| item.nested(1, Some(value), response));
    });
    message.strings(10, value.get("schemes"));
    message.extensions(13, value);
}

fn response(message: &mut Message, value: &Value) {
    message.string(1, value.get("description"));
    message.nested(2, value.get("schema"), |item, value| item.nested(1, Some(value), schema));
}

/// A parameter is wrapped in messages that say which of several kinds it is of.
fn parameters_item(message: &mut Message, value: &Value) {
    message.nested(1, Some(value), |parameter, value| {
        match value.get("in").and_then(Value::as_str) {
            Some("body") => parameter.nested(1, Some(value), body_parameter),
            Some("path") => parameter.nested(2, Some(value), |other, value| {
                other.nested(4, Some(value), path_parameter);
            }),
            _ => parameter.nested(2, Some(value), |other, value| {
                other.nested(3, Some(value), query_parameter);
            }),
        }
    });
}

fn body_parameter(message: &mut Message, value: &Value) {
    message.string(1, value.get("description"));
    message.string(2, value.get("name"));
    message.string(3, value.get("in"));
    message.boolean(4, value.get("required"));
    message.nested(5, value.get("schema"), schema);
}

fn query_parameter(message: &mut Message, value: &Value) {
    parameter_names(message, value);
    message.string(6, value.get("type"));
    message.boolean(20, value.get("uniqueItems"));
}

fn path_parameter(message: &mut Message, value: &Value) {
    parameter_names(message, value);
    message.string(5, value.get("type"));
    message.boolean(19, value.get("uniqueItems"));
}

fn parameter_names(message: &mut Message, value: &Value) {
    message.boolean(1, value.get("required"));
    message.string(2, value.get("in"));
    message.string(3, value.get("description"));
    message.string(4, value.get("name"));
}

fn schema(message: &mut Message, value: &Value) {
    message.string(1, value.get("$ref"));
    message.string(2, value.get("format"));
    message.string(4, value.get("description"));
    message.any(5, value.get("default"));
    message.strings(19, value.get("required"));
    for each in items(value.get("enum")) {
        message.any(20, Some(each));
    }
    message.nested(21, value.get("additionalProperties"), |item, value| match value {
        Value::Bool(_) => item.boolean(2, Some(value)),
        _ => item.nested(1, Some(value), schema),
    });
    message.nested(22, value.get("type"), |kind, value| kind.string(1, Some(value)));
    message.nested(23, value.get("items"), |item, value| item.nested(1, Some(value), schema));
    for each in items(value.get("allOf")) {
        message.nested(24, Some(each), schema);
    }
    message.nested(25, value.get("properties"), |all, value| all.named(1, value, schema));
    message.extensions(31, value);
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A protobuf message in the making.
#[derive(Default)]
struct Message(Vec<u8>);

const VARINT: u8 = 0;
const BYTES: u8 = 2;

impl Message {
    fn string(&mut self, number: u32, value: Option<&Value>) {
        if let Some(text) = value.and_then(Value::as_str) {
            self.bytes(number, text.as_bytes());
        }
    }

    fn strings(&mut self, number: u32, value: Option<&Value>) {
        for each in items(value) {
            self.string(number, Some(each));
        }
    }

    fn boolean(&mut self, number: u32, value: Option<&Value>) {
        if value == Some(&Value::Bool(true)) {
            self.key(number, VARINT);
            self.0.push(1);
        }
    }

    /// A value of any type.
    fn any(&mut self, number: u32, value: Option<&Value>) {
        if let Some(value) = value {
            let mut any = Message::default();
            any.bytes(2, value.to_string().as_bytes());
            self.bytes(number, &any.0);
        }
    }

    fn nested(
        &mut self,
        number: u32,
        value: Option<&Value>,
        encode: impl FnOnce(&mut Message, &Value),
    ) {
        if let Some(value) = value {
            let mut message = Message::default();
            encode(&mut message, value);
            self.bytes(number, &message.0);
        }
    }

    /// A map: one message for each entry, which has the key as field 1 and the value as field 2.
    fn named(&mut self, number: u32, value: &Value, encode: impl Fn(&mut Message, &Value)) {
        for (name, value) in value.as_object().into_iter().flatten() {
            let mut entry = Message::default();
            entry.bytes(1, name.as_bytes());
            entry.nested(2, Some(value), &encode);
            self.bytes(number, &entry.0);
        }
    }

    /// The fields whose names begin with `x-`.
    fn extensions(&mut self, number: u32, value: &Value) {
        let none = Map::new();
        let fields = value.as_object().unwrap_or(&none);
        for (name, value) in fields.iter().filter(|(name, _)| name.starts_with("x-")) {
            let mut entry = Message::default();
            entry.bytes(1, name.as_bytes());
            entry.any(2, Some(value));
            self.bytes(number, &entry.0);
        }
    }

    fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.key(number, BYTES);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn key(&mut self, number: u32, wire_type: u8) {
        self.varint(u64::from(number) << 3 | u64::from(wire_type));
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests;
