//! Opening a connection: where to, over what, with whom.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio_rustls::TlsConnector;

use super::{
    Cause, Dialer,
    resolve::{ServicePort, Services},
    tls,
};
use crate::io::Io;

/// How long a connection may take to come about, as in kube-apiserver.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);

/// What leads to an endpoint.
#[derive(Clone, Debug)]
pub(super) struct Reach {
    pub(super) dialer: Arc<dyn Dialer>,
    pub(super) services: Services,
    /// The Service behind the name in the URL.
    pub(super) service: Option<ServicePort>,
}

/// Opens connections to one endpoint.
#[derive(Clone)]
pub(super) struct Connector {
    reach: Arc<Reach>,
    tls: Arc<ClientConfig>,
}

impl Connector {
    pub(super) fn new(reach: Reach, tls: Arc<ClientConfig>) -> Self {
        Self { reach: Arc::new(reach), tls }
    }

    /// A connection, over TLS if the URL says so.
    pub(super) async fn open(&self, uri: &Uri) -> Result<Stream, Cause> {
        tokio::time::timeout(CONNECT_WITHIN, self.open_in_time(uri)).await.unwrap_or_else(|_| {
            let address = uri.authority().map(ToString::to_string).unwrap_or_default();
            Err(Cause::Dial(address, "i/o timeout".to_owned()))
        })
    }

    async fn open_in_time(&self, uri: &Uri) -> Result<Stream, Cause> {
        if let Some(ServicePort { namespace, name, port }) = &self.reach.service
            && let Some(io) = self.reach.dialer.in_process(namespace, name, *port)
        {
            return Ok(Stream { io: TokioIo::new(io), h2: false });
        }
        let secure = uri.scheme_str() == Some("https");
        let named = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let (host, port) = match &self.reach.service {
            Some(service) => self.reach.services.resolve(service).await?,
            None => {
                let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
                (named.to_owned(), port)
            }
        };
        let stream = self.reach.dialer.dial(&host, port).await.map_err(|error| {
            let brackets = host.contains(':');
            let address =
                if brackets { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
            Cause::dial(address, &error)
        })?;
        if !secure {
            return Ok(Stream { io: TokioIo::new(stream), h2: false });
        }
        let name = ServerName::try_from(named.to_owned())
            .map_err(|_| Cause::Tls(format!("tls: {named:?} is no name of a server")))?;
        let connector = TlsConnector::from(self.tls.clone());
        let stream = connector.connect(name, stream).await.map_err(|e| tls::cause(&e))?;
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Stream { io: TokioIo::new(Box::new(stream)), h2 })
    }
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = Cause;
    type Future = BoxFuture<'static, Result<Stream, Cause>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.open(&uri).await })
    }
}

/// A connection, as the HTTP client wants it.
pub(super) struct Stream {
    io: TokioIo<Box<dyn Io>>,
    /// Whether both sides agreed on HTTP/2.
    h2: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let connected = Connected::new();
        if self.h2 { connected.negotiated_h2() } else { connected }
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
