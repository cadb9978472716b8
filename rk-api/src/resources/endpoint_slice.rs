//! EndpointSlice.

use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{Kind, Resource, row::Row};

/// The row of EndpointSlice.
pub(super) fn row() -> Resource {
    Row::of::<EndpointSlices>().done()
}

/// How a EndpointSlice behaves.
#[derive(Debug, Default)]
pub(super) struct EndpointSlices;

impl Kind for EndpointSlices {
    type Object = EndpointSlice;
}
