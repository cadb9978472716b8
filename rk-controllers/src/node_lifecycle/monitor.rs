//! Looks after signs of life, with no more work than there are signs and nodes that miss them.
//!
//! Nodes are looked at in steps of the monitor period, as in Kubernetes: those that changed, and
//! those whose grace period has ended. A step for which there is nothing to look at is left out, so
//! that a thousand quiet nodes cost what their heartbeats cost.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, Pod, Taint},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{Api, Client, ResourceExt};
use rk_api::{
    client::{Change, EventRecorder, EventType, Informer, Subscription, object_ref},
    clock,
};
use tokio::time::Instant;

use super::{
    health::{self, Health, Readiness, renewed},
    replace_taints,
    zones::{self, EvictionLimiter},
};
use crate::{
    error::{self, Error},
    manager::Context,
    pods,
    time::whole_seconds,
    write::{self, Part},
};

/// Where kubelets keep their Leases, one for each node, named like it.
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Looks after signs of life.
pub(super) struct Monitor {
    client: Client,
    recorder: EventRecorder,
    grace: Duration,
    period: Duration,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    leases: Informer<Lease>,
    node_changes: Subscription<Node>,
    lease_changes: Subscription<Lease>,
    health: BTreeMap<String, Health>,
    limiter: EvictionLimiter,
    /// Nodes to look at in the next step.
    waiting: BTreeSet<String>,
    /// Something is left to do in the next step: a check or a taint failed, or it is not yet a
    /// node's turn to be tainted.
    unsettled: bool,
}

impl Monitor {
    pub(super) fn new(context: &Context) -> Self {
        let nodes = context.informers.of::<Node>();
        let leases = context.informers.of::<Lease>();
        Self {
            client: context.client.clone(),
            recorder: context.recorder("node-controller"),
            grace: context.settings.node_monitor_grace_period,
            period: context.settings.node_monitor_period,
            pods: context.informers.of::<Pod>(),
            node_changes: nodes.subscribe(),
            lease_changes: leases.subscribe(),
            leases,
            nodes,
            health: BTreeMap::new(),
            limiter: EvictionLimiter::default(),
            waiting: BTreeSet::new(),
            unsettled: false,
        }
    }

    /// Works until it is dropped.
    pub(super) async fn run(mut self) {
        self.nodes.synced().await;
        self.pods.synced().await;
        self.leases.synced().await;
        let mut step = Instant::now();
        loop {
            self.take_changes();
            self.look().await;
            step = self.next_step(step).await;
        }
    }

    /// Waits for the first step for which there is something to look at.
    async fn next_step(&mut self, last: Instant) -> Instant {
        if !self.unsettled && self.waiting.is_empty() {
            let due = self.silent_from().map(|at| Instant::now() + clock::until(clock::now(), at));
            let overdue = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                change = self.node_changes.next_change() => self.take_node(&change),
                change = self.lease_changes.next_change() => self.take_lease(&change),
                () = overdue => {}
            }
        }
        let step = step_after(last, self.period, Instant::now());
        tokio::time::sleep_until(step).await;
        step
    }

    /// When the grace period of the first node ends that is not known to be silent.
    fn silent_from(&self) -> Option<Timestamp> {
        let last_signs = self.health.values().filter(|health| !health.told_silent);
        last_signs.map(|health| health.silent_from(self.grace)).min()
    }

    fn take_changes(&mut self) {
        while let Some(change) = self.node_changes.try_next() {
            self.take_node(&change);
        }
        while let Some(change) = self.lease_changes.try_next() {
            self.take_lease(&change);
        }
    }

    fn take_node(&mut self, change: &Change<Node>) {
        let name = change.object().name_any();
        match change {
            Change::Deleted(_) => {
                self.health.remove(&name);
                self.waiting.remove(&name);
            }
            Change::Added(_) | Change::Updated { .. } => {
                self.waiting.insert(name);
            }
        }
    }

    /// Takes notice of a Lease that was renewed: a node's, or one that nodes are
    /// [renewed with](rk_api::meta::RENEWED_WITH).
    fn take_lease(&mut self, change: &Change<Lease>) {
        let (Change::Added(lease) | Change::Updated { new: lease, .. }) = change else { return };
        if lease.metadata.namespace.as_deref() != Some(LEASE_NAMESPACE) {
            return;
        }
        let Some(name) = lease.metadata.name.as_deref() else { return };
        let now = clock::now();
        match self.health.get_mut(name) {
            Some(health) => health.lease(lease, now),
            None => {
                let renewed = renewed(lease);
                let with = self.health.values_mut().filter(|health| health.is_renewed_with(name));
                with.for_each(|health| health.renewed(renewed, now));
            }
        }
    }

    /// One step: the nodes that changed, and those that have been silent for too long.
    async fn look(&mut self) {
        let now = clock::now();
        let silent = self
            .health
            .iter()
            .filter(|(_, health)| health.is_past(self.grace, now) && !health.told_silent);
        let mut names: BTreeSet<String> = silent.map(|(name, _)| name.clone()).collect();
        names.append(&mut self.waiting);
        if names.is_empty() && !self.unsettled {
            return;
        }
        self.unsettled = false;
        for name in names {
            let Some(node) = self.nodes.get("", &name) else { continue };
            // A conflict mostly: the node is alive and wrote its status itself.
            if let Err(error) = self.check(&node).await {
                tracing::debug!(node = name, %error, "node check failed, next one follows");
                self.waiting.insert(name);
            }
        }
        self.taint_no_execute().await;
    }

    /// Takes notice of signs of life; after too long without any, says so in the node's status.
    async fn check(&mut self, node: &Node) -> Result<(), Error> {
        let name = node.name_any();
        let now = clock::now();
        let is_new = !self.health.contains_key(&name);
        let health =
            self.health.entry(name.clone()).or_insert_with(|| Health::first_seen(node, now));
        if is_new {
            if let Some(lease) = self.leases.get(LEASE_NAMESPACE, &name) {
                health.lease(&lease, now);
            }
            let message = format!("Node {name} event: Registered Node {name} in Controller");
            self.recorder.event(&object_ref(node), EventType::Normal, "RegisteredNode", message);
        }
        health.observe(node, now);

        let mut current = Cow::Borrowed(node);
        if let Some(silent) = health.silent(node, self.grace, now) {
            current = Cow::Owned(
                write::update(&Api::all(self.client.clone()), node, &silent, Part::Status).await?,
            );
        }
        health.told_silent = health.is_past(self.grace, now);
        let readiness = health::readiness(&current);
        health.troubled = readiness != Readiness::Ready || taints(node).iter().any(is_ours);
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
        Ok(())
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
    async fn taint_no_execute(&mut self) {
        if !self.health.values().any(|health| health.troubled) {
            return;
        }
        let states: Vec<(Arc<Node>, Readiness)> = self
            .health
            .iter()
            .filter_map(|(name, health)| Some((self.nodes.get("", name)?, health.readiness)))
            .collect();
        let zones = zones::zones(states.iter().map(|(node, readiness)| (&**node, *readiness)));
        let cut_off = zones.values().all(|zone| zone.is_fully_disrupted());
        for (node, readiness) in states {
            let wanted: &[(&str, &str)] = match readiness {
                // Every node silent at once: nobody is evicted on the word of one observer.
                _ if cut_off => &[],
                Readiness::Ready => &[],
                Readiness::NotReady => &[(health::NOT_READY, "NoExecute")],
                Readiness::Unreachable => &[(health::UNREACHABLE, "NoExecute")],
            };
            let has_any = taints(&node).iter().any(is_ours);
            if wanted.is_empty() && !has_any {
                continue;
            }
            // From one taint to the other or to none is no eviction; only the first taint is.
            let zone = zones::zone_name(&node);
            let is_eviction = !wanted.is_empty() && !has_any;
            if is_eviction && !self.limiter.allows(&zone, &zones[&zone], clock::now()) {
                self.unsettled = true;
                continue;
            }
            if let Err(error) = replace_taints(&self.client, &node, is_ours, wanted).await {
                tracing::debug!(node = node.name_any(), %error, "tainting failed, trying again with the next check");
                self.unsettled = true;
            }
        }
    }
}

/// The first of the steps that follow `last` which is not before `now`.
fn step_after(last: Instant, period: Duration, now: Instant) -> Instant {
    let period = period.max(Duration::from_millis(1));
    let passed = now.saturating_duration_since(last).as_nanos();
    let steps = passed.div_ceil(period.as_nanos()).max(1);
    let nanoseconds = steps.saturating_mul(period.as_nanos());
    last + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

/// Whether a taint is one of those that this controller adds and removes.
fn is_ours(taint: &Taint) -> bool {
    taint.effect == "NoExecute"
        && [health::NOT_READY, health::UNREACHABLE].contains(&taint.key.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn steps_are_a_period_apart_however_many_are_left_out() {
        let last = Instant::now();
        let seconds = Duration::from_secs;
        let after = |passed| step_after(last, seconds(5), last + passed) - last;
        assert_eq!(after(seconds(0)), seconds(5));
        assert_eq!(after(Duration::from_millis(4_999)), seconds(5));
        assert_eq!(after(seconds(5)), seconds(5));
        assert_eq!(after(Duration::from_millis(5_001)), seconds(10));
        assert_eq!(after(seconds(3600)), seconds(3600));
    }
}
