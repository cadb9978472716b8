//! LimitRange.

use k8s_openapi::api::core::v1::LimitRange;

use super::{Kind, Resource, row::Row};

/// The row of LimitRange.
pub(super) fn row() -> Resource {
    Row::of::<LimitRanges>().short(&["limits"]).done()
}

/// How a LimitRange behaves.
#[derive(Debug, Default)]
pub(super) struct LimitRanges;

impl Kind for LimitRanges {
    type Object = LimitRange;
}
