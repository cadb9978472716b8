//! What an update of a Service keeps, drops and may not change.

use k8s_openapi::api::core::v1::ServiceSpec;
use serde_json::json;

use super::{
    super::check::{Errors, IMMUTABLE, list, text},
    has_node_ports, is_external, is_external_name, is_headless, needs_health_check,
};
use crate::field::{ErrorList, Path};

/// Takes over from the old spec what was allocated and the update left out, and drops what the
/// new type has no use for and the update left as it was.
pub(super) fn keep_allocations(new: &mut ServiceSpec, old: &ServiceSpec) {
    drop_what_the_type_lost(new, old);
    if !is_external_name(new) && !is_external_name(old) {
        if text(&new.cluster_ip).is_empty() {
            new.cluster_ip = old.cluster_ip.clone();
            if list(&new.cluster_ips).is_empty() {
                new.cluster_ips = old.cluster_ips.clone();
            }
        }
        // A client that knows only the one field changes only that one.
        let changed = new.cluster_ip != old.cluster_ip;
        if changed && new.cluster_ips == old.cluster_ips || list(&new.cluster_ips).is_empty() {
            new.cluster_ips = new.cluster_ip.clone().map(|ip| vec![ip]);
        }
    } else if let Some(ip) = new.cluster_ip.clone().filter(|ip| !ip.is_empty())
        && list(&new.cluster_ips).is_empty()
    {
        new.cluster_ips = Some(vec![ip]);
    }
    if has_node_ports(new) && has_node_ports(old) {
        let old_ports = list(&old.ports);
        let used: Vec<i32> = list(&new.ports).iter().filter_map(|port| port.node_port).collect();
        for port in new.ports.iter_mut().flatten() {
            if port.node_port.unwrap_or(0) != 0 {
                continue;
            }
            let same = |old: &&_| same_port(old, port);
            let kept = old_ports.iter().find(same).and_then(|old| old.node_port);
            port.node_port = kept.filter(|kept| !used.contains(kept));
        }
    }
    if needs_health_check(new)
        && needs_health_check(old)
        && new.health_check_node_port.unwrap_or(0) == 0
    {
        new.health_check_node_port = old.health_check_node_port;
    }
}

type Port = k8s_openapi::api::core::v1::ServicePort;

fn same_port(a: &Port, b: &Port) -> bool {
    a.port == b.port && a.protocol == b.protocol
}

fn drop_what_the_type_lost(new: &mut ServiceSpec, old: &ServiceSpec) {
    if is_external_name(new) && !is_external_name(old) {
        // A client that knows only the one field clears only that one.
        let left = new.cluster_ip == old.cluster_ip || text(&new.cluster_ip).is_empty();
        if left && new.cluster_ips == old.cluster_ips {
            new.cluster_ip = None;
            new.cluster_ips = None;
        }
        if new.ip_families == old.ip_families {
            new.ip_families = None;
        }
        if new.ip_family_policy == old.ip_family_policy {
            new.ip_family_policy = None;
        }
    }
    if has_node_ports(old) && !has_node_ports(new) {
        let ports = |spec: &ServiceSpec| -> Vec<_> {
            list(&spec.ports).iter().map(|port| port.node_port).collect()
        };
        if ports(new) == ports(old) {
            for port in new.ports.iter_mut().flatten() {
                port.node_port = None;
            }
        }
    }
    if needs_health_check(old)
        && !needs_health_check(new)
        && new.health_check_node_port == old.health_check_node_port
    {
        new.health_check_node_port = None;
    }
    let balanced = |spec: &ServiceSpec| text(&spec.type_) == "LoadBalancer";
    if balanced(old) && !balanced(new) {
        if new.allocate_load_balancer_node_ports == old.allocate_load_balancer_node_ports {
            new.allocate_load_balancer_node_ports = None;
        }
        if new.load_balancer_class == old.load_balancer_class {
            new.load_balancer_class = None;
        }
    }
    if is_external(old)
        && !is_external(new)
        && new.external_traffic_policy == old.external_traffic_policy
    {
        new.external_traffic_policy = None;
    }
}

/// What is wrong with the change.
pub(super) fn validate(new: &ServiceSpec, old: &ServiceSpec) -> ErrorList {
    let (mut errors, path) = (Errors::default(), Path::new("spec"));
    if !is_external_name(new) && !is_external_name(old) {
        addresses(&mut errors, new, old, &path);
        if !is_headless(new) && !is_headless(old) {
            families(&mut errors, new, old, &path);
        }
    }
    let balanced = |spec: &ServiceSpec| text(&spec.type_) == "LoadBalancer";
    if balanced(new) && balanced(old) && new.load_balancer_class != old.load_balancer_class {
        errors.invalid(
            &path.child("loadBalancerClass"),
            json!(new.load_balancer_class),
            "may not change once set",
        );
    }
    let port = |spec: &ServiceSpec| spec.health_check_node_port.unwrap_or(0);
    if needs_health_check(new) && needs_health_check(old) && port(new) != port(old) {
        errors.forbidden(&path.child("healthCheckNodePort"), IMMUTABLE);
    }
    errors.0
}

const ONCE: &str = "may not change once set";

/// A second address may come, and go for those who say so; the others stay.
fn addresses(errors: &mut Errors, new: &ServiceSpec, old: &ServiceSpec, path: &Path) {
    if is_headless(new) && is_headless(old) {
        return;
    }
    let at = path.child("clusterIPs");
    let (ips, was) = (list(&new.cluster_ips), list(&old.cluster_ips));
    let shown = json!(ips);
    if ips.len() == was.len() {
        for (i, _) in ips.iter().zip(was).enumerate().filter(|(_, (ip, was))| ip != was) {
            errors.invalid(&at.index(i), shown.clone(), ONCE);
        }
        return;
    }
    if ips.is_empty() {
        errors.invalid(&at.index(0), shown.clone(), "primary clusterIP can not be unset");
    } else if was.first().is_some_and(|was| *was != ips[0]) {
        errors.invalid(&at.index(0), shown, ONCE);
    }
    released(errors, new, ips.len(), was.len(), "clusterIP", path);
}

/// The same for address families. Kubernetes' messages always name the first.
fn families(errors: &mut Errors, new: &ServiceSpec, old: &ServiceSpec, path: &Path) {
    let at = path.child("ipFamilies").index(0);
    let (families, was) = (list(&new.ip_families), list(&old.ip_families));
    if families.len() == was.len() {
        for _ in families.iter().zip(was).filter(|(family, was)| family != was) {
            errors.invalid(&at, json!(families), ONCE);
        }
        return;
    }
    if families.len() < was.len() && list(&new.cluster_ips).is_empty() {
        errors.invalid(&at, json!(families), "primary ipFamily can not be unset");
    }
    if let (Some(family), Some(was)) = (families.first(), was.first())
        && family != was
    {
        errors.invalid(&at, json!(new.cluster_ips), ONCE);
    }
    released(errors, new, families.len(), was.len(), "ipFamily", path);
}

/// Who gives up the second of two says that one is enough.
fn released(
    errors: &mut Errors,
    new: &ServiceSpec,
    count: usize,
    was: usize,
    what: &str,
    path: &Path,
) {
    if count == 1 && was > 1 && text(&new.ip_family_policy) != "SingleStack" {
        let wrong = format!("must be set to 'SingleStack' when releasing the secondary {what}");
        errors.invalid(&path.child("ipFamilyPolicy"), json!(new.ip_family_policy), wrong);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::resources::{Kind, Part, service::Services};

    type Service = k8s_openapi::api::core::v1::Service;

    fn service(spec: Value) -> Service {
        let json = json!({"metadata": {"name": "s"}, "spec": spec});
        let mut service = serde_json::from_value(json).unwrap();
        <Services as Kind>::default(&mut service);
        service
    }

    #[track_caller]
    fn check(old: Value, new: Value, wrong: &[&str]) -> Service {
        let mut old = service(old);
        Services::prepare_create(&mut old);
        let mut new = service(new);
        Services::prepare_update(&mut new, &old, Part::Main);
        let mut errors = Services::validate(&new);
        errors.extend(Services::validate_update(&new, &old, Part::Main));
        let messages: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(messages, wrong);
        new
    }

    #[test]
    fn an_update_keeps_what_was_allocated() {
        let new = check(
            json!({"type": "NodePort", "clusterIP": "10.0.0.1",
                "ports": [{"port": 80, "nodePort": 30080}]}),
            json!({"type": "NodePort", "ports": [{"port": 80}]}),
            &[],
        );
        let spec = new.spec.unwrap();
        assert_eq!(spec.cluster_ip.as_deref(), Some("10.0.0.1"));
        assert_eq!(spec.cluster_ips, Some(vec!["10.0.0.1".to_owned()]));
        assert_eq!(spec.ports.unwrap()[0].node_port, Some(30080));
    }

    #[test]
    fn the_cluster_ip_does_not_change() {
        check(
            json!({"clusterIP": "10.0.0.1", "ports": [{"port": 80}]}),
            json!({"clusterIP": "10.0.0.2", "ports": [{"port": 80}]}),
            &["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"],
        );
    }

    #[test]
    fn a_change_of_type_drops_what_only_the_old_type_had() {
        let node_port = json!({"type": "NodePort", "clusterIP": "10.0.0.1",
            "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "nodePort": 30080}]});
        let mut internal = node_port.clone();
        internal["type"] = json!("ClusterIP");
        let new = check(node_port.clone(), internal, &[]);
        let spec = new.spec.unwrap();
        assert_eq!(spec.external_traffic_policy, None);
        assert_eq!(spec.ports.unwrap()[0].node_port, None);

        let mut name = node_port.clone();
        name["type"] = json!("ExternalName");
        name["externalName"] = json!("a.example.com");
        name["clusterIPs"] = json!(["10.0.0.1"]);
        let new = check(node_port, name, &[]);
        assert_eq!(new.spec.unwrap().cluster_ip, None);
    }

    #[test]
    fn a_second_family_goes_for_those_who_want_one() {
        let dual = json!({"clusterIPs": ["10.0.0.1", "fd00::1"], "clusterIP": "10.0.0.1",
            "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
            "ports": [{"port": 80}]});
        let with = |policy: &str, ips: Value, families: Value| {
            let mut spec = dual.clone();
            spec["ipFamilyPolicy"] = json!(policy);
            spec["clusterIP"] = ips[0].clone();
            spec["clusterIPs"] = ips;
            spec["ipFamilies"] = families;
            spec
        };
        let (first, v4) = (json!(["10.0.0.1"]), json!(["IPv4"]));
        check(dual.clone(), with("SingleStack", first.clone(), v4.clone()), &[]);
        let released = "must be set to 'SingleStack' when releasing the secondary";
        let policy = "spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\"";
        check(
            dual.clone(),
            with("PreferDualStack", first, v4),
            &[
                &format!("{policy}: {released} clusterIP"),
                &format!("{policy}: {released} ipFamily"),
            ],
        );
        check(
            dual.clone(),
            with("RequireDualStack", json!(["10.0.0.1", "fd00::2"]), json!(["IPv4", "IPv6"])),
            &[
                "spec.clusterIPs[1]: Invalid value: [\"10.0.0.1\",\"fd00::2\"]: may not change once \
               set",
            ],
        );
    }

    #[test]
    fn the_port_for_health_checks_stays() {
        let balanced = |port: i32| {
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local",
                "clusterIP": "10.0.0.1", "healthCheckNodePort": port,
                "ports": [{"port": 80, "nodePort": 30080}]})
        };
        check(balanced(30000), balanced(0), &[]);
        check(
            balanced(30000),
            balanced(30001),
            &["spec.healthCheckNodePort: Forbidden: field is immutable"],
        );
    }

    #[test]
    fn the_class_of_a_load_balancer_stays() {
        let of = |class: &str| {
            json!({"type": "LoadBalancer", "clusterIP": "10.0.0.1", "loadBalancerClass": class,
                "ports": [{"port": 80, "nodePort": 30080}]})
        };
        check(of("example.com/a"), of("example.com/a"), &[]);
        check(
            of("example.com/a"),
            of("example.com/b"),
            &["spec.loadBalancerClass: Invalid value: \"example.com/b\": may not change once set"],
        );
    }
}
