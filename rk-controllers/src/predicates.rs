//! Which changes are worth a reconcile: for [`Controller::reconciles_if`](crate::Controller) and in
//! mappings of [`Controller::watches`](crate::Controller).
//!
//! A predicate is a function of a [`Change`]. Additions and deletions pass all of those here; they
//! compare an update with what was before.
//!
//! ```
//! use k8s_openapi::api::core::v1::ConfigMap;
//! use rk_api::client::{Change, Informer};
//! use rk_controllers::{Controller, Reconciler, predicates};
//!
//! fn wire(reconciler: impl Reconciler, maps: &Informer<ConfigMap>) -> Controller {
//!     // Neither a status nor a heartbeat among the annotations wakes it.
//!     let relevant = |change: &Change<ConfigMap>| {
//!         predicates::generation_changed(change) || predicates::labels_changed(change)
//!     };
//!     Controller::new("example", reconciler).reconciles_if(maps, relevant)
//! }
//! ```

use std::collections::BTreeMap;

use kube::{Resource, ResourceExt};
use rk_api::client::Change;

/// The specification changed, as far as the API server counts it (`metadata.generation`), or the
/// object is being deleted now. For kinds without generations, such as ConfigMap, every update
/// passes.
pub fn generation_changed<K: Resource>(change: &Change<K>) -> bool {
    updated(change, |old, new| {
        let (old, new) = (old.meta(), new.meta());
        old.generation != new.generation
            || new.generation.is_none()
            || old.deletion_timestamp != new.deletion_timestamp
    })
}

/// A label was added, changed or removed.
pub fn labels_changed<K: Resource>(change: &Change<K>) -> bool {
    updated(change, |old, new| old.labels() != new.labels())
}

/// An annotation was added, changed or removed.
pub fn annotations_changed<K: Resource>(change: &Change<K>) -> bool {
    updated(change, |old, new| old.annotations() != new.annotations())
}

/// The object has what `matches` wants of its labels, or had it before the update: whoever lets go
/// of an object has to look at it once more.
pub fn labels_match<K: Resource>(
    change: &Change<K>,
    matches: impl Fn(&BTreeMap<String, String>) -> bool,
) -> bool {
    match change {
        Change::Added(object) | Change::Deleted(object) => matches(object.labels()),
        Change::Updated { old, new } => matches(old.labels()) || matches(new.labels()),
    }
}

fn updated<K>(change: &Change<K>, differs: impl Fn(&K, &K) -> bool) -> bool {
    match change {
        Change::Updated { old, new } => differs(old, new),
        Change::Added(_) | Change::Deleted(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    fn pod(metadata: serde_json::Value) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({"metadata": metadata})).unwrap())
    }

    fn from_to(old: serde_json::Value, new: serde_json::Value) -> Change<Pod> {
        Change::Updated { old: pod(old), new: pod(new) }
    }

    #[test]
    fn a_status_is_no_new_generation_but_a_deletion_counts() {
        let first = json!({"generation": 1});
        assert!(!generation_changed(&from_to(first.clone(), first.clone())));
        assert!(generation_changed(&from_to(first.clone(), json!({"generation": 2}))));
        let deleted = json!({"generation": 1, "deletionTimestamp": "2030-01-01T00:00:00Z"});
        assert!(generation_changed(&from_to(first.clone(), deleted)));
        assert!(generation_changed(&from_to(json!({}), json!({}))), "there are no generations");
        assert!(generation_changed(&Change::Added(pod(first))));
    }

    #[test]
    fn labels_and_annotations_are_compared() {
        let (bare, labelled) = (json!({}), json!({"labels": {"a": "b"}}));
        assert!(labels_changed(&from_to(bare.clone(), labelled.clone())));
        assert!(!labels_changed(&from_to(labelled.clone(), labelled.clone())));
        assert!(!annotations_changed(&from_to(bare.clone(), labelled.clone())));
        assert!(annotations_changed(&from_to(bare.clone(), json!({"annotations": {"a": "b"}}))));
        let wanted = |labels: &BTreeMap<String, String>| labels.contains_key("a");
        assert!(labels_match(&from_to(labelled.clone(), bare.clone()), wanted), "it was one");
        assert!(!labels_match(&from_to(bare.clone(), bare), wanted));
        assert!(labels_match(&Change::Deleted(pod(labelled)), wanted));
    }
}
