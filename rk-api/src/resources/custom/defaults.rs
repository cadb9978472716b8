//! Filling in what a schema has defaults for.

use serde_json::{Map, Value};

use super::schema::{Additional, Schema};

/// Fills in what was left out, and what is null where the schema allows no null. A null that can
/// neither be nor be replaced is taken away. Says whether anything changed.
///
/// Defaulting twice is defaulting once.
pub(crate) fn default(object: &mut Map<String, Value>, schema: &Schema) -> bool {
    drop_nulls(object, schema) | fill(object, schema)
}

/// A null where none may be, and for which there is nothing else.
fn is_stray(value: &Value, schema: Option<&Schema>) -> bool {
    value.is_null() && schema.is_some_and(|schema| !schema.nullable && schema.default.is_none())
}

fn drop_nulls(object: &mut Map<String, Value>, schema: &Schema) -> bool {
    let before = object.len();
    object.retain(|name, value| !is_stray(value, schema.member(name)));
    let mut changed = object.len() != before;
    for (name, value) in object.iter_mut() {
        if let Some(schema) = schema.member(name) {
            changed |= drop_nulls_in(value, schema);
        }
    }
    changed
}

fn drop_nulls_in(value: &mut Value, schema: &Schema) -> bool {
    match (value, &schema.items) {
        (Value::Object(members), _) => drop_nulls(members, schema),
        // An item is not taken away: what comes after it would move.
        (Value::Array(list), Some(items)) => {
            list.iter_mut().fold(false, |changed, item| drop_nulls_in(item, items) | changed)
        }
        _ => false,
    }
}

fn fill(object: &mut Map<String, Value>, schema: &Schema) -> bool {
    let mut changed = false;
    for (name, property) in schema.properties.iter() {
        let Some(default) = &property.default else { continue };
        match object.get_mut(name) {
            None => {
                object.insert(name.to_owned(), default.clone());
                changed = true;
            }
            Some(value) => changed |= replace_null(value, property),
        }
    }
    for (name, value) in object.iter_mut() {
        match (schema.properties.get(name.as_str()), &schema.additional) {
            (Some(property), _) => changed |= fill_value(value, property),
            (None, Additional::Schema(values)) => {
                changed |= replace_null(value, values);
                changed |= fill_value(value, values);
            }
            (None, _) => {}
        }
    }
    changed
}

fn fill_value(value: &mut Value, schema: &Schema) -> bool {
    match (value, &schema.items) {
        (Value::Object(members), _) => fill(members, schema),
        (Value::Array(list), Some(items)) => list.iter_mut().fold(false, |changed, item| {
            let replaced = replace_null(item, items);
            replaced | fill_value(item, items) | changed
        }),
        _ => false,
    }
}

fn replace_null(value: &mut Value, schema: &Schema) -> bool {
    match &schema.default {
        Some(default) if value.is_null() && !schema.nullable => {
            value.clone_from(default);
            true
        }
        _ => false,
    }
}
