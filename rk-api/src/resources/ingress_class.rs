//! IngressClass.

use k8s_openapi::api::networking::v1::IngressClass;

use super::{Kind, Resource, row::Row};

/// The row of IngressClass.
pub(super) fn row() -> Resource {
    Row::of::<IngressClasses>().done()
}

/// How a IngressClass behaves.
#[derive(Debug, Default)]
pub(super) struct IngressClasses;

impl Kind for IngressClasses {
    type Object = IngressClass;
}
