//! Secret.

use k8s_openapi::api::core::v1::Secret;

use super::{Kind, Resource, row::Row};

/// The row of Secret.
pub(super) fn row() -> Resource {
    Row::of::<Secrets>().done()
}

/// How a Secret behaves.
#[derive(Debug, Default)]
pub(super) struct Secrets;

impl Kind for Secrets {
    type Object = Secret;
}
