//! Certificate signing requests: who is approved without asking, who gets a certificate, and what
//! is cleared away.
//!
//! # What it promises
//! - A node that asks for a client certificate of its own is approved, if RBAC lets whoever asks
//!   `create` `certificatesigningrequests/selfnodeclient` (its own name) or `/nodeclient` (any).
//! - An approved request of a signer `kubernetes.io/…` gets a certificate from the
//!   [`CertificateSigner`], or the condition `Failed` with what is wrong with it.
//! - Requests go an hour after they are decided, and a day after they were made and never decided.
//!
//! A request that nobody approves never gets a certificate.

mod approver;
mod cleaner;
mod request;
mod signer;

use std::{fmt::Debug, time::Duration};

use async_trait::async_trait;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition,
};

pub(crate) use self::{
    approver::controller as approver, cleaner::controller as cleaner, signer::controller as signer,
};

/// Issues certificates of the cluster's authority.
#[async_trait]
pub trait CertificateSigner: Send + Sync + Debug + 'static {
    /// A certificate in PEM with the subject, the key and the names of the request. An error is
    /// retried with backoff.
    async fn sign(
        &self,
        request: &CertificateRequest,
    ) -> Result<String, Box<dyn std::error::Error + Send + Sync>>;
}

/// What a certificate is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRequest {
    /// Who is to sign, for example `kubernetes.io/kubelet-serving`.
    pub signer_name: String,
    /// The signing request (RFC 2986) in PEM.
    pub pem: Vec<u8>,
    /// What it is for, by the names of `spec.usages`, for example `client auth`.
    pub usages: Vec<String>,
    /// How long it is to last.
    pub lifetime: Duration,
}

const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";

fn conditions(
    request: &CertificateSigningRequest,
) -> impl Iterator<Item = &CertificateSigningRequestCondition> {
    request.status.iter().flat_map(|status| status.conditions.iter().flatten())
}

fn has(request: &CertificateSigningRequest, type_: &str) -> bool {
    conditions(request).any(|condition| condition.type_ == type_)
}

/// The certificate, once there is one.
fn certificate(request: &CertificateSigningRequest) -> Option<&[u8]> {
    let certificate = request.status.as_ref()?.certificate.as_ref()?;
    Some(certificate.0.as_slice()).filter(|pem| !pem.is_empty())
}

fn add_condition(
    request: &mut CertificateSigningRequest,
    type_: &str,
    reason: &str,
    message: impl Into<String>,
) {
    let condition = CertificateSigningRequestCondition {
        type_: type_.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.into()),
        last_update_time: Some(rk_api::clock::now_seconds()),
        last_transition_time: None,
    };
    request.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
}
