//! Creates the roles and bindings that every cluster has, and completes those that are there.
//!
//! What somebody took away from them is put back; what somebody added stays. An object whose
//! annotation `rbac.authorization.kubernetes.io/autoupdate` is `false` is left as it is.

use futures::StreamExt;
use k8s_openapi::{
    api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::policy;
use crate::{
    resources::{BuiltIn, Part},
    server::{Inner, authz::rbac::missing, registry::Target, status::Result, user::UserInfo},
};

/// How many objects are written at the same time: they share the flushes of a durable store.
const AT_ONCE: usize = 32;

/// Brings all of them up to date.
pub(super) async fn ensure(server: &Inner) -> Result<()> {
    each(server, policy::cluster_roles()).await?;
    each(server, policy::cluster_role_bindings()).await?;
    each(server, policy::roles()).await?;
    each(server, policy::role_bindings()).await
}

async fn each<T: Policy>(server: &Inner, objects: Vec<T>) -> Result<()> {
    // A server of a subset of the kinds has nothing to create for the others.
    if server.reader.resource::<T>().is_none() {
        return Ok(());
    }
    let written = futures::stream::iter(objects)
        .map(|wanted| one(server, wanted))
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>()
        .await;
    written.into_iter().collect()
}

async fn one<T: Policy>(server: &Inner, wanted: T) -> Result<()> {
    let Some(resource) = server.reader.resource::<T>() else { return Ok(()) };
    let meta = k8s_openapi::Metadata::metadata(&wanted).clone();
    let (name, namespace) = (meta.name.unwrap_or_default(), meta.namespace);
    let user = UserInfo::new("system:apiserver", ["system:masters"]);
    let target = Target {
        resource,
        subresource: "",
        namespace: namespace.as_deref(),
        name: &name,
        user: &user,
        dry_run: false,
        manager: "kube-apiserver",
        context: None,
    };
    match server.reader.get::<T>(namespace.as_deref(), &name).await? {
        None => match server.registry.create(&target, wanted.boxed()).await {
            // Another server of the same store was faster.
            Err(error) if error.reason == "AlreadyExists" => Ok(()),
            result => result.map(drop),
        },
        Some(found) => match reconcile(&found, &wanted) {
            Step::Nothing => Ok(()),
            Step::Update(object) => {
                let change = move |_: Option<&_>| -> Result<_> { Ok(object.boxed().into()) };
                let updated = server.registry.update(&target, Part::Main, change).await;
                match updated {
                    Err(error) if error.is_conflict() => Ok(()),
                    result => result.map(drop),
                }
            }
            Step::Replace => {
                server.registry.delete(&target, &Default::default()).await?;
                server.registry.create(&target, wanted.boxed()).await.map(drop)
            }
        },
    }
}

/// What to do about an object that is there.
#[derive(Debug, PartialEq)]
enum Step<T> {
    Nothing,
    Update(T),
    /// A binding's role cannot be changed, only the binding replaced.
    Replace,
}

fn reconcile<T: Policy>(found: &T, wanted: &T) -> Step<T> {
    let annotations = k8s_openapi::Metadata::metadata(found).annotations.as_ref();
    let keep = annotations.and_then(|annotations| annotations.get(policy::AUTOUPDATE));
    if keep.is_some_and(|value| value == "false") {
        return Step::Nothing;
    }
    let mut new = found.clone();
    complete_metadata(
        k8s_openapi::Metadata::metadata_mut(&mut new),
        k8s_openapi::Metadata::metadata(wanted),
    );
    if !new.complete(wanted) {
        return Step::Replace;
    }
    if new == *found { Step::Nothing } else { Step::Update(new) }
}

/// Adds labels and annotations that are missing.
fn complete_metadata(found: &mut ObjectMeta, wanted: &ObjectMeta) {
    for (found, wanted) in
        [(&mut found.labels, &wanted.labels), (&mut found.annotations, &wanted.annotations)]
    {
        for (key, value) in wanted.iter().flatten() {
            found.get_or_insert_default().entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
}

/// A kind that says who may do what.
trait Policy: BuiltIn + k8s_openapi::Resource + PartialEq {
    /// Adds what `wanted` has and this has not; `false` when that is not possible.
    fn complete(&mut self, wanted: &Self) -> bool;

    fn boxed(&self) -> Box<dyn crate::resources::Object> {
        Box::new(self.clone())
    }
}

fn complete_rules(found: &mut Option<Vec<PolicyRule>>, wanted: &Option<Vec<PolicyRule>>) {
    let wanted = wanted.as_deref().unwrap_or_default();
    let held = found.clone().unwrap_or_default();
    let lacking =
        wanted.iter().filter(|rule| !missing(&held, std::slice::from_ref(*rule)).is_empty());
    let lacking: Vec<PolicyRule> = lacking.cloned().collect();
    if !lacking.is_empty() {
        found.get_or_insert_default().extend(lacking);
    }
}

impl Policy for ClusterRole {
    fn complete(&mut self, wanted: &Self) -> bool {
        complete_rules(&mut self.rules, &wanted.rules);
        let selectors =
            wanted.aggregation_rule.iter().flat_map(|rule| &rule.cluster_role_selectors);
        for selector in selectors.flatten() {
            let rule = self.aggregation_rule.get_or_insert_default();
            let found = rule.cluster_role_selectors.get_or_insert_default();
            if !found.contains(selector) {
                found.push(selector.clone());
            }
        }
        true
    }
}

impl Policy for Role {
    fn complete(&mut self, wanted: &Self) -> bool {
        complete_rules(&mut self.rules, &wanted.rules);
        true
    }
}

macro_rules! binding {
    ($kind:ty) => {
        impl Policy for $kind {
            fn complete(&mut self, wanted: &Self) -> bool {
                if self.role_ref != wanted.role_ref {
                    return false;
                }
                for subject in wanted.subjects.iter().flatten() {
                    let found = self.subjects.get_or_insert_default();
                    if !found.contains(subject) {
                        found.push(subject.clone());
                    }
                }
                true
            }
        }
    };
}
binding!(ClusterRoleBinding);
binding!(RoleBinding);

#[cfg(test)]
mod tests {
    use super::*;

    fn role(verbs: &[&str], autoupdate: &str) -> ClusterRole {
        ClusterRole {
            metadata: ObjectMeta {
                name: Some("r".into()),
                annotations: Some([(policy::AUTOUPDATE.to_owned(), autoupdate.to_owned())].into()),
                ..Default::default()
            },
            rules: Some(vec![PolicyRule {
                verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
                api_groups: Some(vec!["".into()]),
                resources: Some(vec!["pods".into()]),
                ..Default::default()
            }]),
            aggregation_rule: None,
        }
    }

    #[test]
    fn what_was_taken_away_comes_back_and_what_was_added_stays() {
        let wanted = role(&["get", "list"], "true");
        let Step::Update(new) = reconcile(&role(&["get", "delete"], "true"), &wanted) else {
            panic!("nothing to do?")
        };
        assert_eq!(new.rules.unwrap().len(), 2);
        assert_eq!(reconcile(&role(&["*"], "true"), &wanted), Step::Nothing);
    }

    #[test]
    fn an_object_that_is_kept_as_it_is_stays() {
        assert_eq!(reconcile(&role(&[], "false"), &role(&["get"], "true")), Step::Nothing);
    }

    #[test]
    fn a_binding_to_another_role_is_replaced() {
        let binding = policy::cluster_role_bindings().remove(0);
        let mut other = binding.clone();
        other.role_ref.name = "view".into();
        assert_eq!(reconcile(&other, &binding), Step::Replace);
    }
}
