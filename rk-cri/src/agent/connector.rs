//! Kubelets of this process, by node: how an API server in the same process reaches them.

use std::{collections::HashMap, io, sync::Arc};

use parking_lot::RwLock;
use tokio::io::DuplexStream;

use super::KubeletApi;

/// How much waits in a connection for its reader.
const BUFFER: usize = 64 * 1024;

/// The kubelet APIs of nodes in this process. A connection to one is a pipe in memory, with HTTP/1.1
/// served at its other end. Clones share the same nodes.
///
/// With the feature `server` it is an API server's `NodeConnector`.
#[derive(Clone, Debug, Default)]
pub struct Kubelets {
    nodes: Arc<RwLock<HashMap<String, KubeletApi>>>,
}

impl Kubelets {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a node's, or replaces it.
    pub fn add(&self, node: &str, api: KubeletApi) {
        self.nodes.write().insert(node.to_string(), api);
    }

    /// Takes a node's away; connections that are open stay so.
    pub fn remove(&self, node: &str) {
        self.nodes.write().remove(node);
    }

    /// Connects to a node's. Must be called within a tokio runtime.
    pub fn connect_to(&self, node: &str) -> io::Result<DuplexStream> {
        let api = self.nodes.read().get(node).cloned().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("no kubelet of node {node:?} in this process"),
            )
        })?;
        let (near, far) = tokio::io::duplex(BUFFER);
        tokio::spawn(async move {
            if let Err(error) = api.serve(far).await {
                tracing::debug!(%error, "a connection to a kubelet ended");
            }
        });
        Ok(near)
    }
}

#[cfg(feature = "server")]
#[async_trait::async_trait]
impl rk_api::server::NodeConnector for Kubelets {
    async fn connect(
        &self,
        node: &k8s_openapi::api::core::v1::Node,
    ) -> io::Result<Box<dyn rk_api::io::Io>> {
        Ok(Box::new(self.connect_to(node.metadata.name.as_deref().unwrap_or_default())?))
    }
}
