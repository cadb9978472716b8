//! fieldsV1, the JSON form of field sets: an object with a member for each path element, whose
//! value holds what is below; `"."` says that the field itself is in the set, and `{}` that only it
//! is.

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, Visitor},
};

use super::{path::PathElement, set::FieldSet};

impl FieldSet {
    /// Reads fieldsV1.
    ///
    /// # Errors
    /// When it is no JSON, or a member's name is no path element.
    pub fn from_json(json: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(json).map(|Node { set, .. }| set)
    }

    /// As fieldsV1.
    pub fn to_json(&self) -> String {
        let mut out = String::new();
        self.write_json(false, &mut out);
        out
    }

    /// Writes fieldsV1; `included` says that the field that the set is below is in the set too.
    pub(super) fn write_json(&self, included: bool, out: &mut String) {
        out.push('{');
        let mut first = true;
        let mut comma = |out: &mut String| {
            if !std::mem::take(&mut first) {
                out.push(',');
            }
        };
        if included && !self.is_empty() {
            comma(out);
            out.push_str("\".\":{}");
        }
        let (mut members, mut children) =
            (self.members.iter().peekable(), self.children.iter().peekable());
        loop {
            let member =
                members.next_if(|member| children.peek().is_none_or(|(child, _)| *member <= child));
            let child = children.next_if(|(child, _)| match member {
                Some(member) => member == child,
                None => true,
            });
            let Some(element) = member.or(child.map(|(element, _)| element)) else { break };
            comma(out);
            write_name(element, out);
            out.push(':');
            match child {
                Some((_, set)) => set.write_json(member.is_some(), out),
                None => out.push_str("{}"),
            }
        }
        out.push('}');
    }
}

/// A path element as a JSON string.
fn write_name(element: &PathElement, out: &mut String) {
    if let PathElement::Field(name) = element
        && !name.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\')
    {
        out.push_str("\"f:");
        out.push_str(name);
        out.push('"');
        return;
    }
    let mut name = String::new();
    element.write(&mut name);
    out.push_str(&serde_json::Value::from(name).to_string());
}

/// A set as it is read, and whether the field that it is below is in the set too.
struct Node {
    set: FieldSet,
    included: bool,
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Node;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node { set: FieldSet::default(), included: true })
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut node = Node { set: FieldSet::default(), included: false };
                while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                    if name == "." {
                        map.next_value::<IgnoredAny>()?;
                        node.included = true;
                        continue;
                    }
                    let Some(element) = PathElement::parse(&name).map_err(A::Error::custom)? else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    let below: Node = map.next_value()?;
                    if below.included {
                        node.set.add(element.clone());
                    }
                    node.set.add_below(&element, below.set);
                }
                node.included |= node.set.is_empty();
                Ok(node)
            }
        }
        deserializer.deserialize_any(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn round_trip(json: &str) {
        assert_eq!(FieldSet::from_json(json.as_bytes()).unwrap().to_json(), json);
    }

    #[test]
    fn sets_are_written_as_they_are_read() {
        round_trip("{}");
        round_trip(r#"{"f:data":{".":{},"f:a":{},"f:b":{}}}"#);
        round_trip(r#"{"f:ports":{"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:port":{}}}}"#);
        round_trip(r#"{"f:a":{"v:\"x\"":{}},"f:b":{"i:1":{"f:c":{}}}}"#);
    }

    #[test]
    fn members_may_come_in_any_order() {
        let set = FieldSet::from_json(br#"{"f:b":{},"f:a":{"f:d":{},"f:c":{},".":{}}}"#).unwrap();
        assert_eq!(set.to_json(), r#"{"f:a":{".":{},"f:c":{},"f:d":{}},"f:b":{}}"#);
    }

    #[test]
    fn unknown_kinds_of_elements_are_dropped() {
        let set = FieldSet::from_json(br#"{"f:a":{},"z:b":{"f:c":[1]}}"#).unwrap();
        assert_eq!(set.to_json(), r#"{"f:a":{}}"#);
    }

    #[test]
    fn other_json_is_refused() {
        for bad in ["", "1", "[]", r#"{"f:a":1}"#, r#"{"x":{}}"#, r#"{"f:a":{}"#] {
            assert!(FieldSet::from_json(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
