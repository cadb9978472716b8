//! Nodes whose machines are gone or off.
//!
//! # What it promises
//! - A node that is not ready and whose machine does not exist is deleted.
//! - A node that is not ready and whose machine is off gets the taint
//!   `node.cloudprovider.kubernetes.io/shutdown`, until it is ready again.
//! - A ready node is left alone, and so is one while the cloud cannot say what became of it.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Node, Taint};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Preconditions},
};
use rk_api::{
    client::{EventRecorder, EventType, Informer, object_ref},
    clock,
};
use tokio_util::sync::CancellationToken;

use super::{CloudProvider, Instances, SHUT_DOWN, UNINITIALIZED, has_taint};
use crate::{
    error,
    manager::Context,
    write::{self, Part},
};

/// For so long after it joined a node that is not initialized may be unknown to the cloud.
const NEW_FOR: Duration = Duration::from_secs(5 * 60);

struct Monitor {
    client: Client,
    recorder: EventRecorder,
    nodes: Informer<Node>,
    cloud: Arc<dyn CloudProvider>,
}

/// Works until `shutdown`, if there are machines to ask about.
pub(crate) async fn run(context: Context, shutdown: CancellationToken) {
    let Some(cloud) = context.settings.cloud.clone() else { return };
    let monitor = Monitor {
        client: context.client.clone(),
        recorder: context.recorder("cloud-node-lifecycle-controller"),
        nodes: context.informers.of(),
        cloud,
    };
    let period = context.settings.node_monitor_period;
    let work = async {
        monitor.nodes.synced().await;
        let Some(instances) = monitor.cloud.instances() else { return };
        loop {
            for node in monitor.nodes.list() {
                monitor.look(instances, &node).await;
            }
            tokio::time::sleep(period).await;
        }
    };
    shutdown.run_until_cancelled(work).await;
}

/// Whether the cloud is to be asked about a node. Pure.
fn is_suspect(node: &Node) -> bool {
    let spec = node.spec.as_ref();
    let has_id =
        spec.is_some_and(|spec| spec.provider_id.as_deref().is_some_and(|id| !id.is_empty()));
    let created = node.metadata.creation_timestamp.as_ref();
    let is_young = created.is_some_and(|created| clock::since_timestamp(created.0) < NEW_FOR);
    !is_ready(node) && (has_id || !has_taint(node, UNINITIALIZED) || !is_young)
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref());
    let mut conditions = conditions.unwrap_or_default().iter();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

impl Monitor {
    async fn look(&self, instances: &dyn Instances, node: &Node) {
        let name = node.name_any();
        if is_ready(node) {
            if has_taint(node, SHUT_DOWN) {
                self.taint(node, false).await;
            }
            return;
        }
        if !is_suspect(node) {
            return;
        }
        match instances.exists(node).await {
            Ok(true) => {}
            Ok(false) => return self.delete(node).await,
            Err(error) => {
                tracing::warn!(node = name, %error, "the cloud does not say whether a node exists");
                return;
            }
        }
        match instances.is_shut_down(node).await {
            Ok(true) if !has_taint(node, SHUT_DOWN) => self.taint(node, true).await,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(node = name, %error, "the cloud does not say whether a node is off")
            }
        }
    }

    async fn delete(&self, node: &Node) {
        let name = node.name_any();
        let about = object_ref(node);
        let message =
            format!("Deleting node {name} because it does not exist in the cloud provider");
        self.recorder.event(&about, EventType::Normal, "DeletingNode", message);
        let same = Preconditions { uid: node.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
        match Api::<Node>::all(self.client.clone()).delete(&name, &params).await {
            Err(gone) if error::is_not_found(&gone) => {}
            Err(refused) => {
                let message = format!("Failed deleting node {name}: {}", error::message(&refused));
                self.recorder.event(&about, EventType::Warning, "DeletingNodeFailed", message);
            }
            Ok(_) => {}
        }
    }

    /// Adds or removes the taint of a machine that is off. A write that fails is made again at the
    /// next look.
    async fn taint(&self, node: &Node, off: bool) {
        let mut after = node.clone();
        let taints = after.spec.get_or_insert_default().taints.get_or_insert_default();
        taints.retain(|taint| taint.key != SHUT_DOWN);
        if off {
            taints.push(Taint {
                key: SHUT_DOWN.to_owned(),
                effect: "NoSchedule".to_owned(),
                ..Taint::default()
            });
        }
        let api = Api::<Node>::all(self.client.clone());
        if let Err(error) = write::update(&api, node, &after, Part::Main).await {
            tracing::debug!(node = node.name_any(), %error, "a taint is not written");
        }
    }
}
