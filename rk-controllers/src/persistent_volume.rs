//! PersistentVolumes and the claims on them.
//!
//! # What it promises
//! - A claim is bound to the volume it names, or to one that is kept for it, or to the smallest free
//!   one that has what it asks for; a volume is bound to one claim at most, and stays so until that
//!   claim is gone.
//! - A claim whose class has a provisioner, and for which no volume was found, is marked for that
//!   provisioner. With `WaitForFirstConsumer` that waits until the scheduler has chosen a node.
//! - A claim without a class gets the default one as soon as there is one
//!   (RetroactiveDefaultStorageClass, KEP-3333).
//! - A volume whose claim is gone is Released, and what its policy says follows: Retain leaves it,
//!   Delete leaves it to the provisioner that made it, Recycle empties it and makes it Available.
//! - A claim whose volume is gone is Lost: it never gets another one.
//!
//! A binding is up to four writes, the volume first. Each is decided from what is stored, and a
//! binding that broke off after any of them is completed by the next reconcile: the volume that is
//! kept for a claim is the first that is looked for.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::StorageClass,
};
use kube::{Api, Client, ResourceExt};
use rk_api::{
    client::{Change, EventRecorder, Informer, object_ref},
    clock,
    volumes::{claim_class, is_bound, suits, volume_class, volume_name},
};

use crate::{
    controller::{Action, Controller, Reconciler},
    error::{self, Error},
    key::ObjectKey,
    manager::Context,
    pods::{self, USED_CLAIM, index_by_claim},
    write::{self, Part},
};

mod claim;
mod plan;
mod recycler;
mod volume;

use plan::{About, Plan, Then, View};

/// How often what waits is looked at again, and says again why.
const RESYNC: Duration = Duration::from_secs(15);

/// Index of volumes by class; those without one are under the empty value.
const BY_CLASS: &str = "volume-class";
/// Index of volumes by the claim they name, `<namespace>/<claim>`.
const BY_CLAIMANT: &str = "claimant";
/// Index of claims that are not bound, by [`pending_under`].
const PENDING: &str = "pending-claim";

struct Binder {
    client: Client,
    recorder: EventRecorder,
    caches: Caches,
}

#[derive(Clone)]
struct Caches {
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    pods: Informer<Pod>,
}

/// Keys with a namespace are claims, keys without are volumes.
#[async_trait]
impl Reconciler for Binder {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        if key.namespace.is_empty() {
            let Some(volume) = self.caches.volumes.get("", &key.name) else {
                return Ok(Action::Wait);
            };
            let plan = volume::plan(&volume, &self.caches);
            if plan.releases() && self.has_claim(&volume).await? {
                let message = "the cache does not show the claim of a volume yet";
                return Err(Error::NotYet(message.to_owned()));
            }
            return self.carry_out(plan).await;
        }
        let Some(claim) = self.caches.claims.get(&key.namespace, &key.name) else {
            return Ok(Action::Wait);
        };
        self.carry_out(claim::plan(&claim, &self.caches)).await
    }
}

impl Binder {
    /// Makes the writes of a plan in their order, each on condition that nobody wrote in between.
    async fn carry_out(&self, plan: Plan) -> Result<Action, Error> {
        if let Some((before, after)) = &plan.volume
            && !self.write_volume(before, after).await?
        {
            return Ok(Action::Wait);
        }
        if let Some((before, after)) = &plan.claim
            && !self.write_claim(before, after).await?
        {
            return Ok(Action::Wait);
        }
        for note in plan.notes {
            let about = match &note.about {
                About::Claim(claim) => object_ref(&**claim),
                About::Volume(volume) => object_ref(&**volume),
            };
            self.recorder.event(&about, note.kind, note.reason, note.message);
        }
        match plan.then {
            Then::Wait => Ok(Action::Wait),
            Then::LookAgain => Ok(Action::RequeueAfter(RESYNC)),
            Then::Recycle(volume) => self.recycle(&volume).await,
        }
    }

    /// Whether the claim that a volume means is there and may want it, asked of the API server itself: a volume that
    /// is released may be deleted, and a cache that lags must not cost anybody's data.
    async fn has_claim(&self, volume: &PersistentVolume) -> Result<bool, Error> {
        let claimant = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        let (Some(key), Some(claimant)) = (claimant_key(volume), claimant) else {
            return Ok(false);
        };
        let api = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &key.namespace);
        let Some(found) = api.get_opt(&key.name).await? else { return Ok(false) };
        let elsewhere = volume_name(&found).is_some_and(|name| name != volume.name_any());
        Ok(found.metadata.uid == claimant.uid && !elsewhere)
    }

    /// Whether the volume was there to be written.
    async fn write_volume(
        &self,
        before: &PersistentVolume,
        after: &PersistentVolume,
    ) -> Result<bool, Error> {
        let api = Api::<PersistentVolume>::all(self.client.clone());
        let main = PersistentVolume { status: before.status.clone(), ..after.clone() };
        let written = match write::update(&api, before, &main, Part::Main).await {
            Err(gone) if error::is_not_found(&gone) => return Ok(false),
            result => result?,
        };
        let mut status = after.status.clone();
        if let Some(status) = &mut status
            && Some(&status.phase) != written.status.as_ref().map(|status| &status.phase)
        {
            status.last_phase_transition_time = Some(clock::now_seconds());
        }
        let reported = PersistentVolume { status, ..written.clone() };
        write::update(&api, &written, &reported, Part::Status).await?;
        Ok(true)
    }

    /// Whether the claim was there to be written.
    async fn write_claim(
        &self,
        before: &PersistentVolumeClaim,
        after: &PersistentVolumeClaim,
    ) -> Result<bool, Error> {
        let namespace = before.namespace().unwrap_or_default();
        let api = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &namespace);
        let main = PersistentVolumeClaim { status: before.status.clone(), ..after.clone() };
        let written = match write::update(&api, before, &main, Part::Main).await {
            Err(gone) if error::is_not_found(&gone) => return Ok(false),
            result => result?,
        };
        let reported = PersistentVolumeClaim { status: after.status.clone(), ..written.clone() };
        write::update(&api, &written, &reported, Part::Status).await?;
        Ok(true)
    }
}

impl View for Caches {
    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        self.claims.get(namespace, name)
    }

    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.volumes.get("", name)
    }

    fn volumes_of_class(&self, class: &str) -> Vec<Arc<PersistentVolume>> {
        self.volumes.by_index(BY_CLASS, class)
    }

    fn volumes_kept_for(&self, namespace: &str, claim: &str) -> Vec<Arc<PersistentVolume>> {
        self.volumes.by_index(BY_CLAIMANT, &format!("{namespace}/{claim}"))
    }

    fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
        self.classes.get("", name)
    }

    fn classes(&self) -> Vec<Arc<StorageClass>> {
        self.classes.list()
    }

    fn pods_without_node(&self, namespace: &str, claim: &str) -> Vec<String> {
        let using = self.pods.by_index(USED_CLAIM, &format!("{namespace}/{claim}"));
        let waiting = using.iter().filter(|pod| pods::node_name(pod).is_none());
        waiting.filter(|pod| pods::is_active(pod)).map(|pod| pod.name_any()).collect()
    }
}

fn claimant_key(volume: &PersistentVolume) -> Option<ObjectKey> {
    let claimant = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some(ObjectKey::new(claimant.namespace.clone()?, claimant.name.clone()?))
}

fn index_by_class(volume: &PersistentVolume) -> Vec<String> {
    vec![volume_class(volume).to_owned()]
}

fn index_by_claimant(volume: &PersistentVolume) -> Vec<String> {
    claimant_key(volume).map(|key| key.to_string()).into_iter().collect()
}

/// Where a claim without a volume is found: under its class, those without one under nothing.
fn pending_under(claim: &PersistentVolumeClaim) -> Vec<String> {
    let class = claim_class(claim).unwrap_or_default().to_owned();
    if is_bound(claim) { Vec::new() } else { vec![class] }
}

impl Caches {
    /// Which claims and volumes a change of a volume concerns: itself, the claim it names or named,
    /// and if it came to be free, the claims that it suits.
    fn volume_changed(&self, change: &Change<PersistentVolume>) -> Vec<ObjectKey> {
        let volume = change.object();
        let mut keys: Vec<ObjectKey> = claimant_key(volume).into_iter().collect();
        if let Change::Updated { old, .. } = change {
            keys.extend(claimant_key(old).filter(|old| !keys.contains(old)));
        }
        if let Change::Deleted(_) = change {
            return keys;
        }
        keys.push(ObjectKey::of(&**volume));
        let was_free = matches!(change, Change::Updated { old, .. } if is_free(old));
        if is_free(volume) && !was_free {
            let pending = self.claims.by_index(PENDING, volume_class(volume));
            let wanted = pending.iter().filter(|claim| suits(volume, claim));
            keys.extend(wanted.map(|claim| ObjectKey::of(&**claim)));
        }
        keys
    }

    /// Which claims and volumes a change of a claim concerns: itself and what is kept for it.
    fn claim_changed(&self, change: &Change<PersistentVolumeClaim>) -> Vec<ObjectKey> {
        let claim = change.object();
        let key = ObjectKey::of(&**claim);
        let kept = self.volumes_kept_for(&key.namespace, &key.name);
        let volumes = kept.iter().map(|volume| ObjectKey::of(&**volume));
        std::iter::once(key).chain(volumes).collect()
    }

    /// Claims that wait for a class: its own, and those without one if it is the default.
    fn class_changed(&self, change: &Change<StorageClass>) -> Vec<ObjectKey> {
        let name = change.object().name_any();
        let own = self.claims.by_index(PENDING, &name);
        let without = self.claims.by_index(PENDING, "");
        own.iter().chain(&without).map(|claim| ObjectKey::of(&**claim)).collect()
    }
}

fn is_free(volume: &PersistentVolume) -> bool {
    volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none())
        && volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Available")
}

/// The controller, wired up. One worker: claims that want the same volumes would only get in each
/// other's way.
pub(crate) fn controller(name: &'static str, context: &Context) -> Controller {
    let caches = Caches {
        claims: context.informers.of(),
        volumes: context.informers.of(),
        classes: context.informers.of(),
        pods: context.informers.of(),
    };
    caches.volumes.add_index(BY_CLASS, index_by_class);
    caches.volumes.add_index(BY_CLAIMANT, index_by_claimant);
    caches.claims.add_index(PENDING, pending_under);
    caches.pods.add_index(USED_CLAIM, index_by_claim);
    let (of_volumes, of_claims, of_classes) = (caches.clone(), caches.clone(), caches.clone());
    let binder = Binder {
        client: context.client.clone(),
        recorder: context.recorder(name),
        caches: caches.clone(),
    };
    Controller::new(name, binder)
        .watches(&caches.volumes, move |change| of_volumes.volume_changed(change))
        .watches(&caches.claims, move |change| of_claims.claim_changed(change))
        .watches(&caches.classes, move |change| of_classes.class_changed(change))
        .watches(&caches.pods, recycler::ended)
}

#[cfg(test)]
mod tests;
