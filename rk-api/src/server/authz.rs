//! Authorization: whether a user may do what they ask.

use std::fmt;

use async_trait::async_trait;

use super::{
    info::RequestInfo,
    status::{ApiError, Subject},
    user::{AUTHENTICATED, MASTERS, UserInfo},
};

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

/// Decides whether a user may do something.
///
/// It must not look at objects: at this point of a request none has been read.
#[async_trait]
pub trait Authorizer: fmt::Debug + Send + Sync + 'static {
    /// Decides about one request.
    async fn authorize(&self, user: &UserInfo, request: &RequestInfo) -> Decision;
}

/// Lets the members of `system:masters` and the cluster's own components do everything, and others
/// read discovery and health.
#[derive(Clone, Copy, Debug, Default)]
pub struct SimpleRules;

/// Users and groups of a cluster's own components, which this simple authorizer trusts.
const COMPONENTS: &[&str] = &["system:kube-scheduler", "system:kube-controller-manager"];
const COMPONENT_GROUPS: &[&str] = &["system:nodes", "system:serviceaccounts:kube-system"];

/// Paths that everybody who is authenticated may read (the role `system:discovery`).
const DISCOVERY: &[&str] = &["/api", "/apis", "/openapi", "/version"];

#[async_trait]
impl Authorizer for SimpleRules {
    async fn authorize(&self, user: &UserInfo, request: &RequestInfo) -> Decision {
        let component = COMPONENTS.contains(&user.name.as_str())
            || COMPONENT_GROUPS.iter().any(|group| user.is_in(group));
        if user.is_in(MASTERS) || component {
            return Decision::Allow;
        }
        let reads_discovery = !request.is_resource
            && request.verb == "get"
            && user.is_in(AUTHENTICATED)
            && DISCOVERY.iter().any(|path| {
                let rest = request.path.strip_prefix(path);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            });
        if reads_discovery { Decision::Allow } else { Decision::NoOpinion(String::new()) }
    }
}

/// Paths that are open to everybody, authenticated or not (the role `system:public-info-viewer`).
pub fn is_public(request: &RequestInfo) -> bool {
    let path = request.path.as_str();
    !request.is_resource
        && request.verb == "get"
        && (path == "/version"
            || ["/livez", "/readyz", "/healthz"].iter().any(|open| {
                path.strip_prefix(open).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }))
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
