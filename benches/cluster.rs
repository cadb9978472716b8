//! What a user of `rk::Cluster` waits for, in process.
//!
//! `cargo bench --bench cluster`; for the same over TLS, with percentiles, and for memory:
//! `cargo run --release --example speed`.

use divan::{Bencher, counter::ItemsCount};
use rk::{
    Cluster,
    k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod},
    kube::{
        Api,
        api::{ListParams, PostParams},
        runtime::wait::{await_condition, conditions},
    },
};
use serde_json::json;
use tokio::runtime::Runtime;

fn main() {
    divan::main();
}

fn runtime() -> Runtime {
    Runtime::new().expect("threads")
}

/// A Pod that no scheduler takes.
fn pod(name: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app": "bench"}},
        "spec": {
            "schedulerName": "none",
            "containers": [{
                "name": "c",
                "image": "nginx:1",
                "ports": [{"containerPort": 80}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}
            }]
        }
    }))
    .expect("a Pod")
}

/// From nothing to a cluster of which every part runs.
#[divan::bench]
fn start(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    bencher.bench_local(|| runtime.block_on(Cluster::builder().nodes(1).start()).expect("starts"));
}

/// One Pod after the other.
#[divan::bench]
fn create_a_pod(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    let cluster = runtime.block_on(Cluster::builder().start()).expect("starts");
    let pods: Api<Pod> = Api::default_namespaced(cluster.client());
    let mut number = 0;
    bencher
        .with_inputs(|| {
            number += 1;
            pod(&format!("pod-{number}"))
        })
        .bench_local_values(|pod| {
            runtime.block_on(pods.create(&PostParams::default(), &pod)).expect("created")
        });
}

/// A list, decoded.
#[divan::bench(args = [100, 1_000])]
fn list_pods(bencher: Bencher<'_, '_>, count: usize) {
    let runtime = runtime();
    let cluster = runtime.block_on(Cluster::builder().start()).expect("starts");
    let pods: Api<Pod> = Api::default_namespaced(cluster.client());
    for number in 0..count {
        let pod = pod(&format!("pod-{number}"));
        runtime.block_on(pods.create(&PostParams::default(), &pod)).expect("created");
    }
    bencher
        .counter(ItemsCount::new(count))
        .bench_local(|| runtime.block_on(pods.list(&ListParams::default())).expect("listed"));
}

/// A Deployment from creation until all its Pods are available: controllers, scheduler, simulated
/// node and back.
#[divan::bench(args = [1, 100], sample_count = 10)]
fn roll_out_a_deployment(bencher: Bencher<'_, '_>, replicas: i32) {
    let runtime = runtime();
    let cluster = runtime.block_on(Cluster::builder().nodes(10).start()).expect("starts");
    let deployments: Api<Deployment> = Api::default_namespaced(cluster.client());
    let mut number = 0;
    bencher
        .with_inputs(|| {
            number += 1;
            let name = format!("deployment-{number}");
            let template = json!({
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "nginx:1"}]}
            });
            let deployment: Deployment = serde_json::from_value(json!({
                "metadata": {"name": name},
                "spec": {
                    "replicas": replicas,
                    "selector": {"matchLabels": {"app": name}},
                    "template": template
                }
            }))
            .expect("a Deployment");
            (name, deployment)
        })
        .bench_local_values(|(name, deployment)| {
            runtime.block_on(async {
                deployments.create(&PostParams::default(), &deployment).await.expect("created");
                let rolled_out = conditions::is_deployment_completed();
                let waited = await_condition(deployments.clone(), &name, rolled_out);
                waited.await.expect("watched");
            });
        });
}
