//! Lease.

use k8s_openapi::api::coordination::v1::Lease;

use super::{Kind, Resource, row::Row};

/// The row of Lease.
pub(super) fn row() -> Resource {
    Row::of::<Leases>().done()
}

/// How a Lease behaves.
#[derive(Debug, Default)]
pub(super) struct Leases;

impl Kind for Leases {
    type Object = Lease;
}
