//! Cluster addresses and node ports of Services.
//!
//! What is taken is derived from the Services there are: nothing is stored beside them, so nothing
//! can leak. Requests of one server are kept apart by a lock.
//!
//! A server learns of the Services of others on the same store only when it starts: two servers that
//! run at the same time can hand out the same address or port.

use std::{collections::HashMap, net::Ipv4Addr, ops::RangeInclusive, sync::Arc};

use foldhash::fast::RandomState;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use parking_lot::Mutex;

use super::{
    registry::Target,
    status::{ApiError, Result, Subject},
};
use crate::{
    field::{ErrorList, FieldError, Path},
    resources::Object,
    rng,
};

/// A range of IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: u32,
    bits: u8,
}

impl Cidr {
    /// Reads `10.96.0.0/16`. Ranges from /8 to /30 are possible.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let (address, bits): (Ipv4Addr, u8) = (address.parse().ok()?, bits.parse().ok()?);
        if !(8..=30).contains(&bits) {
            return None;
        }
        let mask = u32::MAX << (32 - bits);
        Some(Self { base: u32::from(address) & mask, bits })
    }

    /// The address number `index`; 0 is the network itself.
    pub fn address(&self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.base + index)
    }

    /// How many addresses can be used: all but the network's own and the broadcast address.
    pub fn usable(&self) -> u32 {
        (1u32 << (32 - self.bits)) - 2
    }

    /// Whether an address can be used.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let index = u32::from(address).wrapping_sub(self.base);
        (1..=self.usable()).contains(&index)
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.bits)
    }
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(super) struct Services(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    addresses: Cidr,
    ports: RangeInclusive<u16>,
    taken: Mutex<Taken>,
}

/// What is taken, and by which Service (its UID).
#[derive(Debug, Default)]
struct Taken {
    addresses: HashMap<Ipv4Addr, String, RandomState>,
    ports: HashMap<u16, String, RandomState>,
}

/// Something that a Service uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    Address(Ipv4Addr),
    Port(u16),
}

/// What a write took. Dropping it gives that back, unless it was [kept](Self::keep).
#[derive(Debug)]
pub(super) struct Allocation {
    services: Services,
    owner: String,
    took: Vec<Item>,
    /// What the Service used before and no longer does.
    left: Vec<Item>,
}

impl Allocation {
    /// The write was stored: what it took is the Service's, what it left is free.
    pub(super) fn keep(mut self) {
        self.took.clear();
        let left = std::mem::take(&mut self.left);
        self.services.free(&self.owner, &left);
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        self.services.free(&self.owner, &self.took);
    }
}

impl Services {
    /// An allocator of these ranges, with nothing taken.
    pub(super) fn new(addresses: Cidr, ports: RangeInclusive<u16>) -> Self {
        Self(Arc::new(Inner { addresses, ports, taken: Mutex::default() }))
    }

    /// The address of the API server's own Service: the first of the range.
    pub(super) fn kubernetes_address(&self) -> Ipv4Addr {
        self.0.addresses.address(1)
    }

    /// Notes what a Service uses that was found in the store.
    pub(super) fn observe(&self, service: &Service) {
        let owner = owner(service);
        let mut taken = self.0.taken.lock();
        for item in service.spec.iter().flat_map(items) {
            taken.take(item, &owner);
        }
    }

    /// Gives back what a deleted Service used.
    pub(super) fn release(&self, object: &dyn Object) {
        if let Some(service) = object.as_any().downcast_ref::<Service>() {
            let items: Vec<_> = service.spec.iter().flat_map(items).collect();
            self.free(&owner(service), &items);
        }
    }

    /// Takes the addresses and ports that a Service needs, and writes them into it. Other kinds
    /// need none.
    ///
    /// # Errors
    /// 422 when one that the client chose is taken or out of range, or when none is left.
    pub(super) fn allocate(
        &self,
        target: &Target<'_>,
        new: &mut dyn Object,
        old: Option<&dyn Object>,
    ) -> Result<Allocation> {
        let mut allocation = Allocation {
            services: self.clone(),
            owner: String::new(),
            took: Vec::new(),
            left: Vec::new(),
        };
        let Some(service) = new.as_any_mut().downcast_mut::<Service>() else {
            return Ok(allocation);
        };
        let old = old.and_then(|old| old.as_any().downcast_ref::<Service>());
        allocation.owner = owner(service);
        let Some(spec) = service.spec.as_mut() else { return Ok(allocation) };
        let old_spec = old.and_then(|old| old.spec.as_ref());
        if let Some(old_spec) = old_spec {
            keep_old(spec, old_spec);
        }
        let mut errors = ErrorList::new();
        let before: Vec<_> = old_spec.into_iter().flat_map(items).collect();
        self.fill(spec, &before, &mut allocation, &mut errors);
        if !errors.is_empty() {
            let name = service.metadata.name.as_deref().unwrap_or_default();
            return Err(ApiError::invalid(&Subject::kind(target.resource), name, &errors));
        }
        let after: Vec<_> = items(spec).collect();
        allocation.left = before.into_iter().filter(|item| !after.contains(item)).collect();
        Ok(allocation)
    }

    fn fill(
        &self,
        spec: &mut ServiceSpec,
        before: &[Item],
        allocation: &mut Allocation,
        errors: &mut ErrorList,
    ) {
        let mut taken = self.0.taken.lock();
        let kind = spec.type_.as_deref().unwrap_or("ClusterIP").to_owned();
        if kind == "ExternalName" {
            return;
        }
        self.fill_address(spec, &mut taken, before, allocation, errors);
        let wants_ports = match kind.as_str() {
            "NodePort" => true,
            "LoadBalancer" => spec.allocate_load_balancer_node_ports != Some(false),
            _ => false,
        };
        if wants_ports || kind == "LoadBalancer" {
            self.fill_ports(spec, wants_ports, &mut taken, before, allocation, errors);
        }
        let wants_check =
            kind == "LoadBalancer" && spec.external_traffic_policy.as_deref() == Some("Local");
        if wants_check && spec.health_check_node_port.unwrap_or(0) == 0 {
            let path = Path::new("spec.healthCheckNodePort");
            match self.free_port(&taken) {
                Some(port) => {
                    spec.health_check_node_port = Some(i32::from(port));
                    allocation.take(Item::Port(port), &mut taken);
                }
                None => errors.push(FieldError::invalid(&path, 0, "range is full")),
            }
        }
    }

    fn fill_address(
        &self,
        spec: &mut ServiceSpec,
        taken: &mut Taken,
        before: &[Item],
        allocation: &mut Allocation,
        errors: &mut ErrorList,
    ) {
        let chosen = spec.cluster_ip.clone().unwrap_or_default();
        let path = Path::new("spec.clusterIPs");
        if chosen == "None" {
            spec.cluster_ips = Some(vec![chosen]);
        } else if chosen.is_empty() {
            let Some(address) = self.free_address(taken) else {
                let why = "failed to allocate a serviceIP: range is full";
                errors.push(FieldError::invalid(&Path::new("spec.clusterIP"), "", why));
                return;
            };
            allocation.take(Item::Address(address), taken);
            spec.cluster_ip = Some(address.to_string());
            spec.cluster_ips = Some(vec![address.to_string()]);
        } else if let Ok(address) = chosen.parse::<Ipv4Addr>() {
            let item = Item::Address(address);
            let refuse = |why: String| {
                let why = format!("failed to allocate IP {address}: {why}");
                FieldError::invalid(&path, serde_json::json!([chosen]), why)
            };
            if before.contains(&item) {
            } else if !self.0.addresses.contains(address) {
                let why = format!(
                    "the provided IP ({address}) is not in the valid range. The range of valid IPs is {}",
                    self.0.addresses
                );
                errors.push(refuse(why));
                return;
            } else if taken.addresses.contains_key(&address) {
                errors.push(refuse("provided IP is already allocated".to_owned()));
                return;
            } else {
                allocation.take(item, taken);
            }
            spec.cluster_ips = Some(vec![chosen]);
        }
        spec.ip_families.get_or_insert_with(|| vec!["IPv4".to_owned()]);
        spec.ip_family_policy.get_or_insert_with(|| "SingleStack".to_owned());
    }

    fn fill_ports(
        &self,
        spec: &mut ServiceSpec,
        allocate: bool,
        taken: &mut Taken,
        before: &[Item],
        allocation: &mut Allocation,
        errors: &mut ErrorList,
    ) {
        // One Service may use a port for several protocols.
        let mut own: Vec<(u16, i32, String)> = Vec::new();
        let ports = spec.ports.iter_mut().flatten().enumerate();
        for (index, port) in ports {
            let path = Path::new("spec.ports").index(index).child("nodePort");
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let chosen = port.node_port.unwrap_or(0);
            if chosen == 0 {
                let shared =
                    own.iter().find(|(_, number, used)| *number == port.port && *used != protocol);
                let found = shared.map(|(node_port, ..)| *node_port);
                if !allocate {
                    continue;
                }
                let Some(node_port) = found.or_else(|| self.free_port(taken)) else {
                    errors.push(FieldError::invalid(
                        &path,
                        0,
                        "failed to allocate a nodePort: range is full",
                    ));
                    continue;
                };
                if found.is_none() {
                    allocation.take(Item::Port(node_port), taken);
                }
                port.node_port = Some(i32::from(node_port));
                own.push((node_port, port.port, protocol));
                continue;
            }
            // Numbers that are no port are refused by validation.
            let Ok(node_port) = u16::try_from(chosen) else { continue };
            let item = Item::Port(node_port);
            let mine = before.contains(&item) || own.iter().any(|(used, ..)| *used == node_port);
            if mine {
            } else if !self.0.ports.contains(&node_port) {
                let (first, last) = (self.0.ports.start(), self.0.ports.end());
                let why = format!(
                    "provided port is not in the valid range. The range of valid ports is {first}-{last}"
                );
                errors.push(FieldError::invalid(&path, chosen, why));
            } else if taken.ports.contains_key(&node_port) {
                errors.push(FieldError::invalid(
                    &path,
                    chosen,
                    "provided port is already allocated",
                ));
            } else {
                allocation.take(item, taken);
            }
            own.push((node_port, port.port, protocol));
        }
    }

    /// A random free address, as long as there is one.
    fn free_address(&self, taken: &Taken) -> Option<Ipv4Addr> {
        let usable = self.0.addresses.usable();
        // The first address is the API server's own.
        let start = rng::below(u64::from(usable)) as u32;
        (0..usable)
            .map(|step| (start + step) % usable + 1)
            .filter(|index| *index != 1)
            .map(|index| self.0.addresses.address(index))
            .find(|address| !taken.addresses.contains_key(address))
    }

    fn free_port(&self, taken: &Taken) -> Option<u16> {
        let (first, last) = (*self.0.ports.start(), *self.0.ports.end());
        let count = u32::from(last.checked_sub(first)?) + 1;
        let start = rng::below(u64::from(count)) as u32;
        (0..count)
            .map(|step| first + ((start + step) % count) as u16)
            .find(|port| !taken.ports.contains_key(port))
    }

    fn free(&self, owner: &str, items: &[Item]) {
        if items.is_empty() {
            return;
        }
        let mut taken = self.0.taken.lock();
        for item in items {
            match item {
                Item::Address(address)
                    if taken.addresses.get(address).is_some_and(|o| o == owner) =>
                {
                    taken.addresses.remove(address);
                }
                Item::Port(port) if taken.ports.get(port).is_some_and(|o| o == owner) => {
                    taken.ports.remove(port);
                }
                _ => {}
            }
        }
    }
}

impl Taken {
    fn take(&mut self, item: Item, owner: &str) {
        match item {
            Item::Address(address) => self.addresses.insert(address, owner.to_owned()),
            Item::Port(port) => self.ports.insert(port, owner.to_owned()),
        };
    }
}

impl Allocation {
    fn take(&mut self, item: Item, taken: &mut Taken) {
        taken.take(item, &self.owner);
        self.took.push(item);
    }
}

fn owner(service: &Service) -> String {
    service.metadata.uid.clone().unwrap_or_default()
}

/// What a Service uses.
fn items(spec: &ServiceSpec) -> impl Iterator<Item = Item> {
    let address = spec.cluster_ip.as_deref().and_then(|text| text.parse().ok()).map(Item::Address);
    let ports = spec.ports.iter().flatten().filter_map(|port| port.node_port);
    let ports = ports.chain(spec.health_check_node_port);
    let ports = ports.filter_map(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    address.into_iter().chain(ports.map(Item::Port))
}

/// An update that leaves out what was allocated keeps it.
fn keep_old(spec: &mut ServiceSpec, old: &ServiceSpec) {
    let kind = |spec: &ServiceSpec| spec.type_.clone().unwrap_or_else(|| "ClusterIP".to_owned());
    let empty = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
    if kind(spec) == "ExternalName" {
        // A client that changes the type usually sends the old address along.
        if kind(old) != "ExternalName" && spec.cluster_ip == old.cluster_ip {
            spec.cluster_ip = None;
            spec.cluster_ips = None;
            spec.ip_families = None;
            spec.ip_family_policy = None;
        }
        return;
    }
    if empty(&spec.cluster_ip) && !empty(&old.cluster_ip) {
        spec.cluster_ip.clone_from(&old.cluster_ip);
        spec.cluster_ips.clone_from(&old.cluster_ips);
    }
    if spec.ip_families.is_none() {
        spec.ip_families.clone_from(&old.ip_families);
        spec.ip_family_policy.clone_from(&old.ip_family_policy);
    }
    let exposed = |kind: &str| kind == "NodePort" || kind == "LoadBalancer";
    if !exposed(&kind(spec)) {
        if exposed(&kind(old)) {
            drop_node_ports(spec, old);
        }
        return;
    }
    let same = |a: &Option<String>, b: &Option<String>| {
        a.as_deref().unwrap_or("TCP") == b.as_deref().unwrap_or("TCP")
    };
    for port in spec.ports.iter_mut().flatten().filter(|port| port.node_port.unwrap_or(0) == 0) {
        let before = old.ports.iter().flatten();
        let before = before.filter(|o| o.port == port.port && same(&o.protocol, &port.protocol));
        port.node_port = before.filter_map(|old| old.node_port).next();
    }
    if kind(spec) == "LoadBalancer" && spec.health_check_node_port.unwrap_or(0) == 0 {
        spec.health_check_node_port = old.health_check_node_port;
    }
}

/// Node ports that a client sent along from before the type changed.
fn drop_node_ports(spec: &mut ServiceSpec, old: &ServiceSpec) {
    let used: Vec<_> = old.ports.iter().flatten().filter_map(|port| port.node_port).collect();
    for port in spec.ports.iter_mut().flatten() {
        if port.node_port.is_some_and(|node_port| used.contains(&node_port)) {
            port.node_port = None;
        }
    }
    if spec.health_check_node_port == old.health_check_node_port {
        spec.health_check_node_port = None;
    }
}
