//! What a Pod's status may become.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, PodStatus};
use serde_json::json;

use super::super::super::check::{Errors, list, text};
use crate::{
    field::{ErrorList, FieldError, Path},
    meta::names,
};

/// Conditions whose types are no qualified names.
const OWN_CONDITIONS: &[&str] = &["PodScheduled", "Ready", "Initialized"];
const HEALTH: &[&str] = &["Healthy", "Unhealthy", "Unknown"];

/// What is wrong with a change of the Pod's status.
pub(in super::super) fn pod_status_update(new: &Pod, old: &Pod) -> ErrorList {
    let mut errors = Errors::default();
    let none = PodStatus::default();
    let new_status = new.status.as_ref().unwrap_or(&none);
    let old_status = old.status.as_ref().unwrap_or(&none);
    for (i, condition) in list(&new_status.conditions).iter().enumerate() {
        if !OWN_CONDITIONS.contains(&condition.type_.as_str()) {
            // Kubernetes' path begins so.
            let at = Path::new("metadata.conditions").index(i).child("Type");
            errors.form(&at, condition.type_.as_str(), names::qualified_name(&condition.type_));
        }
    }
    let path = Path::new("status");
    let nominated = text(&new_status.nominated_node_name);
    if !nominated.is_empty() {
        let wrong = names::dns_subdomain(nominated, false);
        errors.form(&path.child("nominatedNodeName"), nominated, wrong);
    }
    let spec = old.spec.clone().unwrap_or_default();
    let bound = !text(&spec.node_name).is_empty();
    if bound && !nominated.is_empty() && nominated != text(&old_status.nominated_node_name) {
        errors.forbidden(
            &path.child("nominatedNodeName"),
            "may not be set on pods that are already bound to a node",
        );
    }
    if new_status.qos_class != old_status.qos_class {
        let class = text(&new_status.qos_class);
        errors.invalid(&path.child("qosClass"), class, "field is immutable");
    }
    let policy = text(&spec.restart_policy);
    transitions(
        &mut errors,
        (list(&new_status.container_statuses), list(&old_status.container_statuses)),
        |name| own_policy(&spec.containers, name).unwrap_or(policy),
        &path.child("containerStatuses"),
    );
    // An init container that succeeded is run again with the whole Pod, unless that never is.
    let init_policy = if policy == "Never" { "Never" } else { "Always" };
    transitions(
        &mut errors,
        (list(&new_status.init_container_statuses), list(&old_status.init_container_statuses)),
        |name| own_policy(list(&spec.init_containers), name).unwrap_or(init_policy),
        &path.child("initContainerStatuses"),
    );
    // Nothing starts an ephemeral container again.
    transitions(
        &mut errors,
        (
            list(&new_status.ephemeral_container_statuses),
            list(&old_status.ephemeral_container_statuses),
        ),
        |_| "Never",
        &path.child("ephemeralContainerStatuses"),
    );
    claims(&mut errors, new_status, &spec, &path.child("resourceClaimStatuses"));
    let pod_ips = list(&new_status.pod_ips).iter().map(|address| address.ip.as_str());
    addresses(&mut errors, pod_ips.collect(), json!(new_status.pod_ips), &path.child("podIPs"));
    let host_ips = list(&new_status.host_ips).iter().map(|address| address.ip.as_str());
    addresses(&mut errors, host_ips.collect(), json!(new_status.host_ips), &path.child("hostIPs"));
    containers(&mut errors, new_status, &spec, &path);
    errors.0
}

/// Claims are those of the Pod, each once.
fn claims(errors: &mut Errors, status: &PodStatus, spec: &PodSpec, path: &Path) {
    let mut known = BTreeSet::new();
    for (i, claim) in list(&status.resource_claim_statuses).iter().enumerate() {
        let at = path.index(i).child("name");
        if list(&spec.resource_claims).iter().all(|own| own.name != claim.name) {
            let wrong = "must match the name of an entry in `spec.resourceClaims`";
            errors.invalid(&at, claim.name.as_str(), wrong);
        }
        if !known.insert(&claim.name) {
            errors.push(FieldError::duplicate(&at, claim.name.as_str()));
        }
        if let Some(name) = &claim.resource_claim_name {
            errors.form(&at, name.as_str(), names::dns_subdomain(name, false));
        }
    }
}

/// One address of each family at most.
fn addresses(errors: &mut Errors, ips: Vec<&str>, all: serde_json::Value, path: &Path) {
    for (i, ip) in ips.iter().enumerate() {
        errors.form(&path.index(i), *ip, names::ip(ip));
    }
    let is_v4 = |ip: &&str| names::parse_ip(ip).is_some_and(|ip| ip.is_ipv4());
    let is_dual = ips.len() == 2 && is_v4(&ips[0]) != is_v4(&ips[1]);
    if ips.len() > 1 && !is_dual {
        errors.invalid(path, all, "may specify no more than one IP for each IP family");
    }
    for (i, ip) in ips.iter().enumerate() {
        if ips[..i].contains(ip) {
            errors.push(FieldError::duplicate(&path.index(i), *ip));
        }
    }
}

/// What containers say about the devices that they have, and about their users.
fn containers(errors: &mut Errors, status: &PodStatus, spec: &PodSpec, path: &Path) {
    let is_windows = spec.os.as_ref().is_some_and(|os| os.name == "windows");
    let lists = [
        ("containerStatuses", list(&status.container_statuses), spec.containers.as_slice()),
        (
            "initContainerStatuses",
            list(&status.init_container_statuses),
            list(&spec.init_containers),
        ),
        ("ephemeralContainerStatuses", list(&status.ephemeral_container_statuses), &[]),
    ];
    for (field, statuses, containers) in lists {
        for (i, status) in statuses.iter().enumerate() {
            let at = path.child(field).index(i);
            user(errors, status, is_windows, &at);
            let is_ephemeral = field == "ephemeralContainerStatuses";
            if is_ephemeral && !list(&status.allocated_resources_status).is_empty() {
                let wrong = "must not be specified in container status";
                errors.forbidden(&at.child("allocatedResourcesStatus"), wrong);
            }
            let container = containers.iter().find(|container| container.name == status.name);
            if !is_ephemeral {
                health(errors, status, container, &at.child("allocatedResourcesStatus"));
            }
        }
    }
}

fn user(errors: &mut Errors, status: &ContainerStatus, is_windows: bool, path: &Path) {
    let user = status.user.as_ref().and_then(|user| user.linux.as_ref());
    let (Some(user), at) = (user, path.child("linux")) else { return };
    if is_windows {
        return errors.forbidden(&at, "cannot be set for a windows pod");
    }
    let groups = list(&user.supplemental_groups);
    let ids = [(at.child("uid"), user.uid), (at.child("gid"), user.gid)].into_iter();
    let groups = groups.iter().enumerate();
    let groups = groups.map(|(i, id)| (at.child("supplementalGroups").index(i), *id));
    for (at, id) in ids.chain(groups) {
        errors.form(&at, id, names::in_range(id, 0, i64::from(i32::MAX)));
    }
}

/// The health of devices that the container asks for, each once (KEP-4680).
fn health(
    errors: &mut Errors,
    status: &ContainerStatus,
    container: Option<&Container>,
    path: &Path,
) {
    for (i, allocated) in list(&status.allocated_resources_status).iter().enumerate() {
        let at = path.index(i);
        // A container that is not in the spec any more says what it likes.
        let resources = container.map(|container| container.resources.clone().unwrap_or_default());
        let wrong = resources.and_then(|resources| {
            if let Some(claim) = allocated.name.strip_prefix("claim:") {
                let is_it = |own: &k8s_openapi::api::core::v1::ResourceClaim| match &own.request {
                    Some(request) => claim == format!("{}/{request}", own.name),
                    None => claim == own.name,
                };
                let known = list(&resources.claims).iter().any(is_it);
                return (!known).then_some(
                    "must match one of the container's resource claims in a format \
                     'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty",
                );
            }
            let known = resources.requests.is_some_and(|all| all.contains_key(&allocated.name));
            (!known).then_some("must match one of the container's resource requests")
        });
        if let Some(wrong) = wrong {
            errors.invalid(&at.child("name"), allocated.name.as_str(), wrong);
        }
        let mut known = BTreeSet::new();
        for (j, device) in list(&allocated.resources).iter().enumerate() {
            let at = at.child("resources").index(j);
            errors.one_of(&at.child("health"), text(&device.health), HEALTH);
            if !known.insert(&device.resource_id) {
                let at = at.child("resourceID");
                errors.push(FieldError::duplicate(&at, device.resource_id.as_str()));
            }
        }
    }
}

/// The restart policy that a container has besides the Pod's.
fn own_policy<'a>(containers: &'a [Container], name: &str) -> Option<&'a str> {
    let container = containers.iter().find(|container| container.name == name)?;
    if container.restart_policy_rules.is_some() {
        return Some("Always");
    }
    container.restart_policy.as_deref()
}

/// A container that ended for good stays ended.
fn transitions<'a>(
    errors: &mut Errors,
    (new, old): (&[ContainerStatus], &[ContainerStatus]),
    restart_policy: impl Fn(&str) -> &'a str,
    path: &Path,
) {
    for (i, old) in old.iter().enumerate() {
        let ended = old.state.as_ref().and_then(|state| state.terminated.as_ref());
        let Some(ended) = ended else { continue };
        let restarts = match restart_policy(&old.name) {
            "Always" => true,
            "OnFailure" => ended.exit_code != 0,
            _ => false,
        };
        let Some(new) = new.iter().find(|new| new.name == old.name) else { continue };
        let runs = new.state.as_ref().is_none_or(|state| state.terminated.is_none());
        if runs && !restarts {
            errors.push(FieldError::forbidden(
                &path.index(i).child("state"),
                "may not be transitioned to non-terminated state",
            ));
        }
    }
}
