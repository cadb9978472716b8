//! AlwaysPullImages and AlwaysDeny.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::{Admission, AdmissionRequest};
use crate::{
    field::{FieldError, Path},
    server::status::Result,
};

/// Refuses everything.
#[derive(Debug)]
pub(super) struct AlwaysDeny;

#[async_trait]
impl Admission for AlwaysDeny {
    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<()> {
        self.validate(request).await
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        // A server that cannot create what it needs would not start at all.
        match request.context {
            None => Ok(()),
            Some(_) => Err(request.forbidden("admission control is denying all modifications")),
        }
    }
}

/// Makes every Pod ask its registry for its images, so that nobody runs images that lie on a node
/// without being allowed to pull them.
#[derive(Debug)]
pub(super) struct AlwaysPullImages;

/// The images of a Pod, in order.
fn images(spec: &PodSpec) -> Vec<Option<&str>> {
    let plain = spec.init_containers.iter().flatten().chain(&spec.containers);
    let brief = spec.ephemeral_containers.iter().flatten();
    let volumes = spec.volumes.iter().flatten().filter_map(|volume| volume.image.as_ref());
    let plain = plain.map(|container| container.image.as_deref());
    plain
        .chain(brief.map(|container| container.image.as_deref()))
        .chain(volumes.map(|image| image.reference.as_deref()))
        .collect()
}

fn spec(object: &Pod) -> Option<&PodSpec> {
    object.spec.as_ref()
}

#[async_trait]
impl Admission for AlwaysPullImages {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        let is_pod = request.resource.group.is_empty() && request.resource.plural == "pods";
        let sub = matches!(request.subresource, "" | "ephemeralcontainers");
        if !(is_pod && sub && request.is_write()) {
            return false;
        }
        // Pods that were there before may stay as they are.
        let new = request.new_as::<Pod>().and_then(spec).map(images).unwrap_or_default();
        let old = request.old_as::<Pod>().and_then(spec).map(images);
        old.is_none_or(|old| new.iter().any(|image| !old.contains(image)))
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<()> {
        let Some(spec) = request.object_as::<Pod>().and_then(|pod| pod.spec.as_mut()) else {
            return Ok(());
        };
        let always = || Some("Always".to_owned());
        let plain = spec.init_containers.iter_mut().flatten().chain(&mut spec.containers);
        plain.for_each(|container| container.image_pull_policy = always());
        let brief = spec.ephemeral_containers.iter_mut().flatten();
        brief.for_each(|container| container.image_pull_policy = always());
        let volumes = spec.volumes.iter_mut().flatten();
        for image in volumes.filter_map(|volume| volume.image.as_mut()) {
            image.pull_policy = always();
        }
        Ok(())
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        let Some(spec) = request.new_as::<Pod>().and_then(spec) else { return Ok(()) };
        for (field, containers) in [
            ("initContainers", spec.init_containers.as_deref().unwrap_or_default()),
            ("containers", spec.containers.as_slice()),
        ] {
            for (index, container) in containers.iter().enumerate() {
                let policy = container.image_pull_policy.as_deref().unwrap_or_default();
                if policy != "Always" {
                    let path = Path::new("spec").child(field).index(index);
                    let at = path.child("imagePullPolicy");
                    let error = FieldError::not_supported(&at, policy, &["Always"]);
                    return Err(request.forbidden(&error.to_string()));
                }
            }
        }
        Ok(())
    }
}
