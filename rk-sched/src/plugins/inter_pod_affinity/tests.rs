use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use rk_api::{
    rng::Rng,
    testing::{NodeBuilder, PodBuilder, node, pod},
};
use serde_json::json;

use super::*;
use crate::{NamespaceView, NodeChange, Profile, Scheduler, Unschedulable, framework::Nomination};

mod model;

const HOST: &str = "kubernetes.io/hostname";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const NOT_NEAR: &str = "node(s) didn't match pod affinity rules";
const NOT_APART: &str = "node(s) didn't match pod anti-affinity rules";
const KEPT_OFF: &str = "node(s) didn't satisfy existing pods anti-affinity rules";

/// Two namespaces, of which one has a label.
#[derive(Debug)]
struct Two;

impl NamespaceView for Two {
    fn namespace(&self, name: &str) -> Option<Arc<Namespace>> {
        self.namespaces().into_iter().find(|it| it.metadata.name.as_deref() == Some(name))
    }
    fn namespaces(&self) -> Vec<Arc<Namespace>> {
        let namespace = |value| Arc::new(serde_json::from_value(value).unwrap());
        vec![
            namespace(json!({"metadata": {"name": "default"}})),
            namespace(json!({"metadata": {"name": "team", "labels": {"team": "x"}}})),
        ]
    }
}

fn plugin() -> InterPodAffinity {
    plugin_with(None)
}

fn plugin_with(args: Option<Value>) -> InterPodAffinity {
    let plugin = InterPodAffinity::from_args(args).unwrap();
    plugin.namespaces.connect(Arc::new(Two));
    plugin
}

/// A term that means Pods with `app=<app>`.
fn term(key: &str, app: &str) -> Value {
    json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}})
}

fn also(mut term: Value, field: &str, value: Value) -> Value {
    term[field] = value;
    term
}

/// The Pod with one more rule in this list of `spec.affinity`.
fn ruled(pod: PodBuilder, side: &str, list: &str, rule: Value) -> PodBuilder {
    pod.with(|pod| {
        let affinity = &mut pod.spec.get_or_insert_default().affinity;
        let mut all = serde_json::to_value(affinity.clone().unwrap_or_default()).unwrap();
        match all[side][list].as_array_mut() {
            Some(list) => list.push(rule),
            None => all[side][list] = json!([rule]),
        }
        *affinity = Some(serde_json::from_value(all).unwrap());
    })
}

fn near(pod: PodBuilder, term: Value) -> PodBuilder {
    ruled(pod, "podAffinity", REQUIRED, term)
}
fn apart(pod: PodBuilder, term: Value) -> PodBuilder {
    ruled(pod, "podAntiAffinity", REQUIRED, term)
}
fn rather_near(pod: PodBuilder, weight: i32, term: Value) -> PodBuilder {
    ruled(pod, "podAffinity", PREFERRED, json!({"weight": weight, "podAffinityTerm": term}))
}
fn rather_apart(pod: PodBuilder, weight: i32, term: Value) -> PodBuilder {
    ruled(pod, "podAntiAffinity", PREFERRED, json!({"weight": weight, "podAffinityTerm": term}))
}

fn app(name: &str, app: &str) -> PodBuilder {
    pod(name).label("app", app)
}

fn at(name: &str, zone: &str) -> NodeBuilder {
    node(name).label("zone", zone).label(HOST, name)
}

/// Two nodes in zone a, one in zone b and one in none, with these Pods.
fn cluster(pods: impl IntoIterator<Item = PodBuilder>) -> Snapshot {
    let nowhere = node("x").with(|node| node.metadata.labels = None);
    Snapshot::with_pods([at("a1", "a"), at("a2", "a"), at("b1", "b"), nowhere], pods)
}

fn info(pod: PodBuilder) -> PodInfo {
    PodInfo::from(&*pod)
}

/// The verdict on each node; none where the Pod fits.
fn verdicts(
    plugin: &InterPodAffinity,
    snapshot: &Snapshot,
    pod: &PodInfo,
) -> Vec<Option<(bool, String)>> {
    let mut state = CycleState::default();
    plugin.pre_filter(&mut state, pod, snapshot);
    let verdict = |node: &NodeInfo| {
        let status = plugin.filter(&state, pod, node);
        let resolvable = status.code() == crate::Code::Unschedulable;
        (!status.is_success()).then(|| (resolvable, status.message()))
    };
    snapshot.nodes().iter().map(verdict).collect()
}

/// The Pod fits on these nodes, and each other one is rejected for the reason.
#[track_caller]
fn check(name: &str, snapshot: &Snapshot, pod: PodBuilder, fits: &[&str], reason: &str) {
    let found = verdicts(&plugin(), snapshot, &info(pod));
    for (node, verdict) in snapshot.nodes().iter().zip(found) {
        let expected =
            (!fits.contains(&&*node.name)).then(|| (reason != NOT_NEAR, reason.to_owned()));
        assert_eq!(verdict, expected, "{name}: {}", node.name);
    }
}

const ALL: [&str; 4] = ["a1", "a2", "b1", "x"];

#[test]
fn a_pod_goes_near_those_that_all_its_terms_mean() {
    let web = || cluster([app("w", "web").node("a1")]);
    let to = |key| near(pod("p"), term(key, "web"));
    check("in the zone", &web(), to("zone"), &["a1", "a2"], NOT_NEAR);
    check("on the node", &web(), to(HOST), &["a1"], NOT_NEAR);
    check("no such label", &web(), to("rack"), &[], NOT_NEAR);
    check("nobody there", &cluster([]), to("zone"), &[], NOT_NEAR);
    let two = near(to("zone"), term(HOST, "web"));
    check("two domains", &web(), two.clone(), &["a1"], NOT_NEAR);
    let two = near(to("zone"), term("zone", "db"));
    let both = cluster([app("w", "web").node("a1"), app("d", "db").node("a1")]);
    check("two Pods do not make one that both mean", &both, two, &[], NOT_NEAR);
    let other = cluster([app("w", "web").namespace("team").node("a1")]);
    check("another namespace", &other, to("zone"), &[], NOT_NEAR);
    let going = cluster([app("w", "web").node("a1").deleting()]);
    check("one that goes is still there", &going, to(HOST), &["a1"], NOT_NEAR);
}

#[test]
fn the_first_of_a_group_may_go_where_the_labels_are() {
    let own = |pod| near(pod, term("zone", "web"));
    check("the first", &cluster([]), own(app("p", "web")), &["a1", "a2", "b1"], NOT_NEAR);
    let there = cluster([app("w", "web").node("b1")]);
    check("the second", &there, own(app("p", "web")), &["b1"], NOT_NEAR);
    let no_domain = cluster([app("w", "web").node("x")]);
    let free = ["a1", "a2", "b1"];
    check("one without a domain is none", &no_domain, own(app("p", "web")), &free, NOT_NEAR);
    let half = near(own(app("p", "web")), term("zone", "db"));
    check("only half of it", &cluster([]), half, &[], NOT_NEAR);
}

#[test]
fn a_pod_stays_apart_from_those_that_a_term_means() {
    let web = || cluster([app("w", "web").node("a1")]);
    let from = |key| apart(app("p", "web"), term(key, "web"));
    check("another zone", &web(), from("zone"), &["b1", "x"], NOT_APART);
    check("another node", &web(), from(HOST), &["a2", "b1", "x"], NOT_APART);
    check("no such label", &web(), from("rack"), &ALL, NOT_APART);
    let two = apart(from(HOST), term("zone", "db"));
    let both = cluster([app("w", "web").node("a1"), app("d", "db").node("b1")]);
    check("each term alone", &both, two, &["a2", "x"], NOT_APART);
    let none = apart(pod("p"), json!({"topologyKey": HOST}));
    check("no selector means nobody", &web(), none, &ALL, NOT_APART);
    let any = apart(pod("p"), json!({"topologyKey": HOST, "labelSelector": {}}));
    check("an empty one means all", &web(), any, &["a2", "b1", "x"], NOT_APART);
}

#[test]
fn the_anti_affinity_of_existing_pods_keeps_others_off() {
    let lonely = |pod| apart(pod, term("zone", "web"));
    let there = || cluster([lonely(app("w", "db")).node("a1")]);
    check("meant", &there(), app("p", "web"), &["b1", "x"], KEPT_OFF);
    check("not meant", &there(), app("p", "db"), &ALL, KEPT_OFF);
    let none = cluster([lonely(app("w", "db")).node("x")]);
    check("on a node without the label", &none, app("p", "web"), &ALL, KEPT_OFF);
    let polite = cluster([rather_apart(pod("w"), 1, term("zone", "web")).node("a1")]);
    check("only preferred", &polite, app("p", "web"), &ALL, KEPT_OFF);
    let wide =
        also(term("zone", "web"), "namespaceSelector", json!({"matchLabels": {"team": "x"}}));
    let there = cluster([apart(pod("w"), wide).node("a1")]);
    check(
        "of a selected namespace",
        &there,
        app("p", "web").namespace("team"),
        &["b1", "x"],
        KEPT_OFF,
    );
    check("of its own, not selected", &there, app("p", "web"), &ALL, KEPT_OFF);
}

#[test]
fn terms_mean_namespaces_by_name_and_by_labels() {
    let snapshot = || {
        let own = app("w", "web").node("a1");
        cluster([own, app("v", "web").namespace("team").node("b1")])
    };
    let from = |field: &[(&str, Value)]| {
        let rule = field
            .iter()
            .fold(term(HOST, "web"), |term, (field, value)| also(term, field, value.clone()));
        apart(pod("p"), rule)
    };
    let team = json!({"matchLabels": {"team": "x"}});
    check("its own", &snapshot(), from(&[]), &["a2", "b1", "x"], NOT_APART);
    let named = ("namespaces", json!(["team"]));
    check("named", &snapshot(), from(&[named]), &["a1", "a2", "x"], NOT_APART);
    let selected = ("namespaceSelector", team.clone());
    check(
        "selected",
        &snapshot(),
        from(std::slice::from_ref(&selected)),
        &["a1", "a2", "x"],
        NOT_APART,
    );
    let both = [("namespaces", json!(["default"])), selected];
    check("both", &snapshot(), from(&both), &["a2", "x"], NOT_APART);
    let all = ("namespaceSelector", json!({}));
    check("all", &snapshot(), from(&[all]), &["a2", "x"], NOT_APART);
}

#[test]
fn affinity_is_judged_before_anti_affinity_and_that_before_the_others() {
    let there = || cluster([apart(app("w", "web"), term(HOST, "web")).node("a1")]);
    let own = apart(app("p", "web"), term(HOST, "web"));
    check("own first", &there(), own.clone(), &["a2", "b1", "x"], NOT_APART);
    let found = verdicts(&plugin(), &there(), &info(near(own, term("zone", "db"))));
    assert!(found.iter().all(|it| *it == Some((false, NOT_NEAR.to_owned()))), "{found:?}");
}

#[test]
fn a_pod_that_no_term_is_about_is_skipped_and_shares() {
    let snapshot = cluster([
        apart(app("w", "web"), term(HOST, "web")).node("a1"),
        rather_near(pod("v"), 5, term("zone", "db")).node("a1"),
        near(app("u", "u"), term("zone", "u")).node("a1"),
    ]);
    let plugin = plugin();
    let signs = |pod: &PodInfo| plugin.sign(pod, &snapshot, &mut Vec::new());
    let skips = |pod: &PodInfo| {
        let mut state = CycleState::default();
        let skipped = plugin.pre_filter(&mut state, pod, &snapshot);
        let scores = plugin.pre_score(&mut state, pod, &[]).is_success();
        (matches!(skipped, PreFiltered::Skip), scores)
    };
    let other = info(app("p", "other"));
    assert!(signs(&other));
    assert_eq!(skips(&other), (true, false));
    let elsewhere = info(app("p", "web").namespace("team"));
    assert!(signs(&elsewhere));
    for (meant, expected) in [("web", (false, false)), ("db", (true, true)), ("u", (true, true))] {
        let pod = info(app("p", meant));
        assert!(!signs(&pod), "{meant}");
        assert_eq!(skips(&pod), expected, "{meant}");
    }
    let own = info(rather_near(pod("p"), 1, term("zone", "nobody")));
    assert!(!signs(&own));
    assert_eq!(skips(&own), (true, false));
}

/// The raw and the normalized scores of all nodes.
fn scores(plugin: &InterPodAffinity, snapshot: &Snapshot, pod: PodBuilder) -> (Vec<i64>, Vec<i64>) {
    let pod = info(pod);
    let nodes: Vec<_> = snapshot.nodes().iter().collect();
    let mut state = CycleState::default();
    plugin.pre_filter(&mut state, &pod, snapshot);
    let raw: Vec<_> = nodes.iter().map(|node| plugin.score(&state, &pod, node)).collect();
    let mut normalized = raw.clone();
    plugin.normalize_score(&state, &pod, &nodes, &mut normalized);
    (raw, normalized)
}

#[test]
fn preferences_of_both_sides_add_up_by_domain() {
    let two = || cluster([app("w", "web").node("a1"), app("v", "web").node("b1")]);
    let liked = rather_near(pod("p"), 10, term(HOST, "web"));
    assert_eq!(scores(&plugin(), &two(), liked.clone()).0, [10, 0, 10, 0]);
    let zone = rather_near(liked, 3, term("zone", "web"));
    assert_eq!(scores(&plugin(), &two(), zone).0, [13, 3, 13, 0]);
    let shy = rather_apart(pod("p"), 5, term("zone", "web"));
    assert_eq!(scores(&plugin(), &two(), shy), (vec![-5, -5, -5, 0], vec![0, 0, 0, 100]));

    let others = cluster([
        rather_near(pod("w"), 7, term("zone", "web")).node("a1"),
        rather_apart(pod("v"), 2, term(HOST, "web")).node("a2"),
        near(pod("u"), term(HOST, "web")).node("b1"),
    ]);
    let meant = || app("p", "web");
    assert_eq!(scores(&plugin(), &others, meant()), (vec![7, 5, 1, 0], vec![100, 71, 14, 0]));
    assert_eq!(scores(&plugin(), &others, pod("p")).0, [0; 4]);
    let heavy = plugin_with(Some(json!({"hardPodAffinityWeight": 50})));
    assert_eq!(scores(&heavy, &others, meant()).0, [7, 5, 50, 0]);
    let none = plugin_with(Some(json!({"hardPodAffinityWeight": 0})));
    assert_eq!(scores(&none, &others, meant()).0, [7, 5, 0, 0]);
    let deaf = plugin_with(Some(json!({"ignorePreferredTermsOfExistingPods": true})));
    assert_eq!(scores(&deaf, &others, meant()).0, [0; 4]);
    let talks = rather_near(meant(), 1, term(HOST, "nobody"));
    assert_eq!(scores(&deaf, &others, talks).0, [7, 5, 1, 0]);
}

#[test]
fn arguments_out_of_range_are_refused() {
    let refused = |args: Value| InterPodAffinity::from_args(Some(args)).unwrap_err().to_string();
    for weight in [-1, 101] {
        let message = refused(json!({"hardPodAffinityWeight": weight}));
        assert_eq!(message, "hardPodAffinityWeight: not in valid range [0, 100]");
    }
    assert!(refused(json!({"hardWeight": 1})).contains("unknown field"));
}

fn schedule(snapshot: &Snapshot, pod: &PodBuilder) -> Result<String, Unschedulable> {
    let mut scheduler = Scheduler::with_rng(Profile::default(), Rng::seeded(7));
    scheduler.schedule(snapshot, pod).map(|placement| placement.node)
}

#[test]
fn one_pod_per_node_and_the_next_says_why() {
    let mut scheduler = Scheduler::with_rng(Profile::default(), Rng::seeded(1));
    let mut snapshot = Snapshot::from([at("a", "z"), at("b", "z"), at("c", "z")]);
    let alone = |n: usize| apart(app(&format!("w{n}"), "web"), term(HOST, "web"));
    let mut nodes = Vec::new();
    for n in 0..3 {
        let placement = scheduler.schedule(&snapshot, &alone(n)).unwrap();
        snapshot.assume(Arc::new(info(alone(n))), &placement.node);
        nodes.push(placement.node);
    }
    nodes.sort();
    assert_eq!(nodes, ["a", "b", "c"]);

    let error = scheduler.schedule(&snapshot, &alone(3)).unwrap_err();
    assert!(error.rejected_by().contains(NAME));
    let message = error.to_string();
    let expected = format!("0/3 nodes are available: 3 {NOT_APART}.");
    assert!(message.starts_with(&expected), "{message}");
    snapshot.remove_pod("uid-w1");
    assert!(scheduler.schedule(&snapshot, &alone(3)).is_ok());
}

#[test]
fn pods_that_shared_work_mind_a_term_that_comes_later() {
    let mut scheduler = Scheduler::with_rng(Profile::default(), Rng::seeded(1));
    let mut snapshot = Snapshot::from([at("a", "z"), at("b", "z")]);
    let web = |n: usize| app(&format!("w{n}"), "web");
    for n in 0..3 {
        scheduler.schedule(&snapshot, &web(n)).unwrap();
    }
    snapshot.add_pod(Arc::new(info(apart(pod("lonely"), term(HOST, "web")).node("a"))));
    for n in 3..9 {
        assert_eq!(scheduler.schedule(&snapshot, &web(n)).unwrap().node, "b");
    }
    snapshot.remove_pod("uid-lonely");
    snapshot.add_pod(Arc::new(info(apart(pod("other"), term(HOST, "web")).node("b"))));
    assert_eq!(scheduler.schedule(&snapshot, &web(9)).unwrap().node, "a");
}

#[test]
fn preemption_takes_those_away_that_anti_affinity_names() {
    let victim = |pod: PodBuilder, node: &str| pod.priority(1).node(node);
    let urgent = |pod: PodBuilder| pod.priority(10);
    let chosen = |snapshot: &Snapshot, pod: PodBuilder| match schedule(snapshot, &pod) {
        Err(Unschedulable::Unfit(error)) => {
            let victims: Vec<_> = error.victims.iter().map(|it| it.name().to_owned()).collect();
            (error.nominated.clone(), victims)
        }
        other => panic!("{other:?}"),
    };
    let node_a = || Nomination::Node("a".to_owned());

    // Those that the Pod stays apart from go, the others are spared.
    let pods = [victim(app("w", "web"), "a"), victim(app("d", "db"), "a")];
    let snapshot = Snapshot::with_pods([at("a", "z")], pods);
    let pod = urgent(apart(app("p", "x"), term(HOST, "web")));
    assert_eq!(chosen(&snapshot, pod), (node_a(), vec!["w".to_owned()]));

    // So do those that keep it off.
    let pods = [victim(apart(app("w", "web"), term(HOST, "x")), "a"), victim(app("d", "db"), "a")];
    let snapshot = Snapshot::with_pods([at("a", "z")], pods);
    assert_eq!(chosen(&snapshot, urgent(app("p", "x"))), (node_a(), vec!["w".to_owned()]));

    // Whoever is on another node of the domain does not go, so the nodes do not come free.
    let pods = [victim(app("w", "web"), "a"), victim(app("v", "web"), "b")];
    let snapshot = Snapshot::with_pods([at("a", "z"), at("b", "z")], pods);
    let pod = urgent(apart(app("p", "x"), term("zone", "web")));
    assert_eq!(chosen(&snapshot, pod).1, Vec::<String>::new());

    // A Pod that it wants to be near is no victim, and of no use if it could be one.
    for (priority, expected) in [(10, node_a()), (1, Nomination::Withdrawn)] {
        let web = app("w", "web").cpu("1").priority(priority).node("a");
        let pods = [web, victim(app("d", "db").cpu("1"), "a")];
        let snapshot = Snapshot::with_pods([at("a", "z").cpu("2")], pods);
        let pod = urgent(near(app("p", "x").cpu("1"), term(HOST, "web")));
        let victims: &[&str] = if priority == 10 { &["d"] } else { &[] };
        let victims: Vec<_> = victims.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(chosen(&snapshot, pod), (expected, victims));
    }
}

#[test]
fn a_pod_for_which_room_is_kept_keeps_others_off_already() {
    let mut snapshot = Snapshot::from([at("a", "z"), at("b", "z")]);
    let coming = apart(app("coming", "x"), term(HOST, "web")).priority(10);
    snapshot.nominate(Arc::new(info(coming)), "a");
    assert_eq!(schedule(&snapshot, &app("p", "web")).unwrap(), "b");
}

#[test]
fn events_wake_pods_that_they_may_help() {
    #[track_caller]
    fn check(name: &str, pod: &PodBuilder, event: &ClusterEvent<'_>, expected: Hint) {
        assert_eq!(plugin().hint(&info(pod.clone()), event), expected, "{name}");
    }
    let (web, db) = (info(app("w", "web")), info(app("w", "db")));
    let to_web = near(pod("p"), term("zone", "web"));
    let from_web = apart(pod("p"), term("zone", "web"));
    let own = near(app("p", "web"), term("zone", "web"));
    let (added, gone) = (ClusterEvent::AssignedPodAdded, ClusterEvent::AssignedPodDeleted);
    let became = |old, new| ClusterEvent::AssignedPodUpdated { old, new };
    check("one to be near", &to_web, &added(&web), Hint::Queue);
    check("another", &to_web, &added(&db), Hint::Skip);
    check("one more to be apart from", &from_web, &added(&web), Hint::Skip);
    check("one fewer", &from_web, &gone(&web), Hint::Queue);
    check("another goes", &from_web, &gone(&db), Hint::Skip);
    check("the last of its group", &own, &gone(&web), Hint::Queue);
    check("one to be near goes", &to_web, &gone(&web), Hint::Skip);
    let lonely = info(apart(pod("w"), term("zone", "web")));
    check("one that kept it off", &app("p", "web"), &gone(&lonely), Hint::Queue);
    check("one that did not", &app("p", "db"), &gone(&lonely), Hint::Skip);
    check("becomes one to be near", &to_web, &became(&db, &web), Hint::Queue);
    check("stays one", &to_web, &became(&web, &web), Hint::Skip);
    check("is meant no more", &from_web, &became(&web, &db), Hint::Queue);
    check("is meant now", &from_web, &became(&db, &web), Hint::Skip);

    let zoned = NodeInfo::new(Arc::new(at("n", "a").build()));
    let bare = NodeInfo::new(Arc::new(node("n").build()));
    check("a new domain", &from_web, &ClusterEvent::NodeAdded(&bare), Hint::Queue);
    check("with its label", &to_web, &ClusterEvent::NodeAdded(&zoned), Hint::Queue);
    check("without", &to_web, &ClusterEvent::NodeAdded(&bare), Hint::Skip);
    let updated = |change| ClusterEvent::NodeUpdated { old: &bare, new: &zoned, change };
    let labels = NodeChange { labels: true, ..NodeChange::default() };
    check("a label", &to_web, &updated(labels), Hint::Queue);
    let taints = NodeChange { taints: true, ..NodeChange::default() };
    check("a taint", &to_web, &updated(taints), Hint::Skip);
    check("a namespace", &to_web, &ClusterEvent::NamespaceChanged, Hint::Queue);
    check("a volume", &to_web, &ClusterEvent::StorageChanged, Hint::Skip);
}
