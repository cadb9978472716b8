//! Events for tests.

use std::sync::Arc;

use super::{AuditUser, Event, Level, Stage};
use crate::clock;

/// An event of a request for this path.
pub(super) fn event(path: &str) -> Arc<Event> {
    Arc::new(Event {
        kind: "Event",
        api_version: "audit.k8s.io/v1",
        level: Level::Metadata,
        audit_id: "1".into(),
        stage: Stage::ResponseComplete,
        request_uri: path.to_owned(),
        verb: "get".to_owned(),
        user: AuditUser::default(),
        impersonated_user: None,
        authentication_metadata: None,
        source_ips: Vec::new(),
        user_agent: String::new(),
        object_ref: None,
        response_status: None,
        request_object: None,
        response_object: None,
        request_received_timestamp: clock::now_micros(),
        stage_timestamp: clock::now_micros(),
        annotations: Default::default(),
    })
}
