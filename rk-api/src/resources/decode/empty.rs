//! Optional lists and maps that are empty are not there: Go leaves them out when it encodes.
//!
//! To see whether a list is empty, its text is taken out and decoded by itself. That is only done
//! for a text that has an empty list or map somewhere.

use std::any::type_name;

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, Visitor},
};
use serde_json::value::RawValue;

use super::{Follow, Place};

/// How deep a text may go, as in serde_json.
const DEPTH_MAX: usize = 127;

/// Whether the text has an empty list or map, or looks as if it had.
pub(super) fn occurs(json: &[u8]) -> bool {
    json.iter().enumerate().any(|(at, byte)| {
        // One comparison for `]` and `}`, which differ in this bit: most bytes are neither.
        byte | 0x20 == b'}' && matches!(json[..at].trim_ascii_end().last(), Some(b'[' | b'{'))
    })
}

/// Whether a JSON text goes deeper than serde_json does. It counts by itself, but anew for each list
/// that is decoded by itself.
pub(super) fn is_too_deep(json: &[u8]) -> bool {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    json.iter().any(|byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => depth += 1,
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > DEPTH_MAX
    })
}

/// Whether `T` is an optional list or map.
pub(super) fn is_droppable<T>() -> bool {
    type_name::<T>().strip_prefix("core::option::Option<").is_some_and(|inner| {
        inner.starts_with("alloc::vec::Vec<") || inner.starts_with("alloc::collections::btree::map")
    })
}

/// Decodes an optional list or map, which is none if it is empty.
pub(super) fn none_if_empty<'de, D: Deserializer<'de>, V: Visitor<'de>>(
    inner: D,
    visitor: V,
    at: &Place<'_>,
) -> Result<V::Value, D::Error> {
    let text = <&RawValue>::deserialize(inner)?.get();
    if is_empty(text) {
        return visitor.visit_none();
    }
    serde_json::Deserializer::from_str(text)
        .deserialize_option(Follow { inner: visitor, at })
        .map_err(D::Error::custom)
}

/// Whether a JSON text is an empty list or map.
fn is_empty(text: &str) -> bool {
    let inside = |open, close| text.strip_prefix(open)?.strip_suffix(close);
    inside('[', ']').or_else(|| inside('{', '}')).is_some_and(|text| text.trim_ascii().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_as_deep_as_its_brackets() {
        let nested = |depth: usize| "[".repeat(depth) + "\"\\\"[{[\"" + &"]".repeat(depth);
        for depth in [0, 1, DEPTH_MAX, DEPTH_MAX + 1] {
            let parsed = serde_json::from_str::<serde_json::Value>(&nested(depth));
            assert_eq!(is_too_deep(nested(depth).as_bytes()), parsed.is_err(), "{depth}");
        }
    }

    #[test]
    fn only_lists_and_maps_that_may_be_left_out_are_droppable() {
        assert!(is_droppable::<Option<Vec<u8>>>());
        assert!(is_droppable::<Option<std::collections::BTreeMap<String, String>>>());
        assert!(!is_droppable::<Vec<u8>>());
        assert!(!is_droppable::<Option<String>>());
        assert!(is_empty("[]") && is_empty("{ \n}") && !is_empty("[0]") && !is_empty("\"[]\""));
        assert!(occurs(b"{\"a\": [ ] }") && occurs(b"{}") && !occurs(b"{\"a\":[1]}"));
    }
}
