//! What holds whatever happens to a set and its Pods, step by step.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaim, Pod},
};
use kube::ResourceExt;
use proptest::prelude::*;
use rk_api::testing::pod;

use super::{
    model::{self, Version},
    plan::{Plan, Step, World, plan},
    status::{Revisions, status},
    tests::set_of,
};
use crate::{history::POD_REVISION, pods};

/// What happens between two looks of the controller.
#[derive(Clone, Debug)]
enum Change {
    Scale(i32),
    Start(i32),
    Update(u8),
    Partition(i32),
    MaxUnavailable(i32),
    Ready(usize),
    Unready(usize),
    End(usize),
    Delete(usize),
    Vanish(usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = 0..8_usize;
    prop_oneof![
        1 => (0..6).prop_map(Change::Scale),
        1 => (0..3).prop_map(Change::Start),
        1 => (1..4_u8).prop_map(Change::Update),
        1 => (0..4).prop_map(Change::Partition),
        1 => (1..4).prop_map(Change::MaxUnavailable),
        4 => at.clone().prop_map(Change::Ready),
        1 => at.clone().prop_map(Change::Unready),
        1 => at.clone().prop_map(Change::End),
        1 => at.clone().prop_map(Change::Delete),
        4 => at.prop_map(Change::Vanish),
    ]
}

/// A set with its Pods, as the API server would have them.
struct Sim {
    set: StatefulSet,
    pods: BTreeMap<String, Arc<Pod>>,
    /// The revision that the status calls current.
    current: String,
    made: u32,
}

fn now() -> Timestamp {
    Timestamp::from_second(100_000).unwrap()
}

impl Sim {
    fn new(parallel: bool) -> Self {
        let mut set = set_of(3);
        set.spec.pod_management_policy =
            Some(if parallel { "Parallel" } else { "OrderedReady" }.into());
        let mut sim = Self { set, pods: BTreeMap::new(), current: "v1".into(), made: 0 };
        sim.update("v1");
        sim
    }

    fn update(&mut self, version: &str) {
        let metadata = self.set.spec.template.metadata.get_or_insert_default();
        metadata.annotations.get_or_insert_default().insert("version".into(), version.into());
    }

    fn version(&self) -> String {
        self.set.spec.template.metadata.as_ref().unwrap().annotations.as_ref().unwrap()["version"]
            .clone()
    }

    fn edit(&mut self, at: usize, f: impl FnOnce(&mut Pod)) {
        let Some(name) = self.pods.keys().nth(at).cloned() else { return };
        self.pods.entry(name).and_modify(|pod| f(Arc::make_mut(pod)));
    }

    fn happen(&mut self, change: Change) {
        let rolling = |set: &mut StatefulSet| {
            let strategy = set.spec.update_strategy.get_or_insert_default();
            strategy.rolling_update.get_or_insert_default().clone()
        };
        let mut parameters = rolling(&mut self.set);
        match change {
            Change::Scale(replicas) => self.set.spec.replicas = Some(replicas),
            Change::Start(start) => {
                self.set.spec.ordinals.get_or_insert_default().start = Some(start)
            }
            Change::Update(version) => self.update(&format!("v{version}")),
            Change::Partition(partition) => parameters.partition = Some(partition),
            Change::MaxUnavailable(number) => {
                use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
                parameters.max_unavailable = Some(IntOrString::Int(number));
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
        self.set.spec.update_strategy.get_or_insert_default().rolling_update = Some(parameters);
    }

    fn plan(&self) -> Plan {
        let version = |name: &str| Version {
            name: name.to_owned(),
            template: self.set.spec.template.clone(),
        };
        let pods: Vec<_> = self.pods.values().cloned().collect();
        let claim = |_: &str| None::<Arc<PersistentVolumeClaim>>;
        plan(&World {
            set: &self.set,
            current: &version(&self.current),
            update: &version(&self.version()),
            pods: &pods,
            claim: &claim,
            now: now(),
        })
    }

    fn serves(&self, pod: &Pod) -> bool {
        pods::is_ready(pod) && !pods::is_deleting(pod)
    }

    fn serving(&self) -> usize {
        let wanted = model::ordinals(&self.set).filter_map(|it| self.pod(it));
        wanted.filter(|pod| self.serves(pod)).count()
    }

    fn pod(&self, ordinal: i32) -> Option<&Arc<Pod>> {
        self.pods.get(&model::pod_name(&self.set, ordinal))
    }

    /// Checks what a plan is about to do, then does it.
    fn reconcile(&mut self) -> Result<bool, TestCaseError> {
        let plan = self.plan();
        self.check(&plan)?;
        let steps: Vec<Step> = plan.into_iter().flatten().collect();
        let idle = steps.is_empty();
        for step in steps {
            match step {
                Step::Create { mut pod, .. } => {
                    self.made += 1;
                    pod.metadata.uid = Some(format!("uid-{}", self.made));
                    pod.status.get_or_insert_default().phase = Some("Pending".into());
                    let before = self.pods.insert(pod.name_any(), Arc::new(*pod));
                    prop_assert!(before.is_none(), "two Pods of one ordinal");
                }
                Step::Delete(pod) => {
                    prop_assert!(!pods::is_deleting(&pod), "deleted twice");
                    self.pods
                        .entry(pod.name_any())
                        .and_modify(|it| mark_deleted(Arc::make_mut(it)));
                }
                other => prop_assert!(false, "nothing to repair, but {other:?}"),
            }
        }
        let pods: Vec<_> = self.pods.values().cloned().collect();
        let (update, current) = (self.version(), self.current.clone());
        let revisions = Revisions { current: &current, update: &update, collisions: 0 };
        let (status, _) = status(&self.set, &pods, revisions, now());
        self.current = status.current_revision.clone().unwrap();
        self.set.status = Some(status);
        Ok(idle)
    }

    fn check(&self, plan: &Plan) -> Result<(), TestCaseError> {
        let steps = || plan.iter().flatten();
        let deleted: Vec<_> = steps()
            .filter_map(|step| match step {
                Step::Delete(pod) => Some(pod),
                _ => None,
            })
            .collect();
        let created: Vec<_> = steps()
            .filter_map(|step| match step {
                Step::Create { pod, .. } => {
                    model::ordinal(&self.set, &pod.name_any()).map(|it| (it, pod))
                }
                _ => None,
            })
            .collect();
        let ordinal = |pod: &Pod| model::ordinal(&self.set, &pod.name_any()).unwrap();
        let is_wanted = |pod: &Pod| model::in_range(&self.set, ordinal(pod));
        let first_updated = model::start(&self.set) + model::partition(&self.set).unwrap_or(0);

        for (ordinal, pod) in &created {
            prop_assert!(model::in_range(&self.set, *ordinal));
            let version = if *ordinal < first_updated { &self.current } else { &self.version() };
            prop_assert_eq!(&pod.labels()[POD_REVISION], version, "the partition divides versions");
        }
        let sacrificed = deleted.iter().filter(|pod| is_wanted(pod) && self.serves(pod)).count();
        if sacrificed > 0 {
            let least = model::replicas(&self.set) - model::max_unavailable(&self.set);
            prop_assert!((self.serving() - sacrificed) as i32 >= least, "maxUnavailable");
        }
        for pod in deleted.iter().filter(|pod| is_wanted(pod) && pods::is_active(pod)) {
            prop_assert!(ordinal(pod) >= first_updated, "below the partition nothing is updated");
            prop_assert_ne!(model::revision(pod), &self.version(), "an updated Pod is replaced");
        }
        if !model::is_parallel(&self.set) {
            let ordinals: Vec<_> = created.iter().map(|(ordinal, _)| *ordinal).collect();
            self.check_order(&deleted, &ordinals)?;
        }
        Ok(())
    }

    /// One after the other: nothing is made or scaled away past a Pod that does not serve.
    fn check_order(&self, deleted: &[&Arc<Pod>], created: &[i32]) -> Result<(), TestCaseError> {
        prop_assert!(created.len() <= 1);
        let lower_serve = |ordinal: i32| {
            let lower = model::ordinals(&self.set).take_while(|it| *it < ordinal);
            lower.into_iter().all(|it| self.pod(it).is_some_and(|pod| self.serves(pod)))
        };
        prop_assert!(created.iter().all(|ordinal| lower_serve(*ordinal)));
        let place = |pod: &Pod| model::ordinal(&self.set, &pod.name_any()).unwrap();
        for pod in deleted.iter().filter(|pod| !model::in_range(&self.set, place(pod))) {
            prop_assert!(deleted.len() == 1 && lower_serve(i32::MAX), "scaled down while unready");
            let higher = self.pods.values().filter(|it| place(it) > place(pod));
            prop_assert!(higher.into_iter().all(|it| model::in_range(&self.set, place(it))));
        }
        Ok(())
    }

    /// Every Pod works, and those that go are gone at once.
    fn run_pods(&mut self) {
        self.pods.retain(|_, pod| !pods::is_deleting(pod));
        let working = self.pods.values_mut().filter(|pod| pods::is_active(pod));
        working.for_each(|pod| get_ready(Arc::make_mut(pod)));
    }
}

fn get_ready(it: &mut Pod) {
    if !pods::is_terminal(it) {
        it.status = pod("x").phase("Running").ready_since(1).build().status;
    }
}

fn mark_deleted(it: &mut Pod) {
    it.metadata.deletion_timestamp = pod("x").deleting().build().metadata.deletion_timestamp;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_history_breaks_the_promises_and_every_set_settles(
        parallel: bool, changes in prop::collection::vec((change(), any::<bool>()), 0..60),
    ) {
        let mut sim = Sim::new(parallel);
        for (change, looks) in changes {
            sim.happen(change);
            if looks {
                sim.reconcile()?;
            }
        }
        // When all goes well from here on, the set comes to what is asked, and rests.
        for _ in 0..60 {
            sim.run_pods();
            sim.reconcile()?;
        }
        sim.run_pods();
        prop_assert!(sim.reconcile()?, "never at rest");
        let first_updated = model::start(&sim.set) + model::partition(&sim.set).unwrap_or(0);
        prop_assert_eq!(sim.pods.len() as i32, model::replicas(&sim.set));
        for ordinal in model::ordinals(&sim.set) {
            let pod = sim.pod(ordinal).expect("one for each ordinal");
            prop_assert!(sim.serves(pod));
            if ordinal >= first_updated {
                prop_assert_eq!(model::revision(pod), sim.version());
            }
        }
    }
}
