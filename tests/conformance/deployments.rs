//! Deployments: their life, their subresources, and how they roll out.

use rk::{
    Cluster,
    k8s_openapi::api::{
        apps::v1::{Deployment, DeploymentStatus, ReplicaSet},
        core::v1::Pod,
    },
    kube::{
        Api, ResourceExt,
        api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    },
};
use serde_json::{Value, json};

use crate::{
    cluster::{TestCluster, until},
    replica_sets::{replica_set, running},
    watched::{Happened, Watched},
};

const REVISION: &str = "deployment.kubernetes.io/revision";
/// Pods with this image never start.
const MISSING: &str = "missing:404";

async fn start() -> TestCluster {
    TestCluster::start_with(Cluster::builder().nodes(2).missing_images([MISSING])).await
}

/// A Deployment whose Pods have the label `name` and stop at once.
fn deployment(name: &str, label: &str, replicas: i32, image: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"name": label}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"name": label}},
            "template": {
                "metadata": {"labels": {"name": label}},
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{"name": "c", "image": image}],
                },
            },
        },
    })
}

fn image(template: &Deployment) -> Option<&str> {
    template.spec.template.spec.as_ref()?.containers[0].image.as_deref()
}

fn number(value: impl Fn(&DeploymentStatus) -> Option<i32>, deployment: &Deployment) -> i32 {
    deployment.status.as_ref().and_then(value).unwrap_or(0)
}

fn ready(deployment: &Deployment) -> i32 {
    number(|status| status.ready_replicas, deployment)
}

/// All wanted Pods are new and available, no old one is left, and the controller has seen it all.
fn is_complete(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.replicas.unwrap_or(1);
    let seen = deployment.status.as_ref().and_then(|status| status.observed_generation);
    number(|status| status.updated_replicas, deployment) == wanted
        && number(|status| status.replicas, deployment) == wanted
        && number(|status| status.available_replicas, deployment) == wanted
        && seen >= deployment.metadata.generation
}

async fn complete(t: &TestCluster, name: &str) -> Deployment {
    let api = t.api::<Deployment>();
    until("the roll-out's end", async || {
        api.get_opt(name).await.expect("asked").filter(is_complete)
    })
    .await
}

async fn patch(t: &TestCluster, name: &str, patch: Value) -> Deployment {
    let patch = Patch::Strategic(patch);
    t.api().patch(name, &PatchParams::default(), &patch).await.expect("patched")
}

/// Waits until the Deployment has this revision and a ReplicaSet with this image has it too.
async fn at_revision(t: &TestCluster, name: &str, revision: &str, image: &str) -> ReplicaSet {
    let (deployments, sets) = (t.api::<Deployment>(), t.api::<ReplicaSet>());
    until(&format!("revision {revision}"), async || {
        let deployment = deployments.get(name).await.expect("read");
        if deployment.annotations().get(REVISION).is_none_or(|it| it != revision) {
            return None;
        }
        let all = sets.list(&ListParams::default()).await.expect("listed").items;
        all.into_iter().find(|set| {
            let template = set.spec.template.as_ref().and_then(|template| template.spec.as_ref());
            set.annotations().get(REVISION).is_some_and(|it| it == revision)
                && template.is_some_and(|spec| spec.containers[0].image.as_deref() == Some(image))
        })
    })
    .await
}

// Conformance: Deployment, completes the lifecycle of a Deployment
#[tokio::test(start_paused = true)]
async fn a_deployment_is_created_patched_updated_and_deleted() {
    let t = TestCluster::start().await;
    let deployments = t.api::<Deployment>();
    let selector = "test-deployment-static=true";
    let mut watched = Watched::new(&deployments, selector).await;

    let mut object = deployment("test-deployment", "static", 2, "agnhost");
    object["metadata"]["labels"] = json!({"test-deployment-static": "true"});
    object["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(1);
    let created: Deployment = t.create(object).await;
    let added = watched.happens(Happened::Added, "the creation").await;
    assert_eq!(added.uid(), created.uid());
    watched.shows("two ready Pods", |it| ready(it) == 2).await;

    patch(
        &t,
        "test-deployment",
        json!({
            "metadata": {"labels": {"test-deployment": "patched"}},
            "spec": {"replicas": 1, "template": {"spec": {
                "terminationGracePeriodSeconds": 2,
                "containers": [{"name": "c", "image": "pause"}],
            }}},
        }),
    )
    .await;
    watched.happens(Happened::Modified, "the patch").await;
    let shrunk = watched
        .shows("one ready Pod of the new image", |it| {
            ready(it) == 1
                && number(|status| status.updated_replicas, it) == 1
                && number(|status| status.unavailable_replicas, it) == 0
                && image(it) == Some("pause")
        })
        .await;
    let spec = shrunk.spec.template.spec.as_ref().expect("a spec");
    assert_eq!(spec.termination_grace_period_seconds, Some(2));

    let everywhere: Api<Deployment> = Api::all(t.client());
    let list = everywhere.list(&ListParams::default().labels(selector)).await.expect("listed");
    let found: Vec<_> = list.iter().map(|it| (it.namespace(), it.name_any())).collect();
    assert_eq!(found, [(Some(t.namespace.clone()), "test-deployment".to_owned())]);

    // A whole update, with the version left out so that it does not conflict.
    let mut update = shrunk.clone();
    update.metadata.resource_version = None;
    update.labels_mut().insert("test-deployment".into(), "updated".into());
    update.spec.replicas = Some(2);
    update.spec.template.spec.as_mut().expect("a spec").containers[0].image = Some("httpd".into());
    deployments.replace("test-deployment", &PostParams::default(), &update).await.expect("updated");
    watched.happens(Happened::Modified, "the update").await;
    watched
        .shows("two ready Pods of the third image", |it| {
            ready(it) == 2 && is_complete(it) && image(it) == Some("httpd")
        })
        .await;

    let read = deployments.get_status("test-deployment").await.expect("read");
    assert_eq!((ready(&read), number(|status| status.replicas, &read)), (2, 2));
    let none = Patch::Merge(json!({"status": {"readyReplicas": 0, "availableReplicas": 0}}));
    let patched = deployments.patch_status("test-deployment", &PatchParams::default(), &none).await;
    assert_eq!(ready(&patched.expect("patched")), 0);
    watched.shows("the patched status", |it| ready(it) == 0).await;
    watched.shows("what the controller knows better", |it| ready(it) == 2).await;

    let all = ListParams::default().labels(selector);
    deployments.delete_collection(&DeleteParams::default(), &all).await.expect("deleted");
    watched.happens(Happened::Deleted, "the deletion").await;
}

// Conformance: Deployment, status sub-resource
#[tokio::test(start_paused = true)]
async fn the_status_of_a_deployment_is_read_updated_and_patched() {
    let t = TestCluster::start().await;
    let deployments = t.api::<Deployment>();
    let mut watched = Watched::new(&deployments, "name=status").await;
    let object = deployment("test-status", "status", 1, "httpd");
    t.create::<Deployment>(object).await;
    watched.shows("its Pod ready", |it| ready(it) == 1).await;

    let has = |deployment: &Deployment, kind: &str| {
        let conditions = deployment.status.as_ref().and_then(|it| it.conditions.as_ref());
        conditions.into_iter().flatten().any(|it| it.type_.as_deref() == Some(kind))
    };
    let read = deployments.get_status("test-status").await.expect("read");
    assert!(has(&read, "Available"));
    let updated = until("the update", async || {
        let mut object = deployments.get("test-status").await.expect("read");
        let condition = json!({"type": "StatusUpdate", "status": "True", "reason": "E2E",
            "message": "Set from e2e test"});
        let conditions = object.status.as_mut().and_then(|status| status.conditions.as_mut());
        conditions
            .expect("it has some")
            .push(serde_json::from_value(condition).expect("a condition"));
        deployments.replace_status("test-status", &PostParams::default(), &object).await.ok()
    })
    .await;
    assert!(has(&updated, "StatusUpdate"));
    watched.shows("the updated status", |it| has(it, "StatusUpdate")).await;

    let patch = json!({"status": {"conditions": [{"type": "StatusPatched", "status": "True"}]}});
    let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
    let patched = deployments.patch_status("test-status", &params, &patch).await.expect("patched");
    assert!(has(&patched, "StatusPatched") && !has(&patched, "StatusUpdate"));
    watched.shows("the patched status", |it| has(it, "StatusPatched")).await;
}

// Conformance: Deployment, completes the scaling of a Deployment subresource
#[tokio::test(start_paused = true)]
async fn a_deployment_is_scaled_by_its_subresource() {
    let t = TestCluster::start().await;
    t.create::<Deployment>(deployment("test-scale", "scaled", 1, "httpd")).await;
    running(&t, "name=scaled", 1).await;
    complete(&t, "test-scale").await;

    let deployments = t.api::<Deployment>();
    let mut scale = deployments.get_scale("test-scale").await.expect("read");
    let amounts = |scale: &rk::k8s_openapi::api::autoscaling::v1::Scale| {
        let wanted = scale.spec.as_ref().and_then(|spec| spec.replicas);
        (wanted, scale.status.as_ref().map(|status| status.replicas))
    };
    assert_eq!(amounts(&scale), (Some(1), Some(1)));

    scale.metadata.resource_version = None;
    scale.spec.as_mut().expect("a spec").replicas = Some(2);
    let scaled = deployments.replace_scale("test-scale", &PostParams::default(), &scale).await;
    assert_eq!(amounts(&scaled.expect("updated")).0, Some(2));
    assert_eq!(deployments.get("test-scale").await.expect("read").spec.replicas, Some(2));

    let four = Patch::Merge(json!({"spec": {"replicas": 4}}));
    deployments.patch_scale("test-scale", &PatchParams::default(), &four).await.expect("patched");
    assert_eq!(deployments.get("test-scale").await.expect("read").spec.replicas, Some(4));
    running(&t, "name=scaled", 4).await;
}

// Conformance: Deployment RollingUpdate
#[tokio::test(start_paused = true)]
async fn a_rolling_update_continues_from_a_replica_set_that_it_adopts() {
    let t = TestCluster::start().await;
    let mut set = replica_set("test-rolling-update-controller", "sample-pod", 1, "httpd");
    set["metadata"]["annotations"] = json!({REVISION: "3546343826724305832"});
    t.create::<ReplicaSet>(set).await;
    running(&t, "name=sample-pod", 1).await;

    let name = "test-rolling-update-deployment";
    let mut watched = Watched::new(&t.api::<Deployment>(), "").await;
    t.create::<Deployment>(deployment(name, "sample-pod", 1, "agnhost")).await;
    at_revision(&t, name, "3546343826724305833", "agnhost").await;
    let finished = watched
        .shows("the roll-out's end", |it| {
            // 25 % of one: one more while it lasts, never one less.
            assert!(number(|status| status.replicas, it) <= 2, "{:?}", it.status);
            is_complete(it)
        })
        .await;
    assert_eq!(image(&finished), Some("agnhost"));

    let sets = t.list::<ReplicaSet>().await;
    let owned = |set: &&ReplicaSet| {
        set.owner_references().iter().any(|owner| Some(owner.uid.clone()) == finished.uid())
    };
    assert_eq!(sets.iter().filter(owned).count(), 2, "the adopted one and the new");
    let old = sets.iter().find(|set| set.name_any() == "test-rolling-update-controller");
    assert_eq!(old.expect("it is kept").spec.replicas, Some(0));
}

// Conformance: Deployment Recreate
#[tokio::test(start_paused = true)]
async fn recreate_starts_new_pods_when_the_old_are_gone() {
    let t = TestCluster::start().await;
    let name = "test-recreate-deployment";
    let mut object = deployment(name, "sample-pod-3", 1, "agnhost");
    object["spec"]["strategy"] = json!({"type": "Recreate"});
    t.create::<Deployment>(object).await;
    at_revision(&t, name, "1", "agnhost").await;
    complete(&t, name).await;

    let mut deployments = Watched::new(&t.api::<Deployment>(), "").await;
    let mut pods = Watched::new(&t.api::<Pod>(), "name=sample-pod-3").await;
    patch(
        &t,
        name,
        json!({"spec": {"template": {"spec": {
        "containers": [{"name": "c", "image": "httpd"}]}}}}),
    )
    .await;
    deployments
        .shows("the roll-out's end", |it| {
            let updated = number(|status| status.updated_replicas, it);
            let seen = it.status.as_ref().and_then(|status| status.observed_generation);
            if seen >= it.metadata.generation && updated > 0 {
                assert_eq!(updated, number(|status| status.replicas, it), "old Pods beside new");
            }
            is_complete(it)
        })
        .await;
    let happened: Vec<_> = pods.so_far().await.into_iter().map(|(happened, _)| happened).collect();
    let gone = happened.iter().position(|it| *it == Happened::Deleted).expect("the old went");
    let came = happened.iter().position(|it| *it == Happened::Added).expect("the new came");
    assert!(gone < came, "{happened:?}");
}

// Conformance: Deployment RevisionHistoryLimit
#[tokio::test(start_paused = true)]
async fn old_replica_sets_beyond_the_limit_are_deleted() {
    let t = TestCluster::start().await;
    t.create::<ReplicaSet>(replica_set("test-cleanup-controller", "cleanup-pod", 1, "httpd")).await;
    running(&t, "name=cleanup-pod", 1).await;

    let mut pods = Watched::new(&t.api::<Pod>(), "name=cleanup-pod").await;
    let mut object = deployment("test-cleanup-deployment", "cleanup-pod", 1, "agnhost");
    object["spec"]["revisionHistoryLimit"] = json!(0);
    t.create::<Deployment>(object).await;
    let finished = complete(&t, "test-cleanup-deployment").await;
    let sets = t.api::<ReplicaSet>();
    let left = until("the old set's deletion", async || {
        let sets = sets.list(&ListParams::default()).await.expect("listed").items;
        (sets.len() == 1).then_some(sets)
    })
    .await;
    assert_eq!(Some(&left[0].owner_references()[0].uid), finished.metadata.uid.as_ref());
    let created: Vec<_> = pods
        .so_far()
        .await
        .into_iter()
        .filter(|(happened, _)| *happened == Happened::Added)
        .map(|(_, pod)| pod.spec.expect("a spec").containers[0].image.clone())
        .collect();
    assert_eq!(created, [Some("agnhost".to_owned())], "one Pod, of the Deployment");
}

// Conformance: Deployment Rollover
#[tokio::test(start_paused = true)]
async fn a_roll_out_that_is_stuck_is_rolled_over_by_the_next() {
    let t = start().await;
    let set = replica_set("test-rollover-controller", "rollover-pod", 1, "httpd");
    t.create::<ReplicaSet>(set).await;
    running(&t, "name=rollover-pod", 1).await;

    let name = "test-rollover-deployment";
    let mut object = deployment(name, "rollover-pod", 1, MISSING);
    object["spec"]["minReadySeconds"] = json!(10);
    object["spec"]["strategy"] = json!({"type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
    t.create::<Deployment>(object).await;
    let deployments = t.api::<Deployment>();
    until("the first step", async || {
        let deployment = deployments.get(name).await.expect("read");
        (number(|status| status.updated_replicas, &deployment) >= 1).then_some(())
    })
    .await;
    let stuck = at_revision(&t, name, "1", MISSING).await.name_any();
    let sizes = async |set: &str| {
        let set = t.api::<ReplicaSet>().get(set).await.expect("read");
        (set.spec.replicas, set.status.map(|status| status.replicas))
    };
    assert_eq!(sizes("test-rollover-controller").await, (Some(1), Some(1)));
    assert_eq!(sizes(&stuck).await, (Some(1), Some(1)));

    patch(
        &t,
        name,
        json!({"spec": {"template": {"spec": {
        "containers": [{"name": "c", "image": "agnhost"}]}}}}),
    )
    .await;
    at_revision(&t, name, "2", "agnhost").await;
    complete(&t, name).await;
    for old in ["test-rollover-controller", &stuck] {
        assert_eq!(sizes(old).await, (Some(0), Some(0)), "{old}");
    }
}

// Conformance: Deployment Proportional Scaling
#[tokio::test(start_paused = true)]
async fn a_deployment_that_is_scaled_amid_a_roll_out_keeps_proportions() {
    let t = start().await;
    let mut object = deployment("webserver", "httpd", 10, "httpd");
    object["spec"]["strategy"] = json!({"type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}});
    t.create::<Deployment>(object).await;
    running(&t, "name=httpd", 10).await;
    complete(&t, "webserver").await;
    let first = at_revision(&t, "webserver", "1", "httpd").await.name_any();

    patch(
        &t,
        "webserver",
        json!({"spec": {"template": {"spec": {
        "containers": [{"name": "c", "image": MISSING}]}}}}),
    )
    .await;
    let second = at_revision(&t, "webserver", "2", MISSING).await.name_any();
    let sets = t.api::<ReplicaSet>();
    let comes_to = async |set: &str, size: i32, available: Option<i32>| {
        until(&format!("{set} of {size}"), async || {
            let set = sets.get(set).await.expect("read");
            let status = set.status.unwrap_or_default();
            let has = set.spec.replicas == Some(size)
                && status.replicas == size
                && available.is_none_or(|n| status.available_replicas.unwrap_or(0) == n);
            has.then_some(())
        })
        .await;
    };
    comes_to(&first, 8, Some(8)).await;
    comes_to(&second, 5, Some(0)).await;
    let deployment = t.api::<Deployment>().get("webserver").await.expect("read");
    assert!(number(|status| status.available_replicas, &deployment) >= 8);

    patch(&t, "webserver", json!({"spec": {"replicas": 30}})).await;
    // 8 and 5 of 13 come to 20 and 13 of 33.
    comes_to(&first, 20, None).await;
    comes_to(&second, 13, Some(0)).await;
}
