//! Strategic merge patch: a merge patch that knows how the lists of a kind merge.
//!
//! Besides values, a patch can hold directives:
//!
//! | directive | where | meaning |
//! |---|---|---|
//! | `$patch: replace` | object | takes the place of the whole object |
//! | `$patch: delete` | object | empties the object |
//! | `$patch: delete` | item of a keyed list | removes the item with its key |
//! | `$patch: replace` | item of a keyed list | the other items take the place of the whole list |
//! | `$retainKeys: [..]` | object | drops all other fields first |
//! | `$deleteFromPrimitiveList/field: [..]` | object | removes values from a list of scalars |
//! | `$setElementOrder/field: [..]` | object | the order of the list afterwards |
//!
//! Lists without a merge strategy are replaced. In merged lists, items of the patch come in the
//! patch's order (or that of `$setElementOrder`), and items that only the server has stay, as far
//! as that allows, where they were among the items that both have. The rules are those of
//! Kubernetes' *preserve order in strategic merge patch* proposal.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::{PatchError, wording};
use crate::schema::{Definition, Field, Graph, Merge, Type};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList";
const SET_ORDER: &str = "$setElementOrder";

type Object = Map<String, Value>;

/// Applies `patch` to an `object` of the type `schema`.
pub fn apply(
    graph: &Graph,
    schema: &Definition,
    object: &mut Value,
    patch: &[u8],
) -> Result<(), PatchError> {
    let patch: Value = serde_json::from_slice(patch)
        .map_err(|error| PatchError::Malformed(wording::json_error(patch, &error)))?;
    let patch = match patch {
        Value::Object(patch) => patch,
        Value::Null => return Ok(()),
        other => {
            let text = wording::type_error(&other, "map[string]interface {}");
            return Err(PatchError::Malformed(text));
        }
    };
    let Value::Object(object) = object else {
        return Err(PatchError::Malformed("invalid JSON document".into()));
    };
    merge_object(object, patch, Place { graph, kind: Shape::Struct(schema) })
}

/// Where in the schema a merge is.
#[derive(Clone, Copy)]
struct Place<'a> {
    graph: &'a Graph,
    kind: Shape<'a>,
}

#[derive(Clone, Copy)]
enum Shape<'a> {
    /// Fields are known.
    Struct(&'a Definition),
    /// Keys are free, values are alike.
    Map(&'a Type),
    /// Nothing is known.
    Any,
}

impl<'a> Place<'a> {
    /// Where the values of `kind` are.
    fn at(self, kind: &'a Type) -> Self {
        let kind = match kind {
            Type::Named(name) => match self.graph.get(name) {
                Some(definition) if definition.plain.is_none() => Shape::Struct(definition),
                _ => Shape::Any,
            },
            Type::Map(values) => Shape::Map(values),
            _ => Shape::Any,
        };
        Self { kind, ..self }
    }

    /// Where the items of the list `kind` are.
    fn in_list(self, kind: &'a Type) -> Self {
        match kind {
            Type::List(items) => self.at(items),
            _ => Self { kind: Shape::Any, ..self },
        }
    }

    fn field(self, name: &str) -> Result<(&'a Type, Option<&'a Merge>), PatchError> {
        match self.kind {
            Shape::Struct(definition) => match definition.field(name) {
                Some(Field { kind, merge, .. }) => Ok((kind, Some(merge))),
                None => Err(PatchError::Unmergeable(format!(
                    "unable to find api field for the json field {name:?}"
                ))),
            },
            Shape::Map(values) => Ok((values, None)),
            Shape::Any => Ok((&Type::Any, None)),
        }
    }
}

fn merge_object(
    original: &mut Object,
    mut patch: Object,
    place: Place<'_>,
) -> Result<(), PatchError> {
    if let Some(directive) = patch.remove(DIRECTIVE) {
        match directive.as_str() {
            Some("replace") => *original = patch,
            Some("delete") => original.clear(),
            _ => {
                patch.insert(DIRECTIVE.into(), directive.clone());
                return Err(unknown_directive(&directive, &patch));
            }
        }
        return Ok(());
    }
    retain_keys(original, &mut patch)?;
    merge_ordered_lists(original, &mut patch, place)?;
    for (name, value) in patch {
        merge_field(original, name, value, place)?;
    }
    Ok(())
}

fn merge_field(
    original: &mut Object,
    name: String,
    value: Value,
    place: Place<'_>,
) -> Result<(), PatchError> {
    let (name, deletes) = match name.strip_prefix(DELETE_FROM_LIST) {
        None => (name, false),
        Some(field) => match field.strip_prefix('/') {
            Some(field) => (field.to_owned(), true),
            None => return Err(malformed("invalid patch format of primitive list")),
        },
    };
    if value.is_null() {
        original.remove(&name);
        return Ok(());
    }
    match (original.get_mut(&name), value) {
        (Some(Value::Object(current)), Value::Object(patch)) => {
            let (kind, merge) = place.field(&name)?;
            if merge.is_some_and(Merge::replaces) {
                *current = patch;
            } else {
                merge_object(current, patch, place.at(kind))?;
            }
        }
        (Some(Value::Array(current)), Value::Array(patch)) => {
            let (kind, merge) = place.field(&name)?;
            let list = std::mem::take(current);
            *current = merge_list(list, patch, merge, place.in_list(kind), deletes)?;
        }
        // There is nothing to delete from.
        (_, _) if deletes => {}
        (_, value) => {
            match without_directives(super::merge::without_nulls(value)) {
                Some(value) => original.insert(name, value),
                None => original.remove(&name),
            };
        }
    }
    Ok(())
}

/// `$retainKeys`: drops the fields that the directive does not name.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let invalid = || malformed("invalid patch format of retainKeys");
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let keys = keys.as_array().ok_or_else(invalid)?;
    let keys: HashSet<&str> = keys.iter().filter_map(Value::as_str).collect();
    for (name, value) in &*patch {
        if !value.is_null() && !is_directive(name) && !keys.contains(name.as_str()) {
            return Err(invalid());
        }
    }
    original.retain(|name, _| keys.contains(name.as_str()));
    Ok(())
}

/// `$setElementOrder`: merges the lists for which there is an order, and takes both out of the
/// patch.
fn merge_ordered_lists(
    original: &mut Object,
    patch: &mut Object,
    place: Place<'_>,
) -> Result<(), PatchError> {
    let directives: Vec<String> =
        patch.keys().filter(|name| name.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let order = list(patch.remove(&directive).unwrap_or_default())?;
        let name = directive[SET_ORDER.len()..]
            .strip_prefix('/')
            .ok_or_else(|| malformed("invalid patch format of setElementOrder list"))?;
        let current = original.remove(name).map(list).transpose()?;
        let patched = patch.remove(name).map(list).transpose()?;
        let (kind, merge) = place.field(name)?;
        let key = merge.and_then(|merge| merge.patch_merge_key.as_deref());
        check_order(patched.as_deref().unwrap_or_default(), &order, key)?;

        let server_order = positions(current.as_deref().unwrap_or_default(), key);
        let merged = match (current, patched) {
            (Some(current), Some(patched)) => {
                merge_list(current, patched, merge, place.in_list(kind), false)?
            }
            (Some(current), None) => current,
            (None, Some(patched)) => patched.into_iter().filter_map(without_directives).collect(),
            (None, None) => continue,
        };
        let merged = arrange(merged, &positions(&order, key), &server_order, key)?;
        original.insert(name.to_owned(), Value::Array(merged));
    }
    Ok(())
}

/// The items of a patch must be among those of its order, and in that order.
fn check_order(patch: &[Value], order: &[Value], key: Option<&str>) -> Result<(), PatchError> {
    if order.is_empty() {
        return Ok(());
    }
    let mut rest = order.iter();
    for item in patch.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        let identity = identity(item, key)?;
        let found = loop {
            match rest.next() {
                Some(next) if self::identity(next, key)? == identity => break true,
                Some(_) => {}
                None => break false,
            }
        };
        if !found {
            let patch = wording::value(&Value::Array(patch.to_vec()));
            let order = wording::value(&Value::Array(order.to_vec()));
            return Err(PatchError::Unmergeable(format!(
                "The order in patch list:\n{patch}\n doesn't match {SET_ORDER} list:\n{order}\n"
            )));
        }
    }
    Ok(())
}

fn merge_list(
    original: Vec<Value>,
    patch: Vec<Value>,
    merge: Option<&Merge>,
    items: Place<'_>,
    deletes: bool,
) -> Result<Vec<Value>, PatchError> {
    let Some(merge) = merge.filter(|merge| merge.merges()) else { return Ok(patch) };
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    if !of_objects(&original, &patch)? {
        return merge_scalars(original, patch, deletes);
    }
    let Some(key) = merge.patch_merge_key.as_deref() else {
        return Err(PatchError::Unmergeable(
            "cannot merge lists without merge key for type struct".into(),
        ));
    };
    let (original, patch) = apply_item_directives(original, patch, key)?;
    let order = positions(&patch, Some(key));
    let server_order = positions(&original, Some(key));
    let merged = merge_items(original, patch, key, &server_order, items)?;
    arrange(merged, &order, &server_order, Some(key))
}

fn merge_scalars(
    original: Vec<Value>,
    patch: Vec<Value>,
    deletes: bool,
) -> Result<Vec<Value>, PatchError> {
    let order = positions(&patch, None);
    if deletes {
        return Ok(original.into_iter().filter(|item| !order.contains_key(item)).collect());
    }
    let server_order = positions(&original, None);
    let mut seen = HashSet::new();
    let merged =
        original.into_iter().chain(patch).filter(|item| seen.insert(item.clone())).collect();
    arrange(merged, &order, &server_order, None)
}

/// Carries out `$patch` in items of the patch: gives the list to merge into, and what to merge.
fn apply_item_directives(
    original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut plain = Vec::with_capacity(patch.len());
    let mut deleted = HashSet::new();
    let mut replaces = false;
    for item in patch {
        match item.get(DIRECTIVE) {
            None => plain.push(item),
            Some(directive) => match directive.as_str() {
                Some("delete") => _ = deleted.insert(identity(&item, Some(key))?.clone()),
                Some("replace") => replaces = true,
                Some("merge") => {
                    return Err(PatchError::Unmergeable(
                        "merging lists cannot yet be specified in the patch".into(),
                    ));
                }
                _ => {
                    return Err(unknown_directive(
                        directive,
                        item.as_object().unwrap_or(&Object::new()),
                    ));
                }
            },
        }
    }
    if replaces {
        return Ok((plain, Vec::new()));
    }
    let kept = |item: &Value| item.get(key).is_none_or(|value| !deleted.contains(value));
    Ok((original.into_iter().filter(kept).collect(), plain))
}

/// Merges the items of `patch` into those of `original`, which are at `places`, or appends them.
fn merge_items(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
    places: &HashMap<Value, usize>,
    items: Place<'_>,
) -> Result<Vec<Value>, PatchError> {
    let mut new_places = HashMap::new();
    for item in patch {
        let identity = identity(&item, Some(key))?;
        let at = places.get(identity).or_else(|| new_places.get(identity)).copied();
        match (at.and_then(|at| original.get_mut(at)), item) {
            (Some(Value::Object(current)), Value::Object(patch)) => {
                merge_object(current, patch, items)?;
            }
            (_, item) => {
                let identity = self::identity(&item, Some(key))?.clone();
                if let Some(item) = without_directives(item) {
                    new_places.insert(identity, original.len());
                    original.push(item);
                }
            }
        }
    }
    Ok(original)
}

/// Puts `merged` in order: items that `order` names in that order, and the others among them where
/// `server_order` has them, as far as possible.
fn arrange(
    merged: Vec<Value>,
    order: &HashMap<Value, usize>,
    server_order: &HashMap<Value, usize>,
    key: Option<&str>,
) -> Result<Vec<Value>, PatchError> {
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for item in merged {
        let identity = identity(&item, key)?;
        let at = server_order.get(identity).copied();
        match order.get(identity) {
            Some(&rank) => named.push((rank, at, item)),
            None => others.push((at, item)),
        }
    }
    named.sort_by_key(|(rank, _, _)| *rank);
    others.sort_by_key(|(at, _)| *at);

    let mut others = others.into_iter().peekable();
    let mut arranged = Vec::with_capacity(named.len() + others.len());
    for (_, at, item) in named {
        // Each of the server's own items goes before the first item that was behind it.
        while let Some((_, other)) =
            others.next_if(|(other_at, _)| at.is_some() && other_at.is_some() && *other_at < at)
        {
            arranged.push(other);
        }
        arranged.push(item);
    }
    arranged.extend(others.map(|(_, other)| other));
    Ok(arranged)
}

/// Where each item is in a list, by what tells items apart; the first of equals.
fn positions(list: &[Value], key: Option<&str>) -> HashMap<Value, usize> {
    let mut positions = HashMap::with_capacity(list.len());
    for (index, item) in list.iter().enumerate() {
        if let Ok(identity) = identity(item, key) {
            positions.entry(identity.clone()).or_insert(index);
        }
    }
    positions
}

/// What tells an item of a list from the others: the value of its key, or the item itself.
fn identity<'a>(item: &'a Value, key: Option<&str>) -> Result<&'a Value, PatchError> {
    let Some(key) = key else { return Ok(item) };
    if !item.is_object() {
        return Err(wrong_type("map[string]interface {}", item));
    }
    item.get(key).ok_or_else(|| {
        PatchError::Unmergeable(format!(
            "map: {} does not contain declared merge key: {key}",
            wording::value(item)
        ))
    })
}

/// Whether the items are objects; they must be alike, and no lists.
fn of_objects(original: &[Value], patch: &[Value]) -> Result<bool, PatchError> {
    let mut items = original.iter().chain(patch);
    let Some(first) = items.next() else { return Ok(false) };
    if first.is_array() {
        return Err(PatchError::CannotApply("lists of lists are not supported".into()));
    }
    if items.any(|item| go_type(item) != go_type(first)) {
        let lists = Value::Array(vec![original.to_vec().into(), patch.to_vec().into()]);
        return Err(PatchError::Unmergeable(format!(
            "list element types are not identical: {}",
            wording::value(&lists)
        )));
    }
    Ok(first.is_object())
}

/// `value` without directives, and without what is marked by `$patch`; `None` if that is all of it.
///
/// There is nothing to direct in what is new. kube-apiserver removes only the marked and leaves
/// the other directives to be dropped, with a warning, as unknown fields.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(fields) if fields.contains_key(DIRECTIVE) => None,
        Value::Object(fields) => Some(
            fields
                .into_iter()
                .filter(|(name, _)| !is_directive(name))
                .filter_map(|(name, field)| Some((name, without_directives(field)?)))
                .collect(),
        ),
        Value::Array(items) => Some(items.into_iter().filter_map(without_directives).collect()),
        scalar => Some(scalar),
    }
}

fn is_directive(name: &str) -> bool {
    name == RETAIN_KEYS || name.starts_with(DELETE_FROM_LIST) || name.starts_with(SET_ORDER)
}

fn list(value: Value) -> Result<Vec<Value>, PatchError> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(wrong_type("[]interface {}", &other)),
    }
}

fn malformed(text: &str) -> PatchError {
    PatchError::Malformed(text.into())
}

fn wrong_type(expected: &str, found: &Value) -> PatchError {
    PatchError::Unmergeable(format!("expected a {expected}, but received a {}", go_type(found)))
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn unknown_directive(directive: &Value, patch: &Object) -> PatchError {
    let patch = wording::value(&Value::Object(patch.clone()));
    PatchError::Unmergeable(format!(
        "unknown patch type: {} in map: {patch}",
        wording::value(directive)
    ))
}

#[cfg(test)]
mod tests;
