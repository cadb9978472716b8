//! Lets a user who may do so act as another (`kubectl --as`).
//!
//! The headers are `Impersonate-User`, `-Group`, `-Uid` and `-Extra-<key>`. Each of them has to be
//! allowed: the resource is `users`, `groups`, `serviceaccounts`, `nodes`, `uids` or
//! `userextras/<key>`, the verb that of a [mode](modes). They are taken out of the request, so that
//! nobody after this layer sees them.

mod modes;

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, Response};

use self::modes::{Mode, Plan, Step};
use super::{LayerFuture, Next, Req};
use crate::server::{
    audit,
    authz::{self, Authorizer, Decision},
    body::{self, ResponseBody},
    context::{Identity, Subject},
    info::{RequestInfo, percent_decode},
    status::{ApiError, Result},
    user::{MASTERS, UserInfo},
};

const PREFIX: &str = "impersonate-";

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
        let extensions = request.extensions();
        let user = extensions.get::<Identity>().map(|identity| identity.0.clone());
        let subject = extensions.get::<Subject>().map(|subject| subject.0.clone());
        let authorizer = self.authorizer.clone();
        let mut inner = self.inner.clone();
        Box::pin(async move {
            let allowed = match (requested(request.headers()), user, subject) {
                (Ok(wanted), Some(user), Some(subject)) => {
                    allowed(&*authorizer, &user, &wanted, &subject.0).await
                }
                (Err(error), ..) => Err(error),
                // A layer before this one always sets both.
                _ => Err(ApiError::unauthorized()),
            };
            match allowed {
                Ok((user, mode)) => {
                    take_headers(request.headers_mut());
                    audit::impersonated(&user, (mode != Mode::Legacy).then(|| mode.verb()));
                    request.extensions_mut().insert(Identity(user.into()));
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
        return Err(ApiError::bad_request(format!(
            "requested {} without impersonating a user name",
            shown(&user)
        )));
    }
    Ok(user)
}

/// A user as Go shows a `user.DefaultInfo`.
fn shown(user: &UserInfo) -> String {
    let list = |items: &[String]| {
        let items: Vec<_> = items.iter().map(|item| format!("{item:?}")).collect();
        format!("[]string{{{}}}", items.join(", "))
    };
    let groups = match user.groups.as_slice() {
        [] => "[]string(nil)".to_owned(),
        groups => list(groups),
    };
    let extra = match user.extra.is_empty() {
        true => "map[string][]string(nil)".to_owned(),
        false => {
            let each = user.extra.iter().map(|(key, values)| format!("{key:?}:{}", list(values)));
            format!("map[string][]string{{{}}}", each.collect::<Vec<_>>().join(", "))
        }
    };
    let UserInfo { name, uid, .. } = user;
    format!("&user.DefaultInfo{{Name:{name:?}, UID:{uid:?}, Groups:{groups}, Extra:{extra}}}")
}

/// Who `user` is as `wanted` in this request, and in which mode.
///
/// # Errors
/// When no mode allows it: what is missing in the first one that there is for `wanted`.
async fn allowed(
    authorizer: &dyn Authorizer,
    user: &UserInfo,
    wanted: &UserInfo,
    request: &RequestInfo,
) -> Result<(UserInfo, Mode)> {
    let mut refused = None;
    for mode in Mode::ALL {
        let Some(plan) = mode.plan(user, wanted, request) else { continue };
        match check(authorizer, &plan).await {
            Ok(()) => return Ok((plan.user, mode)),
            Err(error) => drop(refused.get_or_insert(error)),
        }
    }
    Err(refused.unwrap_or_else(|| ApiError::internal("all impersonation modes failed")))
}

async fn check(authorizer: &dyn Authorizer, plan: &Plan) -> Result<()> {
    for step in &plan.steps {
        match step {
            Step::May(request) => may(authorizer, &plan.asker, request).await?,
            Step::MayAll(all, each) => {
                if may(authorizer, &plan.asker, all).await.is_err() {
                    for request in each {
                        may(authorizer, &plan.asker, request).await?;
                    }
                }
            }
            Step::Never(error) => return Err(error.clone()),
        }
    }
    Ok(())
}

async fn may(authorizer: &dyn Authorizer, user: &UserInfo, request: &RequestInfo) -> Result<()> {
    if user.is_in(MASTERS) {
        return Ok(());
    }
    match authorizer.authorize(user, request).await {
        Decision::Allow => Ok(()),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => {
            Err(authz::forbidden(user, request, &reason))
        }
    }
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
        let refused = requested(&headers(&[
            ("Impersonate-Group", "devs"),
            ("Impersonate-Extra-scopes", "view"),
        ]));
        assert_eq!(
            refused.expect_err("there is no user").message,
            "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"devs\"}, \
             Extra:map[string][]string{\"scopes\":[]string{\"view\"}}} without impersonating a user \
             name"
        );
    }
}
