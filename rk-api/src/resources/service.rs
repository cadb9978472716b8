//! Service.
//!
//! Cluster addresses and node ports are allocated by the server, between defaulting and
//! validation.

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec, ServiceStatus},
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Kind, Part, Resource,
    check::{default_text, list, text},
    row::{PROXY_VERBS, Row},
};
use crate::{
    field::{ErrorList, Path},
    meta::{
        addresses, names,
        table::{NONE, age, labels, list_or_none, name},
    },
};

mod update;
mod validation;

pub(super) use validation::point_of_entry;

/// The row of Service.
pub(super) fn row() -> Resource {
    Row::of::<Services>()
        .short(&["svc"])
        .in_all()
        .stored_in("services/specs")
        .sub("proxy", "ServiceProxyOptions", PROXY_VERBS)
        .status()
        .columns(COLUMNS)
        .done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Type", "string", "How the Service is reached."),
    Column::new("Cluster-IP", "string", "Its address within the cluster."),
    Column::new("External-IP", "string", "Its addresses outside the cluster."),
    Column::new("Port(s)", "string", "Its ports, with the nodes' ports."),
    Column::AGE,
    Column::wide("Selector", "string", "The labels of the Pods behind it."),
];

/// How a Service behaves.
#[derive(Debug, Default)]
pub(super) struct Services;

impl Kind for Services {
    type Object = Service;

    fn default(service: &mut Service) {
        default_status(service);
        default_spec(service.spec.get_or_insert_default());
    }

    fn prepare_create(service: &mut Service) {
        service.status = Some(ServiceStatus::default());
        let spec = service.spec.get_or_insert_default();
        if is_external_name(spec) {
            return;
        }
        if let (Some(ip), []) = (spec.cluster_ip.clone(), list(&spec.cluster_ips))
            && !ip.is_empty()
        {
            spec.cluster_ips = Some(vec![ip]);
        }
    }

    fn prepare_update(new: &mut Service, old: &Service, part: Part) {
        if part == Part::Status {
            new.spec = old.spec.clone();
            return;
        }
        new.status = old.status.clone();
        if let (Some(new), Some(old)) = (&mut new.spec, &old.spec) {
            update::keep_allocations(new, old);
        }
        // It takes a while until there is no load balancer any more; nobody needs to know.
        let is_balanced = new.spec.as_ref().is_some_and(|spec| text(&spec.type_) == "LoadBalancer");
        let status = new.status.as_mut().filter(|_| !is_balanced);
        if let Some(balancer) = status.and_then(|status| status.load_balancer.as_mut()) {
            balancer.ingress = None;
        }
    }

    fn validate(service: &Service) -> ErrorList {
        validation::service(service)
    }

    fn validate_update(new: &Service, old: &Service, part: Part) -> ErrorList {
        match (part, &new.spec, &old.spec) {
            (Part::Main, Some(new), Some(old)) => update::validate(new, old),
            (Part::Status, ..) => validation::status(new),
            _ => ErrorList::new(),
        }
    }

    fn validate_name(name: &str, generate_prefix: bool) -> Vec<String> {
        names::dns1035_label(name, generate_prefix)
    }

    fn fields(service: &Service) -> super::Fields {
        let spec = service.spec.clone().unwrap_or_default();
        super::Fields::from_iter([
            ("spec.clusterIP", text(&spec.cluster_ip).to_owned()),
            ("spec.type", text(&spec.type_).to_owned()),
        ])
    }

    const FIELDS: &'static [&'static str] = &["spec.clusterIP", "spec.type"];

    fn warnings(service: &Service, _: Option<&Service>) -> Vec<String> {
        let Some(spec) = &service.spec else { return Vec::new() };
        let mut all = odd(&service.metadata, spec);
        all.extend(odd_addresses(spec));
        all
    }

    fn cells(service: &Service, now: Timestamp) -> Vec<Value> {
        let spec = service.spec.clone().unwrap_or_default();
        let internal = match (list(&spec.cluster_ips).first(), text(&spec.cluster_ip)) {
            (Some(first), _) if !first.is_empty() => first.as_str(),
            (_, "") => NONE,
            (_, ip) => ip,
        };
        vec![
            json!(name(&service.metadata)),
            json!(text(&spec.type_)),
            json!(internal),
            json!(external_addresses(&spec, service.status.as_ref())),
            json!(ports(list(&spec.ports))),
            json!(age(&service.metadata, now)),
            json!(labels(spec.selector.as_ref())),
        ]
    }

    const CREATE_ON_UPDATE: bool = true;
}

/// Addresses that are not written as they should be.
fn odd_addresses(spec: &ServiceSpec) -> Vec<String> {
    let path = Path::new("spec");
    let mut all = Vec::new();
    for (field, ips) in [("clusterIPs", &spec.cluster_ips), ("externalIPs", &spec.external_ips)] {
        for (i, ip) in list(ips).iter().enumerate() {
            all.extend(addresses::ip_warnings(&path.child(field).index(i), ip));
        }
    }
    let balanced = text(&spec.load_balancer_ip);
    all.extend(addresses::ip_warnings(&path.child("loadBalancerIP"), balanced));
    for (i, range) in list(&spec.load_balancer_source_ranges).iter().enumerate() {
        let at = path.child("loadBalancerSourceRanges").index(i);
        all.extend(addresses::cidr_warnings(&at, range));
    }
    all
}

/// What a Service says in vain, or in words of yesterday.
fn odd(meta: &ObjectMeta, spec: &ServiceSpec) -> Vec<String> {
    const OLD_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    let has_hints = meta.annotations.as_ref().is_some_and(|all| all.contains_key(OLD_HINTS));
    let headless = is_headless(spec) && text(&spec.type_) == "ClusterIP";
    let (external, ips) = (is_external_name(spec), !list(&spec.external_ips).is_empty());
    let all = [
        (
            has_hints,
            "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use \
             service.kubernetes.io/topology-mode instead",
        ),
        (
            headless && !text(&spec.load_balancer_ip).is_empty(),
            "spec.loadBalancerIP is ignored for headless services",
        ),
        (headless && ips, "spec.externalIPs is ignored for headless services"),
        (
            headless && text(&spec.session_affinity) != "None",
            "spec.SessionAffinity is ignored for headless services",
        ),
        (external && ips, "spec.externalIPs is ignored when spec.type is \"ExternalName\""),
        (
            !external && !text(&spec.external_name).is_empty(),
            "spec.externalName is ignored when spec.type is not \"ExternalName\"",
        ),
        (
            text(&spec.traffic_distribution) == "PreferClose",
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
        ),
    ];
    all.into_iter().filter(|(is_so, _)| *is_so).map(|(_, why)| why.to_owned()).collect()
}

fn is_external_name(spec: &ServiceSpec) -> bool {
    text(&spec.type_) == "ExternalName"
}

fn has_node_ports(spec: &ServiceSpec) -> bool {
    matches!(text(&spec.type_), "NodePort" | "LoadBalancer")
}

/// Reachable from outside the cluster: the traffic policy for that applies.
fn is_external(spec: &ServiceSpec) -> bool {
    has_node_ports(spec) || text(&spec.type_) == "ClusterIP" && !list(&spec.external_ips).is_empty()
}

/// Whether load balancers ask each node for the health of the Service's Pods there.
fn needs_health_check(spec: &ServiceSpec) -> bool {
    text(&spec.type_) == "LoadBalancer" && text(&spec.external_traffic_policy) == "Local"
}

fn is_headless(spec: &ServiceSpec) -> bool {
    text(&spec.cluster_ip) == "None"
}

/// A load balancer that is told by its address delivers to it, unless it says otherwise (KEP-1860).
fn default_status(service: &mut Service) {
    let is_balanced = service.spec.as_ref().is_some_and(|spec| text(&spec.type_) == "LoadBalancer");
    let status = service.status.as_mut().filter(|_| is_balanced);
    let points = status.and_then(|status| status.load_balancer.as_mut()?.ingress.as_mut());
    for point in points.into_iter().flatten().filter(|point| !text(&point.ip).is_empty()) {
        point.ip_mode.get_or_insert_with(|| "VIP".to_owned());
    }
}

fn default_spec(spec: &mut ServiceSpec) {
    default_text(&mut spec.session_affinity, "None");
    match text(&spec.session_affinity) {
        "None" => spec.session_affinity_config = None,
        "ClientIP" => {
            let config = spec.session_affinity_config.get_or_insert_default();
            config.client_ip.get_or_insert_default().timeout_seconds.get_or_insert(10800);
        }
        _ => {}
    }
    default_text(&mut spec.type_, "ClusterIP");
    for port in spec.ports.iter_mut().flatten() {
        default_text(&mut port.protocol, "TCP");
        let unset = match &port.target_port {
            None | Some(IntOrString::Int(0)) => true,
            Some(IntOrString::String(name)) => name.is_empty(),
            Some(IntOrString::Int(_)) => false,
        };
        if unset {
            port.target_port = Some(IntOrString::Int(port.port));
        }
    }
    if is_external(spec) {
        default_text(&mut spec.external_traffic_policy, "Cluster");
    }
    if matches!(text(&spec.type_), "ClusterIP" | "NodePort" | "LoadBalancer") {
        default_text(&mut spec.internal_traffic_policy, "Cluster");
    }
    if text(&spec.type_) == "LoadBalancer" {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
}

fn external_addresses(spec: &ServiceSpec, status: Option<&ServiceStatus>) -> String {
    let given = list(&spec.external_ips);
    match text(&spec.type_) {
        "ClusterIP" | "NodePort" => list_or_none(given),
        "ExternalName" => text(&spec.external_name).to_owned(),
        "LoadBalancer" => {
            let balancer = status.and_then(|status| status.load_balancer.as_ref());
            let ingress = balancer.map_or(&[][..], |balancer| list(&balancer.ingress));
            let found = ingress.iter().map(|ingress| match text(&ingress.ip) {
                "" => text(&ingress.hostname),
                ip => ip,
            });
            let all: Vec<&str> = found.chain(given.iter().map(String::as_str)).collect();
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        _ => "<unknown>".to_owned(),
    }
}

/// `80:30080/TCP,443/TCP`
fn ports(ports: &[ServicePort]) -> String {
    list_or_none(ports.iter().map(|port| {
        let protocol = text(&port.protocol);
        match port.node_port.unwrap_or(0) {
            0 => format!("{}/{protocol}", port.port),
            node_port => format!("{}:{node_port}/{protocol}", port.port),
        }
    }))
}
