//! Pods per second of the cycle alone, without any I/O.

use std::sync::Arc;

use rk_api::{
    rng::Rng,
    testing::{node, pod},
};
use rk_sched::{PodInfo, Profile, Scheduler, Snapshot};

fn main() {
    divan::main();
}

const NODES: [usize; 4] = [100, 1_000, 5_000, 10_000];
/// Pods in one measured run.
const PODS: usize = 1_000;

fn cluster(nodes: usize) -> Snapshot {
    (0..nodes)
        .map(|n| {
            node(&format!("node-{n}")).cpu("64").memory("256Gi").label("zone", ["a", "b"][n % 2])
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
    let pods = pods(signatures);
    bencher
        .counter(divan::counter::ItemsCount::new(PODS))
        .with_inputs(|| {
            let scheduler = Scheduler::with_rng(Profile::default(), Rng::seeded(1));
            (scheduler, cluster(nodes))
        })
        .bench_local_refs(|(scheduler, snapshot)| run(scheduler, snapshot, &pods));
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
