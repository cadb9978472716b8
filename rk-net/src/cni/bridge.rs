//! The `bridge` plugin: each pod has a virtual link to a bridge of the node, and an address of the
//! node's block.

use std::{fs::File, io, net::IpAddr, os::fd::OwnedFd, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use tokio::sync::OnceCell;

use super::{
    AttachRequest, AttachResult, CniError, CniPlugin,
    portmap::{Mapped, PortMaps},
};
use crate::{
    ipam::{HostLocal, Range},
    netlink::{Netlink, Veth},
};

/// What a [`Bridge`] is set up with.
#[derive(Clone, Debug)]
pub struct BridgeConfig {
    /// The bridge's name; it must be there before the first ADD.
    pub bridge: String,
    /// The namespace the bridge is in; `None` is this process's own.
    pub netns: Option<PathBuf>,
    /// The addresses pods get, and the gateway they use.
    pub range: Range,
    /// Where reservations and port mappings are kept.
    pub state_dir: PathBuf,
    /// The largest packet of the pods' links.
    pub mtu: u32,
    /// Gives pods the node's address when they talk to the world outside.
    pub masquerade: bool,
}

/// The plugin. ADD makes the pair of links and moves one end into the pod; DEL deletes it.
///
/// # What holds at any time
/// - A pod's hardware address follows from its IP address (`0a:58` and the address), so that a
///   neighbour entry of an earlier pod at the same address is still right.
/// - The link's name at the node follows from the container's id: DEL needs no record of it.
/// - ADD reserves the address first and DEL frees it last: an address in use is never given out.
#[derive(Debug)]
pub struct Bridge {
    config: BridgeConfig,
    ipam: Arc<HostLocal>,
    ports: Arc<PortMaps>,
    node: OnceCell<Netlink>,
    /// One change of the port table at a time.
    changing_ports: tokio::sync::Mutex<()>,
}

impl Bridge {
    /// Sets the plugin up. Makes nothing in the kernel.
    ///
    /// # Errors
    /// [`CniError::Io`] when the state directory cannot be made.
    pub fn new(config: BridgeConfig) -> Result<Self, CniError> {
        let ipam = HostLocal::open(config.state_dir.join("addresses"), config.range)?;
        let ports = PortMaps {
            directory: config.state_dir.join("ports"),
            netns: config.netns.clone(),
            table: format!("{}_ports", config.bridge.replace('-', "_")),
            pods: config.range.block(),
            masquerade: config.masquerade,
        };
        Ok(Self {
            config,
            ipam: Arc::new(ipam),
            ports: Arc::new(ports),
            node: OnceCell::new(),
            changing_ports: tokio::sync::Mutex::new(()),
        })
    }

    /// The address reservations.
    pub fn ipam(&self) -> &HostLocal {
        &self.ipam
    }

    /// Makes the kernel's port table what the files say, when there is something to say.
    pub(crate) async fn restore_ports(&self) -> Result<(), CniError> {
        self.with_ports(PortMaps::restore).await
    }

    /// The node's end: one socket for all calls.
    async fn node(&self) -> Result<&Netlink, CniError> {
        self.node
            .get_or_try_init(|| Netlink::open(self.config.netns.as_deref()))
            .await
            .map_err(io_error("cannot reach the node's network"))
    }

    async fn with_ipam<T: Send + 'static>(
        &self,
        work: impl FnOnce(&HostLocal) -> Result<T, CniError> + Send + 'static,
    ) -> Result<T, CniError> {
        let ipam = self.ipam.clone();
        blocking(move || work(&ipam)).await
    }

    async fn with_ports(
        &self,
        work: impl FnOnce(&PortMaps) -> Result<(), CniError> + Send + 'static,
    ) -> Result<(), CniError> {
        let _one = self.changing_ports.lock().await;
        let ports = self.ports.clone();
        blocking(move || work(&ports)).await
    }

    async fn attach(
        &self,
        request: &AttachRequest,
        pod: OwnedFd,
        address: IpAddr,
    ) -> Result<AttachResult, CniError> {
        let node = self.node().await?;
        let bridge = node
            .link(&self.config.bridge)
            .await
            .map_err(io_error("cannot look at the bridge"))?
            .ok_or_else(|| {
                CniError::NotReady(format!("bridge {} is not there", self.config.bridge))
            })?;
        let name = link_name(&request.container_id, &request.interface);
        // What an ADD that was cut short left behind.
        node.delete_link(&name).await.map_err(io_error("cannot delete an old link"))?;
        let mac = mac_of(address);
        let veth = Veth {
            name: &name,
            bridge: bridge.index,
            peer_name: &request.interface,
            peer_namespace: &pod,
            peer_mac: mac,
            mtu: self.config.mtu,
        };
        node.add_veth(&veth).await.map_err(io_error("cannot make the pod's link"))?;
        let prefix = self.config.range.block().prefix();
        let gateway = self.config.range.gateway();
        let configure = async {
            let inside = Netlink::open(Some(&request.netns)).await?;
            let link = inside.link(&request.interface).await?;
            let link = link.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            inside.set_up(link.index).await?;
            inside.add_address(link.index, address, prefix).await?;
            inside.add_default_route(gateway).await
        };
        configure.await.map_err(io_error("cannot configure the pod's link"))?;
        if !request.port_mappings.is_empty() {
            let mapped = Mapped { address, ports: request.port_mappings.clone() };
            let id = request.container_id.clone();
            self.with_ports(move |ports| ports.add(&id, &mapped)).await?;
        }
        Ok(AttachResult {
            ips: vec![(address, prefix)],
            gateway: Some(gateway),
            mac: Some(mac.map(|byte| format!("{byte:02x}")).join(":")),
        })
    }
}

#[async_trait]
impl CniPlugin for Bridge {
    async fn add(&self, request: &AttachRequest) -> Result<AttachResult, CniError> {
        check_request(request)?;
        let pod = match File::open(&request.netns) {
            Ok(file) => OwnedFd::from(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(CniError::UnknownNamespace(request.netns.clone()));
            }
            Err(error) => return Err(CniError::io("cannot open", &request.netns, error)),
        };
        let (id, interface) = (request.container_id.clone(), request.interface.clone());
        let address = self.with_ipam(move |ipam| ipam.reserve(&id, &interface)).await?;
        match self.attach(request, pod, address).await {
            Ok(result) => Ok(result),
            Err(error) => {
                // The first error is the one to tell.
                let _ = self.del(request).await;
                Err(error)
            }
        }
    }

    async fn del(&self, request: &AttachRequest) -> Result<(), CniError> {
        let id = request.container_id.clone();
        self.with_ports(move |ports| ports.remove(&id)).await?;
        let name = link_name(&request.container_id, &request.interface);
        match self.node().await {
            Ok(node) => {
                node.delete_link(&name).await.map_err(io_error("cannot delete the pod's link"))?;
            }
            // With the node's namespace all links in it went.
            Err(CniError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let (id, interface) = (request.container_id.clone(), request.interface.clone());
        self.with_ipam(move |ipam| ipam.release(&id, &interface)).await
    }

    async fn check(&self, request: &AttachRequest) -> Result<(), CniError> {
        let broken = |detail: &str| CniError::Broken {
            container_id: request.container_id.clone(),
            detail: detail.to_owned(),
        };
        let all = self.with_ipam(HostLocal::list).await?;
        let own = all
            .iter()
            .find(|one| {
                one.container_id == request.container_id && one.interface == request.interface
            })
            .ok_or_else(|| broken("its address is not reserved"))?;
        let node = self.node().await?;
        let name = link_name(&request.container_id, &request.interface);
        let look = io_error("cannot look at the pod's link");
        let Some(link) = node.link(&name).await.map_err(look)? else {
            return Err(broken("its link at the node is gone"));
        };
        if link.controller.is_none() {
            return Err(broken("its link is not a port of the bridge"));
        }
        let inside = match Netlink::open(Some(&request.netns)).await {
            Ok(inside) => inside,
            Err(_) => return Err(CniError::UnknownNamespace(request.netns.clone())),
        };
        let look = io_error("cannot look into the pod");
        let Some(link) = inside.link(&request.interface).await.map_err(look)? else {
            return Err(broken("its interface is gone"));
        };
        let look = io_error("cannot look into the pod");
        let addresses = inside.addresses(link.index).await.map_err(look)?;
        match addresses.iter().any(|(address, _)| *address == own.address) {
            true => Ok(()),
            false => Err(broken("its interface lacks its address")),
        }
    }

    async fn status(&self) -> Result<(), CniError> {
        let node = self.node().await.map_err(|error| CniError::NotReady(error.to_string()))?;
        match node.link(&self.config.bridge).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => {
                Err(CniError::NotReady(format!("bridge {} is not there", self.config.bridge)))
            }
            Err(error) => Err(CniError::NotReady(error.to_string())),
        }
    }

    async fn gc(&self, valid: &[String]) -> Result<(), CniError> {
        let keep = valid.to_vec();
        self.with_ports(move |ports| ports.retain(&keep)).await?;
        let all = self.with_ipam(HostLocal::list).await?;
        if let Ok(node) = self.node().await {
            for one in all.iter().filter(|one| !valid.contains(&one.container_id)) {
                let name = link_name(&one.container_id, &one.interface);
                node.delete_link(&name).await.map_err(io_error("cannot delete an old link"))?;
            }
        }
        let keep = valid.to_vec();
        self.with_ipam(move |ipam| ipam.retain(&keep)).await.map(|_| ())
    }
}

/// Names from outside that become names of the kernel's.
fn check_request(request: &AttachRequest) -> Result<(), CniError> {
    let invalid = |what: &str| CniError::InvalidConfig(what.to_owned());
    if request.container_id.is_empty() {
        return Err(invalid("the container has no id"));
    }
    let name = &request.interface;
    let fits = (1..=15).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_graphic() && c != '/' && c != ':')
        && name != "."
        && name != "..";
    if !fits {
        return Err(invalid(
            "the interface's name must have 1 to 15 characters, no '/' and no ':'",
        ));
    }
    Ok(())
}

/// The name of a pod's link at the node: 15 characters at most, the same each time.
fn link_name(container_id: &str, interface: &str) -> String {
    // FNV-1a: names need to differ, not to withstand an attacker, who cannot choose ids.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in container_id.bytes().chain([b'/']).chain(interface.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    format!("veth{:011x}", hash >> 20)
}

/// `0a:58` and the address, as the reference plugin has it; for version 6 its last four bytes.
pub(crate) fn mac_of(address: IpAddr) -> [u8; 6] {
    let last = match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => {
            let octets = address.octets();
            [octets[12], octets[13], octets[14], octets[15]]
        }
    };
    [0x0a, 0x58, last[0], last[1], last[2], last[3]]
}

fn io_error(what: &str) -> impl FnOnce(io::Error) -> CniError {
    let what = what.to_owned();
    move |source| CniError::Io { what, source }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CniError> + Send + 'static,
) -> Result<T, CniError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(io_error("the work died")(io::Error::other(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_links_name_fits_the_kernel_and_follows_from_the_container() {
        let name = link_name(&"a".repeat(64), "eth0");
        assert_eq!(name.len(), 15);
        assert_eq!(name, link_name(&"a".repeat(64), "eth0"));
        assert_ne!(name, link_name(&"a".repeat(64), "eth1"));
        assert_ne!(name, link_name(&"b".repeat(64), "eth0"));
    }

    #[test]
    fn a_bad_request_is_refused_before_anything_is_made() {
        let request = |id: &str, interface: &str| AttachRequest {
            container_id: id.to_owned(),
            interface: interface.to_owned(),
            ..AttachRequest::default()
        };
        assert!(check_request(&request("a", "eth0")).is_ok());
        for (id, interface) in [("", "eth0"), ("a", ""), ("a", "a/b"), ("a", "sixteen-letters-")] {
            let error = check_request(&request(id, interface)).unwrap_err();
            assert_eq!(error.code(), 7, "{id:?} {interface:?}");
        }
    }
}
