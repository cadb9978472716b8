//! What the informers of a process know of a cluster.

use std::{net::IpAddr, sync::Arc};

use k8s_openapi::api::{
    core::v1::{Namespace, Service, ServiceSpec},
    discovery::v1::EndpointSlice,
};
use rk_api::{
    client::{Informer, Informers},
    clock,
};

use super::{
    Records, Zone,
    record::{Answer, Code, Question},
};

const BY_SERVICE: &str = "rk-net/dns/service";
const BY_ADDRESS: &str = "rk-net/dns/address";

/// What has to be known of a cluster to answer for it.
pub trait Known {
    /// Whether there is a namespace.
    fn has_namespace(&self, name: &str) -> bool;
    /// The Service of this namespace and name.
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>>;
    /// The EndpointSlices of a Service.
    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>>;
    /// The Services with this ClusterIP.
    fn services_at(&self, address: IpAddr) -> Vec<Arc<Service>>;
    /// The EndpointSlices with an endpoint of this address.
    fn slices_at(&self, address: IpAddr) -> Vec<Arc<EndpointSlice>>;
    /// A number that has grown whenever something is different (RFC 1035, section 3.3.13).
    fn serial(&self) -> u32;
}

/// The names of a cluster, as its API server has them. Clones share what they know.
///
/// What is new there has a name as soon as an informer heard of it. Until they have heard of
/// everything, which is once, the answer is that the server cannot say.
#[derive(Clone, Debug)]
pub struct ClusterRecords {
    zone: Zone,
    known: Informed,
}

/// Informers, shared with whoever else needs the kinds.
#[derive(Clone, Debug)]
struct Informed {
    namespaces: Informer<Namespace>,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
}

impl ClusterRecords {
    /// The names of a zone. It must be called within a tokio runtime.
    pub fn new(zone: Zone, informers: &Informers) -> Self {
        let services = informers.of::<Service>();
        services.add_index(BY_ADDRESS, |service| {
            service.spec.iter().flat_map(addresses_of).map(|address| address.to_string()).collect()
        });
        let slices = informers.of::<EndpointSlice>();
        slices.add_index(BY_SERVICE, |slice| {
            let service = service_of(slice);
            service.map(|(namespace, name)| format!("{namespace}/{name}")).into_iter().collect()
        });
        slices.add_index(BY_ADDRESS, |slice| {
            let endpoints = slice.endpoints.iter().flatten();
            let addresses = endpoints.flat_map(|endpoint| &endpoint.addresses);
            addresses.filter_map(|text| Some(text.parse::<IpAddr>().ok()?.to_string())).collect()
        });
        let namespaces = informers.of::<Namespace>();
        Self { zone, known: Informed { namespaces, services, slices } }
    }

    fn is_complete(&self) -> bool {
        let Informed { namespaces, services, slices } = &self.known;
        namespaces.has_synced() && services.has_synced() && slices.has_synced()
    }
}

impl Records for ClusterRecords {
    fn answer(&self, question: &Question) -> Option<Answer> {
        if self.is_complete() {
            return self.zone.answer(&self.known, question);
        }
        self.zone.is_ours(&question.name).then(|| Answer::error(Code::ServFail))
    }
}

impl Known for Informed {
    fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.get("", name).is_some()
    }

    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services.get(namespace, name)
    }

    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>> {
        self.slices.by_index(BY_SERVICE, &format!("{namespace}/{service}"))
    }

    fn services_at(&self, address: IpAddr) -> Vec<Arc<Service>> {
        self.services.by_index(BY_ADDRESS, &address.to_string())
    }

    fn slices_at(&self, address: IpAddr) -> Vec<Arc<EndpointSlice>> {
        self.slices.by_index(BY_ADDRESS, &address.to_string())
    }

    fn serial(&self) -> u32 {
        u32::try_from(clock::now().as_second()).unwrap_or_default()
    }
}

/// Namespace and name of the Service that a slice is of.
pub(super) fn service_of(slice: &EndpointSlice) -> Option<(&str, &str)> {
    let labels = slice.metadata.labels.as_ref()?;
    let name = labels.get("kubernetes.io/service-name").filter(|name| !name.is_empty())?;
    Some((slice.metadata.namespace.as_deref().unwrap_or_default(), name))
}

/// A Service's own addresses, one of each family at most.
pub(super) fn addresses_of(spec: &ServiceSpec) -> impl Iterator<Item = IpAddr> {
    let listed = spec.cluster_ips.as_deref().unwrap_or_default();
    // An object that was made without the API server may lack the list.
    let only = spec.cluster_ip.iter().filter(|_| listed.is_empty());
    listed.iter().chain(only).filter_map(|text| text.parse().ok())
}
