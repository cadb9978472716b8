//! PodDisruptionBudget.

use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
    apimachinery::pkg::util::intstr::IntOrString,
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Kind, Part, Resource,
    check::{Errors, list},
    row::Row,
    workload,
};
use crate::{
    field::{ErrorList, Path},
    meta::table::{age, name},
};

/// The row of PodDisruptionBudget.
pub(super) fn row() -> Resource {
    Row::of::<PodDisruptionBudgets>().short(&["pdb"]).status().columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Min Available", "string", "Pods that must stay."),
    Column::new("Max Unavailable", "string", "Pods that may go."),
    Column::new("Allowed Disruptions", "integer", "Pods that may be evicted now."),
    Column::AGE,
];

/// How a PodDisruptionBudget behaves.
#[derive(Debug, Default)]
pub(super) struct PodDisruptionBudgets;

impl Kind for PodDisruptionBudgets {
    type Object = PodDisruptionBudget;

    fn prepare_create(budget: &mut PodDisruptionBudget) {
        budget.spec.get_or_insert_default();
        budget.status = Some(zero_status());
        workload::first_generation(&mut budget.metadata);
    }

    fn prepare_update(new: &mut PodDisruptionBudget, old: &PodDisruptionBudget, part: Part) {
        if part == Part::Status {
            new.spec = old.spec.clone();
        } else {
            new.status = old.status.clone();
        }
        let changed = new.spec != old.spec;
        workload::next_generation(&mut new.metadata, &old.metadata, changed);
    }

    fn validate(budget: &PodDisruptionBudget) -> ErrorList {
        let mut errors = Errors::default();
        let (spec, path) = (budget.spec.clone().unwrap_or_default(), Path::new("spec"));
        if spec.min_available.is_some() && spec.max_unavailable.is_some() {
            errors.invalid(
                &path,
                json!(spec),
                "minAvailable and maxUnavailable cannot be both set",
            );
        }
        for (field, value) in
            [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)]
        {
            if let Some(value) = value {
                errors.int_or_percent(&path.child(field), value);
                errors.at_most_100_percent(&path.child(field), value);
            }
        }
        if let Some(selector) = &spec.selector {
            errors.selector(&path.child("selector"), selector);
        }
        if let Some(policy) = &spec.unhealthy_pod_eviction_policy {
            errors.one_of(
                &path.child("unhealthyPodEvictionPolicy"),
                policy,
                &["AlwaysAllow", "IfHealthyBudget"],
            );
        }
        errors.0
    }

    fn validate_update(
        new: &PodDisruptionBudget,
        _: &PodDisruptionBudget,
        part: Part,
    ) -> ErrorList {
        let mut errors = Errors::default();
        let Some(status) = new.status.as_ref().filter(|_| part == Part::Status) else {
            return errors.0;
        };
        let path = Path::new("status");
        errors.conditions(list(&status.conditions), &path.child("conditions"));
        for (field, count) in [
            ("disruptionsAllowed", status.disruptions_allowed),
            ("currentHealthy", status.current_healthy),
            ("desiredHealthy", status.desired_healthy),
            ("expectedPods", status.expected_pods),
        ] {
            errors.opt_not_negative(&path.child(field), count);
        }
        errors.0
    }

    fn cells(budget: &PodDisruptionBudget, now: Timestamp) -> Vec<Value> {
        let spec = budget.spec.clone().unwrap_or_default();
        let allowed = budget.status.as_ref().and_then(|status| status.disruptions_allowed);
        let or_not = |value: &Option<IntOrString>| match value {
            None => "N/A".to_owned(),
            Some(IntOrString::Int(number)) => number.to_string(),
            Some(IntOrString::String(text)) => text.clone(),
        };
        vec![
            json!(name(&budget.metadata)),
            json!(or_not(&spec.min_available)),
            json!(or_not(&spec.max_unavailable)),
            json!(allowed.unwrap_or(0)),
            json!(age(&budget.metadata, now)),
        ]
    }

    const UNCONDITIONAL_UPDATE: bool = false;
}

/// The counts are required: without a controller none may be evicted.
fn zero_status() -> PodDisruptionBudgetStatus {
    PodDisruptionBudgetStatus {
        current_healthy: Some(0),
        desired_healthy: Some(0),
        disruptions_allowed: Some(0),
        expected_pods: Some(0),
        ..PodDisruptionBudgetStatus::default()
    }
}
