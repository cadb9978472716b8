//! Deployment.

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentStatus, DeploymentStrategy},
        autoscaling::v1::Scale,
    },
    apimachinery::pkg::util::intstr::IntOrString,
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Kind, Part, Resource,
    check::{Errors, default_text, is_zero, text},
    pod::defaults,
    row::Row,
    workload,
};
use crate::{
    field::{ErrorList, FieldError, Path},
    meta::{
        selectors::LabelQuery,
        table::{age, containers_and_images, name, selector},
    },
};

/// The row of Deployment.
pub(super) fn row() -> Resource {
    Row::of::<Deployments>().short(&["deploy"]).in_all().scale().status().columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Ready", "string", "Pods that are ready, of those wanted."),
    Column::new("Up-to-date", "string", "Pods made from the present template."),
    Column::new("Available", "string", "Pods that have been ready for minReadySeconds."),
    Column::AGE,
    Column::CONTAINERS,
    Column::IMAGES,
    Column::SELECTOR,
];

/// How a Deployment behaves.
#[derive(Debug, Default)]
pub(super) struct Deployments;

impl Kind for Deployments {
    type Object = Deployment;

    fn default(deployment: &mut Deployment) {
        let spec = &mut deployment.spec;
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(10);
        spec.progress_deadline_seconds.get_or_insert(600);
        let strategy = spec.strategy.get_or_insert_default();
        default_text(&mut strategy.type_, "RollingUpdate");
        if text(&strategy.type_) == "RollingUpdate" {
            let rolling = strategy.rolling_update.get_or_insert_default();
            let quarter = || IntOrString::String("25%".to_owned());
            rolling.max_unavailable.get_or_insert_with(quarter);
            rolling.max_surge.get_or_insert_with(quarter);
        }
        defaults::template(&mut spec.template);
    }

    fn prepare_create(deployment: &mut Deployment) {
        deployment.status = Some(DeploymentStatus::default());
        workload::first_generation(&mut deployment.metadata);
    }

    fn prepare_update(new: &mut Deployment, old: &Deployment, part: Part) {
        if part == Part::Status {
            new.spec = old.spec.clone();
            new.metadata.labels = old.metadata.labels.clone();
        } else {
            new.status = old.status.clone();
        }
        // Annotations are copied to ReplicaSets, so a change of theirs is work too.
        let changed = new.spec != old.spec || new.metadata.annotations != old.metadata.annotations;
        workload::next_generation(&mut new.metadata, &old.metadata, changed && part == Part::Main);
    }

    fn validate(deployment: &Deployment) -> ErrorList {
        let (spec, path) = (&deployment.spec, Path::new("spec"));
        let mut errors = Errors::default();
        errors.opt_not_negative(&path.child("replicas"), spec.replicas);
        let query =
            workload::selector(&mut errors, &spec.selector, "deployment", &path.child("selector"));
        workload::template(
            &mut errors,
            &spec.template,
            query.as_ref(),
            "ReplicaSet",
            &path.child("template"),
        );
        if let Some(strategy) = &spec.strategy {
            validate_strategy(&mut errors, strategy, &path.child("strategy"));
        }
        errors.opt_not_negative(&path.child("minReadySeconds"), spec.min_ready_seconds);
        errors.opt_not_negative(&path.child("revisionHistoryLimit"), spec.revision_history_limit);
        if let Some(seconds) = spec.progress_deadline_seconds {
            let at = path.child("progressDeadlineSeconds");
            errors.not_negative(&at, seconds);
            if seconds <= spec.min_ready_seconds.unwrap_or(0) {
                errors.invalid(&at, seconds, "must be greater than minReadySeconds");
            }
        }
        errors.0
    }

    fn validate_update(new: &Deployment, old: &Deployment, part: Part) -> ErrorList {
        let mut errors = Errors::default();
        if part == Part::Status {
            let none = DeploymentStatus::default();
            let status = new.status.as_ref().unwrap_or(&none);
            let path = Path::new("status");
            let parts = [("updatedReplicas", status.updated_replicas)];
            let counts = workload::Counts {
                total: status.replicas.unwrap_or(0),
                parts: &parts,
                ready: status.ready_replicas,
                available: status.available_replicas,
                ready_name: "readyReplicas",
            };
            counts.check(&mut errors, &path);
            let unavailable = path.child("unavailableReplicas");
            errors.opt_not_negative(&unavailable, status.unavailable_replicas);
            workload::observed_generation(&mut errors, status.observed_generation, &path);
            let was = old.status.as_ref().and_then(|status| status.collision_count);
            workload::collision_count(&mut errors, status.collision_count, was, &path);
        } else {
            let at = Path::new("spec.selector");
            errors.immutable(&at, &new.spec.selector, &old.spec.selector);
        }
        errors.0
    }

    fn cells(deployment: &Deployment, now: Timestamp) -> Vec<Value> {
        let spec = &deployment.spec;
        let status = deployment.status.clone().unwrap_or_default();
        let containers = spec.template.spec.as_ref().map_or(&[][..], |spec| &spec.containers);
        let [containers, images] = containers_and_images(containers);
        let (ready, wanted) = (status.ready_replicas.unwrap_or(0), spec.replicas.unwrap_or(0));
        vec![
            json!(name(&deployment.metadata)),
            json!(format!("{ready}/{wanted}")),
            json!(status.updated_replicas.unwrap_or(0)),
            json!(status.available_replicas.unwrap_or(0)),
            json!(age(&deployment.metadata, now)),
            containers,
            images,
            json!(selector(Some(&spec.selector))),
        ]
    }

    fn scale(deployment: &Deployment) -> Option<Scale> {
        let spec = &deployment.spec;
        let running = deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
        let selector = LabelQuery::from_selector(&spec.selector).to_string();
        Some(workload::scale(&deployment.metadata, spec.replicas, running, selector))
    }

    fn set_replicas(deployment: &mut Deployment, replicas: i32) {
        deployment.spec.replicas = Some(replicas);
    }
}

fn validate_strategy(errors: &mut Errors, strategy: &DeploymentStrategy, path: &Path) {
    let at = path.child("rollingUpdate");
    match (text(&strategy.type_), &strategy.rolling_update) {
        ("Recreate", Some(_)) => {
            errors.forbidden(&at, "may not be specified when strategy `type` is 'Recreate'")
        }
        ("Recreate", None) => {}
        ("RollingUpdate", None) => {
            errors.required(&at, "this should be defaulted and never be nil");
        }
        ("RollingUpdate", Some(rolling)) => {
            let zero = IntOrString::Int(0);
            let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
            let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
            let unavailable_at = at.child("maxUnavailable");
            errors.int_or_percent(&unavailable_at, unavailable);
            errors.int_or_percent(&at.child("maxSurge"), surge);
            if is_zero(unavailable) && is_zero(surge) {
                errors.invalid(
                    &unavailable_at,
                    json!(unavailable),
                    "may not be 0 when `maxSurge` is 0",
                );
            }
            errors.at_most_100_percent(&unavailable_at, unavailable);
        }
        _ => {
            let mut error =
                FieldError::not_supported(path, json!(strategy), &["Recreate", "RollingUpdate"]);
            error.value = Some(json!(strategy));
            errors.push(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: Value, wrong: &[&str]) {
        let mut deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "x"},
            "spec": {
                "selector": {"matchLabels": {"app": "x"}},
                "template": {
                    "metadata": {"labels": {"app": "x"}},
                    "spec": {"containers": [{"name": "c", "image": "i"}]},
                },
                "strategy": change,
            },
        }))
        .unwrap();
        <Deployments as Kind>::default(&mut deployment);
        let errors = Deployments::validate(&deployment);
        let messages: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(messages, wrong);
    }

    #[test]
    fn the_strategy_is_validated() {
        check(json!({}), &[]);
        check(json!({"type": "Recreate"}), &[]);
        check(
            json!({"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}),
            &["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` \
               is 'Recreate'"],
        );
        check(
            json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}),
            &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 \
               when `maxSurge` is 0"],
        );
        check(
            json!({"rollingUpdate": {"maxUnavailable": "101%"}}),
            &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be \
               greater than 100%"],
        );
        check(
            json!({"rollingUpdate": {"maxSurge": -1}}),
            &["spec.strategy.rollingUpdate.maxSurge: Invalid value: -1: must be greater than or \
               equal to 0"],
        );
    }
}
