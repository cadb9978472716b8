//! All controllers of a process: which of them run, and what they share.

use std::{collections::BTreeMap, fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use kube::Client;
use rk_api::client::{EventRecorder, Informers, LeaderElectionConfig, LeaderElector};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    certificates::CertificateSigner,
    cloud::{self, CloudProvider},
    controller::Controller,
    discovery::Served,
    metrics::Metrics,
    podautoscaler::{AutoscalerOptions, MetricsClient},
    service_account_tokens::TokenSigner,
};

mod registry;

use registry::{Entry, REGISTRY};

/// Runs controllers until told to stop.
///
/// Controllers have the names that kube-controller-manager gives them, old short names included.
/// Those whose kinds the API server does not serve are left out with a warning.
///
/// ```no_run
/// # async fn example(client: kube::Client) -> Result<(), rk_controllers::ManagerError> {
/// use rk_controllers::Manager;
/// use tokio_util::sync::CancellationToken;
///
/// let manager = Manager::builder(client).controllers("*,-nodeipam").leader_elect(true).build()?;
/// manager.run(CancellationToken::new()).await;
/// # Ok(())
/// # }
/// ```
pub struct Manager {
    context: Context,
    enabled: Vec<&'static Entry>,
    own: Vec<Make>,
    leader_election: Option<LeaderElectionConfig>,
    credentials: Option<Credentials>,
}

/// Why a [`Manager`] cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManagerError {
    /// No controller has this name.
    #[error("there is no controller {name:?}; known are {known}")]
    UnknownController {
        /// As given.
        name: String,
        /// All names, comma separated.
        known: String,
    },

    /// A setting is out of its range or contradicts another.
    #[error("{0}")]
    Invalid(String),
}

/// What the controllers of a manager share.
#[derive(Clone)]
pub struct Context {
    /// How they talk to the API server.
    pub client: Client,
    /// Shared caches: a kind is listed and decoded once for all controllers.
    pub informers: Informers,
    /// Counters by controller.
    pub metrics: Metrics,
    pub(crate) settings: Arc<Settings>,
}

impl Context {
    /// A recorder of events in the name of a controller.
    pub fn recorder(&self, controller: &str) -> EventRecorder {
        EventRecorder::new(self.client.clone(), controller)
    }
}

/// What can be set from outside; see the builder's methods.
pub(crate) struct Settings {
    pub workers: usize,
    /// By the names of controllers.
    pub workers_of: BTreeMap<&'static str, usize>,
    pub node_monitor_grace_period: Duration,
    pub node_monitor_period: Duration,
    pub cluster_cidr: String,
    pub node_cidr_mask_size: u8,
    pub terminated_pod_threshold: usize,
    pub root_ca: Option<String>,
    pub token_signer: Option<Arc<dyn TokenSigner>>,
    pub certificate_signer: Option<Arc<dyn CertificateSigner>>,
    pub certificate_duration: Duration,
    pub legacy_token_secrets: bool,
    pub legacy_token_clean_up_period: Duration,
    pub autoscaler: AutoscalerOptions,
    pub metrics_client: Option<Arc<dyn MetricsClient>>,
    pub cloud: Option<Arc<dyn CloudProvider>>,
}

pub(crate) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;
type Credentials = Arc<dyn Fn(&str) -> Client + Send + Sync>;
type Make = Box<dyn FnOnce(&Context) -> Controller + Send>;

/// Sets up a [`Manager`].
pub struct ManagerBuilder {
    client: Client,
    informers: Option<Informers>,
    selection: String,
    own: Vec<Make>,
    leader_election: Option<LeaderElectionConfig>,
    credentials: Option<Credentials>,
    settings: Settings,
}

impl Manager {
    /// All default controllers, no leader election, default settings.
    pub fn builder(client: Client) -> ManagerBuilder {
        ManagerBuilder {
            client,
            informers: None,
            selection: "*".into(),
            own: Vec::new(),
            leader_election: None,
            credentials: None,
            settings: Settings {
                workers: 5,
                workers_of: BTreeMap::new(),
                node_monitor_grace_period: Duration::from_secs(40),
                node_monitor_period: Duration::from_secs(5),
                cluster_cidr: "10.244.0.0/16".into(),
                node_cidr_mask_size: 24,
                terminated_pod_threshold: 12_500,
                root_ca: None,
                token_signer: None,
                certificate_signer: None,
                certificate_duration: Duration::from_secs(365 * 24 * 60 * 60),
                legacy_token_secrets: false,
                legacy_token_clean_up_period: Duration::from_secs(365 * 24 * 60 * 60),
                autoscaler: AutoscalerOptions::default(),
                metrics_client: None,
                cloud: None,
            },
        }
    }

    /// The counters of all controllers.
    pub fn metrics(&self) -> Metrics {
        self.context.metrics.clone()
    }

    /// The names of the controllers that will run, if the API server serves their kinds.
    pub fn names(&self) -> Vec<&'static str> {
        self.enabled.iter().map(|entry| entry.name).collect()
    }

    /// Works until `shutdown`, or with leader election until leadership is lost: the caller then
    /// builds another manager or ends the process.
    pub async fn run(self, shutdown: CancellationToken) {
        match self.leader_election.clone() {
            None => self.run_controllers(shutdown).await,
            Some(config) => {
                let elector = LeaderElector::new(self.context.client.clone(), config);
                elector.run(shutdown, |leading| self.run_controllers(leading)).await;
            }
        }
    }

    async fn run_controllers(self, shutdown: CancellationToken) {
        let Some(served) =
            shutdown.run_until_cancelled(Served::discover(&self.context.client)).await
        else {
            return;
        };
        let mut tasks = JoinSet::new();
        for entry in self.enabled {
            let missing = entry.needs.iter().find(|(version, plural)| !served.has(version, plural));
            if let Some((version, plural)) = missing {
                tracing::warn!(
                    controller = entry.name,
                    "not started: the API server does not serve {plural} of {version}"
                );
                continue;
            }
            let mut context = self.context.clone();
            if let (Some(credentials), Some(account)) =
                (&self.credentials, registry::account(entry.name))
            {
                context.client = credentials(account);
            }
            tasks.spawn((entry.start)(entry.name, &context, shutdown.clone()));
        }
        for make in self.own {
            let controller = make(&self.context).metrics(&self.context.metrics);
            tasks.spawn(controller.run(shutdown.clone()));
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a controller ended unexpectedly");
            }
        }
        shutdown.cancelled().await;
    }
}

impl ManagerBuilder {
    /// Which controllers run, as kube-controller-manager's `--controllers` takes it: a comma
    /// separated list of `*` (all that are on by default), `name` and `-name`. Default `*`, which is
    /// all but `bootstrapsigner` and `tokencleaner`.
    pub fn controllers(mut self, selection: &str) -> Self {
        self.selection = selection.to_owned();
        self
    }

    /// Caches to share with other components of the process.
    pub fn informers(mut self, informers: Informers) -> Self {
        self.informers = Some(informers);
        self
    }

    /// Lets each built-in controller write as a service account of its own in kube-system, whose name
    /// is handed in (`--use-service-account-credentials`). By default all share the manager's client.
    pub fn credentials(mut self, client: impl Fn(&str) -> Client + Send + Sync + 'static) -> Self {
        self.credentials = Some(Arc::new(client));
        self
    }

    /// Adds a controller of your own, made when the manager starts it.
    pub fn with(mut self, make: impl FnOnce(&Context) -> Controller + Send + 'static) -> Self {
        self.own.push(Box::new(make));
        self
    }

    /// Whether to work only while holding the Lease kube-system/kube-controller-manager. Off by
    /// default.
    pub fn leader_elect(mut self, elect: bool) -> Self {
        self.leader_election = elect.then(|| LeaderElectionConfig::new("kube-controller-manager"));
        self
    }

    /// Leader election with another Lease or other timings.
    pub fn leader_election(mut self, config: LeaderElectionConfig) -> Self {
        self.leader_election = Some(config);
        self
    }

    /// How many objects of a kind each controller works on at the same time. Default 5.
    pub fn workers(mut self, workers: usize) -> Self {
        self.settings.workers = workers;
        self
    }

    /// The same for one controller, by its name.
    ///
    /// # Errors
    /// When there is no controller of this name.
    pub fn workers_of(mut self, controller: &str, workers: usize) -> Result<Self, ManagerError> {
        let Some(name) = registry::full_name(controller) else {
            return Err(registry::unknown(controller));
        };
        self.settings.workers_of.insert(name, workers);
        Ok(self)
    }

    /// How long a node may be silent before it counts as unreachable. Default 40 s.
    pub fn node_monitor_grace_period(mut self, period: Duration) -> Self {
        self.settings.node_monitor_grace_period = period;
        self
    }

    /// How often the signs of life of nodes are checked. Default 5 s.
    pub fn node_monitor_period(mut self, period: Duration) -> Self {
        self.settings.node_monitor_period = period;
        self
    }

    /// The range from which nodes get their Pod ranges, and the size of each. Default
    /// 10.244.0.0/16 and 24.
    pub fn cluster_cidr(mut self, cidr: &str, node_mask_size: u8) -> Self {
        self.settings.cluster_cidr = cidr.to_owned();
        self.settings.node_cidr_mask_size = node_mask_size;
        self
    }

    /// How many ended Pods may stay before the oldest are deleted; 0 for no limit. Default 12500.
    pub fn terminated_pod_gc_threshold(mut self, threshold: usize) -> Self {
        self.settings.terminated_pod_threshold = threshold;
        self
    }

    /// The certificate authority of the API server, in PEM: published to each namespace as ConfigMap
    /// `kube-root-ca.crt`, and put into token Secrets.
    pub fn root_ca(mut self, pem: impl Into<String>) -> Self {
        self.settings.root_ca = Some(pem.into());
        self
    }

    /// Who signs the tokens of Secrets of type `kubernetes.io/service-account-token`. Without one
    /// such Secrets stay empty.
    pub fn token_signer(mut self, signer: Arc<dyn TokenSigner>) -> Self {
        self.settings.token_signer = Some(signer);
        self
    }

    /// Who issues the certificates of approved signing requests. Without one they get none.
    pub fn certificate_signer(mut self, signer: Arc<dyn CertificateSigner>) -> Self {
        self.settings.certificate_signer = Some(signer);
        self
    }

    /// How long certificates last at most, and when a request does not say. Default a year.
    pub fn certificate_duration(mut self, duration: Duration) -> Self {
        self.settings.certificate_duration = duration;
        self
    }

    /// Whether each ServiceAccount gets a token Secret `<name>-token-xxxxx`, as Kubernetes did up
    /// to 1.23. Off by default; needs a token signer.
    pub fn legacy_token_secrets(mut self, create: bool) -> Self {
        self.settings.legacy_token_secrets = create;
        self
    }

    /// How long a generated token Secret must go unused before it is marked as invalid, and then
    /// before it is deleted. Default a year.
    pub fn legacy_token_clean_up_period(mut self, period: Duration) -> Self {
        self.settings.legacy_token_clean_up_period = period;
        self
    }

    /// Settings of the HorizontalPodAutoscaler controller.
    pub fn autoscaler(mut self, options: AutoscalerOptions) -> Self {
        self.settings.autoscaler = options;
        self
    }

    /// Where the HorizontalPodAutoscaler controller takes its measurements from. Default: the
    /// metrics APIs behind the API server.
    pub fn metrics_client(mut self, metrics: Arc<dyn MetricsClient>) -> Self {
        self.settings.metrics_client = Some(metrics);
        self
    }

    /// The cloud that the machines, load balancers and routes of the cluster are in. Without one the
    /// cloud controllers do nothing.
    pub fn cloud_provider(mut self, cloud: Arc<dyn CloudProvider>) -> Self {
        self.settings.cloud = Some(cloud);
        self
    }

    /// Checks the settings. Call it within a tokio runtime.
    pub fn build(self) -> Result<Manager, ManagerError> {
        let mut enabled = registry::select(REGISTRY, &self.selection)?;
        let settings = self.settings;
        if settings.cloud.is_none() {
            enabled.retain(|entry| !cloud::CONTROLLERS.contains(&entry.name));
        }
        let cidr =
            crate::node_ipam::CidrPool::new(&settings.cluster_cidr, settings.node_cidr_mask_size);
        cidr.map_err(|error| ManagerError::Invalid(error.to_string()))?;
        if settings.node_monitor_period > settings.node_monitor_grace_period {
            return Err(ManagerError::Invalid(format!(
                "node_monitor_period ({:?}) must not be longer than node_monitor_grace_period ({:?})",
                settings.node_monitor_period, settings.node_monitor_grace_period
            )));
        }
        if settings.legacy_token_secrets && settings.token_signer.is_none() {
            return Err(ManagerError::Invalid("legacy_token_secrets needs a token_signer".into()));
        }
        if settings.legacy_token_clean_up_period.is_zero() {
            let message = "legacy_token_clean_up_period must be greater than 0";
            return Err(ManagerError::Invalid(message.into()));
        }
        if let Some(config) = &self.leader_election {
            config.validate().map_err(ManagerError::Invalid)?;
        }
        let informers = self.informers.unwrap_or_else(|| Informers::new(self.client.clone()));
        let context = Context {
            client: self.client,
            informers,
            metrics: Metrics::default(),
            settings: Arc::new(settings),
        };
        Ok(Manager {
            context,
            enabled,
            own: self.own,
            leader_election: self.leader_election,
            credentials: self.credentials,
        })
    }
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager").field("controllers", &self.names()).finish_non_exhaustive()
    }
}

impl fmt::Debug for ManagerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManagerBuilder")
            .field("controllers", &self.selection)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("informers", &self.informers).finish_non_exhaustive()
    }
}
