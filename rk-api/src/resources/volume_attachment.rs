//! VolumeAttachment: a volume that is to be attached to a node.

use k8s_openapi::{
    api::storage::v1::{VolumeAttachment, VolumeAttachmentStatus, VolumeError},
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Kind, Part, Resource, check::Errors, persistent_volume,
    pod::validation::csi_driver_name, row::Row, typed::keep_metadata,
};
use crate::{
    field::{ErrorList, FieldError, Path},
    meta::{
        names,
        table::{age, name},
    },
};

/// The row of VolumeAttachment.
pub(super) fn row() -> Resource {
    let mut row = Row::of::<VolumeAttachments>().status().columns(COLUMNS).done();
    // The driver's column says that it is a name too.
    row.columns[1].format = "name".into();
    row
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Attacher", "string", "The driver that attaches it."),
    Column::new("PV", "string", "The volume."),
    Column::new("Node", "string", "The node that it is attached to."),
    Column::new("Attached", "boolean", "Whether it is attached."),
    Column::AGE,
];

/// The most that a driver may note about an attachment, in bytes.
const METADATA_MAX: usize = 256 * 1024;
/// The longest message of an error, in bytes.
const MESSAGE_MAX: usize = 1024;

/// How a VolumeAttachment behaves.
#[derive(Debug, Default)]
pub(super) struct VolumeAttachments;

impl Kind for VolumeAttachments {
    type Object = VolumeAttachment;

    fn default(attachment: &mut VolumeAttachment) {
        attachment.status.get_or_insert_default();
    }

    fn prepare_create(attachment: &mut VolumeAttachment) {
        attachment.status = Some(VolumeAttachmentStatus::default());
    }

    fn prepare_update(new: &mut VolumeAttachment, old: &VolumeAttachment, part: Part) {
        if part == Part::Status {
            new.spec = old.spec.clone();
            keep_metadata(&mut new.metadata, &old.metadata);
        } else {
            new.status = old.status.clone();
        }
    }

    fn validate(attachment: &VolumeAttachment) -> ErrorList {
        let (spec, path) = (&attachment.spec, Path::new("spec"));
        let mut errors = Errors::default();
        if spec.attacher.is_empty() {
            errors.required(&path.child("attacher"), "");
        }
        source(&mut errors, attachment, &path.child("source"));
        let node = spec.node_name.as_str();
        errors.form(&path.child("nodeName"), node, names::dns_subdomain(node, false));
        status(&mut errors, attachment);
        errors.0
    }

    fn validate_create(attachment: &VolumeAttachment) -> ErrorList {
        let (spec, path) = (&attachment.spec, Path::new("spec"));
        let mut errors = Errors::default();
        if !spec.attacher.is_empty() {
            let wrong = csi_driver_name(&spec.attacher);
            errors.form(&path.child("attacher"), spec.attacher.as_str(), wrong);
        }
        if let Some(volume) = spec.source.persistent_volume_name.as_deref() {
            let at = path.child("source.persistentVolumeName");
            errors.form(&at, volume, names::dns_subdomain(volume, false));
        }
        errors.0
    }

    fn validate_update(new: &VolumeAttachment, old: &VolumeAttachment, part: Part) -> ErrorList {
        let mut errors = Errors::default();
        if part == Part::Status {
            status(&mut errors, new);
        }
        errors.immutable(&Path::new("spec"), &new.spec, &old.spec);
        errors.0
    }

    fn cells(attachment: &VolumeAttachment, now: Timestamp) -> Vec<Value> {
        let spec = &attachment.spec;
        vec![
            json!(name(&attachment.metadata)),
            json!(spec.attacher),
            json!(spec.source.persistent_volume_name.as_deref().unwrap_or("")),
            json!(spec.node_name),
            json!(attachment.status.as_ref().is_some_and(|status| status.attached)),
            json!(age(&attachment.metadata, now)),
        ]
    }

    const UNCONDITIONAL_UPDATE: bool = false;
}

/// A volume by its name, or what would be one.
fn source(errors: &mut Errors, attachment: &VolumeAttachment, path: &Path) {
    let source = &attachment.spec.source;
    let wrong = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (&source.inline_volume_spec, &source.persistent_volume_name) {
        (None, None) => errors.required(path, wrong),
        (Some(_), Some(_)) => errors.forbidden(path, wrong),
        (None, Some(name)) if name.is_empty() => errors.required(
            &path.child("persistentVolumeName"),
            "must specify non empty persistentVolumeName",
        ),
        (None, Some(_)) => {}
        (Some(spec), None) => {
            let at = path.child("inlineVolumeSpec");
            persistent_volume::inline_spec(errors, spec, &at);
        }
    }
}

fn status(errors: &mut Errors, attachment: &VolumeAttachment) {
    let (Some(status), path) = (&attachment.status, Path::new("status")) else { return };
    let notes = status.attachment_metadata.iter().flatten();
    if notes.map(|(key, value)| key.len() + value.len()).sum::<usize>() > METADATA_MAX {
        let at = path.child("attachmentMetadata");
        errors.push(FieldError::too_long(&at, METADATA_MAX));
    }
    volume_error(errors, status.attach_error.as_ref(), &path.child("attachError"));
    volume_error(errors, status.detach_error.as_ref(), &path.child("detachError"));
}

fn volume_error(errors: &mut Errors, error: Option<&VolumeError>, path: &Path) {
    let Some(error) = error else { return };
    if error.message.as_ref().is_some_and(|message| message.len() > MESSAGE_MAX) {
        errors.push(FieldError::too_long(&path.child("message"), MESSAGE_MAX));
    }
    if let Some(code) = error.error_code.filter(|code| *code < 0) {
        let at = path.child("errorCode");
        errors.invalid(&at, code, names::out_of_range(0, i64::from(i32::MAX)));
    }
}
