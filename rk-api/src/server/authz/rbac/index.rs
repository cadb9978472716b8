//! Roles and bindings, arranged for the question "what may this user do here?".

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;
use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef, Subject};

use super::rules::{Rule, Verb};
use crate::server::{info::RequestInfo, user::UserInfo};

type Map<K, V> = HashMap<K, V, RandomState>;

/// Where a role or a binding is: its namespace, empty for cluster scope, and its name.
pub(super) type Name = (String, String);

/// All roles and bindings. A change of one touches only what it is about.
#[derive(Debug, Default)]
pub(super) struct Index {
    roles: Vec<Role>,
    role_ids: Map<Name, usize>,
    free: Vec<usize>,
    bindings: Map<Name, Arc<Binding>>,
    users: Map<String, Grants>,
    groups: Map<String, Grants>,
}

/// A role that exists, or that a binding names.
#[derive(Debug, Default)]
struct Role {
    name: Name,
    /// `None` while there is no such role.
    rules: Option<Arc<[Rule]>>,
    /// How many bindings name it.
    bindings: usize,
}

/// A binding, with its subjects.
#[derive(Debug)]
struct Binding {
    name: Name,
    role: usize,
    role_kind: &'static str,
    subjects: Vec<Subject>,
}

/// What a user or a group was given.
#[derive(Debug, Default)]
struct Grants {
    everywhere: Vec<Grant>,
    by_namespace: Map<String, Vec<Grant>>,
}

/// One binding, seen from one of its subjects.
#[derive(Clone, Debug)]
struct Grant {
    role: usize,
    binding: Arc<Binding>,
    /// Which of the binding's subjects it is.
    subject: usize,
}

/// Whom a subject means.
enum Who {
    User(String),
    Group(String),
}

impl Index {
    /// Notes a role as it is now; `None` when it is gone.
    pub(super) fn set_role(&mut self, name: Name, rules: Option<Vec<PolicyRule>>) {
        let rules = rules.map(|rules| rules.into_iter().map(Rule::new).collect());
        if rules.is_none() && !self.role_ids.contains_key(&name) {
            return;
        }
        let id = self.role(name);
        self.roles[id].rules = rules;
        self.release(id);
    }

    /// Notes a binding as it is now; `None` when it is gone.
    pub(super) fn set_binding(&mut self, name: Name, binding: Option<(RoleRef, Vec<Subject>)>) {
        if let Some(before) = self.bindings.remove(&name) {
            self.unlink(&before);
        }
        let Some((role, subjects)) = binding else { return };
        let (role_kind, role_namespace) = match role.kind.as_str() {
            "ClusterRole" => ("ClusterRole", ""),
            _ => ("Role", name.0.as_str()),
        };
        let id = self.role((role_namespace.to_owned(), role.name));
        self.roles[id].bindings += 1;
        let binding = Arc::new(Binding { name: name.clone(), role: id, role_kind, subjects });
        for at in 0..binding.subjects.len() {
            let grant = Grant { role: id, binding: binding.clone(), subject: at };
            if let Some(grants) = self.grants(&binding, at) {
                grants.push(grant);
            }
        }
        self.bindings.insert(name, binding);
    }

    /// Forgets all roles, of namespaces or of the cluster.
    pub(super) fn clear_roles(&mut self, namespaced: bool) {
        let names: Vec<Name> = self.role_ids.keys().cloned().collect();
        for name in names.into_iter().filter(|(namespace, _)| namespace.is_empty() != namespaced) {
            self.set_role(name, None);
        }
    }

    /// Forgets all bindings, of namespaces or of the cluster.
    pub(super) fn clear_bindings(&mut self, namespaced: bool) {
        let names: Vec<Name> = self.bindings.keys().cloned().collect();
        for name in names.into_iter().filter(|(namespace, _)| namespace.is_empty() != namespaced) {
            self.set_binding(name, None);
        }
    }

    /// Whether any rule that the user was given allows a request.
    pub(super) fn allows(&self, user: &UserInfo, request: &RequestInfo) -> bool {
        self.allowing(user, request).is_some()
    }

    /// Which binding allows a request, as reviews tell it.
    pub(super) fn reason(&self, user: &UserInfo, request: &RequestInfo) -> Option<String> {
        self.allowing(user, request).map(|grant| self.describe(grant))
    }

    fn allowing<'a>(&'a self, user: &'a UserInfo, request: &'a RequestInfo) -> Option<&'a Grant> {
        let verb = Verb::new(&request.verb);
        // Paths have no namespace: what was given in one does not count for them.
        let namespace = if request.is_resource { request.namespace.as_str() } else { "" };
        self.grants_of(user, namespace).find(|grant| {
            let rules = self.roles[grant.role].rules.as_deref().unwrap_or_default();
            rules.iter().any(|rule| rule.allows(verb, request))
        })
    }

    /// All rules that the user was given in a namespace, or everywhere.
    pub(super) fn rules(&self, user: &UserInfo, namespace: &str) -> Vec<PolicyRule> {
        let granted = self.grants_of(user, namespace);
        let rules = granted.filter_map(|grant| self.roles[grant.role].rules.as_deref());
        rules.flatten().map(|rule| rule.policy().clone()).collect()
    }

    /// The rules of one role; `None` when there is no such role.
    pub(super) fn role_rules(&self, namespace: &str, name: &str) -> Option<Vec<PolicyRule>> {
        let id = self.role_ids.get(&(namespace.to_owned(), name.to_owned()))?;
        let rules = self.roles[*id].rules.as_deref()?;
        Some(rules.iter().map(|rule| rule.policy().clone()).collect())
    }

    /// Messages about roles that the user's bindings name and that do not exist.
    pub(super) fn dangling(&self, user: &UserInfo, namespace: &str) -> Vec<String> {
        let mut missing: Vec<String> = Vec::new();
        for grant in self.grants_of(user, namespace) {
            let role = &self.roles[grant.role];
            if role.rules.is_none() {
                let kind = grant.binding.role_kind.to_lowercase();
                let text = format!("{kind}.rbac.authorization.k8s.io {:?} not found", role.name.1);
                if !missing.contains(&text) {
                    missing.push(text);
                }
            }
        }
        missing
    }

    /// What a user was given: everywhere first, then in the namespace.
    fn grants_of<'a>(
        &'a self,
        user: &'a UserInfo,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Grant> {
        let held = || {
            let groups = user.groups.iter().filter_map(|group| self.groups.get(group));
            self.users.get(&user.name).into_iter().chain(groups)
        };
        let everywhere = held().flat_map(|grants| &grants.everywhere);
        let here = held()
            .filter(move |_| !namespace.is_empty())
            .filter_map(move |grants| grants.by_namespace.get(namespace))
            .flatten();
        everywhere.chain(here)
    }

    fn describe(&self, grant: &Grant) -> String {
        let binding = &grant.binding;
        let role = &self.roles[grant.role].name.1;
        let named = match binding.name.0.as_str() {
            "" => format!("ClusterRoleBinding {:?}", binding.name.1),
            namespace => format!("RoleBinding {:?}", format!("{}/{namespace}", binding.name.1)),
        };
        let subject = &binding.subjects[grant.subject];
        let to = match subject.namespace.as_deref() {
            Some(namespace) if subject.kind == "ServiceAccount" => {
                format!("{}/{namespace}", subject.name)
            }
            _ => subject.name.clone(),
        };
        format!("{named} of {} {role:?} to {} {to:?}", binding.role_kind, subject.kind)
    }

    /// The id of a role, made when it is new.
    fn role(&mut self, name: Name) -> usize {
        if let Some(id) = self.role_ids.get(&name) {
            return *id;
        }
        let role = Role { name: name.clone(), ..Role::default() };
        let id = match self.free.pop() {
            Some(id) => {
                self.roles[id] = role;
                id
            }
            None => {
                self.roles.push(role);
                self.roles.len() - 1
            }
        };
        self.role_ids.insert(name, id);
        id
    }

    /// Forgets a role that neither exists nor is named by a binding.
    fn release(&mut self, id: usize) {
        let role = &self.roles[id];
        if role.rules.is_none() && role.bindings == 0 {
            self.role_ids.remove(&role.name);
            self.roles[id] = Role::default();
            self.free.push(id);
        }
    }

    fn unlink(&mut self, binding: &Arc<Binding>) {
        let namespace = binding.name.0.as_str();
        for subject in &binding.subjects {
            let Some(who) = who(subject, namespace) else { continue };
            let (map, name) = match who {
                Who::User(name) => (&mut self.users, name),
                Who::Group(name) => (&mut self.groups, name),
            };
            let Some(grants) = map.get_mut(&name) else { continue };
            grants.everywhere.retain(|grant| !Arc::ptr_eq(&grant.binding, binding));
            if let Some(here) = grants.by_namespace.get_mut(namespace) {
                here.retain(|grant| !Arc::ptr_eq(&grant.binding, binding));
                if here.is_empty() {
                    grants.by_namespace.remove(namespace);
                }
            }
            if grants.everywhere.is_empty() && grants.by_namespace.is_empty() {
                map.remove(&name);
            }
        }
        self.roles[binding.role].bindings -= 1;
        self.release(binding.role);
    }

    /// Where the grants of a binding's subject belong; `None` when it means nobody.
    fn grants(&mut self, binding: &Binding, subject: usize) -> Option<&mut Vec<Grant>> {
        let namespace = binding.name.0.as_str();
        let grants = match who(&binding.subjects[subject], namespace)? {
            Who::User(name) => self.users.entry(name).or_default(),
            Who::Group(name) => self.groups.entry(name).or_default(),
        };
        Some(match namespace {
            "" => &mut grants.everywhere,
            namespace => grants.by_namespace.entry(namespace.to_owned()).or_default(),
        })
    }
}

/// Whom a subject of a binding in this namespace means.
fn who(subject: &Subject, namespace: &str) -> Option<Who> {
    match subject.kind.as_str() {
        "User" => Some(Who::User(subject.name.clone())),
        "Group" => Some(Who::Group(subject.name.clone())),
        "ServiceAccount" => {
            let own = subject.namespace.as_deref().filter(|namespace| !namespace.is_empty());
            let namespace = own.unwrap_or(namespace);
            (!namespace.is_empty())
                .then(|| Who::User(format!("system:serviceaccount:{namespace}:{}", subject.name)))
        }
        _ => None,
    }
}
