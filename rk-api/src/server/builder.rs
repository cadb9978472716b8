//! What a server is made of, and its start.

use std::{net::SocketAddr, ops::RangeInclusive, sync::Arc, time::Duration};

use rk_store::{Store, StoreError};
use tokio_util::sync::CancellationToken;

use super::{
    ApiError, ApiServer, Dialer, ExtensionAuthentication, Identity, Inner, NodeConnector,
    TcpDialer, TokenKey, TokenKeyError,
    admission::{
        self, Admission, EventRateLimits, ImagePolicy, ImagePolicyWebhook, Lookup, Parts,
        PluginError, PodSecurityDefaults, PodSecurityExemptions, Provisioner, ResourceQuotaLimits,
        Selection,
    },
    aggregation::{self, Aggregator},
    allocator::{self, Services},
    audit::{AuditConfig, AuditConfigError},
    authn::{
        Authenticator, BootstrapTokens, ClientCertificates, RequestHeaders, ServiceAccountTokens,
        Union,
    },
    authz::{self, AuthorizationMode, Authorizer, node::NodeAuthorizer, rbac::Rbac},
    bootstrap,
    cache::Cache,
    components::{Asked, Component, ComponentHealth},
    custom_resources::{self, Converter, CustomResources},
    flow_control::{self, FlowControl, InFlight},
    kinds::Kinds,
    layers::flow_control::Gate,
    managed_fields::Tracker,
    masters,
    metrics::{Measured, Metrics},
    nodes::NoNodes,
    outbound::{self, Outbound},
    reader::Reader,
    registry::{self, Registry},
    stack,
};
use crate::resources::Resources;

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
    resource_quota_limits: ResourceQuotaLimits,
    image_policy: Option<ImagePolicy>,
    service_cidr: String,
    node_ports: RangeInclusive<u16>,
    advertised: Option<SocketAddr>,
    require_service_accounts: bool,
    managed_fields: bool,
    token_key: Option<TokenKey>,
    nodes: Arc<dyn NodeConnector>,
    components: Vec<Component>,
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
    ImagePolicy(#[from] super::authn::WebhookError),
    /// The objects that every cluster has could not be created.
    #[error("cannot create what every cluster has")]
    Bootstrap(#[from] ApiError),
}

impl Builder {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self {
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
            resource_quota_limits: ResourceQuotaLimits::default(),
            image_policy: None,
            service_cidr: "10.96.0.0/16".to_owned(),
            node_ports: 30000..=32767,
            advertised: None,
            require_service_accounts: false,
            managed_fields: true,
            token_key: None,
            nodes: Arc::new(NoNodes),
            components: Vec::new(),
            dialer: Arc::new(TcpDialer),
            route_to_endpoints: false,
            audit: AuditConfig::default(),
            priority_and_fairness: true,
            max_in_flight: (400, 200),
            proxy_client: None,
            extension_authentication: ExtensionAuthentication::default(),
        }
    }

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

    /// What a namespace may only use if it has a quota for it; nothing by default. Starting fails
    /// when a limit names no kind.
    #[must_use]
    pub fn resource_quota_limits(mut self, limits: ResourceQuotaLimits) -> Self {
        self.resource_quota_limits = limits;
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
    /// this server. A lasting one is in a [`Pki`](super::pki::Pki).
    #[must_use]
    pub fn token_key(mut self, key: TokenKey) -> Self {
        self.token_key = Some(key);
        self
    }

    /// How to reach the agents of nodes, for logs, exec, attach and port-forward; not at all by
    /// default. [`TlsNodes`](super::TlsNodes) reaches those of a usual cluster.
    #[must_use]
    pub fn node_connector(mut self, connector: Arc<dyn NodeConnector>) -> Self {
        self.nodes = connector;
        self
    }

    /// Asks this part of the control plane for its health when somebody reads ComponentStatuses.
    /// Without any they show the store alone.
    #[must_use]
    pub fn component(mut self, name: &str, health: Arc<dyn ComponentHealth>) -> Self {
        self.components.push(Component { name: name.to_owned(), health: Asked::Here(health) });
        self
    }

    /// The same for one that is asked at a URL, for example `https://127.0.0.1:10259/healthz`,
    /// whatever certificate it shows there.
    #[must_use]
    pub fn component_at(mut self, name: &str, url: &str) -> Self {
        self.components
            .push(Component { name: name.to_owned(), health: Asked::At(url.to_owned()) });
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

    /// Records requests; not so by default. See [`audit`](super::audit).
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
        let metrics = Arc::new(Metrics::default());
        let store = Arc::new(Measured::new(self.store, metrics.store.clone()));
        // What is not served in its stored version is stored in it all the same.
        let stored = self.resources.with_stored();
        let cache = Cache::start(store, &stored, shutdown.clone()).await?;
        let kinds = Arc::new(Kinds::new(self.resources.clone()));
        let token_key = self.token_key.map_or_else(TokenKey::generate, Ok)?;
        let reader = Reader { cache: cache.clone(), resources: stored.clone() };
        let services = outbound::Services::of(&reader, self.route_to_endpoints);
        let outbound = Outbound::new(self.dialer, services);
        let rbac = Rbac::of(&reader);
        let authorizer = authorizer(
            self.authorizer,
            self.authorization_modes,
            self.more_authorizers,
            &reader,
            &rbac,
        );
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
            resource_quota_limits: self.resource_quota_limits,
            image_policy,
            require_service_accounts: self.require_service_accounts,
        })?;
        plugins.extend(self.admission);
        if !self.privileged {
            // Before anything counts what is then refused.
            plugins.insert(0, Arc::new(admission::Unprivileged));
        }
        let registry = Registry {
            services: Services::new(cache.clone(), &stored, ranges, self.node_ports),
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
        let service_accounts = ServiceAccountTokens {
            key: token_key.clone(),
            reader: reader.clone(),
            metrics: metrics.tokens.clone(),
            server: provisioner.clone(),
        };
        let aggregator = Aggregator::new(self.proxy_client);
        let published_authentication =
            aggregation::published(&self.extension_authentication, self.request_headers.as_ref());
        let authenticator = authenticator(
            self.request_headers,
            self.authenticators,
            service_accounts.clone(),
            self.bootstrap_tokens.then(|| BootstrapTokens(reader.clone())),
        );
        let inner = Arc::new(Inner {
            kinds,
            custom_resources,
            reader,
            registry,
            metrics,
            token_key,
            nodes: self.nodes,
            components: self.components,
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
            leaving: shutdown.child_token(),
            shutdown,
        });
        provisioner.set(&inner);
        begin(&inner).await?;
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

/// Asks `own`, or else those of the modes, and then the others.
fn authorizer(
    own: Option<Arc<dyn Authorizer>>,
    modes: Vec<AuthorizationMode>,
    more: Vec<Arc<dyn Authorizer>>,
    reader: &Reader,
    rbac: &Rbac,
) -> Arc<dyn Authorizer> {
    let mut authorizers: Vec<Arc<dyn Authorizer>> = match own {
        Some(own) => vec![own],
        None => modes
            .into_iter()
            .map(|mode| match mode {
                AuthorizationMode::Node => Arc::new(NodeAuthorizer::of(reader)) as _,
                AuthorizationMode::Rbac => Arc::new(rbac.clone()) as _,
                AuthorizationMode::Other(other) => other,
            })
            .collect(),
    };
    authorizers.extend(more);
    Arc::new(authz::Chain(authorizers))
}

/// Asks proxies' headers, client certificates, `own`, and the tokens of the cluster, in this order.
fn authenticator(
    headers: Option<RequestHeaders>,
    own: Vec<Arc<dyn Authenticator>>,
    service_accounts: ServiceAccountTokens,
    bootstrap_tokens: Option<BootstrapTokens>,
) -> Arc<dyn Authenticator> {
    let mut authenticators: Vec<Arc<dyn Authenticator>> = Vec::new();
    if let Some(headers) = headers {
        authenticators.push(Arc::new(headers));
    }
    authenticators.push(Arc::new(ClientCertificates));
    authenticators.extend(own);
    authenticators.push(Arc::new(service_accounts));
    if let Some(tokens) = bootstrap_tokens {
        authenticators.push(Arc::new(tokens));
    }
    Arc::new(Union(authenticators))
}

/// Creates what every cluster has and begins what goes on as long as the server does.
async fn begin(inner: &Arc<Inner>) -> Result<(), StartError> {
    let shutdown = || inner.shutdown.clone();
    custom_resources::start(inner).await?;
    let repairs = bootstrap::run(inner).await?;
    tokio::spawn(bootstrap::repair(Arc::downgrade(inner), repairs, shutdown()));
    masters::start(inner);
    tokio::spawn(bootstrap::roles(Arc::downgrade(inner), shutdown()));
    tokio::spawn(admission::type_checking::keep(Arc::downgrade(inner), shutdown()));
    tokio::spawn(bootstrap::keep(Arc::downgrade(inner), shutdown()));
    tokio::spawn(aggregation::run(Arc::downgrade(inner), shutdown()));
    Ok(())
}
