//! Cluster addresses and node ports of Services.
//!
//! What is taken is in the store, where all servers on it see it: addresses as IPAddress objects
//! (`addresses.rs`), node ports in one object for all (`ports.rs`). A request takes what its Service
//! needs before it writes the Service, and gives it back when that fails. What neither happens to,
//! because a server dies in between, is set right by [`Services::repair`].

mod addresses;
mod cidr;
mod families;
mod findings;
mod ports;
mod ranges;

use std::{net::IpAddr, ops::RangeInclusive, sync::Arc};

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use serde_json::json;

pub use self::cidr::Cidr;
pub(super) use self::findings::Finding;
use self::{
    addresses::{Addresses, Owner, addresses, owner},
    ports::{Ask, Leaks, Ports, Refused},
    ranges::Ranges,
};
use super::{
    cache::Cache,
    filter::Filter,
    registry::Target,
    status::{ApiError, Result, Subject},
};
use crate::{
    field::{ErrorList, FieldError, Path},
    resources::{Object, Resource, Resources},
    rng,
};

/// An address that is known to be free may be taken by another server; so often, at most, in a row.
const TRIES: usize = 64;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(super) struct Services(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cache: Arc<Cache>,
    resource: Option<Arc<Resource>>,
    ranges: Ranges,
    addresses: Option<Addresses>,
    ports: Ports,
}

/// What a write took. It has to be [kept](Self::keep) or [undone](Self::undo); if it is dropped
/// instead, because its request has ended, it is undone in the background.
#[derive(Debug)]
pub(super) struct Allocation {
    services: Services,
    owner: Owner,
    took: Items,
    /// What the Service used before and no longer does.
    left: Items,
}

/// Things that a Service uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Items {
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
}

impl Items {
    fn of(service: &Service) -> Self {
        Self { addresses: addresses(service), ports: service.spec.iter().flat_map(ports).collect() }
    }

    fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.ports.is_empty()
    }

    /// Those of `self` that `others` does not have.
    fn without(mut self, others: &Self) -> Self {
        self.addresses.retain(|address| !others.addresses.contains(address));
        self.ports.retain(|port| !others.ports.contains(port));
        self
    }
}

impl Allocation {
    /// The write was stored: what it took is the Service's, what it left is free.
    pub(super) async fn keep(mut self) {
        self.took = Items::default();
        let left = std::mem::take(&mut self.left);
        self.services.give_back(&self.owner, left).await;
    }

    /// The write was not stored.
    pub(super) async fn undo(mut self) {
        let took = std::mem::take(&mut self.took);
        self.services.give_back(&self.owner, took).await;
    }

    /// Nobody knows whether the write was stored. What it took is set right later.
    pub(super) fn leave(mut self) {
        self.took = Items::default();
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        let took = std::mem::take(&mut self.took);
        if took.is_empty() {
            return;
        }
        let (services, owner) = (self.services.clone(), self.owner.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { services.give_back(&owner, took).await });
        }
    }
}

impl Services {
    /// The allocator of these ranges: one of each family of addresses, the preferred one first.
    pub(super) fn new(
        cache: Arc<Cache>,
        resources: &Resources,
        ranges: Vec<Cidr>,
        ports: RangeInclusive<u16>,
    ) -> Self {
        Self(Arc::new(Inner {
            resource: resources.get("", "v1", "services").cloned(),
            addresses: Addresses::new(cache.clone(), resources),
            ports: Ports::new(cache.store().clone(), ports),
            ranges: Ranges::new(ranges, cache.clone(), resources),
            cache,
        }))
    }

    /// The ranges of addresses that the server was started with.
    pub(super) fn ranges(&self) -> &[Cidr] {
        self.0.ranges.configured()
    }

    /// The address of the API server's own Service: the first of the preferred range.
    pub(super) fn kubernetes_address(&self) -> Option<IpAddr> {
        self.ranges().first().map(|range| range.address(1))
    }

    /// Gives back what a deleted Service used.
    pub(super) async fn release(&self, object: &dyn Object) {
        if let Some(service) = object.as_any().downcast_ref::<Service>() {
            self.give_back(&owner(service), Items::of(service)).await;
        }
    }

    /// What cannot be given back now is found to be nobody's later.
    async fn give_back(&self, owner: &Owner, items: Items) {
        if let Some(account) = &self.0.addresses {
            for address in items.addresses {
                if let Err(error) = account.give_back(address, owner).await {
                    tracing::warn!(%address, error = error.message, "an address is not given back");
                }
            }
        }
        if !items.ports.is_empty() {
            self.0.ports.give_back(items.ports).await;
        }
    }

    /// Takes the addresses and ports that a Service needs, and writes them into it. Other kinds
    /// need none.
    ///
    /// # Errors
    /// 422 when one that the client chose is taken or out of range, or when none is left.
    pub(super) async fn allocate(
        &self,
        target: &Target<'_>,
        new: &mut dyn Object,
        old: Option<&dyn Object>,
    ) -> Result<Allocation> {
        let mut allocation = Allocation {
            services: self.clone(),
            owner: Owner::default(),
            took: Items::default(),
            left: Items::default(),
        };
        let Some(service) = new.as_any_mut().downcast_mut::<Service>() else {
            return Ok(allocation);
        };
        let old = old.and_then(|old| old.as_any().downcast_ref::<Service>());
        allocation.owner = Owner {
            namespace: target.namespace.unwrap_or_default().to_owned(),
            name: target.name.to_owned(),
        };
        let Some(spec) = service.spec.as_mut() else { return Ok(allocation) };
        let old_spec = old.and_then(|old| old.spec.as_ref());
        if let Some(old_spec) = old_spec {
            keep_old(spec, old_spec);
        }
        let before = old.map(Items::of).unwrap_or_default();
        let mut errors = ErrorList::new();
        if spec.type_.as_deref() != Some("ExternalName") {
            let served: Vec<_> = self.ranges().iter().map(Cidr::family).collect();
            if let Err(error) = families::decide(spec, old_spec, &served) {
                errors.push(error);
            } else {
                let mut filling = Filling {
                    services: &self.0,
                    ranges: self.0.ranges.ready()?,
                    reserved: self.kubernetes_address(),
                    before: &before,
                    allocation: &mut allocation,
                    errors: &mut errors,
                    dry_run: target.dry_run,
                };
                filling.addresses(spec).await?;
                filling.ports(spec).await?;
            }
        }
        if !errors.is_empty() {
            allocation.undo().await;
            return Err(ApiError::invalid(&Subject::kind(target.resource), target.name, &errors));
        }
        allocation.left = before.without(&Items::of(service));
        Ok(allocation)
    }

    /// Sets right what is not as the Services are: at the start, and then every few minutes. Says
    /// what was wrong.
    pub(super) async fn repair(&self, leaks: &mut Repairs) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        if let Some(account) = &self.0.addresses {
            self.0.cache.fresh().await?;
            let known = self.0.ranges.known()?;
            findings.extend(account.repair(&self.0.all()?, &known).await?);
        }
        let used = async || {
            let fresh = self.0.cache.fresh().await;
            let services = fresh.and_then(|_| self.0.all());
            let services = services
                .map_err(|error| rk_store::StoreError::Unavailable { reason: error.message })?;
            Ok(services.iter().flat_map(|service| Items::of(service).ports).collect())
        };
        let missing = self.0.ports.repair(&mut leaks.0, used).await?;
        findings.extend(findings::of_ports(&self.0.all()?, self.0.ports.range(), &missing));
        Ok(findings)
    }
}

impl Inner {
    /// All Services that the cache has.
    fn all(&self) -> Result<Vec<Service>> {
        let Some(resource) = &self.resource else { return Ok(Vec::new()) };
        let page = self.cache.table(resource)?.list(&Filter::default(), None, 0, 0);
        let decode = |item: &Arc<super::object::CachedObject>| {
            crate::json::from_slice(&item.stored.plain())
                .map_err(|error| ApiError::internal(format!("{}: {error}", item.key)))
        };
        page.items.iter().map(decode).collect()
    }
}

/// Reads one range, or one of each family with a comma between them.
pub(super) fn ranges(text: &str) -> Option<Vec<Cidr>> {
    let ranges: Vec<Cidr> =
        text.split(',').map(|range| Cidr::parse(range.trim())).collect::<Option<_>>()?;
    let distinct = match ranges.as_slice() {
        [_] => true,
        [one, other] => one.family() != other.family(),
        _ => false,
    };
    distinct.then_some(ranges)
}

/// What repairs remember from one time to the next.
#[derive(Debug, Default)]
pub(super) struct Repairs(Leaks);

/// A Service that is being filled in.
struct Filling<'a> {
    services: &'a Inner,
    /// Where addresses are taken from.
    ranges: Vec<Cidr>,
    /// The API server's own address, which only its Service gets.
    reserved: Option<IpAddr>,
    before: &'a Items,
    allocation: &'a mut Allocation,
    errors: &'a mut ErrorList,
    dry_run: bool,
}

impl Filling<'_> {
    async fn addresses(&mut self, spec: &mut ServiceSpec) -> Result<()> {
        if spec.cluster_ip.as_deref() == Some("None") {
            spec.cluster_ips = Some(vec!["None".to_owned()]);
            return Ok(());
        }
        let chosen = families::chosen(spec);
        let families = spec.ip_families.clone().unwrap_or_default();
        let mut addresses = Vec::new();
        for (index, family) in families.iter().enumerate() {
            match chosen.get(index) {
                // What is no address is refused by validation.
                Some(address) => {
                    if let Ok(parsed) = address.parse() {
                        self.this_address(parsed, &chosen).await?;
                    }
                    addresses.push(address.clone());
                }
                None => match self.any_address(family).await? {
                    Some(address) => addresses.push(address.to_string()),
                    None => {
                        let why = "failed to allocate a serviceIP: range is full";
                        let path = Path::new("spec.clusterIP");
                        self.errors.push(FieldError::invalid(&path, "", why));
                        return Ok(());
                    }
                },
            }
        }
        addresses.extend(chosen.into_iter().skip(families.len()));
        spec.cluster_ip = addresses.first().cloned();
        spec.cluster_ips = Some(addresses);
        Ok(())
    }

    async fn this_address(&mut self, address: IpAddr, chosen: &[String]) -> Result<()> {
        if self.before.addresses.contains(&address) {
            return Ok(());
        }
        let why = if !self.ranges.iter().any(|range| range.contains(address)) {
            let valid = self.ranges_of(cidr::Family::of(address));
            format!(
                "the provided IP ({address}) is not in the valid range. The range of valid IPs is {valid}"
            )
        } else if self.take(address).await? {
            return Ok(());
        } else {
            "provided IP is already allocated".to_owned()
        };
        let why = format!("failed to allocate IP {address}: {why}");
        self.errors.push(FieldError::invalid(&Path::new("spec.clusterIPs"), json!(chosen), why));
        Ok(())
    }

    /// The ranges of a family, or the preferred one when it has none.
    fn ranges_of(&self, family: cidr::Family) -> String {
        let of_family = self.ranges.iter().filter(|range| range.family() == family);
        let mut names: Vec<_> = of_family.map(ToString::to_string).collect();
        if names.is_empty() {
            names.extend(self.ranges.first().map(ToString::to_string));
        }
        names.join(", ")
    }

    async fn any_address(&mut self, family: &str) -> Result<Option<IpAddr>> {
        let ranges: Vec<_> =
            self.ranges.iter().filter(|range| range.family().as_str() == family).copied().collect();
        for range in ranges {
            if let Some(address) = self.any_address_of(&range).await? {
                return Ok(Some(address));
            }
        }
        Ok(None)
    }

    async fn any_address_of(&mut self, range: &Cidr) -> Result<Option<IpAddr>> {
        let Some(account) = &self.services.addresses else {
            // Nobody keeps account: any that no Service has.
            let taken: Vec<_> = self.services.all()?.iter().flat_map(addresses).collect();
            let random = || range.address(rng::below(range.usable() - 1) + 2);
            return Ok((0..TRIES).map(|_| random()).find(|address| !taken.contains(address)));
        };
        for _ in 0..TRIES {
            let Some(free) = account.free(range, self.reserved)? else { return Ok(None) };
            if self.take(free).await? {
                return Ok(Some(free));
            }
            // Somebody was faster; the cache learns of it, and the next address is another one.
            self.services.cache.fresh().await?;
        }
        Ok(None)
    }

    async fn take(&mut self, address: IpAddr) -> Result<bool> {
        let Some(account) = &self.services.addresses else { return Ok(true) };
        if self.dry_run {
            return Ok(!account.is_taken(address)?);
        }
        let taken = account.take(address, &self.allocation.owner).await?;
        if taken {
            self.allocation.took.addresses.push(address);
        }
        Ok(taken)
    }

    async fn ports(&mut self, spec: &mut ServiceSpec) -> Result<()> {
        let kind = spec.type_.clone().unwrap_or_default();
        let balanced = kind == "LoadBalancer";
        if kind != "NodePort" && !balanced {
            return Ok(());
        }
        let gives = !balanced || spec.allocate_load_balancer_node_ports != Some(false);
        let mut plan = self.plan(spec, gives);
        let local = spec.external_traffic_policy.as_deref() == Some("Local");
        if balanced && local && spec.health_check_node_port.unwrap_or(0) == 0 {
            plan.health_check = true;
        }
        if !self.errors.is_empty() {
            return Ok(());
        }
        let ask = Ask {
            any: plan.any.len() + usize::from(plan.health_check),
            these: plan.these.iter().map(|(port, _)| *port).collect(),
            dry_run: self.dry_run,
        };
        if ask.any == 0 && ask.these.is_empty() {
            plan.fill(spec, &[]);
            return Ok(());
        }
        let given = match self.services.ports.take(ask.clone()).await {
            Ok(given) => given,
            Err(Refused::Store(error)) => return Err(error.into()),
            Err(refused) => {
                self.refuse(&plan, &refused);
                return Ok(());
            }
        };
        if !self.dry_run {
            self.allocation.took.ports.extend(given.iter().chain(&ask.these));
        }
        plan.fill(spec, &given);
        Ok(())
    }

    /// Which ports a Service needs.
    fn plan(&mut self, spec: &ServiceSpec, gives: bool) -> PortPlan {
        let mut plan = PortPlan::default();
        // One Service may use a port for several protocols.
        let mut own: Vec<(i32, &str, Use)> = Vec::new();
        let range = self.services.ports.range();
        for (index, port) in spec.ports.iter().flatten().enumerate() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let wanted = port.node_port.unwrap_or(0);
            if wanted == 0 {
                let shared =
                    own.iter().find(|(number, used, _)| *number == port.port && *used != protocol);
                let shared = shared.map(|(.., used)| *used);
                match shared {
                    _ if !gives => {}
                    Some(Use::Number(number)) => plan.same.push((index, number)),
                    Some(Use::Any(place)) => plan.any[place].push(index),
                    None => {
                        own.push((port.port, protocol, Use::Any(plan.any.len())));
                        plan.any.push(vec![index]);
                    }
                }
                continue;
            }
            // Numbers that are no port are refused by validation.
            let Ok(number) = u16::try_from(wanted) else { continue };
            let mine = self.before.ports.contains(&number)
                || own.iter().any(|(.., used)| *used == Use::Number(number));
            own.push((port.port, protocol, Use::Number(number)));
            if mine {
                continue;
            }
            if range.contains(&number) {
                plan.these.push((number, index));
            } else {
                let (first, last) = (range.start(), range.end());
                let why = format!(
                    "provided port is not in the valid range. The range of valid ports is {first}-{last}"
                );
                self.errors.push(FieldError::invalid(&node_port(index), wanted, why));
            }
        }
        plan
    }

    fn refuse(&mut self, plan: &PortPlan, refused: &Refused) {
        match refused {
            Refused::Taken(taken) => {
                for (number, index) in plan.these.iter().filter(|(port, _)| taken.contains(port)) {
                    let why = "provided port is already allocated";
                    self.errors.push(FieldError::invalid(&node_port(*index), *number, why));
                }
            }
            _ => {
                let why = "failed to allocate a nodePort: range is full";
                let first = plan.any.first().and_then(|indexes| indexes.first());
                let path = first.map_or(Path::new("spec.healthCheckNodePort"), |i| node_port(*i));
                self.errors.push(FieldError::invalid(&path, 0, why));
            }
        }
    }
}

fn node_port(index: usize) -> Path<'static> {
    Path::new("spec.ports").index(index).child("nodePort")
}

/// The node port of one of a Service's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// This one.
    Number(u16),
    /// The one that comes at this place of those that are given.
    Any(usize),
}

/// Which node ports a Service needs, by the index of the port in its spec.
#[derive(Debug, Default)]
struct PortPlan {
    /// Any port, each for all of these.
    any: Vec<Vec<usize>>,
    /// The same as another port of the Service has.
    same: Vec<(usize, u16)>,
    /// What the client chose and the Service does not have yet.
    these: Vec<(u16, usize)>,
    /// One more, to ask nodes for their health.
    health_check: bool,
}

impl PortPlan {
    fn fill(&self, spec: &mut ServiceSpec, given: &[u16]) {
        let places = self
            .any
            .iter()
            .zip(given)
            .flat_map(|(indexes, given)| indexes.iter().map(|index| (*index, *given)));
        let ports = spec.ports.get_or_insert_default();
        for (index, number) in places.chain(self.same.iter().copied()) {
            if let Some(port) = ports.get_mut(index) {
                port.node_port = Some(i32::from(number));
            }
        }
        if self.health_check
            && let Some(number) = given.get(self.any.len())
        {
            spec.health_check_node_port = Some(i32::from(*number));
        }
    }
}

/// The node ports that a Service uses.
fn ports(spec: &ServiceSpec) -> impl Iterator<Item = u16> {
    let ports = spec.ports.iter().flatten().filter_map(|port| port.node_port);
    let ports = ports.chain(spec.health_check_node_port);
    ports.filter_map(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
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
