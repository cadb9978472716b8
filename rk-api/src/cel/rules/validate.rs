//! Judging an object by its rules.

use serde_json::{Map, Value as Json};

use super::{Node, Rule, Verdict};
use crate::{
    cel::{Bindings, Budget, EvalError, MAX_MESSAGE_BYTES, Schema, Value, value::equal},
    field::{FieldError, Reason},
};

pub(super) fn validate(
    root: &Node,
    new: &Json,
    old: Option<&Json>,
    budget: &mut Budget,
) -> Verdict {
    let mut judge = Judge { budget, verdict: Verdict::default() };
    let place = Place { path: String::new(), old, before: None, is_root: true };
    // Whoever stops early has said why.
    let _ = judge.node(root, new, &place.at(root, new));
    judge.verdict
}

/// Nothing more is judged: the budget is used up.
struct Stop;

/// A value and what it was before, with their schema.
#[derive(Clone, Copy)]
struct Before<'a> {
    new: &'a Json,
    old: &'a Json,
    schema: Option<&'a Schema>,
}

impl Before<'_> {
    fn is_same(self) -> bool {
        let Some(schema) = self.schema else { return self.new == self.old };
        match (Value::json(self.new, schema), Value::json(self.old, schema)) {
            (Ok(new), Ok(old)) => equal(&new, &old, &mut 0).unwrap_or(false),
            _ => self.new == self.old,
        }
    }
}

#[derive(Clone)]
struct Place<'a> {
    path: String,
    /// What the value was before, if that can be told.
    old: Option<&'a Json>,
    /// The nearest value here or above of which it can be told: if it did not change, what is
    /// wrong is forgiven.
    before: Option<Before<'a>>,
    is_root: bool,
}

impl<'a> Place<'a> {
    fn at(mut self, node: &'a Node, new: &'a Json) -> Self {
        if let Some(old) = self.old {
            self.before = Some(Before { new, old, schema: node.schema.as_deref() });
        }
        self
    }

    fn below(&self, path: String, old: Option<&'a Json>, node: &'a Node, new: &'a Json) -> Self {
        Self { path, old, before: self.before, is_root: false }.at(node, new)
    }

    fn child(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn field(&self) -> String {
        if self.path.is_empty() { "<nil>".to_owned() } else { self.path.clone() }
    }
}

struct Judge<'b> {
    budget: &'b mut Budget,
    verdict: Verdict,
}

const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

impl Judge<'_> {
    fn error(&mut self, place: &Place<'_>, node: &Node, detail: String) {
        let value = Some(Json::from(&*node.kind));
        let path = place.field();
        self.verdict.errors.push(FieldError { path, reason: Reason::Invalid, value, detail });
    }

    fn node<'a>(&mut self, node: &'a Node, new: &'a Json, place: &Place<'a>) -> Result<(), Stop> {
        if new.is_null() {
            return Ok(());
        }
        self.rules(node, new, place)?;
        for nested in &node.all_of {
            // What these find is forgiven only if something above did not change.
            let place = Place { before: None, ..place.clone() };
            self.node(nested, new, &place)?;
        }
        match new {
            Json::Array(items) => self.items(node, items, place),
            Json::Object(members) => self.members(node, members, place),
            _ => Ok(()),
        }
    }

    fn items<'a>(
        &mut self,
        node: &'a Node,
        items: &'a [Json],
        place: &Place<'a>,
    ) -> Result<(), Stop> {
        let Some(of_items) = &node.items else { return Ok(()) };
        let old = place.old.and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
        let by_key: std::collections::HashMap<String, &Json> =
            old.iter().rev().filter_map(|item| Some((item_key(item, &node.keys)?, item))).collect();
        for (n, item) in items.iter().enumerate() {
            let old = item_key(item, &node.keys).and_then(|key| by_key.get(&key).copied());
            let place = place.below(format!("{}[{n}]", place.path), old, of_items, item);
            self.node(of_items, item, &place)?;
        }
        Ok(())
    }

    fn members<'a>(
        &mut self,
        node: &'a Node,
        members: &'a Map<String, Json>,
        place: &Place<'a>,
    ) -> Result<(), Stop> {
        let old = place.old.and_then(Json::as_object).filter(|_| node.correlatable);
        for (name, value) in members {
            let old = old.and_then(|old| old.get(name));
            if let Some(of_values) = &node.additional {
                let path = format!("{}[{name}]", place.path);
                self.node(of_values, value, &place.below(path, old, of_values, value))?;
            }
            if let Some(property) = node.properties.get(name) {
                let mut below = place.below(place.child(name), old, property, value);
                if place.is_root && matches!(&**name, "apiVersion" | "kind") {
                    below.before = None;
                }
                self.node(property, value, &below)?;
            }
        }
        Ok(())
    }

    fn rules<'a>(&mut self, node: &'a Node, new: &'a Json, place: &Place<'a>) -> Result<(), Stop> {
        if node.rules.is_empty() {
            return Ok(());
        }
        if self.budget.left() == 0 {
            self.error(place, node, OUT_OF_BUDGET.to_owned());
            return Err(Stop);
        }
        let Some(schema) = node.schema.as_deref() else { return Ok(()) };
        let old = place.old.filter(|old| !old.is_null());
        for rule in &node.rules {
            let program = match &rule.program {
                Ok(program) => program,
                Err(why) => {
                    self.error(place, node, format!("rule compile error: {why}"));
                    continue;
                }
            };
            if rule.uses_old && old.is_none() && !rule.optional_old {
                continue;
            }
            let bindings = match bindings(rule, new, old, schema) {
                Ok(bindings) => bindings,
                Err(error) => {
                    let text = &rule.text;
                    self.error(place, node, format!("{error} evaluating rule: {text}"));
                    continue;
                }
            };
            match program.evaluate(&bindings, self.budget) {
                Ok(Value::Bool(true)) => {}
                Ok(_) => self.broken(rule, node, new, &bindings, place)?,
                Err(error) => self.failed(error, rule, node, place)?,
            }
        }
        Ok(())
    }

    fn failed(
        &mut self,
        error: EvalError,
        rule: &Rule,
        node: &Node,
        place: &Place<'_>,
    ) -> Result<(), Stop> {
        let text = &rule.text;
        match error {
            EvalError::OutOfBudget => {
                self.error(place, node, OUT_OF_BUDGET.to_owned());
                Err(Stop)
            }
            EvalError::CostLimit => {
                self.error(place, node, format!(
                    "'{error}': no further validation rules will be run due to call cost exceeds \
                     limit for rule: {text}"
                ));
                Err(Stop)
            }
            EvalError::Failed(message) if message.starts_with("no such overload") => {
                self.error(place, node, format!(
                    "'{message}': call arguments did not match a supported operator, function or \
                     macro signature for rule: {text}"
                ));
                Ok(())
            }
            error => {
                self.error(place, node, format!("{error} evaluating rule: {text}"));
                Ok(())
            }
        }
    }

    /// The rule says no.
    fn broken<'a>(
        &mut self,
        rule: &'a Rule,
        node: &Node,
        new: &Json,
        bindings: &Bindings<'a>,
        place: &Place<'_>,
    ) -> Result<(), Stop> {
        let path = match &*rule.field_path {
            "" => place.field(),
            relative => place.child(relative),
        };
        let mut stop = false;
        let mut detail = None;
        let mut value = match new {
            Json::Object(_) | Json::Array(_) if matches!(&*node.kind, "object" | "array") => None,
            value => Some(value.clone()),
        };
        let mut reason = reason(rule.reason.as_deref());
        if let Some((program, source)) = &rule.message_expression {
            match self.message(program, source, bindings) {
                Ok(message) => detail = message,
                Err(why) => {
                    (stop, detail, reason) = (true, Some(why), Reason::Invalid);
                    value = Some(Json::from(&*node.kind));
                }
            }
        }
        let detail = detail.unwrap_or_else(|| match &*rule.message {
            "" => format!("failed rule: {}", rule.text),
            message => message.to_owned(),
        });
        let error = match reason {
            Reason::Forbidden | Reason::Required => {
                FieldError { path, reason, value: None, detail }
            }
            Reason::Duplicate => FieldError { path, reason, value, detail: String::new() },
            reason => FieldError { path, reason, value, detail },
        };
        if !rule.uses_old && place.before.is_some_and(Before::is_same) {
            self.verdict.warnings.push(error);
        } else {
            self.verdict.errors.push(error);
        }
        if stop { Err(Stop) } else { Ok(()) }
    }

    /// The message that an expression makes; none if it makes none that can be shown.
    fn message<'a>(
        &mut self,
        program: &'a crate::cel::Program,
        source: &str,
        bindings: &Bindings<'a>,
    ) -> Result<Option<String>, String> {
        match program.evaluate(bindings, self.budget) {
            Ok(value) => {
                let text = value.as_str().unwrap_or("").trim();
                let shown = !text.is_empty() && text.len() <= MAX_MESSAGE_BYTES && !text.contains('\n');
                Ok(shown.then(|| text.to_owned()))
            }
            Err(EvalError::OutOfBudget) => Err(
                "messageExpression evaluation failed due to running out of cost budget, no further \
                 validation rules will be run"
                    .to_owned(),
            ),
            Err(EvalError::CostLimit) => Err(format!(
                "no further validation rules will be run due to call cost exceeds limit for \
                 messageExpression: {source:?}"
            )),
            Err(_) => Ok(None),
        }
    }
}

fn bindings<'a>(
    rule: &Rule,
    new: &'a Json,
    old: Option<&'a Json>,
    schema: &'a Schema,
) -> Result<Bindings<'a>, EvalError> {
    let mut bindings = Bindings::new().bind("self", Value::json(new, schema)?);
    if rule.uses_old {
        let old = old.map(|old| Value::json(old, schema)).transpose()?;
        match (rule.optional_old, old) {
            (true, old) => bindings.set("oldSelf", Value::optional(old)),
            (false, Some(old)) => bindings.set("oldSelf", old),
            (false, None) => {}
        }
    }
    Ok(bindings)
}

fn reason(name: Option<&str>) -> Reason {
    match name {
        Some("FieldValueForbidden") => Reason::Forbidden,
        Some("FieldValueRequired") => Reason::Required,
        Some("FieldValueDuplicate") => Reason::Duplicate,
        _ => Reason::Invalid,
    }
}

/// What tells an item of a list apart from others, if it has all of it.
fn item_key(item: &Json, keys: &[String]) -> Option<String> {
    if keys.is_empty() {
        return None;
    }
    let mut out = String::new();
    for key in keys {
        match item.get(key)? {
            Json::Null | Json::Array(_) | Json::Object(_) => return None,
            scalar => {
                out.push('\u{0}');
                out.push_str(&scalar.to_string());
            }
        }
    }
    Some(out)
}
