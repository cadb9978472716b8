//! Virtual time: the same seed lives the same history.

use std::{process::Command, sync::Arc, time::Duration};

use futures::StreamExt;
use rk::{
    Cluster,
    k8s_openapi::api::{
        apps::v1::{Deployment, StatefulSet},
        batch::v1::{CronJob, Job},
        core::v1::Service,
    },
    kube::{
        Api, Client,
        api::{DeleteParams, Patch, PatchParams, PostParams},
    },
    simulation,
    store::{EmbeddedStore, Event, Revision, Store},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

async fn create<K>(client: &Client, object: Value)
where
    K: rk::kube::Resource<DynamicType = (), Scope = rk::kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned,
{
    let object: K = serde_json::from_value(object).expect("an object");
    let api = Api::<K>::default_namespaced(client.clone());
    api.create(&PostParams::default(), &object).await.expect("created");
}

fn template(app: &str, annotations: Value, restart: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": app}, "annotations": annotations},
        "spec": {"restartPolicy": restart, "containers": [{"name": "c", "image": "nginx"}]},
    })
}

/// All that the store wrote in a quarter of an hour with a bit of everything.
async fn lively(seed: u64) -> Vec<Event> {
    let store = Arc::new(EmbeddedStore::in_memory());
    let mut watch = store.watch("", Revision(0)).await.expect("watched");
    let cluster = Cluster::builder()
        .nodes(3)
        .store(store.clone())
        .virtual_time(seed)
        .start()
        .await
        .expect("it starts");
    let client = cluster.client();
    let pause = |seconds| tokio::time::sleep(Duration::from_secs(seconds));

    create::<Deployment>(
        &client,
        json!({"metadata": {"name": "web"}, "spec": {
        "replicas": 5, "selector": {"matchLabels": {"app": "web"}},
        "template": template("web", json!({}), "Always")}}),
    )
    .await;
    create::<StatefulSet>(
        &client,
        json!({"metadata": {"name": "db"}, "spec": {
        "replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
        "template": template("db", json!({}), "Always")}}),
    )
    .await;
    create::<Service>(
        &client,
        json!({"metadata": {"name": "web"}, "spec": {
        "type": "NodePort", "selector": {"app": "web"}, "ports": [{"port": 80}]}}),
    )
    .await;
    let ends = json!({"sim.rk.dev/exit-after": "20s"});
    create::<Job>(
        &client,
        json!({"metadata": {"name": "sum"}, "spec": {
        "completions": 6, "parallelism": 2, "template": template("sum", ends.clone(), "Never")}}),
    )
    .await;
    create::<CronJob>(
        &client,
        json!({"metadata": {"name": "tick"}, "spec": {
        "schedule": "* * * * *",
        "jobTemplate": {"spec": {"template": template("tick", ends, "Never")}}}}),
    )
    .await;
    pause(120).await;

    let deployments = Api::<Deployment>::default_namespaced(client.clone());
    for change in [
        json!({"spec": {"template": {"metadata": {"labels": {"version": "2"}}}}}),
        json!({"spec": {"replicas": 8}}),
    ] {
        let (parameters, change) = (PatchParams::default(), Patch::Merge(change));
        deployments.patch("web", &parameters, &change).await.expect("patched");
        pause(30).await;
    }
    let nodes = Api::<rk::k8s_openapi::api::core::v1::Node>::all(client.clone());
    let cordon = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    nodes.patch("node-2", &PatchParams::default(), &cordon).await.expect("cordoned");
    let sets = Api::<StatefulSet>::default_namespaced(client.clone());
    sets.delete("db", &DeleteParams::foreground()).await.expect("deleted");
    pause(600).await;
    cluster.shutdown().await;

    let end = store.revision().await.expect("a revision");
    let mut events = Vec::new();
    while events.last().is_none_or(|event: &Event| event.revision < end) {
        events.extend(watch.next().await.expect("more").expect("events").events);
    }
    events
}

fn history(seed: u64) -> Vec<Event> {
    simulation::block_on(seed, lively(seed)).expect("a runtime")
}

/// Set for a process that is to write the history of this seed on its standard output.
const SEED: &str = "RK_TEST_SEED";

/// The history of a seed, a line for each event, as a process of its own writes it.
fn of_a_process(seed: u64) -> String {
    let output = Command::new(std::env::current_exe().expect("this test has a path"))
        .args([
            "--exact",
            "the_same_seed_writes_the_same_bytes_and_another_one_others",
            "--nocapture",
        ])
        .env(SEED, seed.to_string())
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("events are text");
    text.lines().filter(|line| line.contains(" /registry/")).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_same_seed_writes_the_same_bytes_and_another_one_others() {
    if let Ok(seed) = std::env::var(SEED) {
        for event in history(seed.parse().expect("a number")) {
            let value = event.value.as_deref().unwrap_or_default();
            println!("{} {} {}", event.revision, event.key, String::from_utf8_lossy(value));
        }
        return;
    }
    let (first, second) = (of_a_process(11), of_a_process(11));
    for (first, second) in first.lines().zip(second.lines()) {
        assert_eq!(first, second, "the first difference");
    }
    assert!(first.lines().count() > 500, "{} events", first.lines().count());
    assert_eq!(first, second);
    assert_ne!(first, of_a_process(12));
}
