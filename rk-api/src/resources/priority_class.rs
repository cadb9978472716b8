//! PriorityClass.

use k8s_openapi::api::scheduling::v1::PriorityClass;

use super::{Kind, Resource, row::Row};

/// The row of PriorityClass.
pub(super) fn row() -> Resource {
    Row::of::<PriorityClasses>().short(&["pc"]).done()
}

/// How a PriorityClass behaves.
#[derive(Debug, Default)]
pub(super) struct PriorityClasses;

impl Kind for PriorityClasses {
    type Object = PriorityClass;
}
