//! How full mounted volumes are, as their drivers say.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::{Driver, VolumeId, place};
use crate::{
    agent::{spec::pod_ref, worker::Core},
    csi::v1::{NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse, NodeRpcType},
};

/// Whoever asks for statistics does not wait longer for a driver.
const WITHIN: Duration = Duration::from_secs(5);

impl Core {
    /// What the drivers of a Pod's volumes say of their use, by the volume's name in the Pod. Those
    /// that say nothing, or not in time, are left out.
    pub(in crate::agent) async fn csi_stats(
        &self,
        pod: &Pod,
    ) -> Vec<(String, NodeGetVolumeStatsResponse)> {
        let uid = pod_ref(pod).uid;
        let mounted: Vec<(VolumeId, String)> = {
            let volumes = self.csi.volumes.lock();
            let named = volumes.iter().filter_map(|(id, known)| {
                let name = known.users.get(&uid).filter(|name| !name.is_empty())?;
                Some((id.clone(), name.clone()))
            });
            named.collect()
        };
        let mut told = Vec::new();
        let directory = self.pod_dir(pod);
        for published in place::published_for(&directory) {
            let id = published.data.id();
            let Some((_, name)) = mounted.iter().find(|(known, _)| *known == id) else { continue };
            let Ok(driver) = self.csi.driver(&id.driver) else { continue };
            if !driver.can(NodeRpcType::GetVolumeStats) {
                continue;
            }
            if let Some(stats) = self.ask(&driver, &id, &published).await {
                told.push((name.clone(), stats));
            }
        }
        told
    }

    async fn ask(
        &self,
        driver: &Driver,
        id: &VolumeId,
        published: &place::Published,
    ) -> Option<NodeGetVolumeStatsResponse> {
        let staging = place::staging(&self.config.root_dir, id);
        let staged = !published.data.is_ephemeral() && driver.can(NodeRpcType::StageUnstageVolume);
        let staging_target_path = match staged {
            true => place::global_mount(&staging).display().to_string(),
            false => String::new(),
        };
        let request = NodeGetVolumeStatsRequest {
            volume_id: id.handle.clone(),
            volume_path: published.place.target.display().to_string(),
            staging_target_path,
        };
        tokio::time::timeout(WITHIN, driver.client.call(request)).await.ok()?.ok()
    }
}
