//! Decisions of a service of somebody else (`--authorization-webhook-config-file`).

use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};

use super::{Authorizer, Decision};
use crate::server::{
    info::RequestInfo,
    user::UserInfo,
    webhook::{Answers, Webhook, WebhookError},
};

/// How long answers are good for, as in kube-apiserver.
const ALLOWED_FOR: Duration = Duration::from_secs(300);
const REFUSED_FOR: Duration = Duration::from_secs(30);

/// Asks a service by SubjectAccessReview. While it does not answer it has no opinion.
#[derive(Debug)]
pub struct WebhookAuthorizer {
    hook: Webhook,
    answers: Answers<Decision>,
}

impl WebhookAuthorizer {
    /// Asks the service that a kubeconfig (YAML) names as its cluster.
    ///
    /// # Errors
    /// When the kubeconfig is not usable.
    pub async fn new(kubeconfig: &str) -> Result<Self, WebhookError> {
        Ok(Self { hook: Webhook::new(kubeconfig).await?, answers: Answers::default() })
    }
}

#[async_trait]
impl Authorizer for WebhookAuthorizer {
    async fn authorize(&self, user: &UserInfo, request: &RequestInfo) -> Decision {
        let question = question(user, request);
        let Ok(key) = serde_json::to_vec(&question.spec) else {
            return Decision::NoOpinion(String::new());
        };
        if let Some(known) = self.answers.get(&key) {
            return known;
        }
        let status = match self.hook.ask(&question).await {
            Ok(answer) => answer.status.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(error, "the authorization webhook failed");
                return Decision::NoOpinion(String::new());
            }
        };
        let reason = status.reason.unwrap_or_default();
        let (decision, good_for) = match (status.allowed, status.denied) {
            (_, Some(true)) => (Decision::Deny(reason), REFUSED_FOR),
            (true, _) => (Decision::Allow, ALLOWED_FOR),
            (false, _) => (Decision::NoOpinion(reason), REFUSED_FOR),
        };
        self.answers.keep(key, decision.clone(), good_for);
        decision
    }
}

fn question(user: &UserInfo, request: &RequestInfo) -> SubjectAccessReview {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let resource = request.is_resource.then(|| ResourceAttributes {
        verb: text(&request.verb),
        group: text(&request.group),
        version: text(&request.version),
        namespace: text(&request.namespace),
        resource: text(&request.resource),
        subresource: text(&request.subresource),
        name: text(&request.name),
        ..ResourceAttributes::default()
    });
    let path = (!request.is_resource)
        .then(|| NonResourceAttributes { path: text(&request.path), verb: text(&request.verb) });
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: text(&user.name),
            uid: text(&user.uid),
            groups: (!user.groups.is_empty()).then(|| user.groups.clone()),
            extra: (!user.extra.is_empty()).then(|| user.extra.clone()),
            resource_attributes: resource,
            non_resource_attributes: path,
        },
        ..SubjectAccessReview::default()
    }
}
