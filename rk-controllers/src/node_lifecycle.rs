//! Nodes that stop giving signs of life.
//!
//! # What it promises
//! - A node whose Lease and status have not changed for 40 s gets its conditions set to Unknown,
//!   and its Pods are marked not ready, so that Services drop them.
//! - The conditions are turned into taints: NoSchedule at once, and for a node that is not ready or
//!   unreachable also NoExecute, which makes [`taint_eviction`](crate::taint_eviction) remove Pods.
//!   Both go when the node is back.
//! - Nodes are tainted NoExecute at most one in 10 s and zone, slower or not at all where most of a
//!   zone is down, and not at all where every node is: then it is this controller that is cut off.
//!
//! Time is measured here, from when a sign of life was seen: the nodes' clocks are not trusted.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, Pod, Taint},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{Api, Client, ResourceExt};
use rk_api::{
    client::{EventRecorder, EventType, Informer, object_ref},
    clock,
};
use tokio_util::sync::CancellationToken;

use crate::{
    controller::{Action, Controller, Reconciler},
    error::{self, Error},
    key::ObjectKey,
    manager::Context,
    pods,
    time::whole_seconds,
    write::{self, Part},
};

mod health;
mod zones;

use health::{Health, Readiness};
use zones::EvictionLimiter;

/// Where kubelets keep their Leases, one for each node, named like it.
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Works until `shutdown`.
pub(crate) async fn run(name: &'static str, context: Context, shutdown: CancellationToken) {
    let nodes = context.informers.of::<Node>();
    let tainter = Tainter { client: context.client.clone(), nodes: nodes.clone() };
    let tainting = Controller::new(name, tainter)
        .reconciles(&nodes)
        .metrics(&context.metrics)
        .workers(context.settings.workers)
        .run(shutdown.clone());

    let mut monitor = Monitor {
        client: context.client.clone(),
        recorder: context.recorder("node-controller"),
        grace: context.settings.node_monitor_grace_period,
        pods: context.informers.of::<Pod>(),
        leases: context.informers.of::<Lease>(),
        nodes,
        health: BTreeMap::new(),
        limiter: EvictionLimiter::default(),
    };
    let period = context.settings.node_monitor_period;
    let monitoring = async {
        monitor.nodes.synced().await;
        monitor.pods.synced().await;
        monitor.leases.synced().await;
        loop {
            monitor.check_all().await;
            tokio::time::sleep(period).await;
        }
    };
    tokio::join!(tainting, shutdown.run_until_cancelled(monitoring));
}

/// Keeps NoSchedule taints in line with conditions and `spec.unschedulable`.
struct Tainter {
    client: Client,
    nodes: Informer<Node>,
}

#[async_trait]
impl Reconciler for Tainter {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(node) = self.nodes.get("", &key.name) else { return Ok(Action::Wait) };
        let wanted = health::no_schedule_taints(&node);
        let ours = |taint: &Taint| {
            taint.effect == "NoSchedule" && health::NO_SCHEDULE_KEYS.contains(&taint.key.as_str())
        };
        replace_taints(&self.client, &node, ours, &wanted).await?;
        Ok(Action::Wait)
    }
}

/// Replaces those taints that are `ours` by the wanted ones, keeping when each was added.
async fn replace_taints(
    client: &Client,
    node: &Node,
    ours: impl Fn(&Taint) -> bool,
    wanted: &[(&str, &str)],
) -> Result<(), Error> {
    let mut tainted = node.clone();
    let taints = tainted.spec.get_or_insert_default().taints.get_or_insert_default();
    let is_wanted = |taint: &Taint| wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
    taints.retain(|taint| !ours(taint) || is_wanted(taint));
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| taint.key == *key && taint.effect == *effect) {
            let time_added = Some(Time(whole_seconds(clock::now())));
            taints.push(Taint {
                key: (*key).into(),
                effect: (*effect).into(),
                time_added,
                value: None,
            });
        }
    }
    if taints.is_empty() {
        tainted.spec.get_or_insert_default().taints = None;
    }
    let before = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let after = tainted.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    if before != after {
        write::update(&Api::all(client.clone()), node, &tainted, Part::Main).await?;
    }
    Ok(())
}

/// Looks after signs of life, all nodes in turn.
struct Monitor {
    client: Client,
    recorder: EventRecorder,
    grace: Duration,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    leases: Informer<Lease>,
    health: BTreeMap<String, Health>,
    limiter: EvictionLimiter,
}

impl Monitor {
    async fn check_all(&mut self) {
        let nodes = self.nodes.list();
        let present: BTreeSet<String> = nodes.iter().map(|node| node.name_any()).collect();
        self.health.retain(|name, _| present.contains(name));

        let mut states = Vec::with_capacity(nodes.len());
        for node in &nodes {
            match self.check(node).await {
                Ok(readiness) => states.push((node.clone(), readiness)),
                // A conflict mostly: the node is alive and wrote its status itself.
                Err(error) => {
                    tracing::debug!(node = node.name_any(), %error, "node check failed, next one follows")
                }
            }
        }
        self.taint_no_execute(states).await;
    }

    /// Takes notice of signs of life; after too long without any, says so in the node's status.
    async fn check(&mut self, node: &Node) -> Result<Readiness, Error> {
        let name = node.name_any();
        let now = clock::now();
        let lease = self.leases.get(LEASE_NAMESPACE, &name);
        let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.clone());
        let is_new = !self.health.contains_key(&name);
        let health =
            self.health.entry(name.clone()).or_insert_with(|| Health::first_seen(node, now));
        if is_new {
            let message = format!("Node {name} event: Registered Node {name} in Controller");
            self.recorder.event(&object_ref(node), EventType::Normal, "RegisteredNode", message);
        }
        health.observe(node, renewed.map(|time| time.0), now);

        let mut current = Cow::Borrowed(node);
        if let Some(silent) = health.silent(node, self.grace, now) {
            current = Cow::Owned(
                write::update(&Api::all(self.client.clone()), node, &silent, Part::Status).await?,
            );
        }
        let readiness = health::readiness(&current);
        let was_ready = std::mem::replace(&mut health.readiness, readiness) == Readiness::Ready;
        if readiness != Readiness::Ready && (was_ready || health.pods_to_mark) {
            if was_ready {
                let message = format!("Node {name} status is now: NodeNotReady");
                self.recorder.event(&object_ref(node), EventType::Normal, "NodeNotReady", message);
            }
            // Noted before the attempt: a failure is made good by the next check.
            health.pods_to_mark = true;
            self.mark_pods_not_ready(&name).await?;
            if let Some(health) = self.health.get_mut(&name) {
                health.pods_to_mark = false;
            }
        } else if readiness == Readiness::Ready {
            health.pods_to_mark = false;
        }
        Ok(readiness)
    }

    async fn mark_pods_not_ready(&self, node: &str) -> Result<(), Error> {
        let pods = self.pods.list().into_iter().filter(|pod| pods::node_name(pod) == Some(node));
        for pod in pods.filter(|pod| pods::is_ready(pod)) {
            let mut unready = (*pod).clone();
            let conditions =
                unready.status.get_or_insert_default().conditions.get_or_insert_default();
            for condition in conditions.iter_mut().filter(|condition| condition.type_ == "Ready") {
                condition.status = "False".into();
                condition.last_transition_time = Some(Time(whole_seconds(clock::now())));
            }
            let api =
                Api::<Pod>::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
            match write::update(&api, &pod, &unready, Part::Status).await {
                Err(gone) if error::is_not_found(&gone) => continue,
                result => drop(result?),
            }
            self.recorder.event(
                &object_ref(&*pod),
                EventType::Warning,
                "NodeNotReady",
                "Node is not ready",
            );
        }
        Ok(())
    }

    /// Adds and removes the NoExecute taints, as fast as the state of the zones allows.
    async fn taint_no_execute(&mut self, states: Vec<(Arc<Node>, Readiness)>) {
        let zones = zones::zones(states.iter().map(|(node, readiness)| (&**node, *readiness)));
        let cut_off = zones.values().all(|zone| zone.is_fully_disrupted());
        for (node, readiness) in states {
            let zone = zones::zone_name(&node);
            let wanted: &[(&str, &str)] = match readiness {
                // Every node silent at once: nobody is evicted on the word of one observer.
                _ if cut_off => &[],
                Readiness::Ready => &[],
                Readiness::NotReady => &[(health::NOT_READY, "NoExecute")],
                Readiness::Unreachable => &[(health::UNREACHABLE, "NoExecute")],
            };
            let ours = |taint: &Taint| {
                taint.effect == "NoExecute"
                    && [health::NOT_READY, health::UNREACHABLE].contains(&taint.key.as_str())
            };
            let present =
                node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
            let has_any = present.iter().any(&ours);
            // From one taint to the other or to none is no eviction; only the first taint is.
            let is_eviction = !wanted.is_empty() && !has_any;
            if is_eviction && !self.limiter.allows(&zone, &zones[&zone], clock::now()) {
                continue;
            }
            if let Err(error) = replace_taints(&self.client, &node, ours, wanted).await {
                tracing::debug!(node = node.name_any(), %error, "tainting failed, trying again with the next check");
            }
        }
    }
}

#[cfg(test)]
mod tests;
