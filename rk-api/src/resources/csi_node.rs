//! CSINode: the storage drivers that a node has.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::storage::v1::{CSINode, CSINodeDriver},
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Kind, Part, Resource,
    check::{Errors, list},
    pod::validation::csi_driver_name,
    row::Row,
};
use crate::{
    field::{ErrorList, FieldError, Path},
    meta::{
        names,
        table::{age, name},
    },
};

/// The row of CSINode.
pub(super) fn row() -> Resource {
    Row::of::<CsiNodes>().columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Drivers", "integer", "How many drivers the node has."),
    Column::AGE,
];

/// The longest id that a driver may have for a node, in bytes.
const NODE_ID_MAX: usize = 256;

/// How a CSINode behaves. Its status belongs to a feature that is off (`CSIVolumeHealth`).
#[derive(Debug, Default)]
pub(super) struct CsiNodes;

impl Kind for CsiNodes {
    type Object = CSINode;

    fn prepare_create(node: &mut CSINode) {
        node.status = None;
    }

    fn prepare_update(new: &mut CSINode, old: &CSINode, _: Part) {
        new.status = old.status.clone();
    }

    fn validate(node: &CSINode) -> ErrorList {
        let mut errors = Errors::default();
        let mut drivers = BTreeSet::new();
        for (i, driver) in node.spec.drivers.iter().enumerate() {
            let at = Path::new("spec.drivers").index(i);
            errors.required_form(&at.child("name"), &driver.name, csi_driver_name);
            let id_at = at.child("nodeID");
            if driver.node_id.is_empty() {
                errors.required(&id_at, "");
            } else if driver.node_id.len() > NODE_ID_MAX {
                let wrong = format!("must be {NODE_ID_MAX} characters or less");
                errors.invalid(&id_at, driver.node_id.as_str(), wrong);
            }
            let count = driver.allocatable.as_ref().and_then(|allocatable| allocatable.count);
            errors.opt_not_negative(&at.child("allocatable.count"), count);
            if !drivers.insert(&driver.name) {
                errors.push(FieldError::duplicate(&at.child("name"), driver.name.as_str()));
            }
            topology_keys(&mut errors, list(&driver.topology_keys), &at);
        }
        errors.0
    }

    fn validate_update(new: &CSINode, old: &CSINode, _: Part) -> ErrorList {
        let mut errors = Errors::default();
        // A driver may say anew how many volumes a node takes.
        let rest = |driver: &CSINodeDriver| CSINodeDriver { allocatable: None, ..driver.clone() };
        for old in &old.spec.drivers {
            for new in new.spec.drivers.iter().filter(|new| new.name == old.name) {
                errors.immutable(&Path::new("spec.drivers"), &rest(new), &rest(old));
            }
        }
        errors.0
    }

    fn cells(node: &CSINode, now: Timestamp) -> Vec<Value> {
        vec![
            json!(name(&node.metadata)),
            json!(node.spec.drivers.len()),
            json!(age(&node.metadata, now)),
        ]
    }

    const UNCONDITIONAL_UPDATE: bool = false;
}

fn topology_keys(errors: &mut Errors, keys: &[String], path: &Path) {
    let mut known = BTreeSet::new();
    for key in keys {
        if key.is_empty() {
            errors.required(path, "");
        }
        if !known.insert(key) {
            errors.push(FieldError::duplicate(path, key.as_str()));
        }
        errors.form(path, key.as_str(), names::qualified_name(key));
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::storage::v1::{CSINodeSpec, VolumeNodeResources};

    use super::*;

    fn node(drivers: Vec<CSINodeDriver>) -> CSINode {
        CSINode { spec: CSINodeSpec { drivers }, ..CSINode::default() }
    }

    #[test]
    fn of_a_driver_only_the_number_of_volumes_changes() {
        let driver = CSINodeDriver {
            name: "d.example.com".to_owned(),
            node_id: "n".to_owned(),
            ..CSINodeDriver::default()
        };
        let more = CSINodeDriver {
            allocatable: Some(VolumeNodeResources { count: Some(3) }),
            ..driver.clone()
        };
        let moved = CSINodeDriver { node_id: "m".to_owned(), ..driver.clone() };
        let wrong = |new: &CSINodeDriver| {
            let (new, old) = (node(vec![new.clone()]), node(vec![driver.clone()]));
            CsiNodes::validate_update(&new, &old, Part::Main).len()
        };
        assert_eq!((wrong(&driver), wrong(&more), wrong(&moved)), (0, 0, 1));
    }
}
