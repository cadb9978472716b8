//! What an update of a claim may change, and what its status may become.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec};
use serde_json::json;

use super::{
    super::{
        check::{Errors, ResourceList, is_native_resource, list, text},
        pod::validation::differences,
    },
    source,
};
use crate::{
    field::{ErrorList, FieldError, Path},
    meta::{names, object::IMMUTABLE, quantity::Quantity},
};

/// Where a claim named its class before there was a field for it.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// How far the controller or the node is with making the volume larger.
const RESIZE_STATUSES: &[&str] = &[
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];

/// What is wrong with a change of the claim.
pub(super) fn validate(new: &PersistentVolumeClaim, old: &PersistentVolumeClaim) -> ErrorList {
    let mut errors = Errors::default();
    let (Some(new_spec), Some(old_spec)) = (&new.spec, &old.spec) else { return errors.0 };
    let path = Path::new("spec");
    let (mut fixed, mut was) = (new_spec.clone(), old_spec.clone());
    source::copy(&mut was);
    if text(&was.volume_name).is_empty() {
        was.volume_name.clone_from(&fixed.volume_name);
    }
    if !class_moved_to_field(new, old) {
        class_annotation(&mut errors, new, old);
    }
    if may_get_class(new, old) {
        fixed.storage_class_name = None;
    }
    let is_bound = new.status.as_ref().is_some_and(|status| text(&status.phase) == "Bound");
    if is_bound {
        put_back_size(&mut fixed, &was);
        if fixed.volume_attributes_class_name.is_some() {
            fixed.volume_attributes_class_name.clone_from(&was.volume_attributes_class_name);
        }
    }
    if fixed != was {
        let changes = differences(&json!(was), &json!(fixed));
        errors.forbidden(
            &path,
            &format!(
                "spec is immutable after creation except resources.requests and \
                 volumeAttributesClassName for bound claims\n{changes}"
            ),
        );
    }
    // A claim that a volume cannot grow to may shrink again, to more than the volume has (KEP-1790).
    let has = old.status.as_ref().and_then(|status| status.capacity.as_ref());
    if size(new_spec) < size(old_spec) && size(new_spec) <= storage(has) {
        errors.forbidden(
            &path.child("resources.requests.storage"),
            "field can not be less than status.capacity",
        );
    }
    errors.immutable(&Path::new("volumeMode"), &new_spec.volume_mode, &old_spec.volume_mode);
    attributes_class(&mut errors, new_spec, old_spec, &path);
    errors.0
}

fn storage(amounts: Option<&ResourceList>) -> Quantity {
    let size = amounts.and_then(|amounts| amounts.get("storage"));
    size.and_then(|size| Quantity::try_from(size).ok()).unwrap_or(Quantity::ZERO)
}

fn size(spec: &PersistentVolumeClaimSpec) -> Quantity {
    storage(spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
}

/// The storage that is asked for is judged by itself.
fn put_back_size(spec: &mut PersistentVolumeClaimSpec, old: &PersistentVolumeClaimSpec) {
    let requests = spec.resources.as_mut().and_then(|resources| resources.requests.as_mut());
    let was = old.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    if let (Some(requests), Some(was)) = (requests, was.and_then(|was| was.get("storage"))) {
        requests.insert("storage".to_owned(), was.clone());
    }
}

fn attributes_class(
    errors: &mut Errors,
    new: &PersistentVolumeClaimSpec,
    old: &PersistentVolumeClaimSpec,
    path: &Path,
) {
    let (new, old) = (&new.volume_attributes_class_name, &old.volume_attributes_class_name);
    let wrong = match (new.as_deref(), old) {
        (None, Some(_)) => "update from non-nil value to nil is forbidden",
        (Some(""), Some(old)) if !old.is_empty() => {
            "update from non-nil value to an empty string is forbidden"
        }
        _ => return,
    };
    errors.forbidden(&path.child("volumeAttributesClassName"), wrong);
}

fn class(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.storage_class_name.as_deref()
}

fn annotated(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.metadata.annotations.as_ref()?.get(OLD_CLASS).map(String::as_str)
}

/// A claim without a class may get one later, the default one (KEP-3333); one that names its class
/// in an annotation may say the same in the field.
fn may_get_class(new: &PersistentVolumeClaim, old: &PersistentVolumeClaim) -> bool {
    let (None, Some(wanted)) = (class(old), class(new)) else { return false };
    annotated(old).is_none_or(|named| wanted == named)
}

/// Whether the class goes from the annotation to the field: then the annotation may go.
fn class_moved_to_field(new: &PersistentVolumeClaim, old: &PersistentVolumeClaim) -> bool {
    let (None, Some(wanted), Some(named)) = (class(old), class(new), annotated(old)) else {
        return false;
    };
    wanted == named && annotated(new).is_none_or(|still| still == named)
}

fn class_annotation(errors: &mut Errors, new: &PersistentVolumeClaim, old: &PersistentVolumeClaim) {
    let (new, old) = (annotated(new).unwrap_or_default(), annotated(old).unwrap_or_default());
    if new != old {
        let at = Path::new("metadata.annotations").key(OLD_CLASS);
        errors.invalid(&at, new, IMMUTABLE);
    }
}

/// What is wrong with the status of the claim.
pub(super) fn status(claim: &PersistentVolumeClaim) -> ErrorList {
    let mut errors = Errors::default();
    if claim.spec.as_ref().is_none_or(|spec| list(&spec.access_modes).is_empty()) {
        // The path is spelt so in Kubernetes' message.
        errors.required(&Path::new("Spec.accessModes"), "");
    }
    let (Some(status), path) = (&claim.status, Path::new("status")) else { return errors.0 };
    let amounts = |errors: &mut Errors, amounts: &Option<ResourceList>, at: &Path| {
        for (name, amount) in amounts.iter().flatten() {
            let amount = Quantity::try_from(amount).unwrap_or(Quantity::ZERO);
            if amount < Quantity::ZERO {
                let wrong = "must be a valid resource quantity";
                errors.invalid(&at.key(name), amount.value(), wrong);
            }
        }
    };
    amounts(&mut errors, &status.capacity, &path.child("capacity"));
    for (name, state) in status.allocated_resource_statuses.iter().flatten() {
        let at = path.child("allocatedResourceStatus");
        resource_key(&mut errors, name, &at);
        if !RESIZE_STATUSES.contains(&state.as_str()) {
            // Kubernetes shows the name, not the status that is none.
            errors.push(FieldError::not_supported(&at, name.as_str(), RESIZE_STATUSES));
        }
    }
    let at = path.child("allocatedResources");
    for name in status.allocated_resources.iter().flatten().map(|(name, _)| name) {
        resource_key(&mut errors, name, &at);
    }
    amounts(&mut errors, &status.allocated_resources, &at);
    errors.0
}

/// Of Kubernetes' own resources a claim has only storage.
fn resource_key(errors: &mut Errors, name: &str, path: &Path) {
    let wrong = names::qualified_name(name);
    if wrong.is_empty() && is_native_resource(name) && name != "storage" {
        errors.push(FieldError::not_supported(path, name, &["storage"]));
    }
    errors.form(path, name, wrong);
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::resources::{Kind, Part, persistent_volume_claim::PersistentVolumeClaims};

    fn claim(spec: Value, status: Value) -> PersistentVolumeClaim {
        let mut json = json!({"metadata": {"name": "c", "namespace": "default"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}},
        }});
        for (field, value) in spec.as_object().unwrap() {
            json["spec"][field] = value.clone();
        }
        let mut claim: PersistentVolumeClaim = serde_json::from_value(json).unwrap();
        <PersistentVolumeClaims as Kind>::default(&mut claim);
        PersistentVolumeClaims::prepare_create(&mut claim);
        claim.status = serde_json::from_value(status).unwrap();
        claim
    }

    #[track_caller]
    fn check_status(old: Value, new: Value, status: Value, wrong: &[&str]) {
        let old = claim(old, status);
        let mut new = claim(new, json!({}));
        PersistentVolumeClaims::prepare_update(&mut new, &old, Part::Main);
        let mut errors = PersistentVolumeClaims::validate(&new);
        errors.extend(PersistentVolumeClaims::validate_update(&new, &old, Part::Main));
        let messages: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(messages, wrong);
    }

    fn size(size: &str) -> Value {
        json!({"resources": {"requests": {"storage": size}}})
    }

    #[test]
    fn a_bound_claim_grows_and_shrinks_to_what_its_volume_cannot_give() {
        let bound = |has: &str| json!({"phase": "Bound", "capacity": {"storage": has}});
        let check = |old: &str, new: &str, has: &str, wrong: &[&str]| {
            check_status(size(old), size(new), bound(has), wrong);
        };
        check("2Gi", "3Gi", "2Gi", &[]);
        check("5Gi", "3Gi", "2Gi", &[]);
        let small = "spec.resources.requests.storage: Forbidden: field can not be less than \
                     status.capacity";
        check("5Gi", "2Gi", "2Gi", &[small]);
        check("5Gi", "1Gi", "2Gi", &[small]);
        check_status(
            size("2Gi"),
            size("3Gi"),
            json!({"phase": "Pending"}),
            &["spec: Forbidden: spec is immutable after creation except resources.requests and \
               volumeAttributesClassName for bound claims\n\
               -  resources.requests.storage: \"2Gi\"\n+  resources.requests.storage: \"3Gi\""],
        );
    }

    #[test]
    fn attributes_change_and_are_not_taken_away() {
        let class = |name: &str| json!({"volumeAttributesClassName": name});
        let bound = json!({"phase": "Bound", "capacity": {"storage": "2Gi"}});
        check_status(json!({}), class("gold"), bound.clone(), &[]);
        check_status(class("gold"), class("silver"), bound.clone(), &[]);
        let prefix = "spec.volumeAttributesClassName: Forbidden: update from non-nil value";
        let empty = format!("{prefix} to an empty string is forbidden");
        check_status(class("gold"), class(""), bound.clone(), &[&empty]);
        check_status(
            class("gold"),
            json!({}),
            bound,
            &[
                "spec: Forbidden: spec is immutable after creation except resources.requests and \
                 volumeAttributesClassName for bound claims\n-  volumeAttributesClassName: \"gold\"",
                &format!("{prefix} to nil is forbidden"),
            ],
        );
    }

    #[test]
    fn either_field_names_the_source_and_neither_changes() {
        let source = json!({"kind": "PersistentVolumeClaim", "name": "a"});
        let made = claim(json!({"dataSource": source}), json!({}));
        assert_eq!(json!(made.spec.unwrap().data_source_ref), source);
        let made = claim(json!({"dataSourceRef": source}), json!({}));
        assert_eq!(json!(made.spec.unwrap().data_source), source);
        let alien = json!({"apiGroup": "example.com", "kind": "Populator", "name": "a"});
        let made = claim(json!({"dataSource": alien}), json!({}));
        assert_eq!(made.spec.unwrap().data_source, None);
        let far = json!({"kind": "PersistentVolumeClaim", "name": "a", "namespace": "other"});
        let made = claim(json!({"dataSourceRef": far}), json!({}));
        assert_eq!(made.spec.unwrap().data_source, None);

        check_status(json!({"dataSource": source}), json!({"dataSource": source}), json!({}), &[]);
        check_status(
            json!({"dataSourceRef": far, "dataSource": source}),
            json!({"dataSourceRef": far, "dataSource": source}),
            json!({}),
            &["spec: Invalid value: \"spec.dataSource\": may not be specified when \
               dataSourceRef.namespace is specified"],
        );
    }

    #[test]
    fn a_claim_may_get_the_class_that_it_did_not_have() {
        check_status(json!({}), json!({"storageClassName": "s"}), json!({"phase": "Pending"}), &[]);
        check_status(
            json!({"storageClassName": "a"}),
            json!({"storageClassName": "s"}),
            json!({"phase": "Pending"}),
            &["spec: Forbidden: spec is immutable after creation except resources.requests and \
               volumeAttributesClassName for bound claims\n\
               -  storageClassName: \"a\"\n+  storageClassName: \"s\""],
        );
    }

    #[test]
    fn a_status_counts_storage() {
        let claim = claim(
            json!({}),
            json!({
                "capacity": {"storage": "-1"},
                "allocatedResourceStatuses": {"storage": "Growing", "cpu": "NodeResizePending"},
            }),
        );
        let messages: Vec<_> = status(&claim).iter().map(ToString::to_string).collect();
        assert_eq!(
            messages,
            [
                "status.capacity[storage]: Invalid value: -1: must be a valid resource quantity",
                "status.allocatedResourceStatus: Unsupported value: \"cpu\": supported values: \
                 \"storage\"",
                "status.allocatedResourceStatus: Unsupported value: \"storage\": supported values: \
                 \"ControllerResizeInProgress\", \"ControllerResizeInfeasible\", \
                 \"NodeResizeInProgress\", \"NodeResizeInfeasible\", \"NodeResizePending\"",
            ]
        );
    }
}
