//! Pod.

use k8s_openapi::api::core::v1::Pod;

use super::{
    Kind, Resource,
    row::{PROXY_VERBS, Row},
};

/// The row of Pod.
pub(super) fn row() -> Resource {
    Row::of::<Pods>()
        .short(&["po"])
        .in_all()
        .sub("attach", "PodAttachOptions", &["create", "get"])
        .sub("binding", "Binding", &["create"])
        .sub("ephemeralcontainers", "Pod", &["get", "patch", "update"])
        .sub_in("eviction", ("policy", "v1", "Eviction"), &["create"])
        .sub("exec", "PodExecOptions", &["create", "get"])
        .sub("log", "Pod", &["get"])
        .sub("portforward", "PodPortForwardOptions", &["create", "get"])
        .sub("proxy", "PodProxyOptions", PROXY_VERBS)
        .sub("resize", "Pod", &["get", "patch", "update"])
        .status()
        .done()
}

/// How a Pod behaves.
#[derive(Debug, Default)]
pub(super) struct Pods;

impl Kind for Pods {
    type Object = Pod;
}
