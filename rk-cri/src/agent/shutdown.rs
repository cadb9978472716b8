//! Graceful shutdown of a node (KEP-2000, KEP-2712): its Pods end by priority, each group with a time
//! of its own, and the node says that it is not ready before that.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use rk_api::client::EventType;
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    configuration::ShutdownGrace, eviction::rank::priority, spec::pod_ref, status::is_terminal,
    worker::Core,
};

/// How often it is looked whether a group has ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);

const REASON: &str = "Terminated";
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

/// Shuts a node down, while its agent runs. Clones are of the same node.
#[derive(Clone)]
pub struct NodeShutdown {
    core: Arc<Core>,
}

impl std::fmt::Debug for NodeShutdown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeShutdown").field("node", &self.core.config.name).finish_non_exhaustive()
    }
}

/// The Pods of a priority, and how long they have.
#[derive(Debug)]
struct Group {
    grace: Duration,
    pods: Vec<Arc<Pod>>,
}

/// Groups in the order in which they end. A Pod belongs to the largest priority that is not above its
/// own; those below all belong to the smallest.
fn groups(pods: Vec<Arc<Pod>>, graces: &[ShutdownGrace]) -> Vec<Group> {
    let mut groups: Vec<Group> = graces
        .iter()
        .map(|grace| Group {
            grace: Duration::from_secs(grace.shutdown_grace_period_seconds.into()),
            pods: Vec::new(),
        })
        .collect();
    for pod in pods {
        let at = graces.partition_point(|grace| grace.priority <= priority(&pod));
        if let Some(group) = groups.get_mut(at.saturating_sub(1)) {
            group.pods.push(pod);
        }
    }
    groups.retain(|group| !group.pods.is_empty());
    groups
}

impl NodeShutdown {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Ends the node's Pods, and returns when they have ended or their time is over. From the
    /// beginning the node is not ready and takes no Pods. Does nothing where the configuration has
    /// no `shutdownGracePeriod`.
    pub async fn run(&self) {
        let core = &self.core;
        let graces = &core.config.settings.shutdown_graces;
        if graces.is_empty() {
            return;
        }
        core.state.lock().shutting_down = true;
        core.node_event(
            EventType::Normal,
            "NodeNotReady",
            &format!("Node {} status is now: NodeNotReady", core.config.name),
        );
        let told = core.report_status(true);
        // The Pods end whether or not anybody hears of it.
        if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(5), told).await {
            tracing::warn!(node = core.config.name, %error, "the shutdown of the node is not told");
        }
        for group in groups(self.live(), graces) {
            for pod in &group.pods {
                let refusal = (REASON.to_owned(), MESSAGE.to_owned());
                core.end_from_outside(pod, refusal, group.grace);
            }
            // A little more, for the status to be written.
            let until = Instant::now() + group.grace + Duration::from_secs(2);
            let uids: Vec<_> = group.pods.iter().map(|pod| pod_ref(pod).uid).collect();
            let ended = async {
                while self.live().iter().any(|pod| uids.contains(&pod_ref(pod).uid)) {
                    sleep(LOOK_EVERY).await;
                }
            };
            if timeout_at(until, ended).await.is_err() {
                tracing::warn!(node = core.config.name, "some Pods did not end in time");
            }
        }
    }

    fn live(&self) -> Vec<Arc<Pod>> {
        let mut pods = self.core.pods_as_written();
        pods.retain(|pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            !phase.is_some_and(is_terminal)
        });
        pods
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_end_by_priority() {
        let grace =
            |priority, seconds| ShutdownGrace { priority, shutdown_grace_period_seconds: seconds };
        let graces = [grace(0, 20), grace(1000, 10), grace(2_000_000_000, 5)];
        let pods = [5, 2_000_001_000, -7, 1000, 999].map(|priority| {
            let pod = json!({"metadata": {"name": priority.to_string()},
                "spec": {"priority": priority, "containers": []}});
            Arc::new(serde_json::from_value(pod).unwrap())
        });
        let groups = groups(pods.into(), &graces);
        let shown: Vec<(u64, Vec<String>)> = groups
            .iter()
            .map(|group| {
                let names = group.pods.iter().map(|pod: &Arc<Pod>| pod.metadata.name.clone());
                (group.grace.as_secs(), names.map(Option::unwrap).collect())
            })
            .collect();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(
            shown,
            [(20, names(&["5", "-7", "999"])), (10, names(&["1000"])), (5, names(&["2000001000"])),]
        );
    }
}
