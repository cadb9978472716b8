//! CSIStorageCapacity: how much storage a driver has left for a class, at a place.

use k8s_openapi::{api::storage::v1::CSIStorageCapacity, jiff::Timestamp};
use serde_json::{Value, json};

use super::{Column, Kind, Part, Resource, check::Errors, row::Row};
use crate::{
    field::{ErrorList, Path},
    meta::{names, table::name},
};

/// The row of CSIStorageCapacity.
pub(super) fn row() -> Resource {
    Row::of::<CsiStorageCapacities>().columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("StorageClassName", "string", "The class that it is about."),
    Column::new("Capacity", "string", "What is left."),
];

/// How a CSIStorageCapacity behaves.
#[derive(Debug, Default)]
pub(super) struct CsiStorageCapacities;

impl Kind for CsiStorageCapacities {
    type Object = CSIStorageCapacity;

    fn validate(capacity: &CSIStorageCapacity) -> ErrorList {
        let mut errors = Errors::default();
        if let Some(topology) = &capacity.node_topology {
            errors.selector(&Path::new("nodeTopology"), topology);
        }
        let class = capacity.storage_class_name.as_str();
        let wrong = names::dns_subdomain(class, false);
        errors.form(&Path::new("storageClassName"), class, wrong);
        if let Some(amount) = &capacity.capacity {
            errors.amount(&Path::new("capacity"), "storage", amount);
        }
        errors.0
    }

    fn validate_update(new: &CSIStorageCapacity, old: &CSIStorageCapacity, _: Part) -> ErrorList {
        let mut errors = Errors::default();
        errors.immutable(&Path::new("nodeTopology"), &new.node_topology, &old.node_topology);
        errors.immutable(
            &Path::new("storageClassName"),
            &new.storage_class_name,
            &old.storage_class_name,
        );
        errors.0
    }

    fn cells(capacity: &CSIStorageCapacity, _: Timestamp) -> Vec<Value> {
        let amount = capacity.capacity.as_ref().map_or("<unset>", |amount| &amount.0);
        vec![json!(name(&capacity.metadata)), json!(capacity.storage_class_name), json!(amount)]
    }

    const UNCONDITIONAL_UPDATE: bool = false;
}
