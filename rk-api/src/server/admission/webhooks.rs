//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: admission by somebody else's HTTPS
//! server (KEP-492, KEP-1872, KEP-3716).
//!
//! [`config`] keeps what is configured, following the watch cache; [`review`] is what is asked and
//! what an answer means; this file says who is asked, when, and what follows.

mod call;
mod config;
mod review;

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use serde_json::json;
use tokio::time::Instant;

use self::{
    call::Failure,
    config::{Hook, Hooks},
    review::Verdict,
};
use super::{
    Admission, AdmissionRequest,
    expressions::{Evaluator, Inputs},
    matching::{Facts, Lookup, is_exempt},
    metrics::{AdmissionMetrics, Call},
    plugins::Parts,
    shown::{Seen, Views, replace},
};
use crate::{
    patch::{self, PatchKind},
    server::{
        audit,
        authz::Authorizer,
        outbound::Outbound,
        status::{ApiError, Result},
    },
};

/// What both kinds of webhooks need.
#[derive(Debug)]
pub(super) struct Dispatcher {
    hooks: Arc<Hooks>,
    lookup: Lookup,
    authorizer: Arc<dyn Authorizer>,
    outbound: Outbound,
    metrics: AdmissionMetrics,
    /// As metrics name it.
    kind: &'static str,
}

/// Changes objects as webhooks say, one after the other.
#[derive(Debug)]
pub(super) struct MutatingWebhooks(Dispatcher);

/// Asks all webhooks at once.
#[derive(Debug)]
pub(super) struct ValidatingWebhooks(Dispatcher);

impl MutatingWebhooks {
    pub(super) fn new(parts: &Parts) -> Self {
        let hooks = Hooks::of::<MutatingWebhookConfiguration>(&parts.lookup.reader);
        Self(Dispatcher::new(hooks, parts, "admit"))
    }
}

impl ValidatingWebhooks {
    pub(super) fn new(parts: &Parts) -> Self {
        let hooks = Hooks::of::<ValidatingWebhookConfiguration>(&parts.lookup.reader);
        Self(Dispatcher::new(hooks, parts, "validating"))
    }
}

#[async_trait]
impl Admission for MutatingWebhooks {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        self.0.handles(request)
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<()> {
        let (mut facts, mut views) = (Facts::default(), Views::default());
        let second = request.rounds.second;
        if second {
            let mut invoked = std::mem::take(&mut request.rounds.webhooks);
            invoked.resume(|| Some(views.of(request, request.resource).ok()?.object.clone()));
            request.rounds.webhooks = invoked;
        }
        for (index, hook) in self.0.hooks.all().iter().enumerate() {
            let seen = self.0.concerns(hook, request, &mut facts, &mut views).await?;
            let Some(seen) = seen else { continue };
            if second && !request.rounds.webhooks.is_due(&hook.uid) {
                continue;
            }
            let place = format!("round_{}_index_{index}", u8::from(second));
            let changed = match self.0.ask(hook, request, &seen).await {
                Outcome::Allowed(verdict) => {
                    let changed = apply(hook, request, &seen, &verdict, &mut views)?;
                    if changed {
                        note_patch(hook, &place, &verdict);
                    }
                    changed
                }
                Outcome::FailedOpen => {
                    let key = format!("failed-open.mutation.webhook.admission.k8s.io/{place}");
                    request.annotate(&key, &*hook.name);
                    false
                }
                Outcome::Refused(error) => return Err(error),
            };
            note_mutation(request, hook, &place, changed);
            if changed {
                request.rounds.webhooks.changed();
                request.rounds.again = !second;
            }
            if hook.reinvocable {
                request.rounds.webhooks.asked(&hook.uid);
            }
        }
        if !second && request.rounds.webhooks.remembers() {
            let left = views.of(request, request.resource)?.object.clone();
            request.rounds.webhooks.leave(left);
        }
        Ok(())
    }
}

#[async_trait]
impl Admission for ValidatingWebhooks {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        self.0.handles(request)
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        let (mut facts, mut views) = (Facts::default(), Views::default());
        let mut concerned = Vec::new();
        for hook in self.0.hooks.all().iter() {
            if let Some(seen) = self.0.concerns(hook, request, &mut facts, &mut views).await? {
                concerned.push((hook.clone(), seen));
            }
        }
        let asked = concerned.iter().enumerate().map(|(index, (hook, seen))| async move {
            let outcome = self.0.ask(hook, request, seen).await;
            if matches!(outcome, Outcome::FailedOpen) {
                let place = format!("round_0_index_{index}");
                let key = format!("failed-open.validating.webhook.admission.k8s.io/{place}");
                request.annotate(&key, &*hook.name);
            }
            outcome
        });
        // All are asked to the end, as in Kubernetes: others count on having seen every request.
        let refused = join_all(asked).await.into_iter().find_map(|outcome| match outcome {
            Outcome::Refused(error) => Some(error),
            Outcome::Allowed(_) | Outcome::FailedOpen => None,
        });
        refused.map_or(Ok(()), Err)
    }
}

/// What a webhook's answer, or its absence, means for the request.
enum Outcome {
    Allowed(Box<Verdict>),
    /// It did not answer, which does not matter (`failurePolicy: Ignore`).
    FailedOpen,
    Refused(ApiError),
}

impl Dispatcher {
    fn new(hooks: Arc<Hooks>, parts: &Parts, kind: &'static str) -> Self {
        Self {
            hooks,
            lookup: parts.lookup.clone(),
            authorizer: parts.authorizer.clone(),
            outbound: parts.outbound.clone(),
            metrics: parts.metrics.clone(),
            kind,
        }
    }

    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        !self.hooks.is_empty() && !is_exempt(request)
    }

    /// The request as the webhook wants to see it; `None` when it is not about it.
    async fn concerns(
        &self,
        hook: &Hook,
        request: &AdmissionRequest<'_>,
        facts: &mut Facts,
        views: &mut Views,
    ) -> Result<Option<Arc<Seen>>> {
        let found = hook.matcher.matches(&self.lookup, request, facts).await?;
        let Some(resource) = found else { return Ok(None) };
        let seen = views.of(request, &resource)?;
        if hook.conditions.is_empty() {
            return Ok(Some(seen));
        }
        let namespace = facts.namespace.get(&self.lookup.reader, request).await?;
        let inputs = Inputs::new(request, seen.clone(), namespace.as_deref(), None);
        let mut evaluator = Evaluator::new(&self.authorizer, request.user);
        match hook.conditions.hold(&mut evaluator, &inputs).await {
            Ok(true) => Ok(Some(seen)),
            Err(why) if !hook.fails_open => Err(request.forbidden(&why)),
            Ok(false) | Err(_) => {
                let operation = request.operation.as_str();
                self.metrics.excluded(&hook.name, "webhook", self.kind, operation);
                Ok(None)
            }
        }
    }

    async fn ask(&self, hook: &Hook, request: &AdmissionRequest<'_>, seen: &Seen) -> Outcome {
        let began = Instant::now();
        let answer = call::call(&self.outbound, hook, request, seen, self.kind == "admit").await;
        let (outcome, code, rejected) = match answer {
            Ok(verdict) if verdict.allowed => (Outcome::Allowed(Box::new(verdict)), 200, None),
            Ok(verdict) => {
                let error = verdict.refusal(&hook.name);
                let code = error.code;
                (Outcome::Refused(error), code, Some("no_error"))
            }
            Err(Failure::Calling { why, code }) if hook.fails_open => {
                tracing::warn!(webhook = hook.name, why, "a webhook failed, failing open");
                self.metrics.failed_open(&hook.name, self.kind);
                (Outcome::FailedOpen, code, None)
            }
            Err(Failure::Calling { why, code }) => {
                tracing::warn!(webhook = hook.name, why, "a webhook failed, failing closed");
                let why = format!("failed calling webhook {:?}: {why}", hook.name);
                let error = ApiError::internal(why);
                (Outcome::Refused(error), code, Some("calling_webhook_error"))
            }
            Err(Failure::Refused(error)) => {
                (Outcome::Refused(error), 0, Some("apiserver_internal_error"))
            }
        };
        self.metrics.called(Call {
            webhook: &hook.name,
            kind: self.kind,
            operation: request.operation.as_str(),
            took: began.elapsed(),
            code,
            rejected,
        });
        outcome
    }
}

/// Changes the object as the answer says; whether it is another one then.
fn apply(
    hook: &Hook,
    request: &mut AdmissionRequest<'_>,
    seen: &Seen,
    verdict: &Verdict,
    views: &mut Views,
) -> Result<bool> {
    let Some(patch) = &verdict.patch else { return Ok(false) };
    if request.object.is_none() {
        return Err(ApiError::internal(format!(
            "admission webhook {:?} attempted to modify the object, which is not supported for \
             this operation",
            hook.name
        )));
    }
    let mut tree = seen.object.clone();
    patch::apply(PatchKind::Json, &seen.resource.schema, &mut tree, patch)
        .map_err(|error| ApiError::internal(error.detail()))?;
    if tree == seen.object {
        return Ok(false);
    }
    replace(request, seen, tree)?;
    views.clear();
    // What the kind does not have was dropped again.
    Ok(views.of(request, &seen.resource)?.object != seen.object)
}

fn note_mutation(request: &AdmissionRequest<'_>, hook: &Hook, place: &str, mutated: bool) {
    let note = json!({
        "configuration": hook.configuration,
        "webhook": hook.name,
        "mutated": mutated,
    });
    request.annotate(&format!("mutation.webhook.admission.k8s.io/{place}"), note.to_string());
}

fn note_patch(hook: &Hook, place: &str, verdict: &Verdict) {
    let patch = verdict.patch.as_deref().and_then(|patch| serde_json::from_slice(patch).ok());
    let note = json!({
        "configuration": hook.configuration,
        "webhook": hook.name,
        "patch": patch.unwrap_or(serde_json::Value::Null),
        "patchType": "JSONPatch",
    });
    let key = format!("patch.webhook.admission.k8s.io/{place}");
    audit::annotate_detail(&key, note.to_string());
}
