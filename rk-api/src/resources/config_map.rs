//! ConfigMap.

use k8s_openapi::api::core::v1::ConfigMap;

use super::{Kind, Resource, row::Row};

/// The row of ConfigMap.
pub(super) fn row() -> Resource {
    Row::of::<ConfigMaps>().short(&["cm"]).done()
}

/// How a ConfigMap behaves.
#[derive(Debug, Default)]
pub(super) struct ConfigMaps;

impl Kind for ConfigMaps {
    type Object = ConfigMap;
}
