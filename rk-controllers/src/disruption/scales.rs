//! How many Pods the controllers of some Pods want.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, StatefulSet},
        core::v1::{Pod, ReplicationController},
    },
    apimachinery::pkg::apis::meta::v1::{APIResource, OwnerReference},
};
use kube::{
    Api, Client, ResourceExt,
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use rk_api::client::Informer;

use crate::{
    error::{self, Error},
    owners::{controller_of, refers_to},
};

/// Looks up the scale of controllers: the usual kinds in caches, others by their subresource.
pub(super) struct Scales {
    pub(super) client: Client,
    pub(super) deployments: Informer<Deployment>,
    pub(super) replica_sets: Informer<ReplicaSet>,
    pub(super) stateful_sets: Informer<StatefulSet>,
    pub(super) replication_controllers: Informer<ReplicationController>,
}

/// The scale of some Pods' controllers.
#[derive(Debug, Default)]
pub(super) struct Total {
    pub(super) scale: i32,
    /// Names of Pods without a controller.
    pub(super) unmanaged: Vec<String>,
}

/// UID of a controller, and how many Pods it wants.
type Scale = (String, i32);

impl Scales {
    /// The scales of all controllers of `pods`, which are of one namespace, each once.
    pub(super) async fn of(&self, namespace: &str, pods: &[Arc<Pod>]) -> Result<Total, Error> {
        let mut scales: BTreeMap<String, i32> = BTreeMap::new();
        // Pods of one ReplicaSet look up the same Deployment.
        let mut looked_up: BTreeMap<&str, ()> = BTreeMap::new();
        let mut unmanaged = Vec::new();
        for pod in pods {
            let Some(owner) = controller_of(&**pod) else {
                unmanaged.push(pod.name_any());
                continue;
            };
            if looked_up.insert(&owner.uid, ()).is_some() {
                continue;
            }
            let found = match self.cached(namespace, owner) {
                Some(found) => Some(found),
                None => self.asked(namespace, owner).await?,
            };
            let Some((uid, scale)) = found else {
                let name = pod.name_any();
                return Err(Error::NotYet(format!("found no controllers for pod {name:?}")));
            };
            scales.insert(uid, scale);
        }
        let scale = scales.values().copied().fold(0, i32::saturating_add);
        Ok(Total { scale, unmanaged })
    }

    fn cached(&self, namespace: &str, owner: &OwnerReference) -> Option<Scale> {
        let uid = &owner.uid;
        if refers_to::<ReplicaSet>(owner) {
            let set = self.replica_sets.get(namespace, &owner.name);
            let set = set.filter(|set| set.uid().as_ref() == Some(uid))?;
            let above = controller_of(&*set).filter(|above| refers_to::<Deployment>(above));
            return match above {
                Some(above) => {
                    let found = self.deployments.get(namespace, &above.name);
                    let found = found.filter(|one| one.uid().as_ref() == Some(&above.uid))?;
                    Some((above.uid.clone(), found.spec.replicas.unwrap_or(1)))
                }
                None => Some((uid.clone(), set.spec.replicas.unwrap_or(1))),
            };
        }
        let replicas = if refers_to::<StatefulSet>(owner) {
            let set = self.stateful_sets.get(namespace, &owner.name);
            let set = set.filter(|set| set.uid().as_ref() == Some(uid))?;
            set.spec.replicas
        } else if refers_to::<ReplicationController>(owner) {
            let found = self.replication_controllers.get(namespace, &owner.name);
            let found = found.filter(|one| one.uid().as_ref() == Some(uid))?;
            found.spec.as_ref().and_then(|spec| spec.replicas)
        } else {
            return None;
        };
        Some((uid.clone(), replicas.unwrap_or(1)))
    }

    /// Asks the server: the controller may be a custom resource with a scale.
    async fn asked(&self, namespace: &str, owner: &OwnerReference) -> Result<Option<Scale>, Error> {
        let (group, version) =
            owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
        let served = match group {
            "" => self.client.list_core_api_resources(version).await,
            _ => self.client.list_api_group_resources(&owner.api_version).await,
        };
        let served = match served {
            // A kind that is not served has no objects.
            Err(gone) if error::is_not_found(&gone) => return Ok(None),
            served => served?.resources,
        };
        let of_kind = |one: &&APIResource| one.kind == owner.kind && !one.name.contains('/');
        let Some(plural) = served.iter().find(of_kind).map(|one| &one.name) else {
            return Ok(None);
        };
        let scale = format!("{plural}/scale");
        if !served.iter().any(|one| one.name == scale) {
            let name = if group.is_empty() { plural.clone() } else { format!("{plural}.{group}") };
            return Err(Error::NotYet(format!("{name} does not implement the scale subresource")));
        }
        let kind = GroupVersionKind::gvk(group, version, &owner.kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, plural);
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), namespace, &resource);
        match api.get_scale(&owner.name).await {
            Ok(scale) => {
                let uid = scale.metadata.uid.unwrap_or_default();
                let replicas = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
                Ok((uid == owner.uid).then_some((uid, replicas)))
            }
            Err(missing) if error::is_not_found(&missing) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
