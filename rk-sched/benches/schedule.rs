//! Pods per second of the cycle alone, without any I/O.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Affinity;
use rk_api::{
    rng::Rng,
    testing::{node, pod},
};
use rk_sched::{PodInfo, Profile, Scheduler, Snapshot};
use serde_json::json;

fn main() {
    divan::main();
}

const NODES: [usize; 4] = [100, 1_000, 5_000, 10_000];
const HOST: &str = "kubernetes.io/hostname";
/// Pods in one measured run.
const PODS: usize = 1_000;

fn cluster(nodes: usize) -> Snapshot {
    (0..nodes)
        .map(|n| {
            let name = format!("node-{n}");
            let node = node(&name).label(HOST, &name).label("zone", ["a", "b"][n % 2]);
            node.cpu("64").memory("256Gi")
        })
        .collect()
}

fn pods(signatures: usize) -> Vec<Arc<PodInfo>> {
    (0..PODS)
        .map(|n| {
            let memory = format!("{}Mi", 64 + n % signatures);
            let pod = pod(&format!("pod-{n}")).cpu("10m").memory(&memory);
            Arc::new(PodInfo::from(&*pod))
        })
        .collect()
}

/// Pods that each want a node of their own.
fn lonely_pods() -> Vec<Arc<PodInfo>> {
    let affinity = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": HOST, "labelSelector": {"matchLabels": {"app": "lonely"}}}]}});
    let affinity: Affinity = serde_json::from_value(affinity).unwrap_or_default();
    let lonely = |n| {
        let pod = pod(&format!("pod-{n}")).cpu("10m").label("app", "lonely");
        pod.with(|pod| pod.spec.get_or_insert_default().affinity = Some(affinity.clone()))
    };
    (0..PODS).map(|n| Arc::new(PodInfo::from(&*lonely(n)))).collect()
}

fn run(scheduler: &mut Scheduler, snapshot: &mut Snapshot, pods: &[Arc<PodInfo>]) {
    for pod in pods {
        match scheduler.schedule_info(snapshot, pod) {
            Ok(placement) => snapshot.assume(pod.clone(), &placement.node),
            Err(error) => panic!("{error}"),
        }
    }
    for pod in pods {
        snapshot.remove_pod(&pod.uid);
    }
}

/// Pods of `signatures` different kinds take turns.
fn bench(bencher: divan::Bencher<'_, '_>, nodes: usize, signatures: usize) {
    bench_of(bencher, nodes, &pods(signatures));
}

fn bench_of(bencher: divan::Bencher<'_, '_>, nodes: usize, pods: &[Arc<PodInfo>]) {
    bencher
        .counter(divan::counter::ItemsCount::new(PODS))
        .with_inputs(|| {
            let scheduler = Scheduler::with_rng(Profile::default(), Rng::seeded(1));
            (scheduler, cluster(nodes))
        })
        .bench_local_refs(|(scheduler, snapshot)| run(scheduler, snapshot, pods));
}

#[divan::bench(args = NODES, sample_count = 10)]
fn equal_pods(bencher: divan::Bencher<'_, '_>, nodes: usize) {
    bench(bencher, nodes, 1);
}

#[divan::bench(args = NODES, sample_count = 10)]
fn ten_kinds_of_pods(bencher: divan::Bencher<'_, '_>, nodes: usize) {
    bench(bencher, nodes, 10);
}

#[divan::bench(args = NODES, sample_count = 5)]
fn all_pods_different(bencher: divan::Bencher<'_, '_>, nodes: usize) {
    bench(bencher, nodes, PODS);
}

#[divan::bench(args = [1_000, 5_000], sample_count = 5)]
fn one_pod_per_node(bencher: divan::Bencher<'_, '_>, nodes: usize) {
    bench_of(bencher, nodes, &lonely_pods());
}
