//! The status of a ResourceClaim: the devices that it got, and who uses them.

use std::collections::BTreeSet;

use k8s_openapi::api::resource::v1::{
    AllocatedDeviceStatus, AllocationResult, DeviceRequestAllocationResult, NetworkDeviceData,
    ResourceClaim, ResourceClaimStatus,
};

use super::{
    super::{
        check::{Errors, list, text},
        pod::validation::node_selector,
    },
    claim::{Requests, request_ref, request_refs},
    forms,
};
use crate::{
    field::{FieldError, Path},
    meta::names,
};

const RESERVED_MAX: usize = 256;
const RESULTS_MAX: usize = 32;
const CONDITIONS_MAX: usize = 8;
const DATA_MAX: usize = 10 * 1024;
const INTERFACE_NAME_MAX: usize = 256;
const HARDWARE_ADDRESS_MAX: usize = 128;
const IPS_MAX: usize = 16;

/// What is wrong with a claim's new status.
pub(super) fn status(
    errors: &mut Errors,
    new: &ResourceClaim,
    old: &ResourceClaim,
    known: &Requests<'_>,
) {
    let none = ResourceClaimStatus::default();
    let path = Path::new("status");
    let is_deleted = new.metadata.deletion_timestamp.is_some();
    let (new, old) = (new.status.as_ref().unwrap_or(&none), old.status.as_ref().unwrap_or(&none));
    reserved(errors, new, old, is_deleted, &path.child("reservedFor"));

    let results = new.allocation.as_ref().and_then(|allocation| allocation.devices.as_ref());
    let results = results.map_or(&[][..], |devices| list(&devices.results));
    let allocated: BTreeSet<_> = results
        .iter()
        .map(|result| id(&result.driver, &result.pool, &result.device, &result.share_id))
        .collect();
    let devices = list(&new.devices);
    for (i, device) in devices.iter().enumerate() {
        let at = path.child("devices").index(i);
        self::device(errors, device, &allocated, &at);
        if devices[..i].iter().any(|other| key(other) == key(device)) {
            errors.push(FieldError::duplicate(&at, key(device)));
        }
    }

    let at = path.child("allocation");
    match (&new.allocation, &old.allocation) {
        (Some(new), Some(old)) => errors.immutable(&at, new, old),
        (Some(new), None) => allocation(errors, new, known, &at),
        (None, _) => {}
    }
}

/// What the drivers tell of devices that the claim does not have any more goes with them.
pub(super) fn drop_deallocated(new: &mut ResourceClaim, old: &ResourceClaim) {
    let devices = |claim: &ResourceClaim| -> BTreeSet<[String; 3]> {
        let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
        let devices = allocation.and_then(|allocation| allocation.devices.as_ref());
        let results = devices.map_or(&[][..], |devices| list(&devices.results)).iter();
        results.map(|result| device_of(&result.driver, &result.pool, &result.device)).collect()
    };
    let lost: BTreeSet<_> = devices(old).difference(&devices(new)).cloned().collect();
    let Some(status) = new.status.as_mut().filter(|_| !lost.is_empty()) else { return };
    if let Some(devices) = &mut status.devices {
        devices.retain(|own| !lost.contains(&device_of(&own.driver, &own.pool, &own.device)));
    }
    status.devices.take_if(|devices| devices.is_empty());
}

fn device_of(driver: &str, pool: &str, device: &str) -> [String; 3] {
    [driver, pool, device].map(str::to_owned)
}

fn id(driver: &str, pool: &str, device: &str, share: &Option<String>) -> String {
    let share = share.as_ref().map(|share| format!("/{share}"));
    format!("{driver}/{pool}/{device}{}", share.unwrap_or_default())
}

fn key(device: &AllocatedDeviceStatus) -> String {
    id(&device.driver, &device.pool, &device.device, &device.share_id)
}

fn reserved(
    errors: &mut Errors,
    new: &ResourceClaimStatus,
    old: &ResourceClaimStatus,
    is_deleted: bool,
    path: &Path,
) {
    let (users, before) = (list(&new.reserved_for), list(&old.reserved_for));
    if forms::fits(errors, users, RESERVED_MAX, path) {
        for (i, user) in users.iter().enumerate() {
            let at = path.index(i);
            for (field, value) in
                [("resource", &user.resource), ("name", &user.name), ("uid", &user.uid)]
            {
                if value.is_empty() {
                    errors.required(&at.child(field), "");
                }
            }
        }
        forms::unique(errors, users.iter().map(|user| user.uid.as_str()), path);
    }
    if !users.is_empty() && new.allocation.is_none() {
        errors.forbidden(path, "may not be specified when `allocated` is not set");
    } else if is_deleted && users.iter().any(|user| !before.contains(user)) {
        errors.forbidden(
            path,
            "new entries may not be added while `deallocationRequested` or `deletionTimestamp` \
             are set",
        );
    }
}

fn allocation(errors: &mut Errors, found: &AllocationResult, known: &Requests<'_>, path: &Path) {
    if let Some(devices) = &found.devices {
        let path = path.child("devices");
        let (results, at) = (list(&devices.results), path.child("results"));
        if forms::fits(errors, results, RESULTS_MAX, &at) {
            for (i, result) in results.iter().enumerate() {
                self::result(errors, result, known, &at.index(i));
            }
        }
        // The class's and the claim's.
        let (config, at) = (list(&devices.config), path.child("config"));
        if forms::fits(errors, config, 2 * forms::CONFIG_MAX, &at) {
            for (i, config) in config.iter().enumerate() {
                let at = at.index(i);
                let sources = ["FromClaim", "FromClass"];
                errors.required_one_of(&at.child("source"), &config.source, &sources);
                request_refs(errors, list(&config.requests), known, &at.child("requests"));
                forms::configuration(errors, config.opaque.as_ref(), &at);
            }
        }
    }
    if let Some(selector) = &found.node_selector {
        node_selector(errors, selector, &path.child("nodeSelector"));
    }
}

fn result(
    errors: &mut Errors,
    result: &DeviceRequestAllocationResult,
    known: &Requests<'_>,
    path: &Path,
) {
    request_ref(errors, &result.request, known, &path.child("request"));
    forms::driver(errors, &path.child("driver"), &result.driver);
    forms::pool(errors, &path.child("pool"), &result.pool);
    forms::label(errors, &path.child("device"), &result.device);
    forms::binding_conditions(
        errors,
        &result.binding_conditions,
        &result.binding_failure_conditions,
        path,
    );
    forms::tolerations(errors, list(&result.tolerations), &path.child("tolerations"));
    if let Some(share) = &result.share_id {
        forms::uid(errors, &path.child("shareID"), share);
    }
    let at = path.child("skipNodeOperations");
    forms::skipped_operations(errors, list(&result.skip_node_operations), &at);
}

fn device(
    errors: &mut Errors,
    device: &AllocatedDeviceStatus,
    allocated: &BTreeSet<String>,
    path: &Path,
) {
    forms::driver(errors, &path.child("driver"), &device.driver);
    forms::pool(errors, &path.child("pool"), &device.pool);
    forms::label(errors, &path.child("device"), &device.device);
    if let Some(share) = &device.share_id {
        forms::uid(errors, &path.child("shareID"), share);
    }
    if !allocated.contains(&key(device)) {
        errors.invalid(path, key(device), "must be an allocated device in the claim");
    }
    forms::fits(errors, list(&device.conditions), CONDITIONS_MAX, &path.child("conditions"));
    if let Some(data) = &device.data {
        forms::raw(errors, data, DATA_MAX, &path.child("data"));
    }
    if let Some(network) = &device.network_data {
        self::network(errors, network, &path.child("networkData"));
    }
}

fn network(errors: &mut Errors, data: &NetworkDeviceData, path: &Path) {
    for (field, value, max) in [
        ("interfaceName", text(&data.interface_name), INTERFACE_NAME_MAX),
        ("hardwareAddress", text(&data.hardware_address), HARDWARE_ADDRESS_MAX),
    ] {
        if value.len() > max {
            errors.push(FieldError::too_long(&path.child(field), max));
        }
    }
    let (ips, at) = (list(&data.ips), path.child("ips"));
    if forms::fits(errors, ips, IPS_MAX, &at) {
        for (i, address) in ips.iter().enumerate() {
            if names::parse_cidr(address).is_none() {
                errors.invalid(
                    &at.index(i),
                    address.as_str(),
                    "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)",
                );
            }
        }
        forms::unique(errors, ips.iter().map(String::as_str), &at);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(status: Value) -> ResourceClaim {
        serde_json::from_value(json!({ "status": status })).unwrap()
    }

    #[track_caller]
    fn check(new: Value, old: Value, wrong: &[&str]) {
        let known = Requests::from([("a", BTreeSet::new())]);
        let mut errors = Errors::default();
        status(&mut errors, &claim(new), &claim(old), &known);
        let paths: Vec<_> = errors.0.iter().map(|error| error.path.to_string()).collect();
        assert_eq!(paths, wrong, "{:?}", errors.0);
    }

    #[test]
    fn users_come_after_the_devices_which_then_stay() {
        let user = json!({ "resource": "pods", "name": "p", "uid": "1" });
        let of = |pool: &str| {
            let result = json!({ "request": "a", "driver": "d.io", "pool": pool, "device": "x" });
            json!({ "allocation": { "devices": { "results": [result] } } })
        };
        check(of("p"), json!({}), &[]);
        check(of("p"), of("p"), &[]);
        check(of("q"), of("p"), &["status.allocation"]);
        check(json!({ "reservedFor": [user] }), json!({}), &["status.reservedFor"]);
        let mut used = of("p");
        used["reservedFor"] = json!([user]);
        check(used.clone(), of("p"), &[]);
        used["devices"] = json!([{ "driver": "d.io", "pool": "p", "device": "x" }]);
        check(used.clone(), of("p"), &[]);
        used["devices"] = json!([{ "driver": "d.io", "pool": "p", "device": "y" }]);
        check(used, of("p"), &["status.devices[0]"]);
    }
}
