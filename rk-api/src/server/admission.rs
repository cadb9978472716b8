//! Admission: what a cluster's policy changes about objects, or refuses, before they are stored.

mod claim_resize;
mod default_ingress_class;
mod default_storage_class;
mod escalation;
mod first_look;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod pod_certificates;
mod pod_security;
mod priority;
mod resource_quota;
mod runtime_class;
mod service_accounts;
mod signing_requests;
mod taint_nodes;
mod tolerations;
mod unprivileged;

pub(super) use self::unprivileged::Unprivileged;

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use self::{
    claim_resize::PersistentVolumeClaimResize, default_ingress_class::DefaultIngressClass,
    default_storage_class::DefaultStorageClass, escalation::Escalation, limit_ranger::LimitRanger,
    namespace_lifecycle::NamespaceLifecycle, node_restriction::NodeRestriction,
    pod_certificates::PodCertificates, pod_security::PodSecurity, priority::Priority,
    resource_quota::ResourceQuotas, runtime_class::RuntimeClasses,
    service_accounts::ServiceAccounts, signing_requests::Requestor,
    taint_nodes::TaintNodesByCondition, tolerations::DefaultTolerationSeconds,
};
use super::{
    authz::{Authorizer, rbac::Rbac},
    reader::Reader,
    status::{ApiError, Result, Subject},
    user::UserInfo,
};
use crate::resources::{Object, Resource};

/// What a request does to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It makes a new one.
    Create,
    /// It changes one.
    Update,
    /// It deletes one.
    Delete,
    /// It opens a stream to one.
    Connect,
}

/// A write that asks to be admitted.
#[derive(Debug)]
pub struct AdmissionRequest<'a> {
    /// What it does.
    pub operation: Operation,
    /// To which kind.
    pub resource: &'a Arc<Resource>,
    /// The subresource; empty for the object itself.
    pub subresource: &'a str,
    /// The namespace; `None` for cluster scope.
    pub namespace: Option<&'a str>,
    /// The name; empty while it is to be generated.
    pub name: &'a str,
    /// The object as it is to be; `None` when it is deleted.
    pub object: Option<&'a mut dyn Object>,
    /// The object as it is; `None` when it is created.
    pub old: Option<&'a dyn Object>,
    /// Who asks.
    pub user: &'a UserInfo,
    /// Whether nothing is stored: side effects are forbidden.
    pub dry_run: bool,
}

/// A plug-in of the server that sees every write.
///
/// # Contract
/// - All plug-ins first [`mutate`](Self::mutate), in order; then the object is validated; then all
///   [`validate`](Self::validate), in order. The first error ends the request.
/// - An update is tried again when another writer came first, so both must be repeatable.
/// - An error is an [`ApiError`], usually a 403 that says why.
#[async_trait]
pub trait Admission: fmt::Debug + Send + Sync + 'static {
    /// Whether the plug-in has anything to do with such requests. It spares the others its call.
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        let _ = request;
        true
    }

    /// Changes the object.
    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<()> {
        let _ = request;
        Ok(())
    }

    /// Refuses the request.
    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        let _ = request;
        Ok(())
    }
}

/// Plug-ins in order.
#[derive(Clone, Debug, Default)]
pub struct Chain(pub Vec<Arc<dyn Admission>>);

impl Chain {
    /// Lets all plug-ins change the object.
    pub async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<()> {
        for plugin in &self.0 {
            if plugin.handles(request) {
                plugin.mutate(request).await?;
            }
        }
        Ok(())
    }

    /// Asks all plug-ins whether the request may go on.
    pub async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        for plugin in &self.0 {
            if plugin.handles(request) {
                plugin.validate(request).await?;
            }
        }
        Ok(())
    }
}

/// The built-in plug-ins, in kube-apiserver's order. What kube-apiserver checks before admission
/// comes first.
pub(super) fn builtin(
    reader: &Reader,
    require_service_accounts: bool,
    rbac: &Rbac,
    authorizer: &Arc<dyn Authorizer>,
) -> Vec<Arc<dyn Admission>> {
    vec![
        Arc::new(Escalation { rbac: rbac.clone(), authorizer: authorizer.clone() }),
        Arc::new(NamespaceLifecycle(reader.clone())),
        Arc::new(LimitRanger::new(reader.clone())),
        Arc::new(ServiceAccounts { reader: reader.clone(), required: require_service_accounts }),
        Arc::new(NodeRestriction(reader.clone())),
        Arc::new(TaintNodesByCondition),
        Arc::new(PodSecurity(reader.clone())),
        Arc::new(Priority::new(reader.clone())),
        Arc::new(DefaultTolerationSeconds),
        Arc::new(Requestor),
        Arc::new(PodCertificates),
        Arc::new(DefaultStorageClass(reader.clone())),
        Arc::new(PersistentVolumeClaimResize(reader.clone())),
        Arc::new(RuntimeClasses(reader.clone())),
        Arc::new(DefaultIngressClass(reader.clone())),
        // The last one: it counts what all others let in.
        Arc::new(ResourceQuotas::new(reader.clone())),
    ]
}

impl AdmissionRequest<'_> {
    /// Whether it is about objects of this core resource themselves, and not about a subresource.
    pub fn is_about(&self, plural: &str) -> bool {
        self.resource.group.is_empty()
            && self.resource.plural == plural
            && self.subresource.is_empty()
    }

    /// A 403 that says why the object is refused.
    pub fn forbidden(&self, why: &str) -> ApiError {
        ApiError::forbidden(&Subject::plural(self.resource), self.name, why)
    }

    /// The new object, if it is of this type.
    fn object_as<T: 'static>(&mut self) -> Option<&mut T> {
        self.object.as_deref_mut()?.as_any_mut().downcast_mut()
    }
}
