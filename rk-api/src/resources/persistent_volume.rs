//! PersistentVolume.

use k8s_openapi::api::core::v1::PersistentVolume;

use super::{Kind, Resource, row::Row};

/// The row of PersistentVolume.
pub(super) fn row() -> Resource {
    Row::of::<PersistentVolumes>().short(&["pv"]).status().done()
}

/// How a PersistentVolume behaves.
#[derive(Debug, Default)]
pub(super) struct PersistentVolumes;

impl Kind for PersistentVolumes {
    type Object = PersistentVolume;
}
