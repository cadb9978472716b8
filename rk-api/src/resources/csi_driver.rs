//! CSIDriver: what a storage driver wants of the cluster.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::storage::v1::{CSIDriver, CSIDriverSpec},
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Kind, Part, Resource,
    check::{Errors, list},
    row::Row,
};
use crate::{
    field::{ErrorList, FieldError, Path},
    meta::table::{age, name},
};

/// The row of CSIDriver.
pub(super) fn row() -> Resource {
    Row::of::<CsiDrivers>().columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("AttachRequired", "boolean", "Whether its volumes are attached to nodes."),
    Column::new("PodInfoOnMount", "boolean", "Whether it is told of the Pod when it mounts."),
    Column::new("StorageCapacity", "boolean", "Whether it says how much it has left."),
    Column::new("TokenRequests", "string", "Audiences of the tokens that it is given."),
    Column::new("RequiresRepublish", "boolean", "Whether it is asked to publish again and again."),
    Column::new("Modes", "string", "The kinds of volumes that it offers."),
    Column::AGE,
];

/// How a CSIDriver behaves.
#[derive(Debug, Default)]
pub(super) struct CsiDrivers;

impl Kind for CsiDrivers {
    type Object = CSIDriver;

    fn default(driver: &mut CSIDriver) {
        let spec = &mut driver.spec;
        spec.attach_required.get_or_insert(true);
        spec.pod_info_on_mount.get_or_insert(false);
        spec.storage_capacity.get_or_insert(false);
        spec.requires_republish.get_or_insert(false);
        spec.se_linux_mount.get_or_insert(false);
        spec.fs_group_policy.get_or_insert_with(|| "ReadWriteOnceWithFSType".to_owned());
        if list(&spec.volume_lifecycle_modes).is_empty() {
            spec.volume_lifecycle_modes = Some(vec!["Persistent".to_owned()]);
        }
    }

    fn prepare_update(new: &mut CSIDriver, old: &CSIDriver, _: Part) {
        // Nodes read these again when the generation rises.
        let watched = |spec: &CSIDriverSpec| {
            (spec.token_requests.clone(), spec.requires_republish, spec.se_linux_mount)
        };
        if watched(&new.spec) != watched(&old.spec) {
            let generation = old.metadata.generation.unwrap_or(0);
            new.metadata.generation = Some(generation + 1);
        }
    }

    fn validate(driver: &CSIDriver) -> ErrorList {
        let (spec, path) = (&driver.spec, Path::new("spec"));
        let mut errors = Errors::default();
        for (field, value) in [
            ("attachedRequired", spec.attach_required),
            ("podInfoOnMount", spec.pod_info_on_mount),
            ("storageCapacity", spec.storage_capacity),
            ("seLinuxMount", spec.se_linux_mount),
        ] {
            if value.is_none() {
                errors.required(&path.child(field), "");
            }
        }
        if let Some(policy) = &spec.fs_group_policy {
            let policies = ["File", "None", "ReadWriteOnceWithFSType"];
            errors.one_of(&path.child("fsGroupPolicy"), policy, &policies);
        }
        token_requests(&mut errors, spec, &path.child("tokenRequests"));
        for mode in list(&spec.volume_lifecycle_modes) {
            let at = path.child("volumeLifecycleModes");
            errors.one_of(&at, mode, &["Persistent", "Ephemeral"]);
        }
        if let Some(period) = spec.node_allocatable_update_period_seconds.filter(|p| *p < 10) {
            let at = path.child("nodeAllocatableUpdatePeriodSeconds");
            errors.invalid(&at, period, "must be greater than or equal to 10 seconds");
        }
        if let Some(in_secrets) = spec.service_account_token_in_secrets
            && list(&spec.token_requests).is_empty()
        {
            errors.invalid(
                &path.child("serviceAccountTokenInSecrets"),
                in_secrets,
                "serviceAccountTokenInSecrets is set but no tokenRequests are specified",
            );
        }
        errors.0
    }

    fn validate_update(new: &CSIDriver, old: &CSIDriver, _: Part) -> ErrorList {
        let mut errors = Errors::default();
        let (new, old) = (&new.spec, &old.spec);
        let path = Path::new("spec");
        // The field is called so in Kubernetes' messages.
        let at = path.child("attachedRequired");
        errors.immutable(&at, &new.attach_required, &old.attach_required);
        errors.immutable(
            &path.child("volumeLifecycleModes"),
            &new.volume_lifecycle_modes,
            &old.volume_lifecycle_modes,
        );
        errors.0
    }

    fn cells(driver: &CSIDriver, now: Timestamp) -> Vec<Value> {
        let spec = &driver.spec;
        let audiences: Vec<_> =
            list(&spec.token_requests).iter().map(|request| request.audience.as_str()).collect();
        let audiences =
            if audiences.is_empty() { "<unset>".to_owned() } else { audiences.join(",") };
        let modes = match list(&spec.volume_lifecycle_modes) {
            [] => "<none>".to_owned(),
            modes => modes.join(","),
        };
        vec![
            json!(name(&driver.metadata)),
            json!(spec.attach_required.unwrap_or(true)),
            json!(spec.pod_info_on_mount.unwrap_or(false)),
            json!(spec.storage_capacity.unwrap_or(false)),
            json!(audiences),
            json!(spec.requires_republish.unwrap_or(false)),
            json!(modes),
            json!(age(&driver.metadata, now)),
        ]
    }

    const UNCONDITIONAL_UPDATE: bool = false;
}

/// Each audience once, and tokens that live neither too short nor for ever.
fn token_requests(errors: &mut Errors, spec: &CSIDriverSpec, path: &Path) {
    let mut audiences = BTreeSet::new();
    for (i, request) in list(&spec.token_requests).iter().enumerate() {
        let at = path.index(i);
        if !audiences.insert(&request.audience) {
            let at = at.child("audience");
            errors.push(FieldError::duplicate(&at, request.audience.as_str()));
            continue;
        }
        let at = at.child("expirationSeconds");
        match request.expiration_seconds {
            Some(seconds) if seconds < 600 => {
                errors.invalid(&at, seconds, "may not specify a duration less than 10 minutes");
            }
            Some(seconds) if seconds > 1 << 32 => {
                let wrong = "may not specify a duration larger than 2^32 seconds";
                errors.invalid(&at, seconds, wrong);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::storage::v1::TokenRequest;

    use super::*;

    #[test]
    fn tokens_have_one_request_for_each_audience() {
        let request = |audience: &str, seconds: Option<i64>| TokenRequest {
            audience: audience.to_owned(),
            expiration_seconds: seconds,
        };
        let mut driver = CSIDriver::default();
        <CsiDrivers as Kind>::default(&mut driver);
        driver.spec.token_requests =
            Some(vec![request("a", None), request("a", None), request("b", Some(1))]);
        let errors = CsiDrivers::validate(&driver);
        let paths: Vec<_> = errors.iter().map(|error| error.path.to_string()).collect();
        assert_eq!(
            paths,
            ["spec.tokenRequests[1].audience", "spec.tokenRequests[2].expirationSeconds"]
        );
    }

    #[test]
    fn only_what_nodes_read_raises_the_generation() {
        let mut old = CSIDriver::default();
        <CsiDrivers as Kind>::default(&mut old);
        let mut new = old.clone();
        new.spec.pod_info_on_mount = Some(true);
        CsiDrivers::prepare_update(&mut new, &old, Part::Main);
        assert_eq!(new.metadata.generation, None);
        new.spec.requires_republish = Some(true);
        CsiDrivers::prepare_update(&mut new, &old, Part::Main);
        assert_eq!(new.metadata.generation, Some(1));
    }
}
