//! ResourceQuota.

use k8s_openapi::api::core::v1::ResourceQuota;

use super::{Kind, Resource, row::Row};

/// The row of ResourceQuota.
pub(super) fn row() -> Resource {
    Row::of::<ResourceQuotas>().short(&["quota"]).status().done()
}

/// How a ResourceQuota behaves.
#[derive(Debug, Default)]
pub(super) struct ResourceQuotas;

impl Kind for ResourceQuotas {
    type Object = ResourceQuota;
}
