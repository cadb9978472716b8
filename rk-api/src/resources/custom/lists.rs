//! Lists whose items must differ: sets and maps.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::schema::{ListType, Schema};
use crate::field::{ErrorList, FieldError, Path};

/// The items that a set or a map has more than once. Of several that are the same only the second
/// is named.
pub(super) fn validate(object: &Map<String, Value>, schema: &Schema, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    members(object, schema, path, &mut errors);
    errors
}

fn members(object: &Map<String, Value>, schema: &Schema, path: &Path, errors: &mut ErrorList) {
    for (name, member) in object {
        match schema.properties.get(name.as_str()) {
            Some(property) => value(member, property, &path.child(name), errors),
            None => {
                if let Some(schema) = schema.member(name) {
                    value(member, schema, &path.key(name), errors);
                }
            }
        }
    }
}

fn value(found: &Value, schema: &Schema, path: &Path, errors: &mut ErrorList) {
    match found {
        Value::Object(object) => members(object, schema, path, errors),
        Value::Array(items) => {
            match &schema.list {
                ListType::Atomic => {}
                ListType::Set => {
                    let repeated = repeated(items.iter().map(canonical));
                    errors.extend(repeated.into_iter().map(|index| {
                        FieldError::duplicate(&path.index(index), items[index].clone())
                    }));
                }
                ListType::Map(keys) => map(items, keys, path, errors),
            }
            if let Some(schema) = &schema.items {
                for (index, item) in items.iter().enumerate() {
                    value(item, schema, &path.index(index), errors);
                }
            }
        }
        _ => {}
    }
}

fn map(items: &[Value], keys: &[Box<str>], path: &Path, errors: &mut ErrorList) {
    let wrong = items.iter().position(|item| !item.is_object() && !item.is_null());
    if let Some(index) = wrong {
        let detail = "must be an object for an array of list-type map";
        errors.push(FieldError::invalid(&path.index(index), items[index].clone(), detail));
        return;
    }
    let identities: Vec<_> = items.iter().map(|item| identity(item, keys)).collect();
    for index in repeated(identities.iter().map(canonical)) {
        errors.push(FieldError::duplicate(&path.index(index), identities[index].clone()));
    }
}

/// The members by which an item of a map is told apart.
pub(super) fn identity(item: &Value, keys: &[Box<str>]) -> Value {
    let member = |key: &str| Some((key.to_owned(), item.get(key)?.clone()));
    Value::Object(keys.iter().filter_map(|key| member(key)).collect())
}

/// As text that is the same for the same values: members of an object are in the order of their
/// names.
fn canonical(value: &Value) -> String {
    value.to_string()
}

fn repeated(items: impl Iterator<Item = String>) -> Vec<usize> {
    let mut times: HashMap<String, usize> = HashMap::new();
    let mut indices = Vec::new();
    for (index, item) in items.enumerate() {
        let times = times.entry(item).or_default();
        *times += 1;
        if *times == 2 {
            indices.push(index);
        }
    }
    indices
}
