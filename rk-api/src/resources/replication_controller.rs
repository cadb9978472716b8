//! ReplicationController.

use k8s_openapi::api::core::v1::ReplicationController;

use super::{Kind, Resource, row::Row};

/// The row of ReplicationController.
pub(super) fn row() -> Resource {
    Row::of::<ReplicationControllers>()
        .short(&["rc"])
        .in_all()
        .stored_in("controllers")
        .scale()
        .status()
        .done()
}

/// How a ReplicationController behaves.
#[derive(Debug, Default)]
pub(super) struct ReplicationControllers;

impl Kind for ReplicationControllers {
    type Object = ReplicationController;
}
