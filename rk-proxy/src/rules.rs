//! What a node must do for Services, as a value, and the difference of two such values.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

/// Transport protocol of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    /// From the API's word; absent is TCP, and an unknown word is `None`.
    pub fn from_api(word: Option<&str>) -> Option<Self> {
        match word {
            None | Some("" | "TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    /// In lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// Names a service port of one family, for good.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortKey {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub service: String,
    /// Name of the port, empty if it has none.
    pub port: String,
    /// Two ports of one name may differ in the protocol.
    pub protocol: Protocol,
    /// A dual-stack Service has each port twice.
    pub family: Family,
}

/// `namespace/service`, and `:port` if the port has a name.
impl fmt::Display for PortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service)?;
        if self.port.is_empty() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// Which endpoints traffic may go to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// All.
    #[default]
    Cluster,
    /// Those on this node.
    Local,
}

/// A range of addresses; bits past the prefix are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// The one address.
    pub fn host(address: IpAddr) -> Self {
        Self { address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// The family of the range.
    pub fn family(&self) -> Family {
        Family::of(self.address)
    }

    /// Whether the address is in the range; one of the other family is not.
    pub fn contains(&self, address: IpAddr) -> bool {
        Family::of(address) == self.family() && mask(address, self.prefix) == self.address
    }
}

fn mask(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The text is not an address, a slash and a prefix length that fits the family.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IP range")]
pub struct CidrError(String);

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let error = || CidrError(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(error)?;
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let prefix: u8 = prefix.parse().map_err(|_| error())?;
        if prefix > Self::host(address).prefix {
            return Err(error());
        }
        Ok(Self { address: mask(address, prefix), prefix })
    }
}

/// The endpoints that a service port uses on this node, each list in order of address and port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// For traffic under the policy `Cluster`. Empty also if the port has no such traffic.
    pub cluster: Vec<SocketAddr>,
    /// For traffic under the policy `Local`. Empty also if the port has no such traffic.
    pub local: Vec<SocketAddr>,
    /// Whether there is a usable endpoint on any node. Without one traffic is refused; with one,
    /// but none that the policy allows here, it is dropped, as a load balancer expects.
    pub anywhere: bool,
}

impl Endpoints {
    /// Every endpoint of either list once, in order.
    pub fn reachable(&self) -> Vec<SocketAddr> {
        let mut all: Vec<_> = self.cluster.iter().chain(&self.local).copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// What to do with traffic for one port of one Service in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Which one it is.
    pub key: PortKey,
    /// The address inside the cluster.
    pub cluster_ip: IpAddr,
    /// The port at `cluster_ip`, external and load balancer addresses.
    pub port: u16,
    /// The port at the node's own addresses.
    pub node_port: Option<u16>,
    /// `spec.externalIPs`, sorted.
    pub external_ips: Vec<IpAddr>,
    /// Addresses of load balancers that hand packets on unchanged, sorted.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Who may use the load balancer's addresses, sorted; empty is everybody.
    pub source_ranges: Vec<Cidr>,
    /// How long a client stays with its endpoint since its last connection.
    pub affinity: Option<Duration>,
    /// For traffic to `cluster_ip`.
    pub internal_policy: TrafficPolicy,
    /// For traffic to all other addresses.
    pub external_policy: TrafficPolicy,
    /// Where traffic goes.
    pub endpoints: Endpoints,
}

impl ServicePort {
    /// Whether there is another way to it than the cluster IP.
    pub fn externally_accessible(&self) -> bool {
        self.node_port.is_some()
            || !self.external_ips.is_empty()
            || !self.load_balancer_ips.is_empty()
    }

    /// Whether some traffic falls under the policy `Cluster`: with external traffic always, since
    /// pods and the node itself reach external addresses under it.
    pub fn uses_cluster_endpoints(&self) -> bool {
        self.internal_policy == TrafficPolicy::Cluster || self.externally_accessible()
    }

    /// Whether some traffic falls under the policy `Local`.
    pub fn uses_local_endpoints(&self) -> bool {
        self.internal_policy == TrafficPolicy::Local
            || (self.external_policy == TrafficPolicy::Local && self.externally_accessible())
    }
}

/// Comparing two sets of rules skips the shards they share. With 10,000 service ports a shard has
/// about 40.
const SHARDS: usize = 256;

type Shard = BTreeMap<PortKey, Arc<ServicePort>>;

/// All service ports of a node. A clone shares everything with its original, and a change to one
/// of them copies only what is around the change.
#[derive(Clone)]
pub struct Rules {
    shards: Vec<Arc<Shard>>,
    node_port_addresses: Vec<IpAddr>,
}

impl Default for Rules {
    fn default() -> Self {
        let empty = Arc::<Shard>::default();
        Self { shards: vec![empty; SHARDS], node_port_addresses: Vec::new() }
    }
}

impl PartialEq for Rules {
    fn eq(&self, other: &Self) -> bool {
        self.node_port_addresses == other.node_port_addresses
            && self.shards.iter().zip(&other.shards).all(|(a, b)| Arc::ptr_eq(a, b) || a == b)
    }
}

impl Eq for Rules {}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules")
            .field("node_port_addresses", &self.node_port_addresses)
            .field("ports", &self.iter().collect::<Vec<_>>())
            .finish()
    }
}

impl Rules {
    /// No service ports.
    pub fn new() -> Self {
        Self::default()
    }

    /// No service ports, and node ports at these addresses only. None means every address of the
    /// node but loopback.
    pub fn at(mut node_port_addresses: Vec<IpAddr>) -> Self {
        node_port_addresses.retain(|address| !address.is_loopback());
        node_port_addresses.sort_unstable();
        node_port_addresses.dedup();
        Self { node_port_addresses, ..Self::default() }
    }

    /// The addresses that serve node ports, sorted; none means every address of the node but
    /// loopback.
    pub fn node_port_addresses(&self) -> &[IpAddr] {
        &self.node_port_addresses
    }

    /// Number of service ports.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum()
    }

    /// Whether there are no service ports.
    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.is_empty())
    }

    /// All service ports in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ServicePort>> {
        let mut all: Vec<_> = self.shards.iter().flat_map(|shard| shard.values()).collect();
        all.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        all.into_iter()
    }

    /// The service port of this key.
    pub fn get(&self, key: &PortKey) -> Option<&Arc<ServicePort>> {
        self.shards[shard_of(&key.namespace, &key.service)].get(key)
    }

    /// Replaces all ports of one Service; no ports removes it. Returns whether that made a
    /// difference. Ports of other Services in `ports` are ignored.
    pub fn set_service(&mut self, namespace: &str, name: &str, ports: Vec<ServicePort>) -> bool {
        let shard = &mut self.shards[shard_of(namespace, name)];
        let is_ours = |key: &PortKey| key.namespace == namespace && key.service == name;
        let new: BTreeMap<_, _> = ports
            .into_iter()
            .filter(|port| is_ours(&port.key))
            .map(|port| (port.key.clone(), port))
            .collect();
        let old = shard.iter().filter(|(key, _)| is_ours(key)).map(|(_, port)| &**port);
        if old.eq(new.values()) {
            return false;
        }

        let shard = Arc::make_mut(shard);
        shard.retain(|key, _| !is_ours(key) || new.contains_key(key));
        for (key, port) in new {
            // An unchanged port keeps its allocation, which spares later comparisons.
            if shard.get(&key).is_none_or(|old| **old != port) {
                shard.insert(key, Arc::new(port));
            }
        }
        true
    }
}

/// All ports of a Service are in one shard. FNV-1a: the same in every process, so that nothing
/// hangs on chance.
fn shard_of(namespace: &str, service: &str) -> usize {
    let bytes = namespace.bytes().chain([b'/']).chain(service.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash ^ (hash >> 32)) as usize % SHARDS
}

/// What makes one set of rules into another. Each list is in the order of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Only in the new rules.
    pub added: Vec<Arc<ServicePort>>,
    /// In both, as it was and as it is.
    pub changed: Vec<(Arc<ServicePort>, Arc<ServicePort>)>,
    /// Only in the old rules.
    pub removed: Vec<Arc<ServicePort>>,
    /// Whether the addresses that serve node ports differ.
    pub node_port_addresses: bool,
}

impl Changes {
    /// From `old` to `new`. For two that descend from a common ancestor the cost follows the
    /// difference.
    pub fn between(old: &Rules, new: &Rules) -> Self {
        let mut changes = Self {
            node_port_addresses: old.node_port_addresses != new.node_port_addresses,
            ..Self::default()
        };
        for (old, new) in old.shards.iter().zip(&new.shards) {
            if !Arc::ptr_eq(old, new) {
                changes.compare(old, new);
            }
        }
        changes.added.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        changes.changed.sort_unstable_by(|a, b| a.0.key.cmp(&b.0.key));
        changes.removed.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        changes
    }

    fn compare(&mut self, old: &Shard, new: &Shard) {
        for (key, port) in new {
            match old.get(key) {
                None => self.added.push(port.clone()),
                Some(was) if Arc::ptr_eq(was, port) || was == port => {}
                Some(was) => self.changed.push((was.clone(), port.clone())),
            }
        }
        let gone = old.iter().filter(|(key, _)| !new.contains_key(key));
        self.removed.extend(gone.map(|(_, port)| port.clone()));
    }

    /// Service ports that differ.
    pub fn len(&self) -> usize {
        self.added.len() + self.changed.len() + self.removed.len()
    }

    /// Whether there is no difference at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && !self.node_port_addresses
    }

    /// Each service port that differs, as it was and as it is.
    pub fn pairs(
        &self,
    ) -> impl Iterator<Item = (Option<&Arc<ServicePort>>, Option<&Arc<ServicePort>>)> {
        let removed = self.removed.iter().map(|old| (Some(old), None));
        let changed = self.changed.iter().map(|(old, new)| (Some(old), Some(new)));
        let added = self.added.iter().map(|new| (None, Some(new)));
        removed.chain(changed).chain(added)
    }
}
