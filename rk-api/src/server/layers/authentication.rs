//! Finds out who is asking. A request with wrong credentials gets a 401. One without any is
//! anonymous, or gets a 401 too where that is switched off.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderValue, Request, Response, header, request::Parts};

use super::{LayerFuture, Next, Req};
use crate::server::{
    audit::Audit,
    authn::{self, Authenticator, Notes},
    body::{self, ResponseBody},
    context::{Identity, Subject},
    status::ApiError,
    user::UserInfo,
};

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct AuthenticationLayer<S> {
    /// The next layer.
    pub inner: S,
    /// Who knows users.
    pub authenticator: Arc<dyn Authenticator>,
    /// Whether those without credentials are let through, as `system:anonymous`.
    pub anonymous: bool,
    /// Who records those that are refused.
    pub audit: Option<Arc<Audit>>,
}

impl<S: Next> tower::Service<Req> for AuthenticationLayer<S> {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = LayerFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        if request.extensions().get::<Identity>().is_some() {
            return self.inner.call(request);
        }
        let anonymous = self.anonymous;
        let authenticator = self.authenticator.clone();
        let audit = self.audit.clone();
        let mut inner = self.inner.clone();
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            let notes = Notes::default();
            let found = notes.taken_of(authenticator.authenticate(&parts)).await;
            if !notes.is_empty() {
                parts.extensions.insert(notes);
            }
            let user = match found {
                Ok(Some(user)) => user,
                Ok(None) if anonymous => UserInfo::anonymous(),
                Ok(None) => return Ok(refuse(&parts, audit.as_deref()).await),
                Err(error) => {
                    tracing::info!(%error, "authentication failed");
                    return Ok(refuse(&parts, audit.as_deref()).await);
                }
            };
            authn::take_credentials(&mut parts.headers);
            parts.extensions.insert(Identity(Arc::new(user)));
            inner.call(Request::from_parts(parts, body)).await
        })
    }
}

async fn refuse(parts: &Parts, audit: Option<&Audit>) -> Response<ResponseBody> {
    if let (Some(audit), Some(Subject(subject))) = (audit, parts.extensions.get()) {
        audit.authentication_failed(parts, &subject.0).await;
    }
    unauthorized(&parts.headers)
}

fn unauthorized(headers: &http::HeaderMap) -> Response<ResponseBody> {
    let mut response = body::failure(headers, &ApiError::unauthorized());
    let challenge = HeaderValue::from_static("Bearer realm=\"kubernetes\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}
