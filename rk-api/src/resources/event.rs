//! Event.

use k8s_openapi::api::core::v1::Event;

use super::{Kind, Resource, row::Row};

/// The row of Event.
pub(super) fn row() -> Resource {
    Row::of::<Events>().short(&["ev"]).done()
}

/// How a Event behaves.
#[derive(Debug, Default)]
pub(super) struct Events;

impl Kind for Events {
    type Object = Event;
}
