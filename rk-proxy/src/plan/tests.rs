use k8s_openapi::api::{
    core::v1::{LoadBalancerIngress, LoadBalancerStatus, ServiceStatus},
    discovery::v1::{EndpointHints, ForNode, ForZone},
};
use proptest::prelude::*;

use super::*;
use crate::{
    Changes,
    testing::{ServiceBuilder, SliceBuilder, endpoint_slice, service},
};

fn web() -> ServiceBuilder {
    service("web").cluster_ip("10.96.0.10").port(80)
}

fn node() -> NodeView {
    NodeView { zone: Some("zone-a".to_owned()), ..NodeView::new("node-1") }
}

/// The one service port of `service`.
#[track_caller]
fn planned(service: &Service, slices: &[&EndpointSlice]) -> ServicePort {
    let ports = plan_service(service, slices, &node());
    assert_eq!(ports.len(), 1, "{ports:?}");
    ports.into_iter().next().unwrap()
}

/// The cluster endpoints of `web` with this slice, without ports.
#[track_caller]
fn check_cluster(what: &str, slice: SliceBuilder, expected: &[&str]) {
    let found = planned(&web(), &[&slice]).endpoints.cluster;
    let found: Vec<_> = found.iter().map(|endpoint| endpoint.ip().to_string()).collect();
    assert_eq!(found, expected, "{what}");
}

fn slice() -> SliceBuilder {
    endpoint_slice("web").port(8080)
}

fn hinted(slice: SliceBuilder, zone: Option<&str>, node: Option<&str>) -> SliceBuilder {
    slice.with(|slice| {
        let endpoint = slice.endpoints.as_mut().unwrap().last_mut().unwrap();
        endpoint.hints = Some(EndpointHints {
            for_zones: zone.map(|zone| vec![ForZone { name: zone.to_owned() }]),
            for_nodes: node.map(|node| vec![ForNode { name: node.to_owned() }]),
        });
    })
}

#[test]
fn services_without_an_address_have_no_rules() {
    let none = |service: &Service| assert_eq!(plan_service(service, &[], &node()), []);
    none(&service("headless").cluster_ip("None").port(80));
    none(&service("pending").port(80));
    none(&service("no-ports").cluster_ip("10.96.0.1"));
    none(&web().spec(|spec| spec.type_ = Some("ExternalName".to_owned())));
    none(&web().with(|service| {
        let labels = service.metadata.labels.get_or_insert_default();
        labels.insert(PROXY_NAME_LABEL.to_owned(), "other".to_owned());
    }));
}

#[test]
fn a_service_without_selector_has_the_endpoints_that_someone_wrote() {
    let port = planned(&web(), &[]);
    assert!(!port.endpoints.anywhere);

    let port = planned(&web(), &[&slice().ready("192.0.2.1")]);
    assert_eq!(port.endpoints.cluster, ["192.0.2.1:8080".parse().unwrap()]);
}

#[test]
fn ready_endpoints_are_used_and_terminating_ones_only_as_a_last_resort() {
    let (ready, starting) = ("10.0.0.1", "10.0.0.2");
    let (leaving, dead) = ("10.0.0.3", "10.0.0.4");
    let rest = |slice: SliceBuilder| {
        slice
            .endpoint(starting, false, false, false)
            .endpoint(leaving, false, true, true)
            .endpoint(dead, false, false, true)
    };
    check_cluster("one is ready", rest(slice().ready(ready)), &[ready]);
    check_cluster("none is ready", rest(slice()), &[leaving]);
    check_cluster("none serves", slice().endpoint(dead, false, false, true), &[]);
    check_cluster(
        "unknown conditions count as ready",
        slice().ready(ready).with(|slice| slice.endpoints.as_mut().unwrap()[0].conditions = None),
        &[ready],
    );
}

#[test]
fn a_port_is_found_by_name_and_protocol() {
    let two = service("web")
        .cluster_ip("10.96.0.10")
        .named_port("dns", 53, "UDP")
        .named_port("dns-tcp", 53, "TCP");
    let slice = endpoint_slice("web")
        .named_port("dns", 5353, "UDP")
        .named_port("dns-tcp", 5354, "TCP")
        .named_port("metrics", 9153, "TCP")
        .ready("10.0.0.1");

    let ports = plan_service(&two, &[&slice], &node());

    let endpoints: Vec<_> = ports.iter().map(|port| port.endpoints.cluster[0].port()).collect();
    assert_eq!(endpoints, [5353, 5354]);
    assert_eq!(ports[0].key.to_string(), "default/web:dns");
}

#[test]
fn several_slices_are_one_list_in_order_without_repeats() {
    let second = endpoint_slice("web").port(8080).ready("10.0.0.1").ready("10.0.0.3");
    let second = second.with(|slice| slice.metadata.name = Some("web-2".to_owned()));
    let other_port = endpoint_slice("web").port(9090).ready("10.0.0.2");

    let port =
        planned(&web(), &[&second, &slice().ready("10.0.0.3").ready("10.0.0.2"), &other_port]);

    let found: Vec<_> = port.endpoints.cluster.iter().map(ToString::to_string).collect();
    assert_eq!(found, ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.2:9090", "10.0.0.3:8080"]);
}

#[test]
fn a_dual_stack_service_has_each_port_once_for_each_family() {
    let dual = web().cluster_ip("fd00::10");
    let six = endpoint_slice("web").port(8080).ready("fd00:1::1");
    let six = six.with(|slice| slice.address_type = "IPv6".to_owned());

    let ports = plan_service(&dual, &[&slice().ready("10.0.0.1"), &six], &node());

    let found: Vec<_> = ports.iter().map(|p| (p.key.family, p.endpoints.cluster.len())).collect();
    assert_eq!(found, [(Family::V4, 1), (Family::V6, 1)]);
}

#[test]
fn the_policy_local_uses_endpoints_of_this_node_and_remembers_others() {
    let here = slice().ready("10.0.0.1").on("node-1").ready("10.0.1.1").on("node-2");
    let elsewhere = slice().ready("10.0.1.1").on("node-2");
    let leaving = slice().endpoint("10.0.0.1", false, true, true).on("node-1");
    let leaving = leaving.ready("10.0.1.1").on("node-2");
    let internal = web().spec(|spec| spec.internal_traffic_policy = Some("Local".to_owned()));
    let local = |slice: &SliceBuilder| {
        let endpoints = planned(&internal, &[slice]).endpoints;
        assert_eq!(endpoints.cluster, [], "nothing asks for them");
        (endpoints.local.len(), endpoints.anywhere)
    };
    assert_eq!(local(&here), (1, true));
    assert_eq!(local(&elsewhere), (0, true));
    assert_eq!(local(&leaving), (1, true), "falls back for itself");
    assert_eq!(local(&slice()), (0, false));

    let external =
        web().node_port(30080).spec(|spec| spec.external_traffic_policy = Some("Local".to_owned()));
    let endpoints = planned(&external, &[&here]).endpoints;
    assert_eq!((endpoints.cluster.len(), endpoints.local.len()), (2, 1));
}

#[test]
fn topology_hints_count_when_all_ready_endpoints_have_them_and_one_is_ours() {
    let (a, b) = ("10.0.0.1", "10.0.0.2");
    let zones = hinted(slice().ready(a), Some("zone-a"), None);
    check_cluster("zones", hinted(zones.clone().ready(b), Some("zone-b"), None), &[a]);
    check_cluster("one without hints", zones.ready(b), &[a, b]);
    let far = hinted(slice().ready(a), Some("zone-c"), None);
    check_cluster("none of ours", hinted(far.ready(b), Some("zone-b"), None), &[a, b]);
    let nodes = hinted(slice().ready(a), Some("zone-a"), Some("node-2"));
    let nodes = hinted(nodes.ready(b), Some("zone-a"), Some("node-1"));
    check_cluster("nodes before zones", nodes, &[b]);
    let unready = hinted(slice().ready(a), Some("zone-a"), None).ready(b);
    let unready = unready.endpoint("10.0.0.3", false, false, false);
    check_cluster(
        "unready ones do not matter",
        unready.with(|slice| {
            slice.endpoints.as_mut().unwrap().remove(1);
        }),
        &[a],
    );
}

#[test]
fn load_balancer_addresses_count_unless_the_balancer_proxies() {
    let ingress = |ip: &str, mode: Option<&str>| LoadBalancerIngress {
        ip: Some(ip.to_owned()),
        ip_mode: mode.map(str::to_owned),
        ..LoadBalancerIngress::default()
    };
    let balanced = web().spec(|spec| {
        spec.load_balancer_source_ranges =
            Some(vec![" 192.0.2.0/24".to_owned(), "fd00::/8".to_owned(), "nonsense".to_owned()]);
    });
    let balanced = balanced.with(|service| {
        service.status = Some(ServiceStatus {
            load_balancer: Some(LoadBalancerStatus {
                ingress: Some(vec![
                    ingress("203.0.113.2", None),
                    ingress("203.0.113.1", Some("VIP")),
                    ingress("203.0.113.3", Some("Proxy")),
                ]),
            }),
            ..ServiceStatus::default()
        });
    });

    let port = planned(&balanced, &[]);
    let addresses: Vec<_> = port.load_balancer_ips.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["203.0.113.1", "203.0.113.2"]);
    assert_eq!(port.source_ranges, ["192.0.2.0/24".parse().unwrap()]);

    let allowed =
        NodeView { addresses: vec!["192.0.2.9".parse().unwrap()], ..NodeView::new("node-1") };
    let port = plan_service(&balanced, &[], &allowed).remove(0);
    assert_eq!(port.source_ranges.len(), 3, "the node may use the balancer, so its addresses may");
}

#[test]
fn affinity_has_the_default_of_the_api() {
    assert_eq!(planned(&web(), &[]).affinity, None);
    assert_eq!(planned(&web().affinity(60), &[]).affinity, Some(Duration::from_secs(60)));
    let bare = web().spec(|spec| spec.session_affinity = Some("ClientIP".to_owned()));
    assert_eq!(planned(&bare, &[]).affinity, Some(Duration::from_secs(10_800)));
}

#[test]
fn ranges_of_addresses_are_parsed_and_matched() {
    let range: Cidr = "10.1.2.3/16".parse().unwrap();
    assert_eq!(range.to_string(), "10.1.0.0/16");
    assert!(range.contains("10.1.255.1".parse().unwrap()));
    assert!(!range.contains("10.2.0.1".parse().unwrap()));
    assert!(!range.contains("::a01:1".parse().unwrap()));
    let all: Cidr = "::/0".parse().unwrap();
    assert!(all.contains("fd00::1".parse().unwrap()));
    for wrong in ["10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/-1", "::/129"] {
        assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
    }
}

/// A small world: which Services exist, and which endpoints each has.
#[derive(Clone, Debug)]
struct Input(BTreeMap<u8, (u8, BTreeSet<u8>)>);

impl Input {
    fn services(&self) -> Vec<Service> {
        let built = self.0.iter().map(|(id, (variant, _))| {
            let name = format!("s{id}");
            let base = service(&name).cluster_ip(&format!("10.96.0.{id}")).port(80);
            match variant % 4 {
                0 => base,
                1 => base.node_port(30_000 + u16::from(*id)),
                2 => base.affinity(60).named_port("extra", 81, "UDP"),
                _ => service(&name).cluster_ip("None").port(80),
            }
            .build()
        });
        built.collect()
    }

    fn slices(&self) -> Vec<EndpointSlice> {
        let built = self.0.iter().map(|(id, (_, endpoints))| {
            let slice = endpoint_slice(&format!("s{id}")).port(8080);
            let addresses = endpoints.iter().map(|e| format!("10.0.{id}.{e}"));
            addresses.fold(slice, |slice, address| slice.ready(&address)).build()
        });
        built.collect()
    }

    fn plan(&self) -> Rules {
        plan(&self.services(), &self.slices(), &node())
    }
}

fn input() -> impl Strategy<Value = Input> {
    let service = (0..4_u8, prop::collection::btree_set(1..5_u8, 0..4));
    prop::collection::btree_map(1..12_u8, service, 0..8).prop_map(Input)
}

proptest! {
    /// The obvious way to get there: take the old rules as a map and follow the changes.
    #[test]
    fn changes_lead_from_old_to_new(old in input(), new in input()) {
        let (old, new) = (old.plan(), new.plan());
        let changes = Changes::between(&old, &new);

        let mut map: BTreeMap<_, _> = old.iter().map(|p| (p.key.clone(), p.clone())).collect();
        for (was, is) in changes.pairs() {
            prop_assert_ne!(was, is);
            if let Some(was) = was {
                let known = map.remove(&was.key);
                prop_assert_eq!(known.as_ref(), Some(was));
            }
            if let Some(is) = is {
                prop_assert!(map.insert(is.key.clone(), is.clone()).is_none());
            }
        }
        let wanted: BTreeMap<_, _> = new.iter().map(|p| (p.key.clone(), p.clone())).collect();
        prop_assert_eq!(map, wanted);
        prop_assert_eq!(changes.is_empty(), old == new);
    }

    #[test]
    fn following_single_services_gives_the_same_as_planning_all(old in input(), new in input()) {
        let mut rules = old.plan();
        let slices = new.slices();
        for name in (1..12_u8).map(|id| format!("s{id}")) {
            let service = new.services().into_iter().find(|s| s.metadata.name.as_ref() == Some(&name));
            let slices: Vec<_> =
                slices.iter().filter(|s| service_of(s) == Some(("default", &name))).collect();
            let ports = service.map(|s| plan_service(&s, &slices, &node())).unwrap_or_default();
            let before = rules.clone();
            let changed = rules.set_service("default", &name, ports);
            prop_assert_eq!(changed, before != rules);
        }
        prop_assert_eq!(rules, new.plan());
    }

    #[test]
    fn the_order_of_objects_does_not_matter(input in input(), seed in any::<u64>()) {
        let (mut services, mut slices) = (input.services(), input.slices());
        let turn = |len: usize| if len == 0 { 0 } else { seed as usize % len };
        let (by_service, by_slice) = (turn(services.len()), turn(slices.len()));
        services.rotate_left(by_service);
        slices.reverse();
        slices.rotate_left(by_slice);

        prop_assert_eq!(plan(&services, &slices, &node()), input.plan());
    }
}
