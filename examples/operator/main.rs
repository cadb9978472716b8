//! An operator: a kind of its own, `Site`, whose objects become a Deployment, a Service and a host
//! name outside the cluster.
//!
//! ```sh
//! cargo run --example operator -- --kubeconfig admin.conf --hosts hosts
//! kubectl apply -f - <<EOF
//! apiVersion: rk.example.com/v1
//! kind: Site
//! metadata: {name: a}
//! spec: {image: nginx, host: a.example}
//! EOF
//! kubectl get sites
//! ```
//!
//! `site.rs` is the kind, `plan.rs` decides (pure functions), `operator.rs` reads, calls it and
//! writes, `names.rs` is what is outside, and `tests.rs` runs all of it against a whole cluster
//! whose time it winds forward.

mod names;
mod operator;
mod plan;
mod site;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use clap::Parser;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use rk::controllers::Metrics;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Parser)]
struct Options {
    /// How to reach the cluster; by default as a Pod does, or with the user's own kubeconfig.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// The file that host names are published in.
    #[arg(long, default_value = "hosts")]
    hosts: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(&Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
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
    operator::install(&client).await?;
    let names = Arc::new(names::HostsFile::new(&options.hosts));
    let controller = operator::controller(client, names, &Metrics::default());

    let shutdown = CancellationToken::new();
    let running = tokio::spawn(controller.run(shutdown.clone()));
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    shutdown.cancel();
    Ok(running.await?)
}
