//! Links, addresses and routes of one network namespace: the only file that speaks rtnetlink.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use futures::TryStreamExt;
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkUnspec, RouteMessageBuilder,
    packet_route::{
        address::AddressAttribute,
        link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage},
        route::RouteMessage,
    },
};

use crate::netns;

/// A link as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: Vec<u8>,
    /// The bridge it is a port of.
    pub controller: Option<u32>,
}

/// A pair of virtual links: one here, one in another namespace.
#[derive(Debug)]
pub struct Veth<'a> {
    /// The name here.
    pub name: &'a str,
    /// The bridge here that it becomes a port of.
    pub bridge: u32,
    /// The name there.
    pub peer_name: &'a str,
    /// The namespace there.
    pub peer_namespace: &'a OwnedFd,
    /// The hardware address there.
    pub peer_mac: [u8; 6],
    /// The largest packet.
    pub mtu: u32,
}

/// A netlink socket in one network namespace. It can be used from any thread.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Netlink {
    /// Opens one in the namespace at `path`, or in this process's own for `None`.
    ///
    /// # Errors
    /// `NotFound` when there is no such namespace.
    pub async fn open(path: Option<&Path>) -> io::Result<Self> {
        let path: Option<PathBuf> = path.map(Path::to_owned);
        let (connection, handle, _) = netns::run_async(path, rtnetlink::new_connection).await?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// The link of this name, if there is one.
    pub async fn link(&self, name: &str) -> io::Result<Option<Link>> {
        let request = self.handle.link().get().match_name(name.to_owned());
        match request.execute().try_next().await.map_err(error) {
            Ok(found) => Ok(found.map(Link::from)),
            Err(error) if error.raw_os_error() == Some(libc_errno::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All links.
    pub async fn links(&self) -> io::Result<Vec<Link>> {
        let links: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(error)?;
        Ok(links.into_iter().map(Link::from).collect())
    }

    /// Brings a link up.
    pub async fn set_up(&self, index: u32) -> io::Result<()> {
        let link = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(link).execute().await.map_err(error)
    }

    /// Makes a bridge, up, and returns its number. One of that name that is there is kept.
    pub async fn add_bridge(&self, name: &str, mac: [u8; 6], mtu: u32) -> io::Result<u32> {
        let bridge = LinkBridge::new(name).address(mac.to_vec()).mtu(mtu).up().build();
        match self.handle.link().add(bridge).execute().await.map_err(error) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let link = self.link(name).await?;
        let link = link.ok_or_else(|| io::Error::other(format!("bridge {name} is gone")))?;
        self.set_up(link.index).await?;
        Ok(link.index)
    }

    /// Makes a pair of links in one step: the one here up and a port of a bridge, the one there
    /// down, because the kernel brings no link up before its peer is there. A packet may leave the bridge by the port it came from (hairpin), which a pod needs that reaches itself
    /// through a port of the node.
    pub async fn add_veth(&self, veth: &Veth<'_>) -> io::Result<()> {
        let peer = LinkUnspec::new_with_name(veth.peer_name)
            .address(veth.peer_mac.to_vec())
            .mtu(veth.mtu)
            .setns_by_fd(veth.peer_namespace.as_raw_fd())
            .build();
        let link = rtnetlink::LinkMessageBuilder::<rtnetlink::LinkVeth>::new_with_info_kind(
            InfoKind::Veth,
        )
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .name(veth.name)
        .mtu(veth.mtu)
        .controller(veth.bridge)
        .up()
        .build();
        self.handle.link().add(link).execute().await.map_err(error)?;
        let link = self.link(veth.name).await?;
        let link = link.ok_or_else(|| io::Error::other(format!("link {} is gone", veth.name)))?;
        let port = LinkBridgePort::new(link.index).hairpin(true).build();
        self.handle.link().set_port(port).execute().await.map_err(error)
    }

    /// Deletes a link by name; one that is not there is no error.
    pub async fn delete_link(&self, name: &str) -> io::Result<()> {
        let Some(link) = self.link(name).await? else { return Ok(()) };
        match self.handle.link().del(link.index).execute().await.map_err(error) {
            Err(error) if error.raw_os_error() == Some(libc_errno::ENODEV) => Ok(()),
            result => result,
        }
    }

    /// Gives a link an address; one it has already is no error.
    pub async fn add_address(&self, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        match self.handle.address().add(index, address, prefix).execute().await.map_err(error) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result,
        }
    }

    /// The addresses of a link with their prefix lengths.
    pub async fn addresses(&self, index: u32) -> io::Result<Vec<(IpAddr, u8)>> {
        let request = self.handle.address().get().set_link_index_filter(index);
        let messages: Vec<_> = request.execute().try_collect().await.map_err(error)?;
        let mut found = Vec::new();
        for message in messages {
            for attribute in &message.attributes {
                if let AddressAttribute::Address(address) = attribute {
                    found.push((*address, message.header.prefix_len));
                }
            }
        }
        Ok(found)
    }

    /// Sends everything without a better route to `gateway`.
    pub async fn add_default_route(&self, gateway: IpAddr) -> io::Result<()> {
        let route = match gateway {
            IpAddr::V4(gateway) => RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build(),
            IpAddr::V6(gateway) => RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).build(),
        };
        self.add_route(route).await
    }

    /// Takes everything without a better route for a neighbour on this link.
    pub async fn add_default_link(&self, index: u32, is_ipv4: bool) -> io::Result<()> {
        let route = match is_ipv4 {
            true => RouteMessageBuilder::<Ipv4Addr>::new().output_interface(index).build(),
            false => RouteMessageBuilder::<Ipv6Addr>::new().output_interface(index).build(),
        };
        self.add_route(route).await
    }

    async fn add_route(&self, route: RouteMessage) -> io::Result<()> {
        match self.handle.route().add(route).execute().await.map_err(error) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result,
        }
    }
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Link {
            index: message.header.index,
            name: String::new(),
            mac: Vec::new(),
            controller: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(mac) => link.mac = mac,
                LinkAttribute::Controller(index) => link.controller = Some(index),
                _ => {}
            }
        }
        link
    }
}

/// The kernel's error, so that callers can tell kinds apart.
fn error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

/// Error numbers that `io::ErrorKind` has no stable name for.
mod libc_errno {
    pub(super) const ENODEV: i32 = 19;
}
