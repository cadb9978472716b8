//! DaemonSet.

use k8s_openapi::{
    api::apps::v1::{DaemonSet, DaemonSetStatus, DaemonSetUpdateStrategy},
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
    field::{ErrorList, Path},
    meta::table::{age, containers_and_images, labels, name, selector},
};

/// The row of DaemonSet.
pub(super) fn row() -> Resource {
    Row::of::<DaemonSets>().short(&["ds"]).in_all().status().columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Desired", "integer", "Nodes that should run a Pod."),
    Column::new("Current", "integer", "Nodes that run one."),
    Column::new("Ready", "integer", "Nodes where it is ready."),
    Column::new("Up-to-date", "integer", "Nodes where it is made from the present template."),
    Column::new("Available", "integer", "Nodes where it has been ready for minReadySeconds."),
    Column::new("Node Selector", "string", "The nodes that should run a Pod."),
    Column::AGE,
    Column::CONTAINERS,
    Column::IMAGES,
    Column::SELECTOR,
];

/// Counts changes of the template, from a time before controller revisions.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// How a DaemonSet behaves.
#[derive(Debug, Default)]
pub(super) struct DaemonSets;

impl Kind for DaemonSets {
    type Object = DaemonSet;

    fn default(set: &mut DaemonSet) {
        let spec = &mut set.spec;
        spec.revision_history_limit.get_or_insert(10);
        let strategy = spec.update_strategy.get_or_insert_default();
        default_text(&mut strategy.type_, "RollingUpdate");
        if text(&strategy.type_) == "RollingUpdate" {
            let rolling = strategy.rolling_update.get_or_insert_default();
            rolling.max_unavailable.get_or_insert(IntOrString::Int(1));
            rolling.max_surge.get_or_insert(IntOrString::Int(0));
        }
        defaults::template(&mut spec.template);
    }

    fn prepare_create(set: &mut DaemonSet) {
        set.status = Some(DaemonSetStatus::default());
        workload::first_generation(&mut set.metadata);
        set_template_generation(set, 1);
    }

    fn prepare_update(new: &mut DaemonSet, old: &DaemonSet, part: Part) {
        if part == Part::Status {
            new.spec = old.spec.clone();
        } else {
            new.status = old.status.clone();
            let generation = template_generation(old);
            let changed = new.spec.template != old.spec.template;
            set_template_generation(new, generation + i64::from(changed));
        }
        let changed = new.spec != old.spec;
        workload::next_generation(&mut new.metadata, &old.metadata, changed);
    }

    fn validate(set: &DaemonSet) -> ErrorList {
        let (spec, path) = (&set.spec, Path::new("spec"));
        let mut errors = Errors::default();
        let query =
            workload::selector(&mut errors, &spec.selector, "daemonset", &path.child("selector"));
        let at = path.child("template");
        workload::template(&mut errors, &spec.template, query.as_ref(), "DaemonSet", &at);
        errors.opt_not_negative(&path.child("minReadySeconds"), spec.min_ready_seconds);
        errors.opt_not_negative(&path.child("revisionHistoryLimit"), spec.revision_history_limit);
        if let Some(strategy) = &spec.update_strategy {
            update_strategy(&mut errors, strategy, &path.child("updateStrategy"));
        }
        errors.0
    }

    fn validate_update(new: &DaemonSet, old: &DaemonSet, part: Part) -> ErrorList {
        let mut errors = Errors::default();
        if part == Part::Status {
            let status = new.status.clone().unwrap_or_default();
            let path = Path::new("status");
            for (field, count) in [
                ("currentNumberScheduled", status.current_number_scheduled),
                ("numberMisscheduled", status.number_misscheduled),
                ("desiredNumberScheduled", status.desired_number_scheduled),
                ("numberReady", status.number_ready),
                ("updatedNumberScheduled", status.updated_number_scheduled.unwrap_or(0)),
                ("numberAvailable", status.number_available.unwrap_or(0)),
                ("numberUnavailable", status.number_unavailable.unwrap_or(0)),
            ] {
                errors.not_negative(&path.child(field), count);
            }
            workload::observed_generation(&mut errors, status.observed_generation, &path);
            let was = old.status.as_ref().and_then(|status| status.collision_count);
            workload::collision_count(&mut errors, status.collision_count, was, &path);
        } else {
            let at = Path::new("spec.selector");
            errors.immutable(&at, &new.spec.selector, &old.spec.selector);
        }
        errors.0
    }

    fn cells(set: &DaemonSet, now: Timestamp) -> Vec<Value> {
        let status = set.status.clone().unwrap_or_default();
        let pod = set.spec.template.spec.clone().unwrap_or_default();
        let [containers, images] = containers_and_images(&pod.containers);
        vec![
            json!(name(&set.metadata)),
            json!(status.desired_number_scheduled),
            json!(status.current_number_scheduled),
            json!(status.number_ready),
            json!(status.updated_number_scheduled.unwrap_or(0)),
            json!(status.number_available.unwrap_or(0)),
            json!(labels(pod.node_selector.as_ref())),
            json!(age(&set.metadata, now)),
            containers,
            images,
            json!(selector(Some(&set.spec.selector))),
        ]
    }
}

fn template_generation(set: &DaemonSet) -> i64 {
    let annotations = set.metadata.annotations.as_ref();
    let value = annotations.and_then(|annotations| annotations.get(TEMPLATE_GENERATION));
    value.and_then(|value| value.parse().ok()).unwrap_or(1)
}

fn set_template_generation(set: &mut DaemonSet, generation: i64) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(TEMPLATE_GENERATION.to_owned(), generation.to_string());
}

fn update_strategy(errors: &mut Errors, strategy: &DaemonSetUpdateStrategy, path: &Path) {
    let at = path.child("rollingUpdate");
    match (text(&strategy.type_), &strategy.rolling_update) {
        ("OnDelete", _) => {}
        ("RollingUpdate", None) => errors.required(&at, ""),
        ("RollingUpdate", Some(rolling)) => {
            let zero = IntOrString::Int(0);
            let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
            let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
            for (field, value) in [("maxUnavailable", unavailable), ("maxSurge", surge)] {
                errors.int_or_percent(&at.child(field), value);
                errors.at_most_100_percent(&at.child(field), value);
            }
            match (is_zero(unavailable), is_zero(surge)) {
                (true, true) => errors.invalid(
                    &at.child("maxUnavailable"),
                    json!(unavailable),
                    "cannot be 0 when maxSurge is 0",
                ),
                (false, false) => errors.invalid(
                    &at.child("maxSurge"),
                    json!(surge),
                    "may not be set when maxUnavailable is non-zero",
                ),
                _ => {}
            }
        }
        (other, _) => {
            errors.one_of(&path.child("type"), other, &["OnDelete", "RollingUpdate"]);
        }
    }
}
