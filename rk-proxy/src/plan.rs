//! From Services and EndpointSlices to [`Rules`], without I/O.
//!
//! The semantics are kube-proxy's: `pkg/proxy/serviceport.go`, `endpointslicecache.go` and
//! `topology.go` of Kubernetes 1.37; KEP-1669 (terminating endpoints), KEP-2433 (topology hints),
//! KEP-3015 (traffic distribution), KEP-1860 (`ipMode`).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use k8s_openapi::api::{
    core::v1::{Service, ServicePort as ApiPort, ServiceSpec},
    discovery::v1::EndpointSlice,
};

use crate::{Cidr, Family, PortKey, Protocol, Rules, ServicePort, TrafficPolicy};

mod endpoints;
#[cfg(test)]
mod tests;

/// On EndpointSlices: the Service they belong to.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// On Services that another proxy takes care of.
pub const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// On objects of headless Services.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// API default of `sessionAffinityConfig.clientIP.timeoutSeconds`: three hours.
const AFFINITY_DEFAULT: Duration = Duration::from_secs(10_800);

/// The node that rules are made for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Its name, as in `nodeName` of endpoints.
    pub name: String,
    /// Its own addresses: node ports are served there. None: at every address but loopback.
    pub addresses: Vec<IpAddr>,
    /// The value of its label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
}

impl NodeView {
    /// A node without known addresses and zone.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

/// The rules for all of these objects. Their order does not matter.
pub fn plan<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    node: &NodeView,
) -> Rules {
    let mut by_service = BTreeMap::<(&str, &str), Vec<&EndpointSlice>>::new();
    for slice in slices {
        if let Some(key) = service_of(slice) {
            by_service.entry(key).or_default().push(slice);
        }
    }
    let mut rules = Rules::at(node.addresses.clone());
    for service in services {
        let (namespace, name) = key_of(service);
        let slices = by_service.get(&(namespace, name)).map_or(&[][..], Vec::as_slice);
        rules.set_service(namespace, name, plan_service(service, slices, node));
    }
    rules
}

/// The ports of one Service, given the slices that belong to it. None if it has no proxy rules:
/// headless, ExternalName, without an address yet, or the business of another proxy.
pub fn plan_service(
    service: &Service,
    slices: &[&EndpointSlice],
    node: &NodeView,
) -> Vec<ServicePort> {
    let Some(spec) = service.spec.as_ref().filter(|_| is_proxied(service)) else {
        return Vec::new();
    };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let mut planned = BTreeMap::new();
    for cluster_ip in cluster_ips(spec) {
        for port in ports {
            // Of two ports with the same key the first one counts.
            if let Some(port) = plan_port(service, spec, port, cluster_ip, slices, node) {
                planned.entry(port.key.clone()).or_insert(port);
            }
        }
    }
    planned.into_values().collect()
}

/// Namespace and name of the Service that a slice belongs to. None if it is of no interest to a
/// proxy.
pub fn service_of(slice: &EndpointSlice) -> Option<(&str, &str)> {
    let labels = slice.metadata.labels.as_ref()?;
    if labels.contains_key(HEADLESS_LABEL) {
        return None;
    }
    let name = labels.get(SERVICE_NAME_LABEL).filter(|name| !name.is_empty())?;
    Some((slice.metadata.namespace.as_deref().unwrap_or_default(), name))
}

/// Namespace and name.
pub(crate) fn key_of(service: &Service) -> (&str, &str) {
    let metadata = &service.metadata;
    (
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
    )
}

fn is_proxied(service: &Service) -> bool {
    let labels = service.metadata.labels.as_ref();
    let elsewhere = labels.is_some_and(|labels| labels.contains_key(PROXY_NAME_LABEL));
    let external_name = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
    !elsewhere && external_name != Some("ExternalName")
}

/// At most one address of each family; `None` and what is no address is left out.
fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    let listed = spec.cluster_ips.as_deref().unwrap_or_default().iter();
    let mut families = BTreeSet::new();
    listed
        .chain(&spec.cluster_ip)
        .filter_map(|text| text.parse::<IpAddr>().ok())
        .filter(|address| families.insert(Family::of(*address)))
        .collect()
}

fn plan_port(
    service: &Service,
    spec: &ServiceSpec,
    port: &ApiPort,
    cluster_ip: IpAddr,
    slices: &[&EndpointSlice],
    node: &NodeView,
) -> Option<ServicePort> {
    let (namespace, name) = key_of(service);
    let family = Family::of(cluster_ip);
    let load_balancer_ips = load_balancer_ips(service, family);
    let mut planned = ServicePort {
        key: PortKey {
            namespace: namespace.to_owned(),
            service: name.to_owned(),
            port: port.name.clone().unwrap_or_default(),
            protocol: Protocol::from_api(port.protocol.as_deref())?,
            family,
        },
        cluster_ip,
        port: u16::try_from(port.port).ok()?,
        node_port: port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|&p| p != 0),
        external_ips: of_family(spec.external_ips.iter().flatten(), family),
        source_ranges: source_ranges(spec, family, &load_balancer_ips, node),
        load_balancer_ips,
        affinity: affinity(spec),
        internal_policy: policy(spec.internal_traffic_policy.as_deref()),
        external_policy: policy(spec.external_traffic_policy.as_deref()),
        endpoints: Default::default(),
    };
    if !planned.externally_accessible() {
        // The policy says nothing without external traffic; one value for it spares changes.
        planned.external_policy = TrafficPolicy::Cluster;
    }
    let all = endpoints::collect(&planned.key, slices, node);
    planned.endpoints = endpoints::choose(&planned, &all);
    Some(planned)
}

fn policy(word: Option<&str>) -> TrafficPolicy {
    if word == Some("Local") { TrafficPolicy::Local } else { TrafficPolicy::Cluster }
}

fn affinity(spec: &ServiceSpec) -> Option<Duration> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    let seconds = config.and_then(|config| config.timeout_seconds);
    let timeout = seconds.and_then(|s| u64::try_from(s).ok()).filter(|&s| s > 0);
    Some(timeout.map_or(AFFINITY_DEFAULT, Duration::from_secs))
}

fn of_family<'a>(texts: impl Iterator<Item = &'a String>, family: Family) -> Vec<IpAddr> {
    let addresses: BTreeSet<_> = texts
        .filter_map(|text| text.parse::<IpAddr>().ok())
        .filter(|address| Family::of(*address) == family)
        .collect();
    addresses.into_iter().collect()
}

/// Load balancers that proxy connections themselves (`ipMode: Proxy`) must be gone through, so
/// their addresses get no rules.
fn load_balancer_ips(service: &Service, family: Family) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    let virtual_ips = ingress.iter().filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    of_family(virtual_ips.filter_map(|ingress| ingress.ip.as_ref()), family)
}

/// A node that may use the load balancer reaches the balancer's address with that very address as
/// the source where it is a local one, so the address itself is allowed then too.
fn source_ranges(
    spec: &ServiceSpec,
    family: Family,
    load_balancer_ips: &[IpAddr],
    node: &NodeView,
) -> Vec<Cidr> {
    let texts = spec.load_balancer_source_ranges.iter().flatten();
    let mut ranges: BTreeSet<Cidr> = texts
        .filter_map(|text| text.trim().parse::<Cidr>().ok())
        .filter(|range| range.family() == family)
        .collect();
    let node_allowed = ranges.iter().any(|r| node.addresses.iter().any(|a| r.contains(*a)));
    if node_allowed {
        ranges.extend(load_balancer_ips.iter().map(|address| Cidr::host(*address)));
    }
    ranges.into_iter().collect()
}
