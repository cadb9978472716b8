//! Binding: the request that a Pod run on a node. It is not kept.

use k8s_openapi::api::core::v1::Binding;

use super::{
    Kind, Resource,
    check::{Errors, text},
    row::Row,
};
use crate::field::{ErrorList, FieldError, Path};

/// The row of Binding.
pub(super) fn row() -> Resource {
    Row::of::<Bindings>().verbs(&["create"]).done()
}

/// How a Binding behaves.
#[derive(Debug, Default)]
pub(super) struct Bindings;

impl Kind for Bindings {
    type Object = Binding;

    fn validate(binding: &Binding) -> ErrorList {
        let mut errors = Errors::default();
        let kind = text(&binding.target.kind);
        if !kind.is_empty() && kind != "Node" {
            let at = Path::new("target.kind");
            errors.push(FieldError::not_supported(&at, kind, &["Node", "<empty>"]));
        }
        if text(&binding.target.name).is_empty() {
            errors.required(&Path::new("target.name"), "");
        }
        errors.0
    }
}
