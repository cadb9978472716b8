//! Which endpoints a service port uses on this node.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::{Endpoints, Family, NodeView, PortKey, Protocol, ServicePort};

/// An endpoint of a service port, before any choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) address: SocketAddr,
    pub(super) ready: bool,
    pub(super) serving: bool,
    pub(super) terminating: bool,
    /// On this node.
    pub(super) local: bool,
    pub(super) node_hint: Hint,
    pub(super) zone_hint: Hint,
}

/// Whether an endpoint is meant for this node, or this zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hint {
    Missing,
    Here,
    Elsewhere,
}

impl Candidate {
    fn is_last_resort(&self) -> bool {
        self.serving && self.terminating
    }
}

/// The endpoints of a port from all slices of its Service, in order of address. One that is in
/// several slices counts once: the last slice by name wins, but a local one over a remote one.
pub(super) fn collect(key: &PortKey, slices: &[&EndpointSlice], node: &NodeView) -> Vec<Candidate> {
    let address_type = match key.family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    let mut slices: Vec<_> = slices.iter().filter(|s| s.address_type == address_type).collect();
    slices.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));

    let mut found = BTreeMap::<SocketAddr, Candidate>::new();
    for slice in slices {
        let Some(port) = port_of(key, slice) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let Some(new) = candidate(endpoint, port, node) else { continue };
            let known = found.get(&new.address);
            if known.is_none_or(|known| new.local || !known.local) {
                found.insert(new.address, new);
            }
        }
    }
    found.into_values().collect()
}

/// The number of the port in this slice. Slices of a Service can differ in it.
fn port_of(key: &PortKey, slice: &EndpointSlice) -> Option<u16> {
    let port = slice.ports.iter().flatten().find(|port| {
        port.name.as_deref().unwrap_or_default() == key.port
            && Protocol::from_api(port.protocol.as_deref()) == Some(key.protocol)
    })?;
    port.port.and_then(|port| u16::try_from(port).ok()).filter(|&port| port != 0)
}

fn candidate(endpoint: &Endpoint, port: u16, node: &NodeView) -> Option<Candidate> {
    // The addresses of one endpoint are interchangeable by contract: the first one is used.
    let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    let conditions = endpoint.conditions.as_ref();
    let hints = endpoint.hints.as_ref();
    let nodes = hints.and_then(|hints| hints.for_nodes.as_deref()).unwrap_or_default();
    let zones = hints.and_then(|hints| hints.for_zones.as_deref()).unwrap_or_default();
    Some(Candidate {
        address: SocketAddr::new(address, port),
        ready: conditions.and_then(|c| c.ready).unwrap_or(true),
        serving: conditions.and_then(|c| c.serving).unwrap_or(true),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        local: endpoint.node_name.as_deref() == Some(&node.name),
        node_hint: hint(nodes.iter().map(|hint| &hint.name), Some(&node.name)),
        zone_hint: hint(zones.iter().map(|hint| &hint.name), node.zone.as_ref()),
    })
}

fn hint<'a>(mut names: impl Iterator<Item = &'a String> + Clone, own: Option<&String>) -> Hint {
    match names.clone().next() {
        None => Hint::Missing,
        Some(_) if names.any(|name| Some(name) == own) => Hint::Here,
        Some(_) => Hint::Elsewhere,
    }
}

/// Ready endpoints, or if there are none those that still serve while they terminate. Under the
/// policy `Cluster` topology hints narrow the choice; under `Local` only this node counts.
pub(super) fn choose(port: &ServicePort, all: &[Candidate]) -> Endpoints {
    let mut chosen = Endpoints::default();
    if port.uses_cluster_endpoints() {
        let meant_for_us = topology(all);
        chosen.cluster = addresses(all, |e| e.ready && meant_for_us(e));
        if chosen.cluster.is_empty() {
            chosen.cluster = addresses(all, Candidate::is_last_resort);
        }
        chosen.anywhere = !chosen.cluster.is_empty();
    }
    if port.uses_local_endpoints() {
        chosen.local = addresses(all, |e| e.local && e.ready);
        if chosen.local.is_empty() {
            chosen.local = addresses(all, |e| e.local && e.is_last_resort());
        }
        chosen.anywhere |= all.iter().any(|e| e.ready || e.is_last_resort());
    }
    chosen
}

fn addresses(all: &[Candidate], wanted: impl Fn(&Candidate) -> bool) -> Vec<SocketAddr> {
    all.iter().filter(|e| wanted(e)).map(|e| e.address).collect()
}

/// Hints count only if every ready endpoint has them and one of them names us; node before zone.
fn topology(all: &[Candidate]) -> fn(&Candidate) -> bool {
    let usable = |hint: fn(&Candidate) -> Hint| {
        let hints: Vec<_> = all.iter().filter(|e| e.ready).map(hint).collect();
        !hints.contains(&Hint::Missing) && hints.contains(&Hint::Here)
    };
    if usable(|e| e.node_hint) {
        |e| e.node_hint == Hint::Here
    } else if usable(|e| e.zone_hint) {
        |e| e.zone_hint == Hint::Here
    } else {
        |_| true
    }
}
