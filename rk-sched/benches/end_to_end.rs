//! Pods per second from creation to binding: scheduler, API server and store in one process.
//!
//! `cargo bench -p rk-sched --bench end_to_end -- [NODES] [PODS]`

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use rk_api::{
    client::Informers,
    server::ApiServer,
    testing::{node, pod},
};
use rk_sched::Scheduler;
use rk_store::EmbeddedStore;
use serde_json::json;
use tokio_util::sync::CancellationToken;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let numbers: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let nodes = numbers.first().copied().unwrap_or(1_000);
    let pods = numbers.get(1).copied().unwrap_or(10_000);
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        tokio::spawn(async move { run(nodes, pods).await.map_err(|error| error.to_string()) })
            .await?
            .map_err(Into::into)
    })
}

async fn run(nodes: usize, pods: usize) -> Result<()> {
    let server = ApiServer::builder(Arc::new(EmbeddedStore::in_memory())).start().await?;
    let client = server.client();
    let api: Api<Node> = Api::all(client.clone());
    for n in 0..nodes {
        let name = format!("node-{n}");
        let node = node(&name).cpu("64").memory("256Gi").with(|it| it.metadata.uid = None).build();
        api.create(&PostParams::default(), &node).await?;
        let params = PatchParams::default();
        let status = Patch::Merge(json!({"status": node.status}));
        api.patch_status(&name, &params, &status).await?;
        let spec = Patch::Merge(json!({"spec": {"taints": null}}));
        api.patch(&name, &params, &spec).await?;
    }

    let api: Api<Pod> = Api::default_namespaced(client.clone());
    let started = tokio::time::Instant::now();
    let creators: Vec<_> = (0..16)
        .map(|worker| {
            let api = api.clone();
            tokio::spawn(async move {
                for n in (worker..pods).step_by(16) {
                    let pod = pod(&format!("pod-{n}")).cpu("10m").memory("64Mi");
                    let pod = pod.with(|it| it.metadata.uid = None).build();
                    api.create(&PostParams::default(), &pod).await?;
                }
                Ok::<(), kube::Error>(())
            })
        })
        .collect();
    for creator in creators {
        creator.await??;
    }
    println!("created   {:>8.0} pods/s", pods as f64 / started.elapsed().as_secs_f64());

    let informers = Informers::new(client.clone());
    let watched = informers.of::<Pod>();
    watched.add_index("bound", |pod| {
        let bound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        bound.then(|| "yes".to_owned()).into_iter().collect()
    });
    informers.synced().await;

    let stop = CancellationToken::new();
    let started = tokio::time::Instant::now();
    let running = tokio::spawn(Scheduler::builder(client).build().run(stop.clone()));
    while watched.by_index("bound", "yes").len() < pods {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let elapsed = started.elapsed().as_secs_f64();
    println!("scheduled {:>8.0} pods/s ({pods} pods, {nodes} nodes)", pods as f64 / elapsed);
    stop.cancel();
    running.await?;
    Ok(())
}
