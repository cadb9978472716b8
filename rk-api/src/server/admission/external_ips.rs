//! DenyServiceExternalIPs: no Service gets addresses that it did not have, because whoever names
//! one takes its traffic (CVE-2020-8554).

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Service;

use super::{Admission, AdmissionRequest};
use crate::server::status::Result;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct DenyServiceExternalIps;

#[async_trait]
impl Admission for DenyServiceExternalIps {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        request.is_write() && request.is_about("services")
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        let (new, old) = (addresses(request.new_as()), addresses(request.old_as()));
        match new.iter().all(|address| old.contains(address)) {
            true => Ok(()),
            false => Err(request.forbidden("use of external IPs is denied by admission control")),
        }
    }
}

fn addresses(service: Option<&Service>) -> &[String] {
    let spec = service.and_then(|service| service.spec.as_ref());
    spec.and_then(|spec| spec.external_ips.as_deref()).unwrap_or_default()
}
