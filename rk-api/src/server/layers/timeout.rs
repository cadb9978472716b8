//! Ends requests that take too long, except those that are meant to last.

use std::{
    convert::Infallible,
    task::{Context, Poll},
    time::Duration,
};

use http::Response;

use super::{LayerFuture, Next, Req};
use crate::server::{
    body::{self, ResponseBody},
    context::Subject,
    info::RequestInfo,
    status::ApiError,
};

/// How long a request may take, as in kube-apiserver (`--request-timeout`).
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct TimeoutLayer<S>(pub S);

impl<S: Next> tower::Service<Req> for TimeoutLayer<S> {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = LayerFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let subject = request.extensions().get::<Subject>();
        if subject.is_some_and(|Subject(subject)| is_long_running(&subject.0)) {
            return self.0.call(request);
        }
        let headers = request.headers().clone();
        let answer = self.0.call(request);
        Box::pin(async move {
            tokio::time::timeout(REQUEST_TIMEOUT, answer).await.unwrap_or_else(|_| {
                let error =
                    ApiError::timeout("request did not complete within the allotted timeout");
                Ok(body::failure(&headers, &error))
            })
        })
    }
}

/// Whether a request may last: watches, and streams to and from containers.
pub(super) fn is_long_running(info: &RequestInfo) -> bool {
    info.verb == "watch"
        || ["log", "exec", "attach", "portforward", "proxy"].contains(&info.subresource.as_str())
}
