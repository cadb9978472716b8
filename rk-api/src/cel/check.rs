//! The type checker (CEL specification, "Gradual Type Checking"; messages are cel-go's).

mod literals;

use std::sync::Arc;

pub(crate) use literals::literals;

use super::{
    ast::{Ast, Comprehension, Entry, Expr, FieldInit, Id, Kind, Literal, op},
    env::Env,
    functions::{self, Function, Overload, VARIABLES},
    issues::{CompileError, Issues},
    schema::ObjectType,
    types::Type,
    unify::{Unifier, instantiate, most_general},
};

/// What a name or call turned out to mean.
#[derive(Clone, Debug)]
pub(crate) enum Meaning {
    /// A variable of the environment, by its full name.
    Variable(Arc<str>),
    /// A variable of a macro.
    Local(Arc<str>),
    /// A type.
    TypeName(Arc<str>),
    /// A call, with the overloads that may apply. The receiver is no value if `qualified`.
    Call { function: &'static Function, overloads: Vec<&'static Overload>, qualified: bool },
}

/// What the checker found out, by node.
#[derive(Debug)]
pub(crate) struct Checked {
    types: Vec<Type>,
    meanings: Vec<Option<Meaning>>,
}

impl Checked {
    pub fn type_of(&self, id: Id) -> &Type {
        self.types.get(id.index()).unwrap_or(&Type::Dyn)
    }

    pub fn meaning(&self, id: Id) -> Option<&Meaning> {
        self.meanings.get(id.index())?.as_ref()
    }
}

/// Checks an expression without macros.
///
/// # Errors
/// All that does not agree.
pub(crate) fn check(source: &str, ast: &Ast, env: &Env) -> Result<Checked, CompileError> {
    let mut checker = Checker {
        ast,
        env,
        issues: Issues::new(source),
        unifier: Unifier::default(),
        types: vec![Type::Error; ast.positions.len()],
        meanings: vec![None; ast.positions.len()],
        scopes: Vec::new(),
    };
    checker.expr(&ast.root);
    let Checker { issues, unifier, types, meanings, .. } = checker;
    match issues.into_error() {
        Some(error) => Err(error),
        None => Ok(Checked {
            types: types.iter().map(|of| unifier.resolve(of, true)).collect(),
            meanings,
        }),
    }
}

struct Checker<'c> {
    ast: &'c Ast,
    env: &'c Env,
    issues: Issues<'c>,
    unifier: Unifier,
    types: Vec<Type>,
    meanings: Vec<Option<Meaning>>,
    /// Variables of macros, innermost last.
    scopes: Vec<(Arc<str>, Type)>,
}

impl Checker<'_> {
    fn report(&mut self, id: Id, message: impl Into<String>) {
        self.issues.report(self.ast.positions.get(id), message);
    }

    fn set(&mut self, id: Id, of: Type) -> Type {
        if let Some(slot) = self.types.get_mut(id.index()) {
            *slot = of.clone();
        }
        of
    }

    fn means(&mut self, id: Id, meaning: Meaning) {
        if let Some(slot) = self.meanings.get_mut(id.index()) {
            *slot = Some(meaning);
        }
    }

    fn expr(&mut self, expr: &Expr) -> Type {
        let of = match &expr.kind {
            Kind::Literal(literal) => match literal {
                Literal::Null => Type::Null,
                Literal::Bool(_) => Type::Bool,
                Literal::Int(_) => Type::Int,
                Literal::Uint(_) => Type::Uint,
                Literal::Double(_) => Type::Double,
                Literal::String(_) => Type::String,
                Literal::Bytes(_) => Type::Bytes,
            },
            Kind::Ident(name) => self.ident(expr.id, name),
            Kind::Select { operand, field, test } => self.select(expr, operand, field, *test),
            Kind::Call { function, target, args } => {
                self.call(expr.id, function, target.as_deref(), args)
            }
            Kind::List(items) => self.list(items),
            Kind::Map(entries) => self.map(entries),
            Kind::Struct { name, fields } => self.object(expr.id, name, fields),
            Kind::Comprehension(fold) => self.comprehension(fold),
        };
        self.set(expr.id, of)
    }

    fn ident(&mut self, id: Id, name: &str) -> Type {
        match self.resolve(id, name) {
            Some(of) => of,
            None => self.undeclared(id, name),
        }
    }

    fn undeclared(&mut self, id: Id, name: &str) -> Type {
        self.report(id, format!("undeclared reference to '{name}' (in container '')"));
        Type::Error
    }

    /// The type of a name, if it has one; its meaning is noted.
    fn resolve(&mut self, id: Id, name: &str) -> Option<Type> {
        if let Some((name, of)) = self.scopes.iter().rev().find(|(known, _)| **known == *name) {
            let (name, of) = (name.clone(), of.clone());
            self.means(id, Meaning::Local(name));
            return Some(of);
        }
        let name = name.strip_prefix('.').unwrap_or(name);
        if let Some((name, of)) = self.env.find_variable(name) {
            self.means(id, Meaning::Variable(name));
            return Some(of);
        }
        let of = self.env.find_type(name)?;
        self.means(id, Meaning::TypeName(name.into()));
        Some(Type::type_of(of))
    }

    fn select(&mut self, expr: &Expr, operand: &Expr, field: &str, test: bool) -> Type {
        // What looks like a field may be a name with dots in it.
        if !test
            && let Some(name) = qualified_name(expr)
            && let Some(root) = name.split('.').next()
            && !self.scopes.iter().any(|(known, _)| **known == *root)
            && let Some(of) = self.resolve(expr.id, &name)
        {
            return of;
        }
        let result = self.field(expr.id, operand, field, false);
        if test { Type::Bool } else { self.unifier.resolve(&result, false) }
    }

    /// The type of a field; that of an optional if the operand is one, or if it is asked for.
    fn field(&mut self, id: Id, operand: &Expr, field: &str, optional: bool) -> Type {
        let operand = self.expr(operand);
        let operand = self.unifier.resolve(&operand, false);
        let (target, is_optional) = operand.unwrap_optional();
        let result = match target {
            Type::Map(entry) => entry.1.clone(),
            Type::Object(object) => self.field_of(id, object, field),
            Type::Library(_) => {
                self.report(id, format!("undefined field '{field}'"));
                Type::Error
            }
            Type::Var(_) => {
                self.unifier.assignable(&Type::Dyn, target);
                Type::Dyn
            }
            other => {
                if !other.is_dyn_or_error() {
                    let message = format!("type '{other}' does not support field selection");
                    self.report(id, message);
                }
                Type::Dyn
            }
        };
        if optional || is_optional { Type::optional(result) } else { result }
    }

    fn field_of(&mut self, id: Id, object: &ObjectType, field: &str) -> Type {
        match self.env.find_field(object, field) {
            Some(of) => of,
            None => {
                self.report(id, format!("undefined field '{field}'"));
                Type::Error
            }
        }
    }

    fn call(&mut self, id: Id, name: &Arc<str>, target: Option<&Expr>, args: &[Expr]) -> Type {
        if **name == *op::OPT_SELECT
            && let [operand, field] = args
        {
            return self.optional_select(id, operand, field);
        }
        let types: Vec<Type> = args.iter().map(|arg| self.expr(arg)).collect();
        let Some(target) = target else {
            let plain = name.strip_prefix('.').unwrap_or(name);
            return match functions::lookup(plain) {
                Some(function) => self.overload(id, function, false, false, args, types),
                None => self.undeclared(id, name),
            };
        };
        if let Some(prefix) = qualified_name(target)
            && let Some(function) =
                functions::lookup(&format!("{}.{name}", prefix.trim_start_matches('.')))
        {
            return self.overload(id, function, false, true, args, types);
        }
        let mut all = vec![self.expr(target)];
        all.extend(types);
        match functions::lookup(name) {
            Some(function) => self.overload(id, function, true, false, args, all),
            None => self.undeclared(id, name),
        }
    }

    fn optional_select(&mut self, id: Id, operand: &Expr, field: &Expr) -> Type {
        let Kind::Literal(Literal::String(name)) = &field.kind else {
            self.report(field.id, "unsupported optional field selection");
            return Type::Error;
        };
        self.set(field.id, Type::String);
        let result = self.field(id, operand, name, true);
        self.unifier.resolve(&result, false)
    }

    /// The result of the overloads that fit the arguments.
    fn overload(
        &mut self,
        id: Id,
        function: &'static Function,
        member: bool,
        qualified: bool,
        args: &[Expr],
        types: Vec<Type>,
    ) -> Type {
        if matches!(function.name, op::AND | op::OR) {
            return self.logical(id, function, args, &types);
        }
        let mut result: Option<Type> = None;
        let mut fitting = Vec::new();
        for overload in function.overloads.iter().filter(|overload| overload.member == member) {
            if overload.args.len() != types.len() {
                continue;
            }
            let first = self.unifier.fresh(VARIABLES);
            let wanted: Vec<Type> =
                overload.args.iter().map(|arg| instantiate(arg, first)).collect();
            if !self.unifier.assignable_all(&types, &wanted) {
                continue;
            }
            fitting.push(overload);
            let of = self.unifier.resolve(&instantiate(&overload.result, first), false);
            result = Some(match result {
                None => of,
                Some(known) if known == Type::Dyn || known == of => known,
                Some(_) => Type::Dyn,
            });
        }
        let Some(result) = result else {
            let shown: Vec<String> =
                types.iter().map(|of| self.unifier.resolve(of, true).to_string()).collect();
            let signature = match shown.split_first() {
                Some((receiver, rest)) if member => format!("{receiver}.({})", rest.join(", ")),
                _ => format!("({})", shown.join(", ")),
            };
            let name = function.name;
            let message =
                format!("found no matching overload for '{name}' applied to '{signature}'");
            self.report(id, message);
            return Type::Error;
        };
        self.means(id, Meaning::Call { function, overloads: fitting, qualified });
        result
    }

    fn logical(
        &mut self,
        id: Id,
        function: &'static Function,
        args: &[Expr],
        types: &[Type],
    ) -> Type {
        let mut result = Type::Bool;
        for (arg, of) in args.iter().zip(types) {
            if !self.unifier.assignable(of, &Type::Bool) {
                self.mismatch(arg.id, &Type::Bool, of);
                result = Type::Error;
            }
        }
        let overloads = function.overloads.iter().collect();
        self.means(id, Meaning::Call { function, overloads, qualified: false });
        result
    }

    fn mismatch(&mut self, id: Id, expected: &Type, actual: &Type) {
        let (expected, actual) =
            (self.unifier.resolve(expected, false), self.unifier.resolve(actual, false));
        self.report(id, format!("expected type '{expected}' but found '{actual}'"));
    }

    /// What an optional element contributes.
    fn element(&mut self, value: &Expr, optional: bool) -> Type {
        let of = self.expr(value);
        if !optional {
            return of;
        }
        let of = self.unifier.resolve(&of, false);
        let (inner, is_optional) = of.unwrap_optional();
        if !is_optional && *inner != Type::Dyn {
            self.mismatch(value.id, &Type::optional(inner.clone()), inner);
        }
        inner.clone()
    }

    /// What holds for both of two elements. That they are of one type is checked afterwards.
    fn join(&mut self, previous: Option<Type>, current: Type) -> Type {
        let Some(previous) = previous else { return current };
        if self.unifier.assignable(&previous, &current) {
            return most_general(&previous, &current).clone();
        }
        Type::Dyn
    }

    fn list(&mut self, items: &[(Expr, bool)]) -> Type {
        let mut element = None;
        for (item, optional) in items {
            let of = self.element(item, *optional);
            element = Some(self.join(element, of));
        }
        Type::list(element.unwrap_or_else(|| Type::Var(self.unifier.fresh(1))))
    }

    fn map(&mut self, entries: &[Entry]) -> Type {
        let (mut key, mut value) = (None, None);
        for entry in entries {
            let of = self.expr(&entry.key);
            key = Some(self.join(key, of));
            let of = self.element(&entry.value, entry.optional);
            value = Some(self.join(value, of));
        }
        let mut free = || Type::Var(self.unifier.fresh(1));
        Type::map(key.unwrap_or_else(&mut free), value.unwrap_or_else(&mut free))
    }

    fn object(&mut self, id: Id, name: &str, fields: &[FieldInit]) -> Type {
        let name = name.strip_prefix('.').unwrap_or(name);
        let Some(object) = self.env.find_object(name) else {
            return match self.env.find_type(name) {
                Some(_) => {
                    self.report(id, format!("'{name}' is not a message type"));
                    Type::Error
                }
                None => self.undeclared(id, name),
            };
        };
        for field in fields {
            let value = self.element(&field.value, field.optional);
            let wanted = self.field_of(field.id, &object, &field.name);
            if !self.unifier.assignable(&wanted, &value) {
                let (wanted, value) =
                    (self.unifier.resolve(&wanted, false), self.unifier.resolve(&value, false));
                let name = &field.name;
                let message = format!(
                    "expected type of field '{name}' is '{wanted}' but provided type is '{value}'"
                );
                self.report(field.id, message);
            }
        }
        Type::Object(object)
    }

    fn comprehension(&mut self, fold: &Comprehension) -> Type {
        let range = self.expr(&fold.range);
        let accu = self.expr(&fold.init);
        let range = self.unifier.resolve(&range, false);
        let (first, second) = match &range {
            Type::List(element) => match fold.var2 {
                Some(_) => (Type::Int, (**element).clone()),
                None => ((**element).clone(), Type::Dyn),
            },
            Type::Map(entry) => (entry.0.clone(), entry.1.clone()),
            Type::Dyn | Type::Error | Type::Var(_) => {
                self.unifier.assignable(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension \
                     (must be list, map, or dynamic)"
                );
                self.report(fold.range.id, message);
                (Type::Error, Type::Error)
            }
        };
        let outer = self.scopes.len();
        self.scopes.push((fold.accu.clone(), accu.clone()));
        self.scopes.push((fold.var.clone(), first));
        if let Some(var2) = &fold.var2 {
            self.scopes.push((var2.clone(), second));
        }
        let condition = self.expr(&fold.condition);
        self.assert(&fold.condition, &Type::Bool, &condition);
        let step = self.expr(&fold.step);
        self.assert(&fold.step, &accu, &step);
        self.scopes.truncate(outer + 1);
        let result = self.expr(&fold.result);
        self.scopes.truncate(outer);
        self.unifier.resolve(&result, false)
    }

    fn assert(&mut self, at: &Expr, wanted: &Type, found: &Type) {
        if !self.unifier.assignable(wanted, found) {
            self.mismatch(at.id, wanted, found);
        }
    }
}

/// `a.b.c`, if the expression is nothing else.
pub(crate) fn qualified_name(expr: &Expr) -> Option<String> {
    match &expr.kind {
        Kind::Ident(name) => Some(name.to_string()),
        Kind::Select { operand, field, test: false } => {
            let mut name = qualified_name(operand)?;
            name.push('.');
            name.push_str(field);
            Some(name)
        }
        _ => None,
    }
}
