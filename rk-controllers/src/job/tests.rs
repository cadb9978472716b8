//! What a Job does about its Pods, and how they are counted.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::ResourceExt;
use proptest::prelude::*;
use rk_api::testing::{PodBuilder, pod};
use serde_json::{Value, json};

use super::{
    backoff::Backoff,
    conditions::{self, End, Suspension},
    model::{FINALIZER, INDEX, View, uid},
    observed::{Observed, observe},
    plan::{Plan, plan},
    template,
    tracking::track,
};
use crate::{owners::controller_ref, pods};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn job(spec: Value) -> Job {
    let mut all = json!({"completions": 1, "parallelism": 1, "backoffLimit": 6, "template": {
        "metadata": {"labels": {"app": "j"}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]},
    }});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "metadata": {"name": "j", "namespace": "default", "uid": "job"}, "spec": all,
    }))
    .unwrap()
}

fn tracked(name: &str) -> PodBuilder {
    pod(name).uid(name).created(1).with(|pod| pod.finalizers_mut().push(FINALIZER.into()))
}

fn of_index(name: &str, index: i32) -> PodBuilder {
    tracked(name).annotation(INDEX, &index.to_string())
}

/// A reconcile of `job` that sees `pods` at second 1000.
struct Case {
    job: Job,
    status: JobStatus,
    pods: Vec<Arc<Pod>>,
    released: HashSet<String>,
}

impl Case {
    fn new(job: Job, pods: impl IntoIterator<Item = PodBuilder>) -> Self {
        let pods = pods.into_iter().map(|pod| Arc::new(pod.build())).collect();
        let status = job.status.clone().unwrap_or_default();
        Self { job, status, pods, released: HashSet::new() }
    }

    fn view(&self) -> View<'_> {
        View {
            job: &self.job,
            spec: self.job.spec.as_ref().unwrap(),
            status: &self.status,
            pods: &self.pods,
            released: &self.released,
            now: at(1000),
        }
    }

    fn plan(&self) -> Plan {
        plan(&self.view(), &observe(&self.view()), &Backoff::default())
    }
}

fn indexes_made(plan: Plan) -> Vec<Option<i32>> {
    let Plan::Create(slots) = plan else { panic!("{plan:?}") };
    slots.iter().map(|slot| slot.index).collect()
}

#[test]
fn no_more_pods_run_than_successes_are_missing() {
    let wide = || job(json!({"completions": 5, "parallelism": 4}));
    let many = |count: usize| (0..count).map(|at| tracked(&format!("p{at}")).phase("Running"));
    assert_eq!(indexes_made(Case::new(wide(), many(1)).plan()).len(), 3);
    assert_eq!(Case::new(wide(), many(4)).plan(), Plan::Keep);
    let mut nearly = Case::new(wide(), many(1));
    nearly.status.succeeded = Some(3);
    assert_eq!(indexes_made(nearly.plan()).len(), 1);
    let Plan::Delete(doomed) = Case::new(wide(), many(6)).plan() else { panic!() };
    assert_eq!(doomed.len(), 2);
    assert_eq!(
        indexes_made(Case::new(job(json!({"completions": 9000, "parallelism": 9000})), []).plan())
            .len(),
        500
    );
}

#[test]
fn a_work_queue_starts_no_pod_after_the_first_success() {
    let queue = || job(json!({"completions": null, "parallelism": 3}));
    assert_eq!(indexes_made(Case::new(queue(), []).plan()).len(), 3);
    let one_done = [tracked("a").phase("Succeeded"), tracked("b").phase("Running")];
    assert_eq!(Case::new(queue(), one_done).plan(), Plan::Keep);
}

#[test]
fn the_lowest_free_indexes_come_first() {
    let indexed = job(json!({"completions": 8, "parallelism": 4, "completionMode": "Indexed"}));
    let mut case = Case::new(
        indexed,
        [of_index("a", 2).phase("Running"), of_index("b", 1).phase("Succeeded")],
    );
    case.status.completed_indexes = Some("0".into());
    assert_eq!(indexes_made(case.plan()), [Some(3), Some(4), Some(5)]);
}

#[test]
fn of_two_pods_of_one_index_and_those_without_one_only_the_best_stays() {
    let indexed = job(json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed"}));
    let case = Case::new(
        indexed,
        [
            of_index("started", 0).node("n").phase("Running").ready_since(5),
            of_index("waiting", 0).phase("Pending"),
            of_index("beyond", 7).phase("Running"),
            tracked("without").phase("Running"),
        ],
    );
    let Plan::Delete(doomed) = case.plan() else { panic!() };
    let names: BTreeSet<String> = doomed.iter().map(|pod| pod.name_any()).collect();
    assert_eq!(names, ["beyond", "waiting", "without"].map(String::from).into());
}

#[test]
fn a_suspended_job_gives_up_all_its_pods() {
    let suspended = job(json!({"suspend": true, "parallelism": 3}));
    let case = Case::new(suspended, [tracked("a").phase("Running"), tracked("b").phase("Pending")]);
    let Plan::Delete(doomed) = case.plan() else { panic!() };
    assert_eq!(doomed.len(), 2);
}

#[test]
fn a_pod_on_its_way_out_is_replaced_at_once_unless_the_policy_waits() {
    let going = || [tracked("a").phase("Running").deleting()];
    assert_eq!(indexes_made(Case::new(job(json!({})), going()).plan()), [None]);
    let patient = || job(json!({"podReplacementPolicy": "Failed"}));
    assert_eq!(Case::new(patient(), going()).plan(), Plan::Keep);
    let over = [tracked("a").phase("Failed").deleting()];
    assert_eq!(indexes_made(Case::new(patient(), over).plan()), [None]);
}

#[track_caller]
fn check_end(why: &str, case: &Case, reason: Option<&str>) {
    let end = conditions::early_end(&case.view(), &observe(&case.view()));
    let found = end.map(|end| match end {
        End::Success { reason, .. } | End::Failure { reason, .. } => reason,
    });
    assert_eq!(found.as_deref(), reason, "{why}");
}

#[test]
fn a_job_ends_early_for_the_reasons_kubernetes_knows() {
    let failed = |count: usize| (0..count).map(|at| tracked(&format!("p{at}")).phase("Failed"));
    check_end("at the limit", &Case::new(job(json!({"backoffLimit": 2})), failed(2)), None);
    check_end(
        "beyond it",
        &Case::new(job(json!({"backoffLimit": 2})), failed(3)),
        Some("BackoffLimitExceeded"),
    );

    let restarted = |count: i32| {
        tracked("p").phase("Running").with(move |pod| {
            pod.status.as_mut().unwrap().container_statuses = serde_json::from_value(json!([
                {"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": count}
            ]))
            .unwrap();
        })
    };
    let in_place = |limit: i32| {
        job(
            json!({"backoffLimit": limit, "template": {"spec": {"restartPolicy": "OnFailure", "containers": []}}}),
        )
    };
    check_end("restarts", &Case::new(in_place(3), [restarted(2)]), None);
    check_end("too many", &Case::new(in_place(3), [restarted(3)]), Some("BackoffLimitExceeded"));
    check_end(
        "none allowed",
        &Case::new(in_place(0), [restarted(1)]),
        Some("BackoffLimitExceeded"),
    );

    let mut timed = Case::new(job(json!({"activeDeadlineSeconds": 100})), []);
    timed.status.start_time = Some(Time(at(901)));
    check_end("in time", &timed, None);
    assert_eq!(conditions::time_left(&timed.view()).unwrap().as_secs(), 1);
    timed.status.start_time = Some(Time(at(900)));
    check_end("too late", &timed, Some("DeadlineExceeded"));
    timed.job.spec.as_mut().unwrap().suspend = Some(true);
    check_end("its time stands still", &timed, None);
    conditions::set_suspended(timed.status.conditions.get_or_insert_default(), true, at(950));
    timed.job.spec.as_mut().unwrap().suspend = Some(false);
    check_end("until it is resumed", &timed, None);
}

#[test]
fn what_was_announced_stands() {
    let mut case = Case::new(job(json!({"backoffLimit": 0})), [tracked("a").phase("Failed")]);
    let announced = End::all_completions().announced(at(500));
    case.status.conditions = Some(vec![announced]);
    check_end("success", &case, Some("CompletionsReached"));
    let end = End::Failure { reason: "PodFailurePolicy".into(), message: "m".into() };
    case.status.conditions = Some(vec![end.announced(at(500))]);
    check_end("failure", &case, Some("PodFailurePolicy"));
}

#[test]
fn suspension_is_a_condition_only_of_jobs_that_were_suspended() {
    let mut conditions = Vec::new();
    assert_eq!(conditions::set_suspended(&mut conditions, false, at(1)), None);
    assert_eq!(
        conditions::set_suspended(&mut conditions, true, at(2)),
        Some(Suspension::Suspended)
    );
    assert_eq!(conditions::set_suspended(&mut conditions, true, at(3)), None);
    assert_eq!(conditions::set_suspended(&mut conditions, false, at(4)), Some(Suspension::Resumed));
    assert_eq!(conditions.len(), 1);
    assert_eq!(conditions[0].last_transition_time, Some(Time(at(4))));
}

#[test]
fn a_pod_takes_over_the_failures_of_the_one_it_replaces() {
    let limited = json!({"completions": 1, "completionMode": "Indexed", "backoffLimitPerIndex": 3});
    let failed = of_index("a", 0)
        .phase("Failed")
        .annotation("batch.kubernetes.io/job-index-failure-count", "1");
    let case = Case::new(job(limited), [failed]);
    let Plan::Create(slots) = case.plan() else { panic!() };
    let made = template::pod(&case.view(), &controller_ref(&case.job), &slots[0]);
    assert_eq!(made.annotations()["batch.kubernetes.io/job-index-failure-count"], "2");
    assert_eq!(made.finalizers(), [FINALIZER]);
    assert!(made.name_any().starts_with("j-0-"));
}

/// A Job and its Pods on a server, and a controller that sees them as they are.
struct World {
    job: Job,
    pods: BTreeMap<String, Pod>,
    made: usize,
    /// What happened to Pods, whatever the Job says.
    succeeded: BTreeSet<String>,
    failed: BTreeSet<String>,
}

/// What a controller gets done before it is stopped: so many writes.
struct Writes(usize);

impl Writes {
    fn one(&mut self) -> bool {
        self.0 = self.0.saturating_sub(1);
        self.0 > 0
    }
}

impl World {
    fn reconcile(&mut self, mut writes: Writes) {
        let pods: Vec<Arc<Pod>> = self.pods.values().cloned().map(Arc::new).collect();
        let (job, released) = (self.job.clone(), HashSet::new());
        let mut status = job.status.clone().unwrap_or_default();
        let spec = job.spec.as_ref().unwrap();
        let view = View {
            job: &job,
            spec,
            status: &status.clone(),
            pods: &pods,
            released: &released,
            now: at(1000),
        };
        let observed = observe(&view);
        let mut end = conditions::early_end(&view, &observed);
        let mut active = observed.active.len();
        if end.is_none() {
            match plan(&view, &observed, &Backoff::default()) {
                Plan::Create(slots) => {
                    for slot in slots {
                        if !writes.one() {
                            return;
                        }
                        let mut made = template::pod(&view, &controller_ref(&job), &slot);
                        made.metadata.uid = Some(format!("pod-{}", self.made));
                        self.made += 1;
                        active += 1;
                        self.pods.insert(made.name_any(), made);
                    }
                }
                Plan::Delete(doomed) => {
                    for pod in doomed {
                        if !writes.one() {
                            return;
                        }
                        active -= 1;
                        self.pods.remove(&pod.name_any());
                    }
                }
                Plan::Keep | Plan::Wait(_) => {}
            }
            let enough = observed.succeeded >= spec.completions.unwrap();
            if enough && active == 0 {
                end = Some(End::all_completions());
            }
        } else if active > 0 {
            return;
        }
        status.active = Some(active as i32);
        self.count(&view, &observed, end.as_ref(), status, writes);
    }

    fn count(
        &mut self,
        view: &View<'_>,
        observed: &Observed,
        end: Option<&End>,
        status: JobStatus,
        mut writes: Writes,
    ) {
        let tracking = track(view, observed, end, status);
        if !writes.one() {
            return;
        }
        let listed = tracking.listed.clone();
        self.job.status = Some(listed.clone());
        let mut released = BTreeSet::new();
        for pod in &tracking.release {
            if !writes.one() {
                return;
            }
            released.insert(uid(pod).to_owned());
            // The Pod may be gone at once.
            match self.made.is_multiple_of(2) {
                true => drop(self.pods.remove(&pod.name_any())),
                false => self.pods.get_mut(&pod.name_any()).unwrap().metadata.finalizers = None,
            }
        }
        let (status, _) = tracking.settled(&listed, &released, end, view);
        if writes.one() {
            self.job.status = Some(status);
        }
    }

    fn end_a_pod(&mut self, which: usize, phase: &str) {
        let running: Vec<String> = self
            .pods
            .values()
            .filter(|pod| pods::is_active(pod))
            .map(|pod| pod.name_any())
            .collect();
        if running.is_empty() {
            return;
        }
        let pod = self.pods.get_mut(&running[which % running.len()]).unwrap();
        pod.status.get_or_insert_default().phase = Some(phase.to_owned());
        let set = if phase == "Failed" { &mut self.failed } else { &mut self.succeeded };
        set.insert(uid(pod).to_owned());
    }

    fn active(&self) -> usize {
        self.pods.values().filter(|pod| pods::is_active(pod)).count()
    }

    fn is_finished(&self) -> bool {
        super::is_finished(&self.job)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// The controller is stopped after any number of writes, again and again. Every Pod that ends is
    /// counted once all the same, and never more of them run than the Job says.
    #[test]
    fn a_pod_is_counted_once_wherever_the_controller_stops(
        completions in 1i32..8, parallelism in 1i32..5, indexed in any::<bool>(),
        steps in prop::collection::vec((0u8..4, 0usize..9), 1..60),
    ) {
        let mode = if indexed { "Indexed" } else { "NonIndexed" };
        let spec = json!({"completions": completions, "parallelism": parallelism, "completionMode": mode, "backoffLimit": 1000});
        let mut world = World {
            job: job(spec), pods: BTreeMap::new(), made: 0, succeeded: BTreeSet::new(), failed: BTreeSet::new(),
        };
        let mut last = (0, 0);
        let mut check = |world: &World| {
            let status = world.job.status.clone().unwrap_or_default();
            let counts = (status.succeeded.unwrap_or(0), status.failed.unwrap_or(0));
            prop_assert!(world.active() <= parallelism as usize, "{} run", world.active());
            prop_assert!(counts.0 as usize <= world.succeeded.len() && counts.1 as usize <= world.failed.len());
            prop_assert!(counts.0 >= last.0 && counts.1 >= last.1, "counts never go back");
            prop_assert!(counts.0 <= completions);
            last = counts;
            Ok(())
        };
        for (step, number) in steps {
            match step {
                0 => world.end_a_pod(number, "Failed"),
                1 => world.end_a_pod(number, "Succeeded"),
                _ if world.is_finished() => {}
                2 => world.reconcile(Writes(number)),
                _ => world.reconcile(Writes(usize::MAX)),
            }
            check(&world)?;
        }
        for _ in 0..200 {
            if world.is_finished() {
                break;
            }
            world.reconcile(Writes(usize::MAX));
            world.end_a_pod(0, "Succeeded");
            check(&world)?;
        }
        let status = world.job.status.clone().unwrap_or_default();
        prop_assert!(world.is_finished(), "{:?}", status);
        prop_assert_eq!(status.succeeded.unwrap_or(0), completions);
        prop_assert_eq!(world.succeeded.len(), completions as usize);
        prop_assert_eq!(status.failed.unwrap_or(0) as usize, world.failed.len());
        if indexed {
            let all = if completions < 3 { (0..completions).map(|i| i.to_string()).collect::<Vec<_>>().join(",") } else { format!("0-{}", completions - 1) };
            prop_assert_eq!(status.completed_indexes.unwrap_or_default(), all);
        }
    }
}
