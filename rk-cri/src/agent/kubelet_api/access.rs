//! Who may ask the kubelet what: certificates of the cluster's authority, TokenReviews and
//! SubjectAccessReviews, whose answers are kept for a while.

use std::{collections::HashMap, hash::Hash, time::Duration};

use http::{Method, request::Parts};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use rk_api::server::{
    UserInfo,
    authn::{Authenticator, ClientCertificates, bearer_token},
};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::attributes::{Right, rights};
use crate::agent::configuration::{AuthorizationMode, KubeletConfiguration};

/// How many answers are kept at most; when there are more, those that are too old go first.
const KEPT_MAX: usize = 4096;

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// Nobody knows whose request it is: 401.
    Unauthenticated(String),
    /// Whoever it is may not: 403.
    Forbidden(String),
    /// It could not be found out: 500.
    Unknown(String),
}

/// Decides about requests, as `authentication` and `authorization` of a [`KubeletConfiguration`] say.
#[derive(Debug)]
pub struct Access {
    node: String,
    anonymous: bool,
    tokens: Option<Reviews<Vec<u8>, Option<UserInfo>>>,
    rights: Option<Reviews<(UserKey, Right), bool>>,
    good_for: GoodFor,
}

#[derive(Clone, Copy, Debug)]
struct GoodFor {
    token: Duration,
    allowed: Duration,
    refused: Duration,
}

/// What of a user a decision hangs on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct UserKey {
    name: String,
    uid: String,
    groups: Vec<String>,
    extra: Vec<(String, Vec<String>)>,
}

impl UserKey {
    fn of(user: &UserInfo) -> Self {
        Self {
            name: user.name.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user.extra.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        }
    }
}

impl Access {
    /// Asks the API server behind `client` about requests for this node's API.
    pub fn new(node: &str, configuration: &KubeletConfiguration, client: &Client) -> Self {
        let (authentication, authorization) =
            (&configuration.authentication, &configuration.authorization);
        let webhook = authentication.webhook.enabled;
        Self {
            node: node.to_owned(),
            anonymous: authentication.anonymous.enabled,
            tokens: webhook.then(|| Reviews::new(client.clone())),
            rights: (authorization.mode == AuthorizationMode::Webhook)
                .then(|| Reviews::new(client.clone())),
            good_for: GoodFor {
                token: authentication.webhook.cache_ttl.0,
                allowed: authorization.webhook.cache_authorized_ttl.0,
                refused: authorization.webhook.cache_unauthorized_ttl.0,
            },
        }
    }

    /// Whether a request may be answered.
    pub(super) async fn check(&self, request: &Parts) -> Result<(), Denied> {
        let user = self.user(request).await?;
        self.authorize(&user, &request.method, request.uri.path()).await
    }

    async fn user(&self, request: &Parts) -> Result<UserInfo, Denied> {
        let wrong = |why: String| Denied::Unauthenticated(why);
        match ClientCertificates.authenticate(request).await {
            Ok(Some(user)) => return Ok(user),
            Ok(None) => {}
            Err(error) => return Err(wrong(error.to_string())),
        }
        match (bearer_token(request), &self.tokens) {
            (Some(token), Some(reviews)) => {
                let found = self.token_owner(&token, reviews).await;
                found
                    .map_err(|error| wrong(error.to_string()))?
                    .ok_or_else(|| wrong("the token is nobody's".to_owned()))
            }
            (Some(_), None) => Err(wrong("tokens are not asked about here".to_owned())),
            (None, _) if self.anonymous => Ok(UserInfo::anonymous()),
            (None, _) => Err(wrong("no credentials".to_owned())),
        }
    }

    async fn token_owner(
        &self,
        token: &str,
        reviews: &Reviews<Vec<u8>, Option<UserInfo>>,
    ) -> kube::Result<Option<UserInfo>> {
        let digest = Sha256::digest(token).to_vec();
        if let Some(known) = reviews.known(&digest) {
            return Ok(known);
        }
        let spec = TokenReviewSpec { token: token.to_owned(), audiences: None };
        let review = TokenReview { spec, ..Default::default() };
        let api = Api::<TokenReview>::all(reviews.client.clone());
        let status = api.create(&PostParams::default(), &review).await?.status.unwrap_or_default();
        let found = (status.authenticated == Some(true)).then(|| {
            let user = status.user.unwrap_or_default();
            UserInfo {
                name: user.username.unwrap_or_default(),
                uid: user.uid.unwrap_or_default(),
                groups: user.groups.unwrap_or_default(),
                extra: user.extra.unwrap_or_default(),
            }
        });
        reviews.keep(digest, found.clone(), self.good_for.token);
        Ok(found)
    }

    async fn authorize(&self, user: &UserInfo, method: &Method, path: &str) -> Result<(), Denied> {
        let Some(reviews) = &self.rights else { return Ok(()) };
        let wanted = rights(method, path);
        for right in &wanted {
            match self.may(user, *right, reviews).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(node = self.node, %error, "a request could not be reviewed");
                    return Err(Denied::Unknown(format!(
                        "Authorization error (user={}, verb={}, resource=nodes, subresource={})",
                        user.name, right.verb, right.subresource
                    )));
                }
            }
        }
        let subresources: Vec<_> = wanted.iter().map(|right| right.subresource).collect();
        Err(Denied::Forbidden(format!(
            "Forbidden (user={}, verb={}, resource=nodes, subresource(s)=[{}])",
            user.name,
            wanted.first().map_or("", |right| right.verb),
            subresources.join(" ")
        )))
    }

    async fn may(
        &self,
        user: &UserInfo,
        right: Right,
        reviews: &Reviews<(UserKey, Right), bool>,
    ) -> kube::Result<bool> {
        let key = (UserKey::of(user), right);
        if let Some(known) = reviews.known(&key) {
            return Ok(known);
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
                groups: Some(user.groups.clone()),
                extra: Some(user.extra.clone()).filter(|extra| !extra.is_empty()),
                resource_attributes: Some(ResourceAttributes {
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some(right.subresource.to_owned()),
                    name: Some(self.node.clone()),
                    verb: Some(right.verb.to_owned()),
                    ..Default::default()
                }),
                ..Default::default()
            },
            ..Default::default()
        };
        let api = Api::<SubjectAccessReview>::all(reviews.client.clone());
        let answer = api.create(&PostParams::default(), &review).await?;
        let allowed = answer.status.is_some_and(|status| status.allowed);
        let good_for = if allowed { self.good_for.allowed } else { self.good_for.refused };
        reviews.keep(key, allowed, good_for);
        Ok(allowed)
    }
}

/// Whom to ask, and what was answered.
struct Reviews<K, V> {
    client: Client,
    answers: Mutex<HashMap<K, (V, Instant)>>,
}

impl<K, V> std::fmt::Debug for Reviews<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reviews").finish_non_exhaustive()
    }
}

impl<K: Eq + Hash, V: Clone> Reviews<K, V> {
    fn new(client: Client) -> Self {
        Self { client, answers: Mutex::default() }
    }

    fn known(&self, key: &K) -> Option<V> {
        let answers = self.answers.lock();
        let (answer, until) = answers.get(key)?;
        (*until > Instant::now()).then(|| answer.clone())
    }

    fn keep(&self, key: K, answer: V, good_for: Duration) {
        let now = Instant::now();
        let mut answers = self.answers.lock();
        if answers.len() >= KEPT_MAX {
            answers.retain(|_, (_, until)| *until > now);
            if answers.len() >= KEPT_MAX {
                answers.clear();
            }
        }
        answers.insert(key, (answer, now + good_for));
    }
}
