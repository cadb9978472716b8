//! Which requests a webhook or a policy is about: rules, selectors, and the versions in which it
//! wants to see them.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::{
        admissionregistration::v1::{MatchResources, NamedRuleWithOperations, RuleWithOperations},
        core::v1::Namespace,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};

use super::{AdmissionRequest, Operation};
use crate::{
    meta::selectors::LabelQuery,
    resources::Resource,
    server::{
        kinds::Kinds,
        reader::Reader,
        status::{ApiError, Result, Subject},
    },
};

/// The group of what configures admission, which admission by configuration is never asked about:
/// nobody could mend a rule that forbids everything.
pub(in crate::server) const CONFIGURATION_GROUP: &str = "admissionregistration.k8s.io";

/// Whether no webhook and no policy is asked about a request.
pub(super) fn is_exempt(request: &AdmissionRequest<'_>) -> bool {
    // What the server itself needs to run is not asked about either.
    request.resource.group == CONFIGURATION_GROUP || request.context.is_none()
}

/// A rule, with what it names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<(String, String)>,
    /// Empty for all.
    names: Vec<String>,
    scope: Scope,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Scope {
    #[default]
    All,
    Cluster,
    Namespaced,
}

impl From<&RuleWithOperations> for Rule {
    fn from(rule: &RuleWithOperations) -> Self {
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        let resources = list(&rule.resources).into_iter().map(|resource| {
            let (parent, sub) = resource.split_once('/').unwrap_or((&resource, ""));
            (parent.to_owned(), sub.to_owned())
        });
        Self {
            operations: list(&rule.operations),
            groups: list(&rule.api_groups),
            versions: list(&rule.api_versions),
            resources: resources.collect(),
            names: Vec::new(),
            scope: match rule.scope.as_deref() {
                Some("Cluster") => Scope::Cluster,
                Some("Namespaced") => Scope::Namespaced,
                _ => Scope::All,
            },
        }
    }
}

impl From<&NamedRuleWithOperations> for Rule {
    fn from(rule: &NamedRuleWithOperations) -> Self {
        let plain = RuleWithOperations {
            api_groups: rule.api_groups.clone(),
            api_versions: rule.api_versions.clone(),
            operations: rule.operations.clone(),
            resources: rule.resources.clone(),
            scope: rule.scope.clone(),
        };
        Self { names: rule.resource_names.clone().unwrap_or_default(), ..Self::from(&plain) }
    }
}

/// What of a request rules look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub operation: Operation,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub name: &'a str,
    /// Whether the object lives in a namespace.
    pub namespaced: bool,
}

impl<'a> Asked<'a> {
    /// A request, as if it came through this version of its kind.
    pub(super) fn of(request: &'a AdmissionRequest<'_>, resource: &'a Resource) -> Self {
        Self {
            operation: request.operation,
            group: &resource.group,
            version: &resource.version,
            resource: &resource.plural,
            subresource: request.subresource,
            name: request.given_name(),
            namespaced: request.namespace.is_some(),
        }
    }
}

impl Rule {
    /// Whether the rule is about such a request.
    pub(super) fn matches(&self, asked: &Asked<'_>) -> bool {
        let has = |list: &[String], item: &str| list.iter().any(|it| it == "*" || it == item);
        let is = |pattern: &str, item: &str| pattern == "*" || pattern == item;
        let in_scope = match self.scope {
            Scope::All => true,
            Scope::Cluster => !asked.namespaced,
            Scope::Namespaced => asked.namespaced,
        };
        in_scope
            && has(&self.operations, asked.operation.as_str())
            && has(&self.groups, asked.group)
            && has(&self.versions, asked.version)
            && self.resources.iter().any(|(resource, subresource)| {
                is(resource, asked.resource) && is(subresource, asked.subresource)
            })
            && (self.names.is_empty() || self.names.iter().any(|name| name == asked.name))
    }
}

/// Where kinds and objects are looked up. Cloning shares it.
#[derive(Clone, Debug)]
pub(in crate::server) struct Lookup {
    pub reader: Reader,
    pub kinds: Arc<Kinds>,
}

/// Which requests somebody is about.
#[derive(Clone, Debug)]
pub(super) struct Matcher {
    pub rules: Vec<Rule>,
    /// Whether it is about all kinds, whatever the rules.
    pub everything: bool,
    /// What is left out of them.
    pub excluded: Vec<Rule>,
    /// Whether the rules also mean other versions of what they name.
    pub equivalent: bool,
    pub namespaces: LabelQuery,
    pub objects: LabelQuery,
}

/// The versions in which a request could have come, found out when somebody wants to know.
#[derive(Debug, Default)]
pub(super) struct Equivalents(Option<Vec<Arc<Resource>>>);

impl Equivalents {
    fn of(&mut self, kinds: &Kinds, resource: &Arc<Resource>) -> &[Arc<Resource>] {
        self.0.get_or_insert_with(|| {
            let same = |row: &&Arc<Resource>| {
                row.key_prefix == resource.key_prefix && !Arc::ptr_eq(row, resource)
            };
            kinds.now().resources.iter().filter(same).cloned().collect()
        })
    }
}

/// The labels of a request's namespace.
#[derive(Debug, Default)]
pub(super) struct NamespaceOf(Option<Option<Arc<Namespace>>>);

impl NamespaceOf {
    /// The namespace of the request; `None` for cluster scope, and for a Namespace itself.
    ///
    /// # Errors
    /// When it is gone.
    pub(super) async fn get(
        &mut self,
        reader: &Reader,
        request: &AdmissionRequest<'_>,
    ) -> Result<Option<Arc<Namespace>>> {
        if let Some(known) = &self.0 {
            return Ok(known.clone());
        }
        let found = match request.namespace {
            None => None,
            Some(name) => {
                let found = reader.get::<Namespace>(None, name).await?;
                let missing = || ApiError::not_found(&Subject::of("", "namespaces"), name);
                Some(Arc::new(found.ok_or_else(missing)?))
            }
        };
        self.0 = Some(found.clone());
        Ok(found)
    }
}

/// What is found out about a request once, for everybody who may be about it.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub namespace: NamespaceOf,
    equivalents: Equivalents,
}

impl From<&MatchResources> for Matcher {
    /// What a policy, or one of its bindings, is about.
    fn from(resources: &MatchResources) -> Self {
        let query = |selector: &Option<LabelSelector>| {
            selector.as_ref().map_or_else(LabelQuery::everything, LabelQuery::from_selector)
        };
        let rules = |rules: &Option<Vec<NamedRuleWithOperations>>| -> Vec<Rule> {
            rules.iter().flatten().map(Into::into).collect()
        };
        let own = rules(&resources.resource_rules);
        Self {
            everything: own.is_empty(),
            rules: own,
            excluded: rules(&resources.exclude_resource_rules),
            equivalent: resources.match_policy.as_deref() != Some("Exact"),
            namespaces: query(&resources.namespace_selector),
            objects: query(&resources.object_selector),
        }
    }
}

impl Matcher {
    /// Whether it is about the request; if so, the version in which it wants to see it.
    pub(super) async fn matches(
        &self,
        lookup: &Lookup,
        request: &AdmissionRequest<'_>,
        facts: &mut Facts,
    ) -> Result<Option<Arc<Resource>>> {
        if self.objects_differ(request) {
            return Ok(None);
        }
        if Self::find(&self.excluded, self.equivalent, lookup, request, facts).is_some() {
            return Ok(None);
        }
        let found = match self.everything {
            true => Some(request.resource.clone()),
            false => Self::find(&self.rules, self.equivalent, lookup, request, facts),
        };
        let Some(found) = found else { return Ok(None) };
        let in_namespace = self.in_namespace(&lookup.reader, request, facts).await?;
        Ok(in_namespace.then_some(found))
    }

    fn objects_differ(&self, request: &AdmissionRequest<'_>) -> bool {
        if self.objects.is_everything() {
            return false;
        }
        let fits = |labels: Option<&BTreeMap<_, _>>| self.objects.matches_optional(labels);
        let new = request.object().is_some_and(|object| fits(object.meta().labels.as_ref()));
        let old = request.old.is_some_and(|old| fits(old.meta().labels.as_ref()));
        !new && !old
    }

    fn find(
        rules: &[Rule],
        equivalent: bool,
        lookup: &Lookup,
        request: &AdmissionRequest<'_>,
        facts: &mut Facts,
    ) -> Option<Arc<Resource>> {
        let asked = Asked::of(request, request.resource);
        if rules.iter().any(|rule| rule.matches(&asked)) {
            return Some(request.resource.clone());
        }
        if !equivalent || rules.is_empty() {
            return None;
        }
        let others = facts.equivalents.of(&lookup.kinds, request.resource);
        rules.iter().find_map(|rule| {
            let fits = |row: &&Arc<Resource>| rule.matches(&Asked::of(request, row));
            others.iter().find(fits).cloned()
        })
    }

    async fn in_namespace(
        &self,
        reader: &Reader,
        request: &AdmissionRequest<'_>,
        facts: &mut Facts,
    ) -> Result<bool> {
        if self.namespaces.is_everything() {
            return Ok(true);
        }
        if request.is_namespace() {
            let new = request.object().filter(|_| request.subresource.is_empty());
            let labels = new.or(request.old).and_then(|object| object.meta().labels.as_ref());
            return Ok(self.namespaces.matches_optional(labels));
        }
        match facts.namespace.get(reader, request).await? {
            None => Ok(true),
            Some(namespace) => {
                Ok(self.namespaces.matches_optional(namespace.metadata.labels.as_ref()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(resources: &[&str], scope: &str) -> Rule {
        let rule = json!({
            "operations": ["CREATE", "UPDATE"],
            "apiGroups": ["apps"],
            "apiVersions": ["v1"],
            "resources": resources,
            "scope": scope,
        });
        Rule::from(&serde_json::from_value::<RuleWithOperations>(rule).unwrap())
    }

    const ASKED: Asked<'static> = Asked {
        operation: Operation::Create,
        group: "apps",
        version: "v1",
        resource: "deployments",
        subresource: "",
        name: "web",
        namespaced: true,
    };

    #[test]
    fn a_rule_names_resources_and_their_subresources() {
        #[track_caller]
        fn check(resources: &[&str], subresource: &str, matches: bool) {
            let asked = Asked { subresource, ..ASKED };
            assert_eq!(rule(resources, "*").matches(&asked), matches);
        }
        check(&["deployments"], "", true);
        check(&["deployments"], "scale", false);
        check(&["deployments/scale"], "scale", true);
        check(&["deployments/scale"], "", false);
        check(&["*"], "", true);
        check(&["*"], "scale", false);
        check(&["*/*"], "", true);
        check(&["*/*"], "scale", true);
        check(&["deployments/*"], "scale", true);
        check(&["deployments/*"], "", true);
        check(&["*/scale"], "scale", true);
        check(&["pods"], "", false);
    }

    #[test]
    fn a_rule_names_operations_groups_versions_and_scopes() {
        let plain = rule(&["*"], "*");
        assert!(plain.matches(&ASKED));
        assert!(!plain.matches(&Asked { operation: Operation::Delete, ..ASKED }));
        assert!(!plain.matches(&Asked { group: "", ..ASKED }));
        assert!(!plain.matches(&Asked { version: "v1beta1", ..ASKED }));
        let (namespaced, cluster) = (rule(&["*"], "Namespaced"), rule(&["*"], "Cluster"));
        let outside = Asked { namespaced: false, ..ASKED };
        assert!(namespaced.matches(&ASKED) && !namespaced.matches(&outside));
        assert!(!cluster.matches(&ASKED) && cluster.matches(&outside));
    }

    #[test]
    fn a_policy_can_name_objects() {
        let named = Rule { names: vec!["web".to_owned()], ..rule(&["*"], "*") };
        assert!(named.matches(&ASKED));
        assert!(!named.matches(&Asked { name: "db", ..ASKED }));
    }
}
