//! Decoding a JSON object as a Go API server does.
//!
//! A deserializer around serde_json's knows the path of each value. With it, it
//! - collects fields that the kind does not have, and those that are there twice,
//! - words type errors as Go's `encoding/json` does,
//! - canonicalises quantities, and refuses texts that are none,
//! - reads `null` as the empty string where a map or list holds strings,
//! - leaves out optional lists and maps that are empty.

use std::{
    any::type_name, borrow::Cow, cell::RefCell, collections::HashSet, fmt, marker::PhantomData,
};

use serde::{
    Deserializer,
    de::{
        self, DeserializeOwned, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess,
        SeqAccess, VariantAccess, Visitor,
    },
    forward_to_deserialize_any,
};
use smallvec::SmallVec;

use crate::meta::quantity::Quantity;

mod empty;

/// Decodes a JSON text, and tells what is wrong with its fields in the words of Kubernetes:
/// `unknown field "spec.foo"` for one that `T` does not have, `duplicate field "spec.foo"`.
///
/// # Errors
/// serde_json's for malformed JSON; for a wrong type or value one whose message is that of
/// Kubernetes, for example `json: cannot unmarshal string into Go struct field
/// PodSpec.spec.containers of type []v1.Container`.
pub(super) fn decode<T: DeserializeOwned>(
    json: &[u8],
) -> Result<(T, Vec<String>), serde_json::Error> {
    let notes = Notes { drops_empty: empty::occurs(json), ..Notes::default() };
    let malformed = |why: &str| {
        let error = serde_json::from_slice::<serde_json::Value>(json).err();
        error.unwrap_or_else(|| de::Error::custom(why))
    };
    // Checked as a whole, which is much cheaper than text by text.
    let text = std::str::from_utf8(json).map_err(|_| malformed("invalid UTF-8"))?;
    if notes.drops_empty && empty::is_too_deep(json) {
        return Err(malformed("recursion limit exceeded"));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let at = Place { notes: &notes, path: Path::Root, owner: "" };
    let decoded = T::deserialize(Tracked { inner: &mut deserializer, at: &at })
        .and_then(|object| deserializer.end().map(|()| object));
    match decoded {
        Ok(object) => Ok((object, notes.odd.into_inner())),
        Err(error) => Err(match notes.wrong.into_inner() {
            Some(message) if error.is_data() => de::Error::custom(message),
            _ => error,
        }),
    }
}

/// What is found on the way.
#[derive(Default)]
struct Notes {
    /// Unknown and duplicate fields, each once.
    odd: RefCell<Vec<String>>,
    /// The message of the innermost error, which is met first.
    wrong: RefCell<Option<String>>,
    /// Whether the text has lists or maps to leave out.
    drops_empty: bool,
}

#[derive(Clone, Copy)]
enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl Path<'_> {
    /// `spec.containers[0].name`, or without indices as Go's error has it.
    fn write(&self, out: &mut String, indices: bool) {
        match self {
            Path::Root => {}
            Path::Field(parent, name) => {
                parent.write(out, indices);
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(name);
            }
            Path::Index(parent, index) => {
                parent.write(out, indices);
                if indices {
                    out.push_str(&format!("[{index}]"));
                }
            }
        }
    }
}

/// Where a value stands: its path, and the struct whose field it is or is in.
#[derive(Clone, Copy)]
struct Place<'a> {
    notes: &'a Notes,
    path: Path<'a>,
    owner: &'a str,
}

impl Place<'_> {
    fn text(&self, indices: bool) -> String {
        let mut out = String::new();
        self.path.write(&mut out, indices);
        out
    }

    /// Remembers the first error, in Go's words.
    #[cold]
    fn note_wrong(&self, wanted: &str, error: &dyn fmt::Display) {
        let mut wrong = self.notes.wrong.borrow_mut();
        if wrong.is_none() {
            *wrong = Some(self.message(wanted, &error.to_string()));
        }
    }

    #[cold]
    fn note_unknown(&self) {
        let path = self.text(true);
        let mut odd = self.notes.odd.borrow_mut();
        // A field that is not known is not called a duplicate as well.
        let duplicate = format!("duplicate field {path:?}");
        odd.retain(|found| *found != duplicate);
        let unknown = format!("unknown field {path:?}");
        if !odd.contains(&unknown) {
            odd.push(unknown);
        }
    }

    #[cold]
    fn note_duplicate(&self) {
        let duplicate = format!("duplicate field {:?}", self.text(true));
        let mut odd = self.notes.odd.borrow_mut();
        if !odd.contains(&duplicate) {
            odd.push(duplicate);
        }
    }

    fn message(&self, wanted: &str, error: &str) -> String {
        let Some(found) = found_type(error) else {
            let error = error.rsplit_once(" at line ").map_or(error, |(error, _)| error);
            let path = self.text(true);
            return if path.is_empty() { error.to_owned() } else { format!("{path}: {error}") };
        };
        let wanted = go_type(wanted);
        if self.owner.is_empty() {
            return format!("json: cannot unmarshal {found} into Go value of type {wanted}");
        }
        let (owner, path) = (self.owner, self.text(false));
        format!(
            "json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {wanted}"
        )
    }
}

/// Go's word for the JSON value that serde found in place of the wanted one.
fn found_type(error: &str) -> Option<String> {
    let (invalid_type, found) = match error.strip_prefix("invalid type: ") {
        Some(found) => (true, found),
        None => (false, error.strip_prefix("invalid value: ")?),
    };
    let word = ["string", "integer", "floating point", "boolean", "map", "sequence", "null"]
        .into_iter()
        .find(|word| found.starts_with(word))?;
    let number = || found.split('`').nth(1).unwrap_or("").to_owned();
    Some(match word {
        "string" if !invalid_type => return None,
        "integer" | "floating point" if !invalid_type => format!("number {}", number()),
        "integer" => "number".to_owned(),
        "floating point" => format!("number {}", number()),
        "boolean" => "bool".to_owned(),
        "map" => "object".to_owned(),
        "sequence" => "array".to_owned(),
        other => other.to_owned(),
    })
}

/// Go's name of the type that Rust calls `name`.
fn go_type(name: &str) -> String {
    let generic = |name: &str| -> Option<(String, String)> {
        let (outer, inner) = name.strip_suffix('>')?.split_once('<')?;
        Some((outer.rsplit("::").next().unwrap_or(outer).to_owned(), inner.to_owned()))
    };
    match generic(name) {
        Some((outer, inner)) if outer == "Vec" => format!("[]{}", go_type(&inner)),
        Some((outer, inner)) if outer == "Option" || outer == "Box" => go_type(&inner),
        Some((outer, inner)) if outer == "BTreeMap" => {
            let value = inner.split_once(", ").map_or("", |(_, value)| value);
            format!("map[string]{}", go_type(value))
        }
        _ => {
            let parts: Vec<&str> = name.split("::").collect();
            let last = parts.last().copied().unwrap_or(name);
            match last {
                "String" => "string".to_owned(),
                "i32" => "int32".to_owned(),
                "i64" => "int64".to_owned(),
                "f64" => "float64".to_owned(),
                "u8" | "bool" => last.to_owned(),
                "ByteString" => "[]uint8".to_owned(),
                "IntOrString" => "intstr.IntOrString".to_owned(),
                "Quantity" => "resource.Quantity".to_owned(),
                _ => match parts.iter().rfind(|part| is_version(part)) {
                    Some(version) => format!("{version}.{last}"),
                    None => last.to_owned(),
                },
            }
        }
    }
}

fn is_version(part: &str) -> bool {
    part.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        && !part.contains('_')
}

/// A deserializer that knows where it is.
struct Tracked<'a, D> {
    inner: D,
    at: &'a Place<'a>,
}

/// The result, noted if it is an error.
macro_rules! noted {
    ($at:expr, $wanted:expr, $result:expr) => {{
        let result = $result;
        if let Err(error) = &result {
            $at.note_wrong($wanted, error);
        }
        result
    }};
}

macro_rules! forward {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            let at = self.at;
            let visitor = Follow { inner: visitor, at };
            noted!(at, type_name::<V::Value>(), self.inner.$method(visitor))
        }
    )*};
}

/// What has nothing inside that would have to be followed.
macro_rules! scalar {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            noted!(self.at, type_name::<V::Value>(), self.inner.$method(visitor))
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Tracked<'_, D> {
    type Error = D::Error;

    scalar! {
        deserialize_bool
        deserialize_i8
        deserialize_i16
        deserialize_i32
        deserialize_i64
        deserialize_u8
        deserialize_u16
        deserialize_u32
        deserialize_u64
        deserialize_f32
        deserialize_f64
        deserialize_char
        deserialize_bytes
        deserialize_byte_buf
        deserialize_unit
        deserialize_identifier
    }

    forward! {
        deserialize_any
        deserialize_seq
        deserialize_map
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let at = self.at;
        let result = if at.notes.drops_empty && empty::is_droppable::<V::Value>() {
            empty::none_if_empty(self.inner, visitor, at)
        } else {
            self.inner.deserialize_option(Follow { inner: visitor, at })
        };
        noted!(at, type_name::<V::Value>(), result)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.deserialize_string(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let visitor = NullIsEmpty(visitor);
        noted!(self.at, type_name::<V::Value>(), self.inner.deserialize_any(visitor))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let at = &Place { owner: name, ..*self.at };
        let visitor = Follow { inner: visitor, at };
        let result = self.inner.deserialize_struct(name, fields, visitor);
        noted!(self.at, type_name::<V::Value>(), result)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let at = self.at;
        if name == "Quantity" {
            let result = self.inner.deserialize_any(CanonicalQuantity).and_then(|text| {
                visitor.visit_newtype_struct(IntoDeserializer::<D::Error>::into_deserializer(text))
            });
            return noted!(at, "Quantity", result);
        }
        let visitor = Follow { inner: visitor, at };
        noted!(at, type_name::<V::Value>(), self.inner.deserialize_newtype_struct(name, visitor))
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        noted!(self.at, name, self.inner.deserialize_unit_struct(name, visitor))
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let at = self.at;
        let visitor = Follow { inner: visitor, at };
        noted!(at, type_name::<V::Value>(), self.inner.deserialize_tuple(len, visitor))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let at = self.at;
        let visitor = Follow { inner: visitor, at };
        noted!(at, name, self.inner.deserialize_tuple_struct(name, len, visitor))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let at = self.at;
        let visitor = Follow { inner: visitor, at };
        noted!(at, name, self.inner.deserialize_enum(name, variants, visitor))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.at.note_unknown();
        self.inner.deserialize_ignored_any(visitor)
    }
}

/// A visitor that hands its own on to what it holds, with the way there.
struct Follow<'a, V> {
    inner: V,
    at: &'a Place<'a>,
}

macro_rules! visit {
    ($($method:ident($type:ty))*) => {$(
        fn $method<E: de::Error>(self, value: $type) -> Result<V::Value, E> {
            self.inner.$method(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Follow<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    visit! {
        visit_bool(bool)
        visit_i64(i64)
        visit_u64(u64)
        visit_f64(f64)
        visit_str(&str)
        visit_borrowed_str(&'de str)
        visit_string(String)
        visit_bytes(&[u8])
        visit_borrowed_bytes(&'de [u8])
        visit_byte_buf(Vec<u8>)
    }

    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(Tracked { inner, at: self.at })
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.inner.visit_newtype_struct(Tracked { inner, at: self.at })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.inner.visit_seq(Elements { inner, at: self.at, index: 0 })
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(Entries {
            inner,
            at: self.at,
            key: Cow::Borrowed(""),
            seen: Seen::default(),
        })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(Untracked(inner))
    }
}

/// An enum, whose content is not followed: the API has none.
struct Untracked<A>(A);

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Untracked<A> {
    type Error = A::Error;
    type Variant = UntrackedVariant<A::Variant>;
    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), A::Error> {
        self.0.variant_seed(seed).map(|(value, variant)| (value, UntrackedVariant(variant)))
    }
}

struct UntrackedVariant<A>(A);

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for UntrackedVariant<A> {
    type Error = A::Error;
    fn unit_variant(self) -> Result<(), A::Error> {
        self.0.unit_variant()
    }
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.0.newtype_variant_seed(seed)
    }
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.0.tuple_variant(len, visitor)
    }
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.0.struct_variant(fields, visitor)
    }
}

struct Elements<'a, A> {
    inner: A,
    at: &'a Place<'a>,
    index: usize,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Elements<'_, A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        let at = &Place { path: Path::Index(&self.at.path, self.index), ..*self.at };
        self.index += 1;
        self.inner.next_element_seed(TrackedSeed { seed, at, lifetime: PhantomData })
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

struct Entries<'a, 'de, A> {
    inner: A,
    at: &'a Place<'a>,
    key: Cow<'de, str>,
    seen: Seen<'de>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Entries<'_, 'de, A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.inner.next_key_seed(KeySeed { seed, key: &mut self.key })
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        let at = &Place { path: Path::Field(&self.at.path, &self.key), ..*self.at };
        if !self.seen.insert(&self.key) {
            at.note_duplicate();
        }
        self.inner.next_value_seed(TrackedSeed { seed, at, lifetime: PhantomData })
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

/// The keys of a map so far.
#[derive(Default)]
struct Seen<'de> {
    /// All of them while they are few and without escapes: to compare a handful is cheaper than to
    /// hash.
    few: SmallVec<[&'de str; 8]>,
    /// Empty while the few do.
    many: HashSet<Cow<'de, str>, foldhash::fast::RandomState>,
}

impl<'de> Seen<'de> {
    const FEW_MAX: usize = 24;

    /// Adds a key; `false` when it was there.
    #[allow(clippy::ptr_arg, reason = "only a borrowed key can be kept without a copy")]
    fn insert(&mut self, key: &Cow<'de, str>) -> bool {
        if self.many.is_empty()
            && self.few.len() < Self::FEW_MAX
            && let Cow::Borrowed(key) = *key
        {
            let fresh = !self.few.contains(&key);
            if fresh {
                self.few.push(key);
            }
            return fresh;
        }
        self.many.extend(self.few.drain(..).map(Cow::Borrowed));
        self.many.insert(key.clone())
    }
}

struct TrackedSeed<'a, S> {
    seed: S,
    at: &'a Place<'a>,
    lifetime: PhantomData<&'a ()>,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for TrackedSeed<'_, S> {
    type Value = S::Value;
    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        self.seed.deserialize(Tracked { inner, at: self.at })
    }
}

/// Keeps the text of a key for the path, and hands it on.
struct KeySeed<'k, 'de, S> {
    seed: S,
    key: &'k mut Cow<'de, str>,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for KeySeed<'_, 'de, S> {
    type Value = S::Value;
    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        self.seed.deserialize(Key { inner, key: self.key })
    }
}

/// A key is a text, whatever it is asked for as.
struct Key<'k, 'de, D> {
    inner: D,
    key: &'k mut Cow<'de, str>,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Key<'_, 'de, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_str(KeyVisitor { inner: visitor, key: self.key })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier
        ignored_any
    }
}

struct KeyVisitor<'k, 'de, V> {
    inner: V,
    key: &'k mut Cow<'de, str>,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for KeyVisitor<'_, 'de, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }
    fn visit_str<E: de::Error>(self, key: &str) -> Result<V::Value, E> {
        *self.key = Cow::Owned(key.to_owned());
        self.inner.visit_str(key)
    }
    fn visit_borrowed_str<E: de::Error>(self, key: &'de str) -> Result<V::Value, E> {
        *self.key = Cow::Borrowed(key);
        self.inner.visit_borrowed_str(key)
    }
}

/// Reads `null` as an empty string: Go leaves a string as it is, which is empty.
struct NullIsEmpty<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for NullIsEmpty<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }
    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.0.visit_str("")
    }
    fn visit_str<E: de::Error>(self, value: &str) -> Result<V::Value, E> {
        self.0.visit_str(value)
    }
    fn visit_borrowed_str<E: de::Error>(self, value: &'de str) -> Result<V::Value, E> {
        self.0.visit_borrowed_str(value)
    }
    fn visit_string<E: de::Error>(self, value: String) -> Result<V::Value, E> {
        self.0.visit_string(value)
    }
}

/// A quantity's text in canonical form. It may be a number in the JSON.
struct CanonicalQuantity;

impl Visitor<'_> for CanonicalQuantity {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a quantity")
    }
    fn visit_unit<E: de::Error>(self) -> Result<String, E> {
        Ok("0".to_owned())
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Quantity::canonical(text.trim()).map_err(E::custom)
    }
    fn visit_i64<E: de::Error>(self, number: i64) -> Result<String, E> {
        self.visit_str(&number.to_string())
    }
    fn visit_u64<E: de::Error>(self, number: u64) -> Result<String, E> {
        self.visit_str(&number.to_string())
    }
    fn visit_f64<E: de::Error>(self, number: f64) -> Result<String, E> {
        self.visit_str(&number.to_string())
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::core::v1::Pod, apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps,
    };

    use super::*;

    #[track_caller]
    fn check(json: &str, message: &str) {
        let error = decode::<Pod>(json.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), message);
    }

    #[test]
    fn type_errors_are_worded_as_go_does() {
        check(
            r#"{"spec":{"containers":"x"}}"#,
            "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type \
             []v1.Container",
        );
        check(
            r#"{"spec":{"containers":[{"name":3}]}}"#,
            "json: cannot unmarshal number into Go struct field Container.spec.containers.name of \
             type string",
        );
        check(
            r#"{"metadata":{"labels":{"a":true}}}"#,
            "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels.a of type \
             string",
        );
        check(
            r#"{"metadata":{"labels":["a"]}}"#,
            "json: cannot unmarshal array into Go struct field ObjectMeta.metadata.labels of type \
             map[string]string",
        );
        check(
            r#"{"spec":{"terminationGracePeriodSeconds":"x"}}"#,
            "json: cannot unmarshal string into Go struct field \
             PodSpec.spec.terminationGracePeriodSeconds of type int64",
        );
        check(
            r#"{"spec":{"priority":3000000000}}"#,
            "json: cannot unmarshal number 3000000000 into Go struct field PodSpec.spec.priority \
             of type int32",
        );
        check("[]", "json: cannot unmarshal array into Go value of type v1.Pod");
        check(
            r#"{"spec":{"overhead":{"cpu":"x"}}}"#,
            "spec.overhead.cpu: quantities must match the regular expression \
             '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        );
    }

    #[test]
    fn unknown_fields_are_named_with_their_paths() {
        let json = r#"{"foo":1,"spec":{"containers":[{"name":"c","foo":{"a":[1]}}],"bar":null}}"#;
        let (_, odd) = decode::<Pod>(json.as_bytes()).unwrap();
        let expected = ["foo", "spec.containers[0].foo", "spec.bar"];
        assert_eq!(odd, expected.map(|path| format!("unknown field {path:?}")));
    }

    #[test]
    fn duplicate_fields_are_named_with_their_paths() {
        let json = r#"{"kind":"Pod","kind":"Pod","foo":1,"foo":2,
            "metadata":{"labels":{"a":"b","c":"d","a":"e"}},
            "spec":{"containers":[{"name":"a","image":"x","image":"y","image":"z","bar":1}]}}"#;
        let (pod, odd) = decode::<Pod>(json.as_bytes()).unwrap();
        assert_eq!(
            odd,
            [
                "duplicate field \"kind\"",
                "unknown field \"foo\"",
                "duplicate field \"metadata.labels.a\"",
                "duplicate field \"spec.containers[0].image\"",
                "unknown field \"spec.containers[0].bar\"",
            ]
        );
        assert_eq!(pod.spec.unwrap().containers[0].image.as_deref(), Some("z"));
        let many: Vec<_> = (0..99).map(|n| format!("\"k{n}\":\"\"")).collect();
        let json = format!(r#"{{"metadata":{{"labels":{{{},"k\u0037":""}}}}}}"#, many.join(","));
        let (_, odd) = decode::<Pod>(json.as_bytes()).unwrap();
        assert_eq!(odd, ["duplicate field \"metadata.labels.k7\""]);
    }

    #[test]
    fn quantities_may_be_numbers_and_become_canonical() {
        let json = r#"{"spec":{"overhead":{"a":1,"b":0.5,"c":"1024Mi","d":" 1000m ","e":null}}}"#;
        let (pod, _) = decode::<Pod>(json.as_bytes()).unwrap();
        let overhead = pod.spec.unwrap().overhead.unwrap();
        let amounts: Vec<_> = overhead.values().map(|quantity| quantity.0.as_str()).collect();
        assert_eq!(amounts, ["1", "500m", "1Gi", "1", "0"]);
    }

    #[test]
    fn null_is_the_empty_string_in_a_map_of_strings() {
        let json = r#"{"metadata":{"labels":{"a":null},"name":null},"spec":{"containers":null}}"#;
        let (pod, _) = decode::<Pod>(json.as_bytes()).unwrap();
        assert_eq!(pod.metadata.labels.unwrap()["a"], "");
        assert_eq!(pod.metadata.name, None);
    }

    #[test]
    fn empty_lists_and_maps_are_left_out() {
        let json = r#"{"metadata":{"labels":{},"annotations":{"a":"b","c":"d"}},"spec":{
            "nodeSelector":{},"tolerations":[ ],"securityContext":{},
            "volumes":[{"name":"v","emptyDir":{},"foo":1},{"name":"w","secret":{"items":[]}}],
            "containers":[{"name":"c","args":[],"command":["a","b"]}]}}"#;
        let (pod, odd) = decode::<Pod>(json.as_bytes()).unwrap();
        assert_eq!(odd, ["unknown field \"spec.volumes[0].foo\""]);
        assert_eq!(pod.metadata.labels, None);
        assert_eq!(pod.metadata.annotations.unwrap().len(), 2);
        let spec = pod.spec.unwrap();
        assert_eq!((&spec.node_selector, &spec.tolerations), (&None, &None));
        assert!(spec.security_context.is_some());
        let volumes = spec.volumes.unwrap();
        assert!(volumes[0].empty_dir.is_some());
        assert_eq!(volumes[1].secret.as_ref().unwrap().items, None);
        assert_eq!(spec.containers[0].args, None);
        assert_eq!(spec.containers[0].command.as_ref().unwrap(), &["a", "b"]);
        check(
            r#"{"spec":{"volumes":"x","tolerations":[]}}"#,
            "json: cannot unmarshal string into Go struct field PodSpec.spec.volumes of type \
             []v1.Volume",
        );
        check(
            r#"{"spec":{"tolerations":[],"volumes":[{"name":1}]}}"#,
            "json: cannot unmarshal number into Go struct field Volume.spec.volumes.name of type \
             string",
        );
    }

    #[test]
    fn a_text_that_goes_too_deep_is_refused_with_empty_lists_too() {
        let deep = r#"{"properties":{"a":"#.repeat(50_000);
        let json = format!(r#"{{"required":[],"not":{deep}{{}}{}}}"#, "}}".repeat(50_000));
        let error = decode::<JSONSchemaProps>(json.as_bytes()).unwrap_err();
        assert!(error.to_string().starts_with("recursion limit exceeded"), "{error}");
    }

    #[test]
    fn malformed_json_keeps_its_own_error() {
        let error = decode::<Pod>(b"{\"spec\":").unwrap_err();
        assert!(!error.is_data(), "{error}");
        assert!(decode::<Pod>(b"{} x").is_err());
    }
}
