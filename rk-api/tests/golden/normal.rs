//! Answers without what differs from one run to the next.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value, json};

use crate::case::Names;

/// Fields that no two runs share.
const DROPPED: [&str; 8] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "managedFields",
    "selfLink",
    "controller-uid",
    "storageVersionHash",
    "batch.kubernetes.io/controller-uid",
];

/// Longer texts are compared by their length.
const TEXT_MAX: usize = 3_000;

macro_rules! pattern {
    ($name:ident, $pattern:literal) => {
        static $name: LazyLock<Regex> = LazyLock::new(|| Regex::new($pattern).unwrap());
    };
}
pattern!(TIME, r"\b(202[5-9]|20[3-9]\d)-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)");
pattern!(UUID, r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b");
pattern!(POINTER, r"\b0x[0-9a-f]{6,}\b");
pattern!(VERSION, r"(resource version: )\d+( \(\d+\)|, current: \d+)");
pattern!(ADDRESS, r"^(\d+\.\d+\.\d+\.\d+|[0-9a-f:]*:[0-9a-f:]+)$");
pattern!(FILL, r"\{fill:(\d+)\}");

/// A request with its placeholders replaced.
pub(crate) fn filled_in(value: &Value, names: &Names) -> Value {
    let text = |text: &str| {
        let mut text = text.to_owned();
        for (name, value) in names {
            text = text.replace(&format!("{{{name}}}"), value);
        }
        let fill = |found: &regex::Captures<'_>| "x".repeat(found[1].parse().unwrap_or(0));
        FILL.replace_all(&text, fill).into_owned()
    };
    match value {
        Value::Object(map) => {
            map.iter().map(|(key, value)| (text(key), filled_in(value, names))).collect()
        }
        Value::Array(items) => items.iter().map(|item| filled_in(item, names)).collect(),
        Value::String(plain) => Value::String(text(plain)),
        other => other.clone(),
    }
}

pub(crate) fn is_address(text: &str) -> bool {
    ADDRESS.is_match(text)
}

pub(crate) fn text(text: &str, names: &Names, is_message: bool) -> String {
    let mut text = text.to_owned();
    for (name, value) in names {
        if name == "ns" || name == "u" || (is_message && value.len() > 4) {
            text = text.replace(value, &format!("{{{name}}}"));
        }
    }
    let time = |found: &regex::Captures<'_>| {
        if found.get(2).is_some() { "<microtime>" } else { "<time>" }
    };
    let text = TIME.replace_all(&text, time);
    let text = UUID.replace_all(&text, "<uid>").replace('\u{a0}', " ");
    let text = VERSION.replace_all(&text, "${1}<rv>");
    let text = POINTER.replace_all(&text, "<pointer>").into_owned();
    match text.chars().count() {
        count if count >= TEXT_MAX => format!("<{count} characters>"),
        _ => text,
    }
}

/// A value below `key`, with everything dropped or masked that differs from run to run, but the
/// fields in `kept`.
pub(crate) fn value(value: &Value, names: &Names, key: &str, kept: &[&str]) -> Value {
    match value {
        Value::Object(map) => object(map, names, kept),
        Value::Array(items) => {
            items.iter().map(|item| self::value(item, names, key, kept)).collect()
        }
        Value::Number(number) if key == "nodePort" && number.as_i64() != Some(0) => json!("<port>"),
        Value::String(plain) => match key {
            "clusterIP" | "clusterIPs" if is_address(plain) => json!("<ip>"),
            "token" | "continue" if plain.len() > 20 => json!(format!("<{key}>")),
            _ => json!(text(plain, names, key == "message")),
        },
        other => other.clone(),
    }
}

fn object(map: &Map<String, Value>, names: &Names, kept: &[&str]) -> Value {
    let mut out = Map::new();
    for (key, inner) in map {
        let is_kept = kept.contains(&key.as_str());
        if DROPPED.contains(&key.as_str()) && !is_kept {
            continue;
        }
        let inner = if key == "managedFields" { by_manager(inner) } else { inner.clone() };
        out.insert(text(key, names, false), value(&inner, names, key, kept));
    }
    let generated = map.get("generateName").and_then(Value::as_str);
    if let (Some(prefix), Some(name)) = (generated, map.get("name").and_then(Value::as_str)) {
        let suffix = name.strip_prefix(prefix).unwrap_or_default();
        let is_generated = suffix.len() == 5
            && suffix.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let name =
            if is_generated { format!("{}*", text(prefix, names, false)) } else { name.to_owned() };
        out.insert("name".to_owned(), name.into());
    }
    Value::Object(out)
}

fn by_manager(managed: &Value) -> Value {
    let entry = |entry: &Value| {
        let word = |field: &str| entry[field].as_str().unwrap_or("None").to_owned();
        (format!("{}/{}", word("manager"), word("operation")), entry["fieldsV1"].clone())
    };
    crate::case::list(managed).iter().map(entry).collect()
}

/// A watch's events by type and name, errors by their code; no bookmarks.
pub(crate) fn events(stream: &str, names: &Names, is_unordered: bool) -> Value {
    let mut events = Vec::new();
    for line in stream.lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            return json!({"events": format!("not JSON: {line}")});
        };
        let object = &event["object"];
        match event["type"].as_str() {
            Some("BOOKMARK") => {}
            Some("ERROR") => events
                .push(json!({"type": "ERROR", "code": object["code"], "reason": object["reason"]})),
            kind => {
                let row = &object["rows"][0]["object"]["metadata"]["name"];
                let name = row.as_str().or(object["metadata"]["name"].as_str());
                let name = text(name.unwrap_or_default(), names, false);
                events.push(json!({"type": kind, "name": name}));
            }
        }
    }
    if is_unordered {
        events.sort_by_key(|event| event["name"].as_str().unwrap_or_default().to_owned());
    }
    json!({ "events": events })
}
