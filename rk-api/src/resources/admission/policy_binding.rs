//! ValidatingAdmissionPolicyBinding and MutatingAdmissionPolicyBinding: where a policy counts, and
//! with which parameters.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::admissionregistration::v1::{
        MatchResources, MutatingAdmissionPolicyBinding, ParamRef, ValidatingAdmissionPolicyBinding,
    },
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    super::{
        Column, Kind, Part, Resource,
        check::{Errors, text},
        row::Row,
        workload,
    },
    rules,
};
use crate::{
    field::{ErrorList, FieldError, Path},
    meta::{
        names,
        table::{age, name},
    },
};

/// The rows of MutatingAdmissionPolicyBinding and ValidatingAdmissionPolicyBinding.
pub(super) fn rows() -> [Resource; 2] {
    [
        Row::of::<MutatingBindings>().columns(COLUMNS).done(),
        Row::of::<ValidatingBindings>().columns(COLUMNS).done(),
    ]
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("PolicyName", "string", "The policy that it is about."),
    Column::new("ParamRef", "string", "The policy's parameters."),
    Column::AGE,
];

const ACTIONS: &[&str] = &["Audit", "Deny", "Warn"];

/// How a ValidatingAdmissionPolicyBinding behaves.
#[derive(Debug, Default)]
pub(super) struct ValidatingBindings;

impl Kind for ValidatingBindings {
    type Object = ValidatingAdmissionPolicyBinding;

    fn default(binding: &mut ValidatingAdmissionPolicyBinding) {
        if let Some(resources) = &mut binding.spec.match_resources {
            rules::default_resources(resources);
        }
    }

    fn prepare_create(binding: &mut ValidatingAdmissionPolicyBinding) {
        workload::first_generation(&mut binding.metadata);
    }

    fn prepare_update(
        new: &mut ValidatingAdmissionPolicyBinding,
        old: &ValidatingAdmissionPolicyBinding,
        _: Part,
    ) {
        let changed = new.spec != old.spec;
        workload::next_generation(&mut new.metadata, &old.metadata, changed);
    }

    fn validate(binding: &ValidatingAdmissionPolicyBinding) -> ErrorList {
        let spec = &binding.spec;
        let mut errors = Errors::default();
        common(
            &mut errors,
            &spec.policy_name,
            spec.param_ref.as_ref(),
            spec.match_resources.as_ref(),
        );
        actions(&mut errors, &spec.validation_actions, &Path::new("spec.validationActions"));
        errors.0
    }

    fn cells(binding: &ValidatingAdmissionPolicyBinding, now: Timestamp) -> Vec<Value> {
        vec![
            json!(name(&binding.metadata)),
            json!(binding.spec.policy_name),
            json!(param_ref_cell(binding.spec.param_ref.as_ref())),
            json!(age(&binding.metadata, now)),
        ]
    }

    const UNCONDITIONAL_UPDATE: bool = false;
}

/// How a MutatingAdmissionPolicyBinding behaves.
#[derive(Debug, Default)]
pub(super) struct MutatingBindings;

impl Kind for MutatingBindings {
    type Object = MutatingAdmissionPolicyBinding;

    fn default(binding: &mut MutatingAdmissionPolicyBinding) {
        let spec = binding.spec.get_or_insert_default();
        if let Some(resources) = &mut spec.match_resources {
            rules::default_resources(resources);
        }
    }

    fn prepare_create(binding: &mut MutatingAdmissionPolicyBinding) {
        workload::first_generation(&mut binding.metadata);
    }

    fn prepare_update(
        new: &mut MutatingAdmissionPolicyBinding,
        old: &MutatingAdmissionPolicyBinding,
        _: Part,
    ) {
        let changed = new.spec != old.spec;
        workload::next_generation(&mut new.metadata, &old.metadata, changed);
    }

    fn validate(binding: &MutatingAdmissionPolicyBinding) -> ErrorList {
        let spec = binding.spec.clone().unwrap_or_default();
        let mut errors = Errors::default();
        common(
            &mut errors,
            text(&spec.policy_name),
            spec.param_ref.as_ref(),
            spec.match_resources.as_ref(),
        );
        errors.0
    }

    fn cells(binding: &MutatingAdmissionPolicyBinding, now: Timestamp) -> Vec<Value> {
        let spec = binding.spec.clone().unwrap_or_default();
        vec![
            json!(name(&binding.metadata)),
            json!(text(&spec.policy_name)),
            json!(param_ref_cell(spec.param_ref.as_ref())),
            json!(age(&binding.metadata, now)),
        ]
    }

    const UNCONDITIONAL_UPDATE: bool = false;
}

fn param_ref_cell(reference: Option<&ParamRef>) -> String {
    let Some(reference) = reference else { return "<unset>".to_owned() };
    match (text(&reference.namespace), text(&reference.name)) {
        ("", name) => name.to_owned(),
        (namespace, "") => format!("{namespace}/*"),
        (namespace, name) => format!("{namespace}/{name}"),
    }
}

fn common(
    errors: &mut Errors,
    policy: &str,
    reference: Option<&ParamRef>,
    resources: Option<&MatchResources>,
) {
    let path = Path::new("spec");
    let form = |name: &str| names::dns_subdomain(name, false);
    errors.required_form(&path.child("policyName"), policy, form);
    if let Some(reference) = reference {
        param_ref(errors, reference, &path.child("paramRef"));
    }
    if let Some(resources) = resources {
        // The field is spelt so in Kubernetes' messages.
        rules::resources(errors, resources, &path.child("matchResouces"));
    }
}

/// Parameters by name or by label, not both.
fn param_ref(errors: &mut Errors, reference: &ParamRef, path: &Path) {
    let exclusive = "name and selector are mutually exclusive";
    let name = text(&reference.name);
    let has_name = !name.is_empty();
    if has_name {
        errors.form(&path.child("name"), name, names::path_segment(name, false));
        if reference.selector.is_some() {
            errors.forbidden(&path.child("name"), exclusive);
        }
    }
    match &reference.selector {
        Some(selector) => {
            errors.selector(&path.child("selector"), selector);
            if has_name {
                errors.forbidden(&path.child("selector"), exclusive);
            }
        }
        None if !has_name => errors.required(path, "one of name or selector must be specified"),
        None => {}
    }
    let action = text(&reference.parameter_not_found_action);
    errors.required_one_of(&path.child("parameterNotFoundAction"), action, &["Deny", "Allow"]);
}

fn actions(errors: &mut Errors, actions: &[String], path: &Path) {
    let mut known = BTreeSet::new();
    for (i, action) in actions.iter().enumerate() {
        errors.one_of(&path.index(i), action, ACTIONS);
        if !known.insert(action.as_str()) {
            errors.push(FieldError::duplicate(&path.index(i), action.as_str()));
        }
    }
    if known.contains("Deny") && known.contains("Warn") {
        let wrong = "must not contain both Deny and Warn (repeating the same validation failure \
                     information in the API response and headers serves no purpose)";
        errors.invalid(path, json!(actions), wrong);
    }
    if known.is_empty() {
        errors.required(path, "at least one validation action is required");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_is_refused_or_warned_of() {
        #[track_caller]
        fn check(list: &[&str], wrong: usize) {
            let list: Vec<_> = list.iter().map(|action| (*action).to_owned()).collect();
            let mut errors = Errors::default();
            actions(&mut errors, &list, &Path::new("actions"));
            assert_eq!(errors.0.len(), wrong, "{:?}", errors.0);
        }
        check(&["Deny", "Audit"], 0);
        check(&["Warn"], 0);
        check(&[], 1);
        check(&["Deny", "Warn"], 1);
        check(&["Deny", "Deny"], 1);
        check(&["Nope"], 1);
    }
}
