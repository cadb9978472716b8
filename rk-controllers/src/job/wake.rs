//! Which Jobs a change of a Pod concerns.

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::ResourceExt;
use rk_api::{
    client::{Change, Informer},
    meta::selectors::LabelQuery,
};

use super::{
    memory::Memory,
    model::{has_finalizer, uid},
};
use crate::{
    expectations::Expectations,
    key::ObjectKey,
    owners::{controller_of, refers_to},
    pods,
};

/// The Jobs to look at after `change`; what they expected is struck out.
pub(super) fn jobs_of(
    change: &Change<Pod>,
    jobs: &Informer<Job>,
    expectations: &Expectations<ObjectKey>,
    memory: &Memory,
) -> Vec<ObjectKey> {
    let pod = change.object();
    let mut keys = Vec::new();
    if let Change::Updated { old, .. } = change
        && let Some(left) = owner(old).filter(|old| Some(old) != owner(pod).as_ref())
    {
        keys.push(left);
    }
    let deleted = matches!(change, Change::Deleted(_));
    if let Some(key) = owner(pod) {
        if deleted || pods::is_deleting(pod) {
            expectations.deletion_observed(&key, uid(pod));
        }
        if deleted || !has_finalizer(pod) {
            memory.release_observed(&key, uid(pod));
        }
        // Also when it goes: who sees it go need not wait for it to come.
        expectations.creation_observed(&key, &pod.name_any());
        keys.push(key);
    } else if controller_of(&**pod).is_none() && !deleted {
        // Nobody's: every Job that selects it may want it.
        let selecting = jobs.list_in(&pod.namespace().unwrap_or_default()).into_iter();
        let selecting = selecting.filter(|job| {
            let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            selector.is_some_and(|selector| {
                let query = LabelQuery::from_selector(selector);
                !query.is_everything() && query.matches(pod.labels())
            })
        });
        keys.extend(selecting.map(|job| ObjectKey::of(&*job)));
    }
    keys
}

/// The Job that manages the Pod.
fn owner(pod: &Pod) -> Option<ObjectKey> {
    let reference = controller_of(pod).filter(|reference| refers_to::<Job>(reference))?;
    Some(ObjectKey::new(pod.namespace().unwrap_or_default(), reference.name.clone()))
}
