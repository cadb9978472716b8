//! ResourceQuota.

use k8s_openapi::{
    api::core::v1::{ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus},
    apimachinery::pkg::api::resource::Quantity,
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Kind, Part, Resource,
    check::{Errors, list, round_to_millis},
    row::Row,
};
use crate::{
    field::{ErrorList, Path},
    meta::table::{age, name},
};

/// The row of ResourceQuota.
pub(super) fn row() -> Resource {
    Row::of::<ResourceQuotas>().short(&["quota"]).status().columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Request", "string", "Requests used, of those allowed."),
    Column::new("Limit", "string", "Limits used, of those allowed."),
    Column::AGE,
];

const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

/// How a ResourceQuota behaves.
#[derive(Debug, Default)]
pub(super) struct ResourceQuotas;

impl Kind for ResourceQuotas {
    type Object = ResourceQuota;

    fn default(quota: &mut ResourceQuota) {
        round_to_millis(&mut quota.spec.get_or_insert_default().hard);
        let status = quota.status.get_or_insert_default();
        round_to_millis(&mut status.hard);
        round_to_millis(&mut status.used);
    }

    fn prepare_create(quota: &mut ResourceQuota) {
        quota.status = Some(ResourceQuotaStatus::default());
    }

    fn prepare_update(new: &mut ResourceQuota, old: &ResourceQuota, part: Part) {
        if part == Part::Status {
            new.spec = old.spec.clone();
        } else {
            new.status = old.status.clone();
        }
    }

    fn validate(quota: &ResourceQuota) -> ErrorList {
        let none = ResourceQuotaSpec::default();
        let (spec, path) = (quota.spec.as_ref().unwrap_or(&none), Path::new("spec"));
        let mut errors = Errors::default();
        amounts(&mut errors, spec.hard.iter().flatten(), &path.child("hard"));
        scopes(&mut errors, spec, &path);
        scope_selector(&mut errors, spec, &path);
        errors.0
    }

    fn validate_update(new: &ResourceQuota, old: &ResourceQuota, part: Part) -> ErrorList {
        let mut errors = Errors::default();
        let scopes = |quota: &ResourceQuota| {
            let mut scopes = list(&quota.spec.clone().unwrap_or_default().scopes).to_vec();
            scopes.sort();
            scopes
        };
        if part == Part::Main {
            errors.immutable(&Path::new("spec.scopes"), &scopes(new), &scopes(old));
        }
        if part == Part::Status {
            let none = ResourceQuotaStatus::default();
            let (status, path) = (new.status.as_ref().unwrap_or(&none), Path::new("status"));
            amounts(&mut errors, status.hard.iter().flatten(), &path.child("hard"));
            amounts(&mut errors, status.used.iter().flatten(), &path.child("used"));
        }
        errors.0
    }

    fn cells(quota: &ResourceQuota, now: Timestamp) -> Vec<Value> {
        let status = quota.status.clone().unwrap_or_default();
        let hard = status.hard.unwrap_or_default();
        let used = status.used.unwrap_or_default();
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (resource, hard) in &hard {
            let used = used.get(resource).map_or("0", |used| &used.0);
            let cell = format!("{resource}: {used}/{}", hard.0);
            if resource.starts_with("limits") { &mut limits } else { &mut requests }.push(cell);
        }
        vec![
            json!(name(&quota.metadata)),
            json!(requests.join(", ")),
            json!(limits.join(", ")),
            json!(age(&quota.metadata, now)),
        ]
    }

    const CREATE_ON_UPDATE: bool = true;
}

fn amounts<'a>(
    errors: &mut Errors,
    amounts: impl Iterator<Item = (&'a String, &'a Quantity)>,
    path: &Path,
) {
    for (resource, amount) in amounts {
        let at = path.key(resource);
        // Counts of any kind are written `count/deployments.apps`.
        if !resource.starts_with("count/") {
            errors.resource_name(&at, resource);
        }
        errors.amount(&at, resource, amount);
    }
}

fn scopes(errors: &mut Errors, spec: &ResourceQuotaSpec, path: &Path) {
    let at = path.child("scopes");
    let scopes = list(&spec.scopes);
    for scope in scopes {
        if !SCOPES.contains(&scope.as_str()) {
            errors.invalid(&at, scopes.to_vec(), "unsupported scope");
        }
        let mut resources = spec.hard.iter().flatten().map(|(resource, _)| resource.as_str());
        let applies = |resource: &str| match scope.as_str() {
            "BestEffort" => matches!(resource, "pods" | "count/pods"),
            "NotBestEffort" | "Terminating" | "NotTerminating" | "PriorityClass" => {
                let bare = resource.strip_prefix("requests.").or(resource.strip_prefix("limits."));
                let compute = ["cpu", "memory", "ephemeral-storage"];
                matches!(resource, "pods" | "count/pods")
                    || compute.contains(&bare.unwrap_or(resource))
                    || resource.contains("hugepages-")
            }
            _ => true,
        };
        if !resources.all(applies) {
            errors.invalid(&at, scopes.to_vec(), "unsupported scope applied to resource");
        }
    }
    let has = |scope: &str| scopes.iter().any(|other| other == scope);
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if has(one) && has(other) {
            errors.invalid(&at, scopes.to_vec(), "conflicting scopes");
        }
    }
}

fn scope_selector(errors: &mut Errors, spec: &ResourceQuotaSpec, path: &Path) {
    let Some(selector) = &spec.scope_selector else { return };
    let at = path.child("scopeSelector.matchExpressions");
    for wanted in list(&selector.match_expressions) {
        if !SCOPES.contains(&wanted.scope_name.as_str()) {
            errors.invalid(&at.child("scopeName"), wanted.scope_name.as_str(), "unsupported scope");
        }
        let values = list(&wanted.values);
        match wanted.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => errors.required(
                &at.child("values"),
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            ),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.invalid(
                &at.child("values"),
                values.to_vec(),
                "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(&at.child("operator"), other, "not a valid selector operator"),
        }
    }
}
