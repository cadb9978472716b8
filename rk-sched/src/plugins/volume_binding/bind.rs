//! Carries out what was decided for claims, and waits until they are bound.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use rk_api::{
    client::object_ref,
    volumes::{
        BOUND_BY_CONTROLLER, SELECTED_NODE, annotation, is_bound, is_reserved_for, volume_name,
    },
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::plan::{Decision, key, reaches};
use crate::storage::StorageView;

/// How often claims are looked at while they are being bound.
const PERIOD: Duration = Duration::from_millis(100);

/// Reserves volumes for claims and marks claims for their provisioners, then waits until all of
/// them are bound. Each write may have been made by an earlier try.
///
/// # Errors
/// Why not, in words for the Pod's event. What was written stays: the next try finds it.
pub(super) async fn carry_out(
    client: &Client,
    decision: &Decision,
    node: &str,
    view: &dyn StorageView,
    timeout: Duration,
) -> Result<(), String> {
    for (claim, volume) in &decision.bind {
        reserve(client, claim, volume).await.map_err(|error| error.to_string())?;
    }
    // The version of each claim that shows the chosen node.
    let mut marked = BTreeMap::new();
    for claim in &decision.provision {
        let version = mark(client, claim, node).await.map_err(|error| error.to_string())?;
        marked.insert(key(claim), version);
    }
    let claims = decision.bind.iter().map(|(claim, _)| claim).chain(&decision.provision);
    let claims: Vec<_> = claims.collect();
    let deadline = Instant::now() + timeout;
    loop {
        let mut waiting = false;
        for claim in &claims {
            waiting |= !is_done(claim, marked.get(&key(claim)).copied(), node, view)?;
        }
        if !waiting {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err("context deadline exceeded".to_owned());
        }
        sleep(PERIOD).await;
    }
}

/// The volume names the claim, which the PersistentVolume controller then binds to it.
async fn reserve(
    client: &Client,
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
) -> Result<(), kube::Error> {
    if is_reserved_for(volume, claim) {
        return Ok(());
    }
    let patch = json!({
        "metadata": {
            "resourceVersion": volume.resource_version(),
            "annotations": {BOUND_BY_CONTROLLER: "yes"},
        },
        "spec": {"claimRef": object_ref(claim)},
    });
    let api = Api::<PersistentVolume>::all(client.clone());
    let parameters = PatchParams::default();
    api.patch_metadata(&volume.name_any(), &parameters, &Patch::Merge(patch)).await.map(drop)
}

/// The claim names the node for which a volume is to be made; returns its version.
async fn mark(
    client: &Client,
    claim: &PersistentVolumeClaim,
    node: &str,
) -> Result<u64, kube::Error> {
    let namespace = claim.namespace().unwrap_or_default();
    let api = Api::<PersistentVolumeClaim>::namespaced(client.clone(), &namespace);
    let patch = json!({"metadata": {
        "uid": claim.uid(),
        "resourceVersion": claim.resource_version(),
        "annotations": {SELECTED_NODE: node},
    }});
    if annotation(&claim.metadata, SELECTED_NODE) == Some(node) {
        return Ok(version(claim));
    }
    let parameters = PatchParams::default();
    let written = api.patch_metadata(&claim.name_any(), &parameters, &Patch::Merge(patch)).await?;
    Ok(written.resource_version().and_then(|version| version.parse().ok()).unwrap_or(0))
}

fn version(claim: &PersistentVolumeClaim) -> u64 {
    claim.resource_version().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// Whether a claim is bound to a volume that the node reaches; not yet is `false`.
fn is_done(
    claim: &PersistentVolumeClaim,
    marked: Option<u64>,
    node: &str,
    view: &dyn StorageView,
) -> Result<bool, String> {
    let name = key(claim);
    let now = view.claim(&claim.namespace().unwrap_or_default(), &claim.name_any());
    let Some(now) = now.filter(|now| now.uid() == claim.uid()) else {
        return Err(format!("claim {name:?} was deleted"));
    };
    if !is_bound(&now) {
        // A provisioner that fails takes its mark off, so that another node can be tried.
        let unmarked = annotation(&now.metadata, SELECTED_NODE).is_none();
        if marked.is_some_and(|marked| version(&now) > marked) && unmarked {
            return Err(format!("provisioning failed for PVC {name:?}"));
        }
        return Ok(false);
    }
    let Some(volume) = volume_name(&now).and_then(|volume| view.volume(volume)) else {
        return Ok(false);
    };
    match view.node(node) {
        Some(node) if !reaches(&node, &volume) => Err(format!(
            "pv {:?} node affinity doesn't match node {:?}",
            volume.name_any(),
            node.name_any()
        )),
        _ => Ok(true),
    }
}
