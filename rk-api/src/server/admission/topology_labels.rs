//! PodTopologyLabels: a Pod that gets a node gets the labels that say where the node is (KEP-4742).

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Binding, Node, Pod};

use super::{Admission, AdmissionRequest, Operation};
use crate::{
    resources::Object,
    server::{reader::Reader, status::Result},
};

/// The labels that are copied.
const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct PodTopologyLabels(pub(super) Reader);

#[async_trait]
impl Admission for PodTopologyLabels {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        request.operation == Operation::Create
            && request.resource.group.is_empty()
            && request.resource.plural == "pods"
            && matches!(request.subresource, "" | "binding")
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<()> {
        let Some(node) = request.object().and_then(node_of) else { return Ok(()) };
        // A node that is not there has no labels, and binding to it is nobody's business here.
        let Some(node) = self.0.get::<Node>(None, &node).await? else { return Ok(()) };
        let own = topology(&node);
        if let Some(object) = request.object.as_deref_mut().filter(|_| !own.is_empty()) {
            let labels = object.meta_mut().labels.get_or_insert_default();
            for (key, value) in own {
                labels.entry(key).or_insert(value);
            }
        }
        Ok(())
    }
}

/// The node that a Pod has, or that a Binding gives to it.
fn node_of(object: &dyn Object) -> Option<String> {
    let any = object.as_any();
    let name = match any.downcast_ref::<Binding>() {
        Some(binding) => {
            let is_node = binding.target.kind.as_deref() == Some("Node");
            binding.target.name.as_ref().filter(|_| is_node)
        }
        None => any.downcast_ref::<Pod>()?.spec.as_ref()?.node_name.as_ref(),
    };
    name.filter(|name| !name.is_empty()).cloned()
}

fn topology(node: &Node) -> BTreeMap<String, String> {
    let labels = node.metadata.labels.iter().flatten();
    labels
        .filter(|(key, _)| LABELS.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}
