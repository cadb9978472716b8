//! Endpoints.

use k8s_openapi::api::core::v1::Endpoints;

use super::{Kind, Resource, row::Row};

/// The row of Endpoints.
pub(super) fn row() -> Resource {
    Row::of::<EndpointsKind>().short(&["ep"]).stored_in("services/endpoints").done()
}

/// How a Endpoints behaves.
#[derive(Debug, Default)]
pub(super) struct EndpointsKind;

impl Kind for EndpointsKind {
    type Object = Endpoints;
}
