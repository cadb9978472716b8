//! Kubernetes' controllers as a program of their own, with kube-controller-manager's flags, for any
//! API server from 1.20 to 1.37: rk's, or a stock one.
//!
//! ```sh
//! cargo run --release --example controller-manager -- --help
//! cargo run --release --example controller-manager -- --kubeconfig=controller-manager.conf \
//!     --use-service-account-credentials --root-ca-file=ca.crt \
//!     --service-account-private-key-file=sa.key
//! ```
//!
//! `table.rs` lists the flags, `options.rs` says what they mean, `assemble.rs` makes a manager of
//! them, and `serve.rs` answers for its health. Of any number of managers, stock ones among them, the
//! one that holds the Lease works; one that loses it ends, for its service manager to start it anew.

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
#[path = "../common/program.rs"]
mod program;
mod serve;
mod table;
mod throttle;

use std::process::ExitCode;

use options::Options;
use program::StopSignals;
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    program::run("kube-controller-manager", Options::read, run)
}

async fn run(options: Options, stop: StopSignals) -> Result<(), String> {
    let manager = assemble::manager(&options, assemble::config(&options).await?)?;
    let shutdown = CancellationToken::new();
    // Ends the server of health with the function, however it ends.
    let _guard = shutdown.clone().drop_guard();
    if let Some(serving) = &options.serving {
        let listening = serve::listen(serving, manager.metrics()).await?;
        tokio::spawn(listening.run(shutdown.clone()));
    }
    tracing::info!(controllers = manager.names().join(","), "starting");

    let mut running = std::pin::pin!(manager.run(shutdown.clone()));
    tokio::select! {
        // Nobody told it to: another leads.
        () = &mut running => return Err("leaderelection lost".to_owned()),
        () = stop.received() => {}
    }
    shutdown.cancel();
    // The Lease is given up when the controllers have ended.
    running.await;
    Ok(())
}
