//! What mounted volumes need from time to time: drivers that ask for it are asked to publish them
//! again, and the file systems of volumes that have grown are made larger (KEP-556).

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use rk_api::{client::EventType, clock, volumes::capacity};
use serde_json::{Value, json};

use super::{Wanted, mount::said, place};
use crate::{
    agent::worker::Core,
    csi::v1::{CapacityRange, NodeExpandVolumeRequest, NodeRpcType},
};

/// How often it is looked whether volumes have grown.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often a driver that asks for it publishes a volume again.
const REPUBLISH_EVERY: Duration = Duration::from_secs(90);

/// A volume that is mounted in a Pod.
#[derive(Clone, Debug)]
pub(crate) struct Mounted {
    pub(crate) wanted: Wanted,
    pub(crate) target: PathBuf,
    /// The claim that it is behind.
    pub(crate) claim: Option<String>,
    pub(crate) published_at: Timestamp,
}

impl Core {
    /// Does what a Pod's volumes need now; how long until it is to be looked at again.
    pub(in crate::agent) async fn refresh_csi(
        &self,
        pod: &Pod,
        mounted: &mut BTreeMap<String, Mounted>,
    ) -> Option<Duration> {
        for (name, volume) in mounted.iter_mut() {
            if let Err(why) = self.republish(pod, name, volume).await {
                let message = format!("MountVolume.SetUp failed for volume {name:?} : {why}");
                let about = self.pod_reference(pod);
                self.event(&about, EventType::Warning, "FailedMount", &message);
            }
            if let Err(why) = self.expand(pod, volume).await {
                let message = format!(
                    "NodeExpandVolume.NodeExpandVolume failed for volume {:?} : {why}",
                    volume.wanted.spec_name
                );
                let about = self.pod_reference(pod);
                self.event(&about, EventType::Warning, "VolumeResizeFailed", &message);
            }
        }
        (!mounted.is_empty()).then_some(LOOK_EVERY)
    }

    async fn republish(&self, pod: &Pod, name: &str, volume: &mut Mounted) -> Result<(), String> {
        let now = clock::now();
        if now.duration_since(volume.published_at).unsigned_abs() < REPUBLISH_EVERY {
            return Ok(());
        }
        volume.published_at = now;
        if self.csi_policy(&volume.wanted.id.driver).await?.republish {
            self.mount_csi(pod, name, &volume.wanted).await?;
        }
        Ok(())
    }

    async fn expand(&self, pod: &Pod, volume: &Mounted) -> Result<(), String> {
        let (Some(claim), wanted) = (&volume.claim, &volume.wanted) else { return Ok(()) };
        let driver = self.csi.driver(&wanted.id.driver)?;
        if wanted.read_only || !driver.can(NodeRpcType::ExpandVolume) {
            return Ok(());
        }
        let text = |error: kube::Error| error.to_string();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let claims = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), namespace);
        let found = claims.get(claim).await.map_err(text)?;
        let volumes = Api::<PersistentVolume>::all(self.client.clone());
        let of_volume = volumes.get(&wanted.spec_name).await.map_err(text)?;
        let Some(patch) = grown(&found, &of_volume) else { return Ok(()) };

        let turn = self.csi.turn(&wanted.id);
        let _turn = turn.lock().await;
        let mut staging_target_path = String::new();
        if driver.can(NodeRpcType::StageUnstageVolume) {
            let staging = place::staging(&self.config.root_dir, &wanted.id);
            staging_target_path = place::global_mount(&staging).display().to_string();
        }
        let request = NodeExpandVolumeRequest {
            volume_id: wanted.id.handle.clone(),
            volume_path: volume.target.display().to_string(),
            capacity_range: capacity(&of_volume)
                .map(|size| CapacityRange { required_bytes: size.value(), limit_bytes: 0 }),
            staging_target_path,
            volume_capability: Some(wanted.capability(&driver, None)),
            secrets: self.secret(wanted.expand_secret.as_ref()).await?,
        };
        driver
            .client
            .call(request)
            .await
            .map_err(|status| said("Expander.NodeExpand failed to expand the volume", &status))?;
        let patch = Patch::Strategic(&patch);
        claims.patch_status(claim, &PatchParams::default(), &patch).await.map_err(text)?;
        let message = format!(
            "MountVolume.NodeExpandVolume succeeded for volume {:?} {}",
            wanted.spec_name, self.config.name
        );
        let about = self.pod_reference(pod);
        self.event(&about, EventType::Normal, "FileSystemResizeSuccessful", &message);
        Ok(())
    }
}

/// The patch of a claim's status that says that its file system is as large as the volume; `None`
/// if it says so already.
fn grown(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<Value> {
    let size = capacity(volume)?;
    let status = claim.status.as_ref()?;
    let told = status.capacity.as_ref()?.get("storage")?;
    let told = rk_api::meta::quantity::Quantity::parse(&told.0).ok()?;
    if told >= size {
        return None;
    }
    let text = volume.spec.as_ref()?.capacity.as_ref()?.get("storage")?;
    let waits = ["FileSystemResizePending", "Resizing"];
    let conditions: Vec<Value> = status
        .conditions
        .iter()
        .flatten()
        .filter(|condition| waits.contains(&condition.type_.as_str()))
        .map(|condition| json!({"type": condition.type_, "$patch": "delete"}))
        .collect();
    let mut patch = json!({"status": {"capacity": {"storage": text}}});
    if !conditions.is_empty() {
        patch["status"]["conditions"] = Value::Array(conditions);
    }
    if status.allocated_resource_statuses.is_some() {
        patch["status"]["allocatedResourceStatuses"] = json!({"storage": null});
    }
    Some(patch)
}

#[cfg(test)]
mod tests {
    use serde_json::from_value;

    use super::*;

    #[test]
    fn a_claim_is_as_large_as_its_volume_once_the_file_system_is() {
        let volume = |size: &str| -> PersistentVolume {
            from_value(json!({"metadata": {}, "spec": {"capacity": {"storage": size}}})).unwrap()
        };
        let claim: PersistentVolumeClaim = from_value(json!({"metadata": {}, "status": {
            "capacity": {"storage": "1Gi"},
            "conditions": [{"type": "FileSystemResizePending", "status": "True"},
                {"type": "Other", "status": "True"}]}}))
        .unwrap();
        assert_eq!(grown(&claim, &volume("1024Mi")), None);
        assert_eq!(
            grown(&claim, &volume("2Gi")).unwrap(),
            json!({"status": {"capacity": {"storage": "2Gi"},
                "conditions": [{"type": "FileSystemResizePending", "$patch": "delete"}]}})
        );
    }
}
