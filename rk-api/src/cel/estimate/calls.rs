//! What calls cost.

use super::{Entries, Estimate, Estimator, LIST_BASE, ONE, ZERO, traversal};
use crate::cel::{
    actual::{CHECK, REGEX, TRAVERSAL, selector},
    ast::{Expr, Kind, Literal, op},
    check::Meaning,
    functions::Cost,
    types::{Library, Type},
};

/// The cost of a call, and the size of its result where that is known.
type Charged = (Estimate, Option<Estimate>);

/// A call being charged: the receiver counts as the first argument in some rules, not in others.
struct Call<'c> {
    expr: &'c Expr,
    target: Option<&'c Expr>,
    args: &'c [Expr],
    costs: Vec<Estimate>,
}

impl Call<'_> {
    /// The receiver, or the first argument.
    fn subject(&self) -> Option<&Expr> {
        self.target.or(self.args.first())
    }

    fn arg(&self, n: usize) -> Option<&Expr> {
        self.args.get(n)
    }

    fn costs(&self) -> Estimate {
        self.costs.iter().fold(ZERO, |sum, cost| sum.plus(*cost))
    }
}

impl Estimator<'_> {
    pub(super) fn call(&mut self, expr: &Expr, target: Option<&Expr>, args: &[Expr]) -> Estimate {
        let costs: Vec<_> = args.iter().map(|arg| self.cost(arg)).collect();
        let Some(Meaning::Call { function, overloads, qualified }) =
            self.checked.meaning(expr.id).cloned()
        else {
            // Optional selection: the operand, and one step.
            return costs.into_iter().fold(ONE, Estimate::plus);
        };
        let target = target.filter(|_| !qualified);
        let sum = target.map_or(ZERO, |target| self.cost(target));
        let call = Call { expr, target, args, costs };
        if let (Cost::ToDyn, [arg]) = (function.dynamic_cost, args) {
            let (size, entries) = (self.size(arg), self.entries(arg));
            self.sizes.extend(size.map(|size| (expr.id, size)));
            self.entries.extend(entries.map(|entries| (expr.id, entries)));
            return call.costs().plus(ONE);
        }
        let mut total: Option<Estimate> = None;
        let mut size: Option<Estimate> = None;
        for overload in &overloads {
            let (cost, result) = self.overload(&call, overload.cost);
            total = Some(total.map_or(cost, |total| total.union(cost)));
            if let Some(result) = result {
                size = Some(size.map_or(result, |size| size.union(result)));
            }
            if let (Cost::IndexList | Cost::IndexMap, Some(container)) =
                (overload.cost, args.first())
            {
                size = self.entries(container).map(|entries| entries.value);
                let step = if overload.cost == Cost::IndexList { "@items" } else { "@values" };
                if let Some(path) = Self::step(self.path(container).as_ref(), step) {
                    self.paths.insert(expr.id, path);
                }
            }
            if size.is_none() {
                size = self.size(expr);
            }
        }
        self.sizes.extend(size.map(|size| (expr.id, size)));
        sum.plus(total.unwrap_or(ZERO))
    }

    fn of(&mut self, expr: Option<&Expr>) -> Estimate {
        expr.map_or(Estimate::UNKNOWN, |expr| self.size_or_unknown(expr))
    }

    fn overload(&mut self, call: &Call<'_>, cost: Cost) -> Charged {
        let args = call.costs();
        match cost {
            // These decide themselves which of their arguments count.
            Cost::And | Cost::Or => {
                let [left, right] = call.costs.as_slice() else { return (args, None) };
                (Estimate { min: left.min, max: left.plus(*right).max }, None)
            }
            Cost::Conditional => self.conditional(call),
            _ => {
                let (own, size) = self.own(call, cost);
                (own.plus(args), size)
            }
        }
    }

    fn conditional(&mut self, call: &Call<'_>) -> Charged {
        let ([_, yes, no], [condition, yes_cost, no_cost]) = (call.args, call.costs.as_slice())
        else {
            return (call.costs(), None);
        };
        let size = self.size_or_unknown(yes).union(self.size_or_unknown(no));
        let entries = Entries::union(self.entries(yes), self.entries(no));
        self.entries.extend(entries.map(|entries| (call.expr.id, entries)));
        (condition.plus(yes_cost.union(*no_cost)), Some(size))
    }

    /// The cost of the call without that of its arguments.
    fn own(&mut self, call: &Call<'_>, cost: Cost) -> Charged {
        let subject = self.of(call.subject());
        let only = |cost: Estimate| (cost, None);
        match cost {
            Cost::Equals | Cost::OrderText => self.comparison(call, cost),
            Cost::AddText | Cost::AddList => {
                let (left, right) = (self.of(call.arg(0)), self.of(call.arg(1)));
                let size = left.plus(right);
                if let [left, right] = call.args {
                    let entries = Entries::union(self.entries(left), self.entries(right));
                    self.entries.extend(entries.map(|entries| (call.expr.id, entries)));
                }
                (if cost == Cost::AddList { ONE } else { traversal(size) }, Some(size))
            }
            Cost::InList => only(self.of(call.arg(1)).scaled(1.0)),
            Cost::StringToBytes => {
                let size = Estimate { min: subject.min, max: subject.max.saturating_mul(4) };
                (traversal(subject), Some(size))
            }
            Cost::BytesToString => {
                (traversal(subject), Some(Estimate { min: subject.min / 4, max: subject.max }))
            }
            Cost::Quote => {
                let min = subject.min.saturating_add(2);
                let max = subject.max.saturating_mul(2).saturating_add(2);
                (traversal(subject), Some(Estimate { min, max }))
            }
            Cost::Format => only(traversal(subject)),
            Cost::Affix => only(traversal(self.of(call.arg(0)))),
            Cost::Contains => only(traversal(subject).times(traversal(self.of(call.arg(0))))),
            Cost::Matches | Cost::Find => {
                let text = traversal(subject.plus(ONE));
                let cost_here = text.times(self.of(call.arg(0)).scaled(REGEX));
                let size = Estimate { min: 0, max: subject.max };
                (cost_here, (cost == Cost::Find).then_some(size))
            }
            Cost::Transform | Cost::Url => (traversal(subject), Some(subject)),
            Cost::Parse => only(traversal(subject)),
            Cost::ParseTwice => only(subject.scaled(2.0 * TRAVERSAL)),
            Cost::Replace => {
                let (old, new) = (self.of(call.arg(0)), self.of(call.arg(1)));
                (subject.scaled(2.0 * TRAVERSAL), Some(replaced(subject, old, new)))
            }
            Cost::Split => {
                let max = match call.arg(1).map(|arg| &arg.kind) {
                    Some(Kind::Literal(Literal::Int(limit))) => *limit as u64,
                    _ => subject.max,
                };
                (subject.scaled(2.0 * TRAVERSAL), Some(Estimate { min: 0, max }))
            }
            Cost::Join => self.join(call, subject),
            Cost::ListScan => only(self.list_scan(call, subject)),
            Cost::Check => only(Estimate::fixed(CHECK)),
            Cost::Selector => {
                let length = self.of(call.arg(0));
                only(Estimate { min: selector(length.min), max: selector(length.max) })
            }
            Cost::ContainsIp { text } => only(self.contains(call, text, false)),
            Cost::ContainsCidr { text } => only(self.contains(call, text, true)),
            Cost::Validate => {
                // The longest of the formats.
                let text = traversal(self.of(call.arg(0)));
                only(text.scaled(128.0 * REGEX))
            }
            Cost::Slice
            | Cost::Flatten
            | Cost::Range
            | Cost::Reverse
            | Cost::Distinct
            | Cost::Sort { .. }
            | Cost::SortBy { .. }
            | Cost::Sets { .. } => self.lists(call, cost, subject),
            Cost::One
            | Cost::IndexList
            | Cost::IndexMap
            | Cost::ToDyn
            | Cost::And
            | Cost::Or
            | Cost::Conditional => only(ONE),
        }
    }

    fn comparison(&mut self, call: &Call<'_>, cost: Cost) -> Charged {
        let [left, right] = call.args else { return (ONE, None) };
        let is_equals =
            matches!(&call.expr.kind, Kind::Call { function, .. } if **function == *op::EQUALS);
        let (left_type, right_type) =
            (self.checked.type_of(left.id), self.checked.type_of(right.id));
        if cost == Cost::Equals
            && is_equals
            && left_type == right_type
            && let Type::Library(library) = left_type
        {
            let max = match library {
                Library::Format => 64,
                Library::Url => self.size(right).map_or(1, |size| size.max.max(1)),
                _ => return (ONE, None),
            };
            return (traversal(Estimate { min: 1, max }), None);
        }
        let max = self.size_or_unknown(left).max.min(self.size_or_unknown(right).max);
        (traversal(Estimate { min: u64::from(max > 0), max }), None)
    }

    /// The size of the items of a list, by its type and where it comes from.
    fn items(&mut self, list: &Expr) -> Option<(Type, Estimate)> {
        let element = match self.checked.type_of(list.id) {
            Type::List(element) | Type::Optional(element) => (**element).clone(),
            Type::Map(entry) => entry.0.clone(),
            _ => return None,
        };
        let path = Self::step(self.path(list).as_ref(), "@items");
        let size = path.and_then(|path| self.declared_size(&path));
        Some((element, size.unwrap_or(Estimate::UNKNOWN)))
    }

    fn list_scan(&mut self, call: &Call<'_>, subject: Estimate) -> Estimate {
        let Some(target) = call.target else { return ONE };
        match self.items(target) {
            Some((element, size)) => {
                let text = matches!(element, Type::String | Type::Bytes);
                subject.times(if text { ONE.plus(traversal(size)) } else { ONE })
            }
            None if *self.checked.type_of(target.id) == Type::Dyn => subject,
            None => traversal(subject),
        }
    }

    fn join(&mut self, call: &Call<'_>, list: Estimate) -> Charged {
        let mut size = ZERO;
        if let Some(target) = call.target
            && let Some((_, items)) = self.items(target)
        {
            size = list.times(items);
        }
        if let Some(separator) = call.arg(0) {
            let between =
                Estimate { min: list.min.saturating_sub(1), max: list.max.saturating_sub(1) };
            size = size.plus(self.size_or_unknown(separator).times(between));
        }
        (traversal(size), Some(size))
    }

    /// Comparing addresses of 4 to 16 bytes.
    fn contains(&mut self, call: &Call<'_>, text: bool, range: bool) -> Estimate {
        let bytes = Estimate { min: 4, max: 16 };
        let mut cost = traversal(bytes.plus(bytes));
        if range {
            cost = cost.plus(traversal(bytes)).plus(ONE);
        }
        if text {
            cost = cost.plus(traversal(self.of(call.arg(0))));
        }
        cost
    }

    /// cel-go's own extensions.
    fn lists(&mut self, call: &Call<'_>, cost: Cost, subject: Estimate) -> Charged {
        let allocating = |factor: f64, size: Estimate| {
            let cost = size.scaled(factor).plus(ONE).plus(Estimate::fixed(LIST_BASE));
            (cost, Some(size))
        };
        let literal = |n: usize, default: u64| match call.arg(n).map(|arg| &arg.kind) {
            Some(Kind::Literal(Literal::Int(value))) => u64::try_from(*value).unwrap_or(0),
            _ => default,
        };
        let squared = |size: Estimate, text: bool| {
            allocating(if text { 2.0 + TRAVERSAL } else { 2.0 }, size.times(size))
        };
        match cost {
            Cost::Slice => {
                let length = literal(1, subject.max).saturating_sub(literal(0, 0));
                allocating(1.0, Estimate::fixed(length))
            }
            Cost::Range => allocating(1.0, Estimate::fixed(literal(0, u64::MAX))),
            Cost::Reverse => allocating(1.0, subject),
            Cost::Flatten => {
                let depth = if call.args.is_empty() { 1 } else { literal(0, u64::MAX) };
                allocating(depth as f64, subject)
            }
            Cost::Distinct => squared(subject, false),
            Cost::Sort { text } => squared(subject, text),
            Cost::SortBy { text } => squared(self.of(call.arg(0)), text),
            Cost::Sets { passes } => {
                let pairs = self.of(call.arg(0)).times(self.of(call.arg(1)));
                (pairs.scaled(f64::from(passes)).plus(ONE), None)
            }
            _ => (ONE, None),
        }
    }
}

/// The size of a string in which some parts are replaced by others.
fn replaced(subject: Estimate, old: Estimate, new: Estimate) -> Estimate {
    let per = |length: u64, part: u64| (length as f64 / part as f64).ceil() as u64;
    // An empty part is found around every character.
    let (most, kept_max) = if old.min == 0 {
        (subject.max.saturating_add(1), subject.max)
    } else if new.max <= old.min {
        (0, subject.max)
    } else {
        (per(subject.max, old.min), 0)
    };
    let (least, kept_min) = if old.max == 0 {
        (subject.min.saturating_add(1), subject.min)
    } else if old.max <= new.min {
        (0, subject.min)
    } else {
        (per(subject.min, old.max), 0)
    };
    let replaced = Estimate { min: least, max: most }.times(new);
    replaced.plus(Estimate { min: kept_min, max: kept_max })
}
