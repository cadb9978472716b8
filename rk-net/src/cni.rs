//! The [`CniPlugin`] trait: how a pod sandbox gets its network (CNI 1.1.0).

#[cfg(target_os = "linux")]
mod bridge;
#[cfg(target_os = "linux")]
mod loopback;
#[cfg(target_os = "linux")]
mod portmap;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

#[cfg(target_os = "linux")]
pub(crate) use bridge::mac_of;
#[cfg(target_os = "linux")]
pub use bridge::{Bridge, BridgeConfig};
#[cfg(target_os = "linux")]
pub use loopback::Loopback;
#[cfg(target_os = "linux")]
pub(crate) use portmap::route_localnet;

/// Which sandbox to attach, and how: the parameters of CNI's ADD.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachRequest {
    /// The sandbox's id (`CNI_CONTAINERID`).
    pub container_id: String,
    /// The network namespace (`CNI_NETNS`), for example `/run/rk/netns/1a2b`.
    pub netns: PathBuf,
    /// The interface to make inside it (`CNI_IFNAME`), usually `eth0`.
    pub interface: String,
    /// The pod's namespace, name and UID (`CNI_ARGS`, `K8S_POD_*`).
    pub pod_namespace: String,
    /// See [`Self::pod_namespace`].
    pub pod_name: String,
    /// See [`Self::pod_namespace`].
    pub pod_uid: String,
    /// Ports of the host that lead to the pod (`runtimeConfig.portMappings`).
    pub port_mappings: Vec<PortMapping>,
}

/// A port of the host that leads to a port of the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// The port on the host.
    pub host_port: u16,
    /// The port in the pod.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Only on this address of the host; `None` is every address.
    pub host_ip: Option<IpAddr>,
}

/// What ADD made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachResult {
    /// The pod's addresses with their prefix lengths, the primary one first.
    pub ips: Vec<(IpAddr, u8)>,
    /// The gateway of the primary address.
    pub gateway: Option<IpAddr>,
    /// The pod interface's hardware address.
    pub mac: Option<String>,
}

/// Attaches pod sandboxes to a network: the verbs of the CNI specification, called in process.
///
/// # What an implementation guarantees
/// - `add` either attaches the sandbox completely or leaves nothing behind.
/// - `del` succeeds when there is nothing left to delete, also when the namespace is gone.
/// - All verbs may be called again, and concurrently for different sandboxes.
#[async_trait]
pub trait CniPlugin: std::fmt::Debug + Send + Sync + 'static {
    /// Attaches a sandbox (ADD).
    async fn add(&self, request: &AttachRequest) -> Result<AttachResult, CniError>;
    /// Detaches it and frees what it held (DEL).
    async fn del(&self, request: &AttachRequest) -> Result<(), CniError>;
    /// Whether the attachment is still as ADD made it (CHECK).
    async fn check(&self, request: &AttachRequest) -> Result<(), CniError>;
    /// Whether ADD can be served now (STATUS).
    async fn status(&self) -> Result<(), CniError>;
    /// Frees what belongs to none of the `valid` sandboxes (GC).
    async fn gc(&self, valid: &[String]) -> Result<(), CniError>;
}

/// Why a network verb failed. [`CniError::code`] is the specification's error code.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CniError {
    /// The network's configuration is wrong.
    #[error("invalid network configuration: {0}")]
    InvalidConfig(String),
    /// The namespace to attach is not there.
    #[error("network namespace {} does not exist", .0.display())]
    UnknownNamespace(PathBuf),
    /// Every address of the range is taken.
    #[error("no address is free in {range}: delete pods or give the node a larger range")]
    NoAddress {
        /// The exhausted range.
        range: String,
    },
    /// The attachment is not as it should be.
    #[error("the attachment of {container_id} is not as it was made: {detail}")]
    Broken {
        /// The sandbox.
        container_id: String,
        /// What differs.
        detail: String,
    },
    /// The kernel or a file refused.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// What came back.
        #[source]
        source: std::io::Error,
    },
    /// The network is not ready; try again later.
    #[error("the network is not ready: {0}")]
    NotReady(String),
}

impl CniError {
    /// The error code of CNI 1.1.0, section 5.
    pub fn code(&self) -> u32 {
        match self {
            CniError::InvalidConfig(_) => 7,
            CniError::UnknownNamespace(_) | CniError::Broken { .. } => 3,
            CniError::Io { .. } => 5,
            CniError::NoAddress { .. } => 11,
            CniError::NotReady(_) => 50,
        }
    }

    /// An [`CniError::Io`] about `path`.
    pub fn io(what: &str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { what: format!("{what} {}", path.display()), source }
    }
}
