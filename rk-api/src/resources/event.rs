//! Event.

use k8s_openapi::{
    api::core::v1::{Event, EventSeries},
    apimachinery::pkg::apis::meta::v1::{MicroTime, Time},
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Fields, Kind, Resource,
    check::{Errors, text},
    row::Row,
};
use crate::{
    field::{ErrorList, Path},
    meta::{
        names,
        table::{name, since},
    },
};

mod new_style;

pub(super) use self::new_style::{FIELDS as NEW_FIELDS, RULES as NEW_RULES};

/// The row of Event.
pub(super) fn row() -> Resource {
    Row::of::<Events>().short(&["ev"]).columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::new("Last Seen", "string", "When it last happened."),
    Column::new("Type", "string", "Normal or Warning."),
    Column::new("Reason", "string", "Why it happened, in a word."),
    Column::new("Object", "string", "What it happened to."),
    Column::wide("Subobject", "string", "The part that it happened to."),
    Column::wide("Source", "string", "Who reports it."),
    Column::new("Message", "string", "What happened."),
    Column::wide("First Seen", "string", "When it first happened."),
    Column::wide("Count", "string", "How often it happened."),
    Column { priority: 1, ..Column::NAME },
];

/// How an Event behaves.
#[derive(Debug, Default)]
pub(super) struct Events;

impl Kind for Events {
    type Object = Event;

    /// Both are always written, even when they say nothing.
    fn default(event: &mut Event) {
        event.reporting_component.get_or_insert_default();
        event.reporting_instance.get_or_insert_default();
    }

    fn validate(event: &Event) -> ErrorList {
        let mut errors = Errors::default();
        let namespace = text(&event.metadata.namespace);
        let involved = text(&event.involved_object.namespace);
        let of_cluster = |namespace: &str| matches!(namespace, "" | "default" | "kube-system");
        let agrees = if involved.is_empty() {
            of_cluster(namespace)
        } else {
            event.event_time.is_some() || involved == namespace
        };
        if !agrees {
            errors.invalid(
                &Path::new("involvedObject.namespace"),
                involved,
                "does not match event.namespace",
            );
        }
        if event.event_time.is_some() {
            of_new_style(&mut errors, event);
        }
        errors.0
    }

    fn validate_name(name: &str, generate_prefix: bool) -> Vec<String> {
        names::dns_subdomain(name, generate_prefix)
    }

    fn fields(event: &Event) -> Fields {
        let object = &event.involved_object;
        let component = event.source.as_ref().map_or("", |source| text(&source.component));
        let source =
            if component.is_empty() { text(&event.reporting_component) } else { component };
        Fields::from_iter(
            [
                ("involvedObject.kind", text(&object.kind)),
                ("involvedObject.namespace", text(&object.namespace)),
                ("involvedObject.name", text(&object.name)),
                ("involvedObject.uid", text(&object.uid)),
                ("involvedObject.apiVersion", text(&object.api_version)),
                ("involvedObject.resourceVersion", text(&object.resource_version)),
                ("involvedObject.fieldPath", text(&object.field_path)),
                ("reason", text(&event.reason)),
                ("reportingComponent", text(&event.reporting_component)),
                ("source", source),
                ("type", text(&event.type_)),
            ]
            .map(|(field, value)| (field, value.to_owned())),
        )
    }

    const FIELDS: &'static [&'static str] = &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ];

    fn cells(event: &Event, now: Timestamp) -> Vec<Value> {
        let seen = Seen::of(event);
        let object = &event.involved_object;
        let kind = text(&object.kind).to_lowercase();
        let target = match text(&object.name) {
            "" => kind,
            name => format!("{kind}/{name}"),
        };
        vec![
            json!(since(seen.last.as_ref(), now)),
            json!(text(&event.type_)),
            json!(text(&event.reason)),
            json!(target),
            json!(text(&object.field_path)),
            json!(source(event)),
            json!(text(&event.message).trim()),
            json!(since(seen.first.as_ref(), now)),
            json!(seen.count),
            json!(name(&event.metadata)),
        ]
    }

    const CREATE_ON_UPDATE: bool = true;
}

/// An event with an event time, as events.k8s.io makes them, says who did what.
fn of_new_style(errors: &mut Errors, event: &Event) {
    let component = text(&event.reporting_component);
    let at = Path::new("reportingComponent");
    if component.is_empty() {
        errors.required(&at, "");
    }
    errors.label_key(&at, component);
    for (field, value, max) in [
        ("reportingInstance", text(&event.reporting_instance), 128),
        ("action", text(&event.action), 128),
        ("reason", text(&event.reason), 128),
    ] {
        let at = Path::new(field);
        if value.is_empty() {
            errors.required(&at, "");
        } else if value.len() > max {
            errors.invalid(&at, "", format!("can have at most {max} characters"));
        }
    }
    if text(&event.message).len() > 1024 {
        errors.invalid(&Path::new("message"), "", "can have at most 1024 characters");
    }
}

/// When and how often, from the fields of either style.
struct Seen {
    first: Option<Time>,
    last: Option<Time>,
    count: i32,
}

impl Seen {
    fn of(event: &Event) -> Self {
        let time = |micro: &MicroTime| Time(micro.0);
        let first = event.first_timestamp.clone().or_else(|| event.event_time.as_ref().map(time));
        let last = event.last_timestamp.clone().or_else(|| first.clone());
        match &event.series {
            Some(EventSeries { count, last_observed_time }) => Seen {
                first,
                last: last_observed_time.as_ref().map(time),
                count: count.unwrap_or(0),
            },
            None => Seen { first, last, count: event.count.unwrap_or(0).max(1) },
        }
    }
}

/// `component, host`
fn source(event: &Event) -> String {
    let source = event.source.clone().unwrap_or_default();
    let either = |old: &Option<String>, new: &Option<String>| match text(old) {
        "" => text(new).to_owned(),
        old => old.to_owned(),
    };
    let component = either(&source.component, &event.reporting_component);
    match either(&source.host, &event.reporting_instance) {
        host if host.is_empty() => component,
        host => format!("{component}, {host}"),
    }
}
