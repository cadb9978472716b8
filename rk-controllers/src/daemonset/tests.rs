//! Nodes, Pods and status of single situations.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Node};
use kube::ResourceExt;
use rk_api::testing::{NodeBuilder, PodBuilder, node, pod};
use serde_json::{Value, json};

use super::{
    hash_of,
    model::{self, Bounds},
    placement::{self, Place, place},
    plan::{World, plan},
    status::status,
};
use crate::{history::POD_REVISION, owners::controller_ref};

fn now() -> Timestamp {
    Timestamp::from_second(100_000).unwrap()
}

pub(super) fn set_of(spec: Value) -> DaemonSet {
    let mut set = json!({
        "metadata": {"name": "log", "namespace": "default", "uid": "set", "generation": 1},
        "spec": {
            "selector": {"matchLabels": {"app": "log"}},
            "template": {"metadata": {"labels": {"app": "log"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
        },
    });
    merge(&mut set["spec"], spec);
    serde_json::from_value(set).unwrap()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            from.into_iter()
                .for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
        }
        (into, from) => *into = from,
    }
}

pub(super) fn surging(max: Value) -> DaemonSet {
    set_of(json!({"updateStrategy": {"rollingUpdate": {"maxSurge": max, "maxUnavailable": 0}}}))
}

/// A Pod of the set for this node, ready.
fn on(node: &str, hash: &str) -> PodBuilder {
    let set = set_of(json!({}));
    let made = placement::new_pod(&set, &controller_ref(&set), hash, node);
    pod("x").phase("Running").ready_since(1).with(|it| {
        (it.metadata, it.spec) = (made.metadata, made.spec);
        it.metadata.name = Some(format!("{node}-{hash}"));
        it.metadata.uid = Some(format!("uid-{node}-{hash}"));
        it.spec.as_mut().unwrap().node_name = Some(node.to_owned());
    })
}

/// Ready since another time.
fn since(pod: PodBuilder, second: i64) -> PodBuilder {
    pod.with(|pod| pod.status = None).phase("Running").ready_since(second)
}

fn unready(node: &str, hash: &str) -> PodBuilder {
    on(node, hash).with(|pod| pod.status = None).phase("Running")
}

fn nodes(names: &[&str]) -> Vec<NodeBuilder> {
    names.iter().map(|name| node(name)).collect()
}

/// A plan in words: `+n1` a Pod for n1, `-name` a Pod deleted. The present hash is `b`.
fn planned(set: &DaemonSet, nodes: Vec<NodeBuilder>, pods: Vec<PodBuilder>) -> String {
    let nodes: Vec<Arc<Node>> = nodes.into_iter().map(|it| Arc::new(it.build())).collect();
    let pods: Vec<_> = pods.into_iter().map(|it| Arc::new(it.build())).collect();
    let plan = plan(&World::new(set, "b", &nodes, &pods, &|_| None, now()));
    let created = plan.create.iter().map(|node| format!("+{node}"));
    let deleted = plan.delete.iter().map(|pod| format!("-{}", pod.name_any()));
    created.chain(deleted).collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn check(why: &str, set: &DaemonSet, names: &[&str], pods: Vec<PodBuilder>, expected: &str) {
    assert_eq!(planned(set, nodes(names), pods), expected, "{why}");
}

#[test]
fn a_node_is_wanted_kept_or_refused() {
    let place_of = |spec: Value, node: NodeBuilder| {
        place(&set_of(json!({"template": {"spec": spec}})), &node.build())
    };
    let plain = || json!({});
    assert_eq!(place_of(plain(), node("n")), Place::Wanted);
    assert_eq!(place_of(plain(), node("n").taint("a=:NoSchedule")), Place::Kept);
    assert_eq!(place_of(plain(), node("n").taint("a=:NoExecute")), Place::Refused);
    assert_eq!(place_of(plain(), node("n").taint("a=:PreferNoSchedule")), Place::Wanted);
    for trouble in [
        "not-ready=:NoExecute",
        "unreachable=:NoExecute",
        "disk-pressure=:NoSchedule",
        "memory-pressure=:NoSchedule",
        "pid-pressure=:NoSchedule",
        "unschedulable=:NoSchedule",
    ] {
        let troubled = node("n").taint(&format!("node.kubernetes.io/{trouble}"));
        assert_eq!(place_of(plain(), troubled), Place::Wanted, "{trouble}");
    }
    let no_network = || node("n").taint("node.kubernetes.io/network-unavailable=:NoSchedule");
    assert_eq!(place_of(plain(), no_network()), Place::Kept);
    assert_eq!(place_of(json!({"hostNetwork": true}), no_network()), Place::Wanted);
    let tolerating = json!({"tolerations": [{"key": "a", "operator": "Exists"}]});
    assert_eq!(place_of(tolerating, node("n").taint("a=x:NoExecute")), Place::Wanted);

    let selecting = json!({"nodeSelector": {"disk": "ssd"}});
    assert_eq!(place_of(selecting.clone(), node("n")), Place::Refused);
    assert_eq!(place_of(selecting, node("n").label("disk", "ssd")), Place::Wanted);
    assert_eq!(place_of(json!({"nodeName": "m"}), node("n")), Place::Refused);
    assert_eq!(place_of(json!({"nodeName": "n"}), node("n")), Place::Wanted);
}

#[test]
fn a_pod_is_made_for_its_node() {
    let mut set = set_of(json!({"template": {"spec": {"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]},
        "preferredDuringSchedulingIgnoredDuringExecution": [],
    }}, "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}]}}}));
    set.annotations_mut().insert(model::TEMPLATE_GENERATION.into(), "4".into());
    let made = placement::new_pod(&set, &controller_ref(&set), "abc", "n1");

    assert_eq!(placement::target(&made), Some("n1"));
    assert_eq!(made.labels()[POD_REVISION], "abc");
    assert_eq!(made.labels()["pod-template-generation"], "4");
    let spec = serde_json::to_value(made.spec).unwrap();
    let terms = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        ["nodeSelectorTerms"];
    assert_eq!(
        *terms,
        json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}])
    );
    let tolerations = spec["tolerations"].as_array().unwrap();
    assert_eq!(tolerations.len(), 6);
    assert_eq!(
        tolerations[0],
        json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"})
    );
    assert_eq!(placement::target(&pod("stray").build()), None);
}

#[test]
fn each_node_has_one_pod() {
    let set = set_of(json!({}));
    check("all lack one", &set, &["n1", "n2"], vec![], "+n1 +n2");
    check("one lacks one", &set, &["n1", "n2"], vec![on("n1", "b")], "+n2");
    check("not beside one that goes", &set, &["n1"], vec![on("n1", "b").deleting()], "");
    let ended = on("n1", "b").phase("Failed");
    check("beside one that ended and goes", &set, &["n1"], vec![ended.deleting()], "+n1");
    let [older, younger] = [(5, "older"), (9, "younger")].map(|(age, name)| {
        on("n1", "b").created(age).with(|pod| pod.metadata.name = Some(name.into()))
    });
    check("the oldest stays", &set, &["n1"], vec![younger.clone(), older.clone()], "-younger");
    let unbound = older.with(|pod| pod.spec.as_mut().unwrap().node_name = None);
    check("or the bound one", &set, &["n1"], vec![unbound.clone(), younger], "-older");
    check("one for a node that is gone", &set, &[], vec![unbound], "-older");
    check("one that ran there is not ours to collect", &set, &[], vec![on("n1", "b")], "");
}

#[test]
fn a_tainted_node_keeps_its_pod_or_loses_it() {
    let set = set_of(json!({}));
    let tainted = |effect: &str| vec![node("n1").taint(&format!("a=:{effect}"))];
    assert_eq!(planned(&set, tainted("NoSchedule"), vec![on("n1", "b")]), "");
    assert_eq!(planned(&set, tainted("NoSchedule"), vec![]), "");
    assert_eq!(planned(&set, tainted("NoExecute"), vec![on("n1", "b")]), "-n1-b");
}

#[test]
fn ended_pods_are_made_anew_failed_ones_after_a_delay() {
    let set = set_of(json!({}));
    check("failed", &set, &["n1"], vec![on("n1", "b").phase("Failed")], "-n1-b");
    check("succeeded", &set, &["n1"], vec![on("n1", "b").phase("Succeeded")], "-n1-b");

    let (nodes, failed) =
        ([Arc::new(node("n1").build())], [Arc::new(on("n1", "b").phase("Failed").build())]);
    let wait = Duration::from_secs(8);
    let held = plan(&World::new(&set, "b", &nodes, &failed, &|_| Some(wait), now()));
    assert!(held.delete.is_empty() && held.create.is_empty() && held.ended.is_empty());
    assert_eq!(held.look_again, Some(wait));
    let free = plan(&World::new(&set, "b", &nodes, &failed, &|_| None, now()));
    assert_eq!(free.ended.len(), 1);
}

#[test]
fn an_update_deletes_within_max_unavailable() {
    let set = set_of(json!({}));
    let all = ["n1", "n2", "n3"];
    let old = |node| on(node, "a");
    check("one", &set, &all, vec![old("n1"), old("n2"), old("n3")], "-n1-a");
    check("not while one goes", &set, &all, vec![old("n1").deleting(), old("n2"), old("n3")], "");
    check(
        "nor while the new one starts",
        &set,
        &all,
        vec![unready("n1", "b"), old("n2"), old("n3")],
        "",
    );
    check("then the next", &set, &all, vec![on("n1", "b"), old("n2"), old("n3")], "-n2-a");
    check(
        "those that are down first",
        &set,
        &all,
        vec![old("n1"), unready("n2", "a"), unready("n3", "a")],
        "-n2-a -n3-a",
    );
    check("making goes first", &set, &all, vec![old("n1"), old("n2")], "+n3");

    let half = set_of(json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": "50%"}}}));
    check(
        "half of three, rounded up",
        &half,
        &all,
        vec![old("n1"), old("n2"), old("n3")],
        "-n1-a -n2-a",
    );
    let by_hand = set_of(json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}));
    check("by hand only", &by_hand, &all, vec![old("n1"), old("n2"), old("n3")], "");
}

#[test]
fn a_surge_creates_before_it_deletes() {
    let set = surging(json!(1));
    let all = ["n1", "n2"];
    let old = |node| on(node, "a");
    check("a second one", &set, &all, vec![old("n1"), old("n2")], "+n1");
    check("one at a time", &set, &all, vec![old("n1"), unready("n1", "b"), old("n2")], "");
    check("the old one goes", &set, &all, vec![old("n1"), on("n1", "b"), old("n2")], "-n1-a");
    check("then the next", &set, &all, vec![on("n1", "b"), old("n2")], "+n2");
    check(
        "one that is down costs nothing",
        &set,
        &all,
        vec![old("n1"), unready("n2", "a")],
        "+n2 +n1",
    );
    check("nor does it stay", &set, &["n1"], vec![unready("n1", "a"), unready("n1", "b")], "-n1-a");
    check("while one ends there is another", &set, &["n1"], vec![on("n1", "b").deleting()], "+n1");
    check("all at once", &surging(json!("100%")), &all, vec![old("n1"), old("n2")], "+n1 +n2");
    let third = on("n1", "a").created(9).with(|pod| pod.metadata.name = Some("third".into()));
    check(
        "never three",
        &set,
        &["n1"],
        vec![old("n1").created(1), third, unready("n1", "b")],
        "-third",
    );
}

#[test]
fn bounds_are_of_the_wanted_nodes_and_never_both_zero() {
    let of = |surge: Value, unavailable: Value| {
        let rolling = json!({"maxSurge": surge, "maxUnavailable": unavailable});
        model::bounds(&set_of(json!({"updateStrategy": {"rollingUpdate": rolling}})), 10)
    };
    assert_eq!(of(json!("15%"), json!(0)), Bounds { surge: 2, unavailable: 0 });
    assert_eq!(of(json!(0), json!("15%")), Bounds { surge: 0, unavailable: 2 });
    assert_eq!(of(json!(0), json!(0)), Bounds { surge: 0, unavailable: 1 });
    assert!(model::surges(&surging(json!("1%"))) && !model::surges(&surging(json!("0%"))));
}

#[test]
fn at_most_250_pods_come_and_go_at_a_time() {
    let names: Vec<String> = (0..300).map(|number| format!("n{number}")).collect();
    let many: Vec<_> = names.iter().map(|name| Arc::new(node(name).build())).collect();
    let set = set_of(json!({}));
    assert_eq!(plan(&World::new(&set, "b", &many, &[], &|_| None, now())).create.len(), 250);
}

#[test]
fn the_status_counts_nodes() {
    let mut set = set_of(json!({"minReadySeconds": 60}));
    set.metadata.generation = Some(7);
    let nodes = [
        node("ready"),
        node("fresh"),
        node("old"),
        node("none"),
        node("down"),
        node("wrong").taint("a=:NoSchedule"),
    ]
    .map(|it| Arc::new(it.build()));
    let pods = [
        on("ready", "b"),
        since(on("fresh", "b"), 99_970),
        on("old", "a"),
        unready("down", "b"),
        on("wrong", "b"),
    ]
    .map(|it| Arc::new(it.build()));
    let (status, look_again) = status(&World::new(&set, "b", &nodes, &pods, &|_| None, now()), 2);

    assert_eq!((status.desired_number_scheduled, status.current_number_scheduled), (5, 4));
    assert_eq!((status.number_ready, status.number_misscheduled), (3, 1));
    assert_eq!((status.updated_number_scheduled, status.number_available), (Some(3), Some(2)));
    assert_eq!((status.number_unavailable, status.observed_generation), (Some(3), Some(7)));
    assert_eq!(status.collision_count, Some(2));
    assert_eq!(look_again.unwrap().as_secs(), 30);
}

#[test]
fn a_pod_of_an_early_kubernetes_is_known_by_its_number() {
    let mut set = set_of(json!({}));
    set.annotations_mut().insert(model::TEMPLATE_GENERATION.into(), "4".into());
    let of = |generation: &str| on("n1", "a").label("pod-template-generation", generation).build();
    assert!(model::is_updated(&set, &of("4"), "b"));
    assert!(!model::is_updated(&set, &of("3"), "b"));
}

#[test]
fn a_revision_without_a_hash_is_known_by_its_name() {
    let mut revision = k8s_openapi::api::apps::v1::ControllerRevision::default();
    revision.metadata.name = Some("log-1".into());
    assert_eq!(hash_of(&revision), "log-1");
    revision.labels_mut().insert(POD_REVISION.into(), "abc".into());
    assert_eq!(hash_of(&revision), "abc");
}
