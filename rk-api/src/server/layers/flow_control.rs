//! Lets as many requests through as the server can do at the same time (see
//! [`crate::server::flow_control`]). It comes after impersonation: who is acted for is whose flow it is.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use super::{LayerFuture, Next, Req, Res, timeout::is_long_running};
use crate::server::{
    body::ResponseBody,
    context::{Identity, Subject},
    flow_control::{Admitted, Entry, FlowControl, InFlight, Seat},
};

const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// How long a request waits for its turn: a quarter of what it may take in all, as in
/// kube-apiserver.
const WAIT_MAX: Duration = Duration::from_secs(super::timeout::REQUEST_TIMEOUT.as_secs() / 4);

/// What decides.
#[derive(Clone, Debug)]
pub(crate) enum Gate {
    /// Priority and fairness.
    Fair(Arc<FlowControl>),
    /// Plain limits.
    InFlight(Arc<InFlight>),
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct FlowControlLayer<S> {
    /// The next layer.
    pub inner: S,
    /// What decides.
    pub gate: Gate,
}

impl<S: Next> tower::Service<Req> for FlowControlLayer<S> {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = LayerFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let extensions = request.extensions();
        let (Some(Identity(user)), Some(Subject(subject))) =
            (extensions.get::<Identity>(), extensions.get::<Subject>())
        else {
            // Authorization refuses it.
            return self.inner.call(request);
        };
        let lasts = is_long_running(&subject.0);
        match &self.gate {
            Gate::InFlight(limits) if !lasts => match limits.admit(user, &subject.0) {
                Admitted::Free => self.inner.call(request),
                Admitted::Refused => Box::pin(std::future::ready(Ok(too_many(1)))),
                Admitted::Counted(permit) => {
                    let answer = self.inner.call(request);
                    Box::pin(async move {
                        let _permit = permit;
                        answer.await
                    })
                }
            },
            // Of what lasts only watches are counted, until they have their first objects.
            Gate::Fair(flow_control) if !lasts || subject.0.verb == "watch" => {
                match flow_control.enter(user, subject) {
                    None => self.inner.call(request),
                    Some(Entry::Seated(seat)) => Box::pin(seated(self.inner.call(request), seat)),
                    Some(Entry::Refused(seconds)) => {
                        Box::pin(std::future::ready(Ok(too_many(seconds))))
                    }
                    Some(Entry::Waits(wait)) => {
                        let mut inner = self.inner.clone();
                        Box::pin(async move {
                            match wait.seated(WAIT_MAX).await {
                                Ok(seat) => seated(inner.call(request), seat).await,
                                Err(seconds) => Ok(too_many(seconds)),
                            }
                        })
                    }
                }
            }
            _ => self.inner.call(request),
        }
    }
}

/// Serves a request in its seat.
async fn seated(answer: LayerFuture, seat: Seat) -> Res {
    let mut response = answer.await?;
    let (schema, level) = seat.uids();
    let headers = response.headers_mut();
    headers.insert(SCHEMA_UID, schema);
    headers.insert(LEVEL_UID, level);
    response.body_mut().sit_until_initialized(seat);
    Ok(response)
}

/// 429, in kube-apiserver's words: no Status.
fn too_many(retry_after_seconds: i64) -> Response<ResponseBody> {
    let text = "Too many requests, please try again later.\n";
    let mut response = Response::new(ResponseBody::full(text));
    *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    let headers = response.headers_mut();
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, plain);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after_seconds));
    response
}
