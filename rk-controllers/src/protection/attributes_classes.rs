//! VolumeAttributesClasses (KEP-3751): see the parent.

use async_trait::async_trait;
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::VolumeAttributesClass,
};
use kube::{Api, Client, api::ListParams};
use rk_api::{
    client::{Change, Informer},
    volumes::ATTRIBUTES_CLASS_PROTECTION,
};

use super::{Step, add, remove, step};
use crate::{
    controller::{Action, Controller, Reconciler},
    error::{self, Error},
    key::ObjectKey,
    manager::Context,
    write::{self, Part},
};

struct Classes {
    client: Client,
    classes: Informer<VolumeAttributesClass>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
}

#[async_trait]
impl Reconciler for Classes {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(class) = self.classes.get("", &key.name) else { return Ok(Action::Wait) };
        let mut wanted = (*class).clone();
        match step(&class.metadata, ATTRIBUTES_CLASS_PROTECTION) {
            Step::Nothing => return Ok(Action::Wait),
            Step::Add => add(&mut wanted.metadata, ATTRIBUTES_CLASS_PROTECTION),
            Step::RemoveIfUnused if self.is_used(&key.name).await? => return Ok(Action::Wait),
            Step::RemoveIfUnused => remove(&mut wanted.metadata, ATTRIBUTES_CLASS_PROTECTION),
        }
        let api = Api::<VolumeAttributesClass>::all(self.client.clone());
        match write::update(&api, &*class, &wanted, Part::Main).await {
            Err(gone) if error::is_not_found(&gone) => Ok(Action::Wait),
            result => result.map(|_| Action::Wait).map_err(Into::into),
        }
    }
}

impl Classes {
    /// A "no" of the caches is asked of the API server once more.
    async fn is_used(&self, class: &str) -> Result<bool, Error> {
        let named = |names: Vec<String>| names.iter().any(|name| name == class);
        if self.claims.list().iter().any(|claim| named(of_claim(claim)))
            || self.volumes.list().iter().any(|volume| named(of_volume(volume)))
        {
            return Ok(true);
        }
        let everything = ListParams::default();
        let claims = Api::<PersistentVolumeClaim>::all(self.client.clone());
        if claims.list(&everything).await?.items.iter().any(|claim| named(of_claim(claim))) {
            return Ok(true);
        }
        let volumes = Api::<PersistentVolume>::all(self.client.clone());
        Ok(volumes.list(&everything).await?.items.iter().any(|volume| named(of_volume(volume))))
    }
}

/// The classes that a claim asks for, has, and is on its way to.
fn of_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    let asked = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    let status = claim.status.as_ref();
    let has = status.and_then(|status| status.current_volume_attributes_class_name.clone());
    let target = status.and_then(|status| {
        status.modify_volume_status.as_ref()?.target_volume_attributes_class_name.clone()
    });
    asked.into_iter().chain(has).chain(target).collect()
}

fn of_volume(volume: &PersistentVolume) -> Vec<String> {
    let class = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    class.into_iter().collect()
}

/// The classes that an object named and no longer does.
fn released<K>(change: &Change<K>, named: fn(&K) -> Vec<String>) -> Vec<ObjectKey> {
    let left = match change {
        Change::Added(_) => Vec::new(),
        Change::Deleted(object) => named(object),
        Change::Updated { old, new } => {
            let now = named(new);
            named(old).into_iter().filter(|class| !now.contains(class)).collect()
        }
    };
    left.into_iter().map(ObjectKey::cluster).collect()
}

/// The controller, wired up.
pub(crate) fn controller(name: &'static str, context: &Context) -> Controller {
    let classes = context.informers.of::<VolumeAttributesClass>();
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let volumes = context.informers.of::<PersistentVolume>();
    let reconciler = Classes {
        client: context.client.clone(),
        classes: classes.clone(),
        claims: claims.clone(),
        volumes: volumes.clone(),
    };
    Controller::new(name, reconciler)
        .reconciles(&classes)
        .watches(&claims, |change| released(change, of_claim))
        .watches(&volumes, |change| released(change, of_volume))
}
