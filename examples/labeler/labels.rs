//! The controller: the keys are Pods.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client, ResourceExt};
use rk::{
    api::client::{Change, Informer, Informers},
    controllers::{
        Action, Controller, Error, Metrics, ObjectKey, Reconciler, finalizers, predicates, update,
    },
};

/// The index of Pods by the name of their node.
const BY_NODE: &str = "node";

/// Keeps the nodes' `label` on their Pods, as `name`.
pub fn controller(client: Client, label: String, name: String, metrics: &Metrics) -> Controller {
    let informers = Informers::new(client.clone());
    let (pods, nodes) = (informers.of::<Pod>(), informers.of::<Node>());
    pods.add_index(BY_NODE, |pod| node_of(pod).map(ToOwned::to_owned).into_iter().collect());
    let labeler = Labeler { client, label, name, pods: pods.clone(), nodes: nodes.clone() };
    Controller::new("labeler", labeler)
        .reconciles_if(&pods, |change: &Change<Pod>| {
            // Statuses change far more often than anything that matters here.
            predicates::labels_changed(change)
                || predicates::generation_changed(change)
                || bound(change)
        })
        .watches(&nodes, move |change| {
            if !predicates::labels_changed(change) {
                return Vec::new();
            }
            let node = change.object().name_any();
            pods.by_index(BY_NODE, &node).iter().map(|pod| ObjectKey::of(&**pod)).collect()
        })
        .workers(4)
        .metrics(metrics)
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// The Pod got a node.
fn bound(change: &Change<Pod>) -> bool {
    matches!(change, Change::Updated { old, new } if node_of(old) != node_of(new))
}

struct Labeler {
    client: Client,
    label: String,
    name: String,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
}

#[async_trait]
impl Reconciler for Labeler {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(pod) = self.pods.get(&key.namespace, &key.name) else { return Ok(Action::Wait) };
        let Some(node) = node_of(&pod).and_then(|node| self.nodes.get("", node)) else {
            return Ok(Action::Wait);
        };
        if finalizers::is_deleting(&*pod) {
            return Ok(Action::Wait);
        }
        let (there, value) = (pod.labels().get(&self.name), node.labels().get(&self.label));
        if there == value {
            return Ok(Action::Wait);
        }
        let mut wanted = (*pod).clone();
        match value {
            Some(value) => wanted.labels_mut().insert(self.name.clone(), value.clone()),
            None => wanted.labels_mut().remove(&self.name),
        };
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        match update::object(&api, &pod, &wanted).await {
            Err(gone) if gone.is_not_found() => Ok(Action::Wait),
            result => result.map(|_| Action::Wait),
        }
    }
}
