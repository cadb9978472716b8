//! ReplicaSet.

use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetSpec, ReplicaSetStatus},
        autoscaling::v1::Scale,
    },
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Fields, Kind, Part, Resource, check::Errors, pod::defaults, row::Row, workload,
};
use crate::{
    field::{ErrorList, Path},
    meta::{
        selectors::LabelQuery,
        table::{age, containers_and_images, name, selector},
    },
};

/// The row of ReplicaSet.
pub(super) fn row() -> Resource {
    Row::of::<ReplicaSets>().short(&["rs"]).in_all().scale().status().columns(COLUMNS).done()
}

/// The columns of ReplicaSet and ReplicationController.
pub(super) const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Desired", "integer", "Pods wanted."),
    Column::new("Current", "integer", "Pods that exist."),
    Column::new("Ready", "integer", "Pods that are ready."),
    Column::AGE,
    Column::CONTAINERS,
    Column::IMAGES,
    Column::SELECTOR,
];

/// How a ReplicaSet behaves.
#[derive(Debug, Default)]
pub(super) struct ReplicaSets;

impl Kind for ReplicaSets {
    type Object = ReplicaSet;

    fn default(set: &mut ReplicaSet) {
        let spec = &mut set.spec;
        spec.replicas.get_or_insert(1);
        defaults::template(spec.template.get_or_insert_default());
    }

    fn prepare_create(set: &mut ReplicaSet) {
        set.status = Some(ReplicaSetStatus::default());
        workload::first_generation(&mut set.metadata);
    }

    fn prepare_update(new: &mut ReplicaSet, old: &ReplicaSet, part: Part) {
        if part == Part::Status {
            new.spec = old.spec.clone();
        } else {
            new.status = old.status.clone();
        }
        let changed = new.spec != old.spec;
        workload::next_generation(&mut new.metadata, &old.metadata, changed);
    }

    fn validate(set: &ReplicaSet) -> ErrorList {
        let (spec, path) = (&set.spec, Path::new("spec"));
        let mut errors = Errors::default();
        errors.opt_not_negative(&path.child("replicas"), spec.replicas);
        errors.opt_not_negative(&path.child("minReadySeconds"), spec.min_ready_seconds);
        let query =
            workload::selector(&mut errors, &spec.selector, "deployment", &path.child("selector"));
        let template = spec.template.clone().unwrap_or_default();
        let at = path.child("template");
        workload::template(&mut errors, &template, query.as_ref(), "ReplicaSet", &at);
        errors.0
    }

    fn validate_update(new: &ReplicaSet, old: &ReplicaSet, part: Part) -> ErrorList {
        let mut errors = Errors::default();
        if part == Part::Status {
            let status = new.status.clone().unwrap_or_default();
            let path = Path::new("status");
            let counts = workload::Counts {
                total: status.replicas,
                parts: &[("fullyLabeledReplicas", status.fully_labeled_replicas)],
                ready: status.ready_replicas,
                available: status.available_replicas,
                ready_name: "readyReplicas",
            };
            counts.check(&mut errors, &path);
            workload::observed_generation(&mut errors, status.observed_generation, &path);
        } else {
            let selector = |set: &ReplicaSet| set.spec.selector.clone();
            errors.immutable(&Path::new("spec.selector"), &selector(new), &selector(old));
        }
        errors.0
    }

    fn fields(set: &ReplicaSet) -> Fields {
        let replicas = set.status.as_ref().map_or(0, |status| status.replicas);
        Fields::from_iter([("status.replicas", replicas.to_string())])
    }

    const FIELDS: &'static [&'static str] = &["status.replicas"];

    fn cells(set: &ReplicaSet, now: Timestamp) -> Vec<Value> {
        let spec = &set.spec;
        let status = set.status.clone().unwrap_or_default();
        let [containers, images] = containers_of(spec);
        vec![
            json!(name(&set.metadata)),
            json!(spec.replicas.unwrap_or(0)),
            json!(status.replicas),
            json!(status.ready_replicas.unwrap_or(0)),
            json!(age(&set.metadata, now)),
            containers,
            images,
            json!(selector(Some(&spec.selector))),
        ]
    }

    fn scale(set: &ReplicaSet) -> Option<Scale> {
        let running = set.status.as_ref().map_or(0, |status| status.replicas);
        let selector = LabelQuery::from_selector(&set.spec.selector).to_string();
        Some(workload::scale(&set.metadata, set.spec.replicas, running, selector))
    }

    fn set_replicas(set: &mut ReplicaSet, replicas: i32) {
        set.spec.replicas = Some(replicas);
    }
}

fn containers_of(spec: &ReplicaSetSpec) -> [Value; 2] {
    let pod = spec.template.as_ref().and_then(|template| template.spec.as_ref());
    containers_and_images(pod.map_or(&[][..], |pod| &pod.containers))
}
