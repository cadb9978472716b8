//! Writing back: the smallest merge patch that leads from what was read to what should be.
//!
//! Updates send only what changed, so fields that this version of the types does not know survive,
//! and name the `resourceVersion` they start from, so a write by somebody else in between is never
//! lost.

use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::error;

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

/// Writes the status of the object from `before` to `after`; that it is gone meanwhile is fine.
pub(crate) async fn status<K>(api: &Api<K>, before: &K, after: &K) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    match update(api, before, after, Part::Status).await {
        Err(gone) if error::is_not_found(&gone) => Ok(()),
        result => result.map(drop),
    }
}

/// Deletes exactly this object, not another that has its name by now; that it is gone is fine.
pub(crate) async fn delete<K>(api: &Api<K>, object: &K) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let exactly_this = Preconditions { uid: object.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(exactly_this), ..DeleteParams::default() };
    error::unless_gone(api.delete(&object.name_any(), &params).await)
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
