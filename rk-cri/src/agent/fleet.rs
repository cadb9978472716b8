//! Many simulated nodes in one process.

use std::{collections::HashMap, sync::Arc};

use futures::{StreamExt, stream::SelectAll};
use k8s_openapi::api::core::v1::Pod;
use rk_api::client::{Change, EventRecorder, Informer, Informers};
use tokio_util::sync::CancellationToken;

use super::{AgentBuilder, KubeletApi, worker::Core};
use crate::{
    runtime::{RuntimeError, RuntimeEvent},
    timers::Timers,
};

/// How many nodes are registered at once.
const REGISTERING_MAX: usize = 64;

/// Agents of many nodes that share one informer of pods, one of nodes, one recorder of events and
/// one set of timers, so that a node without pods costs a few kilobytes and no task.
///
/// It watches every pod of the cluster, which pays when most of the cluster's nodes are its own.
pub struct Fleet {
    informers: Informers,
    pods: Informer<Pod>,
    timers: Timers,
    recorder: EventRecorder,
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
            cores: HashMap::new(),
            order: Vec::new(),
        }
    }

    /// The timers of the fleet, for its nodes' runtimes.
    pub fn timers(&self) -> &Timers {
        &self.timers
    }

    /// Adds a node. Its options for informers, timers and the recorder are replaced by the fleet's.
    pub fn add(&mut self, agent: AgentBuilder) -> Result<(), RuntimeError> {
        let agent = agent.timers(&self.timers).recorder(&self.recorder);
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
        shutdown.run_until_cancelled(self.work()).await;
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
