use std::sync::Arc;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use rk_api::testing::{PodBuilder, node, pod};
use serde_json::json;

use super::*;
use crate::{BudgetView, Profile, Scheduler, Unschedulable};

#[derive(Debug)]
struct Fixed(Vec<Arc<PodDisruptionBudget>>);

impl BudgetView for Fixed {
    fn budgets(&self, namespace: &str) -> Vec<Arc<PodDisruptionBudget>> {
        let of = |budget: &Arc<PodDisruptionBudget>| {
            budget.metadata.namespace.as_deref() == Some(namespace)
        };
        self.0.iter().filter(|budget| of(budget)).cloned().collect()
    }
}

/// A budget for the Pods with label `app=<app>`.
fn budget(app: &str, allowed: i32, disrupted: &[&str]) -> Arc<PodDisruptionBudget> {
    let disrupted: serde_json::Map<_, _> =
        disrupted.iter().map(|pod| ((*pod).to_owned(), json!("2026-01-01T00:00:00Z"))).collect();
    let budget = json!({
        "metadata": {"name": app, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": app}}},
        "status": {"disruptionsAllowed": allowed, "disruptedPods": disrupted,
            "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0},
    });
    Arc::new(serde_json::from_value(budget).unwrap())
}

/// What the scheduler makes of a Pod: the nomination, the victims' names and the message.
fn try_with(
    snapshot: &Snapshot,
    pod: PodBuilder,
    budgets: Vec<Arc<PodDisruptionBudget>>,
) -> (Nomination, Vec<String>, String) {
    let profile = Profile::default();
    for plugin in &profile.all {
        if let Some(connected) = plugin.budgets() {
            connected.connect(Arc::new(Fixed(budgets.clone())));
        }
    }
    match Scheduler::new(profile).schedule(snapshot, &pod) {
        Err(Unschedulable::Unfit(error)) => {
            let names = error.victims.iter().map(|it| it.name().to_owned()).collect();
            (error.nominated.clone(), names, error.to_string())
        }
        other => panic!("{other:?}"),
    }
}

/// The node and victims chosen, or the message.
fn preempt(snapshot: &Snapshot, pod: PodBuilder) -> Result<(String, Vec<String>), String> {
    preempt_with(snapshot, pod, Vec::new())
}

fn preempt_with(
    snapshot: &Snapshot,
    pod: PodBuilder,
    budgets: Vec<Arc<PodDisruptionBudget>>,
) -> Result<(String, Vec<String>), String> {
    match try_with(snapshot, pod, budgets) {
        (Nomination::Node(node), victims, _) => Ok((node, victims)),
        (_, _, message) => Err(message),
    }
}

fn on(name: &str, node: &str, priority: i32) -> PodBuilder {
    pod(name).cpu("1").priority(priority).node(node)
}

fn chosen(node: &str, victims: &[&str]) -> Result<(String, Vec<String>), String> {
    Ok((node.to_owned(), victims.iter().map(|name| (*name).to_owned()).collect()))
}

fn urgent() -> PodBuilder {
    pod("p").cpu("1").priority(10)
}

fn nominated(node: &str) -> PodBuilder {
    urgent().with(|pod| {
        pod.status.get_or_insert_default().nominated_node_name = Some(node.to_owned());
    })
}

fn preempted(pod: PodBuilder) -> PodBuilder {
    pod.deleting().with(|pod| {
        let condition = json!({"type": "DisruptionTarget", "status": "True",
            "reason": "PreemptionByScheduler"});
        let conditions = Some(vec![serde_json::from_value(condition).unwrap()]);
        pod.status.get_or_insert_default().conditions = conditions;
    })
}

#[test]
fn the_least_important_pods_go_and_the_others_are_spared() {
    let pods = [on("a", "n", 5), on("b", "n", 1), on("c", "n", 3)];
    let snapshot = Snapshot::with_pods([node("n").cpu("3")], pods);
    let found = preempt(&snapshot, pod("p").cpu("2").priority(10));
    assert_eq!(found, chosen("n", &["c", "b"]));
}

#[test]
fn the_node_with_the_least_harm_is_chosen() {
    let pods = [on("a1", "a", 4), on("b1", "b", 2), on("b2", "b", 2), on("c1", "c", 2)];
    let nodes = [node("a").cpu("1"), node("b").cpu("2"), node("c").cpu("1")];
    let snapshot = Snapshot::with_pods(nodes, pods);
    let found = preempt(&snapshot, urgent()).unwrap();
    assert!(found.1.len() == 1 && found.0 != "a", "{found:?}");
    let found = preempt(&snapshot, pod("p").cpu("2").priority(10));
    assert_eq!(found, chosen("b", &["b1", "b2"]));
}

#[test]
fn the_youngest_of_equal_victims_goes() {
    let started = |pod: PodBuilder, second: i64| {
        pod.with(|pod| {
            let time = serde_json::from_value(json!(format!("1970-01-01T00:00:{second:02}Z")));
            pod.status.get_or_insert_default().start_time = Some(time.unwrap());
        })
    };
    let pods = [started(on("old", "a", 2), 10), started(on("young", "b", 2), 20)];
    let snapshot = Snapshot::with_pods([node("a").cpu("1"), node("b").cpu("1")], pods);
    assert_eq!(preempt(&snapshot, urgent()), chosen("b", &["young"]));
}

#[test]
fn a_budget_is_kept_where_another_pod_can_go_instead() {
    let app =
        |name: &str, node: &str, priority, app: &str| on(name, node, priority).label("app", app);
    // On one node: the less important is protected, so the other goes.
    let pods = [app("kept", "n", 1, "db"), app("free", "n", 5, "web")];
    let snapshot = Snapshot::with_pods([node("n").cpu("2")], pods);
    let found = |budgets| preempt_with(&snapshot, urgent(), budgets);
    assert_eq!(found(vec![]), chosen("n", &["kept"]));
    assert_eq!(found(vec![budget("db", 0, &[])]), chosen("n", &["free"]));
    assert_eq!(found(vec![budget("db", 1, &[])]), chosen("n", &["kept"]));
    assert_eq!(found(vec![budget("db", 0, &["kept"])]), chosen("n", &["kept"]));
    let both = vec![budget("db", 0, &[]), budget("web", 0, &[])];
    assert_eq!(found(both), chosen("n", &["kept"]), "one has to go");

    // Of two nodes: the one that violates no budget, even with a more important victim.
    let pods = [app("kept", "a", 1, "db"), app("free", "b", 5, "web")];
    let snapshot = Snapshot::with_pods([node("a").cpu("1"), node("b").cpu("1")], pods);
    let found = |budgets| preempt_with(&snapshot, urgent(), budgets);
    assert_eq!(found(vec![budget("db", 0, &[])]), chosen("b", &["free"]));
}

#[test]
fn a_budget_of_one_is_violated_by_the_second_victim() {
    let pods = ["a", "b"].map(|name| on(name, "n", 1).label("app", "db"));
    let others = ["c", "d"].map(|name| on(name, "m", 2).label("app", "web"));
    let nodes = [node("n").cpu("2"), node("m").cpu("2")];
    let snapshot = Snapshot::with_pods(nodes, pods.into_iter().chain(others));
    let large = || pod("p").cpu("2").priority(10);
    let found = |allowed| preempt_with(&snapshot, large(), vec![budget("db", allowed, &[])]);
    assert_eq!(found(2), chosen("n", &["a", "b"]));
    assert_eq!(found(1), chosen("m", &["c", "d"]));
}

#[test]
fn extended_resources_are_made_room_for() {
    let foo = |pod: PodBuilder, amount: &str| {
        pod.requests("example.com/foo", amount).limits("example.com/foo", amount)
    };
    let nodes = ["a", "b"].map(|name| node(name).allocatable("example.com/foo", "3"));
    let pods =
        [foo(pod("low").priority(1).node("a"), "2"), foo(pod("medium").priority(5).node("b"), "2")];
    let snapshot = Snapshot::with_pods(nodes, pods);
    let found = preempt(&snapshot, foo(pod("p").priority(10), "2"));
    assert_eq!(found, chosen("a", &["low"]));
}

#[test]
fn room_that_is_kept_for_more_important_pods_is_no_room() {
    let pods = [on("a", "n", 1), on("b", "n", 2)];
    let mut snapshot = Snapshot::with_pods([node("n").cpu("2")], pods);
    let first = Arc::new(PodInfo::from(&*pod("first").cpu("1").priority(20)));
    snapshot.nominate(first, "n");
    assert_eq!(preempt(&snapshot, urgent()), chosen("n", &["b", "a"]));
    snapshot.clear_nomination("uid-first");
    assert_eq!(preempt(&snapshot, urgent()), chosen("n", &["a"]));
}

#[test]
fn a_pod_waits_for_the_victims_it_has_and_no_others() {
    let nodes = || [node("a").cpu("1"), node("b").cpu("1")];
    let pods = [preempted(on("going", "a", 1)), on("other", "b", 1)];
    let snapshot = Snapshot::with_pods(nodes(), pods);
    let (kept, victims, message) = try_with(&snapshot, nominated("a"), Vec::new());
    assert_eq!((kept, victims.len()), (Nomination::Unchanged, 0));
    assert!(
        message.ends_with("not eligible due to a terminating pod on the nominated node."),
        "{message}"
    );

    // One that goes for a reason of its own makes nobody wait.
    let pods = [on("going", "a", 1).deleting(), on("other", "b", 2)];
    let snapshot = Snapshot::with_pods(nodes(), pods);
    assert!(matches!(try_with(&snapshot, nominated("a"), Vec::new()).0, Nomination::Node(_)));

    // Nor does a node that became impossible.
    let pods = [preempted(on("going", "a", 1)), on("other", "b", 1)];
    let [a, b] = nodes();
    let snapshot = Snapshot::with_pods([a.taint("gpu:NoSchedule"), b], pods);
    assert_eq!(preempt(&snapshot, nominated("a")), chosen("b", &["other"]));
}

#[test]
fn a_nomination_is_withdrawn_when_nothing_helps() {
    let snapshot = Snapshot::with_pods([node("a").cpu("1")], [on("there", "a", 50)]);
    assert_eq!(try_with(&snapshot, nominated("a"), Vec::new()).0, Nomination::Withdrawn);
    let never = nominated("a").with(|pod| {
        pod.spec.as_mut().unwrap().preemption_policy = Some("Never".to_owned());
    });
    assert_eq!(try_with(&snapshot, never, Vec::new()).0, Nomination::Unchanged);
}

#[test]
fn messages_say_why_preemption_does_not_help() {
    let nodes =
        [node("a").cpu("1"), node("b").cpu("1").taint("gpu:NoSchedule"), node("c").cpu("500m")];
    let snapshot = Snapshot::with_pods(nodes, [on("there", "a", 7)]);
    let message = preempt(&snapshot, pod("p").cpu("1").priority(7)).unwrap_err();
    assert_eq!(
        message,
        "0/3 nodes are available: 1 node(s) had untolerated taint {gpu: }, 2 Insufficient cpu. \
         preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, \
         2 Preemption is not helpful for scheduling."
    );
    let never = pod("p").cpu("1").priority(9).with(|pod| {
        pod.spec.as_mut().unwrap().preemption_policy = Some("Never".to_owned());
    });
    let message = preempt(&snapshot, never).unwrap_err();
    assert!(
        message.ends_with("preemption: not eligible due to preemptionPolicy=Never."),
        "{message}"
    );
}

#[test]
fn arguments_say_how_many_candidates_are_enough() {
    let pods: Vec<_> = (0..50).map(|n| on(&format!("p{n}"), &format!("n{n}"), n)).collect();
    let nodes: Vec<_> = (0..50).map(|n| node(&format!("n{n}")).cpu("1")).collect();
    let snapshot = Snapshot::with_pods(nodes, pods);
    let all = preempt(&snapshot, pod("p").cpu("1").priority(100));
    assert_eq!(all, chosen("n0", &["p0"]), "100 at least, so all are tried");
    for (percentage, absolute, fine) in
        [(0, 1, true), (100, 0, true), (0, 0, false), (101, 1, false), (10, -1, false)]
    {
        let args = json!({"minCandidateNodesPercentage": percentage,
            "minCandidateNodesAbsolute": absolute});
        let made = DefaultPreemption::from_args(Some(args));
        assert_eq!(made.is_ok(), fine, "{percentage} {absolute}");
    }
}

#[test]
fn room_that_is_kept_is_not_given_to_others() {
    let mut snapshot = Snapshot::with_pods([node("n").cpu("2")], [on("there", "n", 0)]);
    let urgent = Arc::new(PodInfo::from(&*pod("urgent").cpu("1").priority(5)));
    snapshot.nominate(urgent, "n");
    let mut scheduler = Scheduler::new(Profile::default());

    assert!(scheduler.schedule(&snapshot, &pod("p").cpu("1")).is_err());
    assert!(scheduler.schedule(&snapshot, &pod("p").cpu("1").priority(6)).is_ok());
    let urgent = pod("urgent").cpu("1").priority(5);
    assert!(scheduler.schedule(&snapshot, &urgent).is_ok(), "it is its own room");

    snapshot.clear_nomination("uid-urgent");
    assert!(scheduler.schedule(&snapshot, &pod("p").cpu("1")).is_ok());
}
