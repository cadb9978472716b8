//! How the API server calls out: webhooks, aggregated API servers, Pods and Services behind its
//! proxies.
//!
//! [`Endpoint`] says where somebody is and how they prove it; [`Outbound`] reaches them. Connections
//! are kept with the endpoint and used again, over HTTP/1.1 or HTTP/2 as the peer chooses. An
//! answer that redirects is an answer like any other: nobody is sent elsewhere.

mod connect;
mod error;
mod resolve;
mod tls;

use std::{
    fmt, io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, Uri, header};
use http_body::Body;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use tokio::net::TcpStream;

use self::connect::{Connector, Reach};
pub(super) use self::{
    error::{Cause, OutboundError},
    resolve::Services,
    tls::config as tls_config,
};
use super::{
    body::{BoxError, RequestBody},
    pki::Identity,
};
use crate::io::Io;

/// The longest answer that is read whole. A conversion answers with as many objects as it was
/// asked to convert.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How long a connection that nobody uses is kept.
const IDLE_FOR: Duration = Duration::from_secs(90);

/// How many unused connections are kept for each endpoint.
const IDLE_MAX: usize = 8;

/// Opens the connections that the API server makes to others.
///
/// # Contract
/// `host` is an IP address or a name, as a URL has it, without brackets. The bytes on the connection
/// are the peer's own protocol: TLS is the caller's.
#[async_trait]
pub trait Dialer: fmt::Debug + Send + Sync + 'static {
    /// A new connection. The caller bounds how long it may take.
    async fn dial(&self, host: &str, port: u16) -> io::Result<Box<dyn Io>>;

    /// A connection to the server of a Service that runs in this process, if there is one. What
    /// goes over it is HTTP/1.1 without TLS: nobody is between the two. The Service itself need not
    /// exist. By default there is none.
    fn in_process(&self, _namespace: &str, _name: &str, _port: u16) -> Option<Box<dyn Io>> {
        None
    }

    /// Whether there is one.
    fn is_in_process(&self, _namespace: &str, _name: &str) -> bool {
        false
    }
}

/// Dials from where the process is.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpDialer;

#[async_trait]
impl Dialer for TcpDialer {
    async fn dial(&self, host: &str, port: u16) -> io::Result<Box<dyn Io>> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}

/// What an endpoint must prove about itself.
#[derive(Clone, Debug, Default)]
pub(super) enum Trust {
    /// A certificate of an authority that the system trusts.
    #[default]
    System,
    /// A certificate of one of these authorities (PEM).
    Authorities(Vec<u8>),
    /// Nothing (`insecureSkipTLSVerify`).
    Anybody,
}

type HttpClient = Client<Connector, RequestBody>;

/// Somebody whom the API server calls, and the connections to them. It is made once for each
/// configuration that names them, and kept as long as that counts.
pub(super) struct Endpoint {
    /// `https://host:port`, with the name `<service>.<namespace>.svc` for a Service.
    origin: String,
    /// The path, with a leading slash.
    path: String,
    /// The Service that is really dialled.
    service: Option<resolve::ServicePort>,
    trust: Trust,
    identity: Option<Arc<Identity>>,
    client: OnceLock<Result<HttpClient, String>>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// The server at a URL, whose path is where it is asked.
    ///
    /// # Errors
    /// When it is no absolute URL.
    pub(super) fn url(url: &str) -> Result<Self, OutboundError> {
        let wrong = |why: &str| OutboundError::Endpoint(format!("{url:?}: {why}"));
        let uri: Uri = url.parse().map_err(|_| wrong("this is no URL"))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(wrong("it names no host"));
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self::new(format!("{scheme}://{authority}"), path, None))
    }

    /// A port of a Service, asked over TLS at a path (empty: the root).
    pub(super) fn service(namespace: &str, name: &str, port: u16, path: &str) -> Self {
        let service =
            resolve::ServicePort { namespace: namespace.to_owned(), name: name.to_owned(), port };
        let origin = format!("https://{name}.{namespace}.svc:{port}");
        Self::new(origin, path, Some(service))
    }

    fn new(origin: String, path: &str, service: Option<resolve::ServicePort>) -> Self {
        let slash = if path.starts_with('/') { "" } else { "/" };
        Self {
            origin,
            path: format!("{slash}{path}"),
            service,
            trust: Trust::default(),
            identity: None,
            client: OnceLock::new(),
        }
    }

    /// The same, which proves who it is in this way.
    #[must_use]
    pub(super) fn trusting(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// The same, to which the server shows a certificate of its own.
    #[must_use]
    pub(super) fn with_identity(mut self, identity: Arc<Identity>) -> Self {
        self.identity = Some(identity);
        self
    }

    /// The path at which it is asked.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The URL at which it is asked.
    fn asked_at(&self, timeout: Duration) -> String {
        let and = if self.path.contains('?') { '&' } else { '?' };
        let within = go_duration(timeout);
        format!("{}{}{and}timeout={within}", self.origin, self.path)
    }

    fn client(&self, outbound: &Outbound) -> Result<&HttpClient, OutboundError> {
        let made = self.client.get_or_init(|| {
            let reach = Reach {
                dialer: outbound.dialer.clone(),
                services: outbound.services.clone(),
                service: self.service.clone(),
            };
            let tls = tls::config(&self.trust, self.identity.as_deref())?;
            let connector = Connector::new(reach, tls);
            Ok(Client::builder(TokioExecutor::new())
                .timer(TokioTimer::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE_FOR)
                .pool_max_idle_per_host(IDLE_MAX)
                .build(connector))
        });
        made.as_ref().map_err(|why| OutboundError::Endpoint(why.clone()))
    }
}

/// Reaches endpoints. Cloning shares it.
///
/// It does not keep the server's cache alive: what observes the cache may hold endpoints.
#[derive(Clone, Debug)]
pub(super) struct Outbound {
    dialer: Arc<dyn Dialer>,
    services: Services,
}

impl Outbound {
    pub(super) fn new(dialer: Arc<dyn Dialer>, services: Services) -> Self {
        Self { dialer, services }
    }

    /// Whether the server of a Service runs in this process.
    pub(super) fn is_in_process(&self, namespace: &str, name: &str) -> bool {
        self.dialer.is_in_process(namespace, name)
    }

    /// Asks an endpoint by POST and reads its answer, as Kubernetes' clients do: the timeout is
    /// also in the query, and an answer that is no success is an error in their words.
    ///
    /// # Errors
    /// When there is no answer in time, none that says yes, or one that is too long.
    pub(super) async fn post_json(
        &self,
        endpoint: &Endpoint,
        timeout: Duration,
        body: Bytes,
    ) -> Result<Bytes, OutboundError> {
        let url = endpoint.asked_at(timeout);
        let failed = |cause| OutboundError::Call { method: "Post", url: url.clone(), cause };
        let request = Request::post(&url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, "kube-apiserver-admission")
            .body(Full::new(body).map_err(|never| match never {}).boxed_unsync())
            .map_err(|error| OutboundError::Endpoint(error.to_string()))?;
        let client = endpoint.client(self)?;
        let asked = async {
            let answer = client.request(request).await.map_err(|e| failed(Cause::of(e)))?;
            let status = answer.status();
            let bytes = whole(answer.into_body()).await.map_err(&failed)?;
            match status.is_success() {
                true => Ok(bytes),
                false => Err(OutboundError::refused(status.as_u16(), &bytes)),
            }
        };
        tokio::time::timeout(timeout, asked).await.unwrap_or_else(|_| Err(failed(Cause::Timeout)))
    }

    /// Sends a request as it is: its target is a path (and query), its body is streamed, and so is
    /// the answer's. The answer is there once its head has come. After a 101 the connection is
    /// [`hyper::upgrade::on`] the answer; such a request goes over HTTP/1.1.
    ///
    /// # Errors
    /// When the endpoint cannot be reached, or breaks off before its answer begins.
    pub(super) async fn request<B>(
        &self,
        endpoint: &Endpoint,
        request: Request<B>,
    ) -> Result<Response<Incoming>, OutboundError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let mut request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let url = format!("{}{path}", endpoint.origin);
        *request.uri_mut() =
            url.parse().map_err(|_| OutboundError::Endpoint(format!("{url:?}: this is no URL")))?;
        *request.version_mut() = http::Version::HTTP_11;
        let method = request.method().clone();
        let failed = |cause| OutboundError::Call { method: go_method(&method), url, cause };
        if request.headers().contains_key(header::UPGRADE) {
            return self.upgrade(endpoint, request).await.map_err(failed);
        }
        let client = endpoint.client(self)?;
        client.request(request).await.map_err(|error| failed(Cause::of(error)))
    }

    /// Sends a request on a connection of its own, which the answer may take over.
    async fn upgrade(
        &self,
        endpoint: &Endpoint,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Cause> {
        let mut tls = tls::config(&endpoint.trust, endpoint.identity.as_deref())
            .map_err(|why| Cause::Other(why.clone()))?;
        Arc::make_mut(&mut tls).alpn_protocols = vec![b"http/1.1".to_vec()];
        let reach = Reach {
            dialer: self.dialer.clone(),
            services: self.services.clone(),
            service: endpoint.service.clone(),
        };
        let connector = Connector::new(reach, tls);
        let uri = request.uri().clone();
        let stream = connector.open(&uri).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream)
            .await
            .map_err(|error| Cause::Other(error.to_string()))?;
        // It ends when both the request and its answer have.
        tokio::spawn(connection.with_upgrades());
        if let Some(host) = uri.authority()
            && let Ok(host) = host.as_str().parse()
        {
            request.headers_mut().insert(header::HOST, host);
        }
        if let Some(path) = uri.path_and_query() {
            *request.uri_mut() = Uri::from(path.clone());
        }
        sender.send_request(request).await.map_err(|error| Cause::Other(error.to_string()))
    }
}

async fn whole(body: Incoming) -> Result<Bytes, Cause> {
    match Limited::new(body, ANSWER_BYTES_MAX).collect().await {
        Ok(read) => Ok(read.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Cause::TooLong(ANSWER_BYTES_MAX)),
        Err(error) => Err(Cause::Other(error.to_string())),
    }
}

/// A method as Go's errors write it: `Get`, `Post`.
fn go_method(method: &http::Method) -> &'static str {
    match *method {
        http::Method::GET => "Get",
        http::Method::HEAD => "Head",
        http::Method::POST => "Post",
        http::Method::PUT => "Put",
        http::Method::PATCH => "Patch",
        http::Method::DELETE => "Delete",
        http::Method::OPTIONS => "Options",
        _ => "Request",
    }
}

/// A time as Go writes it: `10s`, `1.5s`, `500ms`.
fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    match (duration.as_secs(), millis % 1000) {
        (0, millis) => format!("{millis}ms"),
        (seconds, 0) if seconds < 60 => format!("{seconds}s"),
        (seconds, 0) => format!("{}m{}s", seconds / 60, seconds % 60),
        _ => format!("{}s", duration.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests;
