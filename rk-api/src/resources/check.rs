//! Checks that many kinds share.

use std::collections::BTreeMap;

use k8s_openapi::{
    apimachinery::pkg::{
        api::resource::Quantity as ApiQuantity,
        apis::meta::v1::{Condition, LabelSelector},
        util::intstr::IntOrString,
    },
    jiff::Timestamp,
};
use serde::Serialize;
use serde_json::{Value, json};

pub(super) use crate::meta::object::{IMMUTABLE, validate_labels as labels};
use crate::{
    field::{ErrorList, FieldError, Path},
    meta::{names, quantity::Quantity},
};

/// The longest reason and message of a condition, in bytes.
const REASON_MAX: usize = 1024;
const MESSAGE_MAX: usize = 32 * 1024;

/// Amounts of resources by name.
pub(super) type ResourceList = BTreeMap<String, ApiQuantity>;

/// Builds an error list: each check adds what it finds.
#[derive(Debug, Default)]
pub(super) struct Errors(pub(super) ErrorList);

impl Errors {
    pub(super) fn push(&mut self, error: FieldError) {
        self.0.push(error);
    }

    pub(super) fn extend(&mut self, errors: ErrorList) {
        self.0.extend(errors);
    }

    pub(super) fn required(&mut self, path: &Path, detail: &str) {
        self.push(FieldError::required(path, detail));
    }

    pub(super) fn invalid(
        &mut self,
        path: &Path,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) {
        self.push(FieldError::invalid(path, value, detail));
    }

    /// The value as a whole makes no sense, so the message does not show it.
    pub(super) fn invalid_as_it_is(&mut self, path: &Path, detail: impl Into<String>) {
        let error = FieldError::invalid(path, Value::Null, detail);
        self.push(FieldError { value: None, ..error });
    }

    pub(super) fn forbidden(&mut self, path: &Path, detail: &str) {
        self.push(FieldError::forbidden(path, detail));
    }

    /// An error for each of the messages that a form check of [`names`] gave.
    pub(super) fn form(
        &mut self,
        path: &Path,
        value: impl Into<Value>,
        messages: impl IntoIterator<Item = String>,
    ) {
        let mut messages = messages.into_iter().peekable();
        // Nothing is wrong with nearly all values: only others are copied.
        if messages.peek().is_none() {
            return;
        }
        let value = value.into();
        for message in messages {
            self.invalid(path, value.clone(), message);
        }
    }

    /// `value` must be there and have the form.
    pub(super) fn required_form(
        &mut self,
        path: &Path,
        value: &str,
        form: impl FnOnce(&str) -> Vec<String>,
    ) {
        if value.is_empty() {
            self.required(path, "");
        } else {
            self.form(path, value, form(value));
        }
    }

    /// `value` must be there and be one of those.
    pub(super) fn required_one_of(&mut self, path: &Path, value: &str, supported: &[&str]) {
        if value.is_empty() {
            self.required(path, "");
        } else {
            self.one_of(path, value, supported);
        }
    }

    /// `value` must be one of those.
    pub(super) fn one_of(&mut self, path: &Path, value: &str, supported: &[&str]) {
        if !supported.contains(&value) {
            self.push(FieldError::not_supported(path, value, supported));
        }
    }

    pub(super) fn not_negative(&mut self, path: &Path, value: impl Into<i64>) {
        let value = value.into();
        if value < 0 {
            self.invalid(path, value, "must be greater than or equal to 0");
        }
    }

    /// [`Self::not_negative`], when there is a value.
    pub(super) fn opt_not_negative(&mut self, path: &Path, value: Option<impl Into<i64>>) {
        if let Some(value) = value {
            self.not_negative(path, value);
        }
    }

    /// The field must be as it was.
    pub(super) fn immutable<T: PartialEq + Serialize>(&mut self, path: &Path, new: &T, old: &T) {
        if new != old {
            self.invalid(path, json!(new), IMMUTABLE);
        }
    }

    /// Conditions of the form that all newer kinds have: each type once, with a reason and a time.
    pub(super) fn conditions(&mut self, conditions: &[Condition], path: &Path) {
        for (i, condition) in conditions.iter().enumerate() {
            let (at, type_) = (path.index(i), condition.type_.as_str());
            if conditions[..i].iter().any(|other| other.type_ == type_) {
                self.push(FieldError::duplicate(&at, type_));
            }
            match type_ {
                "" => self.required(&at.child("type"), "is required"),
                type_ => self.label_key(&at.child("type"), type_),
            }
            let statuses = ["False", "True", "Unknown"];
            self.required_one_of(&at.child("status"), &condition.status, &statuses);
            if let Some(generation) = condition.observed_generation.filter(|number| *number < 0) {
                let wrong = "must be greater than or equal to zero";
                self.invalid(&at.child("observedGeneration"), generation, wrong);
            }
            if condition.last_transition_time.0 == Timestamp::UNIX_EPOCH {
                self.required(&at.child("lastTransitionTime"), "");
            }
            let (reason, reason_at) = (condition.reason.as_str(), at.child("reason"));
            self.required_form(&reason_at, reason, names::condition_reason);
            if reason.len() > REASON_MAX {
                self.push(FieldError::too_long(&reason_at, REASON_MAX));
            }
            if condition.message.len() > MESSAGE_MAX {
                self.push(FieldError::too_long(&at.child("message"), MESSAGE_MAX));
            }
        }
    }

    /// A label key where one is expected.
    pub(super) fn label_key(&mut self, path: &Path, key: &str) {
        self.form(path, key, names::qualified_name(key));
    }

    /// A label selector, of a spec or a term.
    pub(super) fn selector(&mut self, path: &Path, selector: &LabelSelector) {
        self.extend(labels(selector.match_labels.as_ref(), &path.child("matchLabels")));
        for (i, expression) in selector.match_expressions.iter().flatten().enumerate() {
            let at = path.child("matchExpressions").index(i);
            let values = expression.values.as_deref().unwrap_or_default();
            match expression.operator.as_str() {
                "In" | "NotIn" if values.is_empty() => self.required(
                    &at.child("values"),
                    "must be specified when `operator` is 'In' or 'NotIn'",
                ),
                "In" | "NotIn" => {}
                "Exists" | "DoesNotExist" if !values.is_empty() => self.forbidden(
                    &at.child("values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ),
                "Exists" | "DoesNotExist" => {}
                other => {
                    self.invalid(&at.child("operator"), other, "not a valid selector operator");
                }
            }
            self.label_key(&at.child("key"), &expression.key);
            for (j, value) in values.iter().enumerate() {
                let at = at.child("values").index(j);
                self.form(&at, value.as_str(), names::label_value(value));
            }
        }
    }

    /// A port by number or by name.
    pub(super) fn port(&mut self, path: &Path, port: &IntOrString) {
        match port {
            IntOrString::Int(number) => self.form(path, *number, names::port_number(*number)),
            IntOrString::String(name) => self.form(path, name.as_str(), names::port_name(name)),
        }
    }

    /// A count or a percentage, neither negative. The percentage may exceed 100.
    pub(super) fn int_or_percent(&mut self, path: &Path, value: &IntOrString) {
        match value {
            IntOrString::Int(number) => self.not_negative(path, *number),
            IntOrString::String(text) => self.form(path, text.as_str(), names::percent(text)),
        }
    }

    /// A percentage above 100 is refused.
    pub(super) fn at_most_100_percent(&mut self, path: &Path, value: &IntOrString) {
        if percent_of(value).is_some_and(|percent| percent > 100) {
            self.invalid(path, json!(value), "must not be greater than 100%");
        }
    }

    /// An amount that is not negative, and whole where the resource is counted.
    pub(super) fn amount(&mut self, path: &Path, resource: &str, amount: &ApiQuantity) {
        let Ok(quantity) = Quantity::try_from(amount) else {
            self.invalid(path, amount.0.as_str(), "must be a quantity");
            return;
        };
        if quantity < Quantity::ZERO {
            self.invalid(path, quantity.to_string(), "must be greater than or equal to 0");
        }
        if is_integer_resource(resource) && quantity.millis() % 1000 != 0 {
            self.invalid(path, quantity.to_string(), "must be an integer");
        }
    }

    /// A resource's name in a list of any kind.
    pub(super) fn resource_name(&mut self, path: &Path, name: &str) {
        self.form(path, name, names::qualified_name(name));
        if !name.contains('/') && !is_standard_resource(name) {
            self.invalid(path, name, "must be a standard resource type or fully qualified");
        }
    }
}

/// The number of a text such as `25%`.
pub(super) fn percent_of(value: &IntOrString) -> Option<i64> {
    match value {
        IntOrString::String(text) => text.strip_suffix('%')?.parse().ok(),
        IntOrString::Int(_) => None,
    }
}

/// Whether it comes to nothing.
pub(super) fn is_zero(value: &IntOrString) -> bool {
    match value {
        IntOrString::Int(number) => *number == 0,
        IntOrString::String(_) => percent_of(value) == Some(0),
    }
}

/// A text that may be left out.
pub(super) fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or("")
}

/// A list that may be left out.
pub(super) fn list<T>(value: &Option<Vec<T>>) -> &[T] {
    value.as_deref().unwrap_or_default()
}

/// A list that may be left out, to change.
pub(super) fn list_mut<T>(value: &mut Option<Vec<T>>) -> &mut [T] {
    value.as_deref_mut().unwrap_or_default()
}

/// Fills in a text that is left out or empty.
pub(super) fn default_text(value: &mut Option<String>, default: &str) {
    if text(value).is_empty() {
        *value = Some(default.to_owned());
    }
}

/// Fills in a number that is left out or zero.
pub(super) fn default_number(value: &mut Option<i32>, default: i32) {
    if value.unwrap_or(0) == 0 {
        *value = Some(default);
    }
}

/// Rounds the amounts up to thousandths, the finest that resources are counted in.
pub(super) fn round_to_millis(list: &mut Option<ResourceList>) {
    for amount in list.iter_mut().flat_map(BTreeMap::values_mut) {
        if let Ok(quantity) = Quantity::try_from(&*amount)
            && quantity != Quantity::from_millis(quantity.millis())
            && quantity.millis() < i64::MAX
        {
            let rounded = Quantity::from_millis(quantity.millis()).with_format(quantity.format());
            *amount = rounded.into();
        }
    }
}

const COUNTED: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

fn is_standard_resource(name: &str) -> bool {
    const AMOUNTS: &[&str] = &["cpu", "memory", "ephemeral-storage", "storage"];
    let bare = name.strip_prefix("requests.").or(name.strip_prefix("limits.")).unwrap_or(name);
    AMOUNTS.contains(&bare) || COUNTED.contains(&name) || bare.starts_with("hugepages-")
}

fn is_integer_resource(name: &str) -> bool {
    COUNTED.contains(&name) || is_extended_resource(name)
}

/// A resource that is not Kubernetes' own, such as `example.com/gpu`.
pub(super) fn is_extended_resource(name: &str) -> bool {
    !is_native_resource(name)
        && !name.starts_with("requests.")
        && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// A resource of Kubernetes' own.
pub(super) fn is_native_resource(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}
