//! How much a fleet of simulated nodes costs: `fleet [NODES] [PODS]` (5000 and 50000).
//!
//! Starts an API server and the nodes in this process, binds the pods to them, and prints times and
//! memory. Pods are bound as they are created, so the scheduler's cost is not in the figures.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, api::PostParams};
use rk_api::{client::Informers, server::ApiServer};
use rk_cri::{
    SimRuntime,
    agent::{Agent, Fleet},
};
use rk_store::EmbeddedStore;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u32>());
    let nodes = arguments.next().transpose()?.unwrap_or(5000);
    let pods = arguments.next().transpose()?.unwrap_or(50_000);

    let server = ApiServer::builder(Arc::new(EmbeddedStore::in_memory())).start().await?;
    let client = server.client();
    report("API server", Instant::now());

    let begun = Instant::now();
    let informers = Informers::new(client.clone());
    let mut fleet = Fleet::new(&informers);
    for number in 0..nodes {
        let range = format!("10.{}.{}.0/24", 128 + number / 256, number % 256);
        let runtime = SimRuntime::builder().pod_cidr(&range).timers(fleet.timers()).lean(true);
        let agent = Agent::builder(client.clone(), Arc::new(runtime.build()?));
        fleet
            .add(agent.node_name(format!("node-{number}")).pod_cidr(range).record_events(false))?;
    }
    report(&format!("{nodes} agents made"), begun);
    let stop = CancellationToken::new();
    let running = tokio::spawn(fleet.run(stop.clone()));
    let all_nodes = informers.of::<Node>();
    while all_nodes.len() < nodes as usize {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    report(&format!("{nodes} nodes registered"), begun);

    let begun = Instant::now();
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    let creations = futures::stream::iter(0..pods).map(|number| {
        let api = api.clone();
        async move {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": format!("pod-{number}"), "labels": {"app": "load"}},
                "spec": {
                    "nodeName": format!("node-{}", number % nodes),
                    "containers": [{"name": "main", "image": "app:v1",
                        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}],
                },
            }))?;
            api.create(&PostParams::default(), &pod).await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        }
    });
    let failed = creations
        .buffer_unordered(64)
        .filter(|result| futures::future::ready(result.is_err()))
        .count()
        .await;
    report(&format!("{pods} pods created, {failed} refused"), begun);
    let all_pods = informers.of::<Pod>();
    all_pods.synced().await;
    loop {
        let running = all_pods.list().iter().filter(|pod| is_running(pod)).count();
        if running + failed >= pods as usize {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    report(&format!("{pods} pods running"), begun);
    tokio::time::sleep(Duration::from_secs(15)).await;
    report("15 s of heartbeats later", begun);
    stop.cancel();
    running.await?;
    Ok(())
}

fn is_running(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

fn report(what: &str, since: Instant) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.unwrap_or(0) / 1024
    };
    let (resident, peak) = (value("VmRSS:"), value("VmHWM:"));
    println!("{what}: {:.2?}, {resident} MiB resident, {peak} MiB at most", since.elapsed());
}
