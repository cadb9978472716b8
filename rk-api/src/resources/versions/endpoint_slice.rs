//! EndpointSlice v1beta1: where an endpoint is, is told by a map of topology labels.

use serde_json::{Map, Value};

use super::{Conversion, tree};

/// v1beta1.
pub(super) const V1BETA1: Conversion = Conversion { read, write };

const ZONE: &str = "topology.kubernetes.io/zone";
const HOSTNAME: &str = "kubernetes.io/hostname";

fn read(slice: &mut Value, unknown: &mut Vec<String>) {
    for (i, endpoint) in tree::items(slice.get_mut("endpoints")) {
        let Some(endpoint) = endpoint.as_object_mut() else { continue };
        let at = format!("endpoints[{i}].");
        for field in ["deprecatedTopology", "zone"] {
            tree::refuse(endpoint, field, &at, unknown);
        }
        let Some(mut topology) = tree::take(endpoint, "topology") else { continue };
        if let Some(topology) = topology.as_object_mut() {
            if let Some(zone) = topology.remove(ZONE) {
                endpoint.insert("zone".to_owned(), zone);
            }
            // A host name that is not the node's stays in the map.
            let node = endpoint.get("nodeName").filter(|node| !node.is_null()).cloned();
            match (topology.get(HOSTNAME).cloned(), node) {
                (Some(host), None) => {
                    topology.remove(HOSTNAME);
                    endpoint.insert("nodeName".to_owned(), host);
                }
                (Some(host), Some(node)) if host == node => _ = topology.remove(HOSTNAME),
                _ => {}
            }
            if topology.is_empty() {
                continue;
            }
        }
        endpoint.insert("deprecatedTopology".to_owned(), topology);
    }
}

fn write(slice: &mut Value) {
    for (_, endpoint) in tree::items(slice.get_mut("endpoints")) {
        let Some(endpoint) = endpoint.as_object_mut() else { continue };
        let mut topology = match tree::take(endpoint, "deprecatedTopology") {
            Some(Value::Object(topology)) => topology,
            _ => Map::new(),
        };
        if let Some(zone) = tree::take(endpoint, "zone") {
            topology.insert(ZONE.to_owned(), zone);
        }
        if let Some(node) = endpoint.get("nodeName").filter(|node| !node.is_null()) {
            topology.entry(HOSTNAME).or_insert_with(|| node.clone());
        }
        if !topology.is_empty() {
            endpoint.insert("topology".to_owned(), topology.into());
        }
    }
}
