//! HTTPS servers for tests: what an APIService leads to.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rk_api::{
    io::Io,
    server::{Dialer, Pki, ResponseBody},
};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// What answers.
pub trait Handler: Send + Sync + 'static {
    /// Answers a request.
    fn answer(&self, request: Request<Incoming>) -> Response<ResponseBody>;
}

/// A server that listens on loopback.
#[derive(Debug)]
pub struct Backend {
    /// Where.
    pub address: SocketAddr,
    /// Its authority.
    pub ca_pem: String,
}

impl Backend {
    /// Starts one with a certificate for this name.
    pub async fn start(name: &str, handler: Arc<impl Handler>) -> Self {
        let pki = Pki::generate().unwrap();
        let identity = pki.server("backend", &[name.to_owned()]).unwrap();
        let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
        let mut tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.map(Result::unwrap).collect(), key)
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(tls)), handler));
        Self { address, ca_pem: pki.ca_pem().to_owned() }
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, handler: Arc<impl Handler>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, handler) = (acceptor.clone(), handler.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request| {
                let answer = handler.answer(request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let server = auto::Builder::new(TokioExecutor::new());
            let serving = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
            let _ = serving.await;
        });
    }
}

/// Leads everywhere to one address.
#[derive(Debug)]
pub struct Everywhere(pub SocketAddr);

#[async_trait]
impl Dialer for Everywhere {
    async fn dial(&self, _: &str, _: u16) -> io::Result<Box<dyn Io>> {
        Ok(Box::new(TcpStream::connect(self.0).await?))
    }
}
