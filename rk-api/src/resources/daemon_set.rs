//! DaemonSet.

use k8s_openapi::api::apps::v1::DaemonSet;

use super::{Kind, Resource, row::Row};

/// The row of DaemonSet.
pub(super) fn row() -> Resource {
    Row::of::<DaemonSets>().short(&["ds"]).in_all().status().done()
}

/// How a DaemonSet behaves.
#[derive(Debug, Default)]
pub(super) struct DaemonSets;

impl Kind for DaemonSets {
    type Object = DaemonSet;
}
