//! Walks over one JSON value with its type: is it well formed, and which fields has it?

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{
    path::PathElement,
    schema::{List, ListKind, Scalar, Schema, Shape, TypeRef},
    set::FieldSet,
};

/// What is wrong with a value, with the path to it: `.spec.foo: field not declared in schema`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeError(pub(super) Vec<(String, String)>);

impl std::error::Error for TypeError {}

impl std::fmt::Display for TypeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let several = self.0.len() > 1;
        if several {
            f.write_str("errors:")?;
        }
        for (path, what) in &self.0 {
            let indent = if several { "\n  " } else { "" };
            let colon = if path.is_empty() { "" } else { ": " };
            write!(f, "{indent}{path}{colon}{what}")?;
        }
        Ok(())
    }
}

/// Errors found so far.
pub(super) type Errors = Vec<(String, String)>;

pub(super) fn finish<T>(value: T, errors: Errors) -> Result<T, TypeError> {
    if errors.is_empty() { Ok(value) } else { Err(TypeError(errors)) }
}

/// Puts a step before the paths of errors from `from` on.
pub(super) fn prefix(errors: &mut Errors, from: usize, element: &PathElement) {
    for (path, _) in &mut errors[from..] {
        path.insert_str(0, &element.to_string());
    }
}

pub(super) fn error(errors: &mut Errors, what: impl Into<String>) {
    errors.push((String::new(), what.into()));
}

impl Schema {
    /// Checks that a value is of a type: nothing but declared fields, lists without duplicates.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn validate(&self, kind: TypeRef, value: &Value) -> Result<(), TypeError> {
        let mut errors = Errors::new();
        self.validate_into(kind, value, &mut errors);
        finish((), errors)
    }

    fn validate_into(&self, kind: TypeRef, value: &Value, errors: &mut Errors) {
        match (self.shape(kind), value) {
            (_, Value::Null) | (Shape::Any, _) => {}
            (Shape::Scalar(scalar), value) => errors.extend(scalar.refuses(value, "")),
            (Shape::List(list), Value::Array(items)) => {
                let mut seen = BTreeSet::new();
                for (at, item) in items.iter().enumerate() {
                    let element = match &list.kind {
                        ListKind::Atomic => PathElement::Index(at as i64),
                        _ => match list.element(item) {
                            Ok(element) => element,
                            Err(why) => return error(errors, format!("element {at}: {why}")),
                        },
                    };
                    let from = errors.len();
                    self.validate_into(list.items, item, errors);
                    prefix(errors, from, &element);
                    if !matches!(list.kind, ListKind::Atomic) && seen.contains(&element) {
                        error(errors, format!("duplicate entries for key {element}"));
                    }
                    seen.insert(element);
                }
            }
            (Shape::List(_), value) => {
                error(errors, format!("expected list, got {}", shown(value)));
            }
            (Shape::Object(object), Value::Object(map)) => {
                for (name, value) in map {
                    let from = errors.len();
                    match object.kind_of(name) {
                        Some(kind) => self.validate_into(kind, value, errors),
                        None => error(errors, "field not declared in schema"),
                    }
                    if errors.len() > from {
                        prefix(errors, from, &PathElement::field(name));
                    }
                    if object.kind_of(name).is_none() {
                        return;
                    }
                }
            }
            (Shape::Object(_), value) => {
                error(errors, format!("expected map, got {}", shown(value)));
            }
        }
    }

    /// The fields that a configuration claims: its scalars, its list items, the keys of its maps.
    pub fn fields(&self, kind: TypeRef, value: &Value) -> FieldSet {
        self.fields_below(kind, value).1
    }

    /// Whether the field itself is claimed, and what is below it.
    fn fields_below(&self, kind: TypeRef, value: &Value) -> (bool, FieldSet) {
        let mut set = FieldSet::default();
        match (self.shape(kind), value) {
            (Shape::Any, Value::Object(map)) => {
                self.fields_of_map(map, |_| (kind, false), &mut set)
            }
            (Shape::Any | Shape::Scalar(_), _) => return (true, set),
            (Shape::List(List { kind: ListKind::Atomic, .. }), _) => return (true, set),
            (Shape::List(list), Value::Array(items)) => {
                for (element, indices) in list.index(items) {
                    set.add(element.clone());
                    // What occurs more than once is owned as one.
                    if let [at] = indices[..] {
                        set.add_below(&element, self.fields_below(list.items, &items[at]).1);
                    }
                }
            }
            (Shape::Object(object), _) if object.atomic => return (true, set),
            (Shape::Object(object), Value::Object(map)) => {
                let step = |name: &str| match object.field(name) {
                    Some(field) => (field.kind, true),
                    None => (object.rest.unwrap_or(kind), false),
                };
                self.fields_of_map(map, step, &mut set);
            }
            (Shape::List(_) | Shape::Object(_), _) => {}
        }
        (false, set)
    }

    fn fields_of_map(
        &self,
        map: &Map<String, Value>,
        step: impl Fn(&str) -> (TypeRef, bool),
        set: &mut FieldSet,
    ) {
        for (name, value) in map {
            let (kind, declared) = step(name);
            let element = PathElement::field(name);
            let (claimed, below) = self.fields_below(kind, value);
            let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
            if claimed || empty || !declared {
                set.add(element.clone());
            }
            set.add_below(&element, below);
        }
    }
}

// === impl Scalar ===

impl Scalar {
    /// Why a value is no such scalar.
    pub(super) fn refuses(self, value: &Value, side: &str) -> Option<(String, String)> {
        let expected = match (self, value) {
            (_, Value::Null)
            | (Self::String | Self::Any, Value::String(_))
            | (Self::Number | Self::Any, Value::Number(_))
            | (Self::Boolean | Self::Any, Value::Bool(_)) => return None,
            (Self::String, other) => format!("expected string, got {}", go_syntax(other)),
            (Self::Number, other) => {
                format!("expected numeric (int or float), got {}", go_type(other))
            }
            (Self::Boolean, other) => format!("expected boolean, got {}", shown(other)),
            (Self::Any, other) => format!("expected any scalar, got {}", shown(other)),
        };
        Some((String::new(), format!("{side}{expected}")))
    }
}

// === impl List ===

impl List {
    /// What tells an item of a set or map list apart.
    pub(super) fn element(&self, item: &Value) -> Result<PathElement, String> {
        match (&self.kind, item) {
            (ListKind::Atomic, _) => Err("invalid indexing of non-associative list".to_owned()),
            (ListKind::Map(_), Value::Null) => {
                Err("associative list with keys may not have a null element".to_owned())
            }
            (ListKind::Map(keys), Value::Object(fields)) => {
                let found = keys.iter().filter_map(|key| {
                    let value = fields.get(&*key.name).or(key.default.as_ref())?;
                    Some((key.name.clone(), value.clone()))
                });
                let found: Vec<_> = found.collect();
                if found.is_empty() && !keys.is_empty() {
                    let names: Vec<_> = keys.iter().map(|key| format!("{:?}", key.name)).collect();
                    return Err(format!(
                        "associative list with keys has an element that omits all key fields [{}] \
                         (and doesn't have default values for any key fields)",
                        names.join(" ")
                    ));
                }
                Ok(PathElement::key(found))
            }
            (ListKind::Map(_), _) => {
                Err("associative list with keys may not have non-map elements".to_owned())
            }
            (ListKind::Set, Value::Object(_)) => {
                Err("associative list without keys has an element that's a map type".to_owned())
            }
            (ListKind::Set, Value::Array(_)) => {
                Err("not supported: associative list with lists as elements".to_owned())
            }
            (ListKind::Set, Value::Null) => {
                Err("associative list without keys has an element that's an explicit null"
                    .to_owned())
            }
            (ListKind::Set, value) => Ok(PathElement::Value(value.clone())),
        }
    }

    /// The items by what tells them apart, in the order of the first ones; what is no item is left
    /// out.
    pub(super) fn index(&self, items: &[Value]) -> Vec<(PathElement, Vec<usize>)> {
        let mut index: Vec<(PathElement, Vec<usize>)> = Vec::with_capacity(items.len());
        let mut known = std::collections::BTreeMap::new();
        for (at, item) in items.iter().enumerate() {
            let Ok(element) = self.element(item) else { continue };
            match known.get(&element) {
                Some(place) => {
                    let (_, places): &mut (PathElement, Vec<usize>) = &mut index[*place];
                    places.push(at);
                }
                None => {
                    known.insert(element.clone(), index.len());
                    index.push((element, vec![at]));
                }
            }
        }
        index
    }
}

/// A value as Go's `%v` prints the structured ones.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A value as Go's `%#v` prints it.
fn go_syntax(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::Number(number) => format!("&value.valueUnstructured{{Value:{number}}}"),
        Value::Bool(flag) => format!("&value.valueUnstructured{{Value:{flag}}}"),
        other => format!("&value.valueUnstructured{{Value:{other}}}"),
    }
}

/// The Go type that a JSON value is decoded to.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
