//! Many simulated nodes in one process.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{BoxStream, FuturesUnordered, SelectAll},
};
use k8s_openapi::api::{
    coordination::v1::{Lease, LeaseSpec},
    core::v1::Pod,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use rk_api::{
    client::{Change, EventRecorder, Informer, Informers},
    clock,
    meta::RENEWED_WITH,
};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{AgentBuilder, KubeletApi, heartbeat::LEASES, worker::Core};
use crate::{
    runtime::{RuntimeError, RuntimeEvent},
    timers::Timers,
};

/// How many nodes are registered at once.
const REGISTERING_MAX: usize = 64;

/// The Lease that those of all nodes are renewed with, how often that is, how soon it is tried
/// again, and for how long it is good.
const SHARED_LEASE: &str = "simulated-nodes";
const RENEW_EVERY: Duration = Duration::from_secs(20);
const RENEW_AGAIN_AFTER: Duration = Duration::from_secs(5);
const LEASE_SECONDS: i32 = 40;

/// How often a node's status is written although nothing changed, where nodes share a Lease.
const STATUS_PERIOD: Duration = Duration::from_secs(6 * 3600);

/// Agents of many nodes that share one informer of pods, one of nodes, one recorder of events and
/// one set of timers, so that a node without pods costs a few kilobytes and no task.
///
/// It watches every pod of the cluster, which pays when most of the cluster's nodes are its own.
pub struct Fleet {
    common: Common,
    pods: Informer<Pod>,
    cores: HashMap<String, Arc<Core>>,
    /// In the order in which they were added.
    order: Vec<Arc<Core>>,
    orders: mpsc::UnboundedSender<Order>,
    given: mpsc::UnboundedReceiver<Order>,
}

/// What the nodes of a fleet share.
#[derive(Clone)]
struct Common {
    informers: Informers,
    timers: Timers,
    recorder: EventRecorder,
    shared_lease: bool,
}

impl Common {
    fn core(&self, agent: AgentBuilder) -> Result<Arc<Core>, RuntimeError> {
        let mut agent = agent.timers(&self.timers).recorder(&self.recorder);
        if self.shared_lease {
            agent = agent.renewed_with(SHARED_LEASE).status_period(STATUS_PERIOD);
        }
        agent.core(&self.informers, self.informers.of())
    }
}

/// What a running fleet is told.
enum Order {
    Kill(String),
    Start(Arc<Core>),
}

/// Ends single nodes of a running [`Fleet`], and starts them again.
#[derive(Clone)]
pub struct FleetHandle {
    common: Common,
    orders: mpsc::UnboundedSender<Order>,
}

impl std::fmt::Debug for FleetHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FleetHandle").finish_non_exhaustive()
    }
}

impl FleetHandle {
    /// The timers of the fleet, for its nodes' runtimes.
    pub fn timers(&self) -> &Timers {
        &self.common.timers
    }

    /// Ends the agent of a node where it stands: it gives no more sign of life, and its pods are
    /// left alone. What its runtime runs goes on.
    pub fn kill(&self, node: &str) {
        // A fleet that has ended has no agents.
        let _ = self.orders.send(Order::Kill(node.to_owned()));
    }

    /// Starts an agent, of a node that was killed or of a new one, with its options as in
    /// [`Fleet::add`]. What is returned answers for its kubelet.
    ///
    /// # Errors
    /// Its options do not go together.
    pub fn start(&self, agent: AgentBuilder) -> Result<KubeletApi, RuntimeError> {
        let core = self.common.core(agent)?;
        let _ = self.orders.send(Order::Start(core.clone()));
        Ok(KubeletApi::new(core))
    }
}

/// Events of nodes' runtimes.
type Events = SelectAll<BoxStream<'static, (Arc<Core>, RuntimeEvent)>>;

/// Nodes that are being registered.
type Registering = FuturesUnordered<BoxFuture<'static, Arc<Core>>>;

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").field("nodes", &self.order.len()).finish_non_exhaustive()
    }
}

impl Fleet {
    /// A fleet without nodes. Call it within a tokio runtime.
    pub fn new(informers: &Informers) -> Self {
        let (orders, given) = mpsc::unbounded_channel();
        let common = Common {
            timers: Timers::new(),
            recorder: EventRecorder::new(informers.client(), "kubelet"),
            informers: informers.clone(),
            shared_lease: false,
        };
        let pods = informers.of();
        Self { common, pods, cores: HashMap::new(), order: Vec::new(), orders, given }
    }

    /// One Lease for all nodes that are added from now on, renewed every 20 s: a node's own names it
    /// ([`rk_api::meta::RENEWED_WITH`]) and is not written again. A node's status is still written
    /// within 10 s when it changes, otherwise every six hours.
    ///
    /// Kubernetes' nodes each renew a Lease. A week of that is 60,480 writes a node, which is what
    /// a simulated week of a thousand nodes would be spent on.
    #[must_use]
    pub fn shared_lease(mut self) -> Self {
        self.common.shared_lease = true;
        self
    }

    /// The timers of the fleet, for its nodes' runtimes.
    pub fn timers(&self) -> &Timers {
        &self.common.timers
    }

    /// What ends and starts single nodes while the fleet runs, with the timers and the Lease that
    /// the fleet has now.
    pub fn handle(&self) -> FleetHandle {
        FleetHandle { common: self.common.clone(), orders: self.orders.clone() }
    }

    /// Adds a node. Its options for informers, timers and the recorder are replaced by the fleet's.
    pub fn add(&mut self, agent: AgentBuilder) -> Result<(), RuntimeError> {
        let core = self.common.core(agent)?;
        self.cores.insert(core.config.name.clone(), core.clone());
        self.order.push(core);
        Ok(())
    }

    /// The kubelet's API of a node.
    pub fn kubelet_api(&self, node: &str) -> Option<KubeletApi> {
        self.cores.get(node).cloned().map(KubeletApi::new)
    }

    /// The kubelets' APIs of all nodes, by name.
    pub fn kubelet_apis(&self) -> impl Iterator<Item = (&str, KubeletApi)> {
        self.order.iter().map(|core| (core.config.name.as_str(), KubeletApi::new(core.clone())))
    }

    /// Registers the nodes and runs their pods until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let (client, shared_lease) = (self.common.informers.client(), self.common.shared_lease);
        let renewing = async move {
            if shared_lease {
                renew_shared_lease(&client).await;
            }
        };
        let work = async {
            tokio::join!(renewing, self.work());
        };
        shutdown.run_until_cancelled(work).await;
    }

    async fn work(&mut self) {
        let mut changes = self.pods.subscribe();
        let mut events: Events = self.order.iter().map(events_of).collect();
        // Owned by each future: borrowed from `self` the whole would not be `Send`.
        let registrations = self.order.clone();
        let registrations =
            registrations.into_iter().map(|core| async move { core.register().await });
        futures::stream::iter(registrations)
            .buffer_unordered(REGISTERING_MAX)
            .collect::<()>()
            .await;
        self.pods.synced().await;
        while let Some(change) = changes.try_next() {
            self.take(change);
        }
        for core in &self.order {
            core.adopt_or_remove().await;
        }
        let mut registering = Registering::new();
        loop {
            tokio::select! { biased;
                // The sender is this fleet's own: it does not end.
                Some(order) = self.given.recv() => match order {
                    Order::Kill(name) => self.kill(&name).await,
                    Order::Start(core) => registering.push(Box::pin(registered(core))),
                },
                Some(core) = registering.next(), if !registering.is_empty() => {
                    events.push(events_of(&core));
                    self.join(core).await;
                }
                change = changes.next_change() => self.take(change),
                Some((core, event)) = events.next(), if !events.is_empty() => core.poke(&event.pod.uid),
            }
        }
    }

    async fn kill(&mut self, name: &str) {
        if self.end(name) && self.common.shared_lease {
            // Before anything else, or else its next agent could come first.
            leave_shared_lease(&self.common.informers.client(), name).await;
        }
    }

    /// Takes in a node that has registered while the fleet runs.
    async fn join(&mut self, core: Arc<Core>) {
        let name = core.config.name.clone();
        self.end(&name);
        self.cores.insert(name.clone(), core.clone());
        self.order.push(core.clone());
        for pod in self.pods.list() {
            if pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) == Some(&name) {
                core.pod_changed(pod);
            }
        }
        core.adopt_or_remove().await;
    }

    /// Ends the agent of a node. Whether there was one.
    fn end(&mut self, name: &str) -> bool {
        let Some(core) = self.cores.remove(name) else { return false };
        self.order.retain(|other| !Arc::ptr_eq(other, &core));
        core.stopped.cancel();
        true
    }

    fn take(&self, change: Change<Pod>) {
        let node = |pod: &Pod| {
            let name = pod.spec.as_ref()?.node_name.as_deref()?;
            self.cores.get(name)
        };
        match change {
            Change::Added(pod) | Change::Updated { new: pod, .. } => {
                if let Some(core) = node(&pod) {
                    core.pod_changed(pod);
                }
            }
            Change::Deleted(pod) => {
                if let Some(core) = node(&pod) {
                    core.pod_gone(&pod);
                }
            }
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for core in &self.order {
            core.stopped.cancel();
        }
    }
}

/// The events of a node's runtime, until its agent ends.
fn events_of(core: &Arc<Core>) -> BoxStream<'static, (Arc<Core>, RuntimeEvent)> {
    let (owner, stopped) = (core.clone(), core.stopped.clone());
    let events = core.runtime.events().map(move |event| (owner.clone(), event));
    events.take_until(stopped.cancelled_owned()).boxed()
}

async fn registered(core: Arc<Core>) -> Arc<Core> {
    core.register().await;
    core
}

/// Gives the sign of life of all nodes.
async fn renew_shared_lease(client: &Client) {
    let leases = Api::<Lease>::namespaced(client.clone(), LEASES);
    let mut known = None;
    loop {
        let pause = match renew(&leases, known.take()).await {
            Ok(lease) => {
                known = Some(lease);
                RENEW_EVERY
            }
            Err(error) => {
                tracing::warn!(%error, "the nodes' shared lease was not renewed");
                RENEW_AGAIN_AFTER
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// The sign of life of all is no longer that of a node that was killed: its last one is now.
async fn leave_shared_lease(client: &Client, node: &str) {
    let leases = Api::<Lease>::namespaced(client.clone(), LEASES);
    let change = json!({
        "metadata": {"annotations": {RENEWED_WITH: null}},
        "spec": {"renewTime": clock::now_micros()},
    });
    if let Err(error) = leases.patch(node, &PatchParams::default(), &Patch::Merge(change)).await {
        tracing::warn!(node, %error, "a dead node still shares the lease");
    }
}

/// Renews the Lease, which is read first if it is not known as it is now.
async fn renew(leases: &Api<Lease>, known: Option<Lease>) -> kube::Result<Lease> {
    let known = match known {
        Some(known) => Some(known),
        None => leases.get_opt(SHARED_LEASE).await?,
    };
    let mut lease = known.unwrap_or_default();
    lease.metadata.managed_fields = None;
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(SHARED_LEASE.to_owned()),
        lease_duration_seconds: Some(LEASE_SECONDS),
        renew_time: Some(clock::now_micros()),
        ..LeaseSpec::default()
    });
    match lease.metadata.resource_version {
        Some(_) => leases.replace(SHARED_LEASE, &PostParams::default(), &lease).await,
        None => {
            lease.metadata.name = Some(SHARED_LEASE.to_owned());
            leases.create(&PostParams::default(), &lease).await
        }
    }
}
