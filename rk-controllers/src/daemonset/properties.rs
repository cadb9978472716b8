//! What holds whatever happens to a set, its nodes and its Pods, step by step.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Node, Pod},
};
use kube::ResourceExt;
use proptest::prelude::*;
use rk_api::testing::{node, pod};
use serde_json::json;

use super::{
    model,
    placement::{self, Place},
    plan::{Plan, World, plan},
    tests::{set_of, surging},
};
use crate::{owners::controller_ref, pods};

const NODES: usize = 5;

/// What happens between two looks of the controller.
#[derive(Clone, Debug)]
enum Change {
    Update(u8),
    Taint(usize, Option<bool>),
    Ready(usize),
    Unready(usize),
    End(usize),
    Delete(usize),
    Vanish(usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = 0..10_usize;
    prop_oneof![
        1 => (0..4_u8).prop_map(Change::Update),
        1 => (0..NODES, prop::option::of(any::<bool>())).prop_map(|(at, hard)| Change::Taint(at, hard)),
        4 => at.clone().prop_map(Change::Ready),
        1 => at.clone().prop_map(Change::Unready),
        1 => at.clone().prop_map(Change::End),
        1 => at.clone().prop_map(Change::Delete),
        4 => at.prop_map(Change::Vanish),
    ]
}

struct Sim {
    set: DaemonSet,
    hash: String,
    nodes: Vec<Arc<Node>>,
    pods: BTreeMap<String, Arc<Pod>>,
    made: u32,
}

fn now() -> Timestamp {
    Timestamp::from_second(100_000).unwrap()
}

fn serves(pod: &Pod) -> bool {
    pods::is_ready(pod) && pods::is_active(pod)
}

impl Sim {
    fn new(set: DaemonSet) -> Self {
        let nodes = (0..NODES).map(|at| Arc::new(node(&format!("n{at}")).build())).collect();
        Self { set, hash: "h0".into(), nodes, pods: BTreeMap::new(), made: 0 }
    }

    fn edit(&mut self, at: usize, f: impl FnOnce(&mut Pod)) {
        let Some(name) = self.pods.keys().nth(at).cloned() else { return };
        self.pods.entry(name).and_modify(|pod| f(Arc::make_mut(pod)));
    }

    fn happen(&mut self, change: Change) {
        match change {
            Change::Update(version) => self.hash = format!("h{version}"),
            Change::Taint(at, taint) => {
                let plain = node(&format!("n{at}"));
                let tainted = match taint {
                    None => plain,
                    Some(false) => plain.taint("a=:NoSchedule"),
                    Some(true) => plain.taint("a=:NoExecute"),
                };
                self.nodes[at] = Arc::new(tainted.build());
            }
            Change::Ready(at) => self.edit(at, get_ready),
            Change::Unready(at) => self.edit(at, |pod| {
                pod.status.get_or_insert_default().conditions = None;
            }),
            Change::End(at) => self.edit(at, |pod| {
                let status = pod.status.get_or_insert_default();
                (status.phase, status.conditions) = (Some("Failed".into()), None);
            }),
            Change::Delete(at) => self.edit(at, mark_deleted),
            Change::Vanish(at) => {
                let going = self.pods.values().filter(|pod| pods::is_deleting(pod));
                if let Some(name) = going.map(|pod| pod.name_any()).nth(at) {
                    self.pods.remove(&name);
                }
            }
        }
    }

    /// Checks what a plan is about to do, then does it. Whether it was nothing.
    fn reconcile(&mut self) -> Result<bool, TestCaseError> {
        let owned: Vec<_> = self.pods.values().cloned().collect();
        let world = World::new(&self.set, &self.hash, &self.nodes, &owned, &|_| None, now());
        let plan = plan(&world);
        check(&world, &plan)?;
        for node in &plan.create {
            self.made += 1;
            let mut new =
                placement::new_pod(&self.set, &controller_ref(&self.set), &self.hash, node);
            new.metadata.name = Some(format!("p{:05}", self.made));
            new.metadata.uid = new.metadata.name.clone();
            new.metadata.creation_timestamp =
                pod("x").created(i64::from(self.made)).build().metadata.creation_timestamp;
            new.spec.as_mut().unwrap().node_name = Some(node.clone());
            new.status.get_or_insert_default().phase = Some("Pending".into());
            self.pods.insert(new.name_any(), Arc::new(new));
        }
        for pod in &plan.delete {
            self.pods.entry(pod.name_any()).and_modify(|it| mark_deleted(Arc::make_mut(it)));
        }
        self.check_state()?;
        Ok(plan.create.is_empty() && plan.delete.is_empty())
    }

    /// One Pod for a node, or with a surge one of each version.
    fn check_state(&self) -> Result<(), TestCaseError> {
        for node in &self.nodes {
            let there = self.pods.values().filter(|pod| {
                placement::target(pod) == Some(&node.name_any()) && pods::is_active(pod)
            });
            let (new, old): (Vec<_>, Vec<_>) =
                there.partition(|pod| model::is_updated(&self.set, pod, &self.hash));
            match model::surges(&self.set) {
                true => prop_assert!(new.len() <= 1 && old.len() <= 2, "{new:?} {old:?}"),
                false => prop_assert!(new.len() + old.len() <= 1, "{new:?} {old:?}"),
            }
        }
        Ok(())
    }

    fn run_pods(&mut self) {
        self.pods.retain(|_, pod| !pods::is_deleting(pod));
        let working = self.pods.values_mut().filter(|pod| pods::is_active(pod));
        working.for_each(|pod| get_ready(Arc::make_mut(pod)));
    }
}

fn check(world: &World<'_>, plan: &Plan) -> Result<(), TestCaseError> {
    for node in &plan.create {
        prop_assert_eq!(world.nodes[node], Place::Wanted);
        let staying = world.on(node).iter().filter(|pod| !pods::is_deleting(pod));
        let staying: Vec<_> = staying.filter(|pod| pods::is_active(pod)).collect();
        let may = match model::surges(world.set) {
            true => staying.iter().all(|pod| !model::is_updated(world.set, pod, world.hash)),
            false => world.on(node).is_empty(),
        };
        prop_assert!(may, "a second Pod of one version for a node");
    }
    prop_assert!(plan.delete.iter().all(|pod| !pods::is_deleting(pod)), "deleted twice");
    if plan.create.is_empty() {
        let wanted = |pod: &Pod| {
            placement::target(pod).is_some_and(|node| world.nodes.get(node) == Some(&Place::Wanted))
        };
        let sacrificed =
            plan.delete.iter().filter(|pod| serves(pod) && wanted(pod)).filter(|pod| {
                // One beside which another serves is no loss.
                let node = placement::target(pod).unwrap_or_default();
                let gone =
                    |it: &Pod| plan.delete.iter().any(|gone| gone.name_any() == it.name_any());
                !world.on(node).iter().any(|it| serves(it) && !gone(it))
            });
        let sacrificed = sacrificed.count();
        let bounds = model::bounds(world.set, world.wanted().count());
        let idle = world.wanted().filter(|node| !world.on(node).iter().any(|pod| serves(pod)));
        if sacrificed > 0 {
            prop_assert!(sacrificed + idle.count() <= bounds.unavailable, "maxUnavailable");
        }
    }
    Ok(())
}

fn get_ready(it: &mut Pod) {
    if !pods::is_terminal(it) {
        it.status = pod("x").phase("Running").ready_since(1).build().status;
    }
}

fn mark_deleted(it: &mut Pod) {
    it.metadata.deletion_timestamp = pod("x").deleting().build().metadata.deletion_timestamp;
}

fn sets() -> impl Strategy<Value = DaemonSet> {
    let unavailable = (1..4).prop_map(|number| {
        set_of(json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": number}}}))
    });
    prop_oneof![unavailable, (1..4).prop_map(|number| surging(json!(number)))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_history_breaks_the_promises_and_every_set_settles(
        set in sets(), changes in prop::collection::vec((change(), any::<bool>()), 0..60),
    ) {
        let mut sim = Sim::new(set);
        for (change, looks) in changes {
            sim.happen(change);
            if looks {
                sim.reconcile()?;
            }
        }
        // When all goes well from here on, the set comes to what is asked, and rests.
        for _ in 0..40 {
            sim.run_pods();
            sim.reconcile()?;
        }
        sim.run_pods();
        prop_assert!(sim.reconcile()?, "never at rest");
        for node in &sim.nodes {
            let there: Vec<_> = sim
                .pods
                .values()
                .filter(|pod| placement::target(pod) == Some(&node.name_any()))
                .collect();
            match placement::place(&sim.set, node) {
                Place::Refused => prop_assert!(there.is_empty()),
                Place::Kept => prop_assert!(there.len() <= 1),
                Place::Wanted => {
                    prop_assert_eq!(there.len(), 1);
                    prop_assert!(model::is_updated(&sim.set, there[0], &sim.hash));
                }
            }
        }
    }
}
