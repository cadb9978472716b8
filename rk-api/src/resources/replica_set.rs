//! ReplicaSet.

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::{Kind, Resource, row::Row};

/// The row of ReplicaSet.
pub(super) fn row() -> Resource {
    Row::of::<ReplicaSets>().short(&["rs"]).in_all().scale().status().done()
}

/// How a ReplicaSet behaves.
#[derive(Debug, Default)]
pub(super) struct ReplicaSets;

impl Kind for ReplicaSets {
    type Object = ReplicaSet;
}
