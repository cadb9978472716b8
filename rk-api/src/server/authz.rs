//! Authorization: whether a user may do what they ask.
//!
//! By default the Node authorizer (`authz/node.rs`) is asked first, then RBAC (`authz/rbac.rs`), then
//! whatever [`Builder::also_authorize`](super::Builder::also_authorize) added; the first with an
//! opinion decides. Members of `system:masters` are never asked about.

pub(super) mod node;
pub(super) mod rbac;
mod webhook;

use std::{fmt, sync::Arc};

use async_trait::async_trait;

pub use self::webhook::WebhookAuthorizer;
use super::{
    info::RequestInfo,
    status::{ApiError, Subject},
    user::UserInfo,
};
use k8s_openapi::api::authorization::v1::{NonResourceRule, ResourceRule};

/// What an authorizer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// They may.
    Allow,
    /// They may not, whatever others say.
    Deny(String),
    /// It has nothing to say; when nobody allows it, it is forbidden.
    NoOpinion(String),
}

/// What a user may do in a namespace, as far as an authorizer can tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UserRules {
    /// What they may do with objects.
    pub resources: Vec<ResourceRule>,
    /// What they may do with other paths.
    pub paths: Vec<NonResourceRule>,
    /// Why there may be more than that; empty when this is all.
    pub incomplete: String,
}

/// Decides whether a user may do something.
///
/// It must not look at the object of a request: at this point none has been read.
#[async_trait]
pub trait Authorizer: fmt::Debug + Send + Sync + 'static {
    /// Decides about one request.
    async fn authorize(&self, user: &UserInfo, request: &RequestInfo) -> Decision;

    /// The same decision, if it takes no waiting; `None` when it does. It spares a request the
    /// cost of a future.
    fn decide(&self, user: &UserInfo, request: &RequestInfo) -> Option<Decision> {
        let _ = (user, request);
        None
    }

    /// Why it allows a request, for reviews; empty when it does not say.
    fn reason(&self, user: &UserInfo, request: &RequestInfo) -> String {
        let _ = (user, request);
        String::new()
    }

    /// What the user may do in a namespace.
    fn rules(&self, user: &UserInfo, namespace: &str) -> UserRules {
        let _ = (user, namespace);
        UserRules {
            incomplete: "authorizer does not support user rule resolution".to_owned(),
            ..UserRules::default()
        }
    }
}

/// Who decides, as `--authorization-mode` names it.
#[derive(Clone, Debug)]
pub enum AuthorizationMode {
    /// The Node authorizer: what kubelets may do about their own nodes.
    Node,
    /// Roles and their bindings.
    Rbac,
    /// Somebody else, for example a [`WebhookAuthorizer`] or [`AlwaysAllow`].
    Other(Arc<dyn Authorizer>),
}

/// Lets nobody do anything (`--authorization-mode=AlwaysDeny`).
#[derive(Clone, Copy, Debug, Default)]
pub struct AlwaysDeny;

#[async_trait]
impl Authorizer for AlwaysDeny {
    async fn authorize(&self, _: &UserInfo, _: &RequestInfo) -> Decision {
        Decision::NoOpinion("Everything is forbidden.".to_owned())
    }
}

/// Lets everybody do everything (`--authorization-mode=AlwaysAllow`).
#[derive(Clone, Copy, Debug, Default)]
pub struct AlwaysAllow;

#[async_trait]
impl Authorizer for AlwaysAllow {
    async fn authorize(&self, _: &UserInfo, _: &RequestInfo) -> Decision {
        Decision::Allow
    }

    fn decide(&self, _: &UserInfo, _: &RequestInfo) -> Option<Decision> {
        Some(Decision::Allow)
    }

    fn rules(&self, _: &UserInfo, _: &str) -> UserRules {
        let all = || vec!["*".to_owned()];
        UserRules {
            resources: vec![ResourceRule {
                verbs: all(),
                api_groups: Some(all()),
                resources: Some(all()),
                resource_names: None,
            }],
            paths: vec![NonResourceRule { verbs: all(), non_resource_urls: Some(all()) }],
            incomplete: String::new(),
        }
    }
}

/// Asks several authorizers in turn: the first that allows or denies decides.
#[derive(Clone, Debug, Default)]
pub struct Chain(pub Vec<Arc<dyn Authorizer>>);

#[async_trait]
impl Authorizer for Chain {
    async fn authorize(&self, user: &UserInfo, request: &RequestInfo) -> Decision {
        let mut reasons = Vec::new();
        for authorizer in &self.0 {
            let decision = match authorizer.decide(user, request) {
                Some(decision) => decision,
                None => authorizer.authorize(user, request).await,
            };
            match decision {
                Decision::NoOpinion(reason) => reasons.push(reason),
                decision => return decision,
            }
        }
        Decision::NoOpinion(joined(reasons))
    }

    fn decide(&self, user: &UserInfo, request: &RequestInfo) -> Option<Decision> {
        let mut reasons = Vec::new();
        for authorizer in &self.0 {
            match authorizer.decide(user, request)? {
                Decision::NoOpinion(reason) => reasons.push(reason),
                decision => return Some(decision),
            }
        }
        Some(Decision::NoOpinion(joined(reasons)))
    }

    fn reason(&self, user: &UserInfo, request: &RequestInfo) -> String {
        let mut reasons = self.0.iter().map(|authorizer| authorizer.reason(user, request));
        reasons.find(|reason| !reason.is_empty()).unwrap_or_default()
    }

    fn rules(&self, user: &UserInfo, namespace: &str) -> UserRules {
        let mut all = UserRules::default();
        let mut incomplete = Vec::new();
        for authorizer in &self.0 {
            let rules = authorizer.rules(user, namespace);
            all.resources.extend(rules.resources);
            all.paths.extend(rules.paths);
            incomplete.push(rules.incomplete);
        }
        incomplete.retain(|reason| !reason.is_empty());
        all.incomplete = match incomplete.as_slice() {
            [] => String::new(),
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        all
    }
}

fn joined(mut reasons: Vec<String>) -> String {
    reasons.retain(|reason| !reason.is_empty());
    reasons.join("\n")
}

/// The 403 that tells what was refused, in Kubernetes' words.
pub fn forbidden(user: &UserInfo, request: &RequestInfo, reason: &str) -> ApiError {
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    let name = &user.name;
    if !request.is_resource {
        let why = format!("User {name:?} cannot {} path {:?}{reason}", request.verb, request.path);
        return ApiError::forbidden(&Subject::default(), "", &why);
    }
    let scope = match request.namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let why = format!(
        "User {name:?} cannot {} resource {:?} in API group {:?} {scope}{reason}",
        request.verb,
        request.resource_and_subresource(),
        request.group,
    );
    let subject =
        Subject { group: request.group.clone().into(), kind: request.resource.clone().into() };
    ApiError::forbidden(&subject, &request.name, &why)
}
