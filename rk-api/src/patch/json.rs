//! JSON patch (RFC 6902), with the liberties that kube-apiserver takes.

use json_patch::{
    PatchOperation,
    jsonptr::{Pointer, PointerBuf},
};
use serde_json::{Map, Value};

use super::{JSON_PATCH_OPERATIONS_MAX, PatchError, wording};

pub(super) fn apply(object: &mut Value, patch: &[u8]) -> Result<(), PatchError> {
    for operation in decode(patch)? {
        step(object, operation)?;
    }
    Ok(())
}

/// Only the outer shape counts as malformed: what is wrong with a single operation is found when
/// its turn comes, and is then an operation that does not apply.
fn decode(patch: &[u8]) -> Result<Vec<Map<String, Value>>, PatchError> {
    let malformed = |text: String| PatchError::Malformed(format!("error decoding patch: {text}"));
    let patch: Value = serde_json::from_slice(patch)
        .map_err(|error| malformed(wording::json_error(patch, &error)))?;
    let operations = match patch {
        Value::Array(operations) => operations,
        Value::Null => Vec::new(),
        other => return Err(malformed(wording::type_error(&other, "[]handlers.jsonPatchOp"))),
    };
    if operations.len() > JSON_PATCH_OPERATIONS_MAX {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {JSON_PATCH_OPERATIONS_MAX}, got {}",
            operations.len()
        )));
    }
    let operation = |operation| match operation {
        Value::Object(operation) => Ok(operation),
        other => Err(malformed(wording::type_error(&other, "handlers.jsonPatchOp"))),
    };
    operations.into_iter().map(operation).collect()
}

fn step(object: &mut Value, mut operation: Map<String, Value>) -> Result<(), PatchError> {
    let cannot = |text: String| PatchError::CannotApply(text);
    for name in ["path", "from"] {
        if let Some(Value::String(path)) = operation.get(name)
            && let Some(path) = from_the_end(object, path)
        {
            operation.insert(name.into(), path.into());
        }
    }
    // An operation without a value means null.
    operation.entry("value").or_insert(Value::Null);
    let operation: PatchOperation = serde_json::from_value(Value::Object(operation))
        .map_err(|error| cannot(error.to_string()))?;
    if tests_for_absence(object, &operation) {
        return Ok(());
    }
    json_patch::patch_unsafe(object, &[operation]).map_err(|error| cannot(error.to_string()))
}

/// A test for null also passes where there is nothing, if there is an object to hold it.
fn tests_for_absence(object: &Value, operation: &PatchOperation) -> bool {
    let PatchOperation::Test(test) = operation else { return false };
    let Some((parent, field)) = test.path.split_back() else { return false };
    let Some(Value::Object(parent)) = object.pointer(parent.as_str()) else { return false };
    test.value.is_null() && !parent.contains_key(field.decoded().as_ref())
}

/// `path` with negative indices, which count from the end of their list, made positive; `None` if
/// it has none (or an invalid one).
fn from_the_end(object: &Value, path: &str) -> Option<String> {
    if !path.contains("/-") {
        return None;
    }
    let pointer = Pointer::parse(path).ok()?;
    let mut resolved = PointerBuf::new();
    for token in pointer.tokens() {
        let index = || {
            let index: usize = token.encoded().strip_prefix('-')?.parse().ok()?;
            let items = object.pointer(resolved.as_str())?.as_array()?;
            items.len().checked_sub(index)
        };
        match index() {
            Some(index) => resolved.push_back(index),
            None => resolved.push_back(token),
        }
    }
    Some(resolved.to_string())
}
