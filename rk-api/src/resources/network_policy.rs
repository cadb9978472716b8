//! NetworkPolicy.

use k8s_openapi::{
    api::networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort},
    apimachinery::pkg::util::intstr::IntOrString,
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Kind, Part, Resource,
    check::{Errors, default_text, list},
    row::Row,
    workload,
};
use crate::{
    field::{ErrorList, Path},
    meta::{
        addresses, names,
        selectors::LabelQuery,
        table::{NONE, age, name},
    },
};

/// The row of NetworkPolicy.
pub(super) fn row() -> Resource {
    Row::of::<NetworkPolicies>().short(&["netpol"]).columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Pod-Selector", "string", "The Pods that it is about."),
    Column::AGE,
];

/// How a NetworkPolicy behaves.
#[derive(Debug, Default)]
pub(super) struct NetworkPolicies;

impl Kind for NetworkPolicies {
    type Object = NetworkPolicy;

    fn default(policy: &mut NetworkPolicy) {
        let spec = policy.spec.get_or_insert_default();
        spec.pod_selector.get_or_insert_default();
        let ingress = spec.ingress.iter_mut().flatten().map(|rule| &mut rule.ports);
        let egress = spec.egress.iter_mut().flatten().map(|rule| &mut rule.ports);
        for port in ingress.chain(egress).flatten().flatten() {
            default_text(&mut port.protocol, "TCP");
        }
        if list(&spec.policy_types).is_empty() {
            let mut types = vec!["Ingress".to_owned()];
            if !list(&spec.egress).is_empty() {
                types.push("Egress".to_owned());
            }
            spec.policy_types = Some(types);
        }
    }

    fn prepare_create(policy: &mut NetworkPolicy) {
        workload::first_generation(&mut policy.metadata);
    }

    fn prepare_update(new: &mut NetworkPolicy, old: &NetworkPolicy, _: Part) {
        let changed = new.spec != old.spec;
        workload::next_generation(&mut new.metadata, &old.metadata, changed);
    }

    fn validate(policy: &NetworkPolicy) -> ErrorList {
        let mut errors = Errors::default();
        let path = Path::new("spec");
        let Some(spec) = &policy.spec else { return errors.0 };
        if let Some(selector) = &spec.pod_selector {
            errors.selector(&path.child("podSelector"), selector);
        }
        for (i, rule) in list(&spec.ingress).iter().enumerate() {
            let at = path.child("ingress").index(i);
            ports(&mut errors, list(&rule.ports), &at.child("ports"));
            peers(&mut errors, list(&rule.from), &at.child("from"));
        }
        for (i, rule) in list(&spec.egress).iter().enumerate() {
            let at = path.child("egress").index(i);
            ports(&mut errors, list(&rule.ports), &at.child("ports"));
            peers(&mut errors, list(&rule.to), &at.child("to"));
        }
        let types = list(&spec.policy_types);
        let at = path.child("policyTypes");
        if types.len() > 2 {
            errors.invalid(&at, types.to_vec(), "may not specify more than two policyTypes");
        }
        for (i, type_) in types.iter().enumerate() {
            errors.one_of(&at.index(i), type_, &["Ingress", "Egress"]);
        }
        errors.0
    }

    fn warnings(policy: &NetworkPolicy, _: Option<&NetworkPolicy>) -> Vec<String> {
        let Some(spec) = &policy.spec else { return Vec::new() };
        let ingress = list(&spec.ingress).iter().map(|rule| ("from", list(&rule.from)));
        let egress = list(&spec.egress).iter().map(|rule| ("to", list(&rule.to)));
        let ingress = ingress.enumerate().map(|(i, rule)| ("ingress", i, rule));
        let egress = egress.enumerate().map(|(i, rule)| ("egress", i, rule));
        let mut all = Vec::new();
        for (field, i, (side, peers)) in ingress.chain(egress) {
            for (j, peer) in peers.iter().enumerate() {
                let Some(block) = &peer.ip_block else { continue };
                let at = Path::new("spec").child(field).index(i).child(side).index(j);
                let at = at.child("ipBlock");
                all.extend(addresses::cidr_warnings(&at.child("cidr"), &block.cidr));
                for (k, except) in list(&block.except).iter().enumerate() {
                    all.extend(addresses::cidr_warnings(&at.child("except").index(k), except));
                }
            }
        }
        all
    }

    fn cells(policy: &NetworkPolicy, now: Timestamp) -> Vec<Value> {
        let spec = policy.spec.clone().unwrap_or_default();
        let pods = LabelQuery::from_selector(&spec.pod_selector.unwrap_or_default()).to_string();
        let pods = if pods.is_empty() { NONE.to_owned() } else { pods };
        vec![json!(name(&policy.metadata)), json!(pods), json!(age(&policy.metadata, now))]
    }
}

fn ports(errors: &mut Errors, ports: &[NetworkPolicyPort], path: &Path) {
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        if let Some(protocol) = &port.protocol {
            errors.one_of(&at.child("protocol"), protocol, &["TCP", "UDP", "SCTP"]);
        }
        if let Some(port) = &port.port {
            errors.port(&at.child("port"), port);
        }
        let Some(end) = port.end_port else { continue };
        let end_at = at.child("endPort");
        match &port.port {
            None => errors.required(&end_at, "must be specified when `endPort` is specified"),
            Some(IntOrString::String(_)) => {
                errors.invalid(&end_at, end, "may not be specified when `port` is non-numeric")
            }
            Some(IntOrString::Int(start)) => {
                if end < *start {
                    errors.invalid(&end_at, end, "must be greater than or equal to `port`");
                }
                errors.form(&end_at, end, names::port_number(end));
            }
        }
    }
}

fn peers(errors: &mut Errors, peers: &[NetworkPolicyPeer], path: &Path) {
    for (i, peer) in peers.iter().enumerate() {
        let at = path.index(i);
        let mut selected = false;
        for (field, selector) in
            [("podSelector", &peer.pod_selector), ("namespaceSelector", &peer.namespace_selector)]
        {
            if let Some(selector) = selector {
                selected = true;
                errors.selector(&at.child(field), selector);
            }
        }
        match &peer.ip_block {
            Some(block) => {
                ip_block(errors, block, &at.child("ipBlock"));
                if selected {
                    errors.forbidden(&at, "may not specify both ipBlock and another peer");
                }
            }
            None if !selected => errors.required(&at, "must specify a peer"),
            None => {}
        }
    }
}

fn ip_block(errors: &mut Errors, block: &IPBlock, path: &Path) {
    if block.cidr.is_empty() {
        return errors.required(&path.child("cidr"), "");
    }
    let at = path.child("cidr");
    errors.form(&at, block.cidr.as_str(), names::cidr(&block.cidr));
    let Some(outer) = names::parse_cidr(&block.cidr) else { return };
    for (i, except) in list(&block.except).iter().enumerate() {
        let at = path.child("except").index(i);
        errors.form(&at, except.as_str(), names::cidr(except));
        if let Some(inner) = names::parse_cidr(except)
            && (inner.1 <= outer.1 || !contains(outer, inner.0))
        {
            errors.invalid(&at, except.as_str(), "must be a strict subset of `cidr`");
        }
    }
}

fn contains(block: (std::net::IpAddr, u8), address: std::net::IpAddr) -> bool {
    use std::net::IpAddr::{V4, V6};
    let (network, prefix_len) = (block.0, u32::from(block.1));
    match (network, address) {
        (V4(network), V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - prefix_len).unwrap_or(0);
            network.to_bits() & mask == address.to_bits() & mask
        }
        (V6(network), V6(address)) => {
            let mask = u128::MAX.checked_shl(128 - prefix_len).unwrap_or(0);
            network.to_bits() & mask == address.to_bits() & mask
        }
        _ => false,
    }
}
