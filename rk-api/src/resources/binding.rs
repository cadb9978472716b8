//! Binding.

use k8s_openapi::api::core::v1::Binding;

use super::{Kind, Resource, row::Row};

/// The row of Binding.
pub(super) fn row() -> Resource {
    Row::of::<Bindings>().verbs(&["create"]).done()
}

/// How a Binding behaves.
#[derive(Debug, Default)]
pub(super) struct Bindings;

impl Kind for Bindings {
    type Object = Binding;
}
