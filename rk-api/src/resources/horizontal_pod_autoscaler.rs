//! HorizontalPodAutoscaler.

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;

use super::{Kind, Resource, row::Row};

/// The row of HorizontalPodAutoscaler.
pub(super) fn row() -> Resource {
    Row::of::<HorizontalPodAutoscalers>().short(&["hpa"]).in_all().status().done()
}

/// How a HorizontalPodAutoscaler behaves.
#[derive(Debug, Default)]
pub(super) struct HorizontalPodAutoscalers;

impl Kind for HorizontalPodAutoscalers {
    type Object = HorizontalPodAutoscaler;
}
