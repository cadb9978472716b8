//! What repairs find wrong with Services, told in events.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::BuildHasher,
    net::IpAddr,
    ops::RangeInclusive,
};

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference, Service},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};

use super::{
    addresses::{Owner, owner},
    cidr::Family,
    ports,
};
use crate::clock;

/// Something wrong with a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::server) struct Finding {
    owner: Owner,
    uid: String,
    controller: &'static str,
    action: &'static str,
    reason: &'static str,
    note: String,
}

impl Finding {
    /// About an address of a Service.
    pub(super) fn address(service: &Service, reason: &'static str, note: String) -> Self {
        let controller = "ipallocator-repair-controller";
        Self::new(service, controller, "ClusterIPAllocation", reason, note)
    }

    fn port(service: &Service, reason: &'static str, note: String) -> Self {
        Self::new(service, "portallocator-repair-controller", "PortAllocation", reason, note)
    }

    fn new(
        service: &Service,
        controller: &'static str,
        action: &'static str,
        reason: &'static str,
        note: String,
    ) -> Self {
        let uid = service.metadata.uid.clone().unwrap_or_default();
        Self { owner: owner(service), uid, controller, action, reason, note }
    }

    /// The namespace of the Service.
    pub(in crate::server) fn namespace(&self) -> &str {
        &self.owner.namespace
    }

    /// An event. Its name follows from what it says: what is found again is not told again.
    pub(in crate::server) fn event(&self) -> Event {
        let says = (&self.uid, self.reason, &self.note);
        let hash = foldhash::quality::FixedState::default().hash_one(says);
        let (namespace, name) = (self.owner.namespace.clone(), self.owner.name.clone());
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{hash:016x}")),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                kind: Some("Service".to_owned()),
                api_version: Some("v1".to_owned()),
                namespace: Some(namespace),
                name: Some(name),
                uid: Some(self.uid.clone()),
                ..ObjectReference::default()
            },
            type_: Some("Warning".to_owned()),
            reason: Some(self.reason.to_owned()),
            action: Some(self.action.to_owned()),
            message: Some(self.note.clone()),
            event_time: Some(MicroTime(clock::now())),
            reporting_component: Some(self.controller.to_owned()),
            reporting_instance: Some("kube-apiserver".to_owned()),
            source: Some(EventSource::default()),
            ..Event::default()
        }
    }
}

/// How an address is named in what is told of it.
pub(super) fn named(address: IpAddr) -> String {
    format!("[{}]: {address}", Family::of(address).as_str())
}

/// What is wrong with the node ports of Services. `missing` were in use and not accounted for.
pub(super) fn of_ports(
    services: &[Service],
    range: &RangeInclusive<u16>,
    missing: &[u16],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut used: BTreeMap<u16, Owner> = BTreeMap::new();
    for service in services {
        // One number may be for several protocols of a Service.
        let numbers: BTreeSet<u16> = service.spec.iter().flat_map(ports).collect();
        for port in numbers {
            let (reason, note) = if !range.contains(&port) {
                let range = format!("{}-{}", range.start(), range.end());
                let note = format!(
                    "Port {port} is not within the port range {range}; please recreate service"
                );
                ("PortOutOfRange", note)
            } else if used.insert(port, owner(service)).is_some() {
                let note = format!(
                    "Port {port} was assigned to multiple services; please recreate service"
                );
                ("PortAlreadyAllocated", note)
            } else if missing.contains(&port) {
                ("PortNotAllocated", format!("Port {port} is not allocated; repairing"))
            } else {
                continue;
            };
            findings.push(Finding::port(service, reason, note));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(name: &str, node_ports: &[u16]) -> Service {
        let ports: Vec<_> =
            node_ports.iter().map(|port| json!({"port": 80, "nodePort": port})).collect();
        let metadata = json!({"name": name, "namespace": "default", "uid": name});
        serde_json::from_value(json!({"metadata": metadata, "spec": {"ports": ports}})).unwrap()
    }

    #[test]
    fn ports_out_of_range_of_two_services_or_of_nobody_are_told() {
        let services = [service("a", &[30001, 30001, 30002]), service("b", &[30001, 40000])];
        let found = of_ports(&services, &(30000..=30009), &[30002]);
        let told: Vec<_> =
            found.iter().map(|it| (it.owner.name.as_str(), it.reason, it.note.as_str())).collect();
        assert_eq!(
            told,
            [
                ("a", "PortNotAllocated", "Port 30002 is not allocated; repairing"),
                (
                    "b",
                    "PortAlreadyAllocated",
                    "Port 30001 was assigned to multiple services; please recreate service"
                ),
                (
                    "b",
                    "PortOutOfRange",
                    "Port 40000 is not within the port range 30000-30009; please recreate service"
                ),
            ]
        );
    }

    #[test]
    fn the_same_finding_is_the_same_event() {
        let name = |note: &str| {
            let finding = Finding::port(&service("a", &[]), "R", note.to_owned());
            finding.event().metadata.name
        };
        assert_eq!(name("x"), name("x"));
        assert_ne!(name("x"), name("y"));
    }
}
