//! Ends requests that take too long, except those that are meant to last.

use std::{
    convert::Infallible,
    future::ready,
    task::{Context, Poll},
    time::Duration,
};

use http::Response;

use super::{LayerFuture, Next, Req};
use crate::{
    meta::duration,
    server::{
        body::{self, ResponseBody},
        context::Subject,
        info::RequestInfo,
        query::Query,
        status::ApiError,
    },
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
        let limit = match subject.map_or(Ok(REQUEST_TIMEOUT), |Subject(subject)| limit(&subject.1))
        {
            Ok(limit) => limit,
            Err(error) => return Box::pin(ready(Ok(body::failure(&headers, &error)))),
        };
        let answer = self.0.call(request);
        Box::pin(async move {
            tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| {
                let error =
                    ApiError::timeout("request did not complete within the allotted timeout");
                Ok(body::failure(&headers, &error))
            })
        })
    }
}

/// How long a request may take: as long as it asks for (`timeout=10s`), but no longer than any.
fn limit(query: &Query) -> Result<Duration, ApiError> {
    let text = query.get("timeout").unwrap_or_default();
    if text.is_empty() {
        return Ok(REQUEST_TIMEOUT);
    }
    let asked = duration::parse(text).map_err(|error| {
        ApiError::bad_request(format!("invalid timeout specified in the request URL - {error}"))
    })?;
    Ok(if asked.is_zero() { REQUEST_TIMEOUT } else { asked.min(REQUEST_TIMEOUT) })
}

/// Whether a request may last: watches, and streams to and from containers.
pub(super) fn is_long_running(info: &RequestInfo) -> bool {
    info.verb == "watch"
        || ["log", "exec", "attach", "portforward", "proxy"].contains(&info.subresource.as_str())
}
