//! ResourceSlice: devices that a driver offers, on a node or on several.

use k8s_openapi::{
    api::resource::v1::{CounterSet, ResourceSlice, ResourceSliceSpec},
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    super::{
        Fields, Kind, Part, Resource,
        check::{Errors, list, text},
        pod::validation::node_selector,
        row::Row,
        workload,
    },
    Column, device, forms,
};
use crate::{
    clock,
    field::{ErrorList, FieldError, Path},
    meta::{
        names,
        table::{age, name},
    },
};

/// The row of ResourceSlice.
pub(super) fn row() -> Resource {
    Row::of::<ResourceSlices>().columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Node", "string", "The node that has the devices, if it is one."),
    Column::new("Driver", "string", "The driver that offers them."),
    Column::new("Pool", "string", "The pool that they belong to."),
    Column::AGE,
];

const DEVICES_MAX: usize = 128;
/// The limit when devices have taints, counters or lists of attributes.
const ADVANCED_DEVICES_MAX: usize = 64;
const COUNTER_SETS_MAX: usize = 8;
const COUNTERS_MAX: usize = 32;

/// How a ResourceSlice behaves.
#[derive(Debug, Default)]
pub(super) struct ResourceSlices;

impl Kind for ResourceSlices {
    type Object = ResourceSlice;

    fn default(slice: &mut ResourceSlice) {
        for device in slice.spec.devices.iter_mut().flatten() {
            for taint in device.taints.iter_mut().flatten() {
                taint.time_added.get_or_insert_with(clock::now_seconds);
            }
        }
    }

    fn prepare_create(slice: &mut ResourceSlice) {
        workload::first_generation(&mut slice.metadata);
    }

    fn prepare_update(new: &mut ResourceSlice, old: &ResourceSlice, _: Part) {
        let changed = new.spec != old.spec;
        workload::next_generation(&mut new.metadata, &old.metadata, changed);
    }

    fn validate_create(slice: &ResourceSlice) -> ErrorList {
        let mut errors = Errors::default();
        spec(&mut errors, &slice.spec, None, &Path::new("spec"));
        errors.0
    }

    fn validate_update(new: &ResourceSlice, old: &ResourceSlice, _: Part) -> ErrorList {
        let mut errors = Errors::default();
        if new.spec == old.spec {
            return errors.0;
        }
        let path = Path::new("spec");
        spec(&mut errors, &new.spec, Some(&old.spec), &path);
        let (new, old) = (&new.spec, &old.spec);
        errors.immutable(&path.child("pool.name"), &new.pool.name, &old.pool.name);
        errors.immutable(&path.child("driver"), &new.driver, &old.driver);
        errors.immutable(&path.child("nodeName"), &new.node_name, &old.node_name);
        errors.0
    }

    fn fields(slice: &ResourceSlice) -> Fields {
        Fields::from_iter([
            ("spec.nodeName", text(&slice.spec.node_name).to_owned()),
            ("spec.driver", slice.spec.driver.clone()),
        ])
    }

    const FIELDS: &'static [&'static str] = &["spec.nodeName", "spec.driver"];

    fn cells(slice: &ResourceSlice, now: Timestamp) -> Vec<Value> {
        vec![
            json!(name(&slice.metadata)),
            json!(slice.spec.node_name.as_deref().unwrap_or("<unset>")),
            json!(slice.spec.driver),
            json!(slice.spec.pool.name),
            json!(age(&slice.metadata, now)),
        ]
    }
}

fn spec(
    errors: &mut Errors,
    spec: &ResourceSliceSpec,
    old: Option<&ResourceSliceSpec>,
    path: &Path,
) {
    forms::driver(errors, &path.child("driver"), &spec.driver);
    let (pool, at) = (&spec.pool, path.child("pool"));
    forms::pool(errors, &at.child("name"), &pool.name);
    if pool.resource_slice_count <= 0 {
        let count = pool.resource_slice_count;
        errors.invalid(&at.child("resourceSliceCount"), count, "must be greater than zero");
    }
    if pool.generation < 0 {
        let wrong = "must be greater than or equal to zero";
        errors.invalid(&at.child("generation"), pool.generation, wrong);
    }
    place(errors, spec, path);

    if spec.shared_counters.is_some() && spec.devices.is_some() {
        errors.invalid(path, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let (devices, at) = (list(&spec.devices), path.child("devices"));
    let is_advanced = devices.iter().any(device::is_advanced);
    let max = if is_advanced { ADVANCED_DEVICES_MAX } else { DEVICES_MAX };
    if forms::fits(errors, devices, max, &at) {
        for (i, device) in devices.iter().enumerate() {
            let before = old.map_or(&[][..], |old| list(&old.devices));
            let before = before.iter().find(|other| other.name == device.name);
            let has_own_place = spec.per_device_node_selection == Some(true);
            device::validate(errors, device, before, has_own_place, &at.index(i));
        }
        forms::unique(errors, devices.iter().map(|device| device.name.as_str()), &at);
    }
    let (sets, at) = (list(&spec.shared_counters), path.child("sharedCounters"));
    if forms::fits(errors, sets, COUNTER_SETS_MAX, &at) {
        for (i, set) in sets.iter().enumerate() {
            counter_set(errors, set, &at.index(i));
        }
        forms::unique(errors, sets.iter().map(|set| set.name.as_str()), &at);
    }
    if let Some(attribute) = &spec.partition_type_attribute {
        partition_type(errors, spec, attribute, path);
    }
    let at = path.child("skipNodeOperations");
    forms::skipped_operations(errors, list(&spec.skip_node_operations), &at);
}

/// Where the devices are: said in exactly one way.
fn place(errors: &mut Errors, spec: &ResourceSliceSpec, path: &Path) {
    let mut ways = Vec::new();
    if let Some(node) = &spec.node_name {
        let at = path.child("nodeName");
        if node.is_empty() {
            let wrong = "must be either unset or set to a non-empty string";
            errors.invalid(&at, node.as_str(), wrong);
        } else {
            ways.push("`nodeName`");
            errors.form(&at, node.as_str(), names::dns_subdomain(node, false));
        }
    }
    if let Some(selector) = &spec.node_selector {
        let at = path.child("nodeSelector");
        ways.push("`nodeSelector`");
        node_selector(errors, selector, &at);
        if selector.node_selector_terms.len() != 1 {
            errors.invalid(
                &at.child("nodeSelectorTerms"),
                json!(selector.node_selector_terms),
                "must have exactly one node selector term",
            );
        }
    }
    for (field, way, value) in [
        ("allNodes", "`allNodes`", spec.all_nodes),
        ("perDeviceNodeSelection", "`perDeviceNodeSelection`", spec.per_device_node_selection),
    ] {
        match value {
            Some(true) => ways.push(way),
            Some(false) => {
                let wrong = "must be either unset or set to true";
                errors.invalid(&path.child(field), false, wrong);
            }
            None => {}
        }
    }
    let all = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is \
               required";
    match ways.as_slice() {
        [] => errors.required(path, all),
        [_] => {}
        ways => {
            let found = format!("{{{}}}", ways.join(", "));
            errors.invalid(path, found, format!("{all}, but multiple fields are set"));
        }
    }
}

fn counter_set(errors: &mut Errors, set: &CounterSet, path: &Path) {
    let form = |name: &str| names::dns_label(name, false);
    errors.required_form(&path.child("name"), &set.name, form);
    let at = path.child("counters");
    if set.counters.is_empty() {
        errors.required(&at, "");
    } else if set.counters.len() > COUNTERS_MAX {
        errors.push(FieldError::too_many(&at, set.counters.len(), COUNTERS_MAX));
    } else {
        for name in set.counters.keys() {
            forms::label(errors, &at, name);
        }
    }
}

/// What kind of partition a device is, its attribute of this name says.
fn partition_type(errors: &mut Errors, spec: &ResourceSliceSpec, attribute: &str, path: &Path) {
    let at = path.child("partitionTypeAttribute");
    let before = errors.0.len();
    forms::fully_qualified(errors, &at, attribute);
    let devices = list(&spec.devices);
    let consumes = |device: &&k8s_openapi::api::resource::v1::Device| {
        !list(&device.consumes_counters).is_empty()
    };
    if !devices.iter().any(|device| consumes(&device)) {
        let wrong = "may only be set on a slice which declares devices that consume counters";
        return errors.invalid(&at, attribute, wrong);
    }
    if errors.0.len() > before {
        return;
    }
    // The driver's own domain may be left out.
    let own = attribute.strip_prefix(&format!("{}/", spec.driver)).map(ToOwned::to_owned);
    for (i, device) in devices.iter().enumerate().filter(|(_, device)| consumes(device)) {
        let at = path.child("devices").index(i).child("attributes").key(attribute);
        let found = device.attributes.as_ref().and_then(|attributes| {
            attributes.get(attribute).or_else(|| attributes.get(own.as_ref()?))
        });
        match found {
            None => errors.required(
                &at,
                "device consumes counters and `partitionTypeAttribute` names this attribute, so \
                 it must be set",
            ),
            Some(found) if found.string.is_none() => errors.invalid(
                &at,
                json!(found),
                "must be a string value because `partitionTypeAttribute` names this attribute",
            ),
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(spec: Value) -> ResourceSlice {
        let mut slice: ResourceSlice = serde_json::from_value(json!({ "spec": spec })).unwrap();
        slice.spec.driver = "gpu.example.com".to_owned();
        slice.spec.pool.name = "pool".to_owned();
        slice.spec.pool.resource_slice_count = 1;
        slice
    }

    #[track_caller]
    fn check(spec: Value, wrong: &[&str]) {
        let errors = ResourceSlices::validate_create(&slice(spec));
        let paths: Vec<_> = errors.iter().map(|error| error.path.to_string()).collect();
        assert_eq!(paths, wrong, "{errors:?}");
    }

    #[test]
    fn where_the_devices_are_is_said_once() {
        check(json!({ "nodeName": "n" }), &[]);
        check(json!({ "allNodes": true }), &[]);
        check(json!({}), &["spec"]);
        check(json!({ "nodeName": "n", "allNodes": true }), &["spec"]);
        check(json!({ "nodeName": "n", "allNodes": false }), &["spec.allNodes"]);
        check(
            json!({ "perDeviceNodeSelection": true, "devices": [{ "name": "a" }] }),
            &["spec.devices[0]"],
        );
    }

    #[test]
    fn an_attribute_has_one_value() {
        let with = |attribute: Value| {
            let device = json!({ "name": "a", "attributes": { "model": attribute } });
            json!({ "nodeName": "n", "devices": [device] })
        };
        let at = "spec.devices[0].attributes[model]";
        check(with(json!({ "string": "x" })), &[]);
        check(with(json!({ "version": "1.0.0-rc.1+b" })), &[]);
        check(with(json!({})), &[at]);
        check(with(json!({ "string": "x", "int": 1 })), &[at]);
        check(with(json!({ "version": "1.0" })), &[&format!("{at}.version")]);
        check(with(json!({ "ints": [] })), &[&format!("{at}.ints")]);
    }

    #[test]
    fn a_policy_of_requests_lies_within_the_capacity() {
        let with = |policy: Value| {
            let capacity = json!({ "memory": { "value": "10Gi", "requestPolicy": policy } });
            let device =
                json!({ "name": "a", "allowMultipleAllocations": true, "capacity": capacity });
            json!({ "nodeName": "n", "devices": [device] })
        };
        let at = "spec.devices[0].capacity[memory].requestPolicy";
        check(with(json!({ "default": "1Gi", "validValues": ["1Gi", "2Gi"] })), &[]);
        check(with(json!({ "validValues": ["1Gi"] })), &[&format!("{at}.default")]);
        check(
            with(json!({ "default": "1Gi", "validValues": ["20Gi"] })),
            &[&format!("{at}.validValues[0]"), &format!("{at}.validValues")],
        );
        let range = |range: Value| with(json!({ "default": "1Gi", "validRange": range }));
        check(range(json!({ "min": "1Gi", "max": "4Gi", "step": "1Gi" })), &[]);
        check(range(json!({ "min": "2Gi" })), &[&format!("{at}.validRange.default")]);
        check(
            range(json!({ "min": "1Gi", "max": "4Gi", "step": "2Gi" })),
            &[&format!("{at}.validRange.step")],
        );
    }
}
