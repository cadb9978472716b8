//! StatefulSet.

use k8s_openapi::api::apps::v1::StatefulSet;

use super::{Kind, Resource, row::Row};

/// The row of StatefulSet.
pub(super) fn row() -> Resource {
    Row::of::<StatefulSets>().short(&["sts"]).in_all().scale().status().done()
}

/// How a StatefulSet behaves.
#[derive(Debug, Default)]
pub(super) struct StatefulSets;

impl Kind for StatefulSets {
    type Object = StatefulSet;
}
