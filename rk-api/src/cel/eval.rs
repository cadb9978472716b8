//! Evaluation.
//!
//! What it costs is counted as cel-go does: see [`super::actual`].

use std::{collections::BTreeMap, sync::Arc};

use super::{
    EvalError, Value, actual,
    ast::Literal,
    error::Effort,
    functions::{lists, operators},
    plan::{CallNode, Fold, Node, Special},
    value::{List, Map, Struct, Text},
};

type Result<'a> = std::result::Result<Value<'a>, EvalError>;

/// The values of variables.
#[derive(Clone, Debug, Default)]
pub struct Bindings<'a> {
    values: Vec<(Arc<str>, Value<'a>)>,
}

impl<'a> Bindings<'a> {
    /// No variable has a value.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives a variable its value.
    #[must_use]
    pub fn bind(mut self, name: &str, value: Value<'a>) -> Self {
        self.set(name, value);
        self
    }

    /// Gives a variable its value.
    pub fn set(&mut self, name: &str, value: Value<'a>) {
        match self.values.iter_mut().find(|(known, _)| **known == *name) {
            Some((_, known)) => *known = value,
            None => self.values.push((name.into(), value)),
        }
    }

    fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.values.iter().find(|(known, _)| **known == *name).map(|(_, value)| value)
    }
}

/// Evaluates `root`. The second result is what it cost, also if it failed.
pub(crate) fn evaluate<'a>(
    root: &'a Node,
    bindings: &Bindings<'a>,
    limit: u64,
) -> (Result<'a>, u64) {
    let mut evaluator =
        Evaluator { bindings, limit, cost: 0, effort: Effort::new(), locals: Vec::new() };
    let result = evaluator.eval(root);
    (result, evaluator.cost)
}

struct Evaluator<'e, 'a> {
    bindings: &'e Bindings<'a>,
    limit: u64,
    cost: u64,
    effort: Effort,
    /// Variables of macros. One may be an error that nobody looked at yet.
    locals: Vec<Result<'a>>,
}

const SELECT: u64 = 1;
const LIST: u64 = 10;
const MAP: u64 = 30;
const STRUCT: u64 = 40;

impl<'a> Evaluator<'_, 'a> {
    fn spend(&mut self, cost: u64) -> std::result::Result<(), EvalError> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit { Err(EvalError::CostLimit) } else { Ok(()) }
    }

    fn eval(&mut self, node: &'a Node) -> Result<'a> {
        match node {
            Node::Literal(literal) => Ok(value_of(literal)),
            Node::Constant(node) => {
                let before = self.cost;
                let value = self.eval(node);
                self.cost = before;
                value
            }
            Node::InConstant(parts) => {
                let [item, list] = &**parts;
                let item = self.eval(item)?;
                let list = self.eval(list)?;
                operators::contains(&mut self.effort, &[item, list])
            }
            Node::TypeName(name) => Ok(Value::Type(name.clone())),
            Node::Variable(name) => {
                self.spend(SELECT)?;
                let missing = || EvalError::new(format!("no such attribute(s): {name}"));
                self.bindings.get(name).cloned().ok_or_else(missing)
            }
            Node::Local(place) => {
                self.spend(SELECT)?;
                self.locals.get(*place).cloned().unwrap_or(Ok(Value::Null))
            }
            Node::TakeLocal(place) => {
                self.spend(SELECT)?;
                match self.locals.get_mut(*place) {
                    Some(slot) => std::mem::replace(slot, Ok(Value::Null)),
                    None => Ok(Value::Null),
                }
            }
            Node::Select { operand, field } => {
                let operand = self.eval(operand)?;
                self.spend(SELECT)?;
                operators::select(&operand, field)
            }
            Node::Has { operand, field } => {
                let operand = self.eval(operand)?;
                operators::has(&operand, field)
            }
            Node::OptionalSelect { operand, field } => {
                let operand = self.eval(operand)?;
                let value = operators::optional_select(&operand, field)?;
                // What is not there costs nothing.
                if let Value::Optional(Some(_)) = &value {
                    self.spend(SELECT)?;
                }
                Ok(value)
            }
            Node::And(terms) => self.logical(terms, false),
            Node::Or(terms) => self.logical(terms, true),
            Node::Conditional(parts) => {
                let [condition, yes, no] = &**parts;
                match self.eval(condition)? {
                    Value::Bool(true) => self.branch(yes),
                    Value::Bool(false) => self.branch(no),
                    _ => Err(EvalError::no_such_overload()),
                }
            }
            Node::NotStrictlyFalse(state) => {
                let state = self.eval(state);
                self.spend(1)?;
                match state {
                    Ok(Value::Bool(state)) => Ok(Value::Bool(state)),
                    Err(error) if !error.can_be_absorbed() => Err(error),
                    _ => Ok(Value::Bool(true)),
                }
            }
            Node::OptionalOr(parts) | Node::OptionalOrValue(parts) => {
                let [optional, other] = &**parts;
                match self.eval(optional)? {
                    Value::Optional(None) => self.eval(other),
                    Value::Optional(Some(value)) if matches!(node, Node::OptionalOrValue(_)) => {
                        Ok((*value).clone())
                    }
                    optional @ Value::Optional(_) => Ok(optional),
                    _ => Err(EvalError::no_such_overload()),
                }
            }
            Node::Matches { subject, pattern, regex, cost } => {
                let subject = self.eval(subject)?;
                let args = [subject, Value::str(pattern)];
                self.spend(actual::call(*cost, &args, &Value::Null))?;
                match &args {
                    [Value::String(text), _] => Ok(Value::Bool(regex.is_match(text.as_str()))),
                    _ => Err(EvalError::no_such_overload()),
                }
            }
            Node::Call(call) => self.call(call),
            Node::List(items) => self.list(items),
            Node::Map(entries) => self.map(entries),
            Node::Struct { name, fields } => self.object(name, fields),
            Node::Fold(fold) => self.fold(fold),
            Node::Bind(parts) => {
                let [init, body] = &**parts;
                let init = self.eval(init);
                if let Err(error) = &init
                    && !error.can_be_absorbed()
                {
                    return init;
                }
                self.locals.push(init);
                let result = self.eval(body);
                self.locals.pop();
                result
            }
        }
    }

    /// `&&` and `||`. An error on one side does not count if the other side decides.
    fn logical(&mut self, terms: &'a [Node; 2], deciding: bool) -> Result<'a> {
        let [left, right] = terms;
        let left = self.eval(left);
        match &left {
            Ok(Value::Bool(value)) if *value == deciding => return left,
            Err(error) if !error.can_be_absorbed() => return left,
            _ => {}
        }
        let right = self.eval(right);
        match (left, right) {
            (_, Ok(Value::Bool(value))) if value == deciding => Ok(Value::Bool(deciding)),
            (_, Err(error)) if !error.can_be_absorbed() => Err(error),
            (Ok(Value::Bool(_)), Ok(Value::Bool(_))) => Ok(Value::Bool(!deciding)),
            (Err(error), _) | (Ok(Value::Bool(_)), Err(error)) => Err(error),
            _ => Err(EvalError::no_such_overload()),
        }
    }

    /// A branch, or an index: see [`Node::is_attribute`].
    fn branch(&mut self, node: &'a Node) -> Result<'a> {
        let value = self.eval(node)?;
        self.cost = self.cost.saturating_sub(u64::from(node.is_attribute()));
        Ok(value)
    }

    fn call(&mut self, call: &'a CallNode) -> Result<'a> {
        let mut args = smallvec::SmallVec::<[Value<'a>; 4]>::new();
        let mut failed = None;
        for (n, arg) in call.args.iter().enumerate() {
            let value = match call.kind {
                Special::Index if n == 1 => self.branch(arg),
                _ => self.eval(arg),
            };
            match value {
                Ok(value) => args.push(value),
                // Both sides of an operator are looked at, and it is charged, whatever they are.
                Err(error) if error.can_be_absorbed() && call.args.len() <= 2 => {
                    args.push(Value::Null);
                    failed.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(error) = failed {
            self.spend(actual::call(call.cost, &args, &Value::Null))?;
            return Err(error);
        }
        let result = match call.kind {
            Special::None | Special::Index => (call.call)(&mut self.effort, &args),
            Special::Add => {
                if let [Value::List(List::Owned(items)), Value::List(List::Owned(more))] =
                    args.as_mut_slice()
                    && let Some(owned) = Arc::get_mut(items)
                {
                    // Nobody else has this list: what a macro gathers grows in place.
                    self.cost = self.cost.saturating_add(actual::ADD_LIST);
                    self.effort.spend(more.len() as u64)?;
                    owned.extend(more.iter().cloned());
                    let result = args.swap_remove(0);
                    return self.spend(0).map(|()| result);
                }
                (call.call)(&mut self.effort, &args)
            }
            Special::MapInsert => {
                self.spend(1)?;
                let Some((first, rest)) = args.split_first_mut() else {
                    return Err(EvalError::no_such_overload());
                };
                return match std::mem::replace(first, Value::Null) {
                    Value::Map(Map::Owned(mut target)) => {
                        if Arc::get_mut(&mut target).is_none() {
                            self.effort.spend(target.len() as u64)?;
                        }
                        lists::map_insert_into(&mut target, rest)?;
                        Ok(Value::Map(Map::Owned(target)))
                    }
                    _ => Err(EvalError::no_such_overload()),
                };
            }
        };
        let cost = match &result {
            Ok(value) => actual::call(call.cost, &args, value),
            Err(error) if !error.can_be_absorbed() => return result,
            Err(_) => actual::call(call.cost, &args, &Value::Null),
        };
        self.spend(cost)?;
        result
    }

    /// The value of an element, and whether it is there.
    fn element(
        &mut self,
        node: &'a Node,
        optional: bool,
    ) -> std::result::Result<Option<Value<'a>>, EvalError> {
        let value = self.eval(node)?;
        match (optional, value) {
            (false, value) => Ok(Some(value)),
            (true, Value::Optional(value)) => Ok(value.map(|value| (*value).clone())),
            (true, value) => {
                let name = value.type_name();
                let message = format!(
                    "cannot initialize optional element from non-optional value of type {name}"
                );
                Err(EvalError::new(message))
            }
        }
    }

    fn list(&mut self, items: &'a [(Node, bool)]) -> Result<'a> {
        let mut values = Vec::with_capacity(items.len());
        for (item, optional) in items {
            values.extend(self.element(item, *optional)?);
        }
        self.spend(LIST)?;
        Ok(Value::list(values))
    }

    fn map(&mut self, entries: &'a [(Node, Node, bool)]) -> Result<'a> {
        let mut map = BTreeMap::new();
        for (key, value, optional) in entries {
            let key = self.eval(key)?;
            if let Some(value) = self.element(value, *optional)? {
                lists::insert(&mut map, key, value).map_err(|error| match error {
                    EvalError::Failed(message) => EvalError::Failed(
                        message.replace("insert failed: key", "Failed with repeated key"),
                    ),
                    other => other,
                })?;
            }
        }
        self.spend(MAP)?;
        Ok(Value::Map(Map::Owned(Arc::new(map))))
    }

    fn object(&mut self, name: &Arc<str>, fields: &'a [(Arc<str>, Node, bool)]) -> Result<'a> {
        let mut values = BTreeMap::new();
        for (field, value, optional) in fields {
            if let Some(value) = self.element(value, *optional)? {
                values.insert(field.clone(), value);
            }
        }
        self.spend(STRUCT)?;
        Ok(Value::Struct(Arc::new(Struct { type_name: name.clone(), fields: values })))
    }

    fn fold(&mut self, fold: &'a Fold) -> Result<'a> {
        let range = self.eval(&fold.range)?;
        let init = self.eval(&fold.init);
        debug_assert_eq!(self.locals.len(), fold.base, "places are counted from the outside");
        let base = self.locals.len();
        self.locals.push(init);
        let ended = match &range {
            Value::List(list) => self.fold_list(fold, list),
            Value::Map(map) => self.fold_map(fold, map),
            other => {
                Err(EvalError::new(format!("got '{}', expected iterable type", other.type_name())))
            }
        };
        self.locals.truncate(base + 1);
        let result = ended.and_then(|()| self.eval(&fold.result));
        self.locals.truncate(base);
        result
    }

    fn fold_list(&mut self, fold: &'a Fold, list: &List<'a>) -> std::result::Result<(), EvalError> {
        for (n, item) in list.iter().enumerate() {
            let going = if fold.two {
                self.step(fold, Ok(Value::Int(n as i64)), Some(item))?
            } else {
                self.step(fold, item, None)?
            };
            if !going {
                break;
            }
        }
        Ok(())
    }

    fn fold_map(&mut self, fold: &'a Fold, map: &Map<'a>) -> std::result::Result<(), EvalError> {
        for (key, value) in map.entries() {
            if !self.step(fold, Ok(key), fold.two.then_some(value))? {
                break;
            }
        }
        Ok(())
    }

    /// One element; whether there may be more.
    fn step(
        &mut self,
        fold: &'a Fold,
        first: Result<'a>,
        second: Option<Result<'a>>,
    ) -> std::result::Result<bool, EvalError> {
        let accu = self.locals.len() - 1;
        self.locals.push(first);
        self.locals.extend(second);
        let outcome = match self.eval(&fold.condition) {
            Ok(Value::Bool(true)) => Some(self.eval(&fold.step)),
            Ok(Value::Bool(false)) => None,
            Ok(_) => Some(Err(EvalError::no_such_overload())),
            Err(error) => Some(Err(error)),
        };
        self.locals.truncate(accu + 1);
        let Some(outcome) = outcome else { return Ok(false) };
        let mut going = true;
        if let Err(error) = &outcome {
            if !error.can_be_absorbed() {
                return Err(error.clone());
            }
            // Only `all` and `exists` can recover, and their conditions look at the state.
            going = !matches!(fold.condition, Node::Literal(_));
        }
        if let Some(slot) = self.locals.get_mut(accu) {
            *slot = outcome;
        }
        Ok(going)
    }
}

fn value_of(literal: &Literal) -> Value<'_> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(value) => Value::Bool(*value),
        Literal::Int(value) => Value::Int(*value),
        Literal::Uint(value) => Value::Uint(*value),
        Literal::Double(value) => Value::Double(*value),
        Literal::String(text) => Value::String(Text::Borrowed(text)),
        Literal::Bytes(bytes) => Value::Bytes(bytes.clone()),
    }
}
