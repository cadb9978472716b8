//! Registers the node, renews its lease and reports its status.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, NodeStatus, ObjectReference},
    },
    jiff::Timestamp,
};
use kube::{
    Api, Resource,
    api::{Patch, PatchParams, PostParams, Request},
};
use rk_api::{client::EventType, clock, meta::RENEWED_WITH, rng};
use serde_json::json;
use tokio::time::Instant;

use super::{
    housekeeping::NodeState,
    node,
    worker::{Core, HEARTBEAT},
};

/// Where nodes' leases are.
pub(super) const LEASES: &str = "kube-node-lease";

/// The alarms that are set for heartbeats: at most one of each sort, however often they are asked for.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    regular: Option<Instant>,
    early: Option<Instant>,
}

impl Alarms {
    /// Whether an alarm is to be set for the next regular heartbeat.
    fn set_regular(&mut self, at: Instant) -> bool {
        let is_new = self.regular.is_none();
        self.regular.get_or_insert(at);
        is_new
    }

    /// Whether an alarm is to be set for a heartbeat before the regular one.
    fn set_early(&mut self, at: Instant) -> bool {
        let is_new = self.early.is_none() && self.regular.is_none_or(|regular| at < regular);
        if is_new {
            self.early = Some(at);
        }
        is_new
    }

    /// Alarms up to now have rung.
    pub(super) fn ring(&mut self, now: Instant) {
        self.regular = self.regular.filter(|at| *at > now);
        self.early = self.early.filter(|at| *at > now);
    }
}

/// What is remembered between heartbeats.
#[derive(Default)]
pub(super) struct Heartbeat {
    /// The version of the lease as it was last written or read.
    lease: Option<String>,
    /// The node as it was last written, until the informer has it.
    node: Option<Arc<Node>>,
    /// The node's UID, once it is registered.
    uid: Option<String>,
    reported_at: Option<Timestamp>,
}

fn is_status(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

impl Core {
    fn node_api(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    fn lease_api(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), LEASES)
    }

    /// Makes the node's object, or brings the one that is there up to date; tries until it succeeds.
    pub(super) async fn register(&self) {
        let mut pause = Duration::from_millis(100);
        loop {
            match self.try_register().await {
                Ok(()) => break,
                Err(error) => {
                    tracing::warn!(node = self.config.name, %error, "unable to register, will try again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(7));
                }
            }
        }
        self.node_event(EventType::Normal, "Starting", "Starting kubelet.");
        self.beat().await;
    }

    pub(super) fn node_event(&self, kind: EventType, reason: &str, message: &str) {
        self.event(&self.node_ref(), kind, reason, message);
    }

    /// The node, as events are about it.
    pub(super) fn node_ref(&self) -> ObjectReference {
        ObjectReference {
            kind: Some("Node".into()),
            name: Some(self.config.name.clone()),
            // The kubelet names its node by name here, as it may not know the UID yet.
            uid: Some(self.config.name.clone()),
            ..Default::default()
        }
    }

    async fn try_register(&self) -> kube::Result<()> {
        let now = clock::now_seconds();
        let wanted = node::node(&self.config.identity, &now);
        let api = self.node_api();
        if !self.config.settings.register {
            // Somebody else makes it: until then there is nothing to report on.
            let node = api.get(&self.config.name).await?;
            self.heartbeat.lock().await.written(node);
            return self.report_status(true).await;
        }
        let node = match api.create(&PostParams::default(), &wanted).await {
            Ok(node) => node,
            Err(error) if is_status(&error, 409) => {
                let labels = json!({"metadata": {
                    "labels": wanted.metadata.labels,
                    "annotations": wanted.metadata.annotations.unwrap_or_default(),
                }});
                let patch = Patch::Merge(&labels);
                api.patch(&self.config.name, &PatchParams::default(), &patch).await?
            }
            Err(error) => return Err(error),
        };
        self.heartbeat.lock().await.written(node);
        self.report_status(true).await
    }

    /// One heartbeat, and the alarm for the next.
    pub(super) async fn beat(&self) {
        let (lease, report) = tokio::join!(self.renew_lease(), self.report_status(false));
        let failed = lease.is_err() || report.is_err();
        for error in [lease.err(), report.err()].into_iter().flatten() {
            tracing::warn!(node = self.config.name, %error, "heartbeat failed");
        }
        let period = match &self.config.renewed_with {
            // What would change the status asks for an earlier beat.
            Some(_) => self.config.status_period,
            None => self.config.heartbeat_period,
        };
        // Spread, so that the nodes of a fleet do not all come at the same moment.
        let next = rng::jitter(period.mul_f64(0.96), 0.04);
        let at = Instant::now() + next;
        if self.alarms.lock().set_regular(at) {
            self.timers.set(at, self.this.clone(), HEARTBEAT);
        }
        if failed {
            self.beat_soon();
        }
    }

    /// Something happened on the node that its status may have to tell: it is looked at within a
    /// heartbeat's period, if it would not be anyway.
    pub(super) fn beat_soon(&self) {
        if self.config.renewed_with.is_none() {
            return;
        }
        let at = Instant::now() + self.config.heartbeat_period;
        if self.alarms.lock().set_early(at) {
            self.timers.set(at, self.this.clone(), HEARTBEAT);
        }
    }

    async fn renew_lease(&self) -> kube::Result<()> {
        let mut heartbeat = self.heartbeat.lock().await;
        if heartbeat.uid.is_none() {
            return Ok(());
        }
        if self.config.renewed_with.is_some() && heartbeat.lease.is_some() {
            return Ok(());
        }
        let seconds = self.config.heartbeat_period.as_secs_f64() * 4.0;
        let mut wanted = node::lease(
            &self.config.name,
            heartbeat.uid.clone(),
            seconds.ceil() as i32,
            clock::now_micros(),
        );
        if let Some(other) = &self.config.renewed_with {
            let with = [(RENEWED_WITH.to_owned(), other.clone())];
            wanted.metadata.annotations = Some(with.into());
        }
        let api = self.lease_api();
        let name = &self.config.name;
        if heartbeat.lease.is_none() {
            let found = api.get_opt(name).await?;
            heartbeat.lease = found.and_then(|lease| lease.metadata.resource_version);
        }
        let leases = Request::new(Lease::url_path(&(), Some(LEASES)));
        wanted.metadata.resource_version = heartbeat.lease.clone();
        let body = serde_json::to_vec(&wanted).map_err(kube::Error::SerdeError)?;
        let request = match &heartbeat.lease {
            Some(_) => leases.replace(name, &PostParams::default(), body),
            None => leases.create(&PostParams::default(), body),
        };
        let request = request.map_err(kube::Error::BuildRequest)?;
        match rk_api::client::request::<Lease>(&self.client, request).await {
            Ok(lease) => heartbeat.lease = lease.metadata.resource_version,
            Err(error) => {
                // It was changed or deleted: read it again next time.
                heartbeat.lease = None;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Reports the node's status if it changed, or if it is time to.
    pub(super) async fn report_status(&self, always: bool) -> kube::Result<()> {
        let mut heartbeat = self.heartbeat.lock().await;
        let Some(old) = self.newest_node(&mut heartbeat) else { return Ok(()) };
        let images = match self.runtime.list_images().await {
            Ok(images) => {
                self.state.lock().runtime_down = None;
                images
            }
            Err(error) => {
                let why =
                    format!("container runtime is down: {}", super::handler::describe(&error));
                self.state.lock().runtime_down = Some(why);
                Vec::new()
            }
        };
        let state = NodeState { volumes_in_use: self.csi.in_use(), ..self.state.lock().clone() };
        let now = clock::now();
        let due = heartbeat
            .reported_at
            .is_none_or(|at| now.duration_since(at).unsigned_abs() >= self.config.status_period);
        let old_status = old.status.clone().unwrap_or_default();
        let new = node::status(
            &self.config.identity,
            &images,
            &state,
            Some(&old_status),
            &clock::now_seconds(),
        );
        self.tell_conditions(&old_status, &new);
        let Some(patch) = node::status_patch(&old_status, &new, due || always) else {
            return Ok(());
        };
        let (parameters, patch) = (PatchParams::default(), Patch::Strategic(&patch));
        let request = Request::new(Node::url_path(&(), None))
            .patch_subresource("status", &self.config.name, &parameters, &patch)
            .map_err(kube::Error::BuildRequest)?;
        let patched = rk_api::client::request(&self.client, request).await?;
        heartbeat.written(patched);
        heartbeat.reported_at = Some(now);
        Ok(())
    }

    /// Events about conditions of the node that have changed, as the kubelet words them.
    fn tell_conditions(&self, old: &NodeStatus, new: &NodeStatus) {
        for reason in node::changes_of_conditions(old, new) {
            let message = format!("Node {} status is now: {reason}", self.config.name);
            self.node_event(EventType::Normal, reason, &message);
        }
    }

    /// The newest version of the node that is known. The informer's is kept anyway.
    fn newest_node(&self, heartbeat: &mut Heartbeat) -> Option<Arc<Node>> {
        if let Some(node) = self.nodes.get("", &self.config.name)
            && heartbeat.node.as_ref().is_none_or(|own| !newer(own, &node))
        {
            heartbeat.node = None;
            return Some(node);
        }
        heartbeat.node.clone()
    }
}

impl Heartbeat {
    fn written(&mut self, node: Node) {
        self.uid.clone_from(&node.metadata.uid);
        self.node = Some(Arc::new(node));
    }
}

/// Whether `a` is a newer version than `b`.
fn newer(a: &Node, b: &Node) -> bool {
    let version = |node: &Node| node.metadata.resource_version.as_ref()?.parse::<u64>().ok();
    version(a) > version(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_early_heartbeat_is_set_once_and_leaves_the_regular_one() {
        let seconds = |n| Instant::now() + Duration::from_secs(n);
        let mut alarms = Alarms::default();
        assert!(alarms.set_regular(seconds(100)));
        assert!(alarms.set_early(seconds(10)));
        assert!(!alarms.set_early(seconds(10)), "one is set already");
        alarms.ring(seconds(10));
        assert!(!alarms.set_regular(seconds(110)), "it has not rung");
        assert!(!alarms.set_early(seconds(100)), "the regular one comes first");
        assert!(alarms.set_early(seconds(20)));
        alarms.ring(seconds(100));
        assert!(alarms.set_regular(seconds(200)));
    }
}
