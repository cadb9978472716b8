//! Pods that nobody else will remove.
//!
//! # What it promises
//! - A Pod bound to a node that has been gone for 40 s is marked Failed and deleted at once: no
//!   kubelet will ever confirm its end.
//! - So is a Pod that is being deleted and was never bound, and one that is being deleted on a node
//!   that is not ready and marked `node.kubernetes.io/out-of-service`.
//! - Of the Pods that ended, at most a number are kept (default 12500); the oldest go first.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Node, Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Preconditions},
};
use rk_api::{client::Informer, clock};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    error,
    manager::Context,
    pods,
    time::whole_seconds,
    write::{self, Part},
};

/// How often Pods are looked through.
const PERIOD: Duration = Duration::from_secs(20);
/// How long a node must be gone before its Pods are given up.
const QUARANTINE: Duration = Duration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Works until `shutdown`.
pub(crate) async fn run(context: Context, shutdown: CancellationToken) {
    let pods = context.informers.of::<Pod>();
    let nodes = context.informers.of::<Node>();
    let mut collector = Collector {
        client: context.client.clone(),
        threshold: context.settings.terminated_pod_threshold,
        pods,
        nodes,
        missing: BTreeMap::new(),
    };
    let work = async {
        collector.pods.synced().await;
        collector.nodes.synced().await;
        loop {
            collector.collect().await;
            tokio::time::sleep(PERIOD).await;
        }
    };
    shutdown.run_until_cancelled(work).await;
}

struct Collector {
    client: Client,
    threshold: usize,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    /// Nodes that Pods name and the cache does not have, and since when.
    missing: BTreeMap<String, Instant>,
}

/// Why a Pod goes, and what is written on it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Terminated,
    Orphaned,
    Unscheduled,
    OutOfService,
}

impl Collector {
    async fn collect(&mut self) {
        let pods = self.pods.list();
        let gone = self.gone_nodes(&pods).await;
        let is_gone = |node: &str| gone.iter().any(|name| name == node);
        let doomed = plan(&pods, is_gone, |name| self.nodes.get("", name), self.threshold);
        for (pod, reason) in doomed {
            if let Err(error) = self.remove(&pod, reason).await {
                tracing::warn!(pod = pod.name_any(), %error, "Pod garbage collection failed, trying again later");
            }
        }
    }

    /// Nodes that are gone for long enough, the last check at the API server itself.
    async fn gone_nodes(&mut self, pods: &[Arc<Pod>]) -> Vec<String> {
        let named = pods.iter().filter_map(|pod| pods::node_name(pod));
        let absent: std::collections::BTreeSet<&str> =
            named.filter(|name| self.nodes.get("", name).is_none()).collect();
        self.missing.retain(|name, _| absent.contains(name.as_str()));
        for name in absent {
            self.missing.entry(name.to_owned()).or_insert_with(Instant::now);
        }
        let mut gone = Vec::new();
        for (name, since) in &self.missing {
            if since.elapsed() < QUARANTINE {
                continue;
            }
            match Api::<Node>::all(self.client.clone()).get_metadata_opt(name).await {
                Ok(None) => gone.push(name.clone()),
                Ok(Some(_)) => {}
                Err(error) => {
                    tracing::warn!(node = name, %error, "cannot tell whether a node exists")
                }
            }
        }
        gone
    }

    async fn remove(&self, pod: &Arc<Pod>, reason: Reason) -> Result<(), kube::Error> {
        let api = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        if reason != Reason::Terminated && !pods::is_terminal(pod) {
            let failed = failed(pod, reason, clock::now());
            match write::update(&api, pod, &failed, Part::Status).await {
                Err(error) if error::is_not_found(&error) => return Ok(()),
                result => drop(result?),
            }
        }
        let exactly_this = Preconditions { uid: pod.uid(), resource_version: None };
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(exactly_this),
            ..Default::default()
        };
        error::unless_gone(api.delete(&pod.name_any(), &params).await)
    }
}

/// Which Pods go, and why. Pure but for the lookup of nodes.
fn plan(
    all: &[Arc<Pod>],
    is_gone: impl Fn(&str) -> bool,
    node: impl Fn(&str) -> Option<Arc<Node>>,
    threshold: usize,
) -> Vec<(Arc<Pod>, Reason)> {
    let mut doomed = Vec::new();
    let mut ended = Vec::new();
    for pod in all {
        let name = pods::node_name(pod);
        if name.is_some_and(&is_gone) {
            doomed.push((pod.clone(), Reason::Orphaned));
        } else if pods::is_deleting(pod) && name.is_none() {
            doomed.push((pod.clone(), Reason::Unscheduled));
        } else if pods::is_deleting(pod)
            && name.and_then(&node).is_some_and(|node| is_out_of_service(&node))
        {
            doomed.push((pod.clone(), Reason::OutOfService));
        } else if pods::is_terminal(pod) && !pods::is_deleting(pod) {
            ended.push(pod.clone());
        }
    }
    if threshold > 0 && ended.len() > threshold {
        let surplus = ended.len() - threshold;
        ended.sort_by_key(|pod| (!is_evicted(pod), pod.creation_timestamp(), pod.name_any()));
        doomed.extend(ended.into_iter().take(surplus).map(|pod| (pod, Reason::Terminated)));
    }
    doomed
}

fn is_evicted(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.reason.as_deref()) == Some("Evicted")
}

fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let conditions =
        node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let ready =
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    !ready && taints.iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

/// The Pod as ended, with a condition that lets a Job tell this from a failure of its own.
fn failed(pod: &Pod, reason: Reason, now: Timestamp) -> Pod {
    let mut failed = pod.clone();
    let status = failed.status.get_or_insert_default();
    status.phase = Some("Failed".into());
    let message = match reason {
        Reason::Orphaned => "PodGC: node no longer exists",
        Reason::OutOfService => "PodGC: node is out of service",
        Reason::Unscheduled | Reason::Terminated => return failed,
    };
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != "DisruptionTarget");
    conditions.push(PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some("DeletionByPodGC".into()),
        message: Some(message.into()),
        last_transition_time: Some(Time(whole_seconds(now))),
        ..Default::default()
    });
    failed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rk_api::testing::{PodBuilder, pod};

    use super::*;

    fn planned(pods: Vec<PodBuilder>, threshold: usize) -> Vec<(String, Reason)> {
        let pods: Vec<_> = pods.into_iter().map(|pod| Arc::new(pod.build())).collect();
        let doomed = plan(&pods, |node| node == "gone", |_| None, threshold);
        doomed.into_iter().map(|(pod, reason)| (pod.name_any(), reason)).collect()
    }

    #[test]
    fn pods_of_gone_nodes_and_unscheduled_deleted_ones_go() {
        let pods = vec![
            pod("a").node("gone"),
            pod("b").node("there"),
            pod("c").deleting(),
            pod("d"),
            pod("e").node("there").deleting(),
        ];
        assert_eq!(
            planned(pods, 0),
            [("a".into(), Reason::Orphaned), ("c".into(), Reason::Unscheduled)]
        );
    }

    #[test]
    fn the_oldest_ended_pods_beyond_the_threshold_go() {
        let ended =
            |name: &str, second: i64| pod(name).node("there").phase("Succeeded").created(second);
        let pods = vec![
            ended("new", 30),
            ended("old", 10),
            ended("middle", 20),
            pod("runs").node("there").phase("Running"),
        ];
        assert_eq!(planned(pods.clone(), 2), [("old".into(), Reason::Terminated)]);
        assert_eq!(planned(pods, 0), []);
    }

    #[test]
    fn an_orphan_is_marked_as_disrupted() {
        let failed = failed(
            &pod("a").node("gone").phase("Running").build(),
            Reason::Orphaned,
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(pods::phase(&failed), "Failed");
        assert_eq!(
            pods::condition(&failed, "DisruptionTarget").unwrap().reason.as_deref(),
            Some("DeletionByPodGC")
        );
    }

    proptest! {
        /// No Pod goes that runs on a node that is there; of the ended ones as many stay as may,
        /// none that is older than one that goes.
        #[test]
        fn only_pods_that_nobody_misses_go(
            pods in prop::collection::vec((0..3u8, any::<bool>(), 0..3u8, 0..50i64), 0..25),
            threshold in 0..10usize,
        ) {
            let build = |n: usize, (node, deleting, phase, age): &(u8, bool, u8, i64)| {
                let phase = ["Running", "Succeeded", "Failed"][usize::from(*phase)];
                let mut pod = pod(&format!("p{n}")).phase(phase).created(*age);
                if *node > 0 {
                    pod = pod.node(if *node == 1 { "there" } else { "gone" });
                }
                Arc::new(if *deleting { pod.deleting() } else { pod }.build())
            };
            let all: Vec<_> = pods.iter().enumerate().map(|(n, words)| build(n, words)).collect();
            let doomed = plan(&all, |node| node == "gone", |_| None, threshold);
            let goes = |pod: &Pod| doomed.iter().any(|(other, _)| other.name_any() == pod.name_any());
            let is_ended = |pod: &&Arc<Pod>| {
                pods::is_terminal(pod) && !pods::is_deleting(pod) && pods::node_name(pod) != Some("gone")
            };
            for pod in &all {
                let lost = pods::node_name(pod) == Some("gone")
                    || pods::is_deleting(pod) && pods::node_name(pod).is_none();
                prop_assert!(goes(pod) == lost || is_ended(&pod), "{}", pod.name_any());
            }
            let (gone, kept): (Vec<_>, Vec<_>) = all.iter().filter(is_ended).partition(|pod| goes(pod));
            let surplus = if threshold == 0 { 0 } else { (gone.len() + kept.len()).saturating_sub(threshold) };
            prop_assert_eq!(gone.len(), surplus);
            let newest = gone.iter().map(|pod| pod.creation_timestamp()).max();
            prop_assert!(kept.iter().all(|pod| Some(pod.creation_timestamp()) >= newest));
        }
    }
}
