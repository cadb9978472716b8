//! What Kubernetes checks of literals, beyond their types.

use super::{Checked, Meaning};
use crate::cel::{
    ast::{Ast, Expr, Kind, Literal},
    issues::{CompileError, Issues},
    types::Type,
};

/// What Kubernetes checks beyond types: literals in calls that can only fail, and that the elements
/// of a literal list or map are of one type.
///
/// # Errors
/// All that are wrong.
pub(crate) fn literals(source: &str, ast: &Ast, checked: &Checked) -> Result<(), CompileError> {
    let mut judge = Literals { ast, checked, issues: Issues::new(source), unusable: None };
    judge.visit(&ast.root, false);
    let unusable = judge.unusable.map(CompileError::instantiation);
    judge.issues.into_error().or(unusable).map_or(Ok(()), Err)
}

struct Literals<'c> {
    ast: &'c Ast,
    checked: &'c Checked,
    issues: Issues<'c>,
    /// Why no program can be made of what is right otherwise.
    unusable: Option<String>,
}

impl Literals<'_> {
    /// Judges a node and those in it. What is given to `format` may be of any types.
    fn visit(&mut self, expr: &Expr, in_format: bool) {
        match &expr.kind {
            Kind::Literal(_) | Kind::Ident(_) => {}
            Kind::Select { operand, .. } => self.visit(operand, in_format),
            Kind::Call { function, target, args } => {
                self.call(expr, target.is_some(), args);
                let in_format = in_format || **function == *"format";
                target.iter().for_each(|target| self.visit(target, in_format));
                args.iter().for_each(|arg| self.visit(arg, in_format));
            }
            Kind::List(items) => {
                if !in_format {
                    self.same_types(items.iter().map(|(item, optional)| (item, *optional)));
                }
                items.iter().for_each(|(item, _)| self.visit(item, in_format));
            }
            Kind::Map(entries) => {
                if !in_format {
                    self.same_types(entries.iter().map(|entry| (&entry.key, false)));
                    self.same_types(entries.iter().map(|entry| (&entry.value, entry.optional)));
                }
                for entry in entries {
                    self.visit(&entry.key, in_format);
                    self.visit(&entry.value, in_format);
                }
            }
            Kind::Struct { fields, .. } => {
                fields.iter().for_each(|field| self.visit(&field.value, in_format));
            }
            Kind::Comprehension(fold) => {
                for part in [&fold.range, &fold.init, &fold.condition, &fold.step, &fold.result] {
                    self.visit(part, in_format);
                }
            }
        }
    }

    fn same_types<'e>(&mut self, elements: impl Iterator<Item = (&'e Expr, bool)>) {
        let mut first: Option<Type> = None;
        for (element, optional) in elements {
            let mut of = self.checked.type_of(element.id).clone();
            if optional {
                of = of.unwrap_optional().0.clone();
            }
            match &first {
                None => first = Some(of),
                Some(first) if *first == of => {}
                Some(first) => {
                    let message = format!("expected type '{first}' but found '{of}'");
                    return self.issues.report(self.ast.positions.get(element.id), message);
                }
            }
        }
    }

    fn call(&mut self, expr: &Expr, is_method: bool, args: &[Expr]) {
        let Some(Meaning::Call { function, .. }) = self.checked.meaning(expr.id) else { return };
        if let ("find" | "findAll", true, [pattern, ..]) = (function.name, is_method, args)
            && let Kind::Literal(Literal::String(pattern)) = &pattern.kind
        {
            // These are compiled when a program is made, so the error is of another kind.
            self.unusable =
                self.unusable.take().or_else(|| crate::cel::regex::compile(pattern).err());
            return;
        }
        let argument = match (function.name, args) {
            ("matches", [.., pattern]) => pattern,
            ("duration" | "timestamp", [text]) if !is_method => text,
            _ => return,
        };
        let Kind::Literal(Literal::String(text)) = &argument.kind else { return };
        let is_wrong = match function.name {
            "matches" => crate::cel::regex::compile(text).is_err(),
            "duration" => crate::cel::time::parse_duration(text).is_none(),
            _ => crate::cel::time::Timestamp::parse(text).is_err(),
        };
        if is_wrong {
            let message = format!("invalid {} argument", function.name);
            self.issues.report(self.ast.positions.get(argument.id), message);
        }
    }
}
