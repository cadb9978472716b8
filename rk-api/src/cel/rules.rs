//! `x-kubernetes-validations`: rules in the schemas of custom resources (KEP-2876).
//!
//! [`Rules::compile`] makes what a schema's rules come to, and says what is wrong with them in the
//! words of apiextensions' validation of definitions. [`Rules::validate`] judges an object, with
//! transition rules and the ratcheting of KEP-4008.

mod compile;
mod field_path;
mod validate;

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value as Json;

use super::{Program, Schema};
use crate::field::{ErrorList, FieldError, Path};

/// The compiled rules of a schema.
#[derive(Debug)]
pub struct Rules {
    root: Node,
}

/// What rules say of an object.
#[derive(Debug, Default)]
pub struct Verdict {
    /// What is wrong.
    pub errors: ErrorList,
    /// What is wrong, but was so before and did not change: to warn of.
    pub warnings: Vec<FieldError>,
}

/// A schema with rules in it or below it.
#[derive(Debug)]
struct Node {
    /// What expressions see; `None` if they can see nothing, which is an error of its rules.
    schema: Option<Arc<Schema>>,
    /// `type`
    kind: String,
    rules: Vec<Rule>,
    items: Option<Box<Node>>,
    properties: BTreeMap<String, Node>,
    additional: Option<Box<Node>>,
    all_of: Vec<Node>,
    /// What tells items of a list apart; empty if nothing does.
    keys: Vec<String>,
    /// Whether members of the object can be told apart before and after a change.
    correlatable: bool,
}

#[derive(Debug)]
struct Rule {
    /// What to evaluate, or why it cannot be.
    program: Result<Program, String>,
    uses_old: bool,
    optional_old: bool,
    /// What messages call it.
    text: String,
    message: String,
    message_expression: Option<(Program, String)>,
    reason: Option<String>,
    /// Which field is to blame, below the one that the rule is about.
    field_path: String,
}

impl Rules {
    /// Compiles the rules of an OpenAPI v3 schema of a custom resource: nothing if it has none.
    ///
    /// The second result is what is wrong with them, at `path`: expressions that do not compile,
    /// cost too much by estimate, or refer to `oldSelf` where there is no telling what that is.
    /// `forgive_cost` is for rules that were accepted before.
    pub fn compile(
        openapi: &Json,
        path: &Path<'_>,
        forgive_cost: bool,
    ) -> (Option<Self>, ErrorList) {
        let (root, errors) = compile::compile(openapi, &path.to_string(), forgive_cost);
        (root.map(|root| Self { root }), errors)
    }

    /// Judges an object that was `old` before. What it costs is taken from `budget`.
    pub fn validate(&self, new: &Json, old: Option<&Json>, budget: &mut super::Budget) -> Verdict {
        validate::validate(&self.root, new, old, budget)
    }
}
