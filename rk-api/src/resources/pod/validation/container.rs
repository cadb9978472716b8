//! Containers: names, images, ports, environment, mounts, probes, resources, privileges.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::core::v1::{
        ConfigMapKeySelector, Container, ContainerPort, EnvFromSource, EnvVar, EphemeralContainer,
        HTTPGetAction, Lifecycle, LifecycleHandler, PodSpec, Probe, ResourceRequirements,
        SecretKeySelector, SecurityContext, VolumeMount,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde_json::json;

use super::{
    super::super::{
        check::{Errors, is_extended_resource, is_native_resource, list, text},
        pod_preset::PodPresetSpec,
    },
    volume::{self, Volumes},
};
use crate::{
    field::{FieldError, Path},
    meta::{names, quantity::Quantity},
};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Containers of all three lists, whose names are unique together.
pub(super) fn containers(errors: &mut Errors, spec: &PodSpec, volumes: &Volumes, path: &Path) {
    let grace = spec.termination_grace_period_seconds.unwrap_or(30);
    let mut names = BTreeSet::new();
    let at = path.child("containers");
    if spec.containers.is_empty() {
        errors.required(&at, "");
    }
    for (i, container) in spec.containers.iter().enumerate() {
        common(errors, container, volumes, &at.index(i));
        unique_name(errors, &mut names, &container.name, &at.index(i));
        lifecycle(errors, container, grace, &at.index(i));
        resize_policy(errors, container, spec, &at.index(i).child("resizePolicy"));
        if let Some(policy) = &container.restart_policy {
            let at = at.index(i).child("restartPolicy");
            errors.one_of(&at, policy, super::RESTART_POLICIES);
        }
    }
    host_port_conflicts(errors, &spec.containers, &at);

    let at = path.child("initContainers");
    for (i, container) in list(&spec.init_containers).iter().enumerate() {
        let at = at.index(i);
        common(errors, container, volumes, &at);
        unique_name(errors, &mut names, &container.name, &at);
        host_port_conflicts(errors, std::slice::from_ref(container), &path.child("initContainers"));
        init_container(errors, container, grace, &at);
    }

    let at = path.child("ephemeralContainers");
    for (i, container) in list(&spec.ephemeral_containers).iter().enumerate() {
        let at = at.index(i);
        common(errors, &as_container(container), volumes, &at);
        unique_name(errors, &mut names, &container.name, &at);
        ephemeral_container(errors, container, spec, &at);
    }
}

/// What a PodPreset gives to containers.
pub(super) fn injected(errors: &mut Errors, spec: &PodPresetSpec, volumes: &Volumes, path: &Path) {
    env(errors, list(&spec.env), &path.child("env"));
    env_from(errors, list(&spec.env_from), &path.child("envFrom"));
    let given = Container { volume_mounts: spec.volume_mounts.clone(), ..Container::default() };
    mounts(errors, &given, volumes, path);
}

fn resize_policy(errors: &mut Errors, container: &Container, spec: &PodSpec, path: &Path) {
    let mut seen = BTreeSet::new();
    for (i, policy) in list(&container.resize_policy).iter().enumerate() {
        if !seen.insert(policy.resource_name.as_str()) {
            errors.push(FieldError::duplicate(&path.index(i), policy.resource_name.as_str()));
        }
        errors.required_one_of(path, &policy.resource_name, &["cpu", "memory"]);
        errors.required_one_of(path, &policy.restart_policy, &["NotRequired", "RestartContainer"]);
        if text(&spec.restart_policy) == "Never" && policy.restart_policy != "NotRequired" {
            errors.invalid(
                path,
                policy.restart_policy.as_str(),
                "must be 'NotRequired' when `restartPolicy` is 'Never'",
            );
        }
    }
}

fn unique_name<'a>(errors: &mut Errors, names: &mut BTreeSet<&'a str>, name: &'a str, path: &Path) {
    if !name.is_empty() && !names.insert(name) {
        errors.push(FieldError::duplicate(&path.child("name"), name));
    }
}

fn init_container(errors: &mut Errors, container: &Container, grace: i64, path: &Path) {
    if container.restart_policy.as_deref() == Some("Always") {
        return lifecycle(errors, container, grace, path);
    }
    if let Some(policy) = &container.restart_policy {
        errors.one_of(&path.child("restartPolicy"), policy, super::RESTART_POLICIES);
    }
    let fields = [
        ("lifecycle", container.lifecycle.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
    ];
    for (field, _) in fields.into_iter().filter(|(_, set)| *set) {
        errors.forbidden(
            &path.child(field),
            "may not be set for init containers without restartPolicy=Always",
        );
    }
}

/// An ephemeral container has the fields of a container.
fn as_container(container: &EphemeralContainer) -> Container {
    let c = container.clone();
    Container {
        name: c.name,
        image: c.image,
        image_pull_policy: c.image_pull_policy,
        termination_message_path: c.termination_message_path,
        termination_message_policy: c.termination_message_policy,
        env: c.env,
        env_from: c.env_from,
        volume_mounts: c.volume_mounts,
        volume_devices: c.volume_devices,
        security_context: c.security_context,
        ..Container::default()
    }
}

fn ephemeral_container(
    errors: &mut Errors,
    container: &EphemeralContainer,
    spec: &PodSpec,
    path: &Path,
) {
    if let Some(target) = container.target_container_name.as_deref().filter(|name| !name.is_empty())
    {
        let mut all = spec.containers.iter().chain(list(&spec.init_containers));
        if !all.any(|other| other.name == target) {
            errors.push(FieldError::not_found(&path.child("targetContainerName"), target));
        }
    }
    let resources = container.resources.clone().unwrap_or_default();
    let fields = [
        ("ports", container.ports.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
        ("lifecycle", container.lifecycle.is_some()),
        ("resources", resources != ResourceRequirements::default()),
        ("restartPolicy", container.restart_policy.is_some()),
    ];
    for (field, _) in fields.into_iter().filter(|(_, set)| *set) {
        errors.forbidden(&path.child(field), "cannot be set for an Ephemeral Container");
    }
    for (i, mount) in list(&container.volume_mounts).iter().enumerate() {
        let at = path.child("volumeMounts").index(i);
        if !text(&mount.sub_path).is_empty() {
            errors.forbidden(&at.child("subPath"), "cannot be set for an Ephemeral Container");
        }
        if !text(&mount.sub_path_expr).is_empty() {
            errors.forbidden(&at.child("subPathExpr"), "cannot be set for an Ephemeral Container");
        }
    }
}

/// What containers of each list have in common.
fn common(errors: &mut Errors, container: &Container, volumes: &Volumes, path: &Path) {
    errors.required_form(&path.child("name"), &container.name, |n| names::dns_label(n, false));
    if text(&container.image).is_empty() {
        errors.required(&path.child("image"), "");
    }
    errors.required_one_of(
        &path.child("terminationMessagePolicy"),
        text(&container.termination_message_policy),
        &["File", "FallbackToLogsOnError"],
    );
    ports(errors, list(&container.ports), &path.child("ports"));
    env(errors, list(&container.env), &path.child("env"));
    env_from(errors, list(&container.env_from), &path.child("envFrom"));
    mounts(errors, container, volumes, path);
    errors.required_one_of(
        &path.child("imagePullPolicy"),
        text(&container.image_pull_policy),
        &["Always", "IfNotPresent", "Never"],
    );
    if let Some(resources) = &container.resources {
        self::resources(errors, resources, &path.child("resources"));
    }
    if let Some(context) = &container.security_context {
        security_context(errors, context, &path.child("securityContext"));
    }
}

fn ports(errors: &mut Errors, ports: &[ContainerPort], path: &Path) {
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        let name = text(&port.name);
        if !name.is_empty() {
            let wrong = names::port_name(name);
            if wrong.is_empty() && !seen.insert(name) {
                errors.push(FieldError::duplicate(&at.child("name"), name));
            }
            errors.form(&at.child("name"), name, wrong);
        }
        if port.container_port == 0 {
            errors.required(&at.child("containerPort"), "");
        } else {
            let number = port.container_port;
            errors.form(&at.child("containerPort"), number, names::port_number(number));
        }
        if let Some(number) = port.host_port.filter(|number| *number != 0) {
            errors.form(&at.child("hostPort"), number, names::port_number(number));
        }
        if let Some(ip) = port.host_ip.as_deref().filter(|ip| !ip.is_empty()) {
            errors.form(&at.child("hostIP"), ip, names::ip(ip));
        }
        errors.required_one_of(&at.child("protocol"), text(&port.protocol), PROTOCOLS);
    }
}

/// On the host's network a container's port is the host's.
pub(super) fn host_network_ports(errors: &mut Errors, containers: &[Container], path: &Path) {
    for (i, container) in containers.iter().enumerate() {
        for (j, port) in list(&container.ports).iter().enumerate() {
            if port.host_port.unwrap_or(0) != port.container_port {
                errors.invalid(
                    &path.index(i).child("ports").index(j).child("containerPort"),
                    port.container_port,
                    "must match `hostPort` when `hostNetwork` is true",
                );
            }
        }
    }
}

fn host_port_conflicts(errors: &mut Errors, containers: &[Container], path: &Path) {
    let mut seen = BTreeSet::new();
    for (i, container) in containers.iter().enumerate() {
        for (j, port) in list(&container.ports).iter().enumerate() {
            let Some(number) = port.host_port.filter(|number| *number != 0) else { continue };
            let key = format!("{}/{}/{number}", text(&port.protocol), text(&port.host_ip));
            if !seen.insert(key.clone()) {
                let at = path.index(i).child("ports").index(j).child("hostPort");
                errors.push(FieldError::duplicate(&at, key));
            }
        }
    }
}

fn env(errors: &mut Errors, variables: &[EnvVar], path: &Path) {
    for (i, variable) in variables.iter().enumerate() {
        let at = path.index(i);
        errors.required_form(&at.child("name"), &variable.name, names::env_var_name);
        let Some(source) = &variable.value_from else { continue };
        let at = at.child("valueFrom");
        let mut sources = 0;
        if let Some(selector) = &source.field_ref {
            sources += 1;
            volume::field_ref(errors, selector, ENV_FIELDS, &at.child("fieldRef"));
        }
        if let Some(selector) = &source.resource_field_ref {
            sources += 1;
            volume::resource_ref(errors, selector, false, &at.child("resourceFieldRef"));
        }
        if let Some(ConfigMapKeySelector { name, key, .. }) = &source.config_map_key_ref {
            sources += 1;
            key_ref(errors, name, key, &at.child("configMapKeyRef"));
        }
        if let Some(SecretKeySelector { name, key, .. }) = &source.secret_key_ref {
            sources += 1;
            key_ref(errors, name, key, &at.child("secretKeyRef"));
        }
        if source.file_key_ref.is_some() {
            sources += 1;
        }
        let wrong = match sources {
            0 => {
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or \
                 `secretKeyRef`"
            }
            _ if !text(&variable.value).is_empty() => {
                "may not be specified when `value` is not empty"
            }
            1 => continue,
            _ => "may not have more than one field specified at a time",
        };
        errors.invalid(&at, "", wrong);
    }
}

fn key_ref(errors: &mut Errors, name: &str, key: &str, path: &Path) {
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    }
    errors.required_form(&path.child("key"), key, names::config_key);
}

fn env_from(errors: &mut Errors, sources: &[EnvFromSource], path: &Path) {
    for (i, source) in sources.iter().enumerate() {
        let at = path.index(i);
        if let Some(prefix) = source.prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
            errors.form(&at.child("prefix"), prefix, names::env_var_name(prefix));
        }
        let references = [
            ("configMapRef", source.config_map_ref.as_ref().map(|source| &source.name)),
            ("secretRef", source.secret_ref.as_ref().map(|source| &source.name)),
        ];
        let mut found = 0;
        for (field, name) in references {
            let Some(name) = name else { continue };
            found += 1;
            let at = at.child(field).child("name");
            errors.required_form(&at, name, |name| names::dns_subdomain(name, false));
        }
        match found {
            0 => errors.invalid(&at, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => {
                errors.invalid(&at, "", "may not have more than one field specified at a time");
            }
        }
    }
}

fn mounts(errors: &mut Errors, container: &Container, volumes: &Volumes, path: &Path) {
    let mounts = list(&container.volume_mounts);
    let devices = list(&container.volume_devices);
    let list_at = path.child("volumeMounts");
    let mut paths = BTreeSet::new();
    for (i, mount) in mounts.iter().enumerate() {
        let at = list_at.index(i);
        if mount.name.is_empty() {
            errors.required(&at.child("name"), "");
        }
        if !volumes.contains(mount.name.as_str()) {
            errors.push(FieldError::not_found(&at.child("name"), mount.name.as_str()));
        }
        if mount.mount_path.is_empty() {
            errors.required(&at.child("mountPath"), "");
        }
        if !paths.insert(mount.mount_path.as_str()) {
            errors.invalid(&at.child("mountPath"), mount.mount_path.as_str(), "must be unique");
        }
        if devices.iter().any(|device| device.name == mount.name) {
            errors.invalid(
                &at.child("name"),
                mount.name.as_str(),
                "must not already exist in volumeDevices",
            );
        }
        mount_options(errors, mount, container, &at, &list_at);
    }
    let mut paths = BTreeSet::new();
    for (i, device) in devices.iter().enumerate() {
        let at = path.child("volumeDevices").index(i);
        if device.name.is_empty() {
            errors.required(&at.child("name"), "");
        } else if !volumes.contains(device.name.as_str()) {
            errors.push(FieldError::not_found(&at.child("name"), device.name.as_str()));
        }
        if device.device_path.is_empty() {
            errors.required(&at.child("devicePath"), "");
        } else if !paths.insert(device.device_path.as_str()) {
            errors.invalid(&at.child("devicePath"), device.device_path.as_str(), "must be unique");
        }
    }
}

fn mount_options(
    errors: &mut Errors,
    mount: &VolumeMount,
    container: &Container,
    at: &Path,
    list_at: &Path,
) {
    let (sub_path, expression) = (text(&mount.sub_path), text(&mount.sub_path_expr));
    // Kubernetes names the list here, not the item.
    if !sub_path.is_empty() {
        volume::local_descending_path(errors, sub_path, &list_at.child("subPath"));
    }
    if !expression.is_empty() {
        if !sub_path.is_empty() {
            errors.invalid(
                &at.child("subPathExpr"),
                expression,
                "subPathExpr and subPath are mutually exclusive",
            );
        }
        volume::local_descending_path(errors, expression, &list_at.child("subPathExpr"));
    }
    if let Some(propagation) = &mount.mount_propagation {
        let at = list_at.child("mountPropagation");
        errors.one_of(&at, propagation, &["Bidirectional", "HostToContainer", "None"]);
        let privileged = container.security_context.as_ref().and_then(|c| c.privileged);
        if propagation == "Bidirectional" && privileged != Some(true) {
            errors.forbidden(
                &at,
                "Bidirectional mount propagation is available only to privileged containers",
            );
        }
    }
    if let Some(mode) = &mount.recursive_read_only {
        let at = list_at.child("recursiveReadOnly");
        errors.one_of(&at, mode, &["Disabled", "Enabled", "IfPossible"]);
        if mode != "Disabled" && mount.read_only != Some(true) {
            errors.forbidden(&at, "may only be specified when readOnly is true");
        }
    }
}

fn lifecycle(errors: &mut Errors, container: &Container, grace: i64, path: &Path) {
    if let Some(Lifecycle { post_start, pre_stop, .. }) = &container.lifecycle {
        let at = path.child("lifecycle");
        for (field, handler) in [("postStart", post_start), ("preStop", pre_stop)] {
            if let Some(LifecycleHandler { exec, http_get, tcp_socket, sleep }) = handler {
                let at = at.child(field);
                let handlers = Handlers {
                    exec: exec.as_ref().map(|exec| list(&exec.command).len()),
                    http_get: http_get.as_ref(),
                    tcp_port: tcp_socket.as_ref().map(|socket| &socket.port),
                    grpc_port: None,
                    sleep_seconds: sleep.as_ref().map(|sleep| sleep.seconds),
                };
                handlers.validate(errors, grace, &at);
            }
        }
    }
    let probes = [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ];
    for (field, probe) in probes {
        if let Some(probe) = probe {
            self::probe(errors, probe, field == "readinessProbe", grace, &path.child(field));
        }
    }
}

fn probe(errors: &mut Errors, probe: &Probe, is_readiness: bool, grace: i64, path: &Path) {
    let handlers = Handlers {
        exec: probe.exec.as_ref().map(|exec| list(&exec.command).len()),
        http_get: probe.http_get.as_ref(),
        tcp_port: probe.tcp_socket.as_ref().map(|socket| &socket.port),
        grpc_port: probe.grpc.as_ref().map(|grpc| grpc.port),
        sleep_seconds: None,
    };
    handlers.validate(errors, grace, path);
    let numbers = [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ];
    for (field, number) in numbers {
        errors.opt_not_negative(&path.child(field), number);
    }
    let at = path.child("terminationGracePeriodSeconds");
    match probe.termination_grace_period_seconds {
        Some(seconds) if is_readiness => {
            errors.invalid(&at, seconds, "must not be set for readinessProbes");
        }
        Some(seconds) if seconds <= 0 => errors.invalid(&at, seconds, "must be greater than 0"),
        _ => {}
    }
    let successes = probe.success_threshold.unwrap_or(1);
    if !is_readiness && successes != 1 {
        errors.invalid(&path.child("successThreshold"), successes, "must be 1");
    }
}

/// The ways in which a probe or hook acts, exactly one of which must be chosen.
struct Handlers<'a> {
    /// How many words the command has.
    exec: Option<usize>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_port: Option<&'a IntOrString>,
    grpc_port: Option<i32>,
    sleep_seconds: Option<i64>,
}

impl Handlers<'_> {
    fn validate(&self, errors: &mut Errors, grace: i64, path: &Path) {
        let chosen = [
            ("exec", self.exec.is_some()),
            ("httpGet", self.http_get.is_some()),
            ("tcpSocket", self.tcp_port.is_some()),
            ("grpc", self.grpc_port.is_some()),
            ("sleep", self.sleep_seconds.is_some()),
        ];
        let mut chosen = chosen.into_iter().filter(|(_, set)| *set).map(|(field, _)| field);
        let Some(first) = chosen.next() else {
            return errors.required(path, "must specify a handler type");
        };
        let at = path.child(first);
        match first {
            "exec" if self.exec == Some(0) => errors.required(&at.child("command"), ""),
            "httpGet" => {
                if let Some(action) = self.http_get {
                    http_get(errors, action, &at);
                }
            }
            "tcpSocket" => {
                if let Some(port) = self.tcp_port {
                    errors.port(&at.child("port"), port);
                }
            }
            "grpc" => {
                let port = self.grpc_port.unwrap_or(0);
                errors.form(&at.child("port"), port, names::port_number(port));
            }
            "sleep" => {
                let seconds = self.sleep_seconds.unwrap_or(0);
                if seconds < 0 || seconds > grace {
                    errors.invalid(
                        &at,
                        seconds,
                        format!(
                            "must be non-negative and less than terminationGracePeriodSeconds \
                             ({grace})"
                        ),
                    );
                }
            }
            _ => {}
        }
        for field in chosen {
            errors.forbidden(&path.child(field), "may not specify more than 1 handler type");
        }
    }
}

fn http_get(errors: &mut Errors, action: &HTTPGetAction, path: &Path) {
    if text(&action.path).is_empty() {
        errors.required(&path.child("path"), "");
    }
    errors.port(&path.child("port"), &action.port);
    errors.one_of(&path.child("scheme"), text(&action.scheme), &["HTTP", "HTTPS"]);
    for header in list(&action.http_headers) {
        let wrong = names::http_header_name(&header.name);
        errors.form(&path.child("httpHeaders"), header.name.as_str(), wrong);
    }
}

/// Requests and limits, of a container or of the Pod as a whole.
pub(super) fn resources(errors: &mut Errors, resources: &ResourceRequirements, path: &Path) {
    let (mut huge_pages, mut compute) = (false, false);
    let mut look_at = |name: &str| {
        huge_pages |= name.starts_with("hugepages-");
        compute |= matches!(name, "cpu" | "memory");
    };
    let limits_at = path.child("limits");
    for (name, amount) in resources.limits.iter().flatten() {
        let at = limits_at.key(name);
        container_resource_name(errors, &at, name);
        errors.amount(&at, name, amount);
        look_at(name);
    }
    let requests_at = path.child("requests");
    for (name, amount) in resources.requests.iter().flatten() {
        let at = requests_at.key(name);
        container_resource_name(errors, &at, name);
        errors.amount(&at, name, amount);
        look_at(name);
        let may_overcommit = is_native_resource(name) && !name.starts_with("hugepages-");
        let limit = resources.limits.as_ref().and_then(|limits| limits.get(name));
        let limit = limit.and_then(|limit| Quantity::try_from(limit).ok());
        match (Quantity::try_from(amount), limit) {
            (Ok(request), Some(limit)) if request != limit && !may_overcommit => errors.invalid(
                &requests_at,
                request.to_string(),
                format!("must be equal to {name} limit of {limit}"),
            ),
            (Ok(request), Some(limit)) if request > limit => errors.invalid(
                &requests_at,
                request.to_string(),
                format!("must be less than or equal to {name} limit of {limit}"),
            ),
            (Ok(_), None) if !may_overcommit => {
                errors.required(&limits_at, "Limit must be set for non overcommitable resources");
            }
            _ => {}
        }
    }
    if huge_pages && !compute {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
}

fn container_resource_name(errors: &mut Errors, path: &Path, name: &str) {
    errors.resource_name(path, name);
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage");
    if !name.contains('/') {
        if !standard && !name.starts_with("hugepages-") {
            errors.invalid(path, name, "must be a standard resource for containers");
        }
    } else if !is_native_resource(name) && !is_extended_resource(name) {
        errors.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

/// A user or group id.
pub(super) fn user_id(errors: &mut Errors, path: &Path, id: Option<i64>) {
    if let Some(id) = id {
        errors.form(path, id, names::in_range(id, 0, i64::from(i32::MAX)));
    }
}

/// A seccomp or AppArmor profile: what it is called, its type, and the file of a local one.
pub(super) fn profile(
    errors: &mut Errors,
    (what, type_, file): (&str, &str, Option<&String>),
    path: &Path,
) {
    let types = ["Localhost", "RuntimeDefault", "Unconfined"];
    errors.required_one_of(&path.child("type"), type_, &types);
    let at = path.child("localhostProfile");
    match (type_, file) {
        ("Localhost", None) => {
            errors.required(&at, &format!("must be set when {what} type is Localhost"));
        }
        ("Localhost", Some(_)) | (_, None) => {}
        (_, Some(file)) => errors.invalid(
            &at,
            file.as_str(),
            format!("can only be set when {what} type is Localhost"),
        ),
    }
}

fn security_context(errors: &mut Errors, context: &SecurityContext, path: &Path) {
    user_id(errors, &path.child("runAsUser"), context.run_as_user);
    user_id(errors, &path.child("runAsGroup"), context.run_as_group);
    if let Some(mount) = &context.proc_mount {
        errors.required_one_of(&path.child("procMount"), mount, &["Default", "Unmasked"]);
    }
    if let Some(profile) = &context.seccomp_profile {
        let parts = ("seccomp", profile.type_.as_str(), profile.localhost_profile.as_ref());
        self::profile(errors, parts, &path.child("seccompProfile"));
    }
    if let Some(profile) = &context.app_armor_profile {
        let parts = ("AppArmor", profile.type_.as_str(), profile.localhost_profile.as_ref());
        self::profile(errors, parts, &path.child("appArmorProfile"));
    }
    if context.allow_privilege_escalation == Some(false) {
        if context.privileged == Some(true) {
            errors.invalid(
                path,
                json!(context),
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            );
        }
        let added = context.capabilities.as_ref().and_then(|all| all.add.as_deref());
        if added.unwrap_or_default().iter().any(|capability| capability == "CAP_SYS_ADMIN") {
            errors.invalid(
                path,
                json!(context),
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` \
                 CAP_SYS_ADMIN",
            );
        }
    }
}
