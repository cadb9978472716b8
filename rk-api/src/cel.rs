//! The Common Expression Language, as Kubernetes 1.37 has it.
//!
//! An expression is compiled once, in an [`Env`] that says which variables there are, and evaluated
//! often. Compiling parses it, checks its types, and estimates what it can cost. Evaluating reads
//! borrowed JSON as far as the expression looks at it, and is bounded by a [`Budget`].
//!
//! ```
//! use std::sync::Arc;
//!
//! use rk_api::cel::{Bindings, Budget, Env, Schema, Value};
//!
//! let schema = Arc::new(Schema::object("self", [
//!     ("replicas", Schema::int()),
//!     ("names", Schema::list(Schema::string(Some(63)), Some(10))),
//! ]));
//! let env = Env::new().json_variable("self", schema.clone());
//! let program = env.compile("self.names.all(n, n.startsWith('a')) && self.replicas < 5")?;
//! assert!(program.estimated_cost().max < 100);
//!
//! let object = serde_json::json!({"replicas": 3, "names": ["a", "ab"]});
//! let bindings = Bindings::new().bind("self", Value::json(&object, &schema)?);
//! let result = program.evaluate(&bindings, &mut Budget::default())?;
//! assert_eq!(result.as_bool(), Some(true));
//!
//! let error = env.compile("self.replica").unwrap_err().to_string();
//! assert_eq!(error, "ERROR: <input>:1:5: undefined field 'replica'\n | self.replica\n | ....^");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What holds
//! - Hostile input does no harm: the length of a source, the height and the size of its tree are
//!   bounded, and so is all work of an evaluation, also where the cost model does not count it.
//! - A [`Program`] is immutable, cheap to share, and `Send + Sync`.
//! - Costs are those of cel-go with Kubernetes' libraries, for they decide what is accepted.
//!
//! # Where it differs from kube-apiserver
//! `cel.bind`, `base64.encode` and `base64.decode` are there, which kube-apiserver leaves out.
//! Regular expressions are those of the `regex` crate, made to read as RE2 does; syntax errors are
//! told one at a time.

mod actual;
mod ast;
mod authz;
mod check;
mod env;
mod error;
mod escape;
mod estimate;
mod eval;
mod functions;
mod issues;
mod kubernetes;
mod lexer;
mod literals;
mod macros;
mod parser;
mod plan;
pub mod regex;
pub mod rules;
mod schema;
mod time;
mod types;
mod unify;
mod value;

use std::sync::Arc;

pub use authz::{
    AccessQuery, AccessTarget, Asker, Authorizer, AuthzValue, Decision, Decisions, ResourceTarget,
};
pub use env::Env;
pub use error::EvalError;
pub use escape::{escape, unescape};
pub use estimate::Estimate;
pub use eval::Bindings;
pub use issues::{CompileError, Issue};
pub use kubernetes::{LibraryValue, formats::Format, net::Cidr, semver::Version, url::Url};
pub use schema::{ObjectType, Schema};
pub use time::Timestamp;
pub use types::{Library, Type};
pub use value::{Fields, Key, List, Map, Struct, Text, TypeName, Value};

/// What one evaluation may cost: about a tenth of a second.
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// What all evaluations for one object, or of one policy binding, may cost together.
pub const RUNTIME_BUDGET: u64 = 10_000_000;
/// What all match conditions for one request may cost together.
pub const MATCH_CONDITIONS_BUDGET: u64 = RUNTIME_BUDGET / 4;
/// What one rule of a custom resource may be estimated to cost.
pub const ESTIMATED_COST_LIMIT: u64 = 10_000_000;
/// What all rules of a custom resource definition may be estimated to cost together.
pub const ESTIMATED_TOTAL_COST_LIMIT: u64 = 100_000_000;
/// How long a message that an expression makes may be, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 5 * 1024;

/// A compiled expression.
#[derive(Clone, Debug)]
pub struct Program(Arc<Compiled>);

#[derive(Debug)]
struct Compiled {
    plan: plan::Plan,
    output: Type,
    cost: Estimate,
}

impl Program {
    fn new(plan: plan::Plan, output: Type, cost: Estimate) -> Self {
        Self(Arc::new(Compiled { plan, output, cost }))
    }

    /// The type of the result.
    pub fn output_type(&self) -> &Type {
        &self.0.output
    }

    /// What one evaluation costs, by the sizes that the schemas of the variables allow.
    pub fn estimated_cost(&self) -> Estimate {
        self.0.cost
    }

    /// Whether the expression reads a variable.
    pub fn uses(&self, variable: &str) -> bool {
        self.0.plan.variables.contains(variable)
    }

    /// Evaluates the expression. What it costs is taken from `budget`, also if it fails.
    ///
    /// # Errors
    /// See [`EvalError`].
    pub fn evaluate<'a>(
        &'a self,
        bindings: &Bindings<'a>,
        budget: &mut Budget,
    ) -> Result<Value<'a>, EvalError> {
        let (result, cost) = eval::evaluate(&self.0.plan.root, bindings, PER_CALL_LIMIT);
        if let Err(EvalError::NeedsDecision(_)) = result {
            // It will be evaluated again, and is charged then.
            return result;
        }
        budget.spend(cost)?;
        result
    }
}

/// What evaluations may still cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    left: u64,
}

impl Default for Budget {
    /// [`RUNTIME_BUDGET`].
    fn default() -> Self {
        Self::new(RUNTIME_BUDGET)
    }
}

impl Budget {
    /// So much.
    pub fn new(cost: u64) -> Self {
        Self { left: cost }
    }

    /// What is left.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Takes `cost` away.
    ///
    /// # Errors
    /// [`EvalError::OutOfBudget`] if there is less; nothing is left then.
    pub fn spend(&mut self, cost: u64) -> Result<(), EvalError> {
        match self.left.checked_sub(cost) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(EvalError::OutOfBudget)
            }
        }
    }
}

#[cfg(test)]
mod tests;
