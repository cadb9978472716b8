//! ReplicationController.

use k8s_openapi::{
    api::{
        autoscaling::v1::Scale,
        core::v1::{ReplicationController, ReplicationControllerSpec, ReplicationControllerStatus},
    },
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Fields, Kind, Part, Resource, check::Errors, pod::defaults, replica_set, row::Row, workload,
};
use crate::{
    field::{ErrorList, Path},
    meta::{
        names,
        selectors::LabelQuery,
        table::{age, containers_and_images, labels, name},
    },
};

/// The row of ReplicationController.
pub(super) fn row() -> Resource {
    Row::of::<ReplicationControllers>()
        .short(&["rc"])
        .in_all()
        .stored_in("controllers")
        .scale()
        .status()
        .columns(replica_set::COLUMNS)
        .done()
}

/// How a ReplicationController behaves.
#[derive(Debug, Default)]
pub(super) struct ReplicationControllers;

impl Kind for ReplicationControllers {
    type Object = ReplicationController;

    fn default(controller: &mut ReplicationController) {
        let spec = controller.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        let Some(template) = &mut spec.template else { return };
        defaults::template(template);
        let labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone());
        if let Some(labels) = labels.filter(|labels| !labels.is_empty()) {
            if spec.selector.as_ref().is_none_or(|selector| selector.is_empty()) {
                spec.selector = Some(labels.clone());
            }
            let own = &mut controller.metadata.labels;
            if own.as_ref().is_none_or(|own| own.is_empty()) {
                *own = Some(labels);
            }
        }
    }

    fn prepare_create(controller: &mut ReplicationController) {
        controller.status = Some(ReplicationControllerStatus::default());
        workload::first_generation(&mut controller.metadata);
    }

    fn prepare_update(new: &mut ReplicationController, old: &ReplicationController, part: Part) {
        if part == Part::Status {
            new.spec = old.spec.clone();
        } else {
            new.status = old.status.clone();
        }
        let changed = new.spec != old.spec;
        workload::next_generation(&mut new.metadata, &old.metadata, changed);
    }

    fn validate(controller: &ReplicationController) -> ErrorList {
        let none = ReplicationControllerSpec::default();
        let (spec, path) = (controller.spec.as_ref().unwrap_or(&none), Path::new("spec"));
        let mut errors = Errors::default();
        errors.opt_not_negative(&path.child("minReadySeconds"), spec.min_ready_seconds);
        let selector = spec.selector.clone().unwrap_or_default();
        if selector.is_empty() {
            errors.required(&path.child("selector"), "");
        }
        errors.opt_not_negative(&path.child("replicas"), spec.replicas);
        match &spec.template {
            None => errors.required(&path.child("template"), ""),
            Some(template) => workload::template(
                &mut errors,
                template,
                Some(&LabelQuery::from_labels(&selector)),
                "ReplicationController",
                &path.child("template"),
            ),
        }
        errors.0
    }

    fn validate_update(
        new: &ReplicationController,
        _: &ReplicationController,
        part: Part,
    ) -> ErrorList {
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
        }
        errors.0
    }

    fn validate_name(name: &str, generate_prefix: bool) -> Vec<String> {
        names::dns_subdomain(name, generate_prefix)
    }

    fn fields(controller: &ReplicationController) -> Fields {
        let replicas = controller.status.as_ref().map_or(0, |status| status.replicas);
        Fields::from_iter([("status.replicas", replicas.to_string())])
    }

    const FIELDS: &'static [&'static str] = &["status.replicas"];

    fn cells(controller: &ReplicationController, now: Timestamp) -> Vec<Value> {
        let spec = controller.spec.clone().unwrap_or_default();
        let status = controller.status.clone().unwrap_or_default();
        let pod = spec.template.as_ref().and_then(|template| template.spec.as_ref());
        let [containers, images] = containers_and_images(pod.map_or(&[][..], |p| &p.containers));
        vec![
            json!(name(&controller.metadata)),
            json!(spec.replicas.unwrap_or(0)),
            json!(status.replicas),
            json!(status.ready_replicas.unwrap_or(0)),
            json!(age(&controller.metadata, now)),
            containers,
            images,
            json!(labels(spec.selector.as_ref())),
        ]
    }

    fn scale(controller: &ReplicationController) -> Option<Scale> {
        let spec = controller.spec.clone().unwrap_or_default();
        let running = controller.status.as_ref().map_or(0, |status| status.replicas);
        let selector = LabelQuery::from_labels(&spec.selector.unwrap_or_default()).to_string();
        Some(workload::scale(&controller.metadata, spec.replicas, running, selector))
    }

    fn set_replicas(controller: &mut ReplicationController, replicas: i32) {
        controller.spec.get_or_insert_default().replicas = Some(replicas);
    }

    const ORPHAN_BY_DEFAULT: bool = true;
}
