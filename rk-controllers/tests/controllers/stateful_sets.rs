//! StatefulSets: scenarios S139 to S147.

use k8s_openapi::api::{
    apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus},
    autoscaling::v1::Scale,
    core::v1::{PersistentVolumeClaim, Pod},
};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::cluster::{TestCluster, from_json, image};

fn stateful_set(replicas: i32) -> Value {
    json!({
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {
            "replicas": replicas, "serviceName": "nginx",
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "myapp:v1"}]}},
        },
    })
}

fn with_claims(mut set: Value) -> Value {
    set["spec"]["volumeClaimTemplates"] = json!([{
        "metadata": {"name": "www"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }]);
    set
}

fn new_image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
}

/// Names and images of the Pods that are not on their way out, by name.
async fn pods(cluster: &TestCluster) -> Vec<(String, String)> {
    let pods = cluster.pods_of("web").await;
    pods.iter().map(|pod| (pod.name_any(), image(pod))).collect()
}

async fn names(cluster: &TestCluster) -> Vec<String> {
    pods(cluster).await.into_iter().map(|(name, _)| name).collect()
}

async fn images(cluster: &TestCluster) -> Vec<String> {
    pods(cluster).await.into_iter().map(|(_, image)| image.replace("myapp:", "")).collect()
}

async fn claims(cluster: &TestCluster) -> Vec<String> {
    let claims = cluster.list::<PersistentVolumeClaim>("").await;
    let staying = claims.iter().filter(|claim| claim.metadata.deletion_timestamp.is_none());
    staying.map(|claim| claim.name_any()).collect()
}

async fn status(cluster: &TestCluster) -> StatefulSetStatus {
    cluster.get::<StatefulSet>("web").await.unwrap().status.unwrap()
}

async fn break_pod(cluster: &TestCluster, name: &str, ready: bool) {
    let ready = if ready { "True" } else { "False" };
    let status = json!({"status": {"conditions": [
        {"type": "Ready", "status": ready, "lastTransitionTime": rk_api::clock::now_seconds()},
    ]}});
    let patch = Patch::Merge(status);
    cluster.api::<Pod>().patch_status(name, &PatchParams::default(), &patch).await.unwrap();
}

async fn mutate(cluster: &TestCluster, patch: Value) {
    let params = PatchParams::default();
    cluster.api::<StatefulSet>().patch("web", &params, &Patch::Strategic(patch)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pods_come_in_order_with_names_and_claims_of_their_own() {
    let cluster = TestCluster::start().await;
    cluster.create::<StatefulSet>(with_claims(stateful_set(3))).await;
    cluster.settle().await;

    assert_eq!(names(&cluster).await, ["web-0", "web-1", "web-2"], "{}", cluster.history().await);
    let pods = cluster.pods_of("web").await;
    for (number, pod) in pods.iter().enumerate() {
        let name = format!("web-{number}");
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!(spec.hostname.as_ref(), Some(&name));
        assert_eq!(spec.subdomain.as_deref(), Some("nginx"));
        assert_eq!(pod.labels()["statefulset.kubernetes.io/pod-name"], name);
        assert_eq!(pod.labels()["apps.kubernetes.io/pod-index"], number.to_string());
        assert_eq!(pod.owner_references()[0].kind, "StatefulSet");
    }
    assert_eq!(claims(&cluster).await, ["www-web-0", "www-web-1", "www-web-2"]);
    let made: Vec<_> = (0..3)
        .flat_map(|number| {
            [
                format!(
                    "create Claim www-web-{number} Pod web-{number} in StatefulSet web success"
                ),
                format!("create Pod web-{number} in StatefulSet web successful"),
            ]
        })
        .collect();
    assert_eq!(cluster.events("SuccessfulCreate").await.len(), made.len());
    for message in made {
        assert!(cluster.events("SuccessfulCreate").await.contains(&message), "{message}");
    }
    let status = status(&cluster).await;
    let counts = [
        status.ready_replicas,
        status.available_replicas,
        status.current_replicas,
        status.updated_replicas,
    ];
    assert_eq!((status.replicas, counts), (3, [Some(3); 4]));
    assert_eq!(status.current_revision, status.update_revision);
}

// Conformance: StatefulSet, Scaling
#[tokio::test(start_paused = true)]
async fn scaling_is_in_order_and_halts_at_an_unhealthy_pod() {
    let cluster = TestCluster::start().await;
    cluster.create::<StatefulSet>(stateful_set(1)).await;
    cluster.settle().await;
    break_pod(&cluster, "web-0", false).await;
    cluster.patch::<StatefulSet>("web", json!({"spec": {"replicas": 3}})).await;
    cluster.settle().await;
    assert_eq!(names(&cluster).await, ["web-0"], "none while the first is not ready");
    break_pod(&cluster, "web-0", true).await;
    cluster.settle().await;
    assert_eq!(names(&cluster).await, ["web-0", "web-1", "web-2"]);

    let all = ["web-0", "web-1", "web-2"];
    for pod in all {
        break_pod(&cluster, pod, false).await;
    }
    cluster.settle().await;
    cluster.patch::<StatefulSet>("web", json!({"spec": {"replicas": 0}})).await;
    cluster.settle().await;
    assert_eq!(names(&cluster).await, all, "none goes while the lower ones are not ready");
    for pod in ["web-0", "web-1"] {
        break_pod(&cluster, pod, true).await;
    }
    cluster.settle().await;
    assert!(names(&cluster).await.is_empty());
    let mut said = cluster.events("SuccessfulDelete").await;
    said.sort();
    assert_eq!(said, all.map(|pod| format!("delete Pod {pod} in StatefulSet web successful")));
}

// Conformance: StatefulSet, Burst Scaling
#[tokio::test(start_paused = true)]
async fn with_the_parallel_policy_unhealthy_pods_halt_nothing() {
    let cluster = TestCluster::start().await;
    cluster.break_image("myapp:v1");
    let mut set = stateful_set(3);
    set["spec"]["podManagementPolicy"] = json!("Parallel");
    cluster.create::<StatefulSet>(set).await;
    for replicas in [3, 5, 2, 0] {
        cluster.patch::<StatefulSet>("web", json!({"spec": {"replicas": replicas}})).await;
        cluster.settle().await;
        assert_eq!(names(&cluster).await.len(), replicas);
        assert_eq!(status(&cluster).await.replicas, replicas as i32);
    }
}

// Conformance: StatefulSet, Rolling Update
#[tokio::test(start_paused = true)]
async fn an_update_goes_from_the_highest_and_back_to_its_old_revision() {
    let cluster = TestCluster::start().await;
    cluster.create::<StatefulSet>(stateful_set(3)).await;
    cluster.settle().await;
    let first = status(&cluster).await.current_revision.unwrap();

    break_pod(&cluster, "web-1", false).await;
    mutate(&cluster, new_image("myapp:v2")).await;
    cluster.settle().await;
    let midway = status(&cluster).await;
    assert_eq!(midway.current_revision.as_ref(), Some(&first));
    assert_ne!(midway.update_revision.as_ref(), Some(&first));
    assert_eq!(images(&cluster).await, ["v1", "v1", "v1"], "not while one is not ready");
    break_pod(&cluster, "web-1", true).await;
    cluster.settle().await;
    assert_eq!(images(&cluster).await, ["v2", "v2", "v2"], "{}", cluster.history().await);
    let second = status(&cluster).await;
    assert_eq!(second.current_revision, second.update_revision);
    assert_eq!((second.current_replicas, second.updated_replicas), (Some(3), Some(3)));

    mutate(&cluster, new_image("myapp:v1")).await;
    cluster.settle().await;
    assert_eq!(images(&cluster).await, ["v1", "v1", "v1"]);
    assert_eq!(status(&cluster).await.current_revision, Some(first));
    let mut revisions: Vec<_> =
        cluster.list::<ControllerRevision>("app=web").await.iter().map(|it| it.revision).collect();
    revisions.sort();
    assert_eq!(revisions, [Some(2), Some(3)], "the old revision has a new number");
}

// Conformance: StatefulSet, Rolling Update with Partition
#[tokio::test(start_paused = true)]
async fn the_partition_divides_old_from_new() {
    let cluster = TestCluster::start().await;
    let mut set = stateful_set(3);
    set["spec"]["updateStrategy"] =
        json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 3}});
    cluster.create::<StatefulSet>(set).await;
    cluster.settle().await;
    mutate(&cluster, new_image("myapp:v2")).await;
    cluster.settle().await;
    assert_eq!(images(&cluster).await, ["v1", "v1", "v1"], "a partition above all");

    let partition =
        |number: i32| json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": number}}}});
    mutate(&cluster, partition(2)).await;
    cluster.settle().await;
    assert_eq!(images(&cluster).await, ["v1", "v1", "v2"], "a canary");
    for pod in ["web-0", "web-2"] {
        cluster.delete::<Pod>(pod, &DeleteParams::default()).await;
    }
    cluster.settle().await;
    assert_eq!(images(&cluster).await, ["v1", "v1", "v2"], "each is restored at its version");
    for number in [1, 0] {
        mutate(&cluster, partition(number)).await;
        cluster.settle().await;
    }
    assert_eq!(images(&cluster).await, ["v2", "v2", "v2"]);
}

// Conformance: StatefulSet, Recreate Failed Pod
#[tokio::test(start_paused = true)]
async fn a_failed_pod_is_made_anew() {
    let cluster = TestCluster::start().await;
    cluster.create::<StatefulSet>(stateful_set(1)).await;
    cluster.settle().await;
    let before = cluster.get::<Pod>("web-0").await.unwrap();
    let failed = Patch::Merge(json!({"status": {"phase": "Failed", "reason": "Evicted"}}));
    cluster.api::<Pod>().patch_status("web-0", &PatchParams::default(), &failed).await.unwrap();
    cluster.settle().await;
    let after = cluster.get::<Pod>("web-0").await.unwrap();
    assert_ne!(before.uid(), after.uid());
    assert_eq!(status(&cluster).await.ready_replicas, Some(1));
}

// Conformance: StatefulSet resource Replica scaling
#[tokio::test(start_paused = true)]
async fn the_scale_subresource_scales() {
    let cluster = TestCluster::start().await;
    cluster.create::<StatefulSet>(stateful_set(1)).await;
    cluster.settle().await;
    let sets = cluster.api::<StatefulSet>();
    let mut scale: Scale =
        from_json(serde_json::to_value(sets.get_scale("web").await.unwrap()).unwrap());
    assert_eq!(scale.status.as_ref().unwrap().replicas, 1);
    scale.spec.get_or_insert_default().replicas = Some(2);
    let body = serde_json::to_vec(&scale).unwrap();
    sets.replace_scale(
        "web",
        &PostParams::default(),
        &from_json(serde_json::from_slice(&body).unwrap()),
    )
    .await
    .unwrap();
    cluster.settle().await;
    assert_eq!(names(&cluster).await, ["web-0", "web-1"]);
    let patch = Patch::Merge(json!({"spec": {"replicas": 4}}));
    sets.patch_scale("web", &PatchParams::default(), &patch).await.unwrap();
    cluster.settle().await;
    assert_eq!(names(&cluster).await.len(), 4);
}

// Conformance: StatefulSet, list, patch and delete a collection of StatefulSets
#[tokio::test(start_paused = true)]
async fn stateful_sets_are_listed_patched_and_deleted_together() {
    let cluster = TestCluster::start().await;
    cluster.create::<StatefulSet>(stateful_set(1)).await;
    cluster.settle().await;
    let all = ListParams::default().labels("app=web");
    assert_eq!(cluster.api::<StatefulSet>().list(&all).await.unwrap().items.len(), 1);
    let patch = json!({"metadata": {"labels": {"patched": "yes"}}, "spec": {"replicas": 2, "template": {"spec": {"terminationGracePeriodSeconds": 1}}}});
    cluster.patch::<StatefulSet>("web", patch).await;
    cluster.settle().await;
    let set = cluster.get::<StatefulSet>("web").await.unwrap();
    assert_eq!(
        (set.labels()["patched"].as_str(), set.status.clone().unwrap().ready_replicas),
        ("yes", Some(2))
    );
    let one = ListParams::default().labels("patched=yes");
    cluster.api::<StatefulSet>().delete_collection(&DeleteParams::default(), &one).await.unwrap();
    cluster.settle().await;
    assert!(cluster.get::<StatefulSet>("web").await.is_none());
    assert!(names(&cluster).await.is_empty(), "the garbage collector takes the Pods");
}

// Conformance: StatefulSet, status sub-resource
#[tokio::test(start_paused = true)]
async fn the_status_is_read_updated_and_patched() {
    // Without the controller, which would put conditions of others aside no more than we do.
    let cluster = TestCluster::start_with("garbagecollector", |builder| builder).await;
    cluster.create::<StatefulSet>(stateful_set(1)).await;
    let sets = cluster.api::<StatefulSet>();
    let mut set = sets.get_status("web").await.unwrap();
    let conditions =
        |reason: &str| json!([{"type": "StatusUpdate", "status": "True", "reason": reason}]);
    set.status.get_or_insert_default().conditions = from_json(conditions("E2E"));
    sets.replace_status("web", &PostParams::default(), &set).await.unwrap();
    let patch = Patch::Merge(json!({"status": {"conditions": conditions("patched")}}));
    sets.patch_status("web", &PatchParams::default(), &patch).await.unwrap();
    let seen = cluster.get::<StatefulSet>("web").await.unwrap().status.unwrap().conditions.unwrap();
    assert_eq!(seen[0].reason.as_deref(), Some("patched"));
}

#[tokio::test(start_paused = true)]
async fn claims_outlive_pods_and_set_unless_the_policy_says_otherwise() {
    let cluster = TestCluster::start().await;
    cluster.create::<StatefulSet>(with_claims(stateful_set(2))).await;
    cluster.settle().await;
    let uid = async |cluster: &TestCluster| {
        cluster.get::<PersistentVolumeClaim>("www-web-1").await.unwrap().uid()
    };
    let before = uid(&cluster).await;
    for replicas in [1, 2] {
        cluster.patch::<StatefulSet>("web", json!({"spec": {"replicas": replicas}})).await;
        cluster.settle().await;
        assert_eq!(uid(&cluster).await, before, "the claim is found again");
    }
    cluster.delete::<StatefulSet>("web", &DeleteParams::default()).await;
    cluster.settle().await;
    assert!(names(&cluster).await.is_empty());
    assert_eq!(claims(&cluster).await, ["www-web-0", "www-web-1"]);

    let mut set = with_claims(stateful_set(2));
    set["spec"]["persistentVolumeClaimRetentionPolicy"] =
        json!({"whenDeleted": "Delete", "whenScaled": "Delete"});
    cluster.create::<StatefulSet>(set).await;
    cluster.settle().await;
    cluster.patch::<StatefulSet>("web", json!({"spec": {"replicas": 1}})).await;
    cluster.settle().await;
    assert_eq!(claims(&cluster).await, ["www-web-0"], "{}", cluster.history().await);
    cluster.patch::<StatefulSet>("web", json!({"spec": {"replicas": 2}})).await;
    cluster.settle().await;
    assert_ne!(uid(&cluster).await, before, "a new claim");
    cluster.delete::<StatefulSet>("web", &DeleteParams::default()).await;
    cluster.settle().await;
    assert!(claims(&cluster).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pod_on_a_lost_node_is_not_replaced_until_it_is_gone() {
    let cluster = TestCluster::start().await;
    cluster.create::<StatefulSet>(stateful_set(1)).await;
    cluster.settle().await;
    let before = cluster.get::<Pod>("web-0").await.unwrap();
    cluster.kill_node(before.spec.as_ref().unwrap().node_name.as_ref().unwrap());
    cluster.wait(1000).await;
    let going = cluster.get::<Pod>("web-0").await.unwrap();
    assert_eq!(going.uid(), before.uid(), "nobody has confirmed that it stopped");
    assert!(going.metadata.deletion_timestamp.is_some());

    cluster.delete::<Pod>("web-0", &DeleteParams::default().grace_period(0)).await;
    cluster.settle().await;
    assert_ne!(cluster.get::<Pod>("web-0").await.unwrap().uid(), before.uid());
}

#[tokio::test(start_paused = true)]
async fn with_on_delete_a_pod_is_updated_when_somebody_deletes_it() {
    let cluster = TestCluster::start().await;
    let mut set = stateful_set(2);
    set["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
    cluster.create::<StatefulSet>(set).await;
    cluster.settle().await;
    mutate(&cluster, new_image("myapp:v2")).await;
    cluster.settle().await;
    assert_eq!(images(&cluster).await, ["v1", "v1"]);
    cluster.delete::<Pod>("web-0", &DeleteParams::default()).await;
    cluster.settle().await;
    assert_eq!(images(&cluster).await, ["v2", "v1"]);
}

#[tokio::test(start_paused = true)]
async fn an_update_that_gets_stuck_waits_for_a_hand() {
    let cluster = TestCluster::start().await;
    cluster.create::<StatefulSet>(stateful_set(2)).await;
    cluster.settle().await;
    cluster.break_image("myapp:broken");
    mutate(&cluster, new_image("myapp:broken")).await;
    cluster.settle().await;
    assert_eq!(images(&cluster).await, ["v1", "broken"], "it stops at the first");
    mutate(&cluster, new_image("myapp:v3")).await;
    cluster.wait(600).await;
    assert_eq!(images(&cluster).await, ["v1", "broken"], "a better template does not help");
    cluster.delete::<Pod>("web-1", &DeleteParams::default()).await;
    cluster.settle().await;
    assert_eq!(images(&cluster).await, ["v3", "v3"]);
}

#[tokio::test(start_paused = true)]
async fn orphans_are_adopted_with_their_revision() {
    let cluster = TestCluster::start().await;
    cluster.create::<StatefulSet>(stateful_set(2)).await;
    cluster.settle().await;
    let before: Vec<_> = cluster.pods_of("web").await.iter().map(|pod| pod.uid()).collect();
    cluster.delete::<StatefulSet>("web", &DeleteParams::orphan()).await;
    cluster.settle().await;
    assert!(cluster.pods_of("web").await.iter().all(|pod| pod.owner_references().is_empty()));

    cluster.create::<StatefulSet>(stateful_set(2)).await;
    cluster.settle().await;
    let after = cluster.pods_of("web").await;
    assert_eq!(after.iter().map(|pod| pod.uid()).collect::<Vec<_>>(), before);
    assert!(after.iter().all(|pod| pod.owner_references().len() == 1));
    assert_eq!(cluster.list::<ControllerRevision>("app=web").await.len(), 1);
    assert_eq!(status(&cluster).await.updated_replicas, Some(2));
}

#[tokio::test(start_paused = true)]
async fn old_revisions_beyond_the_limit_go() {
    let cluster = TestCluster::start().await;
    let mut set = stateful_set(1);
    set["spec"]["revisionHistoryLimit"] = json!(2);
    cluster.create::<StatefulSet>(set).await;
    cluster.settle().await;
    for version in 2..6 {
        mutate(&cluster, new_image(&format!("myapp:v{version}"))).await;
        cluster.settle().await;
    }
    let mut revisions: Vec<_> =
        cluster.list::<ControllerRevision>("app=web").await.iter().map(|it| it.revision).collect();
    revisions.sort();
    assert_eq!(revisions, [Some(3), Some(4), Some(5)]);
}

#[tokio::test(start_paused = true)]
async fn a_label_of_identity_that_is_removed_comes_back() {
    let cluster = TestCluster::start().await;
    cluster.create::<StatefulSet>(stateful_set(1)).await;
    cluster.settle().await;
    let label = "statefulset.kubernetes.io/pod-name";
    cluster.patch::<Pod>("web-0", json!({"metadata": {"labels": {label: null}}})).await;
    cluster.settle().await;
    assert_eq!(cluster.get::<Pod>("web-0").await.unwrap().labels()[label], "web-0");
    assert_eq!(
        cluster.events("SuccessfulUpdate").await,
        ["update Pod web-0 in StatefulSet web successful"]
    );
}
