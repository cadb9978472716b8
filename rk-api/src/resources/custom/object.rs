//! A custom object in memory.

use std::{any::Any, borrow::Cow, fmt, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::{Map, Value, value::RawValue};

use super::{prune, schema::Schema};
use crate::resources::Object;

/// A custom object: its metadata as a type, everything else as a tree.
#[derive(Clone, Debug)]
pub(crate) struct Custom {
    /// Group and version that the object is in.
    pub api_version: Arc<str>,
    /// Group and version in which it is written down.
    pub stored_as: Arc<str>,
    /// The schema that what is written down is pruned by, where the object itself is not.
    pub pruned_to: Option<Arc<Schema>>,
    /// The kind.
    pub kind: Arc<str>,
    /// Its metadata.
    pub metadata: ObjectMeta,
    /// Its other members: no `apiVersion`, no `kind`, no `metadata`.
    pub members: Map<String, Value>,
}

impl Custom {
    /// As a tree of the version that it is in.
    pub(super) fn tree(&self) -> Result<Value, serde_json::Error> {
        let mut tree = self.members.clone();
        tree.insert("apiVersion".to_owned(), Value::from(&*self.api_version));
        tree.insert("kind".to_owned(), Value::from(&*self.kind));
        tree.insert("metadata".to_owned(), serde_json::to_value(&self.metadata)?);
        Ok(Value::Object(tree))
    }
}

/// Serialises with the type and the metadata first.
struct As<'a> {
    object: &'a Custom,
    api_version: &'a str,
    members: &'a Map<String, Value>,
}

impl Serialize for As<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.members.len() + 3))?;
        map.serialize_entry("apiVersion", self.api_version)?;
        map.serialize_entry("kind", &*self.object.kind)?;
        map.serialize_entry("metadata", &self.object.metadata)?;
        for (name, member) in self.members {
            map.serialize_entry(name, member)?;
        }
        map.end()
    }
}

impl Object for Custom {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
    fn boxed_clone(&self) -> Box<dyn Object> {
        Box::new(self.clone())
    }
    fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let members = match &self.pruned_to {
            None => Cow::Borrowed(&self.members),
            Some(schema) => {
                let mut members = self.members.clone();
                prune::prune(&mut members, schema);
                Cow::Owned(members)
            }
        };
        serde_json::to_vec(&As { object: self, api_version: &self.stored_as, members: &members })
    }
    fn to_value(&self) -> Result<Value, serde_json::Error> {
        self.tree()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// A JSON object taken apart: the metadata as it was written, the rest as trees.
#[derive(Debug, Default)]
pub(super) struct Parts<'a> {
    pub api_version: Option<Value>,
    pub kind: Option<Value>,
    pub metadata: Option<&'a RawValue>,
    pub members: Map<String, Value>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Parts<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;
        impl<'de> Visitor<'de> for Whole {
            type Value = Parts<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parts<'de>, A::Error> {
                let mut parts = Parts::default();
                while let Some(name) = map.next_key::<String>()? {
                    match name.as_str() {
                        "apiVersion" => parts.api_version = Some(map.next_value()?),
                        "kind" => parts.kind = Some(map.next_value()?),
                        "metadata" => parts.metadata = Some(map.next_value()?),
                        _ => _ = parts.members.insert(name, map.next_value()?),
                    }
                }
                Ok(parts)
            }
        }
        deserializer.deserialize_map(Whole)
    }
}

/// A member that must be a string; absent and null are the empty one.
pub(super) fn text(value: Option<Value>, name: &str) -> Result<String, serde_json::Error> {
    match value {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(serde_json::Error::custom(format!("{name} must be a string: {other}"))),
    }
}
