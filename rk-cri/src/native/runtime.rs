//! The [`Runtime`] trait on [`NativeRuntime`]: one line a verb.

use std::{net::SocketAddr, path::Path, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use rk_net::netns;
use tokio::sync::broadcast::error::RecvError;

use super::{NativeRuntime, pods::fail, pods::image_error, session};
use crate::images::{ImageError, ImageName};
use crate::runtime::{
    ContainerConfig, ContainerStats, ContainerStatus, ExecOutput, ExecRequest, Image,
    ImageFilesystem, Io, NodeStats, PullFailure, PullImage, Resources, Runtime, RuntimeError,
    RuntimeEvent, SandboxConfig, SandboxStatus, Session,
};

/// How long a connection into a pod or to the node may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

#[async_trait]
impl Runtime for NativeRuntime {
    fn version(&self) -> String {
        concat!("rk://", env!("CARGO_PKG_VERSION")).to_owned()
    }

    fn recursive_read_only(&self) -> bool {
        true
    }

    async fn run_pod_sandbox(&self, config: SandboxConfig) -> Result<String, RuntimeError> {
        self.inner.run_pod(config).await
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        self.inner.stop_pod(id).await
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        self.inner.remove_pod(id).await
    }

    async fn list_pod_sandboxes(&self) -> Result<Vec<SandboxStatus>, RuntimeError> {
        Ok(self.inner.list_pods())
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        config: ContainerConfig,
    ) -> Result<String, RuntimeError> {
        self.inner.create_container(sandbox_id, config).await
    }

    async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        self.inner.start_container(id).await
    }

    async fn update_container_resources(
        &self,
        id: &str,
        resources: Resources,
    ) -> Result<(), RuntimeError> {
        self.inner.update_resources(id, resources).await
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        self.inner.stop_container(id, grace).await
    }

    async fn reopen_container_log(&self, id: &str) -> Result<(), RuntimeError> {
        self.inner.reopen_log(id).await
    }

    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        self.inner.remove_container(id).await
    }

    async fn list_containers(&self) -> Result<Vec<ContainerStatus>, RuntimeError> {
        Ok(self.inner.list_containers())
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus, RuntimeError> {
        self.inner.container_status(id)
    }

    async fn list_container_stats(&self) -> Result<Vec<ContainerStats>, RuntimeError> {
        Ok(self.inner.container_stats())
    }

    async fn container_disk_bytes(&self, id: &str) -> Result<Option<u64>, RuntimeError> {
        let upper = self.inner.writable_layer(id)?;
        let measured = tokio::task::spawn_blocking(move || crate::agent::disk_usage(&upper).0);
        Ok(measured.await.ok().and_then(|bytes| u64::try_from(bytes).ok()))
    }

    async fn node_stats(&self) -> Result<Option<NodeStats>, RuntimeError> {
        Ok(self.inner.node_stats())
    }

    async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        let request = ExecRequest { command, stdin: false, tty: false };
        let run = async { session::collect(session::exec(&self.inner, id, request).await?).await };
        match timeout.is_zero() {
            true => run.await,
            false => tokio::time::timeout(timeout, run)
                .await
                .unwrap_or(Err(RuntimeError::Timeout(timeout))),
        }
    }

    async fn exec(&self, id: &str, request: ExecRequest) -> Result<Session, RuntimeError> {
        session::exec(&self.inner, id, request).await
    }

    async fn attach(&self, id: &str) -> Result<Session, RuntimeError> {
        session::attach(&self.inner, id).await
    }

    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<Box<dyn Io>, RuntimeError> {
        let netns = self.inner.pod_netns(sandbox_id)?;
        let at = |address: &str| {
            let address: std::net::IpAddr = address.parse().unwrap_or([127, 0, 0, 1].into());
            netns::connect(Some(netns.clone()), SocketAddr::new(address, port), CONNECT_TIMEOUT)
        };
        let stream = match at("127.0.0.1").await {
            Ok(stream) => stream,
            Err(refused) => match at("::1").await {
                Ok(stream) => stream,
                Err(_) => {
                    return Err(fail(format!("cannot connect to port {port} of the pod"))(refused));
                }
            },
        };
        Ok(Box::new(stream))
    }

    async fn dial(&self, address: SocketAddr) -> Result<Box<dyn Io>, RuntimeError> {
        let stream = netns::connect(self.inner.node_netns.clone(), address, CONNECT_TIMEOUT)
            .await
            .map_err(fail(format!("cannot connect to {address}")))?;
        Ok(Box::new(stream))
    }

    async fn image_status(&self, image: &str) -> Result<Option<Image>, RuntimeError> {
        Ok(self.inner.images.find(image).map(|found| found.image))
    }

    async fn pull_image(&self, request: PullImage) -> Result<String, RuntimeError> {
        let PullImage { image, auth, .. } = request;
        let fail = |reason: String, kind: PullFailure| RuntimeError::ImagePull {
            image: image.clone(),
            reason,
            kind,
        };
        let name: ImageName = image
            .parse()
            .map_err(|error: ImageError| fail(error.to_string(), PullFailure::Failed))?;
        if let Some(registries) = self.inner.registries.as_ref().filter(|all| all.may_ask(&name)) {
            let pulled = registries.pull(&self.inner.images, &name, auth.as_ref()).await;
            return pulled
                .map(|image| image.id)
                .map_err(|error| fail(chain_of(&error), error.kind()));
        }
        match self.inner.images.find(&image) {
            Some(found) => Ok(found.image.id),
            None => Err(fail(
                format!(
                    "it is not on this node, and pulling from {} is not configured: load it from a \
                     file, or configure the registry",
                    name.registry()
                ),
                PullFailure::Failed,
            )),
        }
    }

    async fn list_images(&self) -> Result<Vec<Image>, RuntimeError> {
        Ok(self.inner.images.list())
    }

    async fn remove_image(&self, image: &str) -> Result<(), RuntimeError> {
        let (inner, image) = (self.inner.clone(), image.to_owned());
        tokio::task::spawn_blocking(move || inner.images.remove(&image, &inner.layers_in_use()))
            .await
            .map_err(|error| fail("the removal died")(std::io::Error::other(error)))?
            .map_err(image_error)
    }

    async fn mount_image(&self, image: &str, target: &Path) -> Result<(), RuntimeError> {
        let (inner, image, target) = (self.inner.clone(), image.to_owned(), target.to_owned());
        tokio::task::spawn_blocking(move || inner.mount_image(&image, &target))
            .await
            .unwrap_or_else(|error| {
                Err(fail("cannot mount an image")(std::io::Error::other(error)))
            })
    }

    async fn image_filesystem(&self) -> Result<Option<ImageFilesystem>, RuntimeError> {
        let inner = self.inner.clone();
        let used = tokio::task::spawn_blocking(move || inner.images.used_bytes()).await;
        Ok(Some(ImageFilesystem {
            path: self.inner.images.root().to_owned(),
            used_bytes: used.unwrap_or_default(),
            used_inodes: 0,
        }))
    }

    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        let receiver = self.inner.events.subscribe();
        futures::stream::unfold(receiver, |mut receiver| async move {
            loop {
                match receiver.recv().await {
                    Ok(event) => return Some((event, receiver)),
                    // The newest are still there.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
        })
        .boxed()
    }
}

/// An error with what caused it, on one line.
fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
