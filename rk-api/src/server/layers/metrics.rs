//! Counts requests and measures how long they take.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use http::Response;
use tokio::time::Instant;

use super::{LayerFuture, Next, Req, timeout::is_long_running};
use crate::server::{body::ResponseBody, context::Subject, metrics::Metrics};

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct MetricsLayer<S> {
    /// The next layer.
    pub inner: S,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
}

impl<S: Next> tower::Service<Req> for MetricsLayer<S> {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = LayerFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let subject = request.extensions().get::<Subject>().map(|subject| subject.0.clone());
        let started = Instant::now();
        let short = subject.as_ref().filter(|subject| !is_long_running(&subject.0));
        let counted = short.map(|subject| self.metrics.in_flight(&subject.0));
        let answer = self.inner.call(request);
        let metrics = self.metrics.clone();
        Box::pin(async move {
            // Also when nobody waits for the answer any more.
            let _counted = counted;
            let response = answer.await?;
            if let Some(subject) = subject {
                metrics.request(&subject.0, response.status().as_u16(), started.elapsed());
            }
            Ok(response)
        })
    }
}
