//! Records requests (see [`crate::server::audit`]). It comes after authentication, so that an event
//! names who really asks, and before impersonation.

use std::{
    any::Any,
    convert::Infallible,
    panic::{AssertUnwindSafe, resume_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};

use super::{LayerFuture, Next, Req, timeout::is_long_running};
use crate::server::{
    audit::{self, Audit, Recorder, Stage},
    body::{self, BoxError, ResponseBody},
    context::{Identity, Subject},
    status::ApiError,
};

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct AuditLayer<S> {
    /// The next layer.
    pub inner: S,
    /// What is recorded; `None` for nothing.
    pub audit: Option<Arc<Audit>>,
}

impl<S: Next> tower::Service<Req> for AuditLayer<S> {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = LayerFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let Some(audit) = &self.audit else { return self.inner.call(request) };
        let (parts, body) = request.into_parts();
        let user = parts.extensions.get::<Identity>();
        let subject = parts.extensions.get::<Subject>().map(|subject| subject.0.clone());
        let recorded = match (user, &subject) {
            (Some(Identity(user)), Some(subject)) => audit
                .recorder(&parts, user, &subject.0)
                .map(|recorder| (recorder, is_long_running(&subject.0))),
            _ => None,
        };
        let headers = parts.headers.clone();
        let request = Request::from_parts(parts, body);
        match recorded {
            None => self.inner.call(request),
            Some((recorder, lasts)) => {
                Box::pin(record(self.inner.clone(), request, headers, recorder, lasts))
            }
        }
    }
}

async fn record<S: Next>(
    mut inner: S,
    request: Req,
    headers: HeaderMap,
    recorder: Arc<Recorder>,
    lasts: bool,
) -> Result<Response<ResponseBody>, Infallible> {
    if let Err(error) = recorder.reach(Stage::RequestReceived).await {
        tracing::error!(%error, "a request is refused because it cannot be recorded");
        recorder.close();
        return Ok(body::failure(&headers, &ApiError::internal("failed to store audit event")));
    }
    // Also what a layer does before its first wait belongs to the request.
    let handling = async { inner.call(request).await };
    let handling = audit::scope(recorder.clone(), handling);
    let response = match AssertUnwindSafe(handling).catch_unwind().await {
        Ok(response) => response?,
        Err(panic) => {
            recorder.panicked(message(panic.as_ref())).await;
            resume_unwind(panic)
        }
    };
    recorder.set_code(response.status().as_u16());
    if lasts {
        let _ = recorder.reach(Stage::ResponseStarted).await;
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // What carries the stream holds the recorder.
        return Ok(response);
    }
    if !lasts && response.body().size_hint().exact().is_some() {
        recorder.complete().await;
        return Ok(response);
    }
    Ok(response.map(|inner| ResponseBody::stream(Recorded { inner, _recorder: recorder })))
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("unknown")
}

/// A body whose end completes the request, whether it was sent to its end or dropped.
struct Recorded {
    inner: ResponseBody,
    _recorder: Arc<Recorder>,
}

impl Body for Recorded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
