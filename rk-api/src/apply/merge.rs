//! Laying a configuration over an object.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    path::PathElement,
    schema::{List, ListKind, Object, Schema, Shape, TypeRef},
    typed::{Errors, TypeError, error, finish, prefix},
};

impl Schema {
    /// The object with all that the configuration has; what only the object has stays.
    ///
    /// Items of sets and map lists keep the configuration's order, the object's own items stay
    /// where they are among them.
    ///
    /// # Errors
    /// When an item of a list cannot be told apart from others.
    pub fn merge(
        &self,
        kind: TypeRef,
        object: &Value,
        configuration: &Value,
    ) -> Result<Value, TypeError> {
        let mut errors = Errors::new();
        let merged = self.merge_values(kind, Some(object), Some(configuration), &mut errors);
        finish(merged.unwrap_or_default(), errors)
    }

    fn merge_values(
        &self,
        kind: TypeRef,
        left: Option<&Value>,
        right: Option<&Value>,
        errors: &mut Errors,
    ) -> Option<Value> {
        let whole = || right.or(left).cloned();
        match self.shape(kind) {
            Shape::Scalar(_)
            | Shape::List(List { kind: ListKind::Atomic, .. })
            | Shape::Object(Object { atomic: true, .. }) => whole(),
            Shape::List(list) => {
                let (left, right) = (array(left), array(right));
                if left.is_empty() && right.is_empty() {
                    return whole();
                }
                let items = self.merge_items(list, left, right, errors);
                (!items.is_empty()).then_some(Value::Array(items))
            }
            Shape::Object(object) => {
                let step = |name: &str| object.kind_of(name);
                self.merge_members(step, left, right, errors)
            }
            Shape::Any => {
                let objects = |value: Option<&Value>| {
                    value.is_none_or(|value| value.is_object() || value.is_null())
                };
                if !objects(left) || !objects(right) {
                    return whole();
                }
                self.merge_members(|_| Some(kind), left, right, errors)
            }
        }
    }

    fn merge_members(
        &self,
        step: impl Fn(&str) -> Option<TypeRef>,
        left: Option<&Value>,
        right: Option<&Value>,
        errors: &mut Errors,
    ) -> Option<Value> {
        let (old, new) = (left.and_then(Value::as_object), right.and_then(Value::as_object));
        let empty = |map: Option<&Map<String, Value>>| map.is_none_or(Map::is_empty);
        if empty(old) && empty(new) {
            return right.or(left).cloned();
        }
        let mut merged = Map::new();
        let mut add = |name: &String, old: Option<&Value>, new: Option<&Value>| {
            let from = errors.len();
            let value = match step(name) {
                Some(kind) => self.merge_values(kind, old, new, errors),
                None => new.or(old).cloned(),
            };
            if errors.len() > from {
                prefix(errors, from, &PathElement::field(name));
            }
            if let Some(value) = value {
                merged.insert(name.clone(), value);
            }
        };
        for (name, value) in old.into_iter().flatten() {
            match new.and_then(|map| map.get(name)) {
                // The type is not looked into where nothing is laid over.
                None => add(name, Some(value), None),
                new => add(name, Some(value), new),
            }
        }
        for (name, value) in new.into_iter().flatten() {
            if old.is_none_or(|map| !map.contains_key(name)) {
                add(name, None, Some(value));
            }
        }
        (!merged.is_empty()).then_some(Value::Object(merged))
    }

    fn merge_items(
        &self,
        list: &List,
        left: &[Value],
        right: &[Value],
        errors: &mut Errors,
    ) -> Vec<Value> {
        let before = errors.len();
        let lefts = elements(list, left, errors);
        let rights = elements(list, right, errors);
        let right_at = positions(&rights);
        for (at, element) in rights.iter().enumerate() {
            if right_at.get(element).is_some_and(|places| places[0] != at) {
                error(errors, format!("duplicate entries for key {element}"));
            }
        }
        if errors.len() > before {
            return Vec::new();
        }
        let left_at = positions(&lefts);
        let mut merge = |element: &PathElement, old: Option<&Value>, new: Option<&Value>| {
            let from = errors.len();
            let merged = self.merge_values(list.items, old, new, errors);
            prefix(errors, from, element);
            merged
        };
        // Items of the object that occur twice are not merged with the configuration's.
        let only_left = |element: &PathElement| match left_at.get(element).map(Vec::as_slice) {
            Some([at]) => Some(&left[*at]),
            Some(_) => Some(&Value::Null),
            None => None,
        };
        let mut shared = rights.iter().filter(|element| left_at.contains_key(*element));
        let mut next_shared = shared.next();
        let mut taken = std::collections::BTreeSet::new();
        let mut out = Vec::with_capacity(left.len().max(right.len()));
        let (mut l, mut r) = (0, 0);
        while l < lefts.len() || r < rights.len() {
            if let (Some(ours), Some(theirs)) = (lefts.get(l), rights.get(r)) {
                if ours == theirs {
                    taken.insert(ours);
                    out.extend(merge(ours, only_left(ours), Some(&right[r])));
                    l += 1;
                    r += 1;
                    next_shared = shared.next();
                    continue;
                }
                if right_at.contains_key(ours) && next_shared.is_some_and(|next| next != ours) {
                    // Its turn comes where the configuration has it.
                    l += 1;
                    continue;
                }
            }
            if let Some(ours) = lefts.get(l) {
                if !right_at.contains_key(ours) {
                    out.extend(merge(ours, Some(&left[l]), None));
                    l += 1;
                    continue;
                }
                if taken.contains(ours) {
                    l += 1;
                }
            }
            if let Some(theirs) = rights.get(r) {
                taken.insert(theirs);
                out.extend(merge(theirs, only_left(theirs), Some(&right[r])));
                r += 1;
                if next_shared == Some(theirs) {
                    next_shared = shared.next();
                }
            }
        }
        out
    }
}

fn array(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn elements(list: &List, items: &[Value], errors: &mut Errors) -> Vec<PathElement> {
    let mut out = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        match list.element(item) {
            Ok(element) => out.push(element),
            Err(why) => error(errors, format!("element {at}: {why}")),
        }
    }
    out
}

fn positions(elements: &[PathElement]) -> BTreeMap<&PathElement, Vec<usize>> {
    let mut places: BTreeMap<&PathElement, Vec<usize>> = BTreeMap::new();
    for (at, element) in elements.iter().enumerate() {
        places.entry(element).or_default().push(at);
    }
    places
}
