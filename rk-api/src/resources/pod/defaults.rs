//! What a Pod's spec means where it says nothing.

use k8s_openapi::{
    api::core::v1::{
        Container, EmptyDirVolumeSource, EphemeralContainer, HTTPGetAction, ObjectFieldSelector,
        Pod, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceFieldSelector,
        ResourceRequirements, Volume,
    },
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
};

use super::super::check::{default_number, default_text, round_to_millis, text};

/// The permissions of files in secret-like volumes: 0644.
const FILE_MODE: i32 = 0o644;

/// Defaults of a Pod. A template has fewer: see [`template`].
pub(in super::super) fn pod(pod: &mut Pod) {
    let spec = pod.spec.get_or_insert_default();
    pod_spec(spec);
    if spec.enable_service_links.is_none() {
        spec.enable_service_links = Some(true);
    }
    let host_network = spec.host_network == Some(true);
    let containers = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
    for container in containers {
        requests_from_limits(container.resources.get_or_insert_default());
        if host_network {
            host_ports(container);
        }
    }
    if let Some(resources) = &mut spec.resources {
        requests_from_limits(resources);
    }
}

/// Defaults of the template of a workload.
pub(in super::super) fn template(template: &mut PodTemplateSpec) {
    pod_spec(template.spec.get_or_insert_default());
}

fn pod_spec(spec: &mut PodSpec) {
    default_text(&mut spec.restart_policy, "Always");
    default_text(&mut spec.dns_policy, "ClusterFirst");
    default_text(&mut spec.scheduler_name, "default-scheduler");
    if spec.termination_grace_period_seconds.is_none() {
        spec.termination_grace_period_seconds = Some(30);
    }
    spec.security_context.get_or_insert_with(PodSecurityContext::default);
    mirror_service_account(spec);
    round_to_millis(&mut spec.overhead);
    if let Some(resources) = &mut spec.resources {
        round_resources(resources);
    }
    for volume in spec.volumes.iter_mut().flatten() {
        self::volume(volume);
    }
    for container in &mut spec.containers {
        self::container(container);
    }
    for container in spec.init_containers.iter_mut().flatten() {
        self::container(container);
    }
    for container in spec.ephemeral_containers.iter_mut().flatten() {
        ephemeral_container(container);
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are kept, the new one counts.
fn mirror_service_account(spec: &mut PodSpec) {
    if text(&spec.service_account_name).is_empty() {
        spec.service_account_name = spec.service_account.take();
    }
    spec.service_account_name = spec.service_account_name.take().filter(|name| !name.is_empty());
    spec.service_account = spec.service_account_name.clone();
}

fn requests_from_limits(resources: &mut ResourceRequirements) {
    if let Some(limits) = &resources.limits {
        let requests = resources.requests.get_or_insert_default();
        for (name, limit) in limits {
            requests.entry(name.clone()).or_insert_with(|| limit.clone());
        }
    }
}

fn host_ports(container: &mut Container) {
    for port in container.ports.iter_mut().flatten() {
        if port.host_port.unwrap_or(0) == 0 {
            port.host_port = Some(port.container_port);
        }
    }
}

fn round_resources(resources: &mut ResourceRequirements) {
    round_to_millis(&mut resources.limits);
    round_to_millis(&mut resources.requests);
}

fn container(container: &mut Container) {
    let policy = pull_policy(text(&container.image));
    default_text(&mut container.image_pull_policy, policy);
    default_text(&mut container.termination_message_path, "/dev/termination-log");
    default_text(&mut container.termination_message_policy, "File");
    round_resources(container.resources.get_or_insert_default());
    for port in container.ports.iter_mut().flatten() {
        default_text(&mut port.protocol, "TCP");
    }
    for variable in container.env.iter_mut().flatten() {
        if let Some(source) = &mut variable.value_from {
            field_ref(&mut source.field_ref);
            resource_ref(&mut source.resource_field_ref);
        }
    }
    let probes = [
        &mut container.liveness_probe,
        &mut container.readiness_probe,
        &mut container.startup_probe,
    ];
    probes.into_iter().flatten().for_each(probe);
    if let Some(lifecycle) = &mut container.lifecycle {
        for handler in [&mut lifecycle.post_start, &mut lifecycle.pre_stop].into_iter().flatten() {
            http_get(&mut handler.http_get);
        }
    }
}

/// An ephemeral container has a container's fields, and their defaults.
fn ephemeral_container(container: &mut EphemeralContainer) {
    let policy = pull_policy(text(&container.image));
    default_text(&mut container.image_pull_policy, policy);
    default_text(&mut container.termination_message_path, "/dev/termination-log");
    default_text(&mut container.termination_message_policy, "File");
    container.resources.get_or_insert_default();
    for variable in container.env.iter_mut().flatten() {
        if let Some(source) = &mut variable.value_from {
            field_ref(&mut source.field_ref);
            resource_ref(&mut source.resource_field_ref);
        }
    }
}

/// An image whose tag may move is pulled each time. A reference without tag and digest has the
/// tag `latest`; one that is malformed has none.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let last = name.rsplit('/').next().unwrap_or(name);
    let (repository, tag) = match last.split_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (last, None),
    };
    let well_formed = !repository.is_empty()
        && repository
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
    match tag {
        Some("latest") => "Always",
        None if digest.is_none() && well_formed => "Always",
        _ => "IfNotPresent",
    }
}

fn field_ref(selector: &mut Option<ObjectFieldSelector>) {
    if let Some(selector) = selector {
        default_text(&mut selector.api_version, "v1");
    }
}

fn resource_ref(selector: &mut Option<ResourceFieldSelector>) {
    if let Some(selector) = selector {
        selector.divisor.get_or_insert_with(|| ApiQuantity("0".to_owned()));
    }
}

fn probe(probe: &mut Probe) {
    default_number(&mut probe.timeout_seconds, 1);
    default_number(&mut probe.period_seconds, 10);
    default_number(&mut probe.success_threshold, 1);
    default_number(&mut probe.failure_threshold, 3);
    http_get(&mut probe.http_get);
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn http_get(action: &mut Option<HTTPGetAction>) {
    if let Some(action) = action {
        default_text(&mut action.path, "/");
        default_text(&mut action.scheme, "HTTP");
    }
}

fn volume(volume: &mut Volume) {
    let without_source = Volume { name: volume.name.clone(), ..Volume::default() };
    if *volume == without_source {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(source) = &mut volume.secret {
        source.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(source) = &mut volume.config_map {
        source.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(source) = &mut volume.downward_api {
        source.default_mode.get_or_insert(FILE_MODE);
        for item in source.items.iter_mut().flatten() {
            field_ref(&mut item.field_ref);
            resource_ref(&mut item.resource_field_ref);
        }
    }
    if let Some(source) = &mut volume.projected {
        source.default_mode.get_or_insert(FILE_MODE);
        for source in source.sources.iter_mut().flatten() {
            if let Some(token) = &mut source.service_account_token {
                token.expiration_seconds.get_or_insert(3600);
            }
            for item in source.downward_api.iter_mut().flat_map(|s| s.items.iter_mut().flatten()) {
                field_ref(&mut item.field_ref);
                resource_ref(&mut item.resource_field_ref);
            }
        }
    }
    if let Some(source) = &mut volume.host_path {
        source.type_.get_or_insert_default();
    }
    if let Some(source) = &mut volume.image {
        let policy = pull_policy(text(&source.reference));
        default_text(&mut source.pull_policy, policy);
    }
    if let Some(template) = volume.ephemeral.as_mut().and_then(|s| s.volume_claim_template.as_mut())
    {
        default_text(&mut template.spec.volume_mode, "Filesystem");
    }
    network_volume(volume);
}

fn network_volume(volume: &mut Volume) {
    if let Some(source) = &mut volume.iscsi {
        default_text(&mut source.iscsi_interface, "default");
    }
    if let Some(source) = &mut volume.rbd {
        default_text(&mut source.pool, "rbd");
        default_text(&mut source.user, "admin");
        default_text(&mut source.keyring, "/etc/ceph/keyring");
    }
    if let Some(source) = &mut volume.azure_disk {
        source.caching_mode.get_or_insert_with(|| "ReadWrite".to_owned());
        source.kind.get_or_insert_with(|| "Shared".to_owned());
        source.fs_type.get_or_insert_with(|| "ext4".to_owned());
        source.read_only.get_or_insert(false);
    }
    if let Some(source) = &mut volume.scale_io {
        default_text(&mut source.storage_mode, "ThinProvisioned");
        default_text(&mut source.fs_type, "xfs");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_decides_the_pull_policy() {
        #[track_caller]
        fn check(image: &str, policy: &str) {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
        check("img", "Always");
        check("img:latest", "Always");
        check("img:1", "IfNotPresent");
        check("host:5000/a/img", "Always");
        check("host:5000/a/img:1", "IfNotPresent");
        check("img@sha256:0123", "IfNotPresent");
        check("img:latest@sha256:0123", "Always");
        check("", "IfNotPresent");
        check("Bad", "IfNotPresent");
    }
}
