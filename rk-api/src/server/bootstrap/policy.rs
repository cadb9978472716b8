//! The roles and bindings that every cluster has: a table, in the words of a rule.
//!
//! Words are separated by spaces; `core` stands for the core group.

mod controllers;
mod namespaced;
mod users;

use k8s_openapi::{
    api::rbac::v1::{
        AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef,
        Subject,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};

use self::{
    controllers::CONTROLLERS,
    namespaced::{ROLE_BINDINGS, ROLES},
    users::{AGGREGATES, BINDINGS, CLUSTER_ROLES, NODE, PARTS},
};
use crate::server::authz::rbac::GROUP;

/// A rule of the table.
#[derive(Clone, Copy, Debug)]
struct Words {
    verbs: &'static str,
    groups: &'static str,
    resources: &'static str,
    names: &'static str,
    urls: &'static str,
}

/// A role of the table.
type Named = (&'static str, &'static [Words]);

const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";
const READ_WRITE: &str = "create delete deletecollection get list patch update watch";

const fn on(verbs: &'static str, groups: &'static str, resources: &'static str) -> Words {
    Words { verbs, groups, resources, names: "", urls: "" }
}

const fn named(
    verbs: &'static str,
    groups: &'static str,
    resources: &'static str,
    names: &'static str,
) -> Words {
    Words { verbs, groups, resources, names, urls: "" }
}

const fn urls(verbs: &'static str, urls: &'static str) -> Words {
    Words { verbs, groups: "", resources: "", names: "", urls }
}

const EVENTS: Words = on("create patch update", "core events.k8s.io", "events");
/// Components of ours send patches where Kubernetes' own send whole objects: in roles of these names
/// who may update something may patch it too.
const PATCHES: &[&str] = &["system:controller:", "system:kube-controller-manager"];
/// A subject of the table.
#[derive(Clone, Copy, Debug)]
enum To {
    User(&'static str),
    Group(&'static str),
    /// A service account of kube-system.
    Account(&'static str),
}
/// What marks these objects.
const LABEL: (&str, &str) = ("kubernetes.io/bootstrapping", "rbac-defaults");

/// Whether what is missing is put back at each start; `false` keeps an object as it is.
pub(super) const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// The rules of nodes.
pub(in crate::server) fn node_rules() -> Vec<PolicyRule> {
    rules(NODE)
}

/// The cluster roles.
pub(super) fn cluster_roles() -> Vec<ClusterRole> {
    let role = |name: String, label: Option<&str>, words: &[Words]| {
        let mut metadata = metadata(&name, "");
        if let Some(label) = label {
            let labels = metadata.labels.get_or_insert_default();
            labels.insert(format!("{GROUP}/{label}"), "true".to_owned());
        }
        let mut rules = rules(words);
        if PATCHES.iter().any(|prefix| name.starts_with(prefix)) {
            for rule in &mut rules {
                let has = |verb: &str| rule.verbs.iter().any(|found| found == verb);
                if has("update") && !has("patch") {
                    rule.verbs.push("patch".to_owned());
                }
            }
        }
        ClusterRole { metadata, rules: Some(rules), aggregation_rule: None }
    };
    let mut roles: Vec<ClusterRole> =
        CLUSTER_ROLES.iter().map(|(name, words)| role((*name).to_owned(), None, words)).collect();
    roles.extend(
        PARTS.iter().map(|(name, label, words)| role((*name).to_owned(), Some(label), words)),
    );
    roles.extend(AGGREGATES.iter().map(|(name, from, label)| {
        let selector = LabelSelector {
            match_labels: Some([(format!("{GROUP}/{from}"), "true".to_owned())].into()),
            ..LabelSelector::default()
        };
        ClusterRole {
            rules: None,
            aggregation_rule: Some(AggregationRule {
                cluster_role_selectors: Some(vec![selector]),
            }),
            ..role((*name).to_owned(), *label, &[])
        }
    }));
    roles.extend(
        CONTROLLERS
            .iter()
            .map(|(name, words)| role(format!("system:controller:{name}"), None, words)),
    );
    roles
}

/// The cluster role bindings.
pub(super) fn cluster_role_bindings() -> Vec<ClusterRoleBinding> {
    let binding = |name: &str, to: &[To]| ClusterRoleBinding {
        metadata: metadata(name, ""),
        role_ref: role_ref("ClusterRole", name),
        subjects: subjects(to),
    };
    let controllers = CONTROLLERS
        .iter()
        .map(|(name, _)| binding(&format!("system:controller:{name}"), &[To::Account(name)]));
    BINDINGS.iter().map(|(name, to)| binding(name, to)).chain(controllers).collect()
}

/// The roles of single namespaces.
pub(super) fn roles() -> Vec<Role> {
    ROLES
        .iter()
        .map(|(namespace, name, words)| Role {
            metadata: metadata(name, namespace),
            rules: Some(rules(words)),
        })
        .collect()
}

/// The bindings of single namespaces.
pub(super) fn role_bindings() -> Vec<RoleBinding> {
    ROLE_BINDINGS
        .iter()
        .map(|(namespace, name, role, to)| RoleBinding {
            metadata: metadata(name, namespace),
            role_ref: role_ref("Role", role),
            subjects: subjects(to),
        })
        .collect()
}

fn metadata(name: &str, namespace: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
        labels: Some([(LABEL.0.to_owned(), LABEL.1.to_owned())].into()),
        annotations: Some([(AUTOUPDATE.to_owned(), "true".to_owned())].into()),
        ..ObjectMeta::default()
    }
}

fn rules(words: &[Words]) -> Vec<PolicyRule> {
    let list = |words: &str| {
        let words = words.split_whitespace();
        let words = words.map(|word| if word == "core" { String::new() } else { word.to_owned() });
        Some(words.collect::<Vec<_>>()).filter(|words| !words.is_empty())
    };
    words
        .iter()
        .map(|words| PolicyRule {
            verbs: list(words.verbs).unwrap_or_default(),
            api_groups: list(words.groups),
            resources: list(words.resources),
            resource_names: list(words.names),
            non_resource_urls: list(words.urls),
        })
        .collect()
}

fn role_ref(kind: &str, name: &str) -> RoleRef {
    RoleRef { api_group: Some(GROUP.to_owned()), kind: kind.to_owned(), name: name.to_owned() }
}

fn subjects(to: &[To]) -> Option<Vec<Subject>> {
    let subject = |to: &To| {
        let (kind, name, namespace) = match to {
            To::User(name) => ("User", name, None),
            To::Group(name) => ("Group", name, None),
            To::Account(name) => ("ServiceAccount", name, Some("kube-system".to_owned())),
        };
        let api_group = namespace.is_none().then(|| GROUP.to_owned());
        Subject { api_group, kind: kind.to_owned(), name: (*name).to_owned(), namespace }
    };
    (!to.is_empty()).then(|| to.iter().map(subject).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_binding_names_a_role_of_the_table() {
        let names = |names: Vec<Option<String>>| names.into_iter().flatten().collect::<Vec<_>>();
        let cluster = names(cluster_roles().into_iter().map(|role| role.metadata.name).collect());
        for binding in cluster_role_bindings() {
            assert!(cluster.contains(&binding.role_ref.name), "{}", binding.role_ref.name);
        }
        for binding in role_bindings() {
            let there = roles().iter().any(|role| {
                role.metadata.name.as_ref() == Some(&binding.role_ref.name)
                    && role.metadata.namespace == binding.metadata.namespace
            });
            assert!(there, "{}", binding.role_ref.name);
        }
        let mut unique = cluster.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), cluster.len());
    }
}
