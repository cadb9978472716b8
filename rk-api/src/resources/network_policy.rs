//! NetworkPolicy.

use k8s_openapi::api::networking::v1::NetworkPolicy;

use super::{Kind, Resource, row::Row};

/// The row of NetworkPolicy.
pub(super) fn row() -> Resource {
    Row::of::<NetworkPolicies>().short(&["netpol"]).done()
}

/// How a NetworkPolicy behaves.
#[derive(Debug, Default)]
pub(super) struct NetworkPolicies;

impl Kind for NetworkPolicies {
    type Object = NetworkPolicy;
}
