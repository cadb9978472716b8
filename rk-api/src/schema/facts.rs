//! The merge facts: how each list and map of the API merges, as data.

use std::{
    collections::{HashMap, HashSet},
    sync::OnceLock,
};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::older;

const SOURCE: &str = include_str!("../resources/merge-facts.json");

/// The parsed table.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Facts {
    atomic_types: HashSet<String>,
    fields: HashMap<String, HashMap<String, Merge>>,
}

/// How a field merges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Merge {
    /// How server-side apply sees a list; atomic if unsaid.
    pub list_type: Option<ListType>,
    /// The fields that tell the items of a [`ListType::Map`] apart.
    pub list_map_keys: Vec<String>,
    /// `atomic` if server-side apply takes a map as one value.
    pub map_type: Option<String>,
    patch_strategy: String,
    /// The field that tells the items of a list apart in a strategic merge patch.
    pub patch_merge_key: Option<String>,
}

/// How server-side apply sees a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListType {
    /// One value.
    Atomic,
    /// Values that each occur once.
    Set,
    /// Objects told apart by some of their fields.
    Map,
}

impl Merge {
    /// Whether a strategic merge patch merges this list instead of replacing it.
    pub fn merges(&self) -> bool {
        self.has_strategy("merge")
    }

    /// Whether a strategic merge patch replaces this map instead of merging it.
    pub fn replaces(&self) -> bool {
        self.has_strategy("replace")
    }

    fn has_strategy(&self, strategy: &str) -> bool {
        self.patch_strategy.split(',').any(|each| each == strategy)
    }

    /// As OpenAPI extensions.
    pub(super) fn extensions(&self) -> Map<String, Value> {
        let mut extensions = Map::new();
        let mut add = |name: &str, value: Value| {
            extensions.insert(format!("x-kubernetes-{name}"), value);
        };
        if let Some(list_type) = self.list_type {
            let name = match list_type {
                ListType::Atomic => "atomic",
                ListType::Set => "set",
                ListType::Map => "map",
            };
            add("list-type", name.into());
        }
        if !self.list_map_keys.is_empty() {
            add("list-map-keys", self.list_map_keys.clone().into());
        }
        if let Some(map_type) = &self.map_type {
            add("map-type", map_type.clone().into());
        }
        if !self.patch_strategy.is_empty() {
            add("patch-strategy", self.patch_strategy.clone().into());
        }
        if let Some(key) = &self.patch_merge_key {
            add("patch-merge-key", key.clone().into());
        }
        extensions
    }
}

impl Facts {
    pub(super) fn field(&self, definition: &str, field: &str) -> Option<&Merge> {
        let known = self.fields.get(definition);
        known.or_else(|| self.fields.get(older::newer(definition).as_ref()))?.get(field)
    }

    pub(super) fn is_atomic(&self, definition: &str) -> bool {
        self.atomic_types.contains(definition)
            || self.atomic_types.contains(older::newer(definition).as_ref())
    }

    /// Every type and field that the table speaks of.
    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &str, &Merge)> {
        self.fields.iter().flat_map(|(definition, fields)| {
            fields.iter().map(move |(field, merge)| (definition.as_str(), field.as_str(), merge))
        })
    }
}

/// The table, parsed on first use.
pub(super) fn facts() -> &'static Facts {
    static FACTS: OnceLock<Facts> = OnceLock::new();
    // The table is part of the program, and a test parses it: an error cannot reach a user.
    FACTS.get_or_init(|| serde_json::from_str(SOURCE).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_parses() {
        let facts: Facts = serde_json::from_str(SOURCE).unwrap();
        let containers = facts.field("io.k8s.api.core.v1.PodSpec", "containers").unwrap();
        assert!(containers.merges());
        assert_eq!(containers.patch_merge_key.as_deref(), Some("name"));
        assert_eq!(containers.list_type, Some(ListType::Map));
    }

    #[test]
    fn a_strategy_may_have_two_parts() {
        let volumes = facts().field("io.k8s.api.core.v1.PodSpec", "volumes").unwrap();
        assert!(volumes.merges() && !volumes.replaces());
        assert_eq!(volumes.extensions()["x-kubernetes-patch-strategy"], "merge,retainKeys");
    }
}
