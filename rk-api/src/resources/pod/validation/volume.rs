//! Volumes: names, and one well-formed source each.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, ObjectFieldSelector, ResourceFieldSelector, Volume,
    VolumeProjection,
};

use super::super::super::check::{Errors, list, text};
use crate::{
    field::{FieldError, Path},
    meta::{names, quantity::Quantity},
};

/// The names of the volumes that are well-formed.
pub(super) type Volumes<'a> = BTreeSet<&'a str>;

const VOLUME_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
/// Fields that a selector can name at all, for a variable or for a file.
const POD_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.phase",
    "status.podIP",
    "status.podIPs",
];
const CONTAINER_RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const HOST_PATH_TYPES: &[&str] = &[
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];

pub(super) fn volumes<'a>(errors: &mut Errors, volumes: &'a [Volume], path: &Path) -> Volumes<'a> {
    let mut good = Volumes::new();
    for (i, volume) in volumes.iter().enumerate() {
        let at = path.index(i);
        let before = errors.0.len();
        source(errors, volume, &at);
        let name = volume.name.as_str();
        errors.required_form(&at.child("name"), name, |name| names::dns_label(name, false));
        if good.contains(name) {
            errors.push(FieldError::duplicate(&at.child("name"), name));
        }
        if errors.0.len() == before {
            good.insert(name);
        }
    }
    good
}

fn source(errors: &mut Errors, volume: &Volume, path: &Path) {
    let sources = [
        ("emptyDir", volume.empty_dir.is_some()),
        ("hostPath", volume.host_path.is_some()),
        ("gitRepo", volume.git_repo.is_some()),
        ("gcePersistentDisk", volume.gce_persistent_disk.is_some()),
        ("awsElasticBlockStore", volume.aws_elastic_block_store.is_some()),
        ("secret", volume.secret.is_some()),
        ("nfs", volume.nfs.is_some()),
        ("iscsi", volume.iscsi.is_some()),
        ("glusterfs", volume.glusterfs.is_some()),
        ("flocker", volume.flocker.is_some()),
        ("persistentVolumeClaim", volume.persistent_volume_claim.is_some()),
        ("rbd", volume.rbd.is_some()),
        ("cinder", volume.cinder.is_some()),
        ("cephFS", volume.cephfs.is_some()),
        ("quobyte", volume.quobyte.is_some()),
        ("downwardAPI", volume.downward_api.is_some()),
        ("fc", volume.fc.is_some()),
        ("flexVolume", volume.flex_volume.is_some()),
        ("configMap", volume.config_map.is_some()),
        ("azureFile", volume.azure_file.is_some()),
        ("vsphereVolume", volume.vsphere_volume.is_some()),
        ("photonPersistentDisk", volume.photon_persistent_disk.is_some()),
        ("portworxVolume", volume.portworx_volume.is_some()),
        ("azureDisk", volume.azure_disk.is_some()),
        ("storageos", volume.storageos.is_some()),
        ("projected", volume.projected.is_some()),
        ("scaleIO", volume.scale_io.is_some()),
        ("csi", volume.csi.is_some()),
        ("ephemeral", volume.ephemeral.is_some()),
        ("image", volume.image.is_some()),
    ];
    let mut chosen = sources.into_iter().filter(|(_, set)| *set).map(|(field, _)| field);
    let Some(first) = chosen.next() else {
        return errors.required(path, "must specify a volume type");
    };
    let at = path.child(first);
    local_source(errors, volume, &at);
    remote_source(errors, volume, &at);
    for field in chosen {
        errors.forbidden(&path.child(field), "may not specify more than 1 volume type");
    }
}

/// Sources that the node makes from the API or from its own disk.
fn local_source(errors: &mut Errors, volume: &Volume, at: &Path) {
    if let Some(source) = &volume.empty_dir
        && let Some(limit) = &source.size_limit
        && Quantity::try_from(limit).is_ok_and(|limit| limit < Quantity::ZERO)
    {
        errors
            .forbidden(&at.child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
    }
    if let Some(source) = &volume.host_path {
        if source.path.is_empty() {
            errors.required(&at.child("path"), "");
        } else {
            no_backsteps(errors, &source.path, &at.child("path"));
        }
        errors.one_of(&at.child("type"), text(&source.type_), HOST_PATH_TYPES);
    }
    if let Some(source) = &volume.secret {
        let name = text(&source.secret_name);
        if name.is_empty() {
            errors.required(&at.child("secretName"), "");
        }
        mode(errors, source.default_mode, &at.child("defaultMode"));
        items(errors, list(&source.items), &at.child("items"));
    }
    if let Some(source) = &volume.config_map {
        if source.name.is_empty() {
            errors.required(&at.child("name"), "");
        }
        mode(errors, source.default_mode, &at.child("defaultMode"));
        items(errors, list(&source.items), &at.child("items"));
    }
    if let Some(source) = &volume.downward_api {
        mode(errors, source.default_mode, &at.child("defaultMode"));
        for file in list(&source.items) {
            downward_file(errors, file, at);
        }
    }
    if let Some(source) = &volume.projected {
        mode(errors, source.default_mode, &at.child("defaultMode"));
        projections(errors, list(&source.sources), at);
    }
    if let Some(source) = &volume.image {
        if text(&source.reference).is_empty() {
            errors.required(&at.child("reference"), "");
        }
        let policies = ["Always", "IfNotPresent", "Never"];
        errors.one_of(&at.child("pullPolicy"), text(&source.pull_policy), &policies);
    }
}

/// Sources that come over the network or from a storage plugin.
fn remote_source(errors: &mut Errors, volume: &Volume, at: &Path) {
    let mut needed = |field: &str, value: &str| {
        if value.is_empty() {
            errors.required(&at.child(field), "");
        }
    };
    if let Some(source) = &volume.persistent_volume_claim {
        needed("claimName", &source.claim_name);
    }
    if let Some(source) = &volume.git_repo {
        needed("repository", &source.repository);
    }
    if let Some(source) = &volume.iscsi {
        needed("targetPortal", &source.target_portal);
        needed("iqn", &source.iqn);
    }
    if let Some(source) = &volume.glusterfs {
        needed("endpoints", &source.endpoints);
        needed("path", &source.path);
    }
    if let Some(source) = &volume.rbd {
        needed("monitors", source.monitors.first().map_or("", String::as_str));
        needed("image", &source.image);
    }
    if let Some(source) = &volume.cephfs {
        needed("monitors", source.monitors.first().map_or("", String::as_str));
    }
    if let Some(source) = &volume.nfs {
        needed("server", &source.server);
        needed("path", &source.path);
        if !source.path.is_empty() && !source.path.starts_with('/') {
            errors.invalid(&at.child("path"), source.path.as_str(), "must be an absolute path");
        }
    }
    if let Some(source) = &volume.csi {
        errors.required_form(&at.child("driver"), &source.driver, csi_driver_name);
        if let Some(secret) = &source.node_publish_secret_ref
            && secret.name.is_empty()
        {
            errors.required(&at.child("nodePublishSecretRef.name"), "");
        }
    }
    if let Some(source) = &volume.ephemeral
        && source.volume_claim_template.is_none()
    {
        errors.required(&at.child("volumeClaimTemplate"), "");
    }
}

/// The name of a storage plugin.
pub(in super::super::super) fn csi_driver_name(name: &str) -> Vec<String> {
    let mut wrong = if name.len() > 63 { vec![names::too_long(63)] } else { Vec::new() };
    wrong.extend(names::dns_subdomain(&name.to_lowercase(), false));
    wrong
}

fn mode(errors: &mut Errors, mode: Option<i32>, path: &Path) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        errors.invalid(path, mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

fn items(errors: &mut Errors, items: &[KeyToPath], path: &Path) {
    for (i, item) in items.iter().enumerate() {
        let at = path.index(i);
        if item.key.is_empty() {
            errors.required(&at.child("key"), "");
        }
        if item.path.is_empty() {
            errors.required(&at.child("path"), "");
        }
        local_file_path(errors, &item.path, &at.child("path"));
        mode(errors, item.mode, &at.child("mode"));
    }
}

fn downward_file(errors: &mut Errors, file: &DownwardAPIVolumeFile, path: &Path) {
    if file.path.is_empty() {
        errors.required(&path.child("path"), "");
    }
    local_file_path(errors, &file.path, &path.child("path"));
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(selector), other) => {
            field_ref(errors, selector, VOLUME_FIELDS, &path.child("fieldRef"));
            if other.is_some() {
                errors.invalid(
                    path,
                    "resource",
                    "fieldRef and resourceFieldRef can not be specified simultaneously",
                );
            }
        }
        (None, Some(selector)) => {
            resource_ref(errors, selector, true, &path.child("resourceFieldRef"));
        }
        (None, None) => {
            errors.required(path, "one of fieldRef and resourceFieldRef is required");
        }
    }
    mode(errors, file.mode, &path.child("mode"));
}

fn projections(errors: &mut Errors, sources: &[VolumeProjection], path: &Path) {
    let mut paths = BTreeSet::new();
    for (i, source) in sources.iter().enumerate() {
        let at = path.child("sources").index(i);
        let mut found = 0;
        let mut files: Vec<&str> = Vec::new();
        if let Some(secret) = &source.secret {
            found += 1;
            let at = at.child("secret");
            if secret.name.is_empty() {
                errors.required(&at.child("name"), "");
            }
            items(errors, list(&secret.items), &at.child("items"));
            files.extend(list(&secret.items).iter().map(|item| item.path.as_str()));
        }
        if let Some(map) = &source.config_map {
            found += 1;
            let at = at.child("configMap");
            if map.name.is_empty() {
                errors.required(&at.child("name"), "");
            }
            items(errors, list(&map.items), &at.child("items"));
            files.extend(list(&map.items).iter().map(|item| item.path.as_str()));
        }
        if let Some(downward) = &source.downward_api {
            found += 1;
            for file in list(&downward.items) {
                downward_file(errors, file, &at.child("downwardAPI"));
                files.push(&file.path);
            }
        }
        if let Some(token) = &source.service_account_token {
            found += 1;
            let at = at.child("serviceAccountToken");
            let seconds = token.expiration_seconds.unwrap_or(3600);
            let expiry = at.child("expirationSeconds");
            if seconds < 600 {
                errors.invalid(&expiry, seconds, "may not specify a duration less than 10 minutes");
            }
            if seconds > 1 << 32 {
                errors.invalid(
                    &expiry,
                    seconds,
                    "may not specify a duration larger than 2^32 seconds",
                );
            }
            if token.path.is_empty() {
                errors.required(&at.child("path"), "");
            } else {
                local_file_path(errors, &token.path, &at.child("path"));
            }
            files.push(&token.path);
        }
        found += usize::from(source.cluster_trust_bundle.is_some());
        found += usize::from(source.pod_certificate.is_some());
        match found {
            0 => errors.required(&at, "must specify a volume type"),
            1 => {}
            _ => errors.forbidden(&at, "may not specify more than 1 volume type per source"),
        }
        for file in files.into_iter().filter(|file| !file.is_empty()) {
            if !paths.insert(file) {
                errors.invalid(path, file, "conflicting duplicate paths");
            }
        }
    }
}

/// A reference to a field of the Pod.
pub(super) fn field_ref(
    errors: &mut Errors,
    selector: &ObjectFieldSelector,
    supported: &[&str],
    path: &Path,
) {
    if text(&selector.api_version).is_empty() {
        return errors.required(&path.child("apiVersion"), "");
    }
    let field = selector.field_path.as_str();
    if field.is_empty() {
        return errors.required(&path.child("fieldPath"), "");
    }
    let subscripted = field.strip_suffix("']").and_then(|rest| rest.split_once("['"));
    let convertible = match subscripted {
        Some((map, _)) => matches!(map, "metadata.annotations" | "metadata.labels"),
        None => POD_FIELDS.contains(&field) || field == "spec.host",
    };
    let version = text(&selector.api_version);
    if version != "v1" {
        let wrong = format!("error converting fieldPath: unsupported pod version: {version}");
        return errors.invalid(&path.child("fieldPath"), field, wrong);
    }
    if !convertible {
        let wrong = format!("error converting fieldPath: field label not supported: {field}");
        return errors.invalid(&path.child("fieldPath"), field, wrong);
    }
    match subscripted {
        Some(("metadata.annotations", key)) => {
            errors.form(path, key, names::qualified_name(&key.to_lowercase()));
        }
        Some((_, key)) => errors.form(path, key, names::qualified_name(key)),
        None => errors.one_of(&path.child("fieldPath"), field, supported),
    }
}

/// A reference to a resource of a container, which a file must name.
pub(super) fn resource_ref(
    errors: &mut Errors,
    selector: &ResourceFieldSelector,
    in_volume: bool,
    path: &Path,
) {
    let resource = selector.resource.as_str();
    if in_volume && text(&selector.container_name).is_empty() {
        errors.required(&path.child("containerName"), "");
    } else if resource.is_empty() {
        errors.required(&path.child("resource"), "");
    } else if !resource.starts_with("limits.hugepages-")
        && !resource.starts_with("requests.hugepages-")
    {
        errors.one_of(&path.child("resource"), resource, CONTAINER_RESOURCES);
    }
    let Some(Ok(divisor)) = selector.divisor.as_ref().map(Quantity::try_from) else { return };
    if divisor.is_zero() {
        return;
    }
    let at = path.child("divisor");
    let bytes = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let (supported, name): (&[&str], _) = match resource.split_once('.').map(|(_, name)| name) {
        Some("cpu") => (&["1m", "1"], "cpu"),
        Some(name @ ("memory" | "ephemeral-storage")) => (&bytes, name),
        Some(name) if name.starts_with("hugepages-") => (&bytes, "hugepages"),
        _ => return,
    };
    if !supported.contains(&divisor.to_string().as_str()) {
        errors.invalid(
            &at,
            name,
            format!(
                "only divisor's values {} are supported with the {name} resource",
                match supported {
                    [one, two] => format!("{one} and {two}"),
                    more => more.join(", "),
                }
            ),
        );
    }
}

fn no_backsteps(errors: &mut Errors, target: &str, path: &Path) {
    if target.split('/').any(|part| part == "..") {
        errors.invalid(path, target, "must not contain '..'");
    }
}

/// A relative path that stays below where it starts.
pub(super) fn local_descending_path(errors: &mut Errors, target: &str, path: &Path) {
    if target.starts_with('/') {
        errors.invalid(path, target, "must be a relative path");
    }
    no_backsteps(errors, target, path);
}

/// The same, for a file that is written: names with two leading dots are the writer's own.
fn local_file_path(errors: &mut Errors, target: &str, path: &Path) {
    local_descending_path(errors, target, path);
    if target.starts_with("..") && !target.starts_with("../") && target != ".." {
        errors.invalid(path, target, "must not start with '..'");
    }
}
