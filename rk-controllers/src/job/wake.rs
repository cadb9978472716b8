//! Which Jobs a change of a Pod concerns.

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use rk_api::{
    client::{Change, Informer},
    meta::selectors::LabelQuery,
};

use super::{
    memory::Memory,
    model::{has_finalizer, uid},
};
use crate::{children, expectations::Expectations, key::ObjectKey};

/// The Jobs to look at after `change`; what they expected is struck out.
pub(super) fn jobs_of(
    change: &Change<Pod>,
    jobs: &Informer<Job>,
    expectations: &Expectations<ObjectKey>,
    memory: &Memory,
) -> Vec<ObjectKey> {
    let pod = change.object();
    let released = matches!(change, Change::Deleted(_)) || !has_finalizer(pod);
    if let Some(key) = children::owner::<Job>(pod).filter(|_| released) {
        memory.release_observed(&key, uid(pod));
    }
    let selector = |job: &Job| {
        let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.map(LabelQuery::from_selector).unwrap_or_default()
    };
    children::wake(change, jobs, selector, expectations)
}
