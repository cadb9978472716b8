//! Namespace.

use k8s_openapi::api::core::v1::Namespace;

use super::{Kind, Resource, row::Row};

/// The row of Namespace.
pub(super) fn row() -> Resource {
    Row::of::<Namespaces>()
        .short(&["ns"])
        .verbs(&["create", "delete", "get", "list", "patch", "update", "watch"])
        .sub("finalize", "Namespace", &["update"])
        .status()
        .done()
}

/// How a Namespace behaves.
#[derive(Debug, Default)]
pub(super) struct Namespaces;

impl Kind for Namespaces {
    type Object = Namespace;
}
