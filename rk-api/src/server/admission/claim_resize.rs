//! PersistentVolumeClaimResize: a claim grows only where its class lets it.

use async_trait::async_trait;
use k8s_openapi::api::{core::v1::PersistentVolumeClaim, storage::v1::StorageClass};

use super::{Admission, AdmissionRequest, Operation};
use crate::{
    meta::quantity::Quantity,
    quota::pod_resources::amounts,
    server::{reader::Reader, status::Result},
};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct PersistentVolumeClaimResize(pub(super) Reader);

#[async_trait]
impl Admission for PersistentVolumeClaimResize {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        request.operation == Operation::Update && request.is_about("persistentvolumeclaims")
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        let new = request.object().and_then(|object| object.as_any().downcast_ref());
        let old = request.old.and_then(|object| object.as_any().downcast_ref());
        let (Some(new), Some(old)) = (new, old) else { return Ok(()) };
        if size(new) <= size(old) {
            return Ok(());
        }
        let phase = old.status.as_ref().and_then(|status| status.phase.as_deref());
        if phase != Some("Bound") {
            return Err(request.forbidden("Only bound persistent volume claims can be expanded"));
        }
        let class = new.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
        let class = match class {
            Some(name) if !name.is_empty() => self.0.get::<StorageClass>(None, name).await?,
            _ => None,
        };
        if class.is_some_and(|class| class.allow_volume_expansion == Some(true)) {
            return Ok(());
        }
        Err(request.forbidden(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions \
             the pvc must support resize",
        ))
    }
}

fn size(claim: &PersistentVolumeClaim) -> Quantity {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let requests = amounts(resources.and_then(|resources| resources.requests.as_ref()));
    requests.get("storage").copied().unwrap_or(Quantity::ZERO)
}
