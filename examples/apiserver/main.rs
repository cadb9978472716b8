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

mod assemble;
#[path = "../common/files.rs"]
mod files;
#[path = "../common/flags.rs"]
mod flags;
#[path = "../common/logs.rs"]
mod logs;
mod options;
mod plugins;
mod table;

use std::{net::SocketAddr, process::ExitCode};

use flags::{Command, Given};
use options::Options;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let given = match flags::parse(std::env::args().skip(1)) {
        Ok(Command::Start(given)) => given,
        Ok(Command::Help) => {
            print!("{}", flags::help());
            return ExitCode::SUCCESS;
        }
        Ok(Command::Version) => {
            println!("Kubernetes v1.37.0 (rk {})", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Err(reason) => return fail(&format!("{reason} (see --help)")),
    };
    let options = match Options::read(&given).and_then(|options| {
        logs::start(&given, "kube-apiserver")?;
        Ok(options)
    }) {
        Ok(options) => options,
        Err(reason) => return fail(&reason),
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("no threads: {error}")),
    };
    match runtime.block_on(run(&given, &options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            tracing::error!("{reason}");
            fail(&reason)
        }
    }
}

/// One line that says what is wrong, and an exit code that is not 0.
fn fail(reason: &str) -> ExitCode {
    eprintln!("error: {reason}");
    ExitCode::FAILURE
}

async fn run(given: &Given, options: &Options) -> Result<(), String> {
    for (flag, why) in given.idle() {
        tracing::info!("--{flag} has no effect: {why}");
    }
    // Everything that can be wrong with files is found before the store is touched.
    let tls = assemble::tls(options)?;
    let address = SocketAddr::new(options.bind, options.port);
    let listener = TcpListener::bind(address).await.map_err(|error| {
        format!("--bind-address={}, --secure-port={}: {error}", options.bind, options.port)
    })?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;

    let store = assemble::store(options).await?;
    let builder = assemble::builder(options, store, address.port()).await?;
    let server = builder.start().await.map_err(|error| chain(&error))?;
    tracing::info!(%address, advertised = %assemble::advertised(options), "serving");

    let shutdown = CancellationToken::new();
    let serving = {
        let (server, shutdown) = (server.clone(), shutdown.clone());
        tokio::spawn(async move { server.serve(listener, tls, shutdown).await })
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("stopping");
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
