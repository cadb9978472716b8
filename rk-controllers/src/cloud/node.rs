//! Nodes are given what their machines are.
//!
//! # What it promises
//! - A node that joins with the taint `node.cloudprovider.kubernetes.io/uninitialized` gets its
//!   provider id, its type, zone and region as labels, and its addresses; then the taint is taken
//!   away and Pods may come.
//! - As long as the cloud cannot say these things the taint stays.
//! - Addresses follow those of the machine; the labels of the older names follow the newer ones.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, NodeAddress};
use kube::{Api, Client, ResourceExt};
use rk_api::client::{EventRecorder, EventType, Informer, object_ref};

use super::{CloudError, CloudProvider, InstanceMetadata, UNINITIALIZED, has_taint};
use crate::{
    controller::{Action, Controller, Reconciler},
    error::Error,
    key::ObjectKey,
    manager::Context,
    write::{self, Part},
};

/// How often the addresses of a node are looked at (`--node-status-update-frequency`).
const LOOK_EVERY: Duration = Duration::from_secs(300);

/// The address that a kubelet was told to use, which is then the only one of its kind.
const GIVEN_ADDRESS: &str = "alpha.kubernetes.io/provided-node-ip";

/// Labels that say the same, the newer name first.
const OLDER_NAMES: &[(&str, &str)] = &[
    ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"),
    ("node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type"),
];

struct CloudNodes {
    client: Client,
    recorder: EventRecorder,
    nodes: Informer<Node>,
    cloud: Arc<dyn CloudProvider>,
}

#[async_trait]
impl Reconciler for CloudNodes {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(node) = self.nodes.get("", &key.name) else { return Ok(Action::Wait) };
        let Some(instances) = self.cloud.instances() else { return Ok(Action::Wait) };
        let is_new = has_taint(&node, UNINITIALIZED);
        let failed = |error: CloudError| {
            let name = &key.name;
            Error::NotYet(format!("failed to get instance metadata for node {name}: {error}"))
        };
        let metadata = match instances.metadata(&node).await {
            Ok(metadata) => metadata,
            // Whether a node that was used may go is for others to say.
            Err(CloudError::InstanceNotFound) if !is_new => {
                return Ok(Action::RequeueAfter(LOOK_EVERY));
            }
            Err(error) => return Err(failed(error)),
        };

        let api = Api::<Node>::all(self.client.clone());
        let mut after = (*node).clone();
        if is_new {
            initialize(&mut after, &metadata).map_err(Error::NotYet)?;
        }
        repeat_labels(&mut after);
        let node = write::update(&api, &node, &after, Part::Main).await?;

        let addresses = addresses(&node, &metadata.addresses).map_err(Error::NotYet)?;
        let mut after = node.clone();
        if !addresses.is_empty() {
            after.status.get_or_insert_default().addresses = Some(addresses);
        }
        write::update(&api, &node, &after, Part::Status).await?;
        if is_new {
            let message = "Node synced successfully";
            self.recorder.event(&object_ref(&node), EventType::Normal, "Synced", message);
        }
        Ok(Action::RequeueAfter(LOOK_EVERY))
    }
}

/// Gives a new node what its machine is, and takes the taint away. Pure.
fn initialize(node: &mut Node, metadata: &InstanceMetadata) -> Result<(), String> {
    let name = node.name_any();
    // What is to be written later must be fit to be written, or the taint would go too early.
    addresses(node, &metadata.addresses)?;
    let spec = node.spec.get_or_insert_default();
    if spec.provider_id.as_deref().unwrap_or_default().is_empty() {
        if metadata.provider_id.is_empty() {
            return Err(format!("cloud provider does not set node provider ID for node {name}"));
        }
        spec.provider_id = Some(metadata.provider_id.clone());
    }
    if let Some(taints) = &mut spec.taints {
        taints.retain(|taint| taint.key != UNINITIALIZED);
    }
    let labels = node.metadata.labels.get_or_insert_default();
    let values = [&metadata.zone, &metadata.region, &metadata.instance_type];
    for ((newer, older), value) in OLDER_NAMES.iter().zip(values) {
        if !value.is_empty() {
            labels.insert((*newer).to_owned(), value.clone());
            labels.insert((*older).to_owned(), value.clone());
        }
    }
    for (key, value) in metadata.labels.iter().filter(|(key, _)| !is_of_kubernetes(key)) {
        labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    Ok(())
}

/// Whether a label's key is of one of Kubernetes' own domains.
fn is_of_kubernetes(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return false };
    ["kubernetes.io", "k8s.io"].iter().any(|own| {
        domain.strip_suffix(own).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

/// Lets the labels of the older names say what the newer ones do.
fn repeat_labels(node: &mut Node) {
    let labels: &mut BTreeMap<_, _> = node.metadata.labels.get_or_insert_default();
    for (newer, older) in OLDER_NAMES {
        if let Some(value) = labels.get(*newer).cloned() {
            labels.insert((*older).to_owned(), value);
        }
    }
}

/// The addresses of a node: its machine's, with the host name that its kubelet knows if the cloud
/// has none. An address that the kubelet was told to use must be among them, and is then the only
/// one of its type. Empty if the cloud says nothing. Pure.
fn addresses(node: &Node, of_machine: &[NodeAddress]) -> Result<Vec<NodeAddress>, String> {
    if of_machine.is_empty() {
        return Ok(Vec::new());
    }
    let mut addresses = of_machine.to_vec();
    if !addresses.iter().any(|address| address.type_ == "Hostname") {
        let status = node.status.as_ref().and_then(|status| status.addresses.as_deref());
        let known = status.unwrap_or_default().iter();
        addresses.extend(known.filter(|address| address.type_ == "Hostname").cloned());
    }
    let Some(given) = node.annotations().get(GIVEN_ADDRESS) else { return Ok(addresses) };
    let types: Vec<String> = addresses
        .iter()
        .filter(|address| address.address == *given)
        .map(|address| address.type_.clone())
        .collect();
    if types.is_empty() {
        let name = node.name_any();
        return Err(format!(
            "provided node ip for node \"{name}\" is not valid: failed to get node address from \
             cloud provider that matches ip: {given}"
        ));
    }
    addresses.retain(|address| address.address == *given || !types.contains(&address.type_));
    addresses.sort_by_key(|address| address.address != *given);
    Ok(addresses)
}

/// The controller, wired up; none without machines to ask about.
pub(crate) fn controller(name: &'static str, context: &Context) -> Option<Controller> {
    let cloud = context.settings.cloud.clone()?;
    cloud.instances()?;
    let nodes = context.informers.of::<Node>();
    let reconciler = CloudNodes {
        client: context.client.clone(),
        recorder: context.recorder("cloud-node-controller"),
        nodes: nodes.clone(),
        cloud,
    };
    // A status says nothing that the cloud must be asked about, and each node has a new one often.
    let controller = Controller::new(name, reconciler).reconciles_if(&nodes, |change| {
        let rk_api::client::Change::Updated { old, new } = change else { return true };
        old.metadata.labels != new.metadata.labels || old.spec != new.spec
    });
    Some(controller.workers(context.settings.workers))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node() -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n", "labels": {"size": "mine"}},
            "spec": {"taints": [
                {"key": UNINITIALIZED, "effect": "NoSchedule"}, {"key": "other", "effect": "NoExecute"},
            ]},
            "status": {"addresses": [{"type": "Hostname", "address": "n.local"}]},
        }))
        .unwrap()
    }

    fn address(kind: &str, address: &str) -> NodeAddress {
        NodeAddress { type_: kind.into(), address: address.into() }
    }

    fn metadata() -> InstanceMetadata {
        InstanceMetadata {
            provider_id: "memory://1".into(),
            instance_type: "large".into(),
            zone: "a".into(),
            region: String::new(),
            addresses: vec![address("InternalIP", "10.0.0.1"), address("InternalIP", "10.0.0.2")],
            labels: [("size", "9"), ("rack", "7"), ("node.k8s.io/x", "y"), ("ok8s.io/x", "z")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        }
    }

    #[test]
    fn a_new_node_is_given_what_its_machine_is() {
        let mut node = node();
        initialize(&mut node, &metadata()).unwrap();
        assert_eq!(
            json!(node.labels()),
            json!({
                "size": "mine", "rack": "7", "ok8s.io/x": "z",
                "topology.kubernetes.io/zone": "a", "failure-domain.beta.kubernetes.io/zone": "a",
                "node.kubernetes.io/instance-type": "large", "beta.kubernetes.io/instance-type": "large",
            })
        );
        let spec = node.spec.unwrap();
        assert_eq!(spec.provider_id.as_deref(), Some("memory://1"));
        assert_eq!(spec.taints.unwrap().len(), 1);
    }

    #[test]
    fn without_an_id_a_node_stays_new() {
        let nameless = InstanceMetadata { provider_id: String::new(), ..metadata() };
        assert!(initialize(&mut node(), &nameless).is_err());
        let mut named = node();
        named.spec.as_mut().unwrap().provider_id = Some("memory://2".into());
        initialize(&mut named, &nameless).unwrap();
        assert_eq!(named.spec.unwrap().provider_id.as_deref(), Some("memory://2"));
    }

    #[test]
    fn an_address_that_the_kubelet_was_given_is_the_only_one_of_its_type() {
        let mut node = node();
        let of_machine = metadata().addresses;
        let host = address("Hostname", "n.local");
        let all = addresses(&node, &of_machine).unwrap();
        assert_eq!(all, [of_machine[0].clone(), of_machine[1].clone(), host.clone()]);

        node.annotations_mut().insert(GIVEN_ADDRESS.into(), "10.0.0.2".into());
        assert_eq!(addresses(&node, &of_machine).unwrap(), [of_machine[1].clone(), host]);
        node.annotations_mut().insert(GIVEN_ADDRESS.into(), "10.9.9.9".into());
        assert!(addresses(&node, &of_machine).is_err());
        assert!(initialize(&mut node, &metadata()).is_err(), "the taint must not go before");
    }
}
