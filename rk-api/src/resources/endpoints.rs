//! Endpoints.

use std::net::SocketAddr;

use k8s_openapi::{
    api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints},
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Kind, Resource,
    check::{Errors, default_text, list, text},
    row::Row,
};
use crate::{
    field::{ErrorList, Path},
    meta::{
        addresses::ip_warnings,
        names,
        table::{NONE, age, name},
    },
};

/// The row of Endpoints.
pub(super) fn row() -> Resource {
    Row::of::<EndpointsKind>()
        .short(&["ep"])
        .stored_in("services/endpoints")
        .columns(COLUMNS)
        .done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Endpoints", "string", "Addresses that are ready, with their ports."),
    Column::AGE,
];

/// How an Endpoints behaves.
#[derive(Debug, Default)]
pub(super) struct EndpointsKind;

impl Kind for EndpointsKind {
    type Object = Endpoints;

    const DEPRECATION: Option<&'static str> =
        Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice");

    fn default(endpoints: &mut Endpoints) {
        for subset in endpoints.subsets.iter_mut().flatten() {
            for port in subset.ports.iter_mut().flatten() {
                default_text(&mut port.protocol, "TCP");
            }
        }
    }

    fn validate(endpoints: &Endpoints) -> ErrorList {
        let mut errors = Errors::default();
        for (i, subset) in list(&endpoints.subsets).iter().enumerate() {
            self::subset(&mut errors, subset, &Path::new("subsets").index(i));
        }
        errors.0
    }

    fn warnings(endpoints: &Endpoints, _: Option<&Endpoints>) -> Vec<String> {
        let labels = endpoints.metadata.labels.as_ref();
        let manager = labels.and_then(|labels| labels.get("endpoints.kubernetes.io/managed-by"));
        if manager.is_some_and(|manager| manager == "endpoint-controller") {
            // It has them from elsewhere, where they were warned of.
            return Vec::new();
        }
        let mut all = Vec::new();
        for (i, subset) in list(&endpoints.subsets).iter().enumerate() {
            let fields = [
                ("addresses", list(&subset.addresses)),
                ("notReadyAddresses", list(&subset.not_ready_addresses)),
            ];
            for (field, addresses) in fields {
                for (j, address) in addresses.iter().enumerate() {
                    let at = Path::new("subsets").index(i).child(field).index(j).child("ip");
                    all.extend(ip_warnings(&at, &address.ip));
                }
            }
        }
        all
    }

    fn cells(endpoints: &Endpoints, now: Timestamp) -> Vec<Value> {
        vec![
            json!(name(&endpoints.metadata)),
            json!(addresses(list(&endpoints.subsets))),
            json!(age(&endpoints.metadata, now)),
        ]
    }

    const CREATE_ON_UPDATE: bool = true;
}

fn subset(errors: &mut Errors, subset: &EndpointSubset, path: &Path) {
    let (ready, not_ready) = (list(&subset.addresses), list(&subset.not_ready_addresses));
    if ready.is_empty() && not_ready.is_empty() {
        errors.required(path, "must specify `addresses` or `notReadyAddresses`");
    }
    for (field, addresses) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
        for (i, address) in addresses.iter().enumerate() {
            self::address(errors, address, &path.child(field).index(i));
        }
    }
    let ports = list(&subset.ports);
    for (i, port) in ports.iter().enumerate() {
        self::port(errors, port, ports.len() > 1, &path.child("ports").index(i));
    }
}

fn address(errors: &mut Errors, address: &EndpointAddress, path: &Path) {
    let at = path.child("ip");
    errors.form(&at, address.ip.as_str(), names::ip(&address.ip));
    match names::parse_ip(&address.ip) {
        Some(ip) => errors.form(&at, address.ip.as_str(), names::endpoint_ip(ip)),
        None => errors.invalid(&at, address.ip.as_str(), "must be a valid IP address"),
    }
    if let Some(name) = address.hostname.as_deref().filter(|name| !name.is_empty()) {
        errors.form(&path.child("hostname"), name, names::dns_label(name, false));
    }
    if let Some(node) = &address.node_name {
        errors.form(&path.child("nodeName"), node.as_str(), names::dns_subdomain(node, false));
    }
}

fn port(errors: &mut Errors, port: &EndpointPort, needs_name: bool, path: &Path) {
    let name = text(&port.name);
    if !name.is_empty() {
        errors.form(&path.child("name"), name, names::dns_label(name, false));
    } else if needs_name {
        errors.required(&path.child("name"), "");
    }
    errors.form(&path.child("port"), port.port, names::port_number(port.port));
    let protocols = ["SCTP", "TCP", "UDP"];
    errors.required_one_of(&path.child("protocol"), text(&port.protocol), &protocols);
    if let Some(protocol) = &port.app_protocol {
        errors.label_key(&path.child("appProtocol"), protocol);
    }
}

/// Three at most, and how many more there are.
fn addresses(subsets: &[EndpointSubset]) -> String {
    if subsets.is_empty() {
        return NONE.to_owned();
    }
    let mut all = Vec::new();
    for subset in subsets {
        let ips = list(&subset.addresses).iter().map(|address| address.ip.as_str());
        match list(&subset.ports) {
            // A headless Service may have none.
            [] => all.extend(ips.map(str::to_owned)),
            ports => {
                for port in ports {
                    all.extend(ips.clone().map(|ip| join(ip, port.port)));
                }
            }
        }
    }
    first_three(&all)
}

/// The first three, and how many more there are.
pub(super) fn first_three(all: &[String]) -> String {
    match all {
        [a, b, c, more @ ..] if !more.is_empty() => format!("{a},{b},{c} + {} more...", more.len()),
        all => all.join(","),
    }
}

fn join(ip: &str, port: i32) -> String {
    match (ip.parse(), u16::try_from(port)) {
        (Ok(ip), Ok(port)) => SocketAddr::new(ip, port).to_string(),
        _ => format!("{ip}:{port}"),
    }
}
