//! The messages of `runtime.v1`, as far as they are used: field names and numbers are those of
//! `pkg/apis/runtime/v1/api.proto` in kubernetes/cri-api. Fields of Windows, checkpoints, SELinux and
//! metrics are left out; what a peer sends in them is skipped, as protocol buffers say.

mod containers;
mod images;
mod sandboxes;
mod service;
mod stats;

pub(crate) use self::{containers::*, images::*, sandboxes::*, service::*, stats::*};

pub(crate) use crate::rpc::Call;

macro_rules! calls {
    ($service:literal: $($method:ident($request:ident) -> $answer:ident;)*) => {
        $(impl Call for $request {
            type Answer = $answer;
            const PATH: &'static str =
                concat!("/runtime.v1.", $service, "/", stringify!($method));
        })*
    };
}

calls! { "RuntimeService":
    Version(VersionRequest) -> VersionResponse;
    RunPodSandbox(RunPodSandboxRequest) -> RunPodSandboxResponse;
    StopPodSandbox(StopPodSandboxRequest) -> StopPodSandboxResponse;
    RemovePodSandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse;
    PodSandboxStatus(PodSandboxStatusRequest) -> PodSandboxStatusResponse;
    ListPodSandbox(ListPodSandboxRequest) -> ListPodSandboxResponse;
    CreateContainer(CreateContainerRequest) -> CreateContainerResponse;
    StartContainer(StartContainerRequest) -> StartContainerResponse;
    StopContainer(StopContainerRequest) -> StopContainerResponse;
    RemoveContainer(RemoveContainerRequest) -> RemoveContainerResponse;
    ListContainers(ListContainersRequest) -> ListContainersResponse;
    ContainerStatus(ContainerStatusRequest) -> ContainerStatusResponse;
    UpdateContainerResources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse;
    ReopenContainerLog(ReopenContainerLogRequest) -> ReopenContainerLogResponse;
    ExecSync(ExecSyncRequest) -> ExecSyncResponse;
    Exec(ExecRequest) -> ExecResponse;
    Attach(AttachRequest) -> AttachResponse;
    PortForward(PortForwardRequest) -> PortForwardResponse;
    ContainerStats(ContainerStatsRequest) -> ContainerStatsResponse;
    ListContainerStats(ListContainerStatsRequest) -> ListContainerStatsResponse;
    UpdateRuntimeConfig(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse;
    Status(StatusRequest) -> StatusResponse;
    GetContainerEvents(GetEventsRequest) -> ContainerEventResponse;
    RuntimeConfig(RuntimeConfigRequest) -> RuntimeConfigResponse;
}

calls! { "ImageService":
    ListImages(ListImagesRequest) -> ListImagesResponse;
    ImageStatus(ImageStatusRequest) -> ImageStatusResponse;
    PullImage(PullImageRequest) -> PullImageResponse;
    RemoveImage(RemoveImageRequest) -> RemoveImageResponse;
    ImageFsInfo(ImageFsInfoRequest) -> ImageFsInfoResponse;
}
