//! Which Pods a Service reaches, at which addresses and ports. Pure; Endpoints use it too.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{
    api::{
        core::v1::{ObjectReference, Pod, Service, ServicePort, ServiceSpec},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::ResourceExt;

use crate::pods;

/// Label of the node that names its zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// Endpoints that share address family and ports, and so may share a slice.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Group {
    /// `IPv4` or `IPv6`.
    pub address_type: String,
    pub ports: Vec<EndpointPort>,
    pub endpoints: Vec<Endpoint>,
}

/// The selector of a Service whose endpoints are ours to keep. A Service without one gets its
/// endpoints from somebody else, an ExternalName has none.
pub(crate) fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref().filter(|selector| !selector.is_empty())
}

/// Whether a selector picks these labels.
pub(crate) fn selects(
    selector: &BTreeMap<String, String>,
    labels: &BTreeMap<String, String>,
) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Whether the Service has no address of its own.
pub(crate) fn is_headless(service: &Service) -> bool {
    let cluster_ip = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
    cluster_ip == Some("None")
}

/// Whether Pods are published that are not ready.
pub(crate) fn publishes_unready(service: &Service) -> bool {
    let annotation =
        service.annotations().get("service.alpha.kubernetes.io/tolerate-unready-endpoints");
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false)
        || annotation.is_some_and(|value| value == "true")
}

/// The address families of a Service, `IPv4` if it does not say.
pub(crate) fn address_types(service: &Service) -> Vec<String> {
    let spec = service.spec.as_ref();
    let families =
        spec.and_then(|spec| spec.ip_families.clone()).filter(|families| !families.is_empty());
    families.unwrap_or_else(|| {
        let cluster_ip = spec.and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
        vec![if cluster_ip.contains(':') { "IPv6".into() } else { "IPv4".into() }]
    })
}

/// The addresses of a Pod in one family.
pub(crate) fn addresses(pod: &Pod, address_type: &str) -> Vec<String> {
    let Some(status) = &pod.status else { return Vec::new() };
    let mut all: Vec<&str> = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    if all.is_empty() {
        all.extend(status.pod_ip.as_deref());
    }
    let in_family = |text: &&str| match text.parse() {
        Ok(IpAddr::V4(_)) => address_type == "IPv4",
        Ok(IpAddr::V6(_)) => address_type == "IPv6",
        Err(_) => false,
    };
    all.into_iter().filter(in_family).map(str::to_owned).collect()
}

/// The ports of a Service on one Pod. A port that the Pod has no container port for by that name
/// is left out.
pub(crate) fn ports(spec: &ServiceSpec, pod: &Pod) -> Vec<EndpointPort> {
    let port = |port: &ServicePort| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(target_port(port, pod)?),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
            app_protocol: port.app_protocol.clone(),
        })
    };
    spec.ports.iter().flatten().filter_map(port).collect()
}

fn target_port(service_port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &service_port.target_port {
        None => Some(service_port.port),
        Some(IntOrString::Int(0)) => Some(service_port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let protocol = service_port.protocol.as_deref().unwrap_or("TCP");
            let spec = pod.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars =
                sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
            let containers = spec.containers.iter().chain(sidecars);
            let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
            let found = ports.find(|port| {
                port.name.as_deref() == Some(name)
                    && port.protocol.as_deref().unwrap_or("TCP") == protocol
            });
            found.map(|port| port.container_port)
        }
    }
}

/// The host name under which DNS knows the Pod: set, and its subdomain is this Service.
pub(crate) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let belongs = spec.subdomain.as_deref() == Some(&service.name_any())
        && pod.namespace() == service.namespace();
    spec.hostname.clone().filter(|hostname| belongs && !hostname.is_empty())
}

/// A reference to the Pod for an endpoint.
pub(crate) fn target_ref(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: pod.namespace(),
        name: Some(pod.name_any()),
        uid: pod.uid(),
        ..Default::default()
    }
}

/// The endpoints of a Service on the Pods that it selects, grouped by family and ports. A family
/// without endpoints has an empty group, which shows that somebody looked.
///
/// `zone` knows the zone of a node.
pub(crate) fn groups<'a>(
    service: &Service,
    selected: impl IntoIterator<Item = &'a Pod> + Clone,
    zone: impl Fn(&str) -> Option<String>,
) -> Vec<Group> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let mut groups: Vec<Group> = Vec::new();
    for address_type in address_types(service) {
        for pod in selected.clone() {
            let addresses = addresses(pod, &address_type);
            if addresses.is_empty() || pods::is_terminal(pod) {
                continue;
            }
            let ports = ports(spec, pod);
            // None of the ports: a headless Service without ports means the Pod all the same.
            if ports.is_empty() && spec.ports.iter().flatten().next().is_some() {
                continue;
            }
            let endpoint = endpoint(service, pod, addresses, &zone);
            match groups
                .iter_mut()
                .find(|group| group.address_type == address_type && group.ports == ports)
            {
                Some(group) => group.endpoints.push(endpoint),
                None => groups.push(Group {
                    address_type: address_type.clone(),
                    ports,
                    endpoints: vec![endpoint],
                }),
            }
        }
        if !groups.iter().any(|group| group.address_type == address_type) {
            groups.push(Group { address_type, ports: Vec::new(), endpoints: Vec::new() });
        }
    }
    groups
}

fn endpoint(
    service: &Service,
    pod: &Pod,
    addresses: Vec<String>,
    zone: &impl Fn(&str) -> Option<String>,
) -> Endpoint {
    let serving = pods::is_ready(pod);
    let terminating = pods::is_deleting(pod);
    let node = pods::node_name(pod);
    Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(publishes_unready(service) || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(service, pod),
        node_name: node.map(str::to_owned),
        target_ref: Some(target_ref(pod)),
        zone: node.and_then(zone),
        deprecated_topology: None,
        hints: None,
    }
}

/// The zone that a node's labels name.
pub(crate) fn zone_of(node: &k8s_openapi::api::core::v1::Node) -> Option<String> {
    node.labels().get(ZONE).cloned()
}
