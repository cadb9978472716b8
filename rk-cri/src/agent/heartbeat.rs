//! Registers the node, renews its lease and reports its status.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Node},
    jiff::Timestamp,
};
use kube::{
    Api, Resource,
    api::{Patch, PatchParams, PostParams, Request},
};
use rk_api::{client::EventType, clock, rng};
use serde_json::json;
use tokio::time::Instant;

use super::{
    node,
    worker::{Core, HEARTBEAT},
};

/// Where nodes' leases are.
const LEASES: &str = "kube-node-lease";

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
        self.node_event("Starting", "Starting kubelet.");
        self.beat().await;
    }

    fn node_event(&self, reason: &str, message: &str) {
        let about = k8s_openapi::api::core::v1::ObjectReference {
            kind: Some("Node".into()),
            name: Some(self.config.name.clone()),
            // The kubelet names its node by name here, as it may not know the UID yet.
            uid: Some(self.config.name.clone()),
            ..Default::default()
        };
        self.event(&about, EventType::Normal, reason, message);
    }

    async fn try_register(&self) -> kube::Result<()> {
        let now = clock::now_seconds();
        let wanted = node::node(&self.config.identity, &now);
        let api = self.node_api();
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
        for error in [lease.err(), report.err()].into_iter().flatten() {
            tracing::warn!(node = self.config.name, %error, "heartbeat failed");
        }
        let period = self.config.heartbeat_period;
        // Spread, so that the nodes of a fleet do not all come at the same moment.
        let next = rng::jitter(period.mul_f64(0.96), 0.04);
        self.timers.set(Instant::now() + next, self.this.clone(), HEARTBEAT);
    }

    async fn renew_lease(&self) -> kube::Result<()> {
        let mut heartbeat = self.heartbeat.lock().await;
        if heartbeat.uid.is_none() {
            return Ok(());
        }
        let seconds = self.config.heartbeat_period.as_secs_f64() * 4.0;
        let mut wanted = node::lease(
            &self.config.name,
            heartbeat.uid.clone(),
            seconds.ceil() as i32,
            clock::now_micros(),
        );
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
    async fn report_status(&self, always: bool) -> kube::Result<()> {
        let mut heartbeat = self.heartbeat.lock().await;
        let Some(old) = self.newest_node(&mut heartbeat) else { return Ok(()) };
        let images = self.runtime.list_images().await.unwrap_or_default();
        let now = clock::now();
        let due = heartbeat
            .reported_at
            .is_none_or(|at| now.duration_since(at).unsigned_abs() >= self.config.status_period);
        let old_status = old.status.clone().unwrap_or_default();
        let new =
            node::status(&self.config.identity, &images, Some(&old_status), &clock::now_seconds());
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
