//! What is wrong with a Pod's spec, or with the template of a workload.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    HostAlias, Pod, PodDNSConfig, PodSecurityContext, PodSpec, PodTemplateSpec,
};

use super::super::{
    check::{Errors, labels, list, text},
    pod_preset::PodPresetSpec,
};
use crate::{
    field::{ErrorList, FieldError, Path},
    meta::{names, object::validate_annotations},
};

mod container;
mod ephemeral;
mod gated;
mod resize;
mod scheduling;
mod status;
mod update;
mod volume;

pub(super) use self::{
    ephemeral::pod_ephemeral_containers, resize::pod_resize, status::pod_status_update,
    update::pod_update,
};
pub(in super::super) use self::{
    scheduling::{TAINT_EFFECTS, node_selector, tolerations},
    update::differences,
    volume::csi_driver_name,
};

const RESTART_POLICIES: &[&str] = &["Always", "OnFailure", "Never"];
const DNS_POLICIES: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];

/// What is wrong with the spec of a Pod.
pub(super) fn pod(spec: &PodSpec) -> ErrorList {
    let path = Path::new("spec");
    let mut errors = Errors(pod_spec(spec, &path));
    if text(&spec.service_account_name).is_empty() {
        token_without_account(&mut errors, spec, &path);
    }
    // A template may hold an image that a tool trims later; a Pod may not.
    for (field, containers) in [
        ("containers", spec.containers.as_slice()),
        ("initContainers", list(&spec.init_containers)),
    ] {
        for (i, container) in containers.iter().enumerate() {
            let image = text(&container.image);
            if image.trim() != image {
                errors.invalid(
                    &path.child(field).index(i).child("image"),
                    image,
                    "must not have leading or trailing whitespace",
                );
            }
        }
    }
    errors.0
}

fn token_without_account(errors: &mut Errors, spec: &PodSpec, path: &Path) {
    for (i, volume) in list(&spec.volumes).iter().enumerate() {
        let sources = volume.projected.as_ref().map_or(&[][..], |source| list(&source.sources));
        for (j, source) in sources.iter().enumerate() {
            if source.service_account_token.is_some() {
                errors.forbidden(
                    &path
                        .child("volumes")
                        .index(i)
                        .child("projected.sources")
                        .index(j)
                        .child("serviceAccountToken"),
                    "must not be specified when serviceAccountName is not set",
                );
            }
        }
    }
}

/// Whether the Pod only shows one that its node has from a file.
fn is_mirror(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.is_some_and(|all| all.contains_key("kubernetes.io/config.mirror"))
}

/// What is wrong with what a PodPreset gives to Pods.
pub(in super::super) fn injected(errors: &mut Errors, spec: &PodPresetSpec, path: &Path) {
    errors.selector(&path.child("selector"), &spec.selector);
    let volumes = volume::volumes(errors, list(&spec.volumes), &path.child("volumes"));
    container::injected(errors, spec, &volumes, path);
}

/// What is wrong with a Pod that is about to be created, besides its spec.
pub(super) fn pod_create(spec: &PodSpec) -> ErrorList {
    let path = Path::new("spec");
    let mut errors = Errors::default();
    if !list(&spec.ephemeral_containers).is_empty() {
        errors.forbidden(&path.child("ephemeralContainers"), "cannot be set on create");
    }
    if !text(&spec.node_name).is_empty() && !list(&spec.scheduling_gates).is_empty() {
        errors.forbidden(
            &path.child("nodeName"),
            "cannot be set until all schedulingGates have been cleared",
        );
    }
    errors.0
}

/// What is wrong with the template of a workload.
pub(in super::super) fn template(template: &PodTemplateSpec, path: &Path) -> ErrorList {
    let mut errors = Errors::default();
    if let Some(meta) = &template.metadata {
        let at = path.child("metadata");
        errors.extend(labels(meta.labels.as_ref(), &path.child("labels")));
        errors.extend(validate_annotations(meta.annotations.as_ref(), &path.child("annotations")));
        for (i, finalizer) in list(&meta.finalizers).iter().enumerate() {
            let at = at.child("finalizers").index(i);
            errors.form(&at, finalizer.as_str(), names::qualified_name(finalizer));
        }
    }
    let none = PodSpec::default();
    let spec = template.spec.as_ref().unwrap_or(&none);
    errors.extend(pod_spec(spec, &path.child("spec")));
    if !list(&spec.ephemeral_containers).is_empty() {
        errors.forbidden(
            &path.child("spec.ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        );
    }
    errors.0
}

fn pod_spec(spec: &PodSpec, path: &Path) -> ErrorList {
    let mut errors = Errors::default();
    let volumes = volume::volumes(&mut errors, list(&spec.volumes), &path.child("volumes"));
    container::containers(&mut errors, spec, &volumes, path);
    errors.required_one_of(
        &path.child("restartPolicy"),
        text(&spec.restart_policy),
        RESTART_POLICIES,
    );
    errors.required_one_of(&path.child("dnsPolicy"), text(&spec.dns_policy), DNS_POLICIES);
    errors.extend(labels(spec.node_selector.as_ref(), &path.child("nodeSelector")));
    security_context(&mut errors, spec, path);
    for (i, secret) in list(&spec.image_pull_secrets).iter().enumerate() {
        if secret.name.is_empty() {
            errors.required(&path.child("imagePullSecrets").index(i).child("name"), "");
        }
    }
    if let Some(affinity) = &spec.affinity {
        scheduling::affinity(&mut errors, affinity, &path.child("affinity"));
    }
    dns_config(&mut errors, spec, &path.child("dnsConfig"));
    scheduling::gates(&mut errors, spec, path);
    scheduling::topology_spread(
        &mut errors,
        list(&spec.topology_spread_constraints),
        &path.child("topologySpreadConstraints"),
    );
    scheduling::tolerations(&mut errors, list(&spec.tolerations), &path.child("tolerations"));
    names_and_numbers(&mut errors, spec, path);
    host_aliases(&mut errors, list(&spec.host_aliases), &path.child("hostAliases"));
    for (resource, amount) in spec.overhead.iter().flatten() {
        let at = path.child("overhead").key(resource);
        errors.resource_name(&at, resource);
        errors.amount(&at, resource, amount);
    }
    if let Some(resources) = &spec.resources {
        container::resources(&mut errors, resources, &path.child("resources"));
    }
    errors.0
}

fn names_and_numbers(errors: &mut Errors, spec: &PodSpec, path: &Path) {
    type Form = fn(&str) -> Vec<String>;
    let subdomain: Form = |name| names::dns_subdomain(name, false);
    let label: Form = |name| names::dns_label(name, false);
    let fields: [(&str, &Option<String>, Form); 6] = [
        ("serviceAccountName", &spec.service_account_name, subdomain),
        ("nodeName", &spec.node_name, subdomain),
        ("hostname", &spec.hostname, label),
        ("subdomain", &spec.subdomain, label),
        ("priorityClassName", &spec.priority_class_name, subdomain),
        ("runtimeClassName", &spec.runtime_class_name, subdomain),
    ];
    for (field, value, form) in fields {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            errors.form(&path.child(field), value, form(value));
        }
    }
    if let Some(seconds) = spec.active_deadline_seconds {
        let range = names::in_range(seconds, 1, i64::from(i32::MAX));
        errors.form(&path.child("activeDeadlineSeconds"), seconds, range);
    }
    if let Some(policy) = &spec.preemption_policy {
        let at = path.child("preemptionPolicy");
        errors.required_one_of(&at, policy, &["PreemptLowerPriority", "Never"]);
    }
    if let Some(os) = &spec.os {
        let at = path.child("os");
        if os.name.is_empty() {
            errors.required(&at.child("name"), "cannot be empty");
        } else {
            errors.one_of(&at, &os.name, &["linux", "windows"]);
        }
    }
}

fn security_context(errors: &mut Errors, spec: &PodSpec, path: &Path) {
    let host_network = spec.host_network == Some(true);
    if host_network {
        container::host_network_ports(errors, &spec.containers, &path.child("containers"));
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        errors.invalid(
            &path.child("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    if spec.host_users == Some(false) {
        let host = [
            ("hostNetwork", host_network),
            ("hostPID", spec.host_pid == Some(true)),
            ("hostIPC", spec.host_ipc == Some(true)),
        ];
        for (field, _) in host.into_iter().filter(|(_, used)| *used) {
            errors.forbidden(&path.child(field), "when `hostUsers` is false");
        }
    }
    let Some(context) = &spec.security_context else { return };
    let at = path.child("securityContext");
    let ids = [
        ("fsGroup", context.fs_group),
        ("runAsUser", context.run_as_user),
        ("runAsGroup", context.run_as_group),
    ];
    for (field, id) in ids {
        container::user_id(errors, &at.child(field), id);
    }
    for (i, group) in list(&context.supplemental_groups).iter().enumerate() {
        container::user_id(errors, &at.child("supplementalGroups").index(i), Some(*group));
    }
    sysctls(errors, context, host_network, spec.host_ipc == Some(true), &at.child("sysctls"));
    if let Some(policy) = &context.fs_group_change_policy {
        errors.one_of(&at.child("fsGroupChangePolicy"), policy, &["Always", "OnRootMismatch"]);
    }
    if let Some(policy) = &context.supplemental_groups_policy {
        errors.one_of(&at.child("supplementalGroupsPolicy"), policy, &["Merge", "Strict"]);
    }
    if let Some(profile) = &context.seccomp_profile {
        container::profile(
            errors,
            ("seccomp", &profile.type_, profile.localhost_profile.as_ref()),
            &at.child("seccompProfile"),
        );
    }
    if let Some(profile) = &context.app_armor_profile {
        container::profile(
            errors,
            ("AppArmor", &profile.type_, profile.localhost_profile.as_ref()),
            &at.child("appArmorProfile"),
        );
    }
}

fn sysctls(
    errors: &mut Errors,
    context: &PodSecurityContext,
    host_network: bool,
    host_ipc: bool,
    path: &Path,
) {
    let mut seen = BTreeSet::new();
    for (i, sysctl) in list(&context.sysctls).iter().enumerate() {
        let at = path.index(i).child("name");
        let name = sysctl.name.as_str();
        let segment = |segment: &str| {
            let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
            let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
            let bytes = segment.as_bytes();
            bytes.iter().all(|b| inner(*b)) && edge(bytes.first()) && edge(bytes.last())
        };
        if name.is_empty() {
            errors.required(&at, "");
        } else if name.len() > 253 || !name.split(['.', '/']).all(segment) {
            errors.invalid(
                &at,
                name,
                "must have at most 253 characters and match regex \
                 ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            );
        } else if !seen.insert(name) {
            errors.push(FieldError::duplicate(&at, name));
        }
        if host_network && name.starts_with("net.") {
            errors.invalid(&at, name, "may not be specified when 'hostNetwork' is true");
        }
        let of_ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."];
        if host_ipc && (of_ipc.iter().any(|p| name.starts_with(p)) || name == "kernel.sem") {
            errors.invalid(&at, name, "may not be specified when 'hostIPC' is true");
        }
    }
}

fn dns_config(errors: &mut Errors, spec: &PodSpec, path: &Path) {
    let none_policy = text(&spec.dns_policy) == "None";
    let Some(config) = &spec.dns_config else {
        if none_policy {
            errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        return;
    };
    if none_policy && list(&config.nameservers).is_empty() {
        errors.required(
            &path.child("nameservers"),
            "must provide at least one DNS nameserver when `dnsPolicy` is None",
        );
    }
    dns_lists(errors, config, path);
    for (i, option) in list(&config.options).iter().enumerate() {
        if text(&option.name).is_empty() {
            errors.required(&path.child("options").index(i), "must not be empty");
        }
    }
}

fn dns_lists(errors: &mut Errors, config: &PodDNSConfig, path: &Path) {
    let (servers, searches) = (list(&config.nameservers), list(&config.searches));
    let at = path.child("nameservers");
    if servers.len() > 3 {
        errors.invalid(&at, servers.to_vec(), "must not have more than 3 nameservers");
    }
    for (i, server) in servers.iter().enumerate() {
        errors.form(&at.index(i), server.as_str(), names::ip(server));
    }
    let at = path.child("searches");
    if searches.len() > 32 {
        errors.invalid(&at, searches.to_vec(), "must not have more than 32 search paths");
    }
    if searches.join(" ").len() > 2048 {
        errors.invalid(
            &at,
            searches.to_vec(),
            "must not have more than 2048 characters (including spaces) in the search list",
        );
    }
    for (i, search) in searches.iter().enumerate() {
        // Underscores are in use, for SRV records; "." is the root domain.
        let name = search.strip_suffix('.').unwrap_or(search).replace('_', "a");
        if search != "." {
            errors.form(&at.index(i), search.as_str(), names::dns_subdomain(&name, false));
        }
    }
}

fn host_aliases(errors: &mut Errors, aliases: &[HostAlias], path: &Path) {
    for (i, alias) in aliases.iter().enumerate() {
        let at = path.index(i);
        errors.form(&at.child("ip"), alias.ip.as_str(), names::ip(&alias.ip));
        for (j, hostname) in list(&alias.hostnames).iter().enumerate() {
            let at = at.child("hostnames").index(j);
            errors.form(&at, hostname.as_str(), names::dns_subdomain(hostname, false));
        }
    }
}
