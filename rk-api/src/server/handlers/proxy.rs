//! The proxies to Pods, Services and nodes: `[https:]name[:port]`, then any path, any method.

use std::{net::IpAddr, sync::Arc};

use http::{Extensions, HeaderValue, Method, Response, StatusCode, header};
use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice},
};

use super::Call;
use crate::{
    resources::Resource,
    rng,
    server::{
        body::{RequestBody, ResponseBody},
        outbound::{Endpoint, OutboundError, Trust},
        proxy::{Exchange, Target},
        status::{ApiError, Result, Subject},
    },
};

/// The port of a node's agent that reports none.
const AGENT_PORT: i32 = 10250;

/// What a name in a path stands for.
#[derive(Debug, PartialEq, Eq)]
struct Named<'a> {
    /// `http` unless the path says `https`; for nodes empty where it says nothing.
    scheme: &'a str,
    /// The object.
    name: &'a str,
    /// A number or, for a Service, a name; empty for the first or only one.
    port: &'a str,
}

impl<'a> Named<'a> {
    /// Reads `name`, `name:port` or `scheme:name:port`.
    fn parse(text: &'a str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let named = match parts.as_slice() {
            [name] => Self { scheme: "", name, port: "" },
            [name, port] => Self { scheme: "", name, port },
            [scheme @ ("" | "http" | "https"), name, port] => Self { scheme, name, port },
            _ => return None,
        };
        (!named.name.is_empty()).then_some(named)
    }
}

impl<'a> Call<'a> {
    /// Passes the request on, whatever its method.
    pub(super) async fn proxy(
        self,
        resource: &'a Arc<Resource>,
        body: RequestBody,
        extensions: Extensions,
    ) -> Result<Response<ResponseBody>> {
        let info = self.context.info();
        let Some((prefix, path)) = split_path(self.context.uri.path(), !info.namespace.is_empty())
        else {
            return Err(ApiError::no_such_path());
        };
        if path.is_empty() && [Method::GET, Method::HEAD].contains(&self.context.method) {
            return Ok(to_root(&self.context.uri));
        }
        self.admit_connection(resource).await?;
        let kind = resource.singular.as_ref();
        let named = Named::parse(&info.name).ok_or_else(|| {
            ApiError::bad_request(format!("invalid {kind} request {:?}", info.name))
        })?;
        let query = self.context.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let slash = if path.is_empty() { "/" } else { "" };
        let mut target = Target {
            path: format!("{path}{slash}{query}"),
            prefix: prefix.to_owned(),
            host: String::new(),
            may_redirect: true,
        };
        let context = self.context;
        let (method, headers) = (context.method.clone(), context.headers.clone());
        let exchange = Exchange::new(method, headers, body, extensions);
        let host = match resource.kind.as_ref() {
            "Pod" => self.pod_address(&named).await?,
            "Service" => self.service_address(&named).await?,
            _ => match self.node_address(&named).await? {
                NodeAddress::Agent(node) => {
                    let (request, pending) = exchange.outgoing(target)?;
                    let response = self.send_to_agent(&node, request).await?;
                    return Ok(pending.answer(response));
                }
                NodeAddress::Port(host) => host,
            },
        };
        let scheme = if named.scheme.is_empty() { "http" } else { named.scheme };
        target.host.clone_from(&host);
        let endpoint = Endpoint::url(&format!("{scheme}://{host}"))
            // Who answers there is the cluster's own, with a certificate of nobody.
            .map(|endpoint| endpoint.trusting(Trust::Anybody))
            .map_err(ApiError::internal)?;
        let (request, pending) = exchange.outgoing(target)?;
        match self.server.outbound.request(&endpoint, request).await {
            Ok(response) => Ok(pending.answer(response)),
            Err(error) => {
                let why = match &error {
                    OutboundError::Call { cause, .. } => cause.to_string(),
                    other => other.to_string(),
                };
                Err(ApiError::unavailable(format!("error trying to reach service: {why}")))
            }
        }
    }

    async fn pod_address(self, named: &Named<'_>) -> Result<String> {
        let namespace = self.context.info().namespace.as_str();
        self.server.registry.cache.fresh().await?;
        let found = self.server.reader.get::<Pod>(Some(namespace), named.name).await?;
        let pod = found.ok_or_else(|| ApiError::not_found(&Subject::of("", "pods"), named.name))?;
        let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice());
        let mut ports = containers.into_iter().flatten().flat_map(|container| &container.ports);
        let first = ports.find_map(|ports| ports.first()).map(|port| port.container_port);
        let port = match named.port {
            "" => first.map(|port| port.to_string()).unwrap_or_default(),
            port => port.to_owned(),
        };
        let status = pod.status.as_ref();
        let first_ip =
            status.and_then(|status| status.pod_ips.as_ref()?.first()).map(|ip| ip.ip.as_str());
        let ip = first_ip.or(status.and_then(|status| status.pod_ip.as_deref()));
        let ip = ip.and_then(|ip| ip.parse().ok()).filter(is_global_unicast);
        let ip = ip.ok_or_else(|| ApiError::bad_request("address not allowed"))?;
        Ok(join(ip, &port))
    }

    async fn service_address(self, named: &Named<'_>) -> Result<String> {
        let namespace = self.context.info().namespace.as_str();
        self.server.registry.cache.fresh().await?;
        let reader = &self.server.reader;
        let found = reader.get::<Service>(Some(namespace), named.name).await?;
        let service =
            found.ok_or_else(|| ApiError::not_found(&Subject::of("", "services"), named.name))?;
        let port = port_name(&service, named)?;
        let mut slices = reader.list::<EndpointSlice>(Some(namespace))?;
        slices.retain(|slice| {
            let labels = slice.metadata.labels.as_ref();
            let service = labels.and_then(|labels| labels.get("kubernetes.io/service-name"));
            service.is_some_and(|service| service == named.name)
        });
        let none = || {
            let name = named.name;
            ApiError::unavailable(format!("no endpoints available for service {name:?}"))
        };
        let mut candidates = ready_pods(&slices, &port);
        while !candidates.is_empty() {
            let chosen = rng::below(candidates.len() as u64);
            let (ip, port, pod) = candidates.swap_remove(usize::try_from(chosen).unwrap_or(0));
            // Only what the Pod itself says it has: endpoints can be written by others.
            let pod = reader.get::<Pod>(Some(namespace), pod).await?;
            if pod.is_some_and(|pod| has_ip(&pod, ip)) {
                return Ok(join(ip, &port.to_string()));
            }
        }
        Err(none())
    }

    async fn node_address(self, named: &Named<'_>) -> Result<NodeAddress> {
        let found = self.server.reader.get::<Node>(None, named.name).await?;
        let node =
            found.ok_or_else(|| ApiError::not_found(&Subject::of("", "nodes"), named.name))?;
        let status = node.status.as_ref();
        let endpoints = status.and_then(|status| status.daemon_endpoints.as_ref());
        let agent = endpoints.and_then(|endpoints| endpoints.kubelet_endpoint.as_ref());
        let agent = agent.map(|agent| agent.port).filter(|port| *port != 0).unwrap_or(AGENT_PORT);
        if named.port.is_empty() || named.port == agent.to_string() {
            return Ok(NodeAddress::Agent(Box::new(node)));
        }
        let addresses = status.and_then(|status| status.addresses.as_deref()).unwrap_or_default();
        let internal = addresses.iter().find(|address| address.type_ == "InternalIP");
        let ip = internal.and_then(|address| address.address.parse().ok());
        let ip = ip.filter(is_global_unicast);
        let ip = ip.ok_or_else(|| ApiError::bad_request("address not allowed"))?;
        Ok(NodeAddress::Port(join(ip, named.port)))
    }
}

/// Where a node's proxy leads.
enum NodeAddress {
    /// To its agent.
    Agent(Box<Node>),
    /// To another port of its.
    Port(String),
}

/// The client's path up to the proxy, and what follows it.
fn split_path(path: &str, namespaced: bool) -> Option<(&str, &str)> {
    // `/api/v1/namespaces/a/pods/p/proxy` or `/api/v1/nodes/n/proxy`.
    let slashes = if namespaced { 7 } else { 5 };
    let start = path.match_indices('/').nth(slashes - 1)?.0 + 1;
    let end = path[start..].find('/').map_or(path.len(), |end| start + end);
    Some(path.split_at(end))
}

/// A page of the root has relative links: its path must end in a slash.
fn to_root(uri: &http::Uri) -> Response<ResponseBody> {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(&format!("{}/{query}", uri.path())) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// The name of the port that is meant.
fn port_name(service: &Service, named: &Named<'_>) -> Result<String> {
    let Ok(number) = named.port.parse::<i32>() else { return Ok(named.port.to_owned()) };
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let port = ports.iter().find(|port| port.port == number).ok_or_else(|| {
        let name = named.name;
        ApiError::unavailable(format!("no service port {number} found for service {name:?}"))
    })?;
    Ok(port.name.clone().unwrap_or_default())
}

/// Ready endpoints that are Pods: address, port, name.
fn ready_pods<'a>(slices: &'a [EndpointSlice], port: &str) -> Vec<(IpAddr, i32, &'a str)> {
    let of_slice = |slice: &'a EndpointSlice| {
        let ports = slice.ports.as_deref().unwrap_or_default();
        let found = ports.iter().find(|found| found.name.as_deref().unwrap_or_default() == port);
        let number = found.and_then(|found| found.port);
        let endpoints = slice.endpoints.iter().flatten();
        endpoints.filter_map(move |endpoint| candidate(endpoint, number?))
    };
    slices.iter().flat_map(of_slice).collect()
}

fn candidate(endpoint: &SliceEndpoint, port: i32) -> Option<(IpAddr, i32, &str)> {
    let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready);
    let pod = endpoint.target_ref.as_ref().filter(|it| it.kind.as_deref() == Some("Pod"))?;
    let ip: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    (ready.unwrap_or(true) && is_global_unicast(&ip)).then_some((ip, port, pod.name.as_deref()?))
}

fn has_ip(pod: &Pod, ip: IpAddr) -> bool {
    let Some(status) = &pod.status else { return false };
    let is_it = |text: &str| text.parse() == Ok(ip);
    status.pod_ip.as_deref().is_some_and(is_it)
        || status.pod_ips.iter().flatten().any(|found| is_it(&found.ip))
}

/// Whether an address is one that a Pod can have (Go's `IsGlobalUnicast`): not the server's own
/// loopback, nor what every link has.
fn is_global_unicast(ip: &IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(link_local || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast())
}

fn join(ip: IpAddr, port: &str) -> String {
    let host = match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    if port.is_empty() { host } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_have_a_scheme_and_a_port() {
        let named = |scheme, name, port| Some(Named { scheme, name, port });
        assert_eq!(Named::parse("a"), named("", "a", ""));
        assert_eq!(Named::parse("a:80"), named("", "a", "80"));
        assert_eq!(Named::parse("https:a:web"), named("https", "a", "web"));
        assert_eq!(Named::parse("http:a:"), named("http", "a", ""));
        for wrong in ["", ":80", "ftp:a:80", "a:b:c", "https:a:1:2"] {
            assert_eq!(Named::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_follows_the_proxy_is_the_backends() {
        let pod = "/api/v1/namespaces/a/pods/proxy/proxy";
        assert_eq!(split_path(pod, true), Some((pod, "")));
        let path = format!("{pod}/x%2Fy/proxy/");
        assert_eq!(split_path(&path, true), Some((pod, "/x%2Fy/proxy/")));
        let node = "/api/v1/nodes/n/proxy";
        assert_eq!(split_path("/api/v1/nodes/n/proxy/logs/", false), Some((node, "/logs/")));
    }

    #[test]
    fn addresses_of_the_servers_own_machine_are_not_proxied_to() {
        let check = |text: &str| is_global_unicast(&text.parse().unwrap());
        for ip in ["10.0.0.1", "192.0.2.1", "fd00::1"] {
            assert!(check(ip), "{ip}");
        }
        for ip in ["127.0.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.1", "::1", "fe80::1"] {
            assert!(!check(ip), "{ip}");
        }
    }
}
