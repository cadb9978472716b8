//! ConfigMap.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::ConfigMap, jiff::Timestamp};
use serde_json::{Value, json};

use super::{Column, Kind, Part, Resource, check::Errors, row::Row, secret::DATA_MAX_BYTES};
use crate::{
    field::{ErrorList, FieldError, Path},
    meta::{
        names,
        table::{age, name},
    },
};

/// The row of ConfigMap.
pub(super) fn row() -> Resource {
    Row::of::<ConfigMaps>().short(&["cm"]).columns(COLUMNS).done()
}

const COLUMNS: &[Column] =
    &[Column::NAME, Column::new("Data", "string", "How many keys it has."), Column::AGE];

/// How a ConfigMap behaves.
#[derive(Debug, Default)]
pub(super) struct ConfigMaps;

impl Kind for ConfigMaps {
    type Object = ConfigMap;

    fn validate(map: &ConfigMap) -> ErrorList {
        let mut errors = Errors::default();
        let mut bytes = 0;
        for (key, value) in map.data.iter().flatten() {
            let at = Path::new("data").key(key);
            errors.form(&at, key.as_str(), names::config_key(key));
            if map.binary_data.as_ref().is_some_and(|binary| binary.contains_key(key)) {
                errors.invalid(&at, key.as_str(), "duplicate of key present in binaryData");
            }
            bytes += value.len();
        }
        for (key, value) in map.binary_data.iter().flatten() {
            let at = Path::new("binaryData").key(key);
            errors.form(&at, key.as_str(), names::config_key(key));
            bytes += value.0.len();
        }
        if bytes > DATA_MAX_BYTES {
            // It is about the object as a whole: the path of Kubernetes' error has no name.
            errors.push(FieldError::too_long(&Path::new("[]"), DATA_MAX_BYTES));
        }
        errors.0
    }

    fn validate_update(new: &ConfigMap, old: &ConfigMap, _: Part) -> ErrorList {
        let mut errors = Errors::default();
        if old.immutable == Some(true) {
            let changes = [
                ("immutable", new.immutable != Some(true)),
                ("data", new.data != old.data),
                ("binaryData", new.binary_data != old.binary_data),
            ];
            for (field, _) in changes.into_iter().filter(|(_, changed)| *changed) {
                errors.forbidden(&Path::new(field), "field is immutable when `immutable` is set");
            }
        }
        errors.0
    }

    fn cells(map: &ConfigMap, now: Timestamp) -> Vec<Value> {
        let keys = map.data.as_ref().map_or(0, BTreeMap::len)
            + map.binary_data.as_ref().map_or(0, BTreeMap::len);
        vec![json!(name(&map.metadata)), json!(keys), json!(age(&map.metadata, now))]
    }
}
