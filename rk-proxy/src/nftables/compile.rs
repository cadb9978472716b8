//! From one service port to its chains, sets and map elements. Pure.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use sha2::{Digest, Sha256};

use super::{NftablesConfig, base::ip};
use crate::{Family, Protocol, ServicePort, TrafficPolicy};

/// Changes with the layout of the table, so that a newer program does not take over a table of
/// an older one that looks the same by its rules.
const LAYOUT: &str = "1";

/// Up to this many endpoints are chosen among by one rule each, beyond that by a verdict map. A map
/// in a rule is a set of its own to the kernel, and finding a name for it takes time with all sets
/// there are: 10,000 services took 51 s with such maps and 3.5 s without.
const ENDPOINTS_WITHOUT_MAP: usize = 8;

/// What one service port contributes to the table of its family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Compiled {
    pub(super) family: Family,
    /// Chain to rules.
    pub(super) chains: BTreeMap<String, Vec<String>>,
    /// Set to definition. The name changes with the definition.
    pub(super) sets: BTreeMap<String, String>,
    pub(super) elements: BTreeMap<Element, Value>,
}

/// An element of one of the maps or sets that all service ports share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Element {
    ServiceIp(IpAddr, Protocol, u16),
    NodePort(Family, Protocol, u16),
    NoEndpoints(IpAddr, Protocol, u16),
    NodePortNoEndpoints(Family, Protocol, u16),
    Firewall(IpAddr, Protocol, u16),
    ClusterIp(IpAddr),
}

impl Element {
    pub(super) fn family(&self) -> Family {
        match self {
            Self::NodePort(family, ..) | Self::NodePortNoEndpoints(family, ..) => *family,
            Self::ServiceIp(address, ..)
            | Self::NoEndpoints(address, ..)
            | Self::Firewall(address, ..)
            | Self::ClusterIp(address) => Family::of(*address),
        }
    }

    /// The map or set it is in.
    pub(super) fn map(&self) -> &'static str {
        match self {
            Self::ServiceIp(..) => "service-ips",
            Self::NodePort(..) => "service-nodeports",
            Self::NoEndpoints(..) => "no-endpoint-services",
            Self::NodePortNoEndpoints(..) => "no-endpoint-nodeports",
            Self::Firewall(..) => "firewall-ips",
            Self::ClusterIp(_) => "cluster-ips",
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServiceIp(address, protocol, port)
            | Self::NoEndpoints(address, protocol, port)
            | Self::Firewall(address, protocol, port) => {
                write!(f, "{address} . {} . {port}", protocol.as_str())
            }
            Self::NodePort(_, protocol, port) | Self::NodePortNoEndpoints(_, protocol, port) => {
                write!(f, "{} . {port}", protocol.as_str())
            }
            Self::ClusterIp(address) => write!(f, "{address}"),
        }
    }
}

/// What an element stands for: a verdict, or nothing for an element of a set.
pub(super) type Value = Option<String>;

/// Everything that one service port needs.
pub(super) fn compile(port: &ServicePort, config: &NftablesConfig) -> Compiled {
    let names = Names::of(port);
    let mut compiled = Compiled {
        family: port.key.family,
        chains: BTreeMap::new(),
        sets: BTreeMap::new(),
        elements: elements(port, &names),
    };
    if !port.endpoints.anywhere {
        return compiled;
    }
    let chains = &mut compiled.chains;
    if !port.endpoints.cluster.is_empty() {
        chains.insert(names.cluster.clone(), dispatch(port, &port.endpoints.cluster));
    }
    if !port.endpoints.local.is_empty() {
        chains.insert(names.local.clone(), dispatch(port, &port.endpoints.local));
    }
    if let (Some(rule), Some(rules)) =
        (masquerade_internal(port, config), chains.get_mut(names.policy(port.internal_policy)))
    {
        rules.insert(0, rule);
    }
    if port.externally_accessible() {
        chains.insert(names.external.clone(), external(port, &names, config));
    }
    if has_firewall(port) {
        chains.insert(names.firewall, firewall(port));
    }
    for endpoint in port.endpoints.reachable() {
        chains.insert(endpoint_chain(port, endpoint), endpoint_rules(port, endpoint));
        if let Some(timeout) = port.affinity {
            let address = match port.key.family {
                Family::V4 => "ipv4_addr",
                Family::V6 => "ipv6_addr",
            };
            let seconds = timeout.as_secs();
            compiled.sets.insert(
                affinity_set(port, endpoint),
                format!("type {address} ; flags dynamic, timeout ; timeout {seconds}s"),
            );
        }
    }
    compiled
}

/// The elements of [`compile`] alone.
pub(super) fn elements_of(port: &ServicePort) -> BTreeMap<Element, Value> {
    elements(port, &Names::of(port))
}

/// Names of the chains of a service port.
struct Names {
    cluster: String,
    local: String,
    external: String,
    firewall: String,
}

impl Names {
    fn of(port: &ServicePort) -> Self {
        let base = hashed(&stem(port), "");
        Self {
            cluster: format!("service-{base}"),
            local: format!("local-{base}"),
            external: format!("external-{base}"),
            firewall: format!("firewall-{base}"),
        }
    }

    fn policy(&self, policy: TrafficPolicy) -> &str {
        match policy {
            TrafficPolicy::Cluster => &self.cluster,
            TrafficPolicy::Local => &self.local,
        }
    }
}

fn stem(port: &ServicePort) -> String {
    let key = &port.key;
    format!("{}/{}/{}/{}", key.namespace, key.service, key.protocol.as_str(), key.port)
}

fn endpoint_stem(port: &ServicePort, endpoint: SocketAddr) -> String {
    // A colon cannot be in a chain's name.
    let address = endpoint.ip().to_string().replace(':', ".");
    format!("{}__{address}/{}", stem(port), endpoint.port())
}

fn endpoint_chain(port: &ServicePort, endpoint: SocketAddr) -> String {
    format!("endpoint-{}", hashed(&endpoint_stem(port, endpoint), ""))
}

fn affinity_set(port: &ServicePort, endpoint: SocketAddr) -> String {
    let seconds = port.affinity.unwrap_or_default().as_secs().to_string();
    format!("affinity-{}", hashed(&endpoint_stem(port, endpoint), &seconds))
}

/// A name that a person can read and that stays unique when it is cut to what nftables takes
/// (255 bytes with the longest prefix). `salt` is in the hash only.
fn hashed(name: &str, salt: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(name);
    hash.update([0]);
    hash.update(salt);
    let hash: String = hash.finalize()[..4].iter().map(|byte| format!("{byte:02X}")).collect();
    let mut name = format!("{hash}-{name}");
    if name.len() > 240 {
        name.truncate(237);
        name.push_str("...");
    }
    name
}

fn has_firewall(port: &ServicePort) -> bool {
    !port.load_balancer_ips.is_empty() && !port.source_ranges.is_empty()
}

/// Lets allowed sources go on and drops the rest.
fn firewall(port: &ServicePort) -> Vec<String> {
    let ip = ip(port.key.family);
    // One rule for each range: ranges may overlap, which a set in a rule does not take.
    let allowed = port.source_ranges.iter().map(|range| format!("{ip} saddr {range} return"));
    allowed.chain(["drop".to_owned()]).collect()
}

/// The entries of the shared maps: where each address of the service port leads.
fn elements(port: &ServicePort, names: &Names) -> BTreeMap<Element, Value> {
    let (protocol, family) = (port.key.protocol, port.key.family);
    let goto = |chain: &str| Some(format!("goto {chain}"));
    // With endpoints elsewhere, silence makes a balancer try another node; refusing would not.
    let unreachable =
        if port.endpoints.anywhere { Some("drop".to_owned()) } else { goto("reject-chain") };
    let has = |policy: TrafficPolicy| match policy {
        TrafficPolicy::Cluster => port.endpoints.anywhere,
        TrafficPolicy::Local => !port.endpoints.local.is_empty(),
    };

    let mut elements = BTreeMap::from([(Element::ClusterIp(port.cluster_ip), None)]);
    if has(port.internal_policy) {
        let chain = goto(names.policy(port.internal_policy));
        elements.insert(Element::ServiceIp(port.cluster_ip, protocol, port.port), chain);
    } else {
        let element = Element::NoEndpoints(port.cluster_ip, protocol, port.port);
        elements.insert(element, unreachable.clone());
    }
    // The external chain also serves pods and the node itself, which the policy does not bind.
    let reached = port.endpoints.anywhere;
    let refused = !has(port.external_policy);
    for address in port.external_ips.iter().chain(&port.load_balancer_ips) {
        if reached {
            let element = Element::ServiceIp(*address, protocol, port.port);
            elements.insert(element, goto(&names.external));
        }
        if refused {
            let element = Element::NoEndpoints(*address, protocol, port.port);
            elements.insert(element, unreachable.clone());
        }
    }
    if let Some(node_port) = port.node_port {
        if reached {
            let element = Element::NodePort(family, protocol, node_port);
            elements.insert(element, goto(&names.external));
        }
        if refused {
            let element = Element::NodePortNoEndpoints(family, protocol, node_port);
            elements.insert(element, unreachable);
        }
    }
    if reached && has_firewall(port) {
        for address in &port.load_balancer_ips {
            let element = Element::Firewall(*address, protocol, port.port);
            elements.insert(element, goto(&names.firewall));
        }
    }
    elements
}

/// Chooses an endpoint: the one the client has affinity to, or any.
fn dispatch(port: &ServicePort, endpoints: &[SocketAddr]) -> Vec<String> {
    let ip = ip(port.key.family);
    let mut rules = Vec::new();
    if port.affinity.is_some() {
        for endpoint in endpoints {
            let (set, chain) = (affinity_set(port, *endpoint), endpoint_chain(port, *endpoint));
            rules.push(format!("{ip} saddr @{set} goto {chain}"));
        }
    }
    let count = endpoints.len();
    let chains = endpoints.iter().map(|endpoint| endpoint_chain(port, *endpoint)).enumerate();
    if count > ENDPOINTS_WITHOUT_MAP {
        let choices = chains.map(|(i, chain)| format!("{i} : goto {chain}"));
        rules.push(format!("numgen random mod {count} vmap {}", super::braces(choices)));
    } else {
        // Each rule takes its share of what the rules before it left over.
        rules.extend(chains.map(|(i, chain)| match count - i {
            1 => format!("goto {chain}"),
            left => format!("numgen random mod {left} == 0 goto {chain}"),
        }));
    }
    rules
}

/// Traffic from outside to the cluster IP must come back through this node.
fn masquerade_internal(port: &ServicePort, config: &NftablesConfig) -> Option<String> {
    let (ip, protocol) = (ip(port.key.family), port.key.protocol.as_str());
    let to = format!("{ip} daddr {} {protocol} dport {}", port.cluster_ip, port.port);
    let from = if config.masquerade_all {
        String::new()
    } else {
        config.pod_traffic.matching(port.key.family, false)? + " "
    };
    Some(format!("{to} {from}jump mark-for-masquerade"))
}

/// What traffic to external addresses meets before an endpoint is chosen.
fn external(port: &ServicePort, names: &Names, config: &NftablesConfig) -> Vec<String> {
    let cluster = &names.cluster;
    if port.external_policy == TrafficPolicy::Cluster {
        // The endpoint may be on another node, so the answer must come back here first.
        return vec!["jump mark-for-masquerade".to_owned(), format!("goto {cluster}")];
    }
    let mut rules = Vec::new();
    // Pods and the node itself could as well have gone out to a balancer and come back on any
    // node, so that the policy does not bind them.
    if !port.endpoints.cluster.is_empty() {
        if let Some(from_pods) = config.pod_traffic.matching(port.key.family, true) {
            rules.push(format!("{from_pods} goto {cluster}"));
        }
        rules.push("fib saddr type local jump mark-for-masquerade".to_owned());
        rules.push(format!("fib saddr type local goto {cluster}"));
    }
    if !port.endpoints.local.is_empty() {
        rules.push(format!("goto {}", names.local));
    }
    rules
}

fn endpoint_rules(port: &ServicePort, endpoint: SocketAddr) -> Vec<String> {
    let (ip, protocol) = (ip(port.key.family), port.key.protocol.as_str());
    // A pod that reaches itself must see another source than its own address.
    let mut rules = vec![format!("{ip} saddr {} jump mark-for-masquerade", endpoint.ip())];
    if port.affinity.is_some() {
        rules.push(format!("update @{} {{ {ip} saddr }}", affinity_set(port, endpoint)));
    }
    rules.push(format!("meta l4proto {protocol} dnat to {endpoint}"));
    rules
}

/// Stands for everything in the table: a sum of hashes, so that a change costs what changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint(u128);

impl Fingerprint {
    /// Of a table without services.
    pub(super) fn of_config(config: &NftablesConfig, node_port_addresses: &[IpAddr]) -> Self {
        let NftablesConfig { families, masquerade_mark, masquerade_all, pod_traffic, .. } = config;
        let config = (families, masquerade_mark, masquerade_all, pod_traffic);
        Self(hash(&format!("{LAYOUT} {config:?} {node_port_addresses:?}")))
    }

    pub(super) fn add(&mut self, compiled: &Compiled) {
        self.0 = self.0.wrapping_add(hash(&format!("{compiled:?}")));
    }

    pub(super) fn subtract(&mut self, compiled: &Compiled) {
        self.0 = self.0.wrapping_sub(hash(&format!("{compiled:?}")));
    }
}

fn hash(text: &str) -> u128 {
    let hash = Sha256::digest(text);
    hash[..16].iter().fold(0, |sum, byte| sum << 8 | u128::from(*byte))
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for Fingerprint {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(Self)
    }
}
