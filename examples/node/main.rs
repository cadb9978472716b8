//! A node as a program of its own, with the kubelet's flags and configuration file, for any API
//! server from 1.20 to 1.37: rk's, or a stock one.
//!
//! ```sh
//! cargo run --release --example node -- --help
//! cargo run --release --example node -- --bootstrap-kubeconfig=bootstrap.conf \
//!     --kubeconfig=kubelet.conf --config=kubelet.yaml --runtime=native
//! ```
//!
//! `table.rs` lists the flags, `options.rs` says what they mean together with the configuration file,
//! `connect.rs` finds the way to the API server and keeps the certificates, `runtime.rs` chooses what
//! runs containers, and `serve.rs` answers at the kubelet's ports.

#[path = "../common/allocator.rs"]
mod allocator;
mod connect;
#[path = "../common/files.rs"]
mod files;
#[path = "../common/flags.rs"]
mod flags;
#[path = "../common/logs.rs"]
mod logs;
mod options;
#[path = "../common/program.rs"]
mod program;
mod runtime;
mod serve;
mod table;

use std::{process::ExitCode, sync::Arc};

use options::Options;
use program::StopSignals;
use rk::cri::{
    Runtime,
    agent::{Agent, AgentBuilder, eviction::MachineSignals},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    // A container's holder is this program, started once more: it must get here first.
    rk::cri::native::init();
    program::run("kubelet", Options::read, run)
}

async fn run(options: Options, stop: StopSignals) -> Result<(), String> {
    for field in &options.idle {
        tracing::info!("--config: {field} has no effect");
    }
    let stop = stop.received();
    tokio::pin!(stop);
    // A signal ends the wait for a certificate or for the runtime as well.
    let (connection, runtime) = tokio::select! {
        () = &mut stop => return Ok(()),
        ready = async {
            Ok::<_, String>((connect::connect(&options).await?, runtime::start(&options).await?))
        } => ready?,
    };
    let agent = agent(&options, &connection, runtime)?;
    let shutdown = CancellationToken::new();
    // Ends everything with the function, however it ends.
    let _guard = shutdown.clone().drop_guard();
    let mut tasks = JoinSet::new();
    serve::listen(&options, &connection, &agent, &mut tasks, &shutdown).await?;
    tasks.spawn(connection.keep_certificate(shutdown.clone()));

    let node = agent.node_shutdown();
    let mut running = std::pin::pin!(agent.run(shutdown.clone()));
    tokio::select! {
        () = &mut running => {}
        () = &mut stop => {}
    }
    if options.shutdown_node {
        // Pods end, each group in its time, while the agent sees to it.
        tokio::select! {
            () = &mut running => {}
            () = node.run() => {}
        }
    }
    shutdown.cancel();
    running.await;
    // The tasks end with their token.
    while tasks.join_next().await.is_some() {}
    Ok(())
}

fn agent(
    options: &Options,
    connection: &connect::Connection,
    runtime: Arc<dyn Runtime>,
) -> Result<Agent, String> {
    let configuration = &options.configuration;
    let mut builder: AgentBuilder = Agent::builder(connection.client(), runtime.clone())
        .node_name(&options.node)
        .configuration(configuration)
        .root_dir(&options.root)
        .labels(options.labels.iter().cloned())
        .taints(options.taints.iter().cloned())
        .node_ips(options.node_ips.iter().copied());
    if let Some((config, programs)) = &options.credential_providers {
        builder = builder.credential_providers(config, programs);
    }
    if !runtime.simulated() {
        builder = builder
            .log_dir(&configuration.pod_logs_dir)
            .signals(Arc::new(MachineSignals::new(&options.root)));
    }
    builder.build().map_err(|error| error.to_string())
}
