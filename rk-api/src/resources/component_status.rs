//! ComponentStatus: whether the parts of the control plane are well. It is computed, never stored.

use k8s_openapi::{
    api::core::v1::{ComponentCondition, ComponentStatus},
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Kind, Resource,
    check::{list, text},
    row::Row,
};
use crate::meta::table::name;

/// The row of ComponentStatus.
pub(super) fn row() -> Resource {
    Row::of::<ComponentStatuses>().short(&["cs"]).verbs(&["get", "list"]).columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Status", "string", "Whether the component is healthy."),
    Column::new("Message", "string", "What it says."),
    Column::new("Error", "string", "What went wrong when it was asked."),
];

/// How a ComponentStatus behaves.
#[derive(Debug, Default)]
pub(super) struct ComponentStatuses;

impl Kind for ComponentStatuses {
    type Object = ComponentStatus;

    fn cells(status: &ComponentStatus, _: Timestamp) -> Vec<Value> {
        let healthy = list(&status.conditions).iter().find(|found| found.type_ == "Healthy");
        let word = match healthy.map(|condition| condition.status.as_str()) {
            Some("True") => "Healthy",
            Some("False") => "Unhealthy",
            _ => "Unknown",
        };
        let of = |field: fn(&ComponentCondition) -> &Option<String>| {
            healthy.map_or("", |condition| text(field(condition)))
        };
        vec![
            json!(name(&status.metadata)),
            json!(word),
            json!(of(|condition| &condition.message)),
            json!(of(|condition| &condition.error)),
        ]
    }
}
