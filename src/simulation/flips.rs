//! Objects that are written back and forth.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use rk_store::Revision;
use serde_json::Value;

use super::view::Step;

/// Two writers disagree when an object goes back to what it just was so many times.
pub const FLIPS_MAX: u32 = 12;

/// How soon after the one before a change back counts.
const SOON: SignedDuration = SignedDuration::from_secs(30);

/// How often each object went from one content to another and straight back, without anything else
/// in between. Times in it do not count as content.
///
/// What counts Pods goes back and forth with them, so that a change has a cause when a Pod of the
/// namespace was written since the change before.
#[derive(Debug, Default)]
pub struct Flips {
    objects: BTreeMap<Arc<str>, Flip>,
    /// When a Pod of a namespace was last written.
    pods: BTreeMap<String, Revision>,
}

#[derive(Debug)]
struct Flip {
    now: u64,
    before: u64,
    times: u32,
    last: Timestamp,
    revision: Revision,
}

impl Flips {
    pub(super) fn note(&mut self, step: &Step) {
        let object = step.after.as_ref().or(step.before.as_ref());
        let namespace = object.and_then(|object| object.pointer("/metadata/namespace"));
        let namespace = namespace.and_then(Value::as_str).unwrap_or_default();
        if step.resource() == "pods" {
            self.pods.insert(namespace.to_owned(), step.revision);
        }
        let Some(after) = &step.after else {
            self.objects.remove(&step.key);
            return;
        };
        let (now, last, revision) = (content(after), step.at, step.revision);
        let Some(flip) = self.objects.get_mut(&step.key) else {
            let flip = Flip { now, before: now, times: 0, last, revision };
            self.objects.insert(step.key.clone(), flip);
            return;
        };
        if now == flip.now {
            return;
        }
        let caused = step.resource() != "pods"
            && self.pods.get(namespace).is_some_and(|pod| *pod > flip.revision);
        let back = now == flip.before && last.duration_since(flip.last) <= SOON;
        let times = if back && !caused { flip.times + 1 } else { 0 };
        *flip = Flip { before: flip.now, now, times, last, revision };
    }

    /// How often the object went back and forth by now.
    pub fn times(&self, key: &str) -> u32 {
        self.objects.get(key).map_or(0, |flip| flip.times)
    }
}

/// A number for all that an object says, but for times, versions and who wrote what.
fn content(object: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    hash(object, &mut hasher);
    hasher.finish()
}

fn hash(value: &Value, hasher: &mut DefaultHasher) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                if !matches!(name.as_str(), "managedFields" | "generation" | "observedGeneration") {
                    name.hash(hasher);
                    hash(member, hasher);
                }
            }
        }
        Value::Array(items) => {
            items.len().hash(hasher);
            items.iter().for_each(|item| hash(item, hasher));
        }
        Value::String(text) if is_time(text) => 0_u8.hash(hasher),
        Value::String(text) => text.hash(hasher),
        Value::Number(number) => number.to_string().hash(hasher),
        Value::Bool(truth) => truth.hash(hasher),
        Value::Null => 1_u8.hash(hasher),
    }
}

/// Whether a text is a time as the API writes it: `2026-01-01T00:00:00Z`.
fn is_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 20 && bytes[4] == b'-' && bytes[10] == b'T' && bytes.ends_with(b"Z")
}
