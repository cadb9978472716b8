//! PersistentVolumeClaim.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use super::{Kind, Resource, row::Row};

/// The row of PersistentVolumeClaim.
pub(super) fn row() -> Resource {
    Row::of::<PersistentVolumeClaims>().short(&["pvc"]).status().done()
}

/// How a PersistentVolumeClaim behaves.
#[derive(Debug, Default)]
pub(super) struct PersistentVolumeClaims;

impl Kind for PersistentVolumeClaims {
    type Object = PersistentVolumeClaim;
}
