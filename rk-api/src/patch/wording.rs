//! Go's words for JSON errors and values, which are part of the messages that clients see.

use std::fmt::Write;

use serde_json::Value;

/// What Go's `encoding/json` says of the error that serde_json found in `json`.
pub fn json_error(json: &[u8], error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "unexpected end of JSON input".into();
    }
    let text = error.to_string();
    let place = if text.starts_with("expected value") || text.starts_with("trailing comma") {
        "looking for beginning of value"
    } else if text.starts_with("key must be a string") {
        "looking for beginning of object key string"
    } else if text.starts_with("trailing characters") {
        "after top-level value"
    } else if text.starts_with("expected `:`") {
        "after object key"
    } else if text.starts_with("expected `,` or `]`") {
        "after array element"
    } else if text.starts_with("expected `,` or `}`") {
        "after object key:value pair"
    } else {
        return text;
    };
    match character_at(json, error) {
        Some(character) => format!("invalid character {character:?} {place}"),
        None => text,
    }
}

/// The character at which serde_json stopped.
fn character_at(json: &[u8], error: &serde_json::Error) -> Option<char> {
    let line = json.split(|byte| *byte == b'\n').nth(error.line().checked_sub(1)?)?;
    let rest = line.get(error.column().checked_sub(1)?..)?;
    rest.utf8_chunks().next()?.valid().chars().next()
}

/// What Go's `encoding/json` says when `json` is not of the type that it was told to expect.
pub fn type_error(found: &Value, expected: &str) -> String {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    format!("json: cannot unmarshal {found} into Go value of type {expected}")
}

/// A value as Go's `%v` prints it: `map[a:1 b:[x y]]`.
pub fn value(value: &Value) -> String {
    let mut text = String::new();
    write_value(&mut text, value);
    text
}

fn write_value(text: &mut String, value: &Value) {
    match value {
        Value::Null => text.push_str("<nil>"),
        Value::String(string) => text.push_str(string),
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(' ');
                }
                write_value(text, item);
            }
            text.push(']');
        }
        Value::Object(fields) => {
            text.push_str("map[");
            for (index, (name, field)) in fields.iter().enumerate() {
                if index > 0 {
                    text.push(' ');
                }
                text.push_str(name);
                text.push(':');
                write_value(text, field);
            }
            text.push(']');
        }
        // Writing to a string cannot fail.
        scalar => _ = write!(text, "{scalar}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(json: &str, expected: &str) {
        let error = serde_json::from_str::<Value>(json).unwrap_err();
        assert_eq!(json_error(json.as_bytes(), &error), expected);
    }

    #[test]
    fn json_errors_are_worded_as_go_words_them() {
        check("[{", "unexpected end of JSON input");
        check("", "unexpected end of JSON input");
        check("{a:1}", "invalid character 'a' looking for beginning of object key string");
        check("[1 2]", "invalid character '2' after array element");
        check("{\"a\" 1}", "invalid character '1' after object key");
        check("{\"a\":1 \"b\"}", "invalid character '\"' after object key:value pair");
        check("{} x", "invalid character 'x' after top-level value");
        check("{\"a\":\n<}", "invalid character '<' looking for beginning of value");
    }

    #[test]
    fn values_print_as_in_go() {
        let object = json!({"b": [1, "x y", null], "a": {"c": true}});
        assert_eq!(value(&object), "map[a:map[c:true] b:[1 x y <nil>]]");
    }
}
