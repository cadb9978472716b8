//! What a ValidatingAdmissionPolicy says of a request.

use k8s_openapi::api::admissionregistration::v1::{
    ParamKind, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
    ValidatingAdmissionPolicySpec,
};

use super::{
    super::{
        expressions::{Conditions, Evaluator, Expression, Failed, Inputs, Pass, Variables},
        matching::Matcher,
    },
    config::Policy,
};
use crate::{
    cel::{Budget, MAX_MESSAGE_BYTES, Value},
    resources::admission::expressions::{Given, Outcome},
};

/// A policy as it was written.
#[derive(Debug)]
pub(super) struct Validating {
    spec: ValidatingAdmissionPolicySpec,
    matcher: Matcher,
}

/// A policy, ready to be evaluated.
#[derive(Debug)]
pub(super) struct Rules {
    conditions: Conditions,
    variables: Variables,
    validations: Vec<Rule>,
    annotations: Vec<(String, Expression)>,
    /// Whether what cannot be evaluated is let through.
    pub ignores_failures: bool,
}

#[derive(Debug)]
struct Rule {
    expression: Expression,
    /// What to say when it does not hold: the text that this makes, else `message`.
    wording: Option<Expression>,
    message: String,
    reason: String,
}

impl Policy for Validating {
    type Object = ValidatingAdmissionPolicy;
    type Binding = ValidatingAdmissionPolicyBinding;
    type Compiled = Rules;

    fn new(object: ValidatingAdmissionPolicy) -> Self {
        let spec = object.spec.unwrap_or_default();
        let constraints = spec.match_constraints.clone().unwrap_or_default();
        Self { matcher: Matcher::from(&constraints), spec }
    }

    fn compile(&self) -> Rules {
        let spec = &self.spec;
        let params = spec.param_kind.is_some();
        let given = Given { params, authorizer: true, patches: false };
        let mut variables = Variables::default();
        for variable in spec.variables.iter().flatten() {
            variables.add(&variable.name, &variable.expression, given);
        }
        let silent = Given { authorizer: false, ..given };
        let validations = spec.validations.iter().flatten().map(|rule| Rule {
            expression: variables.compile(&rule.expression, given, Outcome::Bool),
            wording: rule
                .message_expression
                .as_ref()
                .filter(|source| !source.is_empty())
                .map(|source| variables.compile(source, silent, Outcome::String)),
            message: rule.message.clone().unwrap_or_default().trim().to_owned(),
            reason: rule.reason.clone().unwrap_or_else(|| "Invalid".to_owned()),
        });
        let annotations = spec.audit_annotations.iter().flatten().map(|annotation| {
            let source = &annotation.value_expression;
            let compiled = variables.compile(source, given, Outcome::OptionalString);
            (annotation.key.clone(), compiled)
        });
        Rules {
            conditions: Conditions::new(
                spec.match_conditions.as_deref().unwrap_or_default(),
                params,
            ),
            validations: validations.collect(),
            annotations: annotations.collect(),
            variables,
            ignores_failures: spec.failure_policy.as_deref() == Some("Ignore"),
        }
    }

    fn matcher(&self) -> &Matcher {
        &self.matcher
    }

    fn param_kind(&self) -> Option<&ParamKind> {
        self.spec.param_kind.as_ref()
    }
}

/// One rule that does not hold, or cannot be evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    /// Which rule; 0 for the policy as a whole.
    pub index: usize,
    pub message: String,
    /// The reason of the answer; empty for the default.
    pub reason: String,
    /// As metrics name it.
    pub error: &'static str,
}

/// What a policy says of a request.
#[derive(Debug, Default)]
pub(super) struct Judgement {
    /// What speaks against it.
    pub violations: Vec<Violation>,
    /// What is to be noted in the audit event.
    pub annotations: Vec<(String, String)>,
    /// Annotations that could not be made: the request is refused, whatever the actions are.
    pub failed_annotations: Vec<Violation>,
}

const FAILED: &str = "invalid_error";
const OUT_OF_BUDGET: &str = "out_of_budget";

impl Rules {
    /// Evaluates the policy.
    pub(super) async fn judge(&self, evaluator: &mut Evaluator<'_>, inputs: &Inputs) -> Judgement {
        if !self.conditions.is_empty() {
            match self.conditions.hold(evaluator, inputs).await {
                Ok(true) => {}
                Ok(false) => return Judgement::default(),
                Err(why) => return self.failed(why, FAILED),
            }
        }
        let budget = Budget::default();
        let judged = evaluator.run(self, |it| &it.variables, inputs, budget, Self::pass).await;
        match judged {
            Ok(judgement) => judgement,
            Err(Failed::OutOfBudget(why)) => self.failed(why, OUT_OF_BUDGET),
            Err(Failed::Expression(why)) => self.failed(why, FAILED),
            Err(Failed::Question(_)) => self.failed("the authorizer was not asked".into(), FAILED),
        }
    }

    /// What follows when the policy as a whole cannot be evaluated.
    fn failed(&self, why: String, error: &'static str) -> Judgement {
        let reason = String::new();
        let violation = Violation { index: 0, message: why, reason, error };
        let violations = if self.ignores_failures { Vec::new() } else { vec![violation] };
        Judgement { violations, ..Judgement::default() }
    }

    /// Evaluates everything. Validations have one budget, of which messages have what is left;
    /// annotations have one of their own.
    fn pass<'a>(pass: &mut Pass<'a>, rules: &'a Self) -> Result<Judgement, Failed> {
        let mut judgement = Judgement::default();
        let mut broken = Vec::new();
        for (index, rule) in rules.validations.iter().enumerate() {
            match pass.evaluate(&rule.expression) {
                Ok(value) if value.as_bool() == Some(true) => {}
                Ok(_) => broken.push((index, Ok(rule))),
                Err(Failed::Expression(_)) if rules.ignores_failures => {}
                Err(Failed::Expression(message)) => broken.push((index, Err(message))),
                Err(other) => return Err(other),
            }
        }
        judgement.violations = match violations(pass, &broken) {
            // One message that costs too much leaves none of them.
            Err(Failed::OutOfBudget(why)) => {
                let why = format!("failed messageExpression: {why}");
                let told = broken.iter().filter_map(|(index, rule)| match rule {
                    Err(message) => Some(failure(*index, message)),
                    Ok(_) => (!rules.ignores_failures).then(|| failure(*index, &why)),
                });
                told.collect()
            }
            violations => violations?,
        };
        pass.budget = Budget::default();
        for (key, expression) in &rules.annotations {
            match pass.evaluate(expression) {
                Ok(Value::String(text)) if !text.as_str().trim().is_empty() => {
                    judgement.annotations.push((key.clone(), text.as_str().trim().to_owned()));
                }
                Ok(_) => {}
                Err(Failed::Expression(_)) if rules.ignores_failures => {}
                Err(Failed::Expression(message)) => {
                    judgement.failed_annotations.push(failure(0, &message));
                }
                Err(other) => return Err(other),
            }
        }
        Ok(judgement)
    }
}

/// What of the rules does not hold, with what there is to say of it. In the place of a rule that
/// could not be evaluated is what is wrong with it.
fn violations<'a>(
    pass: &mut Pass<'a>,
    broken: &[(usize, Result<&'a Rule, String>)],
) -> Result<Vec<Violation>, Failed> {
    let told = broken.iter().map(|(index, rule)| match rule {
        Ok(rule) => Ok(Violation {
            index: *index,
            message: rule.message(pass)?,
            reason: rule.reason.clone(),
            error: "no_error",
        }),
        Err(message) => Ok(failure(*index, message)),
    });
    told.collect()
}

/// What could not be evaluated.
fn failure(index: usize, message: &str) -> Violation {
    Violation { index, message: message.to_owned(), reason: String::new(), error: FAILED }
}

impl Rule {
    /// What to say when it does not hold.
    ///
    /// # Errors
    /// When it costs too much to say it, or the authorizer must be asked first.
    fn message<'a>(&'a self, pass: &mut Pass<'a>) -> Result<String, Failed> {
        let made = match &self.wording {
            None => None,
            Some(wording) => match pass.evaluate(wording) {
                Ok(value) => value.as_str().map(|text| text.trim().to_owned()),
                Err(Failed::Expression(error)) => {
                    tracing::debug!(error, "a message could not be made");
                    None
                }
                Err(other) => return Err(other),
            },
        };
        let fits = |text: &String| {
            !text.is_empty() && text.len() <= MAX_MESSAGE_BYTES && !text.contains('\n')
        };
        Ok(made.filter(fits).unwrap_or_else(|| match self.message.as_str() {
            "" => format!("failed expression: {}", self.expression.source),
            message => message.to_owned(),
        }))
    }
}
