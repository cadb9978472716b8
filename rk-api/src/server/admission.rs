//! Admission: what a cluster's policy changes about objects, or refuses, before they are stored.

mod always;
mod certificates;
mod claim_resize;
mod declared_features;
mod default_ingress_class;
mod default_storage_class;
mod escalation;
mod event_rate_limit;
mod expressions;
mod extended_resources;
mod external_ips;
mod first_look;
mod image_policy;
mod limit_ranger;
mod matching;
mod metrics;
mod namespace_lifecycle;
mod namespaces;
mod node_restriction;
mod node_selectors;
mod owner_references;
mod plugins;
mod pod_antiaffinity;
mod pod_certificates;
mod pod_preset;
mod pod_resize;
mod pod_security;
mod pod_tolerations;
mod policies;
mod priority;
mod request;
mod resource_quota;
mod rounds;
mod runtime_class;
mod service_accounts;
mod shown;
mod signing_requests;
mod storage_in_use;
mod taint_nodes;
mod tolerations;
mod topology_labels;
pub(super) mod type_checking;
mod unprivileged;
mod webhooks;

use std::{fmt, sync::Arc};

use async_trait::async_trait;

pub use self::{
    event_rate_limit::{EventLimit, EventLimitScope, EventRateLimits},
    image_policy::ImagePolicy,
    plugins::PluginError,
    pod_security::{PodSecurityDefaults, PodSecurityExemptions},
    request::{AdmissionRequest, GroupVersionKind, Operation},
    resource_quota::{LimitedResource, LimitedScope, ResourceQuotaLimits},
};
pub(super) use self::{
    image_policy::ImagePolicyWebhook,
    matching::{CONFIGURATION_GROUP, Lookup},
    metrics::AdmissionMetrics,
    namespaces::Provisioner,
    plugins::{Parts, Selection},
    rounds::Rounds,
    unprivileged::Unprivileged,
};
use super::status::Result;

/// A plug-in of the server that sees every write.
///
/// # Contract
/// - All plug-ins first [`mutate`](Self::mutate), in order; then the object is validated; then all
///   [`validate`](Self::validate), in order. The first error ends the request.
/// - When a webhook or a policy changed the object, all mutate once more.
/// - An update is tried again when another writer came first, so both must be repeatable.
/// - An error is an [`ApiError`](super::ApiError), usually a 403 that says why.
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
        self.mutate_once(request).await?;
        if std::mem::take(&mut request.rounds.again) {
            request.rounds.second = true;
            self.mutate_once(request).await?;
        }
        Ok(())
    }

    async fn mutate_once(&self, request: &mut AdmissionRequest<'_>) -> Result<()> {
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
