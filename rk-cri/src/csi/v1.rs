//! The messages of `csi.v1`: field names, numbers and meaning are those of `csi.proto` in
//! container-storage-interface/spec.

#![expect(missing_docs, reason = "what each field means is in the specification, by the same name")]

use std::collections::BTreeMap;

mod controller;
mod identity;
mod node;

pub use self::{controller::*, identity::*, node::*};
use crate::rpc::Call;

macro_rules! calls {
    ($service:literal: $($method:ident($request:ident) -> $answer:ident;)*) => {
        $(impl Call for $request {
            type Answer = $answer;
            const PATH: &'static str = concat!("/csi.v1.", $service, "/", stringify!($method));
        })*
    };
}

calls! { "Identity":
    GetPluginInfo(GetPluginInfoRequest) -> GetPluginInfoResponse;
    GetPluginCapabilities(GetPluginCapabilitiesRequest) -> GetPluginCapabilitiesResponse;
    Probe(ProbeRequest) -> ProbeResponse;
}

calls! { "Controller":
    CreateVolume(CreateVolumeRequest) -> CreateVolumeResponse;
    DeleteVolume(DeleteVolumeRequest) -> DeleteVolumeResponse;
    ControllerPublishVolume(ControllerPublishVolumeRequest) -> ControllerPublishVolumeResponse;
    ControllerUnpublishVolume(ControllerUnpublishVolumeRequest) -> ControllerUnpublishVolumeResponse;
    ControllerGetCapabilities(ControllerGetCapabilitiesRequest) -> ControllerGetCapabilitiesResponse;
    ControllerExpandVolume(ControllerExpandVolumeRequest) -> ControllerExpandVolumeResponse;
}

calls! { "Node":
    NodeStageVolume(NodeStageVolumeRequest) -> NodeStageVolumeResponse;
    NodeUnstageVolume(NodeUnstageVolumeRequest) -> NodeUnstageVolumeResponse;
    NodePublishVolume(NodePublishVolumeRequest) -> NodePublishVolumeResponse;
    NodeUnpublishVolume(NodeUnpublishVolumeRequest) -> NodeUnpublishVolumeResponse;
    NodeGetVolumeStats(NodeGetVolumeStatsRequest) -> NodeGetVolumeStatsResponse;
    NodeExpandVolume(NodeExpandVolumeRequest) -> NodeExpandVolumeResponse;
    NodeGetCapabilities(NodeGetCapabilitiesRequest) -> NodeGetCapabilitiesResponse;
    NodeGetInfo(NodeGetInfoRequest) -> NodeGetInfoResponse;
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct VolumeCapability {
    #[prost(oneof = "AccessType", tags = "1, 2")]
    pub access_type: Option<AccessType>,
    #[prost(message, optional, tag = "3")]
    pub access_mode: Option<AccessMode>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum AccessType {
    #[prost(message, tag = "1")]
    Block(BlockVolume),
    #[prost(message, tag = "2")]
    Mount(MountVolume),
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct BlockVolume {}

#[derive(Clone, PartialEq, prost::Message)]
pub struct MountVolume {
    #[prost(string, tag = "1")]
    pub fs_type: String,
    #[prost(string, repeated, tag = "2")]
    pub mount_flags: Vec<String>,
    #[prost(string, tag = "3")]
    pub volume_mount_group: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct AccessMode {
    #[prost(enumeration = "Mode", tag = "1")]
    pub mode: i32,
}

/// Who may use a volume at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Mode {
    Unknown = 0,
    SingleNodeWriter = 1,
    SingleNodeReaderOnly = 2,
    MultiNodeReaderOnly = 3,
    MultiNodeSingleWriter = 4,
    MultiNodeMultiWriter = 5,
    SingleNodeSingleWriter = 6,
    SingleNodeMultiWriter = 7,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct CapacityRange {
    #[prost(int64, tag = "1")]
    pub required_bytes: i64,
    #[prost(int64, tag = "2")]
    pub limit_bytes: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Topology {
    #[prost(btree_map = "string, string", tag = "1")]
    pub segments: BTreeMap<String, String>,
}
