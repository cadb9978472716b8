//! Optional lists and maps that are empty are not there: Go leaves them out when it encodes.
//!
//! To see whether a list is empty, its first item is taken out as a tree and handed back in front
//! of the others. That is only done for a text that has an empty list or map somewhere.

use std::{any::type_name, fmt};

use serde::{
    Deserializer,
    de::{self, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor},
    forward_to_deserialize_any,
};
use serde_json::Value;

use super::{Place, Tracked};

/// Whether the text has an empty list or map, or looks as if it had.
pub(super) fn occurs(json: &[u8]) -> bool {
    json.iter().enumerate().any(|(at, byte)| {
        // One comparison for `]` and `}`, which differ in this bit: most bytes are neither.
        byte | 0x20 == b'}' && matches!(json[..at].trim_ascii_end().last(), Some(b'[' | b'{'))
    })
}

/// Whether `T` is an optional list or map.
pub(super) fn is_droppable<T>() -> bool {
    type_name::<T>().strip_prefix("core::option::Option<").is_some_and(|inner| {
        inner.starts_with("alloc::vec::Vec<") || inner.starts_with("alloc::collections::btree::map")
    })
}

/// The visitor of an optional list or map, for which an empty one is none.
pub(super) struct NoneIfEmpty<'a, V> {
    pub(super) inner: V,
    pub(super) at: &'a Place<'a>,
}

macro_rules! not_a_list {
    ($($method:ident($type:ty))*) => {$(
        fn $method<E: de::Error>(self, value: $type) -> Result<V::Value, E> {
            self.inner.visit_some(Tracked { inner: value.into_deserializer(), at: self.at })
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for NoneIfEmpty<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    not_a_list! {
        visit_bool(bool)
        visit_i64(i64)
        visit_u64(u64)
        visit_f64(f64)
        visit_str(&str)
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rest: A) -> Result<V::Value, A::Error> {
        match rest.next_element::<Value>()? {
            None => self.inner.visit_none(),
            Some(first) => {
                let list = FirstAndRest { first: Some(first), rest };
                self.inner.visit_some(Tracked { inner: List(list), at: self.at })
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut rest: A) -> Result<V::Value, A::Error> {
        match rest.next_key::<String>()? {
            None => self.inner.visit_none(),
            Some(first) => {
                let map = FirstAndRest { first: Some(first), rest };
                self.inner.visit_some(Tracked { inner: Map(map), at: self.at })
            }
        }
    }
}

struct FirstAndRest<F, A> {
    first: Option<F>,
    rest: A,
}

struct List<A>(FirstAndRest<Value, A>);

impl<'de, A: SeqAccess<'de>> Deserializer<'de> for List<A> {
    type Error = A::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, A::Error> {
        visitor.visit_seq(self.0)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier
        ignored_any
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for FirstAndRest<Value, A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        match self.first.take() {
            Some(first) => seed.deserialize(first).map(Some).map_err(de::Error::custom),
            None => self.rest.next_element_seed(seed),
        }
    }
}

struct Map<A>(FirstAndRest<String, A>);

impl<'de, A: MapAccess<'de>> Deserializer<'de> for Map<A> {
    type Error = A::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, A::Error> {
        visitor.visit_map(self.0)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier
        ignored_any
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for FirstAndRest<String, A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        match self.first.take() {
            Some(first) => seed.deserialize(first.into_deserializer()).map(Some),
            None => self.rest.next_key_seed(seed),
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.rest.next_value_seed(seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lists_and_maps_that_may_be_left_out_are_droppable() {
        assert!(is_droppable::<Option<Vec<u8>>>());
        assert!(is_droppable::<Option<std::collections::BTreeMap<String, String>>>());
        assert!(!is_droppable::<Vec<u8>>());
        assert!(!is_droppable::<Option<String>>());
        assert!(occurs(b"{\"a\": [ ] }") && occurs(b"{}") && !occurs(b"{\"a\":[1]}"));
    }
}
