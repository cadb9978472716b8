//! Virtual time: the same seed lives the same history.

use std::{sync::Arc, time::Duration};

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
    simulation::{self, Digest, Scenario},
    store::{EmbeddedStore, Event, Revision, Store},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// As many as a debug build lives in well under a minute.
const HISTORIES: u64 = 20;

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

fn digest(events: &[Event]) -> String {
    let mut digest = Digest::default();
    events.iter().for_each(|event| digest.add(event));
    digest.to_string()
}

#[test]
fn the_same_seed_writes_the_same_bytes_and_another_one_others() {
    let (first, second) = (history(11), history(11));
    for (first, second) in first.iter().zip(&second) {
        let text = |event: &Event| {
            let value = event.value.as_deref().unwrap_or_default();
            format!("{} {} {}", event.revision, event.key, String::from_utf8_lossy(value))
        };
        assert_eq!(text(first), text(second), "the first difference");
    }
    assert!(first.len() > 500, "{} events", first.len());
    assert_eq!(digest(&first), digest(&second));
    assert_ne!(digest(&first), digest(&history(12)));
}

#[test]
fn a_history_with_faults_repeats_too() {
    let live = |seed| {
        let outcome = simulation::run(&Scenario::short(seed), |_| {}).expect("it is lived");
        (outcome.digest.to_string(), outcome.faults, outcome.simulated)
    };
    let first = live(21);
    assert_eq!(first, live(21));
    assert_ne!(first.0, live(22).0);
}

/// Whoever sees this fail sees the whole history with the example `simulate`; the message says how.
#[test]
fn short_histories_break_no_invariant() {
    for seed in 0..HISTORIES {
        let scenario = Scenario::short(seed);
        let outcome = simulation::run(&scenario, |_| {}).expect("it is lived");
        assert!(
            outcome.holds(),
            "seed {seed} breaks {:#?}\nsee it with: cargo run --example simulate -- --seed {seed} \
             --nodes {} --duration {}s --actions-per-hour {} --faults",
            outcome.violations,
            scenario.nodes,
            scenario.duration.as_secs(),
            scenario.actions_per_hour,
        );
    }
}
