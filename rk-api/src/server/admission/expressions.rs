//! Evaluating the expressions of webhooks and policies.
//!
//! Evaluation does not wait. Where an expression asks the authorizer, evaluation ends with the
//! question; it is asked, and the whole is evaluated again with the answer at hand.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::{admissionregistration::v1::MatchCondition, core::v1::Namespace};
use serde_json::Value as Json;

use super::{AdmissionRequest, shown::Seen};
use crate::{
    cel::{
        AccessQuery, AccessTarget, Bindings, Budget, Decision, Decisions, EvalError,
        MATCH_CONDITIONS_BUDGET, Program, ResourceTarget, Value,
    },
    resources::admission::expressions::{Given, NAMESPACE, Outcome, REQUEST, Scope},
    server::{
        authz::{self, Authorizer},
        info::RequestInfo,
        user::{MASTERS, UserInfo},
    },
};

/// The most questions that the expressions of one webhook or policy may ask the authorizer.
const QUESTIONS_MAX: usize = 64;

/// A compiled expression.
#[derive(Clone, Debug)]
pub(super) struct Expression {
    /// As it was written.
    pub source: String,
    program: Result<Program, String>,
    /// The variables that it needs, by their places.
    needs: BTreeSet<usize>,
}

/// The variables of a policy, in order; each can refer to those before it.
#[derive(Clone, Debug, Default)]
pub(super) struct Variables {
    all: Vec<(String, Expression)>,
    scope: Scope,
}

impl Variables {
    /// Adds a variable.
    pub(super) fn add(&mut self, name: &str, source: &str, given: Given) {
        let expression = self.compile(source, given, Outcome::Any);
        if let Ok(program) = &expression.program {
            self.scope.declare(name, program.output_type());
        }
        self.all.push((name.to_owned(), expression));
    }

    /// Compiles an expression that can refer to the variables.
    pub(super) fn compile(&self, source: &str, given: Given, outcome: Outcome) -> Expression {
        let source = source.trim();
        let mut needs = BTreeSet::new();
        for (place, (name, variable)) in self.all.iter().enumerate() {
            if mentions(source, name) {
                needs.extend(&variable.needs);
                needs.insert(place);
            }
        }
        let program = self.scope.compile(given, source, outcome);
        Expression { source: source.to_owned(), program, needs }
    }
}

/// Whether an expression may refer to a variable. Where it only looks so, as in a string, the
/// variable is evaluated for nothing.
fn mentions(source: &str, name: &str) -> bool {
    let named = format!("variables.{name}");
    source.match_indices(&named).any(|(at, _)| {
        let after = source[at + named.len()..].chars().next();
        !after.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

/// What expressions refer to, as JSON.
#[derive(Debug)]
pub(super) struct Inputs {
    seen: Arc<Seen>,
    request: Json,
    namespace: Json,
    /// Null where there are none.
    params: Option<Json>,
    target: ResourceTarget,
}

impl Inputs {
    pub(super) fn new(
        request: &AdmissionRequest<'_>,
        seen: Arc<Seen>,
        namespace: Option<&Namespace>,
        params: Option<Json>,
    ) -> Self {
        let text = |text: &str| text.to_owned();
        let target = ResourceTarget {
            group: request.resource.group.clone().into_owned(),
            resource: request.resource.plural.clone().into_owned(),
            subresource: text(request.subresource),
            namespace: text(request.seen_namespace()),
            name: text(request.given_name()),
            ..ResourceTarget::default()
        };
        Self {
            request: Json::Object(seen.facts(request)),
            namespace: namespace.map(namespace_value).unwrap_or_default(),
            seen,
            params,
            target,
        }
    }

    fn bindings<'a>(&'a self, decisions: &'a Decisions) -> Result<Bindings<'a>, EvalError> {
        let mut bindings = Bindings::new()
            .bind("object", Value::dynamic(&self.seen.object))
            .bind("oldObject", Value::dynamic(&self.seen.old))
            .bind("request", Value::json(&self.request, &REQUEST)?)
            .bind("namespaceObject", Value::json(&self.namespace, &NAMESPACE)?)
            .bind("authorizer", Value::authorizer(decisions))
            .bind(
                "authorizer.requestResource",
                Value::request_resource(decisions, self.target.clone()),
            );
        if let Some(params) = &self.params {
            bindings.set("params", Value::dynamic(params));
        }
        Ok(bindings)
    }
}

/// `namespaceObject`: what is somebody else's business is left out.
fn namespace_value(namespace: &Namespace) -> Json {
    let mut value = serde_json::to_value(namespace).unwrap_or_default();
    if let Some(metadata) = value.get_mut("metadata").and_then(Json::as_object_mut) {
        metadata.remove("managedFields");
        metadata.remove("ownerReferences");
        if let Some(uid) = metadata.remove("uid") {
            metadata.insert("UID".to_owned(), uid);
        }
    }
    value
}

/// One evaluation of several expressions that share their variables and their budget.
pub(super) struct Pass<'a> {
    bindings: Bindings<'a>,
    variables: &'a Variables,
    values: Vec<Option<Result<Value<'a>, EvalError>>>,
    pub budget: Budget,
}

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Failed {
    /// It failed; the text is for the client.
    Expression(String),
    /// The budget is used up: no further ones are evaluated.
    OutOfBudget(String),
    /// The authorizer must be asked first.
    Question(Box<AccessQuery>),
}

impl<'a> Pass<'a> {
    fn new(
        inputs: &'a Inputs,
        variables: &'a Variables,
        decisions: &'a Decisions,
        budget: Budget,
    ) -> Result<Self, Failed> {
        let bindings = inputs.bindings(decisions);
        let bindings = bindings.map_err(|error| Failed::Expression(error.to_string()))?;
        Ok(Self { bindings, variables, values: vec![None; variables.all.len()], budget })
    }

    /// The value of an expression.
    pub(super) fn evaluate(&mut self, expression: &'a Expression) -> Result<Value<'a>, Failed> {
        let program = expression.program.as_ref();
        let program =
            program.map_err(|why| Failed::Expression(format!("compilation error: {why}")))?;
        let failed_variable = self.bind_variables(expression)?;
        program.evaluate(&self.bindings, &mut self.budget).map_err(|error| match error {
            EvalError::NeedsDecision(query) => Failed::Question(query),
            EvalError::OutOfBudget => Failed::OutOfBudget(error.to_string()),
            error => {
                let error = failed_variable.unwrap_or_else(|| error.to_string());
                let source = &expression.source;
                Failed::Expression(format!("expression '{source}' resulted in error: {error}"))
            }
        })
    }

    /// Evaluates the variables that an expression needs; those that fail are missing. Returns what
    /// is wrong with the first of these.
    fn bind_variables(&mut self, expression: &'a Expression) -> Result<Option<String>, Failed> {
        for &place in &expression.needs {
            let (_, variable) = &self.variables.all[place];
            if self.values[place].is_some() {
                continue;
            }
            self.bind(&variable.needs);
            let value = match &variable.program {
                Ok(program) => program.evaluate(&self.bindings, &mut self.budget),
                Err(why) => Err(EvalError::new(why.clone())),
            };
            match value {
                Err(EvalError::NeedsDecision(query)) => return Err(Failed::Question(query)),
                Err(error @ EvalError::OutOfBudget) => {
                    return Err(Failed::OutOfBudget(error.to_string()));
                }
                value => self.values[place] = Some(value),
            }
        }
        self.bind(&expression.needs);
        let failed = expression.needs.iter().find_map(|&place| {
            let error = self.values[place].as_ref()?.as_ref().err()?;
            let name = &self.variables.all[place].0;
            Some(format!("composited variable {name:?} fails to evaluate: {error}"))
        });
        Ok(failed)
    }

    fn bind(&mut self, places: &BTreeSet<usize>) {
        let known = places.iter().filter_map(|&place| {
            let value = self.values[place].as_ref()?.as_ref().ok()?;
            Some((Arc::from(self.variables.all[place].0.as_str()), value.clone()))
        });
        self.bindings.set("variables", Value::map(known.collect::<Vec<_>>()));
    }
}

/// Evaluates with an authorizer at hand.
#[derive(Debug)]
pub(super) struct Evaluator<'r> {
    authorizer: &'r Arc<dyn Authorizer>,
    user: &'r UserInfo,
    decisions: Decisions,
}

impl<'r> Evaluator<'r> {
    pub(super) fn new(authorizer: &'r Arc<dyn Authorizer>, user: &'r UserInfo) -> Self {
        Self { authorizer, user, decisions: Decisions::default() }
    }

    /// Evaluates expressions of `policy` until no question is open. `pass` must do the same each
    /// time.
    pub(super) async fn run<P, T>(
        &mut self,
        policy: &P,
        variables: fn(&P) -> &Variables,
        inputs: &Inputs,
        budget: Budget,
        pass: impl for<'a> Fn(&mut Pass<'a>, &'a P) -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        for _ in 0..QUESTIONS_MAX {
            let result = Pass::new(inputs, variables(policy), &self.decisions, budget)
                .and_then(|mut values| pass(&mut values, policy));
            let Err(Failed::Question(query)) = result else { return result };
            let decision = self.ask(&query).await;
            self.decisions.insert(*query, decision);
        }
        Err(Failed::Expression("the authorizer is asked too many questions".to_owned()))
    }

    async fn ask(&self, query: &AccessQuery) -> Decision {
        let account = query
            .service_account
            .as_ref()
            .map(|(namespace, name)| UserInfo::service_account(namespace, name));
        let user = account.as_ref().unwrap_or(self.user);
        let decision = |allowed, reason| Decision { allowed, reason, error: None };
        if user.is_in(MASTERS) {
            return decision(true, String::new());
        }
        let verb = query.verb.clone().into();
        let asked = match &query.target {
            AccessTarget::Path(path) => {
                RequestInfo { path: path.clone(), verb, ..RequestInfo::default() }
            }
            AccessTarget::Resource(target) => RequestInfo {
                is_resource: true,
                verb,
                group: target.group.clone(),
                version: "*".to_owned(),
                resource: target.resource.clone(),
                subresource: target.subresource.clone(),
                namespace: target.namespace.clone(),
                name: target.name.clone(),
                field_selector: target.field_selector.clone(),
                ..RequestInfo::default()
            },
        };
        match self.authorizer.authorize(user, &asked).await {
            authz::Decision::Allow => decision(true, String::new()),
            authz::Decision::Deny(reason) | authz::Decision::NoOpinion(reason) => {
                decision(false, reason)
            }
        }
    }
}

/// Conditions that must all hold (`matchConditions`).
#[derive(Clone, Debug, Default)]
pub(super) struct Conditions {
    all: Vec<Expression>,
    /// None: conditions have no variables.
    variables: Variables,
}

impl Conditions {
    pub(super) fn new(conditions: &[MatchCondition], params: bool) -> Self {
        let given = Given { params, authorizer: true, patches: false };
        let variables = Variables::default();
        let compile = |it: &MatchCondition| variables.compile(&it.expression, given, Outcome::Bool);
        Self { all: conditions.iter().map(compile).collect(), variables }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether all hold. One that does not decides, whatever others fail of.
    ///
    /// # Errors
    /// When none says no and some cannot be evaluated: with what is wrong with them.
    pub(super) async fn hold(
        &self,
        evaluator: &mut Evaluator<'_>,
        inputs: &Inputs,
    ) -> Result<bool, String> {
        let budget = Budget::new(MATCH_CONDITIONS_BUDGET);
        let judged = evaluator.run(
            self,
            |it| &it.variables,
            inputs,
            budget,
            |pass, conditions| {
                let mut wrong = Vec::new();
                for condition in &conditions.all {
                    match pass.evaluate(condition) {
                        Ok(value) if value.as_bool() == Some(false) => return Ok(Ok(false)),
                        Ok(_) => {}
                        Err(Failed::Expression(why)) => wrong.push(why),
                        Err(other) => return Err(other),
                    }
                }
                Ok(match wrong.as_slice() {
                    [] => Ok(true),
                    [one] => Err(one.clone()),
                    many => Err(format!("[{}]", many.join(", "))),
                })
            },
        );
        match judged.await {
            Ok(judged) => judged,
            Err(Failed::Expression(why) | Failed::OutOfBudget(why)) => Err(why),
            Err(Failed::Question(_)) => Err("the authorizer was not asked".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_needs_the_variables_that_it_mentions() {
        let mut variables = Variables::default();
        let given = Given::default();
        variables.add("a", "1", given);
        variables.add("ab", "variables.a + 1", given);
        variables.add("other", "3", given);
        let needs = |source| variables.compile(source, given, Outcome::Any).needs;
        assert_eq!(needs("variables.ab == 2"), BTreeSet::from([0, 1]));
        assert_eq!(needs("variables.a == 1"), BTreeSet::from([0]));
        assert!(needs("object.other == 1").is_empty());
    }
}
