//! A device of a ResourceSlice.

use k8s_openapi::{
    api::resource::v1::{
        CapacityRequestPolicy, CapacityRequestPolicyRange, Device, DeviceAttribute,
        NodeAllocatableResource,
    },
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
};
use serde_json::{Value, json};

use super::{
    super::{
        check::{Errors, list},
        pod::validation::node_selector,
    },
    forms,
};
use crate::{
    field::{FieldError, Path},
    meta::{names, quantity::Quantity},
};

const ATTRIBUTES_AND_CAPACITIES_MAX: usize = 32;
const ATTRIBUTE_VALUES_MAX: usize = 48;
const ATTRIBUTE_LENGTH_MAX: usize = 64;
const TAINTS_MAX: usize = 16;
const CONSUMPTIONS_MAX: usize = 2;
const COUNTERS_MAX: usize = 32;
const OPTIONS_MAX: usize = 10;

/// Whether a slice with the device can hold fewer devices than otherwise.
pub(super) fn is_advanced(device: &Device) -> bool {
    let is_list = |attribute: &DeviceAttribute| {
        attribute.bools.is_some()
            || attribute.ints.is_some()
            || attribute.strings.is_some()
            || attribute.versions.is_some()
    };
    !list(&device.taints).is_empty()
        || !list(&device.consumes_counters).is_empty()
        || device.attributes.iter().flatten().any(|(_, attribute)| is_list(attribute))
}

/// What is wrong with a device. `has_own_place`: the slice leaves it to its devices where they are.
pub(super) fn validate(
    errors: &mut Errors,
    device: &Device,
    old: Option<&Device>,
    has_own_place: bool,
    path: &Path,
) {
    forms::label(errors, &path.child("name"), &device.name);
    attributes(errors, device, path);
    if old.is_none_or(|old| old.capacity != device.capacity) {
        capacity(errors, device, &path.child("capacity"));
    }
    let (taints, at) = (list(&device.taints), path.child("taints"));
    if old.is_none_or(|old| old.taints != device.taints)
        && forms::fits(errors, taints, TAINTS_MAX, &at)
    {
        for (i, taint) in taints.iter().enumerate() {
            forms::taint(errors, taint, None, &at.index(i));
        }
    }
    consumption(errors, device, &path.child("consumesCounters"));
    place(errors, device, has_own_place, path);
    forms::binding_conditions(
        errors,
        &device.binding_conditions,
        &device.binding_failure_conditions,
        path,
    );
    for (name, mapped) in device.node_allocatable_resources.iter().flatten() {
        let at = path.child("nodeAllocatableResources").key(name);
        node_resource(errors, name, mapped, device, &at);
    }
}

fn attributes(errors: &mut Errors, device: &Device, path: &Path) {
    let attributes = device.attributes.iter().flatten();
    let count = attributes.clone().count() + device.capacity.as_ref().map_or(0, |all| all.len());
    if count > ATTRIBUTES_AND_CAPACITIES_MAX {
        let wrong = format!(
            "the total number of attributes and capacities must not exceed \
             {ATTRIBUTES_AND_CAPACITIES_MAX}"
        );
        errors.invalid(path, count, wrong);
    }
    // The items of a list count, and whatever is no list counts once.
    let values = attributes.clone().map(|(_, attribute)| {
        let items = list(&attribute.bools).len()
            + list(&attribute.ints).len()
            + list(&attribute.strings).len()
            + list(&attribute.versions).len();
        items.max(1)
    });
    let values: usize = values.sum();
    if values > ATTRIBUTE_VALUES_MAX {
        let wrong =
            format!("the total number of attribute values must not exceed {ATTRIBUTE_VALUES_MAX}");
        errors.invalid(path, values, wrong);
    }
    let path = path.child("attributes");
    for (name, attribute) in attributes {
        forms::qualified(errors, &path, name);
        self::attribute(errors, attribute, &path.key(name));
    }
}

fn attribute(errors: &mut Errors, attribute: &DeviceAttribute, path: &Path) {
    let too_long = |value: &String| value.len() > ATTRIBUTE_LENGTH_MAX;
    let text = |errors: &mut Errors, value: &String, at: &Path| {
        if too_long(value) {
            errors.push(FieldError::too_long(at, ATTRIBUTE_LENGTH_MAX));
        }
    };
    let version = |errors: &mut Errors, value: &String, at: &Path| {
        if !is_semantic_version(value) {
            let wrong = "must be a string compatible with semver.org spec 2.0.0";
            errors.invalid(at, value.as_str(), wrong);
        }
        text(errors, value, at);
    };
    if let Some(value) = &attribute.string {
        text(errors, value, &path.child("string"));
    }
    if let Some(value) = &attribute.version {
        version(errors, value, &path.child("version"));
    }
    for (field, is_empty) in [
        ("bools", attribute.bools.as_ref().is_some_and(Vec::is_empty)),
        ("ints", attribute.ints.as_ref().is_some_and(Vec::is_empty)),
        ("strings", attribute.strings.as_ref().is_some_and(Vec::is_empty)),
        ("versions", attribute.versions.as_ref().is_some_and(Vec::is_empty)),
    ] {
        if is_empty {
            errors.invalid(&path.child(field), json!([]), "must not be empty if specified");
        }
    }
    for (i, value) in list(&attribute.strings).iter().enumerate() {
        text(errors, value, &path.child("strings").index(i));
    }
    for (i, value) in list(&attribute.versions).iter().enumerate() {
        version(errors, value, &path.child("versions").index(i));
    }
    let found = [
        attribute.bool.is_some(),
        attribute.int.is_some(),
        attribute.string.is_some(),
        attribute.version.is_some(),
        attribute.bools.is_some(),
        attribute.ints.is_some(),
        attribute.strings.is_some(),
        attribute.versions.is_some(),
    ];
    match found.into_iter().filter(|found| *found).count() {
        0 => errors.invalid(path, "", "exactly one value must be specified"),
        1 => {}
        _ => errors.invalid(path, json!(attribute), "exactly one value must be specified"),
    }
}

/// Whether the text is a version of semver.org, 2.0.0: `1.2.3-rc.1+build.5`.
fn is_semantic_version(text: &str) -> bool {
    let (text, build) = match text.split_once('+') {
        Some((text, build)) => (text, Some(build)),
        None => (text, None),
    };
    let (core, release) = match text.split_once('-') {
        Some((core, release)) => (core, Some(release)),
        None => (text, None),
    };
    let is_number = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'))
    };
    let is_word = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let is_release = |part: &str| {
        is_word(part) && (is_number(part) || part.bytes().any(|b| !b.is_ascii_digit()))
    };
    core.split('.').count() == 3
        && core.split('.').all(is_number)
        && release.is_none_or(|release| release.split('.').all(is_release))
        && build.is_none_or(|build| build.split('.').all(is_word))
}

fn capacity(errors: &mut Errors, device: &Device, path: &Path) {
    let is_shared = device.allow_multiple_allocations == Some(true);
    for (name, capacity) in device.capacity.iter().flatten() {
        forms::qualified(errors, path, name);
        let Some(policy) = &capacity.request_policy else { continue };
        let at = path.key(name).child("requestPolicy");
        if is_shared {
            request_policy(errors, policy, &capacity.value, &at);
        } else {
            errors.forbidden(&at, "allowMultipleAllocations must be true");
        }
    }
}

/// Which parts of a capacity can be asked for: certain ones, or those within a range.
fn request_policy(
    errors: &mut Errors,
    policy: &CapacityRequestPolicy,
    capacity: &ApiQuantity,
    path: &Path,
) {
    // A quantity that is none was found when the object was decoded.
    let Ok(capacity) = Quantity::try_from(capacity) else { return };
    let default = policy.default.as_ref().and_then(|amount| Quantity::try_from(amount).ok());
    match (list(&policy.valid_values), &policy.valid_range) {
        ([_, ..], Some(_)) => errors.forbidden(
            path,
            "exactly one policy can be specified, cannot specify \"validValues\" and \
             \"validRange\" at the same time",
        ),
        ([], None) => {}
        (options @ [_, ..], None) => match default {
            None => errors.required(&path.child("default"), "required when validValues is defined"),
            Some(default) => {
                self::options(errors, options, &default, &capacity, &path.child("validValues"));
            }
        },
        ([], Some(range)) => match default {
            None => errors.required(&path.child("default"), "required when validRange is defined"),
            Some(default) => {
                self::range(errors, range, &default, &capacity, &path.child("validRange"));
            }
        },
    }
}

fn options(
    errors: &mut Errors,
    options: &[ApiQuantity],
    default: &Quantity,
    capacity: &Quantity,
    path: &Path,
) {
    let options: Vec<_> =
        options.iter().filter_map(|option| Quantity::try_from(option).ok()).collect();
    for (i, pair) in options.windows(2).enumerate() {
        if let [one, next] = pair
            && one > next
        {
            let wrong = "values must be sorted in ascending order";
            errors.invalid(&path.index(i + 1), next.to_string(), wrong);
        }
    }
    if !forms::fits(errors, &options, OPTIONS_MAX, path) {
        return;
    }
    for (i, option) in options.iter().enumerate() {
        if option > capacity {
            let wrong = format!("option is larger than capacity value: {capacity}");
            errors.invalid(&path.index(i), option.to_string(), wrong);
        }
        if options[..i].contains(option) {
            errors.push(FieldError::duplicate(&path.index(i), option.to_string()));
        }
    }
    if !options.contains(default) {
        let wrong = "default value is not valid according to the requestPolicy";
        errors.invalid(path, default.to_string(), wrong);
    }
}

fn range(
    errors: &mut Errors,
    range: &CapacityRequestPolicyRange,
    default: &Quantity,
    capacity: &Quantity,
    path: &Path,
) {
    let of = |amount: &Option<ApiQuantity>| {
        amount.as_ref().and_then(|amount| Quantity::try_from(amount).ok())
    };
    let Ok(min) = Quantity::try_from(&range.min) else { return };
    let (max, step) = (of(&range.max), of(&range.step));
    let mut above = |field: &str, low: &Quantity, high: &Quantity, wrong: String| {
        if low > high {
            errors.invalid(&path.child(field), low.to_string(), wrong);
        }
    };
    above("min", &min, capacity, format!("min is larger than capacity value: {capacity}"));
    if let Some(max) = &max {
        above("max", &min, max, format!("min is larger than max: {max}"));
        above("max", max, capacity, format!("max is larger than capacity value: {capacity}"));
        above("default", default, max, format!("default is more than max: {max}"));
    }
    if *default < min {
        let wrong = format!("default is less than min: {min}");
        errors.invalid(&path.child("default"), default.to_string(), wrong);
    }
    let Some(step) = step else { return };
    let at = path.child("step");
    if step.signum() <= 0 {
        return errors.invalid(&at, step.to_string(), "must be greater than zero");
    }
    let first = min.plus(&step);
    if first > *capacity {
        let wrong = format!("one step {first} is larger than capacity value: {capacity}");
        errors.invalid(&at, step.to_string(), wrong);
    }
    for value in [Some(default), max.as_ref()].into_iter().flatten() {
        if !is_step(value, &min, &step) {
            let wrong = format!("value is not a multiple of a given step ({step}) from ({min})");
            errors.invalid(&at, value.to_string(), wrong);
        }
    }
}

/// Whether so many steps lead from `min` to the value. Thousandths are the finest that count, and
/// amounts of many digits are counted in whole units.
fn is_step(value: &Quantity, min: &Quantity, step: &Quantity) -> bool {
    let is_fine = [value, min, step].iter().any(|amount| amount.millis() % 1000 != 0);
    let of = |amount: &Quantity| if is_fine { amount.millis() } else { amount.value() };
    let (value, min, step) = (of(value), of(min), of(step));
    step != 0 && (i128::from(value) - i128::from(min)) % i128::from(step) == 0
}

fn consumption(errors: &mut Errors, device: &Device, path: &Path) {
    let consumed = list(&device.consumes_counters);
    if !forms::fits(errors, consumed, CONSUMPTIONS_MAX, path) {
        return;
    }
    for (i, consumed) in consumed.iter().enumerate() {
        let at = path.index(i);
        let form = |name: &str| names::dns_label(name, false);
        errors.required_form(&at.child("counterSet"), &consumed.counter_set, form);
        let at = at.child("counters");
        let count = consumed.counters.len();
        match count {
            0 => errors.required(&at, ""),
            _ if count > COUNTERS_MAX => {
                errors.push(FieldError::too_many(&at, count, COUNTERS_MAX));
            }
            _ => consumed.counters.keys().for_each(|name| forms::label(errors, &at, name)),
        }
    }
    forms::unique(errors, consumed.iter().map(|consumed| consumed.counter_set.as_str()), path);
}

/// Where the device is, if the slice leaves that to its devices.
fn place(errors: &mut Errors, device: &Device, has_own_place: bool, path: &Path) {
    if !has_own_place {
        let is_said = device.node_name.is_some()
            || device.node_selector.is_some()
            || device.all_nodes.is_some();
        if is_said {
            errors.invalid(
                path,
                Value::Null,
                "`nodeName`, `nodeSelector` and `allNodes` can only be set if \
                 `perDeviceNodeSelection` is set to true in the ResourceSlice spec",
            );
        }
        return;
    }
    let mut ways = Vec::new();
    if let Some(node) = &device.node_name {
        let at = path.child("nodeName");
        if node.is_empty() {
            errors.invalid(&at, "", "must not be empty");
        } else {
            ways.push("`nodeName`");
            errors.form(&at, node.as_str(), names::dns_subdomain(node, false));
        }
    }
    if let Some(selector) = &device.node_selector {
        ways.push("`nodeSelector`");
        node_selector(errors, selector, &path.child("nodeSelector"));
    }
    match device.all_nodes {
        Some(true) => ways.push("`allNodes`"),
        Some(false) => {
            let wrong = "must be either unset or set to true";
            errors.invalid(&path.child("allNodes"), false, wrong);
        }
        None => {}
    }
    let wrong = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when \
                 `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    match ways.as_slice() {
        [] => errors.required(path, wrong),
        [_] => {}
        ways => errors.invalid(path, format!("{{{}}}", ways.join(", ")), wrong),
    }
}

/// What of a node's own resources goes with the device.
fn node_resource(
    errors: &mut Errors,
    name: &str,
    mapped: &NodeAllocatableResource,
    device: &Device,
    path: &Path,
) {
    let is_node_resource =
        matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !is_node_resource {
        errors.invalid(path, name, "must be a node allocatable resource name");
    }
    if mapped.mapping.is_none() && mapped.overhead.is_none() {
        errors.required(path, "at least one of mapping or overhead must be set");
    }
    let signum = |amount: &ApiQuantity| Quantity::try_from(amount).map_or(0, |q| q.signum());
    if let Some(mapping) = &mapped.mapping {
        let at = path.child("mapping");
        match (&mapping.capacity_key, &mapping.capacity_multiplier) {
            (Some(key), multiplier) => {
                let known = device.capacity.as_ref().is_some_and(|all| all.contains_key(key));
                let key_at = at.child("capacityKey");
                if key.is_empty() {
                    errors.invalid(&key_at, "", "capacityKey must not be an empty string");
                } else if !known {
                    errors.push(FieldError::not_found(&key_at, key.as_str()));
                }
                let at = at.child("capacityMultiplier");
                match multiplier {
                    None => errors
                        .required(&at, "capacityMultiplier is required when capacityKey is set"),
                    Some(amount) if signum(amount) <= 0 => {
                        errors.invalid(&at, amount.0.as_str(), "must be positive");
                    }
                    Some(_) => {}
                }
            }
            (None, Some(_)) => errors.required(
                &at.child("capacityKey"),
                "capacityKey is required when capacityMultiplier is set",
            ),
            (None, None) => {}
        }
        if let Some(amount) = mapping.device_multiplier.as_ref().filter(|a| signum(a) <= 0) {
            let at = at.child("deviceMultiplier");
            errors.invalid(&at, amount.0.as_str(), "must be positive");
        }
    }
    if let Some(overhead) = &mapped.overhead {
        let at = path.child("overhead");
        if overhead.per_pod.is_none() && overhead.per_container.is_none() {
            errors.invalid(&at, "", "at least one of perPod or perContainer must be set");
        }
        for (field, amount) in
            [("perPod", &overhead.per_pod), ("perContainer", &overhead.per_container)]
        {
            if let Some(amount) = amount.as_ref().filter(|amount| signum(amount) < 0) {
                errors.invalid(&at.child(field), amount.0.as_str(), "must be non-negative");
            }
        }
    }
}
