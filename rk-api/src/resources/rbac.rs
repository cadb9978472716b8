//! Role, RoleBinding, ClusterRole and ClusterRoleBinding: who may do what.

use k8s_openapi::{
    api::rbac::v1::{
        ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Kind, Part, Resource,
    check::{Errors, default_text, list, text},
    row::Row,
};
use crate::{
    field::{ErrorList, FieldError, Path},
    meta::{
        names,
        table::{age, name},
    },
};

/// The rows of the kinds that say who may do what.
pub(super) fn rows() -> [Resource; 4] {
    [
        Row::of::<ClusterRoleBindings>().columns(BINDING_COLUMNS).done(),
        Row::of::<ClusterRoles>().columns(ROLE_COLUMNS).done(),
        Row::of::<RoleBindings>().columns(BINDING_COLUMNS).done(),
        Row::of::<Roles>().columns(ROLE_COLUMNS).done(),
    ]
}

const ROLE_COLUMNS: &[Column] =
    &[Column::NAME, Column::new("Created At", "date", "When the server created it.")];

const BINDING_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Role", "string", "The role that it gives."),
    Column::AGE,
    Column::wide("Users", "string", "The users that it is given to."),
    Column::wide("Groups", "string", "The groups that it is given to."),
    Column::wide("ServiceAccounts", "string", "The service accounts that it is given to."),
];

const GROUP: &str = "rbac.authorization.k8s.io";

/// How a Role behaves.
#[derive(Debug, Default)]
pub(super) struct Roles;

impl Kind for Roles {
    type Object = Role;

    fn validate(role: &Role) -> ErrorList {
        let mut errors = Errors::default();
        rules(&mut errors, list(&role.rules), true);
        errors.0
    }

    fn validate_name(name: &str, generate_prefix: bool) -> Vec<String> {
        names::path_segment(name, generate_prefix)
    }

    fn cells(role: &Role, _: Timestamp) -> Vec<Value> {
        vec![json!(name(&role.metadata)), json!(role.metadata.creation_timestamp)]
    }

    const CREATE_ON_UPDATE: bool = true;
}

/// How a ClusterRole behaves.
#[derive(Debug, Default)]
pub(super) struct ClusterRoles;

impl Kind for ClusterRoles {
    type Object = ClusterRole;

    fn validate(role: &ClusterRole) -> ErrorList {
        let mut errors = Errors::default();
        rules(&mut errors, list(&role.rules), false);
        if let Some(aggregation) = &role.aggregation_rule {
            let at = Path::new("aggregationRule.clusterRoleSelectors");
            let selectors = list(&aggregation.cluster_role_selectors);
            if selectors.is_empty() {
                errors.required(
                    &at,
                    "at least one clusterRoleSelector required if aggregationRule is non-nil",
                );
            }
            for (i, selector) in selectors.iter().enumerate() {
                let before = errors.0.len();
                errors.selector(&at.index(i), selector);
                if errors.0.len() > before {
                    errors.invalid(&at.index(i), json!(selector), "invalid label selector.");
                }
            }
        }
        errors.0
    }

    fn validate_name(name: &str, generate_prefix: bool) -> Vec<String> {
        names::path_segment(name, generate_prefix)
    }

    fn cells(role: &ClusterRole, _: Timestamp) -> Vec<Value> {
        vec![json!(name(&role.metadata)), json!(role.metadata.creation_timestamp)]
    }

    const CREATE_ON_UPDATE: bool = true;
}

/// How a RoleBinding behaves.
#[derive(Debug, Default)]
pub(super) struct RoleBindings;

impl Kind for RoleBindings {
    type Object = RoleBinding;

    fn default(binding: &mut RoleBinding) {
        default_binding(&mut binding.role_ref, binding.subjects.as_deref_mut());
    }

    fn validate(binding: &RoleBinding) -> ErrorList {
        let mut errors = Errors::default();
        role_ref(&mut errors, &binding.role_ref, &["Role", "ClusterRole"]);
        for (i, subject) in list(&binding.subjects).iter().enumerate() {
            self::subject(&mut errors, subject, true, &Path::new("subjects").index(i));
        }
        errors.0
    }

    fn validate_update(new: &RoleBinding, old: &RoleBinding, _: Part) -> ErrorList {
        same_role(&new.role_ref, &old.role_ref)
    }

    fn validate_name(name: &str, generate_prefix: bool) -> Vec<String> {
        names::path_segment(name, generate_prefix)
    }

    fn cells(binding: &RoleBinding, now: Timestamp) -> Vec<Value> {
        binding_cells(&binding.metadata, &binding.role_ref, list(&binding.subjects), now)
    }

    const CREATE_ON_UPDATE: bool = true;
}

/// How a ClusterRoleBinding behaves.
#[derive(Debug, Default)]
pub(super) struct ClusterRoleBindings;

impl Kind for ClusterRoleBindings {
    type Object = ClusterRoleBinding;

    fn default(binding: &mut ClusterRoleBinding) {
        default_binding(&mut binding.role_ref, binding.subjects.as_deref_mut());
    }

    fn validate(binding: &ClusterRoleBinding) -> ErrorList {
        let mut errors = Errors::default();
        role_ref(&mut errors, &binding.role_ref, &["ClusterRole"]);
        for (i, subject) in list(&binding.subjects).iter().enumerate() {
            self::subject(&mut errors, subject, false, &Path::new("subjects").index(i));
        }
        errors.0
    }

    fn validate_update(new: &ClusterRoleBinding, old: &ClusterRoleBinding, _: Part) -> ErrorList {
        same_role(&new.role_ref, &old.role_ref)
    }

    fn validate_name(name: &str, generate_prefix: bool) -> Vec<String> {
        names::path_segment(name, generate_prefix)
    }

    fn cells(binding: &ClusterRoleBinding, now: Timestamp) -> Vec<Value> {
        binding_cells(&binding.metadata, &binding.role_ref, list(&binding.subjects), now)
    }

    const CREATE_ON_UPDATE: bool = true;
}

fn binding_cells(
    meta: &ObjectMeta,
    role: &RoleRef,
    subjects: &[Subject],
    now: Timestamp,
) -> Vec<Value> {
    let [users, groups, accounts] = self::subjects(subjects);
    let role = format!("{}/{}", role.kind, role.name);
    vec![json!(name(meta)), json!(role), json!(age(meta, now)), users, groups, accounts]
}

fn default_binding(role: &mut RoleRef, subjects: Option<&mut [Subject]>) {
    default_text(&mut role.api_group, GROUP);
    for subject in subjects.unwrap_or_default() {
        if matches!(subject.kind.as_str(), "User" | "Group") {
            default_text(&mut subject.api_group, GROUP);
        }
    }
}

fn rules(errors: &mut Errors, rules: &[PolicyRule], namespaced: bool) {
    for (i, rule) in rules.iter().enumerate() {
        let at = Path::new("rules").index(i);
        if rule.verbs.is_empty() {
            errors.required(&at.child("verbs"), "verbs must contain at least one value");
        }
        let urls = list(&rule.non_resource_urls);
        let (groups, resources) = (list(&rule.api_groups), list(&rule.resources));
        if !urls.is_empty() {
            let at = at.child("nonResourceURLs");
            if namespaced {
                let wrong = "namespaced rules cannot apply to non-resource URLs";
                errors.invalid(&at, urls.to_vec(), wrong);
            }
            if !groups.is_empty() || !resources.is_empty() || !list(&rule.resource_names).is_empty()
            {
                let wrong = "rules cannot apply to both regular resources and non-resource URLs";
                errors.invalid(&at, urls.to_vec(), wrong);
            }
            continue;
        }
        if groups.is_empty() {
            let wrong = "resource rules must supply at least one api group";
            errors.required(&at.child("apiGroups"), wrong);
        }
        if resources.is_empty() {
            let wrong = "resource rules must supply at least one resource";
            errors.required(&at.child("resources"), wrong);
        }
    }
}

fn role_ref(errors: &mut Errors, role: &RoleRef, kinds: &[&str]) {
    let path = Path::new("roleRef");
    errors.one_of(&path.child("apiGroup"), text(&role.api_group), &[GROUP]);
    errors.one_of(&path.child("kind"), &role.kind, kinds);
    let form = |name: &str| names::path_segment(name, false);
    errors.required_form(&path.child("name"), &role.name, form);
}

/// A binding's role is what it was approved for.
fn same_role(new: &RoleRef, old: &RoleRef) -> ErrorList {
    if new == old {
        return ErrorList::new();
    }
    vec![FieldError::invalid(&Path::new("roleRef"), json!(new), "cannot change roleRef")]
}

fn subject(errors: &mut Errors, subject: &Subject, namespaced: bool, path: &Path) {
    if subject.name.is_empty() {
        errors.required(&path.child("name"), "");
    }
    let group = text(&subject.api_group);
    match subject.kind.as_str() {
        "ServiceAccount" => {
            if !subject.name.is_empty() {
                let wrong = names::dns_subdomain(&subject.name, false);
                errors.form(&path.child("name"), subject.name.as_str(), wrong);
            }
            errors.one_of(&path.child("apiGroup"), group, &[""]);
            if !namespaced && text(&subject.namespace).is_empty() {
                errors.required(&path.child("namespace"), "");
            }
        }
        "User" | "Group" => errors.one_of(&path.child("apiGroup"), group, &[GROUP]),
        other => errors.one_of(&path.child("kind"), other, &["ServiceAccount", "User", "Group"]),
    }
}

/// The cells Users, Groups and ServiceAccounts.
fn subjects(subjects: &[Subject]) -> [Value; 3] {
    let of = |kind: &str| -> Vec<String> {
        let chosen = subjects.iter().filter(|subject| subject.kind == kind);
        chosen
            .map(|subject| match (kind, text(&subject.namespace)) {
                ("ServiceAccount", namespace) if !namespace.is_empty() => {
                    format!("{namespace}/{}", subject.name)
                }
                _ => subject.name.clone(),
            })
            .collect()
    };
    ["User", "Group", "ServiceAccount"].map(|kind| json!(of(kind).join(", ")))
}
