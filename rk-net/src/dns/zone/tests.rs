use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// What a test knows, looked through from one end to the other.
#[derive(Clone, Debug, Default)]
struct Cluster {
    namespaces: Vec<&'static str>,
    services: Vec<Arc<Service>>,
    slices: Vec<Arc<EndpointSlice>>,
}

impl Cluster {
    fn service(mut self, namespace: &str, name: &str, spec: Value) -> Self {
        let metadata = json!({"namespace": namespace, "name": name});
        let service = serde_json::from_value(json!({"metadata": metadata, "spec": spec}));
        self.services.push(Arc::new(service.unwrap()));
        self
    }

    fn slice(mut self, namespace: &str, service: &str, ports: Value, endpoints: Value) -> Self {
        let v6 = endpoints.to_string().contains("::");
        let slice = serde_json::from_value(json!({
            "metadata": {
                "namespace": namespace,
                "name": format!("{service}-{}", self.slices.len()),
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": if v6 { "IPv6" } else { "IPv4" },
            "ports": ports,
            "endpoints": endpoints,
        }));
        self.slices.push(Arc::new(slice.unwrap()));
        self
    }
}

impl Known for Cluster {
    fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(&name)
    }

    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        let found = |service: &&Arc<Service>| key(&service.metadata) == (namespace, name);
        self.services.iter().find(found).cloned()
    }

    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>> {
        let of = |slice: &&Arc<EndpointSlice>| service_of(slice) == Some((namespace, service));
        self.slices.iter().filter(of).cloned().collect()
    }

    fn services_at(&self, address: IpAddr) -> Vec<Arc<Service>> {
        let at = |service: &&Arc<Service>| {
            service.spec.iter().flat_map(addresses_of).any(|of| of == address)
        };
        self.services.iter().filter(at).cloned().collect()
    }

    fn slices_at(&self, address: IpAddr) -> Vec<Arc<EndpointSlice>> {
        let text = address.to_string();
        let at = |slice: &&Arc<EndpointSlice>| {
            let mut endpoints = slice.endpoints.iter().flatten();
            endpoints.any(|endpoint| endpoint.addresses.contains(&text))
        };
        self.slices.iter().filter(at).cloned().collect()
    }

    fn serial(&self) -> u32 {
        7
    }
}

/// The cluster of the specification's examples, and some more.
fn example() -> Cluster {
    let https = json!([{"name": "https", "port": 443, "protocol": "TCP"}]);
    let cluster =
        Cluster { namespaces: vec!["default", "kube-system", "empty"], ..Cluster::default() };
    cluster
        .service("default", "kubernetes", json!({"clusterIP": "10.3.0.1", "ports": https}))
        .service(
            "kube-system",
            "kube-dns",
            json!({"clusterIP": "10.3.0.10", "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            ]}),
        )
        .service(
            "default",
            "dual",
            json!({"clusterIP": "10.3.0.2", "clusterIPs": ["10.3.0.2", "fd00::2"],
                   "ports": [{"port": 80, "protocol": "TCP"}]}),
        )
        .service("default", "headless", json!({"clusterIP": "None", "ports": https}))
        .slice(
            "default",
            "headless",
            json!([{"name": "https", "port": 8443, "protocol": "TCP"}]),
            json!([
                {"addresses": ["10.3.0.100"], "hostname": "my-pet", "conditions": {"ready": true}},
                {"addresses": ["10.3.0.101"], "hostname": "my-pet-2"},
                {"addresses": ["10.3.0.102"], "conditions": {"ready": true}},
                {"addresses": ["10.3.0.103"], "hostname": "late", "conditions": {"ready": false}},
            ]),
        )
        .slice(
            "default",
            "headless",
            json!([{"name": "https", "port": 8443, "protocol": "TCP"}]),
            json!([{"addresses": ["fd00::64"], "hostname": "my-pet"}]),
        )
        .service("default", "nobody", json!({"clusterIP": "None", "ports": https}))
        .service("default", "portless", json!({"clusterIP": "None"}))
        .slice("default", "portless", json!([]), json!([{"addresses": ["10.3.0.110"]}]))
        .service("default", "backed", json!({"clusterIP": "10.3.0.3", "ports": https}))
        .slice(
            "default",
            "backed",
            json!([{"name": "https", "port": 8443, "protocol": "TCP"}]),
            json!([{"addresses": ["10.3.0.120"], "hostname": "one"}]),
        )
        .service("default", "foo", external("www.example.com"))
        .service("default", "inside", external("kubernetes.default.svc.cluster.local."))
        .service("default", "lost", external("missing.default.svc.cluster.local"))
        .service("default", "circle", external("circle.default.svc.cluster.local"))
        .service("default", "address", external("192.0.2.1"))
}

fn external(name: &str) -> Value {
    json!({"type": "ExternalName", "externalName": name})
}

fn ask(cluster: &Cluster, name: &str, kind: Type) -> Option<Answer> {
    let zone = Zone::new(Name::parse("cluster.local").unwrap(), ("kube-system", "kube-dns"));
    zone.answer(cluster, &Question { name: Name::parse(name).unwrap(), kind })
}

fn show(record: &Record) -> String {
    let Record { name, ttl, data } = record;
    let data = match data {
        Data::A(address) => format!("A {address}"),
        Data::Aaaa(address) => format!("AAAA {address}"),
        Data::Cname(name) => format!("CNAME {name}"),
        Data::Ns(name) => format!("NS {name}"),
        Data::Ptr(name) => format!("PTR {name}"),
        Data::Txt(text) => format!("TXT {text:?}"),
        Data::Srv { priority, weight, port, target } => {
            format!("SRV {priority} {weight} {port} {target}")
        }
        Data::Soa(soa) => format!("SOA {} {} {}", soa.mname, soa.rname, soa.serial),
    };
    format!("{name} {ttl} {data}")
}

#[track_caller]
fn check(name: &str, kind: Type, expected: &[&str]) -> Answer {
    let answer = ask(&example(), name, kind).expect("it is ours");
    assert_eq!(answer.answers.iter().map(show).collect::<Vec<_>>(), expected, "{name}");
    assert_eq!(answer.code, Code::NoError);
    assert!(answer.authoritative);
    answer
}

/// There is no such record: the code, and the zone that says so.
#[track_caller]
fn check_none(name: &str, kind: Type, code: Code) {
    let answer = ask(&example(), name, kind).expect("it is ours");
    assert_eq!((answer.code, answer.answers), (code, Vec::new()), "{name}");
    let soa: Vec<_> = answer.authority.iter().map(show).collect();
    assert_eq!(soa, ["cluster.local. 30 SOA ns.dns.cluster.local. hostmaster.cluster.local. 7"]);
    assert!(answer.authoritative);
}

#[test]
fn the_examples_of_the_specification() {
    // 2.2
    check(
        "dns-version.cluster.local",
        Type::TXT,
        &["dns-version.cluster.local. 28800 TXT \"1.1.0\""],
    );
    // 2.3.1
    check(
        "kubernetes.default.svc.cluster.local",
        Type::A,
        &["kubernetes.default.svc.cluster.local. 30 A 10.3.0.1"],
    );
    // 2.3.2
    let name = "_https._tcp.kubernetes.default.svc.cluster.local";
    let target = "kubernetes.default.svc.cluster.local.";
    let answer = check(name, Type::SRV, &[&format!("{name}. 30 SRV 0 100 443 {target}")]);
    assert_eq!(
        answer.additional.iter().map(show).collect::<Vec<_>>(),
        [format!("{target} 30 A 10.3.0.1")]
    );
    // 2.3.3
    let name = "1.0.3.10.in-addr.arpa";
    check(name, Type::PTR, &[&format!("{name}. 30 PTR {target}")]);
    // 2.4.1
    let name = "headless.default.svc.cluster.local";
    let all = ["10.3.0.100", "10.3.0.101", "10.3.0.102"].map(|ip| format!("{name}. 30 A {ip}"));
    check(name, Type::A, &all.each_ref().map(String::as_str));
    let name = "my-pet.headless.default.svc.cluster.local";
    check(name, Type::A, &[&format!("{name}. 30 A 10.3.0.100")]);
    check(name, Type::AAAA, &[&format!("{name}. 30 AAAA fd00::64")]);
    // 2.4.2
    let name = "_https._tcp.headless.default.svc.cluster.local";
    let all = ["my-pet", "my-pet-2", "10-3-0-102"]
        .map(|host| format!("{name}. 30 SRV 0 25 8443 {host}.headless.default.svc.cluster.local."));
    let answer = check(name, Type::SRV, &all.each_ref().map(String::as_str));
    assert_eq!(answer.additional.len(), 4, "one host has two addresses");
    // 2.4.3
    let name = "100.0.3.10.in-addr.arpa";
    check(
        name,
        Type::PTR,
        &[&format!("{name}. 30 PTR my-pet.headless.default.svc.cluster.local.")],
    );
    // 2.5
    let name = "foo.default.svc.cluster.local";
    let answer = check(name, Type::A, &[&format!("{name}. 30 CNAME www.example.com.")]);
    assert_eq!(answer.elsewhere, Name::parse("www.example.com").ok());
    // 2.6
    let name = "1-2-3-4.default.pod.cluster.local";
    check(name, Type::A, &[&format!("{name}. 30 A 1.2.3.4")]);
}

#[test]
fn a_service_has_a_record_for_each_of_its_families() {
    let name = "dual.default.svc.cluster.local";
    check(name, Type::A, &[&format!("{name}. 30 A 10.3.0.2")]);
    check(name, Type::AAAA, &[&format!("{name}. 30 AAAA fd00::2")]);
    let reverse = format!("2.{}0.0.d.f.ip6.arpa", "0.".repeat(27));
    check(&reverse, Type::PTR, &[&format!("{reverse}. 30 PTR {name}.")]);
    let name = "2001-db8--1.default.pod.cluster.local";
    check(name, Type::AAAA, &[&format!("{name}. 30 AAAA 2001:db8::1")]);
}

#[test]
fn endpoints_without_host_names_go_by_their_addresses() {
    let name = "10-3-0-102.headless.default.svc.cluster.local";
    check(name, Type::A, &[&format!("{name}. 30 A 10.3.0.102")]);
    let reverse = "102.0.3.10.in-addr.arpa";
    check(reverse, Type::PTR, &[&format!("{reverse}. 30 PTR {name}.")]);
    // Those of a Service with an address have names, too.
    let name = "one.backed.default.svc.cluster.local";
    check(name, Type::A, &[&format!("{name}. 30 A 10.3.0.120")]);
    // And who has a host name does not go by its address.
    check_none("10-3-0-100.headless.default.svc.cluster.local", Type::A, Code::NxDomain);
    let name = "portless.default.svc.cluster.local";
    check(name, Type::A, &[&format!("{name}. 30 A 10.3.0.110")]);
    check_none(name, Type::SRV, Code::NoError);
}

#[test]
fn a_name_that_is_there_without_such_a_record_is_not_missing() {
    for (name, kind) in [
        ("kubernetes.default.svc.cluster.local", Type::AAAA),
        ("kubernetes.default.svc.cluster.local", Type::TXT),
        ("kubernetes.default.svc.cluster.local", Type(255)),
        ("_tcp.kubernetes.default.svc.cluster.local", Type::A),
        ("1-2-3-4.default.pod.cluster.local", Type::AAAA),
        ("default.svc.cluster.local", Type::A),
        ("empty.pod.cluster.local", Type::A),
        ("svc.cluster.local", Type::A),
        ("dns-version.cluster.local", Type::A),
        ("cluster.local", Type::A),
        // An alias that leads to nothing.
        ("lost.default.svc.cluster.local", Type::A),
        ("circle.default.svc.cluster.local", Type::A),
    ] {
        check_none(name, kind, Code::NoError);
    }
}

#[test]
fn what_is_not_there_is_missing() {
    for name in [
        "missing.default.svc.cluster.local",
        "kubernetes.missing.svc.cluster.local",
        "missing.svc.cluster.local",
        "1-2-3-4.missing.pod.cluster.local",
        "no-address.default.pod.cluster.local",
        "late.headless.default.svc.cluster.local",
        "nobody.default.svc.cluster.local",
        "address.default.svc.cluster.local",
        "one.foo.default.svc.cluster.local",
        "*.default.svc.cluster.local",
        "_udp.kubernetes.default.svc.cluster.local",
        "_https._udp.kubernetes.default.svc.cluster.local",
        "https.tcp.kubernetes.default.svc.cluster.local",
        "a._https._tcp.kubernetes.default.svc.cluster.local",
        "www.cluster.local",
        "kubernetes.default.svc.cluster.local.default.svc.cluster.local",
    ] {
        check_none(name, Type::A, Code::NxDomain);
    }
}

#[test]
fn an_alias_within_the_zone_comes_with_what_it_leads_to() {
    check(
        "inside.default.svc.cluster.local",
        Type::A,
        &[
            "inside.default.svc.cluster.local. 30 CNAME kubernetes.default.svc.cluster.local.",
            "kubernetes.default.svc.cluster.local. 30 A 10.3.0.1",
        ],
    );
    check(
        "lost.default.svc.cluster.local",
        Type::CNAME,
        &["lost.default.svc.cluster.local. 30 CNAME missing.default.svc.cluster.local."],
    );
}

#[test]
fn the_zone_says_who_serves_it() {
    let server = "kube-dns.kube-system.svc.cluster.local.";
    let answer = check("cluster.local", Type::NS, &[&format!("cluster.local. 30 NS {server}")]);
    assert_eq!(
        answer.additional.iter().map(show).collect::<Vec<_>>(),
        [format!("{server} 30 A 10.3.0.10")]
    );
    let soa = "cluster.local. 30 SOA ns.dns.cluster.local. hostmaster.cluster.local. 7";
    check("cluster.local", Type::SOA, &[soa]);
    check("ns.dns.cluster.local", Type::A, &["ns.dns.cluster.local. 30 A 10.3.0.10"]);
}

#[test]
fn names_are_found_in_any_case_and_other_zones_are_left_to_others() {
    check(
        "KUBERNETES.Default.svc.CLUSTER.local",
        Type::A,
        &["kubernetes.default.svc.cluster.local. 30 A 10.3.0.1"],
    );
    for (name, kind) in [
        ("www.example.com", Type::A),
        ("local", Type::SOA),
        ("9.9.9.9.in-addr.arpa", Type::PTR),
        ("103.0.3.10.in-addr.arpa", Type::PTR),
        ("1.0.3.10.in-addr.arpa", Type::A),
        ("256.0.3.10.in-addr.arpa", Type::PTR),
        ("10.in-addr.arpa", Type::PTR),
    ] {
        assert_eq!(ask(&example(), name, kind), None, "{name}");
    }
}

#[test]
fn who_is_not_waited_for_is_ready_from_the_start() {
    // The slice controller makes them ready where a Service publishes those that are not.
    let cluster = Cluster { namespaces: vec!["default"], ..Cluster::default() }
        .service("default", "early", json!({"clusterIP": "None", "publishNotReadyAddresses": true}))
        .slice(
            "default",
            "early",
            json!([]),
            json!([{"addresses": ["10.3.0.1"],
                    "conditions": {"ready": true, "serving": false, "terminating": true}}]),
        );
    let answer = ask(&cluster, "early.default.svc.cluster.local", Type::A).unwrap();
    assert_eq!(answer.answers.len(), 1);
}

#[test]
fn shuffling_changes_the_order_of_addresses_and_nothing_else() {
    let name = Name::parse("web.default.svc.cluster.local").unwrap();
    let record = |data| Record { name: name.clone(), ttl: 30, data };
    let alias = record(Data::Cname(name.clone()));
    let addresses: Vec<_> = (0..5).map(|i| record(Data::A([10, 0, 0, i].into()))).collect();
    let mut answer = Answer::of([vec![alias.clone()], addresses.clone()].concat());
    answer.shuffle(|_| 0);
    assert_eq!(answer.answers[0], alias);
    assert_ne!(answer.answers[1..], addresses);
    let mut sorted = answer.answers[1..].to_vec();
    sorted.sort_by_key(show);
    assert_eq!(sorted, addresses);
}

/// A Service of the model: what of `Service` and its slices counts.
#[derive(Clone, Debug)]
struct Modelled {
    namespace: &'static str,
    name: &'static str,
    headless: bool,
    port: Option<&'static str>,
    /// The last octet, the host name, whether it is ready.
    endpoints: Vec<(u8, Option<&'static str>, bool)>,
}

fn modelled() -> impl Strategy<Value = Vec<Modelled>> {
    let endpoint = (0..4_u8, prop::option::of(prop::sample::select(vec!["a", "b"])), any::<bool>());
    let service = (
        prop::sample::select(vec!["x", "y"]),
        prop::sample::select(vec!["one", "two", "a"]),
        any::<bool>(),
        prop::option::of(prop::sample::select(vec!["http", "dns"])),
        prop::collection::vec(endpoint, 0..4),
    );
    let service = service.prop_map(|(namespace, name, headless, port, endpoints)| Modelled {
        namespace,
        name,
        headless,
        port,
        endpoints,
    });
    prop::collection::vec(service, 0..4).prop_map(|services| {
        let by_key: BTreeMap<_, _> =
            services.into_iter().map(|of| ((of.namespace, of.name), of)).collect();
        by_key.into_values().collect()
    })
}

/// All A records that there should be, written out: the slow way, from the specification.
fn all_a_records(services: &[Modelled]) -> BTreeSet<(String, String)> {
    let mut records = BTreeSet::new();
    for (index, service) in services.iter().enumerate() {
        let name = format!("{}.{}.svc.cluster.local.", service.name, service.namespace);
        let mut add = |name: &str, address: String| {
            records.insert((name.to_owned(), address.clone()));
        };
        let mut whole = Vec::new();
        for &(octet, host, ready) in &service.endpoints {
            let host = host.map_or(format!("10-244-{index}-{octet}"), str::to_owned);
            if ready {
                add(&format!("{host}.{name}"), format!("10.244.{index}.{octet}"));
                whole.push(format!("10.244.{index}.{octet}"));
            }
        }
        if !service.headless {
            whole = vec![format!("10.96.0.{index}")];
        }
        for address in whole {
            add(&name, address.clone());
            if let Some(port) = service.port {
                add(&format!("_{port}._tcp.{name}"), address);
            }
        }
    }
    records
}

fn clustered(services: &[Modelled]) -> Cluster {
    let begin = Cluster { namespaces: vec!["x", "y"], ..Cluster::default() };
    services.iter().enumerate().fold(begin, |cluster, (index, service)| {
        let ports = json!([{"name": service.port, "port": 80, "protocol": "TCP"}]);
        let ip = if service.headless { "None".to_owned() } else { format!("10.96.0.{index}") };
        let endpoints: Vec<_> = service.endpoints.iter().map(|(octet, host, ready)| {
            json!({"addresses": [format!("10.244.{index}.{octet}")], "hostname": host, "conditions": {"ready": ready}})
        }).collect();
        cluster
            .service(service.namespace, service.name, json!({"clusterIP": ip, "ports": ports}))
            .slice(service.namespace, service.name, ports, json!(endpoints))
    })
}

proptest! {
    #[test]
    fn there_are_the_records_that_there_should_be_and_no_others(services in modelled()) {
        let (cluster, all) = (clustered(&services), all_a_records(&services));
        let mut names: BTreeSet<String> = all.iter().map(|(name, _)| name.clone()).collect();
        // And some that mostly are not there.
        for service in ["one", "two", "a", "b"] {
            for before in ["", "a.", "10-244-0-1.", "_http._tcp.", "_dns._udp.", "_tcp."] {
                names.insert(format!("{before}{service}.x.svc.cluster.local."));
            }
        }
        for name in names {
            let expected: BTreeSet<_> =
                all.iter().filter(|(of, _)| *of == name).map(|(_, a)| a.clone()).collect();
            let answer = ask(&cluster, &name, Type::A).unwrap();
            let given: Vec<_> = answer.answers.iter().map(|record| match &record.data {
                Data::A(address) => address.to_string(),
                other => format!("{other:?}"),
            }).collect();
            prop_assert_eq!(&given.iter().cloned().collect::<BTreeSet<_>>(), &expected, "{}", name);
            prop_assert_eq!(given.len(), expected.len(), "{} has one twice", name);
            // What has nothing below it either is missing.
            let below = all.iter().any(|(of, _)| of.ends_with(&format!(".{name}")));
            if expected.is_empty() && below && name.starts_with('_') {
                prop_assert_eq!(answer.code, Code::NoError);
            }
            if expected.is_empty() && !below && !name.starts_with("_tcp.") {
                prop_assert_eq!(answer.code, Code::NxDomain, "{}", name);
            }
        }
    }
}
