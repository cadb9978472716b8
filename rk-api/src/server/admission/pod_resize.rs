//! PodResizeValidator: a Pod on a node is resized only to what the node can have (KEP-1287).

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, Pod};

use super::{Admission, AdmissionRequest, Operation};
use crate::{
    quota::pod_resources::{self, Amounts},
    server::{reader::Reader, status::Result},
};

/// The label that says which operating system a node has.
const OS: &str = "kubernetes.io/os";

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct PodResize(pub(super) Reader);

#[async_trait]
impl Admission for PodResize {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        request.operation == Operation::Update
            && request.resource.group.is_empty()
            && request.resource.plural == "pods"
            && request.subresource == "resize"
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        let (Some(new), Some(old)) = (request.new_as::<Pod>(), request.old_as::<Pod>()) else {
            return Ok(());
        };
        let Some(name) = bound_to(new).filter(|_| new.spec != old.spec) else { return Ok(()) };
        let Some(node) = self.0.get::<Node>(None, name).await? else {
            return Err(request.forbidden(&format!("node {name:?} not found")));
        };
        lacking(new, &node)
            .or_else(|| foreign(&node))
            .map_or(Ok(()), |why| Err(request.forbidden(&why)))
    }
}

/// The node that a Pod is on.
pub(super) fn bound_to(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// What of a Pod's requests is more than all that the node has.
fn lacking(pod: &Pod, node: &Node) -> Option<String> {
    let mut requested = pod_resources::requests(pod);
    pod_resources::add(&mut requested, &pod_resources::overhead(pod));
    let status = node.status.as_ref();
    let has = pod_resources::amounts(status.and_then(|status| status.allocatable.as_ref()));
    // A CPU is counted in thousandths, memory in bytes.
    let amount = |list: &Amounts, name: &str| {
        let found = list.get(name)?;
        Some(if name == "cpu" { found.millis() } else { found.value() })
    };
    let lacking = ["cpu", "memory"].into_iter().filter_map(|name| {
        let requested = amount(&requested, name).unwrap_or(0);
        let has = amount(&has, name).unwrap_or(0);
        (requested > has).then(|| format!("{name}, requested: {requested}, allocatable: {has}"))
    });
    let lacking: Vec<_> = lacking.collect();
    (!lacking.is_empty())
        .then(|| format!("Node didn't have enough allocatable resources: {}", lacking.join("; ")))
}

/// What is wrong with the node's operating system.
fn foreign(node: &Node) -> Option<String> {
    let os = node.metadata.labels.as_ref().and_then(|labels| labels.get(OS));
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let os = os.map(String::as_str).unwrap_or_default();
    (os != "linux")
        .then(|| format!("pod resize is only supported on linux nodes, node {name:?} is {os:?}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_cannot_grow_beyond_its_node() {
        let node: Node = serde_json::from_value(json!({
            "metadata": { "name": "n" },
            "status": { "allocatable": { "cpu": "2", "memory": "1Gi" } },
        }))
        .unwrap();
        let found = |cpu: &str, memory: &str| {
            let requests = json!({ "cpu": cpu, "memory": memory });
            let container = json!({ "name": "c", "resources": { "requests": requests } });
            let pod = json!({ "spec": { "containers": [container] } });
            lacking(&serde_json::from_value(pod).unwrap(), &node).unwrap_or_default()
        };
        assert_eq!(found("2", "1Gi"), "");
        assert_eq!(
            found("2500m", "2Gi"),
            "Node didn't have enough allocatable resources: cpu, requested: 2500, allocatable: \
             2000; memory, requested: 2147483648, allocatable: 1073741824"
        );
        assert_eq!(
            foreign(&node).unwrap(),
            "pod resize is only supported on linux nodes, node \"n\" is \"\""
        );
    }
}
