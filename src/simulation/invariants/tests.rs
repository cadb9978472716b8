use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use rk_store::{Event, Revision};
use serde_json::{Value, json};

use super::*;

/// A view, and what was wrong on the way to it.
#[derive(Default)]
struct Past {
    view: View,
    revision: u64,
    at: Timestamp,
    broken: Vec<Violation>,
}

impl Past {
    fn put(&mut self, key: &str, object: Value) -> &mut Self {
        self.event(key, Some(object))
    }

    fn delete(&mut self, key: &str) -> &mut Self {
        self.event(key, None)
    }

    fn later(&mut self, seconds: i64) -> &mut Self {
        self.at += SignedDuration::from_secs(seconds);
        self
    }

    fn event(&mut self, key: &str, object: Option<Value>) -> &mut Self {
        self.revision += 1;
        let event = Event {
            key: Arc::from(format!("/registry/{key}")),
            revision: Revision(self.revision),
            value: object.map(|object| object.to_string().into()),
            created: Revision(1),
            previous: None,
        };
        if let Some(step) = self.view.apply(&event, self.at) {
            self.broken.extend(check(&self.view, &step));
        }
        self
    }

    #[track_caller]
    fn holds(&self) {
        assert_eq!(self.broken, []);
    }

    #[track_caller]
    fn breaks(&self, rule: &str) {
        let rules: Vec<_> = self.broken.iter().map(|violation| violation.rule).collect();
        assert_eq!(rules, [rule], "{:?}", self.broken);
    }
}

fn deployment(generation: i64, replicas: i64, observed: i64) -> Value {
    json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "d", "generation": generation},
        "spec": {"replicas": replicas, "strategy": {
            "type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": "25%"}}},
        "status": {"observedGeneration": observed},
    })
}

fn replica_set(name: &str, replicas: i64) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "uid": name,
            "ownerReferences": [{"kind": "Deployment", "uid": "d", "controller": true}]},
        "spec": {"replicas": replicas},
    })
}

/// A Deployment of 4 with its old ReplicaSet.
fn rolled() -> Past {
    let mut past = Past::default();
    past.put("deployments/default/web", deployment(1, 4, 1))
        .put("replicasets/default/old", replica_set("old", 4));
    past.holds();
    past
}

#[test]
fn a_rollout_above_its_surge_is_seen() {
    let mut past = rolled();
    past.put("replicasets/default/new", replica_set("new", 1)).holds();
    past.put("replicasets/default/new", replica_set("new", 2)).breaks("surge");
}

#[test]
fn a_controller_that_has_not_seen_a_smaller_deployment_may_still_scale_to_the_larger_one() {
    let mut past = rolled();
    past.put("deployments/default/web", deployment(2, 2, 1))
        .put("replicasets/default/new", replica_set("new", 1))
        .holds();
    past.put("deployments/default/web", deployment(2, 2, 2))
        .put("replicasets/default/old", replica_set("old", 3))
        .put("replicasets/default/new", replica_set("new", 2))
        .breaks("surge");
}

#[test]
fn a_rollout_below_what_has_to_stay_is_seen() {
    let mut past = rolled();
    past.put("replicasets/default/old", replica_set("old", 3)).holds();
    past.put("replicasets/default/old", replica_set("old", 2)).breaks("floor");
}

fn pod(name: &str, owner: (&str, &str), ready: bool) -> Value {
    let ready = if ready { "True" } else { "False" };
    json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"},
            "ownerReferences": [{"kind": owner.0, "uid": owner.1, "controller": true}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
    })
}

fn evicted(mut pod: Value) -> Value {
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let target =
        json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"});
    pod["status"]["conditions"].as_array_mut().unwrap().push(target);
    pod
}

const SET: (&str, &str) = ("ReplicaSet", "r");

/// A budget of 1 over three Pods.
fn budgeted() -> Past {
    let mut past = Past::default();
    past.put(
        "poddisruptionbudgets/default/web",
        json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "b"},
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}},
            "status": {"expectedPods": 3},
        }),
    );
    for name in ["a", "b", "c"] {
        past.put(&format!("pods/default/{name}"), pod(name, SET, true));
    }
    past
}

#[test]
fn an_eviction_that_the_budget_cannot_spare_is_seen() {
    let mut past = budgeted();
    past.put("pods/default/a", evicted(pod("a", SET, true))).holds();
    past.put("pods/default/b", evicted(pod("b", SET, true))).breaks("eviction");
}

#[test]
fn nobody_is_blamed_for_an_eviction_that_crossed_with_an_accident() {
    let mut past = budgeted();
    past.put("pods/default/c", pod("c", SET, false))
        .put("pods/default/a", evicted(pod("a", SET, true)))
        .holds();
    past.later(120).put("pods/default/b", evicted(pod("b", SET, true))).breaks("eviction");
}

#[test]
fn two_pods_of_one_ordinal_are_seen() {
    let set = ("StatefulSet", "s");
    let mut past = Past::default();
    past.put("pods/default/db-0", pod("db-0", set, true))
        .put("pods/default/db-1", pod("db-1", set, true))
        .holds();
    past.put("pods/default/other-1", pod("other-1", set, true)).breaks("ordinal");
}

#[test]
fn a_pod_that_took_the_place_of_one_that_was_there_is_seen() {
    let set = ("StatefulSet", "s");
    let mut past = Past::default();
    let mut second = pod("db-0", set, true);
    second["metadata"]["uid"] = "another".into();
    past.put("pods/default/db-0", pod("db-0", set, true)).put("pods/default/db-0", second);
    past.breaks("ordinal");
}

fn job(succeeded: i64, uncounted: &[&str], complete: bool) -> Value {
    let complete = if complete { "True" } else { "False" };
    json!({
        "metadata": {"name": "sum", "namespace": "default", "uid": "j"},
        "spec": {"completions": 2},
        "status": {"succeeded": succeeded,
            "uncountedTerminatedPods": {"succeeded": uncounted},
            "conditions": [{"type": "Complete", "status": complete}]},
    })
}

fn succeeded(name: &str) -> Value {
    let mut pod = pod(name, ("Job", "j"), false);
    pod["status"]["phase"] = "Succeeded".into();
    pod
}

#[test]
fn a_pod_that_a_job_counts_twice_is_seen() {
    let mut past = Past::default();
    past.put("pods/default/sum-a", succeeded("sum-a"))
        .put("jobs/default/sum", job(0, &["sum-a"], false))
        .put("jobs/default/sum", job(1, &[], false))
        .delete("pods/default/sum-a")
        .holds();
    past.put("jobs/default/sum", job(1, &["sum-a"], false)).breaks("job count");
}

#[test]
fn a_job_that_is_complete_too_early_is_seen() {
    let mut past = Past::default();
    past.put("pods/default/sum-a", succeeded("sum-a")).put("jobs/default/sum", job(1, &[], true));
    past.breaks("job count");
}

#[test]
fn a_pod_beyond_the_quota_is_seen() {
    let mut past = Past::default();
    past.put(
        "resourcequotas/default/pods",
        json!({
            "metadata": {"name": "pods", "namespace": "default", "uid": "q"},
            "spec": {"hard": {"pods": "1"}}, "status": {"hard": {"pods": "1"}},
        }),
    );
    past.put("pods/default/over", succeeded("over"))
        .put("pods/default/a", pod("a", SET, true))
        .holds();
    past.put("pods/default/b", pod("b", SET, true)).breaks("quota");
}

#[test]
fn two_writers_who_undo_each_other_are_seen() {
    let object = |data: &str, time: &str| json!({"metadata": {"uid": "c"}, "data": {"who": data}, "at": time});
    let mut past = Past::default();
    for round in 0..6 {
        let time = format!("2026-01-01T00:00:{round:02}Z");
        past.put("configmaps/default/c", object("me", &time));
        past.put("configmaps/default/c", object("you", &time));
    }
    past.holds();
    for round in 0..6 {
        let time = format!("2026-01-01T00:01:{round:02}Z");
        past.put("configmaps/default/c", object("me", &time));
        past.put("configmaps/default/c", object("you", &time));
    }
    past.breaks("fight");
}

#[test]
fn slow_changes_and_new_contents_are_no_fight() {
    let mut past = Past::default();
    for round in 0..40 {
        past.put("configmaps/default/c", json!({"metadata": {"uid": "c"}, "n": round}));
    }
    for round in 0..40 {
        past.later(60)
            .put("configmaps/default/c", json!({"metadata": {"uid": "c"}, "n": round % 2}));
    }
    past.holds();
}

#[test]
fn what_is_left_of_owners_that_are_gone_is_seen_at_rest() {
    let mut past = rolled();
    assert_eq!(orphans(&past.view), [""; 0]);
    past.delete("deployments/default/web");
    assert_eq!(
        orphans(&past.view),
        ["/registry/replicasets/default/old is left of owners that are gone"]
    );
}

#[test]
fn what_has_not_come_to_rest_is_seen() {
    let mut past = Past::default();
    let whole = json!({"observedGeneration": 2, "replicas": 4, "updatedReplicas": 4,
        "readyReplicas": 4, "availableReplicas": 4});
    let mut web = deployment(2, 4, 2);
    web["status"] = whole;
    past.put("deployments/default/web", web.clone());
    assert_eq!(unconverged(&past.view), [""; 0]);

    web["status"]["readyReplicas"] = 3.into();
    past.put("deployments/default/web", web)
        .put("jobs/default/sum", job(1, &[], false))
        .put("pods/default/a", pod("a", SET, false))
        .put("minions/node-1", json!({"metadata": {"name": "node-1", "uid": "n"}}));
    assert_eq!(
        unconverged(&past.view),
        [
            "deployments default/web has 3 readyReplicas, not 4",
            "Job default/sum is not over",
            "Pod default/a is Running and not ready",
            "Node node-1 is not ready",
        ]
    );
}
