//! Fast paths against a slow and obvious implementation of the same rules.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use proptest::prelude::*;
use rk_api::{
    rng::Rng,
    testing::{NodeBuilder, PodBuilder, node, pod},
};

use super::*;
use crate::{Point, plugins};

/// The rules in plain words, computed anew from the API objects each time.
mod slow {
    use super::*;

    fn amount(
        map: Option<
            &std::collections::BTreeMap<
                String,
                k8s_openapi::apimachinery::pkg::api::resource::Quantity,
            >,
        >,
        name: &str,
        scale: f64,
    ) -> i64 {
        let Some(quantity) = map.and_then(|map| map.get(name)) else { return 0 };
        let (digits, factor) = match quantity.0.as_str() {
            text if text.ends_with("Mi") => (&text[..text.len() - 2], 1024.0 * 1024.0),
            text if text.ends_with("Gi") => (&text[..text.len() - 2], 1024.0 * 1024.0 * 1024.0),
            text if text.ends_with('m') => (&text[..text.len() - 1], 0.001),
            text => (text, 1.0),
        };
        (digits.parse::<f64>().unwrap() * factor * scale).round() as i64
    }

    fn request(pod: &Pod, name: &str, scale: f64, default: i64) -> i64 {
        let containers = &pod.spec.as_ref().unwrap().containers;
        let of = |container: &k8s_openapi::api::core::v1::Container| {
            let map = container.resources.as_ref().and_then(|it| it.requests.as_ref());
            if map.is_some_and(|map| map.contains_key(name)) {
                amount(map, name, scale)
            } else {
                default
            }
        };
        containers.iter().map(of).sum()
    }

    fn has(node: &Node, name: &str, scale: f64) -> i64 {
        amount(node.status.as_ref().unwrap().allocatable.as_ref(), name, scale)
    }

    const RESOURCES: [(&str, f64); 3] =
        [("cpu", 1000.0), ("memory", 1.0), ("example.com/gpu", 1.0)];

    pub(super) fn resources(node: &Node, there: &[&Pod], pod: &Pod) -> Vec<String> {
        let mut reasons = Vec::new();
        if there.len() as i64 + 1 > has(node, "pods", 1.0) {
            reasons.push("Too many pods".to_owned());
        }
        for (name, scale) in RESOURCES {
            let wanted = request(pod, name, scale, 0);
            let taken: i64 = there.iter().map(|pod| request(pod, name, scale, 0)).sum();
            if wanted > 0 && taken + wanted > has(node, name, scale) {
                reasons.push(format!("Insufficient {name}"));
            }
        }
        reasons
    }

    fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
        let effect = toleration.effect.clone().unwrap_or_default();
        let key = toleration.key.clone().unwrap_or_default();
        let same_value =
            toleration.value.clone().unwrap_or_default() == taint.value.clone().unwrap_or_default();
        (effect.is_empty() || effect == taint.effect)
            && (key.is_empty() || key == taint.key)
            && (toleration.operator.as_deref() == Some("Exists") || same_value)
    }

    pub(super) fn untolerated(node: &Node, pod: &Pod, effects: &[&str]) -> Vec<Taint> {
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.clone());
        let tolerations = tolerations.unwrap_or_default();
        taints
            .into_iter()
            .filter(|taint| effects.contains(&taint.effect.as_str()))
            .filter(|taint| !tolerations.iter().any(|it| tolerates(it, taint)))
            .collect()
    }

    fn label<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
        node.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    fn term(node: &Node, term: &k8s_openapi::api::core::v1::NodeSelectorTerm) -> bool {
        let all = term.match_expressions.as_ref().unwrap();
        all.iter().all(|it| {
            let value = label(node, &it.key);
            let values = it.values.clone().unwrap_or_default();
            let listed = value.is_some_and(|value| values.iter().any(|it| it == value));
            match it.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => unreachable!(),
            }
        })
    }

    pub(super) fn affinity(node: &Node, pod: &Pod) -> bool {
        let spec = pod.spec.as_ref().unwrap();
        let selector = spec.node_selector.clone().unwrap_or_default();
        let required = spec
            .affinity
            .as_ref()
            .and_then(|it| it.node_affinity.as_ref())
            .and_then(|it| it.required_during_scheduling_ignored_during_execution.as_ref());
        selector.iter().all(|(key, value)| label(node, key) == Some(value))
            && required.is_none_or(|it| it.node_selector_terms.iter().any(|it| term(node, it)))
    }

    pub(super) fn preference(node: &Node, pod: &Pod) -> i64 {
        let affinity = pod.spec.as_ref().unwrap().affinity.as_ref();
        let preferred = affinity
            .and_then(|it| it.node_affinity.as_ref())
            .and_then(|it| it.preferred_during_scheduling_ignored_during_execution.clone());
        let preferred = preferred.unwrap_or_default();
        let matching = preferred.iter().filter(|it| term(node, &it.preference));
        matching.map(|it| i64::from(it.weight)).sum()
    }

    fn ports(pod: &Pod) -> Vec<i32> {
        let containers = &pod.spec.as_ref().unwrap().containers;
        let ports = containers.iter().flat_map(|it| it.ports.iter().flatten());
        ports.filter_map(|port| port.host_port).collect()
    }

    pub(super) fn ports_free(there: &[&Pod], pod: &Pod) -> bool {
        let taken: Vec<_> = there.iter().flat_map(|pod| ports(pod)).collect();
        !ports(pod).iter().any(|port| taken.contains(port))
    }

    /// The reasons of the first plugin that turns the node down.
    pub(super) fn reasons(node: &Node, there: &[&Pod], pod: &Pod) -> Vec<String> {
        let cordon = Taint {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        };
        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.clone());
        let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
        if cordoned && !tolerations.unwrap_or_default().iter().any(|it| tolerates(it, &cordon)) {
            return vec!["node(s) were unschedulable".to_owned()];
        }
        if let Some(taint) = untolerated(node, pod, &["NoSchedule", "NoExecute"]).first() {
            let value = taint.value.clone().unwrap_or_default();
            return vec![format!("node(s) had untolerated taint {{{}: {value}}}", taint.key)];
        }
        if !affinity(node, pod) {
            return vec!["node(s) didn't match Pod's node affinity/selector".to_owned()];
        }
        if !ports_free(there, pod) {
            let reason = "node(s) didn't have free ports for the requested pod ports";
            return vec![reason.to_owned()];
        }
        resources(node, there, pod)
    }

    pub(super) fn least_allocated(node: &Node, there: &[&Pod], pod: &Pod) -> i64 {
        let score = |name, scale, default| {
            let all = there.iter().chain([&pod]);
            let taken: i64 = all.map(|pod| request(pod, name, scale, default)).sum();
            let have = has(node, name, scale);
            if taken > have { 0 } else { (have - taken) * 100 / have }
        };
        (score("cpu", 1000.0, 100) + score("memory", 1.0, 200 << 20)) / 2
    }

    pub(super) fn balanced(node: &Node, there: &[&Pod], pod: &Pod) -> Option<i64> {
        if request(pod, "cpu", 1000.0, 0) == 0 && request(pod, "memory", 1.0, 0) == 0 {
            return None;
        }
        let part = |name, scale| {
            let all = there.iter().chain([&pod]);
            let taken: i64 = all.map(|pod| request(pod, name, scale, 0)).sum();
            (taken as f64 / has(node, name, scale) as f64).min(1.0)
        };
        let deviation = (part("cpu", 1000.0) - part("memory", 1.0)).abs() / 2.0;
        Some(((1.0 - deviation) * 100.0) as i64)
    }

    /// For each node the reasons against it, or its score.
    pub(super) fn judge(nodes: &[(&Node, Vec<&Pod>)], pod: &Pod) -> Vec<Result<i64, Vec<String>>> {
        let reasons: Vec<_> = nodes.iter().map(|(node, there)| reasons(node, there, pod)).collect();
        let soft = |node: &Node| untolerated(node, pod, &["PreferNoSchedule"]).len() as i64;
        let possible = || nodes.iter().zip(&reasons).filter(|it| it.1.is_empty()).map(|it| it.0);
        let soft_max = possible().map(|(node, _)| soft(node)).max().unwrap_or(0);
        let preference_max = possible().map(|(node, _)| preference(node, pod)).max().unwrap_or(0);
        nodes
            .iter()
            .zip(reasons.clone())
            .map(|((node, there), reasons)| {
                if !reasons.is_empty() {
                    return Err(reasons);
                }
                let taints = if soft_max == 0 { 100 } else { 100 - soft(node) * 100 / soft_max };
                let preference = match preference_max {
                    0 => 0,
                    max => preference(node, pod) * 100 / max,
                };
                let balanced = balanced(node, there, pod).unwrap_or(0);
                Ok(3 * taints + 2 * preference + least_allocated(node, there, pod) + balanced)
            })
            .collect()
    }
}

fn any_node() -> impl Strategy<Value = NodeBuilder> {
    let cpu = prop::sample::select(vec!["1", "2500m", "8"]);
    let memory = prop::sample::select(vec!["1Gi", "3000Mi", "16Gi"]);
    let taint = prop::sample::select(vec![
        "gpu=a:NoSchedule",
        "gpu:NoExecute",
        "old:PreferNoSchedule",
        "slow=x:PreferNoSchedule",
    ]);
    let zone = prop::option::of(prop::sample::select(vec!["a", "b", "c"]));
    let disk = prop::option::of(prop::sample::select(vec!["ssd", "hdd"]));
    let taints = prop::collection::vec(taint, 0..3);
    (cpu, memory, taints, zone, disk, 0..8u8, 1..5u8).prop_map(
        |(cpu, memory, taints, zone, disk, kind, pods)| {
            let mut it = node("n").cpu(cpu).memory(memory).pods(&pods.to_string());
            for taint in taints.into_iter().filter(|_| kind % 2 == 0) {
                it = it.taint(taint);
            }
            if let Some(zone) = zone {
                it = it.label("zone", zone);
            }
            if let Some(disk) = disk {
                it = it.label("disk", disk);
            }
            match kind {
                7 => it.unschedulable(),
                5 | 6 => it.allocatable("example.com/gpu", "2"),
                _ => it,
            }
        },
    )
}

fn any_pod() -> impl Strategy<Value = PodBuilder> {
    let option = |values: &[&'static str]| prop::option::of(prop::sample::select(values.to_vec()));
    let requests = (option(&["100m", "1", "2"]), option(&["64Mi", "1Gi"]), 0..6u8);
    let places = (option(&["a", "b"]), 0..10u8, prop::option::of(8080..8083i32));
    (requests, places, option(&["gpu", "old", "slow", ""])).prop_map(
        |((cpu, memory, gpu), (zone, kind, port), toleration)| {
            let mut it = pod("p");
            if let Some(cpu) = cpu {
                it = it.cpu(cpu);
            }
            if let Some(memory) = memory {
                it = it.memory(memory);
            }
            if gpu == 0 {
                it = it.requests("example.com/gpu", "1");
            }
            if let (Some(zone), 0..4) = (zone, kind) {
                it = it.node_selector("zone", zone);
            }
            if let Some(port) = port.filter(|_| kind < 3) {
                it = it.host_port(port);
            }
            if let Some(key) = toleration {
                it = it.tolerates(key);
            }
            match kind {
                4 => it.requires_node("disk", "NotIn", &["hdd"]),
                5 => it.requires_node("zone", "Exists", &[]).requires_node("disk", "In", &["ssd"]),
                6 => it.prefers_node(3, "zone", "In", &["a"]).prefers_node(
                    9,
                    "disk",
                    "DoesNotExist",
                    &[],
                ),
                7 => it.toleration("gpu", "Equal", "a", "NoSchedule"),
                _ => it,
            }
        },
    )
}

/// What happens to the cluster between two cycles.
#[derive(Clone, Debug)]
enum Step {
    SetNode(u8, Box<NodeBuilder>),
    RemoveNode(u8),
    RemovePod(u8),
    /// Schedules a Pod of this kind and, if it fits, lets it run.
    Schedule(u8),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..12u8, any_node()).prop_map(|(at, node)| Step::SetNode(at, Box::new(node))),
        1 => (0..12u8).prop_map(Step::RemoveNode),
        2 => any::<u8>().prop_map(Step::RemovePod),
        12 => (0..5u8).prop_map(Step::Schedule),
    ]
}

fn named(node: NodeBuilder, at: u8) -> NodeBuilder {
    node.with(|node| node.metadata.name = Some(format!("n{at}")))
}

/// A profile without the parts that the slow rules leave out.
fn profile() -> Profile {
    Profile::builder().without("ImageLocality").without("DefaultPreemption").build().unwrap()
}

fn judged_slowly(snapshot: &Snapshot, pod: &Pod) -> Vec<Result<i64, Vec<String>>> {
    let nodes: Vec<_> = snapshot
        .nodes()
        .iter()
        .map(|row| (&*row.node, row.pods.iter().map(|pod| &*pod.pod).collect()))
        .collect();
    slow::judge(&nodes, pod)
}

/// The same by the plugins, one cycle for one Pod.
fn judged_alone(
    profile: &Profile,
    snapshot: &Snapshot,
    pod: &PodInfo,
) -> Vec<Result<i64, Vec<String>>> {
    let filters = Filters { profile, snapshot };
    let prepared = filters.prepare(pod).unwrap();
    let mut out: Vec<_> = snapshot
        .nodes()
        .iter()
        .map(|node| match filters.filter(&prepared, pod, node) {
            Ok(()) => Ok(0),
            Err((_, status)) => Err(words(&status)),
        })
        .collect();
    let possible: Vec<_> =
        snapshot.nodes().iter().zip(&out).filter(|it| it.1.is_ok()).map(|it| it.0).collect();
    let scores = score_all(profile, prepared.state, pod, &possible).unwrap();
    let mut scores = scores.into_iter();
    out.iter_mut().flatten().for_each(|score| *score = scores.next().unwrap());
    out
}

fn words(status: &Status) -> Vec<String> {
    status.reasons().iter().map(|reason| reason.to_string()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn shared_and_single_cycles_agree_with_the_plain_rules(
        kinds in prop::collection::vec(any_pod(), 5),
        steps in prop::collection::vec(any_step(), 1..60),
    ) {
        let profile = Arc::new(profile());
        let mut scheduler = Scheduler::with_rng((*profile).clone(), Rng::seeded(1));
        let mut snapshot = Snapshot::new();
        for at in 0..3 {
            snapshot.set_node(Arc::new(named(node("n"), at).build()));
        }
        let mut running: Vec<Arc<str>> = Vec::new();

        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::SetNode(at, node) => {
                    snapshot.set_node(Arc::new(named(*node, at).build()));
                }
                Step::RemoveNode(at) => snapshot.remove_node(&format!("n{at}")),
                Step::RemovePod(at) if !running.is_empty() => {
                    let uid = running.swap_remove(at as usize % running.len());
                    snapshot.remove_pod(&uid);
                }
                Step::RemovePod(_) => {}
                Step::Schedule(kind) => {
                    let pod = kinds[kind as usize].clone().uid(&format!("uid-{number}")).build();
                    let info = Arc::new(PodInfo::from(&pod));
                    let expected = judged_slowly(&snapshot, &pod);
                    prop_assert_eq!(&judged_alone(&profile, &snapshot, &info), &expected);
                    prop_assert!(scheduler.shared.sign(&profile, &snapshot, &info), "such Pods share");
                    let shared = scheduler.shared.entry(&profile, &snapshot, &info).unwrap();
                    let shared: Vec<_> = shared
                        .expect("all can be evaluated together")
                        .verdicts()
                        .into_iter()
                        .map(|it| it.map_err(|(_, status)| words(&status)))
                        .collect();
                    prop_assert_eq!(&shared, &expected);

                    let best = expected.iter().flatten().max();
                    match scheduler.schedule_info(&snapshot, &info) {
                        Ok(placement) => {
                            let index = snapshot.index(&placement.node).unwrap();
                            prop_assert_eq!(expected[index as usize].as_ref().ok(), best);
                            snapshot.assume(info.clone(), &placement.node);
                            running.push(info.uid.clone());
                        }
                        Err(_) => prop_assert_eq!(best, None),
                    }
                }
            }
        }
    }

    #[test]
    fn each_filter_agrees_with_its_plain_rule(
        on in any_node(),
        there in prop::collection::vec(any_pod(), 0..4),
        pod in any_pod(),
    ) {
        let there: Vec<Pod> = there
            .into_iter()
            .enumerate()
            .map(|(n, pod)| pod.uid(&format!("u{n}")).node("n").build())
            .collect();
        let snapshot = Snapshot::with_pods([on.clone()], there.clone());
        let row = &snapshot.nodes()[0];
        let there: Vec<_> = there.iter().collect();
        let info = PodInfo::from(&*pod);
        let fits = |name: &str| {
            let plugin = plugins::by_name(name, None).unwrap().unwrap();
            plugin.as_filter().unwrap().filter(&CycleState::default(), &info, row)
        };

        let hard = slow::untolerated(&on, &pod, &["NoSchedule", "NoExecute"]);
        prop_assert_eq!(fits("TaintToleration").is_success(), hard.is_empty());
        prop_assert_eq!(fits("NodeAffinity").is_success(), slow::affinity(&on, &pod));
        prop_assert_eq!(fits("NodePorts").is_success(), slow::ports_free(&there, &pod));
        let resources = slow::resources(&on, &there, &pod);
        prop_assert_eq!(words(&fits("NodeResourcesFit")), resources);
    }

    #[test]
    fn each_score_agrees_with_its_plain_rule(
        on in any_node(),
        there in prop::collection::vec(any_pod(), 0..4),
        pod in any_pod(),
    ) {
        let there: Vec<Pod> = there
            .into_iter()
            .enumerate()
            .map(|(n, pod)| pod.uid(&format!("u{n}")).node("n").build())
            .collect();
        let snapshot = Snapshot::with_pods([on.clone()], there.clone());
        let there: Vec<_> = there.iter().collect();
        let info = PodInfo::from(&*pod);
        let score = |name: &str| {
            let plugin = plugins::by_name(name, None).unwrap().unwrap();
            let row = &snapshot.nodes()[0];
            plugin.as_score().unwrap().score(&CycleState::default(), &info, row)
        };

        prop_assert_eq!(score("NodeResourcesFit"), slow::least_allocated(&on, &there, &pod));
        if let Some(balanced) = slow::balanced(&on, &there, &pod) {
            prop_assert_eq!(score("NodeResourcesBalancedAllocation"), balanced);
        }
        prop_assert_eq!(score("NodeAffinity"), slow::preference(&on, &pod));
        let soft = slow::untolerated(&on, &pod, &["PreferNoSchedule"]).len() as i64;
        prop_assert_eq!(score("TaintToleration"), soft);
    }
}

#[test]
fn the_best_of_equal_nodes_is_drawn_by_the_seed() {
    let snapshot: Snapshot = (0..20).map(|n| node(&format!("n{n}"))).collect();
    let draw = |seed| {
        let mut scheduler = Scheduler::with_rng(Profile::default(), Rng::seeded(seed));
        (0..5).map(|_| scheduler.schedule(&snapshot, &pod("p")).unwrap().node).collect::<Vec<_>>()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

#[test]
fn equal_pods_spread_over_equal_nodes() {
    let mut snapshot: Snapshot = (0..10).map(|n| node(&format!("n{n}"))).collect();
    let mut scheduler = Scheduler::with_rng(Profile::default(), Rng::seeded(3));
    for n in 0..40 {
        let pod = Arc::new(PodInfo::from(&*pod(&format!("p{n}")).cpu("100m").memory("100Mi")));
        let placement = scheduler.schedule_info(&snapshot, &pod).unwrap();
        snapshot.assume(pod, &placement.node);
    }
    assert!(snapshot.nodes().iter().all(|node| node.pods.len() == 4));
}

#[test]
fn a_pod_that_names_its_node_is_tried_only_there() {
    let snapshot = Snapshot::from([node("a"), node("b").cpu("1"), node("c")]);
    let mut scheduler = Scheduler::new(Profile::default());
    let placement = scheduler.schedule(&snapshot, &pod("p").requires_node_named("b")).unwrap();
    assert_eq!((placement.node.as_str(), placement.feasible), ("b", 1));

    let error = scheduler.schedule(&snapshot, &pod("p").cpu("2").requires_node_named("b"));
    assert_eq!(
        error.unwrap_err().to_string(),
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) \
         [NodeAffinity]. preemption: 0/3 nodes are available: 3 Preemption is not helpful for \
         scheduling."
    );
}

#[test]
fn reasons_are_counted_over_all_nodes() {
    let snapshot = Snapshot::from([
        node("a").taint("gpu:NoSchedule"),
        node("b").taint("gpu:NoSchedule"),
        node("c").cpu("1"),
    ]);
    let there = Arc::new(PodInfo::from(&*pod("there").cpu("1").node("c")));
    let mut snapshot = snapshot;
    snapshot.add_pod(there);
    let error = Scheduler::new(Profile::default()).schedule(&snapshot, &pod("p").cpu("1"));
    assert_eq!(
        error.unwrap_err().to_string(),
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {gpu: }. \
         preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 \
         Preemption is not helpful for scheduling."
    );
    let none = Scheduler::new(Profile::default()).schedule(&Snapshot::new(), &pod("p"));
    assert_eq!(none.unwrap_err().to_string(), "no nodes available to schedule pods");
}

#[test]
fn the_number_of_nodes_to_find_is_upstreams() {
    let adaptive: Vec<_> =
        [50, 100, 1000, 5000, 10_000].map(|nodes| feasible_nodes_to_find(0, nodes)).into();
    assert_eq!(adaptive, [50, 100, 420, 500, 500]);
    assert_eq!(feasible_nodes_to_find(70, 1000), 700);
    assert_eq!(feasible_nodes_to_find(1, 1000), 100);
}

#[test]
fn a_plugin_that_does_not_sign_gets_cycles_of_its_own() {
    #[derive(Debug)]
    struct OnlyEven;
    impl crate::framework::Plugin for OnlyEven {
        fn name(&self) -> &'static str {
            "OnlyEven"
        }
        fn as_filter(&self) -> Option<&dyn crate::framework::Filter> {
            Some(self)
        }
    }
    impl crate::framework::Filter for OnlyEven {
        fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
            let last = |text: &str| text.as_bytes().last().map_or(0, |it| it % 2);
            match last(pod.name()) == last(&node.name) {
                true => Status::success(),
                false => Status::unschedulable("odd"),
            }
        }
    }
    let profile = Profile::builder().with(Arc::new(OnlyEven), 1).build().unwrap();
    assert!(profile.plugins_at(Point::Filter).iter().any(|it| it.0 == "OnlyEven"));
    let snapshot = Snapshot::from([node("n1"), node("n2")]);
    let mut scheduler = Scheduler::new(profile);
    for n in 1..5 {
        let placement = scheduler.schedule(&snapshot, &pod(&format!("p{n}"))).unwrap();
        assert_eq!(placement.node, if n % 2 == 0 { "n2" } else { "n1" });
    }
}
