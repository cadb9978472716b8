//! Every function there is: its overloads for the checker, its cost, what it does.

mod conversions;
mod format_string;
pub(crate) mod lists;
pub(crate) mod operators;
mod optional;
mod strings;
mod timestamps;

use std::{collections::HashMap, sync::LazyLock};

use super::{EvalError, Value, authz, error::Effort, kubernetes, types::Type};

/// What a function does with its arguments, the receiver first.
pub(crate) type Call = for<'a> fn(&mut Effort, &[Value<'a>]) -> Result<Value<'a>, EvalError>;

/// A function or operator.
#[derive(Debug)]
pub(crate) struct Function {
    pub name: &'static str,
    pub call: Call,
    /// What it costs where its overload is not known before it runs.
    pub dynamic_cost: Cost,
    pub overloads: Vec<Overload>,
}

/// One signature of a function.
#[derive(Debug)]
pub(crate) struct Overload {
    /// As cel-go names it.
    pub id: &'static str,
    /// Whether it is called as `receiver.f(…)`; the receiver is then the first argument.
    pub member: bool,
    pub args: Vec<Type>,
    pub result: Type,
    pub cost: Cost,
}

/// By which rule a call is charged. The rules are in [`super::estimate`] and [`super::actual`],
/// which follow cel-go's `checker/cost.go` and `interpreter/runtimecost.go`, its extensions, and
/// Kubernetes' `library/cost.go`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cost {
    One,
    // Operators.
    And,
    Or,
    Conditional,
    Equals,
    /// `<` and its like on strings and bytes.
    OrderText,
    AddText,
    AddList,
    InList,
    IndexList,
    IndexMap,
    ToDyn,
    // Strings.
    StringToBytes,
    BytesToString,
    Quote,
    Format,
    /// `startsWith`, `endsWith`.
    Affix,
    Contains,
    Matches,
    /// One traversal, and a result no larger.
    Transform,
    Replace,
    Split,
    Join,
    Find,
    // Lists.
    ListScan,
    Slice,
    Flatten,
    Range,
    Reverse,
    Distinct,
    Sort {
        text: bool,
    },
    SortBy {
        text: bool,
    },
    Sets {
        passes: u8,
    },
    // Kubernetes.
    Check,
    Selector,
    /// One traversal of the argument.
    Parse,
    /// Two of them.
    ParseTwice,
    Url,
    ContainsIp {
        text: bool,
    },
    ContainsCidr {
        text: bool,
    },
    Validate,
}

pub(crate) fn function(
    name: &'static str,
    dynamic_cost: Cost,
    call: Call,
    overloads: Vec<Overload>,
) -> Function {
    Function { name, call, dynamic_cost, overloads }
}

pub(crate) fn global(id: &'static str, args: Vec<Type>, result: Type, cost: Cost) -> Overload {
    Overload { id, member: false, args, result, cost }
}

pub(crate) fn method(id: &'static str, args: Vec<Type>, result: Type, cost: Cost) -> Overload {
    Overload { id, member: true, args, result, cost }
}

/// Type variables of a signature.
pub(crate) const A: Type = Type::Var(0);
pub(crate) const B: Type = Type::Var(1);
/// How many a signature may have.
pub(crate) const VARIABLES: u32 = 2;

/// A string argument.
pub(crate) fn text<'v>(value: &'v Value<'_>) -> Result<&'v str, EvalError> {
    value.as_str().ok_or_else(EvalError::no_such_overload)
}

/// An integer argument.
pub(crate) fn int(value: &Value<'_>) -> Result<i64, EvalError> {
    match value {
        Value::Int(value) => Ok(*value),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// The function of a name.
pub(crate) fn lookup(name: &str) -> Option<&'static Function> {
    static TABLE: LazyLock<HashMap<&'static str, Function>> = LazyLock::new(|| {
        let groups = [
            operators::functions(),
            conversions::functions(),
            strings::functions(),
            timestamps::functions(),
            lists::functions(),
            optional::functions(),
            authz::functions(),
            kubernetes::functions(),
        ];
        let mut table: HashMap<&'static str, Function> = HashMap::new();
        for function in groups.into_iter().flatten() {
            match table.entry(function.name) {
                std::collections::hash_map::Entry::Vacant(free) => {
                    free.insert(function);
                }
                // Libraries add overloads to functions of others; the first one's code handles all.
                std::collections::hash_map::Entry::Occupied(mut known) => {
                    known.get_mut().overloads.extend(function.overloads);
                }
            }
        }
        table
    });
    TABLE.get(name)
}
