//! ControllerRevision.

use k8s_openapi::api::apps::v1::ControllerRevision;

use super::{Kind, Resource, row::Row};

/// The row of ControllerRevision.
pub(super) fn row() -> Resource {
    Row::of::<ControllerRevisions>().done()
}

/// How a ControllerRevision behaves.
#[derive(Debug, Default)]
pub(super) struct ControllerRevisions;

impl Kind for ControllerRevisions {
    type Object = ControllerRevision;
}
