//! CertificateSigningRequest.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

use super::{Kind, Resource, row::Row};

/// The row of CertificateSigningRequest.
pub(super) fn row() -> Resource {
    Row::of::<CertificateSigningRequests>()
        .short(&["csr"])
        .sub("approval", "CertificateSigningRequest", &["get", "patch", "update"])
        .status()
        .done()
}

/// How a CertificateSigningRequest behaves.
#[derive(Debug, Default)]
pub(super) struct CertificateSigningRequests;

impl Kind for CertificateSigningRequests {
    type Object = CertificateSigningRequest;
}
