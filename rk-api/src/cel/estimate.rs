//! What evaluating an expression costs at least and at most, before it is evaluated.
//!
//! The numbers decide which rules a custom resource may have, so they follow cel-go's
//! `checker/cost.go` and Kubernetes' `library/cost.go` closely, oddities included.

mod calls;

use std::{collections::HashMap, sync::Arc};

use super::{
    actual::{LIST_BASE, TRAVERSAL},
    ast::{Ast, Comprehension, Expr, Id, Kind, Literal},
    check::{Checked, Meaning},
    env::Env,
    types::Type,
};

/// At least and at most: of sizes, or of costs. The largest number stands for "no limit".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// At least.
    pub min: u64,
    /// At most.
    pub max: u64,
}

impl Estimate {
    pub(crate) const UNKNOWN: Self = Self { min: 0, max: u64::MAX };

    /// Exactly this.
    pub const fn fixed(n: u64) -> Self {
        Self { min: n, max: n }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    pub(crate) fn times(self, other: Self) -> Self {
        Self { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    /// Times a factor, rounded up.
    pub(crate) fn scaled(self, factor: f64) -> Self {
        // Beyond the range, the conversion stays at the largest number.
        let scale = |n: u64| (n as f64 * factor).ceil() as u64;
        Self { min: scale(self.min), max: scale(self.max) }
    }

    /// What both are within.
    pub(crate) fn union(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// Estimates a checked expression.
pub(crate) fn estimate(ast: &Ast, checked: &Checked, env: &Env) -> Estimate {
    let mut estimator = Estimator {
        checked,
        env,
        paths: HashMap::new(),
        sizes: HashMap::new(),
        entries: HashMap::new(),
        locals: Vec::new(),
    };
    estimator.cost(&ast.root)
}

/// Where in a variable a value comes from: the variable, then fields, `@items` and the like.
type Path = Arc<[Arc<str>]>;

/// The sizes of what is in a list or map.
#[derive(Clone, Copy, Debug)]
struct Entries {
    list: bool,
    key: Estimate,
    value: Estimate,
}

impl Entries {
    fn union(left: Option<Self>, right: Option<Self>) -> Option<Self> {
        let (left, right) = (left?, right?);
        Some(Self {
            list: left.list,
            key: left.key.union(right.key),
            value: left.value.union(right.value),
        })
    }
}

struct Local {
    name: Arc<str>,
    path: Option<Path>,
    size: Option<Estimate>,
    entries: Option<Entries>,
}

struct Estimator<'e> {
    checked: &'e Checked,
    env: &'e Env,
    paths: HashMap<Id, Path>,
    sizes: HashMap<Id, Estimate>,
    entries: HashMap<Id, Entries>,
    locals: Vec<Local>,
}

const ONE: Estimate = Estimate::fixed(1);
const ZERO: Estimate = Estimate::fixed(0);

/// The place where a macro gathers leads to no variable.
fn is_accumulator(name: &str) -> bool {
    name.starts_with("@result") || name == "__result__"
}

impl Estimator<'_> {
    fn local(&self, expr: &Expr) -> Option<&Local> {
        let Kind::Ident(name) = &expr.kind else { return None };
        self.locals.iter().rev().find(|local| local.name == *name)
    }

    fn path(&self, expr: &Expr) -> Option<Path> {
        match self.local(expr) {
            Some(local) => local.path.clone(),
            None => self.paths.get(&expr.id).cloned(),
        }
    }

    /// One step further. What comes from no variable begins a path of its own, of which nothing is
    /// known but what [`Self::declared_size`] says of it.
    fn step(path: Option<&Path>, step: &str) -> Option<Path> {
        let mut longer = path.map_or_else(Vec::new, |path| path.to_vec());
        longer.push(step.into());
        Some(longer.into())
    }

    /// The size of a value by the schema of where it comes from.
    fn declared_size(&self, path: &[Arc<str>]) -> Option<Estimate> {
        let (variable, steps) = path.split_first()?;
        if is_accumulator(variable) {
            return None;
        }
        // Kubernetes does not look at the variable: every path is one into `self`.
        let root = self.env.schema(variable).or_else(|| self.env.schema("self"))?;
        let schema = steps.iter().try_fold(root, |at, step| at.step(step))?;
        // What has no declared size counts as empty: so does Kubernetes.
        Some(Estimate { min: 0, max: schema.max_elements.unwrap_or(0) })
    }

    fn size(&mut self, expr: &Expr) -> Option<Estimate> {
        if let Some(size) = self.sizes.get(&expr.id) {
            return Some(*size);
        }
        let literal = match &expr.kind {
            Kind::Literal(Literal::String(text)) => Some(text.chars().count() as u64),
            Kind::Literal(Literal::Bytes(bytes)) => Some(bytes.len() as u64),
            Kind::Literal(_) => Some(1),
            Kind::List(items) => Some(items.len() as u64),
            Kind::Map(entries) => Some(entries.len() as u64),
            _ => None,
        };
        if let Some(size) = literal {
            return Some(Estimate::fixed(size));
        }
        if let Some(path) = self.path(expr)
            && let Some(size) = self.declared_size(&path)
        {
            self.sizes.insert(expr.id, size);
            return Some(size);
        }
        if is_scalar(self.checked.type_of(expr.id)) {
            return Some(ONE);
        }
        self.local(expr).and_then(|local| local.size)
    }

    fn size_or_unknown(&mut self, expr: &Expr) -> Estimate {
        self.size(expr).unwrap_or(Estimate::UNKNOWN)
    }

    fn entries(&self, expr: &Expr) -> Option<Entries> {
        let known = self.entries.get(&expr.id).copied();
        known.or_else(|| self.local(expr).and_then(|local| local.entries))
    }

    fn cost(&mut self, expr: &Expr) -> Estimate {
        // A name with dots is one variable.
        if let Some(Meaning::Variable(name) | Meaning::TypeName(name)) =
            self.checked.meaning(expr.id)
        {
            self.paths.insert(expr.id, Arc::new([name.clone()]));
            return ONE;
        }
        match &expr.kind {
            Kind::Literal(_) => ZERO,
            Kind::Ident(name) => {
                let path = match self.local(expr) {
                    Some(local) => local.path.clone(),
                    None => Some(Arc::from([name.clone()])),
                };
                if let Some(path) = path {
                    self.paths.insert(expr.id, path);
                }
                ONE
            }
            Kind::Select { operand, field, test } => {
                let sum = self.cost(operand);
                if *test {
                    return sum;
                }
                if let Some(path) = Self::step(self.path(operand).as_ref(), field) {
                    self.paths.insert(expr.id, path);
                }
                match self.checked.type_of(operand.id) {
                    Type::Map(_) | Type::Object(_) | Type::Library(_) => sum.plus(ONE),
                    _ => sum,
                }
            }
            Kind::Call { target, args, .. } => self.call(expr, target.as_deref(), args),
            Kind::List(items) => {
                let mut sum = ZERO;
                let mut value = Estimate { min: u64::MAX, max: 0 };
                for (item, _) in items {
                    sum = sum.plus(self.cost(item));
                    value = value.union(self.size_or_unknown(item));
                }
                if items.is_empty() {
                    value.min = 0;
                }
                self.entries.insert(expr.id, Entries { list: true, key: ONE, value });
                sum.plus(Estimate::fixed(LIST_BASE))
            }
            Kind::Map(entries) => {
                let mut sum = ZERO;
                // The most of keys and values starts there in cel-go, too.
                let none = Estimate { min: u64::MAX, max: 0 };
                let (mut key, mut value) = (none, none);
                for entry in entries {
                    sum = sum.plus(self.cost(&entry.key)).plus(self.cost(&entry.value));
                    key = key.union(self.size_or_unknown(&entry.key));
                    value = value.union(self.size_or_unknown(&entry.value));
                }
                if entries.is_empty() {
                    (key.min, value.min) = (0, 0);
                }
                self.entries.insert(expr.id, Entries { list: false, key, value });
                sum.plus(Estimate::fixed(30))
            }
            Kind::Struct { fields, .. } => {
                let mut sum = Estimate::fixed(40);
                for field in fields {
                    sum = sum.plus(self.cost(&field.value));
                }
                sum
            }
            Kind::Comprehension(fold) if fold.is_bind() => self.bind(expr, fold),
            Kind::Comprehension(fold) => self.comprehension(expr, fold),
        }
    }

    fn bind(&mut self, expr: &Expr, fold: &Comprehension) -> Estimate {
        let sum = self.cost(&fold.range).plus(self.cost(&fold.init));
        let local = self.named(fold.accu.clone(), &fold.init);
        self.locals.push(local);
        let sum = sum.plus(self.cost(&fold.result));
        let (size, entries) = (self.size(&fold.result), self.entries(&fold.result));
        self.locals.pop();
        self.sizes.extend(size.map(|size| (expr.id, size)));
        self.entries.extend(entries.map(|entries| (expr.id, entries)));
        sum
    }

    /// A variable that stands for an expression.
    fn named(&mut self, name: Arc<str>, of: &Expr) -> Local {
        let size = self.size(of);
        Local { name, path: self.path(of), size, entries: self.entries(of) }
    }

    fn comprehension(&mut self, expr: &Expr, fold: &Comprehension) -> Estimate {
        let mut sum = self.cost(&fold.range).plus(self.cost(&fold.init));
        let outer = self.locals.len();
        let accu = self.named(fold.accu.clone(), &fold.init);
        self.locals.push(accu);
        self.iterate(fold);
        let looping = self.cost(&fold.condition);
        let step = self.cost(&fold.step);
        self.locals.truncate(outer + 1);
        sum = sum.plus(self.cost(&fold.result));
        self.locals.truncate(outer);
        let count = self.size_or_unknown(&fold.range);
        sum = sum.plus(count.times(step.plus(looping)));
        match &fold.init.kind {
            Kind::Literal(_) => {
                let size = self.size(&fold.init);
                self.sizes.extend(size.map(|size| (expr.id, size)));
            }
            Kind::List(_) | Kind::Map(_) => {
                self.sizes.insert(expr.id, count);
                if let Some(entries) = self.entries(&fold.step) {
                    self.entries.insert(expr.id, entries);
                }
            }
            _ => {}
        }
        sum
    }

    /// The variables of a macro, for what they iterate over.
    fn iterate(&mut self, fold: &Comprehension) {
        let entries = self.entries(&fold.range);
        let path = self.path(&fold.range);
        let is_list = match entries {
            Some(entries) => entries.list,
            None => matches!(self.checked.type_of(fold.range.id), Type::List(_)),
        };
        let key = (if is_list { "@indices" } else { "@keys" }, entries.map(|e| e.key));
        let value = (if is_list { "@items" } else { "@values" }, entries.map(|e| e.value));
        let variables = match &fold.var2 {
            Some(var2) => vec![(fold.var.clone(), key), (var2.clone(), value)],
            None => vec![(fold.var.clone(), if is_list { value } else { key })],
        };
        for (name, (step, size)) in variables {
            let path = Self::step(path.as_ref(), step);
            self.locals.push(Local { name, path, size, entries: None });
        }
    }
}

/// Types whose values are all of one size.
fn is_scalar(of: &Type) -> bool {
    match of {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => {
            true
        }
        Type::Optional(inner) => is_scalar(inner),
        _ => false,
    }
}

/// One look at a string of this size.
fn traversal(size: Estimate) -> Estimate {
    size.scaled(TRAVERSAL)
}
