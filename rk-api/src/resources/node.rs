//! Node.

use k8s_openapi::api::core::v1::Node;

use super::{
    Kind, Resource,
    row::{PROXY_VERBS, Row},
};

/// The row of Node.
pub(super) fn row() -> Resource {
    Row::of::<Nodes>()
        .short(&["no"])
        .stored_in("minions")
        .sub("proxy", "NodeProxyOptions", PROXY_VERBS)
        .status()
        .done()
}

/// How a Node behaves.
#[derive(Debug, Default)]
pub(super) struct Nodes;

impl Kind for Nodes {
    type Object = Node;
}
