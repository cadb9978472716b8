//! Pods that are more important than others, and what those lose to them.

use rk::{
    k8s_openapi::api::{
        apps::v1::ReplicaSet,
        core::v1::{Node, Pod},
        policy::v1::PodDisruptionBudget,
        scheduling::v1::PriorityClass,
    },
    kube::{
        Api, ResourceExt,
        api::{ListParams, Patch, PatchParams, PostParams},
    },
};
use serde_json::{Value, json};

use crate::{
    cluster::{TestCluster, from_json, until, wait},
    replica_sets::running,
    watched::{Happened, Watched},
};

const FOO: &str = "scheduling.k8s.io/foo";
const FAKE_CPU: &str = "example.com/fakecpu";

fn classes(t: &TestCluster) -> Api<PriorityClass> {
    Api::all(t.client())
}

async fn class(t: &TestCluster, name: &str, value: i32) {
    let class = from_json(json!({"metadata": {"name": name}, "value": value}));
    classes(t).create(&PostParams::default(), &class).await.expect("created");
}

/// The names of the nodes, each of which then has so much of an extended resource to allocate.
async fn advertise(t: &TestCluster, resource: &str, amount: &str) -> Vec<String> {
    let nodes: Api<Node> = Api::all(t.client());
    let names: Vec<_> = nodes.list(&ListParams::default()).await.expect("listed").items;
    let names: Vec<_> = names.iter().map(ResourceExt::name_any).collect();
    for name in &names {
        let patch = Patch::Strategic(json!({"status": {"capacity": {resource: amount}}}));
        nodes.patch_status(name, &PatchParams::default(), &patch).await.expect("patched");
        until("the kubelet to notice", async || {
            let status = nodes.get(name).await.expect("read").status?;
            status.allocatable?.get(resource).map(|amount| amount.0.clone())
        })
        .await;
    }
    names
}

/// A Pod of this class that takes so much.
fn pod(name: &str, class: &str, resource: &str, amount: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"name": name}},
        "spec": {
            "priorityClassName": class,
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "c", "image": "pause",
                "resources": {"requests": {resource: amount}, "limits": {resource: amount}},
            }],
        },
    })
}

/// One Pod on each of the nodes that takes two of its three foos: the first of low priority, the
/// others of medium priority.
async fn occupied(t: &TestCluster) -> Vec<String> {
    for (name, value) in [("low", 1), ("medium", 100), ("high", 1000)] {
        class(t, name, value).await;
    }
    let mut pods = Vec::new();
    for node in advertise(t, FOO, "3").await {
        let priority = if pods.is_empty() { "low" } else { "medium" };
        let name = format!("pod{}-{priority}", pods.len());
        let mut pod = pod(&name, priority, FOO, "2");
        pod["spec"]["affinity"] = json!({"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]},
            ]},
        }});
        t.create::<Pod>(pod).await;
        running(t, &format!("name={name}"), 1).await;
        pods.push(name);
    }
    assert!(pods.len() >= 2);
    pods
}

/// The first of the Pods is gone or on its way, and no other.
async fn only_the_first_went(t: &TestCluster, names: &[String]) {
    let pods = t.api::<Pod>();
    let goes = async |name: &str| {
        let pod = pods.get_opt(name).await.expect("asked");
        pod.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some())
    };
    assert!(goes(&names[0]).await);
    for other in &names[1..] {
        assert!(!goes(other).await, "{other}");
    }
}

// Conformance: Scheduler, Basic Preemption
#[tokio::test(start_paused = true)]
async fn a_pod_of_high_priority_takes_the_place_of_the_least_important() {
    let t = TestCluster::start().await;
    let pods = occupied(&t).await;
    t.create::<Pod>(pod("preemptor-pod", "high", FOO, "2")).await;
    running(&t, "name=preemptor-pod", 1).await;
    only_the_first_went(&t, &pods).await;
}

// Conformance: Scheduler, Preemption for critical pod
#[tokio::test(start_paused = true)]
async fn a_critical_pod_takes_the_place_of_the_least_important() {
    let t = TestCluster::start().await;
    let pods = occupied(&t).await;
    let system: Api<Pod> = Api::namespaced(t.client(), "kube-system");
    let critical = from_json(pod("critical-pod", "system-cluster-critical", FOO, "2"));
    until("the service account", async || {
        system.create(&PostParams::default(), &critical).await.ok()
    })
    .await;
    until("the critical Pod to run", async || {
        let pod = system.get("critical-pod").await.expect("read");
        (pod.status?.phase? == "Running").then_some(())
    })
    .await;
    only_the_first_went(&t, &pods).await;
}

// Conformance: Pod preemption verification
#[tokio::test(start_paused = true)]
async fn replica_sets_lose_no_more_pods_than_needed() {
    let t = TestCluster::start().await;
    for value in 1..=4 {
        class(&t, &format!("p{value}"), value).await;
    }
    let node = advertise(&t, FAKE_CPU, "1k").await.remove(0);
    let on_node = |mut pod: Value| {
        pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
        pod
    };
    let mut created = Watched::new(&t.api::<Pod>(), "").await;
    for (n, amount) in [(1, "200"), (2, "300"), (3, "450")] {
        let label = format!("pod{n}");
        let template = on_node(pod(&label, &format!("p{n}"), FAKE_CPU, amount));
        t.create::<ReplicaSet>(json!({
            "metadata": {"name": format!("rs-{label}")},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"name": label}},
                "template": {"metadata": {"labels": {"name": label}}, "spec": template["spec"]},
            },
        }))
        .await;
        running(&t, &format!("name={label}"), 1).await;
    }
    // 950 of 1000 are taken. For 500 the first two have to go, and those only.
    t.create::<Pod>(on_node(pod("pod4", "p4", FAKE_CPU, "500"))).await;
    running(&t, "name=pod4", 1).await;
    wait(10).await;

    let events = created.so_far().await;
    let added = |prefix: &str| {
        let added = events.iter().filter(|(happened, _)| *happened == Happened::Added);
        added.filter(|(_, pod)| pod.name_any().starts_with(prefix)).count()
    };
    let counts = ["rs-pod1", "rs-pod2", "rs-pod3"].map(added);
    assert_eq!(counts, [2, 2, 1], "each victim is made anew once, and the third is none");
}

// Conformance: Scheduler, Verify PriorityClass endpoints
#[tokio::test(start_paused = true)]
async fn priority_classes_keep_their_value_and_change_their_description() {
    let t = TestCluster::start().await;
    for (name, value) in [("p1", 1), ("p2", 2)] {
        class(&t, name, value).await;
    }
    let classes = classes(&t);
    let merge = async |patch: Value| {
        classes.patch("p1", &PatchParams::default(), &Patch::Strategic(patch)).await
    };
    merge(json!({"value": 10})).await.expect_err("the value is immutable");
    let mut second = classes.get("p2").await.expect("read");
    second.value = Some(20);
    let update =
        async |class: &PriorityClass| classes.replace("p2", &PostParams::default(), class).await;
    update(&second).await.expect_err("the value is immutable");

    let description = "updated description";
    merge(json!({"description": description})).await.expect("patched");
    (second.value, second.description) = (Some(2), Some(description.to_owned()));
    update(&second).await.expect("updated");

    let list = classes.list(&ListParams::default()).await.expect("listed");
    let mut found: Vec<_> = list
        .iter()
        .filter(|it| it.name_any().starts_with('p'))
        .map(|it| (it.name_any(), it.value, it.description.as_deref()))
        .collect();
    found.sort();
    let expected = [("p1", 1), ("p2", 2)];
    assert_eq!(
        found,
        expected.map(|(name, value)| (name.to_owned(), Some(value), Some(description)))
    );
}

/// Upstream's test of preemption with topology spread, which is not on the list.
#[tokio::test(start_paused = true)]
async fn victims_are_chosen_so_that_pods_stay_spread() {
    let t = TestCluster::start().await;
    for (name, value) in [("low", 1), ("medium", 100), ("high", 1000)] {
        class(&t, name, value).await;
    }
    advertise(&t, FAKE_CPU, "10").await;
    let labelled = |name: &str, class: &str, amount: &str| {
        let mut pod = pod(name, class, FAKE_CPU, amount);
        pod["metadata"]["labels"] = json!({"spread": "", "name": name});
        pod
    };
    t.create::<Pod>(labelled("high", "high", "9")).await;
    running(&t, "name=high", 1).await;
    for n in 1..=3 {
        t.create::<Pod>(labelled(&format!("low-{n}"), "low", "3")).await;
        running(&t, &format!("name=low-{n}"), 1).await;
    }
    let mut medium = labelled("medium", "medium", "3");
    medium["spec"]["topologySpreadConstraints"] = json!([{
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchExpressions": [{"key": "spread", "operator": "Exists"}]},
    }]);
    t.create::<Pod>(medium).await;
    running(&t, "name=medium", 1).await;
    // One would make room enough, but two have to go for the spread.
    let pods = running(&t, "spread", 3).await;
    let names: Vec<_> = pods.iter().map(|pod| pod.name_any()).collect();
    assert!(names.contains(&"high".to_owned()) && names.contains(&"medium".to_owned()));
}

/// Nor is this: it would be the less important Pod that goes, were there no budget for it.
#[tokio::test(start_paused = true)]
async fn a_budget_is_kept_where_another_pod_can_go() {
    let t = TestCluster::start().await;
    for (name, value) in [("low", 1), ("medium", 100), ("high", 1000)] {
        class(&t, name, value).await;
    }
    let node = advertise(&t, FOO, "2").await.remove(0);
    let there = |name: &str, class: &str| {
        let mut pod = pod(name, class, FOO, "1");
        pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
        pod
    };
    for (name, class) in [("kept", "low"), ("free", "medium")] {
        t.create::<Pod>(there(name, class)).await;
        running(&t, &format!("name={name}"), 1).await;
    }
    t.create::<PodDisruptionBudget>(json!({
        "metadata": {"name": "kept"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"name": "kept"}}},
    }))
    .await;
    let budgets = t.api::<PodDisruptionBudget>();
    until("a budget of none", async || {
        let status = budgets.get("kept").await.expect("read").status?;
        (status.current_healthy == Some(1) && status.disruptions_allowed == Some(0)).then_some(())
    })
    .await;
    // All who watch have heard of it before any time passes.
    wait(1).await;

    t.create::<Pod>(there("preemptor", "high")).await;
    running(&t, "name=preemptor", 1).await;
    let pods = t.api::<Pod>();
    let kept = pods.get("kept").await.expect("read");
    assert_eq!(kept.metadata.deletion_timestamp, None);
    let free = pods.get_opt("free").await.expect("asked");
    assert!(free.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some()));
}
