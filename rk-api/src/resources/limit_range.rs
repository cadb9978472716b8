//! LimitRange.

use k8s_openapi::{
    api::core::v1::{LimitRange, LimitRangeItem, LimitRangeSpec},
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Kind, Resource,
    check::{Errors, ResourceList, round_to_millis},
    row::Row,
};
use crate::{
    field::{ErrorList, FieldError, Path},
    meta::{quantity::Quantity, table::name},
};

/// The row of LimitRange.
pub(super) fn row() -> Resource {
    Row::of::<LimitRanges>().short(&["limits"]).columns(COLUMNS).done()
}

const COLUMNS: &[Column] =
    &[Column::NAME, Column::new("Created At", "date", "When the server created it.")];

/// How a LimitRange behaves.
#[derive(Debug, Default)]
pub(super) struct LimitRanges;

impl Kind for LimitRanges {
    type Object = LimitRange;

    fn default(range: &mut LimitRange) {
        let Some(spec) = &mut range.spec else { return };
        for item in &mut spec.limits {
            for list in [
                &mut item.default,
                &mut item.default_request,
                &mut item.max,
                &mut item.min,
                &mut item.max_limit_request_ratio,
            ] {
                round_to_millis(list);
            }
            if item.type_ == "Container" {
                container_defaults(item);
            }
        }
    }

    fn validate(range: &LimitRange) -> ErrorList {
        let mut errors = Errors::default();
        let none = LimitRangeSpec::default();
        let spec = range.spec.as_ref().unwrap_or(&none);
        for (i, item) in spec.limits.iter().enumerate() {
            let at = Path::new("spec.limits").index(i);
            if spec.limits[..i].iter().any(|other| other.type_ == item.type_) {
                errors.push(FieldError::duplicate(&at.child("type"), item.type_.as_str()));
            }
            self::item(&mut errors, item, &at);
        }
        errors.0
    }

    fn cells(range: &LimitRange, _: Timestamp) -> Vec<Value> {
        vec![json!(name(&range.metadata)), json!(range.metadata.creation_timestamp)]
    }

    const CREATE_ON_UPDATE: bool = true;
}

/// A container's limit is at most the maximum, and its request is its limit, unless they say else.
fn container_defaults(item: &mut LimitRangeItem) {
    let fill = |from: &Option<ResourceList>, to: &mut Option<ResourceList>| {
        for (resource, amount) in from.iter().flatten() {
            to.get_or_insert_default().entry(resource.clone()).or_insert_with(|| amount.clone());
        }
    };
    fill(&item.max, &mut item.default);
    fill(&item.default, &mut item.default_request);
    fill(&item.min, &mut item.default_request);
}

fn item(errors: &mut Errors, item: &LimitRangeItem, path: &Path) {
    if item.type_.is_empty() {
        errors.required(&path.child("type"), "");
    } else {
        errors.label_key(&path.child("type"), &item.type_);
    }
    if item.type_ == "Pod" {
        for (field, list) in [("default", &item.default), ("defaultRequest", &item.default_request)]
        {
            if list.as_ref().is_some_and(|list| !list.is_empty()) {
                errors.forbidden(&path.child(field), "may not be specified when `type` is 'Pod'");
            }
        }
    }
    let empty = |list: &Option<ResourceList>| list.as_ref().is_none_or(ResourceList::is_empty);
    if item.type_ == "PersistentVolumeClaim" && empty(&item.min) && empty(&item.max) {
        errors.required(
            &path.child("limits"),
            "either minimum or maximum storage value is required, but neither was provided",
        );
    }
    let lists =
        [&item.max, &item.min, &item.default, &item.default_request, &item.max_limit_request_ratio];
    let mut names: Vec<&String> =
        lists.into_iter().flatten().flat_map(|list| list.keys()).collect();
    names.sort();
    names.dedup();
    for resource in names {
        self::resource(errors, item, resource, path);
    }
}

/// min <= defaultRequest <= default <= max, of those that are there.
fn resource(errors: &mut Errors, item: &LimitRangeItem, resource: &str, path: &Path) {
    let of = |list: &Option<ResourceList>| {
        let amount = list.as_ref().and_then(|list| list.get(resource));
        amount.and_then(|amount| Quantity::try_from(amount).ok())
    };
    let (min, max) = (of(&item.min), of(&item.max));
    let (request, limit) = (of(&item.default_request), of(&item.default));
    let order = [
        ("min", "min", &min, "max", &max),
        ("defaultRequest", "default request", &request, "max", &max),
        ("defaultRequest", "default request", &request, "default limit", &limit),
        ("default", "default", &limit, "max", &max),
    ];
    for (field, low_word, low, high_word, high) in order {
        if let (Some(low), Some(high)) = (low, high)
            && low > high
        {
            errors.invalid(
                &path.child(field).key(resource),
                low.to_string(),
                format!("{low_word} value {low} is greater than {high_word} value {high}"),
            );
        }
    }
    for (field, word, amount) in
        [("defaultRequest", "default request", &request), ("default", "default", &limit)]
    {
        if let (Some(min), Some(amount)) = (&min, amount)
            && min > amount
        {
            errors.invalid(
                &path.child(field).key(resource),
                amount.to_string(),
                format!("min value {min} is greater than {word} value {amount}"),
            );
        }
    }
    let ratio_at = path.child("maxLimitRequestRatio").key(resource);
    if let Some(ratio) = of(&item.max_limit_request_ratio)
        && ratio < Quantity::new(1, 0)
    {
        errors.invalid(&ratio_at, ratio.to_string(), format!("ratio {ratio} is less than 1"));
    }
}
