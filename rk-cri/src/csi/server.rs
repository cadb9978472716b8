//! The driver's side of the socket.

use std::{convert::Infallible, io, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{UnixListener, UnixStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse},
    v1::*,
};
use crate::rpc::{Call, unary};

/// How many connections are served at a time; further ones wait.
const CONNECTIONS_MAX: usize = 64;

macro_rules! driver {
    ($($(#[$about:meta])* $method:ident: $request:ident;)*) => {
        /// A driver of volumes: the calls of CSI's three services, of which each is answered with
        /// `UNIMPLEMENTED` unless it is overridden.
        ///
        /// # What the specification asks of an implementation
        /// - Every call is idempotent: it may be repeated, and then answers as the first time.
        /// - Calls about one volume may come at the same time; `ABORTED` says that one is under way.
        /// - What a call undoes may never have been done, or be gone: that is a success.
        #[async_trait]
        pub trait Driver: Send + Sync + 'static {
            $($(#[$about])*
            async fn $method(
                &self,
                _request: $request,
            ) -> Result<<$request as Call>::Answer, Status> {
                Err(Status::unimplemented(concat!(stringify!($method), " is not implemented")))
            })*
        }

        async fn answer(
            driver: &Arc<dyn Driver>,
            request: Request<Incoming>,
        ) -> Response<tonic::body::Body> {
            match request.uri().path() {
                $($request::PATH => {
                    unary(request, |message: $request| driver.$method(message)).await
                })*
                path => Status::unimplemented(format!("{path} is not served")).into_http(),
            }
        }
    };
}

driver! {
    /// The driver's name and version.
    get_plugin_info: GetPluginInfoRequest;
    /// Whether it has a controller, and can make volumes grow.
    get_plugin_capabilities: GetPluginCapabilitiesRequest;
    /// Whether it is ready.
    probe: ProbeRequest;
    /// Makes a volume, or finds the one of that name.
    create_volume: CreateVolumeRequest;
    /// Deletes a volume with its data.
    delete_volume: DeleteVolumeRequest;
    /// Attaches a volume to a node.
    controller_publish_volume: ControllerPublishVolumeRequest;
    /// Detaches a volume from a node.
    controller_unpublish_volume: ControllerUnpublishVolumeRequest;
    /// What the controller can do.
    controller_get_capabilities: ControllerGetCapabilitiesRequest;
    /// Makes a volume larger.
    controller_expand_volume: ControllerExpandVolumeRequest;
    /// Mounts a volume for the node.
    node_stage_volume: NodeStageVolumeRequest;
    /// Undoes that.
    node_unstage_volume: NodeUnstageVolumeRequest;
    /// Mounts a volume for a Pod.
    node_publish_volume: NodePublishVolumeRequest;
    /// Undoes that.
    node_unpublish_volume: NodeUnpublishVolumeRequest;
    /// How full a volume is.
    node_get_volume_stats: NodeGetVolumeStatsRequest;
    /// Makes the file system of a volume as large as the volume.
    node_expand_volume: NodeExpandVolumeRequest;
    /// What the driver can do on a node.
    node_get_capabilities: NodeGetCapabilitiesRequest;
    /// What the driver calls this node, and where the node is.
    node_get_info: NodeGetInfoRequest;
}

/// Serves a driver to those who connect to `listener`, until `stop`.
///
/// # Errors
/// The socket cannot be accepted from.
pub async fn serve(
    driver: Arc<dyn Driver>,
    listener: UnixListener,
    stop: CancellationToken,
) -> io::Result<()> {
    accept(listener, stop, move |request| {
        let driver = driver.clone();
        async move { answer(&driver, request).await }
    })
    .await
}

/// Tells whoever looks for plugins at `listener`, a socket in the node's `plugins_registry`
/// directory, that the driver `name` serves CSI 1.0 on the socket at `endpoint`, until `stop`. The
/// driver is registered as long as that socket is there: who stops should remove it.
///
/// # Errors
/// The socket cannot be accepted from.
pub async fn announce(
    name: &str,
    endpoint: impl Into<PathBuf>,
    listener: UnixListener,
    stop: CancellationToken,
) -> io::Result<()> {
    let info = PluginInfo {
        r#type: "CSIPlugin".to_owned(),
        name: name.to_owned(),
        endpoint: endpoint.into().display().to_string(),
        supported_versions: vec!["1.0.0".to_owned()],
    };
    accept(listener, stop, move |request| {
        let info = info.clone();
        async move { answer_registrar(info, request).await }
    })
    .await
}

async fn answer_registrar(
    info: PluginInfo,
    request: Request<Incoming>,
) -> Response<tonic::body::Body> {
    match request.uri().path() {
        InfoRequest::PATH => {
            unary(request, |_: InfoRequest| {
                let info = info.clone();
                async move { Ok(info) }
            })
            .await
        }
        RegistrationStatus::PATH => {
            unary(request, |status: RegistrationStatus| async move {
                if !status.plugin_registered {
                    tracing::warn!(error = status.error, "the node does not register the driver");
                }
                Ok(RegistrationStatusResponse {})
            })
            .await
        }
        path => Status::unimplemented(format!("{path} is not served")).into_http(),
    }
}

async fn accept<F>(
    listener: UnixListener,
    stop: CancellationToken,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) -> io::Result<()>
where
    F: Future<Output = Response<tonic::body::Body>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let room = connections.len() < CONNECTIONS_MAX;
        tokio::select! { biased;
            () = stop.cancelled() => return Ok(()),
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if room => {
                let (stream, _) = accepted?;
                connections.spawn(connection(stream, answer.clone()));
            }
        }
    }
}

async fn connection<F>(stream: UnixStream, answer: impl Fn(Request<Incoming>) -> F)
where
    F: Future<Output = Response<tonic::body::Body>> + Send + 'static,
{
    let service = hyper::service::service_fn(move |request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection to a driver ends");
    }
}
