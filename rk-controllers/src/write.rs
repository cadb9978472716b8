//! Writing back: the smallest merge patch that leads from what was read to what should be.
//!
//! Updates send only what changed, so fields that this version of the types does not know survive,
//! and name the `resourceVersion` they start from, so a write by somebody else in between is never
//! lost.

use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

/// The JSON merge patch (RFC 7386) from `before` to `after`; null if they are the same.
pub(crate) fn difference(before: &Value, after: &Value) -> Value {
    let (Value::Object(before), Value::Object(after)) = (before, after) else {
        return if before == after { Value::Null } else { after.clone() };
    };
    let mut patch = Map::new();
    for (key, value) in after {
        match before.get(key) {
            Some(old) if old == value => {}
            Some(old @ Value::Object(_)) if value.is_object() => {
                patch.insert(key.clone(), difference(old, value));
            }
            _ => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    if patch.is_empty() { Value::Null } else { Value::Object(patch) }
}

/// Which part of an object is written.
#[derive(Clone, Copy)]
pub(crate) enum Part {
    /// Metadata and spec.
    Main,
    /// The status subresource.
    Status,
}

/// Brings the object from `before` to `after`. Conflicts if somebody wrote it since `before`;
/// without a difference nothing is sent, and `before` is what is returned.
pub(crate) async fn update<K>(
    api: &Api<K>,
    before: &K,
    after: &K,
    part: Part,
) -> Result<K, kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    let to_json = |object: &K| serde_json::to_value(object).map_err(kube::Error::SerdeError);
    let mut patch = difference(&to_json(before)?, &to_json(after)?);
    if patch.is_null() {
        return Ok(before.clone());
    }
    patch["metadata"]["resourceVersion"] = json!(before.resource_version());
    let (name, params, patch) = (before.name_any(), PatchParams::default(), Patch::Merge(patch));
    match part {
        Part::Main => api.patch(&name, &params, &patch).await,
        Part::Status => api.patch_status(&name, &params, &patch).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_sent() {
        let before = json!({"metadata": {"name": "a", "labels": {"x": "1", "y": "2"}}, "spec": {"replicas": 1}, "list": [1, 2]});
        let after = json!({"metadata": {"name": "a", "labels": {"x": "1", "z": "3"}}, "spec": {"replicas": 2}, "list": [1]});
        let patch = difference(&before, &after);
        assert_eq!(
            patch,
            json!({"metadata": {"labels": {"y": null, "z": "3"}}, "spec": {"replicas": 2}, "list": [1]})
        );
        assert_eq!(difference(&before, &before), Value::Null);
    }
}
