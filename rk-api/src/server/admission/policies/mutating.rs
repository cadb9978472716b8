//! The plug-in MutatingAdmissionPolicy: policies change objects one after the other.

use async_trait::async_trait;

use super::{
    super::{
        Admission, AdmissionRequest,
        expressions::{Evaluator, Inputs},
        matching::Facts,
        metrics::Evaluation,
        plugins::Parts,
        shown::{Views, replace},
    },
    Dispatcher, Invocation, Misconfigured,
    mutation::Mutating,
};
use crate::server::status::{ApiError, Result};

/// See the module's documentation.
#[derive(Debug)]
pub(in super::super) struct MutatingPolicies(Dispatcher<Mutating>);

impl MutatingPolicies {
    pub(in super::super) fn new(parts: &Parts) -> Self {
        Self(Dispatcher::new(parts))
    }
}

#[async_trait]
impl Admission for MutatingPolicies {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        self.0.handles(request)
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<()> {
        let (mut facts, mut views) = (Facts::default(), Views::default());
        let asked = self.0.asked(request, &mut facts).await?;
        let second = request.rounds.second;
        if second {
            let mut invoked = std::mem::take(&mut request.rounds.policies);
            invoked.resume(|| Some(views.of(request, request.resource).ok()?.object.clone()));
            request.rounds.policies = invoked;
        }
        let mut errors: Vec<Refusal> =
            asked.misconfigured.iter().filter_map(misconfiguration).collect();
        for invocation in &asked.invocations {
            errors.extend(self.invoke(invocation, request, &mut facts, &mut views).await?);
        }
        if !second && request.rounds.policies.remembers() {
            let left = views.of(request, request.resource)?.object.clone();
            request.rounds.policies.leave(left);
        }
        refusal(request, &errors).map_or(Ok(()), Err)
    }
}

impl MutatingPolicies {
    /// Lets one policy change the object; returns what is wrong with it.
    async fn invoke(
        &self,
        invocation: &Invocation<Mutating>,
        request: &mut AdmissionRequest<'_>,
        facts: &mut Facts,
        views: &mut Views,
    ) -> Result<Vec<Refusal>> {
        let mutations = invocation.bound.policy.compiled();
        let failed = |why: String| {
            let (policy, binding) = (&invocation.bound.name, invocation.binding_name());
            let text = format!("policy '{policy}' with binding '{binding}' denied request: {why}");
            (!mutations.ignores_failures).then_some(Refusal { text, reason: "Invalid" })
        };
        // The authorizer is asked for a user who is not the object's: it stays the same.
        let user = request.user;
        let mut evaluator = Evaluator::new(&self.0.authorizer, user);
        let namespace = facts.namespace.get(&self.0.lookup.reader, request).await?;
        let key = key_of(invocation);
        if !mutations.conditions.is_empty() {
            let seen = views.of(request, &invocation.resource)?;
            let params = invocation.params.clone();
            let inputs = Inputs::new(request, seen, namespace.as_deref(), params);
            match mutations.conditions.hold(&mut evaluator, &inputs).await {
                Ok(true) => {}
                Ok(false) => return Ok(Vec::new()),
                Err(why) => return Ok(failed(why).into_iter().collect()),
            }
        }
        if request.object.is_none()
            || request.rounds.second && !request.rounds.policies.is_due(&key)
        {
            return Ok(Vec::new());
        }
        let (mut errors, mut changed) = (Vec::new(), false);
        for index in 0..mutations.all.len() {
            let seen = views.of(request, &invocation.resource)?;
            let params = invocation.params.clone();
            let inputs = Inputs::new(request, seen.clone(), namespace.as_deref(), params);
            let result = mutations.mutate(index, &mut evaluator, &inputs, &seen).await;
            self.count(invocation, result.is_ok());
            match result {
                Ok(tree) if tree == seen.object => {}
                Ok(tree) => {
                    replace(request, &seen, tree)?;
                    views.clear();
                    changed |= views.of(request, &invocation.resource)?.object != seen.object;
                }
                Err(why) => errors.extend(failed(why)),
            }
        }
        if changed {
            request.rounds.policies.changed();
            request.rounds.again = !request.rounds.second;
        }
        if mutations.reinvocable {
            request.rounds.policies.asked(&key);
        }
        Ok(errors)
    }

    fn count(&self, invocation: &Invocation<Mutating>, done: bool) {
        let (error, action) = if done { ("no_error", "allow") } else { ("invalid_error", "deny") };
        let (policy, binding) = (&invocation.bound.name, invocation.binding_name());
        self.0.metrics.mutated(Evaluation { policy, binding, error, action });
    }
}

/// A policy's name among all, with the binding and the parameters that it is asked for.
fn key_of(invocation: &Invocation<Mutating>) -> String {
    let meta = |field: &str| {
        let params = invocation.params.as_ref();
        let value = params.and_then(|params| params.get("metadata")?.get(field)?.as_str());
        value.unwrap_or_default().to_owned()
    };
    let (policy, binding) = (&invocation.bound.name, invocation.binding_name());
    format!("{policy}/{binding}/{}/{}", meta("namespace"), meta("name"))
}

/// What speaks against a request.
struct Refusal {
    text: String,
    /// The reason of the answer, if this is what it tells.
    reason: &'static str,
}

/// What is told of a policy that cannot be asked; `None` when it ignores failures.
fn misconfiguration(found: &Misconfigured<Mutating>) -> Option<Refusal> {
    if found.bound.policy.compiled().ignores_failures {
        return None;
    }
    let (policy, why) = (&found.bound.name, &found.why);
    let text = match found.binding {
        Some(index) => {
            let binding = &found.bound.bindings[index].name;
            format!(
                "policy '{policy}' with binding '{binding}' denied request: failed to configure \
                 binding: {why}"
            )
        }
        None => format!("policy {policy:?} denied request: failed to configure policy: {why}"),
    };
    Some(Refusal { text, reason: "Forbidden" })
}

/// The failure that tells of all that is wrong; its message and reason are those of the first.
fn refusal(request: &AdmissionRequest<'_>, errors: &[Refusal]) -> Option<ApiError> {
    let first = errors.first()?;
    let mut error = request.forbidden("admission request denied by policy");
    error.message.clone_from(&first.text);
    error.reason = first.reason.into();
    Some(errors.iter().fold(error, |error, refusal| error.cause("", &refusal.text, "")))
}
