//! How many Pods a budget lets go.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::{core::v1::Pod, policy::v1::PodDisruptionBudget};
use proptest::prelude::*;
use rk_api::testing::{PodBuilder, pod};
use serde_json::{Value, json};

use super::plan::{Expected, expected, failed, needs_scales, plan, stale_disruption};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
    let metadata = json!({"name": "pdb", "namespace": "default", "generation": 3});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).unwrap()
}

fn ready(name: &str) -> PodBuilder {
    pod(name).phase("Running").ready_since(1)
}

fn pods(pods: impl IntoIterator<Item = PodBuilder>) -> Vec<Arc<Pod>> {
    pods.into_iter().map(|pod| Arc::new(pod.build())).collect()
}

#[track_caller]
fn check_expected(spec: Value, present: usize, scale: i32, pods: i32, desired_healthy: i32) {
    let spec = budget(spec, Value::Null).spec.unwrap();
    assert_eq!(expected(&spec, present, scale), Expected { pods, desired_healthy });
}

#[test]
fn numbers_count_pods_and_shares_count_what_controllers_want() {
    check_expected(json!({"minAvailable": 2}), 5, 0, 5, 2);
    check_expected(json!({"minAvailable": "50%"}), 4, 7, 7, 4);
    check_expected(json!({"minAvailable": "100%"}), 4, 7, 7, 7);
    check_expected(json!({"maxUnavailable": 1}), 4, 7, 7, 6);
    check_expected(json!({"maxUnavailable": "30%"}), 4, 7, 7, 4);
    check_expected(json!({"maxUnavailable": 10}), 4, 7, 7, 0);
    let needs = |spec| needs_scales(&budget(spec, Value::Null).spec.unwrap());
    assert!(needs(json!({"maxUnavailable": 1})) && needs(json!({"minAvailable": "1%"})));
    assert!(!needs(json!({"minAvailable": 1})));
}

#[test]
fn ready_pods_beyond_those_that_are_kept_may_go() {
    let observed = pods([ready("a"), ready("b"), ready("c").deleting(), pod("d")]);
    let keep = |desired_healthy| Expected { pods: 4, desired_healthy };
    let allowed = |desired_healthy| {
        let plan = plan(&budget(json!({}), Value::Null), &observed, keep(desired_healthy), at(100));
        assert_eq!(plan.status.current_healthy, Some(2));
        assert_eq!(plan.status.observed_generation, Some(3));
        let condition = plan.status.conditions.unwrap().remove(0);
        (plan.status.disruptions_allowed, condition.status, condition.reason)
    };
    assert_eq!(allowed(1), (Some(1), "True".into(), "SufficientPods".into()));
    assert_eq!(allowed(3), (Some(0), "False".into(), "InsufficientPods".into()));
}

#[test]
fn a_pod_to_be_evicted_counts_as_gone_for_two_minutes() {
    let status =
        json!({"disruptedPods": {"a": "1970-01-01T00:01:40Z", "gone": "1970-01-01T00:01:40Z"}});
    let budget = budget(json!({}), status);
    let observed = pods([ready("a"), ready("b")]);
    let keep = Expected { pods: 2, desired_healthy: 1 };

    let soon = plan(&budget, &observed, keep, at(130));
    assert_eq!(soon.status.current_healthy, Some(1));
    assert_eq!(soon.status.disrupted_pods.unwrap().keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(soon.look_again.map(|wait| wait.as_secs()), Some(90));

    let late = plan(&budget, &observed, keep, at(220));
    assert_eq!((late.status.current_healthy, late.status.disrupted_pods), (Some(2), None));
    assert_eq!(late.not_deleted.len(), 1);
}

#[test]
fn a_failure_allows_nothing_and_is_told() {
    let budget = budget(json!({}), json!({"disruptionsAllowed": 3, "currentHealthy": 4}));
    let status = failed(&budget, "found no controllers for pod \"p\"", at(100));
    let condition = status.conditions.unwrap().remove(0);
    assert_eq!(status.disruptions_allowed, Some(0));
    assert_eq!((condition.reason.as_str(), condition.status.as_str()), ("SyncFailed", "False"));
    assert_eq!(condition.message, "found no controllers for pod \"p\"");
}

#[test]
fn a_mark_of_a_disruption_that_did_not_come_is_taken_back_after_two_minutes() {
    let marked = |phase| {
        ready("p").phase(phase).condition("DisruptionTarget", "True").with(|pod| {
            for condition in
                pod.status.iter_mut().flat_map(|status| status.conditions.iter_mut().flatten())
            {
                condition.last_transition_time =
                    Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(100)));
            }
        })
    };
    let left = |pod: PodBuilder| stale_disruption(&pod.build(), at(160)).map(|left| left.as_secs());
    assert_eq!(left(marked("Running")), Some(60));
    assert_eq!(left(marked("Failed")), None);
    assert_eq!(left(marked("Running").deleting()), None);
    assert_eq!(left(ready("p")), None);
}

proptest! {
    /// However evictions, deletions and the controller interleave, as long as each sees the status
    /// the other wrote, no more ready Pods go than the budget has to spare.
    #[test]
    fn evictions_never_leave_fewer_healthy_pods_than_wanted(
        count in 1usize..8, keep in 0i32..8, steps in prop::collection::vec((0u8..3, 0usize..8, 0i64..90), 0..40),
    ) {
        let mut budget = budget(json!({"minAvailable": keep}), Value::Null);
        let mut there: Vec<Option<Arc<Pod>>> =
            (0..count).map(|at| Some(Arc::new(ready(&format!("p{at}")).build()))).collect();
        let mut going: Vec<(usize, i64)> = Vec::new();
        let mut now = 1000;
        for (step, which, passed) in steps {
            let which = which % count;
            match step {
                // The controller.
                0 => {
                    let pods: Vec<_> = there.iter().flatten().cloned().collect();
                    let expected = Expected { pods: count as i32, desired_healthy: keep };
                    budget.status = Some(plan(&budget, &pods, expected, at(now)).status);
                }
                // The eviction of a Pod, whose deletion takes some time, less than the timeout.
                1 => {
                    let Some(status) = &mut budget.status else { continue };
                    let allowed = status.disruptions_allowed.unwrap();
                    if allowed > 0 && there[which].is_some() && !going.iter().any(|(pod, _)| *pod == which) {
                        status.disruptions_allowed = Some(allowed - 1);
                        let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(now));
                        status.disrupted_pods.get_or_insert_default().insert(format!("p{which}"), time);
                        going.push((which, now + passed));
                    }
                }
                _ => now += passed,
            }
            going.retain(|(pod, time)| {
                if *time <= now {
                    there[*pod] = None;
                }
                *time > now
            });
            let healthy = there.iter().flatten().count() as i32;
            prop_assert!(healthy >= keep.min(count as i32), "{healthy} of {count} are left");
        }
    }
}
