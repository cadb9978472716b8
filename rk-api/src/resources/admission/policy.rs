//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy: admission by expressions.
//!
//! Expressions are compiled when a policy is written, and refused then if they make no sense.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::admissionregistration::v1::{
        AuditAnnotation, MatchCondition, MatchResources, MutatingAdmissionPolicy,
        MutatingAdmissionPolicySpec, Mutation, ParamKind, ValidatingAdmissionPolicy,
        ValidatingAdmissionPolicySpec, ValidatingAdmissionPolicyStatus, Validation, Variable,
    },
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    super::{
        Column, Kind, Part, Resource,
        check::{Errors, default_text, list, text},
        row::Row,
        typed::keep_metadata,
        workload,
    },
    PARAM_KIND,
    expressions::{Given, Outcome, Scope},
    rules,
};
use crate::{
    cel::Type,
    field::{ErrorList, FieldError, Path},
    meta::{
        names,
        table::{age, name},
    },
};

/// The rows of MutatingAdmissionPolicy and ValidatingAdmissionPolicy.
pub(super) fn rows() -> [Resource; 2] {
    const MUTATING: &[Column] = &[
        Column::NAME,
        Column::new("Mutations", "integer", "How many mutations it has."),
        PARAM_KIND,
        Column::AGE,
    ];
    const VALIDATING: &[Column] = &[
        Column::NAME,
        Column::new("Validations", "integer", "How many validations it has."),
        PARAM_KIND,
        Column::AGE,
    ];
    [
        Row::of::<MutatingPolicies>().columns(MUTATING).done(),
        Row::of::<ValidatingPolicies>().status().columns(VALIDATING).done(),
    ]
}

/// The most audit annotations of a policy, and the longest expression for one, in bytes.
const ANNOTATIONS_MAX: usize = 20;
const ANNOTATION_MAX: usize = 5 * 1024;
/// Why a request can be refused.
const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];

/// How a ValidatingAdmissionPolicy behaves.
#[derive(Debug, Default)]
pub(super) struct ValidatingPolicies;

impl Kind for ValidatingPolicies {
    type Object = ValidatingAdmissionPolicy;

    fn default(policy: &mut ValidatingAdmissionPolicy) {
        let spec = policy.spec.get_or_insert_default();
        default_text(&mut spec.failure_policy, "Fail");
        if let Some(constraints) = &mut spec.match_constraints {
            rules::default_resources(constraints);
        }
        policy.status.get_or_insert_default();
    }

    fn prepare_create(policy: &mut ValidatingAdmissionPolicy) {
        policy.status = Some(ValidatingAdmissionPolicyStatus::default());
        workload::first_generation(&mut policy.metadata);
    }

    fn prepare_update(
        new: &mut ValidatingAdmissionPolicy,
        old: &ValidatingAdmissionPolicy,
        part: Part,
    ) {
        if part == Part::Status {
            new.spec = old.spec.clone();
            keep_metadata(&mut new.metadata, &old.metadata);
        } else {
            new.status = old.status.clone();
        }
        let changed = new.spec != old.spec;
        workload::next_generation(&mut new.metadata, &old.metadata, changed);
    }

    fn validate(policy: &ValidatingAdmissionPolicy) -> ErrorList {
        let none = ValidatingAdmissionPolicySpec::default();
        let (spec, path) = (policy.spec.as_ref().unwrap_or(&none), Path::new("spec"));
        let mut errors = Errors::default();
        common(
            &mut errors,
            &spec.failure_policy,
            spec.param_kind.as_ref(),
            spec.match_constraints.as_ref(),
            &path,
        );
        let given = Given { params: spec.param_kind.is_some(), ..Given::default() };
        let scope = variables(&mut errors, list(&spec.variables), given, &path.child("variables"));
        let (validations, annotations) = (list(&spec.validations), list(&spec.audit_annotations));
        if validations.is_empty() && annotations.is_empty() {
            let wrong = "validations or auditAnnotations must contain at least one item";
            errors.required(&path.child("validations"), wrong);
            errors.required(&path.child("auditAnnotations"), wrong);
        }
        for (i, rule) in validations.iter().enumerate() {
            let at = path.child("validations").index(i);
            validation(&mut errors, rule, &scope, given, &at);
        }
        let own_name = name(&policy.metadata);
        let at = path.child("auditAnnotations");
        audit(&mut errors, annotations, own_name, &at);
        for (i, annotation) in annotations.iter().enumerate() {
            let (at, source) = (at.index(i).child("valueExpression"), &annotation.value_expression);
            if !source.trim().is_empty() && source.len() <= ANNOTATION_MAX {
                let given = Given { authorizer: true, ..given };
                scope.check(&mut errors, given, source, Outcome::OptionalString, &at);
            }
        }
        errors.0
    }

    fn validate_create(policy: &ValidatingAdmissionPolicy) -> ErrorList {
        let spec = policy.spec.as_ref();
        conditions(
            spec.map_or(&[], |spec| list(&spec.match_conditions)),
            spec.is_some_and(|spec| spec.param_kind.is_some()),
        )
    }

    fn validate_update(
        new: &ValidatingAdmissionPolicy,
        old: &ValidatingAdmissionPolicy,
        part: Part,
    ) -> ErrorList {
        let mut errors = Errors::default();
        if part != Part::Status {
            let conditions = |policy: &ValidatingAdmissionPolicy| {
                policy.spec.clone().unwrap_or_default().match_conditions.unwrap_or_default()
            };
            // What was let in once, perhaps by older rules, may stay.
            return match conditions(new) == conditions(old) {
                true => errors.0,
                false => Self::validate_create(new),
            };
        }
        let checked = new.status.as_ref().and_then(|status| status.type_checking.as_ref());
        let warnings = checked.map_or(&[][..], |checked| list(&checked.expression_warnings));
        for (i, warning) in warnings.iter().enumerate() {
            let at = Path::new("status.typeChecking.expressionWarnings").index(i);
            if warning.warning.is_empty() {
                errors.required(&at.child("warning"), "");
            }
            if warning.field_ref.trim().is_empty() {
                errors.required(&at.child("fieldRef"), "");
            }
        }
        errors.0
    }

    fn cells(policy: &ValidatingAdmissionPolicy, now: Timestamp) -> Vec<Value> {
        let spec = policy.spec.as_ref();
        vec![
            json!(name(&policy.metadata)),
            json!(spec.map_or(0, |spec| list(&spec.validations).len())),
            json!(param_kind_cell(spec.and_then(|spec| spec.param_kind.as_ref()))),
            json!(age(&policy.metadata, now)),
        ]
    }

    const UNCONDITIONAL_UPDATE: bool = false;
}

/// How a MutatingAdmissionPolicy behaves.
#[derive(Debug, Default)]
pub(super) struct MutatingPolicies;

impl Kind for MutatingPolicies {
    type Object = MutatingAdmissionPolicy;

    fn default(policy: &mut MutatingAdmissionPolicy) {
        let spec = policy.spec.get_or_insert_default();
        default_text(&mut spec.failure_policy, "Fail");
        if let Some(constraints) = &mut spec.match_constraints {
            rules::default_resources(constraints);
        }
    }

    fn prepare_create(policy: &mut MutatingAdmissionPolicy) {
        workload::first_generation(&mut policy.metadata);
    }

    fn prepare_update(new: &mut MutatingAdmissionPolicy, old: &MutatingAdmissionPolicy, _: Part) {
        let changed = new.spec != old.spec;
        workload::next_generation(&mut new.metadata, &old.metadata, changed);
    }

    fn validate(policy: &MutatingAdmissionPolicy) -> ErrorList {
        let none = MutatingAdmissionPolicySpec::default();
        let (spec, path) = (policy.spec.as_ref().unwrap_or(&none), Path::new("spec"));
        let mut errors = Errors::default();
        common(
            &mut errors,
            &spec.failure_policy,
            spec.param_kind.as_ref(),
            spec.match_constraints.as_ref(),
            &path,
        );
        let given = Given { params: spec.param_kind.is_some(), authorizer: true, patches: true };
        let scope = variables(&mut errors, list(&spec.variables), given, &path.child("variables"));
        let mutations = list(&spec.mutations);
        if mutations.is_empty() {
            errors.required(&path.child("mutations"), "mutations must contain at least one item");
        }
        for (i, mutation) in mutations.iter().enumerate() {
            let at = path.child("mutations").index(i);
            self::mutation(&mut errors, mutation, &at);
            patch(&mut errors, mutation, &scope, given, &at);
        }
        let at = path.child("reinvocationPolicy");
        errors.required_one_of(&at, text(&spec.reinvocation_policy), &["IfNeeded", "Never"]);
        errors.0
    }

    fn validate_create(policy: &MutatingAdmissionPolicy) -> ErrorList {
        let spec = policy.spec.as_ref();
        conditions(
            spec.map_or(&[], |spec| list(&spec.match_conditions)),
            spec.is_some_and(|spec| spec.param_kind.is_some()),
        )
    }

    fn validate_update(
        new: &MutatingAdmissionPolicy,
        old: &MutatingAdmissionPolicy,
        _: Part,
    ) -> ErrorList {
        let conditions = |policy: &MutatingAdmissionPolicy| {
            policy.spec.clone().unwrap_or_default().match_conditions.unwrap_or_default()
        };
        match conditions(new) == conditions(old) {
            true => ErrorList::new(),
            false => Self::validate_create(new),
        }
    }

    fn cells(policy: &MutatingAdmissionPolicy, now: Timestamp) -> Vec<Value> {
        let spec = policy.spec.as_ref();
        vec![
            json!(name(&policy.metadata)),
            json!(spec.map_or(0, |spec| list(&spec.mutations).len())),
            json!(param_kind_cell(spec.and_then(|spec| spec.param_kind.as_ref()))),
            json!(age(&policy.metadata, now)),
        ]
    }

    const UNCONDITIONAL_UPDATE: bool = false;
}

fn param_kind_cell(kind: Option<&ParamKind>) -> String {
    match kind {
        Some(kind) => format!("{}/{}", text(&kind.api_version), text(&kind.kind)),
        None => "<unset>".to_owned(),
    }
}

/// What is wrong with the conditions under which a policy is asked.
fn conditions(conditions: &[MatchCondition], has_params: bool) -> ErrorList {
    let mut errors = Errors::default();
    rules::conditions(&mut errors, conditions, has_params, &Path::new("spec.matchConditions"));
    errors.0
}

/// What both kinds of policies say.
fn common(
    errors: &mut Errors,
    failure_policy: &Option<String>,
    kind: Option<&ParamKind>,
    constraints: Option<&MatchResources>,
    path: &Path,
) {
    let at = path.child("failurePolicy");
    errors.required_one_of(&at, text(failure_policy), rules::FAILURE_POLICIES);
    if let Some(kind) = kind {
        param_kind(errors, kind, &path.child("paramKind"));
    }
    let at = path.child("matchConstraints");
    match constraints {
        None => errors.required(&at, ""),
        Some(constraints) => {
            rules::resources(errors, constraints, &at);
            // They say which types the expressions are about.
            if list(&constraints.resource_rules).is_empty() {
                errors.required(&at.child("resourceRules"), "");
            }
        }
    }
}

fn param_kind(errors: &mut Errors, kind: &ParamKind, path: &Path) {
    let (at, api_version) = (path.child("apiVersion"), text(&kind.api_version));
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if api_version.is_empty() {
        errors.required(&at, "");
    } else if version.contains('/') {
        let wrong = format!("unexpected GroupVersion string: {api_version}");
        errors.invalid(&at, api_version, wrong);
    } else {
        if !group.is_empty() {
            let wrong = names::dns_subdomain(group, false);
            errors.form(&at, group, (!wrong.is_empty()).then(|| wrong.join(",")));
        }
        if version.is_empty() {
            errors.invalid(&at, api_version, "version must be specified");
        } else {
            let wrong = names::dns1035_label(version, false);
            errors.form(&at, version, (!wrong.is_empty()).then(|| wrong.join(",")));
        }
    }
    let (at, kind) = (path.child("kind"), text(&kind.kind));
    if kind.is_empty() {
        errors.required(&at, "");
    } else {
        let wrong = names::dns1035_label(&kind.to_lowercase(), false);
        if !wrong.is_empty() {
            let but = "may have mixed case, but should otherwise match: ";
            errors.invalid(&at, kind, format!("{but}{}", wrong.join(",")));
        }
    }
}

/// What is wrong with variables; the scope of what comes after them.
fn variables(errors: &mut Errors, variables: &[Variable], given: Given, path: &Path) -> Scope {
    let given = Given { authorizer: true, ..given };
    let mut scope = Scope::default();
    let is_identifier = |name: &str| {
        name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !name.starts_with(|c: char| c.is_ascii_digit())
    };
    for (i, variable) in variables.iter().enumerate() {
        let at = path.index(i);
        if variable.name.trim().is_empty() {
            errors.required(&at.child("name"), "name is not specified");
        } else if !is_identifier(&variable.name) {
            let wrong = "name is not a valid CEL identifier";
            errors.invalid(&at.child("name"), variable.name.as_str(), wrong);
        }
        expression(errors, &variable.expression, &at);
        if !variable.expression.trim().is_empty() {
            let at = at.child("expression");
            let found = scope.check(errors, given, &variable.expression, Outcome::Any, &at);
            let of = found.map_or(Type::Dyn, |program| program.output_type().clone());
            scope.declare(&variable.name, &of);
        }
    }
    scope
}

fn expression(errors: &mut Errors, expression: &str, path: &Path) {
    if expression.trim().is_empty() {
        errors.required(&path.child("expression"), "expression is not specified");
    }
}

fn validation(errors: &mut Errors, rule: &Validation, scope: &Scope, given: Given, path: &Path) {
    expression(errors, &rule.expression, path);
    if !rule.expression.trim().is_empty() {
        let (at, given) = (path.child("expression"), Given { authorizer: true, ..given });
        scope.check(errors, given, rule.expression.trim(), Outcome::Bool, &at);
    }
    let blank = |text: &str| !text.is_empty() && text.trim().is_empty();
    let wording = text(&rule.message_expression);
    if blank(wording) {
        let at = path.child("messageExpression");
        errors.invalid(&at, wording, "must be non-empty if specified");
    } else if !wording.is_empty() {
        let at = path.child("messageExpression");
        scope.check(errors, given, wording.trim(), Outcome::String, &at);
    }
    let (at, message) = (path.child("message"), text(&rule.message));
    if blank(message) {
        errors.invalid(&at, message, "message must be non-empty if specified");
    } else if message.trim().contains(['\n', '\r']) {
        errors.invalid(&at, message, "message must not contain line breaks");
    }
    if let Some(reason) = &rule.reason {
        errors.one_of(&path.child("reason"), reason, REASONS);
    }
}

fn audit(errors: &mut Errors, annotations: &[AuditAnnotation], policy: &str, path: &Path) {
    if annotations.len() > ANNOTATIONS_MAX {
        let wrong = format!("must not have more than {ANNOTATIONS_MAX} auditAnnotations");
        errors.invalid(path, json!(annotations), wrong);
    }
    let mut known = BTreeSet::new();
    for (i, annotation) in annotations.iter().enumerate() {
        let (at, key) = (path.index(i), annotation.key.as_str());
        if policy.is_empty() {
            errors.invalid(&at.child("key"), key, "requires metadata.name be non-empty");
        } else {
            let full = format!("{policy}/{key}");
            errors.form(&at.child("key"), full.as_str(), names::qualified_name(&full));
        }
        let value_at = at.child("valueExpression");
        match annotation.value_expression.trim().len() {
            0 => errors.required(&value_at, "valueExpression is not specified"),
            length if length > ANNOTATION_MAX => {
                let wrong = format!("must not exceed {ANNOTATION_MAX} bytes in length");
                errors.required(&value_at, &wrong);
            }
            _ => {}
        }
        if !known.insert(key) {
            errors.push(FieldError::duplicate(&at.child("key"), key));
        }
    }
}

/// What a mutation results in.
fn patch(errors: &mut Errors, mutation: &Mutation, scope: &Scope, given: Given, path: &Path) {
    let mut check = |source: Option<&String>, outcome, field| {
        if let Some(source) = source.filter(|source| !source.trim().is_empty()) {
            let at = path.child(field);
            scope.check(errors, given, source.trim(), outcome, &at.child("expression"));
        }
    };
    let apply = mutation.apply_configuration.as_ref().and_then(|it| it.expression.as_ref());
    let json = mutation.json_patch.as_ref().and_then(|it| it.expression.as_ref());
    match mutation.patch_type.as_str() {
        "ApplyConfiguration" => check(apply, Outcome::Object, "applyConfiguration"),
        "JSONPatch" => check(json, Outcome::JsonPatch, "jsonPatch"),
        _ => {}
    }
}

/// A mutation is what its type says, and nothing else.
fn mutation(errors: &mut Errors, mutation: &Mutation, path: &Path) {
    let configuration = mutation.apply_configuration.as_ref().map(|apply| &apply.expression);
    let patch = mutation.json_patch.as_ref().map(|patch| &patch.expression);
    let forms = [
        ("ApplyConfiguration", "applyConfiguration", configuration),
        ("JSONPatch", "jsonPatch", patch),
    ];
    let at = path.child("patchType");
    errors.required_one_of(&at, &mutation.patch_type, &["ApplyConfiguration", "JSONPatch"]);
    for (type_, field, found) in forms {
        let at = path.child(field);
        match found {
            None if type_ == mutation.patch_type => {
                errors.required(&at, &format!("must be specified when patchType is {type_}"));
            }
            Some(text) if type_ == mutation.patch_type => {
                expression(errors, text.as_deref().unwrap_or(""), &at);
            }
            Some(_) if !mutation.patch_type.is_empty() => {
                let wrong =
                    format!("must not be specified when patchType is {}", mutation.patch_type);
                errors.forbidden(&at, &wrong);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::admissionregistration::v1::{ApplyConfiguration, JSONPatch};

    use super::*;

    #[test]
    fn a_mutation_is_what_its_type_says() {
        #[track_caller]
        fn check(patch_type: &str, apply: Option<&str>, patch: Option<&str>, wrong: &[&str]) {
            let found = Mutation {
                patch_type: patch_type.to_owned(),
                apply_configuration: apply
                    .map(|text| ApplyConfiguration { expression: Some(text.to_owned()) }),
                json_patch: patch.map(|text| JSONPatch { expression: Some(text.to_owned()) }),
            };
            let mut errors = Errors::default();
            mutation(&mut errors, &found, &Path::root());
            let paths: Vec<_> = errors.0.iter().map(|error| error.path.to_string()).collect();
            assert_eq!(paths, wrong);
        }
        check("ApplyConfiguration", Some("x"), None, &[]);
        check("JSONPatch", None, Some("x"), &[]);
        check("JSONPatch", None, Some(" "), &["jsonPatch.expression"]);
        check("JSONPatch", Some("x"), None, &["applyConfiguration", "jsonPatch"]);
        check("", None, None, &["patchType"]);
    }

    #[test]
    fn a_condition_that_was_let_in_once_may_stay() {
        let policy = |condition: &str| -> ValidatingAdmissionPolicy {
            let condition = json!({ "name": "c", "expression": condition });
            serde_json::from_value(json!({ "spec": { "matchConditions": [condition] } })).unwrap()
        };
        let (good, bad, worse) = (policy("true"), policy("1 +"), policy("nothing.like.it"));
        let update = |new, old| ValidatingPolicies::validate_update(new, old, Part::Main);
        assert!(ValidatingPolicies::validate_create(&good).is_empty());
        let errors = ValidatingPolicies::validate_create(&bad);
        assert_eq!(errors[0].path, "spec.matchConditions[0].expression");
        assert!(update(&bad, &bad).is_empty());
        assert!(update(&good, &bad).is_empty());
        assert!(!update(&worse, &bad).is_empty());
    }

    #[test]
    fn a_policy_says_what_it_is_about_and_what_it_checks() {
        let mut policy = ValidatingAdmissionPolicy::default();
        <ValidatingPolicies as Kind>::default(&mut policy);
        let errors = ValidatingPolicies::validate(&policy);
        let paths: Vec<_> = errors.iter().map(|error| error.path.to_string()).collect();
        assert_eq!(paths, ["spec.matchConstraints", "spec.validations", "spec.auditAnnotations"]);
    }
}
