//! The policy Recycle: a Pod empties the volume, which is then free for the next claim.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams},
};
use rk_api::client::{Change, EventType, object_ref};
use serde_json::json;

use super::{Action, Binder, Plan, claimant_key, plan::unbound_volume};
use crate::{
    error::{self, Error},
    key::ObjectKey,
    pods::{self, USED_CLAIM},
};

/// Where recycler Pods run, and what they are called: `recycler-for-<volume>`.
const NAMESPACE: &str = "default";
const PREFIX: &str = "recycler-for-";
/// What empties a volume. Anything left, or a volume that is not there, is a failure.
const SCRUB: &str =
    "test -e /scrub && find /scrub -mindepth 1 -delete && test -z \"$(ls -A /scrub)\" || exit 1";
const IMAGE: &str = "registry.k8s.io/build-image/debian-base:bookworm-v1.0.4";
/// Longer than this no volume takes.
const DEADLINE_SECONDS: i64 = 300;

/// The volume of a recycler Pod that has ended, to go on with it.
pub(super) fn ended(change: &Change<Pod>) -> Vec<ObjectKey> {
    let pod = change.object();
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let volume = name.strip_prefix(PREFIX).filter(|_| namespace == NAMESPACE);
    let ended = pods::is_terminal(pod) || matches!(change, Change::Deleted(_));
    volume.filter(|_| ended).map(ObjectKey::cluster).into_iter().collect()
}

/// Empties whatever is mounted; nothing keeps a Pod from running on any node.
fn recycler(volume: &PersistentVolume) -> Pod {
    let spec = volume.spec.clone().unwrap_or_default();
    let volume_of_pod = match (&spec.host_path, &spec.nfs) {
        (Some(host_path), _) => json!({"name": "vol", "hostPath": {"path": host_path.path}}),
        (_, nfs) => json!({"name": "vol", "nfs": nfs}),
    };
    let pod = json!({
        "metadata": {"name": format!("{PREFIX}{}", volume.name_any()), "namespace": NAMESPACE},
        "spec": {
            "activeDeadlineSeconds": DEADLINE_SECONDS,
            "restartPolicy": "Never",
            "volumes": [volume_of_pod],
            "containers": [{
                "name": "pv-recycler", "image": IMAGE, "command": ["/bin/sh", "-c", SCRUB],
                "volumeMounts": [{"name": "vol", "mountPath": "/scrub"}],
            }],
        },
    });
    rk_api::json::from_value(&pod).unwrap_or_default()
}

impl Binder {
    /// Starts a recycler, or takes note of its end.
    pub(super) async fn recycle(&self, volume: &Arc<PersistentVolume>) -> Result<Action, Error> {
        let about = object_ref(&**volume);
        if let Some(users) = self.users(volume) {
            let message = format!("Volume is used by pods: {users}");
            self.recorder.event(&about, EventType::Normal, "VolumeFailedRecycle", message);
            return Ok(Action::RequeueAfter(super::RESYNC));
        }
        let name = format!("{PREFIX}{}", volume.name_any());
        let api = Api::<Pod>::namespaced(self.client.clone(), NAMESPACE);
        let Some(pod) = api.get_opt(&name).await? else {
            let created = api.create(&PostParams::default(), &recycler(volume)).await;
            if !created.as_ref().is_err_and(error::is_already_exists) {
                created?;
            }
            let message = "Recycler pod: the volume is being emptied";
            self.recorder.event(&about, EventType::Normal, "RecyclerPod", message);
            return Ok(Action::Wait);
        };
        match pods::phase(&pod) {
            "Succeeded" => {
                // The Pod goes last: until then a repeat finds what happened.
                self.write_volume(volume, &unbound_volume(volume)).await?;
                let message = "Volume recycled";
                self.recorder.event(&about, EventType::Normal, "VolumeRecycled", message);
            }
            "Failed" => {
                let why = pod.status.as_ref().and_then(|status| status.message.clone());
                let message = format!("Recycle failed: {}", why.as_deref().unwrap_or("pod failed"));
                if let Some((before, after)) = Plan::volume_phase(volume, "Failed", &message).volume
                {
                    self.write_volume(&before, &after).await?;
                }
                self.recorder.event(&about, EventType::Warning, "VolumeFailedRecycle", message);
            }
            _ => return Ok(Action::Wait),
        }
        let gone = api.delete(&name, &DeleteParams::default()).await;
        if !gone.as_ref().is_err_and(error::is_not_found) {
            gone?;
        }
        let failed = pods::phase(&pod) == "Failed";
        Ok(Action::after(failed.then_some(super::RESYNC)))
    }

    /// Pods that still use a claim of the volume's, as `namespace/name` in a row.
    fn users(&self, volume: &PersistentVolume) -> Option<String> {
        let key = claimant_key(volume)?;
        let using = self.caches.pods.by_index(USED_CLAIM, &key.to_string());
        let names: Vec<_> = using
            .iter()
            .filter(|pod| !pods::is_terminal(pod))
            .map(|pod| ObjectKey::of(&**pod).to_string())
            .collect();
        Some(names.join(",")).filter(|names| !names.is_empty())
    }
}
