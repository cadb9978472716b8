//! What the creator of an object owns.
//!
//! It is the object's own structure, so it is written while the object is walked, by a serde
//! serializer that writes names and no values. Creating objects is the busiest thing a server does.

use std::fmt;

use serde::{
    Serialize, Serializer,
    ser::{self, Impossible},
};
use serde_json::Value;
use smallvec::SmallVec;

use super::{
    managers::STRIPPED_METADATA,
    path::PathElement,
    schema::{Key, List, ListKind, Object, Schema, Shape, TypeRef},
    set::FieldSet,
};

/// What the creator of an object owns, as fieldsV1: all of it, but not the members of the object in
/// `excluded` and not what the server alone sets.
///
/// `None` when something about the object is unusual: names that need escapes, members out of
/// order, items that are the same. The answer is then to be had from [`Schema::compare`] with an
/// empty object.
pub fn owned_by_creator<T: Serialize + ?Sized>(
    schema: &Schema,
    kind: TypeRef,
    object: &T,
    excluded: &FieldSet,
) -> Option<Vec<u8>> {
    if !excluded.children.is_empty() || !matches!(schema.shape(kind), Shape::Object(_)) {
        return None;
    }
    let mut writer = Writer { schema, excluded, out: Vec::with_capacity(1024) };
    let walk = Walk { writer: &mut writer, kind: Some(kind), was: Was::Root, keys: None };
    let written = object.serialize(walk).ok()?;
    if !written {
        writer.out.extend_from_slice(b"{}");
    }
    Some(writer.out)
}

struct Writer<'s> {
    schema: &'s Schema,
    excluded: &'s FieldSet,
    out: Vec<u8>,
}

/// What there was in the place of a value before the create.
#[derive(Clone, Copy)]
enum Was<'s> {
    /// Nothing.
    Absent,
    /// What an embedded struct or a required field has.
    Zero(&'s Value),
    /// The empty object as a whole.
    Root,
    /// The metadata of the empty object.
    Metadata,
}

impl<'s> Was<'s> {
    /// Whether an object or list that is there now was not there before.
    fn is_absent(self) -> bool {
        matches!(self, Self::Absent)
    }

    fn is(self, same: impl Fn(&'s Value) -> bool) -> bool {
        match self {
            Self::Absent => false,
            Self::Zero(value) => same(value),
            Self::Root | Self::Metadata => true,
        }
    }
}

/// The key fields of a list item, as they are found.
type ItemKey<'s> = SmallVec<[(&'s str, KeyValue); 3]>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum KeyValue {
    Number(i64),
    Text(String),
    Flag(bool),
}

/// Something that cannot be written this way.
#[derive(Debug)]
struct Unusual;

impl fmt::Display for Unusual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unusual")
    }
}

impl std::error::Error for Unusual {}

impl ser::Error for Unusual {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

/// Text that stands in a JSON string as it is.
fn plain(text: &str) -> Result<&[u8], Unusual> {
    let bytes = text.as_bytes();
    let plain = |byte: &u8| *byte >= b' ' && *byte != b'"' && *byte != b'\\';
    if bytes.iter().all(plain) { Ok(bytes) } else { Err(Unusual) }
}

/// Writes what is owned of one value; the result says whether that is anything.
struct Walk<'w, 's> {
    writer: &'w mut Writer<'s>,
    /// The type; `None` for what the schema does not know.
    kind: Option<TypeRef>,
    was: Was<'s>,
    /// The keys to look for, when this is a list item, and where to put them.
    keys: Option<(&'s [Key], &'w mut ItemKey<'s>)>,
}

impl<'s> Walk<'_, 's> {
    fn leaf(self, same: impl Fn(&'s Value) -> bool) -> Result<bool, Unusual> {
        if self.was.is(same) {
            return Ok(false);
        }
        self.writer.out.extend_from_slice(b"{}");
        Ok(true)
    }

    fn number(self, is_zero: bool) -> Result<bool, Unusual> {
        self.leaf(|zero| zero.is_number() && is_zero)
    }
}

impl<'w, 's> Serializer for Walk<'w, 's> {
    type Ok = bool;
    type Error = Unusual;
    type SerializeSeq = Items<'w, 's>;
    type SerializeTuple = Items<'w, 's>;
    type SerializeTupleStruct = Impossible<bool, Unusual>;
    type SerializeTupleVariant = Impossible<bool, Unusual>;
    type SerializeMap = Members<'w, 's>;
    type SerializeStruct = Members<'w, 's>;
    type SerializeStructVariant = Impossible<bool, Unusual>;

    fn serialize_bool(self, value: bool) -> Result<bool, Unusual> {
        self.leaf(|zero| zero.is_boolean() && !value)
    }
    fn serialize_i8(self, value: i8) -> Result<bool, Unusual> {
        self.number(value == 0)
    }
    fn serialize_i16(self, value: i16) -> Result<bool, Unusual> {
        self.number(value == 0)
    }
    fn serialize_i32(self, value: i32) -> Result<bool, Unusual> {
        self.number(value == 0)
    }
    fn serialize_i64(self, value: i64) -> Result<bool, Unusual> {
        self.number(value == 0)
    }
    fn serialize_u8(self, value: u8) -> Result<bool, Unusual> {
        self.number(value == 0)
    }
    fn serialize_u16(self, value: u16) -> Result<bool, Unusual> {
        self.number(value == 0)
    }
    fn serialize_u32(self, value: u32) -> Result<bool, Unusual> {
        self.number(value == 0)
    }
    fn serialize_u64(self, value: u64) -> Result<bool, Unusual> {
        self.number(value == 0)
    }
    fn serialize_f32(self, value: f32) -> Result<bool, Unusual> {
        self.number(value == 0.0)
    }
    fn serialize_f64(self, value: f64) -> Result<bool, Unusual> {
        self.number(value == 0.0)
    }
    fn serialize_char(self, _: char) -> Result<bool, Unusual> {
        self.leaf(|_| false)
    }
    fn serialize_str(self, value: &str) -> Result<bool, Unusual> {
        self.leaf(|zero| zero.is_string() && value.is_empty())
    }
    fn serialize_bytes(self, _: &[u8]) -> Result<bool, Unusual> {
        Err(Unusual)
    }
    fn serialize_none(self) -> Result<bool, Unusual> {
        self.leaf(Value::is_null)
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<bool, Unusual> {
        value.serialize(self)
    }
    fn serialize_unit(self) -> Result<bool, Unusual> {
        self.serialize_none()
    }
    fn serialize_unit_struct(self, _: &'static str) -> Result<bool, Unusual> {
        self.serialize_none()
    }
    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
    ) -> Result<bool, Unusual> {
        self.serialize_str(name)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<bool, Unusual> {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<bool, Unusual> {
        Err(Unusual)
    }
    fn collect_str<T: fmt::Display + ?Sized>(self, _: &T) -> Result<bool, Unusual> {
        // What is made for the purpose is never empty: times, bytes that there are.
        self.leaf(|_| false)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Items<'w, 's>, Unusual> {
        let list = match self.kind.map(|kind| self.writer.schema.shape(kind)) {
            Some(Shape::List(list)) if !matches!(list.kind, ListKind::Atomic) => Some(list),
            _ => None,
        };
        let start = self.writer.out.len();
        if list.is_some() {
            self.writer.out.push(b'{');
            if self.was.is_absent() {
                self.writer.out.extend_from_slice(b"\".\":{}");
            }
        }
        let (writer, was) = (self.writer, self.was);
        Ok(Items { writer, was, list, start, count: 0, items: SmallVec::new() })
    }
    fn serialize_tuple(self, length: usize) -> Result<Items<'w, 's>, Unusual> {
        self.serialize_seq(Some(length))
    }
    fn serialize_tuple_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleStruct, Unusual> {
        Err(Unusual)
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Unusual> {
        Err(Unusual)
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Members<'w, 's>, Unusual> {
        let (object, kind) = match self.kind.map(|kind| (self.writer.schema.shape(kind), kind)) {
            Some((Shape::Object(object), _)) if !object.atomic => (Some(object), None),
            Some((Shape::Any, kind)) => (None, Some(kind)),
            _ => (None, None),
        };
        let is_leaf = object.is_none() && kind.is_none();
        let start = self.writer.out.len();
        let mut first = true;
        if !is_leaf {
            self.writer.out.push(b'{');
            if self.was.is_absent() {
                self.writer.out.extend_from_slice(b"\".\":{}");
                first = false;
            }
        }
        Ok(Members {
            writer: self.writer,
            was: self.was,
            keys: self.keys,
            object,
            any: kind,
            is_leaf,
            start,
            first,
            count: 0,
            field_at: 0,
            last: SmallVec::new(),
            name: None,
        })
    }
    fn serialize_struct(self, _: &'static str, length: usize) -> Result<Members<'w, 's>, Unusual> {
        self.serialize_map(Some(length))
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Unusual> {
        Err(Unusual)
    }
}

/// The members of an object.
struct Members<'w, 's> {
    writer: &'w mut Writer<'s>,
    was: Was<'s>,
    keys: Option<(&'s [Key], &'w mut ItemKey<'s>)>,
    object: Option<&'s Object>,
    any: Option<TypeRef>,
    is_leaf: bool,
    start: usize,
    first: bool,
    count: usize,
    /// Fields and members are both sorted: the next field is here or later.
    field_at: usize,
    last: SmallVec<[u8; 32]>,
    name: Option<String>,
}

impl<'s> Members<'_, 's> {
    fn member<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), Unusual> {
        self.count += 1;
        if self.is_leaf {
            return Ok(());
        }
        let bytes = plain(name)?;
        match self.was {
            Was::Root => {
                let excluded = |element: &PathElement| matches!(element, PathElement::Field(field) if **field == *name);
                let excluded = self.writer.excluded.members.iter().any(excluded);
                if matches!(name, "apiVersion" | "kind") || excluded {
                    return Ok(());
                }
            }
            Was::Metadata if STRIPPED_METADATA.binary_search(&name).is_ok() => return Ok(()),
            _ => {}
        }
        if !self.last.is_empty() && *bytes <= *self.last {
            return Err(Unusual);
        }
        self.last.clear();
        self.last.extend_from_slice(bytes);
        if let Some((keys, found)) = &mut self.keys
            && let Some(key) = keys.iter().find(|key| *key.name == *name)
        {
            found.push((&key.name, value.serialize(ReadKey)?));
        }
        let (kind, was) = self.step(name);
        let start = self.writer.out.len();
        if !self.first {
            self.writer.out.push(b',');
        }
        self.writer.out.extend_from_slice(b"\"f:");
        self.writer.out.extend_from_slice(bytes);
        self.writer.out.extend_from_slice(b"\":");
        let walk = Walk { writer: self.writer, kind, was, keys: None };
        if value.serialize(walk)? {
            self.first = false;
        } else {
            self.writer.out.truncate(start);
        }
        Ok(())
    }

    /// What a member holds, and what it was.
    fn step(&mut self, name: &str) -> (Option<TypeRef>, Was<'s>) {
        let Some(object) = self.object else { return (self.any, Was::Absent) };
        while object.fields.get(self.field_at).is_some_and(|field| *field.name < *name) {
            self.field_at += 1;
        }
        let field = object.fields.get(self.field_at).filter(|field| *field.name == *name);
        let Some(field) = field else { return (object.rest, Was::Absent) };
        let was = match (&field.zero, self.was) {
            (Some(_), Was::Root) if name == "metadata" => Was::Metadata,
            (Some(zero), was) if !was.is_absent() => Was::Zero(zero),
            _ => Was::Absent,
        };
        (Some(field.kind), was)
    }

    fn finish(self) -> Result<bool, Unusual> {
        let out = &mut self.writer.out;
        if self.is_leaf || self.count == 0 {
            out.truncate(self.start);
            let unchanged = self.count == 0 && self.was.is(|zero| zero.is_object());
            if !unchanged {
                out.extend_from_slice(b"{}");
            }
            return Ok(!unchanged);
        }
        out.push(b'}');
        Ok(!self.first)
    }
}

impl ser::SerializeStruct for Members<'_, '_> {
    type Ok = bool;
    type Error = Unusual;
    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Unusual> {
        self.member(name, value)
    }
    fn end(self) -> Result<bool, Unusual> {
        self.finish()
    }
}

impl ser::SerializeMap for Members<'_, '_> {
    type Ok = bool;
    type Error = Unusual;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Unusual> {
        match key.serialize(ReadKey)? {
            KeyValue::Text(name) => self.name = Some(name),
            KeyValue::Number(_) | KeyValue::Flag(_) => return Err(Unusual),
        }
        Ok(())
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unusual> {
        let name = self.name.take().ok_or(Unusual)?;
        self.member(&name, value)
    }
    fn end(self) -> Result<bool, Unusual> {
        self.finish()
    }
}

/// The items of a list.
struct Items<'w, 's> {
    writer: &'w mut Writer<'s>,
    was: Was<'s>,
    /// `None` for a list that is one value.
    list: Option<&'s List>,
    start: usize,
    count: usize,
    /// The items' keys, and where they are written.
    items: SmallVec<[(ItemKey<'s>, usize, usize); 4]>,
}

impl Items<'_, '_> {
    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unusual> {
        self.count += 1;
        let Some(list) = self.list else { return Ok(()) };
        if self.count > 1 || self.was.is_absent() {
            self.writer.out.push(b',');
        }
        let start = self.writer.out.len();
        let mut key = ItemKey::new();
        match &list.kind {
            ListKind::Map(keys) => {
                let walk = Walk {
                    writer: &mut *self.writer,
                    kind: Some(list.items),
                    was: Was::Absent,
                    keys: Some((keys, &mut key)),
                };
                if !value.serialize(walk)? {
                    return Err(Unusual);
                }
                complete(keys, &mut key)?;
                // The name comes before what it names, and is known after it.
                let named = self.writer.out.len();
                write_key(&key, &mut self.writer.out);
                let length = self.writer.out.len() - named;
                self.writer.out[start..].rotate_right(length);
            }
            _ => {
                let value = value.serialize(ReadKey)?;
                self.writer.out.extend_from_slice(b"\"v:");
                write_key_value(&value, &mut self.writer.out);
                self.writer.out.extend_from_slice(b"\":{}");
                key.push(("", value));
            }
        }
        let end = self.writer.out.len();
        self.items.push((key, start, end));
        Ok(())
    }

    fn finish(mut self) -> Result<bool, Unusual> {
        let out = &mut self.writer.out;
        if self.list.is_none() || self.count == 0 {
            out.truncate(self.start);
            let unchanged = self.count == 0 && self.was.is(|zero| zero.is_array());
            if !unchanged {
                out.extend_from_slice(b"{}");
            }
            return Ok(!unchanged);
        }
        if !self.items.is_sorted_by(|a, b| a.0 < b.0) {
            let from = self.items[0].1;
            self.items.sort_by(|a, b| a.0.cmp(&b.0));
            if self.items.windows(2).any(|pair| pair[0].0 == pair[1].0) {
                return Err(Unusual);
            }
            let written = out.split_off(from);
            for (at, (_, start, end)) in self.items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(&written[start - from..end - from]);
            }
        }
        out.push(b'}');
        Ok(true)
    }
}

impl ser::SerializeSeq for Items<'_, '_> {
    type Ok = bool;
    type Error = Unusual;
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unusual> {
        self.item(value)
    }
    fn end(self) -> Result<bool, Unusual> {
        self.finish()
    }
}

impl ser::SerializeTuple for Items<'_, '_> {
    type Ok = bool;
    type Error = Unusual;
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unusual> {
        self.item(value)
    }
    fn end(self) -> Result<bool, Unusual> {
        self.finish()
    }
}

/// Adds the defaults of keys that an item leaves out.
fn complete<'s>(keys: &'s [Key], found: &mut ItemKey<'s>) -> Result<(), Unusual> {
    for key in keys {
        if let Some(Value::String(default)) = &key.default
            && !found.iter().any(|(name, _)| **name == *key.name)
        {
            found.push((&key.name, KeyValue::Text(default.clone())));
        }
    }
    if found.is_empty() {
        return Err(Unusual);
    }
    found.sort_unstable_by(|a, b| a.0.cmp(b.0));
    Ok(())
}

fn write_key(key: &ItemKey<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\"k:{");
    for (at, (name, value)) in key.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"\\\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\\\":");
        write_key_value(value, out);
    }
    out.extend_from_slice(b"}\":");
}

/// A value inside a string.
fn write_key_value(value: &KeyValue, out: &mut Vec<u8>) {
    match value {
        KeyValue::Number(number) => out.extend_from_slice(number.to_string().as_bytes()),
        KeyValue::Flag(flag) => out.extend_from_slice(if *flag { b"true" } else { b"false" }),
        KeyValue::Text(text) => {
            out.extend_from_slice(b"\\\"");
            out.extend_from_slice(text.as_bytes());
            out.extend_from_slice(b"\\\"");
        }
    }
}

/// Reads a scalar.
struct ReadKey;

impl Serializer for ReadKey {
    type Ok = KeyValue;
    type Error = Unusual;
    type SerializeSeq = Impossible<KeyValue, Unusual>;
    type SerializeTuple = Impossible<KeyValue, Unusual>;
    type SerializeTupleStruct = Impossible<KeyValue, Unusual>;
    type SerializeTupleVariant = Impossible<KeyValue, Unusual>;
    type SerializeMap = Impossible<KeyValue, Unusual>;
    type SerializeStruct = Impossible<KeyValue, Unusual>;
    type SerializeStructVariant = Impossible<KeyValue, Unusual>;

    fn serialize_bool(self, value: bool) -> Result<KeyValue, Unusual> {
        Ok(KeyValue::Flag(value))
    }
    fn serialize_i8(self, value: i8) -> Result<KeyValue, Unusual> {
        Ok(KeyValue::Number(value.into()))
    }
    fn serialize_i16(self, value: i16) -> Result<KeyValue, Unusual> {
        Ok(KeyValue::Number(value.into()))
    }
    fn serialize_i32(self, value: i32) -> Result<KeyValue, Unusual> {
        Ok(KeyValue::Number(value.into()))
    }
    fn serialize_i64(self, value: i64) -> Result<KeyValue, Unusual> {
        Ok(KeyValue::Number(value))
    }
    fn serialize_u8(self, value: u8) -> Result<KeyValue, Unusual> {
        Ok(KeyValue::Number(value.into()))
    }
    fn serialize_u16(self, value: u16) -> Result<KeyValue, Unusual> {
        Ok(KeyValue::Number(value.into()))
    }
    fn serialize_u32(self, value: u32) -> Result<KeyValue, Unusual> {
        Ok(KeyValue::Number(value.into()))
    }
    fn serialize_u64(self, value: u64) -> Result<KeyValue, Unusual> {
        value.try_into().map(KeyValue::Number).map_err(|_| Unusual)
    }
    fn serialize_f32(self, _: f32) -> Result<KeyValue, Unusual> {
        Err(Unusual)
    }
    fn serialize_f64(self, _: f64) -> Result<KeyValue, Unusual> {
        Err(Unusual)
    }
    fn serialize_char(self, _: char) -> Result<KeyValue, Unusual> {
        Err(Unusual)
    }
    fn serialize_str(self, value: &str) -> Result<KeyValue, Unusual> {
        plain(value)?;
        Ok(KeyValue::Text(value.to_owned()))
    }
    fn serialize_bytes(self, _: &[u8]) -> Result<KeyValue, Unusual> {
        Err(Unusual)
    }
    fn serialize_none(self) -> Result<KeyValue, Unusual> {
        Err(Unusual)
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<KeyValue, Unusual> {
        value.serialize(self)
    }
    fn serialize_unit(self) -> Result<KeyValue, Unusual> {
        Err(Unusual)
    }
    fn serialize_unit_struct(self, _: &'static str) -> Result<KeyValue, Unusual> {
        Err(Unusual)
    }
    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
    ) -> Result<KeyValue, Unusual> {
        Err(Unusual)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<KeyValue, Unusual> {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<KeyValue, Unusual> {
        Err(Unusual)
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, Unusual> {
        Err(Unusual)
    }
    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Unusual> {
        Err(Unusual)
    }
    fn serialize_tuple_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleStruct, Unusual> {
        Err(Unusual)
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Unusual> {
        Err(Unusual)
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Unusual> {
        Err(Unusual)
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, Unusual> {
        Err(Unusual)
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Unusual> {
        Err(Unusual)
    }
}
