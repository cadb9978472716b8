//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy: admission by expressions (KEP-3488,
//! KEP-3962).
//!
//! [`config`] keeps policies with their bindings, following the watch cache, and compiles them;
//! [`params`] finds what bindings give to them; [`judge`] and [`mutation`] say what their results
//! mean. This file says which of them are asked about a request.

mod config;
mod judge;
mod mutating;
mod mutation;
mod params;
mod validating;

use std::sync::Arc;

use serde_json::Value;

use self::config::{Bound, Policies, Policy};
pub(super) use self::{mutating::MutatingPolicies, validating::ValidatingPolicies};
use super::{
    AdmissionMetrics, AdmissionRequest,
    matching::{Facts, Lookup, is_exempt},
    plugins::Parts,
};
use crate::{
    resources::Resource,
    server::{authz::Authorizer, status::Result},
};

/// What both kinds of policies need.
#[derive(Debug)]
struct Dispatcher<P: Policy> {
    policies: Arc<Policies<P>>,
    lookup: Lookup,
    authorizer: Arc<dyn Authorizer>,
    metrics: AdmissionMetrics,
}

/// A policy that is to be asked about a request, on behalf of one binding and with one set of
/// parameters.
struct Invocation<P: Policy> {
    bound: Arc<Bound<P>>,
    /// Which of the policy's bindings.
    binding: usize,
    /// The version in which it wants to see the request.
    resource: Arc<Resource>,
    /// `None` for a policy without parameters; null when the binding gives none.
    params: Option<Value>,
}

/// Why a policy could not be asked.
struct Misconfigured<P: Policy> {
    bound: Arc<Bound<P>>,
    binding: Option<usize>,
    why: String,
}

/// Who is to be asked, in order, and who cannot be.
struct Asked<P: Policy> {
    invocations: Vec<Invocation<P>>,
    misconfigured: Vec<Misconfigured<P>>,
}

/// Whether it asks who somebody is, or what they may do. Policies are not asked about these: one that
/// fails could keep everybody out (`kubeapiserver/admission/exclusion`). Webhooks are.
fn is_review(request: &AdmissionRequest<'_>) -> bool {
    ["authentication.k8s.io", "authorization.k8s.io"].contains(&request.resource.group.as_ref())
}

impl<P: Policy> Dispatcher<P> {
    fn new(parts: &Parts) -> Self {
        Self {
            policies: Policies::of(&parts.lookup.reader),
            lookup: parts.lookup.clone(),
            authorizer: parts.authorizer.clone(),
            metrics: parts.metrics.clone(),
        }
    }

    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        !self.policies.is_empty() && !is_exempt(request) && !is_review(request)
    }

    /// Who is to be asked about a request.
    async fn asked(&self, request: &AdmissionRequest<'_>, facts: &mut Facts) -> Result<Asked<P>> {
        let mut asked = Asked { invocations: Vec::new(), misconfigured: Vec::new() };
        for bound in self.policies.all().iter() {
            let found = bound.policy.matcher().matches(&self.lookup, request, facts).await?;
            let Some(resource) = found else { continue };
            let kind = bound.policy.param_kind();
            if let Some(Err(why)) = kind.map(|kind| params::resource(&self.lookup, kind)) {
                let bound = bound.clone();
                asked.misconfigured.push(Misconfigured { bound, binding: None, why });
                continue;
            }
            for (index, binding) in bound.bindings.iter().enumerate() {
                if let Some(matcher) = &binding.matcher
                    && matcher.matches(&self.lookup, request, facts).await?.is_none()
                {
                    continue;
                }
                let reference = binding.params.as_ref();
                match params::collect(&self.lookup, kind, reference, request).await {
                    Ok(params) => {
                        asked.invocations.extend(params.into_iter().map(|params| Invocation {
                            bound: bound.clone(),
                            binding: index,
                            resource: resource.clone(),
                            params,
                        }));
                    }
                    Err(why) => {
                        let (bound, binding) = (bound.clone(), Some(index));
                        asked.misconfigured.push(Misconfigured { bound, binding, why });
                    }
                }
            }
        }
        Ok(asked)
    }
}

impl<P: Policy> Invocation<P> {
    /// The name of the binding.
    fn binding_name(&self) -> &str {
        &self.bound.bindings[self.binding].name
    }
}
