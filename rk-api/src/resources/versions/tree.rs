//! Moving things about in JSON trees.

use serde_json::{Map, Value};

/// The object at the end of this path of fields; `None` when something on the way is none.
pub(super) fn object<'a>(tree: &'a mut Value, path: &[&str]) -> Option<&'a mut Map<String, Value>> {
    path.iter().try_fold(tree, |tree, field| tree.get_mut(*field))?.as_object_mut()
}

/// The items of a list; none when it is no list.
pub(super) fn items(tree: Option<&mut Value>) -> impl Iterator<Item = (usize, &mut Value)> {
    tree.and_then(Value::as_array_mut).into_iter().flatten().enumerate()
}

/// Takes a field that this version does not have away, and names it.
pub(super) fn refuse(
    object: &mut Map<String, Value>,
    field: &str,
    path: &str,
    unknown: &mut Vec<String>,
) {
    if object.remove(field).is_some() {
        unknown.push(format!("{path}{field}"));
    }
}

/// Fills in a field that is absent or null.
pub(super) fn default(object: &mut Map<String, Value>, field: &str, value: impl Into<Value>) {
    let found = object.entry(field).or_insert(Value::Null);
    if found.is_null() {
        *found = value.into();
    }
}

/// Takes a field that is there, and not null.
pub(super) fn take(object: &mut Map<String, Value>, field: &str) -> Option<Value> {
    object.remove(field).filter(|value| !value.is_null())
}

/// An annotation's text.
pub(super) fn take_annotation(object: &mut Value, name: &str) -> Option<String> {
    let annotations = self::object(object, &["metadata", "annotations"])?;
    let taken = annotations.remove(name)?;
    if annotations.is_empty() {
        self::object(object, &["metadata"])?.remove("annotations");
    }
    taken.as_str().map(ToOwned::to_owned)
}

/// Sets an annotation.
pub(super) fn annotate(object: &mut Value, name: &str, text: String) {
    let Some(metadata) = self::object(object, &["metadata"]) else { return };
    default(metadata, "annotations", Map::new());
    if let Some(annotations) = self::object(object, &["metadata", "annotations"]) {
        annotations.insert(name.to_owned(), text.into());
    }
}
