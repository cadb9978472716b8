//! Which requests a webhook or a policy is about.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::admissionregistration::v1::{
        MatchCondition, MatchResources, NamedRuleWithOperations, RuleWithOperations,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use serde_json::json;

use super::{
    super::check::{Errors, default_text, list, text},
    expressions::{Given, Outcome, Scope},
};
use crate::{
    field::{FieldError, Path},
    meta::names,
};

pub(super) const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
pub(super) const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];

/// The most conditions that a webhook or policy can have.
const CONDITIONS_MAX: usize = 64;

/// Everything that matches what is left out.
pub(super) fn default_selectors(
    policy: &mut Option<String>,
    namespaces: &mut Option<LabelSelector>,
    objects: &mut Option<LabelSelector>,
) {
    default_text(policy, "Equivalent");
    namespaces.get_or_insert_default();
    objects.get_or_insert_default();
}

/// Fills in what a rule leaves out.
pub(super) fn default_rule(rule: &mut RuleWithOperations) {
    rule.scope.get_or_insert_with(|| "*".to_owned());
}

/// Fills in what a policy's constraints leave out.
pub(super) fn default_resources(resources: &mut MatchResources) {
    default_selectors(
        &mut resources.match_policy,
        &mut resources.namespace_selector,
        &mut resources.object_selector,
    );
    let rules = resources.resource_rules.iter_mut().chain(&mut resources.exclude_resource_rules);
    for rule in rules.flatten() {
        rule.scope.get_or_insert_with(|| "*".to_owned());
    }
}

/// What is wrong with a policy's constraints.
pub(super) fn resources(errors: &mut Errors, resources: &MatchResources, path: &Path) {
    let at = path.child("matchPolicy");
    errors.required_one_of(&at, text(&resources.match_policy), MATCH_POLICIES);
    for (field, selector) in [
        ("namespaceSelector", &resources.namespace_selector),
        ("objectSelector", &resources.object_selector),
    ] {
        match selector {
            Some(selector) => errors.selector(&path.child(field), selector),
            None => errors.required(&path.child(field), ""),
        }
    }
    for (field, rules) in [
        ("resourceRules", &resources.resource_rules),
        ("excludeResourceRules", &resources.exclude_resource_rules),
    ] {
        for (i, rule) in list(rules).iter().enumerate() {
            named_rule(errors, rule, &path.child(field).index(i));
        }
    }
}

fn named_rule(errors: &mut Errors, rule: &NamedRuleWithOperations, path: &Path) {
    let mut known = BTreeSet::new();
    for (i, name) in list(&rule.resource_names).iter().enumerate() {
        let at = path.child("resourceNames").index(i);
        errors.form(&at, name.as_str(), names::path_segment(name, false));
        if !known.insert(name) {
            errors.push(FieldError::duplicate(&at, name.as_str()));
        }
    }
    let plain = RuleWithOperations {
        api_groups: rule.api_groups.clone(),
        api_versions: rule.api_versions.clone(),
        operations: rule.operations.clone(),
        resources: rule.resources.clone(),
        scope: rule.scope.clone(),
    };
    self::rule(errors, &plain, path);
}

/// What is wrong with a rule.
pub(super) fn rule(errors: &mut Errors, rule: &RuleWithOperations, path: &Path) {
    let at = path.child("operations");
    let operations = list(&rule.operations);
    wildcard_alone(errors, operations, "operations", &at);
    for (i, operation) in operations.iter().enumerate() {
        errors.one_of(&at.index(i), operation, OPERATIONS);
    }
    // A group may be empty: the core group is.
    wildcard_alone(errors, list(&rule.api_groups), "API groups", &path.child("apiGroups"));
    let at = path.child("apiVersions");
    let versions = list(&rule.api_versions);
    wildcard_alone(errors, versions, "API versions", &at);
    for (i, _) in versions.iter().enumerate().filter(|(_, version)| version.is_empty()) {
        errors.required(&at.index(i), "");
    }
    rule_resources(errors, list(&rule.resources), &path.child("resources"));
    if let Some(scope) = &rule.scope {
        errors.one_of(&path.child("scope"), scope, SCOPES);
    }
}

fn wildcard_alone(errors: &mut Errors, items: &[String], what: &str, path: &Path) {
    if items.is_empty() {
        errors.required(path, "");
    }
    if items.len() > 1 && items.iter().any(|item| item == "*") {
        let wrong = format!("if '*' is present, must not specify other {what}");
        errors.invalid(path, json!(items), wrong);
    }
}

/// `pods`, `pods/log`, `*/scale`, `pods/*`, `*` and `*/*`: none may say what another says already.
fn rule_resources(errors: &mut Errors, resources: &[String], path: &Path) {
    if resources.is_empty() {
        errors.required(path, "");
    }
    let (mut all_below, mut on_all) = (BTreeSet::new(), BTreeSet::new());
    let mut last_is_plain = false;
    for (i, resource) in resources.iter().enumerate() {
        let at = path.index(i);
        if resource.is_empty() {
            errors.required(&at, "");
            continue;
        }
        let Some((parent, sub)) = resource.split_once('/') else {
            last_is_plain = resource != "*";
            continue;
        };
        if all_below.contains(parent) {
            let wrong = format!("if '{parent}/*' is present, must not specify {resource}");
            errors.invalid(&at, resource.as_str(), wrong);
        }
        if on_all.contains(sub) {
            let wrong = format!("if '*/{sub}' is present, must not specify {resource}");
            errors.invalid(&at, resource.as_str(), wrong);
        }
        if sub == "*" {
            all_below.insert(parent);
        }
        if parent == "*" {
            on_all.insert(sub);
        }
    }
    let has = |wanted: &str| resources.iter().any(|resource| resource == wanted);
    if resources.len() > 1 && has("*/*") {
        let wrong = "if '*/*' is present, must not specify other resources";
        errors.invalid(path, json!(resources), wrong);
    }
    if has("*") && last_is_plain {
        let wrong = "if '*' is present, must not specify other resources without subresources";
        errors.invalid(path, json!(resources), wrong);
    }
}

/// What is wrong with conditions, which can refer to `params` where there are some.
pub(super) fn conditions(
    errors: &mut Errors,
    conditions: &[MatchCondition],
    params: bool,
    path: &Path,
) {
    let given = Given { params, authorizer: true, patches: false };
    if conditions.len() > CONDITIONS_MAX {
        errors.push(FieldError::too_many(path, conditions.len(), CONDITIONS_MAX));
    }
    let mut known = BTreeSet::new();
    for (i, condition) in conditions.iter().enumerate() {
        let at = path.index(i);
        let expression = condition.expression.trim();
        if expression.is_empty() {
            errors.required(&at.child("expression"), "");
        } else {
            let at = at.child("expression");
            Scope::default().check(errors, given, expression, Outcome::Bool, &at);
        }
        errors.required_form(&at.child("name"), &condition.name, names::qualified_name);
        if !condition.name.is_empty() && !known.insert(&condition.name) {
            errors.push(FieldError::duplicate(&at.child("name"), condition.name.as_str()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(resources: &[&str], wrong: usize) {
        let resources: Vec<_> = resources.iter().map(|r| (*r).to_owned()).collect();
        let mut errors = Errors::default();
        rule_resources(&mut errors, &resources, &Path::new("resources"));
        assert_eq!(errors.0.len(), wrong, "{:?}", errors.0);
    }

    #[test]
    fn no_resource_says_what_another_says_already() {
        check(&["pods"], 0);
        check(&["pods", "pods/log", "*/scale"], 0);
        check(&["*", "pods/log"], 0);
        check(&[], 1);
        check(&[""], 1);
        check(&["pods/*", "pods/log"], 1);
        check(&["*/scale", "pods/scale"], 1);
        check(&["*/*", "pods"], 1);
        check(&["*", "pods"], 1);
    }
}
