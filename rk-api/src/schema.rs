//! What the API's types look like: their fields, and how lists and maps in them merge.
//!
//! Two sources are joined: the types themselves (descriptions, formats, references) and
//! `resources/merge-facts.json` (list types, map keys, patch strategies). Nothing here is made
//! before it is asked for.
//!
//! - [`definitions`] gives JSON schemas, for documents.
//! - [`graph`] gives the same without prose, for merging: it is made once and kept.

mod defaults;
mod facts;
mod older;
mod roots;

use std::{collections::HashMap, sync::OnceLock};

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value};

pub use facts::{ListType, Merge};

/// Where references to definitions point: `#/components/schemas/io.k8s.api.core.v1.Pod`.
pub const REFERENCE_PREFIX: &str = "#/components/schemas/";

/// JSON schemas of the named types and of all that they refer to, by name, with the
/// `x-kubernetes-…` extensions that say how they merge and with the defaults that a client needs
/// to know. Names that are no API type are left out.
///
/// References are `{"$ref": "#/components/schemas/NAME"}`, possibly with a `description` beside.
/// This takes milliseconds and megabytes: keep what is made from it, not the result.
pub fn definitions<'a>(names: impl IntoIterator<Item = &'a str>) -> Map<String, Value> {
    let names: std::collections::HashSet<&str> = names.into_iter().collect();
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    let mut generator = SchemaGenerator::new(settings);
    let older: Vec<_> = names.iter().copied().filter(|name| older::is_kind(name)).collect();
    let newer: Vec<_> = older.iter().map(|name| older::newer(name)).collect();
    for root in roots::ROOTS {
        let name = (root.name)();
        if names.contains(name.as_ref()) || newer.contains(&name) {
            (root.generate)(&mut generator);
        }
    }
    if older.iter().any(|name| name.ends_with(".Ingress")) {
        // A port was that, and is not any more.
        generator.subschema_for::<IntOrString>();
    }
    let mut definitions = generator.take_definitions(false);
    for (name, definition) in &mut definitions {
        annotate(name, definition);
    }
    for name in older {
        older::add(name, &mut definitions);
    }
    definitions
}

/// The name that a reference such as [`definitions`] makes points to.
pub fn referenced(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.strip_prefix(REFERENCE_PREFIX)
}

fn annotate(name: &str, definition: &mut Value) {
    let Some(definition) = definition.as_object_mut() else { return };
    let facts = facts::facts();
    if facts.is_atomic(name) {
        definition.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    let is_kind = definition.get("properties").is_some_and(|properties| {
        ["apiVersion", "kind", "metadata"].iter().all(|name| properties.get(name).is_some())
    });
    if is_kind && let Some(Value::Array(required)) = definition.get_mut("required") {
        // The Rust types always have metadata; the API lets clients leave it out.
        required.retain(|name| name != "metadata");
        if required.is_empty() {
            definition.remove("required");
        }
    }
    let Some(Value::Object(properties)) = definition.get_mut("properties") else { return };
    for (field, schema) in properties {
        let Some(schema) = schema.as_object_mut() else { continue };
        if let Some(merge) = facts.field(name, field) {
            schema.extend(merge.extensions());
        }
        if let Some(default) = defaults::default(name, field) {
            schema.insert("default".into(), default);
        }
        if let Some(values) = defaults::values(name, field) {
            schema.insert("enum".into(), values.iter().copied().collect());
        }
    }
}

/// The API's types as a graph.
#[derive(Debug, Default)]
pub struct Graph {
    definitions: HashMap<Box<str>, Definition>,
}

/// A type of the API.
#[derive(Debug, Default)]
pub struct Definition {
    fields: HashMap<Box<str>, Field>,
    /// Whether server-side apply takes it as one value, whose fields have no owners of their own.
    pub atomic: bool,
    /// What it is if it has no fields of its own: `Time` is a string, for example.
    pub plain: Option<Type>,
}

/// A field of a [`Definition`].
#[derive(Debug)]
pub struct Field {
    /// What it holds.
    pub kind: Type,
    /// Whether every object has it.
    pub required: bool,
    /// How it merges.
    pub merge: Merge,
    /// What it is if a client leaves it out, where clients must know.
    pub default: Option<Value>,
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// A definition, by name.
    Named(Box<str>),
    /// An object whose keys are free.
    Map(Box<Type>),
    /// A list.
    List(Box<Type>),
    /// A string, or what JSON writes as one: bytes, times.
    String,
    /// An integer.
    Integer,
    /// Any number.
    Number,
    /// A boolean.
    Boolean,
    /// A number or a string: `IntOrString`, `Quantity`.
    IntOrString,
    /// Anything.
    Any,
}

/// The graph of all types that kinds are made of.
pub fn graph() -> &'static Graph {
    static GRAPH: OnceLock<Graph> = OnceLock::new();
    GRAPH.get_or_init(Graph::build)
}

// === impl Graph ===

impl Graph {
    /// Makes the graph anew; [`graph`] keeps one.
    pub fn build() -> Self {
        let names = roots::ROOTS.iter().map(|root| (root.name)());
        let names: Vec<_> = names.chain(older::kinds().map(Into::into)).collect();
        let definitions = definitions(names.iter().map(AsRef::as_ref));
        let definitions = definitions
            .into_iter()
            .map(|(name, schema)| {
                let definition = Definition::new(&name, &schema);
                (name.into_boxed_str(), definition)
            })
            .collect();
        Self { definitions }
    }

    /// The definition of this name.
    pub fn get(&self, name: &str) -> Option<&Definition> {
        self.definitions.get(name)
    }

    /// All names, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.definitions.keys().map(AsRef::as_ref)
    }
}

impl Definition {
    fn new(name: &str, schema: &Value) -> Self {
        let facts = facts::facts();
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
            return Self { plain: Some(Type::of(schema)), ..Self::default() };
        };
        let required = schema.get("required").and_then(Value::as_array);
        let fields = properties.iter().map(|(field, schema)| {
            let required = required.is_some_and(|names| names.iter().any(|name| name == field));
            let merge = facts.field(name, field).cloned().unwrap_or_default();
            let default = schema.get("default").cloned();
            (field.as_str().into(), Field { kind: Type::of(schema), required, merge, default })
        });
        Self { fields: fields.collect(), atomic: facts.is_atomic(name), plain: None }
    }

    /// The field that JSON calls `name`.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.get(name)
    }

    /// Names of all fields, in no order.
    pub fn field_names(&self) -> impl Iterator<Item = &str> {
        self.fields.keys().map(AsRef::as_ref)
    }
}

impl Type {
    fn of(schema: &Value) -> Self {
        if let Some(name) = referenced(schema) {
            return Self::Named(name.into());
        }
        if schema.get("x-kubernetes-int-or-string").is_some() {
            return Self::IntOrString;
        }
        match schema.get("type").and_then(Value::as_str) {
            Some("string") => Self::String,
            Some("integer") => Self::Integer,
            Some("number") => Self::Number,
            Some("boolean") => Self::Boolean,
            Some("array") => Self::List(Box::new(schema.get("items").map_or(Self::Any, Self::of))),
            Some("object") => match schema.get("additionalProperties") {
                Some(values) => Self::Map(Box::new(Self::of(values))),
                None => Self::Any,
            },
            _ => Self::Any,
        }
    }
}

#[cfg(test)]
mod tests;
