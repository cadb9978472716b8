//! The verbs of `RuntimeService`: each turns the message into the runtime's own terms, and its
//! answer into a message.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tonic::Status;

use super::{
    super::{
        convert::{container, sandbox, stats},
        v1,
    },
    errors::status,
    filter,
    streaming::{Streaming, Target},
};
use crate::{
    agent::session::Wanted,
    runtime::{ExecRequest, Runtime, SandboxStatus},
};

type Answer<T> = Result<T, Status>;

/// What all connections share.
pub(super) struct Service {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) streaming: Arc<Streaming>,
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or_default())
}

fn not_found(what: &'static str, id: &str) -> Status {
    Status::not_found(format!("{what} {id} does not exist"))
}

impl Service {
    // === the runtime ===

    pub(super) async fn version(&self, _: v1::VersionRequest) -> Answer<v1::VersionResponse> {
        let version = self.runtime.version();
        let (name, version) = version.split_once("://").unwrap_or(("rk", &version));
        Ok(v1::VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: name.to_owned(),
            runtime_version: version.to_owned(),
            runtime_api_version: "v1".to_owned(),
        })
    }

    pub(super) async fn status(&self, _: v1::StatusRequest) -> Answer<v1::StatusResponse> {
        // Whoever made the runtime has made the network.
        let condition = |kind: &str| v1::RuntimeCondition {
            r#type: kind.to_owned(),
            status: true,
            ..Default::default()
        };
        let conditions = vec![condition("RuntimeReady"), condition("NetworkReady")];
        Ok(v1::StatusResponse {
            status: Some(v1::RuntimeStatus { conditions }),
            ..Default::default()
        })
    }

    pub(super) async fn runtime_config(
        &self,
        _: v1::RuntimeConfigRequest,
    ) -> Answer<v1::RuntimeConfigResponse> {
        let cgroup_driver = v1::CgroupDriver::Cgroupfs.into();
        let linux = Some(v1::LinuxRuntimeConfiguration { cgroup_driver });
        Ok(v1::RuntimeConfigResponse { linux })
    }

    /// Takes note of the pods' addresses, which the pod network knows better.
    pub(super) async fn update_runtime_config(
        &self,
        _: v1::UpdateRuntimeConfigRequest,
    ) -> Answer<v1::UpdateRuntimeConfigResponse> {
        Ok(v1::UpdateRuntimeConfigResponse {})
    }

    // === sandboxes ===

    pub(super) async fn run_pod_sandbox(
        &self,
        request: v1::RunPodSandboxRequest,
    ) -> Answer<v1::RunPodSandboxResponse> {
        if !request.runtime_handler.is_empty() {
            let why = format!("no runtime for {:?} is configured", request.runtime_handler);
            return Err(Status::not_found(why));
        }
        let Some(config) = request.config else {
            return Err(Status::invalid_argument("the request has no sandbox configuration"));
        };
        let made = self.runtime.run_pod_sandbox(sandbox::from_v1(config)).await;
        Ok(v1::RunPodSandboxResponse { pod_sandbox_id: made.map_err(status)? })
    }

    pub(super) async fn stop_pod_sandbox(
        &self,
        request: v1::StopPodSandboxRequest,
    ) -> Answer<v1::StopPodSandboxResponse> {
        self.runtime.stop_pod_sandbox(&request.pod_sandbox_id).await.map_err(status)?;
        Ok(v1::StopPodSandboxResponse {})
    }

    pub(super) async fn remove_pod_sandbox(
        &self,
        request: v1::RemovePodSandboxRequest,
    ) -> Answer<v1::RemovePodSandboxResponse> {
        self.runtime.remove_pod_sandbox(&request.pod_sandbox_id).await.map_err(status)?;
        Ok(v1::RemovePodSandboxResponse {})
    }

    async fn sandbox(&self, id: &str) -> Answer<SandboxStatus> {
        let all = self.runtime.list_pod_sandboxes().await.map_err(status)?;
        let found = all.into_iter().find(|sandbox| sandbox.id == id);
        found.ok_or_else(|| not_found("sandbox", id))
    }

    pub(super) async fn pod_sandbox_status(
        &self,
        request: v1::PodSandboxStatusRequest,
    ) -> Answer<v1::PodSandboxStatusResponse> {
        let found = self.sandbox(&request.pod_sandbox_id).await?;
        Ok(v1::PodSandboxStatusResponse {
            status: Some(sandbox::status_to_v1(&found)),
            ..Default::default()
        })
    }

    pub(super) async fn list_pod_sandbox(
        &self,
        request: v1::ListPodSandboxRequest,
    ) -> Answer<v1::ListPodSandboxResponse> {
        let all = self.runtime.list_pod_sandboxes().await.map_err(status)?;
        let wanted = request.filter.unwrap_or_default();
        let mut items: Vec<_> = all.iter().map(sandbox::item_to_v1).collect();
        items.retain(|item| filter::sandbox(&wanted, item));
        Ok(v1::ListPodSandboxResponse { items })
    }

    // === containers ===

    pub(super) async fn create_container(
        &self,
        request: v1::CreateContainerRequest,
    ) -> Answer<v1::CreateContainerResponse> {
        let Some(config) = request.config else {
            return Err(Status::invalid_argument("the request has no container configuration"));
        };
        let config = container::from_v1(config);
        let made = self.runtime.create_container(&request.pod_sandbox_id, config).await;
        Ok(v1::CreateContainerResponse { container_id: made.map_err(status)? })
    }

    pub(super) async fn start_container(
        &self,
        request: v1::StartContainerRequest,
    ) -> Answer<v1::StartContainerResponse> {
        self.runtime.start_container(&request.container_id).await.map_err(status)?;
        Ok(v1::StartContainerResponse {})
    }

    pub(super) async fn stop_container(
        &self,
        request: v1::StopContainerRequest,
    ) -> Answer<v1::StopContainerResponse> {
        let grace = seconds(request.timeout);
        self.runtime.stop_container(&request.container_id, grace).await.map_err(status)?;
        Ok(v1::StopContainerResponse {})
    }

    pub(super) async fn remove_container(
        &self,
        request: v1::RemoveContainerRequest,
    ) -> Answer<v1::RemoveContainerResponse> {
        self.runtime.remove_container(&request.container_id).await.map_err(status)?;
        Ok(v1::RemoveContainerResponse {})
    }

    pub(super) async fn list_containers(
        &self,
        request: v1::ListContainersRequest,
    ) -> Answer<v1::ListContainersResponse> {
        let all = self.runtime.list_containers().await.map_err(status)?;
        let wanted = request.filter.unwrap_or_default();
        let mut containers: Vec<_> = all.iter().map(container::item_to_v1).collect();
        containers.retain(|item| filter::container(&wanted, item));
        Ok(v1::ListContainersResponse { containers })
    }

    pub(super) async fn container_status(
        &self,
        request: v1::ContainerStatusRequest,
    ) -> Answer<v1::ContainerStatusResponse> {
        let found = self.runtime.container_status(&request.container_id).await.map_err(status)?;
        Ok(v1::ContainerStatusResponse {
            status: Some(container::status_to_v1(&found)),
            ..Default::default()
        })
    }

    pub(super) async fn container_stats(
        &self,
        request: v1::ContainerStatsRequest,
    ) -> Answer<v1::ContainerStatsResponse> {
        let id = request.container_id;
        let found = self.stats(|item| item.id == id).await?.pop();
        if found.is_none() {
            // It is there and does not run, or it is not there.
            self.runtime.container_status(&id).await.map_err(status)?;
        }
        Ok(v1::ContainerStatsResponse { stats: found })
    }

    pub(super) async fn list_container_stats(
        &self,
        request: v1::ListContainerStatsRequest,
    ) -> Answer<v1::ListContainerStatsResponse> {
        let wanted = request.filter.unwrap_or_default();
        let stats = self.stats(|item| filter::stats(&wanted, item)).await?;
        Ok(v1::ListContainerStatsResponse { stats })
    }

    /// What the running containers that are `wanted` use.
    async fn stats(
        &self,
        wanted: impl Fn(&v1::Container) -> bool,
    ) -> Answer<Vec<v1::ContainerStats>> {
        let used = self.runtime.list_container_stats().await.map_err(status)?;
        let sandboxes = self.runtime.list_pod_sandboxes().await.map_err(status)?;
        let pods: HashMap<_, _> = sandboxes.into_iter().map(|s| (s.id, s.config.pod)).collect();
        let containers = self.runtime.list_containers().await.map_err(status)?;
        // A runtime tells them by pod, name and start; here they go by their ids.
        let mut found = Vec::new();
        for status in &containers {
            let item = container::item_to_v1(status);
            let of = used.iter().find(|stats| {
                pods.get(&status.sandbox_id) == Some(&stats.pod)
                    && stats.name == status.config.name
                    && Some(stats.started_at) == status.started_at
            });
            let Some(of) = of.filter(|_| wanted(&item)) else { continue };
            let v1::Container { id, metadata, labels, annotations, .. } = item;
            let attributes = v1::ContainerAttributes { id, metadata, labels, annotations };
            found.push(stats::to_v1(of, attributes));
        }
        Ok(found)
    }

    // === commands and streams ===

    pub(super) async fn exec_sync(
        &self,
        request: v1::ExecSyncRequest,
    ) -> Answer<v1::ExecSyncResponse> {
        let v1::ExecSyncRequest { container_id, cmd, timeout } = request;
        let output = self.runtime.exec_sync(&container_id, cmd, seconds(timeout)).await;
        let output = output.map_err(status)?;
        Ok(v1::ExecSyncResponse {
            stdout: output.stdout,
            stderr: output.stderr,
            exit_code: output.exit_code,
        })
    }

    pub(super) async fn exec(&self, request: v1::ExecRequest) -> Answer<v1::ExecResponse> {
        let v1::ExecRequest { container_id: id, cmd: command, tty, stdin, stdout, stderr } =
            request;
        self.running(&id).await?;
        let wanted = wanted(stdin, stdout, stderr, tty)?;
        let exec = ExecRequest { command, stdin, tty };
        Ok(v1::ExecResponse { url: self.streaming.url(Target::Exec { id, exec, wanted })? })
    }

    pub(super) async fn attach(&self, request: v1::AttachRequest) -> Answer<v1::AttachResponse> {
        let v1::AttachRequest { container_id: id, stdin, tty, stdout, stderr } = request;
        self.running(&id).await?;
        let wanted = wanted(stdin, stdout, stderr, tty)?;
        Ok(v1::AttachResponse { url: self.streaming.url(Target::Attach { id, wanted })? })
    }

    async fn running(&self, id: &str) -> Answer<()> {
        let found = self.runtime.container_status(id).await.map_err(status)?;
        match found.state {
            crate::runtime::ContainerState::Running => Ok(()),
            other => Err(Status::failed_precondition(format!("container {id} is {other:?}"))),
        }
    }

    pub(super) async fn port_forward(
        &self,
        request: v1::PortForwardRequest,
    ) -> Answer<v1::PortForwardResponse> {
        let sandbox = self.sandbox(&request.pod_sandbox_id).await?;
        if !sandbox.ready {
            return Err(Status::failed_precondition(format!("sandbox {} is stopped", sandbox.id)));
        }
        let ports = request.port.iter().map(ToString::to_string).collect();
        let target = Target::PortForward { sandbox: sandbox.id, ports };
        Ok(v1::PortForwardResponse { url: self.streaming.url(target)? })
    }
}

/// The streams that a client asks for.
fn wanted(stdin: bool, stdout: bool, stderr: bool, tty: bool) -> Answer<Wanted> {
    if tty && stderr {
        return Err(Status::invalid_argument("tty and stderr cannot both be true"));
    }
    if !(stdin || stdout || stderr) {
        let why = "one of stdin, stdout, or stderr must be set";
        return Err(Status::invalid_argument(why));
    }
    Ok(Wanted { stdin, stdout, stderr, tty })
}
