//! The driver: a volume is a folder `ID/data`, beside files that say how large it is meant to be and
//! which node has it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Component, Path, PathBuf},
};

use async_trait::async_trait;
use rk::cri::csi::{Driver, Status, v1::*};

use crate::mounts;

/// The size of a volume that nobody gave one.
const DEFAULT_BYTES: i64 = 1 << 30;
/// The Pod's own volumes are marked so by whoever mounts them.
const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";

type Answer<T> = Result<T, Status>;

/// Volumes that are folders below one folder.
#[derive(Clone, Debug)]
pub struct Folders {
    name: String,
    node_id: String,
    root: PathBuf,
}

fn failed(error: io::Error) -> Status {
    Status::internal(error.to_string())
}

impl Folders {
    /// Folders below `root`, which is made.
    pub fn new(name: &str, node_id: &str, root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        // What is mounted elsewhere must not depend on where this program was started.
        let root = root.canonicalize()?;
        Ok(Self { name: name.to_owned(), node_id: node_id.to_owned(), root })
    }

    /// The folder of a volume. An id comes from outside, and must not lead anywhere else.
    fn volume(&self, id: &str) -> Answer<PathBuf> {
        let mut parts = Path::new(id).components();
        match (parts.next(), parts.next()) {
            (Some(Component::Normal(_)), None) => Ok(self.root.join(id)),
            _ => Err(Status::invalid_argument(format!("{id:?} is not the id of a volume"))),
        }
    }

    fn existing(&self, id: &str) -> Answer<PathBuf> {
        let volume = self.volume(id)?;
        let missing = || Status::not_found(format!("there is no volume {id}"));
        volume.join("data").is_dir().then_some(volume).ok_or_else(missing)
    }

    fn make(&self, id: &str, bytes: i64) -> Answer<PathBuf> {
        use std::os::unix::fs::PermissionsExt;
        let volume = self.volume(id)?;
        let data = volume.join("data");
        let made = fs::create_dir_all(&data)
            .and_then(|()| fs::set_permissions(&data, fs::Permissions::from_mode(0o777)))
            .and_then(|()| set_size(&volume, bytes));
        made.map_err(failed)?;
        Ok(volume)
    }

    fn remove(&self, id: &str) -> Answer<()> {
        match fs::remove_dir_all(self.volume(id)?) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        }
    }
}

fn size(volume: &Path) -> i64 {
    let text = fs::read_to_string(volume.join("size")).unwrap_or_default();
    text.trim().parse().unwrap_or(DEFAULT_BYTES)
}

fn set_size(volume: &Path, bytes: i64) -> io::Result<()> {
    fs::write(volume.join("size"), bytes.to_string())
}

/// The node that has a volume.
fn holder(volume: &Path) -> Option<String> {
    fs::read_to_string(volume.join("attached-to")).ok()
}

fn wanted_bytes(range: Option<&CapacityRange>) -> i64 {
    range.map(|range| range.required_bytes).filter(|bytes| *bytes > 0).unwrap_or(DEFAULT_BYTES)
}

fn one_node_only(capability: Option<&VolumeCapability>) -> bool {
    let mode = capability.and_then(|capability| capability.access_mode.as_ref());
    let mode = mode.map(|mode| mode.mode);
    !matches!(
        mode.and_then(|mode| Mode::try_from(mode).ok()),
        Some(Mode::MultiNodeMultiWriter | Mode::MultiNodeReaderOnly | Mode::MultiNodeSingleWriter)
    )
}

fn is_block(capability: Option<&VolumeCapability>) -> bool {
    matches!(capability.and_then(|it| it.access_type.as_ref()), Some(AccessType::Block(_)))
}

#[async_trait]
impl Driver for Folders {
    async fn get_plugin_info(&self, _: GetPluginInfoRequest) -> Answer<GetPluginInfoResponse> {
        Ok(GetPluginInfoResponse {
            name: self.name.clone(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: BTreeMap::new(),
        })
    }

    async fn get_plugin_capabilities(
        &self,
        _: GetPluginCapabilitiesRequest,
    ) -> Answer<GetPluginCapabilitiesResponse> {
        let service = PluginService { r#type: PluginServiceType::ControllerService.into() };
        let online = PluginVolumeExpansion { r#type: PluginVolumeExpansionType::Online.into() };
        let capabilities =
            [PluginCapabilityType::Service(service), PluginCapabilityType::VolumeExpansion(online)];
        let capabilities = capabilities.map(|it| PluginCapability { r#type: Some(it) }).into();
        Ok(GetPluginCapabilitiesResponse { capabilities })
    }

    async fn probe(&self, _: ProbeRequest) -> Answer<ProbeResponse> {
        Ok(ProbeResponse { ready: Some(true) })
    }

    // === controller ===

    async fn controller_get_capabilities(
        &self,
        _: ControllerGetCapabilitiesRequest,
    ) -> Answer<ControllerGetCapabilitiesResponse> {
        let can = [
            ControllerRpcType::CreateDeleteVolume,
            ControllerRpcType::PublishUnpublishVolume,
            ControllerRpcType::ExpandVolume,
        ];
        Ok(ControllerGetCapabilitiesResponse { capabilities: can.map(Into::into).into() })
    }

    async fn create_volume(&self, request: CreateVolumeRequest) -> Answer<CreateVolumeResponse> {
        if request.volume_capabilities.iter().any(|wanted| is_block(Some(wanted))) {
            return Err(Status::invalid_argument("a folder cannot be a block device"));
        }
        let bytes = wanted_bytes(request.capacity_range.as_ref());
        if let Ok(there) = self.existing(&request.name)
            && size(&there) < bytes
        {
            return Err(Status::already_exists(format!("{} is smaller", request.name)));
        }
        let volume = self.make(&request.name, bytes)?;
        let volume = Volume {
            capacity_bytes: size(&volume),
            volume_id: request.name,
            volume_context: request.parameters,
            accessible_topology: Vec::new(),
        };
        Ok(CreateVolumeResponse { volume: Some(volume) })
    }

    async fn delete_volume(&self, request: DeleteVolumeRequest) -> Answer<DeleteVolumeResponse> {
        let volume = self.volume(&request.volume_id)?;
        if let Some(node) = holder(&volume) {
            let why = format!("{} is attached to {node}", request.volume_id);
            return Err(Status::failed_precondition(why));
        }
        self.remove(&request.volume_id)?;
        Ok(DeleteVolumeResponse {})
    }

    async fn controller_publish_volume(
        &self,
        request: ControllerPublishVolumeRequest,
    ) -> Answer<ControllerPublishVolumeResponse> {
        let volume = self.existing(&request.volume_id)?;
        if one_node_only(request.volume_capability.as_ref()) {
            match holder(&volume) {
                Some(node) if node != request.node_id => {
                    let why = format!("{} is attached to {node}", request.volume_id);
                    return Err(Status::failed_precondition(why));
                }
                _ => fs::write(volume.join("attached-to"), &request.node_id).map_err(failed)?,
            }
        }
        let folder = volume.join("data").display().to_string();
        let publish_context = [("folder".to_owned(), folder)].into();
        Ok(ControllerPublishVolumeResponse { publish_context })
    }

    async fn controller_unpublish_volume(
        &self,
        request: ControllerUnpublishVolumeRequest,
    ) -> Answer<ControllerUnpublishVolumeResponse> {
        let volume = self.volume(&request.volume_id)?;
        if holder(&volume).as_ref() == Some(&request.node_id) {
            fs::remove_file(volume.join("attached-to")).map_err(failed)?;
        }
        Ok(ControllerUnpublishVolumeResponse {})
    }

    async fn controller_expand_volume(
        &self,
        request: ControllerExpandVolumeRequest,
    ) -> Answer<ControllerExpandVolumeResponse> {
        let volume = self.existing(&request.volume_id)?;
        let bytes = wanted_bytes(request.capacity_range.as_ref()).max(size(&volume));
        set_size(&volume, bytes).map_err(failed)?;
        Ok(ControllerExpandVolumeResponse { capacity_bytes: bytes, node_expansion_required: true })
    }

    // === node ===

    async fn node_get_info(&self, _: NodeGetInfoRequest) -> Answer<NodeGetInfoResponse> {
        Ok(NodeGetInfoResponse { node_id: self.node_id.clone(), ..Default::default() })
    }

    async fn node_get_capabilities(
        &self,
        _: NodeGetCapabilitiesRequest,
    ) -> Answer<NodeGetCapabilitiesResponse> {
        let can = [
            NodeRpcType::StageUnstageVolume,
            NodeRpcType::GetVolumeStats,
            NodeRpcType::ExpandVolume,
        ];
        Ok(NodeGetCapabilitiesResponse { capabilities: can.map(Into::into).into() })
    }

    async fn node_stage_volume(
        &self,
        request: NodeStageVolumeRequest,
    ) -> Answer<NodeStageVolumeResponse> {
        let volume = self.existing(&request.volume_id)?;
        if is_block(request.volume_capability.as_ref()) {
            return Err(Status::invalid_argument("a folder cannot be a block device"));
        }
        if one_node_only(request.volume_capability.as_ref())
            && holder(&volume).as_ref() != Some(&self.node_id)
        {
            let why = format!("{} is not attached to {}", request.volume_id, self.node_id);
            return Err(Status::failed_precondition(why));
        }
        let target = Path::new(&request.staging_target_path);
        mounts::bind(&volume.join("data"), target, false).map_err(failed)?;
        Ok(NodeStageVolumeResponse {})
    }

    async fn node_unstage_volume(
        &self,
        request: NodeUnstageVolumeRequest,
    ) -> Answer<NodeUnstageVolumeResponse> {
        mounts::unbind(Path::new(&request.staging_target_path)).map_err(failed)?;
        Ok(NodeUnstageVolumeResponse {})
    }

    async fn node_publish_volume(
        &self,
        request: NodePublishVolumeRequest,
    ) -> Answer<NodePublishVolumeResponse> {
        let target = Path::new(&request.target_path);
        let ephemeral = request.volume_context.get(EPHEMERAL).is_some_and(|value| value == "true");
        let folder = if ephemeral {
            let volume = self.make(&request.volume_id, DEFAULT_BYTES)?;
            fs::write(volume.join("ephemeral"), "").map_err(failed)?;
            volume.join("data")
        } else {
            PathBuf::from(&request.staging_target_path)
        };
        mounts::bind(&folder, target, request.readonly).map_err(failed)?;
        Ok(NodePublishVolumeResponse {})
    }

    async fn node_unpublish_volume(
        &self,
        request: NodeUnpublishVolumeRequest,
    ) -> Answer<NodeUnpublishVolumeResponse> {
        mounts::unbind(Path::new(&request.target_path)).map_err(failed)?;
        // Nobody else asks for the end of a volume that came with its Pod.
        if self.volume(&request.volume_id)?.join("ephemeral").exists() {
            self.remove(&request.volume_id)?;
        }
        Ok(NodeUnpublishVolumeResponse {})
    }

    async fn node_get_volume_stats(
        &self,
        request: NodeGetVolumeStatsRequest,
    ) -> Answer<NodeGetVolumeStatsResponse> {
        let volume = self.existing(&request.volume_id)?;
        let total = size(&volume);
        let used = used(&volume.join("data")).map_err(failed)?;
        let bytes = VolumeUsage {
            available: total.saturating_sub(used).max(0),
            total,
            used,
            unit: VolumeUsageUnit::Bytes.into(),
        };
        Ok(NodeGetVolumeStatsResponse { usage: vec![bytes], volume_condition: None })
    }

    async fn node_expand_volume(
        &self,
        request: NodeExpandVolumeRequest,
    ) -> Answer<NodeExpandVolumeResponse> {
        let volume = self.existing(&request.volume_id)?;
        Ok(NodeExpandVolumeResponse { capacity_bytes: size(&volume) })
    }
}

/// Bytes in the files of a folder.
fn used(folder: &Path) -> io::Result<i64> {
    let mut bytes = 0_i64;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes = bytes.saturating_add(match metadata.is_dir() {
            true => used(&entry.path())?,
            false => i64::try_from(metadata.len()).unwrap_or(i64::MAX),
        });
    }
    Ok(bytes)
}
