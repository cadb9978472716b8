//! Macros: calls that stand for a fold over a list or map (CEL specification, "Macros"; cel-go's
//! extensions for two variables, bindings, optional values and sorting).

use std::sync::Arc;

use super::{
    ast::{
        ACCUMULATOR, Ast, Comprehension, Entry, Expr, FieldInit, Id, Kind, Literal, Positions, op,
    },
    issues::{CompileError, Issues},
};

/// Copies of a macro's target multiply where such macros follow each other, so that a short text
/// can stand for a huge tree. Nobody writes one this large.
const MAX_NODES: usize = 200_000;

/// Replaces all macros of `ast` by what they stand for.
///
/// # Errors
/// Macros with arguments that they cannot have.
pub(crate) fn expand(source: &str, ast: &Ast) -> Result<Ast, CompileError> {
    let mut expander = Expander { positions: ast.positions.clone(), issues: Issues::new(source) };
    let root = expander.expr(&ast.root);
    let Expander { positions, mut issues } = expander;
    if positions.len() > MAX_NODES {
        issues = Issues::new(source);
        issues.report_whole("expression expands to too many nodes");
    }
    match issues.into_error() {
        Some(error) => Err(error),
        None => Ok(Ast { root, positions }),
    }
}

struct Expander<'s> {
    positions: Positions,
    issues: Issues<'s>,
}

impl Expander<'_> {
    fn expr(&mut self, expr: &Expr) -> Expr {
        let kind = match &expr.kind {
            Kind::Literal(_) | Kind::Ident(_) => expr.kind.clone(),
            // The parser makes none.
            Kind::Comprehension(_) => expr.kind.clone(),
            Kind::Select { operand, field, test } => Kind::Select {
                operand: Box::new(self.expr(operand)),
                field: field.clone(),
                test: *test,
            },
            Kind::List(items) => Kind::List(
                items.iter().map(|(item, optional)| (self.expr(item), *optional)).collect(),
            ),
            Kind::Map(entries) => Kind::Map(
                entries
                    .iter()
                    .map(|entry| Entry {
                        key: self.expr(&entry.key),
                        value: self.expr(&entry.value),
                        optional: entry.optional,
                    })
                    .collect(),
            ),
            Kind::Struct { name, fields } => Kind::Struct {
                name: name.clone(),
                fields: fields
                    .iter()
                    .map(|field| FieldInit { value: self.expr(&field.value), ..field.clone() })
                    .collect(),
            },
            Kind::Call { function, target, args } => {
                let target = target.as_ref().map(|target| self.expr(target));
                let args: Vec<_> = args.iter().map(|arg| self.expr(arg)).collect();
                let at = self.positions.get(expr.id);
                return self.call(expr.id, at, function, target, args);
            }
        };
        Expr { id: expr.id, kind }
    }

    fn call(
        &mut self,
        id: Id,
        at: usize,
        function: &Arc<str>,
        target: Option<Expr>,
        mut args: Vec<Expr>,
    ) -> Expr {
        let mut make = Make { positions: &mut self.positions, issues: &mut self.issues, at };
        let expanded = match (&**function, target, args.as_mut_slice()) {
            ("has", None, [arg]) => make.has(arg),
            ("bind", Some(target), [name, init, body])
                if target.kind == Kind::Ident("cel".into()) =>
            {
                make.bind(name, init, body)
            }
            (name, Some(target), [var, body]) if one_variable(name) => {
                make.one_variable(name, target, var, None, body)
            }
            ("map", Some(target), [var, filter, body]) => {
                make.one_variable("map", target, var, Some(filter), body)
            }
            (name, Some(target), [var, var2, body]) if two_variables(name) => {
                make.two_variables(name, target, [var, var2], None, body)
            }
            (name, Some(target), [var, var2, filter, body]) if name.starts_with("transform") => {
                if !two_variables(name) {
                    let kind = Kind::Call {
                        function: function.clone(),
                        target: Some(Box::new(target)),
                        args,
                    };
                    return Expr { id, kind };
                }
                make.two_variables(name, target, [var, var2], Some(filter), body)
            }
            (_, target, _) => {
                let target = target.map(Box::new);
                return Expr { id, kind: Kind::Call { function: function.clone(), target, args } };
            }
        };
        // The place of what is refused is of no use further on.
        expanded.unwrap_or(Expr { id, kind: Kind::Literal(Literal::Null) })
    }
}

fn one_variable(name: &str) -> bool {
    matches!(
        name,
        "all"
            | "exists"
            | "exists_one"
            | "existsOne"
            | "map"
            | "filter"
            | "optMap"
            | "optFlatMap"
            | "sortBy"
    )
}

fn two_variables(name: &str) -> bool {
    matches!(
        name,
        "all"
            | "exists"
            | "exists_one"
            | "existsOne"
            | "transformList"
            | "transformMap"
            | "transformMapEntry"
    )
}

/// Makes nodes that stand where their macro was written.
struct Make<'a, 's> {
    positions: &'a mut Positions,
    issues: &'a mut Issues<'s>,
    at: usize,
}

impl Make<'_, '_> {
    fn node(&mut self, kind: Kind) -> Expr {
        Expr { id: self.positions.add(self.at), kind }
    }

    fn ident(&mut self, name: &str) -> Expr {
        self.node(Kind::Ident(name.into()))
    }

    fn accu(&mut self) -> Expr {
        self.ident(ACCUMULATOR)
    }

    fn literal(&mut self, literal: Literal) -> Expr {
        self.node(Kind::Literal(literal))
    }

    fn call(&mut self, function: &str, args: Vec<Expr>) -> Expr {
        self.node(Kind::Call { function: function.into(), target: None, args })
    }

    fn method(&mut self, target: Expr, function: &str, args: Vec<Expr>) -> Expr {
        self.node(Kind::Call { function: function.into(), target: Some(Box::new(target)), args })
    }

    /// The tree again, with nodes of its own.
    fn copy(&mut self, expr: &Expr) -> Expr {
        let id = self.positions.add(self.positions.get(expr.id));
        if self.positions.len() > MAX_NODES {
            return Expr { id, kind: Kind::Literal(Literal::Null) };
        }
        let kind = match &expr.kind {
            Kind::Literal(_) | Kind::Ident(_) => expr.kind.clone(),
            Kind::Select { operand, field, test } => Kind::Select {
                operand: Box::new(self.copy(operand)),
                field: field.clone(),
                test: *test,
            },
            Kind::Call { function, target, args } => Kind::Call {
                function: function.clone(),
                target: target.as_ref().map(|target| Box::new(self.copy(target))),
                args: args.iter().map(|arg| self.copy(arg)).collect(),
            },
            Kind::List(items) => {
                Kind::List(items.iter().map(|(item, opt)| (self.copy(item), *opt)).collect())
            }
            Kind::Map(entries) => Kind::Map(
                entries
                    .iter()
                    .map(|entry| Entry {
                        key: self.copy(&entry.key),
                        value: self.copy(&entry.value),
                        optional: entry.optional,
                    })
                    .collect(),
            ),
            Kind::Struct { name, fields } => Kind::Struct {
                name: name.clone(),
                fields: fields
                    .iter()
                    .map(|field| FieldInit {
                        id: self.positions.add(self.positions.get(field.id)),
                        name: field.name.clone(),
                        value: self.copy(&field.value),
                        optional: field.optional,
                    })
                    .collect(),
            },
            Kind::Comprehension(fold) => Kind::Comprehension(Box::new(Comprehension {
                range: self.copy(&fold.range),
                var: fold.var.clone(),
                var2: fold.var2.clone(),
                accu: fold.accu.clone(),
                init: self.copy(&fold.init),
                condition: self.copy(&fold.condition),
                step: self.copy(&fold.step),
                result: self.copy(&fold.result),
            })),
        };
        Expr { id, kind }
    }

    fn refuse(&mut self, at: &Expr, message: &str) -> Option<Expr> {
        self.issues.report(self.positions.get(at.id), message);
        None
    }

    fn has(&mut self, arg: &mut Expr) -> Option<Expr> {
        match take(arg) {
            Expr { kind: Kind::Select { operand, field, .. }, .. } => {
                Some(self.node(Kind::Select { operand, field, test: true }))
            }
            other => self.refuse(&other, "invalid argument to has() macro"),
        }
    }

    fn bind(&mut self, name: &mut Expr, init: &mut Expr, body: &mut Expr) -> Option<Expr> {
        let Kind::Ident(variable) = name.kind.clone() else {
            return self.refuse(name, "cel.bind() variable names must be simple identifiers");
        };
        let (init, body) = (take(init), take(body));
        Some(self.binding(variable, init, body))
    }

    /// `body` with `variable` standing for `init`.
    fn binding(&mut self, variable: Arc<str>, init: Expr, body: Expr) -> Expr {
        let range = self.node(Kind::List(Vec::new()));
        let condition = self.literal(Literal::Bool(false));
        let step = self.ident(&variable);
        self.node(Kind::Comprehension(Box::new(Comprehension {
            range,
            var: "#unused".into(),
            var2: None,
            accu: variable,
            init,
            condition,
            step,
            result: body,
        })))
    }

    fn one_variable(
        &mut self,
        name: &str,
        target: Expr,
        var: &mut Expr,
        filter: Option<&mut Expr>,
        body: &mut Expr,
    ) -> Option<Expr> {
        let variable = match (&var.kind, name) {
            (Kind::Ident(variable), _) => variable.clone(),
            (_, "optMap" | "optFlatMap") => {
                let message = format!("{name}() variable name must be a simple identifier");
                return self.refuse(var, &message);
            }
            (_, "map" | "filter" | "sortBy") => {
                return self.refuse(var, "argument is not an identifier");
            }
            _ => return self.refuse(var, "argument must be a simple name"),
        };
        let body = take(body);
        match name {
            "optMap" | "optFlatMap" => {
                Some(self.optional_map(name == "optFlatMap", target, variable, body))
            }
            "sortBy" => self.sort_by(target, var, body),
            _ => {
                self.check_variable(var, &variable)?;
                let fold = match name {
                    "filter" => {
                        let item = self.ident(&variable);
                        self.gather(target, variable, Some(body), item)
                    }
                    "map" => self.gather(target, variable, filter.map(take), body),
                    _ => self.quantifier(name, target, variable, body),
                };
                Some(self.node(Kind::Comprehension(Box::new(fold))))
            }
        }
    }

    fn check_variable(&mut self, at: &Expr, variable: &str) -> Option<()> {
        if variable == ACCUMULATOR || variable == "__result__" {
            self.refuse(at, "iteration variable overwrites accumulator variable");
            return None;
        }
        Some(())
    }

    /// `all`, `exists`, `exists_one`.
    fn quantifier(&mut self, name: &str, range: Expr, var: Arc<str>, body: Expr) -> Comprehension {
        let (accu, result) = (self.accu(), self.accu());
        let (init, condition, step, result) = match name {
            "all" => {
                let init = self.literal(Literal::Bool(true));
                let state = self.accu();
                let condition = self.call(op::NOT_STRICTLY_FALSE, vec![state]);
                (init, condition, self.call(op::AND, vec![accu, body]), result)
            }
            "exists" => {
                let init = self.literal(Literal::Bool(false));
                let state = self.accu();
                let state = self.call(op::NOT, vec![state]);
                let condition = self.call(op::NOT_STRICTLY_FALSE, vec![state]);
                (init, condition, self.call(op::OR, vec![accu, body]), result)
            }
            _ => {
                let init = self.literal(Literal::Int(0));
                let condition = self.literal(Literal::Bool(true));
                let one = self.literal(Literal::Int(1));
                let more = self.call(op::ADD, vec![accu, one]);
                let same = self.accu();
                let step = self.call(op::CONDITIONAL, vec![body, more, same]);
                let one = self.literal(Literal::Int(1));
                (init, condition, step, self.call(op::EQUALS, vec![result, one]))
            }
        };
        Comprehension {
            range,
            var,
            var2: None,
            accu: ACCUMULATOR.into(),
            init,
            condition,
            step,
            result,
        }
    }

    /// The list of `item`, for all that `filter` lets pass.
    fn gather(
        &mut self,
        range: Expr,
        var: Arc<str>,
        filter: Option<Expr>,
        item: Expr,
    ) -> Comprehension {
        let init = self.node(Kind::List(Vec::new()));
        let accu = self.accu();
        let item = self.node(Kind::List(vec![(item, false)]));
        let step = self.call(op::ADD, vec![accu, item]);
        self.folding(range, var, init, filter, step)
    }

    /// A fold over everything, with an optional filter in front of `step`.
    fn folding(
        &mut self,
        range: Expr,
        var: Arc<str>,
        init: Expr,
        filter: Option<Expr>,
        mut step: Expr,
    ) -> Comprehension {
        let condition = self.literal(Literal::Bool(true));
        if let Some(filter) = filter {
            let same = self.accu();
            step = self.call(op::CONDITIONAL, vec![filter, step, same]);
        }
        let accu = ACCUMULATOR.into();
        Comprehension { range, var, var2: None, accu, init, condition, step, result: self.accu() }
    }

    fn two_variables(
        &mut self,
        name: &str,
        range: Expr,
        [var, var2]: [&mut Expr; 2],
        filter: Option<&mut Expr>,
        body: &mut Expr,
    ) -> Option<Expr> {
        let names = [&*var, &*var2].map(|var| match &var.kind {
            Kind::Ident(name) => Some(name.clone()),
            _ => None,
        });
        let [Some(first), Some(second)] = names else {
            let bad = if names[0].is_none() { var } else { var2 };
            return self.refuse(bad, "argument must be a simple name");
        };
        if first == second {
            return self.refuse(var2, &format!("duplicate variable name: {first}"));
        }
        self.check_variable(var, &first)?;
        self.check_variable(var2, &second)?;
        let (body, filter) = (take(body), filter.map(take));
        let mut fold = match name {
            "transformList" => self.gather(range, first, filter, body),
            "transformMap" | "transformMapEntry" => {
                let init = self.node(Kind::Map(Vec::new()));
                let accu = self.accu();
                let mut args = vec![accu];
                if name == "transformMap" {
                    args.push(self.ident(&first));
                }
                args.push(body);
                let step = self.call("cel.@mapInsert", args);
                self.folding(range, first, init, filter, step)
            }
            _ => self.quantifier(name, range, first, body),
        };
        fold.var2 = Some(second);
        Some(self.node(Kind::Comprehension(Box::new(fold))))
    }

    fn optional_map(&mut self, flat: bool, target: Expr, variable: Arc<str>, body: Expr) -> Expr {
        let again = self.copy(&target);
        let present = self.method(target, "hasValue", Vec::new());
        let value = self.method(again, "value", Vec::new());
        let mut mapped = self.binding(variable, value, body);
        if !flat {
            mapped = self.qualified("of", vec![mapped]);
        }
        let none = self.qualified("none", Vec::new());
        self.call(op::CONDITIONAL, vec![present, mapped, none])
    }

    fn qualified(&mut self, function: &str, args: Vec<Expr>) -> Expr {
        let namespace = self.ident("optional");
        self.method(namespace, function, args)
    }

    fn sort_by(&mut self, target: Expr, var: &mut Expr, body: Expr) -> Option<Expr> {
        const INPUT: &str = "@__sortBy_input__";
        let Kind::Ident(variable) = var.kind.clone() else { return None };
        self.check_variable(var, &variable)?;
        if matches!(target.kind, Kind::Literal(_) | Kind::Map(_) | Kind::Struct { .. }) {
            let message = "sortBy can only be applied to a list, identifier, comprehension, call \
                           or select expression";
            return self.refuse(&target, message);
        }
        let input = self.ident(INPUT);
        let keys = self.gather(input, variable, None, body);
        let keys = self.node(Kind::Comprehension(Box::new(keys)));
        let input = self.ident(INPUT);
        let sorted = self.method(input, "@sortByAssociatedKeys", vec![keys]);
        Some(self.binding(INPUT.into(), target, sorted))
    }
}

/// Moves an argument to its new place.
fn take(expr: &mut Expr) -> Expr {
    let id = expr.id;
    std::mem::replace(expr, Expr { id, kind: Kind::Literal(Literal::Null) })
}
