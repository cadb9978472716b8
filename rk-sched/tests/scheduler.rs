//! The running scheduler against the real API server, in process.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Event, Namespace, Node, Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use rk_api::{
    server::ApiServer,
    testing::{NodeBuilder, PodBuilder, node, pod},
};
use rk_sched::{Profile, Scheduler};
use rk_store::EmbeddedStore;
use serde_json::json;
use tokio_util::sync::{CancellationToken, DropGuard};

/// An API server, some nodes and a scheduler.
struct Cluster {
    client: Client,
    _server: ApiServer,
    _stop: DropGuard,
}

impl Cluster {
    async fn with(nodes: impl IntoIterator<Item = NodeBuilder>) -> Self {
        Self::with_scheduler(nodes, |client| Scheduler::builder(client).build()).await
    }

    async fn with_scheduler(
        nodes: impl IntoIterator<Item = NodeBuilder>,
        build: impl FnOnce(Client) -> rk_sched::SchedulerRunner,
    ) -> Self {
        let store = Arc::new(EmbeddedStore::in_memory());
        let server = ApiServer::builder(store).start().await.unwrap();
        let client = server.client();
        for node in nodes {
            add_node(&client, node).await;
        }
        let stop = CancellationToken::new();
        tokio::spawn(build(client.clone()).run(stop.clone()));
        Self { client, _server: server, _stop: stop.drop_guard() }
    }

    fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.client.clone())
    }

    async fn create(&self, pod: PodBuilder) {
        let mut pod = pod.build();
        pod.metadata.uid = None;
        self.pods().create(&PostParams::default(), &pod).await.unwrap();
    }

    /// Waits until `f` gives something for the Pod.
    async fn until<T>(&self, name: &str, f: impl Fn(&Pod) -> Option<T>) -> T {
        for _ in 0..2000 {
            if let Some(found) = f(&self.pods().get(name).await.unwrap()) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{:#?}", self.pods().get(name).await.unwrap().status);
    }

    async fn node_of(&self, name: &str) -> String {
        self.until(name, |pod| pod.spec.as_ref()?.node_name.clone()).await
    }

    /// The message of the condition PodScheduled once it is false.
    async fn unschedulable(&self, name: &str) -> String {
        self.until(name, |pod| {
            let conditions = pod.status.as_ref()?.conditions.as_ref()?;
            let scheduled = conditions.iter().find(|it| it.type_ == "PodScheduled")?;
            let is_false =
                scheduled.status == "False" && scheduled.reason.as_deref() == Some("Unschedulable");
            scheduled.message.clone().filter(|_| is_false)
        })
        .await
    }

    /// Waits for an event about the Pod and returns its message.
    async fn event(&self, name: &str, reason: &str) -> String {
        let events: Api<Event> = Api::default_namespaced(self.client.clone());
        for _ in 0..2000 {
            let all = events.list(&ListParams::default()).await.unwrap();
            let found = all.items.into_iter().find(|event| {
                event.involved_object.name.as_deref() == Some(name)
                    && event.reason.as_deref() == Some(reason)
            });
            if let Some(event) = found {
                let source = event.source.and_then(|source| source.component);
                assert_eq!(source.as_deref(), Some("default-scheduler"));
                return event.message.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("no event {reason} about {name}");
    }
}

/// Adds a node as the kubelet and the node lifecycle controller would: its status comes second, and
/// the taint that new nodes have goes once it is ready.
async fn add_node(client: &Client, node: NodeBuilder) {
    let nodes: Api<Node> = Api::all(client.clone());
    let node = node.with(|node| node.metadata.uid = None).build();
    let name = node.metadata.name.clone().unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let params = PatchParams::default();
    let status = Patch::Merge(json!({"status": node.status}));
    nodes.patch_status(&name, &params, &status).await.unwrap();
    let taints = node.spec.and_then(|spec| spec.taints);
    let spec = Patch::Merge(json!({"spec": {"taints": taints}}));
    nodes.patch(&name, &params, &spec).await.unwrap();
}

#[tokio::test]
async fn pods_are_bound_and_events_say_where() {
    let cluster = Cluster::with((0..5).map(|n| node(&format!("n{n}")))).await;
    for n in 0..20 {
        cluster.create(pod(&format!("p{n}")).cpu("100m").memory("64Mi")).await;
    }

    let mut counts = std::collections::BTreeMap::<String, u32>::new();
    for n in 0..20 {
        *counts.entry(cluster.node_of(&format!("p{n}")).await).or_default() += 1;
    }
    assert_eq!(counts.values().copied().collect::<Vec<_>>(), [4; 5]);
    let node = cluster.node_of("p7").await;
    let message = cluster.event("p7", "Scheduled").await;
    assert_eq!(message, format!("Successfully assigned default/p7 to {node}"));
    let scheduled = |pod: &Pod| {
        let conditions = pod.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|it| it.type_ == "PodScheduled").map(|it| it.status.clone())
    };
    assert_eq!(cluster.until("p7", scheduled).await, "True");
}

/// S102: a node selector that no node matches, until one gets the label.
#[tokio::test]
async fn a_pod_waits_for_a_node_with_the_label() {
    let cluster = Cluster::with([node("a"), node("b")]).await;
    cluster.create(pod("p").node_selector("disk", "ssd")).await;

    let expected = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. \
                    preemption: 0/2 nodes are available: 2 Preemption is not helpful for \
                    scheduling.";
    assert_eq!(cluster.unschedulable("p").await, expected);
    assert_eq!(cluster.event("p", "FailedScheduling").await, expected);

    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let label = json!({"metadata": {"labels": {"disk": "ssd"}}});
    nodes.patch("b", &PatchParams::default(), &Patch::Merge(label)).await.unwrap();

    assert_eq!(cluster.node_of("p").await, "b");
}

/// S103: more than any node has left, until another Pod goes.
#[tokio::test]
async fn a_pod_waits_for_cpu() {
    let cluster = Cluster::with([node("n").cpu("2")]).await;
    cluster.create(pod("first").cpu("1500m")).await;
    cluster.node_of("first").await;
    cluster.create(pod("second").cpu("1")).await;

    assert_eq!(
        cluster.unschedulable("second").await,
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No \
         preemption victims found for incoming pod."
    );
    cluster.create(pod("huge").memory("1000Gi")).await;
    assert!(cluster.unschedulable("huge").await.contains("1 Insufficient memory"));

    let now = DeleteParams::default().grace_period(0);
    cluster.pods().delete("first", &now).await.unwrap();
    assert_eq!(cluster.node_of("second").await, "n");
}

/// S100: two Pods with one host port do not go to one node.
#[tokio::test]
async fn a_host_port_is_taken_once_per_node() {
    let cluster = Cluster::with([node("a"), node("b")]).await;
    cluster.create(pod("p1").host_port(80)).await;
    cluster.create(pod("p2").host_port(80)).await;
    cluster.create(pod("p3").host_port(80)).await;

    let placed = async |name| {
        cluster
            .until(name, |pod| {
                let bound = pod.spec.as_ref()?.node_name.is_some();
                let rejected = pod.status.as_ref()?.conditions.as_ref().is_some_and(|all| {
                    all.iter().any(|it| it.type_ == "PodScheduled" && it.status == "False")
                });
                (bound || rejected).then_some(bound)
            })
            .await
    };
    let bound = [placed("p1").await, placed("p2").await, placed("p3").await];
    assert_eq!(bound.iter().filter(|bound| **bound).count(), 2);
    let waiting = format!("p{}", 1 + bound.iter().position(|bound| !bound).unwrap());
    assert_eq!(
        cluster.unschedulable(&waiting).await,
        "0/2 nodes are available: 2 node(s) didn't have free ports for the requested pod ports. \
         preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."
    );
}

#[tokio::test]
async fn pods_of_other_schedulers_are_left_alone() {
    let cluster = Cluster::with([node("n")]).await;
    cluster.create(pod("other").scheduler("mine")).await;
    cluster.create(pod("gated").gate("example.com/wait")).await;
    cluster.create(pod("ours")).await;
    cluster.node_of("ours").await;

    for name in ["other", "gated"] {
        let pod = cluster.pods().get(name).await.unwrap();
        assert_eq!(pod.spec.unwrap().node_name, None, "{name}");
    }

    let mine = Profile::builder().scheduler_name("mine").build().unwrap();
    let stop = CancellationToken::new();
    let second = Scheduler::builder(cluster.client.clone()).profiles([mine]).build();
    tokio::spawn(second.run(stop.clone()));
    assert_eq!(cluster.node_of("other").await, "n");
    stop.cancel();
}

#[tokio::test]
async fn a_node_that_comes_later_takes_what_waits() {
    let cluster = Cluster::with([]).await;
    cluster.create(pod("p")).await;
    assert_eq!(cluster.unschedulable("p").await, "no nodes available to schedule pods");

    add_node(&cluster.client, node("late")).await;

    assert_eq!(cluster.node_of("p").await, "late");
}

#[tokio::test]
async fn an_urgent_pod_takes_the_place_of_a_lesser_one() {
    let cluster = Cluster::with([node("n").cpu("1")]).await;
    cluster.create(pod("lesser").cpu("1")).await;
    cluster.node_of("lesser").await;
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": {"name": "urgent"}, "value": 1000});
    let class: k8s_openapi::api::scheduling::v1::PriorityClass =
        serde_json::from_value(class).unwrap();
    Api::all(cluster.client.clone()).create(&PostParams::default(), &class).await.unwrap();
    let urgent = pod("urgent").cpu("1").with(|pod| {
        pod.spec.as_mut().unwrap().priority_class_name = Some("urgent".to_owned());
    });
    cluster.create(urgent).await;

    // Nobody runs the lesser Pod, so this test takes the kubelet's part and ends it.
    let gone = async {
        loop {
            match cluster.pods().get_opt("lesser").await.unwrap() {
                Some(pod) if pod.metadata.deletion_timestamp.is_none() => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Some(_) => {
                    let now = DeleteParams::default().grace_period(0);
                    cluster.pods().delete("lesser", &now).await.unwrap();
                }
                None => return,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
    assert_eq!(cluster.node_of("urgent").await, "n");
    assert!(cluster.event("lesser", "Preempted").await.starts_with("Preempted by pod "));
}

#[tokio::test]
async fn a_namespace_that_gets_a_label_wakes_who_waits_for_its_pods() {
    let cluster = Cluster::with([node("n").label("zone", "a")]).await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let other = json!({"metadata": {"name": "other"}});
    let other = serde_json::from_value(other).unwrap();
    namespaces.create(&PostParams::default(), &other).await.unwrap();
    let db = pod("db").namespace("other").label("app", "db").with(|pod| pod.metadata.uid = None);
    let there: Api<Pod> = Api::namespaced(cluster.client.clone(), "other");
    there.create(&PostParams::default(), &db.build()).await.unwrap();

    let near = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{
        "topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "db"}},
        "namespaceSelector": {"matchLabels": {"team": "x"}}}]}});
    let near = pod("p").with(|pod| {
        pod.spec.as_mut().unwrap().affinity = Some(serde_json::from_value(near).unwrap());
    });
    cluster.create(near).await;
    let why = "0/1 nodes are available: 1 node(s) didn't match pod affinity rules. preemption: 0/1 \
               nodes are available: 1 Preemption is not helpful for scheduling.";
    assert_eq!(cluster.unschedulable("p").await, why);

    let label = Patch::Merge(json!({"metadata": {"labels": {"team": "x"}}}));
    namespaces.patch("other", &PatchParams::default(), &label).await.unwrap();
    assert_eq!(cluster.node_of("p").await, "n");
}
