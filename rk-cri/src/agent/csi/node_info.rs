//! What the Node and the CSINode tell of the drivers on a node. Pure.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::Node,
        storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use serde_json::{Value, json};

use crate::csi::v1::NodeGetInfoResponse;

/// On a Node: what each driver calls it, as a JSON object.
const NODE_IDS: &str = "csi.volume.kubernetes.io/nodeid";

/// A CSINode without drivers.
pub(super) fn empty(name: &str, node: &Node) -> CSINode {
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: name.into(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    };
    CSINode {
        metadata: ObjectMeta {
            name: Some(name.into()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: CSINodeSpec { drivers: Vec::new() },
        ..CSINode::default()
    }
}

fn topology(info: &NodeGetInfoResponse) -> BTreeMap<String, String> {
    info.accessible_topology.as_ref().map(|found| found.segments.clone()).unwrap_or_default()
}

/// The CSINode with a driver as it describes itself.
pub(super) fn with_driver(csi_node: &CSINode, driver: &str, info: &NodeGetInfoResponse) -> CSINode {
    let mut changed = without_driver(csi_node, driver);
    // Zero and less say that there is no limit.
    let count = i32::try_from(info.max_volumes_per_node).unwrap_or(i32::MAX);
    let keys: Vec<String> = topology(info).into_keys().collect();
    changed.spec.drivers.push(CSINodeDriver {
        name: driver.to_owned(),
        node_id: info.node_id.clone(),
        topology_keys: Some(keys).filter(|keys| !keys.is_empty()),
        allocatable: (count > 0).then_some(VolumeNodeResources { count: Some(count) }),
    });
    changed
}

/// The CSINode without a driver.
pub(super) fn without_driver(csi_node: &CSINode, driver: &str) -> CSINode {
    let mut changed = csi_node.clone();
    changed.spec.drivers.retain(|known| known.name != driver);
    changed
}

/// The merge patch that tells on a Node what a driver says of it: what it calls the node, and as
/// labels where the node is. `None` if the Node tells so already.
///
/// # Errors
/// The Node has other values of these labels: somebody else says so.
pub(super) fn told(
    node: &Node,
    driver: &str,
    info: &NodeGetInfoResponse,
) -> Result<Option<Value>, String> {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let topology = topology(info);
    for (key, value) in &topology {
        if let Some(other) = labels.get(key).filter(|other| *other != value) {
            return Err(format!(
                "detected topology value collision: driver reported {key:?}:{value:?} but existing \
                 label is {key:?}:{other:?}"
            ));
        }
    }
    let mut ids = node_ids(node);
    ids.insert(driver.to_owned(), info.node_id.clone());
    let unchanged = ids == node_ids(node) && topology.keys().all(|key| labels.contains_key(key));
    Ok((!unchanged).then(|| patch(node, &ids, &topology)))
}

/// The merge patch that takes back what the Node tells of a driver. Labels stay: volumes that were
/// made for this place are still here.
pub(super) fn untold(node: &Node, driver: &str) -> Option<Value> {
    let mut ids = node_ids(node);
    ids.remove(driver)?;
    Some(patch(node, &ids, &BTreeMap::new()))
}

fn node_ids(node: &Node) -> BTreeMap<String, String> {
    let text = node.metadata.annotations.as_ref().and_then(|all| all.get(NODE_IDS));
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

fn patch(node: &Node, ids: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> Value {
    let ids = match ids.is_empty() {
        true => Value::Null,
        false => Value::String(serde_json::to_string(ids).unwrap_or_default()),
    };
    // Of two drivers that come at the same time the second has to look again.
    let mut patch = json!({"metadata": {
        "resourceVersion": node.metadata.resource_version,
        "annotations": {NODE_IDS: ids},
    }});
    if !labels.is_empty() {
        patch["metadata"]["labels"] = json!(labels);
    }
    patch
}

#[cfg(test)]
mod tests {
    use serde_json::from_value;

    use super::*;
    use crate::csi::v1::Topology;

    fn info(id: &str, zone: &str, most: i64) -> NodeGetInfoResponse {
        let segments = [("example.com/zone".to_owned(), zone.to_owned())].into();
        NodeGetInfoResponse {
            node_id: id.into(),
            max_volumes_per_node: most,
            accessible_topology: Some(Topology { segments }),
        }
    }

    fn node(metadata: Value) -> Node {
        from_value(json!({"metadata": metadata})).unwrap()
    }

    #[test]
    fn a_driver_is_listed_once_with_what_it_says_now() {
        let none = empty("n1", &node(json!({"uid": "u"})));
        let one = with_driver(&none, "d", &info("id-1", "z", 0));
        let two =
            with_driver(&with_driver(&one, "e", &info("id-2", "z", 0)), "d", &info("id-3", "z", 7));
        let names: Vec<_> = two.spec.drivers.iter().map(|driver| driver.name.as_str()).collect();
        assert_eq!(names, ["e", "d"]);
        assert_eq!(two.spec.drivers[1].allocatable.as_ref().unwrap().count, Some(7));
        assert_eq!(two.spec.drivers[0].allocatable, None, "no limit");
        let keys = two.spec.drivers[1].topology_keys.clone().unwrap();
        assert_eq!(keys, ["example.com/zone"]);
        assert_eq!(without_driver(&one, "d"), none);
        assert_eq!(none.metadata.owner_references.unwrap()[0].uid, "u");
    }

    #[test]
    fn the_node_tells_its_ids_and_where_it_is() {
        let bare = node(json!({"resourceVersion": "5"}));
        let patch = told(&bare, "d", &info("id", "z", 0)).unwrap().unwrap();
        assert_eq!(patch["metadata"]["annotations"][NODE_IDS], r#"{"d":"id"}"#);
        assert_eq!(patch["metadata"]["labels"]["example.com/zone"], "z");
        assert_eq!(patch["metadata"]["resourceVersion"], "5");

        let known = node(json!({"labels": {"example.com/zone": "z"},
            "annotations": {NODE_IDS: r#"{"d":"id","e":"x"}"#}}));
        assert_eq!(told(&known, "d", &info("id", "z", 0)), Ok(None));
        let why = told(&known, "d", &info("id", "y", 0)).unwrap_err();
        assert!(why.contains("topology value collision"), "{why}");
        let patch = untold(&known, "d").unwrap();
        assert_eq!(patch["metadata"]["annotations"][NODE_IDS], r#"{"e":"x"}"#);
        assert!(patch["metadata"]["labels"].is_null());
        assert_eq!(untold(&bare, "d"), None);
        let last = node(json!({"annotations": {NODE_IDS: r#"{"d":"id"}"#}}));
        assert!(untold(&last, "d").unwrap()["metadata"]["annotations"][NODE_IDS].is_null());
    }
}
