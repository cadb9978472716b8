//! Whether types agree, and what their variables stand for if they do.
//!
//! The rules are cel-go's (`checker/types.go`): gradual, with `dyn` agreeing with everything and
//! `null` with all that is not a plain scalar, list or map.

use super::types::Type;

/// Type variables, and what is known of them.
#[derive(Debug, Default)]
pub(crate) struct Unifier {
    bound: Vec<Option<Type>>,
    /// Earlier bindings, newest last, to go back to when an attempt fails.
    trail: Vec<(usize, Option<Type>)>,
}

impl Unifier {
    /// `count` new variables; the number of the first.
    pub fn fresh(&mut self, count: u32) -> u32 {
        let first = self.bound.len() as u32;
        self.bound.resize(self.bound.len() + count as usize, None);
        first
    }

    /// Whether all of `left` can be given where `right` is wanted. Variables are bound only if so.
    pub fn assignable_all(&mut self, left: &[Type], right: &[Type]) -> bool {
        let mark = self.trail.len();
        let fits = left.len() == right.len()
            && left.iter().zip(right).all(|(left, right)| self.unify(left, right));
        if !fits {
            while self.trail.len() > mark {
                if let Some((variable, before)) = self.trail.pop() {
                    self.bound[variable] = before;
                }
            }
        }
        fits
    }

    /// Whether a `right` can be given where `left` is wanted.
    pub fn assignable(&mut self, left: &Type, right: &Type) -> bool {
        self.assignable_all(std::slice::from_ref(left), std::slice::from_ref(right))
    }

    fn get(&self, variable: u32) -> Option<&Type> {
        self.bound.get(variable as usize)?.as_ref()
    }

    fn bind(&mut self, variable: u32, to: Type) {
        let variable = variable as usize;
        if let Some(slot) = self.bound.get_mut(variable) {
            let before = slot.replace(to);
            self.trail.push((variable, before));
        }
    }

    fn unify(&mut self, left: &Type, right: &Type) -> bool {
        if let Type::Var(variable) = right {
            match self.substitution(left, *variable) {
                (true, _) => return true,
                (false, true) => return false,
                (false, false) => {}
            }
        }
        if let Type::Var(variable) = left {
            return self.substitution(right, *variable).0;
        }
        if left.is_dyn_or_error() || right.is_dyn_or_error() {
            return true;
        }
        match (left, right) {
            (Type::Null, other) | (other, Type::Null) => nullable(other),
            (Type::List(left), Type::List(right))
            | (Type::Optional(left), Type::Optional(right)) => self.unify(left, right),
            (Type::Map(left), Type::Map(right)) => {
                self.unify(&left.0, &right.0) && self.unify(&left.1, &right.1)
            }
            (Type::Type(_), Type::Type(_)) => true,
            (left, right) => left == right,
        }
    }

    /// Whether `variable` can stand for `wanted`, and whether something was known of it before.
    fn substitution(&mut self, wanted: &Type, variable: u32) -> (bool, bool) {
        if *wanted == Type::Var(variable) {
            return (true, true);
        }
        if let Some(known) = self.get(variable).cloned() {
            if known == *wanted {
                return (true, true);
            }
            if !self.unify(wanted, &known) {
                return (false, true);
            }
            let general = most_general(wanted, &known).clone();
            if !self.occurs(variable, &general) {
                self.bind(variable, general);
            }
            return (true, true);
        }
        if self.occurs(variable, wanted) {
            return (false, false);
        }
        self.bind(variable, wanted.clone());
        (true, false)
    }

    fn occurs(&self, variable: u32, within: &Type) -> bool {
        match within {
            Type::Var(other) if *other == variable => true,
            Type::Var(other) => self.get(*other).is_some_and(|known| self.occurs(variable, known)),
            Type::List(inner) | Type::Optional(inner) | Type::Type(inner) => {
                self.occurs(variable, inner)
            }
            Type::Map(entry) => self.occurs(variable, &entry.0) || self.occurs(variable, &entry.1),
            _ => false,
        }
    }

    /// The type with its variables replaced by what is known of them. With `to_dyn`, what is left
    /// is `dyn`.
    pub fn resolve(&self, of: &Type, to_dyn: bool) -> Type {
        match of {
            Type::Var(variable) => match self.get(*variable) {
                Some(known) => self.resolve(known, to_dyn),
                None if to_dyn => Type::Dyn,
                None => of.clone(),
            },
            Type::List(inner) => Type::list(self.resolve(inner, to_dyn)),
            Type::Optional(inner) => Type::optional(self.resolve(inner, to_dyn)),
            Type::Type(inner) => Type::type_of(self.resolve(inner, to_dyn)),
            Type::Map(entry) => {
                Type::map(self.resolve(&entry.0, to_dyn), self.resolve(&entry.1, to_dyn))
            }
            other => other.clone(),
        }
    }
}

/// The type with its variables numbered from `first`.
pub(crate) fn instantiate(of: &Type, first: u32) -> Type {
    match of {
        Type::Var(n) => Type::Var(first + n),
        Type::List(inner) => Type::list(instantiate(inner, first)),
        Type::Optional(inner) => Type::optional(instantiate(inner, first)),
        Type::Type(inner) => Type::type_of(instantiate(inner, first)),
        Type::Map(entry) => Type::map(instantiate(&entry.0, first), instantiate(&entry.1, first)),
        other => other.clone(),
    }
}

fn nullable(of: &Type) -> bool {
    matches!(
        of,
        Type::Null
            | Type::Object(_)
            | Type::Library(_)
            | Type::Optional(_)
            | Type::Duration
            | Type::Timestamp
    )
}

/// Of two types that agree, the one that says less.
pub(crate) fn most_general<'t>(left: &'t Type, right: &'t Type) -> &'t Type {
    if less_specific(left, right) { left } else { right }
}

fn less_specific(left: &Type, right: &Type) -> bool {
    match (left, right) {
        (Type::Dyn | Type::Var(_), _) => true,
        (_, Type::Dyn | Type::Var(_)) => false,
        (Type::List(left), Type::List(right)) | (Type::Optional(left), Type::Optional(right)) => {
            less_specific(left, right)
        }
        (Type::Map(left), Type::Map(right)) => {
            less_specific(&left.0, &right.0) && less_specific(&left.1, &right.1)
        }
        (Type::Type(_), Type::Type(_)) => true,
        (left, right) => left == right,
    }
}
