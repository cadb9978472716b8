//! NamespaceLifecycle: nothing is created in a namespace that is missing or on its way out, and
//! some namespaces stay.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Namespace;

use super::{Admission, AdmissionRequest, Operation};
use crate::server::{
    reader::Reader,
    status::{ApiError, Result, Subject},
};

/// Namespaces that cannot be deleted.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct NamespaceLifecycle(pub(super) Reader);

#[async_trait]
impl Admission for NamespaceLifecycle {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        match request.operation {
            // A namespace that is not there can be asked about.
            Operation::Create => {
                request.namespace.is_some()
                    && request.resource.plural != "localsubjectaccessreviews"
            }
            Operation::Delete => request.is_about("namespaces"),
            Operation::Update | Operation::Connect => false,
        }
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<()> {
        let (Operation::Create, Some(name)) = (request.operation, request.namespace) else {
            return Ok(());
        };
        let Some(namespace) = self.0.find::<Namespace>(None, name).await? else {
            return Err(ApiError::not_found(&Subject::of("", "namespaces"), name));
        };
        if namespace.field("status.phase") != "Terminating" {
            return Ok(());
        }
        let why = format!(
            "unable to create new content in namespace {name} because it is being terminated"
        );
        let message = format!("namespace {name} is being terminated");
        Err(request.forbidden(&why).cause("NamespaceTerminating", &message, "metadata.namespace"))
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        if request.operation == Operation::Delete && IMMORTAL.contains(&request.name) {
            return Err(request.forbidden("this namespace may not be deleted"));
        }
        Ok(())
    }
}
