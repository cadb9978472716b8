//! How a cluster's API server reaches what runs in the cluster: webhooks, aggregated API servers.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::RwLock;
use rk_api::{
    io::Io,
    server::{Dialer, TcpDialer},
};

/// How long a connection to a Pod or Service may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Dials the cluster's own addresses from within its network namespace, once it has one, and all
/// others from the machine. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub(super) struct ClusterDialer(Arc<RwLock<Option<PathBuf>>>);

impl ClusterDialer {
    /// The network namespace is there.
    pub(super) fn enter(&self, netns: &Path) {
        *self.0.write() = Some(netns.to_owned());
    }
}

#[async_trait]
impl Dialer for ClusterDialer {
    async fn dial(&self, host: &str, port: u16) -> io::Result<Box<dyn Io>> {
        let netns = self.0.read().clone();
        match (host.parse::<IpAddr>(), netns) {
            (Ok(address), Some(netns)) if is_inside(address) => {
                let address = SocketAddr::new(address, port);
                let stream = rk_net::netns::connect(Some(netns), address, CONNECT_WITHIN).await?;
                Ok(Box::new(stream))
            }
            _ => TcpDialer.dial(host, port).await,
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
