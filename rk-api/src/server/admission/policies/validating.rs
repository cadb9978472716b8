//! The plug-in ValidatingAdmissionPolicy: what follows from what policies say.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::Serialize;
use tokio::time::Instant;

use super::{
    super::{
        Admission, AdmissionRequest,
        expressions::{Evaluator, Inputs},
        matching::Facts,
        metrics::Evaluation,
        plugins::Parts,
        shown::Views,
    },
    Dispatcher, Invocation, Misconfigured,
    judge::{Judgement, Validating, Violation},
};
use crate::server::status::{ApiError, Result};

/// How long the value of an audit annotation may be, in bytes.
const ANNOTATION_BYTES_MAX: usize = 10 * 1024;

/// The annotation that tells of a violation.
const FAILURE: &str = "validation.policy.admission.k8s.io/validation_failure";

/// How many violations it tells of.
const FAILURES_MAX: usize = 50;

/// See the module's documentation.
#[derive(Debug)]
pub(in super::super) struct ValidatingPolicies(Dispatcher<Validating>);

impl ValidatingPolicies {
    pub(in super::super) fn new(parts: &Parts) -> Self {
        Self(Dispatcher::new(parts))
    }
}

/// A violation, as the audit event tells of it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Failure {
    message: String,
    policy: String,
    binding: String,
    expression_index: usize,
    validation_actions: Vec<String>,
}

/// What follows from what policies say.
#[derive(Default)]
struct Consequences {
    denials: Vec<Denial>,
    failures: Vec<Failure>,
}

/// A refusal: by which policy and binding, and why.
struct Denial {
    policy: String,
    binding: Option<String>,
    message: String,
    reason: String,
}

#[async_trait]
impl Admission for ValidatingPolicies {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        self.0.handles(request)
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        let (mut facts, mut views) = (Facts::default(), Views::default());
        let asked = self.0.asked(request, &mut facts).await?;
        let mut consequences = Consequences {
            denials: asked.misconfigured.iter().filter_map(misconfiguration).collect(),
            failures: Vec::new(),
        };
        let mut evaluator = Evaluator::new(&self.0.authorizer, request.user);
        let mut annotations: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for invocation in asked.invocations {
            let seen = views.of(request, &invocation.resource)?;
            let namespace = facts.namespace.get(&self.0.lookup.reader, request).await?;
            let params = invocation.params.clone();
            let inputs = Inputs::new(request, seen, namespace.as_deref(), params);
            let began = Instant::now();
            let rules = invocation.bound.policy.compiled();
            let judgement = rules.judge(&mut evaluator, &inputs).await;
            let policy = &invocation.bound.name;
            for (key, value) in &judgement.annotations {
                let values = annotations.entry(format!("{policy}/{key}")).or_default();
                let value = cut(value);
                if !values.iter().any(|known| known == value) {
                    values.push(value.to_owned());
                }
            }
            self.act(request, &invocation, judgement, began, &mut consequences);
        }
        for (key, values) in annotations {
            request.annotate(&key, values.join(", "));
        }
        let Consequences { denials, mut failures } = consequences;
        failures.truncate(FAILURES_MAX);
        if let (false, Ok(told)) = (failures.is_empty(), serde_json::to_string(&failures)) {
            request.annotate(FAILURE, told);
        }
        denials.first().map_or(Ok(()), |denial| Err(denial.error(request)))
    }
}

impl ValidatingPolicies {
    /// Does what the binding says about violations.
    fn act(
        &self,
        request: &AdmissionRequest<'_>,
        invocation: &Invocation<Validating>,
        judgement: Judgement,
        began: Instant,
        consequences: &mut Consequences,
    ) {
        let (policy, binding) = (&invocation.bound.name, invocation.binding_name());
        let count = |violation: Option<&Violation>, action| {
            let error = violation.map_or("no_error", |violation| violation.error);
            self.0
                .metrics
                .validated(Evaluation { policy, binding, error, action }, began.elapsed());
        };
        let deny = |violation: &Violation| Denial {
            policy: policy.clone(),
            binding: Some(binding.to_owned()),
            message: violation.message.clone(),
            reason: violation.reason.clone(),
        };
        let actions = &invocation.bound.bindings[invocation.binding].actions;
        if judgement.violations.is_empty() {
            count(None, "allow");
        }
        for violation in &judgement.violations {
            for action in actions {
                match action.as_str() {
                    "Deny" => {
                        consequences.denials.push(deny(violation));
                        count(Some(violation), "deny");
                    }
                    "Warn" => {
                        request.warn(format!(
                            "Validation failed for ValidatingAdmissionPolicy '{policy}' with \
                             binding '{binding}': {}",
                            violation.message
                        ));
                        count(Some(violation), "warn");
                    }
                    "Audit" => {
                        consequences.failures.push(Failure {
                            message: violation.message.clone(),
                            policy: policy.clone(),
                            binding: binding.to_owned(),
                            expression_index: violation.index,
                            validation_actions: actions.clone(),
                        });
                        count(Some(violation), "audit");
                    }
                    _ => {}
                }
            }
        }
        for violation in &judgement.failed_annotations {
            consequences.denials.push(deny(violation));
            count(Some(violation), "deny");
        }
    }
}

/// The refusal by a policy that cannot be asked; `None` when it ignores failures.
fn misconfiguration(found: &Misconfigured<Validating>) -> Option<Denial> {
    if found.bound.policy.compiled().ignores_failures {
        return None;
    }
    let what = if found.binding.is_some() { "binding" } else { "policy" };
    Some(Denial {
        policy: found.bound.name.clone(),
        binding: found.binding.map(|index| found.bound.bindings[index].name.clone()),
        message: format!("failed to configure {what}: {}", found.why),
        reason: String::new(),
    })
}

impl Denial {
    fn error(&self, request: &AdmissionRequest<'_>) -> ApiError {
        let Self { policy, message, .. } = self;
        let by = match &self.binding {
            Some(binding) => format!("'{policy}' with binding '{binding}'"),
            None => format!("'{policy}'"),
        };
        let why = format!("ValidatingAdmissionPolicy {by} denied request: {message}");
        let mut error = request.forbidden(&why).cause("", &why, "");
        (error.code, error.reason) = match self.reason.as_str() {
            "Forbidden" => (403, "Forbidden".into()),
            "Unauthorized" => (401, "Unauthorized".into()),
            "RequestEntityTooLarge" => (413, "RequestEntityTooLarge".into()),
            _ => (422, "Invalid".into()),
        };
        error
    }
}

/// The beginning of a text, as much of it as an annotation may hold.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(ANNOTATION_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
