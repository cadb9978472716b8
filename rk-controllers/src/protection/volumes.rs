//! Volumes: see the parent.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::{Api, Client};
use rk_api::{client::Informer, volumes::VOLUME_PROTECTION};

use super::{Step, add, remove, step};
use crate::{
    controller::{Action, Controller, Reconciler},
    error::{self, Error},
    key::ObjectKey,
    manager::Context,
    write::{self, Part},
};

struct Volumes {
    client: Client,
    volumes: Informer<PersistentVolume>,
}

#[async_trait]
impl Reconciler for Volumes {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(volume) = self.volumes.get("", &key.name) else { return Ok(Action::Wait) };
        let bound =
            volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        let mut wanted = (*volume).clone();
        match step(&volume.metadata, VOLUME_PROTECTION) {
            Step::Add => add(&mut wanted.metadata, VOLUME_PROTECTION),
            Step::RemoveIfUnused if !bound => remove(&mut wanted.metadata, VOLUME_PROTECTION),
            Step::Nothing | Step::RemoveIfUnused => return Ok(Action::Wait),
        }
        let api = Api::<PersistentVolume>::all(self.client.clone());
        match write::update(&api, &*volume, &wanted, Part::Main).await {
            Err(gone) if error::is_not_found(&gone) => Ok(Action::Wait),
            result => result.map(|_| Action::Wait).map_err(Into::into),
        }
    }
}

/// The controller, wired up.
pub(crate) fn controller(name: &'static str, context: &Context) -> Controller {
    let volumes = context.informers.of::<PersistentVolume>();
    let reconciler = Volumes { client: context.client.clone(), volumes: volumes.clone() };
    Controller::new(name, reconciler).reconciles(&volumes)
}
