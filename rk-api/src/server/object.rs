//! Objects as the server keeps and sends them: JSON bytes, encoded once.
//!
//! What is stored is an object without its `resourceVersion`, which only exists once the store has
//! committed it. Answers splice it in right behind `"metadata":{`. So `metadata` always follows
//! `apiVersion` and `kind`: finding it costs nothing, and a list's items, which have neither, are
//! the bytes from there on.

use std::{
    borrow::Cow,
    ops::Range,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::resources::{Fields, Object};

use super::{
    labels::Labels,
    status::{ApiError, Result},
};

/// What separates the type from the rest.
const METADATA: &[u8] = b"\"metadata\":{";

/// What begins the managed fields, which are the first of the metadata.
const MANAGED: &[u8] = b"\"managedFields\":";

/// An object's stored bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// The JSON, ending in its closing brace.
    bytes: Bytes,
    /// Where `"metadata":{` begins.
    metadata: u32,
}

impl Stored {
    /// Encodes an object with its managed fields (JSON; empty for none), which it does not hold
    /// itself. What is never stored is dropped: its version and self link.
    pub(super) fn encode(object: &mut dyn Object, managed: &[u8]) -> Result<Self> {
        let meta = object.meta_mut();
        meta.resource_version = None;
        meta.self_link = None;
        meta.managed_fields = None;
        drop_empty(meta);
        let json = object.encode().map_err(ApiError::internal)?;
        let plain = Self::new(json.into())
            .ok_or_else(|| ApiError::internal("an object has no metadata"))?;
        if managed.is_empty() {
            return Ok(plain);
        }
        let (before, after) = plain.bytes.split_at(plain.metadata as usize + METADATA.len());
        let mut bytes = Vec::with_capacity(plain.bytes.len() + MANAGED.len() + managed.len() + 1);
        bytes.extend_from_slice(before);
        bytes.extend_from_slice(MANAGED);
        bytes.extend_from_slice(managed);
        if after.first() != Some(&b'}') {
            bytes.push(b',');
        }
        bytes.extend_from_slice(after);
        Ok(Self { bytes: bytes.into(), ..plain })
    }

    /// The same object as it was decoded, which may have changed it; its managed fields are kept.
    pub(super) fn again(&self, object: &mut dyn Object) -> Option<Self> {
        let managed = match object.meta_mut().managed_fields.take() {
            Some(entries) => serde_json::to_vec(&entries).ok()?.into(),
            None => self.managed(),
        };
        Self::encode(object, &managed).ok()
    }

    /// The managed fields, where [`Self::encode`] has put them; else empty.
    pub(super) fn managed(&self) -> Bytes {
        match self.managed_range() {
            Some(range) => self.bytes.slice(range),
            None => Bytes::new(),
        }
    }

    /// The bytes without managed fields, which are most of many objects and seldom looked at.
    pub(super) fn plain(&self) -> Cow<'_, [u8]> {
        let Some(range) = self.managed_range() else { return Cow::Borrowed(&self.bytes) };
        let after = &self.bytes[range.end..];
        let after = after.strip_prefix(b",").unwrap_or(after);
        Cow::Owned([&self.bytes[..range.start - MANAGED.len()], after].concat())
    }

    /// Whether both are the same but for their managed fields.
    pub(super) fn is_same_object(&self, other: &Self) -> bool {
        self.plain() == other.plain()
    }

    fn managed_range(&self) -> Option<Range<usize>> {
        let from = self.metadata as usize + METADATA.len();
        if !self.bytes[from..].starts_with(MANAGED) {
            return None;
        }
        let from = from + MANAGED.len();
        Some(from..from + value_length(&self.bytes[from..])?)
    }

    /// Takes bytes from the store, whoever wrote them. `None` when they are no object.
    pub(super) fn new(bytes: Bytes) -> Option<Self> {
        // kube-apiserver ends its values with a line feed, which would split a watch's lines.
        let bytes = bytes.slice(..bytes.trim_ascii_end().len());
        if let Some(metadata) = metadata_offset(&bytes) {
            return Some(Self { bytes, metadata });
        }
        let bytes = Bytes::from(reordered(&bytes)?);
        let metadata = metadata_offset(&bytes)?;
        Some(Self { bytes, metadata })
    }

    /// The bytes to store.
    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Writes the object with its version.
    pub(super) fn write(&self, revision: u64, out: &mut Vec<u8>) {
        let (before, after) = self.bytes.split_at(self.metadata as usize + METADATA.len());
        out.extend_from_slice(before);
        write_version(revision, after, out);
    }

    /// Writes the object with its version and without its type, as an item of a list.
    pub(super) fn write_item(&self, revision: u64, out: &mut Vec<u8>) {
        let after = &self.bytes[self.metadata as usize + METADATA.len()..];
        out.push(b'{');
        out.extend_from_slice(METADATA);
        write_version(revision, after, out);
    }

    /// The bytes of `metadata` with its version, braces included.
    pub(super) fn metadata(&self, revision: u64) -> Option<Vec<u8>> {
        let from = self.metadata as usize + METADATA.len() - 1;
        let length = value_length(&self.bytes[from..])?;
        let mut out = vec![b'{'];
        write_version(revision, &self.bytes[from + 1..from + length], &mut out);
        Some(out)
    }

    /// An upper bound of what [`Self::write`] appends.
    pub(super) fn len_max(&self) -> usize {
        self.bytes.len() + "\"resourceVersion\":\"\",".len() + 20
    }
}

/// Takes away lists and maps that hold nothing, as Go's encoder leaves them out.
fn drop_empty(meta: &mut ObjectMeta) {
    meta.labels.take_if(|labels| labels.is_empty());
    meta.annotations.take_if(|annotations| annotations.is_empty());
    meta.finalizers.take_if(|finalizers| finalizers.is_empty());
    meta.owner_references.take_if(|owners| owners.is_empty());
}

/// Revision 0 is that of an object which was never stored: it has no version.
fn write_version(revision: u64, after: &[u8], out: &mut Vec<u8>) {
    if revision > 0 {
        out.extend_from_slice(b"\"resourceVersion\":\"");
        write_number(revision, out);
        out.push(b'"');
        if after.first() != Some(&b'}') {
            out.push(b',');
        }
    }
    out.extend_from_slice(after);
}

/// A number in decimal.
pub(super) fn write_number(number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let (mut at, mut rest) = (digits.len(), number);
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Where `"metadata":{` begins, if it follows `apiVersion` and `kind` in either order.
fn metadata_offset(json: &[u8]) -> Option<u32> {
    let mut at = 1;
    if json.first() != Some(&b'{') {
        return None;
    }
    for _ in 0..2 {
        let rest = &json[at..];
        let key = if rest.starts_with(b"\"apiVersion\":") {
            "\"apiVersion\":".len()
        } else if rest.starts_with(b"\"kind\":") {
            "\"kind\":".len()
        } else {
            return None;
        };
        at += key + value_length(&rest[key..])?;
        at += usize::from(json.get(at) == Some(&b','));
    }
    json[at..].starts_with(METADATA).then_some(at as u32)
}

/// The length of the JSON value that `json` begins with. It only balances brackets and skips
/// strings: the value is known to be well formed.
fn value_length(json: &[u8]) -> Option<usize> {
    let (mut depth, mut at) = (0usize, 0);
    loop {
        match *json.get(at)? {
            b'"' => {
                at += 1;
                loop {
                    match *json.get(at)? {
                        b'"' => break,
                        b'\\' => at += 2,
                        _ => at += 1,
                    }
                }
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return Some(at),
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            b',' if depth == 0 => return Some(at),
            _ => {}
        }
        at += 1;
    }
}

/// The object with `apiVersion`, `kind` and `metadata` first, the rest as it was.
fn reordered(json: &[u8]) -> Option<Vec<u8>> {
    use serde_json::value::RawValue;
    let members: Members<'_> = serde_json::from_slice(json).ok()?;
    let mut out = Vec::with_capacity(json.len());
    let mut put = |key: &str, value: &RawValue| {
        out.push(if out.is_empty() { b'{' } else { b',' });
        out.extend_from_slice(serde_json::to_string(key).ok()?.as_bytes());
        out.push(b':');
        out.extend_from_slice(value.get().as_bytes());
        Some(())
    };
    for key in ["apiVersion", "kind", "metadata"] {
        put(key, members.0.iter().find(|(found, _)| found == key)?.1)?;
    }
    for (key, value) in &members.0 {
        if !["apiVersion", "kind", "metadata"].contains(&key.as_str()) {
            put(key, value)?;
        }
    }
    out.push(b'}');
    Some(out)
}

/// The members of an object, in order.
struct Members<'a>(Vec<(String, &'a serde_json::value::RawValue)>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// What selectors look at, taken out of an object once, when it is written.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Its labels.
    pub labels: Labels,
    /// Its selectable fields.
    pub fields: Fields,
    /// Those whose names only the kind knows.
    pub more: Box<[(Arc<str>, String)]>,
}

/// An object at one version, as the cache holds it.
#[derive(Clone, Debug)]
pub(super) struct CachedObject {
    /// The store's key.
    pub key: Arc<str>,
    /// Its bytes.
    pub stored: Stored,
    /// The revision that wrote it.
    pub revision: u64,
    /// What selectors look at.
    pub facts: Facts,
    /// How much of the key is the resource's prefix.
    pub prefix_length: u32,
    /// Its bytes in other versions of its kind.
    pub views: Views,
}

/// Forms of an object besides the stored one, each made once. There are few, and mostly none.
#[derive(Default)]
pub(super) struct Views(OnceLock<Box<View>>);

struct View {
    api_version: Arc<str>,
    stored: Stored,
    next: Views,
}

impl Views {
    /// The form of a version, if it was made.
    pub(super) fn get(&self, api_version: &str) -> Option<&Stored> {
        let view = self.0.get()?;
        if *view.api_version == *api_version {
            Some(&view.stored)
        } else {
            view.next.get(api_version)
        }
    }

    /// Keeps the form of a version, and returns the one that is kept.
    pub(super) fn keep(&self, api_version: &Arc<str>, stored: Stored) -> &Stored {
        let mut views = self;
        loop {
            let view = views.0.get_or_init(|| {
                let (api_version, stored) = (api_version.clone(), stored.clone());
                Box::new(View { api_version, stored, next: Views::default() })
            });
            if view.api_version == *api_version {
                return &view.stored;
            }
            views = &view.next;
        }
    }
}

/// A copy begins without them.
impl Clone for Views {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl std::fmt::Debug for Views {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Views")
    }
}

impl CachedObject {
    /// The namespace; empty for cluster scope.
    pub(super) fn namespace(&self) -> &str {
        let path = &self.key[self.prefix_length as usize..];
        path.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The name.
    pub(super) fn name(&self) -> &str {
        let path = &self.key[self.prefix_length as usize..];
        path.split_once('/').map_or(path, |(_, name)| name)
    }

    /// The value of a selectable field; absent ones are empty, as in Kubernetes.
    pub(super) fn field(&self, field: &str) -> &str {
        match field {
            "metadata.name" => self.name(),
            "metadata.namespace" => self.namespace(),
            _ => {
                let found = self.facts.fields.iter().find(|(name, _)| *name == field);
                let more = || self.facts.more.iter().find(|(name, _)| **name == *field);
                found.map(|(_, value)| value).or_else(|| more().map(|(_, v)| v)).map_or("", |v| v)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(json: &'static str) -> Stored {
        Stored::new(Bytes::from_static(json.as_bytes())).unwrap()
    }

    #[track_caller]
    fn check(json: &'static str, object: &str, item: &str) {
        let stored = stored(json);
        let mut out = Vec::new();
        stored.write(7, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), object);
        let mut out = Vec::new();
        stored.write_item(7, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), item);
    }

    #[test]
    fn a_version_is_spliced_into_the_metadata() {
        check(
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{}}"#,
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"resourceVersion":"7","name":"a"},"spec":{}}"#,
            r#"{"metadata":{"resourceVersion":"7","name":"a"},"spec":{}}"#,
        );
    }

    #[test]
    fn metadata_is_moved_to_the_front() {
        check(
            "{\"apiVersion\":\"v1\",\"kind\":\"X\",\"data\":{\"k\":\"\\\"metadata\\\":{\"},\"metadata\":{}}\n",
            r#"{"apiVersion":"v1","kind":"X","metadata":{"resourceVersion":"7"},"data":{"k":"\"metadata\":{"}}"#,
            r#"{"metadata":{"resourceVersion":"7"},"data":{"k":"\"metadata\":{"}}"#,
        );
    }

    #[test]
    fn metadata_alone_ends_at_its_brace() {
        let stored =
            stored(r#"{"kind":"X","apiVersion":"v1","metadata":{"labels":{"a":"}"}},"z":1}"#);
        let metadata = String::from_utf8(stored.metadata(3).unwrap()).unwrap();
        assert_eq!(metadata, r#"{"resourceVersion":"3","labels":{"a":"}"}}"#);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for json in
            ["", "[]", "{}", "{\"kind\":\"X\"}", "null", "{\"apiVersion\":\"v1\"", "\"metadata\":{"]
        {
            assert!(Stored::new(Bytes::from_static(json.as_bytes())).is_none(), "{json}");
        }
    }
}
