//! Owner references, and which children belong to a controller: adoption and release.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::error::{self, Error};

/// The reference that makes `owner` the managing controller of an object.
pub fn controller_ref<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The reference to the object's managing controller, if it has one.
pub fn controller_of<K: Resource>(object: &K) -> Option<&OwnerReference> {
    let references = object.meta().owner_references.as_deref().unwrap_or_default();
    references.iter().find(|reference| reference.controller == Some(true))
}

/// Whether the object's managing controller has this UID.
pub fn is_controlled_by<K: Resource>(object: &K, uid: &str) -> bool {
    controller_of(object).is_some_and(|reference| reference.uid == uid)
}

/// Whether a reference names kind `K`, whatever its version.
pub fn refers_to<K: Resource<DynamicType = ()>>(reference: &OwnerReference) -> bool {
    let group = match reference.api_version.split_once('/') {
        Some((group, _)) => group,
        None => "",
    };
    reference.kind == K::kind(&()) && group == K::group(&())
}

/// Which of the candidates an owner has, takes and gives up.
#[derive(Debug)]
pub struct Claims<K> {
    /// Controlled by the owner and matching.
    pub owned: Vec<Arc<K>>,
    /// Matching and without a controller: to be taken over.
    pub adopt: Vec<Arc<K>>,
    /// Controlled by the owner but not matching any more: to be let go.
    pub release: Vec<Arc<K>>,
}

/// Sorts `candidates` (of the owner's namespace) by what the owner with `uid` does with them.
///
/// An owner that is being deleted adopts and releases nothing, and nobody adopts an object that is
/// being deleted: the garbage collector decides about those.
pub fn claims<K: Resource>(
    uid: &str,
    owner_deleting: bool,
    candidates: impl IntoIterator<Item = Arc<K>>,
    matches: impl Fn(&BTreeMap<String, String>) -> bool,
) -> Claims<K> {
    let mut claims = Claims { owned: Vec::new(), adopt: Vec::new(), release: Vec::new() };
    for object in candidates {
        let matching = matches(object.labels());
        match controller_of(&*object) {
            Some(reference) if reference.uid == uid => match matching {
                true => claims.owned.push(object),
                false if owner_deleting => {}
                false => claims.release.push(object),
            },
            Some(_) => {}
            None if owner_deleting || !matching => {}
            None if object.meta().deletion_timestamp.is_some() => {}
            None => claims.adopt.push(object),
        }
    }
    claims
}

/// Carries out `claims` and returns the children the owner has afterwards.
///
/// Before the first adoption the owner is read from the server, not the cache: an owner that was
/// deleted, or deleted and made again under the same name, must not adopt.
pub async fn claim<Owner, K>(
    owner: &Owner,
    owners: &Api<Owner>,
    children: &Api<K>,
    claims: Claims<K>,
) -> Result<Vec<Arc<K>>, Error>
where
    Owner: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    claim_with_finalizer(owner, owners, children, claims, None).await
}

/// As [`claim`]; those that are adopted get `finalizer` in the same write, and those that are let
/// go lose it.
pub(crate) async fn claim_with_finalizer<Owner, K>(
    owner: &Owner,
    owners: &Api<Owner>,
    children: &Api<K>,
    claims: Claims<K>,
    finalizer: Option<&str>,
) -> Result<Vec<Arc<K>>, Error>
where
    Owner: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut owned = claims.owned;
    if !claims.adopt.is_empty() {
        ensure_alive(owner, owners).await?;
    }
    for child in claims.adopt {
        let mut patch = json!({"metadata": {
            "ownerReferences": [controller_ref(owner)],
            "uid": child.uid(),
        }});
        if let Some(finalizer) = finalizer {
            patch["metadata"]["finalizers"] = json!([finalizer]);
        }
        match children
            .patch(&child.name_any(), &PatchParams::default(), &Patch::Strategic(patch))
            .await
        {
            Ok(adopted) => owned.push(Arc::new(adopted)),
            Err(error) if error::is_not_found(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    for child in claims.release {
        let mut patch = json!({"metadata": {
            "ownerReferences": [{"$patch": "delete", "uid": owner.uid()}],
            "uid": child.uid(),
        }});
        if let Some(finalizer) = finalizer {
            patch["metadata"]["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
        }
        match children
            .patch(&child.name_any(), &PatchParams::default(), &Patch::Strategic(patch))
            .await
        {
            Ok(_) => {}
            // Gone, or another object of that name, or the reference is gone already (422).
            Err(error) if error::is_not_found(&error) || error::code(&error) == 422 => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(owned)
}

async fn ensure_alive<Owner>(owner: &Owner, owners: &Api<Owner>) -> Result<(), Error>
where
    Owner: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let name = owner.name_any();
    let fresh = owners.get(&name).await?;
    if fresh.uid() != owner.uid() {
        return Err(Error::NotYet(format!(
            "{} {name} was replaced by another of that name",
            Owner::kind(&())
        )));
    }
    if fresh.meta().deletion_timestamp.is_some() {
        return Err(Error::NotYet(format!(
            "{} {name} is being deleted and adopts nothing",
            Owner::kind(&())
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::core::v1::Pod,
        apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    };

    use super::*;

    fn pod(name: &str, label: &str, owner: Option<&str>) -> Pod {
        let reference = owner.map(|uid| OwnerReference {
            uid: uid.into(),
            controller: Some(true),
            ..Default::default()
        });
        Pod {
            metadata: ObjectMeta {
                name: Some(name.into()),
                labels: Some(BTreeMap::from([("app".into(), label.into())])),
                owner_references: reference.map(|reference| vec![reference]),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<String> {
        pods.iter().map(|pod| pod.name_any()).collect()
    }

    fn claims_on_web(deleting: bool, pods: Vec<Pod>) -> Claims<Pod> {
        claims("me", deleting, pods.into_iter().map(Arc::new), |labels| {
            labels.get("app").is_some_and(|app| app == "web")
        })
    }

    #[test]
    fn matching_children_are_kept_or_adopted_and_others_released() {
        let claims = claims_on_web(
            false,
            vec![
                pod("mine", "web", Some("me")),
                pod("mine-relabelled", "db", Some("me")),
                pod("theirs", "web", Some("them")),
                pod("orphan", "web", None),
                pod("stranger", "db", None),
            ],
        );
        assert_eq!(names(&claims.owned), ["mine"]);
        assert_eq!(names(&claims.adopt), ["orphan"]);
        assert_eq!(names(&claims.release), ["mine-relabelled"]);
    }

    #[test]
    fn an_owner_on_its_way_out_adopts_and_releases_nothing() {
        let claims = claims_on_web(
            true,
            vec![
                pod("mine", "web", Some("me")),
                pod("mine-relabelled", "db", Some("me")),
                pod("orphan", "web", None),
            ],
        );
        assert_eq!(names(&claims.owned), ["mine"]);
        assert!(claims.adopt.is_empty() && claims.release.is_empty());
    }

    #[test]
    fn a_child_on_its_way_out_is_not_adopted() {
        let mut leaving = pod("orphan", "web", None);
        leaving.metadata.deletion_timestamp = Some(Time(Default::default()));
        assert!(claims_on_web(false, vec![leaving]).adopt.is_empty());
    }
}
