//! What the documentation of Deployments promises, checked on plans; and random roll-outs against
//! a model of a cluster.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::apps::v1::{Deployment, ReplicaSet, ReplicaSetStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::ResourceExt;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    model::{self, Fenceposts, fenceposts, size},
    plan::{Plan, plan},
    status::{PROGRESSING, get},
};

mod rollback;

/// A Deployment, its ReplicaSets and their Pods, and controllers that do at once what they are
/// told. Pods get ready only when the test says so.
struct Model {
    deployment: Deployment,
    sets: Vec<Set>,
    now: Timestamp,
    /// What rollbacks came to.
    told: Vec<String>,
}

struct Set {
    object: Arc<ReplicaSet>,
    pods: i32,
    ready: i32,
    /// Whether its Pods ever get ready.
    works: bool,
}

impl Model {
    fn new(replicas: i32, strategy: Value) -> Self {
        let deployment = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "d", "generation": 1},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}},
                "strategy": strategy,
                "progressDeadlineSeconds": 600,
                "revisionHistoryLimit": 10,
            },
        }))
        .unwrap();
        Self {
            deployment,
            sets: Vec::new(),
            now: Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1_000_000),
            told: Vec::new(),
        }
    }

    fn rolling(replicas: i32, surge: Value, unavailable: Value) -> Self {
        Self::new(
            replicas,
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}),
        )
    }

    fn change(&mut self, change: impl FnOnce(&mut Deployment)) {
        change(&mut self.deployment);
        *self.deployment.metadata.generation.get_or_insert(1) += 1;
    }

    fn set_image(&mut self, image: &str) {
        self.change(|deployment| {
            deployment.spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.into())
        });
    }

    fn set_replicas(&mut self, replicas: i32) {
        self.change(|deployment| deployment.spec.replicas = Some(replicas));
    }

    fn plan(&self) -> Plan {
        let sets: Vec<_> = self.sets.iter().map(|set| set.object.clone()).collect();
        let old_pods = |new: Option<&str>| {
            self.sets.iter().any(|set| set.object.uid().as_deref() != new && set.pods > 0)
        };
        plan(&self.deployment, &sets, old_pods, self.now)
    }

    /// One reconcile; whether it wrote anything.
    fn reconcile(&mut self) -> bool {
        self.now += SignedDuration::from_secs(1);
        let plan = self.plan();
        let mut wrote = plan.create.is_some() || !plan.resize.is_empty() || !plan.delete.is_empty();
        self.sets
            .retain(|set| plan.delete.iter().all(|gone| gone.name_any() != set.object.name_any()));
        for resize in plan.resize {
            let set = self
                .sets
                .iter_mut()
                .find(|set| set.object.name_any() == resize.after.name_any())
                .unwrap();
            assert!(Arc::ptr_eq(&set.object, &resize.before));
            set.object = Arc::new(resize.after);
        }
        if let Some(mut created) = plan.create {
            created.metadata.uid = Some(format!("rs-{}", created.name_any()));
            created.metadata.creation_timestamp = Some(Time(self.now));
            self.sets.push(Set { object: Arc::new(created), pods: 0, ready: 0, works: true });
        }
        if let Some(rollback) = plan.rollback {
            let after = rollback.after;
            self.told.push(rollback.outcome.message(&after));
            self.change(|deployment| {
                (deployment.spec, deployment.metadata) = (after.spec, after.metadata);
            });
            return true;
        }
        if let Some(revision) = plan.revision {
            self.deployment
                .metadata
                .annotations
                .get_or_insert_default()
                .insert(model::REVISION.into(), revision);
            wrote = true;
        }
        if self.deployment.status.as_ref() != Some(&plan.status) {
            self.deployment.status = Some(plan.status);
            wrote = true;
        }
        wrote
    }

    /// The ReplicaSet controller: as many Pods as asked for; the unready go first.
    fn run_replica_sets(&mut self) {
        for set in &mut self.sets {
            set.pods = size(&set.object);
            set.ready = set.ready.min(set.pods);
            set.report();
        }
    }

    /// Lets at most `count` Pods of working sets get ready.
    fn get_ready(&mut self, count: i32) {
        let mut left = count;
        for set in self.sets.iter_mut().filter(|set| set.works) {
            let more = left.min(set.pods - set.ready);
            set.ready += more;
            left -= more;
            set.report();
        }
    }

    /// Everything until nothing is written any more; how many reconciles that took.
    fn settle(&mut self) -> usize {
        for round in 0..500 {
            let wrote = self.reconcile();
            self.run_replica_sets();
            self.get_ready(i32::MAX);
            if !wrote && !self.reconcile() {
                return round;
            }
        }
        panic!("does not settle: {}", self.history());
    }

    fn settled(mut self) -> Self {
        self.settle();
        self
    }

    fn sizes(&self) -> Vec<i32> {
        self.sets.iter().map(|set| size(&set.object)).collect()
    }

    fn revisions(&self) -> Vec<i64> {
        self.sets.iter().map(|set| model::revision(&set.object)).collect()
    }

    fn pods(&self) -> i32 {
        self.sets.iter().map(|set| set.pods).sum()
    }

    fn ready(&self) -> i32 {
        self.sets.iter().map(|set| set.ready).sum()
    }

    fn progress(&self) -> String {
        let status = self.deployment.status.as_ref().unwrap();
        get(status, PROGRESSING)
            .map(|condition| condition.reason.clone().unwrap())
            .unwrap_or_default()
    }

    fn history(&self) -> String {
        let sets = self.sets.iter().map(|set| {
            format!(
                "{} size {} pods {} ready {}",
                set.object.name_any(),
                size(&set.object),
                set.pods,
                set.ready
            )
        });
        format!("{:?}\n{:?}", sets.collect::<Vec<_>>(), self.deployment.status)
    }
}

impl Set {
    fn report(&mut self) {
        let object = Arc::make_mut(&mut self.object);
        object.status = Some(ReplicaSetStatus {
            replicas: self.pods,
            ready_replicas: Some(self.ready),
            available_replicas: Some(self.ready),
            terminating_replicas: Some(0),
            ..Default::default()
        });
    }
}

#[test]
fn a_new_deployment_gets_one_replicaset_of_full_size() {
    let plan = Model::rolling(3, json!("25%"), json!("25%")).plan();

    let set = plan.create.unwrap();
    let hash = set.labels()[model::POD_TEMPLATE_HASH].clone();
    assert_eq!(set.name_any(), format!("web-{hash}"));
    assert_eq!(set.spec.replicas, Some(3));
    assert_eq!(set.spec.selector.match_labels.unwrap()[model::POD_TEMPLATE_HASH], hash);
    assert_eq!(
        set.spec.template.unwrap().metadata.unwrap().labels.unwrap()[model::POD_TEMPLATE_HASH],
        hash
    );
    assert_eq!(set.metadata.owner_references.unwrap()[0].uid, "d");
    let annotations = set.metadata.annotations.unwrap();
    assert_eq!(annotations[model::REVISION], "1");
    assert_eq!(annotations[model::DESIRED_REPLICAS], "3");
    assert_eq!(annotations[model::MAX_REPLICAS], "4");
    assert_eq!(plan.revision.as_deref(), Some("1"));
    let progress = get(&plan.status, PROGRESSING).unwrap();
    assert_eq!(progress.reason.as_deref(), Some("NewReplicaSetCreated"));
    assert_eq!(
        progress.message.as_deref(),
        Some(format!("Created new replica set \"web-{hash}\"").as_str())
    );
}

#[test]
fn a_finished_rollout_says_so_and_is_left_alone() {
    let mut model = Model::rolling(3, json!("25%"), json!("25%")).settled();

    assert_eq!(model.progress(), "NewReplicaSetAvailable");
    let status = model.deployment.status.clone().unwrap();
    assert_eq!(
        (status.replicas, status.updated_replicas, status.available_replicas),
        (Some(3), Some(3), Some(3))
    );
    assert_eq!(status.unavailable_replicas, Some(0));
    assert_eq!(get(&status, "Available").unwrap().status.as_deref(), Some("True"));
    assert!(!model.reconcile());
}

#[test]
fn percentages_round_in_favour_of_availability() {
    #[track_caller]
    fn check(replicas: i32, surge: Value, unavailable: Value, expected: (i32, i32)) {
        let model = Model::rolling(replicas, surge, unavailable);
        let (surge, unavailable) = expected;
        assert_eq!(fenceposts(&model.deployment), Fenceposts { surge, unavailable });
    }
    check(3, json!("25%"), json!("25%"), (1, 0));
    check(10, json!("25%"), json!("25%"), (3, 2));
    check(4, json!("25%"), json!("25%"), (1, 1));
    check(1, json!("25%"), json!("25%"), (1, 0));
    check(10, json!(3), json!(2), (3, 2));
    check(10, json!(0), json!("1%"), (0, 1));
    check(3, json!(0), json!(0), (0, 1));
    check(2, json!(0), json!(5), (0, 2));
    check(10, json!("100%"), json!("100%"), (10, 10));
}

#[test]
fn a_rollout_goes_step_by_step_within_its_limits() {
    let mut model = Model::rolling(3, json!("25%"), json!("25%")).settled();
    model.set_image("v2");

    let mut steps = Vec::new();
    for _ in 0..12 {
        model.reconcile();
        model.run_replica_sets();
        steps.push(model.sizes());
        model.get_ready(1);
    }
    steps.dedup();
    assert_eq!(steps, [[3, 1], [2, 1], [2, 2], [1, 2], [1, 3], [0, 3]]);
}

#[test]
fn old_pods_stay_while_the_new_ones_do_not_get_ready() {
    let mut model = Model::rolling(3, json!("25%"), json!("25%")).settled();
    model.set_image("broken");
    model.reconcile();
    model.sets[1].works = false;
    model.settle();
    assert_eq!((model.sizes(), model.ready()), (vec![3, 1], 3));

    model.now += SignedDuration::from_secs(700);
    model.settle();
    assert_eq!(model.progress(), "ProgressDeadlineExceeded");
    assert_eq!((model.sizes(), model.ready()), (vec![3, 1], 3));

    model.set_image("v1");
    model.settle();
    assert_eq!((model.sizes(), model.progress()), (vec![3, 0], "NewReplicaSetAvailable".into()));
}

#[test]
fn somebody_looks_again_when_the_deadline_passes() {
    let mut model = Model::rolling(1, json!(1), json!(0));
    model.reconcile();
    model.run_replica_sets();
    model.reconcile();
    let wait = model.plan().requeue_after.unwrap();
    assert!(wait > Duration::from_secs(590) && wait <= Duration::from_secs(601), "{wait:?}");
}

#[test]
fn going_back_reuses_the_old_replicaset_and_renumbers_it() {
    let mut model = Model::rolling(3, json!("25%"), json!("25%")).settled();
    model.set_image("v2");
    model.settle();
    assert_eq!(model.revisions(), [1, 2]);

    model.set_image("v1");
    model.settle();

    assert_eq!(model.sizes(), [3, 0]);
    assert_eq!(model.revisions(), [3, 2]);
    assert_eq!(model.sets[0].object.annotations()[model::REVISION_HISTORY], "1");
    assert_eq!(model.deployment.annotations()[model::REVISION], "3");
}

#[test]
fn the_change_cause_travels_with_the_revision() {
    let mut model = Model::rolling(1, json!(1), json!(0));
    let cause = |model: &mut Model, text: &str| {
        let annotations = model.deployment.metadata.annotations.get_or_insert_default();
        annotations.insert("kubernetes.io/change-cause".into(), text.into());
    };
    cause(&mut model, "first");
    model.settle();
    cause(&mut model, "second");
    model.set_image("v2");
    model.settle();

    let causes: Vec<_> = model
        .sets
        .iter()
        .map(|set| set.object.annotations()["kubernetes.io/change-cause"].clone())
        .collect();
    assert_eq!(causes, ["first", "second"]);
}

#[test]
fn recreate_starts_nothing_before_the_last_old_pod_is_gone() {
    let mut model = Model::new(3, json!({"type": "Recreate"})).settled();
    model.set_image("v2");

    model.reconcile();
    assert_eq!(model.sizes(), [0], "old Pods are told to go");
    model.reconcile();
    assert_eq!(model.sizes(), [0], "and are waited for");
    model.run_replica_sets();
    model.reconcile();
    assert_eq!(model.sizes(), [0, 3]);
    model.settle();
    assert_eq!(model.progress(), "NewReplicaSetAvailable");
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll_out() {
    let mut model = Model::rolling(3, json!("25%"), json!("25%")).settled();
    model.change(|deployment| deployment.spec.paused = Some(true));
    model.set_image("v2");
    model.settle();
    assert_eq!((model.sizes(), model.progress()), (vec![3], "DeploymentPaused".into()));

    model.set_image("v3");
    model.set_replicas(5);
    model.settle();
    assert_eq!(model.sizes(), [5]);

    model.change(|deployment| deployment.spec.paused = Some(false));
    model.settle();
    assert_eq!((model.sizes(), model.progress()), (vec![0, 5], "NewReplicaSetAvailable".into()));
}

#[test]
fn scaling_in_the_middle_of_a_rollout_keeps_the_proportions() {
    // The example of the documentation: 10 replicas, maxSurge 3, maxUnavailable 2, stuck at 8 old
    // and 5 new; scaled to 15 that becomes 11 and 7.
    let mut model = Model::rolling(10, json!(3), json!(2)).settled();
    model.set_image("broken");
    model.reconcile();
    model.sets[1].works = false;
    model.settle();
    assert_eq!(model.sizes(), [8, 5]);

    model.set_replicas(15);
    model.settle();
    assert_eq!(model.sizes(), [11, 7]);
}

#[test]
fn scaling_does_not_make_a_revision() {
    let mut model = Model::rolling(3, json!("25%"), json!("25%")).settled();
    model.set_replicas(6);
    model.settle();
    assert_eq!((model.sizes(), model.revisions()), (vec![6], vec![1]));
    model.set_replicas(0);
    model.settle();
    assert_eq!((model.sizes(), model.revisions()), (vec![0], vec![1]));
}

#[test]
fn a_set_that_has_the_new_size_already_does_not_hold_up_the_rollout() {
    let mut model = Model::rolling(3, json!("25%"), json!("25%")).settled();
    // Somebody resized the set by hand, then the Deployment alike, and a new image comes along.
    Arc::make_mut(&mut model.sets[0].object).spec.replicas = Some(5);
    model.set_replicas(5);
    model.set_image("v2");
    model.settle();
    assert_eq!(model.sizes(), [0, 5]);
}

#[test]
fn the_oldest_revisions_beyond_the_limit_go() {
    let mut model = Model::rolling(1, json!(1), json!(0));
    model.deployment.spec.revision_history_limit = Some(2);
    for image in ["v1", "v2", "v3", "v4", "v5"] {
        model.set_image(image);
        model.settle();
    }
    assert_eq!(model.revisions(), [3, 4, 5]);
}

#[test]
fn no_progress_is_reported_without_a_deadline() {
    let mut model = Model::rolling(1, json!(1), json!(0));
    model.deployment.spec.progress_deadline_seconds = None;
    model.settle();
    assert_eq!(model.progress(), "");
}

/// What a user or the cluster does next.
#[derive(Clone, Debug)]
enum Happening {
    Image(u8),
    RollBack(i64),
    Scale(i32),
    Reconcile,
    RunSets,
    GetReady(i32),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        2 => (0..4u8).prop_map(Happening::Image),
        1 => (0..6i64).prop_map(Happening::RollBack),
        10 => Just(Happening::Reconcile),
        8 => Just(Happening::RunSets),
        8 => (0..4i32).prop_map(Happening::GetReady),
    ]
}

fn limit() -> impl Strategy<Value = Value> {
    prop_oneof![
        (0..6i32).prop_map(|number| json!(number)),
        (0..=100i32).prop_map(|percent| json!(format!("{percent}%")))
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Never more than replicas + maxSurge Pods, never fewer than replicas - maxUnavailable ready
    /// ones, whatever the order in which things happen.
    #[test]
    fn a_rollout_stays_within_its_limits(
        replicas in 0..12i32, surge in limit(), unavailable in limit(), happenings in prop::collection::vec(happening(), 1..120),
    ) {
        let mut model = Model::rolling(replicas, surge, unavailable).settled();
        let limits = fenceposts(&model.deployment);
        for happening in happenings {
            match happening {
                Happening::Image(version) => model.set_image(&format!("v{version}")),
                Happening::RollBack(revision) => model.ask_to_go_back(revision),
                Happening::Scale(replicas) => model.set_replicas(replicas),
                Happening::Reconcile => { model.reconcile(); }
                Happening::RunSets => model.run_replica_sets(),
                Happening::GetReady(count) => model.get_ready(count),
            }
            let sizes: i32 = model.sizes().iter().sum();
            prop_assert!(sizes <= replicas + limits.surge, "{}", model.history());
            prop_assert!(model.pods() <= replicas + limits.surge, "{}", model.history());
            prop_assert!(model.ready() >= replicas - limits.unavailable, "{}", model.history());
        }
    }

    /// From any state that images, scaling and half-done roll-outs lead to, a bounded number of
    /// reconciles ends with all wanted Pods on the new template and none on others.
    #[test]
    fn every_rollout_converges(
        replicas in 0..12i32, surge in limit(), unavailable in limit(),
        happenings in prop::collection::vec(prop_oneof![3 => happening(), 1 => (0..15i32).prop_map(Happening::Scale)], 1..80),
    ) {
        let mut model = Model::rolling(replicas, surge, unavailable);
        for happening in happenings {
            match happening {
                Happening::Image(version) => model.set_image(&format!("v{version}")),
                Happening::RollBack(revision) => model.ask_to_go_back(revision),
                Happening::Scale(replicas) => model.set_replicas(replicas),
                Happening::Reconcile => { model.reconcile(); }
                Happening::RunSets => model.run_replica_sets(),
                Happening::GetReady(count) => model.get_ready(count),
            }
        }
        let rounds = model.settle();
        let desired = model::desired(&model.deployment);
        prop_assert_eq!(model.sizes().iter().sum::<i32>(), desired, "{}", model.history());
        prop_assert_eq!(model.sizes().iter().filter(|size| **size > 0).count(), usize::from(desired > 0));
        prop_assert!(rounds <= 60, "{rounds} rounds");
        prop_assert_eq!(model.progress(), "NewReplicaSetAvailable");
    }
}
