//! A certificate signing request says who asked for it: the server, not the client, fills that in
//! (Kubernetes' strategy of the kind does; here strategies do not know the user).

use async_trait::async_trait;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

use super::{Admission, AdmissionRequest, Operation};
use crate::server::status::Result;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Requestor;

#[async_trait]
impl Admission for Requestor {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        request.operation == Operation::Create
            && request.resource.plural == "certificatesigningrequests"
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<()> {
        let user = request.user;
        if let Some(signing) = request.object_as::<CertificateSigningRequest>() {
            let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
            let spec = &mut signing.spec;
            spec.username = given(&user.name);
            spec.uid = given(&user.uid);
            spec.groups = Some(user.groups.clone()).filter(|groups| !groups.is_empty());
            spec.extra = Some(user.extra.clone()).filter(|extra| !extra.is_empty());
        }
        Ok(())
    }
}
