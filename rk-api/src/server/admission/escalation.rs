//! Nobody can give away more than they hold: roles with rules and bindings to roles beyond one's
//! own rights need the verb `escalate` or `bind`.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef,
};

use super::{Admission, AdmissionRequest, Operation};
use crate::{
    resources::BuiltIn,
    server::{
        authz::{
            Authorizer, Decision,
            rbac::{GROUP, Rbac, describe, missing, quoted},
        },
        info::RequestInfo,
        status::{ApiError, Result, Subject},
        user::MASTERS,
    },
};

/// See the module's documentation.
#[derive(Debug)]
pub(in crate::server) struct Escalation {
    pub(in crate::server) rbac: Rbac,
    pub(in crate::server) authorizer: Arc<dyn Authorizer>,
}

#[async_trait]
impl Admission for Escalation {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        request.resource.group == GROUP
            && request.subresource.is_empty()
            && matches!(request.operation, Operation::Create | Operation::Update)
            && !request.user.is_in(MASTERS)
    }

    // Before validation, as in kube-apiserver: who may not grant at all learns nothing else.
    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<()> {
        match request.resource.kind.as_ref() {
            "Role" => {
                let Some(role) = changed::<Role>(request) else { return Ok(()) };
                self.role(request, role.rules.unwrap_or_default(), false).await
            }
            "ClusterRole" => {
                let Some(role) = changed::<ClusterRole>(request) else { return Ok(()) };
                let old = request.old.and_then(|old| old.as_any().downcast_ref::<ClusterRole>());
                let aggregates = role.aggregation_rule.is_some()
                    || old.is_some_and(|old| old.aggregation_rule.is_some());
                self.role(request, role.rules.unwrap_or_default(), aggregates).await
            }
            "RoleBinding" => {
                let Some(binding) = changed::<RoleBinding>(request) else { return Ok(()) };
                self.binding(request, &binding.role_ref).await
            }
            "ClusterRoleBinding" => {
                let Some(binding) = changed::<ClusterRoleBinding>(request) else { return Ok(()) };
                self.binding(request, &binding.role_ref).await
            }
            _ => Ok(()),
        }
    }
}

impl Escalation {
    async fn role(
        &self,
        request: &AdmissionRequest<'_>,
        rules: Vec<PolicyRule>,
        aggregates: bool,
    ) -> Result<()> {
        // On create the request's path has no name.
        let name = if request.old.is_some() { request.name } else { "" };
        let plural = request.resource.plural.as_ref();
        if self.may(request, "escalate", plural, name).await {
            return Ok(());
        }
        self.holds(request, &rules)?;
        if aggregates && self.holds(request, &everything()).is_err() {
            let why = "must have cluster-admin privileges to use the aggregationRule";
            return Err(request.forbidden(why));
        }
        Ok(())
    }

    async fn binding(&self, request: &AdmissionRequest<'_>, role: &RoleRef) -> Result<()> {
        let (plural, namespace) = match role.kind.as_str() {
            "ClusterRole" => ("clusterroles", ""),
            _ => ("roles", request.namespace.unwrap_or_default()),
        };
        if self.may(request, "bind", plural, &role.name).await {
            return Ok(());
        }
        let rules = self.rbac.role(namespace, &role.name).ok_or_else(|| {
            let subject = Subject { group: GROUP.into(), kind: plural.to_owned().into() };
            ApiError::not_found(&subject, &role.name)
        })?;
        self.holds(request, &rules)
    }

    async fn may(
        &self,
        request: &AdmissionRequest<'_>,
        verb: &'static str,
        plural: &str,
        name: &str,
    ) -> bool {
        let asked = RequestInfo {
            is_resource: true,
            verb: verb.into(),
            group: GROUP.to_owned(),
            version: "*".to_owned(),
            resource: plural.to_owned(),
            namespace: request.namespace.unwrap_or_default().to_owned(),
            name: name.to_owned(),
            ..RequestInfo::default()
        };
        self.authorizer.authorize(request.user, &asked).await == Decision::Allow
    }

    /// Refuses rules that the user does not have.
    fn holds(&self, request: &AdmissionRequest<'_>, rules: &[PolicyRule]) -> Result<()> {
        let namespace = request.namespace.unwrap_or_default();
        let lacking = missing(&self.rbac.rules_for(request.user, namespace), rules);
        if lacking.is_empty() {
            return Ok(());
        }
        let user = request.user;
        let why = format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            user.name,
            quoted(&user.groups),
            describe(&lacking),
        );
        Err(request.forbidden(&why))
    }
}

fn everything() -> [PolicyRule; 2] {
    let all = || vec!["*".to_owned()];
    [
        PolicyRule {
            verbs: all(),
            api_groups: Some(all()),
            resources: Some(all()),
            ..PolicyRule::default()
        },
        PolicyRule { verbs: all(), non_resource_urls: Some(all()), ..PolicyRule::default() },
    ]
}

/// The new object, unless the change is one of those that let it be garbage collected.
fn changed<T: BuiltIn + PartialEq>(request: &mut AdmissionRequest<'_>) -> Option<T> {
    let new = request.object_as::<T>()?.clone();
    let plain = |object: &T| {
        let mut object = object.clone();
        let meta = k8s_openapi::Metadata::metadata_mut(&mut object);
        meta.finalizers = None;
        meta.owner_references = None;
        meta.managed_fields = None;
        meta.resource_version = None;
        object
    };
    let old = request.old.and_then(|old| old.as_any().downcast_ref::<T>());
    let same = old.is_some_and(|old| plain(old) == plain(&new));
    (!same).then_some(new)
}
