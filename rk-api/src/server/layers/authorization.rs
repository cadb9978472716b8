//! Refuses what the user may not do.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use http::Response;

use super::{LayerFuture, Next, Req};
use crate::server::{
    audit,
    authz::{self, Authorizer, Decision},
    body::{self, ResponseBody},
    context::{Identity, Subject},
    user::MASTERS,
};

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct AuthorizationLayer<S> {
    /// The next layer.
    pub inner: S,
    /// Who decides.
    pub authorizer: Arc<dyn Authorizer>,
}

impl<S: Next> tower::Service<Req> for AuthorizationLayer<S> {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = LayerFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let extensions = request.extensions();
        let user = extensions.get::<Identity>().map(|identity| identity.0.clone());
        let subject = extensions.get::<Subject>().map(|subject| subject.0.clone());
        // A layer before this one always sets both; without them nothing is allowed.
        let (Some(user), Some(subject)) = (user, subject) else {
            let error = crate::server::status::ApiError::unauthorized();
            let answer = body::failure(request.headers(), &error);
            return Box::pin(std::future::ready(Ok(answer)));
        };
        // As in kube-apiserver, no authorizer can lock the administrators out.
        if user.is_in(MASTERS) {
            annotate("allow", String::new);
            return self.inner.call(request);
        }
        match self.authorizer.decide(&user, &subject.0) {
            Some(Decision::Allow) => {
                annotate("allow", || self.authorizer.reason(&user, &subject.0));
                return self.inner.call(request);
            }
            Some(Decision::Deny(reason) | Decision::NoOpinion(reason)) => {
                annotate("forbid", || reason.clone());
                let error = authz::forbidden(&user, &subject.0, &reason);
                let answer = body::failure(request.headers(), &error);
                return Box::pin(std::future::ready(Ok(answer)));
            }
            None => {}
        }
        let authorizer = self.authorizer.clone();
        let mut inner = self.inner.clone();
        Box::pin(async move {
            match authorizer.authorize(&user, &subject.0).await {
                Decision::Allow => {
                    annotate("allow", || authorizer.reason(&user, &subject.0));
                    inner.call(request).await
                }
                Decision::Deny(reason) | Decision::NoOpinion(reason) => {
                    annotate("forbid", || reason.clone());
                    let error = authz::forbidden(&user, &subject.0, &reason);
                    Ok(body::failure(request.headers(), &error))
                }
            }
        })
    }
}

/// Records the decision, and why, if the request is recorded.
fn annotate(decision: &str, reason: impl FnOnce() -> String) {
    if audit::is_recorded() {
        audit::annotate("authorization.k8s.io/decision", decision);
        audit::annotate("authorization.k8s.io/reason", reason());
    }
}
