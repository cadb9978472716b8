//! Event of events.k8s.io/v1: the same objects as the core group's, with other names for fields.
//!
//! Events are kept in the core form whichever version wrote them. So this strategy decodes either
//! form, encodes the core form, and [shows](Strategy::shown) what is stored in its own.

use std::{any::Any, borrow::Cow, sync::Arc};

use k8s_openapi::{
    api::{
        autoscaling::v1::Scale,
        core::v1::{Event, EventSeries},
        events::v1,
    },
    apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta},
    jiff::Timestamp,
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    super::{
        Decoded, Fields, Kind, Object, Part, Resource, Strategy, check::Errors, check::text,
        decode::decode, row::Row, typed::drop_empty,
    },
    Events,
};
use crate::{
    field::{ErrorList, Path},
    meta::names,
};

/// The row of events.k8s.io/v1 Event, for a server that honours [`Strategy::shown`].
pub fn events_v1() -> Resource {
    let mut row = Row::of::<Shape>().short(&["ev"]).columns(super::COLUMNS).done();
    row.strategy = Arc::new(NewStyle);
    row
}

/// Gives the row the names of the API type.
#[derive(Debug, Default)]
struct Shape;

impl Kind for Shape {
    type Object = v1::Event;
}

/// An event in the core form that is shown in the new one.
#[derive(Clone, Debug)]
struct NewEvent(Event);

impl Object for NewEvent {
    fn meta(&self) -> &ObjectMeta {
        &self.0.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.0.metadata
    }
    fn boxed_clone(&self) -> Box<dyn Object> {
        Box::new(self.clone())
    }
    /// As it is stored.
    fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&self.0)
    }
    /// As it is shown.
    fn to_value(&self) -> Result<Value, serde_json::Error> {
        serde_json::to_value(shown(self.0.clone()))
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

fn shown(event: Event) -> v1::Event {
    v1::Event {
        metadata: event.metadata,
        action: event.action,
        deprecated_count: event.count,
        deprecated_first_timestamp: event.first_timestamp,
        deprecated_last_timestamp: event.last_timestamp,
        deprecated_source: event.source,
        event_time: event.event_time,
        note: event.message,
        reason: event.reason,
        regarding: Some(event.involved_object),
        related: event.related,
        reporting_controller: event.reporting_component,
        reporting_instance: event.reporting_instance,
        series: event.series.and_then(|series| {
            let last_observed_time = series.last_observed_time?;
            Some(v1::EventSeries { count: series.count.unwrap_or(0), last_observed_time })
        }),
        type_: event.type_,
    }
}

fn stored(event: v1::Event) -> Event {
    Event {
        metadata: event.metadata,
        action: event.action,
        count: event.deprecated_count,
        first_timestamp: event.deprecated_first_timestamp,
        last_timestamp: event.deprecated_last_timestamp,
        source: event.deprecated_source,
        event_time: event.event_time,
        message: event.note,
        reason: event.reason,
        involved_object: event.regarding.unwrap_or_default(),
        related: event.related,
        reporting_component: event.reporting_controller,
        reporting_instance: event.reporting_instance,
        series: event.series.map(|series| EventSeries {
            count: Some(series.count),
            last_observed_time: Some(series.last_observed_time),
        }),
        type_: event.type_,
    }
}

/// See the module.
#[derive(Debug)]
struct NewStyle;

fn core(object: &dyn Object) -> Option<&Event> {
    object.as_any().downcast_ref::<NewEvent>().map(|event| &event.0)
}

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "apiVersion")]
    api_version: Option<String>,
}

impl Strategy for NewStyle {
    fn decode(&self, json: &[u8]) -> Result<Decoded, serde_json::Error> {
        let head: Head = serde_json::from_slice(json)?;
        let (mut event, strict_errors) = if head.api_version.as_deref() == Some("v1") {
            decode::<Event>(json)?
        } else {
            let (event, unknown) = decode::<v1::Event>(json)?;
            (stored(event), unknown)
        };
        drop_empty(&mut event.metadata);
        Ok(Decoded { object: Box::new(NewEvent(event)), strict_errors })
    }

    fn shown<'a>(&self, stored: &'a [u8]) -> Result<Cow<'a, [u8]>, serde_json::Error> {
        let event: Event = serde_json::from_slice(stored)?;
        serde_json::to_vec(&shown(event)).map(Cow::Owned)
    }

    fn is_shown_as_stored(&self) -> bool {
        false
    }

    fn default(&self, object: &mut dyn Object) {
        if let Some(event) = object.as_any_mut().downcast_mut::<NewEvent>() {
            <Events as Kind>::default(&mut event.0);
        }
    }

    fn prepare_create(&self, _: &mut dyn Object) {}

    fn prepare_update(&self, _: &mut dyn Object, _: &dyn Object, _: Part) {}

    fn validate(&self, _: &dyn Object) -> ErrorList {
        ErrorList::new()
    }

    fn validate_create(&self, object: &dyn Object) -> ErrorList {
        core(object).map(validate_create).unwrap_or_default()
    }

    fn validate_update(&self, new: &dyn Object, old: &dyn Object, _: Part) -> ErrorList {
        match (core(new), core(old)) {
            (Some(new), Some(old)) => validate_update(new, old),
            _ => ErrorList::new(),
        }
    }

    fn validate_name(&self, name: &str, generate_prefix: bool) -> Vec<String> {
        names::dns_subdomain(name, generate_prefix)
    }

    fn fields(&self, object: &dyn Object) -> Fields {
        let Some(event) = core(object) else { return Fields::new() };
        let values = Events::fields(event).into_iter().map(|(_, value)| value);
        FIELDS.iter().copied().zip(values).collect()
    }

    fn field_names(&self) -> &'static [&'static str] {
        FIELDS
    }

    fn cells(&self, object: &dyn Object, now: Timestamp) -> Vec<Value> {
        core(object).map(|event| Events::cells(event, now)).unwrap_or_default()
    }

    fn warnings(&self, _: &dyn Object) -> Vec<String> {
        Vec::new()
    }

    fn grace_period_seconds(&self, _: &dyn Object, _: &DeleteOptions) -> Option<i64> {
        None
    }

    fn scale(&self, _: &dyn Object) -> Option<Scale> {
        None
    }

    fn set_replicas(&self, _: &mut dyn Object, _: i32) {}

    fn orphan_by_default(&self) -> bool {
        false
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn unconditional_update(&self) -> bool {
        true
    }
}

/// In the order of the core group's names for them.
const FIELDS: &[&str] = &[
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
    "reason",
    "reportingController",
    "source",
    "type",
];

/// A new event says when and by whom, and leaves the old fields alone.
fn validate_create(event: &Event) -> ErrorList {
    let mut errors = Errors(Events::validate(event));
    for error in &mut errors.0 {
        if error.path == "reportingComponent" {
            error.path = "reportingController".to_owned();
        }
    }
    if event.event_time.is_none() {
        errors.required(&Path::new("eventTime"), "");
    }
    let type_ = text(&event.type_);
    if !matches!(type_, "Normal" | "Warning") {
        errors.invalid(&Path::new("type"), "", format!("has invalid value: {type_}"));
    }
    let old = [
        ("firstTimestamp", event.first_timestamp.is_some()),
        ("lastTimestamp", event.last_timestamp.is_some()),
        ("count", event.count.unwrap_or(0) != 0),
        ("source", event.source.as_ref().is_some_and(|source| *source != Default::default())),
    ];
    for (field, _) in old.into_iter().filter(|(_, set)| *set) {
        errors.invalid(&Path::new(field), "", "needs to be unset");
    }
    if let Some(series) = &event.series {
        if series.count.unwrap_or(0) < 2 {
            errors.invalid(&Path::new("series.count"), "", "should be at least 2");
        }
        if series.last_observed_time.is_none() {
            errors.required(&Path::new("series.lastObservedTime"), "");
        }
    }
    errors.0
}

/// Only the series of an event goes on.
fn validate_update(new: &Event, old: &Event) -> ErrorList {
    let mut errors = Errors::default();
    errors.immutable(&Path::new("involvedObject"), &new.involved_object, &old.involved_object);
    errors.immutable(&Path::new("reason"), &new.reason, &old.reason);
    errors.immutable(&Path::new("action"), &new.action, &old.action);
    errors.immutable(&Path::new("message"), &new.message, &old.message);
    errors.immutable(&Path::new("type"), &new.type_, &old.type_);
    errors.immutable(&Path::new("eventTime"), &new.event_time, &old.event_time);
    errors.immutable(
        &Path::new("reportingController"),
        &new.reporting_component,
        &old.reporting_component,
    );
    errors.immutable(
        &Path::new("reportingInstance"),
        &new.reporting_instance,
        &old.reporting_instance,
    );
    errors.0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event() -> Value {
        json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": {"name": "e", "namespace": "default"},
            "eventTime": "2020-01-02T03:04:05.000006Z",
            "regarding": {"kind": "Pod", "namespace": "default", "name": "p"},
            "reason": "R", "action": "A", "note": "n", "type": "Normal",
            "reportingController": "example.com/c", "reportingInstance": "i",
        })
    }

    #[test]
    fn an_event_is_kept_in_the_core_form_and_shown_in_its_own() {
        let row = events_v1();
        let decoded = row.strategy.decode(event().to_string().as_bytes()).unwrap();
        assert_eq!(decoded.strict_errors, Vec::<String>::new());
        assert_eq!(row.strategy.validate_create(decoded.object.as_ref()), []);
        let kept = decoded.object.encode().unwrap();
        let core: Event = serde_json::from_slice(&kept).unwrap();
        assert_eq!(core.message.as_deref(), Some("n"));
        assert_eq!(core.involved_object.name.as_deref(), Some("p"));
        let shown = row.strategy.shown(&kept).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&shown).unwrap(), event());
        let again = row.strategy.decode(&kept).unwrap();
        assert_eq!(again.object.to_value().unwrap(), event());
        let fields = row.strategy.fields(again.object.as_ref());
        assert_eq!(fields[2], ("regarding.name", "p".to_owned()));
        assert_eq!(row.key_prefix, "/registry/events/");
    }

    #[test]
    fn an_event_of_the_new_style_says_who_did_what() {
        #[track_caller]
        fn check(change: Value, wrong: &[&str]) {
            let mut json = event();
            for (field, value) in change.as_object().unwrap() {
                json[field] = value.clone();
            }
            let strategy = events_v1().strategy;
            let object = strategy.decode(json.to_string().as_bytes()).unwrap().object;
            let errors = strategy.validate_create(object.as_ref());
            let fields: Vec<_> = errors.iter().map(|error| error.path.to_string()).collect();
            assert_eq!(fields, wrong, "{errors:?}");
        }
        check(json!({}), &[]);
        check(json!({"action": ""}), &["action"]);
        check(json!({"type": "Odd"}), &["type"]);
        check(json!({"deprecatedCount": 2}), &["count"]);
        check(
            json!({"series": {"count": 1, "lastObservedTime": "2020-01-02T03:04:05.000006Z"}}),
            &["series.count"],
        );
        check(
            json!({"reportingController": ""}),
            &["reportingController", "reportingController", "reportingController"],
        );
    }
}
