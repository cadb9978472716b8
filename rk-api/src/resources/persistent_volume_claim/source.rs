//! What a new volume is filled from. `dataSource` is the older field, of few kinds of sources;
//! `dataSourceRef` takes any (KEP-1495), also of other namespaces (KEP-3294).

use k8s_openapi::api::core::v1::{
    PersistentVolumeClaimSpec, TypedLocalObjectReference, TypedObjectReference,
};
use serde_json::json;

use super::super::check::{Errors, text};
use crate::{field::Path, meta::names};

const CLAIM: &str = "PersistentVolumeClaim";

/// Drops a source that the older field never took, as it always did.
pub(super) fn drop_unknown(spec: &mut PersistentVolumeClaimSpec) {
    let is_known = |source: &TypedLocalObjectReference| {
        matches!(
            (text(&source.api_group), source.kind.as_str()),
            ("", CLAIM) | ("snapshot.storage.k8s.io", "VolumeSnapshot")
        )
    };
    if spec.data_source_ref.is_none() {
        spec.data_source.take_if(|source| !is_known(source));
    }
}

/// Fills in the one field from the other, so that clients may read either.
pub(super) fn copy(spec: &mut PersistentVolumeClaimSpec) {
    match (&spec.data_source, &spec.data_source_ref) {
        (Some(source), None) => {
            spec.data_source_ref = Some(TypedObjectReference {
                api_group: source.api_group.clone(),
                kind: source.kind.clone(),
                name: source.name.clone(),
                namespace: None,
            });
        }
        (None, Some(source)) if text(&source.namespace).is_empty() => {
            spec.data_source = Some(TypedLocalObjectReference {
                api_group: source.api_group.clone(),
                kind: source.kind.clone(),
                name: source.name.clone(),
            });
        }
        _ => {}
    }
}

/// What is wrong with the sources.
pub(super) fn validate(errors: &mut Errors, spec: &PersistentVolumeClaimSpec, path: &Path) {
    let (source, reference) = (&spec.data_source, &spec.data_source_ref);
    if let Some(source) = source {
        let at = path.child("dataSource");
        named(errors, text(&source.api_group), &source.kind, &source.name, &at);
    }
    if let Some(source) = reference {
        let at = path.child("dataSourceRef");
        named(errors, text(&source.api_group), &source.kind, &source.name, &at);
        let namespace = text(&source.namespace);
        if !namespace.is_empty() {
            let wrong = names::dns_label(namespace, false);
            errors.form(&at.child("namespace"), namespace, wrong);
        }
    }
    let (Some(source), Some(reference)) = (source, reference) else { return };
    let is_same = text(&source.api_group) == text(&reference.api_group)
        && source.kind == reference.kind
        && source.name == reference.name;
    let wrong = match text(&reference.namespace) {
        "" if is_same => return,
        "" => "must match dataSourceRef",
        _ => "may not be specified when dataSourceRef.namespace is specified",
    };
    // The value that Kubernetes shows is the path of the field.
    errors.invalid(path, json!(path.child("dataSource").to_string()), wrong);
}

fn named(errors: &mut Errors, group: &str, kind: &str, name: &str, path: &Path) {
    for (field, value) in [("name", name), ("kind", kind)] {
        if value.is_empty() {
            errors.required(&path.child(field), "");
        }
    }
    if group.is_empty() && kind != CLAIM {
        let wrong = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errors.invalid(path, kind, wrong);
    }
    if !group.is_empty() {
        errors.form(&path.child("apiGroup"), group, names::dns_subdomain(group, false));
    }
}
