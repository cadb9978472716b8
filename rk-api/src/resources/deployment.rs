//! Deployment.

use k8s_openapi::api::apps::v1::Deployment;

use super::{Kind, Resource, row::Row};

/// The row of Deployment.
pub(super) fn row() -> Resource {
    Row::of::<Deployments>().short(&["deploy"]).in_all().scale().status().done()
}

/// How a Deployment behaves.
#[derive(Debug, Default)]
pub(super) struct Deployments;

impl Kind for Deployments {
    type Object = Deployment;
}
