//! Has volumes unmounted: unpublished for the Pod, and when no other Pod of the node uses them,
//! unstaged. All that is needed for it is on disk.

use std::path::Path;

use super::{
    VolumeId,
    mount::said,
    place::{self, Published},
};
use crate::{
    agent::worker::Core,
    csi::v1::{NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest},
};

impl Core {
    /// Takes all volumes from the Pod with this directory, whose containers have ended. Repeated
    /// until it succeeds.
    ///
    /// # Errors
    /// Why some volume is still mounted.
    pub(in crate::agent) async fn release_csi(&self, pod_dir: &Path) -> Result<(), String> {
        let uid = pod_dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !self.csi.is_user(&uid) {
            return Ok(());
        }
        let directory = pod_dir.to_owned();
        let published = tokio::task::spawn_blocking(move || place::published_for(&directory));
        let published = published.await.map_err(|error| error.to_string())?;
        let mut failed = None;
        for volume in &published {
            // One that cannot be taken back keeps none of the others.
            failed = self.release_one(volume).await.err().or(failed);
        }
        match failed {
            Some(why) => Err(why),
            // It may have been about to get others.
            None => self.no_longer_used_by(&uid).await,
        }
    }

    async fn release_one(&self, volume: &Published) -> Result<(), String> {
        let id = volume.data.id();
        let name = &volume.data.spec_name;
        let failed =
            |why: String| format!("UnmountVolume.TearDown failed for volume {name:?}: {why}");
        let driver = self.csi.driver(&id.driver).map_err(failed)?;
        let turn = self.csi.turn(&id);
        let _turn = turn.lock().await;
        let place = volume.place.clone();
        let request = NodeUnpublishVolumeRequest {
            volume_id: id.handle.clone(),
            target_path: place.target.display().to_string(),
        };
        driver
            .client
            .call(request)
            .await
            .map_err(|status| failed(said("Unmounter.TearDownAt failed", &status)))?;
        let forgotten =
            tokio::task::spawn_blocking(move || place::forget(&place.directory, &place.target));
        let forgotten = forgotten.await.map_err(|error| failed(error.to_string()))?;
        forgotten.map_err(|error| failed(error.to_string()))?;
        if let Some(known) = self.csi.volumes.lock().get_mut(&id) {
            known.users.remove(&volume.pod);
        }
        self.unstage_if_unused(&id).await
    }

    /// A Pod that has none published uses none.
    async fn no_longer_used_by(&self, uid: &str) -> Result<(), String> {
        let left: Vec<VolumeId> = {
            let mut volumes = self.csi.volumes.lock();
            let of_pod = volumes.iter_mut().filter(|(_, known)| known.users.contains_key(uid));
            let left = of_pod.map(|(id, known)| {
                known.users.remove(uid);
                id.clone()
            });
            left.collect()
        };
        for id in left {
            let turn = self.csi.turn(&id);
            let _turn = turn.lock().await;
            self.unstage_if_unused(&id).await?;
        }
        Ok(())
    }

    /// Unstages what was left staged when the agent was stopped, and other volumes without a Pod.
    pub(in crate::agent) async fn unstage_unused(&self) {
        let unused: Vec<VolumeId> = {
            let volumes = self.csi.volumes.lock();
            let unused = volumes.iter().filter(|(_, known)| known.users.is_empty());
            unused.map(|(id, _)| id.clone()).collect()
        };
        for id in unused {
            let turn = self.csi.turn(&id);
            let _turn = turn.lock().await;
            if let Err(why) = self.unstage_if_unused(&id).await {
                tracing::warn!(node = self.config.name, why, "a volume stays mounted");
            }
        }
    }

    /// To be called by who has the turn.
    async fn unstage_if_unused(&self, id: &VolumeId) -> Result<(), String> {
        if self.csi.volumes.lock().get(id).is_none_or(|known| !known.users.is_empty()) {
            return Ok(());
        }
        let staging = place::staging(&self.config.root_dir, id);
        let mount = place::global_mount(&staging);
        let failed = |why: String| format!("UnmountDevice failed for volume {}: {why}", id.handle);
        if staging.exists() {
            let driver = self.csi.driver(&id.driver).map_err(failed)?;
            let request = NodeUnstageVolumeRequest {
                volume_id: id.handle.clone(),
                staging_target_path: mount.display().to_string(),
            };
            driver
                .client
                .call(request)
                .await
                .map_err(|status| failed(said("attacher.UnmountDevice failed", &status)))?;
            let forgotten = tokio::task::spawn_blocking(move || place::forget(&staging, &mount));
            let forgotten = forgotten.await.map_err(|error| failed(error.to_string()))?;
            forgotten.map_err(|error| failed(error.to_string()))?;
        }
        let told = {
            let mut volumes = self.csi.volumes.lock();
            let attachable = volumes.get(id).is_some_and(|known| known.attachable);
            // Who waits for its turn has taken hold of it.
            match volumes.get_mut(id) {
                Some(known) if std::sync::Arc::strong_count(&known.turn) > 2 => {
                    (known.attachable, known.staged) = (false, false);
                }
                _ => drop(volumes.remove(id)),
            }
            attachable
        };
        // Now it may be detached.
        if told && let Err(error) = self.report_status(false).await {
            tracing::warn!(node = self.config.name, %error, "not told yet that a volume is free");
        }
        Ok(())
    }
}
