//! Job.

use k8s_openapi::api::batch::v1::Job;

use super::{Kind, Resource, row::Row};

/// The row of Job.
pub(super) fn row() -> Resource {
    Row::of::<Jobs>().in_all().status().done()
}

/// How a Job behaves.
#[derive(Debug, Default)]
pub(super) struct Jobs;

impl Kind for Jobs {
    type Object = Job;
}
