//! Tokens that a service of somebody else knows (`--authentication-token-webhook-config-file`).

use std::time::Duration;

use async_trait::async_trait;
use http::request::Parts;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use sha2::{Digest, Sha256};

use super::{AuthenticationError, Authenticator, bearer_token};
use crate::server::{
    user::UserInfo,
    webhook::{Answers, Webhook, WebhookError},
};

/// How long an answer is good for, as in kube-apiserver.
const GOOD_FOR: Duration = Duration::from_secs(120);

/// Asks a service by TokenReview whose a token is.
#[derive(Debug)]
pub struct WebhookTokens {
    hook: Webhook,
    answers: Answers<Option<UserInfo>>,
}

impl WebhookTokens {
    /// Asks the service that a kubeconfig (YAML) names as its cluster.
    ///
    /// # Errors
    /// When the kubeconfig is not usable.
    pub async fn new(kubeconfig: &str) -> Result<Self, WebhookError> {
        Ok(Self { hook: Webhook::new(kubeconfig).await?, answers: Answers::default() })
    }
}

#[async_trait]
impl Authenticator for WebhookTokens {
    async fn authenticate(&self, request: &Parts) -> Result<Option<UserInfo>, AuthenticationError> {
        let Some(token) = bearer_token(request) else { return Ok(None) };
        let digest = Sha256::digest(&token).to_vec();
        if let Some(known) = self.answers.get(&digest) {
            return Ok(known);
        }
        let question = TokenReview {
            spec: TokenReviewSpec { token, ..TokenReviewSpec::default() },
            ..TokenReview::default()
        };
        let answer = self.hook.ask(&question).await.map_err(AuthenticationError)?;
        let status = answer.status.unwrap_or_default();
        let found = (status.authenticated == Some(true)).then(|| {
            let found = status.user.unwrap_or_default();
            let groups = found.groups.unwrap_or_default();
            let name = found.username.unwrap_or_default();
            UserInfo {
                uid: found.uid.unwrap_or_default(),
                extra: found.extra.unwrap_or_default(),
                ..UserInfo::new(&name, groups.iter().map(String::as_str))
            }
        });
        self.answers.keep(digest, found.clone(), GOOD_FOR);
        Ok(found)
    }
}
