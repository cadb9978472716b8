//! Any [`Runtime`] as a CRI v1 endpoint: what `crictl` and a stock kubelet connect to.

use std::{convert::Infallible, io, sync::Arc};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::UnixListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use self::{service::Service, streaming::Streaming};
use super::v1::{self, Call};
use crate::{rpc::unary, runtime::Runtime};

mod errors;
mod events;
mod filter;
mod images;
mod service;
mod streaming;

/// How many connections are served at a time; further ones wait.
const CONNECTIONS_MAX: usize = 256;

/// Serves `runtime` as a CRI v1 endpoint (`runtime.v1.RuntimeService` and `ImageService`) to those
/// who connect to `listener`, until `stop`. Whoever may open the socket may run anything.
///
/// Commands, attached containers and forwarded ports are streamed, over SPDY or WebSockets, by an
/// HTTP server on a port of the loopback interface that the kernel chooses. A URL of it holds a
/// secret, works once, and for a minute.
///
/// Checkpoints, metrics and the statistics of whole sandboxes are answered with `UNIMPLEMENTED`. Logs that a runtime keeps in memory ([`LogSource::Memory`](crate::runtime::LogSource))
/// cannot be read through CRI, which knows files only.
///
/// # Errors
/// The loopback interface cannot be listened on, or the socket not be accepted from.
pub async fn serve(
    runtime: Arc<dyn Runtime>,
    listener: UnixListener,
    stop: CancellationToken,
) -> io::Result<()> {
    let streaming = Streaming::start(runtime.clone()).await?;
    let service = Arc::new(Service { runtime, streaming });
    let mut connections = JoinSet::new();
    loop {
        let room = connections.len() < CONNECTIONS_MAX;
        tokio::select! { biased;
            () = stop.cancelled() => return Ok(()),
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if room => {
                let (stream, _) = accepted?;
                connections.spawn(connection(service.clone(), stream));
            }
        }
    }
}

async fn connection(service: Arc<Service>, stream: tokio::net::UnixStream) {
    let answer = hyper::service::service_fn(move |request| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(answer(&service, request).await) }
    });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    if let Err(error) = server.serve_connection(TokioIo::new(stream), answer).await {
        tracing::debug!(%error, "a CRI connection ends");
    }
}

/// One call by its path.
async fn answer(service: &Arc<Service>, request: Request<Incoming>) -> Response<tonic::body::Body> {
    macro_rules! table {
        ($($request:ident => $method:ident,)*) => {
            match request.uri().path() {
                $(v1::$request::PATH => {
                    unary(request, |message: v1::$request| service.$method(message)).await
                })*
                v1::GetEventsRequest::PATH => events::stream(service, request).await,
                path => {
                    let why = format!("{path} is not served");
                    Status::unimplemented(why).into_http()
                }
            }
        };
    }
    table! {
        VersionRequest => version,
        StatusRequest => status,
        RuntimeConfigRequest => runtime_config,
        UpdateRuntimeConfigRequest => update_runtime_config,
        RunPodSandboxRequest => run_pod_sandbox,
        StopPodSandboxRequest => stop_pod_sandbox,
        RemovePodSandboxRequest => remove_pod_sandbox,
        PodSandboxStatusRequest => pod_sandbox_status,
        ListPodSandboxRequest => list_pod_sandbox,
        CreateContainerRequest => create_container,
        StartContainerRequest => start_container,
        StopContainerRequest => stop_container,
        RemoveContainerRequest => remove_container,
        UpdateContainerResourcesRequest => update_container_resources,
        ReopenContainerLogRequest => reopen_container_log,
        ListContainersRequest => list_containers,
        ContainerStatusRequest => container_status,
        ContainerStatsRequest => container_stats,
        ListContainerStatsRequest => list_container_stats,
        ExecSyncRequest => exec_sync,
        ExecRequest => exec,
        AttachRequest => attach,
        PortForwardRequest => port_forward,
        ListImagesRequest => list_images,
        ImageStatusRequest => image_status,
        PullImageRequest => pull_image,
        RemoveImageRequest => remove_image,
        ImageFsInfoRequest => image_fs_info,
    }
}
