//! StorageObjectInUseProtection: volumes and claims wait for their users before they go.

use async_trait::async_trait;

use super::{Admission, AdmissionRequest, Operation};
use crate::{
    server::status::Result,
    volumes::{ATTRIBUTES_CLASS_PROTECTION, CLAIM_PROTECTION, VOLUME_PROTECTION},
};

/// See the module's documentation. The finalizers are taken away by controllers: a server that runs
/// without any does better without this plug-in, since nothing that has one of them would go.
#[derive(Debug)]
pub(super) struct StorageObjectInUseProtection;

/// The finalizer of a kind of object.
fn finalizer(request: &AdmissionRequest<'_>) -> Option<&'static str> {
    if request.is_about("persistentvolumeclaims") {
        Some(CLAIM_PROTECTION)
    } else if request.is_about("persistentvolumes") {
        Some(VOLUME_PROTECTION)
    } else if request.resource.group == "storage.k8s.io"
        && request.resource.plural == "volumeattributesclasses"
        && request.subresource.is_empty()
    {
        Some(ATTRIBUTES_CLASS_PROTECTION)
    } else {
        None
    }
}

#[async_trait]
impl Admission for StorageObjectInUseProtection {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        request.operation == Operation::Create && finalizer(request).is_some()
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<()> {
        let Some(finalizer) = finalizer(request) else { return Ok(()) };
        if let Some(object) = request.object.as_deref_mut() {
            let finalizers = object.meta_mut().finalizers.get_or_insert_default();
            if !finalizers.iter().any(|found| found == finalizer) {
                finalizers.push(finalizer.to_owned());
            }
        }
        Ok(())
    }
}
