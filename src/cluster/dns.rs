//! Cluster DNS as a part of a cluster: a server in its process, whose sockets are in its network.
//!
//! Pods know it by the address of the Service `kube-system/kube-dns`. That has no selector; an
//! EndpointSlice, which is kept here, leads to the sockets. Who gives the Service a selector takes it
//! over: the slice goes, and the server hears nothing more.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};
use rk_api::client::{Backoff, Informers, Subscription};
use rk_net::{
    dns::{ClusterRecords, Name, Records, Server, Upstream, Zone},
    netns,
};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, UdpSocket},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{ClusterError, launch::Launcher, start::part};

/// Namespace and name of the Service.
const SERVICE: (&str, &str) = ("kube-system", "kube-dns");
/// Its address: as kubeadm has it, the tenth of the Services' range.
pub(super) const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));
/// The name of the EndpointSlice.
const SLICE: &str = "kube-dns-in-process";

/// How a cluster's names are resolved.
///
/// The server runs beside a node whose network is the cluster's own; where Pods are simulated, or on
/// the machine's network, there is none. Leaving [`Component::Dns`](super::Component::Dns) out of the
/// components leaves the Service and its address to another server; Pods ask that address all the
/// same.
#[derive(Clone, Debug)]
pub struct ClusterDns {
    pub(super) domain: String,
    upstream: Vec<SocketAddr>,
    records: Vec<Arc<dyn Records>>,
}

impl Default for ClusterDns {
    fn default() -> Self {
        Self { domain: "cluster.local".to_owned(), upstream: Vec::new(), records: Vec::new() }
    }
}

impl ClusterDns {
    /// The domain `cluster.local`, and no other names.
    pub fn new() -> Self {
        Self::default()
    }

    /// The domain that the cluster's names end in.
    #[must_use]
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.domain = domain.into();
        self
    }

    /// Asks these servers for names that are not the cluster's, from the machine's network. By
    /// default nobody is asked, and such questions are refused: Pods have no way out either.
    #[must_use]
    pub fn upstream(mut self, servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.upstream.extend(servers);
        self
    }

    /// Asks this first, before the cluster's own names.
    #[must_use]
    pub fn records(mut self, records: Arc<dyn Records>) -> Self {
        self.records.push(records);
        self
    }
}

/// Starts the server in a network namespace, at the node's address there, and makes it known.
pub(super) async fn start(
    launcher: &Launcher,
    netns: &Path,
    node: IpAddr,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> Result<(), ClusterError> {
    let Launcher { builder, server, informers, .. } = launcher;
    let ClusterDns { domain, upstream, records } = builder.dns.clone();
    let domain = Name::parse(&domain).map_err(part("cluster DNS"))?;
    // Any port: 53 may be wanted by a Pod on the node's network.
    let any = SocketAddr::new(node, 0);
    let bind = move || {
        let socket = std::net::UdpSocket::bind(any)?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    };
    let udp = netns::run_async(Some(netns.to_owned()), bind).await.map_err(part("cluster DNS"))?;
    let tcp = netns::listen(Some(netns.to_owned()), any).await.map_err(part("cluster DNS"))?;
    let sockets = Sockets::of(&udp, &tcp).map_err(part("cluster DNS"))?;

    install(&server.client()).await.map_err(part("cluster DNS"))?;
    let names: Arc<dyn Records> =
        Arc::new(ClusterRecords::new(Zone::new(domain, SERVICE), informers));
    let dns = Server::new(records.into_iter().chain([names]), Upstream::new(upstream));
    tasks.spawn(dns.run(udp, tcp, stop.clone()));
    let (watched, client) = (Watched::start(informers), server.client());
    let stop = stop.clone();
    tasks.spawn(async move {
        tokio::select! { biased;
            () = stop.cancelled() => {}
            () = keep_slice(watched, client, sockets) => {}
        }
    });
    Ok(())
}

/// Makes the Service if it is missing. Who changes it keeps the change, and if its address is taken,
/// then by somebody who wants to be asked there.
async fn install(client: &Client) -> Result<(), kube::Error> {
    let (namespace, name) = SERVICE;
    let service = rk_api::json::from_value(&json!({
        "metadata": {
            "name": name,
            "labels": {
                "k8s-app": "kube-dns",
                "kubernetes.io/cluster-service": "true",
                "kubernetes.io/name": "CoreDNS",
            },
        },
        "spec": {
            "clusterIP": ADDRESS,
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            ],
        },
    }))
    .map_err(kube::Error::SerdeError)?;
    let services = Api::<Service>::namespaced(client.clone(), namespace);
    match services.create(&PostParams::default(), &service).await {
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
        Err(kube::Error::Api(status)) if status.reason == "Invalid" => {
            tracing::warn!(%status, "the cluster's DNS server has no Service");
            Ok(())
        }
        result => result.map(drop),
    }
}

/// Where the server listens.
#[derive(Clone, Copy, Debug)]
struct Sockets {
    address: IpAddr,
    udp: u16,
    tcp: u16,
}

impl Sockets {
    fn of(udp: &UdpSocket, tcp: &TcpListener) -> std::io::Result<Self> {
        let (udp, tcp) = (udp.local_addr()?, tcp.local_addr()?);
        Ok(Self { address: udp.ip(), udp: udp.port(), tcp: tcp.port() })
    }
}

/// What to do about the slice.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Nothing,
    Create(EndpointSlice),
    Replace(EndpointSlice),
    Delete(String),
}

/// The slice is there exactly while a Service without a selector is, and leads to the sockets.
fn plan(
    service: Option<&Service>,
    slice: Option<&EndpointSlice>,
    sockets: Sockets,
) -> Result<Step, serde_json::Error> {
    let has_selector = |service: &&Service| {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.is_some_and(|selector| !selector.is_empty())
    };
    let going = |service: &&Service| service.metadata.deletion_timestamp.is_some();
    let ours = service.filter(|service| !has_selector(service) && !going(service));
    let Some(service) = ours else {
        let uid = slice.and_then(ResourceExt::uid);
        return Ok(uid.map_or(Step::Nothing, Step::Delete));
    };
    let wanted = wanted(service, sockets);
    let Some(slice) = slice else { return rk_api::json::from_value(&wanted).map(Step::Create) };
    let mut new = serde_json::to_value(slice)?;
    merge(&mut new, wanted);
    let new: EndpointSlice = rk_api::json::from_value(&new)?;
    Ok(if new == *slice { Step::Nothing } else { Step::Replace(new) })
}

fn wanted(service: &Service, sockets: Sockets) -> Value {
    let (namespace, name) = SERVICE;
    json!({
        "metadata": {
            "name": SLICE,
            "namespace": namespace,
            "labels": {
                "kubernetes.io/service-name": name,
                "endpointslice.kubernetes.io/managed-by": "cluster-dns.rk.dev",
            },
            // It goes with the Service.
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Service", "name": name, "uid": service.uid()},
            ],
        },
        "addressType": if sockets.address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [sockets.address], "conditions": {"ready": true}}],
        "ports": [
            {"name": "dns", "port": sockets.udp, "protocol": "UDP"},
            {"name": "dns-tcp", "port": sockets.tcp, "protocol": "TCP"},
        ],
    })
}

/// Puts the members of one object into another; what is no object is replaced.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// The objects, and news of them.
struct Watched {
    services: Subscription<Service>,
    slices: Subscription<EndpointSlice>,
}

impl Watched {
    fn start(informers: &Informers) -> Self {
        let services = informers.of::<Service>().subscribe();
        Self { services, slices: informers.of::<EndpointSlice>().subscribe() }
    }

    fn service(&self) -> Option<Arc<Service>> {
        self.services.informer().get(SERVICE.0, SERVICE.1)
    }

    fn slice(&self) -> Option<Arc<EndpointSlice>> {
        self.slices.informer().get(SERVICE.0, SLICE)
    }

    /// Waits until one of the two may be different.
    async fn changed(&mut self) {
        let is = |object: (Option<String>, String), name| {
            object.0.as_deref() == Some(SERVICE.0) && object.1 == name
        };
        loop {
            let ours = tokio::select! { biased;
                change = self.services.next_change() => {
                    let service = change.object();
                    is((service.namespace(), service.name_any()), SERVICE.1)
                }
                change = self.slices.next_change() => {
                    let slice = change.object();
                    is((slice.namespace(), slice.name_any()), SLICE)
                }
            };
            if ours {
                return;
            }
        }
    }
}

/// Keeps the slice as it should be, for ever.
async fn keep_slice(mut watched: Watched, client: Client, sockets: Sockets) {
    let slices = Api::<EndpointSlice>::namespaced(client, SERVICE.0);
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    watched.services.informer().synced().await;
    watched.slices.informer().synced().await;
    loop {
        let step = plan(watched.service().as_deref(), watched.slice().as_deref(), sockets);
        let done = match step {
            Ok(step) => act(&slices, step).await,
            Err(error) => Err(kube::Error::SerdeError(error)),
        };
        match done {
            Ok(()) => {
                backoff.reset();
                watched.changed().await;
            }
            // Mostly the caches are behind: whoever was first, they hear of it.
            Err(error) => {
                tracing::debug!(%error, "the slice of cluster DNS is not as it should be");
                let _ = tokio::time::timeout(backoff.pause(), watched.changed()).await;
            }
        }
    }
}

async fn act(slices: &Api<EndpointSlice>, step: Step) -> Result<(), kube::Error> {
    match step {
        Step::Nothing => Ok(()),
        Step::Create(slice) => slices.create(&PostParams::default(), &slice).await.map(drop),
        Step::Replace(slice) => {
            slices.replace(SLICE, &PostParams::default(), &slice).await.map(drop)
        }
        Step::Delete(uid) => {
            let preconditions = Preconditions { uid: Some(uid), resource_version: None };
            let this = DeleteParams::default().preconditions(preconditions);
            match slices.delete(SLICE, &this).await {
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                result => result.map(drop),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOCKETS: Sockets =
        Sockets { address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), udp: 4053, tcp: 4054 };

    fn service(spec: Value) -> Service {
        let metadata = json!({"name": "kube-dns", "namespace": "kube-system", "uid": "u1"});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    fn slice(sockets: Sockets) -> EndpointSlice {
        let mut value = wanted(&service(json!({})), sockets);
        merge(&mut value, json!({"metadata": {"uid": "s1", "resourceVersion": "7"}}));
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_slice_leads_to_where_the_server_listens_now() {
        let service = service(json!({"clusterIP": "10.96.0.10"}));
        let step = plan(Some(&service), None, SOCKETS).unwrap();
        assert!(matches!(step, Step::Create(slice) if slice.endpoints.is_some()));
        assert_eq!(plan(Some(&service), Some(&slice(SOCKETS)), SOCKETS).unwrap(), Step::Nothing);

        let of_last_time = slice(Sockets { udp: 1, ..SOCKETS });
        let step = plan(Some(&service), Some(&of_last_time), SOCKETS).unwrap();
        assert_eq!(step, Step::Replace(slice(SOCKETS)), "with its version, so that none is lost");
    }

    #[test]
    fn a_service_with_a_selector_is_somebody_elses() {
        let theirs = service(json!({"selector": {"k8s-app": "kube-dns"}}));
        assert_eq!(plan(Some(&theirs), None, SOCKETS).unwrap(), Step::Nothing);
        let step = plan(Some(&theirs), Some(&slice(SOCKETS)), SOCKETS).unwrap();
        assert_eq!(step, Step::Delete("s1".to_owned()));
        assert_eq!(plan(None, Some(&slice(SOCKETS)), SOCKETS).unwrap(), step);
        assert_eq!(plan(None, None, SOCKETS).unwrap(), Step::Nothing);
    }
}
