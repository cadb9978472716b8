//! The node's side of the pod network: a namespace for the cluster, and the bridge in it.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    cni::{Bridge, BridgeConfig, CniError, mac_of, route_localnet},
    ipam::{Cidr, Range},
    netlink::Netlink,
    netns,
};

/// The default largest packet.
const MTU: u32 = 1500;

/// How to lay a node's network out: see [`NodeNetwork::builder`].
#[derive(Clone, Debug)]
pub struct NodeNetworkBuilder {
    directory: PathBuf,
    pods: Cidr,
    bridge: String,
    node_address: Option<IpAddr>,
    host_network_of_machine: bool,
    mtu: u32,
}

impl NodeNetworkBuilder {
    /// The bridge's name; `rk0` by default.
    pub fn bridge(mut self, name: impl Into<String>) -> Self {
        self.bridge = name.into();
        self
    }

    /// An address of the node besides the pods' gateway. It is the node's first.
    pub fn node_address(mut self, address: IpAddr) -> Self {
        self.node_address = Some(address);
        self
    }

    /// Puts the bridge into this machine's own network namespace, as a real node would, instead of
    /// one made for the cluster. Pods then reach the outside, with the machine's address.
    pub fn host_network_of_machine(mut self, really: bool) -> Self {
        self.host_network_of_machine = really;
        self
    }

    /// The largest packet of the pods' links; 1500 by default.
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// Makes what is missing in the kernel. Called again, also after a crash, it keeps what is there.
    ///
    /// # Errors
    /// [`CniError::InvalidConfig`], or [`CniError::Io`] with what the kernel says: `EPERM` without
    /// root.
    pub async fn build(self) -> Result<NodeNetwork, CniError> {
        let range = Range::new(self.pods, self.pods.gateway())?;
        let netns = match self.host_network_of_machine {
            true => None,
            false => Some(self.directory.join("netns").join("node")),
        };
        let fail =
            |what: &'static str| move |source| CniError::Io { what: what.to_owned(), source };
        if let Some(path) = netns.clone() {
            let made = tokio::task::spawn_blocking(move || netns::create(&path)).await;
            made.unwrap_or_else(|error| Err(io::Error::other(error)))
                .map_err(fail("cannot make the cluster's network namespace"))?;
        }
        let network = NodeNetwork {
            plugin: Arc::new(Bridge::new(BridgeConfig {
                bridge: self.bridge.clone(),
                netns: netns.clone(),
                range,
                state_dir: self.directory.join("network"),
                mtu: self.mtu,
                masquerade: self.host_network_of_machine,
            })?),
            netns,
            bridge: self.bridge,
            gateway: range.gateway(),
            node_address: self.node_address,
        };
        network.make(range, self.mtu).await.map_err(fail("cannot make the node's bridge"))?;
        network.plugin.restore_ports().await?;
        Ok(network)
    }
}

/// A node's network.
///
/// The default is a network namespace made for the cluster, with the bridge, the pods' gateway and
/// the node's address in it. It has no way out, and nothing of it shows in the machine's own
/// network: whoever wants to talk to pods enters it ([`netns::connect`]).
#[derive(Clone, Debug)]
pub struct NodeNetwork {
    plugin: Arc<Bridge>,
    netns: Option<PathBuf>,
    bridge: String,
    gateway: IpAddr,
    node_address: Option<IpAddr>,
}

impl NodeNetwork {
    /// Starts to describe a network whose state is in `directory` and whose pods have addresses of
    /// `pods`.
    pub fn builder(directory: impl Into<PathBuf>, pods: Cidr) -> NodeNetworkBuilder {
        NodeNetworkBuilder {
            directory: directory.into(),
            pods,
            bridge: "rk0".to_owned(),
            node_address: None,
            host_network_of_machine: false,
            mtu: MTU,
        }
    }

    /// The namespace; `None` is the machine's own.
    pub fn netns(&self) -> Option<&Path> {
        self.netns.as_deref()
    }

    /// The node's addresses, its own first.
    pub fn node_ips(&self) -> Vec<IpAddr> {
        self.node_address.into_iter().chain([self.gateway]).collect()
    }

    /// The plugin that attaches pods to it.
    pub fn plugin(&self) -> Arc<Bridge> {
        self.plugin.clone()
    }

    async fn make(&self, range: Range, mtu: u32) -> io::Result<()> {
        let netlink = Netlink::open(self.netns()).await?;
        if self.netns.is_some()
            && let Some(lo) = netlink.link("lo").await?
        {
            netlink.set_up(lo.index).await?;
        }
        let bridge = netlink.add_bridge(&self.bridge, mac_of(self.gateway), mtu).await?;
        netlink.add_address(bridge, self.gateway, range.block().prefix()).await?;
        if let Some(address) = self.node_address {
            let bits = if address.is_ipv4() { 32 } else { 128 };
            netlink.add_address(bridge, address, bits).await?;
        }
        if self.netns.is_some() {
            // A Service's address is on no link. The kernel must take it for reachable all the same,
            // or it drops packets to it before the rules that translate or reject them.
            netlink.add_default_link(bridge, self.gateway.is_ipv4()).await?;
        }
        let (netns, bridge) = (self.netns.clone(), self.bridge.clone());
        let forward = match self.gateway {
            IpAddr::V4(_) => "/proc/sys/net/ipv4/ip_forward",
            IpAddr::V6(_) => "/proc/sys/net/ipv6/conf/all/forwarding",
        };
        let set = move || -> io::Result<()> {
            netns::run(netns.as_deref(), move || {
                // Written only when it changes something: on a machine the file may be read-only.
                match fs::read_to_string(forward)?.trim() {
                    "1" => Ok(()),
                    _ => fs::write(forward, "1"),
                }
            })?;
            match &netns {
                Some(netns) => route_localnet(netns, &bridge),
                None => Ok(()),
            }
        };
        tokio::task::spawn_blocking(set).await.map_err(io::Error::other)?
    }

    /// Deletes the bridge and the namespace. Pods still attached lose their network.
    ///
    /// # Errors
    /// [`CniError::Io`] with what could not be deleted.
    pub async fn delete(&self) -> Result<(), CniError> {
        let fail =
            |source| CniError::Io { what: "cannot delete the node's network".to_owned(), source };
        use crate::CniPlugin as _;
        self.plugin.gc(&[]).await?;
        match &self.netns {
            None => {
                let netlink = Netlink::open(None).await.map_err(fail)?;
                netlink.delete_link(&self.bridge).await.map_err(fail)
            }
            Some(path) => {
                let path = path.clone();
                let deleted = tokio::task::spawn_blocking(move || netns::delete(&path)).await;
                deleted.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(fail)
            }
        }
    }
}
