//! Role-based access control: the rules of roles, given to users, groups and service accounts by
//! bindings.
//!
//! The index (`rbac/index.rs`) follows the watch cache object by object. A write of a role or a binding is
//! acknowledged when the cache of this server has it, so that it counts for the next request.

mod index;
mod rules;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::{
    authorization::v1::{NonResourceRule, ResourceRule},
    rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding},
};
use parking_lot::RwLock;

use self::index::Index;
pub(in crate::server) use self::rules::{Rule, any_allows, describe, missing, quoted};
use super::{Authorizer, Decision, UserRules};
use crate::server::{
    cache::Observer, info::RequestInfo, object::CachedObject, reader::Reader, user::UserInfo,
};

/// The group of roles and bindings.
pub(in crate::server) const GROUP: &str = "rbac.authorization.k8s.io";

/// See the module's documentation. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub(in crate::server) struct Rbac(Arc<RwLock<Index>>);

impl Rbac {
    /// Follows the roles and bindings of a server.
    pub(in crate::server) fn of(reader: &Reader) -> Self {
        let rbac = Self::default();
        let follow = |table: Option<Arc<crate::server::cache::Table>>, kind| {
            if let Some(table) = table {
                table.observe(Arc::new(Follower { index: rbac.0.clone(), kind }));
            }
        };
        follow(reader.table::<ClusterRole>(), Kind::ClusterRole);
        follow(reader.table::<Role>(), Kind::Role);
        follow(reader.table::<ClusterRoleBinding>(), Kind::ClusterRoleBinding);
        follow(reader.table::<RoleBinding>(), Kind::RoleBinding);
        rbac
    }

    /// All rules that the user was given in a namespace (empty: none), or everywhere.
    pub(in crate::server) fn rules_for(&self, user: &UserInfo, namespace: &str) -> Vec<PolicyRule> {
        self.0.read().rules(user, namespace)
    }

    /// The rules of a role; `None` when there is no such role.
    pub(in crate::server) fn role(&self, namespace: &str, name: &str) -> Option<Vec<PolicyRule>> {
        self.0.read().role_rules(namespace, name)
    }
}

#[async_trait]
impl Authorizer for Rbac {
    async fn authorize(&self, user: &UserInfo, request: &RequestInfo) -> Decision {
        self.now(user, request)
    }

    fn decide(&self, user: &UserInfo, request: &RequestInfo) -> Option<Decision> {
        Some(self.now(user, request))
    }

    fn reason(&self, user: &UserInfo, request: &RequestInfo) -> String {
        let reason = self.0.read().reason(user, request);
        reason.map(|reason| format!("RBAC: allowed by {reason}")).unwrap_or_default()
    }

    fn rules(&self, user: &UserInfo, namespace: &str) -> UserRules {
        let index = self.0.read();
        let mut rules = UserRules::default();
        for rule in index.rules(user, namespace) {
            if rule.resources.as_ref().is_some_and(|resources| !resources.is_empty()) {
                rules.resources.push(ResourceRule {
                    verbs: rule.verbs.clone(),
                    api_groups: rule.api_groups,
                    resources: rule.resources,
                    resource_names: rule.resource_names,
                });
            }
            if rule.non_resource_urls.as_ref().is_some_and(|urls| !urls.is_empty()) {
                rules.paths.push(NonResourceRule {
                    verbs: rule.verbs,
                    non_resource_urls: rule.non_resource_urls,
                });
            }
        }
        rules.incomplete = aggregate(&index.dangling(user, namespace));
        rules
    }
}

impl Rbac {
    fn now(&self, user: &UserInfo, request: &RequestInfo) -> Decision {
        let index = self.0.read();
        if index.allows(user, request) {
            return Decision::Allow;
        }
        let namespace = if request.is_resource { request.namespace.as_str() } else { "" };
        let dangling = index.dangling(user, namespace);
        let reason = match dangling.is_empty() {
            true => String::new(),
            false => format!("RBAC: {}", aggregate(&dangling)),
        };
        Decision::NoOpinion(reason)
    }
}

/// Several errors in one line, as Kubernetes writes them.
fn aggregate(errors: &[String]) -> String {
    match errors {
        [] => String::new(),
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// Which of the four kinds a table holds.
#[derive(Clone, Copy, Debug)]
enum Kind {
    ClusterRole,
    Role,
    ClusterRoleBinding,
    RoleBinding,
}

/// Tells the index what happens in one table.
#[derive(Debug)]
struct Follower {
    index: Arc<RwLock<Index>>,
    kind: Kind,
}

impl Follower {
    fn note(&self, index: &mut Index, object: &CachedObject, gone: bool) {
        let name = (object.namespace().to_owned(), object.name().to_owned());
        let bytes = object.stored.bytes();
        match self.kind {
            Kind::ClusterRole => {
                let role = decode::<ClusterRole>(bytes, gone);
                index.set_role(name, role.map(|role| role.rules.unwrap_or_default()));
            }
            Kind::Role => {
                let role = decode::<Role>(bytes, gone);
                index.set_role(name, role.map(|role| role.rules.unwrap_or_default()));
            }
            Kind::ClusterRoleBinding => {
                let binding = decode::<ClusterRoleBinding>(bytes, gone);
                index.set_binding(
                    name,
                    binding.map(|found| (found.role_ref, found.subjects.unwrap_or_default())),
                );
            }
            Kind::RoleBinding => {
                let binding = decode::<RoleBinding>(bytes, gone);
                index.set_binding(
                    name,
                    binding.map(|found| (found.role_ref, found.subjects.unwrap_or_default())),
                );
            }
        }
    }
}

/// An object; what is gone or cannot be read gives nobody anything.
fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8], gone: bool) -> Option<T> {
    if gone {
        return None;
    }
    serde_json::from_slice(bytes)
        .inspect_err(|error| tracing::error!(%error, "a role or binding cannot be read"))
        .ok()
}

impl Observer for Follower {
    fn changed(&self, new: Option<&Arc<CachedObject>>, old: Option<&Arc<CachedObject>>) {
        if let Some(object) = new.or(old) {
            self.note(&mut self.index.write(), object, new.is_none());
        }
    }

    fn replaced(&self, objects: &mut dyn Iterator<Item = &Arc<CachedObject>>) {
        let mut index = self.index.write();
        match self.kind {
            Kind::ClusterRole => index.clear_roles(false),
            Kind::Role => index.clear_roles(true),
            Kind::ClusterRoleBinding => index.clear_bindings(false),
            Kind::RoleBinding => index.clear_bindings(true),
        }
        for object in objects {
            self.note(&mut index, object, false);
        }
    }
}
