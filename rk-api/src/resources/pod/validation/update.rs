//! What an update of a Pod may change.

use k8s_openapi::api::core::v1::{Container, PodSpec, Toleration};
use serde_json::{Value, json};

use super::{
    super::{
        super::check::{Errors, list},
        qos_class,
    },
    gated, scheduling,
};
use crate::{
    field::{ErrorList, Path},
    meta::names,
};

const CHANGEABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,\
                          `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
                          existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to \
                          be set to 1 if it was previously negative)";

/// What is wrong with a change of the Pod's spec.
pub(in super::super) fn pod_update(new: &PodSpec, old: &PodSpec) -> ErrorList {
    let path = Path::new("spec");
    let mut errors = Errors::default();
    let lists = [
        ("containers", new.containers.as_slice(), old.containers.as_slice()),
        ("initContainers", list(&new.init_containers), list(&old.init_containers)),
    ];
    for (field, new, old) in lists {
        if new.len() != old.len() {
            errors.forbidden(&path.child(field), "pod updates may not add or remove containers");
            return errors.0;
        }
    }
    if !active_deadline(&mut errors, new, old, &path.child("activeDeadlineSeconds")) {
        return errors.0;
    }
    let (new_tolerations, old_tolerations) = (list(&new.tolerations), list(&old.tolerations));
    added_tolerations(&mut errors, new_tolerations, old_tolerations, &path.child("tolerations"));
    for (i, gate) in list(&new.scheduling_gates).iter().enumerate() {
        if !list(&old.scheduling_gates).contains(gate) {
            errors.forbidden(
                &path.child("schedulingGates").index(i).child("name"),
                &format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name),
            );
        }
    }
    if new == old {
        return errors.0;
    }
    if qos_class(new) != qos_class(old) {
        errors.invalid(&Path::new("metadata"), qos_class(new), "Pod QoS is immutable");
    }
    let mut unchanged = with_changeable_fields_of(new, old);
    if !list(&old.scheduling_gates).is_empty() {
        gated::put_back(&mut errors, &mut unchanged, old, &path);
    }
    if unchanged != *old {
        let changes = differences(&json!(old), &json!(unchanged));
        errors.forbidden(
            &path,
            &format!("pod updates may not change fields other than {CHANGEABLE}\n{changes}"),
        );
    }
    errors.0
}

/// Whether the rest is worth looking at.
fn active_deadline(errors: &mut Errors, new: &PodSpec, old: &PodSpec, path: &Path) -> bool {
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            errors.invalid(path, new, names::out_of_range(0, i64::from(i32::MAX)));
            false
        }
        (Some(new), Some(old)) if old < new => {
            errors.invalid(path, new, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            errors.invalid(
                path,
                Value::Null,
                "must not update from a positive integer to nil value",
            );
            true
        }
        _ => true,
    }
}

fn added_tolerations(errors: &mut Errors, new: &[Toleration], old: &[Toleration], path: &Path) {
    let kept = |old: &Toleration| {
        new.iter().any(|new| {
            let seconds = new.toleration_seconds;
            *new == Toleration { toleration_seconds: seconds, ..old.clone() }
        })
    };
    if old.iter().all(kept) {
        scheduling::tolerations(errors, new, path);
    } else {
        errors.forbidden(
            path,
            "existing toleration can not be modified except its tolerationSeconds",
        );
    }
}

/// The new spec, with what an update may change put back.
fn with_changeable_fields_of(new: &PodSpec, old: &PodSpec) -> PodSpec {
    let mut spec = new.clone();
    let put_back = |new: &mut [Container], old: &[Container]| {
        for (new, old) in new.iter_mut().zip(old) {
            new.image = old.image.clone();
        }
    };
    put_back(&mut spec.containers, &old.containers);
    put_back(spec.init_containers.as_deref_mut().unwrap_or_default(), list(&old.init_containers));
    spec.active_deadline_seconds = old.active_deadline_seconds;
    spec.scheduling_gates = old.scheduling_gates.clone();
    spec.tolerations = old.tolerations.clone();
    let was_negative = old.termination_grace_period_seconds.is_some_and(|old| old < 0);
    if was_negative && spec.termination_grace_period_seconds == Some(1) {
        spec.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    spec
}

/// Lines such as `-  containers[0].name: "a"`, ten at most.
pub(in super::super::super) fn differences(old: &Value, new: &Value) -> String {
    let mut lines = Vec::new();
    collect(&Path::root(), Some(old), Some(new), &mut lines);
    let more = lines.len() > 10;
    lines.truncate(10);
    if more {
        lines.push("  ...".to_owned());
    }
    lines.join("\n")
}

fn collect(path: &Path, old: Option<&Value>, new: Option<&Value>, lines: &mut Vec<String>) {
    match (old, new) {
        (old, new) if old == new => {}
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let added = new.keys().filter(|key| !old.contains_key(*key));
            for key in old.keys().chain(added) {
                collect(&path.child(key), old.get(key), new.get(key), lines);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => {
            for i in 0..old.len().max(new.len()) {
                collect(&path.index(i), old.get(i), new.get(i), lines);
            }
        }
        (old, new) => {
            lines.extend(old.map(|old| format!("-  {path}: {old}")));
            lines.extend(new.map(|new| format!("+  {path}: {new}")));
        }
    }
}
