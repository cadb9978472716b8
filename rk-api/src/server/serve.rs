//! HTTPS: HTTP/1.1 and HTTP/2 over TLS.

use std::{sync::Arc, time::Duration};

use http::Request;
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
    ApiServer,
    authn::{PeerCertificate, ProxyCertificate, UntrustedCertificate},
    pki::ServerTls,
};
use crate::clock;

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
        let acceptor = TlsAcceptor::from(tls.config.clone());
        let graceful = GracefulShutdown::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let connection = serve_connection(
                        self.clone(),
                        stream,
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
        drop(listener);
        self.inner.registry.cache.close_watches();
        if tokio::time::timeout(DRAIN_WITHIN, graceful.shutdown()).await.is_err() {
            tracing::warn!("some requests did not end in time");
        }
    }
}

async fn serve_connection(
    server: ApiServer,
    stream: TcpStream,
    acceptor: TlsAcceptor,
    tls: ServerTls,
    graceful: Watcher,
) {
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
    if let Some(certificates) = stream.get_ref().1.peer_certificates() {
        note_certificate(&tls, certificates, &mut shown);
    }
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().extend(shown.clone());
        server.clone().call(request)
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
