//! Lets a user who may do so act as another (`kubectl --as`).
//!
//! The headers are `Impersonate-User`, `-Group`, `-Uid` and `-Extra-<key>`. Each of them has to be
//! allowed: the verb is `impersonate`, the resource `users`, `groups`, `serviceaccounts`, `uids` or
//! `userextras/<key>`. They are taken out of the request, so that nobody after this layer sees them.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, Response};

use super::{LayerFuture, Next, Req};
use crate::server::{
    audit,
    authz::{self, Authorizer, Decision},
    body::{self, ResponseBody},
    context::Identity,
    info::{RequestInfo, percent_decode},
    status::{ApiError, Result},
    user::{ANONYMOUS, AUTHENTICATED, MASTERS, UNAUTHENTICATED, UserInfo},
};

const PREFIX: &str = "impersonate-";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct ImpersonationLayer<S> {
    /// The next layer.
    pub inner: S,
    /// Who decides.
    pub authorizer: Arc<dyn Authorizer>,
}

impl<S: Next> tower::Service<Req> for ImpersonationLayer<S> {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = LayerFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Req) -> Self::Future {
        if !request.headers().keys().any(|name| name.as_str().starts_with(PREFIX)) {
            return self.inner.call(request);
        }
        let user = request.extensions().get::<Identity>().map(|identity| identity.0.clone());
        let authorizer = self.authorizer.clone();
        let mut inner = self.inner.clone();
        Box::pin(async move {
            let wanted = match (requested(request.headers()), user) {
                (Ok(wanted), Some(user)) => {
                    allowed(&*authorizer, &user, &wanted).await.map(|()| wanted)
                }
                (Err(error), _) => Err(error),
                (_, None) => Err(ApiError::unauthorized()),
            };
            match wanted {
                Ok(wanted) => {
                    take_headers(request.headers_mut());
                    let wanted = complete(wanted);
                    audit::impersonated(&wanted);
                    request.extensions_mut().insert(Identity(wanted.into()));
                    inner.call(request).await
                }
                Err(error) => Ok(body::failure(request.headers(), &error)),
            }
        })
    }
}

/// Whom the headers ask for.
fn requested(headers: &HeaderMap) -> Result<UserInfo> {
    let text = |value: &http::HeaderValue| {
        value
            .to_str()
            .map(ToOwned::to_owned)
            .map_err(|_| ApiError::bad_request("an Impersonate header is not text".to_owned()))
    };
    let mut user = UserInfo::default();
    for (name, value) in headers {
        match name.as_str().strip_prefix(PREFIX) {
            Some("user") => user.name = text(value)?,
            Some("uid") => user.uid = text(value)?,
            Some("group") => user.groups.push(text(value)?),
            Some(other) => {
                if let Some(key) = other.strip_prefix("extra-") {
                    // A key may hold characters that a header's name may not.
                    let key = percent_decode(key).unwrap_or_else(|| key.to_owned());
                    user.extra.entry(key).or_default().push(text(value)?);
                }
            }
            None => {}
        }
    }
    if user.name.is_empty() {
        return Err(ApiError::bad_request(
            "groups, a uid or extra fields cannot be impersonated without a user".to_owned(),
        ));
    }
    Ok(user)
}

/// Whether `user` may act as `wanted`.
async fn allowed(authorizer: &dyn Authorizer, user: &UserInfo, wanted: &UserInfo) -> Result<()> {
    if user.is_in(MASTERS) {
        return Ok(());
    }
    let mut asked = Vec::new();
    let account = wanted.name.strip_prefix(SERVICE_ACCOUNT).and_then(|rest| rest.split_once(':'));
    asked.push(match account {
        Some((namespace, name)) => ("", "serviceaccounts", "", namespace, name),
        None => ("", "users", "", "", wanted.name.as_str()),
    });
    let authentication = "authentication.k8s.io";
    asked.extend(wanted.groups.iter().map(|group| ("", "groups", "", "", group.as_str())));
    if !wanted.uid.is_empty() {
        asked.push((authentication, "uids", "", "", wanted.uid.as_str()));
    }
    for (key, values) in &wanted.extra {
        let extras = values.iter();
        asked.extend(
            extras.map(|value| (authentication, "userextras", key.as_str(), "", value.as_str())),
        );
    }
    for (group, resource, subresource, namespace, name) in asked {
        let request = RequestInfo {
            is_resource: true,
            verb: "impersonate".into(),
            group: group.to_owned(),
            version: if group.is_empty() { String::new() } else { "v1".to_owned() },
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..RequestInfo::default()
        };
        match authorizer.authorize(user, &request).await {
            Decision::Allow => {}
            Decision::Deny(reason) | Decision::NoOpinion(reason) => {
                return Err(authz::forbidden(user, &request, &reason));
            }
        }
    }
    Ok(())
}

/// Adds the groups that come with a name: those of a service account unless others were asked for,
/// and whether somebody is authenticated.
fn complete(mut user: UserInfo) -> UserInfo {
    let asked = !user.groups.is_empty();
    let mut add = |group: String| {
        if !user.groups.contains(&group) {
            user.groups.push(group);
        }
    };
    let account = user.name.strip_prefix(SERVICE_ACCOUNT).and_then(|rest| rest.split_once(':'));
    if let Some((namespace, _)) = account
        && !asked
    {
        add("system:serviceaccounts".to_owned());
        add(format!("system:serviceaccounts:{namespace}"));
    }
    if user.name == ANONYMOUS {
        add(UNAUTHENTICATED.to_owned());
    } else if !user.is_in(UNAUTHENTICATED) && !user.is_in(AUTHENTICATED) {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    user
}

fn take_headers(headers: &mut HeaderMap) {
    let names: Vec<_> =
        headers.keys().filter(|name| name.as_str().starts_with(PREFIX)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name: http::HeaderName = name.parse().expect("a header name");
            headers.append(name, value.parse().expect("a header value"));
        }
        headers
    }

    #[test]
    fn headers_name_user_groups_and_extras() {
        let user = requested(&headers(&[
            ("Impersonate-User", "jane"),
            ("Impersonate-Group", "devs"),
            ("Impersonate-Group", "admins"),
            ("Impersonate-Extra-scopes%2fa", "view"),
        ]));
        let user = user.expect("they are complete");
        assert_eq!((user.name.as_str(), user.groups.join(",")), ("jane", "devs,admins".to_owned()));
        assert_eq!(user.extra["scopes/a"], ["view"]);
    }

    #[test]
    fn groups_alone_are_refused() {
        assert!(requested(&headers(&[("Impersonate-Group", "devs")])).is_err());
    }

    #[test]
    fn a_service_account_brings_its_groups() {
        let user = UserInfo { name: "system:serviceaccount:a:b".to_owned(), ..UserInfo::default() };
        let groups = complete(user).groups.join(" ");
        assert_eq!(groups, "system:serviceaccounts system:serviceaccounts:a system:authenticated");
    }
}
