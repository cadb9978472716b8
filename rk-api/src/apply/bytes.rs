//! The hot path: ownership straight from encoded objects.
//!
//! A create owns all that it sets, so its fieldsV1 is the object's own structure: it is written in
//! one pass over the bytes, without a tree. An update mostly changes one part of an object; only
//! parts whose bytes differ are looked into.

use std::{borrow::Cow, cmp::Ordering};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};
use smallvec::SmallVec;

use super::{
    compare::Comparison,
    managers::STRIPPED_METADATA,
    schema::{Key, List, ListKind, Object, Schema, Shape, TypeRef},
    set::FieldSet,
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

/// What the creator of an object owns, as fieldsV1: all of it, but not the members of the object in
/// `excluded` and not what the server alone sets.
///
/// `json` is the object as our encoder writes it: without white space, members of structs in
/// alphabetical order. `None` when something about it is unusual, such as a key with escapes; the
/// answer is then to be had from [`Schema::compare`] with an empty object.
pub fn owned_by_creator(
    schema: &Schema,
    kind: TypeRef,
    json: &[u8],
    excluded: &FieldSet,
) -> Option<Vec<u8>> {
    if !excluded.children.is_empty() {
        return None;
    }
    let mut writer = Writer { schema, json, at: 0, out: Vec::with_capacity(json.len() / 2) };
    let Shape::Object(object) = schema.shape(kind) else { return None };
    let excluded = |name: &[u8]| {
        excluded.members.iter().any(|element| {
            matches!(element, super::PathElement::Field(field) if field.as_bytes() == name)
        })
    };
    writer.expect(b'{')?;
    writer.out.push(b'{');
    let mut first = true;
    // The type comes before everything else: the root is not in alphabetical order.
    loop {
        let name = writer.name()?;
        if matches!(name, b"apiVersion" | b"kind") || excluded(name) {
            writer.skip()?;
        } else if name == b"metadata" {
            writer.metadata(object, &mut first)?;
        } else {
            let field = object.field(std::str::from_utf8(name).ok()?)?;
            writer.member(name, Some(field.kind), field.zero.as_ref(), &mut first)?;
        }
        match writer.next()? {
            b',' => {}
            b'}' => break,
            _ => return None,
        }
    }
    writer.out.push(b'}');
    Some(writer.out)
}

/// Reads an object and writes its fields.
struct Writer<'a> {
    schema: &'a Schema,
    json: &'a [u8],
    at: usize,
    out: Vec<u8>,
}

/// A key field's value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum KeyValue<'a> {
    Number(i64),
    Text(&'a [u8]),
    Flag(bool),
}

/// The key fields of an item, sorted by name.
type ItemKey<'a> = SmallVec<[(&'a str, KeyValue<'a>); 3]>;

/// An item: its key, and where it begins and ends.
type Item<'a> = (ItemKey<'a>, usize, usize);

impl<'a> Writer<'a> {
    // === reading ===

    fn peek(&self) -> Option<u8> {
        self.json.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    /// A string without escapes.
    fn text(&mut self) -> Option<&'a [u8]> {
        self.expect(b'"')?;
        let rest = self.json.get(self.at..)?;
        let length = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
        self.at += length + 1;
        (rest[length] == b'"').then(|| &rest[..length])
    }

    /// A member's name and its colon.
    fn name(&mut self) -> Option<&'a [u8]> {
        let name = self.text()?;
        self.expect(b':')?;
        Some(name)
    }

    /// Passes over a value.
    fn skip(&mut self) -> Option<()> {
        let mut depth = 0usize;
        loop {
            match self.peek()? {
                b'"' => self.skip_text()?,
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                    continue;
                }
                b'}' | b']' if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                b',' | b':' if depth > 0 => {
                    self.at += 1;
                    continue;
                }
                b',' | b':' | b'}' | b']' => return None,
                _ => {
                    let rest = &self.json[self.at..];
                    let end = |byte: &u8| matches!(byte, b',' | b'}' | b']');
                    self.at += rest.iter().position(end).unwrap_or(rest.len());
                }
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    fn skip_text(&mut self) -> Option<()> {
        self.at += 1;
        loop {
            let rest = self.json.get(self.at..)?;
            let length = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
            if rest[length] == b'"' {
                self.at += length + 1;
                return Some(());
            }
            self.at += length + 2;
        }
    }

    // === writing ===

    fn comma(&mut self, first: &mut bool) {
        if !std::mem::take(first) {
            self.out.push(b',');
        }
    }

    fn metadata(&mut self, root: &Object, first: &mut bool) -> Option<()> {
        let Shape::Object(object) = self.schema.shape(root.field("metadata")?.kind) else {
            return None;
        };
        self.expect(b'{')?;
        let start = self.out.len();
        let was_first = *first;
        self.comma(first);
        self.out.extend_from_slice(b"\"f:metadata\":{");
        let mut nothing = true;
        if self.peek()? == b'}' {
            self.at += 1;
        } else {
            let mut last: &[u8] = b"";
            loop {
                let name = self.name()?;
                if name <= last {
                    return None;
                }
                last = name;
                let stripped = STRIPPED_METADATA.iter().any(|each| each.as_bytes() == name);
                if stripped {
                    self.skip()?;
                } else {
                    let field = object.field(std::str::from_utf8(name).ok()?)?;
                    self.member(name, Some(field.kind), field.zero.as_ref(), &mut nothing)?;
                }
                match self.next()? {
                    b',' => {}
                    b'}' => break,
                    _ => return None,
                }
            }
        }
        if nothing {
            self.out.truncate(start);
            *first = was_first;
        } else {
            self.out.push(b'}');
        }
        Some(())
    }

    /// A member whose name has been read.
    fn member(
        &mut self,
        name: &[u8],
        kind: Option<TypeRef>,
        zero: Option<&Value>,
        first: &mut bool,
    ) -> Option<()> {
        let start = self.out.len();
        let was_first = *first;
        self.comma(first);
        self.out.extend_from_slice(b"\"f:");
        self.out.extend_from_slice(name);
        self.out.extend_from_slice(b"\":");
        let written = match kind {
            Some(kind) => self.value(kind, zero)?,
            None => self.leaf(None)?,
        };
        if !written {
            self.out.truncate(start);
            *first = was_first;
        }
        Some(())
    }

    /// A value and what is owned of it; false when that is nothing. `zero` is what there was.
    fn value(&mut self, kind: TypeRef, zero: Option<&Value>) -> Option<bool> {
        let opening = self.peek()?;
        let is_empty = matches!(self.json.get(self.at + 1), Some(b'}' | b']'));
        match self.schema.shape(kind) {
            Shape::Object(object) if !object.atomic && opening == b'{' && !is_empty => {
                self.object(Some(object), kind, zero)
            }
            Shape::Any if opening == b'{' && !is_empty => self.object(None, kind, zero),
            Shape::List(list)
                if opening == b'[' && !is_empty && !matches!(list.kind, ListKind::Atomic) =>
            {
                self.list(list, zero.is_none())
            }
            _ => self.leaf(zero),
        }
    }

    fn leaf(&mut self, zero: Option<&Value>) -> Option<bool> {
        let start = self.at;
        self.skip()?;
        let raw = &self.json[start..self.at];
        let unchanged = match zero {
            None => false,
            Some(Value::Null) => raw == b"null",
            Some(Value::Bool(_)) => raw == b"false",
            Some(Value::Number(_)) => raw == b"0",
            Some(Value::String(_)) => raw == b"\"\"",
            Some(Value::Array(_)) => raw == b"[]",
            Some(Value::Object(_)) => raw == b"{}",
        };
        if !unchanged {
            self.out.extend_from_slice(b"{}");
        }
        Some(!unchanged)
    }

    /// An object with members: a struct or a map when `object` is given, else anything.
    fn object(
        &mut self,
        object: Option<&'a Object>,
        kind: TypeRef,
        zero: Option<&Value>,
    ) -> Option<bool> {
        self.expect(b'{')?;
        self.out.push(b'{');
        let mut first = true;
        if zero.is_none() {
            self.comma(&mut first);
            self.out.extend_from_slice(b"\".\":{}");
        }
        let fields = object.map_or(&[][..], |object| &object.fields);
        let (mut field_at, mut last): (usize, Option<&[u8]>) = (0, None);
        loop {
            let name = self.name()?;
            if last.is_some_and(|last| name <= last) {
                return None;
            }
            last = Some(name);
            // Both are sorted: the field is this one or comes later.
            while fields.get(field_at).is_some_and(|field| field.name.as_bytes() < name) {
                field_at += 1;
            }
            let field = fields.get(field_at).filter(|field| field.name.as_bytes() == name);
            let step = match (field, object) {
                (Some(field), _) => Some(field.kind),
                (None, Some(object)) => object.rest,
                (None, None) => Some(kind),
            };
            let was = zero.and(field).and_then(|field| field.zero.as_ref());
            self.member(name, step, was, &mut first)?;
            match self.next()? {
                b',' => {}
                b'}' => break,
                _ => return None,
            }
        }
        self.out.push(b'}');
        Some(!first)
    }

    /// A set or a list of objects with keys, not empty.
    fn list(&mut self, list: &'a List, added: bool) -> Option<bool> {
        self.expect(b'[')?;
        let mut items: SmallVec<[Item<'a>; 4]> = SmallVec::new();
        loop {
            let start = self.at;
            let key = match &list.kind {
                ListKind::Map(keys) => self.item_key(keys)?,
                _ => {
                    let value = self.key_value()?;
                    std::iter::once(("", value)).collect()
                }
            };
            items.push((key, start, self.at));
            match self.next()? {
                b',' => {}
                b']' => break,
                _ => return None,
            }
        }
        let end = self.at;
        let order = |a: &Item<'a>, b: &Item<'a>| a.0.cmp(&b.0);
        if !items.is_sorted_by(|a, b| order(a, b).is_lt()) {
            items.sort_by(order);
            if items.windows(2).any(|pair| order(&pair[0], &pair[1]) == Ordering::Equal) {
                return None;
            }
        }
        self.out.push(b'{');
        let mut first = true;
        if added {
            self.comma(&mut first);
            self.out.extend_from_slice(b"\".\":{}");
        }
        for (key, start, item_end) in &items {
            self.comma(&mut first);
            if matches!(list.kind, ListKind::Set) {
                self.out.extend_from_slice(b"\"v:");
                self.write_key_value(key.first()?.1);
                self.out.extend_from_slice(b"\":{}");
                continue;
            }
            self.write_key(key);
            self.at = *start;
            if !self.value(list.items, None)? || self.at != *item_end {
                return None;
            }
        }
        self.out.push(b'}');
        self.at = end;
        Some(true)
    }

    /// The key of an item; its end is where reading goes on.
    fn item_key(&mut self, keys: &'a [Key]) -> Option<ItemKey<'a>> {
        let mut found = ItemKey::new();
        self.expect(b'{')?;
        if self.peek()? == b'}' {
            return None;
        }
        loop {
            let name = self.name()?;
            match keys.iter().find(|key| key.name.as_bytes() == name) {
                Some(key) => {
                    let value = self.key_value()?;
                    found.push((&key.name, value));
                }
                None => self.skip()?,
            }
            match self.next()? {
                b',' => {}
                b'}' => break,
                _ => return None,
            }
        }
        for key in keys {
            if let Some(Value::String(default)) = &key.default
                && !found.iter().any(|(name, _)| **name == *key.name)
            {
                found.push((&key.name, KeyValue::Text(default.as_bytes())));
            }
        }
        if found.is_empty() || found.iter().zip(found.iter().skip(1)).any(|(a, b)| a.0 == b.0) {
            return None;
        }
        found.sort_unstable_by(|a, b| a.0.cmp(b.0));
        Some(found)
    }

    fn key_value(&mut self) -> Option<KeyValue<'a>> {
        match self.peek()? {
            b'"' => self.text().map(KeyValue::Text),
            b't' | b'f' => {
                let start = self.at;
                self.skip()?;
                Some(KeyValue::Flag(self.json.get(start) == Some(&b't')))
            }
            b'-' | b'0'..=b'9' => {
                let start = self.at;
                self.skip()?;
                let text = std::str::from_utf8(&self.json[start..self.at]).ok()?;
                text.parse().ok().map(KeyValue::Number)
            }
            _ => None,
        }
    }

    fn write_key(&mut self, key: &ItemKey<'_>) {
        self.out.extend_from_slice(b"\"k:{");
        for (at, (name, value)) in key.iter().enumerate() {
            if at > 0 {
                self.out.push(b',');
            }
            self.out.extend_from_slice(b"\\\"");
            self.out.extend_from_slice(name.as_bytes());
            self.out.extend_from_slice(b"\\\":");
            self.write_key_value(*value);
        }
        self.out.extend_from_slice(b"}\":");
    }

    /// A value inside a string.
    fn write_key_value(&mut self, value: KeyValue<'_>) {
        match value {
            KeyValue::Number(number) => {
                self.out.extend_from_slice(number.to_string().as_bytes());
            }
            KeyValue::Flag(flag) => {
                self.out.extend_from_slice(if flag { b"true" } else { b"false" });
            }
            KeyValue::Text(text) => {
                self.out.extend_from_slice(b"\\\"");
                self.out.extend_from_slice(text);
                self.out.extend_from_slice(b"\\\"");
            }
        }
    }
}
