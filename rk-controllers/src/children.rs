//! The Pods of controllers in the shared cache: found by their owner, and whom their changes wake.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use rk_api::{
    client::{Change, Informer, Watchable},
    meta::selectors::LabelQuery,
};

use crate::{
    expectations::Expectations,
    key::ObjectKey,
    owners::{controller_of, refers_to},
    pods,
};

/// Index of Pods by the UID of their controller; Pods without one are under [`ORPHANS`].
pub(crate) const BY_CONTROLLER: &str = "controller-uid";
/// Index value: `orphans/<namespace>`. No UID looks like that.
pub(crate) const ORPHANS: &str = "orphans/";

/// Lets [`owned`] and [`orphans`] answer without going through all Pods.
pub(crate) fn index(pods: &Informer<Pod>) {
    pods.add_index(BY_CONTROLLER, index_by_controller);
}

/// The values of [`BY_CONTROLLER`].
pub(crate) fn index_by_controller(pod: &Pod) -> Vec<String> {
    match controller_of(pod) {
        Some(owner) => vec![owner.uid.clone()],
        None => vec![format!("{ORPHANS}{}", pod.namespace().unwrap_or_default())],
    }
}

/// The Pods whose managing controller has this UID.
pub(crate) fn owned(pods: &Informer<Pod>, uid: &str) -> Vec<Arc<Pod>> {
    pods.by_index(BY_CONTROLLER, uid)
}

/// The Pods of a namespace that nobody controls.
pub(crate) fn orphans(pods: &Informer<Pod>, namespace: &str) -> Vec<Arc<Pod>> {
    pods.by_index(BY_CONTROLLER, &format!("{ORPHANS}{namespace}"))
}

/// Which owners of kind `K` a change of a Pod concerns: the one that it has, the one that it left,
/// and for a Pod of nobody's all that select it. Expectations that the change meets are struck out.
pub(crate) fn wake<K: Watchable>(
    change: &Change<Pod>,
    owners: &Informer<K>,
    selector: impl Fn(&K) -> LabelQuery,
    expectations: &Expectations<ObjectKey>,
) -> Vec<ObjectKey> {
    let mut keys = Vec::new();
    let pod = change.object();
    if let Change::Updated { old, .. } = change
        && let Some(left) = owner::<K>(old).filter(|old| Some(old) != owner::<K>(pod).as_ref())
    {
        keys.push(left);
    }
    if let Some(key) = owner::<K>(pod) {
        if matches!(change, Change::Deleted(_)) || pods::is_deleting(pod) {
            expectations.deletion_observed(&key, &pod.uid().unwrap_or_default());
        }
        // Also when it goes: who sees it go need not wait for it to come.
        expectations.creation_observed(&key, &pod.name_any());
        keys.push(key);
    } else if controller_of(&**pod).is_none() && !matches!(change, Change::Deleted(_)) {
        keys.extend(selecting(owners, &**pod, selector));
    }
    keys
}

/// The owner of kind `K` that manages the Pod.
pub(crate) fn owner<K: Watchable>(pod: &Pod) -> Option<ObjectKey> {
    let reference = controller_of(pod).filter(|reference| refers_to::<K>(reference))?;
    Some(ObjectKey::new(pod.namespace().unwrap_or_default(), reference.name.clone()))
}

/// The owners of kind `K` in the object's namespace whose selector matches it. A selector of
/// everything selects nothing here: should one get past validation, it must not adopt a namespace.
pub(crate) fn selecting<K: Watchable>(
    owners: &Informer<K>,
    object: &impl ResourceExt,
    selector: impl Fn(&K) -> LabelQuery,
) -> Vec<ObjectKey> {
    let all = owners.list_in(&object.namespace().unwrap_or_default());
    let selecting = all.into_iter().filter(|owner| {
        let query = selector(owner);
        !query.is_everything() && query.matches(object.labels())
    });
    selecting.map(|owner| ObjectKey::of(&*owner)).collect()
}
