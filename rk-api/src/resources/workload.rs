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

/// Checks the selector of a workload. `None` when it is too broken to compare labels with. An empty
/// one is refused by the name of the `kind`, which for a ReplicaSet is, in Kubernetes' messages,
/// `deployment`.
pub(super) fn selector(
    errors: &mut Errors,
    selector: &LabelSelector,
    kind: &str,
    path: &Path,
) -> Option<LabelQuery> {
    if *selector == LabelSelector::default() {
        errors.required(path, "");
        return Some(LabelQuery::nothing());
    }
    let query = LabelQuery::from_selector(selector);
    if query.is_everything() {
        let wrong = format!("empty selector is invalid for {kind}");
        errors.invalid(path, json!(selector), wrong);
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

/// Counts of a status, and the count that all are part of.
#[derive(Debug)]
pub(super) struct Counts<'a> {
    /// `status.replicas`.
    pub(super) total: i32,
    /// Those of which none is greater than the total.
    pub(super) parts: &'a [(&'static str, Option<i32>)],
    /// Of the parts: those that are ready.
    pub(super) ready: Option<i32>,
    /// Of the ready ones: those that are available.
    pub(super) available: Option<i32>,
    /// What the message calls the ready ones.
    pub(super) ready_name: &'static str,
}

impl Counts<'_> {
    /// Checks that none is negative, and that none is above what it is a part of.
    pub(super) fn check(&self, errors: &mut Errors, path: &Path) {
        errors.not_negative(&path.child("replicas"), self.total);
        let (ready, available) = (self.ready.unwrap_or(0), self.available.unwrap_or(0));
        let last = [("readyReplicas", self.ready), ("availableReplicas", self.available)];
        for (field, count) in self.parts.iter().chain(&last) {
            let at = path.child(field);
            errors.opt_not_negative(&at, *count);
            if let Some(count) = count.filter(|count| *count > self.total) {
                errors.invalid(&at, count, "cannot be greater than status.replicas");
            }
        }
        if available > ready {
            let wrong = format!("cannot be greater than {}", self.ready_name);
            errors.invalid(&path.child("availableReplicas"), available, wrong);
        }
    }
}

/// Checks the generation that a status tells of.
pub(super) fn observed_generation(errors: &mut Errors, generation: Option<i64>, path: &Path) {
    errors.opt_not_negative(&path.child("observedGeneration"), generation);
}

/// Checks the number that makes names of dependents unique: it only grows.
pub(super) fn collision_count(
    errors: &mut Errors,
    new: Option<i32>,
    old: Option<i32>,
    path: &Path,
) {
    let at = path.child("collisionCount");
    errors.opt_not_negative(&at, new);
    if new < old {
        errors.invalid(&at, new.unwrap_or(0), "cannot be decremented");
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

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use crate::resources::{
        Kind, Part, daemon_set::DaemonSets, deployment::Deployments, replica_set::ReplicaSets,
        replication_controller::ReplicationControllers, stateful_set::StatefulSets,
    };
    use serde_json::json;

    #[track_caller]
    fn check<K: Kind>(old: Value, new: Value, wrong: &[&str]) {
        let of = |status: Value| -> K::Object {
            let selected = json!({"selector": {}, "template": {}, "serviceName": ""});
            let object = json!({"metadata": {}, "spec": selected, "status": status});
            serde_json::from_value(object).unwrap()
        };
        let errors = K::validate_update(&of(new), &of(old), Part::Status);
        let messages: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(messages, wrong);
    }

    #[test]
    fn no_part_of_a_status_is_more_than_the_whole() {
        let none = || json!({});
        let good = json!({"replicas": 3, "readyReplicas": 2, "availableReplicas": 1});
        let bad = json!({"replicas": 1, "readyReplicas": 0, "availableReplicas": 2,
            "observedGeneration": -1});
        let whole = "status.availableReplicas: Invalid value: 2: cannot be greater than \
                     status.replicas";
        let ready = "status.availableReplicas: Invalid value: 2: cannot be greater than";
        let generation =
            "status.observedGeneration: Invalid value: -1: must be greater than or equal to 0";
        let wrong = [whole, &format!("{ready} readyReplicas"), generation];
        check::<ReplicaSets>(none(), good.clone(), &[]);
        check::<ReplicaSets>(none(), bad.clone(), &wrong);
        check::<ReplicationControllers>(none(), bad.clone(), &wrong);
        check::<Deployments>(none(), bad.clone(), &wrong);
        let wrong = [whole, &format!("{ready} status.readyReplicas"), generation];
        check::<StatefulSets>(none(), good, &[]);
        check::<StatefulSets>(none(), bad, &wrong);
        let all = json!({"desiredNumberScheduled": 1, "currentNumberScheduled": 1,
            "numberMisscheduled": 0, "numberReady": -1, "observedGeneration": -1});
        let count = "status.numberReady: Invalid value: -1: must be greater than or equal to 0";
        check::<DaemonSets>(none(), all, &[count, generation]);
    }

    #[test]
    fn collisions_only_get_more() {
        let status = |count: Value| {
            json!({"replicas": 0, "collisionCount": count, "desiredNumberScheduled": 0,
                "currentNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0})
        };
        let fewer = "status.collisionCount: Invalid value: 0: cannot be decremented";
        check::<Deployments>(status(json!(1)), status(json!(2)), &[]);
        check::<Deployments>(status(json!(1)), status(Value::Null), &[fewer]);
        check::<StatefulSets>(status(json!(1)), status(json!(0)), &[fewer]);
        check::<DaemonSets>(status(json!(1)), status(Value::Null), &[fewer]);
    }
}
