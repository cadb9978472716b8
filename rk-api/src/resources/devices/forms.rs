//! Checks that the kinds of `resource.k8s.io` share.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::resource::v1::{DeviceSelector, DeviceTaint, DeviceToleration, OpaqueDeviceConfiguration},
    apimachinery::pkg::runtime::RawExtension,
};
use serde_json::json;

use super::super::{
    check::{Errors, list, text},
    pod::validation::csi_driver_name,
};
use crate::{
    field::{FieldError, Path},
    meta::names,
};

pub(super) const SELECTORS_MAX: usize = 32;
pub(super) const CONFIG_MAX: usize = 32;
const EXPRESSION_MAX: usize = 10 * 1024;
const PARAMETERS_MAX: usize = 10 * 1024;
const TOLERATIONS_MAX: usize = 16;
const BINDING_CONDITIONS_MAX: usize = 4;
const ID_MAX: usize = 32;
const TAINT_EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];

/// Whether the list is not too long. What is too long is not looked at any closer.
pub(super) fn fits<T>(errors: &mut Errors, items: &[T], max: usize, path: &Path) -> bool {
    if items.len() > max {
        errors.push(FieldError::too_many(path, items.len(), max));
    }
    items.len() <= max
}

/// Each key once.
pub(super) fn unique<'a>(
    errors: &mut Errors,
    keys: impl IntoIterator<Item = &'a str>,
    path: &Path,
) {
    let mut known = BTreeSet::new();
    for (i, key) in keys.into_iter().enumerate() {
        if !known.insert(key) {
            errors.push(FieldError::duplicate(&path.index(i), key));
        }
    }
}

/// The name of a driver.
pub(super) fn driver(errors: &mut Errors, path: &Path, name: &str) {
    errors.required_form(path, name, csi_driver_name);
}

/// A DNS label: the name of a request, a device, a counter.
pub(super) fn label(errors: &mut Errors, path: &Path, name: &str) {
    errors.form(path, name, names::dns_label(name, false));
}

/// The name of a pool: DNS subdomains between slashes.
pub(super) fn pool(errors: &mut Errors, path: &Path, name: &str) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    if name.len() > 253 {
        errors.push(FieldError::too_long(path, 253));
    }
    for part in name.split('/') {
        errors.form(path, part, names::dns_subdomain(part, false));
    }
}

/// An identifier such as `model`, with the driver's or another domain in front of it or not.
pub(super) fn qualified(errors: &mut Errors, path: &Path, name: &str) {
    match name.split('/').collect::<Vec<_>>().as_slice() {
        [id] => identifier(errors, path, id),
        [domain, id] => {
            if domain.is_empty() {
                errors.invalid(path, "", "the domain must not be empty");
            } else {
                driver(errors, path, domain);
            }
            if id.is_empty() {
                errors.invalid(path, "", "the name must not be empty");
            } else {
                identifier(errors, path, id);
            }
        }
        _ => errors.invalid(path, name, "must not contain more than one slash"),
    }
}

/// An identifier with its domain.
pub(super) fn fully_qualified(errors: &mut Errors, path: &Path, name: &str) {
    qualified(errors, path, name);
    if !name.contains('/') {
        let wrong = "a fully qualified name must be a domain and a name separated by a slash";
        errors.invalid(path, name, wrong);
    }
}

fn identifier(errors: &mut Errors, path: &Path, id: &str) {
    if id.len() > ID_MAX {
        errors.push(FieldError::too_long(path, ID_MAX));
    }
    let is_start = |c: char| c.is_ascii_alphabetic() || c == '_';
    if !id.starts_with(is_start) || !id.chars().all(|c| is_start(c) || c.is_ascii_digit()) {
        errors.invalid(
            path,
            id,
            "a valid C identifier must start with alphabetic character or '_', followed by a \
             string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or \
             'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')",
        );
    }
}

/// A UUID in lower case.
pub(super) fn uid(errors: &mut Errors, path: &Path, uid: &str) {
    let is_uuid = uid.len() == 36
        && uid.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
        });
    if !is_uuid {
        errors.invalid(
            path,
            uid,
            "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with \
             lowercase hexadecimal characters",
        );
    }
}

/// Expressions that choose devices. They are checked for being there, not for what they mean.
pub(super) fn selectors(errors: &mut Errors, selectors: &[DeviceSelector], path: &Path) {
    if !fits(errors, selectors, SELECTORS_MAX, path) {
        return;
    }
    for (i, selector) in selectors.iter().enumerate() {
        let at = path.index(i).child("cel");
        match &selector.cel {
            None => errors.required(&at, ""),
            Some(cel) if cel.expression.len() > EXPRESSION_MAX => {
                errors.push(FieldError::too_long(&at.child("expression"), EXPRESSION_MAX));
            }
            Some(_) => {}
        }
    }
}

/// What a driver is told in its own words.
pub(super) fn configuration(
    errors: &mut Errors,
    opaque: Option<&OpaqueDeviceConfiguration>,
    path: &Path,
) {
    let at = path.child("opaque");
    let Some(opaque) = opaque else { return errors.required(&at, "") };
    driver(errors, &at.child("driver"), &opaque.driver);
    raw(errors, &opaque.parameters, PARAMETERS_MAX, &at.child("parameters"));
}

/// A JSON object of at most so many bytes.
pub(super) fn raw(errors: &mut Errors, extension: &RawExtension, max: usize, path: &Path) {
    match &extension.0 {
        serde_json::Value::Null => errors.required(path, ""),
        serde_json::Value::Object(_) if extension.0.to_string().len() > max => {
            errors.push(FieldError::too_long(path, max));
        }
        serde_json::Value::Object(_) => {}
        _ => errors.invalid(path, "<value omitted>", "must be a valid JSON object"),
    }
}

/// Tolerations of devices' taints.
pub(super) fn tolerations(errors: &mut Errors, tolerations: &[DeviceToleration], path: &Path) {
    if !fits(errors, tolerations, TOLERATIONS_MAX, path) {
        return;
    }
    for (i, toleration) in tolerations.iter().enumerate() {
        let at = path.index(i);
        let (key, value) = (text(&toleration.key), text(&toleration.value));
        if !key.is_empty() {
            errors.label_key(&at.child("key"), key);
        }
        match text(&toleration.operator) {
            "Exists" if !value.is_empty() => {
                let wrong = "must be empty for operator `Exists`";
                errors.invalid(&at.child("value"), value, wrong);
            }
            "Exists" => {}
            "Equal" => errors.form(&at.child("value"), value, names::label_value(value)),
            other => errors.required_one_of(&at.child("operator"), other, &["Equal", "Exists"]),
        }
        let effect = text(&toleration.effect);
        if !effect.is_empty() {
            errors.one_of(&at.child("effect"), effect, TAINT_EFFECTS);
        }
    }
}

/// A taint of a device. Its effect is not looked at again unless it changes.
pub(super) fn taint(
    errors: &mut Errors,
    taint: &DeviceTaint,
    old: Option<&DeviceTaint>,
    path: &Path,
) {
    errors.label_key(&path.child("key"), &taint.key);
    let value = text(&taint.value);
    errors.form(&path.child("value"), value, names::label_value(value));
    if old.is_none_or(|old| old.effect != taint.effect) {
        errors.required_one_of(&path.child("effect"), &taint.effect, TAINT_EFFECTS);
    }
}

/// Conditions that a device waits for, and those that end the wait.
pub(super) fn binding_conditions(
    errors: &mut Errors,
    awaited: &Option<Vec<String>>,
    failures: &Option<Vec<String>>,
    path: &Path,
) {
    let (awaited, failures) = (list(awaited), list(failures));
    let awaited_at = path.child("bindingConditions");
    let failures_at = path.child("bindingFailureConditions");
    for (items, at) in [(awaited, &awaited_at), (failures, &failures_at)] {
        if !fits(errors, items, BINDING_CONDITIONS_MAX, at) {
            continue;
        }
        for (i, item) in items.iter().enumerate() {
            errors.label_key(&at.index(i), item);
        }
        unique(errors, items.iter().map(String::as_str), at);
    }
    for (i, item) in failures.iter().enumerate().filter(|(_, item)| awaited.contains(item)) {
        let wrong = "bindingFailureConditions must not overlap with bindingConditions";
        errors.invalid(&failures_at.index(i), item.as_str(), wrong);
    }
    match (awaited, failures) {
        ([], [_, ..]) => errors.invalid(
            &awaited_at,
            json!(awaited),
            "bindingConditions are required to use bindingFailureConditions",
        ),
        ([_, ..], []) => errors.invalid(
            &failures_at,
            json!(failures),
            "bindingFailureConditions are required to use bindingConditions",
        ),
        _ => {}
    }
}

/// Who prepares devices cannot be skipped where who puts them away is not.
pub(super) fn skipped_operations(errors: &mut Errors, skipped: &[String], path: &Path) {
    const KNOWN: &[&str] = &["*", "NodePrepareResources", "NodeUnprepareResources"];
    for (i, operation) in skipped.iter().enumerate() {
        errors.one_of(&path.index(i), operation, KNOWN);
    }
    unique(errors, skipped.iter().map(String::as_str), path);
    let has = |wanted: &str| skipped.iter().any(|operation| operation == wanted);
    if has("NodePrepareResources") && !has("NodeUnprepareResources") && !has("*") {
        errors.invalid(
            path,
            json!(skipped),
            "NodePrepareResources cannot be skipped unless NodeUnprepareResources is also skipped",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(form: impl FnOnce(&mut Errors, &Path), wrong: usize) {
        let mut errors = Errors::default();
        form(&mut errors, &Path::new("x"));
        assert_eq!(errors.0.len(), wrong, "{:?}", errors.0);
    }

    #[test]
    fn names_of_attributes_are_identifiers_below_a_domain() {
        check(|e, p| qualified(e, p, "model"), 0);
        check(|e, p| qualified(e, p, "gpu.example.com/model"), 0);
        check(|e, p| qualified(e, p, "my-model"), 1);
        check(|e, p| qualified(e, p, "a/b/c"), 1);
        check(|e, p| qualified(e, p, "/"), 2);
        check(|e, p| fully_qualified(e, p, "model"), 1);
    }

    #[test]
    fn pools_are_subdomains_between_slashes() {
        check(|e, p| pool(e, p, "node-1/gpus"), 0);
        check(|e, p| pool(e, p, ""), 1);
        check(|e, p| pool(e, p, "node-1//gpus"), 1);
    }

    #[test]
    fn conditions_to_wait_for_come_with_those_that_end_it() {
        let some = |items: &[&str]| Some(items.iter().map(|i| (*i).to_owned()).collect());
        check(|e, p| binding_conditions(e, &None, &None, p), 0);
        check(|e, p| binding_conditions(e, &some(&["a"]), &some(&["b"]), p), 0);
        check(|e, p| binding_conditions(e, &some(&["a"]), &None, p), 1);
        check(|e, p| binding_conditions(e, &None, &some(&["a"]), p), 1);
        check(|e, p| binding_conditions(e, &some(&["a"]), &some(&["a"]), p), 1);
        check(|e, p| binding_conditions(e, &some(&["a", "a"]), &some(&["b"]), p), 1);
    }

    #[test]
    fn preparing_is_skipped_together_with_putting_away() {
        let skipped = |items: &[&str]| items.iter().map(|i| (*i).to_owned()).collect::<Vec<_>>();
        check(|e, p| skipped_operations(e, &skipped(&["*"]), p), 0);
        check(|e, p| skipped_operations(e, &skipped(&["NodeUnprepareResources"]), p), 0);
        check(|e, p| skipped_operations(e, &skipped(&["NodePrepareResources"]), p), 1);
        check(|e, p| skipped_operations(e, &skipped(&["Nope"]), p), 1);
    }
}
