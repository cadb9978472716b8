//! The Endpoints of a Service. Pure.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::ResourceExt;

use crate::{
    endpointslice::{plan::HEADLESS, targets},
    pods,
};

/// At most so many addresses in one Endpoints object.
const ADDRESSES_MAX: usize = 1000;
/// Says that there are more addresses than shown: `truncated`.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Names who keeps an Endpoints object.
pub(super) const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
/// Its value here.
pub(super) const MANAGER: &str = "endpoint-controller";

/// What the Endpoints object of `service` should be, given what it is and the selected Pods.
pub(super) fn plan(service: &Service, selected: &[&Pod], current: Option<&Endpoints>) -> Endpoints {
    let (subsets, truncated) = subsets(service, selected);
    let mut wanted = current.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: Some(service.name_any()),
            namespace: service.namespace(),
            ..Default::default()
        },
        subsets: None,
    });
    if wanted.subsets.as_deref().unwrap_or_default() != subsets {
        wanted.subsets = (!subsets.is_empty()).then_some(subsets);
    }
    let mut labels = service.labels().clone();
    labels.remove(HEADLESS);
    if targets::is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    wanted.metadata.labels = Some(labels);
    if truncated {
        wanted
            .metadata
            .annotations
            .get_or_insert_default()
            .insert(OVER_CAPACITY.into(), "truncated".into());
    } else if let Some(annotations) = &mut wanted.metadata.annotations {
        annotations.remove(OVER_CAPACITY);
    }
    wanted
}

/// Addresses by IP, each with whether it is ready.
type Addresses = BTreeMap<String, (EndpointAddress, bool)>;

/// One subset for each set of ports that Pods offer; whether addresses had to be left out.
fn subsets(service: &Service, selected: &[&Pod]) -> (Vec<EndpointSubset>, bool) {
    let Some(spec) = &service.spec else { return (Vec::new(), false) };
    let publishes_unready = targets::publishes_unready(service);
    // Endpoints know one family, the Service's first.
    let family =
        targets::address_types(service).into_iter().next().unwrap_or_else(|| "IPv4".into());

    let mut by_ports: Vec<(Vec<EndpointPort>, Addresses)> = Vec::new();
    for pod in selected.iter().filter(|pod| !pods::is_terminal(pod)) {
        if pods::is_deleting(pod) && !publishes_unready {
            continue;
        }
        let Some(ip) = targets::addresses(pod, &family).into_iter().next() else { continue };
        let ports = endpoint_ports(targets::ports(spec, pod));
        if ports.is_empty() && spec.ports.iter().flatten().next().is_some() {
            continue;
        }
        let address = EndpointAddress {
            ip: ip.clone(),
            hostname: targets::hostname(service, pod),
            node_name: pods::node_name(pod).map(str::to_owned),
            target_ref: Some(targets::target_ref(pod)),
        };
        let ready = publishes_unready || pods::is_ready(pod);
        let position = by_ports.iter().position(|(others, _)| *others == ports);
        let position = position.unwrap_or_else(|| {
            by_ports.push((ports, BTreeMap::new()));
            by_ports.len() - 1
        });
        by_ports[position].1.insert(ip, (address, ready));
    }

    let total: usize = by_ports.iter().map(|(_, addresses)| addresses.len()).sum();
    let mut room = ADDRESSES_MAX;
    let mut subsets = Vec::new();
    for (ports, addresses) in by_ports {
        let (ready, unready): (Vec<_>, Vec<_>) =
            addresses.into_values().partition(|(_, ready)| *ready);
        // Ready addresses first: where not all can be shown, those that serve are worth more.
        let mut take = |addresses: Vec<(EndpointAddress, bool)>| {
            let taken: Vec<_> =
                addresses.into_iter().map(|(address, _)| address).take(room).collect();
            room -= taken.len();
            (!taken.is_empty()).then_some(taken)
        };
        let (addresses, not_ready_addresses) = (take(ready), take(unready));
        if addresses.is_some() || not_ready_addresses.is_some() {
            let ports = (!ports.is_empty()).then_some(ports);
            subsets.push(EndpointSubset { addresses, not_ready_addresses, ports });
        }
    }
    (subsets, total > ADDRESSES_MAX)
}

fn endpoint_ports(ports: Vec<k8s_openapi::api::discovery::v1::EndpointPort>) -> Vec<EndpointPort> {
    let convert = |port: k8s_openapi::api::discovery::v1::EndpointPort| EndpointPort {
        name: port.name.filter(|name| !name.is_empty()),
        port: port.port.unwrap_or_default(),
        protocol: port.protocol,
        app_protocol: port.app_protocol,
    };
    ports.into_iter().map(convert).collect()
}
