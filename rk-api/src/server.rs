//! The API server: Kubernetes' API over a [`Store`].
//!
//! [`ApiServer`] is a `tower::Service`: a request goes in, an answer comes out, whatever carries
//! them. [`ApiServer::client`] is a `kube::Client` that calls it directly.
//!
//! # Where to start
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
mod cache;
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
    ops::RangeInclusive,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use rk_store::{Store, StoreError};
use tokio_util::sync::CancellationToken;

use self::{
    admission::{
        Admission, EventRateLimits, ImagePolicy, ImagePolicyWebhook, Lookup, Parts, PluginError,
        PodSecurityDefaults, PodSecurityExemptions, Provisioner, Selection,
    },
    aggregation::Aggregator,
    allocator::Services,
    audit::{Audit, AuditConfig, AuditConfigError},
    authn::{
        Authenticator, BootstrapTokens, ClientCertificates, RequestHeaders, ServiceAccountTokens,
        Union,
    },
    authz::{AuthorizationMode, Authorizer, node::NodeAuthorizer, rbac::Rbac},
    cache::Cache,
    custom_resources::{Converter, CustomResources},
    flow_control::{FlowControl, InFlight},
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
    managed_fields::Tracker,
    metrics::Metrics,
    nodes::NoNodes,
    outbound::Outbound,
    reader::Reader,
    registry::Registry,
};
pub use self::{
    aggregation::ExtensionAuthentication,
    allocator::Cidr,
    body::{BoxError, ResponseBody},
    info::RequestInfo,
    nodes::{NodeConnector, TlsNodes},
    outbound::{Dialer, TcpDialer},
    pki::{Identity, Pki, ServerTls, TlsVersion},
    status::{ApiError, Subject},
    token::{TokenKey, TokenKeyError},
    user::UserInfo,
};
use crate::resources::Resources;

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

/// An [`ApiServer`] in the making.
#[derive(Debug)]
pub struct Builder {
    store: Arc<dyn Store>,
    resources: Resources,
    authenticators: Vec<Arc<dyn Authenticator>>,
    anonymous: bool,
    bootstrap_tokens: bool,
    request_headers: Option<RequestHeaders>,
    authorizer: Option<Arc<dyn Authorizer>>,
    authorization_modes: Vec<AuthorizationMode>,
    more_authorizers: Vec<Arc<dyn Authorizer>>,
    admission: Vec<Arc<dyn Admission>>,
    privileged: bool,
    event_ttl: Duration,
    plugins: Selection,
    pod_security_exemptions: PodSecurityExemptions,
    pod_security_defaults: PodSecurityDefaults,
    event_rate_limits: Option<EventRateLimits>,
    image_policy: Option<ImagePolicy>,
    service_cidr: String,
    node_ports: RangeInclusive<u16>,
    advertised: Option<SocketAddr>,
    require_service_accounts: bool,
    managed_fields: bool,
    token_key: Option<TokenKey>,
    nodes: Arc<dyn NodeConnector>,
    dialer: Arc<dyn Dialer>,
    route_to_endpoints: bool,
    audit: AuditConfig,
    priority_and_fairness: bool,
    max_in_flight: (u32, u32),
    proxy_client: Option<Identity>,
    extension_authentication: ExtensionAuthentication,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// The range of Service addresses is not usable.
    #[error(
        "{0} is no range of addresses (IPv4 from /8 to /30, IPv6 from /64 to /126), nor one of each family"
    )]
    ServiceCidr(String),
    /// There is no key for service-account tokens.
    #[error(transparent)]
    TokenKey(#[from] TokenKeyError),
    /// Requests cannot be recorded.
    #[error("cannot start audit")]
    Audit(#[from] AuditConfigError),
    /// Admission plug-ins cannot be chosen so.
    #[error(transparent)]
    Plugins(#[from] PluginError),
    /// The service that is to say which images may run cannot be asked.
    #[error("cannot ask about images")]
    ImagePolicy(#[from] authn::WebhookError),
    /// The objects that every cluster has could not be created.
    #[error("cannot create what every cluster has")]
    Bootstrap(#[from] ApiError),
}

impl Builder {
    /// Serves these kinds instead of the built-in ones.
    #[must_use]
    pub fn resources(mut self, resources: Resources) -> Self {
        self.resources = resources;
        self
    }

    /// Also asks this authenticator who a user is.
    #[must_use]
    pub fn authenticator(mut self, authenticator: Arc<dyn Authenticator>) -> Self {
        self.authenticators.push(authenticator);
        self
    }

    /// Whether requests without credentials are let through as the user `system:anonymous` in the
    /// group `system:unauthenticated`, who may do what RBAC grants them; on by default. Otherwise
    /// they get a 401.
    #[must_use]
    pub fn anonymous(mut self, allowed: bool) -> Self {
        self.anonymous = allowed;
        self
    }

    /// Whether the tokens in Secrets `bootstrap-token-<id>` of kube-system are taken; off by
    /// default.
    #[must_use]
    pub fn bootstrap_tokens(mut self, taken: bool) -> Self {
        self.bootstrap_tokens = taken;
        self
    }

    /// Takes users from the headers of authenticating proxies; not so by default.
    #[must_use]
    pub fn request_headers(mut self, headers: RequestHeaders) -> Self {
        self.request_headers = Some(headers);
        self
    }

    /// Lets this authorizer decide instead of the default ones, Node and RBAC. Members of
    /// `system:masters` may do everything in any case.
    #[must_use]
    pub fn authorizer(mut self, authorizer: Arc<dyn Authorizer>) -> Self {
        self.authorizer = Some(authorizer);
        self
    }

    /// Asks these in this order; the Node authorizer and then RBAC by default.
    #[must_use]
    pub fn authorization_modes(mut self, modes: Vec<AuthorizationMode>) -> Self {
        self.authorization_modes = modes;
        self
    }

    /// Whether containers may be privileged (`--allow-privileged`); they may by default.
    #[must_use]
    pub fn allow_privileged(mut self, allowed: bool) -> Self {
        self.privileged = allowed;
        self
    }

    /// How long Events are kept; an hour by default.
    #[must_use]
    pub fn event_ttl(mut self, ttl: Duration) -> Self {
        self.event_ttl = ttl;
        self
    }

    /// Asks this authorizer too, when those before it have no opinion.
    #[must_use]
    pub fn also_authorize(mut self, authorizer: Arc<dyn Authorizer>) -> Self {
        self.more_authorizers.push(authorizer);
        self
    }

    /// Adds an admission plug-in after the built-in ones.
    #[must_use]
    pub fn admission(mut self, plugin: Arc<dyn Admission>) -> Self {
        self.admission.push(plugin);
        self
    }

    /// Turns admission plug-ins on and off, by kube-apiserver's names, as
    /// `--enable-admission-plugins` and `--disable-admission-plugins` do. What is named in neither
    /// is as it is by default: on are those of kube-apiserver's defaults and NodeRestriction. Starting
    /// fails when a name is unknown, or in both lists.
    #[must_use]
    pub fn admission_plugins(mut self, enabled: &[&str], disabled: &[&str]) -> Self {
        self.plugins = Selection::new(enabled, disabled);
        self
    }

    /// Whom the plug-in PodSecurity does not judge; nobody by default.
    #[must_use]
    pub fn pod_security_exemptions(mut self, exemptions: PodSecurityExemptions) -> Self {
        self.pod_security_exemptions = exemptions;
        self
    }

    /// What the plug-in PodSecurity asks of Pods where a namespace's labels do not say; nothing by
    /// default. Starting fails when these are no levels and versions.
    #[must_use]
    pub fn pod_security_defaults(mut self, defaults: PodSecurityDefaults) -> Self {
        self.pod_security_defaults = defaults;
        self
    }

    /// Serves PodPresets (`settings.k8s.io/v1alpha1`) and turns the plug-in on that gives Pods what
    /// they say. Not so by default, as it never was in Kubernetes, which had them until 1.19.
    #[must_use]
    pub fn pod_presets(mut self) -> Self {
        self.resources = self.resources.with_pod_presets();
        self.plugins.enable("PodPreset");
        self
    }

    /// How many Events may be written; the plug-in EventRateLimit, which enforces it, must be turned
    /// on.
    #[must_use]
    pub fn event_rate_limits(mut self, limits: EventRateLimits) -> Self {
        self.event_rate_limits = Some(limits);
        self
    }

    /// Which service says what images may run; the plug-in ImagePolicyWebhook, which asks it, must be
    /// turned on.
    #[must_use]
    pub fn image_policy(mut self, policy: ImagePolicy) -> Self {
        self.image_policy = Some(policy);
        self
    }

    /// The range of Service addresses; `10.96.0.0/16` by default. Two ranges, with a comma between
    /// them, make a cluster with both families of addresses; the first is the one that Services
    /// get which do not say.
    #[must_use]
    pub fn service_cidr(mut self, cidr: &str) -> Self {
        cidr.clone_into(&mut self.service_cidr);
        self
    }

    /// The range of node ports; 30000 to 32767 by default.
    #[must_use]
    pub fn node_port_range(mut self, ports: RangeInclusive<u16>) -> Self {
        self.node_ports = ports;
        self
    }

    /// Where others reach this server: it is among the endpoints of the Service `kubernetes` for as
    /// long as it lives, next to all other servers on the same store. Not so by default.
    #[must_use]
    pub fn advertise(mut self, address: SocketAddr) -> Self {
        self.advertised = Some(address);
        self
    }

    /// Whether a Pod can only be created once its namespace has the service account `default`, as
    /// in a whole cluster. Off by default: without a controller nobody makes these accounts.
    #[must_use]
    pub fn require_service_accounts(mut self, required: bool) -> Self {
        self.require_service_accounts = required;
        self
    }

    /// Whether `metadata.managedFields` records who created and changed what; on by default, as in
    /// Kubernetes. Without it only server-side apply keeps managers, beginning with the first
    /// application, and a write costs less.
    #[must_use]
    pub fn managed_fields(mut self, kept: bool) -> Self {
        self.managed_fields = kept;
        self
    }

    /// The key that signs service-account tokens; a new one by default, so that tokens end with
    /// this server. A lasting one is in a [`Pki`].
    #[must_use]
    pub fn token_key(mut self, key: TokenKey) -> Self {
        self.token_key = Some(key);
        self
    }

    /// How to reach the agents of nodes, for logs, exec, attach and port-forward; not at all by
    /// default. [`TlsNodes`] reaches those of a usual cluster.
    #[must_use]
    pub fn node_connector(mut self, connector: Arc<dyn NodeConnector>) -> Self {
        self.nodes = connector;
        self
    }

    /// How the server reaches others: webhooks, aggregated API servers, what is behind its proxies.
    /// By default from where the process is.
    #[must_use]
    pub fn dialer(mut self, dialer: Arc<dyn Dialer>) -> Self {
        self.dialer = dialer;
        self
    }

    /// Whether a Service is reached at one of its endpoints and not at its own address, for servers
    /// that are on no node (`--enable-aggregator-routing`); off by default.
    #[must_use]
    pub fn route_to_endpoints(mut self, routed: bool) -> Self {
        self.route_to_endpoints = routed;
        self
    }

    /// The certificate that this server shows to the servers behind it, which believe it who asks
    /// (`--proxy-client-cert-file`, `--proxy-client-key-file`); none by default.
    #[must_use]
    pub fn proxy_client(mut self, identity: Identity) -> Self {
        self.proxy_client = Some(identity);
        self
    }

    /// What the servers behind this one are told of how it authenticates, in the ConfigMap
    /// `extension-apiserver-authentication` of kube-system; nothing by default.
    #[must_use]
    pub fn extension_authentication(mut self, authorities: ExtensionAuthentication) -> Self {
        self.extension_authentication = authorities;
        self
    }

    /// Records requests; not so by default. See [`audit`].
    #[must_use]
    pub fn audit(mut self, config: AuditConfig) -> Self {
        self.audit = config;
        self
    }

    /// Whether requests are served by priority and fairly between users and namespaces, as
    /// FlowSchemas and PriorityLevelConfigurations say; on by default. Without it
    /// [`Self::max_in_flight`] limits those that read and those that change something, each on its
    /// own, and refuses what is more.
    #[must_use]
    pub fn priority_and_fairness(mut self, enabled: bool) -> Self {
        self.priority_and_fairness = enabled;
        self
    }

    /// How many requests are served at the same time: of those that read 400 by default, of those that
    /// change something 200. With priority and fairness all levels share the sum. Without it 0 is any
    /// number.
    #[must_use]
    pub fn max_in_flight(mut self, readonly: u32, mutating: u32) -> Self {
        self.max_in_flight = (readonly, mutating);
        self
    }

    /// Loads what the store holds and creates what every cluster has.
    pub async fn start(self) -> Result<ApiServer, StartError> {
        let ranges = allocator::ranges(&self.service_cidr)
            .ok_or_else(|| StartError::ServiceCidr(self.service_cidr.clone()))?;
        let audit = self.audit.start().await?;
        let shutdown = CancellationToken::new();
        let guard = Arc::new(shutdown.clone().drop_guard());
        let cache = Cache::start(self.store, &self.resources, shutdown.clone()).await?;
        let kinds = Arc::new(Kinds::new(self.resources.clone()));
        let token_key = self.token_key.map_or_else(TokenKey::generate, Ok)?;
        let reader = Reader { cache: cache.clone(), resources: self.resources.clone() };
        let services = outbound::Services::of(&reader, self.route_to_endpoints);
        let outbound = Outbound::new(self.dialer, services);
        let rbac = Rbac::of(&reader);
        let mut authorizers: Vec<Arc<dyn Authorizer>> = match self.authorizer {
            Some(own) => vec![own],
            None => {
                let modes = self.authorization_modes.into_iter();
                modes
                    .map(|mode| match mode {
                        AuthorizationMode::Node => Arc::new(NodeAuthorizer::of(&reader)) as _,
                        AuthorizationMode::Rbac => Arc::new(rbac.clone()) as _,
                        AuthorizationMode::Other(other) => other,
                    })
                    .collect()
            }
        };
        authorizers.extend(self.more_authorizers);
        let authorizer: Arc<dyn Authorizer> = Arc::new(authz::Chain(authorizers));
        let metrics = Arc::new(Metrics::default());
        let provisioner = Provisioner::default();
        let image_policy = match self.image_policy {
            Some(policy) => Some(Arc::new(ImagePolicyWebhook::new(policy).await?)),
            None => None,
        };
        let mut plugins = self.plugins.plugins(&Parts {
            lookup: Lookup { reader: reader.clone(), kinds: kinds.clone() },
            rbac,
            authorizer: authorizer.clone(),
            outbound: outbound.clone(),
            metrics: metrics.admission.clone(),
            provisioner: provisioner.clone(),
            pod_security_exemptions: self.pod_security_exemptions,
            pod_security_defaults: self.pod_security_defaults,
            event_rate_limits: self.event_rate_limits,
            image_policy,
            require_service_accounts: self.require_service_accounts,
        })?;
        plugins.extend(self.admission);
        if !self.privileged {
            // Before anything counts what is then refused.
            plugins.insert(0, Arc::new(admission::Unprivileged));
        }
        let registry = Registry {
            services: Services::new(cache.clone(), &self.resources, ranges, self.node_ports),
            cache,
            event_ttl: self.event_ttl,
            admission: admission::Chain(plugins),
            tracker: Tracker { enabled: self.managed_fields, kinds: kinds.clone() },
            converter: Arc::new(Converter::new(outbound.clone())),
        };
        let custom_resources = CustomResources::of(&reader);
        let (readonly, mutating) = self.max_in_flight;
        let flow_control = self.priority_and_fairness.then(|| {
            let seats = readonly.saturating_add(mutating).max(1);
            let metrics = metrics.flow_control.clone();
            Arc::new(FlowControl::new(seats, registry.cache.clone(), kinds.clone(), metrics))
        });
        let service_accounts =
            ServiceAccountTokens { key: token_key.clone(), reader: reader.clone() };
        let aggregator = Aggregator::new(self.proxy_client);
        let published_authentication =
            aggregation::published(&self.extension_authentication, self.request_headers.as_ref());
        let mut authenticators: Vec<Arc<dyn Authenticator>> = Vec::new();
        if let Some(headers) = self.request_headers {
            authenticators.push(Arc::new(headers));
        }
        authenticators.push(Arc::new(ClientCertificates));
        authenticators.extend(self.authenticators);
        authenticators.push(Arc::new(service_accounts.clone()));
        if self.bootstrap_tokens {
            authenticators.push(Arc::new(BootstrapTokens(reader.clone())));
        }
        let authenticator: Arc<dyn Authenticator> = Arc::new(Union(authenticators));
        let inner = Arc::new(Inner {
            kinds,
            custom_resources,
            reader,
            registry,
            metrics,
            token_key,
            nodes: self.nodes,
            outbound,
            authenticator,
            service_accounts,
            authorizer,
            audit,
            flow_control,
            aggregator,
            published_authentication,
            roles_ready: tokio::sync::watch::Sender::new(false),
            advertised: self.advertised,
            shutdown,
        });
        provisioner.set(&inner);
        custom_resources::start(&inner).await?;
        let repairs = bootstrap::run(&inner).await?;
        let repair = bootstrap::repair(Arc::downgrade(&inner), repairs, inner.shutdown.clone());
        tokio::spawn(repair);
        masters::start(&inner);
        tokio::spawn(bootstrap::roles(Arc::downgrade(&inner), inner.shutdown.clone()));
        let checking =
            admission::type_checking::keep(Arc::downgrade(&inner), inner.shutdown.clone());
        tokio::spawn(checking);
        tokio::spawn(bootstrap::keep(Arc::downgrade(&inner), inner.shutdown.clone()));
        tokio::spawn(aggregation::run(Arc::downgrade(&inner), inner.shutdown.clone()));
        let gate = match &inner.flow_control {
            Some(flow_control) => {
                let (server, shutdown) = (Arc::downgrade(&inner), inner.shutdown.clone());
                tokio::spawn(flow_control::run(server, Arc::downgrade(flow_control), shutdown));
                Gate::Fair(flow_control.clone())
            }
            None => Gate::InFlight(Arc::new(InFlight::new(readonly, mutating))),
        };
        Ok(ApiServer { stack: stack(&inner, self.anonymous, gate), inner, _guard: guard })
    }
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
        Builder {
            store,
            resources: Resources::builtin(),
            authenticators: Vec::new(),
            anonymous: true,
            bootstrap_tokens: false,
            request_headers: None,
            authorizer: None,
            authorization_modes: vec![AuthorizationMode::Node, AuthorizationMode::Rbac],
            privileged: true,
            event_ttl: registry::EVENT_TTL,
            more_authorizers: Vec::new(),
            admission: Vec::new(),
            plugins: Selection::default(),
            pod_security_exemptions: PodSecurityExemptions::default(),
            pod_security_defaults: PodSecurityDefaults::default(),
            event_rate_limits: None,
            image_policy: None,
            service_cidr: "10.96.0.0/16".to_owned(),
            node_ports: 30000..=32767,
            advertised: None,
            require_service_accounts: false,
            managed_fields: true,
            token_key: None,
            nodes: Arc::new(NoNodes),
            dialer: Arc::new(TcpDialer),
            route_to_endpoints: false,
            audit: AuditConfig::default(),
            priority_and_fairness: true,
            max_in_flight: (400, 200),
            proxy_client: None,
            extension_authentication: ExtensionAuthentication::default(),
        }
    }

    /// Waits until the default roles and bindings are there. Until then only members of
    /// `system:masters` may do anything on a new store.
    pub async fn roles_ready(&self) {
        let mut ready = self.inner.roles_ready.subscribe();
        // The sender lives as long as the server does.
        let _ = ready.wait_for(|ready| *ready).await;
    }

    /// Takes the server from the endpoints of `kubernetes`, ends all watches and stops following the
    /// store. Requests are still answered, from what the cache holds then.
    pub async fn shutdown(&self) {
        if let Some(own) = self.inner.advertised.filter(|_| !self.inner.shutdown.is_cancelled())
            && let Err(error) = masters::leave(&self.inner, own).await
        {
            tracing::warn!(%error, "this server stays among the endpoints for some seconds");
        }
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
