//! FlowSchema: which requests belong to which priority level.

use k8s_openapi::{
    api::flowcontrol::v1::{
        FlowDistinguisherMethod, FlowSchema, FlowSchemaSpec, FlowSchemaStatus, GroupSubject,
        NonResourcePolicyRule, PolicyRulesWithSubjects, PriorityLevelConfigurationReference,
        ResourcePolicyRule, Subject,
    },
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Kind, Part, Resource,
    check::{Errors, default_number, list},
    row::Row,
    workload,
};
use crate::{
    field::{ErrorList, FieldError, Path},
    meta::{
        names,
        table::{NONE, age, name},
    },
};

/// The row of FlowSchema.
pub(super) fn row() -> Resource {
    Row::of::<FlowSchemas>().status().columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("PriorityLevel", "string", "The priority level of its requests."),
    Column::new("MatchingPrecedence", "string", "Of schemas that match, the lowest counts."),
    Column::new("DistinguisherMethod", "string", "What tells flows apart."),
    Column::AGE,
    Column::new("MissingPL", "string", "Whether the priority level does not exist."),
];

/// The precedence of a schema that says none, and the highest one.
const PRECEDENCE: i32 = 1000;
const PRECEDENCE_MAX: i32 = 10_000;

const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

/// How a FlowSchema behaves.
#[derive(Debug, Default)]
pub(super) struct FlowSchemas;

impl Kind for FlowSchemas {
    type Object = FlowSchema;

    fn default(schema: &mut FlowSchema) {
        default_number(&mut schema.spec.matching_precedence, PRECEDENCE);
        schema.status.get_or_insert_default();
    }

    fn prepare_create(schema: &mut FlowSchema) {
        schema.status = Some(FlowSchemaStatus::default());
        workload::first_generation(&mut schema.metadata);
    }

    fn prepare_update(new: &mut FlowSchema, old: &FlowSchema, part: Part) {
        if part == Part::Status {
            new.spec = old.spec.clone();
        } else {
            new.status = old.status.clone();
        }
        let changed = new.spec != old.spec;
        workload::next_generation(&mut new.metadata, &old.metadata, changed);
    }

    fn validate(schema: &FlowSchema) -> ErrorList {
        let (spec, path) = (&schema.spec, Path::new("spec"));
        let own_name = name(&schema.metadata);
        let mut errors = Errors::default();
        precedence(&mut errors, spec, own_name, &path.child("matchingPrecedence"));
        if let Some(method) = &spec.distinguisher_method {
            let at = path.child("distinguisherMethod.type");
            errors.one_of(&at, &method.type_, &["ByNamespace", "ByUser"]);
        }
        let level = spec.priority_level_configuration.name.as_str();
        let at = path.child("priorityLevelConfiguration.name");
        if level.is_empty() {
            errors.required(&at, "must reference a priority level");
        } else {
            errors.form(&at, level, names::dns_subdomain(level, false));
        }
        for (i, rule) in list(&spec.rules).iter().enumerate() {
            rules(&mut errors, rule, &path.child("rules").index(i));
        }
        if mandatory(own_name).is_some_and(|fixed| fixed != *spec) {
            let wrong = format!("spec of '{own_name}' must equal the fixed value");
            errors.invalid(&path, json!(spec), wrong);
        }
        let conditions = schema.status.iter().flat_map(|status| list(&status.conditions));
        condition_types(&mut errors, conditions.map(|condition| condition.type_.as_str()));
        errors.0
    }

    fn validate_update(new: &FlowSchema, _: &FlowSchema, part: Part) -> ErrorList {
        let mut errors = Errors::default();
        if part == Part::Status {
            let conditions = new.status.iter().flat_map(|status| list(&status.conditions));
            condition_types(&mut errors, conditions.map(|condition| condition.type_.as_str()));
        }
        errors.0
    }

    fn cells(schema: &FlowSchema, now: Timestamp) -> Vec<Value> {
        let spec = &schema.spec;
        let or_none = |text: &str| if text.is_empty() { NONE } else { text }.to_owned();
        let method = spec.distinguisher_method.as_ref().map_or(NONE, |method| &method.type_);
        let conditions = schema.status.iter().flat_map(|status| list(&status.conditions));
        let dangling = conditions
            .filter(|condition| condition.type_ == "Dangling")
            .filter_map(|condition| condition.status.as_deref())
            .next_back();
        vec![
            json!(name(&schema.metadata)),
            json!(or_none(&spec.priority_level_configuration.name)),
            json!(spec.matching_precedence.unwrap_or(0)),
            json!(method),
            json!(age(&schema.metadata, now)),
            json!(dangling.unwrap_or("?")),
        ]
    }

    const UNCONDITIONAL_UPDATE: bool = false;
}

/// Conditions have types, each its own: what flow schemas and priority levels share.
pub(super) fn condition_types<'a>(errors: &mut Errors, types: impl Iterator<Item = &'a str>) {
    let mut known = Vec::new();
    for (i, type_) in types.enumerate() {
        let at = Path::new("status.conditions").index(i).child("type");
        if known.contains(&type_) {
            errors.push(FieldError::duplicate(&at, type_));
        }
        known.push(type_);
        if type_.is_empty() {
            errors.required(&at, "must not be empty");
        }
    }
}

/// The spec of a schema that every cluster has, and that cannot be changed: `exempt` and
/// `catch-all`.
pub(super) fn mandatory(name: &str) -> Option<FlowSchemaSpec> {
    let of = |precedence: i32, method: Option<&str>, groups: &[&str]| FlowSchemaSpec {
        priority_level_configuration: PriorityLevelConfigurationReference { name: name.to_owned() },
        matching_precedence: Some(precedence),
        distinguisher_method: method
            .map(|method| FlowDistinguisherMethod { type_: method.to_owned() }),
        rules: Some(vec![everything(groups)]),
    };
    match name {
        "exempt" => Some(of(1, None, &["system:masters"])),
        "catch-all" => Some(of(
            PRECEDENCE_MAX,
            Some("ByUser"),
            &["system:unauthenticated", "system:authenticated"],
        )),
        _ => None,
    }
}

/// Whatever members of the groups ask for.
fn everything(groups: &[&str]) -> PolicyRulesWithSubjects {
    let all = || vec!["*".to_owned()];
    let group = |name: &&str| Subject {
        kind: "Group".to_owned(),
        group: Some(GroupSubject { name: (*name).to_owned() }),
        ..Subject::default()
    };
    PolicyRulesWithSubjects {
        subjects: groups.iter().map(group).collect(),
        resource_rules: Some(vec![ResourcePolicyRule {
            verbs: all(),
            api_groups: all(),
            resources: all(),
            cluster_scope: Some(true),
            namespaces: Some(all()),
        }]),
        non_resource_rules: Some(vec![NonResourcePolicyRule {
            verbs: all(),
            non_resource_urls: all(),
        }]),
    }
}

fn precedence(errors: &mut Errors, spec: &FlowSchemaSpec, name: &str, at: &Path) {
    let precedence = spec.matching_precedence.unwrap_or(0);
    if precedence <= 0 {
        errors.invalid(at, precedence, "must be a positive value");
    }
    if precedence > PRECEDENCE_MAX {
        errors.invalid(at, precedence, format!("must not be greater than {PRECEDENCE_MAX}"));
    }
    if precedence == 1 && name != "exempt" {
        let wrong = "only the schema named 'exempt' may have matchingPrecedence 1";
        errors.invalid(at, precedence, wrong);
    }
}

fn rules(errors: &mut Errors, rule: &PolicyRulesWithSubjects, path: &Path) {
    if rule.subjects.is_empty() {
        errors.required(&path.child("subjects"), "subjects must contain at least one value");
    }
    for (i, subject) in rule.subjects.iter().enumerate() {
        self::subject(errors, subject, &path.child("subjects").index(i));
    }
    let (on_resources, on_paths) = (list(&rule.resource_rules), list(&rule.non_resource_rules));
    if on_resources.is_empty() && on_paths.is_empty() {
        let wrong = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.required(path, wrong);
    }
    for (i, rule) in on_resources.iter().enumerate() {
        resource_rule(errors, rule, &path.child("resourceRules").index(i));
    }
    for (i, rule) in on_paths.iter().enumerate() {
        let at = path.child("nonResourceRules").index(i);
        verbs(errors, &rule.verbs, &at.child("verbs"));
        let at = at.child("nonResourceURLs");
        let paths = rule.non_resource_urls.as_slice();
        if paths.is_empty() {
            errors.required(&at, "nonResourceURLs must contain at least one value");
        } else if !alone(errors, paths, "non-resource URLs", &at) {
            for (j, path) in paths.iter().enumerate() {
                url_path(errors, path, &at.index(j));
            }
        }
    }
}

/// A subject is what its kind says, and nothing else.
fn subject(errors: &mut Errors, subject: &Subject, path: &Path) {
    let named = [
        ("ServiceAccount", "serviceAccount", subject.service_account.is_some()),
        ("User", "user", subject.user.is_some()),
        ("Group", "group", subject.group.is_some()),
    ];
    if !named.iter().any(|(kind, ..)| *kind == subject.kind) {
        let kinds = ["Group", "ServiceAccount", "User"];
        return errors.one_of(&path.child("kind"), &subject.kind, &kinds);
    }
    for (kind, field, is_set) in named {
        let at = path.child(field);
        if kind == subject.kind && !is_set {
            errors.required(&at, &format!("{field} is required when subject kind is '{kind}'"));
        } else if kind != subject.kind && is_set {
            let wrong = format!("{field} is forbidden when subject kind is not '{kind}'");
            errors.forbidden(&at, &wrong);
        }
    }
    match subject.kind.as_str() {
        "ServiceAccount" => {
            let Some(account) = &subject.service_account else { return };
            let at = path.child("serviceAccount");
            let form = |name: &str| match name {
                "*" => Vec::new(),
                name => names::dns_subdomain(name, false),
            };
            errors.required_form(&at.child("name"), &account.name, form);
            let at = at.child("namespace");
            match account.namespace.as_str() {
                "" => errors.required(&at, "must specify namespace for service account"),
                namespace => errors.form(&at, namespace, names::dns_label(namespace, false)),
            }
        }
        "User" if subject.user.as_ref().is_some_and(|user| user.name.is_empty()) => {
            errors.required(&path.child("user.name"), "");
        }
        "Group" if subject.group.as_ref().is_some_and(|group| group.name.is_empty()) => {
            errors.required(&path.child("group.name"), "");
        }
        _ => {}
    }
}

fn resource_rule(errors: &mut Errors, rule: &ResourcePolicyRule, path: &Path) {
    verbs(errors, &rule.verbs, &path.child("verbs"));
    let at = path.child("apiGroups");
    if rule.api_groups.is_empty() {
        errors.required(&at, "resource rules must supply at least one api group");
    }
    alone(errors, &rule.api_groups, "api groups", &at);
    let at = path.child("resources");
    if rule.resources.is_empty() {
        errors.required(&at, "resource rules must supply at least one resource");
    }
    alone(errors, &rule.resources, "resources", &at);
    let at = path.child("namespaces");
    let namespaces = list(&rule.namespaces);
    if namespaces.is_empty() && rule.cluster_scope != Some(true) {
        errors.required(
            &at,
            "resource rules that are not cluster scoped must supply at least one namespace",
        );
    } else if !alone(errors, namespaces, "namespaces", &at) {
        for (i, namespace) in namespaces.iter().enumerate() {
            for wrong in names::dns_label(namespace, false) {
                let wrong =
                    format!("each member of this list must be '*' or a DNS-1123 label; {wrong}");
                errors.invalid(&at.index(i), namespace.as_str(), wrong);
            }
        }
    }
}

fn verbs(errors: &mut Errors, verbs: &[String], path: &Path) {
    if verbs.is_empty() {
        errors.required(path, "verbs must contain at least one value");
    } else if !alone(errors, verbs, "verbs", path)
        && verbs.iter().any(|verb| !VERBS.contains(&verb.as_str()))
    {
        errors.push(FieldError::not_supported(path, json!(verbs), VERBS));
    }
}

/// Whether `*` is among the items. It must then be the only one.
fn alone(errors: &mut Errors, items: &[String], what: &str, path: &Path) -> bool {
    let has_wildcard = items.iter().any(|item| item == "*");
    if has_wildcard && items.len() > 1 {
        let wrong = format!("if '*' is present, must not specify other {what}");
        errors.invalid(path, json!(items), wrong);
    }
    has_wildcard
}

fn url_path(errors: &mut Errors, path: &str, at: &Path) {
    let wildcards = path.matches('*').count();
    let wrong = match path {
        "" => "must not be empty",
        "/" => return,
        _ if !path.starts_with('/') => "must start with slash",
        _ if path.contains(' ') => "must not contain white-space",
        _ if path.contains("//") => "must not contain double slash",
        _ if wildcards > 1 || (wildcards == 1 && !path.ends_with("/*")) => {
            "wildcard can only do suffix matching"
        }
        _ => return,
    };
    errors.invalid(at, path, wrong);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> FlowSchema {
        let mut schema = FlowSchema::default();
        schema.metadata.name = Some(name.to_owned());
        schema.spec = mandatory("catch-all").unwrap();
        schema
    }

    #[test]
    fn the_schemas_of_every_cluster_are_valid_and_fixed() {
        for name in ["exempt", "catch-all"] {
            let mut schema = named(name);
            schema.spec = mandatory(name).unwrap();
            assert_eq!(FlowSchemas::validate(&schema), []);
            schema.spec.matching_precedence = Some(7);
            assert_eq!(FlowSchemas::validate(&schema).len(), 1, "{name}");
        }
    }

    #[test]
    fn a_subject_is_what_its_kind_says() {
        let mut schema = named("x");
        assert_eq!(FlowSchemas::validate(&schema), []);
        let subjects = &mut schema.spec.rules.as_mut().unwrap()[0].subjects;
        subjects[0].kind = "User".to_owned();
        let errors = FlowSchemas::validate(&schema);
        let paths: Vec<_> = errors.iter().map(|error| error.path.to_string()).collect();
        assert_eq!(paths, ["spec.rules[0].subjects[0].user", "spec.rules[0].subjects[0].group"]);
    }

    #[test]
    fn wildcards_end_paths() {
        #[track_caller]
        fn check(path: &str, good: bool) {
            let mut errors = Errors::default();
            url_path(&mut errors, path, &Path::root());
            assert_eq!(errors.0.is_empty(), good, "{path}");
        }
        for path in ["/", "/healthz", "/healthz/*", "/*"] {
            check(path, true);
        }
        for path in ["", "healthz", "/a b", "//", "/a*", "/*/a"] {
            check(path, false);
        }
    }
}
