//! NamespaceExists and NamespaceAutoProvision: what happens to writes in a namespace that is not
//! there.

use std::sync::{Arc, OnceLock, Weak};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Namespace;
use serde_json::json;

use super::{Admission, AdmissionRequest, Operation};
use crate::server::{
    Inner, bootstrap,
    reader::Reader,
    status::{ApiError, Result, Subject},
};

/// Refuses writes in a namespace that is not there.
#[derive(Debug)]
pub(super) struct NamespaceExists(pub(super) Reader);

#[async_trait]
impl Admission for NamespaceExists {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        request.namespace.is_some() && request.operation != Operation::Connect
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        let Some(name) = request.namespace else { return Ok(()) };
        match self.0.find::<Namespace>(None, name).await? {
            Some(_) => Ok(()),
            None => Err(ApiError::not_found(&Subject::of("", "namespaces"), name)),
        }
    }
}

/// The server, for plug-ins and authenticators that write objects of their own, once there is one. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub(in crate::server) struct Provisioner(pub(super) Arc<OnceLock<Weak<Inner>>>);

impl Provisioner {
    /// The server is there.
    pub(in crate::server) fn set(&self, server: &Arc<Inner>) {
        // It is set once, when the server starts.
        let _ = self.0.set(Arc::downgrade(server));
    }

    /// The server, as long as it is there.
    pub(in crate::server) fn get(&self) -> Option<Arc<Inner>> {
        self.0.get().and_then(Weak::upgrade)
    }
}

/// Makes the namespace of an object that is created.
#[derive(Debug)]
pub(super) struct NamespaceAutoProvision {
    pub(super) reader: Reader,
    pub(super) provisioner: Provisioner,
}

#[async_trait]
impl Admission for NamespaceAutoProvision {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        request.operation == Operation::Create
            && request.namespace.is_some()
            && !request.dry_run
            && request.context.is_some()
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<()> {
        let Some(name) = request.namespace else { return Ok(()) };
        if self.reader.find::<Namespace>(None, name).await?.is_some() {
            return Ok(());
        }
        let Some(server) = self.provisioner.0.get().and_then(Weak::upgrade) else { return Ok(()) };
        let namespace = json!({ "metadata": { "name": name } });
        bootstrap::ensure(&server, "", "v1", "namespaces", None, namespace).await
    }
}
