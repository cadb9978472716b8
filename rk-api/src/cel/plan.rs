//! From a checked tree to what is evaluated: names are resolved, functions found, regular
//! expressions compiled.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    ast::{Ast, Comprehension, Expr, Kind, Literal, op},
    check::{Checked, Meaning},
    functions::{Call, Cost, lists},
    regex,
    value::TypeName,
};

/// A step of an evaluation.
#[derive(Debug)]
pub(crate) enum Node {
    Literal(Literal),
    /// What can be computed ahead: lists and maps of literals, and conversions of them. They cost
    /// nothing.
    Constant(Box<Node>),
    /// Whether a value is in a list of literals, which costs nothing, either.
    InConstant(Box<[Node; 2]>),
    TypeName(TypeName),
    Variable(Arc<str>),
    /// A variable of a macro, by its place.
    Local(usize),
    /// The same, when nothing reads it afterwards: it can be changed in place.
    TakeLocal(usize),
    Select {
        operand: Box<Node>,
        field: Arc<str>,
    },
    Has {
        operand: Box<Node>,
        field: Arc<str>,
    },
    OptionalSelect {
        operand: Box<Node>,
        field: Arc<str>,
    },
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    Conditional(Box<[Node; 3]>),
    NotStrictlyFalse(Box<Node>),
    /// `optional.or(optional)`
    OptionalOr(Box<[Node; 2]>),
    /// `optional.orValue(value)`
    OptionalOrValue(Box<[Node; 2]>),
    Matches {
        subject: Box<Node>,
        pattern: Arc<str>,
        regex: Box<::regex::Regex>,
        cost: Cost,
    },
    Call(Box<CallNode>),
    List(Vec<(Node, bool)>),
    Map(Vec<(Node, Node, bool)>),
    Struct {
        name: Arc<str>,
        fields: Vec<(Arc<str>, Node, bool)>,
    },
    Fold(Box<Fold>),
    Bind(Box<[Node; 2]>),
}

#[derive(Debug)]
pub(crate) struct CallNode {
    pub call: Call,
    pub cost: Cost,
    pub args: Vec<Node>,
    /// Whether the first argument can be added to in place.
    pub kind: Special,
}

/// Calls that the evaluator helps along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    None,
    /// `a[b]`
    Index,
    Add,
    MapInsert,
}

/// A macro over a list or map. Its variables are in the places from `base`: the accumulator, then
/// one or two.
#[derive(Debug)]
pub(crate) struct Fold {
    pub base: usize,
    pub two: bool,
    pub range: Node,
    pub init: Node,
    pub condition: Node,
    pub step: Node,
    pub result: Node,
}

/// What is evaluated, and the variables it reads.
#[derive(Debug)]
pub(crate) struct Plan {
    pub root: Node,
    pub variables: BTreeSet<Arc<str>>,
}

/// Plans a checked expression.
pub(crate) fn plan(ast: &Ast, checked: &Checked) -> Plan {
    let mut planner = Planner { checked, variables: BTreeSet::new(), scopes: Vec::new() };
    let root = planner.expr(&ast.root);
    Plan { root, variables: planner.variables }
}

struct Planner<'p> {
    checked: &'p Checked,
    variables: BTreeSet<Arc<str>>,
    scopes: Vec<Arc<str>>,
}

impl Planner<'_> {
    fn boxed(&mut self, expr: &Expr) -> Box<Node> {
        Box::new(self.expr(expr))
    }

    fn expr(&mut self, expr: &Expr) -> Node {
        match self.checked.meaning(expr.id) {
            Some(Meaning::Variable(name)) => {
                self.variables.insert(name.clone());
                return Node::Variable(name.clone());
            }
            Some(Meaning::Local(name)) => {
                let place = self.scopes.iter().rposition(|known| known == name);
                return place.map_or(Node::Literal(Literal::Null), Node::Local);
            }
            Some(Meaning::TypeName(_)) => {
                let shown = match self.checked.type_of(expr.id) {
                    super::types::Type::Type(of) => of.runtime_name().into(),
                    _ => Arc::from(""),
                };
                return Node::TypeName(TypeName(shown));
            }
            _ => {}
        }
        match &expr.kind {
            Kind::Literal(literal) => Node::Literal(literal.clone()),
            Kind::Ident(name) => Node::Variable(name.clone()),
            Kind::Select { operand, field, test } => {
                let (operand, field) = (self.boxed(operand), field.clone());
                if *test { Node::Has { operand, field } } else { Node::Select { operand, field } }
            }
            Kind::Call { function, target, args } => {
                self.call(expr, function, target.as_deref(), args)
            }
            Kind::List(items) => {
                let items: Vec<_> =
                    items.iter().map(|(item, optional)| (self.expr(item), *optional)).collect();
                let constant = items.iter().all(|(item, optional)| item.is_constant() && !optional);
                constant_if(constant, Node::List(items))
            }
            Kind::Map(entries) => {
                let entries: Vec<_> = entries
                    .iter()
                    .map(|entry| (self.expr(&entry.key), self.expr(&entry.value), entry.optional))
                    .collect();
                let constant = entries.iter().all(|(key, value, optional)| {
                    key.is_constant() && value.is_constant() && !optional
                });
                constant_if(constant, Node::Map(entries))
            }
            Kind::Struct { name, fields } => Node::Struct {
                name: name.trim_start_matches('.').into(),
                fields: fields
                    .iter()
                    .map(|field| (field.name.clone(), self.expr(&field.value), field.optional))
                    .collect(),
            },
            Kind::Comprehension(fold) => self.fold(fold),
        }
    }

    fn call(&mut self, expr: &Expr, name: &str, target: Option<&Expr>, args: &[Expr]) -> Node {
        if let (op::OPT_SELECT, [operand, field]) = (name, args)
            && let Kind::Literal(Literal::String(field)) = &field.kind
        {
            return Node::OptionalSelect { operand: self.boxed(operand), field: field.clone() };
        }
        // What is checked has a meaning.
        let Some(Meaning::Call { function, overloads, qualified }) = self.checked.meaning(expr.id)
        else {
            return Node::Literal(Literal::Null);
        };
        let target = target.filter(|_| !qualified);
        let mut nodes: Vec<Node> =
            target.into_iter().chain(args).map(|arg| self.expr(arg)).collect();
        let (cost, call) = match overloads.as_slice() {
            [overload] => (overload.cost, lists::sum_of(overload.id).unwrap_or(function.call)),
            _ => (function.dynamic_cost, function.call),
        };
        let pattern = args.last().map(|arg| &arg.kind);
        if let ("matches", Some(Kind::Literal(Literal::String(pattern)))) = (function.name, pattern)
            && let Ok(regex) = regex::compile(pattern)
        {
            nodes.pop();
            if let Some(subject) = nodes.pop() {
                let (subject, regex) = (Box::new(subject), Box::new(regex));
                return Node::Matches { subject, pattern: pattern.clone(), regex, cost };
            }
        }
        let kind = match function.name {
            op::ADD => Special::Add,
            op::INDEX => Special::Index,
            "cel.@mapInsert" => Special::MapInsert,
            _ => Special::None,
        };
        let lazy = match (function.name, <[Node; 2]>::try_from(nodes)) {
            (op::AND, Ok(args)) => return Node::And(Box::new(args)),
            (op::OR, Ok(args)) => return Node::Or(Box::new(args)),
            ("or", Ok(args)) => return Node::OptionalOr(Box::new(args)),
            ("orValue", Ok(args)) => return Node::OptionalOrValue(Box::new(args)),
            (_, Ok(args)) => Vec::from(args),
            (_, Err(args)) => args,
        };
        match (function.name, <[Node; 3]>::try_from(lazy)) {
            (op::CONDITIONAL, Ok(args)) => Node::Conditional(Box::new(args)),
            (name, args) => {
                let mut args = args.map_or_else(|args| args, Vec::from);
                if name == op::NOT_STRICTLY_FALSE
                    && let Some(arg) = args.pop()
                {
                    return Node::NotStrictlyFalse(Box::new(arg));
                }
                if let (op::IN, Cost::InList, [_, Node::Constant(_)]) =
                    (name, cost, args.as_slice())
                    && let Ok(pair) = <[Node; 2]>::try_from(std::mem::take(&mut args))
                {
                    return Node::InConstant(Box::new(pair));
                }
                let constant = CONVERSIONS.contains(&name) && args.iter().all(Node::is_constant);
                let call = CallNode { call, cost, args, kind };
                constant_if(constant, Node::Call(Box::new(call)))
            }
        }
    }

    fn fold(&mut self, fold: &Comprehension) -> Node {
        let base = self.scopes.len();
        if fold.is_bind() {
            let init = self.expr(&fold.init);
            self.scopes.push(fold.accu.clone());
            let body = self.expr(&fold.result);
            self.scopes.truncate(base);
            return Node::Bind(Box::new([init, body]));
        }
        // Evaluated before the variables of this macro have their places.
        let range = self.expr(&fold.range);
        let init = self.expr(&fold.init);
        self.scopes.push(fold.accu.clone());
        self.scopes.push(fold.var.clone());
        self.scopes.extend(fold.var2.clone());
        let condition = self.expr(&fold.condition);
        let mut step = self.expr(&fold.step);
        take_accumulator(&mut step, base);
        self.scopes.truncate(base + 1);
        let result = self.expr(&fold.result);
        self.scopes.truncate(base);
        let two = fold.var2.is_some();
        Node::Fold(Box::new(Fold { base, two, range, init, condition, step, result }))
    }
}

/// Functions whose results are computed ahead when their arguments are literals.
const CONVERSIONS: &[&str] =
    &["bool", "bytes", "double", "duration", "dyn", "int", "string", "timestamp", "uint"];

impl Node {
    fn is_constant(&self) -> bool {
        matches!(self, Node::Literal(_) | Node::Constant(_) | Node::TypeName(_))
    }

    /// Whether this is a variable, or a field somewhere in one. As a branch or an index these cost
    /// one less: cel-go does not count the variable then.
    pub fn is_attribute(&self) -> bool {
        match self {
            Node::Variable(_) | Node::Local(_) | Node::TakeLocal(_) => true,
            Node::Select { operand, .. } => operand.is_attribute(),
            _ => false,
        }
    }
}

fn constant_if(constant: bool, node: Node) -> Node {
    if constant { Node::Constant(Box::new(node)) } else { node }
}

/// `accu + […]` and the like replace the accumulator, so they may change the one there is. No text
/// can name it, so nothing else in the step reads it.
fn take_accumulator(step: &mut Node, accu: usize) {
    match step {
        Node::Local(place) if *place == accu => *step = Node::TakeLocal(accu),
        Node::Call(call) if matches!(call.kind, Special::Add | Special::MapInsert) => {
            if let Some(first) = call.args.first_mut() {
                take_accumulator(first, accu);
            }
        }
        Node::Conditional(parts) => {
            let [_, yes, no] = &mut **parts;
            take_accumulator(yes, accu);
            take_accumulator(no, accu);
        }
        _ => {}
    }
}
