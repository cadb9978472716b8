//! CronJob.

use k8s_openapi::api::batch::v1::CronJob;

use super::{Kind, Resource, row::Row};

/// The row of CronJob.
pub(super) fn row() -> Resource {
    Row::of::<CronJobs>().short(&["cj"]).in_all().status().done()
}

/// How a CronJob behaves.
#[derive(Debug, Default)]
pub(super) struct CronJobs;

impl Kind for CronJobs {
    type Object = CronJob;
}
