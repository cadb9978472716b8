//! Many simulated nodes in one process.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{StreamExt, stream::SelectAll};
use k8s_openapi::api::{
    coordination::v1::{Lease, LeaseSpec},
    core::v1::Pod,
};
use kube::{Api, api::PostParams};
use rk_api::{
    client::{Change, EventRecorder, Informer, Informers},
    clock,
};
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
    informers: Informers,
    pods: Informer<Pod>,
    timers: Timers,
    recorder: EventRecorder,
    shared_lease: bool,
    cores: HashMap<String, Arc<Core>>,
    /// In the order in which they were added.
    order: Vec<Arc<Core>>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").field("nodes", &self.order.len()).finish_non_exhaustive()
    }
}

impl Fleet {
    /// A fleet without nodes. Call it within a tokio runtime.
    pub fn new(informers: &Informers) -> Self {
        Self {
            pods: informers.of(),
            timers: Timers::new(),
            recorder: EventRecorder::new(informers.client(), "kubelet"),
            informers: informers.clone(),
            shared_lease: false,
            cores: HashMap::new(),
            order: Vec::new(),
        }
    }

    /// One Lease for all nodes that are added from now on, renewed every 20 s: a node's own names it
    /// ([`rk_api::meta::RENEWED_WITH`]) and is not written again. A node's status is still written
    /// within 10 s when it changes, otherwise every six hours.
    ///
    /// Kubernetes' nodes each renew a Lease. A week of that is 60,480 writes a node, which is what
    /// a simulated week of a thousand nodes would be spent on.
    #[must_use]
    pub fn shared_lease(mut self) -> Self {
        self.shared_lease = true;
        self
    }

    /// The timers of the fleet, for its nodes' runtimes.
    pub fn timers(&self) -> &Timers {
        &self.timers
    }

    /// Adds a node. Its options for informers, timers and the recorder are replaced by the fleet's.
    pub fn add(&mut self, agent: AgentBuilder) -> Result<(), RuntimeError> {
        let mut agent = agent.timers(&self.timers).recorder(&self.recorder);
        if self.shared_lease {
            agent = agent.renewed_with(SHARED_LEASE).status_period(STATUS_PERIOD);
        }
        let core = agent.core(&self.informers, self.informers.of())?;
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
    pub async fn run(self, shutdown: CancellationToken) {
        let _stopped: Vec<_> =
            self.order.iter().map(|core| core.stopped.clone().drop_guard()).collect();
        let work = async {
            tokio::join!(self.renew_shared_lease(), self.work());
        };
        shutdown.run_until_cancelled(work).await;
    }

    /// Gives the sign of life of all nodes.
    async fn renew_shared_lease(&self) {
        if !self.shared_lease {
            return;
        }
        let leases = Api::<Lease>::namespaced(self.informers.client(), LEASES);
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

    async fn work(&self) {
        let mut changes = self.pods.subscribe();
        let events = self.order.iter().map(|core| {
            let owner = core.clone();
            core.runtime.events().map(move |event: RuntimeEvent| (owner.clone(), event))
        });
        let mut events: SelectAll<_> = events.collect();
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
        loop {
            tokio::select! { biased;
                change = changes.next_change() => self.take(change),
                Some((core, event)) = events.next(), if !events.is_empty() => core.poke(&event.pod.uid),
            }
        }
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
