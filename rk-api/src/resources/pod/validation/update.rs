//! What an update of a Pod may change.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, PodStatus, Toleration};
use serde_json::{Value, json};

use super::{
    super::{
        super::check::{Errors, list, text},
        qos_class,
    },
    scheduling,
};
use crate::{
    field::{ErrorList, FieldError, Path},
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
    let unchanged = with_changeable_fields_of(new, old);
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
    if !list(&old.scheduling_gates).is_empty() {
        put_back_what_gates_allow(&mut spec, old);
    }
    spec
}

/// While scheduling gates hold a Pod back, where it may run can be narrowed.
fn put_back_what_gates_allow(spec: &mut PodSpec, old: &PodSpec) {
    let only_added = old.node_selector.iter().flatten().all(|(key, value)| {
        spec.node_selector.as_ref().and_then(|new| new.get(key)) == Some(value)
    });
    if only_added {
        spec.node_selector = old.node_selector.clone();
    }
    let required = |spec: &PodSpec| {
        let nodes = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        nodes.and_then(|nodes| nodes.required_during_scheduling_ignored_during_execution.clone())
    };
    if required(old).is_none()
        && let Some(nodes) = spec.affinity.as_mut().and_then(|a| a.node_affinity.as_mut())
    {
        nodes.required_during_scheduling_ignored_during_execution = None;
    }
    if old.affinity.is_none()
        && spec.affinity.as_ref().is_some_and(|a| {
            a.pod_affinity.is_none()
                && a.pod_anti_affinity.is_none()
                && a.node_affinity.as_ref().is_none_or(|n| *n == Default::default())
        })
    {
        spec.affinity = None;
    }
}

/// Lines such as `-  containers[0].name: "a"`, ten at most.
fn differences(old: &Value, new: &Value) -> String {
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

/// What is wrong with a change of the Pod's status.
pub(in super::super) fn pod_status_update(new: &Pod, old: &Pod) -> ErrorList {
    let mut errors = Errors::default();
    let none = PodStatus::default();
    let new_status = new.status.as_ref().unwrap_or(&none);
    let old_status = old.status.as_ref().unwrap_or(&none);
    let path = Path::new("status");
    let nominated = text(&new_status.nominated_node_name);
    if !nominated.is_empty() {
        let wrong = names::dns_subdomain(nominated, false);
        errors.form(&path.child("nominatedNodeName"), nominated, wrong);
    }
    let spec = old.spec.clone().unwrap_or_default();
    let bound = !text(&spec.node_name).is_empty();
    if bound && !nominated.is_empty() && nominated != text(&old_status.nominated_node_name) {
        errors.forbidden(
            &path.child("nominatedNodeName"),
            "may not be set on pods that are already bound to a node",
        );
    }
    if new_status.qos_class != old_status.qos_class {
        let class = text(&new_status.qos_class);
        errors.invalid(&path.child("qosClass"), class, "field is immutable");
    }
    let policy = text(&spec.restart_policy);
    transitions(
        &mut errors,
        (list(&new_status.container_statuses), list(&old_status.container_statuses)),
        |name| own_policy(&spec.containers, name).unwrap_or(policy),
        &path.child("containerStatuses"),
    );
    // An init container that succeeded is run again with the whole Pod, unless that never is.
    let init_policy = if policy == "Never" { "Never" } else { "Always" };
    transitions(
        &mut errors,
        (list(&new_status.init_container_statuses), list(&old_status.init_container_statuses)),
        |name| own_policy(list(&spec.init_containers), name).unwrap_or(init_policy),
        &path.child("initContainerStatuses"),
    );
    for (i, address) in list(&new_status.pod_ips).iter().enumerate() {
        let at = path.child("podIPs").index(i);
        errors.form(&at, address.ip.as_str(), names::ip(&address.ip));
    }
    for (i, address) in list(&new_status.host_ips).iter().enumerate() {
        let at = path.child("hostIPs").index(i);
        errors.form(&at, address.ip.as_str(), names::ip(&address.ip));
    }
    errors.0
}

/// The restart policy that a container has besides the Pod's.
fn own_policy<'a>(containers: &'a [Container], name: &str) -> Option<&'a str> {
    let container = containers.iter().find(|container| container.name == name)?;
    if container.restart_policy_rules.is_some() {
        return Some("Always");
    }
    container.restart_policy.as_deref()
}

/// A container that ended for good stays ended.
fn transitions<'a>(
    errors: &mut Errors,
    (new, old): (&[ContainerStatus], &[ContainerStatus]),
    restart_policy: impl Fn(&str) -> &'a str,
    path: &Path,
) {
    for (i, old) in old.iter().enumerate() {
        let ended = old.state.as_ref().and_then(|state| state.terminated.as_ref());
        let Some(ended) = ended else { continue };
        let restarts = match restart_policy(&old.name) {
            "Always" => true,
            "OnFailure" => ended.exit_code != 0,
            _ => false,
        };
        let Some(new) = new.iter().find(|new| new.name == old.name) else { continue };
        let runs = new.state.as_ref().is_none_or(|state| state.terminated.is_none());
        if runs && !restarts {
            errors.push(FieldError::forbidden(
                &path.index(i).child("state"),
                "may not be transitioned to non-terminated state",
            ));
        }
    }
}
