//! EndpointSlice.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::discovery::v1::{Endpoint, EndpointSlice},
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Kind, Part, Resource,
    check::{Errors, list, text},
    endpoints::first_three,
    row::Row,
    workload,
};
use crate::{
    field::{ErrorList, FieldError, Path},
    meta::{
        addresses, names,
        table::{age, name},
    },
};

/// The row of EndpointSlice.
pub(super) fn row() -> Resource {
    Row::of::<EndpointSlices>().columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("AddressType", "string", "What the addresses are."),
    Column::new("Ports", "string", "The ports of each endpoint."),
    Column::new("Endpoints", "string", "The addresses."),
    Column::AGE,
];

const UNSET: &str = "<unset>";
const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20000;

/// How an EndpointSlice behaves.
#[derive(Debug, Default)]
pub(super) struct EndpointSlices;

impl Kind for EndpointSlices {
    type Object = EndpointSlice;

    fn default(slice: &mut EndpointSlice) {
        for port in slice.ports.iter_mut().flatten() {
            port.name.get_or_insert_default();
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
        }
    }

    fn prepare_create(slice: &mut EndpointSlice) {
        workload::first_generation(&mut slice.metadata);
    }

    fn prepare_update(new: &mut EndpointSlice, old: &EndpointSlice, _: Part) {
        let changed = new.endpoints != old.endpoints
            || new.ports != old.ports
            || new.address_type != old.address_type
            || new.metadata.labels != old.metadata.labels;
        workload::next_generation(&mut new.metadata, &old.metadata, changed);
    }

    fn validate(slice: &EndpointSlice) -> ErrorList {
        let mut errors = Errors::default();
        let types = ["FQDN", "IPv4", "IPv6"];
        errors.required_one_of(&Path::new("addressType"), &slice.address_type, &types);
        let endpoints = list(&slice.endpoints);
        if endpoints.len() > ENDPOINTS_MAX {
            let at = Path::new("endpoints");
            errors.push(FieldError::too_many(&at, endpoints.len(), ENDPOINTS_MAX));
            return errors.0;
        }
        for (i, endpoint) in endpoints.iter().enumerate() {
            let at = Path::new("endpoints").index(i);
            self::endpoint(&mut errors, endpoint, &slice.address_type, &at);
        }
        ports(&mut errors, slice, &Path::new("ports"));
        errors.0
    }

    fn validate_update(new: &EndpointSlice, old: &EndpointSlice, _: Part) -> ErrorList {
        let mut errors = Errors::default();
        errors.immutable(&Path::new("addressType"), &new.address_type, &old.address_type);
        errors.0
    }

    fn warnings(slice: &EndpointSlice, _: Option<&EndpointSlice>) -> Vec<String> {
        const CONTROLLERS: &[&str] =
            &["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];
        let labels = slice.metadata.labels.as_ref();
        let manager =
            labels.and_then(|labels| labels.get("endpointslice.kubernetes.io/managed-by"));
        // They have addresses from elsewhere, where they were warned of.
        let is_copied = manager.is_some_and(|manager| CONTROLLERS.contains(&manager.as_str()));
        if is_copied || !["IPv4", "IPv6"].contains(&slice.address_type.as_str()) {
            return Vec::new();
        }
        let mut all = Vec::new();
        for (i, endpoint) in list(&slice.endpoints).iter().enumerate() {
            for (j, address) in endpoint.addresses.iter().enumerate() {
                let at = Path::new("endpoints").index(i).child("addresses").index(j);
                all.extend(addresses::ip_warnings(&at, address));
            }
        }
        all
    }

    fn cells(slice: &EndpointSlice, now: Timestamp) -> Vec<Value> {
        let ports: Vec<String> = list(&slice.ports)
            .iter()
            .map(|port| port.port.map_or_else(|| "*".to_owned(), |port| port.to_string()))
            .collect();
        let addresses: Vec<String> =
            list(&slice.endpoints).iter().flat_map(|endpoint| endpoint.addresses.clone()).collect();
        let or_unset = |all: &[String]| match all {
            [] => UNSET.to_owned(),
            all => first_three(all),
        };
        vec![
            json!(name(&slice.metadata)),
            json!(slice.address_type),
            json!(or_unset(&ports)),
            json!(or_unset(&addresses)),
            json!(age(&slice.metadata, now)),
        ]
    }
}

fn endpoint(errors: &mut Errors, endpoint: &Endpoint, type_: &str, path: &Path) {
    let at = path.child("addresses");
    match endpoint.addresses.len() {
        0 => errors.required(&at, "must contain at least 1 address"),
        count if count > ADDRESSES_MAX => {
            errors.push(FieldError::too_many(&at, count, ADDRESSES_MAX));
        }
        _ => {}
    }
    for (i, address) in endpoint.addresses.iter().enumerate() {
        let at = at.index(i);
        if type_ == "FQDN" {
            errors.form(&at, address.as_str(), names::dns_subdomain(address, false));
            continue;
        }
        match names::parse_ip(address) {
            Some(ip) if ip.is_ipv4() == (type_ == "IPv4") => {
                errors.form(&at, address.as_str(), names::endpoint_ip(ip));
            }
            _ => errors.invalid(&at, address.as_str(), format!("must be a valid {type_} address")),
        }
    }
    if let Some(node) = &endpoint.node_name {
        errors.form(&path.child("nodeName"), node.as_str(), names::dns_subdomain(node, false));
    }
    if let Some(hostname) = &endpoint.hostname {
        let wrong = names::dns_label(hostname, false);
        errors.form(&path.child("hostname"), hostname.as_str(), wrong);
    }
    for key in endpoint.deprecated_topology.iter().flat_map(|topology| topology.keys()) {
        errors.label_key(&path.child("deprecatedTopology"), key);
    }
}

fn ports(errors: &mut Errors, slice: &EndpointSlice, path: &Path) {
    let ports = list(&slice.ports);
    if ports.len() > PORTS_MAX {
        return errors.push(FieldError::too_many(path, ports.len(), PORTS_MAX));
    }
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        let name = text(&port.name);
        if !name.is_empty() {
            errors.form(&at.child("name"), name, names::dns_label(name, false));
        }
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&at.child("name"), name));
        }
        let protocols = ["SCTP", "TCP", "UDP"];
        errors.required_one_of(&at.child("protocol"), text(&port.protocol), &protocols);
        if let Some(protocol) = &port.app_protocol {
            errors.label_key(&at.child("appProtocol"), protocol);
        }
    }
}
