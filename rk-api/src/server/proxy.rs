//! Passing a request on to somebody else, and the answer back: what the proxies to Pods, Services and
//! nodes share with aggregation.
//!
//! An [`Exchange`] is the client's request, [`Exchange::outgoing`] what the backend is sent, and
//! [`Exchange::answer`] what the client gets of its answer. Bodies are streamed, upgrades are carried
//! until both sides are done.

mod rewrite;

use std::{
    io::Write,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use flate2::write::{DeflateDecoder, GzDecoder};
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header,
    request::Parts,
};
use http_body::{Body, Frame};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;

use self::rewrite::{Html, Links};
use super::{
    audit::{self, AUDIT_ID, AuditId, RemoteAddress},
    body::{BoxError, RequestBody, ResponseBody},
    status::{ApiError, Result},
};

/// Headers that belong to one connection (RFC 9110, section 7.6.1), and the host, which the backend
/// is given anew.
pub(super) const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::HOST,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
];

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// A client's request that is passed on.
#[derive(Debug)]
pub(super) struct Exchange {
    method: Method,
    headers: HeaderMap,
    body: RequestBody,
    upgrade: Option<OnUpgrade>,
    peer: Option<RemoteAddress>,
    audit_id: Option<AuditId>,
}

/// Where it goes.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// The path and query at the backend; a path begins with a slash.
    pub path: String,
    /// What the client's path has in front of the backend's.
    pub prefix: String,
    /// The backend's host, with the port, as links name it.
    pub host: String,
    /// Whether the backend may send the client elsewhere.
    pub may_redirect: bool,
}

/// The client's side, while the backend has the request.
#[derive(Debug)]
pub(super) struct Pending {
    upgrade: Option<OnUpgrade>,
    client_host: String,
    target: Target,
}

impl Exchange {
    /// A request that came with these extensions.
    pub(super) fn new(
        method: Method,
        headers: HeaderMap,
        body: RequestBody,
        mut extensions: Extensions,
    ) -> Self {
        let upgrades = headers.contains_key(header::UPGRADE);
        Self {
            method,
            headers,
            body,
            upgrade: extensions.remove::<OnUpgrade>().filter(|_| upgrades),
            peer: extensions.get::<RemoteAddress>().copied(),
            audit_id: extensions.get::<AuditId>().cloned(),
        }
    }

    /// A whole request.
    pub(super) fn of(request: Request<RequestBody>) -> Self {
        let (Parts { method, headers, extensions, .. }, body) = request.into_parts();
        Self::new(method, headers, body, extensions)
    }

    /// What the backend is sent.
    ///
    /// # Errors
    /// When the path is none.
    pub(super) fn outgoing(self, target: Target) -> Result<(Request<RequestBody>, Pending)> {
        let mut request = Request::new(self.body);
        *request.method_mut() = self.method;
        *request.uri_mut() =
            target.path.parse().map_err(|error| ApiError::bad_request(format!("{error}")))?;
        let text = |name: HeaderName| {
            let value = self.headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let (client_host, mut forwarded_for) = (text(header::HOST), text(FORWARDED_FOR));
        let upgraded_to = self.headers.get(header::UPGRADE).cloned();
        let named = connection_headers(&self.headers);
        let headers = request.headers_mut();
        *headers = self.headers;
        for name in HOP_BY_HOP.iter().chain(&named) {
            headers.remove(name);
        }
        if let (Some(protocol), true) = (upgraded_to, self.upgrade.is_some()) {
            headers.insert(header::UPGRADE, protocol);
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        }
        if let Some(RemoteAddress(peer)) = self.peer {
            if !forwarded_for.is_empty() {
                forwarded_for.push_str(", ");
            }
            forwarded_for.push_str(&peer.ip().to_string());
        }
        let path = target.path.split('?').next().unwrap_or_default();
        set(headers, FORWARDED_FOR, &forwarded_for);
        set(headers, FORWARDED_URI, &format!("{}{path}", target.prefix));
        if let Some(AuditId(id)) = &self.audit_id {
            set(headers, AUDIT_ID, id);
        }
        Ok((request, Pending { upgrade: self.upgrade, client_host, target }))
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value)
        && !value.is_empty()
    {
        headers.insert(name, value);
    }
}

/// Headers that `Connection` names.
fn connection_headers(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).into_iter();
    let named = values.filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
    named.filter_map(|name| name.trim().parse().ok()).collect()
}

impl Pending {
    /// What the client gets of the backend's answer.
    pub(super) fn answer(self, mut response: Response<Incoming>) -> Response<ResponseBody> {
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return self.switched(response);
        }
        let redirects =
            status.is_redirection() && response.headers().contains_key(header::LOCATION);
        if redirects && !self.target.may_redirect {
            let text = "the backend attempted to redirect this request, which is not permitted";
            let mut refused = Response::new(ResponseBody::full(text));
            *refused.status_mut() = StatusCode::BAD_GATEWAY;
            return refused;
        }
        let mut headers = std::mem::take(response.headers_mut());
        let named = connection_headers(&headers);
        for name in HOP_BY_HOP.iter().chain(&named).chain(&CORS) {
            headers.remove(name);
        }
        let links = Links {
            prefix: self.target.prefix,
            backend: self.target.host,
            client: self.client_host,
        };
        let mut body = None;
        if let Some(location) = headers.get(header::LOCATION).and_then(|it| it.to_str().ok()) {
            if let Ok(location) = HeaderValue::from_str(&links.rewritten(location)) {
                headers.insert(header::LOCATION, location);
            }
        } else if is_html(&headers)
            && let Some(decoder) = Decoder::of(&headers, Html::new(links))
        {
            // It has another length now, and is not compressed.
            headers.remove(header::CONTENT_LENGTH);
            headers.remove(header::CONTENT_ENCODING);
            body = Some(decoder);
        }
        let inner = response.into_body();
        let mut answer = Response::new(match body {
            Some(decoder) => ResponseBody::stream(Rewritten { inner, decoder: Some(decoder) }),
            None => ResponseBody::stream(inner),
        });
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        answer
    }

    /// Connects the client with the backend.
    fn switched(self, mut response: Response<Incoming>) -> Response<ResponseBody> {
        let mut answer = Response::new(ResponseBody::empty());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *answer.headers_mut() = std::mem::take(response.headers_mut());
        if let Some(client) = self.upgrade {
            let backend = hyper::upgrade::on(&mut response);
            tokio::spawn(audit::hold(splice(client, backend)));
        }
        answer
    }
}

/// Connects two upgraded connections until both sides are done.
pub(super) async fn splice(client: OnUpgrade, backend: OnUpgrade) {
    match futures::future::try_join(client, backend).await {
        Ok((client, backend)) => {
            let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
            // Either side may hang up at any time: that is how such streams end.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut backend).await;
        }
        Err(error) => tracing::debug!(%error, "an upgrade failed"),
    }
}

/// Where a backend's answers may be used is not the backend's to say.
const CORS: [HeaderName; 5] = [
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
];

fn is_html(headers: &HeaderMap) -> bool {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    media_type.and_then(|it| it.split(';').next()).is_some_and(|it| it.trim() == "text/html")
}

/// Rewrites a page as it comes.
enum Decoder {
    Plain(Html),
    Gzip(Box<GzDecoder<Html>>),
    Deflate(Box<DeflateDecoder<Html>>),
}

impl Decoder {
    /// `None` for a coding that is not known: then the page is left as it is.
    fn of(headers: &HeaderMap, html: Html) -> Option<Self> {
        let coding = headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes);
        match coding {
            None | Some(b"") => Some(Self::Plain(html)),
            Some(b"gzip") => Some(Self::Gzip(Box::new(GzDecoder::new(html)))),
            Some(b"deflate") => Some(Self::Deflate(Box::new(DeflateDecoder::new(html)))),
            Some(_) => None,
        }
    }

    /// What a part of the page becomes.
    fn push(&mut self, bytes: &[u8]) -> std::io::Result<Bytes> {
        let html = match self {
            Self::Plain(html) => {
                html.write_all(bytes)?;
                html
            }
            Self::Gzip(decoder) => {
                decoder.write_all(bytes)?;
                decoder.get_mut()
            }
            Self::Deflate(decoder) => {
                decoder.write_all(bytes)?;
                decoder.get_mut()
            }
        };
        Ok(html.take())
    }

    /// The rest.
    fn finish(self) -> std::io::Result<Bytes> {
        let html = match self {
            Self::Plain(html) => html,
            Self::Gzip(decoder) => decoder.finish()?,
            Self::Deflate(decoder) => decoder.finish()?,
        };
        Ok(html.finish())
    }
}

/// A page whose links are rewritten.
struct Rewritten {
    inner: Incoming,
    /// `None` at the end.
    decoder: Option<Decoder>,
}

impl Body for Rewritten {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, BoxError>>> {
        loop {
            let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
            let Some(decoder) = &mut self.decoder else { return Poll::Ready(None) };
            let bytes = match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => decoder.push(&data),
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => match self.decoder.take() {
                    Some(decoder) => decoder.finish(),
                    None => return Poll::Ready(None),
                },
            };
            let bytes = bytes?;
            // What was read may be within a tag.
            if !bytes.is_empty() || self.decoder.is_none() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Empty};

    use super::*;

    #[test]
    fn headers_of_the_connection_stay_and_the_way_is_told() {
        let request = Request::get("/api/v1/namespaces/a/pods/p/proxy/x?y=1")
            .header("connection", "close, x-mine")
            .header("x-mine", "1")
            .header("x-yours", "2")
            .header("x-forwarded-for", "10.0.0.1")
            .extension(RemoteAddress(([10, 0, 0, 2], 1).into()))
            .body(Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync())
            .unwrap();
        let target = Target {
            path: "/x?y=1".to_owned(),
            prefix: "/api/v1/namespaces/a/pods/p/proxy".to_owned(),
            host: "10.0.0.9".to_owned(),
            may_redirect: true,
        };
        let (request, _) = Exchange::of(request).outgoing(target).unwrap();
        let headers = request.headers();
        assert_eq!(request.uri(), "/x?y=1");
        assert_eq!(headers["x-forwarded-for"], "10.0.0.1, 10.0.0.2");
        assert_eq!(headers["x-forwarded-uri"], "/api/v1/namespaces/a/pods/p/proxy/x");
        assert!(headers.get("x-mine").is_none() && headers.get("connection").is_none());
        assert_eq!(headers["x-yours"], "2");
    }
}
