//! What kinds that run Pods from a template share.

use k8s_openapi::{
    api::{
        autoscaling::v1::{Scale, ScaleSpec, ScaleStatus},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use serde_json::json;

use super::{
    check::{Errors, text},
    pod,
};
use crate::{
    field::{FieldError, Path},
    meta::selectors::LabelQuery,
};

/// The generation of a new object.
pub(super) fn first_generation(meta: &mut ObjectMeta) {
    meta.generation = Some(1);
}

/// The generation counts changes of what the controller acts on.
pub(super) fn next_generation(new: &mut ObjectMeta, old: &ObjectMeta, changed: bool) {
    let old = old.generation.unwrap_or(0);
    new.generation = Some(if changed { old + 1 } else { old });
}

/// Checks the selector of a workload. `None` when it is too broken to compare labels with.
pub(super) fn selector(
    errors: &mut Errors,
    selector: &LabelSelector,
    path: &Path,
) -> Option<LabelQuery> {
    if *selector == LabelSelector::default() {
        errors.required(path, "");
        return Some(LabelQuery::nothing());
    }
    let query = LabelQuery::from_selector(selector);
    if query.is_everything() {
        errors.invalid(path, json!(selector), "empty selector is invalid for deployment");
        return Some(query);
    }
    let before = errors.0.len();
    errors.selector(path, selector);
    if errors.0.len() > before {
        errors.invalid(path, json!(selector), "invalid label selector");
        return None;
    }
    Some(query)
}

/// Checks the template of a workload whose Pods run until they are deleted.
pub(super) fn template(
    errors: &mut Errors,
    template: &PodTemplateSpec,
    selector: Option<&LabelQuery>,
    kind: &str,
    path: &Path,
) {
    let Some(selector) = selector else { return };
    let labels = template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
    if !selector.matches_optional(labels) {
        errors.invalid(
            &path.child("metadata.labels"),
            json!(labels),
            "`selector` does not match template `labels`",
        );
    }
    errors.extend(pod::validation::template(template, path));
    let Some(spec) = &template.spec else { return };
    let policy = text(&spec.restart_policy);
    if !policy.is_empty() && policy != "Always" {
        errors.push(FieldError::not_supported(
            &path.child("spec.restartPolicy"),
            policy,
            &["Always"],
        ));
    }
    if spec.active_deadline_seconds.is_some() {
        errors.forbidden(
            &path.child("spec.activeDeadlineSeconds"),
            &format!("activeDeadlineSeconds in {kind} is not Supported"),
        );
    }
}

/// Checks counts of a status: none negative, and none above what it is a part of.
pub(super) fn counts(errors: &mut Errors, path: &Path, total: i32, parts: &[(&str, Option<i32>)]) {
    errors.not_negative(&path.child("replicas"), total);
    for (field, count) in parts {
        let at = path.child(field);
        errors.opt_not_negative(&at, *count);
        if let Some(count) = count.filter(|count| *count > total) {
            errors.invalid(&at, count, "cannot be greater than status.replicas");
        }
    }
}

/// The scale of a workload.
pub(super) fn scale(
    meta: &ObjectMeta,
    replicas: Option<i32>,
    running: i32,
    selector: String,
) -> Scale {
    Scale {
        metadata: ObjectMeta {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            creation_timestamp: meta.creation_timestamp.clone(),
            ..ObjectMeta::default()
        },
        spec: Some(ScaleSpec { replicas }),
        status: Some(ScaleStatus {
            replicas: running,
            selector: Some(selector).filter(|selector| !selector.is_empty()),
        }),
    }
}
