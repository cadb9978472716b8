//! Objects that are written back and forth.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::view::Step;

/// Two writers disagree when an object goes back to what it just was so many times.
pub const FLIPS_MAX: u32 = 12;

/// How soon after the one before a change back counts.
const SOON: SignedDuration = SignedDuration::from_secs(30);

/// How often each object went from one content to another and straight back, without anything else
/// in between. Times in it do not count as content.
#[derive(Debug, Default)]
pub struct Flips(BTreeMap<Arc<str>, Flip>);

#[derive(Debug)]
struct Flip {
    now: u64,
    before: u64,
    times: u32,
    last: Timestamp,
}

impl Flips {
    pub(super) fn note(&mut self, step: &Step) {
        let Some(after) = &step.after else {
            self.0.remove(&step.key);
            return;
        };
        let content = content(after);
        let Some(flip) = self.0.get_mut(&step.key) else {
            let flip = Flip { now: content, before: content, times: 0, last: step.at };
            self.0.insert(step.key.clone(), flip);
            return;
        };
        if content == flip.now {
            return;
        }
        let back = content == flip.before && step.at.duration_since(flip.last) <= SOON;
        flip.times = if back { flip.times + 1 } else { 0 };
        flip.before = std::mem::replace(&mut flip.now, content);
        flip.last = step.at;
    }

    /// How often the object went back and forth by now.
    pub fn times(&self, key: &str) -> u32 {
        self.0.get(key).map_or(0, |flip| flip.times)
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
