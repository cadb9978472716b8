//! What an update changes, field by field.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    path::{PathElement, same},
    schema::{List, ListKind, Object, Schema, Shape, TypeRef},
    set::FieldSet,
    typed::{Errors, TypeError, error, finish, prefix},
};

/// The fields in which two objects differ; none is in two of the sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Fields that only the old object has.
    pub removed: FieldSet,
    /// Fields that both have, with different values.
    pub modified: FieldSet,
    /// Fields that only the new object has.
    pub added: FieldSet,
}

/// What happened to a field itself, its children aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    None,
    Removed,
    Modified,
    Added,
}

impl Comparison {
    /// Whether the objects are the same.
    pub fn is_same(&self) -> bool {
        self.removed.is_empty() && self.modified.is_empty() && self.added.is_empty()
    }

    /// What the new object sets.
    pub fn set(&self) -> FieldSet {
        self.modified.union(&self.added)
    }

    /// The same, each set changed.
    #[must_use]
    pub fn map(self, change: impl Fn(FieldSet) -> FieldSet) -> Self {
        Self {
            removed: change(self.removed),
            modified: change(self.modified),
            added: change(self.added),
        }
    }

    fn note(&mut self, element: &PathElement, change: Change, below: Self) {
        match change {
            Change::None => {}
            Change::Removed => self.removed.add(element.clone()),
            Change::Modified => self.modified.add(element.clone()),
            Change::Added => self.added.add(element.clone()),
        }
        self.removed.add_below(element, below.removed);
        self.modified.add_below(element, below.modified);
        self.added.add_below(element, below.added);
    }
}

impl Schema {
    /// Compares two objects of a type.
    ///
    /// # Errors
    /// When an item of a list cannot be told apart from others.
    pub fn compare(
        &self,
        kind: TypeRef,
        old: &Value,
        new: &Value,
    ) -> Result<Comparison, TypeError> {
        let mut errors = Errors::new();
        let (_, comparison) = self.compare_values(kind, Some(old), Some(new), &mut errors);
        finish(comparison, errors)
    }

    /// Compares one field of two objects, which either may not have.
    pub(super) fn compare_field(
        &self,
        kind: TypeRef,
        name: &str,
        old: Option<&Value>,
        new: Option<&Value>,
        comparison: &mut Comparison,
    ) -> Result<(), TypeError> {
        let mut errors = Errors::new();
        self.compare_one(kind, name, (old, new), true, comparison, &mut errors);
        finish((), errors)
    }

    fn compare_values(
        &self,
        kind: TypeRef,
        old: Option<&Value>,
        new: Option<&Value>,
        errors: &mut Errors,
    ) -> (Change, Comparison) {
        let mut below = Comparison::default();
        let whole = || (leaf(old, new), Comparison::default());
        // Null fits every type.
        let value = new.filter(|value| !value.is_null()).or(old);
        match self.shape(kind) {
            Shape::Scalar(_) => return whole(),
            Shape::List(List { kind: ListKind::Atomic, .. }) => return whole(),
            Shape::Object(Object { atomic: true, .. }) => return whole(),
            Shape::List(list) => {
                let (old, new) = (items(old), items(new));
                if old.is_empty() && new.is_empty() {
                    return whole();
                }
                self.compare_items(list, old, new, &mut below, errors);
            }
            Shape::Object(_) => {
                let (old, new) = (members(old), members(new));
                if is_empty(old) && is_empty(new) {
                    return whole();
                }
                self.compare_members(kind, old, new, &mut below, errors);
            }
            Shape::Any if value.is_some_and(Value::is_object) => {
                if let (Some(one), Some(other)) = (old, new)
                    && one.is_object() != other.is_object()
                    && !one.is_null()
                    && !other.is_null()
                {
                    return whole();
                }
                let (old, new) = (members(old), members(new));
                if is_empty(old) && is_empty(new) {
                    return whole();
                }
                self.compare_members(kind, old, new, &mut below, errors);
            }
            Shape::Any => return whole(),
        }
        let change = match (old, new) {
            (None, Some(_)) => Change::Added,
            (Some(_), None) => Change::Removed,
            _ => Change::None,
        };
        (change, below)
    }

    fn compare_members(
        &self,
        kind: TypeRef,
        old: Option<&Map<String, Value>>,
        new: Option<&Map<String, Value>>,
        comparison: &mut Comparison,
        errors: &mut Errors,
    ) {
        // A map that is not there has no fields, not even those that are always there.
        let zero = old.is_some() && new.is_some();
        for (name, value) in old.into_iter().flatten() {
            let other = new.and_then(|map| map.get(name));
            if other.is_some_and(|other| other == value) {
                continue;
            }
            self.compare_one(kind, name, (Some(value), other), zero, comparison, errors);
        }
        for (name, value) in new.into_iter().flatten() {
            if old.is_none_or(|map| !map.contains_key(name)) {
                self.compare_one(kind, name, (None, Some(value)), zero, comparison, errors);
            }
        }
    }

    fn compare_one(
        &self,
        kind: TypeRef,
        name: &str,
        (mut old, mut new): (Option<&Value>, Option<&Value>),
        zero: bool,
        comparison: &mut Comparison,
        errors: &mut Errors,
    ) {
        let step = match self.shape(kind) {
            Shape::Object(object) => {
                let field = object.field(name);
                if zero && let Some(zero) = field.and_then(|field| field.zero.as_ref()) {
                    old = old.or(Some(zero));
                    new = new.or(Some(zero));
                }
                // What is not declared is one value.
                field.map(|field| field.kind).or(object.rest)
            }
            _ => Some(kind),
        };
        let element = PathElement::field(name);
        let from = errors.len();
        let (change, below) = match step {
            Some(step) => self.compare_values(step, old, new, errors),
            None => (leaf(old, new), Comparison::default()),
        };
        prefix(errors, from, &element);
        comparison.note(&element, change, below);
    }

    fn compare_items(
        &self,
        list: &List,
        old: &[Value],
        new: &[Value],
        comparison: &mut Comparison,
        errors: &mut Errors,
    ) {
        for side in [old, new] {
            for (at, item) in side.iter().enumerate() {
                if let Err(why) = list.element(item) {
                    error(errors, format!("element {at}: {why}"));
                }
            }
        }
        let (old_index, new_index) = (list.index(old), list.index(new));
        let (old_places, new_places) = (places(&old_index), places(&new_index));
        let only_new = new_index.iter().filter(|(element, _)| !old_places.contains_key(element));
        for (element, _) in old_index.iter().chain(only_new) {
            let was = old_places.get(element).copied().unwrap_or_default();
            let is = new_places.get(element).copied().unwrap_or_default();
            let from = errors.len();
            let (change, below) = match (was, is) {
                ([] | [_], [] | [_]) => {
                    let was = was.first().map(|at| &old[*at]);
                    let is = is.first().map(|at| &new[*at]);
                    self.compare_values(list.items, was, is, errors)
                }
                // Duplicates are owned as one value.
                ([_, _, ..], [_, _, ..]) => {
                    let same = was.len() == is.len()
                        && was.iter().zip(is).all(|(was, is)| same(&old[*was], &new[*is]));
                    (if same { Change::None } else { Change::Modified }, Comparison::default())
                }
                ([_, _, ..], _) => {
                    let item = is.first().map(|at| &new[*at]);
                    let below = item
                        .map(|item| self.compare_values(list.items, None, Some(item), errors).1);
                    if item.is_some() {
                        comparison.added.add(element.clone());
                    }
                    (Change::Removed, below.unwrap_or_default())
                }
                (_, [_, _, ..]) => {
                    let item = was.first().map(|at| &old[*at]);
                    let below = item
                        .map(|item| self.compare_values(list.items, Some(item), None, errors).1);
                    if item.is_some() {
                        comparison.removed.add(element.clone());
                    }
                    (Change::Added, below.unwrap_or_default())
                }
            };
            prefix(errors, from, element);
            comparison.note(element, change, below);
        }
    }
}

/// Where the items of a list are.
fn places(index: &[(PathElement, Vec<usize>)]) -> BTreeMap<&PathElement, &[usize]> {
    index.iter().map(|(element, places)| (element, places.as_slice())).collect()
}

fn leaf(old: Option<&Value>, new: Option<&Value>) -> Change {
    match (old, new) {
        (None, None) => Change::None,
        (None, Some(_)) => Change::Added,
        (Some(_), None) => Change::Removed,
        (Some(old), Some(new)) if same(old, new) => Change::None,
        (Some(_), Some(_)) => Change::Modified,
    }
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn members(value: Option<&Value>) -> Option<&Map<String, Value>> {
    // Null is there, and has no members.
    static EMPTY: std::sync::OnceLock<Map<String, Value>> = std::sync::OnceLock::new();
    value.map(|value| value.as_object().unwrap_or_else(|| EMPTY.get_or_init(Map::new)))
}

fn is_empty(map: Option<&Map<String, Value>>) -> bool {
    map.is_none_or(Map::is_empty)
}
