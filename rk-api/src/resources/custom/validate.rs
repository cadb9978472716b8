//! Whether a value satisfies its schema, in the order and the words of kube-openapi's validator,
//! with the ratcheting of KEP-4008: what was wrong before and did not change is let through.

use serde_json::{Map, Number, Value};

use super::{
    lists::identity,
    schema::{Additional, Checks, Kind, ListType, Schema},
};
use crate::field::{ErrorList, FieldError, Path, Reason};

/// What is wrong with the value at `path` (empty for the whole object), which was `old` before.
pub(super) fn validate(
    value: &Value,
    old: Option<&Value>,
    schema: &Schema,
    path: &str,
) -> ErrorList {
    Node { schema, path, is_root: path.is_empty() }.validate(value, old).errors
}

/// What a check found.
#[derive(Default)]
struct Outcome {
    errors: ErrorList,
    /// How much was looked at and found right: of alternatives that all fail, the one with the
    /// most is the one that was meant.
    matches: usize,
}

impl Outcome {
    fn merge(&mut self, other: Outcome) {
        self.errors.extend(other.errors);
        self.matches += other.matches;
    }

    fn is_valid(&self) -> bool {
        self.errors.is_empty()
    }

    fn error(&mut self, error: FieldError) {
        self.errors.push(error);
    }
}

#[derive(Clone, Copy)]
struct Node<'a> {
    schema: &'a Schema,
    path: &'a str,
    is_root: bool,
}

impl Node<'_> {
    fn validate(self, value: &Value, old: Option<&Value>) -> Outcome {
        let mut outcome = self.check(value, old);
        if !outcome.is_valid() && old == Some(value) {
            outcome.errors.clear();
        }
        outcome
    }

    fn check(self, value: &Value, old: Option<&Value>) -> Outcome {
        let mut outcome = Outcome::default();
        let checks = self.schema.checks.as_deref();
        if self.schema.kind.is_some()
            || self.schema.int_or_string
            || checks.is_some_and(|checks| checks.format.is_some())
        {
            outcome.merge(self.kind(value, checks));
        }
        if value.is_null() {
            outcome.merge(self.values(value, checks));
            return outcome;
        }
        if let Some(checks) = checks {
            outcome.merge(self.combinations(value, old, checks));
            match value {
                Value::String(text) => outcome.merge(self.text(text, checks)),
                Value::Number(number) => outcome.merge(self.number(number, checks)),
                _ => {}
            }
            if !value.is_number()
                && let Some(format) = &checks.format
                && value.is_string()
                && !format.accepts(value)
            {
                outcome.error(self.type_error(&format.name, value.clone(), &text_of(value)));
            }
        }
        if let Value::Array(items) = value {
            outcome.merge(self.items(items, old, checks));
        }
        outcome.merge(self.values(value, checks));
        if let Value::Object(members) = value {
            outcome.merge(self.members(members, old, checks));
        }
        outcome.matches += 1;
        outcome
    }

    // === types ===

    fn kind(self, value: &Value, checks: Option<&Checks>) -> Outcome {
        let mut outcome = Outcome { matches: 1, ..Outcome::default() };
        let expected = match (self.schema.int_or_string, self.schema.kind) {
            (true, _) => "integer,string",
            (false, Some(kind)) => kind.as_str(),
            (false, None) => "",
        };
        let format = checks.and_then(|checks| checks.format.as_ref());
        let fits = match value {
            Value::Null => self.schema.nullable || expected.is_empty(),
            // The format alone says what a string must be.
            Value::String(_) if format.is_some_and(super::formats::Format::is_of_strings) => true,
            _ if expected.is_empty() => format.is_none_or(|format| format.accepts(value)),
            Value::String(_) => self.takes(Kind::String),
            Value::Bool(_) => self.takes(Kind::Boolean),
            Value::Array(_) => self.takes(Kind::Array),
            Value::Object(_) => self.takes(Kind::Object),
            Value::Number(number) => {
                self.takes(Kind::Number) || self.takes(Kind::Integer) && is_whole(number)
            }
        };
        let found = type_of(value);
        if !fits {
            outcome.error(self.type_error(expected, Value::from(found), found));
            outcome.matches = 0;
        } else if let Value::Number(_) = value
            && let Some(format) = format.filter(|format| !format.accepts(value))
        {
            outcome.error(self.type_error(&format.name, value.clone(), &text_of(value)));
        }
        outcome
    }

    fn takes(self, kind: Kind) -> bool {
        match self.schema.int_or_string {
            true => matches!(kind, Kind::Integer | Kind::String),
            false => self.schema.kind == Some(kind),
        }
    }

    // === values ===

    fn values(self, value: &Value, checks: Option<&Checks>) -> Outcome {
        let mut outcome = Outcome { matches: 1, ..Outcome::default() };
        let Some(checks) = checks.filter(|checks| !checks.values.is_empty()) else {
            return outcome;
        };
        if !checks.values.iter().any(|known| same(known, value)) {
            let known: Vec<String> = checks.values.iter().map(text_of).collect();
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            let path = self.field("");
            outcome.error(FieldError {
                path,
                ..FieldError::not_supported(&Path::root(), value.clone(), &known)
            });
        }
        outcome
    }

    fn text(self, text: &str, checks: &Checks) -> Outcome {
        let mut outcome = Outcome { matches: 1, ..Outcome::default() };
        let length = || i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
        if let Some(max) = checks.max_length.filter(|max| length() > *max) {
            let max = usize::try_from(max).unwrap_or(0);
            let error = FieldError::too_long(&Path::root(), max);
            outcome.error(FieldError { path: self.field(""), ..error });
        } else if let Some(min) = checks.min_length.filter(|min| length() < *min) {
            outcome.error(self.invalid(text, format!("should be at least {min} chars long")));
        } else if let Some(pattern) = &checks.pattern
            && !pattern.matches(text)
        {
            outcome.error(self.invalid(text, format!("should match '{}'", pattern.text)));
        }
        outcome
    }

    fn number(self, number: &Number, checks: &Checks) -> Outcome {
        let mut outcome = Outcome { matches: 1, ..Outcome::default() };
        let value = number.as_f64().unwrap_or(f64::NAN);
        let found = Value::Number(number.clone());
        if let Some(of) = checks.multiple_of
            && !is_whole_f64(value / of)
        {
            outcome
                .error(self.invalid(found.clone(), format!("should be a multiple of {}", go(of))));
        }
        if let Some(max) = checks.maximum {
            let (wrong, words) = match checks.exclusive_maximum {
                true => (value >= max, "less than"),
                false => (value > max, "less than or equal to"),
            };
            if wrong {
                outcome
                    .error(self.invalid(found.clone(), format!("should be {words} {}", go(max))));
            }
        }
        if let Some(min) = checks.minimum {
            let (wrong, words) = match checks.exclusive_minimum {
                true => (value <= min, "greater than"),
                false => (value < min, "greater than or equal to"),
            };
            if wrong {
                outcome.error(self.invalid(found, format!("should be {words} {}", go(min))));
            }
        }
        outcome
    }

    // === parts ===

    fn items(self, items: &[Value], old: Option<&Value>, checks: Option<&Checks>) -> Outcome {
        let mut outcome = Outcome { matches: 1, ..Outcome::default() };
        if let Some(schema) = &self.schema.items {
            let old = old.and_then(Value::as_array).map(Vec::as_slice);
            for (index, item) in items.iter().enumerate() {
                let path = format!("{}[{index}]", self.path);
                let was = old.and_then(|old| self.counterpart(item, old));
                let node = Node { schema, path: &path, is_root: false };
                outcome.merge(node.validate(item, was));
            }
        }
        let Some(checks) = checks else { return outcome };
        let count = i64::try_from(items.len()).unwrap_or(i64::MAX);
        if let Some(min) = checks.min_items.filter(|min| count < *min) {
            outcome.error(self.invalid(count, format!("should have at least {min} items")));
        }
        if let Some(max) = checks.max_items.filter(|max| count > *max) {
            outcome.error(self.too_many(items.len(), max));
        }
        if checks.unique_items && (1..items.len()).any(|at| items[..at].contains(&items[at])) {
            outcome.error(self.invalid("", "shouldn't contain duplicates".to_owned()));
        }
        outcome
    }

    /// The item that was this one before: only items of a map can be told apart.
    fn counterpart<'v>(self, item: &Value, old: &'v [Value]) -> Option<&'v Value> {
        let ListType::Map(keys) = &self.schema.list else { return None };
        let id = identity(item, keys);
        old.iter().find(|old| identity(old, keys) == id)
    }

    fn members(
        self,
        members: &Map<String, Value>,
        old: Option<&Value>,
        checks: Option<&Checks>,
    ) -> Outcome {
        let mut outcome = Outcome { matches: 1, ..Outcome::default() };
        let count = i64::try_from(members.len()).unwrap_or(i64::MAX);
        let min = checks.and_then(|checks| checks.min_properties);
        if let Some(min) = min.filter(|min| count < *min) {
            outcome.error(self.invalid(count, format!("should have at least {min} properties")));
            return outcome;
        }
        let max = checks.and_then(|checks| checks.max_properties);
        if let Some(max) = max.filter(|max| count > *max) {
            outcome.error(self.too_many(members.len(), max));
            return outcome;
        }
        let known = |name: &str| self.schema.properties.get(name).is_some();
        for (name, value) in members.iter().filter(|(name, _)| !known(name)) {
            match &self.schema.additional {
                Additional::Schema(schema) => outcome.merge(self.member(name, schema, value, old)),
                Additional::Allowed(false) => {
                    let path = format!("{}.{name}", self.path);
                    let detail = format!("{path} in body is a forbidden property");
                    let error = FieldError::invalid(&Path::root(), "", detail);
                    outcome.error(FieldError { path: self.field(""), ..error });
                }
                _ => {}
            }
        }
        for (name, schema) in self.schema.properties.iter() {
            if let Some(value) = members.get(name) {
                outcome.merge(self.member(name, schema, value, old));
            }
        }
        for name in checks.into_iter().flat_map(|checks| &checks.required) {
            let has_default =
                || self.schema.properties.get(name).is_some_and(|schema| schema.default.is_some());
            if !members.contains_key(&**name) && !has_default() {
                let error = FieldError::required(&Path::root(), "");
                outcome.error(FieldError { path: self.field(name), ..error });
            }
        }
        outcome
    }

    fn member(self, name: &str, schema: &Schema, value: &Value, old: Option<&Value>) -> Outcome {
        let path = self.below(name);
        // The type is that of the version that was asked for, also in what was there before.
        let is_type = self.is_root && matches!(name, "apiVersion" | "kind");
        let was = old.filter(|_| !is_type).and_then(|old| old.get(name));
        Node { schema, path: &path, is_root: false }.validate(value, was)
    }

    // === combinations ===

    fn combinations(self, value: &Value, old: Option<&Value>, checks: &Checks) -> Outcome {
        let mut outcome = Outcome::default();
        let of = |schema| Node { schema, ..self }.check(value, old);
        if !checks.any_of.is_empty() {
            let outcomes: Vec<_> = checks.any_of.iter().map(of).collect();
            match outcomes.iter().any(Outcome::is_valid) {
                true => outcome.matches += 1,
                false => {
                    outcome.error(self.as_a_whole("must validate at least one schema (anyOf)"));
                    merge_best(&mut outcome, outcomes);
                }
            }
        }
        if !checks.one_of.is_empty() {
            let outcomes: Vec<_> = checks.one_of.iter().map(of).collect();
            let found = match outcomes.iter().filter(|each| each.is_valid()).count() {
                1 => None,
                0 => Some("Found none valid".to_owned()),
                valid => Some(format!("Found {valid} valid alternatives")),
            };
            if let Some(found) = found {
                let words = format!("must validate one and only one schema (oneOf). {found}");
                outcome.error(self.as_a_whole(&words));
                if outcomes.iter().all(|each| !each.is_valid()) {
                    merge_best(&mut outcome, outcomes);
                }
            }
        }
        if !checks.all_of.is_empty() {
            let outcomes: Vec<_> = checks.all_of.iter().map(of).collect();
            let valid = outcomes.iter().filter(|each| each.is_valid()).count();
            outcomes.into_iter().for_each(|each| outcome.merge(each));
            if valid < checks.all_of.len() {
                let none = if valid == 0 { ". None validated" } else { "" };
                let words = format!("must validate all the schemas (allOf){none}");
                outcome.error(self.as_a_whole(&words));
            }
        }
        if let Some(not) = &checks.not
            && of(not).is_valid()
        {
            outcome.error(self.as_a_whole("must not validate the schema (not)"));
        }
        outcome.matches += 1;
        outcome
    }

    // === errors ===

    fn below(self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// How errors name the value, or a member of it. The object as a whole has no name.
    fn field(self, member: &str) -> String {
        match (self.path, member) {
            ("", "") => "<nil>".to_owned(),
            (path, "") => path.to_owned(),
            (_, member) => self.below(member),
        }
    }

    fn invalid(self, value: impl Into<Value>, words: String) -> FieldError {
        let detail = format!("{} in body {words}", self.path);
        let error = FieldError::invalid(&Path::root(), value, detail);
        FieldError { path: self.field(""), ..error }
    }

    fn type_error(self, expected: &str, value: Value, found: &str) -> FieldError {
        let words = format!("must be of type {expected}: {found:?}");
        FieldError { reason: Reason::TypeInvalid, ..self.invalid(value, words) }
    }

    fn too_many(self, found: usize, max: i64) -> FieldError {
        let max = usize::try_from(max).unwrap_or(0);
        let error = FieldError::too_many(&Path::root(), found, max);
        FieldError { path: self.field(""), ..error }
    }

    /// About several parts of the value, and so about none.
    fn as_a_whole(self, words: &str) -> FieldError {
        let detail = format!("{:?} {words}", self.path);
        FieldError { path: "<nil>".to_owned(), ..FieldError::invalid(&Path::root(), "", detail) }
    }
}

/// Adds what is wrong with the alternative that fits best.
fn merge_best(outcome: &mut Outcome, outcomes: Vec<Outcome>) {
    let best = outcomes.into_iter().reduce(
        |best, next| {
            if next.matches > best.matches { next } else { best }
        },
    );
    outcome.merge(best.unwrap_or_default());
}

/// A value's type, as messages name it.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Strings as they are, other values as JSON.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn is_whole(number: &Number) -> bool {
    !number.is_f64() || number.as_f64().is_some_and(is_whole_f64)
}

/// Whether it is near enough to a whole number, and that not too large for doubles.
fn is_whole_f64(value: f64) -> bool {
    const MAX: f64 = 9_007_199_254_740_991.0;
    if !value.is_finite() || value.abs() > MAX {
        return false;
    }
    let difference = (value - value.round()).abs();
    difference < 1e-9 * value.abs().max(1.0)
}

/// Whether both are the same, also where one of two numbers has a decimal point.
fn same(a: &Value, b: &Value) -> bool {
    a == b || matches!((a, b), (Value::Number(a), Value::Number(b)) if a.as_f64() == b.as_f64())
}

/// A number as Go prints it.
fn go(number: f64) -> String {
    if number != 0.0 && (number.abs() >= 1e21 || number.abs() < 1e-4) {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    number.to_string()
}
