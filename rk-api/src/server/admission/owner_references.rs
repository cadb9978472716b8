//! OwnerReferencesPermissionEnforcement: only those who may delete an object say what it belongs
//! to, and only those who may set the finalizers of an owner make it wait for the object.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::{Admission, AdmissionRequest};
use crate::server::{
    authz::{Authorizer, Decision},
    info::RequestInfo,
    reader::Reader,
    status::Result,
    user::MASTERS,
};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct OwnerReferences {
    pub(super) reader: Reader,
    pub(super) authorizer: Arc<dyn Authorizer>,
}

#[async_trait]
impl Admission for OwnerReferences {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        // A Pod's status cannot change its owners.
        let is_status = request.resource.plural == "pods" && request.subresource == "status";
        request.is_write()
            && !is_status
            && !request.user.is_in(MASTERS)
            && owners(request.object()) != owners(request.old)
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        let resource = request.resource;
        let deletion = RequestInfo {
            is_resource: true,
            verb: "delete".into(),
            group: resource.group.clone().into_owned(),
            version: resource.version.clone().into_owned(),
            namespace: request.namespace.unwrap_or_default().to_owned(),
            resource: resource.plural.clone().into_owned(),
            subresource: request.subresource.to_owned(),
            name: request.name.to_owned(),
            ..RequestInfo::default()
        };
        if let Some(reason) = self.refusal(request, &deletion).await {
            let why =
                format!("cannot set an ownerRef on a resource you can't delete: {reason}, <nil>");
            return Err(request.forbidden(&why));
        }
        for owner in newly_blocking(owners(request.object()), owners(request.old)) {
            self.check_blocking(request, owner).await?;
        }
        Ok(())
    }
}

impl OwnerReferences {
    /// Why the user may not do something.
    async fn refusal(&self, request: &AdmissionRequest<'_>, asked: &RequestInfo) -> Option<String> {
        match self.authorizer.authorize(request.user, asked).await {
            Decision::Allow => None,
            Decision::Deny(reason) | Decision::NoOpinion(reason) => Some(reason),
        }
    }

    async fn check_blocking(
        &self,
        request: &AdmissionRequest<'_>,
        owner: &OwnerReference,
    ) -> Result<()> {
        let (group, version) =
            owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
        let found = self.reader.resources.by_kind(group, version, &owner.kind);
        let Some(resource) = found else {
            return Err(request.forbidden(&format!(
                "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for \
                 APIVersion {} Kind {}: no matches for kind {:?} in version {:?}",
                owner.api_version, owner.kind, owner.kind, owner.api_version
            )));
        };
        let namespace = request.namespace.filter(|_| resource.namespaced).unwrap_or_default();
        let update = RequestInfo {
            is_resource: true,
            verb: "update".into(),
            group: group.to_owned(),
            version: version.to_owned(),
            namespace: namespace.to_owned(),
            resource: resource.plural.clone().into_owned(),
            subresource: "finalizers".to_owned(),
            name: owner.name.clone(),
            ..RequestInfo::default()
        };
        match self.refusal(request, &update).await {
            None => Ok(()),
            Some(reason) => Err(request.forbidden(&format!(
                "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't \
                 set finalizers on: {reason}, <nil>"
            ))),
        }
    }
}

fn owners(object: Option<&dyn crate::resources::Object>) -> &[OwnerReference] {
    object.and_then(|object| object.meta().owner_references.as_deref()).unwrap_or_default()
}

/// The owners that did not wait for the object before.
fn newly_blocking<'a>(
    new: &'a [OwnerReference],
    old: &[OwnerReference],
) -> Vec<&'a OwnerReference> {
    let blocks = |owner: &&OwnerReference| owner.block_owner_deletion == Some(true);
    let known: Vec<&str> = old.iter().filter(blocks).map(|owner| owner.uid.as_str()).collect();
    new.iter().filter(blocks).filter(|owner| !known.contains(&owner.uid.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_owners_that_begin_to_wait_are_asked_about() {
        let owner = |uid: &str, blocks: bool| OwnerReference {
            uid: uid.to_owned(),
            block_owner_deletion: Some(blocks),
            ..OwnerReference::default()
        };
        let old = [owner("a", true), owner("b", false)];
        let new = [owner("a", true), owner("b", true), owner("c", false), owner("d", true)];
        let found: Vec<_> = newly_blocking(&new, &old).iter().map(|it| it.uid.as_str()).collect();
        assert_eq!(found, ["b", "d"]);
    }
}
