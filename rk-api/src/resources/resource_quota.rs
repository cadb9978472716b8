//! ResourceQuota.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::core::v1::{ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus},
    apimachinery::pkg::api::resource::Quantity,
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Kind, Part, Resource,
    check::{Errors, IMMUTABLE, list, round_to_millis},
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
        if part == Part::Main {
            let scopes = |quota: &ResourceQuota| {
                list(&quota.spec.clone().unwrap_or_default().scopes).to_vec()
            };
            let (new, old) = (scopes(new), scopes(old));
            if BTreeSet::from_iter(&new) != BTreeSet::from_iter(&old) {
                errors.invalid(&Path::new("spec.scopes"), json!(new), IMMUTABLE);
            }
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
        if !applies_to_all(scope, spec) {
            errors.invalid(&at, scopes.to_vec(), "unsupported scope applied to resource");
        }
    }
    if let Some(wrong) = conflict(scopes.iter().map(String::as_str)) {
        errors.invalid(&at, scopes.to_vec(), wrong);
    }
}

/// Whether the scope has a meaning for all resources that are limited.
fn applies_to_all(scope: &str, spec: &ResourceQuotaSpec) -> bool {
    let applies = |resource: &str| {
        let bare = resource.strip_prefix("requests.").or(resource.strip_prefix("limits."));
        let is_pods = matches!(resource, "pods" | "count/pods");
        let compute = ["cpu", "memory", "ephemeral-storage"];
        match scope {
            "BestEffort" => is_pods,
            "NotBestEffort"
            | "Terminating"
            | "NotTerminating"
            | "PriorityClass"
            | "CrossNamespacePodAffinity" => {
                is_pods
                    || compute.contains(&bare.unwrap_or(resource))
                    || resource.contains("hugepages-")
            }
            "VolumeAttributesClass" => matches!(
                resource,
                "persistentvolumeclaims" | "count/persistentvolumeclaims" | "requests.storage"
            ),
            _ => true,
        }
    };
    // Of resources that are not Kubernetes' own nothing is known.
    let mut resources = spec.hard.iter().flatten().map(|(resource, _)| resource.as_str());
    resources.all(|resource| {
        resource.contains('/') && !resource.starts_with("count/pods") || applies(resource)
    })
}

/// Two scopes that no Pod is in.
fn conflict<'a>(scopes: impl Iterator<Item = &'a str>) -> Option<&'static str> {
    let scopes: BTreeSet<_> = scopes.collect();
    let pairs = [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")];
    let both = |(one, other): &(&str, &str)| scopes.contains(one) && scopes.contains(other);
    pairs.iter().any(both).then_some("conflicting scopes")
}

fn scope_selector(errors: &mut Errors, spec: &ResourceQuotaSpec, path: &Path) {
    let Some(selector) = &spec.scope_selector else { return };
    let at = path.child("scopeSelector.matchExpressions");
    for wanted in list(&selector.match_expressions) {
        if !SCOPES.contains(&wanted.scope_name.as_str()) {
            errors.invalid(&at.child("scopeName"), wanted.scope_name.as_str(), "unsupported scope");
        }
        if !applies_to_all(&wanted.scope_name, spec) {
            errors.invalid(&at, json!(selector), "unsupported scope applied to resource");
        }
        let has_values = ["PriorityClass", "VolumeAttributesClass"];
        if SCOPES.contains(&wanted.scope_name.as_str())
            && !has_values.contains(&wanted.scope_name.as_str())
            && wanted.operator != "Exists"
        {
            errors.invalid(
                &at.child("operator"),
                wanted.operator.as_str(),
                "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
                 ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                 ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
            );
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
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(&at.child("operator"), other, "not a valid selector operator"),
        }
    }
    let wanted = list(&selector.match_expressions).iter();
    if let Some(wrong) = conflict(wanted.map(|wanted| wanted.scope_name.as_str())) {
        errors.invalid(&at, list(&spec.scopes).to_vec(), wrong);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(spec: Value) -> ResourceQuota {
        let mut quota = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
        <ResourceQuotas as Kind>::default(&mut quota);
        quota
    }

    #[track_caller]
    fn check(old: Value, new: Value, wrong: &[&str]) {
        let (new, old) = (quota(new), quota(old));
        let mut errors = ResourceQuotas::validate(&new);
        errors.extend(ResourceQuotas::validate_update(&new, &old, Part::Main));
        let messages: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(messages, wrong);
    }

    #[test]
    fn limits_change_and_scopes_stay() {
        let quota = |pods: &str, scopes: &[&str]| json!({"hard": {"pods": pods}, "scopes": scopes});
        let two = ["Terminating", "BestEffort"];
        check(quota("1", &two), quota("2", &["BestEffort", "Terminating"]), &[]);
        check(
            quota("1", &two),
            quota("1", &["BestEffort"]),
            &["spec.scopes: Invalid value: [\"BestEffort\"]: field is immutable"],
        );
    }

    #[test]
    fn a_selector_of_scopes_makes_sense() {
        let with = |hard: Value, wanted: Value| {
            let spec = json!({"hard": hard, "scopeSelector": {"matchExpressions": wanted}});
            (spec.clone(), spec)
        };
        let (old, new) = with(
            json!({"pods": "1", "example.com/gpu": "1"}),
            json!([{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]),
        );
        check(old, new, &[]);
        let (old, new) = with(
            json!({"pods": "1"}),
            json!([{"scopeName": "Terminating", "operator": "DoesNotExist"}]),
        );
        check(
            old,
            new,
            &[
                "spec.scopeSelector.matchExpressions.operator: Invalid value: \"DoesNotExist\": must \
               be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
               ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
               ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
            ],
        );
        let (old, new) = with(
            json!({"services": "1"}),
            json!([{"scopeName": "BestEffort", "operator": "Exists"}]),
        );
        check(
            old,
            new,
            &["spec.scopeSelector.matchExpressions: Invalid value: {\"matchExpressions\":\
               [{\"operator\":\"Exists\",\"scopeName\":\"BestEffort\"}]}: unsupported scope applied \
               to resource"],
        );
    }
}
