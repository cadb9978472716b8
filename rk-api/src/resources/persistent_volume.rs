//! PersistentVolume.

use k8s_openapi::{
    api::core::v1::{
        NodeSelectorTerm, PersistentVolume, PersistentVolumeSpec, PersistentVolumeStatus,
        VolumeNodeAffinity,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};
use serde_json::{Map, Value, json};

use super::{
    Column, Kind, Part, Resource,
    check::{Errors, IMMUTABLE, default_text, list, list_mut, round_to_millis, text},
    pod::validation::{csi_driver_name, differences, node_selector},
    row::Row,
};
use crate::{
    clock,
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
/// Labels of nodes from before they were stable, and what they are called now.
const RENAMED: &[(&str, &str)] = &[
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
];
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
            last_phase_transition_time: Some(clock::now_seconds()),
            ..PersistentVolumeStatus::default()
        });
    }

    fn prepare_update(new: &mut PersistentVolume, old: &PersistentVolume, part: Part) {
        if part == Part::Status {
            new.spec = old.spec.clone();
            let none = PersistentVolumeStatus::default();
            note_transition(
                new.status.get_or_insert_default(),
                old.status.as_ref().unwrap_or(&none),
            );
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
        let none = PersistentVolumeSpec::default();
        let (new, old) = (new.spec.as_ref().unwrap_or(&none), old.spec.as_ref().unwrap_or(&none));
        let (source, was) = (source_of(Some(&with_secret_of(new, old))), source_of(Some(old)));
        if source != was {
            let changes = differences(&json!(was), &json!(source));
            errors.forbidden(
                &Path::new("spec.persistentvolumesource"),
                &format!("spec.persistentvolumesource is immutable after creation\n{changes}"),
            );
        }
        errors.immutable(&Path::new("volumeMode"), &new.volume_mode, &old.volume_mode);
        if old.node_affinity.is_some() && !is_same_place(new, old) {
            let wrong = format!("{IMMUTABLE}, except for updating from beta label to GA");
            errors.invalid(&Path::new("nodeAffinity"), json!(new.node_affinity), wrong);
        }
        if old.volume_attributes_class_name.is_some() && new.volume_attributes_class_name.is_none()
        {
            let at = Path::new("spec.volumeAttributesClassName");
            errors.forbidden(&at, "update from non-nil value to nil is forbidden");
        }
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

/// Says when the phase changed, where nobody did (KEP-3762).
fn note_transition(new: &mut PersistentVolumeStatus, old: &PersistentVolumeStatus) {
    let (time, was) = (&mut new.last_phase_transition_time, &old.last_phase_transition_time);
    if new.phase == old.phase {
        if time.is_none() {
            time.clone_from(was);
        }
    } else if time.is_none() || *time == *was {
        *time = Some(clock::now_seconds());
    }
}

/// The new spec without a secret for expanding the volume, if it had none: one may come.
fn with_secret_of(new: &PersistentVolumeSpec, old: &PersistentVolumeSpec) -> PersistentVolumeSpec {
    let mut spec = new.clone();
    let had_none = old.csi.as_ref().is_some_and(|csi| csi.controller_expand_secret_ref.is_none());
    if let Some(csi) = spec.csi.as_mut().filter(|_| had_none) {
        csi.controller_expand_secret_ref = None;
    }
    spec
}

/// Whether the volume is where it was. Labels of nodes that have got another name since may be
/// called by that.
fn is_same_place(new: &PersistentVolumeSpec, old: &PersistentVolumeSpec) -> bool {
    let mut was = old.node_affinity.clone();
    let required = |affinity: &mut Option<VolumeNodeAffinity>| -> Vec<NodeSelectorTerm> {
        let required = affinity.as_mut().and_then(|affinity| affinity.required.take());
        required.map(|required| required.node_selector_terms).unwrap_or_default()
    };
    let mut is = new.node_affinity.clone();
    if was.is_some() != is.is_some() {
        return false;
    }
    let (is, mut was) = (required(&mut is), required(&mut was));
    for (was, is) in was.iter_mut().zip(&is) {
        let lists = [
            (&mut was.match_expressions, &is.match_expressions),
            (&mut was.match_fields, &is.match_fields),
        ];
        for (was, is) in lists {
            for (was, is) in list_mut(was).iter_mut().zip(list(is)) {
                if RENAMED.contains(&(was.key.as_str(), is.key.as_str())) {
                    was.key.clone_from(&is.key);
                }
            }
        }
    }
    is == was
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

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(spec: Value) -> PersistentVolume {
        let mut json = json!({"metadata": {"name": "v"}, "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "csi": {"driver": "d.example.com", "volumeHandle": "h"},
        }});
        for (field, value) in spec.as_object().unwrap() {
            json["spec"][field] = value.clone();
        }
        let mut volume = serde_json::from_value(json).unwrap();
        <PersistentVolumes as Kind>::default(&mut volume);
        PersistentVolumes::prepare_create(&mut volume);
        volume
    }

    #[track_caller]
    fn check(old: Value, new: Value, wrong: &[&str]) {
        let (old, mut new) = (volume(old), volume(new));
        PersistentVolumes::prepare_update(&mut new, &old, Part::Main);
        let mut errors = PersistentVolumes::validate(&new);
        errors.extend(PersistentVolumes::validate_update(&new, &old, Part::Main));
        let messages: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(messages, wrong);
    }

    #[test]
    fn the_source_of_a_volume_stays_but_for_a_secret_that_comes() {
        let with = |more: Value| {
            let mut csi = json!({"driver": "d.example.com", "volumeHandle": "h"});
            csi.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"csi": csi})
        };
        let secret = json!({"controllerExpandSecretRef": {"name": "s", "namespace": "n"}});
        check(with(json!({})), with(secret.clone()), &[]);
        let immutable = "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is \
                         immutable after creation\n";
        check(
            with(secret),
            with(json!({"controllerExpandSecretRef": {"name": "t", "namespace": "n"}})),
            &[&format!(
                "{immutable}-  csi.controllerExpandSecretRef.name: \"s\"\n\
                 +  csi.controllerExpandSecretRef.name: \"t\""
            )],
        );
        check(
            with(json!({})),
            with(json!({"volumeHandle": "g"})),
            &[&format!("{immutable}-  csi.volumeHandle: \"h\"\n+  csi.volumeHandle: \"g\"")],
        );
    }

    #[test]
    fn a_volume_stays_where_it_is_by_an_old_label_or_its_new_one() {
        let at = |key: &str, zone: &str| {
            json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": key, "operator": "In", "values": [zone]}]}]}}})
        };
        let (old, new) = ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone");
        check(json!({}), at(new, "a"), &[]);
        check(at(old, "a"), at(new, "a"), &[]);
        let value = |key: &str, zone: &str| {
            json!(volume(at(key, zone)).spec.unwrap().node_affinity).to_string()
        };
        let wrong = |value: String| {
            format!(
                "nodeAffinity: Invalid value: {value}: field is immutable, except for updating \
                 from beta label to GA"
            )
        };
        check(at(new, "a"), at(old, "a"), &[&wrong(value(old, "a"))]);
        check(at(new, "a"), at(new, "b"), &[&wrong(value(new, "b"))]);
        check(at(new, "a"), json!({}), &[&wrong("null".to_owned())]);
    }

    #[test]
    fn the_attributes_of_a_volume_are_not_taken_away() {
        let class = |name: &str| json!({"volumeAttributesClassName": name});
        check(class("gold"), class("silver"), &[]);
        check(
            class("gold"),
            json!({}),
            &["spec.volumeAttributesClassName: Forbidden: update from non-nil value to nil is \
               forbidden"],
        );
    }

    #[test]
    fn a_change_of_phase_has_a_time() {
        let old = volume(json!({}));
        assert!(old.status.as_ref().unwrap().last_phase_transition_time.is_some());
        let at = |phase: &str, time: Value| {
            let mut new = old.clone();
            let status = json!({"phase": phase, "lastPhaseTransitionTime": time});
            new.status = serde_json::from_value(status).unwrap();
            let mut before = old.clone();
            let then = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
            before.status.as_mut().unwrap().last_phase_transition_time = Some(then);
            PersistentVolumes::prepare_update(&mut new, &before, Part::Status);
            json!(new.status.unwrap().last_phase_transition_time)
        };
        let (then, other) = (json!("2026-01-01T00:00:00Z"), json!("2026-02-02T00:00:00Z"));
        assert_eq!(at("Pending", Value::Null), then);
        assert_eq!(at("Bound", other.clone()), other);
        assert_ne!(at("Bound", Value::Null), then);
        assert_ne!(at("Bound", then.clone()), then);
        assert!(at("Bound", Value::Null).is_string());
    }
}
