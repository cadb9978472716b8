//! How the server reaches the API of a node's agent, for logs, exec, attach and port-forward.

use std::{
    fmt,
    io::{self, ErrorKind},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Node;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{
    outbound::{Trust, tls_config},
    pki::{Identity, PkiError},
};
use crate::io::Io;

/// Opens connections to the API of a node's agent.
///
/// # Contract
/// The bytes on a connection are HTTP/1.1 requests for the paths of the stock kubelet:
/// `/containerLogs/…`, `/exec/…`, `/attach/…`, `/portForward/…`. Upgrades are passed through.
#[async_trait]
pub trait NodeConnector: fmt::Debug + Send + Sync + 'static {
    /// A new connection to the agent of this node.
    async fn connect(&self, node: &Node) -> io::Result<Box<dyn Io>>;
}

/// How long a connection may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// The port of agents that do not report one.
const DEFAULT_PORT: u16 = 10250;

/// Reaches agents over TLS at the address and port that their Node reports.
#[derive(Clone)]
pub struct TlsNodes {
    connector: TlsConnector,
    preferred: Arc<[String]>,
}

/// Which of a node's addresses are tried, the first that it has, as in kube-apiserver but for names,
/// which are not looked up.
const PREFERRED: [&str; 2] = ["InternalIP", "ExternalIP"];

impl fmt::Debug for TlsNodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsNodes")
    }
}

impl TlsNodes {
    /// Shows `identity` to agents, and takes only those whose certificate the authority `ca_pem`
    /// issued for their address.
    ///
    /// # Errors
    /// When they are not usable.
    pub fn new(identity: &Identity, ca_pem: &str) -> Result<Self, PkiError> {
        let tls = |error: &dyn fmt::Display| PkiError::Tls(error.to_string());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            roots.add(certificate.map_err(|e| tls(&e))?).map_err(|e| tls(&e))?;
        }
        let chain: Vec<_> = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| tls(&error))?;
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())
            .map_err(|error| tls(&error))?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| tls(&error))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|error| tls(&error))?;
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            preferred: PREFERRED.map(ToOwned::to_owned).into(),
        })
    }

    /// Shows `identity` to agents and takes any, whatever certificate it has, as kube-apiserver does
    /// without `--kubelet-certificate-authority`.
    ///
    /// # Errors
    /// When the identity is not usable.
    pub fn trusting_anybody(identity: &Identity) -> Result<Self, PkiError> {
        let config = tls_config(&Trust::Anybody, Some(identity)).map_err(PkiError::Tls)?;
        let mut config = ClientConfig::clone(&config);
        // Agents are spoken to in HTTP/1.1, which alone has upgrades.
        config.alpn_protocols.clear();
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            preferred: PREFERRED.map(ToOwned::to_owned).into(),
        })
    }

    /// The same, with these types of addresses tried in this order
    /// (`--kubelet-preferred-address-types`). Those that are no IP addresses are passed over.
    #[must_use]
    pub fn with_preferred_addresses(mut self, types: Vec<String>) -> Self {
        self.preferred = types.into();
        self
    }
}

#[async_trait]
impl NodeConnector for TlsNodes {
    async fn connect(&self, node: &Node) -> io::Result<Box<dyn Io>> {
        let (address, port) = endpoint(node, &self.preferred)?;
        let connecting = async {
            let stream = TcpStream::connect((address, port)).await?;
            stream.set_nodelay(true)?;
            let stream =
                self.connector.connect(ServerName::IpAddress(address.into()), stream).await?;
            Ok(Box::new(stream) as Box<dyn Io>)
        };
        tokio::time::timeout(CONNECT_WITHIN, connecting).await.unwrap_or_else(|_| {
            Err(io::Error::new(
                ErrorKind::TimedOut,
                format!("dial tcp {address}:{port}: i/o timeout"),
            ))
        })
    }
}

/// Where a node says that its agent listens.
fn endpoint(node: &Node, preferred: &[String]) -> io::Result<(IpAddr, u16)> {
    let status = node.status.as_ref();
    let addresses = status.and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let of_type = |wanted: &str| {
        let mut found = addresses.iter().filter(|address| address.type_ == wanted);
        found.find_map(|address| address.address.parse().ok())
    };
    let address = preferred.iter().find_map(|wanted| of_type(wanted)).ok_or_else(|| {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        io::Error::new(
            ErrorKind::AddrNotAvailable,
            format!("no preferred addresses found for node {name}"),
        )
    })?;
    let endpoints = status.and_then(|status| status.daemon_endpoints.as_ref());
    let port = endpoints.and_then(|endpoints| endpoints.kubelet_endpoint.as_ref());
    let port = port.and_then(|endpoint| u16::try_from(endpoint.port).ok());
    Ok((address, port.filter(|port| *port != 0).unwrap_or(DEFAULT_PORT)))
}

/// Reaches no node: what a server does that was not told how.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NoNodes;

#[async_trait]
impl NodeConnector for NoNodes {
    async fn connect(&self, node: &Node) -> io::Result<Box<dyn Io>> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let why = format!("this API server has no connection to node {name}");
        Err(io::Error::new(ErrorKind::NotConnected, why))
    }
}
