//! PersistentVolume.

use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeSpec, PersistentVolumeStatus},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};
use serde_json::{Map, Value, json};

use super::{
    Column, Kind, Part, Resource,
    check::{Errors, default_text, list, round_to_millis, text},
    pod::validation::{csi_driver_name, node_selector},
    row::Row,
};
use crate::{
    field::{ErrorList, Path},
    meta::{
        names,
        quantity::Quantity,
        table::{age, name},
    },
};

/// The row of PersistentVolume.
pub(super) fn row() -> Resource {
    Row::of::<PersistentVolumes>().short(&["pv"]).status().columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Capacity", "string", "Its size."),
    Column::new("Access Modes", "string", "How it can be mounted."),
    Column::new("Reclaim Policy", "string", "What becomes of it when its claim is gone."),
    Column::new("Status", "string", "Whether it is bound to a claim."),
    Column::new("Claim", "string", "The claim that it is bound to."),
    Column::new("StorageClass", "string", "Its class."),
    Column::new("VolumeAttributesClass", "string", "Its attributes."),
    Column::new("Reason", "string", "Why it is in this state."),
    Column::AGE,
    Column::wide("VolumeMode", "string", "Whether it is a file system or a block device."),
];

/// How a volume can be mounted.
pub(super) const ACCESS_MODES: &[&str] =
    &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
/// Fields of the spec that are not a source of storage.
const NOT_SOURCES: &[&str] = &[
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

/// Access modes as tables abbreviate them.
pub(super) fn access_modes(modes: &[String]) -> String {
    let known = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let present = known.into_iter().filter(|(mode, _)| modes.iter().any(|m| m == mode));
    present.map(|(_, short)| short).collect::<Vec<_>>().join(",")
}

/// The storage class of a volume or claim: an old annotation goes before the field.
pub(super) fn class(meta: &ObjectMeta, field: Option<&str>) -> String {
    let annotations = meta.annotations.as_ref();
    let old = annotations.and_then(|all| all.get("volume.beta.kubernetes.io/storage-class"));
    old.cloned().unwrap_or_else(|| field.unwrap_or("").to_owned())
}

/// How a PersistentVolume behaves.
#[derive(Debug, Default)]
pub(super) struct PersistentVolumes;

impl Kind for PersistentVolumes {
    type Object = PersistentVolume;

    fn default(volume: &mut PersistentVolume) {
        default_text(&mut volume.status.get_or_insert_default().phase, "Pending");
        let spec = volume.spec.get_or_insert_default();
        default_text(&mut spec.persistent_volume_reclaim_policy, "Retain");
        default_text(&mut spec.volume_mode, "Filesystem");
        round_to_millis(&mut spec.capacity);
        if let Some(source) = &mut spec.host_path {
            source.type_.get_or_insert_default();
        }
        if let Some(source) = &mut spec.iscsi {
            default_text(&mut source.iscsi_interface, "default");
        }
        if let Some(source) = &mut spec.rbd {
            default_text(&mut source.pool, "rbd");
            default_text(&mut source.user, "admin");
            default_text(&mut source.keyring, "/etc/ceph/keyring");
        }
        if let Some(claim) = &mut spec.claim_ref {
            default_text(&mut claim.kind, "PersistentVolumeClaim");
            default_text(&mut claim.api_version, "v1");
        }
    }

    fn prepare_create(volume: &mut PersistentVolume) {
        volume.status = Some(PersistentVolumeStatus {
            phase: Some("Pending".to_owned()),
            ..PersistentVolumeStatus::default()
        });
    }

    fn prepare_update(new: &mut PersistentVolume, old: &PersistentVolume, part: Part) {
        if part == Part::Status {
            new.spec = old.spec.clone();
        } else {
            new.status = old.status.clone();
        }
    }

    fn validate(volume: &PersistentVolume) -> ErrorList {
        let none = PersistentVolumeSpec::default();
        let (spec, path) = (volume.spec.as_ref().unwrap_or(&none), Path::new("spec"));
        let mut errors = Errors::default();
        access(&mut errors, spec, &path);
        capacity(&mut errors, spec, &path);
        let policy = text(&spec.persistent_volume_reclaim_policy);
        let policy_at = path.child("persistentVolumeReclaimPolicy");
        errors.one_of(&policy_at, policy, &["Delete", "Recycle", "Retain"]);
        affinity(&mut errors, spec, &path);
        sources(&mut errors, spec, &path);
        let is_root = |path: &str| path.split('/').all(|part| part.is_empty() || part == ".");
        if policy == "Recycle" && spec.host_path.as_ref().is_some_and(|host| is_root(&host.path)) {
            errors.forbidden(&policy_at, "may not be 'recycle' for a hostPath mount of '/'");
        }
        if let Some(class) = spec.storage_class_name.as_deref().filter(|class| !class.is_empty()) {
            let wrong = names::dns_subdomain(class, false);
            errors.form(&path.child("storageClassName"), class, wrong);
        }
        if let Some(mode) = &spec.volume_mode {
            errors.one_of(&path.child("volumeMode"), mode, &["Block", "Filesystem"]);
        }
        if let Some(class) = &spec.volume_attributes_class_name {
            let at = path.child("volumeAttributesClassName");
            if class.is_empty() {
                errors.required(&at, "an empty string is disallowed");
            } else {
                errors.form(&at, class.as_str(), names::dns_subdomain(class, false));
            }
            if spec.csi.is_none() {
                let wrong = "has to be specified when using volumeAttributesClassName";
                errors.required(&path.child("csi"), wrong);
            }
        }
        errors.0
    }

    fn validate_update(new: &PersistentVolume, old: &PersistentVolume, part: Part) -> ErrorList {
        let mut errors = Errors::default();
        if part == Part::Status {
            return errors.0;
        }
        let source = |volume: &PersistentVolume| source_of(volume.spec.as_ref());
        if source(new) != source(old) {
            errors.forbidden(
                &Path::new("spec.persistentvolumesource"),
                "spec.persistentvolumesource is immutable after creation",
            );
        }
        let mode = |v: &PersistentVolume| v.spec.as_ref().and_then(|s| s.volume_mode.clone());
        errors.immutable(&Path::new("volumeMode"), &mode(new), &mode(old));
        errors.0
    }

    fn cells(volume: &PersistentVolume, now: Timestamp) -> Vec<Value> {
        let spec = volume.spec.clone().unwrap_or_default();
        let status = volume.status.clone().unwrap_or_default();
        let phase = match volume.metadata.deletion_timestamp {
            Some(_) => "Terminating",
            None => text(&status.phase),
        };
        let claim = spec.claim_ref.as_ref();
        let claim = claim.map(|claim| format!("{}/{}", text(&claim.namespace), text(&claim.name)));
        let size = spec.capacity.as_ref().and_then(|capacity| capacity.get("storage"));
        vec![
            json!(name(&volume.metadata)),
            json!(size.map_or("0", |size| &size.0)),
            json!(access_modes(list(&spec.access_modes))),
            json!(text(&spec.persistent_volume_reclaim_policy)),
            json!(phase),
            json!(claim.unwrap_or_default()),
            json!(class(&volume.metadata, spec.storage_class_name.as_deref())),
            json!(spec.volume_attributes_class_name.as_deref().unwrap_or("<unset>")),
            json!(text(&status.reason)),
            json!(age(&volume.metadata, now)),
            json!(spec.volume_mode.as_deref().unwrap_or("<unset>")),
        ]
    }
}

/// The fields of the spec that say where the storage is.
fn source_of(spec: Option<&PersistentVolumeSpec>) -> Map<String, Value> {
    let fields = match json!(spec) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    fields.into_iter().filter(|(field, _)| !NOT_SOURCES.contains(&field.as_str())).collect()
}

/// What is wrong with a volume that an attachment has in itself.
pub(super) fn inline_spec(errors: &mut Errors, spec: &PersistentVolumeSpec, path: &Path) {
    let alien = "may not be specified in the context of inline volumes";
    if spec.claim_ref.is_some() {
        errors.forbidden(&path.child("claimRef"), alien);
    }
    if spec.capacity.as_ref().is_some_and(|capacity| !capacity.is_empty()) {
        errors.forbidden(&path.child("capacity"), alien);
    }
    if spec.csi.is_none() {
        errors.required(&path.child("csi"), "has to be specified in the context of inline volumes");
    }
    access(errors, spec, path);
    let policy = text(&spec.persistent_volume_reclaim_policy);
    if !matches!(policy, "" | "Retain") {
        errors.forbidden(
            &path.child("persistentVolumeReclaimPolicy"),
            "may only be Retain in the context of inline volumes",
        );
    }
    affinity(errors, spec, path);
    sources(errors, spec, path);
    if !text(&spec.storage_class_name).is_empty() {
        errors.forbidden(&path.child("storageClassName"), alien);
    }
    if !matches!(text(&spec.volume_mode), "" | "Filesystem") {
        let wrong = "may not specify volumeMode in the context of inline volumes";
        errors.forbidden(&path.child("volumeMode"), wrong);
    }
}

fn access(errors: &mut Errors, spec: &PersistentVolumeSpec, path: &Path) {
    let at = path.child("accessModes");
    let modes = list(&spec.access_modes);
    if modes.is_empty() {
        errors.required(&at, "");
    }
    for mode in modes {
        errors.one_of(&at, mode, ACCESS_MODES);
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        errors.forbidden(&at, "may not use ReadWriteOncePod with other access modes");
    }
}

fn capacity(errors: &mut Errors, spec: &PersistentVolumeSpec, path: &Path) {
    let at = path.child("capacity");
    let capacity = spec.capacity.clone().unwrap_or_default();
    if capacity.is_empty() {
        errors.required(&at, "");
    }
    for (resource, size) in &capacity {
        if resource != "storage" {
            errors.one_of(&at, resource, &["storage"]);
        } else if Quantity::try_from(size).is_ok_and(|size| size <= Quantity::ZERO) {
            errors.invalid(&at.key(resource), size.0.as_str(), "must be greater than zero");
        }
    }
}

fn affinity(errors: &mut Errors, spec: &PersistentVolumeSpec, path: &Path) {
    let Some(affinity) = &spec.node_affinity else { return };
    let at = path.child("nodeAffinity.required");
    match &affinity.required {
        Some(selector) => node_selector(errors, selector, &at),
        None => errors.required(&at, "must specify required node constraints"),
    }
}

fn sources(errors: &mut Errors, spec: &PersistentVolumeSpec, path: &Path) {
    let fields = source_of(Some(spec));
    // The order in which Kubernetes looks at them: the first one counts.
    let first = ["gcePersistentDisk", "awsElasticBlockStore", "hostPath"];
    let mut sources: Vec<&String> = fields.keys().collect();
    sources.sort_by_key(|field| first.iter().position(|f| f == field).unwrap_or(first.len()));
    match sources.as_slice() {
        [] => errors.required(path, "must specify a volume type"),
        [_, more @ ..] => {
            for field in more {
                errors.forbidden(&path.child(field), "may not specify more than 1 volume type");
            }
        }
    }
    if let Some(source) = &spec.host_path {
        host_path(errors, &source.path, &path.child("hostPath.path"));
    }
    if let Some(source) = &spec.local {
        host_path(errors, &source.path, &path.child("local.path"));
        if spec.node_affinity.is_none() {
            errors.required(&path.child("nodeAffinity"), "Local volume requires node affinity");
        }
    }
    if let Some(source) = &spec.nfs {
        let at = path.child("nfs");
        if source.server.is_empty() {
            errors.required(&at.child("server"), "");
        }
        if source.path.is_empty() {
            errors.required(&at.child("path"), "");
        } else if !source.path.starts_with('/') {
            errors.invalid(&at.child("path"), source.path.as_str(), "must be an absolute path");
        }
    }
    if let Some(source) = &spec.csi {
        let at = path.child("csi");
        errors.required_form(&at.child("driver"), &source.driver, csi_driver_name);
        if source.volume_handle.is_empty() {
            errors.required(&at.child("volumeHandle"), "");
        }
        let secrets = [
            ("controllerPublishSecretRef", &source.controller_publish_secret_ref),
            ("controllerExpandSecretRef", &source.controller_expand_secret_ref),
            ("nodePublishSecretRef", &source.node_publish_secret_ref),
            ("nodeExpandSecretRef", &source.node_expand_secret_ref),
        ];
        for (field, secret) in secrets {
            let Some(secret) = secret else { continue };
            for (part, value) in [("name", &secret.name), ("namespace", &secret.namespace)] {
                if text(value).is_empty() {
                    errors.required(&at.child(field).child(part), "");
                }
            }
        }
    }
}

/// A path on a node that does not leave where it starts.
fn host_path(errors: &mut Errors, host: &str, at: &Path) {
    if host.is_empty() {
        errors.required(at, "");
    } else if host.split('/').any(|part| part == "..") {
        errors.invalid(at, host, "must not contain '..'");
    }
}
