//! ControllerRevision.

use k8s_openapi::{api::apps::v1::ControllerRevision, jiff::Timestamp};
use serde_json::{Value, json};

use super::{Column, Kind, Part, Resource, check::Errors, row::Row};
use crate::{
    field::{ErrorList, Path},
    meta::table::{NONE, age, controller, name},
};

/// The row of ControllerRevision.
pub(super) fn row() -> Resource {
    Row::of::<ControllerRevisions>().columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Controller", "string", "The object that it is a revision of."),
    Column::new("Revision", "string", "Its number."),
    Column::AGE,
];

/// How a ControllerRevision behaves.
#[derive(Debug, Default)]
pub(super) struct ControllerRevisions;

impl Kind for ControllerRevisions {
    type Object = ControllerRevision;

    fn validate(revision: &ControllerRevision) -> ErrorList {
        let mut errors = Errors::default();
        if revision.data.0.is_null() {
            errors.required(&Path::new("data"), "data is mandatory");
        }
        errors.opt_not_negative(&Path::new("revision"), revision.revision);
        errors.0
    }

    fn validate_update(new: &ControllerRevision, old: &ControllerRevision, _: Part) -> ErrorList {
        let mut errors = Errors::default();
        errors.immutable(&Path::new("data"), &new.data, &old.data);
        errors.0
    }

    fn cells(revision: &ControllerRevision, now: Timestamp) -> Vec<Value> {
        let owner = controller(&revision.metadata).map(|owner| {
            let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
            let dot = if group.is_empty() { "" } else { "." };
            format!("{}{dot}{group}/{}", owner.kind.to_lowercase(), owner.name)
        });
        vec![
            json!(name(&revision.metadata)),
            json!(owner.unwrap_or_else(|| NONE.to_owned())),
            json!(revision.revision.unwrap_or(0)),
            json!(age(&revision.metadata, now)),
        ]
    }
}
