//! An API server as a program of its own, with kube-apiserver's flags.
//!
//! ```sh
//! cargo run --release --example apiserver -- --help
//! cargo run --release --example apiserver -- --data-dir=data --cert-dir=certs \
//!     --token-auth-file=tokens.csv --authorization-mode=Node,RBAC
//! cargo run --release --features etcd --example apiserver -- --etcd-servers=http://127.0.0.1:2379 …
//! ```
//!
//! `table.rs` lists the flags, `options.rs` says what they mean, `assemble.rs` makes a server of
//! them. Any number of servers can run on one etcd.

#[path = "../common/allocator.rs"]
mod allocator;
mod assemble;
#[path = "../common/files.rs"]
mod files;
#[path = "../common/flags.rs"]
mod flags;
#[path = "../common/logs.rs"]
mod logs;
mod options;
mod plugins;
#[path = "../common/program.rs"]
mod program;
mod table;

use std::{net::SocketAddr, process::ExitCode};

use options::Options;
use program::StopSignals;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    program::run("kube-apiserver", Options::read, run)
}

async fn run(options: Options, stop: StopSignals) -> Result<(), String> {
    // Everything that can be wrong with files is found before the store is touched.
    let tls = assemble::tls(&options)?;
    let address = SocketAddr::new(options.bind, options.port);
    let listener = TcpListener::bind(address).await.map_err(|error| {
        format!("--bind-address={}, --secure-port={}: {error}", options.bind, options.port)
    })?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;

    let store = assemble::store(&options).await?;
    let builder = assemble::builder(&options, store, address.port()).await?;
    let server = builder.start().await.map_err(|error| chain(&error))?;
    tracing::info!(%address, advertised = %assemble::advertised(&options), "serving");

    let shutdown = CancellationToken::new();
    let serving = {
        let (server, shutdown) = (server.clone(), shutdown.clone());
        tokio::spawn(async move { server.serve(listener, tls, shutdown).await })
    };
    stop.received().await;
    // First nobody is sent here any more, then those who are here are finished with.
    server.leave().await;
    tokio::time::sleep(options.shutdown_delay).await;
    shutdown.cancel();
    let served = serving.await.map_err(|error| error.to_string());
    server.shutdown().await;
    served
}

/// An error and what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
