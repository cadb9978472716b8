//! Lease.

use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use serde_json::{Value, json};

use super::{
    Column, Kind, Resource,
    check::{Errors, text},
    row::Row,
};
use crate::{
    field::{ErrorList, Path},
    meta::table::{age, name},
};

/// The row of Lease.
pub(super) fn row() -> Resource {
    Row::of::<Leases>().columns(COLUMNS).done()
}

const COLUMNS: &[Column] =
    &[Column::NAME, Column::new("Holder", "string", "Who holds it."), Column::AGE];

/// How a Lease behaves.
#[derive(Debug, Default)]
pub(super) struct Leases;

impl Kind for Leases {
    type Object = Lease;

    fn validate(lease: &Lease) -> ErrorList {
        let mut errors = Errors::default();
        let Some(spec) = &lease.spec else { return errors.0 };
        let path = Path::new("spec");
        if let Some(seconds) = spec.lease_duration_seconds.filter(|seconds| *seconds <= 0) {
            errors.invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0");
        }
        errors.opt_not_negative(&path.child("leaseTransitions"), spec.lease_transitions);
        if let Some(strategy) = &spec.strategy {
            errors.label_key(&path.child("strategy"), strategy);
        }
        if !text(&spec.preferred_holder).is_empty() && text(&spec.strategy).is_empty() {
            errors.forbidden(
                &path.child("preferredHolder"),
                "may only be specified if `strategy` is defined",
            );
        }
        errors.0
    }

    fn cells(lease: &Lease, now: Timestamp) -> Vec<Value> {
        let holder = lease.spec.as_ref().map_or("", |spec| text(&spec.holder_identity));
        vec![json!(name(&lease.metadata)), json!(holder), json!(age(&lease.metadata, now))]
    }

    const CREATE_ON_UPDATE: bool = true;
    const UNCONDITIONAL_UPDATE: bool = false;
}
