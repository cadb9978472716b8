//! How a cluster's API server reaches what runs in the cluster: webhooks, aggregated API servers.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::RwLock;
use rk_api::{
    io::Io,
    server::{Dialer, TcpDialer},
};
use rk_controllers::MetricsServer;

use super::metrics;

/// How long a connection to a Pod or Service may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Where the cluster's own addresses are.
#[derive(Clone, Debug, Default)]
enum Inside {
    /// Nowhere: its Pods are simulated.
    #[default]
    Nowhere,
    /// In this network namespace.
    Namespace(PathBuf),
    /// On the machine itself, as on a real node.
    Machine,
}

/// Dials the cluster's own addresses where they are, and all others from the machine. Cloning shares
/// it.
///
/// The machine's own network never hears of addresses that are not on it.
#[derive(Clone, Debug, Default)]
pub(super) struct ClusterDialer {
    inside: Arc<RwLock<Inside>>,
    metrics: Arc<OnceLock<Arc<MetricsServer>>>,
}

impl ClusterDialer {
    /// The network of the cluster is there: in a namespace, or on the machine itself.
    pub(super) fn enter(&self, netns: Option<&Path>) {
        *self.inside.write() =
            netns.map_or(Inside::Machine, |netns| Inside::Namespace(netns.to_owned()));
    }

    /// The metrics server is there. Only the first one counts.
    pub(super) fn serve_metrics(&self, server: Arc<MetricsServer>) {
        let _ = self.metrics.set(server);
    }
}

#[async_trait]
impl Dialer for ClusterDialer {
    fn is_in_process(&self, namespace: &str, name: &str) -> bool {
        (namespace, name) == metrics::SERVICE && self.metrics.get().is_some()
    }

    fn in_process(&self, namespace: &str, name: &str, _port: u16) -> Option<Box<dyn Io>> {
        let server = self.metrics.get().filter(|_| (namespace, name) == metrics::SERVICE)?;
        Some(metrics::connect(server.clone()))
    }

    async fn dial(&self, host: &str, port: u16) -> io::Result<Box<dyn Io>> {
        let Some(address) = host.parse::<IpAddr>().ok().filter(|address| is_inside(*address))
        else {
            return TcpDialer.dial(host, port).await;
        };
        let inside = self.inside.read().clone();
        match inside {
            Inside::Nowhere => Err(io::Error::new(
                ErrorKind::HostUnreachable,
                format!("dial tcp {address}:{port}: the cluster has no network"),
            )),
            Inside::Machine => TcpDialer.dial(host, port).await,
            Inside::Namespace(netns) => {
                let address = SocketAddr::new(address, port);
                let stream = rk_net::netns::connect(Some(netns), address, CONNECT_WITHIN).await?;
                Ok(Box::new(stream))
            }
        }
    }
}

/// Whether an address is a Pod's, a Service's or the node's. Only a small cluster has a namespace.
fn is_inside(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => matches!(address.octets(), [10, 96 | 244, ..] | [10, 0, 0, 1]),
        IpAddr::V6(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_network_the_clusters_addresses_are_not_dialled() {
        let dialled = ClusterDialer::default().dial("10.244.0.7", 80).await;
        assert_eq!(dialled.err().map(|error| error.kind()), Some(ErrorKind::HostUnreachable));
    }

    #[test]
    fn only_the_clusters_addresses_are_inside() {
        for (address, inside) in [
            ("10.96.0.1", true),
            ("10.244.0.7", true),
            ("10.0.0.1", true),
            ("10.0.0.2", false),
            ("127.0.0.1", false),
            ("::1", false),
        ] {
            assert_eq!(is_inside(address.parse().unwrap()), inside, "{address}");
        }
    }
}
