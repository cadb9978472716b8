//! HTTPS: HTTP/1.1 and HTTP/2 over TLS.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
};
use rustls::{
    pki_types::{CertificateDer, UnixTime},
    server::danger::ClientCertVerifier,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::{
    ApiServer, BoxError,
    audit::{AUDIT_ID, AuditId, RemoteAddress},
    authn::{PeerCertificate, ProxyCertificate, UntrustedCertificate},
    pki::ServerTls,
};
use crate::{clock, rng};

/// How long a client may take for its TLS handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// How long requests that are under way may take when the server stops.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);

/// Pause after a connection could not be accepted, for example because there are no more file
/// descriptors.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Requests at the same time on one HTTP/2 connection, as in kube-apiserver.
const STREAMS_MAX: u32 = 250;

impl ApiServer {
    /// Serves HTTPS until `shutdown`: then watches end, and other requests are finished, for ten
    /// seconds at most.
    pub async fn serve(&self, listener: TcpListener, tls: ServerTls, shutdown: CancellationToken) {
        let server = self.clone();
        let answer = move |request| server.clone().call(request);
        let graceful = accept(listener, tls, answer, shutdown).await;
        self.inner.registry.cache.close_watches();
        drain(graceful).await;
        if let Some(audit) = &self.inner.audit {
            audit.flush().await;
        }
    }
}

/// Serves HTTPS, HTTP/1.1 and HTTP/2, until `shutdown`, for programs with something of their own to
/// say: health and metrics. Requests under way are then finished, for ten seconds at most.
///
/// A request has the [`PeerCertificate`] of its connection among its extensions, if the client
/// showed one of the authority that `tls` trusts.
pub async fn serve_https<F, B>(
    listener: TcpListener,
    tls: ServerTls,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    shutdown: CancellationToken,
) where
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    drain(accept(listener, tls, answer, shutdown).await).await;
}

/// Takes connections until `shutdown`, and returns those that are left.
async fn accept<F, B>(
    listener: TcpListener,
    tls: ServerTls,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    shutdown: CancellationToken,
) -> GracefulShutdown
where
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let acceptor = TlsAcceptor::from(tls.config.clone());
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => return graceful,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = serve_connection(
                    answer.clone(),
                    (stream, peer),
                    acceptor.clone(),
                    tls.clone(),
                    graceful.watcher(),
                );
                tokio::spawn(connection);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
}

async fn drain(graceful: GracefulShutdown) {
    if tokio::time::timeout(DRAIN_WITHIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end in time");
    }
}

async fn serve_connection<F, B>(
    answer: impl Fn(Request<Incoming>) -> F,
    (stream, peer): (TcpStream, SocketAddr),
    acceptor: TlsAcceptor,
    tls: ServerTls,
    graceful: Watcher,
) where
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    // Small answers must not wait for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let mut shown = http::Extensions::new();
    shown.insert(RemoteAddress(peer));
    if let Some(certificates) = stream.get_ref().1.peer_certificates() {
        note_certificate(&tls, certificates, &mut shown);
    }
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().extend(shown.clone());
        let id = audit_id(&request);
        request.extensions_mut().insert(AuditId(id.clone()));
        let answer = answer(request);
        async move {
            let mut response = answer.await?;
            if let Ok(id) = HeaderValue::from_str(&id) {
                response.headers_mut().entry(AUDIT_ID).or_insert(id);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(Duration::from_secs(30));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    if let Err(error) = graceful.watch(connection).await {
        tracing::debug!(%error, "a connection ended");
    }
}

/// The name of the request's audit events: the one that the client chose, or a new one.
fn audit_id(request: &Request<Incoming>) -> Arc<str> {
    let chosen = request.headers().get(AUDIT_ID).and_then(|value| value.to_str().ok());
    match chosen.filter(|chosen| !chosen.is_empty()) {
        Some(chosen) => chosen.into(),
        None => rng::uuid().into(),
    }
}

/// Says of the certificate that a client showed whose it is.
fn note_certificate(tls: &ServerTls, shown: &[CertificateDer<'_>], out: &mut http::Extensions) {
    let Some((certificate, intermediates)) = shown.split_first() else { return };
    let seconds = u64::try_from(clock::now().as_second()).unwrap_or_default();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let is_of = |authority: &Arc<dyn ClientCertVerifier>| {
        authority.verify_client_cert(certificate, intermediates, now).is_ok()
    };
    let bytes: Arc<[u8]> = Arc::from(certificate.as_ref());
    if tls.proxies.as_ref().is_some_and(is_of) {
        out.insert(ProxyCertificate(bytes.clone()));
    }
    if is_of(&tls.clients) {
        out.insert(PeerCertificate(bytes));
    } else {
        out.insert(UntrustedCertificate);
    }
}
