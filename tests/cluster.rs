//! A whole cluster inside a test: what the README promises to those who test their own code.

use std::time::Duration;

use rk::{
    Cluster,
    api::meta::RENEWED_WITH,
    k8s_openapi::api::{
        apps::v1::Deployment,
        autoscaling::v2::HorizontalPodAutoscaler,
        coordination::v1::Lease,
        core::v1::{ConfigMap, Node, PersistentVolume, PersistentVolumeClaim, Pod},
        storage::v1::StorageClass,
    },
    kube::{
        Api,
        api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
        runtime::wait::{await_condition, conditions},
    },
};
use serde_json::json;

fn deployment(name: &str, replicas: i32) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "nginx"}]}
            }
        }
    }))
    .expect("a Deployment")
}

async fn running(pods: &Api<Pod>, app: &str) -> usize {
    let list = pods.list(&ListParams::default().labels(&format!("app={app}"))).await;
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone());
    list.expect("a list")
        .items
        .iter()
        .filter(|pod| phase(pod).as_deref() == Some("Running"))
        .count()
}

#[tokio::test]
async fn a_deployment_runs_and_goes_with_its_pods() {
    let cluster = Cluster::builder().nodes(2).start().await.expect("it starts");
    let deployments: Api<Deployment> = Api::default_namespaced(cluster.client());
    let pods: Api<Pod> = Api::default_namespaced(cluster.client());

    deployments.create(&PostParams::default(), &deployment("web", 4)).await.expect("created");
    let available = |object: Option<&Deployment>| {
        let status = object.and_then(|object| object.status.as_ref());
        status.and_then(|status| status.available_replicas) == Some(4)
    };
    let waited = tokio::time::timeout(
        Duration::from_secs(30),
        await_condition(deployments.clone(), "web", available),
    );
    waited.await.expect("in time").expect("watched");
    assert_eq!(running(&pods, "web").await, 4);

    deployments.delete("web", &DeleteParams::foreground()).await.expect("deleted");
    let uid = deployments.get_opt("web").await.expect("asked").and_then(|web| web.metadata.uid);
    if let Some(uid) = uid {
        let gone = await_condition(deployments, "web", conditions::is_deleted(&uid));
        tokio::time::timeout(Duration::from_secs(30), gone)
            .await
            .expect("in time")
            .expect("watched");
    }
    assert_eq!(running(&pods, "web").await, 0);
}

#[tokio::test]
async fn clusters_of_one_process_do_not_see_each_other() {
    let (one, other) = tokio::join!(Cluster::builder().start(), Cluster::builder().start());
    let (one, other) = (one.expect("it starts"), other.expect("it starts"));
    let map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "mine"}})).expect("a map");

    let maps: Api<ConfigMap> = Api::default_namespaced(one.client());
    maps.create(&PostParams::default(), &map).await.expect("created");

    let others: Api<ConfigMap> = Api::default_namespaced(other.client());
    assert!(others.get_opt("mine").await.expect("asked").is_none());
    drop(one);
    others.create(&PostParams::default(), &map).await.expect("the other lives on");
}

#[tokio::test(start_paused = true)]
async fn a_day_passes_in_no_time() {
    let cluster = Cluster::builder().start().await.expect("it starts");
    let before = rk::api::clock::now();

    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;

    let day = rk::api::clock::now().duration_since(before);
    assert!(day.as_secs() >= 24 * 3600);
    // The node's heartbeats went on: it is still trusted.
    let nodes: Api<Node> = Api::all(cluster.client());
    let node = nodes.get("node-1").await.expect("it is there");
    let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
    assert!(conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"), "{conditions:?}");
}

#[tokio::test(start_paused = true)]
async fn nodes_that_share_a_lease_are_trusted_and_tell_of_new_images() {
    let cluster = Cluster::builder().nodes(3).shared_node_lease(true).start().await;
    let cluster = cluster.expect("it starts");
    let client = cluster.client();
    tokio::time::sleep(Duration::from_secs(2 * 3600)).await;

    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let lease = leases.get("node-1").await.expect("it is there");
    let age = |lease: Lease| {
        let renewed = lease.spec.and_then(|spec| spec.renew_time).expect("it was renewed");
        rk::api::clock::since_timestamp(renewed.0).as_secs()
    };
    let with = lease.metadata.annotations.as_ref().and_then(|all| all.get(RENEWED_WITH));
    let with = leases.get(with.expect("it names the other")).await.expect("it is there");
    assert!(age(with) <= 20, "that is renewed");
    assert!(age(lease) > 7000, "and this one is not");
    let nodes: Api<Node> = Api::all(client.clone());
    for node in nodes.list(&ListParams::default()).await.expect("a list") {
        let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
        let ready = conditions.iter().find(|condition| condition.type_ == "Ready");
        assert_eq!(ready.map(|ready| ready.status.as_str()), Some("True"));
    }

    let deployments: Api<Deployment> = Api::default_namespaced(client);
    deployments.create(&PostParams::default(), &deployment("web", 6)).await.expect("created");
    tokio::time::sleep(Duration::from_secs(60)).await;
    let all = nodes.list(&ListParams::default()).await.expect("a list");
    let tells = all.iter().filter(|node| {
        let images = node.status.as_ref().and_then(|status| status.images.as_ref());
        images.is_some_and(|images| !images.is_empty())
    });
    assert!(tells.count() > 0, "no node tells which images it has");
}

#[tokio::test(start_paused = true)]
async fn replicas_follow_what_simulated_pods_use() {
    let cluster = Cluster::builder().nodes(2).start().await.expect("a cluster");
    let client = cluster.client();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    let mut web = deployment("web", 1);
    let template = &mut web.spec.template;
    let annotations = [("sim.rk.dev/cpu", "50m"), ("sim.rk.dev/memory", "64Mi")];
    template.metadata.get_or_insert_default().annotations =
        Some(annotations.map(|(key, value)| (key.into(), value.into())).into());
    let container = &mut template.spec.as_mut().expect("a spec").containers[0];
    container.resources =
        Some(serde_json::from_value(json!({"requests": {"cpu": "100m"}})).expect("resources"));
    deployments.create(&PostParams::default(), &web).await.expect("created");
    let autoscaler: HorizontalPodAutoscaler = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "maxReplicas": 3,
            "metrics": [{"type": "Resource", "resource": {
                "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50},
            }}],
        },
    }))
    .expect("an autoscaler");
    let autoscalers: Api<HorizontalPodAutoscaler> = Api::namespaced(client.clone(), "default");
    autoscalers.create(&PostParams::default(), &autoscaler).await.expect("created");
    let replicas = async || {
        let found = deployments.get("web").await.expect("it is there");
        found.spec.replicas.expect("a number")
    };

    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(replicas().await, 1);
    let path = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods?labelSelector=app%3Dweb";
    let request = http::Request::get(path).body(Vec::new()).expect("a request");
    let measured: serde_json::Value = client.request(request).await.expect("metrics");
    let usage = &measured["items"][0]["containers"][0]["usage"];
    assert_eq!(usage["memory"], "64Mi", "{measured}");
    let cpu = usage["cpu"].as_str().expect("an amount");
    assert!(cpu.starts_with("50m") || cpu.starts_with("49") || cpu.starts_with("50"), "{cpu}");

    let load = async |cpu: &str| {
        let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
        for pod in pods.list(&ListParams::default().labels("app=web")).await.expect("a list") {
            let patch = json!({"metadata": {"annotations": {"sim.rk.dev/cpu": cpu}}});
            let name = pod.metadata.name.expect("a name");
            let patched = pods.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
            patched.expect("patched");
        }
    };
    load("400m").await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(replicas().await, 3);
    load("1m").await;
    tokio::time::sleep(Duration::from_secs(240)).await;
    assert_eq!(replicas().await, 3, "the window of five minutes has not passed");
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(replicas().await, 1);
}

/// A volume of the class `local` on one node.
fn local_volume(node: &str) -> PersistentVolume {
    let here = json!({"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]});
    serde_json::from_value(json!({
        "metadata": {"name": format!("disk-of-{node}")},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
            "storageClassName": "local", "local": {"path": "/disk"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [here]}},
        },
    }))
    .expect("a volume")
}

fn pod_with_claim(name: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app": "uses-disks"}},
        "spec": {
            "containers": [{"name": "c", "image": "nginx"}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": name}}],
        },
    }))
    .expect("a Pod")
}

#[tokio::test(start_paused = true)]
async fn pods_go_where_the_disks_for_their_claims_are() {
    let cluster = Cluster::builder().nodes(3).start().await.expect("it starts");
    let client = || cluster.client();
    let class = json!({"metadata": {"name": "local"}, "volumeBindingMode": "WaitForFirstConsumer",
        "provisioner": "kubernetes.io/no-provisioner"});
    let class: StorageClass = serde_json::from_value(class).expect("a class");
    let new = PostParams::default();
    Api::all(client()).create(&new, &class).await.expect("created");
    let (pods, claims) = (
        Api::<Pod>::default_namespaced(client()),
        Api::<PersistentVolumeClaim>::default_namespaced(client()),
    );
    for name in ["a", "b", "c"] {
        let claim = json!({"metadata": {"name": name}, "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "local",
            "resources": {"requests": {"storage": "1Gi"}}}});
        let claim = serde_json::from_value(claim).expect("a claim");
        claims.create(&new, &claim).await.expect("created");
        pods.create(&new, &pod_with_claim(name)).await.expect("created");
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(running(&pods, "uses-disks").await, 0, "there are no disks");

    let volumes = Api::<PersistentVolume>::all(client());
    for node in ["node-1", "node-3"] {
        volumes.create(&new, &local_volume(node)).await.expect("created");
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    let mut nodes = Vec::new();
    for pod in pods.list(&ListParams::default()).await.expect("a list").items {
        let Some(node) = pod.spec.and_then(|spec| spec.node_name) else { continue };
        let name = pod.metadata.name.expect("a name");
        let claim = claims.get(&name).await.expect("read").spec.expect("a spec");
        assert_eq!(claim.volume_name, Some(format!("disk-of-{node}")));
        nodes.push(node);
    }
    nodes.sort();
    assert_eq!(nodes, ["node-1", "node-3"], "a Pod for each disk");
    assert_eq!(running(&pods, "uses-disks").await, 2);
    cluster.shutdown().await;
}
