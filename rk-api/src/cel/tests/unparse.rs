//! Trees as text again, with every operator in parentheses: the text says all of the structure.

use crate::cel::ast::{Expr, Kind, Literal, op};

pub(super) fn unparse(expr: &Expr) -> String {
    let list = |exprs: &[Expr]| exprs.iter().map(unparse).collect::<Vec<_>>().join(", ");
    let mark = |optional: bool| if optional { "?" } else { "" };
    match &expr.kind {
        Kind::Literal(literal) => match literal {
            Literal::Null => "null".to_owned(),
            Literal::Bool(value) => value.to_string(),
            Literal::Int(value) => value.to_string(),
            Literal::Uint(value) => format!("{value}u"),
            Literal::Double(value) => format!("{value:?}"),
            Literal::String(text) => format!("\"{}\"", escaped(text)),
            Literal::Bytes(bytes) => {
                let bytes: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
                format!("b\"{bytes}\"")
            }
        },
        Kind::Ident(name) => name.to_string(),
        Kind::Select { operand, field, .. } => format!("{}.{field}", unparse(operand)),
        Kind::Call { function, target: Some(target), args } => {
            format!("{}.{function}({})", unparse(target), list(args))
        }
        Kind::Call { function, target: None, args } => match (&**function, args.as_slice()) {
            (op::CONDITIONAL, [a, b, c]) => {
                format!("({} ? {} : {})", unparse(a), unparse(b), unparse(c))
            }
            (op::INDEX, [a, b]) => format!("{}[{}]", unparse(a), unparse(b)),
            (op::OPT_INDEX, [a, b]) => format!("{}[?{}]", unparse(a), unparse(b)),
            (op::OPT_SELECT, [a, b]) => match &b.kind {
                Kind::Literal(Literal::String(field)) => format!("{}.?{field}", unparse(a)),
                _ => unreachable!("the parser makes it with a name"),
            },
            (op::IN, [a, b]) => format!("({} in {})", unparse(a), unparse(b)),
            (op::NOT, [a]) => format!("(!{})", unparse(a)),
            // A space keeps the sign from becoming part of a number.
            (op::NEGATE, [a]) => format!("(-({}))", unparse(a)),
            (name, [a, b]) if name.starts_with('_') => {
                format!("({} {} {})", unparse(a), name.trim_matches('_'), unparse(b))
            }
            (name, args) => format!("{name}({})", list(args)),
        },
        Kind::List(items) => {
            let items = items.iter().map(|(item, opt)| format!("{}{}", mark(*opt), unparse(item)));
            format!("[{}]", items.collect::<Vec<_>>().join(", "))
        }
        Kind::Map(entries) => {
            let entries = entries.iter().map(|entry| {
                let (key, value) = (unparse(&entry.key), unparse(&entry.value));
                format!("{}{key}: {value}", mark(entry.optional))
            });
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        Kind::Struct { name, fields } => {
            let fields = fields.iter().map(|field| {
                format!("{}{}: {}", mark(field.optional), field.name, unparse(&field.value))
            });
            format!("{name}{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        Kind::Comprehension(_) => unreachable!("the parser leaves macros as calls"),
    }
}

fn escaped(text: &str) -> String {
    text.chars().map(|c| format!("\\U{:08x}", u32::from(c))).collect()
}
