//! The API server: Kubernetes' API over a [`Store`].
//!
//! [`ApiServer`] is a `tower::Service`: a request goes in, an answer comes out, whatever carries
//! them. [`ApiServer::client`] is a `kube::Client` that calls it directly.
//!
//! # Where to start
//! - `builder.rs`: what a server is made of, and what happens when it starts.
//! - [`layers`](self): what every request passes, in order: request info, panic guard, metrics,
//!   timeout, authentication, audit, impersonation, flow control, authorization, then the handler.
//! - `handlers.rs`: from a request to its verb; one file for each verb.
//! - `registry.rs`: what happens to an object that is created, changed or deleted.
//! - `cache.rs`: the watch cache, from which everything is read.
//! - `object.rs`: the bytes that are stored and sent.
//!
//! # Invariants
//! - No state but the store's: any number of servers can run on one store.
//! - An object is encoded once, when it is written; everybody who reads it shares these bytes.

pub mod admission;
mod aggregation;
mod allocator;
pub mod audit;
pub mod authn;
pub mod authz;
mod body;
mod bootstrap;
mod builder;
mod cache;
mod components;
mod context;
mod custom_resources;
mod decode;
mod filter;
mod flow_control;
#[doc(hidden)]
pub mod fuzzing;
mod handlers;
mod health;
mod in_process;
mod info;
mod jwt;
mod kinds;
mod labels;
mod layers;
mod managed_fields;
mod masters;
mod metrics;
mod negotiate;
mod nodes;
mod object;
mod outbound;
pub mod pki;
mod pretty;
mod protobuf;
mod proxy;
mod query;
mod reader;
mod registry;
mod serve;
mod shape;
mod status;
mod token;
mod user;
mod watch;
mod webhook;
mod writer;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use rk_store::Store;
use tokio_util::sync::CancellationToken;

use self::{
    aggregation::Aggregator,
    audit::Audit,
    authn::{Authenticator, ServiceAccountTokens},
    authz::Authorizer,
    components::Component,
    custom_resources::CustomResources,
    flow_control::FlowControl,
    handlers::Handler,
    kinds::Kinds,
    layers::{
        audit::AuditLayer,
        authentication::AuthenticationLayer,
        authorization::AuthorizationLayer,
        flow_control::{FlowControlLayer, Gate},
        impersonation::ImpersonationLayer,
        metrics::MetricsLayer,
        panic_guard::PanicGuardLayer,
        request_info::RequestInfoLayer,
        timeout::TimeoutLayer,
    },
    metrics::Metrics,
    outbound::Outbound,
    reader::Reader,
    registry::Registry,
};
pub use self::{
    aggregation::ExtensionAuthentication,
    allocator::Cidr,
    body::{BoxError, ResponseBody},
    builder::{Builder, StartError},
    components::ComponentHealth,
    in_process::InProcess,
    info::RequestInfo,
    nodes::{NodeConnector, TlsNodes},
    outbound::{Dialer, TcpDialer},
    pki::{Identity, Pki, ServerCertificate, ServerTls, TlsVersion},
    serve::serve_https,
    status::{ApiError, Subject},
    token::{TokenKey, TokenKeyError},
    user::UserInfo,
};

/// The layers around the handler.
type Stack = RequestInfoLayer<
    PanicGuardLayer<
        MetricsLayer<
            TimeoutLayer<
                AuthenticationLayer<
                    AuditLayer<ImpersonationLayer<FlowControlLayer<AuthorizationLayer<Handler>>>>,
                >,
            >,
        >,
    >,
>;

/// What handlers share.
#[derive(Debug)]
pub(crate) struct Inner {
    kinds: Arc<Kinds>,
    custom_resources: CustomResources,
    reader: Reader,
    registry: Registry,
    metrics: Arc<Metrics>,
    token_key: TokenKey,
    nodes: Arc<dyn NodeConnector>,
    /// Those whose health is asked for, but for the store.
    components: Vec<Component>,
    outbound: Outbound,
    authenticator: Arc<dyn Authenticator>,
    service_accounts: ServiceAccountTokens,
    authorizer: Arc<dyn Authorizer>,
    audit: Option<Arc<Audit>>,
    flow_control: Option<Arc<FlowControl>>,
    aggregator: Aggregator,
    /// What other servers are told of how this one authenticates.
    published_authentication: BTreeMap<String, String>,
    /// Whether the default roles are there.
    roles_ready: tokio::sync::watch::Sender<bool>,
    /// Where others reach this server.
    advertised: Option<SocketAddr>,
    /// The server is to be sent nobody any more; it may go on for a while.
    leaving: CancellationToken,
    shutdown: CancellationToken,
}

/// Kubernetes' API over a store. Cloning it is cheap and gives another handle on the same server.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use k8s_openapi::api::core::v1::Namespace;
/// use rk_api::server::ApiServer;
/// use rk_store::EmbeddedStore;
///
/// let server = ApiServer::builder(Arc::new(EmbeddedStore::in_memory())).start().await?;
/// let namespaces: kube::Api<Namespace> = kube::Api::all(server.client());
/// assert!(namespaces.get_opt("default").await?.is_some());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ApiServer {
    stack: Stack,
    inner: Arc<Inner>,
    /// Stops the server when the last handle is dropped.
    _guard: Arc<tokio_util::sync::DropGuard>,
}

fn stack(inner: &Arc<Inner>, anonymous: bool, gate: Gate) -> Stack {
    let authorizer = inner.authorizer.clone();
    let handler = Handler(inner.clone());
    let authorization = AuthorizationLayer { inner: handler, authorizer: authorizer.clone() };
    let flow_control = FlowControlLayer { inner: authorization, gate };
    let impersonation = ImpersonationLayer { inner: flow_control, authorizer };
    let audit = AuditLayer { inner: impersonation, audit: inner.audit.clone() };
    let authenticator = inner.authenticator.clone();
    let authentication =
        AuthenticationLayer { inner: audit, authenticator, anonymous, audit: inner.audit.clone() };
    let timeout = TimeoutLayer(authentication);
    let metrics = MetricsLayer { inner: timeout, metrics: inner.metrics.clone() };
    RequestInfoLayer(PanicGuardLayer(metrics))
}

impl ApiServer {
    /// A server over `store` with the built-in kinds.
    pub fn builder(store: Arc<dyn Store>) -> Builder {
        Builder::new(store)
    }

    /// Waits until the default roles and bindings are there. Until then only members of
    /// `system:masters` may do anything on a new store.
    pub async fn roles_ready(&self) {
        let mut ready = self.inner.roles_ready.subscribe();
        // The sender lives as long as the server does.
        let _ = ready.wait_for(|ready| *ready).await;
    }

    /// Takes the server from the endpoints of `kubernetes` and lets `/readyz` fail, so that nobody is
    /// sent here any more; otherwise it goes on. What comes before an orderly end
    /// (`--shutdown-delay-duration`).
    pub async fn leave(&self) {
        let first = !self.inner.leaving.is_cancelled();
        self.inner.leaving.cancel();
        if let Some(own) = self.inner.advertised.filter(|_| first)
            && let Err(error) = masters::leave(&self.inner, own).await
        {
            tracing::warn!(%error, "this server stays among the endpoints for some seconds");
        }
    }

    /// [Leaves](Self::leave), ends all watches and stops following the store. Requests are still
    /// answered, from what the cache holds then.
    pub async fn shutdown(&self) {
        self.leave().await;
        self.inner.shutdown.cancel();
        self.inner.registry.cache.close_watches();
        if let Some(audit) = &self.inner.audit {
            audit.flush().await;
        }
    }
}

impl<B> tower::Service<Request<B>> for ApiServer
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<ResponseBody>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        tower::Service::call(&mut self.stack, request).boxed()
    }
}
