//! Service.

use k8s_openapi::api::core::v1::Service;

use super::{
    Kind, Resource,
    row::{PROXY_VERBS, Row},
};

/// The row of Service.
pub(super) fn row() -> Resource {
    Row::of::<Services>()
        .short(&["svc"])
        .in_all()
        .stored_in("services/specs")
        .sub("proxy", "ServiceProxyOptions", PROXY_VERBS)
        .status()
        .done()
}

/// How a Service behaves.
#[derive(Debug, Default)]
pub(super) struct Services;

impl Kind for Services {
    type Object = Service;
}
