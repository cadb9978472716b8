//! Claims of Pods: a node must reach the volumes that are bound, and those that wait for their first
//! consumer are bound, or made, where the Pod goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;
use parking_lot::Mutex;
use rk_api::volumes::{
    claim_class, claim_of, is_bound, is_made_for, volume_name, waits_for_consumer,
};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    NodeInfo, PodInfo, Snapshot, Status,
    framework::{
        BindContext, ClusterEvent, CycleState, EnqueueExtensions, Filter, Hint, Plugin, PreBind,
        PreFilter, PreFiltered, Reads, Reserve,
    },
    plugins::FromArgs,
    storage::{Storage, StorageView, has_claims},
};

mod bind;
mod plan;

use plan::{Decision, Elsewhere, Target};

/// The plugin's name.
pub const NAME: &str = "VolumeBinding";

/// Rejects nodes that do not reach a Pod's bound volumes, or where its other claims can get none.
///
/// Claims of classes with `WaitForFirstConsumer` are bound by it: to the free volume that suits them
/// and that the node reaches, or by marking them for their provisioner with the chosen node. The
/// binding of the Pod waits until the claims are bound, by default for at most ten minutes.
///
/// What drivers report of their free capacity (CSIStorageCapacity) is not looked at: where a volume
/// cannot be made, the provisioner takes its mark off the claim and another node is tried.
#[derive(Debug)]
pub struct VolumeBinding {
    storage: Storage,
    timeout: Duration,
    /// What was decided for Pods on their way to a node, by UID.
    reserved: Mutex<BTreeMap<Arc<str>, (String, Decision)>>,
}

impl Default for VolumeBinding {
    fn default() -> Self {
        Self {
            storage: Storage::default(),
            timeout: Duration::from_secs(600),
            reserved: Mutex::default(),
        }
    }
}

/// `VolumeBindingArgs`. Shapes to score by capacity are refused: nothing is scored here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VolumeBindingArgs {
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
    /// How long a Pod's binding waits for its claims; 600 by default.
    pub bind_timeout_seconds: Option<u64>,
}

impl FromArgs for VolumeBinding {
    fn from_args(args: Option<Value>) -> Result<Self, serde_json::Error> {
        let Some(args) = args else { return Ok(Self::default()) };
        let args: VolumeBindingArgs = serde_json::from_value(args)?;
        let timeout = Duration::from_secs(args.bind_timeout_seconds.unwrap_or(600));
        Ok(Self { timeout, ..Self::default() })
    }
}

/// The claims of a Pod as its cycle found them.
#[derive(Debug, Default)]
struct Claims {
    /// The volumes that claims are bound to; `None` for one that is gone.
    bound: Vec<Option<Arc<PersistentVolume>>>,
    /// Claims that get a volume when the Pod gets a node.
    waiting: Vec<Arc<PersistentVolumeClaim>>,
}

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        NAME
    }
    fn sign(&self, pod: &PodInfo, _: &Snapshot, _: &mut Vec<u8>) -> bool {
        !has_claims(pod)
    }
    fn storage(&self) -> Option<&Storage> {
        Some(&self.storage)
    }
    fn as_pre_filter(&self) -> Option<&dyn PreFilter> {
        Some(self)
    }
    fn as_filter(&self) -> Option<&dyn Filter> {
        Some(self)
    }
    fn as_reserve(&self) -> Option<&dyn Reserve> {
        Some(self)
    }
    fn as_pre_bind(&self) -> Option<&dyn PreBind> {
        Some(self)
    }
    fn as_enqueue_extensions(&self) -> Option<&dyn EnqueueExtensions> {
        Some(self)
    }
}

impl VolumeBinding {
    /// The claims of a Pod, or why it cannot go anywhere yet.
    fn claims(&self, pod: &PodInfo, view: &dyn StorageView) -> Result<Claims, Status> {
        let mut claims = Claims::default();
        let mut immediate = false;
        for volume in pod.spec().iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let Some(name) = claim_of(&pod.pod, volume) else { continue };
            let Some(claim) = view.claim(pod.namespace(), &name) else {
                let message = match volume.ephemeral {
                    Some(_) => format!(
                        "waiting for ephemeral volume controller to create the \
                         persistentvolumeclaim {name:?}"
                    ),
                    None => format!("persistentvolumeclaim {name:?} not found"),
                };
                return Err(Status::unresolvable(message));
            };
            usable(&claim, pod, volume.ephemeral.is_some())?;
            if let Some(volume) = volume_name(&claim).filter(|_| is_bound(&claim)) {
                claims.bound.push(view.volume(volume));
            } else if volume_name(&claim).is_none() && waits(&claim, view) {
                claims.waiting.push(claim);
            } else {
                immediate = true;
            }
        }
        if immediate {
            let message = "pod has unbound immediate PersistentVolumeClaims";
            return Err(Status::unresolvable(message));
        }
        // The smallest first, so that large volumes are left for those who need them.
        claims.waiting.sort_by_key(|claim| (rk_api::volumes::request(claim), claim.name_any()));
        claims.waiting.dedup_by_key(|claim| claim.name_any());
        Ok(claims)
    }

    /// What others on their way have decided for claims and volumes.
    fn elsewhere(&self, pod: &PodInfo) -> Elsewhere {
        let reserved = self.reserved.lock();
        let mut elsewhere = Elsewhere::default();
        for (node, decision) in reserved.iter().filter(|(uid, _)| **uid != pod.uid).map(|it| it.1) {
            for (claim, volume) in &decision.bind {
                elsewhere.taken.insert(volume.name_any());
                elsewhere.claims.insert(plan::key(claim), Target::Volume(volume.clone()));
            }
            for claim in &decision.provision {
                elsewhere.claims.insert(plan::key(claim), Target::Node(node.clone()));
            }
        }
        elsewhere
    }
}

fn usable(claim: &PersistentVolumeClaim, pod: &PodInfo, ephemeral: bool) -> Result<(), Status> {
    let name = claim.name_any();
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    if phase == Some("Lost") {
        let volume = volume_name(claim).unwrap_or_default();
        return Err(Status::unresolvable(format!(
            "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
        )));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(Status::unresolvable(format!(
            "persistentvolumeclaim {name:?} is being deleted"
        )));
    }
    if ephemeral && !is_made_for(claim, &pod.pod) {
        return Err(Status::unresolvable(format!(
            "PVC {name:?} was not created for pod {:?} (pod is not owner)",
            pod.name()
        )));
    }
    Ok(())
}

fn waits(claim: &PersistentVolumeClaim, view: &dyn StorageView) -> bool {
    let class = claim_class(claim).and_then(|class| view.class(class));
    class.is_some_and(|class| waits_for_consumer(&class))
}

impl PreFilter for VolumeBinding {
    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, _: &Snapshot) -> PreFiltered {
        if !has_claims(pod) {
            return PreFiltered::Skip;
        }
        let Some(view) = self.storage.view() else { return PreFiltered::Skip };
        match self.claims(pod, &*view) {
            Ok(claims) => {
                state.insert((claims, self.elsewhere(pod)));
                PreFiltered::All
            }
            Err(status) => PreFiltered::Rejected(status),
        }
    }
}

impl Filter for VolumeBinding {
    fn filter(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> Status {
        let Some((claims, elsewhere)) = state.get::<(Claims, Elsewhere)>() else {
            return Status::success();
        };
        let Some(view) = self.storage.view() else { return Status::success() };
        match plan::decide(&claims.bound, &claims.waiting, elsewhere, &node.node, &*view) {
            Ok(_) => Status::success(),
            Err(status) => status,
        }
    }

    fn reads(&self) -> Reads {
        Reads::Node
    }
}

impl Reserve for VolumeBinding {
    fn reserve(&self, pod: &PodInfo, node: &str) -> Status {
        if !has_claims(pod) {
            return Status::success();
        }
        let Some(view) = self.storage.view() else { return Status::success() };
        let claims = match self.claims(pod, &*view) {
            Ok(claims) => claims,
            Err(status) => return status,
        };
        let Some(object) = view.node(node) else {
            return Status::unschedulable(format!("node {node:?} not found"));
        };
        let elsewhere = self.elsewhere(pod);
        match plan::decide(&claims.bound, &claims.waiting, &elsewhere, &object, &*view) {
            Ok(decision) => {
                self.reserved.lock().insert(pod.uid.clone(), (node.to_owned(), decision));
                Status::success()
            }
            Err(status) => status,
        }
    }

    fn unreserve(&self, pod: &PodInfo, _: &str) {
        self.reserved.lock().remove(&pod.uid);
    }
}

#[async_trait]
impl PreBind for VolumeBinding {
    async fn pre_bind(&self, context: &BindContext, pod: &PodInfo, node: &str) -> Status {
        let decided = self.reserved.lock().get(&pod.uid).map(|(_, decision)| decision.clone());
        let (Some(decision), Some(view)) = (decided, self.storage.view()) else {
            return Status::success();
        };
        let bound = bind::carry_out(&context.client, &decision, node, &*view, self.timeout).await;
        // From here on the caches show what was reserved.
        if bound.is_ok() {
            self.reserved.lock().remove(&pod.uid);
        }
        match bound {
            Ok(()) => Status::success(),
            Err(why) => Status::error(format!("binding volumes: {why}")),
        }
    }
}

impl EnqueueExtensions for VolumeBinding {
    fn hint(&self, _: &PodInfo, event: &ClusterEvent<'_>) -> Hint {
        match event {
            ClusterEvent::StorageChanged | ClusterEvent::NodeAdded(_) => Hint::Queue,
            ClusterEvent::NodeUpdated { change, .. } if change.labels => Hint::Queue,
            _ => Hint::Skip,
        }
    }
}

/// Names of volumes that are spoken for.
type Taken = BTreeSet<String>;

#[cfg(test)]
mod tests;
