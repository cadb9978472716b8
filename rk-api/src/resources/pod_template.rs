//! PodTemplate.

use k8s_openapi::api::core::v1::PodTemplate;

use super::{Kind, Resource, row::Row};

/// The row of PodTemplate.
pub(super) fn row() -> Resource {
    Row::of::<PodTemplates>().done()
}

/// How a PodTemplate behaves.
#[derive(Debug, Default)]
pub(super) struct PodTemplates;

impl Kind for PodTemplates {
    type Object = PodTemplate;
}
