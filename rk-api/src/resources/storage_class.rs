//! StorageClass.

use k8s_openapi::api::storage::v1::StorageClass;

use super::{Kind, Resource, row::Row};

/// The row of StorageClass.
pub(super) fn row() -> Resource {
    Row::of::<StorageClasses>().short(&["sc"]).done()
}

/// How a StorageClass behaves.
#[derive(Debug, Default)]
pub(super) struct StorageClasses;

impl Kind for StorageClasses {
    type Object = StorageClass;
}
