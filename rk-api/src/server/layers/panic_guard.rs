//! Turns a panic in a handler into a 500, so that one bad request does not take others with it.

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    task::{Context, Poll},
};

use futures::FutureExt;
use http::Response;

use super::{LayerFuture, Next, Req};
use crate::server::{
    body::{self, ResponseBody},
    status::ApiError,
};

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct PanicGuardLayer<S>(pub S);

impl<S: Next> tower::Service<Req> for PanicGuardLayer<S> {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = LayerFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let line = format!("{} {}", request.method(), request.uri());
        let headers = request.headers().clone();
        let answer = self.0.call(request);
        Box::pin(async move {
            // Nothing that the handler was changing is used again: shared state is behind locks
            // that do not poison, and each is left only in a consistent state.
            AssertUnwindSafe(answer).catch_unwind().await.unwrap_or_else(|_| {
                tracing::error!(request = %line, "a handler panicked");
                let error = ApiError::plain(format!(
                    "This request caused apiserver to panic. Look in the logs for details: {line}"
                ));
                Ok(body::failure(&headers, &error))
            })
        })
    }
}
