//! The kubelet's HTTP API, as far as the API server and its users ask for it.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use k8s_openapi::{List, api::core::v1::Pod};
use tokio::io::{AsyncRead, AsyncWrite};

use self::query::Query;
use super::{observed::Observed, worker::Core};
use crate::runtime::{ContainerState, ContainerStatus};

#[cfg(feature = "server")]
mod access;
#[cfg(feature = "server")]
mod attributes;
mod log_stream;
mod node_pages;
pub(crate) mod port_forward;
mod query;
mod resource_metrics;
#[cfg(feature = "server")]
mod serving;
pub(crate) mod session;
pub(crate) mod spdy;
mod summary;
mod websocket;

#[cfg(feature = "server")]
pub use self::access::Access;
pub(super) use self::summary::LastTimes;

/// The body of an answer.
pub type KubeletBody = UnsyncBoxBody<Bytes, Infallible>;

/// The kubelet's HTTP API of one node: a tower service over requests with any body.
///
/// | path | |
/// |---|---|
/// | `/healthz` | `ok` |
/// | `/pods` | the node's pods |
/// | `/runningpods` | what the runtime has of them |
/// | `/configz` | the configuration |
/// | `/stats/summary` | use of CPU, memory and disks |
/// | `/metrics`, `/metrics/resource`, `/metrics/cadvisor`, `/metrics/probes` | as Prometheus reads it |
/// | `/logs/…` | the machine's own logs, if the configuration opens them |
/// | `/run/{namespace}/{pod}/{container}` | `cmd`; what it printed |
/// | `/containerLogs/{namespace}/{pod}/{container}` | `follow`, `previous`, `tailLines`, `sinceSeconds`, `sinceTime`, `timestamps`, `limitBytes`, `stream` |
/// | `/exec/{namespace}/{pod}/{container}` | `command` (repeated), `input`, `output`, `error`, `tty` |
/// | `/attach/{namespace}/{pod}/{container}` | `input`, `output`, `error`, `tty` |
/// | `/portForward/{namespace}/{pod}` | `port` (repeated) |
///
/// `exec`, `attach` and `portForward` are upgrades, so they need a connection that allows them, as [`KubeletApi::serve`]
/// does: to WebSockets with the subprotocols `v5.channel.k8s.io`, `v4.channel.k8s.io` and
/// `channel.k8s.io`, or to SPDY/3.1 with `v4.channel.k8s.io` and its forerunners, for forwarded ports
/// `portforward.k8s.io`.
#[derive(Clone)]
pub struct KubeletApi {
    core: Arc<Core>,
}

impl std::fmt::Debug for KubeletApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubeletApi").field("node", &self.core.config.name).finish_non_exhaustive()
    }
}

/// An answer that is not what was asked for: a code and a line of text.
pub(crate) type Refusal = (StatusCode, String);

pub(crate) fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<KubeletBody> {
    let mut response = Response::new(Full::new(text.into()).boxed_unsync());
    *response.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

fn json_answer(body: &serde_json::Value) -> Response<KubeletBody> {
    let mut response = text(StatusCode::OK, body.to_string());
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// Prometheus' text format.
fn metrics_page(page: String) -> Response<KubeletBody> {
    let mut response = text(StatusCode::OK, page);
    let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

impl KubeletApi {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Serves HTTP/1.1 on a connection until it ends, upgrades included.
    pub async fn serve(
        self,
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<(), hyper::Error> {
        let service = TowerToHyperService::new(self);
        let connection = hyper::server::conn::http1::Builder::new();
        connection.serve_connection(TokioIo::new(io), service).with_upgrades().await
    }

    async fn answer<B: Send>(self, mut request: Request<B>) -> Response<KubeletBody> {
        let path = request.uri().path().to_string();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let known = matches!(*request.method(), Method::GET | Method::POST);
        let result = match parts[..] {
            _ if !known => Err((StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed".into())),
            ["healthz"] => Ok(text(StatusCode::OK, "ok")),
            ["healthz", "ping" | "syncloop" | "log"] => Ok(text(StatusCode::OK, "ok")),
            ["pods"] => Ok(self.pods()),
            ["stats", "summary"] => self.summary(&query).await,
            ["metrics"] => Ok(self.metrics().await),
            ["metrics", "resource"] => Ok(self.resource_metrics().await),
            ["metrics", "cadvisor"] => Ok(self.cadvisor().await),
            ["metrics", "probes"] => Ok(self.probe_metrics()),
            ["configz"] => self.configz(),
            [place, ..] if self.is_closed(place) => {
                Err((StatusCode::METHOD_NOT_ALLOWED, "Debug endpoints are disabled.".into()))
            }
            ["runningpods"] => self.running_pods().await,
            ["logs", ..] => self.node_logs(path.strip_prefix("/logs").unwrap_or_default()).await,
            ["run", namespace, pod, container] => self.run(namespace, pod, container, &query).await,
            ["containerLogs", namespace, pod, container] => {
                self.logs(namespace, pod, container, &query).await
            }
            ["exec", namespace, pod, container] => {
                self.exec(namespace, pod, container, &query, &mut request).await
            }
            ["attach", namespace, pod, container] => {
                self.attach(namespace, pod, container, &query, &mut request).await
            }
            ["portForward", namespace, pod] => {
                self.port_forward(namespace, pod, &query, &mut request).await
            }
            _ => Err((StatusCode::NOT_FOUND, "404 page not found".into())),
        };
        result.unwrap_or_else(|(status, message)| text(status, message))
    }

    /// Whether the configuration turns this part off (`enableDebuggingHandlers`).
    fn is_closed(&self, place: &str) -> bool {
        let debugging =
            ["runningpods", "logs", "run", "exec", "attach", "portForward", "containerLogs"];
        let configuration = self.core.config.settings.configuration.as_deref();
        debugging.contains(&place)
            && configuration.is_some_and(|configuration| !configuration.enable_debugging_handlers)
    }

    fn pods(&self) -> Response<KubeletBody> {
        let items = self.core.pods().iter().map(|pod| (**pod).clone()).collect();
        let list: List<Pod> = List { items, ..Default::default() };
        json_answer(&serde_json::to_value(&list).unwrap_or_default())
    }

    // === finding what a request is about ===

    fn pod(&self, namespace: &str, name: &str) -> Result<Arc<Pod>, Refusal> {
        let found = self.core.pods().into_iter().find(|pod| {
            pod.metadata.namespace.as_deref() == Some(namespace)
                && pod.metadata.name.as_deref() == Some(name)
        });
        found.ok_or_else(|| (StatusCode::NOT_FOUND, format!("pod {name:?} does not exist")))
    }

    async fn observe(&self, pod: &Pod) -> Result<Observed, Refusal> {
        let failed = |error| (StatusCode::INTERNAL_SERVER_ERROR, super::handler::describe(&error));
        self.core.observe(pod).await.map_err(failed)
    }

    /// The running container of a name.
    async fn running(
        &self,
        namespace: &str,
        pod: &str,
        name: &str,
    ) -> Result<ContainerStatus, Refusal> {
        let pod = self.pod(namespace, pod)?;
        let observed = self.observe(&pod).await?;
        let found = observed.latest(name).filter(|c| c.state == ContainerState::Running).cloned();
        found.ok_or_else(|| (StatusCode::NOT_FOUND, format!("container not found ({name:?})")))
    }

    /// The container whose log is wanted.
    async fn logged(
        &self,
        namespace: &str,
        pod_name: &str,
        name: &str,
        previous: bool,
    ) -> Result<ContainerStatus, Refusal> {
        let pod = self.pod(namespace, pod_name)?;
        if super::sync::find(&pod, name).is_none() {
            let message = format!("container {name:?} not found in pod {pod_name:?}");
            return Err((StatusCode::BAD_REQUEST, message));
        }
        let observed = self.observe(&pod).await?;
        let attempts = observed.attempts(name);
        if previous {
            // While a container waits to be started again, the one that ended is the last.
            let waits =
                attempts.first().is_some_and(|latest| latest.state == ContainerState::Exited)
                    && waiting_reason(&pod, name).is_some();
            let found = if waits { attempts.first() } else { attempts.get(1) };
            let found =
                found.filter(|container| container.state == ContainerState::Exited).cloned();
            let message =
                format!("previous terminated container {name:?} in pod {pod_name:?} not found");
            return found.ok_or((StatusCode::BAD_REQUEST, message));
        }
        let started = attempts.iter().find(|container| container.state != ContainerState::Created);
        started.cloned().ok_or_else(|| {
            let why = match waiting_reason(&pod, name).as_deref() {
                Some("ErrImagePull") => "image can't be pulled".to_string(),
                Some("ImagePullBackOff") => "trying and failing to pull image".to_string(),
                Some(reason) => reason.to_string(),
                None => "ContainerCreating".to_string(),
            };
            let message =
                format!("container {name:?} in pod {pod_name:?} is waiting to start: {why}");
            (StatusCode::BAD_REQUEST, message)
        })
    }
}

/// Why a container waits, as the pod's status says.
fn waiting_reason(pod: &Pod, name: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let apps = status.container_statuses.iter().flatten();
    let others = [&status.init_container_statuses, &status.ephemeral_container_statuses];
    let mut all = apps.chain(others.into_iter().flatten().flatten());
    let found = all.find(|status| status.name == name)?;
    found.state.as_ref()?.waiting.as_ref()?.reason.clone()
}

impl<B: Send + 'static> tower::Service<Request<B>> for KubeletApi {
    type Response = Response<KubeletBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.clone().answer(request).map(Ok).boxed()
    }
}
