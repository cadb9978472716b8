//! Deployments: scenarios S69, S89 to S92, S130 to S134.

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::Pod,
};
use kube::{ResourceExt, api::DeleteParams};
use serde_json::{Value, json};

use crate::cluster::{TestCluster, image};

fn deployment(replicas: i32, image: &str) -> Value {
    json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}},
        },
    })
}

fn set_image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
}

async fn running(cluster: &TestCluster, replicas: i32) {
    cluster.create::<Deployment>(deployment(replicas, "v1")).await;
    cluster.settle().await;
}

/// Revision and size of each ReplicaSet, by revision.
async fn revisions(cluster: &TestCluster) -> Vec<(String, i32)> {
    let mut sets: Vec<_> = cluster
        .list::<ReplicaSet>("app=web")
        .await
        .iter()
        .map(|set| {
            (
                set.annotations()["deployment.kubernetes.io/revision"].clone(),
                set.spec.replicas.unwrap(),
            )
        })
        .collect();
    sets.sort();
    sets
}

fn pairs(list: &[(&str, i32)]) -> Vec<(String, i32)> {
    list.iter().map(|(revision, size)| ((*revision).to_owned(), *size)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_deployment_has_one_replicaset_and_its_pods() {
    let cluster = TestCluster::start().await;
    running(&cluster, 3).await;

    let sets = cluster.list::<ReplicaSet>("app=web").await;
    let [set] = &sets[..] else { panic!("{}", cluster.history().await) };
    let hash = &set.labels()["pod-template-hash"];
    assert_eq!(set.name_any(), format!("web-{hash}"));
    let pods = cluster.pods_of("web").await;
    assert_eq!(pods.len(), 3);
    assert!(pods.iter().all(|pod| pod.labels()["pod-template-hash"] == *hash));
    let deployment = cluster.get::<Deployment>("web").await.unwrap();
    assert_eq!(deployment.annotations()["deployment.kubernetes.io/revision"], "1");
    let status = deployment.status.unwrap();
    assert_eq!(
        (status.replicas, status.updated_replicas, status.available_replicas),
        (Some(3), Some(3), Some(3))
    );
    assert_eq!(
        cluster.events("ScalingReplicaSet").await,
        [format!("Scaled up replica set web-{hash} from 0 to 3")]
    );
}

#[tokio::test(start_paused = true)]
async fn a_new_image_is_rolled_out_and_back() {
    let cluster = TestCluster::start().await;
    running(&cluster, 3).await;
    let first = cluster.list::<ReplicaSet>("app=web").await[0].name_any();

    cluster.patch::<Deployment>("web", set_image("v2")).await;
    cluster.settle().await;
    assert!(
        cluster.pods_of("web").await.iter().all(|pod| image(pod) == "v2"),
        "{}",
        cluster.history().await
    );
    assert_eq!(revisions(&cluster).await, pairs(&[("1", 0), ("2", 3)]));

    // What `kubectl rollout undo` does: the old template becomes the Deployment's again.
    cluster.patch::<Deployment>("web", set_image("v1")).await;
    cluster.settle().await;
    assert_eq!(revisions(&cluster).await, pairs(&[("2", 0), ("3", 3)]));
    let pods = cluster.pods_of("web").await;
    assert_eq!(pods.len(), 3);
    assert!(
        pods.iter().all(|pod| pod.owner_references()[0].name == first),
        "the first ReplicaSet is used again"
    );
    let reason = progress(&cluster).await;
    assert_eq!(reason, "NewReplicaSetAvailable");
}

async fn progress(cluster: &TestCluster) -> String {
    let status = cluster.get::<Deployment>("web").await.unwrap().status.unwrap();
    let progressing = status
        .conditions
        .unwrap()
        .into_iter()
        .find(|condition| condition.type_.as_deref() == Some("Progressing"));
    progressing.unwrap().reason.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_broken_image_stops_the_rollout_and_the_deadline_says_so() {
    let cluster = TestCluster::start().await;
    running(&cluster, 3).await;
    cluster.break_image("broken");

    cluster.patch::<Deployment>("web", set_image("broken")).await;
    cluster.wait(30).await;
    let pods = cluster.pods_of("web").await;
    assert_eq!(pods.iter().filter(|pod| image(pod) == "v1").count(), 3, "old Pods stay");
    assert_eq!(pods.len(), 4);
    cluster.wait(600).await;
    assert_eq!(progress(&cluster).await, "ProgressDeadlineExceeded");
}

#[tokio::test(start_paused = true)]
async fn recreate_never_runs_both_versions() {
    let cluster = TestCluster::start().await;
    let mut recreate = deployment(3, "v1");
    recreate["spec"]["strategy"] = json!({"type": "Recreate"});
    cluster.create::<Deployment>(recreate).await;
    cluster.settle().await;

    cluster.patch::<Deployment>("web", set_image("v2")).await;
    for _ in 0..2000 {
        let images: Vec<_> = cluster.list::<Pod>("app=web").await.iter().map(image).collect();
        assert!(images.windows(2).all(|pair| pair[0] == pair[1]), "{images:?}");
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let pods = cluster.pods_of("web").await;
    assert_eq!(pods.len(), 3);
    assert!(pods.iter().all(|pod| image(pod) == "v2"));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_rolled_out_while_paused_and_one_replicaset_after() {
    let cluster = TestCluster::start().await;
    running(&cluster, 2).await;

    cluster.patch::<Deployment>("web", json!({"spec": {"paused": true}})).await;
    cluster.patch::<Deployment>("web", set_image("v2")).await;
    cluster.settle().await;
    cluster.patch::<Deployment>("web", set_image("v3")).await;
    cluster.settle().await;
    assert_eq!(revisions(&cluster).await, pairs(&[("1", 2)]));

    cluster.patch::<Deployment>("web", json!({"spec": {"paused": false}})).await;
    cluster.settle().await;
    assert_eq!(revisions(&cluster).await, pairs(&[("1", 0), ("2", 2)]));
}

#[tokio::test(start_paused = true)]
async fn scaling_keeps_the_revision() {
    let cluster = TestCluster::start().await;
    running(&cluster, 2).await;
    for replicas in [6, 3] {
        cluster.patch::<Deployment>("web", json!({"spec": {"replicas": replicas}})).await;
        cluster.settle().await;
        assert_eq!(revisions(&cluster).await, pairs(&[("1", replicas)]));
        assert_eq!(cluster.pods_of("web").await.len(), replicas as usize);
    }
}

#[tokio::test(start_paused = true)]
async fn deleting_the_deployment_ends_everything() {
    let cluster = TestCluster::start().await;
    running(&cluster, 3).await;

    cluster.delete::<Deployment>("web", &DeleteParams::default()).await;
    cluster.settle().await;
    assert!(cluster.list::<ReplicaSet>("app=web").await.is_empty(), "{}", cluster.history().await);
    assert!(cluster.list::<Pod>("app=web").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_annotation_brings_an_earlier_revision_back() {
    let cluster = TestCluster::start().await;
    running(&cluster, 2).await;
    cluster.patch::<Deployment>("web", set_image("v2")).await;
    cluster.settle().await;

    let last = json!({"metadata": {"annotations": {"deprecated.deployment.rollback.to": "0"}}});
    cluster.patch::<Deployment>("web", last).await;
    cluster.settle().await;
    assert!(cluster.pods_of("web").await.iter().all(|pod| image(pod) == "v1"));
    assert_eq!(revisions(&cluster).await, pairs(&[("2", 0), ("3", 2)]));
    assert_eq!(
        cluster.events("DeploymentRollback").await,
        ["Rolled back deployment \"web\" to revision 1"]
    );
    let web = cluster.get::<Deployment>("web").await.unwrap();
    assert!(!web.annotations().contains_key("deprecated.deployment.rollback.to"));
}
