//! From a Service to an address.

use std::sync::Weak;

use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{Endpoint, EndpointSlice},
};

use super::Cause;
use crate::{
    resources::Resources,
    server::{cache::Cache, filter::Filter, reader::Reader},
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::server) struct ServicePort {
    /// The Service's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: u16,
}

/// Where Services lead, by the server's cache. Cloning shares it.
#[derive(Clone, Debug)]
pub(in crate::server) struct Services {
    cache: Weak<Cache>,
    resources: Resources,
    /// Whether a ready endpoint is chosen instead of the Service's address
    /// (`--enable-aggregator-routing`).
    to_endpoints: bool,
}

/// Where a Service leads: a host and a port.
pub(super) type Address = (String, u16);

impl Services {
    pub(in crate::server) fn of(reader: &Reader, to_endpoints: bool) -> Self {
        let (cache, resources) =
            (std::sync::Arc::downgrade(&reader.cache), reader.resources.clone());
        Self { cache, resources, to_endpoints }
    }

    /// Where a port of a Service leads now.
    pub(super) async fn resolve(&self, port: &ServicePort) -> Result<Address, Cause> {
        let missing = || Cause::Service(format!("service {:?} not found", port.name));
        let cache =
            self.cache.upgrade().ok_or_else(|| Cause::Service("the server is gone".to_owned()))?;
        let reader = Reader { cache, resources: self.resources.clone() };
        let found = reader.get::<Service>(Some(&port.namespace), &port.name).await;
        let service = found.map_err(|e| Cause::Service(e.message))?.ok_or_else(missing)?;
        match choose(&service, port, self.to_endpoints)? {
            Choice::Address(address) => Ok(address),
            Choice::Endpoint(target) => {
                let slices = slices_of(&reader, port)?;
                endpoint(&slices, &target).ok_or_else(|| {
                    Cause::Service(format!("no endpoints available for service {:?}", port.name))
                })
            }
        }
    }
}

/// The slices of a Service, which its label names.
fn slices_of(reader: &Reader, port: &ServicePort) -> Result<Vec<EndpointSlice>, Cause> {
    let Some(table) = reader.table::<EndpointSlice>() else { return Ok(Vec::new()) };
    let page = table.list(&Filter::namespace(&port.namespace), None, 0, 0);
    let slices = page.items.iter().filter_map(|object| {
        let slice: EndpointSlice = crate::json::from_slice(&object.stored.plain()).ok()?;
        let labels = slice.metadata.labels.as_ref()?;
        (labels.get("kubernetes.io/service-name") == Some(&port.name)).then_some(slice)
    });
    Ok(slices.collect())
}

/// What a Service says about where one of its ports leads.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    /// To this address.
    Address(Address),
    /// To an endpoint's port of this name, or, without a Service port to name it, of this number.
    Endpoint(Target),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Target {
    name: String,
    number: Option<u16>,
}

/// kube-apiserver's `ResolveCluster` and `ResolveEndpoint`, but for a headless Service, which leads
/// to its endpoints here.
fn choose(service: &Service, port: &ServicePort, to_endpoints: bool) -> Result<Choice, Cause> {
    let spec = service.spec.clone().unwrap_or_default();
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    match kind {
        "ExternalName" => {
            let name = spec.external_name.unwrap_or_default();
            return Ok(Choice::Address((name, port.port)));
        }
        "ClusterIP" | "NodePort" | "LoadBalancer" => {}
        other => return Err(Cause::Service(format!("unsupported service type {other:?}"))),
    }
    let ports = spec.ports.unwrap_or_default();
    let Some(found) = ports.iter().find(|found| found.port == i32::from(port.port)) else {
        let (number, name) = (port.port, &port.name);
        return Err(Cause::Service(format!("no service port {number} found for service {name:?}")));
    };
    let address = spec.cluster_ip.unwrap_or_default();
    if to_endpoints || address == "None" {
        let number = match &found.target_port {
            Some(IntOrString::Int(number)) => u16::try_from(*number).ok(),
            _ => None,
        };
        let name = found.name.clone().unwrap_or_default();
        return Ok(Choice::Endpoint(Target { name, number }));
    }
    match address.as_str() {
        "" => Err(Cause::Service(format!("service {:?} has no address", port.name))),
        address => Ok(Choice::Address((address.to_owned(), port.port))),
    }
}

/// A ready endpoint, any of them.
fn endpoint(slices: &[EndpointSlice], target: &Target) -> Option<Address> {
    let ready = |endpoint: &&Endpoint| {
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
    };
    let candidates: Vec<Address> = slices
        .iter()
        .filter_map(|slice| Some((slice, port_of(slice, target)?)))
        .flat_map(|(slice, port)| {
            let ready = slice.endpoints.iter().flatten().filter(ready);
            ready.filter_map(move |endpoint| Some((endpoint.addresses.first()?.clone(), port)))
        })
        .collect();
    let last = candidates.len().checked_sub(1)?;
    let chosen = crate::rng::below(last as u64 + 1);
    candidates.get(usize::try_from(chosen).ok()?).cloned()
}

fn port_of(slice: &EndpointSlice, target: &Target) -> Option<u16> {
    let ports = slice.ports.as_deref().unwrap_or_default();
    let named = ports.iter().find(|port| port.name.as_deref().unwrap_or_default() == target.name);
    let number = named.and_then(|port| port.port).and_then(|port| u16::try_from(port).ok());
    number.or(target.number)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn port(number: u16) -> ServicePort {
        ServicePort { namespace: "ns".to_owned(), name: "s".to_owned(), port: number }
    }

    #[track_caller]
    fn check(spec: Value, to_endpoints: bool, expected: Result<Choice, &str>) {
        let service: Service = serde_json::from_value(json!({ "spec": spec })).unwrap();
        let found = choose(&service, &port(443), to_endpoints).map_err(|error| error.to_string());
        assert_eq!(found, expected.map_err(ToOwned::to_owned));
    }

    #[test]
    fn a_service_leads_to_its_address_or_to_its_endpoints() {
        let ports = json!([{ "name": "https", "port": 443, "targetPort": 8443 }]);
        let target = || Choice::Endpoint(Target { name: "https".to_owned(), number: Some(8443) });
        let address = Choice::Address(("10.96.0.9".to_owned(), 443));
        check(json!({ "clusterIP": "10.96.0.9", "ports": ports }), false, Ok(address));
        check(json!({ "clusterIP": "10.96.0.9", "ports": ports }), true, Ok(target()));
        check(json!({ "clusterIP": "None", "ports": ports }), false, Ok(target()));
        let external = Choice::Address(("example.com".to_owned(), 443));
        check(
            json!({ "type": "ExternalName", "externalName": "example.com" }),
            false,
            Ok(external),
        );
        check(
            json!({ "clusterIP": "10.96.0.9", "ports": [{ "port": 80 }] }),
            false,
            Err("no service port 443 found for service \"s\""),
        );
    }

    #[test]
    fn only_ready_endpoints_are_chosen() {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "addressType": "IPv4",
            "ports": [{ "name": "https", "port": 8443 }, { "name": "", "port": 1 }],
            "endpoints": [
                { "addresses": ["10.0.0.1"], "conditions": { "ready": false } },
                { "addresses": ["10.0.0.2"], "conditions": {} },
            ],
        }))
        .unwrap();
        let https = Target { name: "https".to_owned(), number: None };
        let chosen = endpoint(std::slice::from_ref(&slice), &https);
        assert_eq!(chosen, Some(("10.0.0.2".to_owned(), 8443)));
        let other = Target { name: "other".to_owned(), number: None };
        assert_eq!(endpoint(&[slice], &other), None);
        assert_eq!(endpoint(&[], &https), None);
    }
}
