//! What is registered for admission: webhooks, policies and their bindings.

pub(crate) mod expressions;
mod policy;
mod policy_binding;
mod rules;
mod webhook;

pub(super) use webhook::{service, url};

use super::{Column, Resource};

/// The rows of `admissionregistration.k8s.io`.
pub(super) fn rows() -> [Resource; 6] {
    let [mutating_webhooks, validating_webhooks] = webhook::rows();
    let [mutating_policies, validating_policies] = policy::rows();
    let [mutating_bindings, validating_bindings] = policy_binding::rows();
    let rows = [
        mutating_policies,
        mutating_bindings,
        mutating_webhooks,
        validating_policies,
        validating_bindings,
        validating_webhooks,
    ];
    rows.map(|mut row| {
        row.categories.push("api-extensions".into());
        row
    })
}

const PARAM_KIND: Column = Column::new("ParamKind", "string", "The kind of its parameters.");
