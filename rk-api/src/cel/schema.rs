//! How JSON is seen by expressions: as what, and how large it may be.
//!
//! A [`Schema`] is made from the structural schema of a custom resource, by the rules of
//! Kubernetes' `SchemaDeclType` and `UnstructuredToVal`, or by hand.

mod structural;

use std::{collections::BTreeMap, sync::Arc};

use super::types::Type;

/// Of a request, in bytes: what bounds the sizes that no schema bounds.
pub(crate) const MAX_REQUEST: u64 = 3 * 1024 * 1024;

/// What a JSON value is to expressions.
#[derive(Clone, Debug, PartialEq)]
pub struct Schema {
    pub(crate) shape: Shape,
    /// Whether null may stand here.
    pub(crate) nullable: bool,
    /// How many characters, bytes, items or properties at most.
    pub(crate) max_elements: Option<u64>,
    /// In bytes of JSON.
    pub(crate) min_size: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shape {
    /// As the JSON itself says.
    Dyn,
    /// Preserved without a schema: nothing can be done with it but to compare it.
    Unknown,
    Bool,
    Int,
    Double,
    String,
    Bytes,
    Duration,
    Date,
    DateTime,
    List {
        items: Arc<Schema>,
        kind: ListKind,
    },
    Map(Arc<Schema>),
    Object(Arc<ObjectType>),
}

/// What makes two lists equal (`x-kubernetes-list-type`).
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ListKind {
    Atomic,
    Set,
    /// By these keys, by their JSON names.
    Map(Vec<String>),
}

/// An object with declared fields. Two are the same type if their names are.
#[derive(Clone, Debug)]
pub struct ObjectType {
    /// Unique in an environment, for example `selfType.spec`.
    pub name: Arc<str>,
    /// By the name that expressions use.
    pub(crate) fields: BTreeMap<Arc<str>, Field>,
    /// The identifiers of fields by their JSON names, where the two differ.
    pub(crate) escaped: BTreeMap<String, Arc<str>>,
    /// Fields that expressions do not see, by their JSON names: their schema still says when two
    /// are equal.
    pub(crate) hidden: BTreeMap<String, Schema>,
}

impl PartialEq for ObjectType {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// A field of an object.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub json_name: String,
    pub schema: Schema,
}

/// The schema of what has none.
pub(crate) static DYN: Schema = Schema::new(Shape::Dyn, None, 1);

impl Schema {
    pub(crate) const fn new(shape: Shape, max_elements: Option<u64>, min_size: u64) -> Self {
        Self { shape, nullable: false, max_elements, min_size }
    }

    /// JSON of which nothing is known.
    pub const fn dynamic() -> Self {
        Self::new(Shape::Dyn, None, 1)
    }

    /// A string of at most `max_length` characters.
    pub const fn string(max_length: Option<u64>) -> Self {
        Self::new(Shape::String, max_length, 2)
    }

    /// An integer.
    pub const fn int() -> Self {
        Self::new(Shape::Int, None, 1)
    }

    /// A boolean.
    pub const fn bool() -> Self {
        Self::new(Shape::Bool, None, 4)
    }

    /// A time, as RFC 3339 writes it.
    pub const fn date_time() -> Self {
        Self::new(Shape::DateTime, Some(32), 21)
    }

    /// A list of `items`, at most `max_items` of them.
    pub fn list(items: Schema, max_items: Option<u64>) -> Self {
        let max = max_items.unwrap_or((MAX_REQUEST - 2) / (items.min_size + 1));
        let shape = Shape::List { items: Arc::new(items), kind: ListKind::Atomic };
        Self::new(shape, Some(max), 2)
    }

    /// A map of strings to `values`, at most `max_properties` of them.
    pub fn map(values: Schema, max_properties: Option<u64>) -> Self {
        let max = max_properties.unwrap_or((MAX_REQUEST - 2) / (values.min_size + 6));
        Self::new(Shape::Map(Arc::new(values)), Some(max), 2)
    }

    /// An object with these fields, by their JSON names. A field whose name cannot be escaped is
    /// not visible.
    pub fn object<'n>(name: &str, fields: impl IntoIterator<Item = (&'n str, Schema)>) -> Self {
        let mut object = ObjectType::named(name);
        for (json_name, schema) in fields {
            object.add(json_name, schema);
        }
        Self::new(Shape::Object(Arc::new(object)), None, 2)
    }

    /// The same for an object that is not a custom resource's: expressions see its fields by the
    /// names that they have, also where these are words of the language.
    pub(crate) fn declared<'n>(
        name: &str,
        fields: impl IntoIterator<Item = (&'n str, Schema)>,
    ) -> Self {
        let mut object = ObjectType::named(name);
        for (name, schema) in fields {
            object.fields.insert(name.into(), Field { json_name: name.to_owned(), schema });
        }
        Self::new(Shape::Object(Arc::new(object)), None, 2)
    }

    /// The same, but null may stand in its place.
    #[must_use]
    pub fn nullable(mut self) -> Self {
        self.nullable = true;
        self
    }

    /// The type that the checker gives to such values.
    pub fn value_type(&self) -> Type {
        match &self.shape {
            Shape::Dyn | Shape::Unknown => Type::Dyn,
            Shape::Bool => Type::Bool,
            Shape::Int => Type::Int,
            Shape::Double => Type::Double,
            Shape::String => Type::String,
            Shape::Bytes => Type::Bytes,
            Shape::Duration => Type::Duration,
            Shape::Date | Shape::DateTime => Type::Timestamp,
            Shape::List { items, .. } => Type::list(items.value_type()),
            Shape::Map(values) => Type::map(Type::String, values.value_type()),
            Shape::Object(object) => Type::Object(object.clone()),
        }
    }

    /// The schema one step down a path of the cost model: a field, or `@items`, `@values`, `@keys`.
    pub(crate) fn step(&self, step: &str) -> Option<&Schema> {
        // Kubernetes does not bound the keys of maps, and does not count them either.
        static KEY: Schema = Schema::string(None);
        match (&self.shape, step) {
            (Shape::List { items, .. }, "@items") => Some(items),
            (Shape::Map(values), "@values") => Some(values),
            (Shape::Map(_), "@keys") => Some(&KEY),
            (Shape::Object(object), field) => object.field(field).map(|field| &field.schema),
            _ => None,
        }
    }
}

impl ObjectType {
    pub(crate) fn named(name: &str) -> Self {
        Self {
            name: name.into(),
            fields: BTreeMap::new(),
            escaped: BTreeMap::new(),
            hidden: BTreeMap::new(),
        }
    }

    pub(crate) fn add(&mut self, json_name: &str, schema: Schema) {
        match super::escape::escape(json_name) {
            Some(identifier) => {
                let identifier: Arc<str> = identifier.into();
                if *identifier != *json_name {
                    self.escaped.insert(json_name.to_owned(), identifier.clone());
                }
                let field = Field { json_name: json_name.to_owned(), schema };
                self.fields.insert(identifier, field);
            }
            None => {
                self.hidden.insert(json_name.to_owned(), schema);
            }
        }
    }

    /// A field by the name that an expression uses. A reserved word may stand for itself.
    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        self.fields.get(name).or_else(|| {
            let escaped = super::escape::reserved(name)?;
            self.fields.get(&*escaped)
        })
    }

    /// The schema of a field by its JSON name.
    pub(crate) fn by_json_name(&self, json_name: &str) -> Option<&Schema> {
        let identifier = self.escaped.get(json_name).map_or(json_name, |escaped| escaped);
        match self.fields.get(identifier) {
            Some(field) => Some(&field.schema),
            None => self.hidden.get(json_name),
        }
    }
}
