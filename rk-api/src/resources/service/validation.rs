//! What is wrong with a Service.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde_json::json;

use super::{
    super::check::{Errors, labels, list, text},
    is_external, is_external_name, is_headless, needs_health_check,
};
use crate::{
    field::{ErrorList, FieldError, Path},
    meta::names,
};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const FAMILY_POLICIES: &[&str] = &["PreferDualStack", "RequireDualStack", "SingleStack"];

pub(super) fn service(service: &Service) -> ErrorList {
    let none = ServiceSpec::default();
    let (spec, path) = (service.spec.as_ref().unwrap_or(&none), Path::new("spec"));
    let mut errors = Errors::default();
    let ports = list(&spec.ports);
    if ports.is_empty() && !is_headless(spec) && !is_external_name(spec) {
        errors.required(&path.child("ports"), "");
    }
    by_type(&mut errors, spec, &path);
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        self::port(&mut errors, port, ports.len() > 1, &mut seen, &path.child("ports").index(i));
    }
    errors.extend(labels(spec.selector.as_ref(), &path.child("selector")));
    session_affinity(&mut errors, spec, &path);
    if !is_external_name(spec) {
        addresses(&mut errors, spec, &path);
    }
    external_ips(&mut errors, list(&spec.external_ips), &path.child("externalIPs"));
    errors.required_one_of(&path.child("type"), text(&spec.type_), TYPES);
    port_conflicts(&mut errors, spec, &path.child("ports"));
    load_balancer(&mut errors, spec, &path);
    traffic(&mut errors, spec, &path);
    errors.0
}

fn by_type(errors: &mut Errors, spec: &ServiceSpec, path: &Path) {
    match text(&spec.type_) {
        type_ @ ("LoadBalancer" | "NodePort") if is_headless(spec) => errors.invalid(
            &path.child("clusterIPs").index(0),
            "None",
            format!("may not be set to 'None' for {type_} services"),
        ),
        "ExternalName" => {
            let fields = [
                ("clusterIPs", !list(&spec.cluster_ips).is_empty()),
                ("ipFamilies", !list(&spec.ip_families).is_empty()),
                ("ipFamilyPolicy", spec.ip_family_policy.is_some()),
            ];
            for (field, _) in fields.into_iter().filter(|(_, set)| *set) {
                errors.forbidden(&path.child(field), "may not be set for ExternalName services");
            }
            let name = text(&spec.external_name);
            let name = name.strip_suffix('.').unwrap_or(name);
            let form = |name: &str| names::dns_subdomain(name, false);
            errors.required_form(&path.child("externalName"), name, form);
        }
        _ => {}
    }
}

fn port<'a>(
    errors: &mut Errors,
    port: &'a ServicePort,
    needs_name: bool,
    seen: &mut BTreeSet<&'a str>,
    path: &Path,
) {
    let (name, at) = (text(&port.name), path.child("name"));
    if name.is_empty() {
        if needs_name {
            errors.required(&at, "");
        }
    } else {
        errors.form(&at, name, names::dns_label(name, false));
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&at, name));
        }
    }
    errors.form(&path.child("port"), port.port, names::port_number(port.port));
    let protocols = ["SCTP", "TCP", "UDP"];
    errors.required_one_of(&path.child("protocol"), text(&port.protocol), &protocols);
    let target = port.target_port.as_ref().unwrap_or(&IntOrString::Int(0));
    errors.port(&path.child("targetPort"), target);
    if let Some(protocol) = &port.app_protocol {
        errors.label_key(&path.child("appProtocol"), protocol);
    }
}

fn port_conflicts(errors: &mut Errors, spec: &ServiceSpec, path: &Path) {
    let (mut node_ports, mut ports) = (BTreeSet::new(), BTreeSet::new());
    for (i, port) in list(&spec.ports).iter().enumerate() {
        let protocol = text(&port.protocol);
        if let Some(node_port) = port.node_port.filter(|port| *port != 0) {
            let at = path.index(i).child("nodePort");
            if text(&spec.type_) == "ClusterIP" {
                errors.forbidden(&at, "may not be used when `type` is 'ClusterIP'");
            }
            if !node_ports.insert((protocol, node_port)) {
                errors.push(FieldError::duplicate(&at, node_port));
            }
        }
        if !ports.insert((protocol, port.port)) {
            let value = json!({"protocol": protocol, "port": port.port});
            errors.push(FieldError::duplicate(&path.index(i), value));
        }
    }
}

fn session_affinity(errors: &mut Errors, spec: &ServiceSpec, path: &Path) {
    let affinity = text(&spec.session_affinity);
    errors.required_one_of(&path.child("sessionAffinity"), affinity, &["ClientIP", "None"]);
    let at = path.child("sessionAffinityConfig");
    let client = spec.session_affinity_config.as_ref().map(|config| &config.client_ip);
    match (affinity, client) {
        ("None", Some(_)) => errors.forbidden(&at, "must not be set when session affinity is None"),
        ("ClientIP", None) => errors.required(&at, "when session affinity type is ClientIP"),
        ("ClientIP", Some(None)) => {
            errors.required(&at.child("clientIP"), "when session affinity type is ClientIP");
        }
        ("ClientIP", Some(Some(client))) => {
            let at = at.child("clientIP.timeoutSeconds");
            match client.timeout_seconds {
                None => errors.required(&at, "when session affinity type is ClientIP"),
                Some(seconds) if !(1..=86400).contains(&seconds) => {
                    errors.invalid(&at, seconds, "must be greater than 0 and less than 86400");
                }
                Some(_) => {}
            }
        }
        _ => {}
    }
}

fn addresses(errors: &mut Errors, spec: &ServiceSpec, path: &Path) {
    let (ip, ips) = (text(&spec.cluster_ip), list(&spec.cluster_ips));
    let ips_at = path.child("clusterIPs");
    match ips.first() {
        Some(_) if ip.is_empty() => {
            errors.invalid(
                &ips_at,
                ips.to_vec(),
                "must be empty when `clusterIP` is not specified",
            );
        }
        None if !ip.is_empty() => errors.required(&ips_at, ""),
        Some(first) if first != ip => {
            errors.invalid(&ips_at, ips.to_vec(), "first value must match `clusterIP`");
        }
        _ => {}
    }
    let families = list(&spec.ip_families);
    for (i, family) in families.iter().enumerate() {
        let at = path.child("ipFamilies").index(i);
        errors.one_of(&at, family, &["IPv4", "IPv6"]);
        if families[..i].contains(family) {
            errors.push(FieldError::duplicate(&at, family.as_str()));
        }
    }
    if let Some(policy) = &spec.ip_family_policy {
        errors.one_of(&path.child("ipFamilyPolicy"), policy, FAMILY_POLICIES);
    }
    let before = errors.0.len();
    for (i, ip) in ips.iter().enumerate() {
        if i == 0 && ip == "None" {
            if ips.len() > 1 {
                errors.invalid(&ips_at, ips.to_vec(), "'None' must be the first and only value");
            }
        } else {
            errors.form(&ips_at.index(i), ip.as_str(), names::ip(ip));
        }
    }
    if ips.len() > 2 {
        errors.invalid(&ips_at, ips.to_vec(), "may only hold up to 2 values");
    }
    if errors.0.len() > before {
        return;
    }
    let family = |ip: &str| if ip.contains(':') { "IPv6" } else { "IPv4" };
    if let [first, second] = ips
        && family(first) == family(second)
    {
        errors.invalid(&ips_at, ips.to_vec(), "may specify no more than one IP for each IP family");
    }
    for (i, (ip, wanted)) in ips.iter().zip(families).enumerate() {
        if ip != "None" && family(ip) != wanted {
            errors.invalid(
                &ips_at.index(i),
                ip.as_str(),
                format!("expected an {wanted} value as indicated by `ipFamilies[{i}]`"),
            );
        }
    }
}

fn external_ips(errors: &mut Errors, ips: &[String], path: &Path) {
    for (i, ip) in ips.iter().enumerate() {
        let at = path.index(i);
        match names::parse_ip(ip) {
            Some(address) => errors.form(&at, ip.as_str(), names::endpoint_ip(address)),
            None => errors.form(&at, ip.as_str(), names::ip(ip)),
        }
    }
}

/// What is wrong with where a load balancer is said to be.
pub(super) fn status(service: &Service) -> ErrorList {
    let mut errors = Errors::default();
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let points = status.map_or(&[][..], |status| list(&status.ingress));
    let is_balanced = service.spec.as_ref().is_some_and(|spec| text(&spec.type_) == "LoadBalancer");
    if !points.is_empty() && !is_balanced {
        let wrong = "may only be used when `spec.type` is 'LoadBalancer'";
        errors.forbidden(&Path::new("status.loadBalancer.ingress"), wrong);
        return errors.0;
    }
    for (i, point) in points.iter().enumerate() {
        let at = Path::new("status.loadBalancer.ingress").index(i);
        let (ip, host) = (text(&point.ip), text(&point.hostname));
        point_of_entry(&mut errors, ip, host, &at);
        let at = at.child("ipMode");
        match &point.ip_mode {
            None if !ip.is_empty() => errors.required(&at, "must be specified when `ip` is set"),
            Some(_) if ip.is_empty() => {
                errors.forbidden(&at, "may not be specified when `ip` is not set");
            }
            Some(mode) => errors.one_of(&at, mode, &["Proxy", "VIP"]),
            None => {}
        }
    }
    errors.0
}

/// What is wrong with an address or a name under which a load balancer is found.
pub(in super::super) fn point_of_entry(errors: &mut Errors, ip: &str, host: &str, path: &Path) {
    if !ip.is_empty() {
        errors.form(&path.child("ip"), ip, names::ip(ip));
    }
    if !host.is_empty() {
        let at = path.child("hostname");
        errors.form(&at, host, names::dns_subdomain(host, false));
        if names::parse_ip(host).is_some() {
            errors.invalid(&at, host, "must be a DNS name, not an IP address");
        }
    }
}

fn load_balancer(errors: &mut Errors, spec: &ServiceSpec, path: &Path) {
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    let balanced = text(&spec.type_) == "LoadBalancer";
    let ranges = list(&spec.load_balancer_source_ranges);
    let at = path.child("LoadBalancerSourceRanges");
    if !ranges.is_empty() && !balanced {
        errors.forbidden(&at, ONLY);
    }
    for (i, range) in ranges.iter().enumerate() {
        errors.form(&at.index(i), range.as_str(), names::cidr(range.trim()));
    }
    match spec.allocate_load_balancer_node_ports {
        Some(_) if !balanced => {
            errors.forbidden(&path.child("allocateLoadBalancerNodePorts"), ONLY);
        }
        None if balanced => errors.required(&Path::new("allocateLoadBalancerNodePorts"), ""),
        _ => {}
    }
    if let Some(class) = &spec.load_balancer_class {
        let at = path.child("loadBalancerClass");
        if balanced {
            errors.label_key(&at, class);
        } else {
            errors.forbidden(&at, ONLY);
        }
    }
}

fn traffic(errors: &mut Errors, spec: &ServiceSpec, path: &Path) {
    let at = path.child("externalTrafficPolicy");
    let policy = text(&spec.external_traffic_policy);
    if is_external(spec) {
        errors.required_one_of(&at, policy, &["Cluster", "Local"]);
    } else if !policy.is_empty() {
        errors.invalid(&at, policy, "may only be set for externally-accessible services");
    }
    let port = spec.health_check_node_port.unwrap_or(0);
    if port != 0 && !needs_health_check(spec) {
        errors.invalid(
            &path.child("healthCheckNodePort"),
            port,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        );
    }
    let at = path.child("internalTrafficPolicy");
    match &spec.internal_traffic_policy {
        None if matches!(text(&spec.type_), "ClusterIP" | "NodePort" | "LoadBalancer") => {
            errors.required(&at, "");
        }
        Some(policy) => errors.one_of(&at, policy, &["Cluster", "Local"]),
        None => {}
    }
    if let Some(distribution) = &spec.traffic_distribution {
        errors.one_of(
            &path.child("trafficDistribution"),
            distribution,
            &["PreferClose", "PreferSameNode", "PreferSameZone"],
        );
    }
}
