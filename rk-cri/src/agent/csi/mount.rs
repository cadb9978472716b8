//! Has volumes mounted: attached (by others), staged for the node, published for the Pod.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::{
    authentication::v1::TokenRequestStatus,
    core::v1::{Node, Pod, Secret},
    storage::v1::{CSIDriver, VolumeAttachment},
};
use kube::Api;
use serde_json::json;

use super::{
    Driver, VolumeId, Wanted, ownership,
    place::{self, VolumeData},
    request::{Policy, SecretName},
};
use crate::{
    agent::{spec::pod_ref, volumes, worker::Core},
    csi::v1::{NodePublishVolumeRequest, NodeRpcType, NodeStageVolumeRequest},
};

/// How long a Pod's worker waits for a volume to be attached before it says so and tries again.
const ATTACHED_WITHIN: Duration = Duration::from_secs(10);
/// Under this name drivers get the tokens that they ask for.
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

pub(super) fn said(what: &str, status: &tonic::Status) -> String {
    format!("{what}: rpc error: code = {:?} desc = {}", status.code(), status.message())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?;
    done.map_err(|error| error.to_string())
}

impl Core {
    /// Has a volume mounted for a Pod, and says where. May be repeated.
    pub(in crate::agent) async fn mount_csi(
        &self,
        pod: &Pod,
        volume: &str,
        wanted: &Wanted,
    ) -> Result<PathBuf, String> {
        let driver = self.csi.driver(&wanted.id.driver)?;
        let policy = self.csi_policy(&wanted.id.driver).await?;
        wanted.is_allowed(&policy)?;
        let uid = pod_ref(pod).uid;
        let turn = self.csi.turn(&wanted.id);
        let _turn = turn.lock().await;

        let attached = policy.attach && !wanted.ephemeral;
        let news = {
            let mut volumes = self.csi.volumes.lock();
            let known = volumes.entry(wanted.id.clone()).or_default();
            known.users.insert(uid, volume.to_owned());
            attached && !std::mem::replace(&mut known.attachable, true)
        };
        let mut publish_context = BTreeMap::new();
        if attached {
            // First it is told to be in use, then it is looked whether it is there: whoever takes it
            // away does these in the opposite order.
            if news {
                self.report_status(false).await.map_err(|error| error.to_string())?;
            }
            publish_context = self.attached(&wanted.id).await?;
        }
        let group = volumes::group_of(pod);
        let capability = wanted.capability(&driver, group);
        let staging = place::staging(&self.config.root_dir, &wanted.id);
        let stages = !wanted.ephemeral && driver.can(NodeRpcType::StageUnstageVolume);
        let mut staging_target = String::new();
        if stages {
            let mount = place::global_mount(&staging);
            staging_target = mount.display().to_string();
            let request = NodeStageVolumeRequest {
                volume_id: wanted.id.handle.clone(),
                publish_context: publish_context.clone(),
                staging_target_path: staging_target.clone(),
                volume_capability: Some(capability.clone()),
                secrets: self.secret(wanted.stage_secret.as_ref()).await?,
                volume_context: wanted.attributes.clone(),
            };
            self.stage(&driver, &wanted.id, staging, request).await?;
        }
        let (mut volume_context, mut secrets) =
            (wanted.context(&policy, pod), self.secret(wanted.publish_secret.as_ref()).await?);
        if let Some(tokens) = self.tokens_for(pod, &policy).await? {
            let place = if policy.tokens_are_secret { &mut secrets } else { &mut volume_context };
            place.insert(TOKENS.to_owned(), tokens);
        }
        let place = place::of_pod(&self.pod_dir(pod), &wanted.spec_name, wanted.is_block());
        let (directory, target) = (place.directory, place.target);
        let request = NodePublishVolumeRequest {
            volume_id: wanted.id.handle.clone(),
            publish_context,
            staging_target_path: staging_target,
            target_path: target.display().to_string(),
            volume_capability: Some(capability),
            readonly: wanted.read_only,
            secrets,
            volume_context,
        };
        let data = self.data_of(wanted);
        let above = target.parent().filter(|_| wanted.is_block()).map(Path::to_owned);
        blocking(move || {
            // A device is published by its driver at a path that is not there yet.
            above.map_or(Ok(()), std::fs::create_dir_all)?;
            place::note(&directory, &data)
        })
        .await?;
        driver
            .client
            .call(request)
            .await
            .map_err(|status| said("mounter.SetUpAt failed", &status))?;
        if let Some(group) = group.filter(|_| wanted.is_for_group(&policy, &driver)) {
            let (path, only_if_wrong) = (target.clone(), volumes::only_if_root_differs(pod));
            blocking(move || ownership::give(&path, group, only_if_wrong)).await.map_err(
                |why| format!("applyFSGroup failed for vol {}: {why}", wanted.id.handle),
            )?;
        }
        Ok(target)
    }

    fn data_of(&self, wanted: &Wanted) -> VolumeData {
        VolumeData {
            driver_name: wanted.id.driver.clone(),
            volume_handle: wanted.id.handle.clone(),
            spec_name: wanted.spec_name.clone(),
            node_name: self.config.name.clone(),
            attachment_id: place::attachment_name(&wanted.id, &self.config.name),
            volume_lifecycle_mode: wanted.mode().to_owned(),
        }
    }

    async fn stage(
        &self,
        driver: &Driver,
        id: &VolumeId,
        staging: PathBuf,
        request: NodeStageVolumeRequest,
    ) -> Result<(), String> {
        if self.csi.volumes.lock().get(id).is_some_and(|known| known.staged) {
            return Ok(());
        }
        let data = VolumeData {
            driver_name: id.driver.clone(),
            volume_handle: id.handle.clone(),
            ..VolumeData::default()
        };
        let mount = place::global_mount(&staging);
        blocking(move || {
            place::note(&staging, &data)?;
            make_directory(&mount)
        })
        .await?;
        driver
            .client
            .call(request)
            .await
            .map_err(|status| said("attacher.MountDevice failed", &status))?;
        if let Some(known) = self.csi.volumes.lock().get_mut(id) {
            known.staged = true;
        }
        Ok(())
    }

    // === what it takes ===

    pub(super) async fn csi_policy(&self, driver: &str) -> Result<Policy, String> {
        let api = Api::<CSIDriver>::all(self.client.clone());
        let found = api.get_opt(driver).await.map_err(|error| error.to_string())?;
        Ok(Policy::of(found.as_ref()))
    }

    pub(super) async fn secret(
        &self,
        name: Option<&SecretName>,
    ) -> Result<BTreeMap<String, String>, String> {
        let Some((namespace, name)) = name else { return Ok(BTreeMap::new()) };
        let api = Api::<Secret>::namespaced(self.client.clone(), namespace);
        let secret = api.get(name).await.map_err(|error| {
            format!("failed to get secret {namespace}/{name} for a volume: {error}")
        })?;
        let data = secret.data.unwrap_or_default().into_iter();
        Ok(data.map(|(key, value)| (key, String::from_utf8_lossy(&value.0).into_owned())).collect())
    }

    /// Tokens of the Pod's service account for those whom the driver talks to (KEP-1855).
    async fn tokens_for(&self, pod: &Pod, policy: &Policy) -> Result<Option<String>, String> {
        if policy.tokens.is_empty() {
            return Ok(None);
        }
        let mut tokens = serde_json::Map::new();
        for wanted in &policy.tokens {
            let audience = Some(wanted.audience.clone()).filter(|audience| !audience.is_empty());
            let status: TokenRequestStatus = self
                .request_token(pod, audience, wanted.expiration_seconds)
                .await
                .map_err(|error| format!("failed to fetch token: {error}"))?;
            tokens.insert(wanted.audience.clone(), json!(status));
        }
        Ok(Some(serde_json::Value::Object(tokens).to_string()))
    }

    /// Has Pods try again as soon as another volume is attached to this node, until its future is
    /// dropped.
    pub(in crate::agent) async fn follow_attachments(&self) {
        let mut changes = self.nodes.subscribe();
        let mut known = Vec::new();
        loop {
            let change = changes.next_change().await;
            let status = change.object().status.as_ref();
            let attached = status.and_then(|status| status.volumes_attached.clone());
            let attached = attached.unwrap_or_default();
            if std::mem::replace(&mut known, attached.clone()) == attached {
                continue;
            }
            for uid in self.csi.users() {
                self.poke_without_pause(&uid);
            }
        }
    }

    /// Waits until a volume is attached to this node, and tells what its driver then said.
    async fn attached(&self, id: &VolumeId) -> Result<BTreeMap<String, String>, String> {
        let name = id.unique_name();
        let listed = |node: &Node| {
            let attached = node.status.as_ref().and_then(|status| status.volumes_attached.as_ref());
            attached.into_iter().flatten().any(|volume| volume.name == name)
        };
        let mut changes = self.nodes.subscribe();
        let seen = async {
            // The informer may be behind what the node has just told itself.
            let nodes = Api::<Node>::all(self.client.clone());
            let newest = nodes.get(&self.config.name).await;
            if newest.is_ok_and(|node| listed(&node)) {
                return;
            }
            while !listed(changes.next_change().await.object()) {}
        };
        let waiting = format!("volume {} is not attached to this node yet", id.handle);
        tokio::time::timeout(ATTACHED_WITHIN, seen).await.map_err(|_| waiting.clone())?;

        let api = Api::<VolumeAttachment>::all(self.client.clone());
        let attachment = api
            .get(&place::attachment_name(id, &self.config.name))
            .await
            .map_err(|error| format!("failed to fetch publishContext: {error}"))?;
        let going = attachment.metadata.deletion_timestamp.is_some();
        let status = attachment.status.filter(|status| status.attached && !going).ok_or(waiting)?;
        Ok(status.attachment_metadata.unwrap_or_default())
    }
}

/// Makes a directory that only the node's own programs can enter.
fn make_directory(path: &Path) -> std::io::Result<()> {
    // After a crash the volume is mounted there, and its mode is not ours.
    if path.exists() {
        return Ok(());
    }
    std::fs::create_dir_all(path)?;
    volumes::set_mode(path, 0o750)
}
