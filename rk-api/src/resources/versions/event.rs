//! Event of events.k8s.io: the same objects as the core group's, with other names for fields.

use serde_json::Value;

use super::{Conversion, Rules, tree};
use crate::resources::event::NEW_FIELDS;
pub(super) use crate::resources::event::NEW_RULES;

/// What a field is called there, and in the core group.
const NAMES: &[(&str, &str)] = &[
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// events.k8s.io, both versions.
pub(super) const NEW: Conversion = Conversion { read, write };

/// v1beta1 is judged like the core group's.
pub(super) const OLD_RULES: Rules =
    Rules { fields: NEW_FIELDS, judge: None, judge_change: None, tolerates: |_| false };

fn read(event: &mut Value, unknown: &mut Vec<String>) {
    let Some(event) = event.as_object_mut() else { return };
    for (_, core) in NAMES {
        tree::refuse(event, core, "", unknown);
    }
    for (new, core) in NAMES {
        if let Some(value) = event.remove(*new) {
            event.insert((*core).to_owned(), value);
        }
    }
}

fn write(event: &mut Value) {
    let Some(event) = event.as_object_mut() else { return };
    for (new, core) in NAMES {
        if let Some(value) = event.remove(*core) {
            event.insert((*new).to_owned(), value);
        }
    }
}
