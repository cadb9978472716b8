//! Cells of Table answers, as kube-apiserver's printers write them.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::Container,
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference, Time},
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::selectors::LabelQuery;

/// What stands for an empty list.
pub const NONE: &str = "<none>";

/// The row of a kind that shows only its name and its age.
pub fn name_and_age(meta: &ObjectMeta, now: Timestamp) -> Vec<Value> {
    vec![json!(name(meta)), json!(age(meta, now))]
}

/// The object's name.
pub fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or("")
}

/// How long ago the object was created, as kubectl writes it: `5m3s`, `2d`; `<unknown>` without a
/// creation time.
pub fn age(meta: &ObjectMeta, now: Timestamp) -> String {
    since(meta.creation_timestamp.as_ref(), now)
}

/// How long ago something was, `<unknown>` when it is not said.
pub fn since(time: Option<&Time>, now: Timestamp) -> String {
    match time {
        Some(time) => human_duration(now.as_second() - time.0.as_second()),
        None => "<unknown>".to_owned(),
    }
}

/// A duration in two units at most (apimachinery's `duration.HumanDuration`).
pub fn human_duration(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let seconds = seconds.max(0);
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    let pair = |whole: i64, unit: &str, rest: i64, rest_unit: &str| match rest {
        0 => format!("{whole}{unit}"),
        rest => format!("{whole}{unit}{rest}{rest_unit}"),
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 192 => pair(days, "d", hours % 24, "h"),
        () if hours < 24 * 365 * 2 => format!("{days}d"),
        () if hours < 24 * 365 * 8 => pair(years, "y", days % 365, "d"),
        () => format!("{years}y"),
    }
}

/// The items joined by commas, `<none>` without any.
pub fn list_or_none<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.as_ref().to_owned()).collect();
    if items.is_empty() { NONE.to_owned() } else { items.join(",") }
}

/// Labels as `a=b,c=d`, `<none>` without any.
pub fn labels(labels: Option<&BTreeMap<String, String>>) -> String {
    list_or_none(labels.into_iter().flatten().map(|(key, value)| format!("{key}={value}")))
}

/// A label selector as kubectl accepts it; `<none>` when it selects everything, nothing when
/// there is none.
pub fn selector(selector: Option<&LabelSelector>) -> String {
    match selector {
        Some(selector) => LabelQuery::from_selector(selector).to_string(),
        None => String::new(),
    }
}

/// The cells of the wide columns Containers and Images.
pub fn containers_and_images(containers: &[Container]) -> [Value; 2] {
    let names: Vec<&str> = containers.iter().map(|c| c.name.as_str()).collect();
    let images: Vec<&str> = containers.iter().map(|c| c.image.as_deref().unwrap_or("")).collect();
    [json!(names.join(",")), json!(images.join(","))]
}

/// The controller among the owners.
pub fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    owners.iter().find(|owner| owner.controller == Some(true))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn time(seconds: i64) -> Time {
        Time(Timestamp::from_second(seconds).unwrap())
    }

    #[test]
    fn durations_have_two_units_at_most() {
        #[track_caller]
        fn check(seconds: i64, text: &str) {
            assert_eq!(human_duration(seconds), text);
        }
        check(-2, "<invalid>");
        check(-1, "0s");
        check(119, "119s");
        check(120, "2m");
        check(599, "9m59s");
        check(600, "10m");
        check(10799, "179m");
        check(10800, "3h");
        check(3 * 3600 + 60, "3h1m");
        check(47 * 3600, "47h");
        check(48 * 3600, "2d");
        check(7 * 86400 + 3600, "7d1h");
        check(8 * 86400, "8d");
        check(800 * 86400, "2y70d");
        check(3000 * 86400, "8y");
    }
}
