//! The text of transactions, against golden files and against a small model of nftables.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::{
    NodeView, plan,
    testing::{ServiceBuilder, endpoint_slice, service},
};

fn proxy() -> NftablesProxy {
    NftablesProxy::new(NftablesConfig {
        pod_traffic: PodTraffic::From(vec!["10.244.0.0/16".parse().unwrap()]),
        ..NftablesConfig::default()
    })
}

fn node() -> NodeView {
    NodeView::new("node-1")
}

fn web() -> ServiceBuilder {
    service("web").cluster_ip("10.96.0.10").port(80)
}

/// Compares with `tests/golden/{name}`; with `RK_BLESS` set, writes it.
#[track_caller]
fn check_golden(name: &str, text: &str) {
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("RK_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, golden, "differs from {path}; RK_BLESS=1 writes it anew");
}

/// The transaction from one to the other.
fn transaction(proxy: &NftablesProxy, old: &Rules, new: &Rules) -> String {
    let (_, in_force) = proxy.full(old);
    proxy.incremental(in_force, new, &Changes::between(old, new)).0
}

#[test]
fn a_table_from_nothing_is_as_in_the_golden_file() {
    let node_port = web().node_port(30080);
    let local = service("local").cluster_ip("10.96.0.11").port(443).node_port(30443);
    let local = local.spec(|spec| spec.external_traffic_policy = Some("Local".to_owned()));
    let sticky = service("sticky").cluster_ip("10.96.0.12").port(80).affinity(60);
    let empty = service("empty").cluster_ip("10.96.0.13").port(80).node_port(30081);
    let slices = [
        endpoint_slice("web").port(8080).ready("10.244.0.2").ready("10.244.1.2"),
        endpoint_slice("local").port(8443).ready("10.244.1.3").on("node-2"),
        endpoint_slice("sticky").port(8080).ready("10.244.0.4").ready("10.244.1.4"),
    ];
    let slices = slices.iter().map(|slice| &**slice);
    let rules = plan::plan([&*node_port, &*local, &*sticky, &*empty], slices, &node());

    check_golden("full.nft", &proxy().render(&rules));
}

#[test]
fn a_new_endpoint_changes_one_chain_and_adds_one() {
    let slice = endpoint_slice("web").port(8080).ready("10.244.0.2");
    let one = plan::plan([&*web()], [&*slice], &node());
    let two = plan::plan([&*web()], [&*slice.ready("10.244.1.2")], &node());

    check_golden("new-endpoint.nft", &transaction(&proxy(), &one, &two));
    check_golden("endpoint-gone.nft", &transaction(&proxy(), &two, &one));
}

#[test]
fn the_last_endpoint_takes_the_service_to_the_other_map() {
    let slice = endpoint_slice("web").port(8080);
    let none = plan::plan([&*web()], [&*slice], &node());
    let one = plan::plan([&*web()], [&*slice.ready("10.244.0.2")], &node());

    check_golden("last-endpoint-gone.nft", &transaction(&proxy(), &one, &none));
}

#[test]
fn families_that_are_not_served_are_left_out() {
    let dual = web().cluster_ip("fd00::10");
    let rules = plan::plan([&*dual], [], &node());

    assert!(!proxy().render(&rules).contains("fd00"));
    let both = NftablesConfig { families: vec![Family::V4, Family::V6], ..Default::default() };
    let text = NftablesProxy::new(both).render(&rules);
    assert!(text.contains("add element ip6 rk-proxy cluster-ips { fd00::10 }"), "{text}");
}

#[test]
fn names_fit_into_what_nftables_takes() {
    let long = "x".repeat(63);
    let web = service(&long).namespace(&long).cluster_ip("fd00::1").named_port(&long, 80, "SCTP");
    let slice = endpoint_slice(&long).namespace(&long).named_port(&long, 80, "SCTP");
    let slice = slice.ready("fd00:1111:2222:3333:4444:5555:6666:7777");
    let slice = slice.with(|slice| slice.address_type = "IPv6".to_owned());
    let rules = plan::plan([&*web.affinity(1)], [&*slice], &node());
    let port = rules.iter().next().unwrap();

    let compiled = compile::compile(port, &NftablesConfig::default());

    let names = compiled.chains.keys().chain(compiled.sets.keys());
    for name in names {
        assert!(name.len() <= 255 && !name.contains(':'), "{name}");
    }
    assert_eq!(compiled.sets.len(), 1);
}

/// A table as transactions make it, with the errors that the kernel would give.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    chains: BTreeMap<String, Vec<String>>,
    sets: BTreeMap<String, String>,
    elements: BTreeMap<(String, String), String>,
}

impl Model {
    fn run(&mut self, text: &str) {
        for line in text.lines() {
            let words: Vec<_> = line.splitn(5, ' ').collect();
            let rest = words.get(4).copied().unwrap_or_default();
            let (name, tail) = rest.split_once(' ').unwrap_or((rest, ""));
            match (words[0], words[1]) {
                ("add", "table") => {}
                ("delete", "table") => *self = Self::default(),
                ("add", "chain") => {
                    let new = self.chains.insert(name.to_owned(), Vec::new()).is_none();
                    assert!(new, "chain added twice: {line}");
                }
                ("add", "set" | "map") => {
                    let new = self.sets.insert(name.to_owned(), tail.to_owned()).is_none();
                    assert!(new, "set added twice: {line}");
                }
                ("flush", "chain") => self.chains.get_mut(name).expect(line).clear(),
                ("add", "rule") => {
                    self.check_names(tail);
                    self.chains.get_mut(name).expect(line).push(tail.to_owned());
                }
                ("add", "element") => self.elements(name, tail, true),
                ("delete", "element") => self.elements(name, tail, false),
                ("delete", "chain") => {
                    assert_eq!(self.chains.remove(name), Some(vec![]), "{line}");
                    assert!(!self.names(name), "still in use: {line}");
                }
                ("delete", "set") => {
                    assert!(self.sets.remove(name).is_some(), "{line}");
                    assert!(!self.names(&format!("@{name}")), "still in use: {line}");
                }
                _ => panic!("unknown command: {line}"),
            }
        }
    }

    fn elements(&mut self, map: &str, list: &str, add: bool) {
        assert!(self.sets.contains_key(map), "no map {map}");
        let list = list.trim_start_matches("{ ").trim_end_matches(" }");
        for element in list.split(", ") {
            let (key, verdict) = element.split_once(" : ").unwrap_or((element, ""));
            let place = (map.to_owned(), key.to_owned());
            if add {
                self.check_names(verdict);
                let before = self.elements.insert(place, verdict.to_owned());
                assert_eq!(before, None, "element added twice: {element}");
            } else {
                assert!(self.elements.remove(&place).is_some(), "no such element: {element}");
            }
        }
    }

    /// What a rule or verdict names must be there.
    fn check_names(&self, text: &str) {
        let words: Vec<_> = text.split([' ', ',']).collect();
        for pair in words.windows(2).filter(|pair| matches!(pair[0], "goto" | "jump")) {
            assert!(self.chains.contains_key(pair[1]), "no chain {}", pair[1]);
        }
        for set in words.iter().filter_map(|word| word.strip_prefix('@')) {
            assert!(self.sets.contains_key(set), "no set {set}");
        }
    }

    fn names(&self, name: &str) -> bool {
        let rules = self.chains.values().flatten();
        rules.chain(self.elements.values()).any(|t| t.split([' ', ',']).any(|word| word == name))
    }
}

/// Services that get in each other's way: few addresses, few node ports.
fn rules() -> impl Strategy<Value = Rules> {
    let service = (0..3_u8, any::<[bool; 4]>(), prop::collection::btree_set(1..5_u8, 0..4));
    prop::collection::btree_map(0..6_u8, service, 0..6).prop_map(|services| {
        let mut rules = Rules::new();
        for (id, (shared, [node_port, external, sticky, local], endpoints)) in services {
            let name = format!("s{id}");
            let mut built = service_of(&name, shared, external);
            if node_port {
                built = built.node_port(30_000 + u16::from(shared));
            }
            if sticky {
                built = built.affinity(60 + i32::from(shared));
            }
            if local {
                built = built.spec(|s| s.external_traffic_policy = Some("Local".to_owned()));
            }
            let slice = endpoint_slice(&name).port(8080);
            let slice = endpoints.iter().fold(slice, |slice, e| {
                let node = format!("node-{}", e % 2);
                slice.ready(&format!("10.0.0.{e}")).on(&node)
            });
            let ports = plan::plan_service(&built, &[&slice], &node());
            rules.set_service("default", &name, ports);
        }
        rules
    })
}

fn service_of(name: &str, shared: u8, external: bool) -> ServiceBuilder {
    let service = service(name).cluster_ip(&format!("10.96.0.{shared}")).port(80);
    service.named_port("two", 81, "TCP").spec(|spec| {
        spec.external_ips = external.then(|| vec![format!("203.0.113.{shared}")]);
    })
}

proptest! {
    #[test]
    fn steps_lead_to_the_same_table_as_making_it_anew(steps in prop::collection::vec(rules(), 2..5)) {
        let proxy = proxy();
        let mut model = Model::default();
        let (text, mut in_force) = proxy.full(&steps[0]);
        model.run(&text);
        for new in &steps[1..] {
            let changes = Changes::between(&in_force.rules, new);
            let (text, next) = proxy.incremental(in_force, new, &changes);
            model.run(&text);
            in_force = next;

            let mut anew = Model::default();
            anew.run(&proxy.render(new));
            prop_assert_eq!(&model, &anew);
        }
    }

    #[test]
    fn only_what_changed_is_sent(rules in rules(), id in 0..6_u8) {
        let proxy = proxy();
        let name = format!("s{id}");
        let mut changed = rules.clone();
        changed.set_service("default", &name, Vec::new());

        let text = transaction(&proxy, &rules, &changed);

        let others: BTreeSet<_> = (0..6).filter(|other| *other != id).collect();
        for other in others {
            let chain = format!("-default/s{other}/");
            let named = text.lines().filter(|line| !line.contains(" element ") && line.contains(&chain));
            prop_assert_eq!(named.count(), 0, "{}", text);
        }
    }
}
