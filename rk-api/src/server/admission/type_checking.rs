//! Whether the expressions of ValidatingAdmissionPolicies fit the kinds that they are about
//! (KEP-3488, "Type checking"). What does not fit is told in the policy's status; the policy
//! counts all the same.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use k8s_openapi::api::admissionregistration::v1::{
    ExpressionWarning, NamedRuleWithOperations, TypeChecking, ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicySpec,
};
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    cel::{Program, Schema, Type},
    openapi,
    resources::{
        Part, Resource, Resources,
        admission::expressions::{Given, Outcome, Scope},
    },
    server::{
        Inner,
        cache::Observer,
        object::CachedObject,
        registry::{Current, Target},
        status::Result,
        user::UserInfo,
    },
};

/// The most kinds that the expressions of a policy are checked for because of one rule; no further
/// rules are looked at then.
const KINDS_MAX: usize = 10;

/// How deep the schema of a kind is followed; what is deeper is not checked.
const DEPTH_MAX: usize = 24;

/// Pause after a status could not be written.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Wakes the task when a policy changes.
#[derive(Debug)]
struct Bell(Arc<Notify>);

impl Observer for Bell {
    fn changed(&self, _: Option<&Arc<CachedObject>>, _: Option<&Arc<CachedObject>>) {
        self.0.notify_one();
    }

    fn replaced(&self, _: &mut dyn Iterator<Item = &Arc<CachedObject>>) {
        self.0.notify_one();
    }
}

/// Keeps the status of policies until `shutdown`.
pub(in crate::server) async fn keep(server: Weak<Inner>, shutdown: CancellationToken) {
    let bell = Arc::new(Notify::new());
    match server.upgrade().and_then(|it| it.reader.table::<ValidatingAdmissionPolicy>()) {
        Some(table) => table.observe(Arc::new(Bell(bell.clone()))),
        None => return,
    }
    while shutdown.run_until_cancelled(bell.notified()).await.is_some() {
        let Some(server) = server.upgrade() else { return };
        if let Err(error) = check_all(&server).await {
            tracing::warn!(%error, "the status of a policy cannot be written");
            tokio::time::sleep(RETRY_AFTER).await;
            bell.notify_one();
        }
    }
}

async fn check_all(server: &Inner) -> Result<()> {
    for policy in server.reader.list::<ValidatingAdmissionPolicy>(None)? {
        let observed = policy.status.as_ref().and_then(|status| status.observed_generation);
        if observed != policy.metadata.generation {
            tell(server, policy).await?;
        }
    }
    Ok(())
}

/// Writes the status of one policy.
async fn tell(server: &Inner, mut policy: ValidatingAdmissionPolicy) -> Result<()> {
    let Some(resource) = server.reader.resource::<ValidatingAdmissionPolicy>() else {
        return Ok(());
    };
    let spec = policy.spec.clone().unwrap_or_default();
    let warnings = warnings(&server.kinds.now().resources, &spec);
    let status = policy.status.get_or_insert_default();
    status.observed_generation = policy.metadata.generation;
    let expression_warnings = (!warnings.is_empty()).then_some(warnings);
    status.type_checking = Some(TypeChecking { expression_warnings });
    let name = policy.metadata.name.clone().unwrap_or_default();
    let user = UserInfo::new("system:apiserver", ["system:masters"]);
    let target = Target {
        resource,
        subresource: "status",
        namespace: None,
        name: &name,
        user: &user,
        dry_run: false,
        manager: "kube-apiserver",
        context: None,
    };
    let change = |before: Option<&Current>| {
        let before = before.ok_or_else(|| target.not_found())?;
        let mut new = before.object.boxed_clone();
        if let Some(new) = new.as_any_mut().downcast_mut::<ValidatingAdmissionPolicy>() {
            new.status.clone_from(&policy.status);
        }
        Ok(new.into())
    };
    match server.registry.update(&target, Part::Status, change).await {
        // It is gone.
        Err(error) if error.code == 404 => Ok(()),
        result => result.map(drop),
    }
}

/// What of a policy's expressions does not fit the kinds that its rules name.
fn warnings(resources: &Resources, spec: &ValidatingAdmissionPolicySpec) -> Vec<ExpressionWarning> {
    let params = spec.param_kind.as_ref().and_then(|kind| {
        let api_version = kind.api_version.as_deref().unwrap_or_default();
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let kind = resources.by_kind(group, version, kind.kind.as_deref().unwrap_or_default())?;
        schema(resources, kind).map(Arc::new)
    });
    let kinds: Vec<(String, Scope, Given)> = kinds(resources, spec)
        .into_iter()
        .filter_map(|resource| {
            let schema = Arc::new(schema(resources, &resource)?);
            let given =
                Given { params: spec.param_kind.is_some(), authorizer: true, patches: false };
            let mut scope = Scope::about(schema).with_params(params.clone());
            for variable in spec.variables.iter().flatten() {
                // Nothing is known of a variable that does not fit itself, and nothing is told.
                let found = scope.compile(given, &variable.expression, Outcome::Any);
                scope.declare(
                    &variable.name,
                    found.as_ref().map_or(&Type::Dyn, Program::output_type),
                );
            }
            let Resource { group, version, kind, .. } = &*resource;
            Some((format!("{group}/{version}, Kind={kind}"), scope, given))
        })
        .collect();
    let mut warnings = Vec::new();
    let mut check = |field: fmt::Arguments<'_>, expression: &str| {
        let wrong: Vec<String> = kinds
            .iter()
            .filter_map(|(kind, scope, given)| {
                let why = scope.compile(*given, expression, Outcome::Any).err()?;
                let why = why.strip_prefix("compilation failed: ").unwrap_or(&why);
                Some(format!("{kind}: {why}\n"))
            })
            .collect();
        if !wrong.is_empty() {
            let field_ref = field.to_string();
            warnings.push(ExpressionWarning { field_ref, warning: wrong.join("\n") });
        }
    };
    for (index, rule) in spec.validations.iter().flatten().enumerate() {
        check(format_args!("spec.validations[{index}].expression"), &rule.expression);
        if let Some(wording) = rule.message_expression.as_ref().filter(|text| !text.is_empty()) {
            check(format_args!("spec.validations[{index}].messageExpression"), wording);
        }
    }
    warnings
}

/// The kinds that the rules of a policy name, as far as they name any.
fn kinds(resources: &Resources, spec: &ValidatingAdmissionPolicySpec) -> Vec<Arc<Resource>> {
    let constraints = spec.match_constraints.as_ref();
    let rules = constraints.and_then(|it| it.resource_rules.as_deref()).unwrap_or_default();
    let mut kinds = BTreeMap::new();
    for rule in rules {
        let named = named_by(rule).into_iter();
        let found = named.filter_map(|(group, version, plural)| {
            resources.get(&group, &version, &plural).cloned()
        });
        let found: Vec<_> = found.take(KINDS_MAX).collect();
        let enough = found.len() == KINDS_MAX;
        kinds.extend(
            found
                .into_iter()
                .map(|it| ((it.group.clone(), it.version.clone(), it.kind.clone()), it)),
        );
        if enough {
            break;
        }
    }
    kinds.into_values().collect()
}

/// What one rule names, sorted: nothing where it has a wildcard for groups or versions.
fn named_by(rule: &NamedRuleWithOperations) -> Vec<(String, String, String)> {
    let list = |list: &Option<Vec<String>>| {
        let mut list = list.clone().unwrap_or_default();
        list.sort();
        list
    };
    let (groups, versions) = (list(&rule.api_groups), list(&rule.api_versions));
    if groups.iter().chain(&versions).any(|name| name.contains('*')) {
        return Vec::new();
    }
    let plurals: Vec<String> =
        list(&rule.resources).into_iter().filter(|name| !name.contains(['*', '/'])).collect();
    let mut named = Vec::new();
    for group in &groups {
        for version in &versions {
            for plural in &plurals {
                named.push((group.clone(), version.clone(), plural.clone()));
            }
        }
    }
    named
}

/// The form of a kind's objects.
fn schema(resources: &Resources, resource: &Resource) -> Option<Schema> {
    let document = openapi::v3(resources, &resource.group, &resource.version)?;
    let all = document.get("components")?.get("schemas")?;
    let inlined = inlined(all.get(resource.schema.as_ref())?, all, 0);
    Schema::from_openapi(&inlined, &resource.kind, true)
}

/// A schema with its references resolved, down to some depth.
fn inlined(schema: &Value, all: &Value, depth: usize) -> Value {
    const REFERENCE: &str = "#/components/schemas/";
    if depth > DEPTH_MAX {
        return anything();
    }
    match schema {
        Value::Object(members) => {
            // Where a field has a default, its reference is the only one of `allOf`.
            let only = members.get("allOf").and_then(|all| all.as_array()?.first());
            let reference = members.get("$ref").or_else(|| only?.get("$ref"));
            if let Some(reference) = reference.and_then(Value::as_str) {
                let name = reference.strip_prefix(REFERENCE).unwrap_or(reference);
                return all.get(name).map_or_else(anything, |found| inlined(found, all, depth + 1));
            }
            let resolve =
                |(name, value): (&String, &Value)| (name.clone(), inlined(value, all, depth + 1));
            Value::Object(members.iter().map(resolve).collect())
        }
        Value::Array(items) => {
            Value::Array(items.iter().map(|item| inlined(item, all, depth + 1)).collect())
        }
        other => other.clone(),
    }
}

/// The schema of what is not looked into.
fn anything() -> Value {
    serde_json::json!({ "x-kubernetes-int-or-string": true })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_that_parameters_do_not_have_are_told() {
        let spec = |expression: &str| {
            let rules = json!([{
                "apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"],
                "resources": ["configmaps"],
            }]);
            let spec = json!({
                "paramKind": { "apiVersion": "v1", "kind": "LimitRange" },
                "matchConstraints": { "resourceRules": rules },
                "validations": [{ "expression": expression }],
            });
            warnings(&Resources::builtin(), &serde_json::from_value(spec).unwrap())
        };
        assert_eq!(spec("params.spec.limits.all(l, l.type == object.metadata.name)"), []);
        let wrong = spec("params.spec.bounds == object.metadata.name");
        assert!(wrong[0].warning.contains("undefined field 'bounds'"), "{}", wrong[0].warning);
    }

    fn found(validations: Value) -> Vec<(String, String)> {
        let spec = json!({
            "matchConstraints": { "resourceRules": [{
                "apiGroups": ["apps"],
                "apiVersions": ["v1"],
                "operations": ["*"],
                "resources": ["deployments", "*/scale"],
            }] },
            "validations": validations,
        });
        let spec = serde_json::from_value(spec).unwrap();
        let warnings = warnings(&Resources::builtin(), &spec);
        warnings.into_iter().map(|warning| (warning.field_ref, warning.warning)).collect()
    }

    #[test]
    fn of_a_variable_that_does_not_fit_nothing_is_known() {
        let rules = json!([{
            "apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["pods"],
        }]);
        let spec = json!({
            "matchConstraints": { "resourceRules": rules },
            "variables": [
                { "name": "wrong", "expression": "object.nothing" },
                { "name": "name", "expression": "object.metadata.name" },
            ],
            "validations": [
                { "expression": "variables.wrong > 1" }, { "expression": "variables.name > 1" },
            ],
        });
        let told = warnings(&Resources::builtin(), &serde_json::from_value(spec).unwrap());
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].field_ref, "spec.validations[1].expression");
        assert!(told[0].warning.starts_with("/v1, Kind=Pod: ERROR: "), "{}", told[0].warning);
    }

    #[test]
    fn a_rule_with_many_kinds_is_the_last_one() {
        let rule = |group: &str, resources: &[&str]| {
            json!({
                "apiGroups": [group], "apiVersions": ["v1"], "operations": ["*"],
                "resources": resources,
            })
        };
        let many = [
            "services",
            "secrets",
            "pods",
            "nodes",
            "namespaces",
            "events",
            "endpoints",
            "configmaps",
            "limitranges",
            "podtemplates",
            "serviceaccounts",
        ];
        let rules = [rule("apps", &["deployments"]), rule("", &many), rule("batch", &["jobs"])];
        let spec = json!({ "matchConstraints": { "resourceRules": rules } });
        let found = kinds(&Resources::builtin(), &serde_json::from_value(spec).unwrap());
        let names: Vec<_> = found.iter().map(|kind| kind.kind.as_ref()).collect();
        assert_eq!(
            names,
            [
                "ConfigMap",
                "Endpoints",
                "Event",
                "LimitRange",
                "Namespace",
                "Node",
                "Pod",
                "PodTemplate",
                "Secret",
                "ServiceAccount",
                "Deployment",
            ]
        );
    }

    #[test]
    fn fields_that_a_kind_does_not_have_are_told() {
        let fine = json!([{
            "expression": "object.spec.template.spec.containers.all(c, c.image != '') && \
                           object.metadata.labels['a'] == 'b' && object.spec.replicas > 1",
        }]);
        assert_eq!(found(fine), []);
        let wrong = found(json!([
            { "expression": "object.spec.replicas > '1'" },
            { "expression": "object.foo < 3", "messageExpression": "object.bar" },
        ]));
        let fields: Vec<_> = wrong.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "spec.validations[0].expression",
                "spec.validations[1].expression",
                "spec.validations[1].messageExpression",
            ]
        );
        assert!(wrong[0].1.contains("found no matching overload for '_>_'"), "{}", wrong[0].1);
        assert_eq!(
            wrong[1].1,
            "apps/v1, Kind=Deployment: ERROR: <input>:1:7: undefined field 'foo'\n | object.foo < \
             3\n | ......^\n"
        );
    }
}
