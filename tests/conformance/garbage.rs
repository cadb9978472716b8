//! The garbage collector: what goes with its owner, what stays, and in which order.

use rk::{
    k8s_openapi::{
        api::{
            apps::v1::{Deployment, ReplicaSet},
            core::v1::{Pod, ReplicationController},
        },
        apimachinery::pkg::apis::meta::v1::OwnerReference,
    },
    kube::{
        ResourceExt,
        api::{Patch, PatchParams, PropagationPolicy},
    },
};
use serde_json::{Value, json};

use crate::cluster::{TestCluster, delete, until, wait};

fn template(app: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": app}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "nginx", "image": "nginx"}]},
    })
}

async fn controller(t: &TestCluster, name: &str, replicas: usize) -> ReplicationController {
    let spec = json!({"replicas": replicas, "selector": {"app": name}, "template": template(name)});
    let made = t.create(json!({"metadata": {"name": name}, "spec": spec})).await;
    until("all replicas", async || {
        let status = t.api::<ReplicationController>().get(name).await.expect("read").status;
        (status.map_or(0, |status| status.replicas) as usize == replicas).then_some(())
    })
    .await;
    made
}

async fn deployment(t: &TestCluster) -> Deployment {
    let spec = json!({
        "replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template("web"),
    });
    let made = t.create(json!({"metadata": {"name": "web"}, "spec": spec})).await;
    until("two Pods", async || (t.list::<Pod>().await.len() == 2).then_some(())).await;
    made
}

fn owner(of: &ReplicationController) -> OwnerReference {
    OwnerReference {
        api_version: "v1".into(),
        kind: "ReplicationController".into(),
        name: of.name_any(),
        uid: of.uid().expect("a UID"),
        ..OwnerReference::default()
    }
}

// Conformance: Garbage Collector, delete replication controller, propagation policy background
#[tokio::test(start_paused = true)]
async fn in_the_background_pods_go_after_their_controller() {
    let t = TestCluster::start().await;
    let made = controller(&t, "rc", 2).await;
    let params = delete(PropagationPolicy::Background, made.metadata.uid.as_deref());
    t.api::<ReplicationController>().delete("rc", &params).await.expect("deleted");
    until("nothing", async || {
        let left = t.list::<ReplicationController>().await.len() + t.list::<Pod>().await.len();
        (left == 0).then_some(())
    })
    .await;
}

// Conformance: Garbage Collector, delete replication controller, propagation policy orphan
#[tokio::test(start_paused = true)]
async fn orphans_of_a_controller_stay() {
    let t = TestCluster::start().await;
    let made = controller(&t, "rc", 10).await;
    let params = delete(PropagationPolicy::Orphan, made.metadata.uid.as_deref());
    t.api::<ReplicationController>().delete("rc", &params).await.expect("deleted");
    until("no controller", async || {
        t.list::<ReplicationController>().await.is_empty().then_some(())
    })
    .await;
    wait(30).await;
    let pods = t.list::<Pod>().await;
    assert_eq!(pods.len(), 10);
    assert!(pods.iter().all(|pod| pod.owner_references().is_empty()));
}

// Conformance: Garbage Collector, delete deployment,  propagation policy background
#[tokio::test(start_paused = true)]
async fn in_the_background_replica_sets_go_after_their_deployment() {
    let t = TestCluster::start().await;
    let made = deployment(&t).await;
    let params = delete(PropagationPolicy::Background, made.metadata.uid.as_deref());
    t.api::<Deployment>().delete("web", &params).await.expect("deleted");
    until("nothing", async || {
        let sets = t.list::<Deployment>().await.len() + t.list::<ReplicaSet>().await.len();
        (sets + t.list::<Pod>().await.len() == 0).then_some(())
    })
    .await;
}

// Conformance: Garbage Collector, delete deployment, propagation policy orphan
#[tokio::test(start_paused = true)]
async fn orphans_of_a_deployment_stay() {
    let t = TestCluster::start().await;
    let made = deployment(&t).await;
    let params = delete(PropagationPolicy::Orphan, made.metadata.uid.as_deref());
    t.api::<Deployment>().delete("web", &params).await.expect("deleted");
    until("no deployment", async || t.list::<Deployment>().await.is_empty().then_some(())).await;
    wait(30).await;
    let sets = t.list::<ReplicaSet>().await;
    assert_eq!((sets.len(), t.list::<Pod>().await.len()), (1, 2));
    assert!(sets[0].owner_references().is_empty());
}

// Conformance: Garbage Collector, delete replication controller, after owned pods
#[tokio::test(start_paused = true)]
async fn in_the_foreground_a_controller_goes_after_its_pods() {
    let t = TestCluster::start().await;
    let made = controller(&t, "rc", 10).await;
    let params = delete(PropagationPolicy::Foreground, made.metadata.uid.as_deref());
    let controllers = t.api::<ReplicationController>();
    controllers.delete("rc", &params).await.expect("deleted");
    let waits = controllers.get("rc").await.expect("it waits for its Pods");
    assert_eq!(waits.finalizers(), ["foregroundDeletion"]);
    until("no controller", async || {
        let gone = controllers.get_opt("rc").await.expect("asked").is_none();
        // Read after it: what is left now was left then.
        let pods = t.list::<Pod>().await.len();
        assert!(!gone || pods == 0, "the controller went before {pods} Pods");
        gone.then_some(())
    })
    .await;
}

// Conformance: Garbage Collector, multiple owners
#[tokio::test(start_paused = true)]
async fn who_has_another_owner_stays() {
    let t = TestCluster::start().await;
    let goes = controller(&t, "goes", 10).await;
    let stays = controller(&t, "stays", 0).await;
    let pods = t.api::<Pod>();
    for pod in t.list::<Pod>().await.iter().take(5) {
        let mut owners = pod.owner_references().to_vec();
        owners.push(owner(&stays));
        let patch = Patch::Merge(json!({"metadata": {"ownerReferences": owners}}));
        pods.patch(&pod.name_any(), &PatchParams::default(), &patch).await.expect("patched");
    }
    let params = delete(PropagationPolicy::Foreground, goes.metadata.uid.as_deref());
    t.api::<ReplicationController>().delete("goes", &params).await.expect("deleted");
    until("one controller", async || {
        (t.list::<ReplicationController>().await.len() == 1).then_some(())
    })
    .await;
    let left = t.list::<Pod>().await;
    assert_eq!(left.len(), 5);
    for pod in left {
        assert!(pod.metadata.deletion_timestamp.is_none());
        let owners: Vec<_> = pod.owner_references().iter().map(|owner| &owner.name).collect();
        assert_eq!(owners, ["stays"]);
    }
}

// Conformance: Garbage Collector, dependency cycle
#[tokio::test(start_paused = true)]
async fn a_circle_of_owners_holds_nothing_up() {
    let t = TestCluster::start().await;
    let pods = t.api::<Pod>();
    let mut made = Vec::new();
    for name in ["pod1", "pod2", "pod3"] {
        let spec = template("x")["spec"].clone();
        made.push(t.create::<Pod>(json!({"metadata": {"name": name}, "spec": spec})).await);
    }
    for (index, pod) in made.iter().enumerate() {
        let owner = &made[(index + 2) % 3];
        let reference = json!({
            "apiVersion": "v1", "kind": "Pod", "name": owner.name_any(), "uid": owner.uid(),
            "controller": true, "blockOwnerDeletion": true,
        });
        let patch = Patch::Merge(json!({"metadata": {"ownerReferences": [reference]}}));
        pods.patch(&pod.name_any(), &PatchParams::default(), &patch).await.expect("patched");
    }
    let params = delete(PropagationPolicy::Foreground, made[0].metadata.uid.as_deref());
    pods.delete("pod1", &params).await.expect("deleted");
    until("no Pods", async || t.list::<Pod>().await.is_empty().then_some(())).await;
}
