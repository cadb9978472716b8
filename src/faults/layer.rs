//! The layer around a component's transport.

use std::{
    io::{self, ErrorKind},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Full};
use kube::client::Body;
use serde_json::json;
use tokio::time::sleep;
use tower::{BoxError, Layer, Service, ServiceExt};

use super::{
    Faults,
    body::FaultBody,
    fate::{Asked, Fate, Fault},
    link::Link,
    skew,
};

/// How long it takes to be told that nobody listens: a client that tries again at once must not
/// stop the clock.
const REFUSED_AFTER: Duration = Duration::from_millis(1);

/// Puts [`Faults`] between a component and the API server.
///
/// It wraps the transport of a [`kube::Client`]: any service from requests with a
/// [`kube::client::Body`] to responses.
#[derive(Clone, Debug)]
pub struct FaultLayer {
    side: Side,
}

/// Whose requests they are.
#[derive(Clone, Debug)]
struct Side {
    faults: Faults,
    component: Arc<str>,
    link: Arc<Link>,
}

impl FaultLayer {
    pub(super) fn new(faults: Faults, component: &str, link: Arc<Link>) -> Self {
        Self { side: Side { faults, component: component.into(), link } }
    }
}

impl<S> Layer<S> for FaultLayer {
    type Service = FaultService<S>;

    fn layer(&self, inner: S) -> FaultService<S> {
        FaultService { inner, side: self.side.clone() }
    }
}

/// A transport to whose requests faults happen; see [`FaultLayer`].
#[derive(Clone, Debug)]
pub struct FaultService<S> {
    inner: S,
    side: Side,
}

/// What a broken connection looks like to whoever uses it.
pub(super) fn broken(why: &str) -> BoxError {
    Box::new(io::Error::new(ErrorKind::ConnectionReset, why.to_owned()))
}

impl<S, B> Service<Request<Body>> for FaultService<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<FaultBody>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<FaultBody>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The one that is ready is used, its clone is left in its place.
        let fresh = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, fresh);
        let side = self.side.clone();
        let asked = asked(&request);
        let upgrade = request.headers().contains_key(header::UPGRADE);
        // Decided now: the order of requests is the order of chance.
        let fate = match upgrade {
            true => Fate::default(),
            false => side.faults.fate(&side.component, asked),
        };
        Box::pin(async move {
            let (link, faults) = (side.link.clone(), side.faults.clone());
            tokio::select! {
                biased;
                () = link.down() => {
                    faults.refused();
                    sleep(REFUSED_AFTER).await;
                    Err(broken("the component is cut off"))
                }
                answer = pass(inner, request, fate, asked, side) => answer,
            }
        })
    }
}

fn asked(request: &Request<Body>) -> Asked {
    let query = request.uri().query().unwrap_or_default();
    let watch = query.split('&').any(|part| matches!(part, "watch=true" | "watch=1"));
    Asked { watch, write: *request.method() != Method::GET }
}

/// Sends a request, or does not, as its fate has it.
async fn pass<S, B>(
    mut inner: S,
    request: Request<Body>,
    fate: Fate,
    asked: Asked,
    side: Side,
) -> Result<Response<FaultBody>, BoxError>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if let Some(delay) = fate.delay {
        sleep(delay).await;
    }
    let request = skewed(request, &side).await?;
    match fate.fault {
        None => {}
        Some(Fault::LoseRequest) => {
            sleep(REFUSED_AFTER).await;
            return Err(broken("the connection was reset before the request was sent"));
        }
        Some(Fault::Fail(code)) => return Ok(failure(code)),
        Some(Fault::LoseAnswer) => {
            inner.call(request).await.map_err(Into::into)?;
            sleep(REFUSED_AFTER).await;
            return Err(broken("the connection was reset before the answer came"));
        }
        Some(Fault::Hang { heard, time }) => {
            if heard {
                drop(inner.call(request).await);
            }
            sleep(time).await;
            return Ok(failure(StatusCode::GATEWAY_TIMEOUT));
        }
        Some(Fault::Duplicate) => {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await?;
            let first = Request::from_parts(clone(&parts), Body::from(body.clone()));
            drop(inner.call(first).await);
            let again = Request::from_parts(parts, Body::from(body));
            let inner = inner.ready().await.map_err(Into::into)?;
            return Ok(whole(inner.call(again).await.map_err(Into::into)?));
        }
    }
    let answer = inner.call(request).await.map_err(Into::into)?;
    if !asked.watch || answer.status() != StatusCode::OK {
        return Ok(whole(answer));
    }
    let Side { faults, link, .. } = side;
    Ok(answer.map(|body| {
        let body = body.map_err(Into::into).boxed_unsync();
        FaultBody::watch(body, faults, link, fate.watch)
    }))
}

/// The request with the times that the component's clock says.
async fn skewed(request: Request<Body>, side: &Side) -> Result<Request<Body>, BoxError> {
    let ahead = side.faults.skew(&side.component);
    if ahead.is_zero() || !skew::concerns(request.uri().path()) {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    let body = skew::shift(body.collect_bytes().await?, ahead);
    Ok(Request::from_parts(parts, Body::from(body)))
}

fn clone(parts: &Parts) -> Parts {
    let mut request = Request::new(());
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = parts.uri.clone();
    *request.version_mut() = parts.version;
    *request.headers_mut() = parts.headers.clone();
    *request.extensions_mut() = parts.extensions.clone();
    request.into_parts().0
}

fn whole<B>(answer: Response<B>) -> Response<FaultBody>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    answer.map(|body| FaultBody::whole(body.map_err(Into::into).boxed_unsync()))
}

/// An error in the server's name.
fn failure(code: StatusCode) -> Response<FaultBody> {
    let (reason, message) = match code {
        StatusCode::CONFLICT => (
            "Conflict",
            "the object has been modified; please apply your changes to the latest version and try again",
        ),
        StatusCode::TOO_MANY_REQUESTS => {
            ("TooManyRequests", "too many requests, please try again later")
        }
        StatusCode::SERVICE_UNAVAILABLE => {
            ("ServiceUnavailable", "the server is currently unable to handle the request")
        }
        StatusCode::GATEWAY_TIMEOUT => {
            ("Timeout", "request did not complete within the allotted timeout")
        }
        _ => ("InternalError", "Internal error occurred: a fault was injected"),
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code.as_u16(),
    });
    let body = Full::from(status.to_string()).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(FaultBody::whole(body));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if code == StatusCode::TOO_MANY_REQUESTS {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
