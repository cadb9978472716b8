//! Claims that ask for more than their volume has.
//!
//! # What it promises
//! - A bound claim whose request has grown beyond its status is said to wait for whoever made its
//!   volume: all drivers of volumes are outside of the controller manager (KEP-284, KEP-625).
//!
//! Growing the volume is up to that provisioner: [`HostPathProvisioner`](crate::HostPathProvisioner)
//! does so for its own. Whether a claim may ask for more is checked by the admission plug-in
//! PersistentVolumeClaimResize.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use rk_api::{
    client::{Change, EventRecorder, EventType, Informer, object_ref},
    meta::quantity::Quantity,
    volumes::{is_bound, is_reserved_for, request, volume_name},
};

use crate::{
    controller::{Action, Controller, Reconciler},
    error::Error,
    key::ObjectKey,
    manager::Context,
};

struct Expander {
    recorder: EventRecorder,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
}

#[async_trait]
impl Reconciler for Expander {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(claim) = self.claims.get(&key.namespace, &key.name) else {
            return Ok(Action::Wait);
        };
        let Some(volume) = volume_name(&claim).and_then(|name| self.volumes.get("", name)) else {
            return Ok(Action::Wait);
        };
        if wants_more(&claim) && is_reserved_for(&volume, &claim) {
            let message = "waiting for an external controller to expand this PVC";
            let about = object_ref(&*claim);
            self.recorder.event(&about, EventType::Normal, "ExternalExpanding", message);
        }
        Ok(Action::Wait)
    }
}

/// The size that a claim's status reports.
pub(crate) fn reported_capacity(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    let capacity = claim.status.as_ref()?.capacity.as_ref()?.get("storage")?;
    Quantity::parse(&capacity.0).ok()
}

/// Whether a bound claim asks for more than it was reported to have.
pub(crate) fn wants_more(claim: &PersistentVolumeClaim) -> bool {
    let bound = is_bound(claim)
        && claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    bound && request(claim).zip(reported_capacity(claim)).is_some_and(|(want, have)| want > have)
}

/// Only what was asked for is news, not what is reported.
fn asks_for_more(change: &Change<PersistentVolumeClaim>) -> bool {
    match change {
        Change::Added(claim) => wants_more(claim),
        Change::Updated { old, new } => wants_more(new) && request(new) > request(old),
        Change::Deleted(_) => false,
    }
}

/// The controller, wired up.
pub(crate) fn controller(name: &'static str, context: &Context) -> Controller {
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let volumes = context.informers.of::<PersistentVolume>();
    let reconciler = Expander {
        recorder: context.recorder("volume_expand"),
        claims: claims.clone(),
        volumes: volumes.clone(),
    };
    Controller::new(name, reconciler).reconciles_if(&claims, asks_for_more).reads(&volumes)
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn a_bound_claim_wants_more_when_its_request_exceeds_its_status() {
        let claim = |request: &str, capacity: &str, phase: &str| {
            let annotations = json!({"pv.kubernetes.io/bind-completed": "yes"});
            from_value(json!({
                "metadata": {"annotations": annotations},
                "spec": {"volumeName": "v", "resources": {"requests": {"storage": request}}},
                "status": {"phase": phase, "capacity": {"storage": capacity}},
            }))
            .unwrap()
        };
        assert!(wants_more(&claim("2Gi", "1Gi", "Bound")));
        assert!(!wants_more(&claim("1Gi", "2Gi", "Bound")), "the volume is larger than asked");
        assert!(!wants_more(&claim("2Gi", "1Gi", "Lost")));
    }
}
