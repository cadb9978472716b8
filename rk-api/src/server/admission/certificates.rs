//! CertificateApproval, CertificateSigning, CertificateSubjectRestriction and
//! ClusterTrustBundleAttest: who may speak for a signer.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use serde_json::Value;
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

use super::{Admission, AdmissionRequest, Operation};
use crate::server::{
    authz::{Authorizer, Decision},
    info::RequestInfo,
    status::Result,
    user::{MASTERS, UserInfo},
};

/// The group of signers, signing requests and trust bundles.
const GROUP: &str = "certificates.k8s.io";

/// The signer whose certificates prove users of the API.
const API_CLIENTS: &str = "kubernetes.io/kube-apiserver-client";

/// Whether the user has a verb on a signer, or on all signers of its domain.
async fn is_allowed(
    authorizer: &Arc<dyn Authorizer>,
    user: &UserInfo,
    verb: &'static str,
    signer: &str,
) -> bool {
    if user.is_in(MASTERS) {
        return true;
    }
    let domain = signer.split('/').next().unwrap_or_default();
    for name in [signer.to_owned(), format!("{domain}/*")] {
        let asked = RequestInfo {
            is_resource: true,
            verb: verb.into(),
            group: GROUP.to_owned(),
            version: "*".to_owned(),
            resource: "signers".to_owned(),
            name,
            ..RequestInfo::default()
        };
        if authorizer.authorize(user, &asked).await == Decision::Allow {
            return true;
        }
    }
    false
}

fn is_signing_request(request: &AdmissionRequest<'_>, subresource: &str) -> bool {
    request.resource.group == GROUP
        && request.resource.plural == "certificatesigningrequests"
        && request.subresource == subresource
}

/// Only those may approve or deny who may do so for the signer.
#[derive(Debug)]
pub(super) struct Approval(pub(super) Arc<dyn Authorizer>);

#[async_trait]
impl Admission for Approval {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        request.operation == Operation::Update && is_signing_request(request, "approval")
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        let Some(old) = request.old_as::<CertificateSigningRequest>() else { return Ok(()) };
        let signer = &old.spec.signer_name;
        if is_allowed(&self.0, request.user, "approve", signer).await {
            return Ok(());
        }
        let why = format!("user not permitted to approve requests with signerName {signer:?}");
        Err(request.forbidden(&why))
    }
}

/// Only those may put a certificate in place, or say that it failed, who may sign for the signer.
#[derive(Debug)]
pub(super) struct Signing(pub(super) Arc<dyn Authorizer>);

#[async_trait]
impl Admission for Signing {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        request.operation == Operation::Update && is_signing_request(request, "status")
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        let old = request.old_as::<CertificateSigningRequest>();
        let new = request.new_as::<CertificateSigningRequest>();
        let (Some(old), Some(new)) = (old, new) else { return Ok(()) };
        let certificate = |it: &CertificateSigningRequest| {
            it.status.as_ref().and_then(|status| status.certificate.clone()).unwrap_or_default()
        };
        let conditions = |it: &CertificateSigningRequest| {
            it.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default()
        };
        let unchanged = certificate(old) == certificate(new) && conditions(old) == conditions(new);
        let signer = &old.spec.signer_name;
        if unchanged || is_allowed(&self.0, request.user, "sign", signer).await {
            return Ok(());
        }
        let why = format!("user not permitted to sign requests with signerName {signer:?}");
        Err(request.forbidden(&why))
    }
}

/// Only those may publish trust anchors for a signer who may attest for it.
#[derive(Debug)]
pub(super) struct Attestation(pub(super) Arc<dyn Authorizer>);

#[async_trait]
impl Admission for Attestation {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        request.is_write()
            && request.resource.group == GROUP
            && request.resource.plural == "clustertrustbundles"
            && request.subresource.is_empty()
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        // The kind has had several versions, alike in this.
        let spec = |value: Value| value.get("spec").cloned().unwrap_or_default();
        let new = request.object().and_then(|object| object.to_value().ok()).map(spec);
        let old = request.old.and_then(|object| object.to_value().ok()).map(spec);
        let Some(new) = new.filter(|new| old.as_ref() != Some(new)) else { return Ok(()) };
        let signer = new.get("signerName").and_then(Value::as_str).unwrap_or_default();
        if signer.is_empty() || is_allowed(&self.0, request.user, "attest", signer).await {
            return Ok(());
        }
        let why = format!("user not permitted to attest for signerName {signer:?}");
        Err(request.forbidden(&why))
    }
}

/// Nobody becomes an administrator by a signing request.
#[derive(Debug)]
pub(super) struct SubjectRestriction;

#[async_trait]
impl Admission for SubjectRestriction {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        request.operation == Operation::Create && is_signing_request(request, "")
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        let Some(new) = request.new_as::<CertificateSigningRequest>() else { return Ok(()) };
        if new.spec.signer_name == API_CLIENTS && asks_for_group(&new.spec.request.0, MASTERS) {
            let why = format!("use of {API_CLIENTS} signer with {MASTERS} group is not allowed");
            return Err(request.forbidden(&why));
        }
        Ok(())
    }
}

/// Whether a signing request (PEM) is for a subject in a group. One that cannot be read is not for
/// validation to let through.
fn asks_for_group(pem: &[u8], group: &str) -> bool {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(pem) else { return false };
    let Ok((_, found)) = X509CertificationRequest::from_der(&pem.contents) else { return false };
    let subject = &found.certification_request_info.subject;
    subject.iter_organization().any(|it| it.as_str().is_ok_and(|found| found == group))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    #[test]
    fn the_groups_of_a_request_are_its_organizations() {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, MASTERS);
        let key = KeyPair::generate().unwrap();
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        assert!(asks_for_group(pem.as_bytes(), MASTERS));
        assert!(!asks_for_group(pem.as_bytes(), "others"));
        assert!(!asks_for_group(b"nonsense", MASTERS));
    }
}
