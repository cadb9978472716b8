//! What an update of a Pod's `ephemeralcontainers` may change: containers may come (KEP-277).

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::{
    super::super::check::{Errors, list},
    is_mirror,
    update::differences,
};
use crate::field::{ErrorList, FieldError, Path};

/// What is wrong with a change of the Pod's ephemeral containers.
pub(in super::super) fn pod_ephemeral_containers(new: &Pod, old: &Pod) -> ErrorList {
    if is_mirror(old) {
        let wrong = "static pods do not support ephemeral containers";
        return vec![FieldError::forbidden(&Path::new("[]"), wrong)];
    }
    let containers = |pod: &Pod| {
        let spec = pod.spec.as_ref();
        spec.map(|spec| list(&spec.ephemeral_containers).to_vec()).unwrap_or_default()
    };
    let (new, path) = (containers(new), Path::new("spec.ephemeralContainers"));
    let mut errors = Errors::default();
    for old in containers(old) {
        let name = &old.name;
        match new.iter().find(|new| new.name == *name) {
            None => {
                let wrong = format!("existing ephemeral containers {name:?} may not be removed\n");
                errors.forbidden(&path, &wrong);
            }
            Some(new) if *new != old => {
                let changes = differences(&json!(old), &json!(new));
                let wrong =
                    format!("existing ephemeral containers {name:?} may not be changed\n{changes}");
                errors.forbidden(&path, &wrong);
            }
            Some(_) => {}
        }
    }
    errors.0
}
