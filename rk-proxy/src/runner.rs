use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use rk_api::client::{Backoff, Change, Informer, Informers, Subscription};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{Applied, NodeView, Rules, ServiceProxy, plan};

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const BY_SERVICE: &str = "rk-proxy/service";

/// Keeps a [`ServiceProxy`] up to date with an API server.
///
/// It watches Services, EndpointSlices and its own Node. What changes while an apply is under way
/// is gathered and applied together afterwards: one apply at a time, and the objects that changed,
/// each once, are all that waits. A failed apply is tried again with pauses of 0.1 s to 30 s, with
/// the newest objects each time.
///
/// Nothing is applied before all objects are known, so that a restart never takes away rules that
/// are right. When it ends the rules stay: traffic goes on while a proxy restarts.
#[derive(Debug)]
pub struct Proxy {
    settings: ProxyBuilder,
    status: watch::Sender<ProxyStatus>,
}

/// What to set before [`Proxy::run`].
#[derive(Clone, Debug)]
pub struct ProxyBuilder {
    informers: Informers,
    node: NodeView,
    backend: Option<Arc<dyn ServiceProxy>>,
    min_sync_period: Duration,
    sync_period: Duration,
}

/// What a [`Proxy`] has achieved.
#[derive(Clone, Debug, Default)]
pub struct ProxyStatus {
    /// Number of applies that succeeded.
    pub revision: u64,
    /// The rules in force, as far as this process put them there.
    pub rules: Rules,
    /// What the last apply that succeeded did.
    pub applied: Option<Applied>,
    /// Why the newest rules are not in force.
    pub error: Option<String>,
}

/// The builder has no backend.
#[derive(Debug, thiserror::Error)]
#[error("a proxy needs a backend")]
pub struct NoBackend;

impl Proxy {
    /// A proxy for the node of this name.
    pub fn builder(informers: Informers, node_name: impl Into<String>) -> ProxyBuilder {
        ProxyBuilder {
            informers,
            node: NodeView::new(node_name),
            backend: None,
            min_sync_period: Duration::from_millis(100),
            sync_period: Duration::from_secs(30),
        }
    }

    /// The newest status, and a way to wait for changes of it.
    pub fn status(&self) -> watch::Receiver<ProxyStatus> {
        self.status.subscribe()
    }

    /// Works until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        // Ended at any point the rules are those of the last apply: nothing to clean up.
        shutdown.run_until_cancelled(self.work()).await;
    }

    async fn work(self) {
        let Self { settings, status } = self;
        let ProxyBuilder { informers, node, backend, min_sync_period, sync_period } = settings;
        let Some(backend) = backend else { return };
        let mut watched = Watched::start(&informers, &node.name);
        watched.synced().await;

        let mut planner = Planner::new(&watched, node);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        let mut dirty = Dirty { everything: true, ..Dirty::default() };
        let mut not_before = Instant::now();
        // The first apply happens even without a single Service: old rules must go.
        let mut retry = true;
        let mut resync_at = Instant::now() + sync_period;
        loop {
            if dirty.is_empty() && !retry {
                tokio::select! { biased;
                    () = watched.changed(&mut dirty) => {}
                    () = tokio::time::sleep_until(resync_at) => retry = true,
                }
            }
            tokio::time::sleep_until(not_before).await;
            watched.drain(&mut dirty);

            let changed = planner.plan(&watched, std::mem::take(&mut dirty));
            if !changed && !retry {
                continue;
            }
            let started = Instant::now();
            match backend.apply(&planner.rules).await {
                Ok(applied) => {
                    tracing::debug!(?applied, "rules in force");
                    backoff.reset();
                    retry = false;
                    not_before = started + min_sync_period;
                    status.send_modify(|status| {
                        status.revision += 1;
                        status.rules = planner.rules.clone();
                        status.applied = Some(applied);
                        status.error = None;
                    });
                }
                Err(error) => {
                    let pause = backoff.pause();
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        ?pause,
                        "rules not applied"
                    );
                    retry = true;
                    not_before = Instant::now() + pause;
                    status.send_modify(|status| status.error = Some(error.to_string()));
                }
            }
            resync_at = Instant::now() + sync_period;
        }
    }
}

impl ProxyBuilder {
    /// What puts the rules in force.
    #[must_use]
    pub fn backend(mut self, backend: Arc<dyn ServiceProxy>) -> Self {
        self.backend = Some(backend);
        self
    }

    /// The addresses that serve node ports. Default: all of the node but loopback.
    #[must_use]
    pub fn node_ips(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.node.addresses = addresses.into_iter().collect();
        self
    }

    /// At least this long from one apply to the next. Default 100 ms.
    #[must_use]
    pub fn min_sync_period(mut self, period: Duration) -> Self {
        self.min_sync_period = period;
        self
    }

    /// After this long without changes the backend is asked to check what it left. Default 30 s.
    #[must_use]
    pub fn sync_period(mut self, period: Duration) -> Self {
        self.sync_period = period;
        self
    }

    /// The proxy.
    ///
    /// # Errors
    /// Without a backend.
    pub fn build(self) -> Result<Proxy, NoBackend> {
        if self.backend.is_none() {
            return Err(NoBackend);
        }
        Ok(Proxy { settings: self, status: watch::Sender::new(ProxyStatus::default()) })
    }
}

/// What must be planned anew.
#[derive(Debug, Default)]
struct Dirty {
    everything: bool,
    /// Namespace and name.
    services: BTreeSet<(String, String)>,
}

impl Dirty {
    fn is_empty(&self) -> bool {
        !self.everything && self.services.is_empty()
    }

    fn service(&mut self, change: &Change<Service>) {
        let (namespace, name) = plan::key_of(change.object());
        self.services.insert((namespace.to_owned(), name.to_owned()));
    }

    fn slice(&mut self, change: &Change<EndpointSlice>) {
        let old = match change {
            Change::Updated { old, .. } => Some(old),
            Change::Added(_) | Change::Deleted(_) => None,
        };
        // A slice may change hands.
        let both = old.into_iter().chain([change.object()]);
        for (namespace, name) in both.filter_map(|slice| plan::service_of(slice)) {
            self.services.insert((namespace.to_owned(), name.to_owned()));
        }
    }
}

/// The caches, and news of them.
struct Watched {
    services: Subscription<Service>,
    slices: Subscription<EndpointSlice>,
    nodes: Subscription<Node>,
}

impl Watched {
    fn start(informers: &Informers, node: &str) -> Self {
        let slices = informers.of::<EndpointSlice>();
        slices.add_index(BY_SERVICE, |slice| {
            let service = plan::service_of(slice);
            service.into_iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect()
        });
        let only = format!("metadata.name={node}");
        Self {
            services: informers.of::<Service>().subscribe(),
            slices: slices.subscribe(),
            nodes: informers.selected::<Node>(None, Some(&only)).subscribe(),
        }
    }

    async fn synced(&self) {
        self.services.informer().synced().await;
        self.slices.informer().synced().await;
        self.nodes.informer().synced().await;
    }

    /// Waits for a change and notes it.
    async fn changed(&mut self, dirty: &mut Dirty) {
        tokio::select! { biased;
            change = self.services.next_change() => dirty.service(&change),
            change = self.slices.next_change() => dirty.slice(&change),
            _ = self.nodes.next_change() => dirty.everything = true,
        }
    }

    /// Notes all changes that are there.
    fn drain(&mut self, dirty: &mut Dirty) {
        while let Some(change) = self.services.try_next() {
            dirty.service(&change);
        }
        while let Some(change) = self.slices.try_next() {
            dirty.slice(&change);
        }
        while self.nodes.try_next().is_some() {
            dirty.everything = true;
        }
    }

    fn slices_of(&self, namespace: &str, name: &str) -> Vec<Arc<EndpointSlice>> {
        self.slices.informer().by_index(BY_SERVICE, &format!("{namespace}/{name}"))
    }
}

/// The rules as the caches have them.
struct Planner {
    node: NodeView,
    rules: Rules,
}

impl Planner {
    fn new(watched: &Watched, node: NodeView) -> Self {
        let rules = Rules::at(node.addresses.clone());
        let zone = zone_of(watched.nodes.informer(), &node.name);
        Self { node: NodeView { zone, ..node }, rules }
    }

    /// Brings the rules up to date. Returns whether they changed.
    fn plan(&mut self, watched: &Watched, dirty: Dirty) -> bool {
        let Dirty { everything, mut services } = dirty;
        if everything {
            let zone = zone_of(watched.nodes.informer(), &self.node.name);
            if self.node.zone != zone || self.rules.is_empty() {
                self.node.zone = zone;
                let all = watched.services.informer().list();
                services.extend(all.iter().map(|service| {
                    let (namespace, name) = plan::key_of(service);
                    (namespace.to_owned(), name.to_owned())
                }));
            }
        }
        let mut changed = false;
        for (namespace, name) in services {
            let ports = self.ports_of(watched, &namespace, &name);
            changed |= self.rules.set_service(&namespace, &name, ports);
        }
        changed
    }

    fn ports_of(&self, watched: &Watched, namespace: &str, name: &str) -> Vec<crate::ServicePort> {
        let Some(service) = watched.services.informer().get(namespace, name) else {
            return Vec::new();
        };
        let slices = watched.slices_of(namespace, name);
        let slices: Vec<_> = slices.iter().map(|slice| &**slice).collect();
        plan::plan_service(&service, &slices, &self.node)
    }
}

fn zone_of(nodes: &Informer<Node>, name: &str) -> Option<String> {
    nodes.get("", name)?.metadata.labels.as_ref()?.get(ZONE_LABEL).cloned()
}
