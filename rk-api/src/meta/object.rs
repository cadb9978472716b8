//! Validation of the metadata that all objects share (apimachinery's `api/validation`).

use std::{borrow::Cow, collections::BTreeMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;

use super::names;
use crate::{
    field::{ErrorList, FieldError, Path},
    resources::Strategy,
};

/// All annotations of an object together, keys and values.
const ANNOTATIONS_MAX_BYTES: usize = 256 << 10;
const STANDARD_FINALIZERS: &[&str] = &["kubernetes", "orphan", "foregroundDeletion"];
/// The finalizer of CustomResourceDefinitions, which has no domain of its own either.
const DEFINITIONS_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
/// The message for a change to what must not change.
pub const IMMUTABLE: &str = "field is immutable";

/// What is wrong with the metadata of an object of a kind. `path` is where it stands:
/// `metadata`.
pub fn validate_metadata(
    meta: &ObjectMeta,
    namespaced: bool,
    strategy: &dyn Strategy,
    path: &Path,
) -> ErrorList {
    let name_check = |name: &str, prefix: bool| strategy.validate_name(name, prefix);
    let mut errors = validate_metadata_of(meta, namespaced, name_check, path);
    if strategy.custom().is_none() {
        let finalizers = meta.finalizers.as_deref().unwrap_or_default();
        errors.extend(validate_builtin_finalizers(finalizers, &path.child("finalizers")));
    }
    errors
}

/// The same by what judges a name, or with `true` the prefix of one.
pub fn validate_metadata_of(
    meta: &ObjectMeta,
    namespaced: bool,
    name_check: impl Fn(&str, bool) -> Vec<String>,
    path: &Path,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let name_errors = |field: &str, name: &str, prefix: bool| -> ErrorList {
        let wrong = name_check(name, prefix);
        wrong.into_iter().map(|m| FieldError::invalid(&path.child(field), name, m)).collect()
    };
    if let Some(prefix) = meta.generate_name.as_deref().filter(|prefix| !prefix.is_empty()) {
        errors.extend(name_errors("generateName", prefix, true));
    }
    match meta.name.as_deref().unwrap_or("") {
        "" => errors
            .push(FieldError::required(&path.child("name"), "name or generateName is required")),
        name => errors.extend(name_errors("name", name, false)),
    }
    let namespace = meta.namespace.as_deref().unwrap_or("");
    let at = path.child("namespace");
    match (namespaced, namespace) {
        (true, "") => errors.push(FieldError::required(&at, "")),
        (true, namespace) => {
            let wrong = names::dns_label(namespace, false);
            errors.extend(wrong.into_iter().map(|m| FieldError::invalid(&at, namespace, m)));
        }
        (false, "") => {}
        (false, _) => errors.push(FieldError::forbidden(&at, "not allowed on this type")),
    }
    if let Some(generation) = meta.generation.filter(|generation| *generation < 0) {
        errors.push(FieldError::invalid(
            &path.child("generation"),
            generation,
            "must be greater than or equal to 0",
        ));
    }
    errors.extend(validate_labels(meta.labels.as_ref(), &path.child("labels")));
    errors.extend(validate_annotations(meta.annotations.as_ref(), &path.child("annotations")));
    errors.extend(validate_owners(
        meta.owner_references.as_deref().unwrap_or_default(),
        &path.child("ownerReferences"),
    ));
    errors.extend(validate_finalizers(
        meta.finalizers.as_deref().unwrap_or_default(),
        &path.child("finalizers"),
    ));
    errors
}

/// What is wrong with a change of metadata. What an update may leave out (uid, resourceVersion,
/// creation and deletion timestamps) must have been filled in from `old`.
pub fn validate_metadata_update(new: &ObjectMeta, old: &ObjectMeta, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let (new_finalizers, old_finalizers) = (
        new.finalizers.as_deref().unwrap_or_default(),
        old.finalizers.as_deref().unwrap_or_default(),
    );
    if old.deletion_timestamp.is_some() {
        let mut added: Vec<&String> =
            new_finalizers.iter().filter(|name| !old_finalizers.contains(name)).collect();
        added.sort();
        if !added.is_empty() {
            let added: Vec<_> = added.into_iter().map(|name| format!("{name:?}")).collect();
            errors.push(FieldError::forbidden(
                &path.child("finalizers"),
                format!(
                    "no new finalizers can be added if the object is being deleted, found new \
                     finalizers []string{{{}}}",
                    added.join(", ")
                ),
            ));
        }
    }
    if new.generation < old.generation {
        errors.push(FieldError::invalid(
            &path.child("generation"),
            json!(new.generation.unwrap_or(0)),
            "must not be decremented",
        ));
    }
    let mut unchanged = |field: &str, same: bool, value: serde_json::Value| {
        if !same {
            errors.push(FieldError::invalid(&path.child(field), value, IMMUTABLE));
        }
    };
    unchanged("name", new.name == old.name, json!(new.name));
    unchanged("namespace", new.namespace == old.namespace, json!(new.namespace));
    unchanged("uid", new.uid == old.uid, json!(new.uid));
    unchanged(
        "creationTimestamp",
        new.creation_timestamp == old.creation_timestamp,
        json!(new.creation_timestamp),
    );
    unchanged(
        "deletionTimestamp",
        new.deletion_timestamp == old.deletion_timestamp,
        json!(new.deletion_timestamp),
    );
    unchanged(
        "deletionGracePeriodSeconds",
        new.deletion_grace_period_seconds == old.deletion_grace_period_seconds,
        json!(new.deletion_grace_period_seconds),
    );
    errors
}

/// What is wrong with labels, of an object or of a template.
pub fn validate_labels(labels: Option<&BTreeMap<String, String>>, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for (key, value) in labels.into_iter().flatten() {
        for message in names::qualified_name(key) {
            errors.push(FieldError::invalid(path, key.as_str(), message));
        }
        for message in names::label_value(value) {
            errors.push(FieldError::invalid(path, value.as_str(), message));
        }
    }
    errors
}

/// What is wrong with annotations, of an object or of a template.
pub fn validate_annotations(
    annotations: Option<&BTreeMap<String, String>>,
    path: &Path,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut bytes = 0;
    for (key, value) in annotations.into_iter().flatten() {
        // Keys were compared without case once, and are still let in.
        let upper = key.chars().any(char::is_uppercase);
        let folded = if upper { Cow::Owned(key.to_lowercase()) } else { Cow::Borrowed(key) };
        for message in names::qualified_name(&folded) {
            errors.push(FieldError::invalid(path, key.as_str(), message));
        }
        bytes += key.len() + value.len();
    }
    if bytes > ANNOTATIONS_MAX_BYTES {
        errors.push(FieldError::too_long(path, ANNOTATIONS_MAX_BYTES));
    }
    errors
}

fn validate_owners(owners: &[OwnerReference], path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut controller: Option<&str> = None;
    for (i, owner) in owners.iter().enumerate() {
        let at = path.index(i);
        let (group, version) =
            owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
        if version.is_empty() {
            errors.push(FieldError::invalid(
                &at.child("apiVersion"),
                owner.api_version.as_str(),
                "version must not be empty",
            ));
        }
        for (field, value) in [("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)] {
            if value.is_empty() {
                errors.push(FieldError::invalid(&at.child(field), "", "must not be empty"));
            }
        }
        if (group, version, owner.kind.as_str()) == ("", "v1", "Event") {
            errors.push(FieldError::invalid(
                &at,
                json!(owner),
                "/v1, Kind=Event is disallowed from being an owner",
            ));
        }
        if owner.controller == Some(true) {
            match controller {
                None => controller = Some(&owner.name),
                Some(first) => errors.push(FieldError::invalid(
                    path,
                    json!(owners),
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in \
                         references for {first} and {}",
                        owner.name
                    ),
                )),
            }
        }
    }
    errors
}

/// Finalizers of built-in kinds are Kubernetes' own, or in somebody's domain.
fn validate_builtin_finalizers(finalizers: &[String], path: &Path) -> ErrorList {
    let is_known = |name: &str| {
        name.contains('/') || STANDARD_FINALIZERS.contains(&name) || name == DEFINITIONS_FINALIZER
    };
    let odd = finalizers.iter().enumerate().filter(|(_, name)| !is_known(name));
    let detail = "name is neither a standard finalizer name nor is it fully qualified";
    odd.map(|(i, name)| FieldError::invalid(&path.index(i), name.as_str(), detail)).collect()
}

fn validate_finalizers(finalizers: &[String], path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, name) in finalizers.iter().enumerate() {
        let at = path.index(i);
        let wrong = names::qualified_name(name);
        errors.extend(wrong.into_iter().map(|m| FieldError::invalid(&at, name.as_str(), m)));
    }
    let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
    if has("orphan") && has("foregroundDeletion") {
        errors.push(FieldError::invalid(
            path,
            json!(finalizers),
            "finalizer orphan and foregroundDeletion cannot be both set",
        ));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::Resources;

    #[track_caller]
    fn check(change: impl FnOnce(&mut ObjectMeta), wrong: &[&str]) {
        let mut meta = ObjectMeta {
            name: Some("x".to_owned()),
            namespace: Some("default".to_owned()),
            ..ObjectMeta::default()
        };
        change(&mut meta);
        let resources = Resources::builtin();
        let strategy = &resources.get("", "v1", "configmaps").unwrap().strategy;
        let errors = validate_metadata(&meta, true, strategy.as_ref(), &Path::new("metadata"));
        let fields: Vec<_> = errors.iter().map(|error| error.path.to_string()).collect();
        assert_eq!(fields, wrong, "{errors:?}");
    }

    #[test]
    fn metadata_is_validated() {
        check(|_| {}, &[]);
        check(|meta| meta.name = None, &["metadata.name"]);
        check(|meta| meta.name = Some("A".to_owned()), &["metadata.name"]);
        check(|meta| meta.generate_name = Some("A-".to_owned()), &["metadata.generateName"]);
        check(|meta| meta.generate_name = Some("a-".to_owned()), &[]);
        check(|meta| meta.namespace = None, &["metadata.namespace"]);
        let map = |key: &str, value: String| Some(BTreeMap::from([(key.to_owned(), value)]));
        check(|meta| meta.labels = map("A_b/c", "c".to_owned()), &["metadata.labels"]);
        check(|meta| meta.labels = map("c", "-".to_owned()), &["metadata.labels"]);
        check(|meta| meta.annotations = map("/x", "c".to_owned()), &["metadata.annotations"]);
        check(|meta| meta.annotations = map("X/x", "any thing".to_owned()), &[]);
        check(|meta| meta.annotations = map("x", "a".repeat(262144)), &["metadata.annotations"]);
        check(
            |meta| meta.finalizers = Some(vec!["nodomain".to_owned()]),
            &["metadata.finalizers[0]"],
        );
        check(|meta| meta.finalizers = Some(vec!["a.b/c".to_owned(), "orphan".to_owned()]), &[]);
        let owner = |kind: &str| OwnerReference {
            api_version: "v1".to_owned(),
            kind: kind.to_owned(),
            name: "n".to_owned(),
            uid: "u".to_owned(),
            controller: Some(true),
            ..OwnerReference::default()
        };
        check(|meta| meta.owner_references = Some(vec![owner("Pod")]), &[]);
        check(
            |meta| meta.owner_references = Some(vec![owner("Pod"), owner("Pod")]),
            &["metadata.ownerReferences"],
        );
        check(
            |meta| meta.owner_references = Some(vec![owner("Event")]),
            &["metadata.ownerReferences[0]"],
        );
    }

    #[test]
    fn metadata_that_identifies_does_not_change() {
        let old = ObjectMeta {
            name: Some("x".to_owned()),
            uid: Some("1".to_owned()),
            generation: Some(2),
            ..ObjectMeta::default()
        };
        let mut new = old.clone();
        assert_eq!(validate_metadata_update(&new, &old, &Path::new("metadata")), []);
        new.uid = Some("2".to_owned());
        new.generation = Some(1);
        let errors = validate_metadata_update(&new, &old, &Path::new("metadata"));
        let messages: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            messages,
            [
                "metadata.generation: Invalid value: 1: must not be decremented",
                "metadata.uid: Invalid value: \"2\": field is immutable",
            ]
        );
    }

    #[test]
    fn an_object_that_is_being_deleted_takes_no_new_finalizers() {
        let old = ObjectMeta {
            deletion_timestamp: Some(crate::meta::table::tests::time(0)),
            finalizers: Some(vec!["a/b".to_owned()]),
            ..ObjectMeta::default()
        };
        let mut new = old.clone();
        new.finalizers = None;
        assert_eq!(validate_metadata_update(&new, &old, &Path::new("metadata")), []);
        new.finalizers = Some(vec!["a/c".to_owned()]);
        let errors = validate_metadata_update(&new, &old, &Path::new("metadata"));
        assert_eq!(
            errors[0].to_string(),
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being \
             deleted, found new finalizers []string{\"a/c\"}"
        );
    }
}
