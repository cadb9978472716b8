//! A controller that runs against any Kubernetes: it keeps a label of each node on the node's Pods,
//! for whoever selects Pods by zone.
//!
//! ```sh
//! cargo run --example labeler -- --kubeconfig admin.conf \
//!     --label topology.kubernetes.io/zone --as zone.example.com/name
//! curl -s http://127.0.0.1:8080/metrics
//! ```
//!
//! Any number of them can run, and one works: it holds the Lease `labeler`. It ends, in order, upon
//! SIGTERM, and with an error when another has taken the Lease. `labels.rs` is the controller,
//! `metrics.rs` says how it does.

mod labels;
mod metrics;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::Parser;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use rk::{
    api::client::{LeaderElectionConfig, LeaderElector},
    controllers::Metrics,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Parser)]
struct Options {
    /// How to reach the cluster; by default as a Pod does, or with the user's own kubeconfig.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// The label of nodes.
    #[arg(long, default_value = "topology.kubernetes.io/zone")]
    label: String,
    /// The label that Pods get.
    #[arg(long = "as", default_value = "labeler.example.com/zone")]
    name: String,
    /// The namespace of the Lease.
    #[arg(long, default_value = "kube-system")]
    namespace: String,
    /// Where /healthz and /metrics are served; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8080")]
    metrics_address: SocketAddr,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let config = match &options.kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?
        }
        None => Config::infer().await?,
    };
    let client = Client::try_from(config)?;
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let shutdown = CancellationToken::new();
    let _guard = shutdown.clone().drop_guard();
    let counters = Metrics::default();
    let listener = TcpListener::bind(options.metrics_address).await?;
    tracing::info!("metrics at http://{}/metrics", listener.local_addr()?);
    tokio::spawn(metrics::serve(listener, counters.clone(), shutdown.clone()));

    let mut election = LeaderElectionConfig::new("labeler");
    election.namespace = options.namespace;
    let elector = LeaderElector::new(client.clone(), election);
    // Caches fill when this one leads: those who wait cost the API server nothing.
    let work = move |leading: CancellationToken| async move {
        labels::controller(client, options.label, options.name, &counters).run(leading).await;
    };
    let mut running = std::pin::pin!(elector.run(shutdown.clone(), work));
    tokio::select! {
        _ = &mut running => return Err("another instance leads now".into()),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    shutdown.cancel();
    // The Lease is given up when the last reconcile has ended.
    running.await;
    Ok(())
}
