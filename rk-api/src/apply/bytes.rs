//! Comparing encoded objects: an update mostly changes one part of an object, and only parts whose
//! bytes differ are looked into.

use std::borrow::Cow;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::{
    compare::Comparison,
    schema::{Schema, TypeRef},
    typed::TypeError,
};

/// Compares two encoded objects of a type, as [`Schema::compare`] does their trees.
///
/// # Errors
/// When an item of a list cannot be told apart from others. Bytes that are no object have no
/// fields.
pub fn compare_bytes(
    schema: &Schema,
    kind: TypeRef,
    old: &[u8],
    new: &[u8],
) -> Result<Comparison, TypeError> {
    let (old, new) = (Members::read(old), Members::read(new));
    let mut comparison = Comparison::default();
    let parse = |raw: Option<&RawValue>| {
        raw.map(|raw| serde_json::from_str::<Value>(raw.get()).unwrap_or_default())
    };
    for (name, raw) in &old.0 {
        let other = new.get(name);
        if other.is_none_or(|other| other.get() != raw.get()) {
            let (old, new) = (parse(Some(raw)), parse(other));
            schema.compare_field(kind, name, old.as_ref(), new.as_ref(), &mut comparison)?;
        }
    }
    for (name, raw) in &new.0 {
        if old.get(name).is_none() {
            let new = parse(Some(raw));
            schema.compare_field(kind, name, None, new.as_ref(), &mut comparison)?;
        }
    }
    Ok(comparison)
}

/// The members of an object, their values unread.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    fn read(json: &'a [u8]) -> Self {
        serde_json::from_slice(json).unwrap_or(Self(Vec::new()))
    }

    fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, raw)| *raw)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::with_capacity(8);
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}
