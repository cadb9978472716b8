//! Plans of random sets, against the order of victims as the documentation tells it, and against
//! what must always hold.

use std::{cmp::Ordering, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use proptest::prelude::*;
use rk_api::testing::{pod, replica_set};

use super::plan::{Plan, plan};
use crate::pods;

const NOW: i64 = 1_000_000;

/// A Pod in a few words.
#[derive(Clone, Debug)]
struct Words {
    node: Option<u8>,
    phase: &'static str,
    deleting: bool,
    /// Ready since so many seconds, a power of two.
    ready_for: Option<u32>,
    cost: i32,
    restarts: i32,
    age: u32,
}

fn words() -> impl Strategy<Value = Words> {
    let phase = prop::sample::select(vec!["Pending", "Running", "Unknown", "Succeeded", "Failed"]);
    (
        prop::option::weighted(0.8, 0..3u8),
        phase,
        prop::bool::weighted(0.15),
        prop::option::weighted(0.6, 0..12u32),
        -1..2i32,
        0..3i32,
        0..16u32,
    )
        .prop_map(|(node, phase, deleting, ready_for, cost, restarts, age)| Words {
            node,
            phase,
            deleting,
            ready_for,
            cost,
            restarts,
            age,
        })
}

fn build(index: usize, words: &Words) -> Arc<Pod> {
    let name = format!("p{index}");
    // In the middle between powers of two, so that ages of one power are of one magnitude.
    let since = |power: u32| NOW - (3 << power) / 2;
    let mut pod = pod(&name)
        .uid(&name)
        .created(since(words.age))
        .annotation("controller.kubernetes.io/pod-deletion-cost", &words.cost.to_string());
    if let Some(node) = words.node {
        pod = pod.node(&format!("n{node}"));
    }
    if let Some(power) = words.ready_for {
        pod = pod.ready_since(since(power));
    }
    pod = pod.phase(words.phase);
    if words.deleting {
        pod = pod.deleting();
    }
    let restarts = words.restarts;
    let pod = pod.with(|pod| {
        let status = serde_json::json!([{"name": "c", "image": "", "imageID": "", "ready": false,
            "restartCount": restarts}]);
        let statuses = serde_json::from_value(status).unwrap();
        pod.status.get_or_insert_default().container_statuses = Some(statuses);
    });
    Arc::new(pod.build())
}

/// Which of two Pods goes first, criterion by criterion. Equal for what the names decide.
fn goes_before(a: &Words, b: &Words, crowd: impl Fn(&Words) -> usize) -> Ordering {
    let phase = |words: &Words| match words.phase {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let criteria = [
        a.node.is_some().cmp(&b.node.is_some()),
        phase(a).cmp(&phase(b)),
        a.ready_for.is_some().cmp(&b.ready_for.is_some()),
        a.cost.cmp(&b.cost),
        crowd(b).cmp(&crowd(a)),
        a.ready_for.cmp(&b.ready_for),
        b.restarts.cmp(&a.restarts),
        a.age.cmp(&b.age),
    ];
    criteria.into_iter().find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

fn planned(replicas: i32, pods: &[Arc<Pod>]) -> Plan {
    let set = replica_set("web").replicas(replicas).build();
    plan(&set, pods, pods, Timestamp::from_second(NOW).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_plan_leads_to_the_wanted_number_and_takes_the_least_useful(
        all in prop::collection::vec(words(), 0..20), replicas in 0..15i32,
    ) {
        let pods: Vec<_> = all.iter().enumerate().map(|(n, words)| build(n, words)).collect();
        let Plan { create, delete } = planned(replicas, &pods);
        let active: Vec<_> = pods.iter().filter(|pod| pods::is_active(pod)).collect();
        prop_assert!(create == 0 || delete.is_empty(), "it creates or deletes");
        prop_assert_eq!(active.len() + create - delete.len(), replicas as usize);

        let words = |pod: &Pod| &all[pod.name_any()[1..].parse::<usize>().unwrap()];
        let doomed = |pod: &Pod| delete.iter().any(|other| other.uid() == pod.uid());
        let crowd = |of: &Words| match of.node {
            Some(node) => active.iter().filter(|pod| words(pod).node == Some(node)).count(),
            None => 0,
        };
        for victim in &delete {
            prop_assert!(pods::is_active(victim), "{}", victim.name_any());
            for survivor in active.iter().filter(|pod| !doomed(pod)) {
                let order = goes_before(words(victim), words(survivor), crowd);
                prop_assert!(order.is_le(), "{:?} went, {:?} stayed", words(victim), words(survivor));
            }
        }
    }

    #[test]
    fn the_order_in_which_pods_are_seen_does_not_matter(
        all in prop::collection::vec(words(), 0..12), replicas in 0..10i32, turn in 0..12usize,
    ) {
        let pods: Vec<_> = all.iter().enumerate().map(|(n, words)| build(n, words)).collect();
        let mut turned = pods.clone();
        turned.rotate_left(turn.min(pods.len()));
        let names = |plan: Plan| {
            let mut names: Vec<_> = plan.delete.iter().map(|pod| pod.name_any()).collect();
            names.sort();
            (plan.create, names)
        };
        prop_assert_eq!(names(planned(replicas, &pods)), names(planned(replicas, &turned)));
    }
}
