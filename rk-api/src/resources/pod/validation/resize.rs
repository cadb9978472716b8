//! What an update of a Pod's `resize` may change: CPU and memory (KEP-1287, and KEP-5419 for those
//! of the Pod as a whole).

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};

use super::{
    super::{
        super::check::{Errors, ResourceList, list, text},
        qos_class,
    },
    is_mirror,
};
use crate::field::{ErrorList, FieldError, Path};

/// The resources that can be changed while a container runs.
const RESIZABLE: &[&str] = &["cpu", "memory"];

/// What is wrong with a change of the Pod's resources.
pub(in super::super) fn pod_resize(new: &Pod, old: &Pod) -> ErrorList {
    let (Some(new_spec), Some(old_spec)) = (&new.spec, &old.spec) else { return ErrorList::new() };
    let is_windows = old_spec.os.as_ref().is_some_and(|os| os.name == "windows");
    let never = match () {
        () if is_mirror(old) => Some("static pods cannot be resized"),
        () if is_windows => Some("windows pods cannot be resized"),
        () => None,
    };
    if let Some(wrong) = never {
        return vec![FieldError::forbidden(&Path::new("[]"), wrong)];
    }
    let path = Path::new("spec");
    let mut errors = Errors::default();
    if qos_class(new_spec) != qos_class(old_spec) {
        let class = old.status.as_ref().map_or("", |status| text(&status.qos_class));
        let wrong = "Pod QOS Class may not change as a result of resizing";
        errors.invalid(&path, class, wrong);
    }
    if !is_supported(old) {
        errors.forbidden(&path, "Pod running on node without support for resize");
    }
    containers(&mut errors, new_spec, old_spec, &path);
    nothing_removed(
        &mut errors,
        new_spec.resources.as_ref(),
        old_spec.resources.as_ref(),
        &path.child("resources"),
    );
    if !is_resized(new_spec.resources.as_ref(), old_spec.resources.as_ref()) {
        errors.forbidden(&path, "only cpu and memory resources are mutable");
    }
    errors.0
}

/// Whether the node tells the resources of containers that run: one that does can change them.
fn is_supported(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().map_or(&[][..], |status| list(&status.container_statuses));
    let runs = |status: &&k8s_openapi::api::core::v1::ContainerStatus| {
        status.state.as_ref().is_some_and(|state| state.running.is_some())
    };
    statuses.iter().find(runs).is_none_or(|status| status.resources.is_some())
}

fn containers(errors: &mut Errors, new: &PodSpec, old: &PodSpec, path: &Path) {
    let inits = list(&new.init_containers).iter().zip(list(&old.init_containers));
    for (i, (new, old)) in inits.enumerate() {
        let is_sidecar = old.restart_policy.as_deref() == Some("Always");
        let at = path.child("initContainers").index(i).child("resources");
        if is_sidecar {
            nothing_removed(errors, new.resources.as_ref(), old.resources.as_ref(), &at);
        }
        let wrong = match is_sidecar {
            true if !is_only_resized(new, old) => {
                "only cpu and memory resources for sidecar containers are mutable"
            }
            false if new != old => "resources for non-sidecar init containers are immutable",
            _ => continue,
        };
        errors.forbidden(path, wrong);
    }
    for (i, (new, old)) in new.containers.iter().zip(&old.containers).enumerate() {
        let at = path.child("containers").index(i).child("resources");
        nothing_removed(errors, new.resources.as_ref(), old.resources.as_ref(), &at);
        if !is_only_resized(new, old) {
            errors.forbidden(path, "only cpu and memory resources are mutable");
        }
    }
}

fn is_only_resized(new: &Container, old: &Container) -> bool {
    let rest = |container: &Container| Container { resources: None, ..container.clone() };
    rest(new) == rest(old) && is_resized(new.resources.as_ref(), old.resources.as_ref())
}

/// Whether they differ in nothing but amounts of CPU and memory.
fn is_resized(new: Option<&ResourceRequirements>, old: Option<&ResourceRequirements>) -> bool {
    let rest = |resources: Option<&ResourceRequirements>| {
        let amounts = |list: Option<&ResourceList>| {
            let mut list = list.cloned().unwrap_or_default();
            list.retain(|name, _| !RESIZABLE.contains(&name.as_str()));
            list
        };
        let resources = resources.map_or_else(Cow::default, Cow::Borrowed);
        let claims = list(&resources.claims).to_vec();
        (amounts(resources.requests.as_ref()), amounts(resources.limits.as_ref()), claims)
    };
    rest(new) == rest(old)
}

/// An amount may change, and one may come, but none may go.
fn nothing_removed(
    errors: &mut Errors,
    new: Option<&ResourceRequirements>,
    old: Option<&ResourceRequirements>,
    path: &Path,
) {
    let lost = |new: Option<&ResourceList>, old: Option<&ResourceList>| {
        let is_kept = |name| new.is_some_and(|new| new.contains_key(name));
        !old.into_iter().flat_map(|old| old.keys()).all(is_kept)
    };
    let requests = |all: Option<&'_ ResourceRequirements>| all.and_then(|all| all.requests.clone());
    let limits = |all: Option<&'_ ResourceRequirements>| all.and_then(|all| all.limits.clone());
    if lost(requests(new).as_ref(), requests(old).as_ref()) {
        errors.forbidden(&path.child("requests"), "resource requests cannot be removed");
    }
    if lost(limits(new).as_ref(), limits(old).as_ref()) {
        errors.forbidden(&path.child("limits"), "resource limits cannot be removed");
    }
}
