//! Kubernetes' protobuf encoding of objects, to and from JSON trees.
//!
//! The field numbers are facts of the API (the `protobuf` tags of its Go types); `fields.txt` lists
//! them, a message a line. With them one codec serves every kind. A body is the magic bytes
//! `k8s\0` and a `runtime.Unknown` with the object's type and its bytes.
//!
//! # Invariants
//! - What Go would leave out of JSON is left out here: a zero value that is no pointer in Go.
//! - Malformed input is an error, never a panic; nesting is bounded.

mod decode;
mod either;
mod encode;
#[cfg(test)]
mod foreign;
#[cfg(test)]
mod round_trips;

use std::{collections::HashMap, sync::OnceLock};

/// The media type.
pub(super) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// What a body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// How deep messages may nest, as in the Go decoder's JSON twin.
const DEPTH_MAX: usize = 100;

/// The type of a field's values.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// UTF-8 text.
    Text,
    /// `true` or `false`.
    Bool,
    /// A whole number of up to 64 bits.
    Integer,
    /// A double.
    Double,
    /// Bytes, base64 in JSON.
    Bytes,
    /// A point in time, to the second.
    Time,
    /// A point in time, to the microsecond.
    MicroTime,
    /// A duration in nanoseconds, in JSON as Go prints it.
    Duration,
    /// A quantity, as text.
    Quantity,
    /// A number or a name.
    IntOrString,
    /// Bytes that are JSON.
    Raw,
    /// A list of text in a message of its own.
    Items,
    /// A schema of OpenAPI, or something else instead.
    SchemaOr(Other),
    /// A message.
    Message(&'static str),
}

/// What there can be in place of a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Other {
    /// Several of them.
    Schemas,
    /// Whether anything is allowed.
    Allowed,
    /// Names of properties.
    Names,
}

/// How often a field's value can be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Once; zero means absent.
    Value,
    /// Once; zero is a value.
    Pointer,
    /// Any number of times.
    List,
    /// By text keys.
    Map,
    /// Once; its fields are the surrounding object's in JSON.
    Inline,
}

/// A field of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Field {
    name: &'static str,
    number: u32,
    shape: Shape,
    kind: Kind,
}

type Messages = HashMap<&'static str, Vec<Field>>;

/// All messages, by their short name: `core.v1.Pod`.
fn messages() -> &'static Messages {
    static MESSAGES: OnceLock<Messages> = OnceLock::new();
    MESSAGES.get_or_init(|| {
        include_str!("protobuf/fields.txt")
            .lines()
            .filter_map(|line| {
                let (name, fields) = line.split_once(' ')?;
                Some((name, fields.split(' ').filter_map(field).collect()))
            })
            .collect()
    })
}

/// A field as `fields.txt` has it: `name=number:kind`, the kind with `*`, `[]` or `{}` in front, and
/// `^` as the name of an embedded message.
fn field(text: &'static str) -> Option<Field> {
    let (name, rest) = text.split_once('=')?;
    let (number, kind) = rest.split_once(':')?;
    let (shape, kind) = if name == "^" {
        (Shape::Inline, kind)
    } else if let Some(kind) = kind.strip_prefix("[]") {
        (Shape::List, kind)
    } else if let Some(kind) = kind.strip_prefix("{}") {
        (Shape::Map, kind)
    } else if let Some(kind) = kind.strip_prefix('*') {
        (Shape::Pointer, kind)
    } else {
        (Shape::Value, kind)
    };
    let kind = match kind {
        "s" => Kind::Text,
        "b" => Kind::Bool,
        "i" => Kind::Integer,
        "d" => Kind::Double,
        "y" => Kind::Bytes,
        "time" => Kind::Time,
        "microTime" => Kind::MicroTime,
        "duration" => Kind::Duration,
        "quantity" => Kind::Quantity,
        "intOrString" => Kind::IntOrString,
        "raw" => Kind::Raw,
        "items" => Kind::Items,
        "schemaOrList" => Kind::SchemaOr(Other::Schemas),
        "schemaOrBool" => Kind::SchemaOr(Other::Allowed),
        "schemaOrStrings" => Kind::SchemaOr(Other::Names),
        message => Kind::Message(message),
    };
    Some(Field { name, number: number.parse().ok()?, shape, kind })
}

/// The message of a type, by its group and version and its kind.
fn message(api_version: &str, kind: &str) -> Option<(&'static str, &'static [Field])> {
    const META: [&str; 11] = [
        "DeleteOptions",
        "CreateOptions",
        "UpdateOptions",
        "PatchOptions",
        "GetOptions",
        "ListOptions",
        "PartialObjectMetadata",
        "PartialObjectMetadataList",
        "Status",
        "APIResourceList",
        "APIGroupList",
    ];
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    // `rbac.authorization.k8s.io` is the package `rbac`, `flowcontrol.apiserver.k8s.io` `flowcontrol`.
    let package = group.split('.').next().unwrap_or(group);
    // Options are registered in every group.
    let name = if META.contains(&kind) {
        format!("meta.{kind}")
    } else {
        format!("{package}.{version}.{kind}")
    };
    let (name, fields) = messages().get_key_value(name.as_str())?;
    Some((name, fields))
}

/// A protobuf body as JSON.
///
/// # Errors
/// What is wrong with it.
pub(super) fn to_json(body: &[u8]) -> Result<Vec<u8>, String> {
    let value = decode::unknown(body)?;
    serde_json::to_vec(&value).map_err(|error| error.to_string())
}

/// An object or a list as a protobuf body; `None` when its type has no protobuf form here.
pub(super) fn from_json(json: &[u8]) -> Option<Vec<u8>> {
    encode::unknown(&serde_json::from_slice(json).ok()?)
}

/// A line of a watch.
#[derive(serde::Deserialize)]
struct WatchLine<'a> {
    #[serde(rename = "type")]
    type_: &'a str,
    #[serde(borrow)]
    object: &'a serde_json::value::RawValue,
}

/// Lines of a watch as frames: each event is behind its length in four bytes, the highest first, as
/// apimachinery's length-delimited framer has it.
pub(super) fn frames(lines: &[u8]) -> Vec<u8> {
    let mut frames = Vec::with_capacity(lines.len());
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let Ok(line) = serde_json::from_slice::<WatchLine<'_>>(line) else { continue };
        let json = line.object.get().as_bytes();
        // What has no protobuf form stays as it is: clients tell by how it begins.
        let object = from_json(json).unwrap_or_else(|| json.to_vec());
        let event = encode::watch_event(line.type_, &object);
        let length = u32::try_from(event.len()).unwrap_or(u32::MAX);
        frames.extend(length.to_be_bytes());
        frames.extend(event);
    }
    frames
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_message_that_is_named_is_listed() {
        let messages = messages();
        for (name, fields) in messages {
            for field in fields {
                if let Kind::Message(inner) = &field.kind {
                    let known = messages.contains_key(inner)
                        // Without fields, or of alpha versions: decoded as empty.
                        || [
                            "v1alpha",
                            "storagemigration",
                            "JobSchedulingConfiguration",
                            "SubresourceStatus",
                        ]
                            .iter()
                            .any(|part| inner.contains(part));
                    assert!(known, "{name}.{} is a {inner}", field.name);
                }
            }
        }
        assert!(messages.len() > 600);
    }

    #[test]
    fn an_object_comes_back_as_it_was() {
        let pod = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "labels": {"a": "b"}, "creationTimestamp": "2026-01-02T03:04:05Z"},
            "spec": {
                "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}],
                    "resources": {"limits": {"cpu": "500m"}},
                    "livenessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 5},
                    "readinessProbe": {"tcpSocket": {"port": 80}}}],
                "volumes": [{"name": "v", "secret": {"secretName": "s", "defaultMode": 420}},
                            {"name": "e", "emptyDir": {}}],
                "terminationGracePeriodSeconds": 0,
                "securityContext": {}
            },
            "status": {"phase": "Running"}
        });
        let body = from_json(pod.to_string().as_bytes()).expect("a Pod has a protobuf form");
        let back: Value =
            serde_json::from_slice(&to_json(&body).expect("well-formed")).expect("JSON");
        assert_eq!(back, pod);
    }

    #[test]
    fn a_zero_that_is_no_pointer_is_left_out() {
        let deployment = serde_json::json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "", "generation": 0},
            "spec": {"replicas": 0, "minReadySeconds": 0, "paused": false, "template": {}}
        });
        let body = from_json(deployment.to_string().as_bytes());
        let json = to_json(&body.expect("known")).expect("well-formed");
        let value: Value = serde_json::from_slice(&json).expect("JSON");
        assert_eq!(value["spec"], serde_json::json!({"replicas": 0, "template": {}}));
        assert_eq!(value["metadata"], serde_json::json!({}));
    }

    #[test]
    fn nonsense_is_an_error() {
        let map = serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"k": "v"}
        });
        let good = from_json(map.to_string().as_bytes()).expect("known");
        assert!(to_json(b"").is_err());
        assert!(to_json(b"{}").is_err());
        for length in 0..good.len() {
            let _ = to_json(&good[..length]);
        }
        for index in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[index] ^= 1 << bit;
                let _ = to_json(&bad);
            }
        }
    }
}
