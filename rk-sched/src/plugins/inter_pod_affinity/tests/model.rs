//! Random histories against the rules in plain words: all Pods on all nodes, anew each time.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// A term as drawn: a node label, namespaces, Pods.
type TermDraw = (u8, u8, u8);

#[derive(Clone, Debug)]
struct PodDraw {
    team: bool,
    app: u8,
    near: Vec<TermDraw>,
    apart: Vec<TermDraw>,
    rather_near: Vec<(i32, TermDraw)>,
    rather_apart: Vec<(i32, TermDraw)>,
}

#[derive(Clone, Debug)]
enum Step {
    /// A node comes, or its labels change.
    Node {
        name: u8,
        zone: Option<u8>,
        host: bool,
    },
    NodeGoes(u8),
    /// A Pod comes, or changes and moves.
    Pod {
        name: u8,
        node: u8,
        pod: PodDraw,
    },
    PodGoes(u8),
    /// All nodes are judged for a Pod, and once more without one that is there.
    Judge {
        pod: PodDraw,
        without: u8,
    },
}

const KEYS: [&str; 2] = ["zone", HOST];
const APPS: [&str; 3] = ["web", "db", "none"];

fn term_draw() -> impl Strategy<Value = TermDraw> {
    (0..2u8, 0..6u8, 0..4u8)
}

fn pod_draw() -> impl Strategy<Value = PodDraw> {
    let terms = || {
        prop_oneof![
            2 => Just(Vec::new()),
            1 => proptest::collection::vec(term_draw(), 1..3),
        ]
    };
    let preferred = || proptest::collection::vec((1..50i32, term_draw()), 0..2);
    (any::<bool>(), 0..3u8, terms(), terms(), preferred(), preferred()).prop_map(
        |(team, app, near, apart, rather_near, rather_apart)| PodDraw {
            team,
            app,
            near,
            apart,
            rather_near,
            rather_apart,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let node = (0..4u8, proptest::option::of(0..2u8), any::<bool>());
    prop_oneof![
        3 => node.prop_map(|(name, zone, host)| Step::Node { name, zone, host }),
        1 => (0..4u8).prop_map(Step::NodeGoes),
        5 => (0..6u8, 0..5u8, pod_draw()).prop_map(|(name, node, pod)| Step::Pod { name, node, pod }),
        1 => (0..6u8).prop_map(Step::PodGoes),
        4 => (pod_draw(), 0..6u8).prop_map(|(pod, without)| Step::Judge { pod, without }),
    ]
}

fn term_of((key, namespaces, pods): TermDraw) -> Value {
    let mut term = json!({"topologyKey": KEYS[usize::from(key)]});
    match namespaces {
        0 => term["namespaces"] = json!(["team"]),
        1 => term["namespaces"] = json!(["default", "team"]),
        2 => term["namespaceSelector"] = json!({}),
        3 => term["namespaceSelector"] = json!({"matchLabels": {"team": "x"}}),
        _ => {}
    }
    match pods {
        0 | 1 => term["labelSelector"] = json!({"matchLabels": {"app": APPS[usize::from(pods)]}}),
        2 => {
            let not = json!({"key": "app", "operator": "NotIn", "values": ["web"]});
            term["labelSelector"] = json!({"matchExpressions": [not]});
        }
        _ => {}
    }
    term
}

fn build(name: &str, draw: &PodDraw) -> PodBuilder {
    let mut pod = app(name, APPS[usize::from(draw.app)]);
    if draw.team {
        pod = pod.namespace("team");
    }
    pod = draw.near.iter().fold(pod, |pod, term| near(pod, term_of(*term)));
    pod = draw.apart.iter().fold(pod, |pod, term| apart(pod, term_of(*term)));
    let liked = draw.rather_near.iter();
    pod = liked.fold(pod, |pod, (weight, term)| rather_near(pod, *weight, term_of(*term)));
    let disliked = draw.rather_apart.iter();
    disliked.fold(pod, |pod, (weight, term)| rather_apart(pod, *weight, term_of(*term)))
}

/// Whether a term of a Pod means another.
fn means((_, namespaces, pods): TermDraw, of: &PodDraw, other: &PodDraw) -> bool {
    let namespace = match namespaces {
        0 | 3 => other.team,
        1 | 2 => true,
        _ => other.team == of.team,
    };
    namespace
        && match pods {
            0 | 1 => other.app == pods,
            2 => other.app != 0,
            _ => false,
        }
}

/// A node's labels, by their place in `KEYS`.
type Labels = [Option<String>; 2];
/// The Pods that are on nodes, with the labels of these.
type There<'a> = [(&'a PodDraw, &'a Labels)];

fn same(key: u8, a: &Labels, b: &Labels) -> bool {
    let key = usize::from(key);
    a[key].is_some() && a[key] == b[key]
}

fn verdict(pod: &PodDraw, node: &Labels, there: &There<'_>) -> Option<&'static str> {
    let all = |other: &PodDraw| pod.near.iter().all(|term| means(*term, pod, other));
    let has_labels = pod.near.iter().all(|term| node[usize::from(term.0)].is_some());
    let near = |term: &TermDraw| there.iter().any(|(it, at)| all(it) && same(term.0, node, at));
    let counts = |at: &Labels| pod.near.iter().any(|term| at[usize::from(term.0)].is_some());
    let first = all(pod) && !there.iter().any(|(it, at)| all(it) && counts(at));
    if !(has_labels && (first || pod.near.iter().all(near))) {
        return Some(NOT_NEAR);
    }
    let hit = |term: &TermDraw| {
        there.iter().any(|(it, at)| means(*term, pod, it) && same(term.0, node, at))
    };
    if pod.apart.iter().any(hit) {
        return Some(NOT_APART);
    }
    let keeps_off = |(it, at): &(&PodDraw, &Labels)| {
        it.apart.iter().any(|term| means(*term, it, pod) && same(term.0, node, at))
    };
    there.iter().any(keeps_off).then_some(KEPT_OFF)
}

fn raw_score(pod: &PodDraw, node: &Labels, there: &There<'_>) -> i64 {
    let mut score = 0;
    for (it, at) in there {
        let mut add = |weight: i32, term: TermDraw, from: &PodDraw, to: &PodDraw| {
            if means(term, from, to) && same(term.0, node, at) {
                score += i64::from(weight);
            }
        };
        pod.rather_near.iter().for_each(|(weight, term)| add(*weight, *term, pod, it));
        pod.rather_apart.iter().for_each(|(weight, term)| add(-weight, *term, pod, it));
        it.rather_near.iter().for_each(|(weight, term)| add(*weight, *term, it, pod));
        it.rather_apart.iter().for_each(|(weight, term)| add(-weight, *term, it, pod));
        it.near.iter().for_each(|term| add(1, *term, it, pod));
    }
    score
}

#[derive(Default)]
struct World {
    snapshot: Snapshot,
    nodes: BTreeMap<u8, Labels>,
    pods: BTreeMap<u8, (u8, PodDraw)>,
}

impl World {
    fn there(&self, without: Option<u8>) -> Vec<(&PodDraw, &Labels)> {
        let pods = self.pods.iter().filter(|(name, _)| Some(**name) != without);
        pods.filter_map(|(_, (node, pod))| Some((pod, self.nodes.get(node)?))).collect()
    }

    fn step(&mut self, plugin: &InterPodAffinity, step: &Step) {
        match step {
            Step::Node { name, zone, host } => {
                let host = host.then(|| format!("n{name}"));
                let labels = [zone.map(|zone| zone.to_string()), host];
                let mut built = node(&format!("n{name}")).with(|it| it.metadata.labels = None);
                for (key, value) in KEYS.iter().zip(&labels) {
                    if let Some(value) = value {
                        built = built.label(key, value);
                    }
                }
                self.snapshot.set_node(Arc::new(built.build()));
                self.nodes.insert(*name, labels);
            }
            Step::NodeGoes(name) => {
                self.snapshot.remove_node(&format!("n{name}"));
                self.nodes.remove(name);
            }
            Step::Pod { name, node, pod } => {
                let built = build(&format!("p{name}"), pod).node(&format!("n{node}"));
                self.snapshot.add_pod(Arc::new(info(built)));
                self.pods.insert(*name, (*node, pod.clone()));
            }
            Step::PodGoes(name) => {
                self.snapshot.remove_pod(&format!("uid-p{name}"));
                self.pods.remove(name);
            }
            Step::Judge { pod, without } => self.judge(plugin, pod, *without),
        }
    }

    fn judge(&self, plugin: &InterPodAffinity, draw: &PodDraw, without: u8) {
        let pod = info(build("judged", draw));
        let mut state = CycleState::default();
        plugin.pre_filter(&mut state, &pod, &self.snapshot);
        for node in self.snapshot.nodes() {
            let labels = self.labels(node);
            let score = plugin.score(&state, &pod, node);
            assert_eq!(score, raw_score(draw, labels, &self.there(None)), "{}", node.name);
        }
        self.compare(plugin, &state, &pod, draw, None);

        let gone = format!("uid-p{without}");
        let Some(node) = self.snapshot.node_of(&gone).and_then(|name| self.snapshot.node(name))
        else {
            return;
        };
        let other = node.pods.iter().find(|it| *it.uid == gone).unwrap();
        plugin.remove_pod(&mut state, &pod, other, node);
        self.compare(plugin, &state, &pod, draw, Some(without));
        plugin.add_pod(&mut state, &pod, other, node);
        self.compare(plugin, &state, &pod, draw, None);
    }

    fn compare(
        &self,
        plugin: &InterPodAffinity,
        state: &CycleState,
        pod: &PodInfo,
        draw: &PodDraw,
        without: Option<u8>,
    ) {
        for node in self.snapshot.nodes() {
            let found = plugin.filter(state, pod, node);
            let expected = verdict(draw, self.labels(node), &self.there(without));
            assert_eq!(found.message(), expected.unwrap_or_default(), "{}", node.name);
        }
    }

    fn labels(&self, node: &NodeInfo) -> &Labels {
        &self.nodes[&node.name[1..].parse().unwrap()]
    }
}

proptest! {
    #[test]
    fn verdicts_and_scores_are_those_of_the_plain_rules(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let (plugin, mut world) = (plugin(), World::default());
        for step in &steps {
            world.step(&plugin, step);
        }
    }
}
