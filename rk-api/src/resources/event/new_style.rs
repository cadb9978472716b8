//! What makes an Event of events.k8s.io/v1: the same objects as the core group's, judged more
//! strictly. How their form differs is in [`versions`](crate::resources).

use k8s_openapi::api::core::v1::Event;

use super::{
    super::{Kind, Object, check::Errors, check::text, versions::Rules},
    Events,
};
use crate::field::{ErrorList, Path};

/// How events.k8s.io/v1 judges Events.
pub(in crate::resources) const RULES: Rules = Rules {
    fields: FIELDS,
    judge: Some(|new| core(new).map(validate_create).unwrap_or_default()),
    judge_change: Some(|new, old| match (core(new), core(old)) {
        (Some(new), Some(old)) => validate_update(new, old),
        _ => ErrorList::new(),
    }),
    tolerates: |_| false,
};

fn core(object: &dyn Object) -> Option<&Event> {
    object.as_any().downcast_ref()
}

/// The selectable fields, in the order of the core group's names for them.
pub(in crate::resources) const FIELDS: &[&str] = &[
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
    use serde_json::{Value, json};

    use crate::resources::Resources;

    #[test]
    fn an_event_of_the_new_style_says_who_did_what() {
        #[track_caller]
        fn check(change: Value, wrong: &[&str]) {
            let mut json = json!({
                "apiVersion": "events.k8s.io/v1", "kind": "Event",
                "metadata": {"name": "e", "namespace": "default"},
                "eventTime": "2020-01-02T03:04:05.000006Z",
                "regarding": {"kind": "Pod", "namespace": "default", "name": "p"},
                "reason": "R", "action": "A", "note": "n", "type": "Normal",
                "reportingController": "example.com/c", "reportingInstance": "i",
            });
            for (field, value) in change.as_object().unwrap() {
                json[field] = value.clone();
            }
            let resources = Resources::builtin();
            let strategy = &resources.get("events.k8s.io", "v1", "events").unwrap().strategy;
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
